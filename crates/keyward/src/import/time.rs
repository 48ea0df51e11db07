//! Times as databases export them.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// Numbers from here on are milliseconds since the Unix epoch, smaller ones seconds.
const MILLIS: u64 = 100_000_000_000;

/// Reads a number of seconds or milliseconds since the Unix epoch.
pub(super) fn from_number(number: u64) -> Option<SystemTime> {
    in_seconds(if number < MILLIS {
        number
    } else {
        number / 1000
    })
}

/// Reads RFC 3339, or what databases write instead of it: a space for the `T`, an offset without
/// minutes or with a space before it, no offset (UTC), or a date alone.
pub(super) fn from_text(text: &str) -> Option<SystemTime> {
    let text = text.trim().replace(" +", "+").replace(" -", "-");
    let time: Result<Timestamp, _> = text.parse();
    let time = time.or_else(|_| TimeZone::UTC.to_timestamp(text.parse::<DateTime>()?));
    u64::try_from(time.ok()?.as_second())
        .ok()
        .and_then(in_seconds)
}

fn in_seconds(seconds: u64) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(text: &str) -> Option<u64> {
        let since = from_text(text)?.duration_since(SystemTime::UNIX_EPOCH);
        Some(since.unwrap().as_secs())
    }

    #[test]
    fn reads_what_databases_write() {
        // `date -ud @1798761599` is 2026-12-31T23:59:59Z.
        let last = Some(1_798_761_599);
        for text in [
            "2026-12-31T23:59:59Z",
            "2026-12-31T23:59:59.999Z",
            "2026-12-31 23:59:59",
            "2026-12-31 23:59:59.000000",
            "2027-01-01T01:29:59+01:30",
            "2026-12-31 18:59:59.5-05",
            "2026-12-31T22:59:59-0100",
            "2026-12-31 23:59:59 +00:00",
        ] {
            assert_eq!(seconds(text), last, "{text}");
        }
        assert_eq!(seconds("2024-02-29"), Some(1_709_164_800));
        assert_eq!(seconds("1970-01-01"), Some(0));
        assert_eq!(seconds("2100-03-01"), Some(4_107_542_400));
    }

    #[test]
    fn refuses_what_is_no_time() {
        for text in [
            "",
            "2026",
            "2026-13-01",
            "2025-02-29",
            "2100-02-29",
            "2026-00-10",
            "2026-1-1",
            "2026-12-31T24:00:00Z",
            "2026-12-31T23:60:00Z",
            "2026-12-31T23:59:59+1",
            "2026-12-31T23:59:59+26:00",
            "2026-12-31X00:00:00",
            "31.12.2026",
            "+026-12-31",
            "2026-12-31T23:59:59.Z",
            "１９７０-01-01",
            "1969-12-31",
            "2026-12-31T-1:00:00",
        ] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }

    #[test]
    fn a_number_is_seconds_or_milliseconds() {
        assert_eq!(
            from_number(1_798_761_599),
            from_text("2026-12-31T23:59:59Z")
        );
        assert_eq!(
            from_number(1_798_761_599_000),
            from_text("2026-12-31T23:59:59Z")
        );
    }
}
