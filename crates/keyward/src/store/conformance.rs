//! What every store promises, as a suite that runs over any of them.
//!
//! ```
//! # use keyward::MemoryStore;
//! keyward::conformance::check(MemoryStore::new);
//! ```

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a broken promise ends the test"
)]

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, SystemTime};

use crate::{
    Account, AccountId, AccountStatus, ApiKey, Commit, Decision, DenialKind, Environment, Gate,
    KeyFormat, KeyId, KeyKind, KeyRecord, KeyStatus, OriginPolicy, Peppers, RequestHead,
    Requirement, Scopes, Store, StoreErrorKind, Verdict,
};

/// Runs the suite; `open` gives a new, empty store each time it is called.
///
/// # Panics
/// When the store breaks a promise.
pub fn check<S: Store>(open: impl Fn() -> S) {
    gives_back_what_was_committed(&open());
    an_unknown_name_is_no_error(&open());
    a_commit_is_in_force_when_it_returns(&open());
    an_account_rules_its_keys(&open());
    refuses_what_is_at_odds_with_what_is_stored(&open());
    of_two_changes_at_once_one_wins(&open());
}

/// Waits for a future on this thread.
pub fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

fn gives_back_what_was_committed<S: Store>(store: &S) {
    let mut account = account("acme");
    account.api_access = false;
    account.revoked_before = BTreeMap::from([(Environment::TEST, 3), (environment("eu-1"), 1)]);
    let (_, mut full) = key("acme", environment("eu-1"));
    full.name = "Ünïcode 'quoted' \"name\"\n\0".into();
    full.kind = KeyKind::Publishable;
    full.scopes = Scopes::parse(["kyc", "reports.*"]).unwrap();
    full.origins = OriginPolicy::listed(["bücher.example", "http://*.localhost:*"])
        .unwrap()
        .or_no_origin();
    full.epoch = 1;
    full.status = KeyStatus::Disabled;
    full.expires_at = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(u64::from(u32::MAX) * 2));
    let (_, plain) = key("acme", Environment::LIVE);
    commit(store, [&account], [&full, &plain]).unwrap();

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

fn an_unknown_name_is_no_error<S: Store>(store: &S) {
    assert_eq!(block_on(store.key(KeyId::random().unwrap())).unwrap(), None);
    let nobody = AccountId::parse("nobody").unwrap();
    assert_eq!(block_on(store.account(nobody)).unwrap(), None);
}

fn a_commit_is_in_force_when_it_returns<S: Store>(store: &S) {
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

fn an_account_rules_its_keys<S: Store>(store: &S) {
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
            account.revoked_before.insert(environment, 1);
        }
    };
    assert_eq!(change(&next(Environment::TEST)), Ok(()));
    assert_eq!(change(&next(Environment::LIVE)), Err(DenialKind::Revoked));

    let (secret, mut record) = key("acme", Environment::LIVE);
    record.epoch = 1;
    commit(store, [], [&record]).unwrap();
    assert_eq!(ask(store, &secret), Ok(()), "a key of the new epoch");
}

fn refuses_what_is_at_odds_with_what_is_stored<S: Store>(store: &S) {
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

fn of_two_changes_at_once_one_wins<S: Store>(store: &S) {
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

fn account(id: &str) -> Account {
    Account::new(AccountId::parse(id).unwrap())
}

fn environment(text: &str) -> Environment {
    Environment::parse(text).unwrap()
}

fn format() -> KeyFormat {
    KeyFormat::new("conf_{env}_").unwrap()
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
    };
    block_on(store.commit(commit)).map_err(|error| error.kind())
}

fn stored_key<S: Store>(store: &S, id: KeyId) -> KeyRecord {
    block_on(store.key(id)).unwrap().unwrap()
}

fn stored_account<S: Store>(store: &S, id: &AccountId) -> Account {
    block_on(store.account(id.clone())).unwrap().unwrap()
}

/// What a gate over the store says to the key.
fn ask<S: Store>(store: &S, key: &ApiKey) -> Result<(), DenialKind> {
    struct Head<'a>(&'a ApiKey);

    impl RequestHead for Head<'_> {
        fn method(&self) -> &'static str {
            "GET"
        }

        fn values<'a>(&'a self, field: &'a str) -> impl Iterator<Item = &'a [u8]> {
            let key = self.0.expose_secret().as_bytes();
            (field == "x-api-key").then_some(key).into_iter()
        }
    }

    let gate = Gate::builder(store.replica())
        .format(format())
        .build()
        .unwrap();
    match gate.check(&Head(key), &Arc::new(Requirement::new()), None) {
        Decision::Ready(Verdict::Admit(_)) => Ok(()),
        Decision::Ready(Verdict::Refuse(refusal)) => Err(refusal.denial.unwrap().kind()),
        Decision::Pending(_) => panic!("a gate that trusts its memory does not wait"),
    }
}
