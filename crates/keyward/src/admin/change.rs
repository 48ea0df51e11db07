//! What is to be created or changed.

use std::time::{Duration, SystemTime};

use crate::{
    AccountId, AccountStatus, ApiKey, Environment, KeyKind, KeyRecord, Metadata, OriginPolicy,
    RateLimit, Scopes,
};

/// What a new key shall be: secret, without scopes, origins or limit, unless told otherwise.
#[derive(Clone, Debug)]
#[must_use]
pub struct NewKey {
    pub(crate) account: AccountId,
    pub(crate) environment: Environment,
    pub(crate) name: String,
    pub(crate) kind: KeyKind,
    pub(crate) scopes: Scopes,
    pub(crate) origins: OriginPolicy,
    pub(crate) rate_limit: Option<RateLimit>,
    pub(crate) metadata: Metadata,
    pub(crate) expires_at: Option<SystemTime>,
    pub(crate) token: Option<String>,
}

impl NewKey {
    /// A key of this account, which calls it this: 1 to 100 characters, no control characters.
    pub fn new(account: AccountId, environment: Environment, name: &str) -> Self {
        Self {
            account,
            environment,
            name: name.to_owned(),
            kind: KeyKind::Secret,
            scopes: Scopes::none(),
            origins: OriginPolicy::Any,
            rate_limit: None,
            metadata: Metadata::default(),
            expires_at: None,
            token: None,
        }
    }

    /// Where it may live.
    pub fn kind(mut self, kind: KeyKind) -> Self {
        self.kind = kind;
        self
    }

    /// What it may do.
    pub fn scopes(mut self, scopes: Scopes) -> Self {
        self.scopes = scopes;
        self
    }

    /// Which web pages may use it.
    pub fn origins(mut self, origins: OriginPolicy) -> Self {
        self.origins = origins;
        self
    }

    /// How often it may be used.
    pub fn rate_limit(mut self, limit: RateLimit) -> Self {
        self.rate_limit = Some(limit);
        self
    }

    /// What the service wants to remember of it.
    pub fn metadata(mut self, metadata: Metadata) -> Self {
        self.metadata = metadata;
        self
    }

    /// From when on it is dead, to the second; else the service's default.
    pub fn expires_at(mut self, at: SystemTime) -> Self {
        self.expires_at = Some(at);
        self
    }

    /// Makes a repeated create harmless: the same token of an account gives the same key again,
    /// without its secret. 1 to 128 printable ASCII characters.
    pub fn token(mut self, token: &str) -> Self {
        self.token = Some(token.to_owned());
        self
    }
}

/// A key that was created, and what is kept of it.
#[derive(Debug)]
#[non_exhaustive]
pub struct CreatedKey {
    /// The secret, for its owner; `None` when an earlier create with the same token made the key.
    pub key: Option<ApiKey>,
    /// What is kept.
    pub record: KeyRecord,
}

/// What shall be different about a key; what is not named stays.
#[derive(Clone, Debug, Default)]
#[must_use]
#[expect(
    clippy::option_option,
    reason = "`None` leaves it, `Some(None)` lifts it"
)]
pub struct KeyChange {
    pub(crate) name: Option<String>,
    pub(crate) scopes: Option<Scopes>,
    pub(crate) origins: Option<OriginPolicy>,
    pub(crate) rate_limit: Option<Option<RateLimit>>,
    pub(crate) metadata: Option<Metadata>,
}

impl KeyChange {
    /// No change.
    pub fn new() -> Self {
        Self::default()
    }

    /// Another name.
    pub fn name(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// Other scopes. Wider ones need the permission to create too.
    pub fn scopes(mut self, scopes: Scopes) -> Self {
        self.scopes = Some(scopes);
        self
    }

    /// Other origins. Wider ones need the permission to create too.
    pub fn origins(mut self, origins: OriginPolicy) -> Self {
        self.origins = Some(origins);
        self
    }

    /// Another limit, or none. A wider one, as none is, needs the permission to create too.
    pub fn rate_limit(mut self, limit: Option<RateLimit>) -> Self {
        self.rate_limit = Some(limit);
        self
    }

    /// Other metadata.
    pub fn metadata(mut self, metadata: Metadata) -> Self {
        self.metadata = Some(metadata);
        self
    }
}

/// What shall be different about an account; what is not named stays.
#[derive(Clone, Debug, Default)]
#[must_use]
#[expect(
    clippy::option_option,
    reason = "`None` leaves it, `Some(None)` lifts it"
)]
pub struct AccountChange {
    pub(crate) status: Option<AccountStatus>,
    pub(crate) api_access: Option<bool>,
    pub(crate) max_active_keys: Option<Option<u32>>,
}

impl AccountChange {
    /// No change.
    pub fn new() -> Self {
        Self::default()
    }

    /// Suspends it, or lifts that: its keys are refused at once, or work again.
    pub fn status(mut self, status: AccountStatus) -> Self {
        self.status = Some(status);
        self
    }

    /// Whether its plan includes the API: without, its keys are refused at once.
    pub fn api_access(mut self, included: bool) -> Self {
        self.api_access = Some(included);
        self
    }

    /// How many active keys it may have; `None` for the service's own bound.
    pub fn max_active_keys(mut self, bound: Option<u32>) -> Self {
        self.max_active_keys = Some(bound);
        self
    }
}

/// When a key that is rotated dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "now or later, there is no third")]
pub enum Grace {
    /// At once.
    None,
    /// So much later, but never later than it would have died anyway.
    For(Duration),
}
