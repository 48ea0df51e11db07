//! What is to be created or changed.

use std::time::{Duration, SystemTime};

use crate::admin::origins::OriginExceptions;
use crate::credits::Credits;
use crate::environment::Environment;
use crate::ids::AccountId;
use crate::key::{ApiKey, KeyKind};
use crate::limit::RateLimits;
use crate::origin::OriginPolicy;
use crate::record::{AccountStatus, KeyRecord, Metadata};
use crate::scope::Scopes;

/// What a new key shall be: secret, without scopes, origins or limit, unless told otherwise.
///
/// ```
/// # use keyward::{
/// #     AccountId, Actor, Environment, KeyAdmin, KeyFormat, KeyScheme, KeyKind, MemoryStore, NewKey, OriginPolicy,
/// #     Scopes,
/// # };
/// # keyward::testing::block_on(async {
/// # let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_")?);
/// # let admin = KeyAdmin::new(&MemoryStore::new(), &scheme);
/// # let operator = Actor::operator("docs");
/// # let acme = AccountId::parse("acme")?;
/// # let created = admin.bootstrap(&operator, NewKey::new(acme.clone(), Environment::LIVE, "first")).await?;
/// # let id = created.record.id;
/// let new = NewKey::new(acme, Environment::TEST, "shop widget")
///     .kind(KeyKind::Publishable)
///     .scopes(Scopes::parse(["verifyage"])?)
///     .origins(OriginPolicy::listed(["*.shop.example"])?);
/// let record = admin.create(&operator, new).await?.record;
/// assert_eq!(record.kind, KeyKind::Publishable);
/// assert!(record.hint.to_string().starts_with("vhk_test_…"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct NewKey {
    pub(crate) account: AccountId,
    pub(crate) environment: Environment,
    pub(crate) name: String,
    pub(crate) kind: KeyKind,
    pub(crate) scopes: Scopes,
    pub(crate) origins: OriginPolicy,
    pub(crate) origin_exceptions: OriginExceptions,
    pub(crate) rate_limits: RateLimits,
    pub(crate) credits: Option<Credits>,
    pub(crate) metadata: Metadata,
    pub(crate) expires_at: Option<SystemTime>,
    pub(crate) token: Option<String>,
}

impl NewKey {
    /// A key of this account, under this name.
    ///
    /// A name of other than 1 to 100 characters, or with a control character, is refused by
    /// [`create`](crate::admin::KeyAdmin::create): [`Name`](crate::record::AdminErrorKind::Name).
    pub fn new(account: AccountId, environment: Environment, name: &str) -> Self {
        Self {
            account,
            environment,
            name: name.to_owned(),
            kind: KeyKind::Secret,
            scopes: Scopes::none(),
            origins: OriginPolicy::Any,
            origin_exceptions: OriginExceptions::default(),
            rate_limits: RateLimits::none(),
            credits: None,
            metadata: Metadata::default(),
            expires_at: None,
            token: None,
        }
    }

    /// Returns the account of the key.
    #[must_use]
    pub fn account(&self) -> &AccountId {
        &self.account
    }

    /// Returns the environment of the key.
    #[must_use]
    pub fn environment(&self) -> Environment {
        self.environment
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
    ///
    /// `http://` in a live key, and a wildcard over what anybody can register (`*.com`, `*.co.uk`,
    /// `*.github.io`), are refused unless one of the two methods below says otherwise. A wildcard
    /// further up, such as `*.amazonaws.com`, is not noticed, though others have pages there.
    ///
    /// ```
    /// # use keyward::{
    /// #     AccountId, Actor, Environment, KeyAdmin, KeyFormat, KeyScheme, MemoryStore, NewKey, OriginPolicy,
    /// # };
    /// # use keyward::error::{ParseError, ParseErrorKind};
    /// # use keyward::record::AdminErrorKind;
    /// # keyward::testing::block_on(async {
    /// # let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_")?);
    /// # let admin = KeyAdmin::new(&MemoryStore::new(), &scheme);
    /// # let operator = Actor::operator("docs");
    /// # let acme = AccountId::parse("acme")?;
    /// # admin.open_account(&operator, &acme).await?;
    /// use std::error::Error;
    ///
    /// let origins = OriginPolicy::listed(["shop.example", "*.github.io"])?;
    /// let new = NewKey::new(acme, Environment::LIVE, "widget").origins(origins);
    /// let error = admin.create(&operator, new.clone()).await.unwrap_err();
    /// assert_eq!(error.kind(), AdminErrorKind::Origins);
    /// let why = error.source().and_then(|source| source.downcast_ref::<ParseError>());
    /// let why = why.map(|why| (why.entry(), why.kind()));
    /// assert_eq!(why, Some((Some(1), ParseErrorKind::PublicSuffix)));
    ///
    /// let named = new.insecure_public_suffixes();
    /// assert!(admin.create(&operator, named).await.is_ok());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub fn origins(mut self, origins: OriginPolicy) -> Self {
        self.origins = origins;
        self
    }

    /// Lets `http://` into the list of a live key too.
    ///
    /// Insecure: whoever is on the way between page and browser can put a script into such a page,
    /// and with `http://localhost` any program on the visitor's machine can serve one.
    pub fn insecure_http_origins(mut self) -> Self {
        self.origin_exceptions.http = true;
        self
    }

    /// Lets a wildcard stand before a public suffix, such as `*.github.io`.
    ///
    /// Insecure: anybody can have a page there. For who owns the suffix.
    pub fn insecure_public_suffixes(mut self) -> Self {
        self.origin_exceptions.public_suffixes = true;
        self
    }

    /// A balance of its own, instead of its account's. Only an operator may give it.
    pub fn credits(mut self, credits: Credits) -> Self {
        self.credits = Some(credits);
        self
    }

    /// How often it may be used, instead of what its account's plan or the service says.
    ///
    /// Only an operator may give more than the plan does, or any where it says nothing. Whoever acts with
    /// a key that has limits of its own may hand them on.
    pub fn rate_limits(mut self, limits: impl Into<RateLimits>) -> Self {
        self.rate_limits = limits.into();
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

    /// Makes a repeated create harmless. See [`CreatedKey`].
    ///
    /// The same token of an account gives the same key again, without its secret. 1 to 128 printable
    /// ASCII characters.
    pub fn token(mut self, token: &str) -> Self {
        self.token = Some(token.to_owned());
        self
    }
}

/// A key that was created, and what is kept of it.
///
/// ```
/// # use keyward::{AccountId, Actor, Environment, KeyAdmin, KeyFormat, KeyScheme, MemoryStore, NewKey};
/// # keyward::testing::block_on(async {
/// # let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_")?);
/// # let admin = KeyAdmin::new(&MemoryStore::new(), &scheme);
/// # let operator = Actor::operator("docs");
/// # let acme = AccountId::parse("acme")?;
/// # let created = admin.bootstrap(&operator, NewKey::new(acme.clone(), Environment::LIVE, "first")).await?;
/// # let id = created.record.id;
/// let new = NewKey::new(acme, Environment::LIVE, "production").token("form-7f3a");
/// let first = admin.create(&operator, new.clone()).await?;
/// let again = admin.create(&operator, new).await?; // the answer was lost, the form is sent again
/// assert!(first.key.is_some() && again.key.is_none());
/// assert_eq!(first.record, again.record);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct CreatedKey {
    /// The secret, for its owner; `None` when the same token had made it earlier.
    pub key: Option<ApiKey>,
    /// What is kept.
    pub record: KeyRecord,
}

/// What shall be different about a key; what is not named stays.
///
/// ```
/// # use keyward::{AccountId, Actor, Environment, KeyAdmin, KeyFormat, KeyScheme, MemoryStore, NewKey, RateLimit};
/// # use keyward::admin::KeyChange;
/// # keyward::testing::block_on(async {
/// # let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_")?);
/// # let admin = KeyAdmin::new(&MemoryStore::new(), &scheme);
/// # let operator = Actor::operator("docs");
/// # let acme = AccountId::parse("acme")?;
/// # let created = admin.bootstrap(&operator, NewKey::new(acme.clone(), Environment::LIVE, "first")).await?;
/// # let id = created.record.id;
/// let change = KeyChange::new().name("shop").rate_limits(RateLimit::per_minute(100));
/// let view = admin.update(&operator, id, change).await?;
/// assert_eq!(view.record.name, "shop");
/// assert_eq!(view.record.scopes, created.record.scopes);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct KeyChange {
    pub(crate) name: Option<String>,
    pub(crate) scopes: Option<Scopes>,
    pub(crate) origins: Option<OriginPolicy>,
    pub(crate) origin_exceptions: OriginExceptions,
    pub(crate) rate_limits: Option<RateLimits>,
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
    ///
    /// What is new in the list is judged as in [`NewKey::origins`].
    pub fn origins(mut self, origins: OriginPolicy) -> Self {
        self.origins = Some(origins);
        self
    }

    /// Lets `http://` into the list of a live key too.
    ///
    /// Insecure: whoever is on the way between page and browser can put a script into such a page,
    /// and with `http://localhost` any program on the visitor's machine can serve one.
    pub fn insecure_http_origins(mut self) -> Self {
        self.origin_exceptions.http = true;
        self
    }

    /// Lets a wildcard stand before a public suffix, such as `*.github.io`.
    ///
    /// Insecure: anybody can have a page there. For who owns the suffix.
    pub fn insecure_public_suffixes(mut self) -> Self {
        self.origin_exceptions.public_suffixes = true;
        self
    }

    /// Other limits. Wider ones, as none are, need the permission to create too, and those that are
    /// wider than the plan's [an operator](NewKey::rate_limits).
    ///
    /// A limit that stays keeps what was used of it; one that is new begins with a full bucket.
    pub fn rate_limits(mut self, limits: impl Into<RateLimits>) -> Self {
        self.rate_limits = Some(limits.into());
        self
    }

    /// Other metadata.
    pub fn metadata(mut self, metadata: Metadata) -> Self {
        self.metadata = Some(metadata);
        self
    }
}

/// What shall be different about an account; what is not named stays.
///
/// ```
/// # use keyward::{AccountId, Actor, Environment, KeyAdmin, KeyFormat, KeyScheme, MemoryStore, NewKey};
/// # use keyward::admin::AccountChange;
/// # use keyward::record::AccountStatus;
/// # keyward::testing::block_on(async {
/// # let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_")?);
/// # let admin = KeyAdmin::new(&MemoryStore::new(), &scheme);
/// # let operator = Actor::operator("docs");
/// # let acme = AccountId::parse("acme")?;
/// # let created = admin.bootstrap(&operator, NewKey::new(acme.clone(), Environment::LIVE, "first")).await?;
/// # let id = created.record.id;
/// let change = AccountChange::new().status(AccountStatus::Suspended);
/// let account = admin.update_account(&operator, &acme, change).await?;
/// assert_eq!(account.status, AccountStatus::Suspended); // its keys now get 403 `account_inactive`
/// assert!(account.api_access);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
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
    pub(crate) rate_limits: Option<RateLimits>,
    pub(crate) shared_rate_limits: Option<RateLimits>,
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

    /// How often each of its keys may be used that has no limits of its own; none: as the service says.
    pub fn rate_limits(mut self, limits: impl Into<RateLimits>) -> Self {
        self.rate_limits = Some(limits.into());
        self
    }

    /// How often all its keys of an environment together may be used, beside the limits of each.
    pub fn shared_rate_limits(mut self, limits: impl Into<RateLimits>) -> Self {
        self.shared_rate_limits = Some(limits.into());
        self
    }
}

/// When a key that is rotated dies. See [`KeyAdmin::rotate`](crate::admin::KeyAdmin::rotate).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "now or later, there is no third")]
pub enum Grace {
    /// At once.
    None,
    /// So much later, to the next whole second, but never later than it would have died anyway.
    For(Duration),
}
