//! Who calls.

use std::fmt;
use std::sync::Arc;

use crate::environment::Environment;
use crate::gate::charging::Cost;
use crate::ids::{AccountId, KeyId};
use crate::key::{Hint, KeyKind};
use crate::limit::Quota;
use crate::replica::cached_key::CachedKey;
use crate::scope::{Scope, Scopes};

/// The gate of a principal that no gate has let in, as gates are numbered from one.
#[cfg(feature = "testing")]
pub(crate) const NO_GATE: u64 = 0;

/// Who calls: what a handler gets of a key that has passed.
///
/// It cannot yield the secret. A clone is one reference more to the same memory.
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
    /// The gate that let it pass.
    pub(crate) gate: u64,
    /// Where the key stood, as an index into the gate's locations.
    pub(crate) location: usize,
    pub(crate) paid: Cost,
    pub(crate) quota: Option<Quota>,
}

impl Principal {
    /// The key's public name.
    #[must_use]
    pub fn key_id(&self) -> KeyId {
        self.entry.id
    }

    /// What may be shown of the key.
    #[must_use]
    pub fn hint(&self) -> Hint {
        self.entry.hint()
    }

    /// Who owns the key.
    #[must_use]
    pub fn account(&self) -> &AccountId {
        &self.entry.account_state.account
    }

    /// The world the key acts in.
    #[must_use]
    pub fn environment(&self) -> Environment {
        self.entry.account_state.environment
    }

    /// Where the key may live.
    #[must_use]
    pub fn kind(&self) -> KeyKind {
        self.entry.kind
    }

    /// What the key was granted.
    #[must_use]
    pub fn scopes(&self) -> &Scopes {
        &self.entry.grant.scopes
    }

    /// What is left of the limit that binds most; `None` where there is no limit.
    #[must_use]
    pub fn quota(&self) -> Option<Quota> {
        self.quota
    }

    /// Records units of whatever the service sells, such as pages or minutes, for the key and hour.
    ///
    /// They are kept beside the count of requests, and only those of live keys are
    /// [billable](crate::replica::UsageHour::billable_units).
    pub fn record(&self, units: u64) {
        if let Some(usage_counter) = self.entry.usage_counter() {
            usage_counter.record(units);
        }
    }

    /// Whether the key was granted this scope, by name or wildcard.
    ///
    /// A catalog's implications are the gate's to know.
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
