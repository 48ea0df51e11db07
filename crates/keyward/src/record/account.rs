//! Who owns keys.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::error::named;
use crate::{Environment, ParseError, ParseErrorKind, RateLimits};

/// The service's own name for an account: 1 to 128 printable ASCII characters, no spaces.
///
/// ```
/// assert_eq!(keyward::AccountId::parse("acct_42")?.as_str(), "acct_42");
/// # Ok::<(), keyward::ParseError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountId(Arc<str>);

impl AccountId {
    /// Parses a name.
    ///
    /// # Errors
    /// When it is empty, longer than 128 bytes or holds a space, a control or a non-ASCII character.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let kind = match text.len() {
            0 => ParseErrorKind::Empty,
            1..=128 if text.bytes().all(|b| b.is_ascii_graphic()) => return Ok(Self(text.into())),
            1..=128 => ParseErrorKind::Character,
            _ => ParseErrorKind::TooLong,
        };
        Err(ParseError::new("account id", kind))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AccountId({})", self.as_str())
    }
}

/// Who owns keys, as far as a decision needs to know.
///
/// ```
/// use keyward::{Account, AccountId, AccountStatus};
///
/// let mut account = Account::new(AccountId::parse("acct_42")?);
/// assert_eq!(account.status, AccountStatus::Active);
/// account.status = AccountStatus::Suspended; // every key now gets 403 `account_inactive`
/// # Ok::<(), keyward::ParseError>(())
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
    /// The epoch of its balance of [`Credits`](crate::Credits), from one on; `None`: it has none.
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
