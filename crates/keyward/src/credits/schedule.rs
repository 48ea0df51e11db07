//! Refills by the calendar of a time zone.

use std::fmt;
use std::time::{Duration, SystemTime};

use jiff::civil::Date;
use jiff::tz::{self, TimeZone, TimeZoneDatabase};
use jiff::{Span, Timestamp};

use crate::error::{ParseError, ParseErrorKind};

/// The time by which two boundaries are apart at least, also when the rules of a zone change.
const APART: Duration = Duration::from_secs(12 * 3600);

/// The calendar of a recurring refill: day, week, month or year in a time zone.
///
/// A period begins at midnight, on the clocks of the zone. If they skip midnight, it begins at the
/// first moment of the day; if they show it twice, at the first of the two. The rules come from the
/// time zone database of the system, or from the one that is compiled in if there is none.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use keyward::credits::RefillSchedule;
///
/// let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
/// let january_15 = at(1_768_435_200); // 2026-01-15T00:00Z
///
/// let month = RefillSchedule::monthly("Europe/Berlin")?;
/// assert_eq!(month.next_after(january_15), Some(at(1_769_900_400))); // 2026-02-01T00:00+01:00
///
/// let billing = RefillSchedule::monthly("UTC")?.anniversary_of("2025-12-31")?;
/// let january_31 = at(1_769_817_600);
/// assert_eq!(billing.next_after(january_15), Some(january_31));
/// assert_eq!(billing.next_after(january_31), Some(at(1_772_236_800))); // February has 28 days
/// # Ok::<(), keyward::error::ParseError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct RefillSchedule {
    unit: Unit,
    /// A day on which a period begins. All others are counted from it.
    anchor: Date,
    zone: TimeZone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Day,
    Week,
    Month,
    Year,
}

impl Unit {
    const ALL: [Self; 4] = [Self::Day, Self::Week, Self::Month, Self::Year];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Year => "year",
        }
    }

    /// Returns the day on which the unit begins by default: a Monday, or the first.
    const fn anchor(self) -> Date {
        match self {
            Self::Day | Self::Month | Self::Year => Date::constant(1970, 1, 1),
            Self::Week => Date::constant(1970, 1, 5),
        }
    }
}

impl RefillSchedule {
    /// Creates a schedule that refills each day at midnight.
    ///
    /// # Errors
    /// Returns an error if the time zone is not an IANA name, such as `Europe/Berlin` or `UTC`.
    pub fn daily(time_zone: &str) -> Result<Self, ParseError> {
        Self::new(Unit::Day, time_zone)
    }

    /// Creates a schedule that refills each Monday, or on the weekday of its
    /// [anniversary](Self::anniversary_of).
    ///
    /// # Errors
    /// Returns an error if the time zone is not an IANA name.
    pub fn weekly(time_zone: &str) -> Result<Self, ParseError> {
        Self::new(Unit::Week, time_zone)
    }

    /// Creates a schedule that refills on the first of each month, or on the day of its
    /// [anniversary](Self::anniversary_of).
    ///
    /// # Errors
    /// Returns an error if the time zone is not an IANA name.
    pub fn monthly(time_zone: &str) -> Result<Self, ParseError> {
        Self::new(Unit::Month, time_zone)
    }

    /// Creates a schedule that refills on each 1 January, or on its
    /// [anniversary](Self::anniversary_of).
    ///
    /// # Errors
    /// Returns an error if the time zone is not an IANA name.
    pub fn yearly(time_zone: &str) -> Result<Self, ParseError> {
        Self::new(Unit::Year, time_zone)
    }

    /// Sets the date from which the periods are counted, such as that of a sign-up.
    ///
    /// A month that has no such day refills on its last one: `2026-01-31` refills on 28 February, on
    /// 31 March and on 30 April. A year counted from 29 February begins on 28 February, and in leap
    /// years on the 29th.
    ///
    /// # Errors
    /// Returns an error if the text is not a date such as `2026-01-31`.
    pub fn anniversary_of(self, date: &str) -> Result<Self, ParseError> {
        // The parser also takes a time behind the date.
        let anchor: Option<Date> = date.parse().ok();
        match anchor.filter(|anchor| anchor.to_string() == date) {
            Some(anchor) => Ok(Self { anchor, ..self }),
            None => Err(error(ParseErrorKind::Character).advise("write the date as 2026-01-31")),
        }
    }

    /// Parses the form that `Display` writes, which stores keep.
    ///
    /// It is `day`, `week`, `month` or `year`, the time zone, and the date of the anniversary if there
    /// is one.
    ///
    /// ```
    /// use keyward::credits::RefillSchedule;
    ///
    /// let text = "month Europe/Berlin 2026-01-31";
    /// assert_eq!(RefillSchedule::parse(text)?.to_string(), text);
    /// assert!(RefillSchedule::parse("month Europe/Atlantis").is_err());
    /// # Ok::<(), keyward::error::ParseError>(())
    /// ```
    ///
    /// # Errors
    /// Returns an error if the text has another form or names an unknown time zone.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let mut words = text.split(' ');
        let mut word = || words.next().unwrap_or_default();
        let (unit, zone) = (word(), word());
        let unit = Unit::ALL.into_iter().find(|known| known.as_str() == unit);
        let unit = unit.ok_or(error(ParseErrorKind::Unknown))?;
        let schedule = Self::new(unit, zone)?;
        match (words.next(), words.next()) {
            (None, _) => Ok(schedule),
            (Some(date), None) => schedule.anniversary_of(date),
            (Some(_), Some(_)) => Err(error(ParseErrorKind::TooMany)),
        }
    }

    /// Returns the first instant after this one at which a period begins.
    ///
    /// It is `None` after the year 9999.
    #[must_use]
    pub fn next_after(&self, instant: SystemTime) -> Option<SystemTime> {
        self.period_after(instant).map(|(_, begin)| begin)
    }

    /// Returns the first boundary that is due after `now` when the one at `at` was due, and how many
    /// were due until then.
    pub(super) fn due(&self, at: SystemTime, now: SystemTime) -> Option<(SystemTime, u64)> {
        // A new version of the time zone database may move a boundary that was already stored, and
        // must not make another one of it.
        let after = at.checked_add(APART)?;
        let (next, begin) = self.period_after(now.max(after))?;
        let (first, _) = self.period_after(after)?;
        Some((begin, u64::try_from(next - first).unwrap_or(0) + 1))
    }

    /// Returns the length of the period that ends at this boundary.
    pub(super) fn length_before(&self, end: SystemTime) -> Option<Duration> {
        let (next, _) = self.period_after(end.checked_sub(APART)?)?;
        end.duration_since(self.begin(next - 1)?).ok()
    }

    fn new(unit: Unit, time_zone: &str) -> Result<Self, ParseError> {
        let found = tz::db().get(time_zone);
        // The system may have a part of the database only.
        let zone = found.or_else(|_| TimeZoneDatabase::bundled().get(time_zone));
        match zone {
            Ok(zone) if zone.iana_name().is_some() => Ok(Self {
                unit,
                anchor: unit.anchor(),
                zone,
            }),
            _ => Err(error(ParseErrorKind::Unknown).advise("name a time zone as Europe/Berlin")),
        }
    }

    /// Returns the first period that begins after an instant, counted from the anchor, and when.
    fn period_after(&self, instant: SystemTime) -> Option<(i64, SystemTime)> {
        let here = self.zone.to_datetime(Timestamp::try_from(instant).ok()?);
        let (date, anchor) = (here.date(), self.anchor);
        let years = i64::from(date.year()) - i64::from(anchor.year());
        let days = || Some(i64::from(anchor.until(date).ok()?.get_days()));
        let about = match self.unit {
            Unit::Day => days()?,
            Unit::Week => days()?.div_euclid(7),
            Unit::Month => years * 12 + i64::from(date.month()) - i64::from(anchor.month()),
            Unit::Year => years,
        };
        // The instant lies in the period of that number or in the one before.
        (about..=about + 2).find_map(|period| {
            let begin = self.begin(period)?;
            (begin > instant).then_some((period, begin))
        })
    }

    /// Returns when a period begins.
    fn begin(&self, period: i64) -> Option<SystemTime> {
        let span = match self.unit {
            Unit::Day => Span::new().try_days(period),
            Unit::Week => Span::new().try_weeks(period),
            Unit::Month => Span::new().try_months(period),
            Unit::Year => Span::new().try_years(period),
        };
        let date = self.anchor.checked_add(span.ok()?).ok()?;
        // What is skipped counts as the time after it, and what comes twice as the first.
        let begin = self.zone.to_timestamp(date.at(0, 0, 0, 0)).ok()?;
        begin.try_into().ok()
    }
}

impl fmt::Display for RefillSchedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let zone = self.zone.iana_name().unwrap_or_default();
        write!(f, "{} {zone}", self.unit.as_str())?;
        if self.anchor == self.unit.anchor() {
            return Ok(());
        }
        write!(f, " {}", self.anchor)
    }
}

impl fmt::Debug for RefillSchedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RefillSchedule({self})")
    }
}

fn error(kind: ParseErrorKind) -> ParseError {
    ParseError::new("refill schedule", kind)
}

#[cfg(test)]
mod tests {
    use proptest::{prop_assert, prop_assert_eq, proptest};

    use super::*;

    fn at(text: &str) -> SystemTime {
        text.parse::<Timestamp>().unwrap().try_into().unwrap()
    }

    /// Returns the next boundaries after an instant.
    fn next(schedule: &str, after: &str, count: usize) -> Vec<String> {
        let schedule = RefillSchedule::parse(schedule).unwrap();
        let mut now = at(after);
        let mut step = || {
            now = schedule.next_after(now).unwrap();
            Timestamp::try_from(now).unwrap().to_string()
        };
        (0..count).map(|_| step()).collect()
    }

    #[test]
    fn a_period_begins_at_midnight_of_its_zone() {
        assert_eq!(
            next("day Asia/Kolkata", "2026-03-01T12:00Z", 1),
            ["2026-03-01T18:30:00Z"]
        );
        assert_eq!(
            next("week UTC", "2026-03-01T12:00Z", 2), // a Sunday
            ["2026-03-02T00:00:00Z", "2026-03-09T00:00:00Z"]
        );
        assert_eq!(
            next("week UTC 2026-01-01", "2026-03-01T12:00Z", 1), // a Thursday
            ["2026-03-05T00:00:00Z"]
        );
        assert_eq!(
            next("month Europe/Berlin", "2026-03-31T21:59:59Z", 2),
            ["2026-03-31T22:00:00Z", "2026-04-30T22:00:00Z"]
        );
        assert_eq!(
            next("year America/New_York", "2026-03-01T00:00Z", 1),
            ["2027-01-01T05:00:00Z"]
        );
    }

    #[test]
    fn an_anniversary_that_a_month_lacks_is_its_last_day() {
        assert_eq!(
            next("month UTC 2026-01-31", "2026-01-30T12:00Z", 5),
            [
                "2026-01-31T00:00:00Z",
                "2026-02-28T00:00:00Z",
                "2026-03-31T00:00:00Z",
                "2026-04-30T00:00:00Z",
                "2026-05-31T00:00:00Z",
            ]
        );
        assert_eq!(
            next("month UTC 2024-01-30", "2028-02-01T00:00Z", 2),
            ["2028-02-29T00:00:00Z", "2028-03-30T00:00:00Z"]
        );
        assert_eq!(
            next("year UTC 2024-02-29", "2026-02-28T00:00Z", 3),
            [
                "2027-02-28T00:00:00Z",
                "2028-02-29T00:00:00Z",
                "2029-02-28T00:00:00Z",
            ]
        );
        // Also before the date of the anniversary itself.
        assert_eq!(
            next("month UTC 2030-01-31", "2026-02-01T00:00Z", 2),
            ["2026-02-28T00:00:00Z", "2026-03-31T00:00:00Z"]
        );
    }

    #[test]
    fn midnight_that_is_skipped_or_comes_twice_is_one_boundary() {
        // Egypt's clocks went from 0:00 to 1:00 on 24 April 2026, and from 24:00 to 23:00 on
        // 29 October.
        assert_eq!(
            next("day Africa/Cairo", "2026-04-22T22:00Z", 3),
            [
                "2026-04-23T22:00:00Z", // 1:00, as there is no 0:00
                "2026-04-24T21:00:00Z",
                "2026-04-25T21:00:00Z",
            ]
        );
        // Cuba's went from 1:00 back to 0:00 on 1 November 2026: midnight comes twice.
        assert_eq!(
            next("day America/Havana", "2026-10-31T04:00Z", 2),
            ["2026-11-01T04:00:00Z", "2026-11-02T05:00:00Z"]
        );
        // Samoa left out 30 December 2011.
        assert_eq!(
            next("day Pacific/Apia", "2011-12-29T10:00Z", 3),
            [
                "2011-12-30T10:00:00Z",
                "2011-12-31T10:00:00Z",
                "2012-01-01T10:00:00Z",
            ]
        );
    }

    #[test]
    fn boundaries_that_were_missed_are_counted() {
        let month = RefillSchedule::parse("month UTC").unwrap();
        let february = at("2026-02-01T00:00Z");
        let due = |now| month.due(february, at(now)).unwrap();
        assert_eq!(due("2026-02-01T00:00Z"), (at("2026-03-01T00:00Z"), 1));
        assert_eq!(due("2026-02-28T23:59Z"), (at("2026-03-01T00:00Z"), 1));
        assert_eq!(due("2026-04-01T00:00Z"), (at("2026-05-01T00:00Z"), 3));
        assert_eq!(
            month.length_before(at("2026-03-01T00:00Z")),
            Some(Duration::from_secs(28 * 86_400))
        );
    }

    #[test]
    fn a_boundary_stored_by_other_rules_of_the_zone_is_due_once() {
        let month = RefillSchedule::parse("month Europe/Berlin").unwrap();
        // The same boundary to which the clocks were an hour ahead, and an hour behind.
        for stored in ["2026-01-31T22:00Z", "2026-02-01T00:00Z"] {
            let (next, count) = month.due(at(stored), at(stored)).unwrap();
            assert_eq!((next, count), (at("2026-02-28T23:00Z"), 1), "{stored}");
        }
    }

    #[test]
    fn parses_schedules_and_nothing_else() {
        for text in [
            "day UTC",
            "week Asia/Tokyo 2026-01-01",
            "month America/Argentina/Buenos_Aires",
            "year Europe/Berlin 2024-02-29",
        ] {
            assert_eq!(RefillSchedule::parse(text).unwrap().to_string(), text);
        }
        for bad in [
            "",
            "month",
            "month ",
            "fortnight UTC",
            "Month UTC",
            "month Etc/Unknown",
            "month CET-1CEST",
            "month ../../etc/passwd",
            "month UTC 2026-02-30",
            "month UTC 2026-02-01T10:00",
            "month UTC 2026-02-01 2026-03-01",
            "month UTC ",
            "month  UTC",
        ] {
            assert!(RefillSchedule::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(
            RefillSchedule::monthly("europe/berlin").unwrap(),
            RefillSchedule::monthly("Europe/Berlin").unwrap()
        );
    }

    #[test]
    fn there_is_no_boundary_after_the_end_of_the_calendar() {
        let year = RefillSchedule::parse("year UTC").unwrap();
        assert_eq!(year.next_after(at("9999-06-01T00:00Z")), None);
        let far = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::from(u32::MAX) << 20);
        assert_eq!(year.next_after(far), None);
    }

    const ZONES: [&str; 8] = [
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "Africa/Cairo",
        "America/Havana",
        "Asia/Beirut",
        "Australia/Lord_Howe",
        "Pacific/Apia",
    ];

    proptest! {
        /// The system's zone and the compiled one give the same boundaries, each later than the one
        /// before, and the first of each day is the one whose date is new.
        #[test]
        fn boundaries_are_in_order_and_none_is_missed(
            unit in 0_usize..4,
            zone in 0_usize..8,
            anchor in 0_i32..20_000,
            start in 0_u64..4_000_000_000,
        ) {
            let anchor = Date::constant(1970, 1, 1).checked_add(Span::new().days(anchor)).unwrap();
            let text = format!("{} {} {anchor}", Unit::ALL[unit].as_str(), ZONES[zone]);
            let schedule = RefillSchedule::parse(&text).unwrap();
            let start = SystemTime::UNIX_EPOCH + Duration::from_secs(start);
            let mut before = schedule.next_after(start).unwrap();
            prop_assert!(before > start);
            for _ in 0..20 {
                let next = schedule.next_after(before).unwrap();
                let gap = next.duration_since(before).unwrap();
                prop_assert!(gap >= Duration::from_secs(22 * 3600), "{text}: {gap:?}");
                // From any moment in between it is the same one, and it is due once.
                let between = before + gap / 2;
                prop_assert_eq!(schedule.next_after(between), Some(next));
                prop_assert_eq!(schedule.due(before, between), Some((next, 1)));
                prop_assert_eq!(schedule.length_before(next), Some(gap));
                before = next;
            }
        }
    }
}
