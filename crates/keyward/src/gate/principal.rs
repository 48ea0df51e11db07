//! The authenticated caller.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use crate::environment::Environment;
use crate::gate::charging::Cost;
use crate::gate::labelled::RequestLabel;
use crate::gate::refund::RefundFlag;
use crate::ids::{AccountId, KeyId};
use crate::key::{Hint, KeyKind};
use crate::limit::Quota;
use crate::record::Metadata;
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
    /// Refunds the credits of the request, if it has paid any.
    pub(crate) refund: Option<RefundFlag>,
    /// The label of the request, if a layer has one.
    pub(crate) label: Option<Arc<RequestLabel>>,
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

    /// Returns the expiry of the key, in whole seconds; `None` if it does not expire.
    ///
    /// It is the expiry at the time of the request, and `None` also for a date after 2105.
    ///
    /// ```
    /// use std::time::{Duration, SystemTime};
    /// use keyward::testing;
    ///
    /// let at = SystemTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000);
    /// let caller = testing::principal("acme").expires_at(at).build();
    /// assert_eq!(caller.expires_at(), Some(at));
    /// ```
    #[must_use]
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.entry.expires_at()
    }

    /// Returns the name of the key, if the store [holds details](crate::replica::Replica::hold_details).
    ///
    /// `None` means that names are not held in memory, not that the key has none.
    ///
    /// ```
    /// use keyward::testing;
    ///
    /// let caller = testing::principal("acme").name("nightly build").build();
    /// assert_eq!(caller.name(), Some("nightly build"));
    /// assert_eq!(testing::principal("acme").build().name(), None);
    /// ```
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        let details = self.entry.grant.details.as_ref()?;
        Some(&details.name)
    }

    /// Returns the metadata of the key, if the store [holds details](crate::replica::Replica::hold_details).
    ///
    /// `None` means that metadata is not held in memory. Read it with [`Metadata::read`]; a change by
    /// [`KeyAdmin::update`](crate::KeyAdmin::update) is seen by the next request.
    ///
    /// ```
    /// use keyward::record::Metadata;
    /// use keyward::testing;
    ///
    /// let metadata = Metadata::parse(r#"{"team":"billing"}"#)?;
    /// let caller = testing::principal("acme").metadata(metadata).build();
    /// assert_eq!(caller.metadata().unwrap().as_str(), r#"{"team":"billing"}"#);
    /// # Ok::<(), keyward::error::ParseError>(())
    /// ```
    #[must_use]
    pub fn metadata(&self) -> Option<&Metadata> {
        let details = self.entry.grant.details.as_ref()?;
        Some(&details.metadata)
    }

    /// Returns the name of the actor that created the key, if the store [holds
    /// details](crate::replica::Replica::hold_details).
    ///
    /// `None` also if the record does not name it; see
    /// [`KeyRecord::created_by`](crate::record::KeyRecord::created_by).
    ///
    /// ```
    /// use keyward::testing;
    ///
    /// let caller = testing::principal("acme").created_by("ann@acme.example").build();
    /// assert_eq!(caller.created_by(), Some("ann@acme.example"));
    /// ```
    #[must_use]
    pub fn created_by(&self) -> Option<&str> {
        self.entry.grant.details.as_ref()?.created_by.as_deref()
    }

    /// Returns the quota of the limit that is closest to being exceeded; `None` without limits.
    #[must_use]
    pub fn quota(&self) -> Option<Quota> {
        self.quota
    }

    /// Records units of usage (metering), such as pages or minutes, for the key and hour.
    ///
    /// They also count under the [label](crate::gate::Requirement::label) of the request.
    ///
    /// They are kept in addition to the count of requests, and only those of live keys are
    /// [billable](crate::usage::KeyUsage::billable_units).
    pub fn record(&self, units: u64) {
        if let Some(usage_counter) = self.entry.usage_counter() {
            usage_counter.record(units);
        }
        if let Some(label) = &self.label {
            label.record(units);
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

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use crate::admin::KeyChange;
    use crate::clock::Clock;
    use crate::record::Metadata;
    use crate::store::Store;
    use crate::testing::{World, block_on};

    #[test]
    fn a_principal_knows_its_expiry_and_no_details_unless_they_are_held() {
        let world = World::new();
        let at = SystemTime::UNIX_EPOCH + world.clock().unix() + Duration::from_millis(60_999);
        let created = world.create(world.new_key().expires_at(at));
        let principal = world.principal(created.key.unwrap().expose_secret());
        assert_eq!(principal.expires_at(), created.record.expires_at);
        assert!(principal.expires_at().is_some());
        assert_eq!((principal.name(), principal.metadata()), (None, None));
        assert_eq!(principal.created_by(), None);
        assert_eq!(world.principal(&world.key("")).expires_at(), None);
    }

    #[test]
    fn the_next_request_sees_a_change_of_the_details() {
        let world = World::new();
        world.store().replica().hold_details();
        let created = world.create(world.new_key());
        let secret = created.key.unwrap().expose_secret().to_owned();
        let before = world.principal(&secret);
        let metadata = Metadata::parse(r#"{"team":"billing"}"#).unwrap();
        let change = KeyChange::new().name("nightly").metadata(metadata.clone());
        let id = created.record.id;
        block_on(world.admin().update(&world.operator(), id, change)).unwrap();
        let after = world.principal(&secret);
        assert_eq!(after.name(), Some("nightly"));
        assert_eq!(after.metadata(), Some(&metadata));
        assert_eq!(after.created_by(), created.record.created_by.as_deref());
        assert!(after.created_by().is_some());
        assert_eq!(
            before.name(),
            Some("test"),
            "of the request that passed before"
        );
        // Another key with the same permissions has its own.
        assert_eq!(world.principal(&world.key("")).name(), Some("test"));
    }
}
