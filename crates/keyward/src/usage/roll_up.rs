//! Merges the usage of old hours into days and months.

use std::collections::BTreeMap;

use crate::usage::calendar::{day_of, month_of, next_month};
use crate::usage::{KeyUsage, UsageLabel};

/// The hours before which usage is merged into days and into months (UTC).
///
/// ```
/// use keyward::{AccountId, Environment, KeyId};
/// use keyward::usage::{KeyUsage, UsageRollUp};
///
/// let (acme, key) = (AccountId::parse("acme")?, KeyId::random()?);
/// let hour = |hour| {
///     let mut usage = KeyUsage::new(acme.clone(), key, Environment::LIVE, hour);
///     usage.counts.admitted = 10;
///     usage
/// };
/// let day = 24 * 20_000;
/// let roll_up = UsageRollUp::before(day + 24, 0); // days before the next one, and no months
/// let merged = roll_up.merge([hour(day + 3), hour(day + 20), hour(day + 24)]);
/// assert_eq!((merged[0].hour, merged[0].hours, merged[0].counts.admitted), (day, 24, 20));
/// assert_eq!(merged[1], hour(day + 24));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UsageRollUp {
    /// Hours before this one, the first of a day, are merged into days.
    pub days_before: u64,
    /// Hours before this one, the first of a month, are merged into months.
    pub months_before: u64,
}

impl UsageRollUp {
    /// Creates a roll-up of the days and months that are over at these hours.
    #[must_use]
    pub fn before(days: u64, months: u64) -> Self {
        Self {
            days_before: day_of(days),
            months_before: month_of(months),
        }
    }

    /// Returns the period to which an hour is merged: its first hour and its length in hours.
    fn period(self, hour: u64) -> (u64, u64) {
        if hour < self.months_before {
            let month = month_of(hour);
            (month, next_month(hour) - month)
        } else if hour < self.days_before {
            (day_of(hour), 24)
        } else {
            (hour, 1)
        }
    }

    /// Merges the usage of one key. The result has the same sums, and is sorted.
    ///
    /// What is merged already stays as it is, so merging again changes nothing.
    pub fn merge(self, rows: impl IntoIterator<Item = KeyUsage>) -> Vec<KeyUsage> {
        let mut merged: BTreeMap<(Option<UsageLabel>, u64), KeyUsage> = BTreeMap::new();
        for row in rows {
            let (hour, hours) = self.period(row.hour);
            if let Some(sum) = merged.get_mut(&(row.label, hour)) {
                sum.counts += row.counts;
                sum.hours = sum.hours.max(row.hours);
            } else {
                let mut sum = row;
                (sum.hour, sum.hours) = (hour, hours.max(sum.hours));
                merged.insert((sum.label, hour), sum);
            }
        }
        merged.into_values().collect()
    }
}
