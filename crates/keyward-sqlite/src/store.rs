//! The store.

use std::path::Path;
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use futures_channel::oneshot;
use keyward::{
    Account, AccountId, Commit, KeyId, KeyRecord, Replica, Store, StoreError, StoreFuture,
};
use rusqlite::OptionalExtension;

use crate::SqliteOptions;
use crate::error::unavailable;
use crate::file::KeyFile;
use crate::row;
use crate::worker::{Task, Worker};

/// Keeps keys in an SQLite file.
///
/// It has one thread, which alone touches the file. Where another process is writing, it waits for up
/// to five seconds. A commit that fails as unavailable may have been written nevertheless.
///
/// Dropping the store stops the thread and waits for it; gates that are still there go on until their
/// `max_staleness` is over.
///
/// ```
/// use keyward::{Account, AccountId, Commit, Store};
/// use keyward_sqlite::SqliteStore;
///
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("keys.db");
/// let store = SqliteStore::open(&path)?;
/// let acme = AccountId::parse("acme")?;
/// # keyward::conformance::block_on(async {
/// let mut commit = Commit::default();
/// commit.accounts.push(Account::new(acme.clone()));
/// store.commit(commit).await?;
/// assert!(store.account(acme).await?.is_some());
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct SqliteStore {
    replica: Replica,
    tasks: Sender<Task>,
    thread: Option<JoinHandle<()>>,
}

impl SqliteStore {
    /// Opens the file, or makes a new one, and loads all keys before it returns.
    ///
    /// [`SqliteOptions`] opens it on other terms.
    ///
    /// # Errors
    /// When the file cannot be opened, written or read, is no database, or is of a newer version.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        SqliteOptions::new().open(path)
    }

    pub(crate) fn start(
        path: &Path,
        replica: Replica,
        poll_interval: Duration,
    ) -> Result<Self, StoreError> {
        let (tasks, waiting) = mpsc::channel();
        let mut worker = Worker::new(KeyFile::open(path)?, replica.clone(), poll_interval);
        worker.poll()?;
        worker.answer_wishes(tasks.clone());
        let thread = thread::Builder::new().name("keyward-sqlite".to_owned());
        let thread = thread.spawn(move || worker.run(&waiting));
        Ok(Self {
            replica,
            tasks,
            thread: Some(thread.map_err(unavailable)?),
        })
    }

    /// Has the thread do this, and waits for what comes of it.
    fn ask<T: Send + 'static>(
        &self,
        task: impl FnOnce(&mut Worker) -> Result<T, StoreError> + Send + 'static,
    ) -> StoreFuture<'_, T> {
        Box::pin(async move {
            let (answer, answered) = oneshot::channel();
            // A task that nobody takes, or that panics, drops its end of the channel.
            drop(self.tasks.send(Box::new(move |worker| {
                drop(answer.send(task(worker)));
            })));
            answered.await.unwrap_or_else(|gone| Err(unavailable(gone)))
        })
    }
}

impl Store for SqliteStore {
    fn replica(&self) -> &Replica {
        &self.replica
    }

    fn commit(&self, commit: Commit) -> StoreFuture<'_, ()> {
        self.ask(move |worker| worker.commit(&commit))
    }

    fn account(&self, id: AccountId) -> StoreFuture<'_, Option<Account>> {
        self.ask(move |worker| {
            worker.read(|connection| {
                connection
                    .prepare_cached(&format!("{} WHERE id = ?1", row::ACCOUNTS))?
                    .query_row([id.as_str()], |row| row::account(connection, row))
                    .optional()
            })
        })
    }

    fn key(&self, id: KeyId) -> StoreFuture<'_, Option<KeyRecord>> {
        self.ask(move |worker| {
            worker.read(|connection| {
                connection
                    .prepare_cached(&format!("{} WHERE id = ?1", row::KEYS))?
                    .query_row([id.to_string()], row::key)
                    .optional()
            })
        })
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        drop(self.tasks.send(Box::new(Worker::stop)));
        // Waking a future may drop the last handle on the thread itself, which cannot wait for itself.
        let another = |thread: &JoinHandle<()>| thread.thread().id() != thread::current().id();
        if let Some(thread) = self.thread.take().filter(another) {
            drop(thread.join());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs;
    use std::time::Instant;

    use keyward::conformance::block_on;
    use keyward::{DenialKind, KeyStatus, StoreErrorKind};

    use super::*;
    use crate::fixture::{Fixture, add, ask, ask_strictly, commit, eventually, key, stored};

    #[test]
    fn keeps_the_promises_of_a_store() {
        let (fixture, next) = (Fixture::new(), Cell::new(0));
        keyward::conformance::check(|| {
            next.set(next.get() + 1);
            SqliteStore::open(fixture.at(&next.get().to_string())).unwrap()
        });
    }

    #[test]
    fn everything_survives_a_reopening() {
        let fixture = Fixture::new();
        let store = fixture.open();
        let (secret, record) = add(&store, "acme");
        let account = block_on(store.account(record.account.clone())).unwrap();
        drop(store);

        let store = fixture.open();
        assert_eq!(ask(&store, &secret), Ok(()), "loaded when it is opened");
        assert_eq!(stored(&store, record.id), record);
        assert_eq!(
            block_on(store.account(record.account.clone())).unwrap(),
            account
        );
    }

    #[test]
    fn two_stores_of_one_file_see_each_others_changes() {
        let fixture = Fixture::new();
        let (one, other) = (fixture.open(), fixture.open());
        let (secret, mut record) = add(&one, "acme");
        eventually(|| ask(&other, &secret) == Ok(()));
        record.status = KeyStatus::Revoked;
        commit(&other, vec![], vec![record.clone()]).unwrap();
        eventually(|| ask(&one, &secret) == Err(DenialKind::Revoked));
        assert_eq!(
            commit(&one, vec![], vec![record]),
            Err(StoreErrorKind::Conflict),
            "of two changes to one version the second"
        );
    }

    #[test]
    fn what_is_typed_holds_within_the_poll_interval() {
        let fixture = Fixture::new();
        let store = fixture.open();
        let (secret, _) = add(&store, "acme");
        for (typed, answer) in [
            (
                "UPDATE keyward_key SET status = 'revoked'",
                Err(DenialKind::Revoked),
            ),
            ("UPDATE keyward_key SET status = 'active'", Ok(())),
            (
                "UPDATE keyward_account SET status = 'suspended'",
                Err(DenialKind::AccountInactive),
            ),
            ("UPDATE keyward_account SET status = 'active'", Ok(())),
            (
                "INSERT INTO keyward_epoch VALUES ('acme', 'live', 1)",
                Err(DenialKind::Revoked),
            ),
            ("UPDATE keyward_epoch SET revoked_before = 0", Ok(())),
            ("DELETE FROM keyward_key", Err(DenialKind::Unknown)),
        ] {
            fixture.type_in(typed).unwrap();
            eventually(|| ask(&store, &secret) == answer);
        }
    }

    #[test]
    fn a_file_that_cannot_be_used_is_a_typed_error() {
        let fixture = Fixture::new();
        let kind = || SqliteStore::open(fixture.path()).unwrap_err().kind();
        fs::create_dir(fixture.path()).unwrap();
        assert_eq!(kind(), StoreErrorKind::Unavailable, "a directory");
        fs::remove_dir(fixture.path()).unwrap();
        fs::write(fixture.path(), "# no database\n".repeat(1000)).unwrap();
        assert_eq!(kind(), StoreErrorKind::Corrupt, "no database");
        fs::remove_file(fixture.path()).unwrap();

        drop(fixture.open());
        // To an administrator no file is read-only, but to SQLite one is whose header says that only
        // a later version may write it.
        let mut file = fs::read(fixture.path()).unwrap();
        file[18] = 3;
        fs::write(fixture.path(), file).unwrap();
        assert_eq!(kind(), StoreErrorKind::Unavailable, "read-only");

        let nowhere = SqliteStore::open(fixture.at("no/such/dir")).unwrap_err();
        assert_eq!(nowhere.kind(), StoreErrorKind::Unavailable);
        assert!(SqliteStore::open("").is_err());
    }

    #[test]
    fn a_file_with_more_keys_than_the_ceiling_is_not_opened() {
        let fixture = Fixture::new();
        add(&fixture.open(), "acme");
        let options = SqliteOptions::new().ceiling(0);
        let error = options.open(fixture.path()).unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    }

    #[test]
    fn a_panic_leaves_nobody_waiting() {
        let fixture = Fixture::new();
        let store = fixture.open_slow();
        let (secret, record) = add(&store, "acme");
        let answer = block_on(store.ask::<()>(|_| panic!("as the test wants")));
        assert_eq!(answer.unwrap_err().kind(), StoreErrorKind::Unavailable);
        let answer = block_on(store.key(record.id));
        assert_eq!(answer.unwrap_err().kind(), StoreErrorKind::Unavailable);
        assert_eq!(ask_strictly(&store, &secret), Err(DenialKind::Unavailable));
    }

    #[test]
    fn a_request_that_waits_when_the_thread_ends_is_refused() {
        let fixture = Fixture::new();
        let store = fixture.open_slow();
        let (secret, _) = add(&store, "acme");
        let (go, wait) = mpsc::channel::<()>();
        let (started, has_started) = mpsc::channel();
        thread::scope(|threads| {
            let held = store.tasks.send(Box::new(move |_| {
                started.send(()).unwrap();
                assert!(wait.recv().is_err());
                panic!("as the test wants")
            }));
            held.unwrap();
            has_started.recv().unwrap();
            let waiting: Vec<_> = (0..4)
                .map(|_| threads.spawn(|| ask_strictly(&store, &secret)))
                .collect();
            drop(go);
            for answer in waiting {
                assert_eq!(answer.join().unwrap(), Err(DenialKind::Unavailable));
            }
        });
    }

    #[test]
    fn dropping_the_store_ends_its_thread() {
        let fixture = Fixture::new();
        let store = fixture.open_slow();
        let (secret, _) = add(&store, "acme");
        let replica = store.replica().clone();
        let since = Instant::now();
        drop(store);
        assert!(
            since.elapsed() < Duration::from_secs(60),
            "not the interval"
        );
        let log = fixture.at("keys.db-wal");
        assert!(!log.exists(), "the file is closed");
        let asked = crate::fixture::ask_gate(&replica, Duration::ZERO, &secret);
        assert_eq!(asked, Err(DenialKind::Unavailable));
    }

    #[test]
    fn no_error_tells_a_digest() {
        let fixture = Fixture::new();
        let store = fixture.open();
        let (_, record) = add(&store, "acme");
        let (_, mut twin) = key("acme");
        twin.digest = record.digest.clone();
        let commit = Commit {
            keys: vec![twin],
            ..Commit::default()
        };
        let error = format!("{:?}", block_on(store.commit(commit)).unwrap_err());
        assert!(error.contains("keyward_key.digest"), "{error}");
        let start = &record.digest.expose_bytes()[..4];
        let hex = format!("{:08X}", u32::from_be_bytes(start.try_into().unwrap()));
        assert!(!error.to_uppercase().contains(&hex), "{error}");
        let list = format!("{start:?}");
        assert!(!error.contains(list.trim_end_matches(']')), "{error}");
    }
}
