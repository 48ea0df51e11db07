//! What the tests of store crates write to a store and ask a gate over it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use crate::admin::{Actor, KeyAdmin};
use crate::credits::{CreditOwner, Credits};
use crate::denial::DenialKind;
use crate::environment::Environment;
use crate::gate::{Access, Admitted, Gate, Principal, Requirement, Verdict};
use crate::ids::{AccountId, KeyId};
use crate::key::{ApiKey, KeyFormat, Peppers};
use crate::record::{Account, KeyRecord};
use crate::replica::Replica;
use crate::scheme::KeyScheme;
use crate::store::{Commit, Store, StoreErrorKind};
use crate::testing::{TestRequest, block_on, decided};
use crate::usage::UsageQuery;

/// Creates an account with one key.
pub fn add(store: &impl Store, account: &str) -> (ApiKey, KeyRecord) {
    let (key, record) = key(account);
    let account = Account::new(AccountId::parse(account).unwrap());
    commit(store, vec![account], vec![record.clone()]).unwrap();
    (key, stored(store, record.id))
}

/// Creates a key that is not stored yet.
#[must_use]
pub fn key(account: &str) -> (ApiKey, KeyRecord) {
    let key = format().generate(Environment::LIVE).unwrap();
    let record = KeyRecord::new(
        KeyId::random().unwrap(),
        Peppers::none().digest(&key),
        key.hint().clone(),
        AccountId::parse(account).unwrap(),
        Environment::LIVE,
        SystemTime::UNIX_EPOCH,
    );
    (key, record)
}

/// Writes accounts and keys.
pub fn commit(
    store: &impl Store,
    accounts: Vec<Account>,
    keys: Vec<KeyRecord>,
) -> Result<(), StoreErrorKind> {
    let commit = Commit {
        accounts,
        keys,
        ..Commit::default()
    };
    write(store, commit)
}

/// Writes a commit.
pub fn write(store: &impl Store, commit: Commit) -> Result<(), StoreErrorKind> {
    block_on(store.commit(commit)).map_err(|error| error.kind())
}

/// Returns a key as it is stored.
pub fn stored(store: &impl Store, id: KeyId) -> KeyRecord {
    block_on(store.key(id)).unwrap().unwrap()
}

/// Returns the admitted and refused requests of an account, according to the store.
pub fn used(store: &impl Store, account: &str) -> (u64, u64) {
    let account = AccountId::parse(account).unwrap();
    let query = UsageQuery::of(Some(account), 0..u64::MAX);
    let hours = block_on(store.usage(query)).unwrap();
    hours.iter().fold((0, 0), |(admitted, refused), hour| {
        (
            admitted + hour.counts.admitted,
            refused + hour.counts.refused,
        )
    })
}

/// Returns the decision of a gate that trusts its memory.
pub fn ask(store: &impl Store, key: &ApiKey) -> Result<(), DenialKind> {
    ask_gate(store.replica(), Duration::from_secs(30), key)
}

/// Returns the decision of a gate that trusts no memory.
pub fn ask_strictly(store: &impl Store, key: &ApiKey) -> Result<(), DenialKind> {
    ask_gate(store.replica(), Duration::ZERO, key)
}

/// Asks many times.
pub fn ask_often(store: &impl Store, key: &ApiKey, times: u64) {
    (0..times).for_each(|_| ask(store, key).unwrap());
}

/// Returns the decision of a gate that trusts memory of at most this age.
pub fn ask_gate(
    replica: &Replica,
    max_staleness: Duration,
    key: &ApiKey,
) -> Result<(), DenialKind> {
    // The machine may be busy.
    let gate = Gate::builder_from_replica(replica, &scheme())
        .max_staleness(max_staleness)
        .refresh_wait(Duration::from_secs(20));
    ask_with(&gate.build().unwrap(), key)
}

/// Returns the decision of a gate.
pub fn ask_with(gate: &Gate, key: &ApiKey) -> Result<(), DenialKind> {
    match verdict(gate, key) {
        Verdict::Admit(_) => Ok(()),
        Verdict::Refuse(refusal) => Err(refusal.denial.unwrap().kind()),
    }
}

/// Returns the caller of a request that a gate admits.
pub fn admit(store: &impl Store, key: &ApiKey) -> Principal {
    let gate = Gate::builder_from_replica(store.replica(), &scheme()).max_staleness(Duration::ZERO);
    let gate = gate.refresh_wait(Duration::from_secs(20)).build().unwrap();
    match verdict(&gate, key) {
        Verdict::Admit(Admitted {
            access: Some(Access::Principal(principal)),
            ..
        }) => principal,
        other => panic!("{other:?}"),
    }
}

fn verdict(gate: &Gate, key: &ApiKey) -> Verdict {
    let request = TestRequest::get().key(key.expose_secret());
    decided(gate.check(&request, &Arc::new(Requirement::new()), None))
}

/// Creates a key whose account has this many credits.
pub fn rich<S: Store + Clone>(store: &S, credits: u64) -> (CreditOwner, ApiKey) {
    let (secret, record) = add(store, "acme");
    let admin = KeyAdmin::new(store, &scheme());
    let (operator, account) = (Actor::operator("test"), record.account.clone());
    let credits = Some(Credits::new(credits));
    block_on(admin.set_credits(&operator, account, credits)).unwrap();
    (record.account.into(), secret)
}

/// Returns the credits that are left of a balance.
pub fn left(store: &impl Store, owner: &CreditOwner) -> u64 {
    let left = block_on(store.credits(owner.clone()));
    left.unwrap().unwrap().left
}

/// Asks until the credits are spent, and returns how often that was.
pub fn spend_all(store: &impl Store, key: &ApiKey) -> u64 {
    let mut spent = 0;
    loop {
        match ask(store, key) {
            Ok(()) => spent += 1,
            Err(DenialKind::CreditsExhausted) => return spent,
            Err(other) => panic!("{other:?}"),
        }
    }
}

/// Tests that a balance is exact at any time, while threads spend 1,000 of it and give back the rest.
pub fn balance_is_exact(store: &impl Store, owner: &CreditOwner, key: &ApiKey) {
    let all = left(store, owner);
    let [begun, done] = [(); 2].map(|()| AtomicU64::new(0));
    let is_over = AtomicBool::new(false);
    let give_back = || {
        while !is_over.load(Ordering::SeqCst) {
            block_on(store.flush()).unwrap();
        }
    };
    let read = || {
        let mut reads = 0;
        while !is_over.load(Ordering::SeqCst) {
            let most = all - done.load(Ordering::SeqCst);
            let left = left(store, owner);
            let least = all - begun.load(Ordering::SeqCst);
            if !(least..=most).contains(&left) {
                return Err(format!("{left} is not in {least}..={most}"));
            }
            reads += 1;
        }
        Ok(reads)
    };
    let spend = || {
        for _ in 0..500 {
            begun.fetch_add(1, Ordering::SeqCst);
            assert_eq!(ask(store, key), Ok(()));
            done.fetch_add(1, Ordering::SeqCst);
        }
    };
    thread::scope(|threads| {
        threads.spawn(give_back);
        let readers = [threads.spawn(read), threads.spawn(read)];
        let spenders = [threads.spawn(spend), threads.spawn(spend)];
        let outcomes = spenders.map(thread::ScopedJoinHandle::join);
        is_over.store(true, Ordering::SeqCst);
        assert!(outcomes.iter().all(Result::is_ok));
        for reader in readers {
            assert!(reader.join().unwrap().unwrap() > 0);
        }
    });
    assert_eq!(left(store, owner), all - 1000);
}

/// Returns the format of the keys.
fn format() -> KeyFormat {
    KeyFormat::new("conf_{env}_").unwrap()
}

/// Returns the scheme of the keys.
pub fn scheme() -> KeyScheme {
    KeyScheme::new(format())
}
