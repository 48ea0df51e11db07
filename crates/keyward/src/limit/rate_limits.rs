//! Combined rate limits.

use std::fmt;

use crate::error::{ParseError, ParseErrorKind};
use crate::limit::RateLimit;

/// The maximum number of limits in one list.
pub(crate) const MAX_LIMITS: usize = 4;

/// A combination of up to four rate limits with different periods.
///
/// A request has to pass all of them. An empty list means no limit.
///
/// A request that one limit refuses takes nothing from the others.
///
/// ```
/// use keyward::{RateLimit, RateLimits};
///
/// let limits = RateLimits::new([RateLimit::per_second(10), RateLimit::per_day(1000)])?;
/// assert_eq!(limits.to_string(), "10/1;10 1000/86400;1000");
/// assert!(RateLimits::from(RateLimit::per_second(20)).covers(&limits));
/// assert!(!limits.covers(&RateLimits::none())); // no limit allows more than any limit
/// # Ok::<(), keyward::error::ParseError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct RateLimits(Box<[RateLimit]>);

impl RateLimits {
    /// Returns the empty list: no limit.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Creates a list of limits, sorted by period.
    ///
    /// # Errors
    /// Returns an error if there are more than four limits, or two with the same period.
    pub fn new(limits: impl IntoIterator<Item = RateLimit>) -> Result<Self, ParseError> {
        let mut limits: Vec<_> = limits.into_iter().take(MAX_LIMITS + 1).collect();
        limits.sort_unstable();
        let mut pairs = limits.iter().zip(limits.iter().skip(1));
        let kind = if limits.len() > MAX_LIMITS {
            ParseErrorKind::TooMany
        } else if pairs.any(|(one, next)| one.seconds() == next.seconds()) {
            ParseErrorKind::Repeated
        } else {
            return Ok(Self(limits.into()));
        };
        Err(ParseError::new("rate limits", kind))
    }

    /// Parses the form that `Display` writes: limits separated by spaces.
    ///
    /// # Errors
    /// Returns an error if an entry is not a [`RateLimit`], and as in [`new`](Self::new).
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let limits = text.split_ascii_whitespace().map(RateLimit::parse);
        Self::new(limits.collect::<Result<Vec<_>, _>>()?)
    }

    /// Returns the limits, shortest period first.
    pub fn iter(&self) -> impl Iterator<Item = RateLimit> {
        self.0.iter().copied()
    }

    /// Returns whether there is no limit.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether these limits allow everything that `other` allows.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let mut own = self.iter();
        own.all(|own| other.iter().any(|limit| own.covers(limit)))
    }
}

impl From<RateLimit> for RateLimits {
    fn from(limit: RateLimit) -> Self {
        Self([limit].into())
    }
}

impl fmt::Display for RateLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limits: Vec<_> = self.iter().map(|limit| limit.to_string()).collect();
        f.write_str(&limits.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(text: &str) -> RateLimits {
        RateLimits::parse(text).unwrap()
    }

    #[test]
    fn covers_limits_with_a_match_as_narrow_for_each_of_its_own() {
        let own = limits("10/1;10 1000/86400;1000");
        for (other, covered) in [
            ("10/1;10 1000/86400;1000", true),
            ("1000/86400;1000 10/1;10", true),
            ("1/1;1 1/60;1 1/86400;1", true),
            ("1/3600;5", true),
            ("10/1;10", false),
            ("1000/86400;1000", false),
            ("", false),
        ] {
            assert_eq!(own.covers(&limits(other)), covered, "{other}");
            assert!(RateLimits::none().covers(&limits(other)));
        }
    }

    #[test]
    fn refuses_more_than_four_limits_and_two_of_one_period() {
        let kind = |text| RateLimits::parse(text).unwrap_err().kind();
        assert_eq!(
            kind("1/1;1 1/2;1 1/3;1 1/4;1 1/5;1"),
            ParseErrorKind::TooMany
        );
        assert_eq!(kind("1/60;1 1/1;1 2/60;1"), ParseErrorKind::Repeated);
        assert_eq!(kind("1/60;1 nonsense"), ParseErrorKind::Character);
        assert_eq!(limits("1/60;1 2/1;2").to_string(), "2/1;2 1/60;1");
    }
}
