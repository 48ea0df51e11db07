//! Queries for keys and for the audit log.

use std::time::SystemTime;

use crate::environment::Environment;
use crate::ids::AccountId;
use crate::record::{Account, AuditEntry, KeyRecord, KeyState};
use crate::store::KeyCursor;

/// A query for the keys of an account. See [`Store::keys`](crate::store::Store::keys).
#[derive(Clone, Debug)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a store must handle every part, so a new one must not be missed"
)]
pub struct KeyQuery {
    /// The account.
    pub account: AccountId,
    /// The environment of the keys; `None` for all.
    pub environment: Option<Environment>,
    /// The state of the keys, according to [`KeyRecord::state`]; `None` for all.
    pub state: Option<KeyState>,
    /// The time at which expiry is judged.
    pub now: SystemTime,
    /// The position in the list after which the keys begin.
    pub after: Option<KeyCursor>,
    /// The maximum number of keys.
    pub limit: usize,
}

/// A query for lines of the audit log. See [`Store::audit`](crate::store::Store::audit).
///
/// ```
/// # use std::time::SystemTime;
/// use keyward::Environment;
/// use keyward::record::{AuditAction, AuditEntry};
/// use keyward::store::AuditQuery;
///
/// let mut line = AuditEntry::new(SystemTime::now(), "operator:ops", AuditAction::Create);
/// line.environment = Some(Environment::LIVE);
/// let query = AuditQuery::newest(10);
/// assert!(query.wants(&line));
/// assert!(!AuditQuery { environment: Some(Environment::TEST), ..query }.wants(&line));
/// ```
#[derive(Clone, Debug)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a store must handle every part, so a new one must not be missed"
)]
pub struct AuditQuery {
    /// The account of the lines; `None` for all.
    pub account: Option<AccountId>,
    /// The environment of the lines; `None` for all.
    pub environment: Option<Environment>,
    /// The number below which the lines begin.
    pub before: Option<u64>,
    /// The maximum number of lines.
    pub limit: usize,
}

impl AuditQuery {
    /// Creates a query for the newest lines of all accounts and environments.
    #[must_use]
    pub fn newest(limit: usize) -> Self {
        Self {
            account: None,
            environment: None,
            before: None,
            limit,
        }
    }

    /// Returns whether a line matches, disregarding the limit.
    #[must_use]
    pub fn wants(&self, line: &AuditEntry) -> bool {
        self.before.is_none_or(|before| line.number < before)
            && (self.account.is_none() || line.account == self.account)
            && (self.environment.is_none() || line.environment == self.environment)
    }
}

impl KeyQuery {
    /// Returns whether a key matches, disregarding its position in the list.
    #[must_use]
    pub fn wants(&self, record: &KeyRecord, account: &Account) -> bool {
        record.account == self.account
            && self
                .environment
                .is_none_or(|environment| environment == record.environment)
            && self
                .state
                .is_none_or(|state| state == record.state(account, self.now))
            && self.after.is_none_or(|after| KeyCursor::of(record) < after)
    }
}
