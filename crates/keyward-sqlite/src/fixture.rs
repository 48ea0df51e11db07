//! Shared fixtures of the tests: a service with its own file.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use keyward::denial::DenialKind;
#[cfg(feature = "webhooks")]
use keyward::gate::Finish;
use keyward::gate::{Decision, Verdict};
use keyward::record::{Account, KeyRecord};
use keyward::replica::Replica;
use keyward::store::{Commit, StoreErrorKind};
use keyward::testing::{TestRequest, block_on, decided};
use keyward::usage::UsageQuery;
use keyward::{
    AccountId, ApiKey, Environment, Gate, KeyFormat, KeyId, KeyScheme, Peppers, Requirement, Store,
};
use rusqlite::Connection;
use tempfile::TempDir;

use crate::{SqliteOptions, SqliteStore};

pub(crate) struct Fixture {
    dir: TempDir,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.at("keys.db")
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Opens a store that polls often.
    pub(crate) fn open(&self) -> SqliteStore {
        let soon = SqliteOptions::new().poll_interval(Duration::from_millis(5));
        soon.open(self.path()).unwrap()
    }

    /// Opens a store that notices changes of others only when asked.
    pub(crate) fn open_slow(&self) -> SqliteStore {
        let slow = SqliteOptions::new().poll_interval(Duration::MAX);
        slow.open(self.path()).unwrap()
    }

    /// Runs what an operator types into `sqlite3`.
    pub(crate) fn type_in(&self, sql: &str) -> rusqlite::Result<()> {
        let shell = Connection::open(self.path())?;
        shell.busy_timeout(Duration::from_secs(5))?;
        // The command does not enforce foreign keys unless it is told to.
        shell.execute_batch("PRAGMA foreign_keys = OFF")?;
        shell.execute_batch(sql)
    }
}

/// Creates an account with one key.
pub(crate) fn add(store: &SqliteStore, account: &str) -> (ApiKey, KeyRecord) {
    let (key, record) = key(account);
    let account = Account::new(AccountId::parse(account).unwrap());
    commit(store, vec![account], vec![record.clone()]).unwrap();
    (key, stored(store, record.id))
}

pub(crate) fn key(account: &str) -> (ApiKey, KeyRecord) {
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

pub(crate) fn commit(
    store: &SqliteStore,
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

pub(crate) fn write(store: &SqliteStore, commit: Commit) -> Result<(), StoreErrorKind> {
    block_on(store.commit(commit)).map_err(|error| error.kind())
}

pub(crate) fn stored(store: &SqliteStore, id: KeyId) -> KeyRecord {
    block_on(store.key(id)).unwrap().unwrap()
}

/// Returns the admitted and rejected requests of an account, according to the file.
pub(crate) fn used(store: &SqliteStore, account: &str) -> (u64, u64) {
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

/// Runs a statement on the store's own connection.
pub(crate) fn type_inside(store: &SqliteStore, sql: &'static str) {
    block_on(store.ask(move |worker| worker.read(|connection| connection.execute_batch(sql))))
        .unwrap();
}

/// Returns the decision of a gate that trusts its memory.
pub(crate) fn ask(store: &SqliteStore, key: &ApiKey) -> Result<(), DenialKind> {
    ask_gate(store.replica(), Duration::from_secs(30), key)
}

/// Returns the decision of a gate that trusts no memory.
pub(crate) fn ask_strictly(store: &SqliteStore, key: &ApiKey) -> Result<(), DenialKind> {
    ask_gate(store.replica(), Duration::ZERO, key)
}

pub(crate) fn ask_gate(
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

pub(crate) fn ask_with(gate: &Gate, key: &ApiKey) -> Result<(), DenialKind> {
    match decided(gate.check(&request(key), &Arc::new(Requirement::new()), None)) {
        Verdict::Admit(_) => Ok(()),
        Verdict::Refuse(refusal) => Err(refusal.denial.unwrap().kind()),
    }
}

/// Starts a check that waits for the store, however long that takes.
pub(crate) fn waiting(gate: &Gate, key: &ApiKey) -> Pin<Box<dyn Future<Output = Verdict> + Send>> {
    match gate.check(&request(key), &Arc::new(Requirement::new()), None) {
        Decision::Pending(pending) => Box::pin(pending.with_timer(|_| std::future::pending())),
        Decision::Ready(verdict) => panic!("{verdict:?}"),
    }
}

/// Admits a request and returns its charges.
#[cfg(feature = "webhooks")]
pub(crate) fn paid(gate: &Gate, key: &ApiKey) -> Finish {
    match decided(gate.check(&request(key), &Arc::new(Requirement::new()), None)) {
        Verdict::Admit(admitted) => admitted.finish,
        Verdict::Refuse(refusal) => panic!("{refusal:?}"),
    }
}

/// Waits until the condition holds, and fails if it takes too long.
pub(crate) fn eventually(is_so: impl Fn() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < Duration::from_secs(20), "it never came");
        std::thread::yield_now();
    }
}

pub(crate) fn format() -> KeyFormat {
    KeyFormat::new("sql_{env}_").unwrap()
}

pub(crate) fn scheme() -> KeyScheme {
    KeyScheme::new(format())
}

fn request(key: &ApiKey) -> TestRequest {
    TestRequest::get().key(key.expose_secret())
}
