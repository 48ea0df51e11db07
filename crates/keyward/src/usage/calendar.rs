//! Hours, days and months in UTC.

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// The hours of a day.
const DAY: u64 = 24;

/// Returns the first hour of the day of an hour, both counted from the Unix epoch.
pub(crate) fn day_of(hour: u64) -> u64 {
    hour - hour % DAY
}

/// Returns the first hour of the month (UTC) of an hour, both counted from the Unix epoch.
pub(crate) fn month_of(hour: u64) -> u64 {
    let begins = timestamp(hour);
    let day = TimeZone::UTC.to_datetime(begins).day();
    let hour = begins.as_second().unsigned_abs() / 3600;
    day_of(hour) - (u64::from(day.unsigned_abs()) - 1) * DAY
}

/// Returns the first hour of the next month.
pub(crate) fn next_month(hour: u64) -> u64 {
    // No month has more than 31 days, and none has fewer than 28.
    month_of(month_of(hour) + 31 * DAY)
}

/// Returns an hour as a time in RFC 3339, such as `2026-11-29T07:00:00Z`.
pub(crate) fn rfc3339(hour: u64) -> String {
    timestamp(hour).to_string()
}

/// Returns when an hour begins, or the last hour of the calendar.
fn timestamp(hour: u64) -> Timestamp {
    let last = Timestamp::MAX.as_second() / 3600;
    let hour = i64::try_from(hour).map_or(last, |hour| hour.min(last));
    Timestamp::from_second(hour * 3600).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hour_is_in_the_month_of_its_day() {
        // 2026-11-29T07:00:00Z, by `date -u -d @1795935600`.
        let hour = 1_795_935_600 / 3600;
        assert_eq!(rfc3339(hour), "2026-11-29T07:00:00Z");
        assert_eq!(rfc3339(day_of(hour)), "2026-11-29T00:00:00Z");
        assert_eq!(rfc3339(month_of(hour)), "2026-11-01T00:00:00Z");
        assert_eq!(rfc3339(next_month(hour)), "2026-12-01T00:00:00Z");
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        let mut month = 0;
        let mut leap_days = 0;
        for number in 0..130 * 12 {
            assert_eq!(month_of(month), month);
            let next = next_month(month);
            let days = (next - month) / 24;
            let wanted = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31][number % 12];
            leap_days += days - wanted;
            assert!(days == wanted || number % 12 == 1 && days == 29);
            assert_eq!(month_of(next - 1), month);
            month = next;
        }
        assert_eq!(leap_days, 32, "1972 to 2096, without 2100 that is none");
        assert_eq!(rfc3339(month), "2100-01-01T00:00:00Z");
    }
}
