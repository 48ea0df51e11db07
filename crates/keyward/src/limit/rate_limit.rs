//! The rate limit of a key or an account.

use std::fmt;
use std::time::Duration;

use crate::error::{ParseError, ParseErrorKind};

const SECOND: u64 = 1_000_000_000;

/// The longest time in which an empty bucket may refill: ten years of 365 days, in seconds.
const LONGEST: u64 = 10 * 365 * 86_400;

/// A rate limit: a bucket of `burst` requests that refills at `count` per period.
///
/// A full bucket lets `burst` requests pass at once. After that, one passes every `period / count`.
/// At most `burst + count` requests pass in any period: with 100 per minute and bursts of 200, the
/// worst minute has 300. The burst defaults to the count.
///
/// ```
/// use std::time::Duration;
/// use keyward::RateLimit;
///
/// let limit = RateLimit::per_minute(100).burst(200);
/// assert_eq!(limit.interval(), Duration::from_millis(600));
/// assert_eq!(limit.to_string(), "100/60;200");
/// assert_eq!(RateLimit::parse("100/60;200")?, limit);
/// assert!(limit.covers(RateLimit::per_second(1)));
/// # Ok::<(), keyward::error::ParseError>(())
/// ```
///
/// Time is counted in whole nanoseconds. If the period cannot be divided evenly, the interval is
/// rounded up so that never more passes than the limit allows: at 7 per second, one request less in
/// a year.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RateLimit {
    // The period comes first because limits are sorted by it.
    /// The period in seconds.
    period: u32,
    count: u32,
    burst: u32,
}

impl RateLimit {
    /// Creates a limit of `count` per `seconds` with bursts of `burst`.
    ///
    /// # Errors
    /// Returns an error if an argument is zero, if the rate exceeds one million per second, or if
    /// an empty bucket would take more than ten years to refill.
    pub const fn new(count: u32, seconds: u32, burst: u32) -> Result<Self, ParseError> {
        if count == 0 || seconds == 0 || burst == 0 {
            return Err(ParseError::new("rate limit", ParseErrorKind::Empty));
        }
        let (count64, seconds64, burst64) = (count as u64, seconds as u64, burst as u64);
        if count64 > seconds64 * 1_000_000 || burst64 * seconds64 > LONGEST * count64 {
            return Err(ParseError::new("rate limit", ParseErrorKind::Range));
        }
        Ok(Self {
            period: seconds,
            count,
            burst,
        })
    }

    /// Creates a limit of `count` per second, with bursts of the same size.
    ///
    /// # Panics
    /// Panics if `count` is zero or more than a million.
    #[must_use]
    #[track_caller]
    pub const fn per_second(count: u32) -> Self {
        Self::known(count, 1, count)
    }

    /// Creates a limit of `count` per minute, with bursts of the same size.
    ///
    /// # Panics
    /// Panics if `count` is zero or more than a million per second.
    #[must_use]
    #[track_caller]
    pub const fn per_minute(count: u32) -> Self {
        Self::known(count, 60, count)
    }

    /// Creates a limit of `count` per hour, with bursts of the same size.
    ///
    /// # Panics
    /// Panics if `count` is zero or more than a million per second.
    #[must_use]
    #[track_caller]
    pub const fn per_hour(count: u32) -> Self {
        Self::known(count, 3600, count)
    }

    /// Creates a limit of `count` per day, with bursts of the same size.
    ///
    /// # Panics
    /// Panics if `count` is zero.
    #[must_use]
    #[track_caller]
    pub const fn per_day(count: u32) -> Self {
        Self::known(count, 86_400, count)
    }

    /// Sets the number of requests that may pass at once.
    ///
    /// # Panics
    /// Panics if `burst` is zero or an empty bucket would take more than ten years to refill.
    #[must_use]
    #[track_caller]
    pub const fn burst(self, burst: u32) -> Self {
        Self::known(self.count, self.period, burst)
    }

    /// Parses the form that `Display` writes: `count/seconds;burst`.
    ///
    /// # Errors
    /// Returns an error if the text has another form or a number is out of range, as in
    /// [`new`](Self::new).
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let error = ParseError::new("rate limit", ParseErrorKind::Character);
        let number = |text: &str| match text.parse() {
            Ok(number) if text.bytes().all(|b| b.is_ascii_digit()) => Ok(number),
            _ => Err(error),
        };
        let (count, rest) = text.split_once('/').ok_or(error)?;
        let (period, burst) = rest.split_once(';').ok_or(error)?;
        Self::new(number(count)?, number(period)?, number(burst)?)
    }

    /// Returns the number of requests per period, in the long run.
    #[must_use]
    pub const fn count(self) -> u32 {
        self.count
    }

    /// Returns the period.
    #[must_use]
    pub const fn period(self) -> Duration {
        Duration::from_secs(self.period as u64)
    }

    /// Returns the number of requests that may pass at once.
    #[must_use]
    pub const fn max_burst(self) -> u32 {
        self.burst
    }

    /// Returns the time after which one more request may pass.
    #[must_use]
    pub const fn interval(self) -> Duration {
        Duration::from_nanos(self.interval_nanos())
    }

    /// Returns whether this limit allows everything that `other` allows.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        let per = |limit: Self, period: u32| u64::from(limit.count) * u64::from(period);
        self.burst >= other.burst && per(self, other.period) >= per(other, self.period)
    }

    pub(crate) const fn interval_nanos(self) -> u64 {
        (self.period as u64 * SECOND).div_ceil(self.count as u64)
    }

    /// Returns the time in which an empty bucket refills, at most about ten years.
    pub(crate) const fn depth_nanos(self) -> u64 {
        self.interval_nanos() * self.burst as u64
    }

    pub(crate) const fn seconds(self) -> u32 {
        self.period
    }

    #[expect(
        clippy::panic,
        reason = "a programming error that shows when the program starts"
    )]
    #[track_caller]
    const fn known(count: u32, seconds: u32, burst: u32) -> Self {
        match Self::new(count, seconds, burst) {
            Ok(limit) => limit,
            Err(_) => panic!("rate limit is zero or out of range"),
        }
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
    fn covers_limits_that_are_neither_faster_nor_burstier() {
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
    }

    #[test]
    fn refuses_limits_that_cannot_be_counted() {
        let kind = |text| RateLimit::parse(text).map_err(|error| error.kind());
        for bad in [
            "",
            "1",
            "1/1",
            "-1/1;1",
            "+1/1;1",
            "1/1;1;1",
            "4294967296/1;1",
            "1/1; 1",
        ] {
            assert_eq!(kind(bad), Err(ParseErrorKind::Character), "{bad}");
        }
        for zero in ["0/1;1", "1/0;1", "1/1;0"] {
            assert_eq!(kind(zero), Err(ParseErrorKind::Empty), "{zero}");
        }
        for beyond in [
            "1000001/1;1",
            "1/315360001;1",
            "1/86400;3651",
            "1/4294967295;4294967295",
        ] {
            assert_eq!(kind(beyond), Err(ParseErrorKind::Range), "{beyond}");
        }
        for most in [
            "1000000/1;1",
            "1/315360000;1",
            "1/86400;3650",
            "4294967295/4295;4294967295",
        ] {
            assert!(kind(most).is_ok(), "{most}");
        }
    }

    #[test]
    #[should_panic(expected = "rate limit is zero")]
    fn panics_on_a_limit_of_zero() {
        let _ = RateLimit::per_minute(0);
    }
}
