//! The account that owns keys.

use std::collections::BTreeMap;

use crate::environment::Environment;
use crate::error::named;
use crate::ids::AccountId;

use crate::limit::RateLimits;

/// An account that owns keys, with everything that a decision needs to know about it.
///
/// ```
/// use keyward::AccountId;
/// use keyward::record::{Account, AccountStatus};
///
/// let mut account = Account::new(AccountId::parse("acct_42")?);
/// assert_eq!(account.status, AccountStatus::Active);
/// account.status = AccountStatus::Suspended; // its keys now get 403 `account_inactive`
/// # Ok::<(), keyward::error::ParseError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Account {
    /// The account id.
    pub id: AccountId,
    /// The revision of this record, set by the store. Zero if it is not stored yet.
    pub revision: u64,
    /// The status, which decides whether the account's keys work at all.
    pub status: AccountStatus,
    /// True if the account's plan includes API access. Otherwise every key gets 403
    /// `key_not_allowed`.
    pub api_access: bool,
    /// The maximum number of active keys. `None` applies the service's own limit.
    pub max_active_keys: Option<u32>,
    /// The rate limits of each key that has none of its own. If empty, the service's limits apply.
    pub rate_limits: RateLimits,
    /// The rate limits that all keys of the account share, per environment.
    pub shared_rate_limits: RateLimits,
    /// The epoch of the account's balance of [`Credits`](crate::credits::Credits), from 1. `None`
    /// means that there is no balance.
    pub credits: Option<u32>,
    /// The number of times that all keys were revoked. A counter rather than a time, so that clocks
    /// do not matter.
    pub revoked_all: u32,
    /// The number of times that all keys of an environment were revoked.
    pub revoked: BTreeMap<Environment, u32>,
}

impl Account {
    /// Creates an active account whose plan includes API access.
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

    /// Returns the epoch of keys created now. Keys of an earlier epoch are revoked.
    #[must_use]
    pub fn epoch(&self, environment: Environment) -> u32 {
        let own = self.revoked.get(&environment).copied();
        self.revoked_all.saturating_add(own.unwrap_or_default())
    }
}

/// The status of an account. See [`Account`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AccountStatus {
    /// The account's keys work.
    Active,
    /// The account's keys get 403 `account_inactive` until the suspension is lifted.
    Suspended,
}

named!(AccountStatus, "account status": Active = "active", Suspended = "suspended");
