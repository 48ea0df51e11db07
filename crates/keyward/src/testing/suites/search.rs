//! The promises about lists, searches and bulk revocation.

use std::cmp::Reverse;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256, Sha512};

use crate::admin::{
    AccountFilter, Actor, AdminError, BulkMode, CreatedKey, Grace, KeyAdmin, KeyFilter, NewKey,
};
use crate::clock::{Clock, ManualClock};
use crate::environment::Environment;
use crate::ids::{AccountId, KeyId};
use crate::key::{DigestScheme, Hint, KeyDigest, KeyFormat, KeyKind, Pepper, Peppers};
use crate::record::{
    Account, AccountStatus, AdminErrorKind, AuditAction, KeyRecord, KeyState, KeyStatus,
};
use crate::scheme::KeyScheme;
use crate::scope::{Permission, Scopes};
use crate::store::{
    AccountQuery, AuditQuery, Commit, KeyCursor, KeyQuery, KeySearch, Store, StoreError,
    StoreErrorKind,
};
use crate::testing::block_on;
use crate::testing::suites::Open;
use crate::testing::suites::key_lifecycle::{Between, World, error_of, operator, scheme, user};

/// Tests lists and searches of keys and accounts, and the revocation of all keys that match.
///
/// `open` opens a new, empty store on this clock, each time that it is called. The macro
/// [`suites!`](crate::testing::suites!) makes each promise a test of its own.
///
/// ```
/// use keyward::{MemoryStore, testing};
///
/// testing::suites::search(MemoryStore::with_clock);
/// ```
///
/// # Panics
/// If the store breaks a promise.
pub fn search<S: Store>(open: impl Fn(Arc<dyn Clock>) -> S) {
    let open: Open<'_> = &|clock| Arc::new(open(clock));
    crate::__search_promises!(__run_promises open);
}

#[doc(hidden)]
#[macro_export]
macro_rules! __search_promises {
    ($then:ident $($with:tt)*) => {
        $crate::$then! { [$($with)*] search
            every_search_and_filter_lists_what_matches_in_order_and_nothing_else
            pages_stay_right_when_keys_are_added_between_them
            accounts_are_listed_by_id_page_by_page
            only_an_operator_lists_accounts
            a_key_counts_as_used_when_it_was_created_until_it_is_used
            a_key_is_found_by_what_is_visible_of_it
            a_whole_key_is_found_under_every_digest_that_it_may_have
            a_search_shows_an_actor_nothing_that_it_may_not_see
            a_dry_run_counts_what_the_commit_then_revokes
            an_actor_revokes_within_its_reach_and_not_itself
            a_bulk_revocation_that_was_interrupted_is_completed_by_a_repeat
        }
    };
}

/// The promises, one by one.
pub mod promises {
    crate::__search_promises!(__publish_promises);
}

const BEGAN: Duration = Duration::from_millis(1_700_000_000_123);

fn at(millis: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + BEGAN + Duration::from_millis(millis)
}

fn id(text: &str) -> AccountId {
    AccountId::parse(text).unwrap()
}

fn put(store: &dyn Store, owner: &str, change: impl FnOnce(&mut KeyRecord)) -> KeyRecord {
    let key = KeyFormat::new("vhk_{env}_")
        .unwrap()
        .generate(Environment::LIVE);
    let (key, own) = (key.unwrap(), KeyId::random().unwrap());
    let (digest, hint) = (Peppers::none().digest(&key), key.hint().clone());
    let mut record = KeyRecord::new(own, digest, hint, id(owner), Environment::LIVE, at(0));
    change(&mut record);
    let commit = Commit {
        keys: vec![record],
        ..Commit::default()
    };
    block_on(store.commit(commit)).unwrap();
    block_on(store.key(own)).unwrap().unwrap()
}

/// Reads all pages of a query, and calls `between` after each.
fn pages(
    store: &dyn Store,
    query: &KeyQuery,
    mut between: impl FnMut(&KeyRecord),
) -> Vec<KeyRecord> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let query = KeyQuery {
            after,
            ..query.clone()
        };
        let page = block_on(store.keys(query.clone())).unwrap();
        assert!(page.len() <= query.limit);
        let Some(last) = page.last() else {
            return found;
        };
        between(last);
        after = Some(KeyCursor::parse(&query.position(last).to_string()).unwrap());
        found.extend(page);
    }
}

/// Returns keys of three accounts that differ in everything that can be searched for.
fn keys_of_all_sorts(store: &dyn Store) -> Vec<KeyRecord> {
    let mut rows: Vec<KeyRecord> = Vec::new();
    let names = ["Prod", "prod", "PRODUCTION", "prÖd", "prod", "a_b%c", "'x'"];
    let hints = [
        "vhk_live_…abcd",
        "vhk_test_…abcd",
        "…abcd",
        "vhk_live_…Abcd",
        "…",
    ];
    let scopes = [&["a"][..], &["a", "b"], &["r.*"], &["r.x", "a"], &[]];
    for n in 0..84_u64 {
        let of = |all: usize| usize::try_from(n).unwrap() % all;
        let first = rows.get(of(7)).filter(|_| n % 3 == 0);
        let lineage = first.map(|first| first.id);
        let row = put(store, ["a", "b", "c"][of(3)], |key| {
            // Four of the same millisecond: the id decides.
            key.created_at = at(n / 4);
            names[of(7)].clone_into(&mut key.name);
            key.hint = Hint::parse(hints[of(5)]).unwrap();
            key.scopes = Scopes::parse(scopes[of(5)].iter().copied()).unwrap();
            key.lineage = lineage.unwrap_or(key.id);
            key.created_by = [None, Some("user:ann"), Some("key:x")][of(3)].map(str::to_owned);
            key.expires_at = (n % 4 > 0).then(|| at(100_000 * (n % 4)));
            key.not_before = (n % 6 == 0).then(|| at(150_000));
            if n % 2 > 0 {
                key.environment = Environment::TEST;
            }
            if n % 8 > 5 {
                key.kind = KeyKind::Publishable;
            }
            key.epoch = u32::from(n % 11 > 0);
            key.status = match n % 9 {
                0 => KeyStatus::Revoked,
                1 => KeyStatus::Disabled,
                _ => KeyStatus::Active,
            };
        });
        rows.push(row);
    }
    rows
}

fn open_accounts(store: &dyn Store) -> Vec<Account> {
    let mut accounts: Vec<_> = ["a", "b", "c"].map(|own| Account::new(id(own))).into();
    accounts[1].revoked_all = 1;
    let commit = Commit {
        accounts: accounts.clone(),
        ..Commit::default()
    };
    block_on(store.commit(commit)).unwrap();
    accounts
}

fn hint(text: &str) -> KeySearch {
    KeySearch::Hint(Hint::parse(text).unwrap())
}

/// Returns searches of [`keys_of_all_sorts`], some of which find nothing.
fn searches(all: &[KeyRecord]) -> Vec<KeySearch> {
    let name = |text: &str| KeySearch::Name(text.to_owned());
    let nobody = KeyId::random().unwrap();
    let odd = KeyDigest::new(DigestScheme::Sha256, [7; 32]);
    vec![
        hint("…abcd"),
        hint("vhk_…abcd"),
        hint("vhk_live_…abcd"),
        hint("vhk_live_x…abcd"),
        hint("…"),
        name(""),
        name("pROD"),
        name("prÖ"),
        name("prö"),
        name("a_"),
        name("a__"),
        name("%"),
        name("'"),
        KeySearch::Id(all[7].id),
        KeySearch::Id(nobody),
        KeySearch::Lineage(all[3].id),
        KeySearch::Lineage(all[12].lineage),
        KeySearch::Lineage(nobody),
        KeySearch::Digest(vec![]),
        KeySearch::Digest(vec![odd, all[7].digest.clone()]),
    ]
}

/// Returns filters of [`keys_of_all_sorts`].
fn filters() -> Vec<KeyQuery> {
    let scopes = |all: &[&str]| Scopes::parse(all.iter().copied()).unwrap();
    let base = KeyQuery::newest(at(120_000), 5);
    vec![
        base.clone(),
        KeyQuery {
            kind: Some(KeyKind::Publishable),
            ..base.clone()
        },
        KeyQuery {
            scopes: scopes(&["a"]),
            ..base.clone()
        },
        KeyQuery {
            scopes: scopes(&["b", "a"]),
            ..base.clone()
        },
        KeyQuery {
            scopes: scopes(&["r.*"]),
            ..base.clone()
        },
        KeyQuery {
            created_by: Some("user:ann".to_owned()),
            ..base.clone()
        },
        KeyQuery {
            created_by: Some("user:an".to_owned()),
            ..base.clone()
        },
        KeyQuery {
            expires_before: Some(at(200_000)),
            ..base.clone()
        },
        KeyQuery {
            unused_since: Some(at(11)),
            ..base.clone()
        },
        KeyQuery {
            state: Some(KeyState::NotYetValid),
            ..base.clone()
        },
        KeyQuery {
            state: Some(KeyState::Active),
            scopes: scopes(&["a"]),
            unused_since: Some(at(12) + Duration::from_nanos(1)),
            expires_before: Some(at(300_000)),
            ..base
        },
    ]
}

fn every_search_and_filter_lists_what_matches_in_order_and_nothing_else(open: Open<'_>) {
    let store = &open(Arc::new(ManualClock::at(BEGAN)));
    let accounts = open_accounts(store);
    let all = keys_of_all_sorts(store);
    let searches = searches(&all).into_iter().map(Some);
    let searches: Vec<_> = searches.chain([None]).collect();
    let mut lengths = Vec::new();
    for search in &searches {
        for filter in &filters() {
            for account in [None, Some("a"), Some("b"), Some("nobody")] {
                for environment in [None, Some(Environment::TEST)] {
                    let query = KeyQuery {
                        search: search.clone(),
                        account: account.map(id),
                        environment,
                        ..filter.clone()
                    };
                    let owner = |key: &KeyRecord| {
                        let owner = accounts.iter().find(|own| own.id == key.account);
                        owner.unwrap().clone()
                    };
                    let wanted = all.iter().filter(|key| query.wants(key, &owner(key)));
                    let mut wanted: Vec<_> = wanted.collect();
                    wanted.sort_by_key(|key| Reverse(query.position(key)));
                    let found = pages(store, &query, |_| {});
                    assert!(found.iter().eq(wanted), "{query:?}");
                    lengths.push(found.len());
                }
            }
        }
    }
    assert!(lengths.contains(&84) && lengths.contains(&0) && lengths.contains(&1));
}

fn pages_stay_right_when_keys_are_added_between_them(open: Open<'_>) {
    for search in [
        None,
        Some(KeySearch::Hint(Hint::parse("…abcd").unwrap())),
        Some(KeySearch::Name("prod".to_owned())),
    ] {
        let store = &open(Arc::new(ManualClock::at(BEGAN)));
        open_accounts(store);
        let all = keys_of_all_sorts(store);
        let query = KeyQuery {
            search,
            ..KeyQuery::newest(at(0), 4)
        };
        let before = pages(store, &query, |_| {});
        assert!(before.len() > 12 && before.len() <= all.len());
        let mut added = Vec::new();
        let found = pages(store, &query, |last| {
            for created_at in [at(1000), last.created_at] {
                added.push(put(store, "a", |key| {
                    (key.created_at, key.hint) = (created_at, last.hint.clone());
                    key.name.clone_from(&last.name);
                }));
            }
            assert!(added.len() < 500, "the pages come to an end");
        });
        let is_old = |key: &&KeyRecord| added.iter().all(|new| new.id != key.id);
        assert!(found.iter().filter(is_old).eq(&before));
    }
}

fn accounts_are_listed_by_id_page_by_page(open: Open<'_>) {
    let store = &open(Arc::new(ManualClock::at(BEGAN)));
    let ids = ["a", "A", "a-1", "a-2", "a-10", "a~", "b", "a%", "a-2~~"];
    let accounts = ids.map(|own| {
        let mut account = Account::new(id(own));
        if own.len() == 3 {
            account.status = AccountStatus::Suspended;
        }
        account
    });
    let commit = Commit {
        accounts: accounts.to_vec(),
        ..Commit::default()
    };
    block_on(store.commit(commit)).unwrap();
    for prefix in ["", "a", "a-", "a-2", "A", "a%", "a~", "a~~", "c"] {
        for status in [
            None,
            Some(AccountStatus::Active),
            Some(AccountStatus::Suspended),
        ] {
            let (mut found, mut after) = (Vec::new(), None);
            loop {
                let query = AccountQuery {
                    prefix: prefix.to_owned(),
                    status,
                    after,
                    limit: 2,
                };
                let page = block_on(store.accounts(query)).unwrap();
                assert!(page.len() <= 2);
                let Some(last) = page.last() else { break };
                after = Some(last.id.clone());
                found.extend(page.into_iter().map(|account| account.id));
            }
            let wanted = accounts.iter().filter(|account| {
                account.id.as_str().starts_with(prefix)
                    && status.is_none_or(|status| account.status == status)
            });
            let mut wanted: Vec<_> = wanted.map(|account| account.id.clone()).collect();
            wanted.sort();
            assert_eq!(found, wanted, "{prefix} {status:?}");
        }
    }
}

fn only_an_operator_lists_accounts(open: Open<'_>) {
    let world = World::new(open);
    let list = |actor: &Actor, filter| block_on(world.admin.accounts(actor, filter));
    let key = world.acting(&["api_keys.*"], |new| new);
    for actor in [&world.user, &key] {
        let error = error_of(list(actor, AccountFilter::new()));
        assert_eq!(error, AdminErrorKind::NotPermitted);
    }
    let line = world.last_line();
    assert_eq!(
        (line.action, line.refused.is_some()),
        (AuditAction::Read, true)
    );
    let first = list(&operator(), AccountFilter::new().limit(1)).unwrap();
    assert_eq!(
        (first.accounts[0].id.as_str(), first.next.as_ref()),
        ("acme", Some(&world.acme))
    );
    let rest = list(&operator(), AccountFilter::new().after(world.acme.clone())).unwrap();
    assert_eq!((rest.accounts[0].id.as_str(), rest.next), ("other", None));
}

/// Returns the ids of the keys that an actor lists.
fn listed(
    admin: &KeyAdmin,
    actor: &Actor,
    account: Option<&AccountId>,
    filter: KeyFilter,
) -> Vec<KeyId> {
    let page = block_on(admin.keys(actor, account, filter)).unwrap();
    page.keys.iter().map(|view| view.record.id).collect()
}

fn a_key_counts_as_used_when_it_was_created_until_it_is_used(open: Open<'_>) {
    let world = World::new(open);
    let [idle, busy] = [(); 2].map(|()| world.create(world.new_key()));
    world.clock.advance(Duration::from_secs(100));
    let middle = world.after(0);
    let young = world.create(world.new_key()).record.id;
    world.clock.advance(Duration::from_secs(100));
    // What is still counted in memory counts too.
    world.ask(&busy.key.unwrap()).unwrap();
    let unused = |since| {
        let filter = KeyFilter::new().unused_since(since);
        listed(&world.admin, &world.user, None, filter)
    };
    assert_eq!(unused(middle), [idle.record.id]);
    assert_eq!(
        unused(middle + Duration::from_secs(1)),
        [young, idle.record.id]
    );
    assert_eq!(unused(world.after(1)).len(), 3);
}

fn a_key_is_found_by_what_is_visible_of_it(open: Open<'_>) {
    let world = World::new(open);
    let created = world.create(world.new_key());
    let (record, hint) = (&created.record, &created.record.hint);
    for _ in 0..5 {
        foreign_key(&world);
    }
    let find = |search| {
        listed(
            &world.admin,
            &operator(),
            None,
            KeyFilter::new().search(search),
        )
    };
    let parsed = |text: String| KeySearch::Hint(Hint::parse(&text).unwrap());
    assert_eq!(find(KeySearch::Hint(hint.clone())), [record.id]);
    assert_eq!(find(parsed(format!("…{}", hint.last()))), [record.id]);
    assert_eq!(find(parsed(format!("vhk_…{}", hint.last()))), [record.id]);
    assert_eq!(find(parsed(format!("vhk_test_…{}", hint.last()))), []);
    assert_eq!(find(KeySearch::Id(record.id)), [record.id]);
    let next = block_on(world.admin.rotate(&world.user, record.id, Grace::None)).unwrap();
    let chain = find(KeySearch::Lineage(record.id));
    assert!(chain.len() == 2 && chain.contains(&record.id) && chain.contains(&next.record.id));
    assert_eq!(find(KeySearch::Lineage(next.record.id)), []);
    let gone = KeyFilter::new().state(KeyState::Revoked);
    let gone = gone.search(KeySearch::Lineage(record.id));
    assert_eq!(listed(&world.admin, &operator(), None, gone), [record.id]);
}

/// Creates a key in another account.
fn foreign_key(world: &World) -> CreatedKey {
    let new = NewKey::new(id("other"), Environment::LIVE, "name");
    block_on(world.admin.create(&operator(), new)).unwrap()
}

fn a_whole_key_is_found_under_every_digest_that_it_may_have(open: Open<'_>) {
    let world = World::new(open);
    let pepper = |own: &str| Pepper::new(own, format!("sixteen bytes or more {own}").as_bytes());
    let peppers = |current| Peppers::new(pepper(current).unwrap());
    let old = KeyScheme::new(KeyFormat::new("vhk_{env}_").unwrap()).peppers(peppers("2025"));
    let now = peppers("2026");
    // Its end has come, and the key is as leaked as before.
    let now = now.retired_until(pepper("2025").unwrap(), SystemTime::UNIX_EPOCH);
    let now = now.unwrap().accepting(DigestScheme::Sha512).unwrap();
    let now = now.accepting(DigestScheme::Sha256OfSecret).unwrap();
    let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_").unwrap()).peppers(now);
    let admin = |scheme: &KeyScheme| KeyAdmin::new(&world.store, scheme);
    let find = |text: &str| {
        let filter = KeyFilter::new().search(KeySearch::of_key(&scheme, text));
        listed(&admin(&scheme), &operator(), None, filter)
    };
    for made_by in [&old, &scheme] {
        let made = block_on(admin(made_by).create(&world.user, world.new_key())).unwrap();
        let key = made.key.unwrap();
        assert_eq!(
            find(&format!(" {}\n", key.expose_secret())),
            [made.record.id]
        );
        assert_eq!(find(&key.expose_secret()[1..]), []);
    }
    // Made elsewhere, by plain digests and by one of the part after a separator.
    let own = admin(&scheme);
    for (text, kind, hex) in [
        (
            "re_3ZMWxBfZNpGdcLXDRbyPA7QW",
            DigestScheme::Sha256,
            hex_of(&Sha256::digest("re_3ZMWxBfZNpGdcLXDRbyPA7QW")),
        ),
        (
            "12|kq6iJPYFEFCZ1gJSmrfJ0xX9sYdM7Tz7",
            DigestScheme::Sha256OfSecret,
            hex_of(&Sha256::digest("kq6iJPYFEFCZ1gJSmrfJ0xX9sYdM7Tz7")),
        ),
        (
            "pre.fix-0123456789abcdef",
            DigestScheme::Sha512,
            hex_of(&Sha512::digest("pre.fix-0123456789abcdef")),
        ),
    ] {
        let digest = KeyDigest::import(kind, &hex).unwrap();
        let imported = block_on(own.import(&world.user, world.new_key(), digest, None));
        assert_eq!(find(text), [imported.unwrap().id], "{text}");
    }
}

fn hex_of(bytes: &[u8]) -> String {
    format!("{bytes:02x?}").replace(['[', ']', ',', ' '], "")
}

fn a_search_shows_an_actor_nothing_that_it_may_not_see(open: Open<'_>) {
    let world = World::new(open);
    let foreign = foreign_key(&world);
    let test = NewKey::new(world.acme.clone(), Environment::TEST, "name");
    let test = world.create(test);
    let own = world.create(world.new_key());
    let manager = world.acting(&["api_keys.read"], |new| new);
    let sees = |actor: &Actor, account: Option<&AccountId>, created: &CreatedKey| {
        let (record, key) = (&created.record, created.key.as_ref().unwrap());
        let searches = [
            KeySearch::Id(record.id),
            KeySearch::Lineage(record.id),
            KeySearch::Hint(record.hint.clone()),
            KeySearch::of_key(&scheme(), key.expose_secret()),
        ];
        let found = searches.map(|search| {
            let filter = KeyFilter::new().search(search);
            let found = listed(&world.admin, actor, account, filter);
            assert!(found.is_empty() || found == [record.id]);
            !found.is_empty()
        });
        let by_name = KeyFilter::new().search(KeySearch::Name("NAME".to_owned()));
        let by_name = listed(&world.admin, actor, account, by_name).contains(&record.id);
        assert_eq!(found, [by_name; 4]);
        by_name
    };
    for account in [None, Some(&world.acme)] {
        let all = [&foreign, &test, &own];
        assert_eq!(
            all.map(|key| sees(&world.user, account, key)),
            [false, true, true]
        );
        assert_eq!(
            all.map(|key| sees(&manager, account, key)),
            [false, false, true]
        );
        let operators = account.is_none();
        assert_eq!(
            all.map(|key| sees(&operator(), account, key)),
            [operators, true, true]
        );
    }
    let no_reader = user("acme", &[Permission::Create]);
    for (actor, account, kind) in [
        (&no_reader, None, AdminErrorKind::NotPermitted),
        (&world.user, Some("other"), AdminErrorKind::UnknownAccount),
        (&operator(), Some("nobody"), AdminErrorKind::UnknownAccount),
    ] {
        let account = account.map(id);
        let page = block_on(world.admin.keys(actor, account.as_ref(), KeyFilter::new()));
        assert_eq!(error_of(page), kind);
    }
}

fn revoke(
    admin: &KeyAdmin,
    actor: &Actor,
    account: Option<&AccountId>,
    filter: &KeyFilter,
    mode: BulkMode,
) -> Result<u64, AdminError> {
    block_on(admin.revoke_matching(actor, account, filter.clone(), "cleared", mode))
}

fn a_dry_run_counts_what_the_commit_then_revokes(open: Open<'_>) {
    let world = World::new(open);
    // More than one commit.
    let commit = Commit {
        accounts: vec![Account::new(id("many"))],
        ..Commit::default()
    };
    block_on(world.store.commit(commit)).unwrap();
    let hint = Hint::parse("…").unwrap();
    let records = (0..600_u32).map(|n| {
        let mut bytes = [1; 32];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        let digest = KeyDigest::new(DigestScheme::Sha256, bytes);
        let own = KeyId::random().unwrap();
        let mut record = KeyRecord::new(
            own,
            digest,
            hint.clone(),
            id("many"),
            Environment::LIVE,
            at(0),
        );
        record.created_by = Some(["user:ann", "user:bob"][n as usize % 2].to_owned());
        if n % 10 == 1 {
            record.status = KeyStatus::Revoked;
            "before".clone_into(&mut record.revoked_for);
        }
        if n % 10 == 3 {
            record.expires_at = Some(at(0));
        }
        record
    });
    let commit = Commit {
        keys: records.collect(),
        ..Commit::default()
    };
    block_on(world.store.commit(commit)).unwrap();
    let filter = KeyFilter::new().created_by("user:bob").limit(7);
    let run = |mode| revoke(&world.admin, &operator(), None, &filter, mode).unwrap();
    assert_eq!(run(BulkMode::DryRun), 240);
    let lines = || block_on(world.store.audit(AuditQuery::newest(10_000))).unwrap();
    let before = lines().len();
    assert_eq!(run(BulkMode::Commit), 240);
    assert_eq!([BulkMode::DryRun, BulkMode::Commit].map(run), [0, 0]);
    let all = pages(&world.store, &KeyQuery::newest(at(0), 1000), |_| {});
    let cleared: Vec<_> = all
        .iter()
        .filter(|key| key.revoked_for == "cleared")
        .collect();
    assert_eq!(cleared.len(), 240);
    assert!(
        cleared
            .iter()
            .all(|key| key.revoked_at == Some(world.after(0)))
    );
    let others = all.iter().filter(|key| key.status == KeyStatus::Revoked);
    assert_eq!(
        others.count(),
        240 + 60,
        "and those that were revoked before"
    );
    // Each is in the audit log, once.
    let mut lines = lines();
    lines.truncate(lines.len() - before);
    assert_eq!(lines.len(), 240);
    for key in cleared {
        let line = lines.iter().find(|line| line.key == Some(key.id)).unwrap();
        assert_eq!(
            (line.action, &*line.actor),
            (AuditAction::Revoke, "operator:ops")
        );
        assert_eq!((&*line.detail, &*line.reason), ("matching", "cleared"));
        assert_eq!(line.account.as_ref(), Some(&key.account));
        assert_eq!(line.environment, Some(key.environment));
    }
}

fn an_actor_revokes_within_its_reach_and_not_itself(open: Open<'_>) {
    let world = World::new(open);
    let foreign = foreign_key(&world).record.id;
    let test = NewKey::new(world.acme.clone(), Environment::TEST, "name");
    let (test, own) = (
        world.create(test).record.id,
        world.create(world.new_key()).record.id,
    );
    let manager = world.acting(&["api_keys.revoke"], |new| new);
    let (admin, all) = (&world.admin, KeyFilter::new());
    let is_revoked = |key| {
        let view = block_on(admin.key(&operator(), key)).unwrap();
        view.state == KeyState::Revoked
    };
    let reader = user("acme", &[Permission::Read, Permission::Update]);
    for mode in [BulkMode::DryRun, BulkMode::Commit] {
        let error = error_of(revoke(admin, &reader, None, &all, mode));
        assert_eq!(error, AdminErrorKind::NotPermitted);
        assert_eq!(world.last_line().refused, Some(error));
        let error = error_of(revoke(admin, &world.user, Some(&id("other")), &all, mode));
        assert_eq!(error, AdminErrorKind::UnknownAccount);
        assert_eq!(world.last_line().account.as_ref(), Some(&world.acme));
        let long = "x".repeat(501);
        let long = admin.revoke_matching(&world.user, None, all.clone(), &long, mode);
        assert_eq!(error_of(block_on(long)), AdminErrorKind::TooLong);
    }
    let elsewhere = all.clone().environment(Environment::TEST);
    let run = |actor: &Actor, filter, mode| revoke(admin, actor, None, filter, mode).unwrap();
    assert_eq!(run(&manager, &elsewhere, BulkMode::Commit), 0);
    for mode in [BulkMode::DryRun, BulkMode::Commit] {
        assert_eq!(run(&manager, &all, mode), 1);
    }
    assert_eq!([own, test, foreign].map(is_revoked), [true, false, false]);
    // The manager's own key and the one of the test environment.
    assert_eq!(run(&world.user, &all, BulkMode::Commit), 2);
    assert_eq!([own, test, foreign].map(is_revoked), [true, true, false]);
    assert_eq!(
        error_of(revoke(admin, &manager, None, &all, BulkMode::Commit)),
        AdminErrorKind::NotPermitted
    );
}

fn a_bulk_revocation_that_was_interrupted_is_completed_by_a_repeat(open: Open<'_>) {
    let world = World::new(open);
    let hint = Hint::parse("…").unwrap();
    let keys = (0..600_u32).map(|n| {
        let mut bytes = [1; 32];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        let digest = KeyDigest::new(DigestScheme::Sha256, bytes);
        let own = KeyId::random().unwrap();
        let (acme, live) = (world.acme.clone(), Environment::LIVE);
        KeyRecord::new(own, digest, hint.clone(), acme, live, at(0))
    });
    let commit = Commit {
        keys: keys.collect(),
        ..Commit::default()
    };
    block_on(world.store.commit(commit)).unwrap();
    let mut left = 1;
    let store = Arc::new(Between {
        store: Arc::clone(&world.store),
        happens: Mutex::new(Box::new(move || {
            left -= 1;
            let failed = StoreError::new(StoreErrorKind::Unavailable);
            if left < 0 { Err(failed) } else { Ok(()) }
        })),
    });
    let (all, commit) = (KeyFilter::new(), BulkMode::Commit);
    let admin = KeyAdmin::new(&store, &scheme());
    let error = error_of(revoke(&admin, &world.user, None, &all, commit));
    assert_eq!(error, AdminErrorKind::Store);
    let rest = || revoke(&world.admin, &world.user, None, &all, BulkMode::DryRun).unwrap();
    let before = rest();
    assert!(0 < before && before < 600, "{before}");
    assert_eq!(
        revoke(&world.admin, &world.user, None, &all, commit).unwrap(),
        before
    );
    assert_eq!(rest(), 0);
    let lines = block_on(world.store.audit(AuditQuery::newest(10_000))).unwrap();
    let noted = lines.iter().filter(|line| line.detail == "matching");
    assert_eq!(noted.filter(|line| line.key.is_some()).count(), 600);
}
