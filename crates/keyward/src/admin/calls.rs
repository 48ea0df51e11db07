//! Who may do what: tables of actors, calls and what they touch, from which the tests are made.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use crate::conformance::block_on;
use crate::*;

type Outcome = Result<(), AdminErrorKind>;

/// A service with two accounts.
struct World {
    store: Arc<MemoryStore>,
    admin: KeyAdmin,
    operator: Actor,
}

impl World {
    fn new(catalog: Option<ScopeCatalog>) -> Self {
        let store = Arc::new(MemoryStore::new());
        let admin = KeyAdmin::new(Arc::clone(&store) as _, format());
        let operator = Actor::operator("ops");
        for id in [ACME, OTHER] {
            block_on(admin.open_account(&operator, &account(id))).unwrap();
        }
        let admin = KeyAdmin { catalog, ..admin };
        Self {
            store,
            admin,
            operator,
        }
    }

    /// A key, whatever a catalog or an actor may say to it.
    fn key(&self, owner: &str, environment: Environment, scopes: &[&str]) -> (ApiKey, KeyId) {
        self.key_with(owner, environment, scopes, |_| ())
    }

    fn key_with(
        &self,
        owner: &str,
        environment: Environment,
        scopes: &[&str],
        with: impl FnOnce(&mut KeyRecord),
    ) -> (ApiKey, KeyId) {
        let key = format().generate(environment).unwrap();
        let (digest, hint) = (Peppers::none().digest(&key), key.hint().clone());
        let (id, now) = (KeyId::random().unwrap(), SystemTime::now());
        let mut record = KeyRecord::new(id, digest, hint, account(owner), environment, now);
        record.name = "name".to_owned();
        record.scopes = Scopes::parse(scopes).unwrap();
        with(&mut record);
        let keys = vec![record];
        let commit = Commit {
            keys,
            ..Commit::default()
        };
        block_on(self.store.commit(commit)).unwrap();
        (key, id)
    }

    /// A key that acts, as a gate lets it pass.
    fn acting(&self, key: &ApiKey) -> Actor {
        let gate = Gate::builder(self.store.replica()).format(format());
        let both = [
            KeyLocation::x_api_key(),
            KeyLocation::bearer().publishable(),
        ];
        let gate = both.into_iter().fold(gate, GateBuilder::location);
        let gate = gate.build().unwrap();
        let requirement = Requirement::new().any_environment();
        let requirement = requirement.kinds([KeyKind::Secret, KeyKind::Publishable]);
        let requirement = Arc::new(requirement);
        for (field, scheme) in [("x-api-key", ""), ("authorization", "Bearer ")] {
            let head = Head(field, format!("{scheme}{}", key.expose_secret()));
            if let Decision::Ready(Verdict::Admit(admitted)) = gate.check(&head, &requirement, None)
                && let Some(Access::Principal(principal)) = admitted.access
            {
                return Actor::key(&principal);
            }
        }
        panic!("the key is let in nowhere")
    }
}

struct Head(&'static str, String);

impl RequestHead for Head {
    fn method(&self) -> &'static str {
        "GET"
    }

    fn peer(&self) -> Option<IpAddr> {
        None
    }

    fn values<'a>(&'a self, field: &'a str) -> impl Iterator<Item = &'a [u8]> {
        (field == self.0).then_some(self.1.as_bytes()).into_iter()
    }
}

const ACME: &str = "acme";
const OTHER: &str = "other";

fn account(id: &str) -> AccountId {
    AccountId::parse(id).unwrap()
}

fn format() -> KeyFormat {
    KeyFormat::new("vhk_{env}_").unwrap()
}

fn kind<T>(outcome: Result<T, AdminError>) -> Outcome {
    outcome.map(drop).map_err(|error| error.kind())
}

/// How a key with certain scopes can come to be, to be wider, or to work again.
struct Way {
    name: &'static str,
    /// What an actor has to have for the call itself.
    needs: &'static [Permission],
    /// Whether the scopes are chosen with this call, so that a catalog is asked.
    chooses: bool,
    go: fn(&World, &Actor, &[&str]) -> Outcome,
}

macro_rules! ways {
    ($($name:ident: $needs:expr, $chooses:literal, $go:expr;)+) => {
        mod a_key_hands_on_no_management_scope_that_the_actor_lacks_by {
            use super::*;
            $(#[test]
            fn $name() {
                let name = stringify!($name);
                check(&Way { name, needs: &$needs, chooses: $chooses, go: $go });
            })+
        }
    };
}

ways! {
    create: [Permission::Create], true, |world, actor, scopes| {
        let scopes = Scopes::parse(scopes).unwrap();
        let new = NewKey::new(account(ACME), Environment::LIVE, "new").scopes(scopes);
        kind(block_on(world.admin.create(actor, new)))
    };
    a_repeated_create: [Permission::Create], true, |world, actor, scopes| {
        let scopes = Scopes::parse(scopes).unwrap();
        let new = NewKey::new(account(ACME), Environment::LIVE, "new").scopes(scopes).token("t");
        drop(block_on(world.admin.create(&world.operator, new.clone())));
        kind(block_on(world.admin.create(actor, new)))
    };
    import: [Permission::Create], true, |world, actor, scopes| {
        let scopes = Scopes::parse(scopes).unwrap();
        let new = NewKey::new(account(ACME), Environment::LIVE, "new").scopes(scopes);
        let digest = KeyDigest::import(DigestScheme::Sha256, &"0".repeat(64)).unwrap();
        let hint = Hint::parse("…abcd").unwrap();
        kind(block_on(world.admin.import(actor, new, digest, hint)))
    };
    update: [Permission::Create, Permission::Update], true, |world, actor, scopes| {
        let (_, id) = world.key(ACME, Environment::LIVE, &[]);
        let change = KeyChange::new().scopes(Scopes::parse(scopes).unwrap());
        kind(block_on(world.admin.update(actor, id, change)))
    };
    other_origins: [Permission::Create, Permission::Update], false, |world, actor, scopes| {
        let (_, id) = world.key_with(ACME, Environment::LIVE, scopes, |record| {
            record.origins = OriginPolicy::listed(["shop.example"]).unwrap();
        });
        let change = KeyChange::new().origins(OriginPolicy::Any);
        kind(block_on(world.admin.update(actor, id, change)))
    };
    enable: [Permission::Update], false, |world, actor, scopes| {
        let (_, id) = world.key_with(ACME, Environment::LIVE, scopes, |record| {
            record.status = KeyStatus::Disabled;
            record.disabled_by = Some(DisabledBy::User);
        });
        kind(block_on(world.admin.enable(actor, id)))
    };
    rotate: [Permission::Create, Permission::Revoke], true, |world, actor, scopes| {
        let (_, id) = world.key(ACME, Environment::LIVE, scopes);
        kind(block_on(world.admin.rotate(actor, id, Grace::None)))
    };
}

/// What is handed on, and what an actor has to have for it.
const GRANTS: [(&str, &[Permission]); 8] = [
    ("api_keys.create", &[Permission::Create]),
    ("api_keys.read", &[Permission::Read]),
    ("api_keys.update", &[Permission::Update]),
    ("api_keys.revoke", &[Permission::Revoke]),
    ("webhooks.read", &[Permission::ReadWebhooks]),
    ("webhooks.manage", &[Permission::ManageWebhooks]),
    (
        "api_keys.*",
        &[
            Permission::Create,
            Permission::Read,
            Permission::Update,
            Permission::Revoke,
        ],
    ),
    (
        "webhooks.*",
        &[Permission::ReadWebhooks, Permission::ManageWebhooks],
    ),
];

/// What looks like a scope that manages keys or endpoints, and is none.
const UNKNOWN: [&str; 6] = [
    "api_keys.zzz",
    "api_keys.",
    "api_keys.read.*",
    "api_keys.c:*",
    "webhooks.zzz",
    "webhooks.manage.all",
];

/// Each way, by each actor, for each grant, under each catalog.
fn check(way: &Way) {
    let told = || ScopeCatalog::new(Permission::ALL.map(Permission::as_str)).unwrap();
    let catalogs = [
        ("none", None, true),
        ("one that was told", Some(told()), true),
        ("one key, one scope", Some(told().one_per_key()), true),
        (
            "one that was not",
            Some(ScopeCatalog::new(["kyc"]).unwrap()),
            false,
        ),
    ];
    let one = Permission::ALL.map(|one| vec![one]);
    let more = [vec![], Permission::ALL.to_vec()].into_iter().chain(one);
    let sets: Vec<Vec<_>> = more.map(|more| [way.needs, &more].concat()).collect();
    for (about, catalog, permits) in catalogs {
        for (grant, given) in GRANTS {
            let new = || World::new(catalog.clone());
            let case = format!("{grant} by {}, catalog: {about}", way.name);
            let done = |may| match (may, way.chooses && !permits) {
                (false, _) => Err(AdminErrorKind::TooWide),
                (true, true) => Err(AdminErrorKind::Scopes),
                (true, false) => Ok(()),
            };
            let world = new();
            assert_eq!(
                (way.go)(&world, &world.operator, &[grant]),
                done(true),
                "operator: {case}"
            );
            for held in &sets {
                let may = given.iter().all(|given| held.contains(given));
                let world = new();
                let user = Actor::user("ann", account(ACME), held.iter().copied());
                assert_eq!(
                    (way.go)(&world, &user, &[grant]),
                    done(may),
                    "user, {held:?}: {case}"
                );

                // A key hands on a wildcard only where it has one itself: later there may be more scopes.
                let mut scopes: Vec<_> = held.iter().map(|own| own.as_str()).collect();
                let all = held.len() > Permission::ALL.len();
                scopes.extend(
                    all.then_some(["api_keys.*", "webhooks.*"])
                        .into_iter()
                        .flatten(),
                );
                let world = new();
                let key = world.acting(&world.key(ACME, Environment::LIVE, &scopes).0);
                let may = may && (all || !grant.ends_with('*'));
                assert_eq!(
                    (way.go)(&world, &key, &[grant]),
                    done(may),
                    "key, {held:?}: {case}"
                );
            }
        }
        for grant in UNKNOWN.iter().filter(|_| way.chooses) {
            let case = format!("{grant} by {}, catalog: {about}", way.name);
            let refused = Err(AdminErrorKind::Scopes);
            let world = World::new(catalog.clone());
            let user = Actor::user("ann", account(ACME), Permission::ALL);
            for actor in [&world.operator, &user] {
                assert_eq!(
                    (way.go)(&world, actor, &[grant]),
                    refused,
                    "{}: {case}",
                    actor.name()
                );
            }
            // Also by one that has got it from an earlier version.
            let scopes = ["api_keys.*", "webhooks.*", grant];
            let key = world.acting(&world.key(ACME, Environment::LIVE, &scopes).0);
            assert_eq!((way.go)(&world, &key, &[grant]), refused, "key: {case}");
        }
    }
}

#[test]
fn what_a_scope_implies_is_not_handed_on() {
    let all = Permission::ALL.map(Permission::as_str);
    let catalog = ScopeCatalog::new(all).unwrap();
    let catalog = catalog.implying("admin", all).unwrap();
    let world = World::new(Some(catalog));
    let scopes = ["admin", "api_keys.create", "api_keys.update"];
    let (key, id) = world.key(ACME, Environment::LIVE, &scopes);
    let actor = world.acting(&key);
    let read = || Scopes::parse(["api_keys.read"]).unwrap();
    let new = NewKey::new(account(ACME), Environment::LIVE, "new").scopes(read());
    let too_wide = Err(AdminErrorKind::TooWide);
    assert_eq!(kind(block_on(world.admin.create(&actor, new))), too_wide);
    // Nor is it no widening where a key only swaps it for what it implies.
    let editor = Actor::user("bob", account(ACME), [Permission::Update]);
    for actor in [&actor, &editor] {
        let change = KeyChange::new().scopes(read());
        let updated = block_on(world.admin.update(actor, id, change));
        assert_eq!(kind(updated), too_wide, "{}", actor.name());
    }
}

#[test]
fn a_key_that_may_manage_is_narrowed_and_renamed_by_who_may_update() {
    let world = World::new(None);
    let (_, id) = world.key(ACME, Environment::LIVE, &["api_keys.*", "webhooks.*"]);
    let editor = Actor::user(
        "bob",
        account(ACME),
        [Permission::Update, Permission::Create],
    );
    let update = |change| kind(block_on(world.admin.update(&editor, id, change)));
    let narrower = Scopes::parse(["api_keys.read", "webhooks.*"]).unwrap();
    assert_eq!(update(KeyChange::new().name("renamed")), Ok(()));
    assert_eq!(update(KeyChange::new().scopes(narrower)), Ok(()));
    let wider = Scopes::parse(["api_keys.read", "api_keys.revoke", "webhooks.*"]).unwrap();
    let wider = update(KeyChange::new().scopes(wider));
    assert_eq!(wider, Err(AdminErrorKind::TooWide));
}

#[test]
fn an_unknown_management_scope_is_in_no_catalog_and_no_first_key() {
    for unknown in UNKNOWN
        .into_iter()
        .filter(|unknown| !unknown.ends_with('*'))
    {
        assert!(ScopeCatalog::new(["kyc", unknown]).is_err(), "{unknown}");
        let catalog = ScopeCatalog::new(["kyc"]).unwrap();
        assert!(catalog.implying(unknown, ["kyc"]).is_err(), "{unknown}");
    }
    let admin = KeyAdmin::new(Arc::new(MemoryStore::new()), format());
    let first = |scope: &str| {
        let new = NewKey::new(account(ACME), Environment::LIVE, "first");
        let new = new.scopes(Scopes::parse([scope]).unwrap());
        kind(block_on(admin.bootstrap(&Actor::operator("ops"), new)))
    };
    assert_eq!(first("api_keys.zzz"), Err(AdminErrorKind::Scopes));
    assert_eq!(first("api_keys.*"), Ok(()));
}

/// Who disables a key, with what it keeps, and who then may enable it.
#[test]
fn what_an_operator_disables_only_an_operator_enables() {
    let scopes = ["api_keys.*", "webhooks.*"];
    let actors = |world: &World| {
        [
            (world.operator.clone(), DisabledBy::Operator),
            (
                Actor::user("ann", account(ACME), Permission::ALL),
                DisabledBy::User,
            ),
            (
                world.acting(&world.key(ACME, Environment::LIVE, &scopes).0),
                DisabledBy::Key,
            ),
        ]
    };
    for by in 0..3 {
        for (again, and) in [
            (None, "once"),
            (Some(0), "an operator too"),
            (Some(1), "a user too"),
        ] {
            for enables in 0..3 {
                let world = World::new(None);
                let actors = actors(&world);
                let (_, id) = world.key(ACME, Environment::LIVE, &[]);
                let admin = &world.admin;
                let disabled = block_on(admin.disable(&actors[by].0, id)).unwrap();
                assert_eq!(disabled.record.disabled_by, Some(actors[by].1));
                if let Some(again) = again {
                    block_on(admin.disable(&actors[again].0, id)).unwrap();
                }
                // A rotation is no way round it.
                let rotated = block_on(admin.rotate(&actors[enables].0, id, Grace::None)).unwrap();
                let successor = rotated.record;
                assert_eq!(successor.status, KeyStatus::Disabled);
                let by_operator = by == 0 || again == Some(0);
                let wanted = if by_operator && enables != 0 {
                    Err(AdminErrorKind::NotPermitted)
                } else {
                    Ok(())
                };
                let who = format!("{:?}, {and}, then {:?}", actors[by].1, actors[enables].1);
                let enabled = block_on(admin.enable(&actors[enables].0, successor.id));
                if let Ok(view) = &enabled {
                    assert_eq!(
                        (view.state, view.record.disabled_by),
                        (KeyState::Active, None)
                    );
                }
                assert_eq!(kind(enabled), wanted, "{who}");
            }
        }
    }
}
