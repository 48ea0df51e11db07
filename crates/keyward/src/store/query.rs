//! Which keys are wanted.

use std::time::SystemTime;

use crate::environment::Environment;
use crate::ids::AccountId;
use crate::record::{Account, AuditEntry, KeyRecord, KeyState};
use crate::store::KeyCursor;

/// Which keys of an account are wanted. See [`Store::keys`](crate::store::Store::keys).
#[derive(Clone, Debug)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a store takes it apart, a new part must not be missed"
)]
pub struct KeyQuery {
    /// Whose keys.
    pub account: AccountId,
    /// Only of this environment.
    pub environment: Option<Environment>,
    /// Only in this state, as [`KeyRecord::state`] says.
    pub state: Option<KeyState>,
    /// The moment at which expiry is judged.
    pub now: SystemTime,
    /// Only those below this place in the list.
    pub after: Option<KeyCursor>,
    /// At most so many.
    pub limit: usize,
}

/// Which lines of the audit log are wanted. See [`Store::audit`](crate::store::Store::audit).
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
    reason = "a store takes it apart, a new part must not be missed"
)]
pub struct AuditQuery {
    /// Only of this account.
    pub account: Option<AccountId>,
    /// Only of this environment.
    pub environment: Option<Environment>,
    /// Only those below this number.
    pub before: Option<u64>,
    /// At most so many.
    pub limit: usize,
}

impl AuditQuery {
    /// The newest lines, of all accounts and environments.
    #[must_use]
    pub fn newest(limit: usize) -> Self {
        Self {
            account: None,
            environment: None,
            before: None,
            limit,
        }
    }

    /// Whether a line is wanted; the limit is not looked at.
    #[must_use]
    pub fn wants(&self, line: &AuditEntry) -> bool {
        self.before.is_none_or(|before| line.number < before)
            && (self.account.is_none() || line.account == self.account)
            && (self.environment.is_none() || line.environment == self.environment)
    }
}

impl KeyQuery {
    /// Whether a key is wanted; its place in the list is not looked at.
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
