//! How often a key may be used.

use std::fmt;
use std::num::NonZeroU32;

use crate::{ParseError, ParseErrorKind};

/// How often a key may be used.
///
/// A bucket of `burst` requests, refilled at `count` in each period. Kept with the key and shown;
/// nothing enforces it yet.
///
/// ```
/// use keyward::RateLimit;
///
/// let limit = RateLimit::per_minute(100)?.burst(200)?;
/// assert_eq!(limit.to_string(), "100/60;200");
/// assert_eq!(RateLimit::parse("100/60;200")?, limit);
/// assert!(limit.covers(RateLimit::per_second(1)?));
/// # Ok::<(), keyward::ParseError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    count: NonZeroU32,
    /// Seconds.
    period: NonZeroU32,
    burst: NonZeroU32,
}

impl RateLimit {
    /// So many a second, and as many at once.
    ///
    /// # Errors
    /// When it is zero.
    pub fn per_second(count: u32) -> Result<Self, ParseError> {
        Self::new(count, 1, count)
    }

    /// So many a minute, and as many at once.
    ///
    /// # Errors
    /// When it is zero.
    pub fn per_minute(count: u32) -> Result<Self, ParseError> {
        Self::new(count, 60, count)
    }

    /// So many an hour, and as many at once.
    ///
    /// # Errors
    /// When it is zero.
    pub fn per_hour(count: u32) -> Result<Self, ParseError> {
        Self::new(count, 3600, count)
    }

    /// So many a day, and as many at once.
    ///
    /// # Errors
    /// When it is zero.
    pub fn per_day(count: u32) -> Result<Self, ParseError> {
        Self::new(count, 86_400, count)
    }

    /// So many at once.
    ///
    /// # Errors
    /// When it is zero.
    pub fn burst(self, burst: u32) -> Result<Self, ParseError> {
        Self::new(self.count.get(), self.period.get(), burst)
    }

    /// Parses what `Display` writes: `count/seconds;burst`.
    ///
    /// # Errors
    /// When it is not that, or one of the numbers is zero.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let parts = text
            .split_once('/')
            .and_then(|(count, rest)| Some((count, rest.split_once(';')?)));
        let number = |text: &str| text.parse().ok();
        parts
            .and_then(|(count, (period, burst))| {
                Self::new(number(count)?, number(period)?, number(burst)?).ok()
            })
            .ok_or(ParseError::new("rate limit", ParseErrorKind::Character))
    }

    /// Whether all that `other` allows is allowed.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        let per = |limit: Self, period: NonZeroU32| {
            u64::from(limit.count.get()) * u64::from(period.get())
        };
        self.burst >= other.burst && per(self, other.period) >= per(other, self.period)
    }

    /// The count, the period in seconds, the burst.
    pub(crate) fn parts(self) -> (u32, u32, u32) {
        (self.count.get(), self.period.get(), self.burst.get())
    }

    fn new(count: u32, period: u32, burst: u32) -> Result<Self, ParseError> {
        let number = |number| {
            NonZeroU32::new(number).ok_or(ParseError::new("rate limit", ParseErrorKind::Empty))
        };
        Ok(Self {
            count: number(count)?,
            period: number(period)?,
            burst: number(burst)?,
        })
    }
}

impl fmt::Display for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{};{}", self.count, self.period, self.burst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn covers_what_is_neither_faster_nor_burstier() {
        let limit = |text| RateLimit::parse(text).unwrap();
        let own = limit("100/60;200");
        for (other, covered) in [
            ("100/60;200", true),
            ("1/1;1", true),
            ("6000/3600;200", true),
            ("6001/3600;200", false),
            ("2/1;1", false),
            ("100/60;201", false),
        ] {
            assert_eq!(own.covers(limit(other)), covered, "{other}");
        }
        for bad in [
            "",
            "1",
            "1/1",
            "0/1;1",
            "1/0;1",
            "1/1;0",
            "-1/1;1",
            "1/1;1;1",
            "4294967296/1;1",
        ] {
            assert!(RateLimit::parse(bad).is_err(), "{bad}");
        }
    }
}
