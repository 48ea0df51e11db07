//! Usage as a store keeps it, queries for it, and its sums.

use std::fmt;

use crate::environment::Environment;
use crate::error::{ParseError, ParseErrorKind};
use crate::ids::{AccountId, KeyId};
use crate::usage::{RequestCounts, UsageLabel};

/// The metered usage of a key within an hour, or within a longer period.
///
/// ```
/// use keyward::{AccountId, Environment, KeyId};
/// use keyward::usage::KeyUsage;
///
/// let acme = AccountId::parse("acme")?;
/// let mut usage = KeyUsage::new(acme, KeyId::random()?, Environment::TEST, 472_222);
/// (usage.counts.admitted, usage.counts.units) = (10, 25);
/// assert_eq!((usage.billable(), usage.billable_units()), (0, 0)); // the `test` environment is free
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyUsage {
    /// The account that owns the key.
    pub account: AccountId,
    /// The key.
    pub key: KeyId,
    /// The environment of the key.
    pub environment: Environment,
    /// The label of the counted requests; `None` for all requests, with and without a label.
    ///
    /// The counts of labels are part of the counts of all requests.
    pub label: Option<UsageLabel>,
    /// The first hour, counted from the Unix epoch.
    pub hour: u64,
    /// The number of hours: 1, unless the usage was rolled up or summed.
    pub hours: u64,
    /// The counts.
    pub counts: RequestCounts,
}

impl KeyUsage {
    /// Creates an hour without usage, of all requests.
    #[must_use]
    pub fn new(account: AccountId, key: KeyId, environment: Environment, hour: u64) -> Self {
        Self {
            account,
            key,
            environment,
            label: None,
            hour,
            hours: 1,
            counts: RequestCounts::default(),
        }
    }

    /// Returns the billable requests: the admitted ones of live keys.
    #[must_use]
    pub fn billable(&self) -> u64 {
        if_live(self.environment, self.counts.admitted)
    }

    /// Returns the billable units, which are those of live keys.
    #[must_use]
    pub fn billable_units(&self) -> u64 {
        if_live(self.environment, self.counts.units)
    }

    /// Returns the position after this row.
    #[must_use]
    pub fn cursor(&self) -> UsageCursor {
        UsageCursor {
            key: self.key,
            label: self.label,
            hour: self.hour,
        }
    }
}

/// The usage of all keys of an account in an environment, for a bill.
///
/// See [`KeyAdmin::usage_sums`](crate::admin::KeyAdmin::usage_sums).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UsageSum {
    /// The account.
    pub account: AccountId,
    /// The environment.
    pub environment: Environment,
    /// The label; `None` for the line of all requests, of which the other lines are a part.
    pub label: Option<UsageLabel>,
    /// The sums.
    pub counts: RequestCounts,
}

impl UsageSum {
    /// Returns the billable requests: the admitted ones of live keys.
    #[must_use]
    pub fn billable(&self) -> u64 {
        if_live(self.environment, self.counts.admitted)
    }

    /// Returns the billable units, which are those of live keys.
    #[must_use]
    pub fn billable_units(&self) -> u64 {
        if_live(self.environment, self.counts.units)
    }
}

fn if_live(environment: Environment, count: u64) -> u64 {
    if environment == Environment::LIVE {
        count
    } else {
        0
    }
}

/// A query for usage. See [`Store::usage`](crate::store::Store::usage).
///
/// ```
/// use keyward::{AccountId, Environment, KeyId};
/// use keyward::usage::{KeyUsage, UsageQuery};
///
/// let acme = AccountId::parse("acme")?;
/// let usage = KeyUsage::new(acme.clone(), KeyId::random()?, Environment::LIVE, 472_222);
/// let query = UsageQuery::of(Some(acme), 472_222..472_223);
/// assert!(query.wants(&usage));
/// assert!(!UsageQuery { labels: true, ..query.clone() }.wants(&usage)); // it has no label
/// assert!(!UsageQuery { after: Some(usage.cursor()), ..query }.wants(&usage));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a store must handle every part, so a new one must not be missed"
)]
pub struct UsageQuery {
    /// The account that owns the keys; `None` for all accounts.
    pub account: Option<AccountId>,
    /// Restricts the result to this environment.
    pub environment: Option<Environment>,
    /// The first hour, counted from the Unix epoch.
    pub from: u64,
    /// The end, exclusive: the first hour after the range. Usage belongs to the hour in which its
    /// period begins.
    pub until: u64,
    /// Set for the usage of labels, otherwise that of all requests is returned.
    pub labels: bool,
    /// Set for one row per key and label, with the sum over the range; its hour is `from`.
    pub summed: bool,
    /// The position in the result after which it begins.
    pub after: Option<UsageCursor>,
    /// The maximum number of rows.
    pub limit: usize,
}

impl UsageQuery {
    /// Creates a query for all requests by key and hour.
    #[must_use]
    pub fn of(account: Option<AccountId>, hours: std::ops::Range<u64>) -> Self {
        Self {
            account,
            environment: None,
            from: hours.start,
            until: hours.end,
            labels: false,
            summed: false,
            after: None,
            limit: usize::MAX,
        }
    }

    /// Returns whether stored usage belongs to the result, disregarding the limit.
    #[must_use]
    pub fn wants(&self, usage: &KeyUsage) -> bool {
        let own = self.account.as_ref();
        own.is_none_or(|account| *account == usage.account)
            && self
                .environment
                .is_none_or(|environment| environment == usage.environment)
            && (self.from..self.until).contains(&usage.hour)
            && self.labels == usage.label.is_some()
            && self.after.is_none_or(|after| {
                if self.summed {
                    (after.key, after.label) < (usage.key, usage.label)
                } else {
                    after < usage.cursor()
                }
            })
    }

    /// Returns the result of the query from usage in the order of [`UsageCursor`].
    ///
    /// It is for stores that cannot sum by themselves.
    pub fn select<'a>(&self, all: impl IntoIterator<Item = &'a KeyUsage>) -> Vec<KeyUsage> {
        let mut rows: Vec<KeyUsage> = Vec::new();
        for usage in all.into_iter().filter(|usage| self.wants(usage)) {
            let is_full = rows.len() == self.limit;
            match rows.last_mut() {
                Some(sum) if self.summed && (sum.key, sum.label) == (usage.key, usage.label) => {
                    sum.counts += usage.counts;
                }
                _ if is_full => break,
                _ => rows.push(usage.clone()),
            }
        }
        if self.summed {
            for row in &mut rows {
                (row.hour, row.hours) = (self.from, self.until.saturating_sub(self.from));
            }
        }
        rows
    }
}

/// A position in a list of usage, as text for a URL: `key_….472222` or `key_….472222.reports`.
///
/// Usage is sorted by key, then by label, then by hour.
///
/// ```
/// use keyward::usage::UsageCursor;
///
/// let cursor = UsageCursor::parse("key_0123456789ab.472222.reports")?;
/// assert_eq!(cursor.hour, 472_222);
/// assert_eq!(cursor.to_string(), "key_0123456789ab.472222.reports");
/// # Ok::<(), keyward::error::ParseError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct UsageCursor {
    /// The key of the last row.
    pub key: KeyId,
    /// Its label.
    pub label: Option<UsageLabel>,
    /// Its first hour.
    pub hour: u64,
}

impl UsageCursor {
    /// Parses the output of `Display`.
    ///
    /// # Errors
    /// Returns an error if the format is different.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let error = ParseError::new("page", ParseErrorKind::Character);
        let (key, rest) = text.split_once('.').ok_or(error)?;
        let (hour, label) = match rest.split_once('.') {
            Some((hour, label)) => (hour, Some(UsageLabel::parse(label)?)),
            None => (rest, None),
        };
        Ok(Self {
            key: KeyId::parse(key)?,
            label,
            hour: hour.parse().map_err(|_| error)?,
        })
    }
}

impl fmt::Display for UsageCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.key, self.hour)?;
        match self.label {
            Some(label) => write!(f, ".{label}"),
            None => Ok(()),
        }
    }
}
