//! A service whose keys are in memory.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::admin::{Actor, CreatedKey, KeyAdmin, NewKey};
use crate::clock::{ManualClock, unix_time};
use crate::environment::Environment;
use crate::gate::{Access, Admitted, Gate, GateBuilder, Principal, Requirement, Verdict};
use crate::ids::AccountId;
use crate::key::KeyFormat;
use crate::request::RequestHead;
use crate::scheme::KeyScheme;
use crate::scope::Scopes;
use crate::store::MemoryStore;
use crate::testing::{TestRequest, block_on, decided};

/// A service in memory: a store, a gate and an admin, and the account `acme`.
///
/// Its keys look like `vhk_live_…`. Its clock stands still until a test
/// [advances](crate::clock::ManualClock::advance) it, so nothing expires, and no rate limit refills, unless
/// the test says so. A clone is the same service.
///
/// ```
/// use std::time::Duration;
/// use keyward::{RateLimit, Requirement};
/// use keyward::testing::{TestRequest, World};
///
/// let world = World::new();
/// let created = world.create(world.new_key().rate_limits(RateLimit::per_minute(1)));
/// let request = TestRequest::get().key(created.key.unwrap().expose_secret());
/// assert_eq!(world.status(&request, Requirement::new()), 200);
/// assert_eq!(world.status(&request, Requirement::new()), 429);
/// world.clock().advance(Duration::from_secs(60));
/// assert_eq!(world.status(&request, Requirement::new()), 200);
/// ```
#[derive(Clone, Debug)]
pub struct World {
    clock: Arc<ManualClock>,
    store: MemoryStore,
    scheme: KeyScheme,
    gate: Gate,
    admin: KeyAdmin,
}

impl World {
    /// Creates a service that has the account `acme` and no keys.
    ///
    /// # Panics
    /// If the operating system returns no random bytes.
    #[must_use]
    pub fn new() -> Self {
        Self::with_scheme(KeyScheme::new(KeyFormat::new("vhk_{env}_").unwrap()))
    }

    /// Creates the same with the key formats, peppers and scopes of a service.
    ///
    /// ```
    /// use keyward::{KeyFormat, KeyScheme};
    /// use keyward::testing::World;
    ///
    /// let world = World::with_scheme(KeyScheme::new(KeyFormat::new("acme_")?));
    /// assert!(world.key("kyc").starts_with("acme_"));
    /// # Ok::<(), keyward::error::ParseError>(())
    /// ```
    ///
    /// # Panics
    /// If the operating system returns no random bytes.
    #[must_use]
    pub fn with_scheme(scheme: KeyScheme) -> Self {
        let clock = Arc::new(ManualClock::at(unix_time(SystemTime::now())));
        let store = MemoryStore::with_clock(Arc::<ManualClock>::clone(&clock));
        let admin = KeyAdmin::new(&store, &scheme);
        let gate = builder(&store, &scheme).build().unwrap();
        let world = Self {
            clock,
            store,
            scheme,
            gate,
            admin,
        };
        block_on(world.admin.open_account(&world.operator(), &acme())).unwrap();
        world
    }

    /// Creates a live key of `acme` and returns its secret.
    ///
    /// `scopes` is a list separated by spaces, which may be empty.
    ///
    /// ```
    /// let secret = keyward::testing::World::new().key("kyc reports.*");
    /// assert!(secret.starts_with("vhk_live_"));
    /// ```
    ///
    /// # Panics
    /// If a scope is not valid.
    #[must_use]
    #[track_caller]
    pub fn key(&self, scopes: &str) -> String {
        let scopes = Scopes::parse(scopes.split_whitespace()).unwrap();
        let key = self.create(self.new_key().scopes(scopes)).key.unwrap();
        key.expose_secret().to_owned()
    }

    /// Starts a live key of `acme`, for [`create`](Self::create).
    pub fn new_key(&self) -> NewKey {
        NewKey::new(acme(), Environment::LIVE, "test")
    }

    /// Creates a key.
    ///
    /// ```
    /// use keyward::KeyKind;
    ///
    /// let world = keyward::testing::World::new();
    /// let created = world.create(world.new_key().kind(KeyKind::Publishable));
    /// assert_eq!(created.record.kind, KeyKind::Publishable);
    /// ```
    ///
    /// # Panics
    /// If the key cannot be created: for example, if its account is neither `acme` nor open.
    #[must_use]
    #[track_caller]
    pub fn create(&self, new: NewKey) -> CreatedKey {
        block_on(self.admin.create(&self.operator(), new)).unwrap()
    }

    /// Returns the verdict of the gate about a request, on a route with this requirement.
    ///
    /// ```
    /// # use keyward::Requirement;
    /// # use keyward::gate::Verdict;
    /// # use keyward::testing::{TestRequest, World};
    /// let verdict = World::new().verdict(&TestRequest::get(), Requirement::new());
    /// let Verdict::Refuse(refusal) = verdict else { panic!("{verdict:?}") };
    /// assert_eq!(refusal.reply.status(), 401);
    /// ```
    #[must_use]
    pub fn verdict(&self, request: &impl RequestHead, requirement: Requirement) -> Verdict {
        decided(self.gate.check(request, &Arc::new(requirement), None))
    }

    /// Returns the status of the response to a request, which is 200 for one that passes.
    #[must_use]
    pub fn status(&self, request: &impl RequestHead, requirement: Requirement) -> u16 {
        match self.verdict(request, requirement) {
            Verdict::Admit(_) => 200,
            Verdict::Refuse(refusal) => refusal.reply.status(),
        }
    }

    /// Returns the principal of a request with this key.
    ///
    /// It is one that the gate has admitted, such as [`Actor::key`] wants. For the unit test of a handler, use
    /// [`testing::principal`](crate::testing::principal).
    ///
    /// ```
    /// let world = keyward::testing::World::new();
    /// let principal = world.principal(&world.key("kyc"));
    /// assert!(world.gate().is_alive(&principal));
    /// ```
    ///
    /// # Panics
    /// If the gate refuses the key.
    #[must_use]
    #[track_caller]
    pub fn principal(&self, secret: &str) -> Principal {
        let requirement = Requirement::new().any_environment();
        match self.verdict(&TestRequest::get().key(secret), requirement) {
            Verdict::Admit(Admitted {
                access: Some(Access::Principal(principal)),
                ..
            }) => principal,
            other => panic!("{other:?}"),
        }
    }

    /// Returns the gate, which has only the defaults.
    #[must_use]
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Starts another gate over the same keys.
    ///
    /// ```
    /// let gate = keyward::testing::World::new().builder().realm("acme").build()?;
    /// # Ok::<(), keyward::gate::GateError>(())
    /// ```
    pub fn builder(&self) -> GateBuilder {
        builder(&self.store, &self.scheme)
    }

    /// Returns the admin, by which keys are changed and revoked.
    ///
    /// ```
    /// use keyward::Requirement;
    /// use keyward::testing::{TestRequest, World, block_on};
    ///
    /// let world = World::new();
    /// let secret = world.key("");
    /// let id = world.principal(&secret).key_id();
    /// block_on(world.admin().revoke(&world.operator(), id, "leaked"))?;
    /// assert_eq!(world.status(&TestRequest::get().key(&secret), Requirement::new()), 401);
    /// # Ok::<(), keyward::admin::AdminError>(())
    /// ```
    #[must_use]
    pub fn admin(&self) -> &KeyAdmin {
        &self.admin
    }

    /// Returns an actor who may do anything.
    #[must_use]
    pub fn operator(&self) -> Actor {
        Actor::operator("test")
    }

    /// Returns the formats, peppers and scopes of the keys, for a gate or an admin of a test's own.
    pub fn scheme(&self) -> &KeyScheme {
        &self.scheme
    }

    /// Returns the store.
    #[must_use]
    pub fn store(&self) -> &MemoryStore {
        &self.store
    }

    /// Returns the clock of the store and the gate.
    #[must_use]
    pub fn clock(&self) -> &ManualClock {
        &self.clock
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

fn acme() -> AccountId {
    AccountId::parse("acme").unwrap()
}

fn builder(store: &MemoryStore, scheme: &KeyScheme) -> GateBuilder {
    Gate::builder(store, scheme).max_staleness(Duration::MAX)
}
