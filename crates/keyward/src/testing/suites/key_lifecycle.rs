//! The test suite of `KeyAdmin`, over any store.

use std::fmt;
use std::future::ready;
use std::mem;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use sha2::{Digest, Sha256, Sha512};

use crate::address::AddressPolicy;
use crate::admin::{
    AccountChange, Actor, AdminError, BulkMode, CreatedKey, Grace, KeyAdmin, KeyChange, KeyFilter,
    NewKey,
};
use crate::clock::{Clock, ManualClock};
use crate::credits::{CreditOwner, Credits};
use crate::denial::DenialKind;
use crate::environment::Environment;
use crate::error::ParseErrorKind;
use crate::gate::{Access, Admitted, Decision, Gate, Principal, Requirement, Verdict};
use crate::ids::{AccountId, KeyId};
use crate::key::{
    ApiKey, DigestScheme, ForeignFormat, Hint, KeyDigest, KeyFormat, KeyKind, Pepper, Peppers,
};
use crate::limit::{RateLimit, RateLimits};
use crate::origin::OriginPolicy;
use crate::record::{
    Account, AccountStatus, AdminErrorKind, AuditAction, AuditEntry, KeyRecord, KeyState, Metadata,
};
use crate::replica::Replica;
use crate::request::KeyLocation;
use crate::scheme::KeyScheme;
use crate::scope::{Permission, ScopeCatalog, Scopes};
use crate::store::{
    AccountQuery, AuditQuery, Commit, KeyCursor, KeyQuery, Store, StoreError, StoreFuture,
};
use crate::testing::suites::Open;
use crate::testing::{TestRequest, block_on};
use crate::usage::{KeyUsage, UsageQuery};

/// Tests the life of keys over a store: creation, permissions, changes, rotation, revocation, the audit log.
///
/// `open` opens a new, empty store on this clock, each time that it is called. The macro
/// [`suites!`](crate::testing::suites!) makes each promise a test of its own.
///
/// ```
/// use keyward::{MemoryStore, testing};
///
/// testing::suites::key_lifecycle(MemoryStore::with_clock);
/// ```
///
/// # Panics
/// If the store breaks a promise.
pub fn key_lifecycle<S: Store>(open: impl Fn(Arc<dyn Clock>) -> S) {
    let open: Open<'_> = &|clock| Arc::new(open(clock));
    crate::__key_lifecycle_promises!(__run_promises open);
}

#[doc(hidden)]
#[macro_export]
macro_rules! __key_lifecycle_promises {
    ($then:ident $($with:tt)*) => {
        $crate::$then! { [$($with)*] key_lifecycle
            a_created_key_works_and_is_shown_once
            a_name_is_required_and_bounded
            what_is_kept_holds_no_key
            a_repeated_create_gives_the_same_key_without_its_secret
            of_200_creates_at_once_at_the_limit_minus_one_exactly_one_passes
            each_kind_of_key_keeps_its_own_format
            the_catalog_rules_new_and_changed_keys
            a_user_does_what_it_may_and_nothing_else
            another_accounts_key_answers_like_an_unknown_one
            only_an_operator_acts_on_accounts_and_reads_the_whole_trail
            a_key_acts_by_its_own_scopes_while_it_lives
            origins_that_would_let_anybody_in_are_refused_unless_they_are_named
            a_key_hands_on_at_most_what_it_holds
            a_key_with_a_balance_of_its_own_takes_no_other_over
            an_update_widens_only_for_who_may_create
            the_first_key_comes_from_one_explicit_call
            pages_go_on_where_they_ended_and_show_revoked_keys
            a_key_is_switched_off_and_on_and_revoked_for_good
            revoke_all_ends_an_environment_or_all_and_no_key_slips_through
            a_suspended_or_downgraded_account_refuses_its_keys_until_it_is_lifted
            a_successor_can_do_the_same_and_the_old_key_dies_when_told
            a_grace_is_never_shorter_than_promised
            a_grace_never_extends_a_life
            of_100_rotations_at_once_one_wins
            a_full_account_can_still_rotate_once
            an_expiry_is_ahead_and_within_the_services_bounds
            every_call_leaves_a_line_and_a_refused_one_too
            who_has_no_permission_leaves_no_line_however_often_it_calls
            of_an_actor_twenty_refused_calls_an_hour_are_listed_and_how_many_followed
            a_request_past_the_gate_may_finish
            a_leak_is_found_in_a_text_and_told_apart
            a_leak_is_told_once_with_its_first_places
            keys_made_elsewhere_work_and_are_digested_anew_at_their_first_use
            a_row_of_plain_sha256_is_imported_with_one_call_whatever_peppers_there_are
            a_key_of_the_service_itself_is_not_found_under_a_digest_without_its_pepper
            a_key_that_died_with_all_others_is_not_switched_or_changed
            a_key_that_acts_keeps_to_its_environment_and_opens_nothing_wider
            a_token_is_for_one_key_and_no_other
            a_successor_keeps_to_the_services_bounds
            a_successor_is_of_the_present_epoch_and_as_disabled_as_the_old_key
            metadata_holds_no_key_however_it_is_written
            usage_that_is_switched_off_is_not_counted
            a_request_that_is_refused_further_inside_counts_as_refused
            a_key_that_dies_while_it_acts_has_done_nothing
            a_publishable_key_manages_nothing_whatever_its_scopes
            an_imported_key_counts_as_one_more
            a_key_that_rotates_gives_no_longer_life_than_its_own
            a_refused_revocation_keeps_no_reason
            a_list_tells_all_there_is_to_tell_and_shows_traffic_move
            neither_a_revoked_nor_an_expired_key_is_rotated
            metadata_is_a_bounded_json_object
        }
    };
}

/// The promises, one by one.
pub mod promises {
    crate::__key_lifecycle_promises!(__publish_promises);
}

const NOW: Duration = Duration::from_secs(1_700_000_000);

/// A service and its actors.
pub(super) struct World {
    pub(super) clock: Arc<ManualClock>,
    pub(super) store: Arc<dyn Store>,
    pub(super) admin: KeyAdmin,
    pub(super) acme: AccountId,
    pub(super) user: Actor,
}

impl World {
    /// A service with two accounts.
    pub(super) fn new(open: Open<'_>) -> Self {
        let world = Self::empty(open);
        for id in ["acme", "other"] {
            let id = AccountId::parse(id).unwrap();
            block_on(world.admin.open_account(&operator(), &id)).unwrap();
        }
        world
    }

    fn empty(open: Open<'_>) -> Self {
        let clock = Arc::new(ManualClock::at(NOW));
        let store = open(Arc::<ManualClock>::clone(&clock));
        let admin = KeyAdmin::new(&store, &scheme());
        let acme = AccountId::parse("acme").unwrap();
        let user = Actor::user("ann", acme.clone(), Permission::ALL);
        Self {
            clock,
            store,
            admin,
            acme,
            user,
        }
    }

    pub(super) fn new_key(&self) -> NewKey {
        NewKey::new(self.acme.clone(), Environment::LIVE, "name")
    }

    pub(super) fn create(&self, new: NewKey) -> CreatedKey {
        block_on(self.admin.create(&self.user, new)).unwrap()
    }

    /// Sets the plan's limits of the account.
    fn plan(&self, limit: RateLimit) {
        let change = AccountChange::new().rate_limits(limit);
        block_on(self.admin.update_account(&operator(), &self.acme, change)).unwrap();
    }

    /// Returns the verdict of a gate on a key, for a route without requirements.
    pub(super) fn ask(&self, key: &ApiKey) -> Result<Principal, DenialKind> {
        let gate = Gate::builder(&self.store, &scheme())
            .max_staleness(Duration::MAX)
            .build()
            .unwrap();
        let requirement = Arc::new(Requirement::new().any_environment());
        match gate.check(
            &TestRequest::get()
                .key(key.expose_secret())
                .peer([10, 0, 0, 7]),
            &requirement,
            None,
        ) {
            Decision::Ready(Verdict::Admit(Admitted {
                access: Some(Access::Principal(principal)),
                ..
            })) => Ok(principal),
            Decision::Ready(Verdict::Refuse(refusal)) => Err(refusal.denial.unwrap().kind()),
            other => panic!("{other:?}"),
        }
    }

    /// Creates a key that acts, with these scopes and further changes.
    pub(super) fn acting(&self, scopes: &[&str], more: impl FnOnce(NewKey) -> NewKey) -> Actor {
        let new = more(self.new_key().scopes(Scopes::parse(scopes).unwrap()));
        Actor::key(&self.ask(&self.create(new).key.unwrap()).unwrap())
    }

    pub(super) fn after(&self, seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.store.replica().clock().unix() + Duration::from_secs(seconds)
    }

    pub(super) fn last_line(&self) -> AuditEntry {
        block_on(self.store.audit(AuditQuery::newest(1)))
            .unwrap()
            .remove(0)
    }
}

fn format() -> KeyFormat {
    KeyFormat::new("vhk_{env}_").unwrap()
}

pub(super) fn scheme() -> KeyScheme {
    KeyScheme::new(format())
}

pub(super) fn error_of<T>(outcome: Result<T, AdminError>) -> AdminErrorKind {
    outcome.map(drop).unwrap_err().kind()
}

pub(super) fn operator() -> Actor {
    Actor::operator("ops")
}

pub(super) fn user(account: &str, permissions: &[Permission]) -> Actor {
    Actor::user(
        "bob",
        AccountId::parse(account).unwrap(),
        permissions.iter().copied(),
    )
}

fn a_created_key_works_and_is_shown_once(open: Open<'_>) {
    let world = World::new(open);
    let created = world.create(world.new_key());
    let key = created.key.unwrap();
    world.ask(&key).unwrap();
    let view = block_on(world.admin.key(&world.user, created.record.id)).unwrap();
    assert_eq!(
        (view.state, view.record.name.as_str()),
        (KeyState::Active, "name")
    );
    assert!(!format!("{view:?}").contains(&key.expose_secret()[9..]));
    assert_eq!(view.last_used_at, Some(SystemTime::UNIX_EPOCH + NOW));
}

fn a_name_is_required_and_bounded(open: Open<'_>) {
    let world = World::new(open);
    for bad in ["", "   ", "a\nb", "a\u{7f}", &"x".repeat(101)] {
        let new = NewKey::new(world.acme.clone(), Environment::LIVE, bad);
        let error = error_of(block_on(world.admin.create(&world.user, new)));
        assert_eq!(error, AdminErrorKind::Name, "{bad:?}");
    }
    world.create(NewKey::new(
        world.acme.clone(),
        Environment::LIVE,
        &"ü".repeat(100),
    ));
}

fn what_is_kept_holds_no_key(open: Open<'_>) {
    let world = World::new(open);
    let created = world.create(world.new_key());
    let secret = created.key.unwrap();
    let text = format!("see {}!", secret.expose_secret());
    let named = NewKey::new(world.acme.clone(), Environment::LIVE, &text);
    let metadata = Metadata::parse(&format!("{{\"a\":\"{text}\"}}")).unwrap();
    let id = created.record.id;
    let scopes = || Scopes::parse([secret.expose_secret()]).unwrap();
    let (admin, user) = (&world.admin, &world.user);
    for outcome in [
        block_on(admin.create(user, named)).map(drop),
        block_on(admin.create(user, world.new_key().scopes(scopes()))).map(drop),
        block_on(admin.update(user, id, KeyChange::new().scopes(scopes()))).map(drop),
        block_on(admin.create(user, world.new_key().metadata(metadata))).map(drop),
        block_on(admin.create(user, world.new_key().token(&text.replace(' ', "_")))).map(drop),
        block_on(admin.update(user, id, KeyChange::new().name(&text))).map(drop),
        block_on(admin.revoke(user, id, &text)).map(drop),
        block_on(admin.revoke_all(user, &world.acme, None, &text)),
    ] {
        assert_eq!(error_of(outcome), AdminErrorKind::HoldsKey);
        assert!(!format!("{:?}", world.last_line()).contains(secret.expose_secret()));
    }
    world.ask(&secret).unwrap();
}

fn a_repeated_create_gives_the_same_key_without_its_secret(open: Open<'_>) {
    let world = World::new(open);
    let new = || world.new_key().token("retry-1");
    let first = world.create(new());
    let again = world.create(new());
    assert!(first.key.is_some() && again.key.is_none());
    assert_eq!(first.record, again.record);
    let at_once: Vec<_> = thread::scope(|threads| {
        let create = || world.create(world.new_key().token("retry-2")).record.id;
        let all: Vec<_> = (0..8).map(|_| threads.spawn(create)).collect();
        all.into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert!(
        at_once
            .iter()
            .all(|id| *id == at_once[0] && *id != first.record.id)
    );
    let office = AddressPolicy::listed(["192.0.2.0/24"]).unwrap();
    for other in [
        new().scopes(Scopes::parse(["kyc"]).unwrap()),
        new().addresses(office),
    ] {
        let error = error_of(block_on(world.admin.create(&world.user, other)));
        assert_eq!(error, AdminErrorKind::Conflict);
    }
    let bad = world.new_key().token("two words");
    let error = error_of(block_on(world.admin.create(&world.user, bad)));
    assert_eq!(error, AdminErrorKind::TooLong);
}

fn of_200_creates_at_once_at_the_limit_minus_one_exactly_one_passes(open: Open<'_>) {
    let world = World::new(open);
    (0..49).for_each(|_| drop(world.create(world.new_key())));
    let passed: usize = thread::scope(|threads| {
        let create = || block_on(world.admin.create(&world.user, world.new_key()));
        let all: Vec<_> = (0..200).map(|_| threads.spawn(create)).collect();
        let outcomes = all.into_iter().map(|thread| thread.join().unwrap());
        outcomes
            .filter(|outcome| match outcome {
                Ok(_) => true,
                Err(error) => {
                    assert_eq!(error.kind(), AdminErrorKind::TooManyKeys);
                    false
                }
            })
            .count()
    });
    assert_eq!(passed, 1);
    let raise = AccountChange::new().max_active_keys(Some(51));
    block_on(world.admin.update_account(&operator(), &world.acme, raise)).unwrap();
    world.create(world.new_key());
}

fn each_kind_of_key_keeps_its_own_format(open: Open<'_>) {
    let world = World::new(open);
    let format = |prefix| KeyFormat::new(prefix).unwrap();
    let scheme = KeyScheme::new(format("sk_{env}_"))
        .format(KeyKind::Publishable, format("pk_{env}_"))
        .unwrap();
    let admin = KeyAdmin::new(&world.store, &scheme);
    let gate = Gate::builder(&world.store, &scheme)
        .location(KeyLocation::x_api_key().publishable())
        .location(KeyLocation::bearer())
        .max_staleness(Duration::MAX)
        .build()
        .unwrap();
    for (kind, prefix) in [
        (KeyKind::Secret, "sk_live_"),
        (KeyKind::Publishable, "pk_live_"),
    ] {
        let created = block_on(admin.create(&world.user, world.new_key().kind(kind))).unwrap();
        let id = created.record.id;
        let rotated = block_on(admin.rotate(&world.user, id, Grace::None)).unwrap();
        let key = rotated.key.unwrap();
        for key in [&created.key.unwrap(), &key] {
            assert!(key.expose_secret().starts_with(prefix), "{key:?}");
        }
        let leaks = block_on(admin.leaks(&world.user, key.expose_secret())).unwrap();
        assert!(leaks[0].key.is_some());
        let named = NewKey::new(world.acme.clone(), Environment::LIVE, key.expose_secret());
        let error = error_of(block_on(admin.create(&world.user, named)));
        assert_eq!(error, AdminErrorKind::HoldsKey);

        // A secret key where only publishable ones may be is found nevertheless.
        let requirement = Arc::new(Requirement::new().kinds([KeyKind::Publishable]));
        let decision = gate.check(
            &TestRequest::get().key(key.expose_secret()),
            &requirement,
            None,
        );
        match (kind, decision) {
            (KeyKind::Publishable, Decision::Ready(Verdict::Admit(_))) => {}
            (KeyKind::Secret, Decision::Ready(Verdict::Refuse(refusal))) => {
                let denial = refusal.denial.unwrap();
                assert_eq!(denial.kind(), DenialKind::SecretExposed);
            }
            (_, decision) => panic!("{decision:?}"),
        }
    }
    let unknown = format("pk_{env}_").generate(Environment::LIVE).unwrap();
    let other = format("xk_{env}_").generate(Environment::LIVE).unwrap();
    for (key, kind) in [
        (unknown, DenialKind::Unknown),
        (other, DenialKind::Malformed),
    ] {
        let decision = gate.check(
            &TestRequest::get().key(key.expose_secret()),
            &Arc::default(),
            None,
        );
        let Decision::Ready(Verdict::Refuse(refusal)) = decision else {
            panic!("{decision:?}")
        };
        assert_eq!(refusal.denial.unwrap().kind(), kind);
    }
}

fn the_catalog_rules_new_and_changed_keys(open: Open<'_>) {
    let world = World::new(open);
    let catalog = ScopeCatalog::new(["kyc", "age", "api_keys.create"])
        .unwrap()
        .implying("hybrid", ["kyc", "age"])
        .unwrap()
        .secret_only("hybrid")
        .unwrap()
        .one_per_key();
    let admin = KeyAdmin::new(&world.store, &scheme().catalog(catalog));
    let create = |scopes: &[&str], kind| {
        let new = world
            .new_key()
            .scopes(Scopes::parse(scopes).unwrap())
            .kind(kind);
        block_on(admin.create(&world.user, new)).map_err(|error| error.kind())
    };
    let id = create(&["kyc"], KeyKind::Publishable).unwrap().record.id;
    create(&["hybrid"], KeyKind::Secret).unwrap();
    create(&["api_keys.create"], KeyKind::Secret).unwrap();
    create(&["kyc", "api_keys.create"], KeyKind::Secret).unwrap();
    for (scopes, kind) in [
        (&["hybrid"][..], KeyKind::Publishable),
        (&["kyc", "age"], KeyKind::Secret),
        (&["other"], KeyKind::Secret),
        (&[], KeyKind::Secret),
    ] {
        assert_eq!(
            create(scopes, kind).unwrap_err(),
            AdminErrorKind::Scopes,
            "{scopes:?}"
        );
    }
    let wider = KeyChange::new().scopes(Scopes::parse(["hybrid"]).unwrap());
    let error = block_on(admin.update(&world.user, id, wider)).unwrap_err();
    assert_eq!(error.kind(), AdminErrorKind::Scopes);
}

fn a_user_does_what_it_may_and_nothing_else(open: Open<'_>) {
    let world = World::new(open);
    let id = world.create(world.new_key()).record.id;
    let of_keys = |permission: &Permission| permission.as_str().starts_with("api_keys.");
    for permission in Permission::ALL.into_iter().filter(of_keys) {
        let one = user("acme", &[permission]);
        let all_but_one: Vec<_> = Permission::ALL
            .into_iter()
            .filter(|p| *p != permission)
            .collect();
        let all_but_one = user("acme", &all_but_one);
        let act = |actor: &Actor| {
            let outcome = match permission.as_str() {
                "api_keys.create" => block_on(world.admin.create(actor, world.new_key())).map(drop),
                "api_keys.read" => block_on(world.admin.key(actor, id)).map(drop),
                "api_keys.update" => block_on(world.admin.disable(actor, id)).map(drop),
                _ => block_on(world.admin.revoke(actor, id, "")).map(drop),
            };
            outcome.map_err(|error| error.kind())
        };
        assert_eq!(
            act(&all_but_one),
            Err(AdminErrorKind::NotPermitted),
            "{permission:?}"
        );
        assert_eq!(
            world.last_line().refused,
            Some(AdminErrorKind::NotPermitted)
        );
        assert_eq!(world.last_line().actor, "user:bob");
        assert_eq!(act(&one), Ok(()), "{permission:?}");
    }
    let may_create = user("acme", &[Permission::Create]);
    let id = world.create(world.new_key()).record.id;
    let error = error_of(block_on(world.admin.rotate(&may_create, id, Grace::None)));
    assert_eq!(error, AdminErrorKind::NotPermitted);
}

fn another_accounts_key_answers_like_an_unknown_one(open: Open<'_>) {
    let world = World::new(open);
    let created = world.create(world.new_key());
    let stranger = user("other", &Permission::ALL);
    let admin = &world.admin;
    let all = |id| {
        [
            block_on(admin.key(&stranger, id)).map(drop),
            block_on(admin.update(&stranger, id, KeyChange::new().name("x"))).map(drop),
            block_on(admin.disable(&stranger, id)).map(drop),
            block_on(admin.enable(&stranger, id)).map(drop),
            block_on(admin.revoke(&stranger, id, "")).map(drop),
            block_on(admin.rotate(&stranger, id, Grace::None)).map(drop),
        ]
        .map(|outcome| {
            let error = outcome.unwrap_err();
            (error.kind(), error.to_string())
        })
    };
    let known = all(created.record.id);
    assert_eq!(known, all(KeyId::random().unwrap()));
    assert!(
        known
            .iter()
            .all(|(kind, _)| *kind == AdminErrorKind::UnknownKey)
    );
    assert_eq!(
        world.last_line().account.unwrap().as_str(),
        "other",
        "noted with the stranger"
    );

    let nobody = AccountId::parse("nobody").unwrap();
    for account in [&world.acme, &nobody] {
        let new = NewKey::new(account.clone(), Environment::LIVE, "name");
        for outcome in [
            block_on(admin.create(&stranger, new)).map(drop),
            block_on(admin.keys(&stranger, account, KeyFilter::new())).map(drop),
            block_on(admin.revoke_all(&stranger, account, None, "")),
            block_on(admin.audit(&stranger, Some(account), None)).map(drop),
        ] {
            assert_eq!(error_of(outcome), AdminErrorKind::UnknownAccount);
        }
    }
    world.ask(&created.key.unwrap()).unwrap();
}

fn only_an_operator_acts_on_accounts_and_reads_the_whole_trail(open: Open<'_>) {
    let world = World::new(open);
    let change = AccountChange::new().max_active_keys(None);
    let new = AccountId::parse("new").unwrap();
    for actor in [&world.user, &world.acting(&["api_keys.*"], |new| new)] {
        for outcome in [
            block_on(world.admin.open_account(actor, &new)).map(drop),
            block_on(
                world
                    .admin
                    .update_account(actor, &world.acme, change.clone()),
            )
            .map(drop),
            block_on(world.admin.audit(actor, None, None)).map(drop),
        ] {
            assert_eq!(error_of(outcome), AdminErrorKind::NotPermitted);
        }
    }
    block_on(world.admin.audit(&operator(), None, None)).unwrap();
}

fn a_key_acts_by_its_own_scopes_while_it_lives(open: Open<'_>) {
    let world = World::new(open);
    let lister = world.acting(&["api_keys.read"], |new| new);
    block_on(world.admin.keys(&lister, &world.acme, KeyFilter::new())).unwrap();
    let error = error_of(block_on(world.admin.create(&lister, world.new_key())));
    assert_eq!(error, AdminErrorKind::NotPermitted);

    let created = world.create(
        world
            .new_key()
            .scopes(Scopes::parse(["api_keys.*"]).unwrap()),
    );
    let actor = Actor::key(&world.ask(&created.key.unwrap()).unwrap());
    block_on(world.admin.create(&actor, world.new_key())).unwrap();
    block_on(world.admin.revoke(&world.user, created.record.id, "leaked")).unwrap();
    let error = error_of(block_on(world.admin.create(&actor, world.new_key())));
    assert_eq!(
        error,
        AdminErrorKind::NotPermitted,
        "it passed the gate before it died"
    );
    assert_eq!(
        world.last_line().actor,
        format!("key:{}", created.record.id)
    );
}

fn origins_that_would_let_anybody_in_are_refused_unless_they_are_named(open: Open<'_>) {
    let world = World::new(open);
    let origins = |list: &[&str]| OriginPolicy::listed(list).unwrap();
    let why = |error: AdminError| {
        assert_eq!(error.kind(), AdminErrorKind::Origins);
        let source = std::error::Error::source(&error).unwrap();
        source.to_string()
    };
    let create = |new| block_on(world.admin.create(&world.user, new));
    let http = origins(&["shop.com", "http://localhost:*"]);
    let http_refused = "invalid origin pattern at index 1: http is for test environments";
    let error = create(world.new_key().origins(http.clone())).unwrap_err();
    assert_eq!(why(error), http_refused);
    assert_eq!(world.last_line().refused, Some(AdminErrorKind::Origins));
    let test = NewKey::new(world.acme.clone(), Environment::TEST, "test");
    create(test.origins(http.clone())).unwrap();

    let suffix = origins(&["*.co.uk"]);
    let suffix_refused =
        "invalid origin pattern at index 0: the wildcard covers domains that anyone can register";
    let error = create(world.new_key().origins(suffix.clone())).unwrap_err();
    assert_eq!(why(error), suffix_refused);
    let digest = KeyDigest::import(DigestScheme::Sha256, &"0".repeat(64)).unwrap();
    let hint = Hint::parse("12|…Tz7x").unwrap();
    let new = world.new_key().origins(suffix.clone());
    let imported = block_on(world.admin.import(&operator(), new, digest, hint));
    assert_eq!(why(imported.unwrap_err()), suffix_refused);
    let empty = World::empty(open);
    let first = empty.new_key().origins(suffix.clone());
    let first = block_on(empty.admin.bootstrap(&operator(), first));
    assert_eq!(why(first.unwrap_err()), suffix_refused);

    let id = world.create(world.new_key()).record.id;
    let update = |change| block_on(world.admin.update(&world.user, id, change));
    let change = KeyChange::new().origins(suffix.clone());
    assert_eq!(why(update(change.clone()).unwrap_err()), suffix_refused);
    update(change.insecure_public_suffixes()).unwrap();
    let change = KeyChange::new().origins(http);
    assert_eq!(why(update(change.clone()).unwrap_err()), http_refused);
    update(change.insecure_http_origins()).unwrap();

    // Origins in force may be kept, reordered and passed to a successor.
    let kept = origins(&["http://localhost:*", "*.shop.com"]);
    update(KeyChange::new().origins(kept.clone())).unwrap();
    let rotated = block_on(world.admin.rotate(&world.user, id, Grace::None));
    assert_eq!(rotated.unwrap().record.origins, kept);
}

fn a_key_hands_on_at_most_what_it_holds(open: Open<'_>) {
    let world = World::new(open);
    world.plan(RateLimit::per_minute(1000));
    let limit = RateLimit::per_minute(100);
    let end = world.after(1000);
    let origins = |list: &[&str]| OriginPolicy::listed(list).unwrap();
    let addresses = |list: &[&str]| AddressPolicy::listed(list).unwrap();
    let actor = world.acting(&["api_keys.*", "kyc", "reports.*"], |new| {
        new.rate_limits(limit)
            .expires_at(end)
            .origins(origins(&["a.example", "b.example"]).or_no_origin())
            .addresses(addresses(&[
                "10.0.0.0/25",
                "10.0.0.128/25",
                "2001:db8::/32",
            ]))
    });
    let scopes = |scopes: &[&str]| Scopes::parse(scopes).unwrap();
    let fitting = || {
        let new = world.new_key().scopes(scopes(&["kyc", "reports.read"]));
        new.rate_limits(limit)
            .expires_at(end)
            .origins(origins(&["a.example"]))
            .addresses(addresses(&["10.0.0.0/24", "2001:db8::7"]))
    };
    let create = |new| block_on(world.admin.create(&actor, new)).map_err(|error| error.kind());
    let id = create(fitting()).unwrap().record.id;
    let test = NewKey::new(world.acme.clone(), Environment::TEST, "name");
    for (about, new) in [
        ("a scope it lacks", fitting().scopes(scopes(&["age"]))),
        ("another origin", fitting().origins(origins(&["c.example"]))),
        ("any origin", fitting().origins(OriginPolicy::Any)),
        (
            "another address",
            fitting().addresses(addresses(&["10.0.0.7", "10.0.1.7"])),
        ),
        ("any address", fitting().addresses(AddressPolicy::Any)),
        ("a later end", fitting().expires_at(world.after(1001))),
        (
            "a higher limit",
            fitting().rate_limits(RateLimit::per_minute(101)),
        ),
        ("no limit and no end", world.new_key()),
        (
            "another environment",
            test.rate_limits(limit)
                .expires_at(end)
                .origins(origins(&["a.example"]))
                .addresses(addresses(&["10.0.0.7"])),
        ),
    ] {
        assert_eq!(
            create(new).map(drop),
            Err(AdminErrorKind::TooWide),
            "{about}"
        );
    }
    let update = |change| block_on(world.admin.update(&actor, id, change)).map_err(|e| e.kind());
    update(KeyChange::new().scopes(scopes(&["reports.*"]))).unwrap();
    let wider = KeyChange::new().scopes(scopes(&["age"]));
    assert_eq!(update(wider).map(drop), Err(AdminErrorKind::TooWide));
    let unlimited = KeyChange::new().rate_limits(RateLimits::none());
    assert_eq!(update(unlimited).map(drop), Err(AdminErrorKind::TooWide));
    for (list, allowed) in [("10.0.0.0/24", true), ("10.0.0.0/23", false)] {
        let outcome = update(KeyChange::new().addresses(addresses(&[list]))).map(drop);
        let expected = allowed.then_some(()).ok_or(AdminErrorKind::TooWide);
        assert_eq!(outcome, expected, "{list}");
    }

    let wide = world.create(world.new_key()).record.id;
    let error = error_of(block_on(world.admin.rotate(&actor, wide, Grace::None)));
    assert_eq!(error, AdminErrorKind::TooWide);
}

fn a_key_with_a_balance_of_its_own_takes_no_other_over(open: Open<'_>) {
    let world = World::new(open);
    let scopes = ["api_keys.create", "api_keys.revoke", "api_keys.update"];
    let with = |credits: u64| {
        let new = world.new_key().scopes(Scopes::parse(scopes).unwrap());
        let created = world.create(new);
        let actor = Actor::key(&world.ask(&created.key.unwrap()).unwrap());
        let (id, credits) = (created.record.id, Some(Credits::new(credits)));
        block_on(world.admin.set_credits(&operator(), id, credits)).unwrap();
        (id, actor)
    };
    let ((poor, actor), (rich, _)) = (with(10), with(1_000_000));
    let too_wide = AdminErrorKind::TooWide;
    let rotated = block_on(world.admin.rotate(&actor, rich, Grace::None));
    assert_eq!(error_of(rotated), too_wide);
    block_on(world.admin.disable(&world.user, rich)).unwrap();
    let enabled = block_on(world.admin.enable(&actor, rich));
    assert_eq!(error_of(enabled), too_wide);
    // Its own balance passes to its successor.
    block_on(world.admin.rotate(&actor, poor, Grace::None)).unwrap();
}

fn an_update_widens_only_for_who_may_create(open: Open<'_>) {
    let world = World::new(open);
    world.plan(RateLimit::per_minute(1000));
    let scopes = |scopes: &[&str]| Scopes::parse(scopes).unwrap();
    let addresses = |range| AddressPolicy::listed([range]).unwrap();
    let limit = RateLimit::per_minute(5);
    let id = world
        .create(
            world
                .new_key()
                .scopes(scopes(&["a", "b"]))
                .addresses(addresses("10.0.0.0/24"))
                .rate_limits(limit),
        )
        .record
        .id;
    let editor = user("acme", &[Permission::Update]);
    let update = |actor: &Actor, change| {
        block_on(world.admin.update(actor, id, change)).map_err(|error| error.kind())
    };
    update(&editor, KeyChange::new().scopes(scopes(&["a"])).name("new")).unwrap();
    for wider in [
        KeyChange::new().scopes(scopes(&["a", "b"])),
        KeyChange::new().rate_limits(RateLimits::none()),
        KeyChange::new().rate_limits(RateLimit::per_minute(6)),
        KeyChange::new().addresses(addresses("10.0.0.0/23")),
        KeyChange::new().addresses(AddressPolicy::Any),
    ] {
        assert_eq!(
            update(&editor, wider.clone()).map(drop),
            Err(AdminErrorKind::TooWide)
        );
        update(&world.user, wider).unwrap();
        let back = KeyChange::new()
            .scopes(scopes(&["a"]))
            .addresses(addresses("10.0.0.0/24"))
            .rate_limits(limit);
        assert_eq!(update(&editor, back).unwrap().record.name, "new");
    }
}

fn the_first_key_comes_from_one_explicit_call(open: Open<'_>) {
    let world = World::empty(open);
    let root = AccountId::parse("root").unwrap();
    let new = |account: &AccountId| {
        let new = NewKey::new(account.clone(), Environment::LIVE, "root");
        new.scopes(Scopes::parse(["api_keys.*"]).unwrap())
    };
    let bootstrap = |actor: &Actor, new| block_on(world.admin.bootstrap(actor, new));
    let error = error_of(bootstrap(&world.user, new(&root)));
    assert_eq!(
        error,
        AdminErrorKind::NotPermitted,
        "an empty store lets nobody in"
    );
    let created = bootstrap(&operator(), new(&root)).unwrap();
    let actor = Actor::key(&world.ask(&created.key.unwrap()).unwrap());
    let more = NewKey::new(root.clone(), Environment::LIVE, "more");
    block_on(world.admin.create(&actor, more)).unwrap();
    for account in [&root, &world.acme] {
        assert_eq!(
            error_of(bootstrap(&operator(), new(account))),
            AdminErrorKind::Conflict
        );
    }
}

fn pages_go_on_where_they_ended_and_show_revoked_keys(open: Open<'_>) {
    let world = World::new(open);
    let ids: Vec<_> = (0..5)
        .map(|_| {
            world.clock.advance(Duration::from_secs(1));
            world.create(world.new_key()).record.id
        })
        .collect();
    block_on(world.admin.revoke(&world.user, ids[1], "old")).unwrap();
    let mut filter = KeyFilter::new().limit(2);
    let mut seen = Vec::new();
    loop {
        let page = block_on(world.admin.keys(&world.user, &world.acme, filter.clone())).unwrap();
        seen.extend(page.keys);
        let Some(next) = page.next else { break };
        assert_eq!(KeyCursor::parse(&next.to_string()).unwrap(), next);
        filter = filter.after(next);
    }
    assert!(
        seen.iter()
            .rev()
            .map(|view| view.record.id)
            .eq(ids.iter().copied())
    );
    assert_eq!(seen[3].state, KeyState::Revoked);
    assert_eq!(seen[3].record.revoked_for, "old");
    let revoked = KeyFilter::new().state(KeyState::Revoked);
    let page = block_on(world.admin.keys(&world.user, &world.acme, revoked)).unwrap();
    assert_eq!(page.keys.len(), 1);
}

fn a_key_is_switched_off_and_on_and_revoked_for_good(open: Open<'_>) {
    let world = World::new(open);
    let created = world.create(world.new_key());
    let (id, key) = (created.record.id, created.key.unwrap());
    let (admin, user) = (&world.admin, &world.user);
    block_on(admin.disable(user, id)).unwrap();
    assert_eq!(world.ask(&key).unwrap_err(), DenialKind::Disabled);
    block_on(admin.enable(user, id)).unwrap();
    world.ask(&key).unwrap();
    let first = block_on(admin.revoke(user, id, "leaked")).unwrap();
    assert_eq!(world.ask(&key).unwrap_err(), DenialKind::Revoked);
    world.clock.advance(Duration::from_secs(1));
    let again = block_on(admin.revoke(user, id, "another reason")).unwrap();
    assert_eq!(first.record.revoked_at, again.record.revoked_at);
    assert_eq!(again.record.revoked_for, "leaked");
    for outcome in [
        block_on(admin.enable(user, id)).map(drop),
        block_on(admin.disable(user, id)).map(drop),
        block_on(admin.update(user, id, KeyChange::new().name("x"))).map(drop),
        block_on(admin.rotate(user, id, Grace::None)).map(drop),
    ] {
        assert_eq!(error_of(outcome), AdminErrorKind::Revoked);
    }
    let long = "x".repeat(501);
    let error = error_of(block_on(admin.revoke(user, id, &long)));
    assert_eq!(error, AdminErrorKind::TooLong);
}

fn revoke_all_ends_an_environment_or_all_and_no_key_slips_through(open: Open<'_>) {
    let world = World::new(open);
    let make = |environment| {
        let new = NewKey::new(world.acme.clone(), environment, "name");
        world.create(new).key.unwrap()
    };
    let staging = Environment::parse("staging").unwrap();
    let keys = [Environment::LIVE, Environment::TEST, staging].map(make);
    let alive = || keys.each_ref().map(|key| world.ask(key).is_ok());
    let revoke_all = |environment| {
        block_on(
            world
                .admin
                .revoke_all(&world.user, &world.acme, environment, "3 a.m."),
        )
        .unwrap();
    };
    revoke_all(Some(Environment::TEST));
    assert_eq!(alive(), [true, false, true]);
    let again = make(Environment::TEST);
    world.ask(&again).unwrap();
    revoke_all(None);
    assert_eq!(alive(), [false, false, false]);
    assert_eq!(world.ask(&again).unwrap_err(), DenialKind::Revoked);
    world.ask(&make(staging)).unwrap();

    // In any order, a key that works was created after the last of them.
    let big = AccountChange::new().max_active_keys(Some(1000));
    block_on(world.admin.update_account(&operator(), &world.acme, big)).unwrap();
    thread::scope(|threads| {
        let creator = threads.spawn(|| {
            (0..200)
                .map(|_| make(Environment::LIVE))
                .collect::<Vec<_>>()
        });
        (0..50).for_each(|_| revoke_all(Some(Environment::LIVE)));
        let created = creator.join().unwrap();
        let before: Vec<_> = created
            .iter()
            .filter(|key| world.ask(key).is_ok())
            .collect();
        revoke_all(None);
        assert!(before.iter().all(|key| world.ask(key).is_err()));
    });
}

fn a_suspended_or_downgraded_account_refuses_its_keys_until_it_is_lifted(open: Open<'_>) {
    let world = World::new(open);
    let key = world.create(world.new_key()).key.unwrap();
    let change =
        |change| block_on(world.admin.update_account(&operator(), &world.acme, change)).unwrap();
    change(AccountChange::new().status(AccountStatus::Suspended));
    assert_eq!(world.ask(&key).unwrap_err(), DenialKind::AccountInactive);
    change(
        AccountChange::new()
            .status(AccountStatus::Active)
            .api_access(false),
    );
    assert_eq!(world.ask(&key).unwrap_err(), DenialKind::NoApiAccess);
    change(AccountChange::new().api_access(true));
    world.ask(&key).unwrap();
}

fn a_successor_can_do_the_same_and_the_old_key_dies_when_told(open: Open<'_>) {
    let world = World::new(open);
    world.plan(RateLimit::per_minute(1000));
    let new = || {
        let new = world.new_key().scopes(Scopes::parse(["kyc"]).unwrap());
        let limit = RateLimit::per_minute(7);
        new.addresses(AddressPolicy::listed(["10.0.0.0/24"]).unwrap())
            .rate_limits(limit)
            .expires_at(world.after(1000))
    };
    let old = world.create(new());
    world.clock.advance(Duration::from_secs(100));
    let grace = Grace::For(Duration::from_secs(60));
    let successor = block_on(world.admin.rotate(&world.user, old.record.id, grace)).unwrap();
    let record = &successor.record;
    assert_eq!(record.predecessor, Some(old.record.id));
    assert_eq!(
        (record.lineage, old.record.lineage),
        (old.record.id, old.record.id)
    );
    assert_eq!(record.name, old.record.name);
    assert_eq!(record.scopes, old.record.scopes);
    assert_eq!(record.rate_limits, old.record.rate_limits);
    assert_eq!(record.addresses, old.record.addresses);
    assert_eq!(record.expires_at, Some(world.after(1000)));
    let view = block_on(world.admin.key(&world.user, old.record.id)).unwrap();
    assert_eq!(view.record.successor, Some(record.id));
    let (old_key, new_key) = (old.key.unwrap(), successor.key.unwrap());
    world.ask(&new_key).unwrap();
    world.clock.advance(Duration::from_secs(59));
    world.ask(&old_key).unwrap();
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(world.ask(&old_key).unwrap_err(), DenialKind::Expired);

    let now = block_on(world.admin.rotate(&world.user, record.id, Grace::None)).unwrap();
    assert_eq!(now.record.lineage, old.record.id);
    assert_eq!(world.ask(&new_key).unwrap_err(), DenialKind::Revoked);
    world.ask(&now.key.unwrap()).unwrap();
}

fn a_grace_is_never_shorter_than_promised(open: Open<'_>) {
    let world = World::new(open);
    world.clock.advance(Duration::from_millis(900));
    let old = world.create(world.new_key());
    let grace = Grace::For(Duration::from_secs(1));
    block_on(world.admin.rotate(&world.user, old.record.id, grace)).unwrap();
    world.clock.advance(Duration::from_millis(999));
    world.ask(&old.key.unwrap()).unwrap();
}

fn a_grace_never_extends_a_life(open: Open<'_>) {
    let world = World::new(open);
    let old = world
        .create(world.new_key().expires_at(world.after(10)))
        .record;
    for grace in [Duration::from_secs(3600), Duration::MAX] {
        let rotated = block_on(world.admin.rotate(&world.user, old.id, Grace::For(grace)));
        if rotated.is_ok() {
            let view = block_on(world.admin.key(&world.user, old.id)).unwrap();
            assert_eq!(view.record.expires_at, old.expires_at);
        }
    }
    world.clock.advance(Duration::from_secs(10));
    let error = error_of(block_on(world.admin.rotate(
        &world.user,
        old.id,
        Grace::None,
    )));
    assert_eq!(error, AdminErrorKind::Expired);
}

fn of_100_rotations_at_once_one_wins(open: Open<'_>) {
    let world = World::new(open);
    let id = world.create(world.new_key()).record.id;
    let grace = Grace::For(Duration::from_secs(60));
    let won = thread::scope(|threads| {
        let rotate = || block_on(world.admin.rotate(&world.user, id, grace));
        let all: Vec<_> = (0..100).map(|_| threads.spawn(rotate)).collect();
        let outcomes = all.into_iter().map(|thread| thread.join().unwrap());
        outcomes
            .filter(|outcome| match outcome {
                Ok(_) => true,
                Err(error) => {
                    assert_eq!(error.kind(), AdminErrorKind::Conflict);
                    false
                }
            })
            .count()
    });
    assert_eq!(won, 1);
    let page = block_on(world.admin.keys(&world.user, &world.acme, KeyFilter::new())).unwrap();
    assert_eq!(page.keys.len(), 2);
}

fn a_full_account_can_still_rotate_once(open: Open<'_>) {
    let world = World::new(open);
    let admin = world.admin.clone().max_active_keys(1);
    let id = world.create(world.new_key()).record.id;
    let grace = Grace::For(Duration::from_secs(60));
    let next = block_on(admin.rotate(&world.user, id, grace))
        .unwrap()
        .record
        .id;
    let error = error_of(block_on(admin.rotate(&world.user, next, grace)));
    assert_eq!(error, AdminErrorKind::TooManyKeys);
    world.clock.advance(Duration::from_secs(60));
    block_on(admin.rotate(&world.user, next, Grace::None)).unwrap();
}

fn an_expiry_is_ahead_and_within_the_services_bounds(open: Open<'_>) {
    let world = World::new(open);
    let day = Duration::from_secs(86_400);
    let admin = world
        .admin
        .clone()
        .default_lifetime(day)
        .max_lifetime(2 * day);
    let create = |new| {
        let created = block_on(admin.create(&world.user, new));
        created
            .map(|created| created.record.expires_at)
            .map_err(|error| error.kind())
    };
    assert_eq!(create(world.new_key()), Ok(Some(world.after(86_400))));
    for bad in [
        SystemTime::UNIX_EPOCH,
        world.after(0),
        world.after(2 * 86_400 + 1),
    ] {
        assert_eq!(
            create(world.new_key().expires_at(bad)),
            Err(AdminErrorKind::Expiry)
        );
    }
    let last = world.after(2 * 86_400);
    assert_eq!(create(world.new_key().expires_at(last)), Ok(Some(last)));
}

fn every_call_leaves_a_line_and_a_refused_one_too(open: Open<'_>) {
    let world = World::new(open);
    let id = world.create(world.new_key()).record.id;
    block_on(world.admin.disable(&world.user, id)).unwrap();
    block_on(world.admin.revoke(&world.user, id, "leaked")).unwrap();
    block_on(world.admin.enable(&world.user, id)).unwrap_err();
    let page = block_on(world.admin.audit(&world.user, Some(&world.acme), None)).unwrap();
    let lines: Vec<_> = page
        .entries
        .iter()
        .map(|line| (line.action, line.refused))
        .collect();
    assert_eq!(
        lines,
        [
            (AuditAction::Enable, Some(AdminErrorKind::Revoked)),
            (AuditAction::Revoke, None),
            (AuditAction::Disable, None),
            (AuditAction::Create, None),
            (AuditAction::OpenAccount, None),
        ]
    );
    assert!(
        page.entries[..4]
            .iter()
            .all(|line| line.key == Some(id) && line.actor == "user:ann")
    );
    assert_eq!(page.entries[1].reason, "leaked");
    assert_eq!(page.next, None);
    let id = world.create(world.new_key()).record.id;
    (0..149).for_each(|_| drop(block_on(world.admin.disable(&world.user, id)).unwrap()));
    let page = block_on(world.admin.audit(&world.user, Some(&world.acme), None)).unwrap();
    assert_eq!(page.entries.len(), 100);
    let rest = block_on(world.admin.audit(&world.user, Some(&world.acme), page.next)).unwrap();
    assert_eq!((rest.entries.len(), rest.next), (55, None));
}

fn who_has_no_permission_leaves_no_line_however_often_it_calls(open: Open<'_>) {
    let world = World::new(open);
    let id = world.create(world.new_key()).record.id;
    let key = |scopes: &[&str], kind| {
        let new = world.new_key().scopes(Scopes::parse(scopes).unwrap());
        let key = world.create(new.kind(kind)).key.unwrap();
        let location = match kind {
            KeyKind::Secret => KeyLocation::x_api_key(),
            _ => KeyLocation::x_api_key().publishable(),
        };
        let gate = Gate::builder(&world.store, &scheme());
        let gate = gate.max_staleness(Duration::MAX).location(location);
        let requirement = Arc::new(Requirement::new().kinds([kind]));
        let head = TestRequest::get().key(key.expose_secret());
        match gate.build().unwrap().check(&head, &requirement, None) {
            Decision::Ready(Verdict::Admit(Admitted {
                access: Some(Access::Principal(principal)),
                ..
            })) => Actor::key(&principal),
            other => panic!("{other:?}"),
        }
    };
    let actors = [
        user("acme", &[]),
        key(&["kyc"], KeyKind::Secret),
        key(&["api_keys.*", "webhooks.*"], KeyKind::Publishable),
    ];
    let before = world.last_line();
    let counted = world.admin.unlisted_refusals();
    for actor in &actors {
        let bad = NewKey::new(world.acme.clone(), Environment::LIVE, "");
        for outcome in [
            block_on(world.admin.create(actor, bad)).map(drop),
            block_on(world.admin.create(actor, world.new_key())).map(drop),
            block_on(world.admin.revoke(actor, id, "")).map(drop),
            block_on(
                world
                    .admin
                    .revoke_all(actor, &world.acme, None, &"x".repeat(501)),
            ),
            block_on(world.admin.audit(actor, None, None)).map(drop),
            block_on(world.admin.open_account(actor, &world.acme)).map(drop),
            block_on(world.admin.add_credits(actor, id, 1)),
            block_on(world.admin.leaks(actor, "")).map(drop),
        ] {
            assert!(outcome.is_err(), "{actor:?}");
        }
    }
    assert_eq!(world.last_line(), before);
    assert_eq!(world.admin.unlisted_refusals() - counted, 24);
}

fn of_an_actor_twenty_refused_calls_an_hour_are_listed_and_how_many_followed(open: Open<'_>) {
    let world = World::new(open);
    let id = world.create(world.new_key()).record.id;
    let lines = |actor: &str| {
        let trail = block_on(world.store.audit(AuditQuery::newest(1000))).unwrap();
        let own = trail.into_iter().filter(|line| line.actor == actor);
        own.collect::<Vec<_>>()
    };
    let refuse = |actor: &Actor, times: usize| {
        for _ in 0..times {
            error_of(block_on(world.admin.revoke(actor, id, "")));
        }
    };
    let reader = user("acme", &[Permission::Read]);
    let key = world.acting(&["api_keys.read"], |new| new);
    refuse(&reader, 1000);
    refuse(&key, 21);
    assert_eq!(lines("user:bob").len(), 20);
    assert_eq!(lines(key.name()).len(), 20);
    world.clock.advance(Duration::from_secs(3599));
    refuse(&reader, 5);
    assert_eq!(lines("user:bob").len(), 20);

    // The hour is over: the number of further calls is reported once.
    world.clock.advance(Duration::from_secs(1));
    for _ in 0..2 {
        let page = block_on(world.admin.audit(&world.user, Some(&world.acme), None));
        let page = page.unwrap().entries;
        let own = page.iter().filter(|line| line.actor == "user:bob");
        assert_eq!(own.count(), 21);
        for (actor, followed) in [("user:bob", 985), (key.name(), 1)] {
            let line = &lines(actor)[0];
            assert_eq!(line.detail, format!("followed={followed}"));
            assert_eq!(line.refused, Some(AdminErrorKind::NotPermitted));
            assert_eq!((line.action, line.key), (AuditAction::Revoke, None));
            assert_eq!(line.account.as_ref(), Some(&world.acme));
            assert_eq!(
                line.environment,
                (actor != "user:bob").then_some(Environment::LIVE)
            );
        }
    }
    // The next hour lists twenty again; an hour without further calls adds no summary.
    refuse(&reader, 20);
    world.clock.advance(Duration::from_secs(3600));
    refuse(&reader, 1);
    assert_eq!(lines("user:bob").len(), 20 + 1 + 20 + 1);
    // Other instances over the same store share the count.
    let other = KeyAdmin::new(&world.store, &scheme());
    (0..30).for_each(|_| drop(block_on(other.revoke(&reader, id, ""))));
    assert_eq!(lines("user:bob").len(), 20 + 1 + 20 + 20);
}

fn a_request_past_the_gate_may_finish(open: Open<'_>) {
    let world = World::new(open);
    let created = world.create(world.new_key());
    let key = created.key.unwrap();
    let in_flight = world.ask(&key).unwrap();
    block_on(world.admin.revoke(&world.user, created.record.id, "")).unwrap();
    assert_eq!(in_flight.account().as_str(), "acme");
    assert_eq!(world.ask(&key).unwrap_err(), DenialKind::Revoked);
}

fn a_leak_is_found_in_a_text_and_told_apart(open: Open<'_>) {
    let world = World::new(open);
    let live = world.create(world.new_key());
    let dead = world.create(world.new_key());
    block_on(world.admin.revoke(&world.user, dead.record.id, "")).unwrap();
    let others = NewKey::new(
        AccountId::parse("other").unwrap(),
        Environment::LIVE,
        "theirs",
    );
    let others = block_on(world.admin.create(&operator(), others))
        .unwrap()
        .key
        .unwrap();
    let never = format().generate(Environment::LIVE).unwrap();
    let (live_key, dead_key) = (live.key.unwrap(), dead.key.unwrap());
    let text = [&live_key, &dead_key, &others, &never]
        .map(ApiKey::expose_secret)
        .join("\n");
    let leaks = block_on(world.admin.leaks(&world.user, &text)).unwrap();
    let states: Vec<_> = leaks
        .iter()
        .map(|leak| leak.key.as_ref().map(|key| key.state))
        .collect();
    assert_eq!(
        states,
        [Some(KeyState::Active), Some(KeyState::Revoked), None, None]
    );
    assert_eq!(
        (&*leaks[1].positions, &leaks[3].hint),
        (&[48][..], never.hint())
    );
    let by_operator = block_on(world.admin.leaks(&operator(), &text)).unwrap();
    assert!(by_operator[2].key.is_some() && by_operator[3].key.is_none());
    assert!(!format!("{leaks:?}").contains(&live_key.expose_secret()[9..]));
}

fn a_leak_is_told_once_with_its_first_places(open: Open<'_>) {
    let world = World::new(open);
    let keys = [(); 3].map(|()| world.create(world.new_key()).key.unwrap());
    let never = format().generate(Environment::LIVE).unwrap();
    let texts = [&keys[0], &keys[1], &keys[2], &never].map(ApiKey::expose_secret);
    // 49 bytes each, twice as much of the first: about a megabyte.
    let line = format!(
        "{}\n{}\n{}\n{}\n{}\n",
        texts[0], texts[1], texts[2], texts[3], texts[0]
    );
    assert_eq!(line.len(), 5 * 48);
    let text = line.repeat(4_000);
    let leaks = block_on(world.admin.leaks(&world.user, text)).unwrap();
    let counts: Vec<_> = leaks.iter().map(|leak| leak.count).collect();
    assert_eq!(counts, [8_000, 4_000, 4_000, 4_000]);
    assert!(leaks.iter().all(|leak| leak.positions.len() == 10));
    assert_eq!(leaks[0].positions[..4], [0, 192, 240, 432]);
    assert_eq!(leaks[1].positions[..2], [48, 288]);
    let known: Vec<_> = leaks.iter().map(|leak| leak.key.is_some()).collect();
    assert_eq!(known, [true, true, true, false]);
}

fn keys_made_elsewhere_work_and_are_digested_anew_at_their_first_use(open: Open<'_>) {
    let world = World::new(open);
    let hex = |bytes: &[u8]| format!("{bytes:02x?}").replace(['[', ']', ',', ' '], "");
    let foreign = |prefix: &str| ForeignFormat::new(prefix).unwrap();
    let (unkey, better) = (
        "re_3ZMWxBfZNpGdcLXDRbyPA7QW",
        "oTWEjGKwAmXbmJcSdCzGnlRtYpQvIeUo",
    );
    let (sanctum, rest) = (
        "42|kq6iJPYFEFCZ1gJSmrfJ0xX9sYdM7Tz7",
        "q1Wm5xdc.GpXhcU0mGCDZ0yXQBzgCjBmcdZRk6Q6W",
    );
    let pepper = Pepper::new("2026", b"sixteen bytes or more").unwrap();
    let mut peppers = Peppers::new(pepper);
    for scheme in [
        DigestScheme::Sha256,
        DigestScheme::Sha256OfSecret,
        DigestScheme::Sha512,
    ] {
        peppers = peppers.accepting(scheme).unwrap();
    }
    let scheme = scheme().peppers(peppers);
    let gate = Gate::builder(&world.store, &scheme)
        .foreign_format(foreign("re_"))
        .foreign_format(foreign("").secret_after('|'))
        .foreign_format(foreign(""))
        .build()
        .unwrap();
    let admin = KeyAdmin::new(&world.store, &scheme);
    let ask = |key: &'static str| {
        let requirement = Arc::new(Requirement::new());
        match gate.check(&TestRequest::get().key(key), &requirement, None) {
            Decision::Ready(Verdict::Admit(_)) => true,
            Decision::Ready(Verdict::Refuse(_)) => false,
            Decision::Pending(_) => panic!("not decided at once"),
        }
    };
    let base64 = base64::prelude::BASE64_STANDARD;
    let url_safe = base64::prelude::BASE64_URL_SAFE_NO_PAD;
    for (key, scheme, kept) in [
        (
            unkey,
            DigestScheme::Sha256,
            base64.encode(Sha256::digest(unkey)),
        ),
        (
            better,
            DigestScheme::Sha256,
            url_safe.encode(Sha256::digest(better)),
        ),
        (
            sanctum,
            DigestScheme::Sha256OfSecret,
            hex(&Sha256::digest(&sanctum[3..])),
        ),
        (rest, DigestScheme::Sha512, hex(&Sha512::digest(rest))),
    ] {
        let digest = || KeyDigest::import(scheme.clone(), &kept).unwrap();
        assert!(!ask(key), "{key}");
        let record = block_on(admin.import(&world.user, world.new_key(), digest(), None)).unwrap();
        assert!(ask(key), "{key}");
        block_on(world.store.flush()).unwrap();
        let current = DigestScheme::parse("hmac-sha256:2026").unwrap();
        let stored = block_on(world.store.key(record.id)).unwrap().unwrap();
        assert_eq!(*stored.digest.scheme(), current);
        assert!(ask(key), "{key}");
        block_on(admin.revoke(&world.user, record.id, "")).unwrap();
        assert!(!ask(key), "{key}");
    }
    assert_eq!(
        block_on(admin.schemes(&operator())).unwrap(),
        [],
        "dead keys do not count"
    );
    for (scheme, text) in [
        (DigestScheme::Sha256, ""),
        (DigestScheme::Sha256, "zz"),
        (
            DigestScheme::Sha512,
            "ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0",
        ),
        (DigestScheme::Sha256, &"é".repeat(32)),
        (
            DigestScheme::parse("hmac-sha256:x").unwrap(),
            &"0".repeat(64),
        ),
    ] {
        assert!(KeyDigest::import(scheme, text).is_err(), "{text}");
    }
}

fn a_row_of_plain_sha256_is_imported_with_one_call_whatever_peppers_there_are(open: Open<'_>) {
    let key = "re_3ZMWxBfZNpGdcLXDRbyPA7QW";
    let row = format!("{:02x?}", Sha256::digest(key).as_slice());
    let row = row.replace(['[', ']', ',', ' '], "");
    let pepper = |id| Pepper::new(id, b"sixteen bytes or more").unwrap();
    let retired = Peppers::new(pepper("2026"))
        .retired(pepper("2025"))
        .unwrap();
    for (peppers, then) in [
        (Peppers::none(), "sha256"),
        (Peppers::new(pepper("2026")), "hmac-sha256:2026"),
        (retired, "hmac-sha256:2026"),
    ] {
        let world = World::new(open);
        let scheme = scheme().peppers(peppers.clone());
        let admin = KeyAdmin::new(&world.store, &scheme);
        let digest = KeyDigest::import(DigestScheme::Sha256, &row).unwrap();
        let imported = admin.import(&world.user, world.new_key(), digest, None);
        let record = block_on(imported).unwrap();
        assert_eq!(record.hint.to_string(), "…");
        let gate = Gate::builder(&world.store, &scheme)
            .foreign_format(ForeignFormat::new("re_").unwrap())
            .build()
            .unwrap();
        let ask = |key| {
            let decision = gate.check(
                &TestRequest::get().key(key),
                &Arc::new(Requirement::new()),
                None,
            );
            match decision {
                Decision::Ready(Verdict::Admit(admitted)) => match admitted.access {
                    Some(Access::Principal(principal)) => principal.hint().to_string(),
                    _ => panic!("{key}"),
                },
                _ => "refused".to_owned(),
            }
        };
        assert_eq!(ask("re_3ZMWxBfZNpGdcLXDRbyPA7Qw"), "refused");
        assert_eq!(ask(key), "…", "{peppers:?}");
        block_on(world.store.flush()).unwrap();
        assert_eq!(ask(key), "…", "after its first use");
        let view = block_on(admin.key(&world.user, record.id)).unwrap();
        assert_eq!(view.record.digest.scheme().to_string(), then);
        assert_eq!(view.record.hint, Hint::unknown());
    }
}

fn a_key_of_the_service_itself_is_not_found_under_a_digest_without_its_pepper(open: Open<'_>) {
    let world = World::new(open);
    let key = world.create(world.new_key()).key.unwrap();
    let peppers = Peppers::new(Pepper::new("2026", b"sixteen bytes or more").unwrap());
    let gate = Gate::builder(&world.store, &scheme().peppers(peppers))
        .foreign_format(ForeignFormat::new("").unwrap())
        .build()
        .unwrap();
    let decision = gate.check(
        &TestRequest::get().key(key.expose_secret()),
        &Arc::new(Requirement::new()),
        None,
    );
    assert!(matches!(decision, Decision::Ready(Verdict::Refuse(_))));
}

/// A request with a key.
fn a_key_that_died_with_all_others_is_not_switched_or_changed(open: Open<'_>) {
    let world = World::new(open);
    let id = world.create(world.new_key()).record.id;
    block_on(world.admin.revoke_all(&world.user, &world.acme, None, "")).unwrap();
    for outcome in [
        block_on(world.admin.enable(&world.user, id)).map(drop),
        block_on(world.admin.disable(&world.user, id)).map(drop),
        block_on(
            world
                .admin
                .update(&world.user, id, KeyChange::new().name("x")),
        )
        .map(drop),
        block_on(world.admin.rotate(&world.user, id, Grace::None)).map(drop),
    ] {
        assert_eq!(error_of(outcome), AdminErrorKind::Revoked);
    }
}

fn a_key_that_acts_keeps_to_its_environment_and_opens_nothing_wider(open: Open<'_>) {
    let world = World::new(open);
    let scopes = |scopes: &[&str]| Scopes::parse(scopes).unwrap();
    let test = NewKey::new(world.acme.clone(), Environment::TEST, "name");
    let test = world.create(test.scopes(scopes(&["api_keys.*"])));
    let actor = Actor::key(&world.ask(&test.key.unwrap()).unwrap());
    let live = world.create(world.new_key()).record.id;
    for outcome in [
        block_on(world.admin.key(&actor, live)).map(drop),
        block_on(world.admin.disable(&actor, live)).map(drop),
        block_on(world.admin.revoke(&actor, live, "")).map(drop),
    ] {
        assert_eq!(error_of(outcome), AdminErrorKind::UnknownKey);
    }
    for environment in [None, Some(Environment::LIVE)] {
        let all = world.admin.revoke_all(&actor, &world.acme, environment, "");
        assert_eq!(error_of(block_on(all)), AdminErrorKind::NotPermitted);
    }
    let keys = block_on(world.admin.keys(&actor, &world.acme, KeyFilter::new()))
        .unwrap()
        .keys;
    assert!(
        keys.iter()
            .all(|key| key.record.environment == Environment::TEST)
    );

    let actor = world.acting(&["api_keys.*"], |new| new);
    let wide = world
        .create(world.new_key().scopes(scopes(&["payouts"])))
        .record
        .id;
    block_on(world.admin.disable(&actor, wide)).unwrap();
    for outcome in [
        block_on(world.admin.enable(&actor, wide)),
        block_on(
            world
                .admin
                .update(&actor, wide, KeyChange::new().name("mine")),
        ),
    ] {
        assert_eq!(error_of(outcome), AdminErrorKind::TooWide);
    }
}

fn a_token_is_for_one_key_and_no_other(open: Open<'_>) {
    let world = World::new(open);
    let new = || world.new_key().token("retry");
    let id = world.create(new()).record.id;
    assert_eq!(world.create(new()).record.id, id);
    let other = new().scopes(Scopes::parse(["kyc"]).unwrap());
    let error = error_of(block_on(world.admin.create(&world.user, other)));
    assert_eq!(error, AdminErrorKind::Conflict);
    assert_eq!(world.last_line().refused, Some(AdminErrorKind::Conflict));
}

fn a_successor_keeps_to_the_services_bounds(open: Open<'_>) {
    let world = World::new(open);
    let id = world.create(world.new_key()).record.id;
    let hour = Duration::from_secs(3600);
    let bounded = world.admin.clone().max_lifetime(hour);
    let endless = Grace::For(Duration::MAX);
    assert_eq!(
        error_of(block_on(bounded.rotate(&world.user, id, endless))),
        AdminErrorKind::Expiry
    );
    let next = block_on(bounded.rotate(&world.user, id, Grace::None))
        .unwrap()
        .record;
    assert_eq!(next.expires_at, Some(world.after(3600)));
    let catalog = ScopeCatalog::new(["kyc"]).unwrap().one_per_key();
    let strict = KeyAdmin::new(&world.store, &scheme().catalog(catalog));
    let error = error_of(block_on(strict.rotate(&world.user, next.id, Grace::None)));
    assert_eq!(error, AdminErrorKind::Scopes);
    // This works in a full account: a key that ends at once makes room for its successor.
    let full = world.admin.clone().max_active_keys(0);
    block_on(full.rotate(&world.user, next.id, Grace::None)).unwrap();
}

fn a_successor_is_of_the_present_epoch_and_as_disabled_as_the_old_key(open: Open<'_>) {
    let world = World::new(open);
    block_on(world.admin.revoke_all(&world.user, &world.acme, None, "")).unwrap();
    let id = world.create(world.new_key()).record.id;
    block_on(world.admin.disable(&world.user, id)).unwrap();
    let next = block_on(world.admin.rotate(&world.user, id, Grace::None)).unwrap();
    let key = next.key.unwrap();
    assert_eq!(world.ask(&key).unwrap_err(), DenialKind::Disabled);
    block_on(world.admin.enable(&world.user, next.record.id)).unwrap();
    world.ask(&key).unwrap();
}

fn metadata_holds_no_key_however_it_is_written(open: Open<'_>) {
    let world = World::new(open);
    let secret = world.create(world.new_key()).key.unwrap();
    let escaped = secret.expose_secret().replace("vhk", "\\u0076hk");
    for text in [
        format!("{{\"a\":[\"{escaped}\"]}}"),
        format!("{{\"{escaped}\":1}}"),
        // Most parsers read the first; some see only the second.
        format!("{{\"a\":\"{escaped}\",\"a\":1}}"),
        format!("{{\"a\":[{{\"b\":{{\"c\":\"{escaped}\"}},\"b\":1}}]}}"),
    ] {
        let new = world.new_key().metadata(Metadata::stored(&text).unwrap());
        let error = error_of(block_on(world.admin.create(&world.user, new)));
        assert_eq!(error, AdminErrorKind::HoldsKey, "{text}");
    }
    let named = Actor::user(
        secret.expose_secret(),
        world.acme.clone(),
        [Permission::Update],
    );
    error_of(block_on(world.admin.key(&named, KeyId::random().unwrap())));
    assert_eq!(world.last_line().actor, "(a name that holds a key)");
}

fn usage_that_is_switched_off_is_not_counted(open: Open<'_>) {
    let world = World::new(open);
    let created = world.create(world.new_key());
    let gate = Gate::builder(&world.store, &scheme()).without_usage();
    let gate = gate.build().unwrap();
    let key = created.key.unwrap();
    gate.check(
        &TestRequest::get().key(key.expose_secret()),
        &Arc::new(Requirement::new()),
        None,
    );
    let view = block_on(world.admin.key(&world.user, created.record.id)).unwrap();
    assert_eq!(view.last_used_at, None);
    let span = SystemTime::UNIX_EPOCH..world.after(3600);
    let usage = block_on(world.admin.usage(&world.user, &world.acme, None, span)).unwrap();
    assert_eq!(usage, []);
}

fn a_request_that_is_refused_further_inside_counts_as_refused(open: Open<'_>) {
    let world = World::new(open);
    let created = world.create(world.new_key());
    let gate = Gate::new(&world.store, &scheme()).unwrap();
    let key = created.key.unwrap();
    let outer = match gate.check(
        &TestRequest::get().key(key.expose_secret()),
        &Arc::new(Requirement::new()),
        None,
    ) {
        Decision::Ready(Verdict::Admit(admitted)) => admitted.access,
        other => panic!("{other:?}"),
    };
    let Some(Access::Principal(outer)) = outer else {
        panic!("{outer:?}")
    };
    let inner = Arc::new(Requirement::new().scope("kyc"));
    gate.check(&TestRequest::get(), &inner, Some(&outer));
    let span = SystemTime::UNIX_EPOCH..world.after(3600);
    let usage = block_on(world.admin.usage(&world.user, &world.acme, None, span)).unwrap();
    assert_eq!(
        (
            usage[0].counts.admitted,
            usage[0].counts.refused,
            usage[0].billable()
        ),
        (0, 1, 0)
    );
}

/// A store in which something happens between a decision and its commit, which may be that it fails.
pub(super) struct Between {
    pub(super) store: Arc<dyn Store>,
    pub(super) happens: Mutex<Happens>,
}

pub(super) type Happens = Box<dyn FnMut() -> Result<(), StoreError> + Send>;

impl fmt::Debug for Between {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Between").finish_non_exhaustive()
    }
}

impl Store for Between {
    fn replica(&self) -> &Replica {
        self.store.replica()
    }

    fn commit(&self, commit: Commit) -> StoreFuture<'_, ()> {
        match (self.happens.lock().unwrap())() {
            Ok(()) => self.store.commit(commit),
            Err(error) => Box::pin(ready(Err(error))),
        }
    }

    fn account(&self, id: AccountId) -> StoreFuture<'_, Option<Account>> {
        self.store.account(id)
    }

    fn key(&self, id: KeyId) -> StoreFuture<'_, Option<KeyRecord>> {
        self.store.key(id)
    }

    fn keys(&self, query: KeyQuery) -> StoreFuture<'_, Vec<KeyRecord>> {
        self.store.keys(query)
    }

    fn accounts(&self, query: AccountQuery) -> StoreFuture<'_, Vec<Account>> {
        self.store.accounts(query)
    }

    fn created_with(&self, account: AccountId, token: String) -> StoreFuture<'_, Option<KeyId>> {
        self.store.created_with(account, token)
    }

    fn credits(&self, owner: CreditOwner) -> StoreFuture<'_, Option<Credits>> {
        self.store.credits(owner)
    }

    fn flush(&self) -> StoreFuture<'_, ()> {
        self.store.flush()
    }

    fn usage(&self, query: UsageQuery) -> StoreFuture<'_, Vec<KeyUsage>> {
        self.store.usage(query)
    }

    fn schemes(&self, now: SystemTime) -> StoreFuture<'_, Vec<(DigestScheme, u64)>> {
        self.store.schemes(now)
    }

    fn audit(&self, query: AuditQuery) -> StoreFuture<'_, Vec<AuditEntry>> {
        self.store.audit(query)
    }
}

fn a_key_that_dies_while_it_acts_has_done_nothing(open: Open<'_>) {
    type Act = fn(&KeyAdmin, &Actor, KeyId, &World) -> Result<(), AdminError>;
    let acts: [Act; 7] = [
        |admin, actor, _, _| {
            let all = admin.revoke_matching(actor, None, KeyFilter::new(), "", BulkMode::Commit);
            block_on(all).map(drop)
        },
        |admin, actor, _, world| block_on(admin.create(actor, world.new_key())).map(drop),
        |admin, actor, id, _| {
            block_on(admin.update(actor, id, KeyChange::new().name("x"))).map(drop)
        },
        |admin, actor, id, _| block_on(admin.disable(actor, id)).map(drop),
        |admin, actor, id, _| block_on(admin.revoke(actor, id, "")).map(drop),
        |admin, actor, id, _| block_on(admin.rotate(actor, id, Grace::None)).map(drop),
        |admin, actor, _, world| {
            block_on(admin.revoke_all(actor, &world.acme, Some(Environment::LIVE), ""))
        },
    ];
    for (act, suspends) in acts.into_iter().flat_map(|act| [(act, false), (act, true)]) {
        let world = World::new(open);
        let created = world.create(
            world
                .new_key()
                .scopes(Scopes::parse(["api_keys.*"]).unwrap()),
        );
        let actor = Actor::key(&world.ask(&created.key.unwrap()).unwrap());
        let id = world.create(world.new_key()).record.id;
        let before = block_on(world.store.key(id)).unwrap().unwrap();
        let (plain, key, acme) = (world.admin.clone(), created.record.id, world.acme.clone());
        let mut is_over = false;
        let happens = move || {
            let suspend = AccountChange::new().status(AccountStatus::Suspended);
            if mem::replace(&mut is_over, true) {
            } else if suspends {
                block_on(plain.update_account(&operator(), &acme, suspend)).unwrap();
            } else {
                block_on(plain.revoke(&operator(), key, "")).unwrap();
            }
            Ok(())
        };
        let between = Arc::new(Between {
            store: Arc::clone(&world.store),
            happens: Mutex::new(Box::new(happens)),
        });
        let admin = KeyAdmin::new(&between, &scheme());
        let error = error_of(act(&admin, &actor, id, &world));
        assert_eq!(error, AdminErrorKind::NotPermitted);
        assert_eq!(block_on(world.store.key(id)).unwrap().unwrap(), before);
        let account = block_on(world.store.account(world.acme.clone()))
            .unwrap()
            .unwrap();
        assert_eq!(account.epoch(Environment::LIVE), 0);
        let keys = block_on(world.admin.keys(&world.user, &world.acme, KeyFilter::new())).unwrap();
        assert_eq!(keys.keys.len(), 2, "none was created");
    }
}

fn a_publishable_key_manages_nothing_whatever_its_scopes(open: Open<'_>) {
    let world = World::new(open);
    let scopes = Scopes::parse(["api_keys.*"]).unwrap();
    let new = world.new_key().kind(KeyKind::Publishable).scopes(scopes);
    let key = world.create(new).key.unwrap();
    let gate = Gate::builder(&world.store, &scheme());
    let gate = gate
        .location(KeyLocation::x_api_key().publishable())
        .build()
        .unwrap();
    let requirement = Arc::new(Requirement::new().kinds([KeyKind::Publishable]));
    let principal = match gate.check(
        &TestRequest::get().key(key.expose_secret()),
        &requirement,
        None,
    ) {
        Decision::Ready(Verdict::Admit(Admitted {
            access: Some(Access::Principal(principal)),
            ..
        })) => principal,
        other => panic!("{other:?}"),
    };
    let actor = Actor::key(&principal);
    for refused in [
        block_on(world.admin.keys(&actor, &world.acme, KeyFilter::new())).map(drop),
        // Every visitor of the page has it.
        block_on(world.admin.revoke(&actor, principal.key_id(), "")).map(drop),
    ] {
        assert_eq!(error_of(refused), AdminErrorKind::NotPermitted);
    }
}

fn an_imported_key_counts_as_one_more(open: Open<'_>) {
    let world = World::new(open);
    let admin = world.admin.clone().max_active_keys(1);
    let import = |digit: &str| {
        let digest = KeyDigest::import(DigestScheme::Sha256, &digit.repeat(64)).unwrap();
        block_on(admin.import(&world.user, world.new_key(), digest, None))
    };
    import("1").unwrap();
    assert_eq!(error_of(import("2")), AdminErrorKind::TooManyKeys);
}

fn a_key_that_rotates_gives_no_longer_life_than_its_own(open: Open<'_>) {
    let world = World::new(open);
    let actor = world.acting(&["api_keys.*"], |new| new.expires_at(world.after(1000)));
    let id = world
        .create(world.new_key().expires_at(world.after(900)))
        .record
        .id;
    world.clock.advance(Duration::from_secs(500));
    let next = block_on(world.admin.rotate(&actor, id, Grace::None)).unwrap();
    assert_eq!(next.record.expires_at, Some(world.after(500)));
}

fn a_refused_revocation_keeps_no_reason(open: Open<'_>) {
    let world = World::new(open);
    let id = world.create(world.new_key()).record.id;
    let reader = user("acme", &[Permission::Read]);
    error_of(block_on(world.admin.revoke(&reader, id, "because")));
    error_of(block_on(world.admin.revoke_all(
        &reader,
        &world.acme,
        None,
        "because",
    )));
    let page = block_on(world.admin.audit(&world.user, Some(&world.acme), None)).unwrap();
    let refused: Vec<_> = page
        .entries
        .iter()
        .filter(|line| line.refused.is_some())
        .collect();
    assert_eq!(refused.len(), 2);
    assert!(
        refused
            .iter()
            .all(|line| line.reason.is_empty() && line.detail.is_empty())
    );
}

fn a_list_tells_all_there_is_to_tell_and_shows_traffic_move(open: Open<'_>) {
    let world = World::new(open);
    let test = NewKey::new(world.acme.clone(), Environment::TEST, "widget")
        .kind(KeyKind::Publishable)
        .scopes(Scopes::parse(["kyc"]).unwrap())
        .expires_at(world.after(500));
    world.create(test);
    world.clock.advance(Duration::from_secs(1));
    let old = world.create(world.new_key());
    world.clock.advance(Duration::from_secs(1));
    let grace = Grace::For(Duration::from_secs(60));
    let new = block_on(world.admin.rotate(&world.user, old.record.id, grace)).unwrap();
    let used = |key: &Option<ApiKey>| {
        world.clock.advance(Duration::from_secs(10));
        drop(world.ask(key.as_ref().unwrap()).unwrap());
        SystemTime::UNIX_EPOCH + world.clock.unix()
    };
    let (old_used, new_used) = (used(&old.key), used(&new.key));
    for flushed in [false, true] {
        if flushed {
            block_on(world.store.flush()).unwrap();
        }
        let list = |filter| block_on(world.admin.keys(&world.user, &world.acme, filter));
        let [new_view, old_view, widget] = &list(KeyFilter::new()).unwrap().keys[..] else {
            panic!("three keys")
        };
        assert_eq!(new_view.record.predecessor, Some(old_view.record.id));
        assert_eq!(old_view.record.successor, Some(new_view.record.id));
        assert_eq!(old_view.last_used_at, Some(old_used));
        assert_eq!(new_view.last_used_at, Some(new_used));
        let record = &widget.record;
        assert_eq!(record.name, "widget");
        assert!(record.hint.to_string().starts_with("vhk_test_…"));
        assert_eq!(record.environment, Environment::TEST);
        assert_eq!(record.kind, KeyKind::Publishable);
        assert!(record.scopes.iter().eq(["kyc"]));
        assert_eq!(record.created_at, SystemTime::UNIX_EPOCH + NOW);
        assert_eq!(
            record.expires_at,
            Some(SystemTime::UNIX_EPOCH + NOW + Duration::from_secs(500))
        );
        assert_eq!(
            (widget.state, widget.last_used_at),
            (KeyState::Active, None)
        );
        let of_test = list(KeyFilter::new().environment(Environment::TEST)).unwrap();
        assert_eq!(of_test.keys.as_slice(), std::slice::from_ref(widget));
        let active = KeyFilter::new().state(KeyState::Active);
        let of_live = list(active.environment(Environment::LIVE)).unwrap().keys;
        assert_eq!(of_live.len(), 2);
    }
    // Usage answers the same question, by hour.
    let span = SystemTime::UNIX_EPOCH..world.after(3600);
    let usage = block_on(world.admin.usage(&world.user, &world.acme, None, span)).unwrap();
    let mut counted: Vec<_> = usage
        .iter()
        .map(|hour| (hour.key, hour.counts.admitted))
        .collect();
    counted.sort_unstable();
    let mut expected = [(old.record.id, 1), (new.record.id, 1)];
    expected.sort_unstable();
    assert_eq!(counted, expected);
}

fn neither_a_revoked_nor_an_expired_key_is_rotated(open: Open<'_>) {
    let world = World::new(open);
    let revoked = world.create(world.new_key()).record.id;
    block_on(world.admin.revoke(&world.user, revoked, "")).unwrap();
    let expired = world.create(world.new_key().expires_at(world.after(10)));
    world.clock.advance(Duration::from_secs(10));
    for (id, kind) in [
        (revoked, AdminErrorKind::Revoked),
        (expired.record.id, AdminErrorKind::Expired),
    ] {
        for grace in [Grace::None, Grace::For(Duration::from_secs(60))] {
            let rotated = block_on(world.admin.rotate(&world.user, id, grace));
            assert_eq!(error_of(rotated), kind);
            assert_eq!(
                block_on(world.store.key(id)).unwrap().unwrap().successor,
                None
            );
        }
    }
}

fn metadata_is_a_bounded_json_object(open: Open<'_>) {
    let longest = format!(r#"{{"a":"{}"}}"#, "x".repeat(4096 - 8));
    assert!(Metadata::parse(&longest).is_ok());
    let kind = |text: &str| Metadata::parse(text).unwrap_err().kind();
    assert_eq!(kind(&format!("{longest} ")), ParseErrorKind::TooLong);
    for bad in ["", "null", "[1]", "\"a\"", "{a:1}", "{} {}", "{\"a\":}"] {
        assert_eq!(kind(bad), ParseErrorKind::Json, "{bad}");
    }
    for twice in [
        r#"{"a":1,"a":1}"#,
        r#"{"a":1,"\u0061":2}"#,
        r#"{"list":[{"a":{"b":1,"c":2,"b":3}}]}"#,
    ] {
        assert_eq!(kind(twice), ParseErrorKind::Repeated, "{twice}");
        assert_eq!(Metadata::stored(twice).unwrap().as_str(), twice);
    }
    let world = World::new(open);
    let metadata = Metadata::parse(r#"{"team":"Ünï"}"#).unwrap();
    let created = world.create(world.new_key().metadata(metadata.clone()));
    assert_eq!(created.record.metadata, metadata);
}
