//! The SQLite store.

use std::path::Path;
use std::sync::Arc;
#[cfg(feature = "webhooks")]
use std::sync::Mutex;
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use futures_channel::oneshot;
use keyward::credits::{CreditOwner, Credits};
use keyward::key::DigestScheme;
use keyward::record::{Account, AuditEntry, KeyRecord, Tombstone};
use keyward::replica::Replica;
use keyward::store::{
    AccountQuery, AuditQuery, Commit, KeyQuery, Maintained, Maintenance, StoreError, StoreFuture,
    TombstoneQuery,
};
use keyward::usage::{KeyUsage, UsageQuery};
use keyward::{AccountId, KeyId, Store};
#[cfg(feature = "webhooks")]
use keyward_webhooks::store::OutboxSignal;
use rusqlite::{Connection, OptionalExtension, named_params};

use crate::SqliteOptions;
use crate::backup::backup;
use crate::credit::CreditLedger;
use crate::error::{PATIENCE, unavailable};
use crate::file::{self, KeyFile};
use crate::group::Write;
#[cfg(feature = "webhooks")]
use crate::outbox;
use crate::reader::{Place, Reader, wait_for};
use crate::row::Cells;
use crate::worker::{Task, Worker, poll_through};
use crate::{audit, commit, list, maintenance, row, usage};

/// A store that keeps keys in an SQLite file.
///
/// One thread writes the file. Changes that wait at the same time are written in one commit, each
/// of them completely or not at all. If another process is writing, a commit waits for at most five
/// seconds from its call, even if others wait before it. A commit that fails as unavailable may
/// have been written nevertheless. Two more threads read, one for single records and one for lists
/// and reports: they do not wait for writes.
///
/// A change that takes power away (a revocation, a suspension, a narrowed key) is copied from the
/// write-ahead log into the main file before it is acknowledged, so that it is kept even if only
/// the main file is. If a reader holds the log for more than 100 milliseconds, the change is
/// acknowledged with a warning and copied as soon as the reader is done.
///
/// Usage counts are written every ten seconds, and by [`flush`](Store::flush); a process that is
/// killed loses the counts since then. Nothing is counted twice, even if it is unknown whether a
/// write succeeded. While the file cannot be written, the counts wait in memory.
///
/// A clone is another handle to the same store. Dropping the last one writes the counts too, stops
/// the threads and waits for them; remaining gates keep working until their `max_staleness` has
/// passed, and what they count then is lost.
///
/// ```
/// use keyward::{AccountId, Store};
/// use keyward::record::Account;
/// use keyward::store::Commit;
/// use keyward_sqlite::SqliteStore;
///
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("keys.db");
/// let store = SqliteStore::open(&path)?;
/// let acme = AccountId::parse("acme")?;
/// # keyward::testing::block_on(async {
/// let mut commit = Commit::default();
/// commit.accounts.push(Account::new(acme.clone()));
/// store.commit(commit).await?;
/// assert!(store.account(acme).await?.is_some());
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct SqliteStore {
    replica: Replica,
    tasks: Sender<Task>,
    threads: Arc<Threads>,
    place: Place,
    ledger: CreditLedger,
    /// The position at which the last claim ended.
    #[cfg(feature = "webhooks")]
    pub(crate) claimed_to: Arc<Mutex<outbox::Cursor>>,
    #[cfg(feature = "webhooks")]
    pub(crate) signal: OutboxSignal,
}

/// The threads of a store, which end with its last clone.
#[derive(Debug)]
struct Threads {
    /// The reader for quick look-ups.
    lookups: Reader,
    /// The reader for queries that may take long.
    reports: Reader,
    writer: Option<JoinHandle<()>>,
    tasks: Sender<Task>,
}

impl SqliteStore {
    /// Opens or creates the file, and loads all keys before it returns.
    ///
    /// Use [`SqliteOptions`] for other settings.
    ///
    /// # Errors
    /// Returns an error if the file cannot be opened, written or read, is not a database, is empty
    /// ([`initialise_empty`](SqliteOptions::initialise_empty)), or is of a newer version. The
    /// message names the path.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        SqliteOptions::new().open(path)
    }

    pub(crate) fn start(
        path: &Path,
        initialise_empty: bool,
        replica: Replica,
        poll_interval: Duration,
        flush_interval: Duration,
    ) -> Result<Self, StoreError> {
        let started = Self::start_at(
            path,
            initialise_empty,
            replica,
            poll_interval,
            flush_interval,
        );
        started.map_err(|error| error.at(path.display()))
    }

    fn start_at(
        path: &Path,
        initialise_empty: bool,
        replica: Replica,
        poll_interval: Duration,
        flush_interval: Duration,
    ) -> Result<Self, StoreError> {
        let (tasks, waiting) = mpsc::channel();
        let file = KeyFile::open(path, initialise_empty)?;
        let opened = Arc::clone(file.opened());
        let mut worker = Worker::new(
            file,
            replica.clone(),
            poll_interval,
            flush_interval,
            tasks.clone(),
        )?;
        worker.poll()?;
        let place = Place {
            path: file::absolute(path)?,
            opened,
            poll: poll_through(tasks.clone()),
        };
        worker.serve(place.clone());
        worker.begin_work();
        let ledger = worker.ledger().clone();
        let lookups = Reader::start(place.clone(), "keyward-lookups")?;
        let reports = Reader::start(place.clone(), "keyward-reports")?;
        let thread = thread::Builder::new().name("keyward-sqlite".to_owned());
        let thread = thread.spawn(move || worker.run(&waiting));
        let threads = Threads {
            lookups,
            reports,
            writer: Some(thread.map_err(unavailable)?),
            tasks: tasks.clone(),
        };
        Ok(Self {
            replica,
            tasks,
            threads: Arc::new(threads),
            place,
            ledger,
            #[cfg(feature = "webhooks")]
            claimed_to: Arc::default(),
            #[cfg(feature = "webhooks")]
            signal: OutboxSignal::default(),
        })
    }

    /// Writes a backup to a new file, while the store is in use.
    ///
    /// The backup is one consistent snapshot with everything that was acknowledged before the call.
    /// Usage counts that have not been written yet are not in it; call [`flush`](Store::flush)
    /// first if they matter. The file appears at the path when it is complete and synced to the
    /// disk. For a large file this takes seconds, during which requests are answered and changes
    /// are written as usual.
    /// seconds, in which requests are answered and changes are written as usual.
    ///
    /// ```
    /// # use keyward_sqlite::SqliteStore;
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("keys.db");
    /// # let backup = dir.path().join("backup.db");
    /// let store = SqliteStore::open(&path)?;
    /// # keyward::testing::block_on(async {
    /// store.backup(&backup).await?;
    /// assert!(SqliteStore::open(&backup).is_ok());
    /// assert!(store.backup(&backup).await.is_err()); // an existing file is not overwritten
    /// # Ok::<(), keyward::store::StoreError>(()) })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Returns an error if a file exists at the path, the file cannot be read, or the backup cannot
    /// be written.
    pub fn backup(&self, path: impl AsRef<Path>) -> StoreFuture<'_, ()> {
        let (from, to) = (self.place.clone(), path.as_ref().to_owned());
        Box::pin(async move {
            let (answer, answered) = oneshot::channel();
            let thread = thread::Builder::new().name("keyward-backup".to_owned());
            thread
                .spawn(move || drop(answer.send(backup(&from, &to))))
                .map_err(unavailable)?;
            self.place.answer(answered).await
        })
    }

    /// Runs a quick query, even while a write waits.
    pub(crate) fn look_up<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> StoreFuture<'_, T> {
        self.threads.lookups.read(read)
    }

    /// Runs a query that may take long, without delaying writes, polls or look-ups.
    pub(crate) fn report<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> StoreFuture<'_, T> {
        self.threads.reports.read(read)
    }

    /// Runs a task on the writing thread, and waits for its result.
    ///
    /// While another process is writing, all queued tasks together wait for five seconds from their
    /// call.
    pub(crate) fn ask<T: Send + 'static>(
        &self,
        task: impl FnOnce(&mut Worker) -> Result<T, StoreError> + Send + 'static,
    ) -> StoreFuture<'_, T> {
        let until = Instant::now() + PATIENCE;
        Box::pin(async move {
            let (answer, answered) = oneshot::channel();
            // A task that is not received, or that panics, drops its end of the channel.
            drop(self.tasks.send(Task::Do(Box::new(move |worker| {
                worker.wait_until(until);
                drop(answer.send(task(worker)));
            }))));
            self.place.answer(answered).await
        })
    }

    /// Makes the thread do the pending work on deliveries.
    #[cfg(feature = "webhooks")]
    pub(crate) fn work(&self) {
        drop(self.tasks.send(Task::Do(Box::new(Worker::begin_work))));
    }

    /// Makes the thread write this, in one commit with other waiting changes.
    pub(crate) fn write<T, W>(
        &self,
        write: W,
        with: impl FnOnce(Write<T, W>) -> Write<T, W> + Send + 'static,
    ) -> StoreFuture<'_, T>
    where
        T: Send + 'static,
        W: FnMut(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        Box::pin(async move {
            let (answer, answered) = oneshot::channel();
            let change = with(Write::new(write, answer));
            drop(self.tasks.send(Task::Write(Box::new(change))));
            self.place.answer(answered).await
        })
    }
}

impl Store for SqliteStore {
    fn replica(&self) -> &Replica {
        &self.replica
    }

    fn commit(&self, commit: Commit) -> StoreFuture<'_, ()> {
        let commit = Arc::new(commit);
        let written = Arc::clone(&commit);
        self.write(
            move |connection| commit::write(connection, &written),
            move |change| change.of(&commit),
        )
    }

    fn account(&self, id: AccountId) -> StoreFuture<'_, Option<Account>> {
        self.look_up(move |connection| {
            connection
                .prepare_cached(&format!("{} WHERE id = ?1", row::ACCOUNTS))?
                .query_row([id.as_str()], |row| row::account(connection, row))
                .optional()
        })
    }

    fn key(&self, id: KeyId) -> StoreFuture<'_, Option<KeyRecord>> {
        self.look_up(move |connection| {
            connection
                .prepare_cached(&format!("{} WHERE id = ?1", row::KEYS))?
                .query_row([id.to_string()], |row| row::used_key(connection, row))
                .optional()
        })
    }

    fn keys(&self, query: KeyQuery) -> StoreFuture<'_, Vec<KeyRecord>> {
        self.report(move |connection| list::page(connection, &query))
    }

    fn accounts(&self, query: AccountQuery) -> StoreFuture<'_, Vec<Account>> {
        self.report(move |connection| list::accounts(connection, &query))
    }

    fn created_with(&self, account: AccountId, token: String) -> StoreFuture<'_, Option<KeyId>> {
        self.look_up(move |connection| {
            connection
                .prepare_cached("SELECT key FROM keyward_token WHERE account = ?1 AND token = ?2")?
                .query_row([account.as_str(), &token], |row| {
                    Cells::of(row).parse(KeyId::parse)
                })
                .optional()
        })
    }

    fn credits(&self, owner: CreditOwner) -> StoreFuture<'_, Option<Credits>> {
        let (ledger, replica) = (self.ledger.clone(), self.replica.clone());
        self.look_up(move |connection| ledger.balance(connection, &replica, &owner))
    }

    fn flush(&self) -> StoreFuture<'_, ()> {
        Box::pin(async move {
            let round = self.ask(|worker| Ok(worker.next_round())).await?;
            // A batch at a time, so that other tasks have their turn.
            while !self.ask(move |worker| worker.flush_until(round)).await? {}
            Ok(())
        })
    }

    fn usage(&self, query: UsageQuery) -> StoreFuture<'_, Vec<KeyUsage>> {
        self.report(move |connection| usage::page(connection, &query))
    }

    fn schemes(&self, now: SystemTime) -> StoreFuture<'_, Vec<(DigestScheme, u64)>> {
        self.report(move |connection| {
            let mut schemes = connection.prepare_cached(&list::schemes_sql())?;
            let now = named_params! { ":now": row::millis(now) };
            row::valid(&mut schemes.query(now)?, usize::MAX, |row| {
                let mut cells = Cells::of(row);
                Ok((cells.parse(DigestScheme::parse)?, cells.number()?))
            })
        })
    }

    fn audit(&self, query: AuditQuery) -> StoreFuture<'_, Vec<AuditEntry>> {
        self.report(move |connection| audit::page(connection, &query))
    }

    fn maintain(&self, task: Maintenance, line: Option<AuditEntry>) -> StoreFuture<'_, Maintained> {
        Box::pin(async move {
            // Looking may take long, so it is done by a reader.
            let wanted = task.clone();
            let found = self.report(move |connection| maintenance::find(connection, &wanted));
            let found = found.await?;
            let step = move |connection: &Connection| {
                maintenance::step(connection, &task, line.as_ref(), &found)
            };
            self.write(step, |change| change).await
        })
    }

    fn tombstones(&self, query: TombstoneQuery) -> StoreFuture<'_, Vec<Tombstone>> {
        self.report(move |connection| maintenance::tombstones(connection, &query))
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.lookups.stop();
        self.reports.stop();
        drop(self.tasks.send(Task::Stop));
        wait_for(self.writer.take());
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Instant;

    use keyward::denial::DenialKind;
    use keyward::record::KeyStatus;
    use keyward::store::StoreErrorKind;
    use keyward::testing::block_on;

    use super::*;
    use crate::fixture::{
        Fixture, add, ask, ask_strictly, commit, eventually, key, stored, type_inside, used,
    };

    #[test]
    fn a_disk_that_is_full_or_read_only_is_a_typed_error() {
        let fixture = Fixture::new();
        let store = fixture.open_slow();
        let (secret, record) = add(&store, "acme");
        for (broken, mended) in [
            (
                "PRAGMA max_page_count = 1",
                "PRAGMA max_page_count = 1000000",
            ),
            ("PRAGMA query_only = ON", "PRAGMA query_only = OFF"),
        ] {
            let before = used(&store, "acme");
            type_inside(&store, broken);
            let mut record = stored(&store, record.id);
            record.name = "long ".repeat(10_000);
            let written = commit(&store, vec![], vec![record.clone()]);
            assert_eq!(written, Err(StoreErrorKind::Unavailable), "{broken}");
            assert_eq!(ask_strictly(&store, &secret), Ok(()), "{broken}");
            assert_eq!(stored(&store, record.id).revision, record.revision);

            type_inside(&store, mended);
            commit(&store, vec![], vec![record]).unwrap();
            block_on(store.flush()).unwrap();
            assert_eq!(used(&store, "acme"), (before.0 + 1, 0), "{mended}");
        }
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
                "UPDATE keyward_key SET status = 'disabled'",
                Err(DenialKind::Disabled),
            ),
            ("UPDATE keyward_key SET status = 'active'", Ok(())),
            (
                "UPDATE keyward_account SET status = 'suspended'",
                Err(DenialKind::AccountInactive),
            ),
            ("UPDATE keyward_account SET status = 'active'", Ok(())),
            (
                "UPDATE keyward_account SET revoked_all = revoked_all + 1",
                Err(DenialKind::Revoked),
            ),
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
        // No file is read-only for an administrator, but SQLite treats a file as such if its header
        // says that only a later version may write it.
        let mut file = fs::read(fixture.path()).unwrap();
        file[18] = 3;
        fs::write(fixture.path(), file).unwrap();
        assert_eq!(kind(), StoreErrorKind::Unavailable, "read-only");

        let nowhere = SqliteStore::open(fixture.at("no/such/dir")).unwrap_err();
        assert_eq!(nowhere.kind(), StoreErrorKind::Unavailable);
        assert!(SqliteStore::open("").is_err());
    }

    #[test]
    fn a_file_with_more_keys_than_the_ceiling_is_opened_and_serves_them_all() {
        let fixture = Fixture::new();
        let (secret, _) = add(&fixture.open(), "acme");
        let options = SqliteOptions::new().ceiling(0);
        let store = options.open(fixture.path()).unwrap();
        assert_eq!(ask(&store, &secret), Ok(()));
        assert_eq!(store.replica().above_ceiling(), 1);
    }

    #[test]
    fn a_panic_leaves_no_call_waiting() {
        let fixture = Fixture::new();
        let store = fixture.open_slow();
        let (secret, record) = add(&store, "acme");
        let answer = block_on(store.ask::<()>(|_| panic!("as the test wants")));
        assert_eq!(answer.unwrap_err().kind(), StoreErrorKind::Unavailable);
        let written = commit(&store, vec![], vec![record]);
        assert_eq!(written, Err(StoreErrorKind::Unavailable));
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
            let held = store.tasks.send(Task::Do(Box::new(move |_| {
                started.send(()).unwrap();
                assert!(wait.recv().is_err());
                panic!("as the test wants")
            })));
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
    fn no_error_contains_a_digest() {
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
