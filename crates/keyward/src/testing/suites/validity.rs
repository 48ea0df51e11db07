//! The promises about the validity of keys, and about the actors that their records name.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::admin::{Actor, Grace, KeyChange};
use crate::clock::Clock;
use crate::denial::DenialKind;
use crate::gate::{Decision, Gate, Requirement, Verdict};
use crate::key::ApiKey;
use crate::record::{AdminErrorKind, AuditAction, KeyState};
use crate::reply::Reply;
use crate::scope::Permission;
use crate::store::Store;
use crate::testing::suites::Open;
use crate::testing::suites::key_lifecycle::{World, error_of, operator, scheme, user};
use crate::testing::{TestRequest, block_on};

/// Tests the promises about the validity of keys and the actors named in their records.
///
/// `open` opens a new, empty store on this clock, each time that it is called. The macro
/// [`suites!`](crate::testing::suites!) makes each promise a test of its own.
///
/// ```
/// use keyward::{MemoryStore, testing};
///
/// testing::suites::validity(MemoryStore::with_clock);
/// ```
///
/// # Panics
/// If the store breaks a promise.
pub fn validity<S: Store>(open: impl Fn(Arc<dyn Clock>) -> S) {
    let open: Open<'_> = &|clock| Arc::new(open(clock));
    crate::__validity_promises!(__run_promises open);
}

#[doc(hidden)]
#[macro_export]
macro_rules! __validity_promises {
    ($then:ident $($with:tt)*) => {
        $crate::$then! { [$($with)*] validity
            a_record_names_who_created_and_who_disabled_the_key
            a_name_that_holds_a_key_is_not_recorded
            a_key_is_never_accepted_before_its_start
            a_key_that_is_not_valid_yet_counts_as_an_active_one
            a_successor_starts_no_earlier_than_the_key_it_replaces
            a_shorter_life_takes_update_and_a_longer_one_create
            a_longer_life_keeps_to_the_bounds_of_the_service_and_of_an_acting_key
            an_expired_key_stays_expired
            a_secret_key_revokes_itself_and_no_other
        }
    };
}

/// The promises, one by one.
pub mod promises {
    crate::__validity_promises!(__publish_promises);
}

/// The time at which a world begins, in seconds since the Unix epoch.
const NOW: u64 = 1_700_000_000;

fn a_record_names_who_created_and_who_disabled_the_key(open: Open<'_>) {
    let world = World::new(open);
    let (admin, record) = (&world.admin, world.create(world.new_key()).record);
    assert_eq!(record.created_by.as_deref(), Some("user:ann"));
    let disabled = |actor: &Actor| block_on(admin.disable(actor, record.id)).unwrap();
    let name = |actor| disabled(actor).record.disabled_by_name;
    let bob = user("acme", &Permission::ALL);
    assert_eq!(name(&bob).as_deref(), Some("user:bob"));
    assert_eq!(name(&world.user).as_deref(), Some("user:bob"), "the first");
    assert_eq!(name(&operator()).as_deref(), Some("operator:ops"));
    let rotated = block_on(admin.rotate(&bob, record.id, Grace::None)).unwrap();
    assert_eq!(rotated.record.created_by.as_deref(), Some("user:bob"));
    let by = rotated.record.disabled_by_name.as_deref();
    assert_eq!(by, Some("operator:ops"), "disabled like the old key");
    let old = block_on(admin.key(&bob, record.id)).unwrap().record;
    assert_eq!(old.created_by.as_deref(), Some("user:ann"));
    assert_eq!((old.disabled_by, old.disabled_by_name), (None, None));
    let enabled = block_on(admin.enable(&operator(), rotated.record.id)).unwrap();
    assert_eq!(enabled.record.disabled_by_name, None);
    let actor = world.acting(&["api_keys.create"], |new| new);
    let by_key = block_on(admin.create(&actor, world.new_key())).unwrap();
    assert_eq!(by_key.record.created_by.as_deref(), Some(actor.name()));
}

fn a_name_that_holds_a_key_is_not_recorded(open: Open<'_>) {
    let world = World::new(open);
    let created = world.create(world.new_key());
    let key = created.key.unwrap();
    for name in [
        key.expose_secret().to_owned(),
        format!("a\n{}", "b".repeat(300)),
    ] {
        let actor = Actor::operator(&name);
        let new = block_on(world.admin.create(&actor, world.new_key())).unwrap();
        let disabled = block_on(world.admin.disable(&actor, new.record.id)).unwrap();
        let line = world.last_line().actor;
        assert!(!line.contains(key.expose_secret()) && line.chars().count() <= 200);
        assert_eq!(new.record.created_by.as_ref(), Some(&line));
        assert_eq!(disabled.record.disabled_by_name, Some(line));
    }
}

fn refused(world: &World, key: &ApiKey) -> (DenialKind, Reply) {
    let gate = Gate::new(&world.store, &scheme()).unwrap();
    let request = TestRequest::get().key(key.expose_secret());
    match gate.check(&request, &Arc::new(Requirement::new()), None) {
        Decision::Ready(Verdict::Refuse(refusal)) => {
            (refusal.denial.unwrap().kind(), refusal.reply)
        }
        other => panic!("{other:?}"),
    }
}

fn a_key_is_never_accepted_before_its_start(open: Open<'_>) {
    let world = World::new(open);
    let start = world.after(10) + Duration::from_nanos(1);
    let created = world.create(world.new_key().not_before(start));
    assert_eq!(
        created.record.not_before,
        Some(world.after(11)),
        "rounded up"
    );
    let key = created.key.unwrap();
    let expired = world
        .create(world.new_key().expires_at(world.after(10)))
        .key;
    let state = || {
        block_on(world.admin.key(&world.user, created.record.id))
            .unwrap()
            .state
    };
    world.clock.advance(Duration::from_millis(10_999));
    let (early, late) = (refused(&world, &key), refused(&world, &expired.unwrap()));
    assert_eq!(
        (early.0, late.0),
        (DenialKind::NotYetValid, DenialKind::Expired)
    );
    assert_eq!(early.1, late.1, "the same response");
    assert_eq!(state(), KeyState::NotYetValid);
    world.clock.advance(Duration::from_millis(1));
    world.ask(&key).unwrap();
    assert_eq!(state(), KeyState::Active);

    let far = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 33);
    for (start, end) in [(5, 5), (6, 5)] {
        let new = world.new_key().not_before(world.after(start));
        let created = block_on(
            world
                .admin
                .create(&world.user, new.expires_at(world.after(end))),
        );
        assert_eq!(error_of(created), AdminErrorKind::Expiry);
    }
    // Beyond what 32 bits of seconds can tell.
    let later = world.create(world.new_key().not_before(far)).key.unwrap();
    world.clock.advance(Duration::from_secs(1 << 32));
    assert_eq!(world.ask(&later).unwrap_err(), DenialKind::NotYetValid);
}

fn a_key_that_is_not_valid_yet_counts_as_an_active_one(open: Open<'_>) {
    let world = World::new(open);
    let admin = world.admin.clone().max_active_keys(1);
    world.create(world.new_key().not_before(world.after(10)));
    let another = block_on(admin.create(&world.user, world.new_key()));
    assert_eq!(error_of(another), AdminErrorKind::TooManyKeys);
}

fn a_successor_starts_no_earlier_than_the_key_it_replaces(open: Open<'_>) {
    let world = World::new(open);
    let new = world.new_key().not_before(world.after(10));
    let id = world.create(new.expires_at(world.after(20))).record.id;
    let next = block_on(world.admin.rotate(&world.user, id, Grace::None)).unwrap();
    assert_eq!(next.record.not_before, Some(world.after(10)));
    let (key, id) = (next.key.unwrap(), next.record.id);
    assert_eq!(world.ask(&key).unwrap_err(), DenialKind::NotYetValid);
    // A bound of the service that would leave it no time.
    let short = world.admin.clone().max_lifetime(Duration::from_secs(10));
    let rotated = block_on(short.rotate(&world.user, id, Grace::None));
    assert_eq!(error_of(rotated), AdminErrorKind::Expiry);
    world.clock.advance(Duration::from_secs(10));
    world.ask(&key).unwrap();
}

fn a_shorter_life_takes_update_and_a_longer_one_create(open: Open<'_>) {
    let world = World::new(open);
    let created = world.create(world.new_key().expires_at(world.after(100)));
    let (id, key) = (created.record.id, created.key.unwrap());
    let editor = user("acme", &[Permission::Update]);
    let update = |actor: &Actor, change| {
        let updated = block_on(world.admin.update(actor, id, change));
        updated
            .map(|view| (view.record.not_before, view.record.expires_at))
            .map_err(|error| error.kind())
    };
    let (end, start) = (
        KeyChange::new().expires_at(Some(world.after(50))),
        world.after(20),
    );
    assert_eq!(update(&editor, end), Ok((None, Some(world.after(50)))));
    assert_eq!(world.last_line().detail, format!("expires_at={}", NOW + 50));
    let later = KeyChange::new().not_before(Some(start - Duration::from_millis(1)));
    assert_eq!(
        update(&editor, later),
        Ok((Some(start), Some(world.after(50))))
    );
    assert_eq!(world.last_line().detail, format!("not_before={}", NOW + 20));
    assert_eq!(world.ask(&key).unwrap_err(), DenialKind::NotYetValid);
    for (wider, stored) in [
        (
            KeyChange::new().expires_at(Some(world.after(51))),
            (Some(start), Some(world.after(51))),
        ),
        (KeyChange::new().expires_at(None), (Some(start), None)),
        (
            KeyChange::new().not_before(Some(world.after(19))),
            (Some(world.after(19)), None),
        ),
        (KeyChange::new().not_before(None), (None, None)),
    ] {
        assert_eq!(update(&editor, wider.clone()), Err(AdminErrorKind::TooWide));
        assert_eq!(update(&world.user, wider), Ok(stored));
    }
    assert_eq!(world.last_line().detail, "not_before=none");
    world.ask(&key).unwrap();
    // A name alone is no such change.
    update(&editor, KeyChange::new().name("new")).unwrap();
    assert_eq!(world.last_line().detail, "");
    for empty in [
        KeyChange::new().expires_at(Some(world.after(0))),
        KeyChange::new()
            .expires_at(Some(world.after(9)))
            .not_before(Some(world.after(9))),
    ] {
        assert_eq!(update(&world.user, empty), Err(AdminErrorKind::Expiry));
    }
}

fn a_longer_life_keeps_to_the_bounds_of_the_service_and_of_an_acting_key(open: Open<'_>) {
    let world = World::new(open);
    let id = world
        .create(world.new_key().expires_at(world.after(100)))
        .record
        .id;
    let bounded = world.admin.clone().max_lifetime(Duration::from_secs(200));
    let manager = world.acting(&["api_keys.*"], |new| new.expires_at(world.after(150)));
    let update = |actor: &Actor, end| {
        let change = KeyChange::new().expires_at(end);
        let updated = block_on(bounded.update(actor, id, change));
        updated.map(drop).map_err(|error| error.kind())
    };
    // Of the creation, and not of now: or it would be no bound.
    world.clock.advance(Duration::from_secs(50));
    let created = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW);
    let after = |seconds| Some(created + Duration::from_secs(seconds));
    assert_eq!(update(&world.user, after(201)), Err(AdminErrorKind::Expiry));
    assert_eq!(update(&world.user, None), Err(AdminErrorKind::Expiry));
    assert_eq!(update(&manager, after(151)), Err(AdminErrorKind::TooWide));
    assert_eq!(update(&manager, after(150)), Ok(()));
    assert_eq!(update(&world.user, after(200)), Ok(()));
    // A key from before the bound may be shortened to beyond it.
    let old = world.create(world.new_key()).record.id;
    let change = KeyChange::new().expires_at(after(1000));
    block_on(bounded.update(&world.user, old, change)).unwrap();
}

fn an_expired_key_stays_expired(open: Open<'_>) {
    let world = World::new(open);
    let created = world.create(world.new_key().expires_at(world.after(10)));
    world.clock.advance(Duration::from_secs(10));
    for end in [Some(world.after(10)), None] {
        let change = KeyChange::new().expires_at(end);
        let updated = block_on(world.admin.update(&operator(), created.record.id, change));
        assert_eq!(error_of(updated), AdminErrorKind::Expired);
    }
    let denied = world.ask(&created.key.unwrap()).unwrap_err();
    assert_eq!(denied, DenialKind::Expired);
}

fn a_secret_key_revokes_itself_and_no_other(open: Open<'_>) {
    let world = World::new(open);
    let [own, other] = [(); 2].map(|()| world.create(world.new_key()));
    let key = own.key.unwrap();
    let actor = Actor::key(&world.ask(&key).unwrap());
    let foreign = block_on(world.admin.revoke(&actor, other.record.id, ""));
    assert_eq!(error_of(foreign), AdminErrorKind::NotPermitted);
    let view = block_on(world.admin.revoke(&actor, own.record.id, "lost")).unwrap();
    assert_eq!(
        (view.state, &*view.record.revoked_for),
        (KeyState::Revoked, "lost")
    );
    assert_eq!(world.ask(&key).unwrap_err(), DenialKind::Revoked);
    let line = world.last_line();
    assert_eq!(
        (line.actor, line.key),
        (format!("key:{}", own.record.id), Some(own.record.id))
    );
    assert_eq!((line.action, line.refused), (AuditAction::Revoke, None));
    // Dead, it does nothing more.
    let again = block_on(world.admin.revoke(&actor, own.record.id, ""));
    assert_eq!(error_of(again), AdminErrorKind::NotPermitted);
    world.ask(&other.key.unwrap()).unwrap();
}
