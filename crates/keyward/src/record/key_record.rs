//! The stored record of a key.

use std::time::SystemTime;

use crate::address::AddressPolicy;
use crate::environment::Environment;
use crate::error::named;
use crate::ids::{AccountId, KeyId};
use crate::key::KeyKind;
use crate::key::{Hint, KeyDigest};
use crate::limit::RateLimits;
use crate::origin::OriginPolicy;
use crate::record::{Account, Metadata};
use crate::scope::Scopes;
use crate::usage::ClientNetwork;

/// The stored record of a key, which never contains the secret.
///
/// ```
/// # use std::time::{Duration, SystemTime};
/// # use keyward::{AccountId, Environment, KeyFormat, KeyId, Peppers};
/// # use keyward::record::{Account, KeyRecord, KeyState};
/// # let acme = AccountId::parse("acme")?;
/// # let account = Account::new(acme.clone());
/// let key = KeyFormat::new("vhk_{env}_")?.generate(Environment::LIVE)?;
/// let (digest, hint) = (Peppers::none().digest(&key), key.hint().clone());
/// let now = SystemTime::now();
/// let mut record = KeyRecord::new(KeyId::random()?, digest, hint, acme, Environment::LIVE, now);
/// assert_eq!(record.state(&account, now), KeyState::Active);
///
/// record.expires_at = Some(now + Duration::from_secs(60));
/// assert_eq!(record.state(&account, now + Duration::from_secs(60)), KeyState::Expired);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyRecord {
    /// The public id.
    pub id: KeyId,
    /// The revision of this record, set by the store. Zero if it is not stored yet.
    pub revision: u64,
    /// The digest by which the key is found.
    pub digest: KeyDigest,
    /// The number of times that the key was rehashed. A commit that changes the digest adds one.
    pub redigested: u32,
    /// The displayable part of the key.
    pub hint: Hint,
    /// The name that the owner gave to the key.
    pub name: String,
    /// The account that owns the key.
    pub account: AccountId,
    /// The environment of the key.
    pub environment: Environment,
    /// The kind of key: secret or publishable.
    pub kind: KeyKind,
    /// The scopes granted to the key.
    pub scopes: Scopes,
    /// The origin policy, which restricts the web pages that may use the key.
    pub origins: OriginPolicy,
    /// The address policy, which restricts the network addresses from which the key may be used.
    pub addresses: AddressPolicy,
    /// The rate limits of the key. If empty, those of its account's plan or the service apply.
    pub rate_limits: RateLimits,
    /// The epoch of the key's own balance of [`Credits`](crate::credits::Credits), from 1. `None`
    /// means that it spends the credits of its account, if any.
    pub credits: Option<u32>,
    /// The service's own data about the key.
    pub metadata: Metadata,
    /// The account's epoch at creation. The key is revoked if it is below the account's current
    /// epoch.
    pub epoch: u32,
    /// The stored status.
    pub status: KeyStatus,
    /// The kind of actor that disabled the key.
    ///
    /// `None` for a disabled key means that the actor is unknown, for example because an older
    /// version or another tool did not record it. It counts as an operator: only an operator can
    /// enable the key.
    pub disabled_by: Option<DisabledBy>,
    /// The name of the actor that disabled the key, as in [`AuditEntry`]. `None` if unknown.
    ///
    /// [`AuditEntry`]: crate::record::AuditEntry::actor
    pub disabled_by_name: Option<String>,
    /// The time of creation.
    pub created_at: SystemTime,
    /// The name of the actor that created, imported or rotated to the key, as in [`AuditEntry`].
    ///
    /// `None` if it is unknown, because an earlier version or another tool created the key.
    ///
    /// [`AuditEntry`]: crate::record::AuditEntry::actor
    pub created_by: Option<String>,
    /// The start of validity: the key does not work before this time. `None` means since creation.
    ///
    /// [`KeyAdmin`](crate::admin::KeyAdmin) stores whole seconds, rounded up.
    pub not_before: Option<SystemTime>,
    /// The expiry: the key stops working at this time. Stored in whole seconds, rounded down.
    pub expires_at: Option<SystemTime>,
    /// The time at which the key itself was revoked.
    ///
    /// It stays `None` if all keys of the account are revoked at once.
    pub revoked_at: Option<SystemTime>,
    /// The reason given for the revocation.
    pub revoked_for: String,
    /// The first key of the rotation chain, at first the key itself. Everything that is counted or
    /// limited, such as a rate limit, belongs to the chain, so a rotation does not double it.
    pub lineage: KeyId,
    /// The key that this one replaced.
    pub predecessor: Option<KeyId>,
    /// The key that replaced this one.
    pub successor: Option<KeyId>,
    /// The time of the last use, as far as the store knows.
    ///
    /// A commit does not change it.
    pub last_used_at: Option<SystemTime>,
    /// The network from which the key was used last, if the gate records it.
    ///
    /// A commit does not change it.
    pub last_network: Option<ClientNetwork>,
}

impl KeyRecord {
    /// Creates the record of an active secret key without scopes, allowlists, limits or expiry.
    ///
    /// It belongs to the account's first epoch; see [`Account::epoch`].
    #[must_use]
    pub fn new(
        id: KeyId,
        digest: KeyDigest,
        hint: Hint,
        account: AccountId,
        environment: Environment,
        created_at: SystemTime,
    ) -> Self {
        Self {
            id,
            revision: 0,
            digest,
            redigested: 0,
            hint,
            name: String::new(),
            account,
            environment,
            kind: KeyKind::Secret,
            scopes: Scopes::none(),
            origins: OriginPolicy::Any,
            addresses: AddressPolicy::Any,
            rate_limits: RateLimits::none(),
            credits: None,
            metadata: Metadata::default(),
            epoch: 0,
            status: KeyStatus::Active,
            disabled_by: None,
            disabled_by_name: None,
            created_at,
            created_by: None,
            not_before: None,
            expires_at: None,
            revoked_at: None,
            revoked_for: String::new(),
            lineage: id,
            predecessor: None,
            successor: None,
            last_used_at: None,
            last_network: None,
        }
    }

    /// Creates a successor with the same permissions, in the same chain, without expiry or creator.
    pub(crate) fn succeeded_by(
        &self,
        id: KeyId,
        digest: KeyDigest,
        hint: Hint,
        created_at: SystemTime,
    ) -> Self {
        Self {
            id,
            revision: 0,
            digest,
            redigested: 0,
            hint,
            created_at,
            created_by: None,
            expires_at: None,
            revoked_at: None,
            revoked_for: String::new(),
            predecessor: Some(self.id),
            successor: None,
            last_used_at: None,
            last_network: None,
            ..self.clone()
        }
    }

    /// Returns the state of the key, which considers everything except its account's status.
    #[must_use]
    pub fn state(&self, account: &Account, now: SystemTime) -> KeyState {
        match self.status {
            KeyStatus::Revoked => KeyState::Revoked,
            _ if self.epoch < account.epoch(self.environment) => KeyState::Revoked,
            _ if self.expires_at.is_some_and(|at| at <= now) => KeyState::Expired,
            KeyStatus::Disabled => KeyState::Disabled,
            _ if self.not_before.is_some_and(|at| at > now) => KeyState::NotYetValid,
            KeyStatus::Active => KeyState::Active,
        }
    }
}

/// The state of a key at a moment. See [`KeyRecord::state`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyState {
    /// The key works.
    Active,
    /// The key is disabled and can be enabled again.
    Disabled,
    /// The key is revoked for good, alone or with all keys of its account.
    Revoked,
    /// The key has expired.
    Expired,
    /// The key works later, from [`KeyRecord::not_before`] on.
    NotYetValid,
}

impl KeyState {
    /// Returns whether the key never works again: it is revoked or expired.
    ///
    /// Any other key counts towards the limit of [`ActiveKeys`](crate::store::ActiveKeys).
    ///
    /// ```
    /// use keyward::record::KeyState;
    ///
    /// assert!(KeyState::Expired.is_final());
    /// assert!(!KeyState::Disabled.is_final() && !KeyState::NotYetValid.is_final());
    /// ```
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Revoked | Self::Expired)
    }
}

named! {
    KeyState, "key state":
    Active = "active", Disabled = "disabled", Revoked = "revoked", Expired = "expired",
    NotYetValid = "not_yet_valid",
}

/// The stored status of a key. [`KeyState`] also considers expiry and the account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyStatus {
    /// The key works until it expires.
    Active,
    /// The key is disabled and can be enabled again.
    Disabled,
    /// The key is revoked for good.
    Revoked,
}

/// The kind of actor that disabled a key or a webhook endpoint.
///
/// See [`KeyRecord::disabled_by`] and `WebhookEndpoint::disabled_by` of keyward-webhooks.
///
/// ```
/// use keyward::record::DisabledBy;
///
/// assert_eq!(DisabledBy::parse("operator")?, DisabledBy::Operator);
/// # Ok::<(), keyward::error::ParseError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DisabledBy {
    /// An operator. Only an operator can enable it again.
    Operator,
    /// A user of the account.
    User,
    /// A key of the account.
    Key,
}

named!(DisabledBy, "actor": Operator = "operator", User = "user", Key = "key");

impl DisabledBy {
    /// Returns whether only an operator can enable what this actor has disabled.
    ///
    /// That is also the case if the actor is unknown.
    ///
    /// ```
    /// use keyward::record::DisabledBy;
    ///
    /// assert!(DisabledBy::is_operator(None));
    /// assert!(!DisabledBy::is_operator(Some(DisabledBy::User)));
    /// ```
    #[must_use]
    pub fn is_operator(by: Option<Self>) -> bool {
        matches!(by, None | Some(Self::Operator))
    }
}

named! {
    KeyStatus, "key status":
    Active = "active", Disabled = "disabled", Revoked = "revoked",
}
