//! Requests to create or change keys and accounts.

use std::time::SystemTime;

use crate::address::AddressPolicy;
use crate::admin::origins::OriginExceptions;
use crate::credits::Credits;
use crate::environment::Environment;
use crate::ids::AccountId;
use crate::key::{ApiKey, KeyKind};
use crate::limit::RateLimits;
use crate::origin::OriginPolicy;
use crate::record::{AccountStatus, KeyRecord, Metadata};
use crate::scope::Scopes;

/// A request to create a key.
///
/// By default, it is a secret key that has no scopes and no limits and is not restricted to
/// origins or addresses.
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
    pub(crate) addresses: AddressPolicy,
    pub(crate) rate_limits: RateLimits,
    pub(crate) credits: Option<Credits>,
    pub(crate) metadata: Metadata,
    pub(crate) not_before: Option<SystemTime>,
    pub(crate) expires_at: Option<SystemTime>,
    pub(crate) token: Option<String>,
}

impl NewKey {
    /// Creates a request for a key in this account and environment.
    ///
    /// The name must have 1 to 100 characters and no control characters; otherwise
    /// [`create`](crate::admin::KeyAdmin::create) fails with
    /// [`Name`](crate::record::AdminErrorKind::Name).
    pub fn new(account: AccountId, environment: Environment, name: &str) -> Self {
        Self {
            account,
            environment,
            name: name.to_owned(),
            kind: KeyKind::Secret,
            scopes: Scopes::none(),
            origins: OriginPolicy::Any,
            origin_exceptions: OriginExceptions::default(),
            addresses: AddressPolicy::Any,
            rate_limits: RateLimits::none(),
            credits: None,
            metadata: Metadata::default(),
            not_before: None,
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

    /// Sets the kind, secret or publishable. The default is secret.
    pub fn kind(mut self, kind: KeyKind) -> Self {
        self.kind = kind;
        self
    }

    /// Sets the scopes.
    pub fn scopes(mut self, scopes: Scopes) -> Self {
        self.scopes = scopes;
        self
    }

    /// Sets the allowlist of origins from which web pages may use the key.
    ///
    /// In a live key, `http://` origins are refused, and so are wildcards over a domain that anyone
    /// can register under (`*.com`, `*.co.uk`, `*.github.io`), unless one of the two methods below
    /// allows them. Wildcards further down, such as `*.amazonaws.com`, are accepted even though
    /// other parties host pages there.
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

    /// Allows `http://` origins in a live key.
    ///
    /// Insecure: an attacker on the network between page and browser can inject a script into such
    /// a page, and with `http://localhost` any program on the visitor's machine can serve one.
    pub fn insecure_http_origins(mut self) -> Self {
        self.origin_exceptions.http = true;
        self
    }

    /// Allows wildcards over a public suffix, such as `*.github.io`.
    ///
    /// Insecure: anyone can publish a page there. Use this only if you own the suffix.
    pub fn insecure_public_suffixes(mut self) -> Self {
        self.origin_exceptions.public_suffixes = true;
        self
    }

    /// Sets the allowlist of network addresses from which the key may be used.
    ///
    /// The client's address is that of the connection or, behind [trusted
    /// proxies](crate::gate::GateBuilder::trusted_proxies), the one that they saw. A request from
    /// any other address, or from an unknown one, gets this response:
    ///
    /// ```text
    /// HTTP/1.1 403 Forbidden
    /// cache-control: no-store
    /// content-type: application/problem+json
    ///
    /// {"type":"about:blank","title":"Forbidden","status":403,"detail":"The API key may not be used from this network address. Add the address to the key's allowlist, or send the request from one that is on it.","code":"address_not_allowed"}
    /// ```
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use keyward::{AccountId, Environment, NewKey};
    /// # use keyward::address::AddressPolicy;
    /// # use keyward::gate::{Decision, Verdict};
    /// # use keyward::testing::{TestRequest, World};
    /// # let (world, acme) = (World::new(), AccountId::parse("acme")?);
    /// let new = NewKey::new(acme, Environment::LIVE, "office")
    ///     .addresses(AddressPolicy::listed(["203.0.113.0/24"])?);
    /// # let (key, gate) = (world.create(new).key.unwrap(), world.gate());
    /// let call = |peer| {
    ///     let request = TestRequest::get().key(key.expose_secret()).peer(peer);
    ///     gate.check(&request, &Arc::default(), None)
    /// };
    /// assert!(matches!(call([203, 0, 113, 7]), Decision::Ready(Verdict::Admit(_))));
    /// let Decision::Ready(Verdict::Refuse(refusal)) = call([192, 0, 2, 1]) else { panic!() };
    /// assert_eq!(refusal.reply.status(), 403);
    /// # let fields: Vec<_> = refusal.reply.headers().map(|(name, value)| format!("{name}: {value}")).collect();
    /// # assert_eq!(fields, ["cache-control: no-store", "content-type: application/problem+json"]);
    /// # assert_eq!(refusal.reply.body(), br#"{"type":"about:blank","title":"Forbidden","status":403,"detail":"The API key may not be used from this network address. Add the address to the key's allowlist, or send the request from one that is on it.","code":"address_not_allowed"}"#);
    /// assert_eq!(refusal.denial.unwrap().client_address(), Some([192, 0, 2, 1].into()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn addresses(mut self, addresses: AddressPolicy) -> Self {
        self.addresses = addresses;
        self
    }

    /// Sets a credit balance of its own, spent instead of the account's. Requires an operator.
    pub fn credits(mut self, credits: Credits) -> Self {
        self.credits = Some(credits);
        self
    }

    /// Sets rate limits of the key's own.
    ///
    /// They replace those of the account's plan or the service. Limits above the plan's, or any
    /// limits if the plan has none, require an operator. An actor whose key has limits of its own
    /// may grant limits up to those.
    pub fn rate_limits(mut self, limits: impl Into<RateLimits>) -> Self {
        self.rate_limits = limits.into();
        self
    }

    /// Sets metadata of the service, stored with the key.
    pub fn metadata(mut self, metadata: Metadata) -> Self {
        self.metadata = metadata;
        self
    }

    /// Sets the expiry, in whole seconds, instead of the service's default lifetime.
    pub fn expires_at(mut self, at: SystemTime) -> Self {
        self.expires_at = Some(at);
        self
    }

    /// Sets the start of validity, in whole seconds, rounded up so that it is never early.
    ///
    /// Until then the key is refused like an expired one: 401 `invalid_api_key`. It counts towards
    /// the account's limit of active keys all the same. The start must be before the expiry.
    ///
    /// ```
    /// # use std::time::{Duration, SystemTime};
    /// # use keyward::{AccountId, Actor, Environment, KeyAdmin, KeyFormat, KeyScheme, MemoryStore, NewKey};
    /// # use keyward::record::KeyState;
    /// # keyward::testing::block_on(async {
    /// # let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_")?);
    /// # let admin = KeyAdmin::new(&MemoryStore::new(), &scheme);
    /// # let operator = Actor::operator("docs");
    /// # let acme = AccountId::parse("acme")?;
    /// # admin.open_account(&operator, &acme).await?;
    /// let tomorrow = SystemTime::now() + Duration::from_secs(24 * 60 * 60);
    /// let new = NewKey::new(acme, Environment::LIVE, "launch").not_before(tomorrow);
    /// let id = admin.create(&operator, new).await?.record.id;
    /// assert_eq!(admin.key(&operator, id).await?.state, KeyState::NotYetValid);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub fn not_before(mut self, at: SystemTime) -> Self {
        self.not_before = Some(at);
        self
    }

    /// Sets an idempotency token, so that a repeated create returns the same key. See
    /// [`CreatedKey`].
    ///
    /// A repeated create with the same token in the same account returns the key without its
    /// secret. A token has 1 to 128 printable ASCII characters.
    pub fn token(mut self, token: &str) -> Self {
        self.token = Some(token.to_owned());
        self
    }
}

/// A created key and its stored record.
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
    /// The secret, to be shown to its owner once.
    ///
    /// It is `None` if the same token had already created the key.
    pub key: Option<ApiKey>,
    /// The stored record.
    pub record: KeyRecord,
}

/// A change to a key. Whatever is not set stays as it is.
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
#[expect(
    clippy::option_option,
    reason = "`None` keeps the time, `Some(None)` removes it"
)]
pub struct KeyChange {
    pub(crate) name: Option<String>,
    pub(crate) scopes: Option<Scopes>,
    pub(crate) origins: Option<OriginPolicy>,
    pub(crate) origin_exceptions: OriginExceptions,
    pub(crate) addresses: Option<AddressPolicy>,
    pub(crate) rate_limits: Option<RateLimits>,
    pub(crate) metadata: Option<Metadata>,
    pub(crate) not_before: Option<Option<SystemTime>>,
    pub(crate) expires_at: Option<Option<SystemTime>>,
}

impl KeyChange {
    /// Creates an empty change.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the name.
    pub fn name(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// Replaces the scopes. Wider scopes also require
    /// [`Permission::Create`](crate::scope::Permission::Create).
    pub fn scopes(mut self, scopes: Scopes) -> Self {
        self.scopes = Some(scopes);
        self
    }

    /// Replaces the origins. Wider ones also require
    /// [`Permission::Create`](crate::scope::Permission::Create).
    ///
    /// Origins that the key does not have yet must satisfy the rules of [`NewKey::origins`].
    pub fn origins(mut self, origins: OriginPolicy) -> Self {
        self.origins = Some(origins);
        self
    }

    /// Allows `http://` origins in a live key.
    ///
    /// Insecure: an attacker on the network between page and browser can inject a script into such
    /// a page, and with `http://localhost` any program on the visitor's machine can serve one.
    pub fn insecure_http_origins(mut self) -> Self {
        self.origin_exceptions.http = true;
        self
    }

    /// Allows wildcards over a public suffix, such as `*.github.io`.
    ///
    /// Insecure: anyone can publish a page there. Use this only if you own the suffix.
    pub fn insecure_public_suffixes(mut self) -> Self {
        self.origin_exceptions.public_suffixes = true;
        self
    }

    /// Replaces the allowlist of addresses. A wider one also requires
    /// [`Permission::Create`](crate::scope::Permission::Create).
    pub fn addresses(mut self, addresses: AddressPolicy) -> Self {
        self.addresses = Some(addresses);
        self
    }

    /// Replaces the rate limits.
    ///
    /// Raising or removing a limit also requires
    /// [`Permission::Create`](crate::scope::Permission::Create), and limits above the plan's
    /// require [an operator](NewKey::rate_limits). A limit that stays the same keeps its count; a
    /// new one begins with a full bucket.
    pub fn rate_limits(mut self, limits: impl Into<RateLimits>) -> Self {
        self.rate_limits = Some(limits.into());
        self
    }

    /// Replaces the metadata.
    pub fn metadata(mut self, metadata: Metadata) -> Self {
        self.metadata = Some(metadata);
        self
    }

    /// Replaces the start of validity; `None` removes it. See [`NewKey::not_before`].
    ///
    /// An earlier start also requires [`Permission::Create`](crate::scope::Permission::Create).
    pub fn not_before(mut self, at: Option<SystemTime>) -> Self {
        self.not_before = Some(at);
        self
    }

    /// Replaces the expiry, in whole seconds; `None` removes it.
    ///
    /// A later expiry also requires [`Permission::Create`](crate::scope::Permission::Create). It
    /// may be at most [`max_lifetime`](crate::admin::KeyAdmin::max_lifetime) after the creation of
    /// the key, and not after the expiry of an acting key. An expiry in the past is refused:
    /// [revoke](crate::admin::KeyAdmin::revoke) the key instead. An expired key stays expired.
    ///
    /// ```
    /// # use std::time::{Duration, SystemTime};
    /// # use keyward::{AccountId, Actor, Environment, KeyAdmin, KeyFormat, KeyScheme, MemoryStore, NewKey, Permission};
    /// # use keyward::admin::KeyChange;
    /// # use keyward::record::AdminErrorKind;
    /// # keyward::testing::block_on(async {
    /// # let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_")?);
    /// # let admin = KeyAdmin::new(&MemoryStore::new(), &scheme);
    /// # let operator = Actor::operator("docs");
    /// # let acme = AccountId::parse("acme")?;
    /// # let created = admin.bootstrap(&operator, NewKey::new(acme.clone(), Environment::LIVE, "first")).await?;
    /// # let id = created.record.id;
    /// let editor = Actor::user("ann@acme.example", acme, [Permission::Update]);
    /// let in_days = |days: u64| Some(SystemTime::now() + Duration::from_secs(days * 86_400));
    /// admin.update(&editor, id, KeyChange::new().expires_at(in_days(30))).await?;
    ///
    /// let longer = admin.update(&editor, id, KeyChange::new().expires_at(in_days(60))).await;
    /// assert_eq!(longer.unwrap_err().kind(), AdminErrorKind::TooWide); // it takes `Create` too
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub fn expires_at(mut self, at: Option<SystemTime>) -> Self {
        self.expires_at = Some(at);
        self
    }
}

/// A change to an account. Whatever is not set stays as it is.
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
    reason = "`None` keeps the limit, `Some(None)` removes it"
)]
pub struct AccountChange {
    pub(crate) status: Option<AccountStatus>,
    pub(crate) api_access: Option<bool>,
    pub(crate) max_active_keys: Option<Option<u32>>,
    pub(crate) rate_limits: Option<RateLimits>,
    pub(crate) shared_rate_limits: Option<RateLimits>,
}

impl AccountChange {
    /// Creates an empty change.
    pub fn new() -> Self {
        Self::default()
    }

    /// Suspends or reactivates the account: its keys are refused, or accepted again, at once.
    pub fn status(mut self, status: AccountStatus) -> Self {
        self.status = Some(status);
        self
    }

    /// Sets whether the account's plan includes the API. If not, its keys are refused at once.
    pub fn api_access(mut self, included: bool) -> Self {
        self.api_access = Some(included);
        self
    }

    /// Sets the maximum number of active keys; `None` for the service's default.
    pub fn max_active_keys(mut self, bound: Option<u32>) -> Self {
        self.max_active_keys = Some(bound);
        self
    }

    /// Sets the plan's rate limits, which apply to each key without its own.
    ///
    /// If empty, the service's default limits apply.
    pub fn rate_limits(mut self, limits: impl Into<RateLimits>) -> Self {
        self.rate_limits = Some(limits.into());
        self
    }

    /// Sets rate limits shared by all keys of an environment.
    ///
    /// They apply in addition to the limits of each key.
    pub fn shared_rate_limits(mut self, limits: impl Into<RateLimits>) -> Self {
        self.shared_rate_limits = Some(limits.into());
        self
    }
}
