//! What is kept of a key. Never the secret.

use std::time::SystemTime;

use crate::environment::Environment;
use crate::error::named;
use crate::ids::{AccountId, KeyId};
use crate::key::KeyKind;
use crate::key::{Hint, KeyDigest};
use crate::limit::RateLimits;
use crate::origin::OriginPolicy;
use crate::record::{Account, Metadata};
use crate::scope::Scopes;

/// What is kept of a key: never the secret.
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
    /// Its public name.
    pub id: KeyId,
    /// Which version this is; the store sets it. Zero: not stored yet.
    pub revision: u64,
    /// By which the key is found.
    pub digest: KeyDigest,
    /// How often it was digested anew; a commit that changes the digest adds one.
    pub redigested: u32,
    /// What may be shown of the key.
    pub hint: Hint,
    /// The owner's name for it.
    pub name: String,
    /// Who owns it.
    pub account: AccountId,
    /// The world it acts in.
    pub environment: Environment,
    /// Where it may live.
    pub kind: KeyKind,
    /// What it may do.
    pub scopes: Scopes,
    /// Which web pages may use it.
    pub origins: OriginPolicy,
    /// How often it may be used; none: as its account's plan or the service says.
    pub rate_limits: RateLimits,
    /// The epoch of its own balance of [`Credits`](crate::credits::Credits), from one on; `None`: it has none, and
    /// spends those of its account.
    pub credits: Option<u32>,
    /// What the service wants to remember of it.
    pub metadata: Metadata,
    /// The account's epoch when it was made; below the account's present one it is revoked.
    pub epoch: u32,
    /// Whether it works.
    pub status: KeyStatus,
    /// Who disabled it.
    ///
    /// `None` of a disabled key stands for somebody unknown, such as a version or a tool that does not
    /// write it down. It counts as an operator: only an operator enables the key.
    pub disabled_by: Option<DisabledBy>,
    /// When it was made.
    pub created_at: SystemTime,
    /// From this moment on it is dead. Kept in whole seconds, rounded down.
    pub expires_at: Option<SystemTime>,
    /// When it was revoked by itself.
    ///
    /// A revocation of all its account's keys leaves no mark here.
    pub revoked_at: Option<SystemTime>,
    /// Why it was revoked.
    pub revoked_for: String,
    /// The first key of its chain of rotations, itself to begin with. What is counted and bounded for it,
    /// such as a limit, belongs to the chain: a rotation does not double it.
    pub lineage: KeyId,
    /// The key whose place it took.
    pub predecessor: Option<KeyId>,
    /// The key that took its place.
    pub successor: Option<KeyId>,
    /// When it was used last, as far as the store knows.
    ///
    /// A commit does not change it.
    pub last_used_at: Option<SystemTime>,
}

impl KeyRecord {
    /// A secret key that works, without scopes, origins, limit or end.
    ///
    /// Made in the account's first epoch; see [`Account::epoch`].
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
            rate_limits: RateLimits::none(),
            credits: None,
            metadata: Metadata::default(),
            epoch: 0,
            status: KeyStatus::Active,
            disabled_by: None,
            created_at,
            expires_at: None,
            revoked_at: None,
            revoked_for: String::new(),
            lineage: id,
            predecessor: None,
            successor: None,
            last_used_at: None,
        }
    }

    /// A new key that may do the same, in the same chain, without an end.
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
            expires_at: None,
            revoked_at: None,
            revoked_for: String::new(),
            predecessor: Some(self.id),
            successor: None,
            last_used_at: None,
            ..self.clone()
        }
    }

    /// Whether it works, all things considered but those of its account's status.
    #[must_use]
    pub fn state(&self, account: &Account, now: SystemTime) -> KeyState {
        match self.status {
            KeyStatus::Revoked => KeyState::Revoked,
            _ if self.epoch < account.epoch(self.environment) => KeyState::Revoked,
            _ if self.expires_at.is_some_and(|at| at <= now) => KeyState::Expired,
            KeyStatus::Disabled => KeyState::Disabled,
            KeyStatus::Active => KeyState::Active,
        }
    }
}

/// Whether a key works at a moment. See [`KeyRecord::state`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyState {
    /// It does.
    Active,
    /// It is switched off and can be switched on again.
    Disabled,
    /// It is dead for good: by itself, or with all keys of its account.
    Revoked,
    /// Its time is over.
    Expired,
}

named! {
    KeyState, "key state":
    Active = "active", Disabled = "disabled", Revoked = "revoked", Expired = "expired",
}

/// Whether a key works, as it is kept. [`KeyState`] also knows of expiry and of the account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyStatus {
    /// It works until it expires.
    Active,
    /// It is switched off and can be switched on again.
    Disabled,
    /// It is dead for good.
    Revoked,
}

/// Who disabled a key or an endpoint of webhooks.
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
    /// An operator, and only an operator enables it again.
    Operator,
    /// A user of the account.
    User,
    /// A key of the account.
    Key,
}

named!(DisabledBy, "actor": Operator = "operator", User = "user", Key = "key");

impl DisabledBy {
    /// Returns whether only an operator may enable what this actor has disabled: also if nobody is known.
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
