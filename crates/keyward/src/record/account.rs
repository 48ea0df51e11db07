//! Who owns keys.

use std::collections::BTreeMap;

use crate::environment::Environment;
use crate::error::named;
use crate::ids::AccountId;

use crate::limit::RateLimits;

/// Who owns keys, as far as a decision needs to know.
///
/// ```
/// use keyward::AccountId;
/// use keyward::record::{Account, AccountStatus};
///
/// let mut account = Account::new(AccountId::parse("acct_42")?);
/// assert_eq!(account.status, AccountStatus::Active);
/// account.status = AccountStatus::Suspended; // every key now gets 403 `account_inactive`
/// # Ok::<(), keyward::error::ParseError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Account {
    /// Its name.
    pub id: AccountId,
    /// Which version this is; the store sets it. Zero: not stored yet.
    pub revision: u64,
    /// Whether its keys work at all.
    pub status: AccountStatus,
    /// Whether its plan includes the API; without it every key gets 403 `key_not_allowed`.
    pub api_access: bool,
    /// How many active keys it may have; the service's own bound where there is none.
    pub max_active_keys: Option<u32>,
    /// How often each of its keys may be used that has no limits of its own; none: as the service says.
    pub rate_limits: RateLimits,
    /// How often all its keys of an environment together may be used.
    pub shared_rate_limits: RateLimits,
    /// The epoch of its balance of [`Credits`](crate::credits::Credits), from one on; `None`: it has none.
    pub credits: Option<u32>,
    /// How often all its keys were revoked. A counter, never a time.
    pub revoked_all: u32,
    /// How often all its keys of an environment were revoked.
    pub revoked: BTreeMap<Environment, u32>,
}

impl Account {
    /// An active account whose plan includes the API.
    #[must_use]
    pub fn new(id: AccountId) -> Self {
        Self {
            id,
            revision: 0,
            status: AccountStatus::Active,
            api_access: true,
            max_active_keys: None,
            rate_limits: RateLimits::none(),
            shared_rate_limits: RateLimits::none(),
            credits: None,
            revoked_all: 0,
            revoked: BTreeMap::new(),
        }
    }

    /// The epoch of keys that are made now; those of an earlier one are revoked.
    #[must_use]
    pub fn epoch(&self, environment: Environment) -> u32 {
        let own = self.revoked.get(&environment).copied();
        self.revoked_all.saturating_add(own.unwrap_or_default())
    }
}

/// Whether an account's keys work. See [`Account`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AccountStatus {
    /// They do.
    Active,
    /// They get 403 `account_inactive` until it is lifted.
    Suspended,
}

named!(AccountStatus, "account status": Active = "active", Suspended = "suspended");
