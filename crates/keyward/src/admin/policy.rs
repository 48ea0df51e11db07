//! A service's own rules for new keys.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use crate::admin::{AdminError, KeyAdmin, NewKey};
use crate::record::Account;

/// The future of [`CreatePolicy::check`].
pub type PolicyFuture<'a> = Pin<Box<dyn Future<Output = Result<(), AdminError>> + Send + 'a>>;

/// A service's own rule that decides which keys may be created.
///
/// [`KeyAdmin`] consults it after its own checks, in [`create`](KeyAdmin::create) and
/// [`import`](KeyAdmin::import). An existing key keeps working and can be rotated even if the
/// policy would no longer allow it, and the first key of a service, created by
/// [`bootstrap`](KeyAdmin::bootstrap), is exempt. The crate `keyward-webhooks` has a policy that
/// requires a working endpoint.
///
/// ```
/// # use std::sync::Arc;
/// use keyward::admin::{CreatePolicy, PolicyFuture};
/// use keyward::record::{Account, AdminErrorKind};
/// # use keyward::{AccountId, Actor, Environment, KeyAdmin, KeyFormat, KeyScheme, MemoryStore, NewKey};
///
/// /// Accounts whose plan has a rate limit get live keys, others only test keys.
/// #[derive(Debug)]
/// struct LiveKeysForPlans;
///
/// impl CreatePolicy for LiveKeysForPlans {
///     fn check<'a>(&'a self, account: &'a Account, new: &'a NewKey) -> PolicyFuture<'a> {
///         Box::pin(async move {
///             if new.environment() == Environment::LIVE && account.rate_limits.is_empty() {
///                 return Err(AdminErrorKind::Policy.into());
///             }
///             Ok(())
///         })
///     }
/// }
///
/// # keyward::testing::block_on(async {
/// # let (store, scheme) = (Arc::new(MemoryStore::new()), KeyScheme::new(KeyFormat::new("vhk_{env}_")?));
/// let admin = KeyAdmin::new(&store, &scheme).create_policy(LiveKeysForPlans);
/// # let operator = Actor::operator("docs");
/// # let acme = AccountId::parse("acme")?;
/// # admin.open_account(&operator, &acme).await?;
/// let live = NewKey::new(acme.clone(), Environment::LIVE, "production");
/// let error = admin.create(&operator, live).await.unwrap_err();
/// assert_eq!(error.kind(), AdminErrorKind::Policy);
/// let test = NewKey::new(acme, Environment::TEST, "staging");
/// assert!(admin.create(&operator, test).await.is_ok());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
pub trait CreatePolicy: fmt::Debug + Send + Sync {
    /// Checks whether this key may be created in this account.
    ///
    /// # Errors
    /// Returns [`Policy`](crate::record::AdminErrorKind::Policy) or a more specific kind, if it may
    /// not be created.
    fn check<'a>(&'a self, account: &'a Account, new: &'a NewKey) -> PolicyFuture<'a>;
}

impl KeyAdmin {
    /// Adds a policy. A key is created only if every policy allows it.
    ///
    /// See [`CreatePolicy`] for an example.
    #[must_use]
    pub fn create_policy(mut self, policy: impl CreatePolicy + 'static) -> Self {
        self.policies.push(Arc::new(policy));
        self
    }
}
