//! The authenticated caller.

use std::fmt;
use std::sync::Arc;

use crate::environment::Environment;
use crate::gate::charging::Cost;
use crate::ids::{AccountId, KeyId};
use crate::key::{Hint, KeyKind};
use crate::limit::Quota;
use crate::replica::cached_key::CachedKey;
use crate::scope::{Scope, Scopes};

/// The gate id of a principal that no gate has admitted.
#[cfg(feature = "testing")]
pub(crate) const NO_GATE: u64 = 0;

/// The authenticated caller: what a handler receives of an admitted key.
///
/// It does not contain the secret. Clones are cheap and share the same memory.
///
/// ```
/// # use keyward::Environment;
/// # use keyward::scope::Scope;
/// # use keyward::testing::World;
/// # let world = World::new();
/// # let secret = world.key("kyc");
/// # let principal = world.principal(&secret);
/// assert_eq!(principal.account().as_str(), "acme");
/// assert_eq!(principal.environment(), Environment::LIVE);
/// assert!(principal.holds(&Scope::parse("kyc")?));
/// assert!(!format!("{principal:?}").contains(&secret));
/// # Ok::<(), keyward::error::ParseError>(())
/// ```
#[derive(Clone)]
pub struct Principal {
    pub(crate) entry: Arc<CachedKey>,
    /// The gate that admitted it.
    pub(crate) gate: u64,
    /// The location of the key, as an index into the gate's locations.
    pub(crate) location: usize,
    pub(crate) paid: Cost,
    pub(crate) quota: Option<Quota>,
}

impl Principal {
    /// Returns the key's public id.
    #[must_use]
    pub fn key_id(&self) -> KeyId {
        self.entry.id
    }

    /// Returns the part of the key that may be displayed.
    #[must_use]
    pub fn hint(&self) -> Hint {
        self.entry.hint()
    }

    /// Returns the account that owns the key.
    #[must_use]
    pub fn account(&self) -> &AccountId {
        &self.entry.account_state.account
    }

    /// Returns the environment of the key.
    #[must_use]
    pub fn environment(&self) -> Environment {
        self.entry.account_state.environment
    }

    /// Returns the kind of the key.
    #[must_use]
    pub fn kind(&self) -> KeyKind {
        self.entry.kind
    }

    /// Returns the scopes granted to the key.
    #[must_use]
    pub fn scopes(&self) -> &Scopes {
        &self.entry.grant.scopes
    }

    /// Returns the quota of the limit that is closest to being exceeded; `None` without limits.
    #[must_use]
    pub fn quota(&self) -> Option<Quota> {
        self.quota
    }

    /// Records units of usage (metering), such as pages or minutes, for the key and hour.
    ///
    /// They are kept in addition to the count of requests, and only those of live keys are
    /// [billable](crate::replica::UsageHour::billable_units).
    pub fn record(&self, units: u64) {
        if let Some(usage_counter) = self.entry.usage_counter() {
            usage_counter.record(units);
        }
    }

    /// Returns whether the key was granted this scope, by name or wildcard.
    ///
    /// Implications of a catalog are not considered; only the gate knows them.
    #[must_use]
    pub fn holds(&self, scope: &Scope) -> bool {
        self.entry.grant.scopes.allow(scope)
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Principal")
            .field("key_id", &self.key_id())
            .field("hint", &self.hint())
            .field("account", self.account())
            .field("environment", &self.environment())
            .field("kind", &self.kind())
            .field("scopes", self.scopes())
            .finish()
    }
}
