//! Which keys are wanted.

use std::time::SystemTime;

use crate::{Account, AccountId, Environment, KeyCursor, KeyRecord, KeyState};

/// Which keys of an account are wanted. See [`Store::keys`](crate::Store::keys).
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
