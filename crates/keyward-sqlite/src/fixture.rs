//! Shared fixtures of the tests: a service with its own file.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[cfg(feature = "webhooks")]
use keyward::gate::Finish;
use keyward::gate::{Decision, Verdict};
use keyward::testing::{TestRequest, block_on, decided};
use keyward::{ApiKey, Gate, Requirement};
use rusqlite::Connection;
use tempfile::TempDir;

use crate::{SqliteOptions, SqliteStore};
pub(crate) use keyward::testing::probe::*;

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

/// Runs a statement on the store's own connection.
pub(crate) fn type_inside(store: &SqliteStore, sql: &'static str) {
    block_on(store.ask(move |worker| worker.read(|connection| connection.execute_batch(sql))))
        .unwrap();
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

fn request(key: &ApiKey) -> TestRequest {
    TestRequest::get().key(key.expose_secret())
}
