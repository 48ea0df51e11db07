//! The promises of every store, for any keys and accounts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crate::address::AddressPolicy;
use crate::clock::{Clock, SystemClock};
use crate::credits::{CreditOwner, Credits, Refill};
use crate::denial::DenialKind;
use crate::environment::Environment;
use crate::gate::{Finish, Gate, Requirement, Verdict};
use crate::ids::{AccountId, KeyId};
use crate::key::{ApiKey, DigestScheme, Hint, KeyDigest, KeyFormat, KeyKind, Pepper, Peppers};
use crate::limit::{RateLimit, RateLimits};
use crate::origin::OriginPolicy;
use crate::record::{
    Account, AccountStatus, AdminErrorKind, AuditAction, AuditEntry, DisabledBy, KeyRecord,
    KeyState, KeyStatus, Metadata,
};
use crate::scheme::KeyScheme;
use crate::scope::Scopes;
use crate::store::{
    ActiveKeys, AuditQuery, Commit, CreateToken, CreditChange, KeyCursor, KeyQuery, Store,
    StoreErrorKind,
};
use crate::testing::suites::Open;
use crate::testing::{TestRequest, block_on, decided};
use crate::usage::UsageQuery;

/// Tests what the gate and the admin rely on: commits are atomic, in force when they return, and conflict
/// where something has changed.
///
/// `open` opens a new, empty store on this clock, each time that it is called. The macro
/// [`suites!`](crate::testing::suites!) makes each promise a test of its own.
///
/// ```
/// use keyward::{MemoryStore, testing};
///
/// testing::suites::store(MemoryStore::with_clock);
/// ```
///
/// # Panics
/// If the store breaks a promise.
pub fn store<S: Store>(open: impl Fn(Arc<dyn Clock>) -> S) {
    let open: Open<'_> = &|clock| Arc::new(open(clock));
    crate::__store_promises!(__run_promises open);
}

#[doc(hidden)]
#[macro_export]
macro_rules! __store_promises {
    ($then:ident $($with:tt)*) => {
        $crate::$then! { [$($with)*] store
            gives_back_what_was_committed
            an_unknown_name_is_no_error
            a_commit_is_in_force_when_it_returns
            an_account_rules_its_keys
            refuses_what_is_at_odds_with_what_is_stored
            of_two_changes_at_once_one_wins
            writes_only_where_nothing_has_changed
            makes_a_first_account_only_where_there_is_none
            keeps_the_bound_of_active_keys
            lists_keys_page_by_page
            a_token_stands_for_one_key
            the_audit_trail_only_grows
            counts_every_use_once
            digests_a_key_anew
            keeps_balances_of_credits
            gives_out_credits_and_takes_them_back
            takes_refunded_credits_back_at_once
        }
    };
}

/// The promises, one by one.
pub mod promises {
    crate::__store_promises!(__publish_promises);
}

fn gives_back_what_was_committed(open: Open<'_>) {
    let store = &open(Arc::new(SystemClock));
    let mut account = account("acme");
    account.api_access = false;
    account.max_active_keys = Some(0);
    account.revoked_all = 7;
    account.credits = Some(u32::MAX);
    account.rate_limits = RateLimits::parse("10/1;20 1000/86400;5").unwrap();
    account.shared_rate_limits = RateLimit::per_hour(1).into();
    account.revoked = BTreeMap::from([(Environment::TEST, 3), (environment("eu-1"), 1)]);
    let (_, mut full) = key("acme", environment("eu-1"));
    full.name = "Ünïcode 'quoted' \"name\"\n\0".into();
    full.kind = KeyKind::Publishable;
    full.scopes = Scopes::parse(["kyc", "reports.*"]).unwrap();
    full.origins = OriginPolicy::listed(["bücher.example", "http://*.localhost:*"])
        .unwrap()
        .or_no_origin();
    full.addresses = AddressPolicy::listed(["2001:db8::/32", "10.0.0.0/8", "192.0.2.1"]).unwrap();
    full.credits = Some(3);
    full.rate_limits = RateLimit::per_minute(100).burst(200).into();
    full.metadata = Metadata::parse("{\"ü\":[1,null]}").unwrap();
    full.epoch = 8;
    full.status = KeyStatus::Disabled;
    full.disabled_by = Some(DisabledBy::User);
    full.disabled_by_name = Some("user:Ünn 'o' \"x\"".into());
    full.created_by = Some("operator:ops".into());
    full.not_before = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000));
    full.expires_at = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(u64::from(u32::MAX) * 2));
    full.revoked_at = Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_456));
    full.revoked_for = "posted in a 'chat'".into();
    let (_, plain) = key("acme", Environment::LIVE);
    full.lineage = plain.id;
    full.predecessor = Some(plain.id);
    full.successor = Some(plain.id);
    commit(store, [&account], [&full, &plain]).unwrap();

    for scheme in ["sha256", "sha256-of-secret", "sha512", "hmac-sha256:2026.1"] {
        let (_, mut record) = key("acme", Environment::LIVE);
        let bytes = *record.digest.expose_bytes();
        record.digest = KeyDigest::new(DigestScheme::parse(scheme).unwrap(), bytes);
        record.hint = Hint::unknown();
        commit(store, [], [&record]).unwrap();
        let stored = stored_key(store, record.id);
        assert_eq!((stored.digest, stored.hint), (record.digest, record.hint));
    }
    account.revision = stored_account(store, &account.id).revision;
    assert!(account.revision > 0, "a stored account has a revision");
    assert_eq!(stored_account(store, &account.id), account);
    for mut record in [full, plain] {
        let stored = stored_key(store, record.id);
        assert!(stored.revision > 0, "a stored key has a revision");
        record.revision = stored.revision;
        assert_eq!(stored, record);
    }
}

fn an_unknown_name_is_no_error(open: Open<'_>) {
    let store = &open(Arc::new(SystemClock));
    assert_eq!(block_on(store.key(KeyId::random().unwrap())).unwrap(), None);
    let nobody = AccountId::parse("nobody").unwrap();
    assert_eq!(block_on(store.account(nobody)).unwrap(), None);
}

fn a_commit_is_in_force_when_it_returns(open: Open<'_>) {
    let store = &open(Arc::new(SystemClock));
    commit(store, [&account("acme")], []).unwrap();
    let (secret, record) = key("acme", Environment::LIVE);
    assert_eq!(ask(store, &secret), Err(DenialKind::Unknown));
    commit(store, [], [&record]).unwrap();
    assert_eq!(ask(store, &secret), Ok(()));

    for (status, answer) in [
        (KeyStatus::Disabled, Err(DenialKind::Disabled)),
        (KeyStatus::Active, Ok(())),
        (KeyStatus::Revoked, Err(DenialKind::Revoked)),
    ] {
        let mut record = stored_key(store, record.id);
        record.status = status;
        commit(store, [], [&record]).unwrap();
        assert!(stored_key(store, record.id).revision > record.revision);
        assert_eq!(ask(store, &secret), answer, "{status:?}");
    }
}

fn an_account_rules_its_keys(open: Open<'_>) {
    let store = &open(Arc::new(SystemClock));
    let (secret, record) = key("acme", Environment::LIVE);
    let (others, other) = key("other", Environment::LIVE);
    commit(
        store,
        [&account("acme"), &account("other")],
        [&record, &other],
    )
    .unwrap();
    let change = |change: &dyn Fn(&mut Account)| {
        let mut account = stored_account(store, &record.account);
        change(&mut account);
        commit(store, [&account], []).unwrap();
        assert_eq!(ask(store, &others), Ok(()), "another account's key");
        ask(store, &secret)
    };
    let suspended = change(&|account| account.status = AccountStatus::Suspended);
    assert_eq!(suspended, Err(DenialKind::AccountInactive));
    assert_eq!(
        change(&|account| account.status = AccountStatus::Active),
        Ok(())
    );
    let downgraded = change(&|account| account.api_access = false);
    assert_eq!(downgraded, Err(DenialKind::NoApiAccess));
    assert_eq!(change(&|account| account.api_access = true), Ok(()));
    let next = |environment| {
        move |account: &mut Account| {
            account.revoked.insert(environment, 1);
        }
    };
    assert_eq!(change(&next(Environment::TEST)), Ok(()));
    assert_eq!(change(&next(Environment::LIVE)), Err(DenialKind::Revoked));

    let (secret, mut record) = key("acme", Environment::LIVE);
    record.epoch = 1;
    commit(store, [], [&record]).unwrap();
    assert_eq!(ask(store, &secret), Ok(()), "a key of the new epoch");
}

fn refuses_what_is_at_odds_with_what_is_stored(open: Open<'_>) {
    let store = &open(Arc::new(SystemClock));
    let (_, stored) = key("acme", Environment::LIVE);
    commit(store, [&account("acme")], [&stored]).unwrap();
    let current = stored_key(store, stored.id);
    let odd = |change: &dyn Fn(&mut KeyRecord)| {
        let mut record = current.clone();
        change(&mut record);
        record
    };
    let (_, fresh) = key("acme", Environment::LIVE);
    let (_, orphan) = key("nobody", Environment::LIVE);
    for (why, record) in [
        ("made anew", odd(&|record| record.revision = 0)),
        ("an older version", odd(&|record| record.revision -= 1)),
        ("a version to come", odd(&|record| record.revision += 1)),
        (
            "a digest that is taken",
            odd(&|record| {
                record.id = fresh.id;
                record.revision = 0;
            }),
        ),
        (
            "a digest that changes",
            odd(&|record| record.digest = fresh.digest.clone()),
        ),
        ("an account that is not there", orphan),
    ] {
        // Beside it a row that is right: all or nothing.
        let (secret, right) = key("acme", Environment::LIVE);
        let error = commit(store, [&account("new")], [&right, &record]).unwrap_err();
        assert_eq!(error, StoreErrorKind::Conflict, "{why}");
        assert_eq!(block_on(store.key(right.id)).unwrap(), None, "{why}");
        assert_eq!(ask(store, &secret), Err(DenialKind::Unknown), "{why}");
        assert_eq!(stored_key(store, stored.id), current, "{why}");
    }
    let (_, twice) = key("acme", Environment::LIVE);
    let error = commit(store, [], [&twice, &twice]).unwrap_err();
    assert_eq!(error, StoreErrorKind::Conflict, "the same key twice");
    let error = commit(store, [&account("acme")], []).unwrap_err();
    assert_eq!(error, StoreErrorKind::Conflict, "an account made anew");
}

fn of_two_changes_at_once_one_wins(open: Open<'_>) {
    let store = &open(Arc::new(SystemClock));
    let (_, record) = key("acme", Environment::LIVE);
    commit(store, [&account("acme")], [&record]).unwrap();
    let current = stored_key(store, record.id);
    let change = |n: u32| {
        let mut record = current.clone();
        record.name = n.to_string();
        commit(store, [], [&record]).is_ok().then_some(record.name)
    };
    let winners: Vec<_> = thread::scope(|threads| {
        let all: Vec<_> = (0..8).map(|n| threads.spawn(move || change(n))).collect();
        all.into_iter()
            .filter_map(|thread| thread.join().unwrap())
            .collect()
    });
    assert_eq!(winners, [stored_key(store, record.id).name]);
}

fn writes_only_where_nothing_has_changed(open: Open<'_>) {
    let store = &open(Arc::new(SystemClock));
    let (_, record) = key("acme", Environment::LIVE);
    commit(store, [&account("acme")], [&record]).unwrap();
    let owner = stored_account(store, &record.account);
    let current = stored_key(store, record.id);
    let unknown = KeyId::random().unwrap();
    for (accounts, keys, outcome) in [
        (
            vec![(owner.id.clone(), owner.revision)],
            vec![(current.id, current.revision)],
            Ok(()),
        ),
        (
            vec![(owner.id.clone(), owner.revision + 1)],
            vec![],
            Err(StoreErrorKind::Conflict),
        ),
        (
            vec![(owner.id.clone(), 0)],
            vec![],
            Err(StoreErrorKind::Conflict),
        ),
        (
            vec![],
            vec![(current.id, current.revision - 1)],
            Err(StoreErrorKind::Conflict),
        ),
        (vec![], vec![(unknown, 1)], Err(StoreErrorKind::Conflict)),
    ] {
        let (_, new) = key("acme", Environment::LIVE);
        let new_id = new.id;
        let commit = Commit {
            keys: vec![new],
            unchanged_accounts: accounts,
            unchanged_keys: keys,
            ..Commit::default()
        };
        assert_eq!(write(store, commit), outcome);
        assert_eq!(
            block_on(store.key(new_id)).unwrap().is_some(),
            outcome.is_ok()
        );
    }
}

fn makes_a_first_account_only_where_there_is_none(open: Open<'_>) {
    let store = &open(Arc::new(SystemClock));
    let first = |id: &str| {
        let accounts = vec![account(id)];
        write(
            store,
            Commit {
                accounts,
                first: true,
                ..Commit::default()
            },
        )
    };
    first("acme").unwrap();
    assert_eq!(first("other"), Err(StoreErrorKind::Conflict));
    commit(store, [&account("other")], []).unwrap();
}

fn keeps_the_bound_of_active_keys(open: Open<'_>) {
    let store = &open(Arc::new(SystemClock));
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let mut owner = account("acme");
    owner.revoked_all = 1;
    commit(store, [&owner, &account("other")], []).unwrap();
    let create = |change: &dyn Fn(&mut KeyRecord), at_most| {
        let (_, mut record) = key("acme", Environment::LIVE);
        record.epoch = 1;
        change(&mut record);
        let account = owner.id.clone();
        let active_keys = Some(ActiveKeys {
            account,
            at_most,
            now,
        });
        write(
            store,
            Commit {
                keys: vec![record],
                active_keys,
                ..Commit::default()
            },
        )
    };
    let full = Err(StoreErrorKind::TooManyKeys);
    assert_eq!(create(&|_| {}, 0), full);
    assert_eq!(create(&|key| key.status = KeyStatus::Disabled, 0), full);
    let later = Some(now + Duration::from_secs(1));
    assert_eq!(create(&|key| key.not_before = later, 0), full);
    // None of these is active.
    create(&|key| key.status = KeyStatus::Revoked, 0).unwrap();
    create(&|key| key.expires_at = Some(now), 0).unwrap();
    create(&|key| key.epoch = 0, 0).unwrap();
    let other = AccountId::parse("other").unwrap();
    create(&|key| key.account = other.clone(), 0).unwrap();
    // One short of the bound: of many at once, one fits.
    create(
        &|key| key.expires_at = Some(now + Duration::from_secs(1)),
        1,
    )
    .unwrap();
    let done: usize = thread::scope(|threads| {
        let all: Vec<_> = (0..8)
            .map(|_| threads.spawn(|| create(&|_| {}, 2)))
            .collect();
        all.into_iter()
            .map(|thread| usize::from(thread.join().unwrap().is_ok()))
            .sum()
    });
    assert_eq!(done, 1);
    assert_eq!(create(&|_| {}, 2), full);
    create(&|_| {}, 3).unwrap();
}

fn lists_keys_page_by_page(open: Open<'_>) {
    let store = &open(Arc::new(SystemClock));
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let mut owner = account("acme");
    owner.revoked.insert(Environment::TEST, 1);
    commit(store, [&owner, &account("other")], []).unwrap();
    let mut all = Vec::new();
    for n in 0..30_u64 {
        let environment = if n % 2 == 0 {
            Environment::LIVE
        } else {
            Environment::TEST
        };
        let (_, mut record) = key("acme", environment);
        // Pairs of the same moment: the id decides.
        record.created_at =
            SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_000 + n / 2);
        record.epoch = u32::from(n % 3 == 0);
        record.status = match n % 5 {
            0 => KeyStatus::Disabled,
            1 => KeyStatus::Revoked,
            _ => KeyStatus::Active,
        };
        record.expires_at = (n % 7 == 0).then_some(now);
        record.not_before = (n % 4 == 0).then_some(now + Duration::from_secs(n / 8));
        commit(store, [], [&record]).unwrap();
        all.push(stored_key(store, record.id));
    }
    let (_, others) = key("other", Environment::LIVE);
    commit(store, [], [&others]).unwrap();
    all.sort_unstable_by_key(|key| std::cmp::Reverse(KeyCursor::of(key)));
    let owner = stored_account(store, &owner.id);
    let states = [
        KeyState::Active,
        KeyState::Disabled,
        KeyState::Revoked,
        KeyState::Expired,
        KeyState::NotYetValid,
    ];
    for state in states.map(Some).into_iter().chain([None]) {
        for environment in [None, Some(Environment::LIVE), Some(Environment::TEST)] {
            let query = |after| KeyQuery {
                account: Some(owner.id.clone()),
                environment,
                state,
                after,
                ..KeyQuery::newest(now, 4)
            };
            let wanted: Vec<_> = all
                .iter()
                .filter(|key| query(None).wants(key, &owner))
                .collect();
            let mut found = Vec::new();
            let mut after = None;
            loop {
                let page = block_on(store.keys(query(after))).unwrap();
                assert!(page.len() <= 4);
                let Some(last) = page.last() else { break };
                after = Some(KeyCursor::of(last));
                found.extend(page);
            }
            assert!(found.iter().eq(wanted), "{state:?} {environment:?}");
        }
    }
    let nobody = KeyQuery {
        account: Some(AccountId::parse("nobody").unwrap()),
        ..KeyQuery::newest(now, 1)
    };
    assert_eq!(block_on(store.keys(nobody)).unwrap(), []);
}

fn a_token_stands_for_one_key(open: Open<'_>) {
    let store = &open(Arc::new(SystemClock));
    commit(store, [&account("acme"), &account("other")], []).unwrap();
    let create = |owner: &str, token: &str| {
        let (_, record) = key(owner, Environment::LIVE);
        let token = CreateToken {
            account: record.account.clone(),
            token: token.into(),
            key: record.id,
        };
        let id = record.id;
        let token = Some(token);
        write(
            store,
            Commit {
                keys: vec![record],
                token,
                ..Commit::default()
            },
        )
        .map(|()| id)
    };
    let find = |owner: &str, token: &str| {
        block_on(store.created_with(AccountId::parse(owner).unwrap(), token.into())).unwrap()
    };
    assert_eq!(find("acme", "t"), None);
    let id = create("acme", "t").unwrap();
    assert_eq!(find("acme", "t"), Some(id));
    assert_eq!(create("acme", "t"), Err(StoreErrorKind::Conflict));
    assert_eq!(find("acme", "t"), Some(id));
    assert_eq!(find("acme", "T"), None);
    assert_eq!(find("other", "t"), None);
    create("other", "t").unwrap();
    create("acme", "'").unwrap();
}

fn the_audit_trail_only_grows(open: Open<'_>) {
    let store = &open(Arc::new(SystemClock));
    let owner = AccountId::parse("acme").unwrap();
    let mut written = Vec::new();
    for n in 0..9_u64 {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_000 + n);
        let mut line = AuditEntry::new(at, "ünì 'x'", AuditAction::RevokeAll);
        line.account = (n % 3 > 0).then(|| owner.clone());
        line.environment = match n % 4 {
            0 => None,
            2 => Some(Environment::TEST),
            _ => Some(Environment::LIVE),
        };
        line.key = (n % 2 > 0).then(|| KeyId::random().unwrap());
        line.refused = (n % 4 > 0).then_some(AdminErrorKind::TooManyKeys);
        line.detail = format!("detail {n}");
        line.reason = format!("reason {n}");
        write(
            store,
            Commit {
                audit: vec![line.clone()],
                ..Commit::default()
            },
        )
        .unwrap();
        written.push(line);
    }
    // A commit that conflicts leaves no line.
    let (_, orphan) = key("nobody", Environment::LIVE);
    let audit = vec![written[0].clone()];
    write(
        store,
        Commit {
            keys: vec![orphan],
            audit,
            ..Commit::default()
        },
    )
    .unwrap_err();

    let audit = |store: &Arc<dyn Store>, query| block_on(store.audit(query)).unwrap();
    let newest = || AuditQuery::newest(100);
    let all = audit(store, newest());
    assert!(all.windows(2).all(|pair| pair[0].number > pair[1].number));
    let without_number = all.iter().rev().map(|line| AuditEntry {
        number: 0,
        ..line.clone()
    });
    assert!(without_number.eq(written.iter().cloned()));
    let own: Vec<_> = all
        .iter()
        .filter(|line| line.account.is_some())
        .cloned()
        .collect();
    assert_eq!(
        audit(
            store,
            AuditQuery {
                account: Some(owner.clone()),
                ..newest()
            }
        ),
        own
    );
    let page = AuditQuery {
        account: Some(owner.clone()),
        before: Some(own[1].number),
        limit: 2,
        ..newest()
    };
    assert_eq!(audit(store, page), own[2..4]);
    for environment in [Environment::LIVE, Environment::TEST, environment("eu-1")] {
        for account in [Some(owner.clone()), None] {
            let query = AuditQuery {
                account,
                environment: Some(environment),
                ..newest()
            };
            let wanted: Vec<_> = all
                .iter()
                .filter(|line| query.wants(line))
                .cloned()
                .collect();
            assert_eq!(wanted.is_empty(), environment.as_str() == "eu-1");
            assert_eq!(audit(store, query), wanted);
        }
    }
}

fn counts_every_use_once(open: Open<'_>) {
    let store = &open(Arc::new(SystemClock));
    let (secret, record) = key("acme", Environment::LIVE);
    let (others, _) = key("other", Environment::TEST);
    let (tests, test) = key("acme", Environment::TEST);
    commit(
        store,
        [&account("acme"), &account("other")],
        [&record, &test],
    )
    .unwrap();
    let query = |account: &str, environment, hours: std::ops::Range<u64>| {
        let account = AccountId::parse(account).unwrap();
        let query = UsageQuery {
            environment,
            ..UsageQuery::of(Some(account), hours)
        };
        let hours = block_on(store.usage(query)).unwrap();
        hours
            .iter()
            .fold((0, 0, 0), |(admitted, refused, billable), hour| {
                (
                    admitted + hour.counts.admitted,
                    refused + hour.counts.refused,
                    billable + hour.billable(),
                )
            })
    };
    let ever = 0..u64::MAX >> 1;
    (0..3).for_each(|_| ask(store, &secret).unwrap());
    ask(store, &others).unwrap_err(); // Unknown: it counts for nobody.
    ask(store, &tests).unwrap_err(); // On a live route.
    block_on(store.flush()).unwrap();
    assert_eq!(query("acme", None, ever.clone()), (3, 1, 3));
    let used = stored_key(store, record.id).last_used_at.unwrap();
    let now = SystemTime::UNIX_EPOCH + store.replica().clock().unix();
    assert!(now.duration_since(used).unwrap() < Duration::from_secs(60));
    assert_eq!(
        stored_key(store, test.id).last_used_at,
        None,
        "it was never let in"
    );

    block_on(store.flush()).unwrap();
    assert_eq!(
        query("acme", None, ever.clone()),
        (3, 1, 3),
        "flushed again"
    );
    let mut record = stored_key(store, record.id);
    record.last_used_at = None;
    record.status = KeyStatus::Revoked;
    commit(store, [], [&record]).unwrap();
    assert_eq!(
        stored_key(store, record.id).last_used_at,
        Some(used),
        "a commit leaves it"
    );
    ask(store, &secret).unwrap_err();
    block_on(store.flush()).unwrap();
    assert_eq!(query("acme", None, ever.clone()), (3, 2, 3));
    assert_eq!(
        stored_key(store, record.id).last_used_at,
        Some(used),
        "a refusal is no use"
    );
    assert_eq!(
        query("acme", Some(Environment::LIVE), ever.clone()),
        (3, 1, 3)
    );
    assert_eq!(
        query("acme", Some(Environment::TEST), ever.clone()),
        (0, 1, 0)
    );
    assert_eq!(query("other", None, ever), (0, 0, 0));
    let hour = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs()
        / 3600;
    assert_eq!(query("acme", None, hour + 2..hour + 9), (0, 0, 0));
    assert_eq!(query("acme", None, 0..hour - 2), (0, 0, 0));
}

fn digests_a_key_anew(open: Open<'_>) {
    let store = &open(Arc::new(SystemClock));
    let pepper = |id| Pepper::new(id, format!("the secret of {id}").as_bytes()).unwrap();
    let (secret, mut record) = key("acme", Environment::LIVE);
    let (others, other) = key("acme", Environment::LIVE);
    record.digest = Peppers::new(pepper("old")).digest(&secret);
    commit(store, [&account("acme")], [&record, &other]).unwrap();
    let schemes = || {
        let mut schemes = block_on(store.schemes(SystemTime::UNIX_EPOCH)).unwrap();
        schemes.sort_by_key(|(scheme, _)| scheme.to_string());
        schemes
            .into_iter()
            .map(|(scheme, n)| format!("{scheme} {n}"))
            .collect::<Vec<_>>()
    };
    assert_eq!(schemes(), ["hmac-sha256:old 1", "sha256 1"]);
    let both = Peppers::new(pepper("new"))
        .retired(pepper("old"))
        .unwrap()
        .accepting(DigestScheme::Sha256)
        .unwrap();
    let gate = Gate::new(store, &scheme().peppers(both)).unwrap();
    let ask = |key| ask_gate(&gate, key);
    assert_eq!(ask(&secret), Ok(()));
    assert_eq!(
        schemes(),
        ["hmac-sha256:old 1", "sha256 1"],
        "not before the flush"
    );
    block_on(store.flush()).unwrap();
    assert_eq!(schemes(), ["hmac-sha256:new 1", "sha256 1"]);
    assert_eq!(stored_key(store, record.id).redigested, 1);
    assert_eq!((ask(&secret), ask(&others)), (Ok(()), Ok(())));
    block_on(store.flush()).unwrap();
    assert_eq!(schemes(), ["hmac-sha256:new 2"]);
    assert_eq!(store.replica().len(), 2, "nothing is left where it was");

    let mut record = stored_key(store, record.id);
    record.status = KeyStatus::Revoked;
    commit(store, [], [&record]).unwrap();
    assert_eq!(ask(&secret), Err(DenialKind::Revoked), "under every pepper");
    assert_eq!(ask(&others), Ok(()));
}

fn keeps_balances_of_credits(open: Open<'_>) {
    let store = &open(Arc::new(SystemClock));
    commit(store, [&account("acme")], []).unwrap();
    let id = AccountId::parse("acme").unwrap();
    let owner = CreditOwner::Account(id.clone());
    let stored = |owner: &CreditOwner| block_on(store.credits(owner.clone())).unwrap();
    let change = |change| {
        let commit = Commit {
            credits: Some(change),
            ..Commit::default()
        };
        write(store, commit)
    };
    let set = |since, to: Credits, epoch| {
        let (owner, to) = (owner.clone(), Credits { epoch, ..to });
        change(CreditChange::Set { owner, since, to })
    };
    let add = |owner: &CreditOwner, amount| {
        let owner = owner.clone();
        change(CreditChange::Add { owner, amount })
    };
    let conflict = Err(StoreErrorKind::Conflict);
    assert_eq!(stored(&owner), None);
    assert_eq!(add(&owner, 5), conflict, "to nothing");
    assert_eq!(set(1, Credits::new(9), 2), conflict, "there is no first");
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
    let first = Credits::new(9).refill(Refill::once(at, u64::MAX >> 1));
    set(0, first.clone(), 1).unwrap();
    assert_eq!(stored(&owner), Some(Credits { epoch: 1, ..first }));
    assert_eq!(
        set(0, Credits::new(5), 2),
        conflict,
        "of two at once the second"
    );
    assert_eq!(set(1, Credits::new(5), 1), conflict, "epochs only grow");
    add(&owner, 5).unwrap();
    assert_eq!(stored(&owner).unwrap().left, 14);
    set(1, Credits::new(0), 7).unwrap();
    let empty = Credits {
        epoch: 7,
        ..Credits::new(0)
    };
    assert_eq!(stored(&owner), Some(empty));

    // A key that is named like the account has a balance of its own, and all or nothing is written.
    let (_, key) = key("acme", Environment::LIVE);
    assert_eq!(stored(&CreditOwner::Key(key.id)), None);
    let at_odds = Commit {
        keys: vec![key.clone()],
        credits: Some(CreditChange::Add {
            owner: CreditOwner::Key(key.id),
            amount: 1,
        }),
        ..Commit::default()
    };
    assert_eq!(write(store, at_odds), conflict);
    assert_eq!(block_on(store.key(key.id)).unwrap(), None);
    let mut marked = stored_account(store, &id);
    marked.credits = Some(7);
    commit(store, [&marked], []).unwrap();
    assert_eq!(stored_account(store, &id).credits, Some(7));
}

fn gives_out_credits_and_takes_them_back(open: Open<'_>) {
    let store = &open(Arc::new(SystemClock));
    let (secret, record) = key("acme", Environment::LIVE);
    let owner = CreditOwner::Account(record.account.clone());
    let mut acme = account("acme");
    let set = |acme: &Account, since, to| {
        let owner = owner.clone();
        write(
            store,
            Commit {
                accounts: vec![acme.clone()],
                credits: Some(CreditChange::Set { owner, since, to }),
                ..Commit::default()
            },
        )
    };
    let epoch = |epoch, left| Credits {
        epoch,
        ..Credits::new(left)
    };
    acme.credits = Some(1);
    set(&acme, 0, epoch(1, 1000)).unwrap();
    commit(store, [], [&record]).unwrap();
    let left = || {
        block_on(store.credits(owner.clone()))
            .unwrap()
            .unwrap()
            .left
    };
    for spent in 1..=20 {
        assert_eq!(ask(store, &secret), Ok(()));
        assert_eq!(left(), 1000 - spent, "what is held is counted");
    }
    let held = || {
        store
            .replica()
            .held_of(&owner)
            .map_or(0, |held| held.amount)
    };
    assert!(held() <= 10, "{} of 1000", held());
    block_on(store.flush()).unwrap();
    assert_eq!(left(), 980);
    // What is not spent in a second goes back, once.
    let since = Instant::now();
    while held() > 0 && since.elapsed() < Duration::from_secs(60) {
        thread::sleep(Duration::from_millis(100));
        block_on(store.flush()).unwrap();
        assert_eq!(left(), 980);
    }
    assert_eq!((held(), left()), (0, 980));
    assert_eq!(ask(store, &secret), Ok(()));
    assert_eq!((held(), left()), (0, 979), "one who comes alone takes one");

    // What was taken of an old balance does not come back to the new.
    assert_eq!(ask(store, &secret), Ok(()));
    let mut acme = stored_account(store, &record.account);
    acme.credits = Some(2);
    set(&acme, 1, epoch(2, 3)).unwrap();
    (0..2).for_each(|_| block_on(store.flush()).unwrap());
    assert_eq!(left(), 3);
    for outcome in [Ok(()), Ok(()), Ok(()), Err(DenialKind::CreditsExhausted)] {
        assert_eq!(ask(store, &secret), outcome);
    }
    assert_eq!(left(), 0);
    // Where there should be a balance and is none, nothing is spent.
    let mut acme = stored_account(store, &record.account);
    acme.credits = Some(9);
    commit(store, [&acme], []).unwrap();
    assert_eq!(ask(store, &secret), Err(DenialKind::LimitUnavailable));
}

fn takes_refunded_credits_back_at_once(open: Open<'_>) {
    let store = &open(Arc::new(SystemClock));
    let (secret, record) = key("acme", Environment::LIVE);
    let owner = CreditOwner::Account(record.account.clone());
    let mut acme = account("acme");
    acme.credits = Some(1);
    let to = Credits {
        epoch: 1,
        ..Credits::new(1000)
    };
    let balance = Commit {
        accounts: vec![acme],
        credits: Some(CreditChange::Set {
            owner: owner.clone(),
            since: 0,
            to,
        }),
        ..Commit::default()
    };
    write(store, balance).unwrap();
    commit(store, [], [&record]).unwrap();
    let gate = Gate::builder(store, &scheme());
    let gate = gate.build().unwrap();
    let requirement = Arc::new(Requirement::new());
    for _ in 0..3 {
        let pay = || match decided(gate.check(&request(&secret), &requirement, None)) {
            Verdict::Admit(admitted) => Some(admitted.finish),
            Verdict::Refuse(_) => None,
        };
        let under_way: Vec<_> = (0..300).map(|_| pay().unwrap()).collect();
        under_way.into_iter().for_each(Finish::give_back);
        // A store writes this after what it was asked before.
        write(store, Commit::default()).unwrap();
        let left = block_on(store.credits(owner.clone())).unwrap().unwrap();
        let held = store.replica().held_of(&owner);
        let held = held.map_or(0, |held| held.amount);
        assert_eq!(left.left, 1000);
        assert!(held <= 10, "{held} of 1000 would be lost by a kill");
    }
}

fn account(id: &str) -> Account {
    Account::new(AccountId::parse(id).unwrap())
}

fn environment(text: &str) -> Environment {
    Environment::parse(text).unwrap()
}

fn format() -> KeyFormat {
    KeyFormat::new("conf_{env}_").unwrap()
}

fn scheme() -> KeyScheme {
    KeyScheme::new(format())
}

fn key(account: &str, environment: Environment) -> (ApiKey, KeyRecord) {
    let key = format().generate(environment).unwrap();
    let record = KeyRecord::new(
        KeyId::random().unwrap(),
        Peppers::none().digest(&key),
        key.hint().clone(),
        AccountId::parse(account).unwrap(),
        environment,
        SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
    );
    (key, record)
}

fn commit<S: Store, const A: usize, const K: usize>(
    store: &S,
    accounts: [&Account; A],
    keys: [&KeyRecord; K],
) -> Result<(), StoreErrorKind> {
    let commit = Commit {
        accounts: accounts.map(Clone::clone).into(),
        keys: keys.map(Clone::clone).into(),
        ..Commit::default()
    };
    write(store, commit)
}

fn write<S: Store>(store: &S, commit: Commit) -> Result<(), StoreErrorKind> {
    block_on(store.commit(commit)).map_err(|error| error.kind())
}

fn stored_key<S: Store>(store: &S, id: KeyId) -> KeyRecord {
    block_on(store.key(id)).unwrap().unwrap()
}

fn stored_account<S: Store>(store: &S, id: &AccountId) -> Account {
    block_on(store.account(id.clone())).unwrap().unwrap()
}

/// The verdict of a gate over the store about the key.
fn ask<S: Store>(store: &S, key: &ApiKey) -> Result<(), DenialKind> {
    ask_gate(&Gate::new(store, &scheme()).unwrap(), key)
}

fn ask_gate(gate: &Gate, key: &ApiKey) -> Result<(), DenialKind> {
    match decided(gate.check(&request(key), &Arc::new(Requirement::new()), None)) {
        Verdict::Admit(_) => Ok(()),
        Verdict::Refuse(refusal) => Err(refusal.denial.unwrap().kind()),
    }
}

fn request(key: &ApiKey) -> TestRequest {
    TestRequest::get().key(key.expose_secret())
}
