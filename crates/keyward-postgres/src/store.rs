//! The PostgreSQL store.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use deadpool_postgres::Pool;
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
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_postgres::types::Type;

use crate::calls::{Calls, Work};
use crate::connect::Connector;
use crate::error::unavailable;
use crate::feed::{Feed, FeedHandle};
use crate::flush::FlushQueue;
use crate::row::{self, ACCOUNT, Cells, KEY, LAST_USE, escaped};
use crate::worker::{Job, Worker};
use crate::{PostgresOptions, audit, commit, list, maintenance, migration, usage};

/// The time for which migrations may run.
const MIGRATION: Duration = Duration::from_secs(600);

/// A store that keeps keys in a PostgreSQL database.
///
/// Any number of processes, on any number of machines, use one database. Requests are answered from
/// memory. A thread of the store, with a runtime of its own, follows the changes of all processes: it is
/// independent of the application's executor, and a future that is dropped cancels no transaction
/// half-way.
///
/// A commit is durable, and in force in this process, when it returns. A commit that fails as unavailable
/// may have been written nevertheless. In other processes it is in force some milliseconds later; in any
/// case, a process whose memory is older than its gate's `max_staleness` refuses requests with 503.
///
/// Usage counts are written every ten seconds, and by [`flush`](Store::flush); a process that is killed
/// loses the counts since then. Nothing is counted twice, even if it is unknown whether a write
/// succeeded. While the database cannot be reached, the counts wait in memory.
///
/// A clone is another handle to the same store. Dropping the last one writes the counts too, and waits
/// for the thread; remaining gates keep working until their `max_staleness` has passed.
///
/// ```no_run
/// # async fn open() -> Result<(), Box<dyn std::error::Error>> {
/// use keyward::{Gate, KeyFormat, KeyScheme};
/// use keyward_postgres::PostgresStore;
///
/// let url = "postgres://my_api@localhost/my_api";
/// PostgresStore::migrate(url).await?; // by a deployment step, where roles are separate
/// let store = PostgresStore::connect(url).await?;
/// let gate = Gate::new(&store, &KeyScheme::new(KeyFormat::new("acme_{env}_")?))?;
/// # drop(gate);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct PostgresStore {
    pub(crate) inner: Arc<Inner>,
}

/// What all clones share. The thread ends with it.
pub(crate) struct Inner {
    pub(crate) parts: Parts,
    place: String,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// The ends of the thread's tasks.
pub(crate) struct Parts {
    replica: Replica,
    pub(crate) calls: Calls,
    runtime: Handle,
    pub(crate) feed: FeedHandle,
    jobs: UnboundedSender<Job>,
    /// A clone of it is held by each call that is under way.
    under_way: mpsc::Sender<()>,
    #[cfg(feature = "webhooks")]
    pub(crate) signal: keyward_webhooks::store::OutboxSignal,
    /// Where the last claim of deliveries ended.
    #[cfg(feature = "webhooks")]
    pub(crate) claimed_to: Arc<std::sync::Mutex<crate::claim::Cursor>>,
    /// Wakes the background work on deliveries.
    #[cfg(feature = "webhooks")]
    pub(crate) backlog: Arc<tokio::sync::Notify>,
}

impl Parts {
    pub(crate) fn written(&self) -> Written {
        Written {
            replica: self.replica.clone(),
            feed: self.feed.clone(),
            deadline: self.calls.deadline,
        }
    }
}

/// What is left to do after a commit was written.
pub(crate) struct Written {
    replica: Replica,
    feed: FeedHandle,
    deadline: Duration,
}

impl Written {
    /// Waits until a commit is in force in this process.
    pub(crate) async fn is_in_force(&self, commit: &Commit) -> Result<(), StoreError> {
        if let Some(change) = &commit.credits {
            self.replica.credits_changed(change.owner());
        }
        if !commit.accounts.is_empty() || !commit.keys.is_empty() {
            self.feed.applied(self.deadline).await?;
        }
        Ok(())
    }
}

/// The settings of a store's tasks.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) poll_interval: Duration,
    pub(crate) flush_interval: Duration,
    pub(crate) deadline: Duration,
    pub(crate) label: String,
}

impl PostgresStore {
    /// Connects to a database, and loads all keys before it returns.
    ///
    /// The URL is that of libpq, such as `postgres://user:password@host/database` or `host=.. dbname=..`.
    /// It must lead to the primary server itself, not through PgBouncer; see [`PostgresOptions::pool`].
    /// To a server on another machine, it connects with TLS ([`PostgresOptions::tls`]) or, if the URL
    /// says `sslmode=disable`, without.
    ///
    /// Any executor may poll the future.
    ///
    /// # Errors
    /// Returns an error if the server cannot be reached or is a read replica, if the database lacks the
    /// tables or has older ones ([`migrate`](Self::migrate)), or if they are of a version that this build
    /// cannot read. The message has no password.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        PostgresOptions::new().connect(url).await
    }

    /// Creates the tables, or brings them up to date.
    ///
    /// They are in the schema `keyward` of the database. Programs that do this at once wait for each
    /// other. The role needs the right to create a schema in the database, or must own the schema.
    ///
    /// # Errors
    /// Returns an error if the server cannot be reached, or refuses a statement.
    pub async fn migrate(url: &str) -> Result<(), StoreError> {
        PostgresOptions::new().migrate(url).await
    }

    /// Runs work on the store's runtime. It goes on if the future is dropped.
    pub(crate) fn call<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> StoreFuture<'_, T> {
        Box::pin(async move {
            let under_way = self.inner.parts.under_way.clone();
            let task = self.inner.parts.runtime.spawn(async move {
                let done = work.await;
                drop(under_way);
                done
            });
            let done = task.await;
            let done = done.unwrap_or_else(|_| Err(unavailable("the store's thread has ended")));
            done.map_err(|error| error.at(&self.inner.place))
        })
    }

    /// Runs statements without a transaction.
    pub(crate) fn read<T: Send + 'static>(
        &self,
        read: impl for<'a> FnOnce(&'a tokio_postgres::Client) -> Work<'a, T> + Send + 'static,
    ) -> StoreFuture<'_, T> {
        let calls = self.inner.parts.calls.clone();
        self.call(async move { calls.read(read).await })
    }

    /// Gives the worker a job, and waits for the answer.
    fn job<T: Send + 'static>(
        &self,
        job: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Job + Send + 'static,
    ) -> StoreFuture<'_, T> {
        Box::pin(async move {
            let (answer, answered) = oneshot::channel();
            drop(self.inner.parts.jobs.send(job(answer)));
            let done = answered.await;
            let done = done.unwrap_or_else(|_| Err(unavailable("the store's thread has ended")));
            done.map_err(|error| error.at(&self.inner.place))
        })
    }
}

impl Store for PostgresStore {
    fn replica(&self) -> &Replica {
        &self.inner.parts.replica
    }

    fn commit(&self, commit: Commit) -> StoreFuture<'_, ()> {
        let parts = &self.inner.parts;
        let (calls, written) = (parts.calls.clone(), parts.written());
        self.call(async move {
            let commit = Arc::new(commit);
            let whole = Arc::clone(&commit);
            let write = calls
                .write(move |client| Box::pin(async move { commit::write(client, &whole).await }));
            write.await?;
            written.is_in_force(&commit).await
        })
    }

    fn account(&self, id: AccountId) -> StoreFuture<'_, Option<Account>> {
        self.read(move |client| {
            Box::pin(async move {
                let one = format!("SELECT {ACCOUNT} FROM keyward.account AS account WHERE id = $1");
                let row = client
                    .query_typed_opt(&one, &[(&id.as_str(), Type::TEXT)])
                    .await?;
                Ok(row.map(|row| row::account(&row, 0)).transpose()?)
            })
        })
    }

    fn key(&self, id: KeyId) -> StoreFuture<'_, Option<KeyRecord>> {
        self.read(move |client| {
            Box::pin(async move {
                let one = format!(
                    "SELECT {KEY}, {LAST_USE} FROM keyward.key AS key \
                     LEFT JOIN keyward.usage_key AS used ON used.key = key.id WHERE key.id = $1"
                );
                let row = client
                    .query_typed_opt(&one, &[(&id.to_string(), Type::TEXT)])
                    .await?;
                Ok(row.map(|row| row::used_key(&row)).transpose()?)
            })
        })
    }

    fn keys(&self, query: KeyQuery) -> StoreFuture<'_, Vec<KeyRecord>> {
        self.read(move |client| Box::pin(async move { list::page(client, &query).await }))
    }

    fn accounts(&self, query: AccountQuery) -> StoreFuture<'_, Vec<Account>> {
        self.read(move |client| Box::pin(async move { list::accounts(client, &query).await }))
    }

    fn created_with(&self, account: AccountId, token: String) -> StoreFuture<'_, Option<KeyId>> {
        self.read(move |client| {
            Box::pin(async move {
                let one = "SELECT key FROM keyward.token WHERE account = $1 AND token = $2";
                let row = client
                    .query_typed_opt(
                        one,
                        &[
                            (&account.as_str(), Type::TEXT),
                            (&escaped(&token), Type::TEXT),
                        ],
                    )
                    .await?;
                let key = row.map(|row| Cells::of(&row).parse(KeyId::parse));
                Ok(key.transpose()?)
            })
        })
    }

    fn flush(&self) -> StoreFuture<'_, ()> {
        self.job(Job::Flush)
    }

    fn credits(&self, owner: CreditOwner) -> StoreFuture<'_, Option<Credits>> {
        self.job(move |answer| Job::Balance(owner, answer))
    }

    fn usage(&self, query: UsageQuery) -> StoreFuture<'_, Vec<KeyUsage>> {
        self.read(move |client| Box::pin(async move { usage::page(client, &query).await }))
    }

    fn schemes(&self, now: SystemTime) -> StoreFuture<'_, Vec<(DigestScheme, u64)>> {
        self.read(move |client| Box::pin(list::schemes(client, now)))
    }

    fn maintain(&self, task: Maintenance, line: Option<AuditEntry>) -> StoreFuture<'_, Maintained> {
        let parts = &self.inner.parts;
        let (calls, feed) = (parts.calls.clone(), parts.feed.clone());
        self.call(async move {
            let changes_keys = matches!(
                task,
                Maintenance::PruneKeys { .. } | Maintenance::EraseAccount { .. }
            );
            let step = calls.write(move |client| {
                Box::pin(async move { maintenance::step(client, &task, line).await })
            });
            let maintained = step.await?;
            if changes_keys {
                feed.applied(calls.deadline).await?;
            }
            Ok(maintained)
        })
    }

    fn tombstones(&self, query: TombstoneQuery) -> StoreFuture<'_, Vec<Tombstone>> {
        self.read(move |client| {
            Box::pin(async move { maintenance::tombstones(client, &query).await })
        })
    }

    fn audit(&self, query: AuditQuery) -> StoreFuture<'_, Vec<AuditEntry>> {
        self.read(move |client| Box::pin(async move { audit::page(client, &query).await }))
    }
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore")
            .field("place", &self.inner.place)
            .field("replica", &self.inner.parts.replica)
            .finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        drop(self.stop.take());
        // It waits until no call is under way.
        let (none, _) = mpsc::channel(1);
        self.parts.under_way = none;
        // Waking a future may drop the last handle on the thread itself, which cannot wait for itself.
        let another = |thread: &JoinHandle<()>| thread.thread().id() != thread::current().id();
        if let Some(thread) = self.thread.take().filter(another) {
            drop(thread.join());
        }
    }
}

/// Starts the thread of a store, and waits until it has read everything.
pub(crate) async fn start(
    connector: Connector,
    pool: Pool,
    replica: Replica,
    settings: Settings,
) -> Result<PostgresStore, StoreError> {
    let place = connector.place();
    let (ready, is_ready) = oneshot::channel();
    let (stop, stopped) = oneshot::channel();
    let thread = thread::Builder::new().name("keyward-postgres".to_owned());
    let thread = thread.spawn(move || {
        let work = run(connector, pool, replica, settings, ready, stopped);
        match runtime() {
            Ok(runtime) => runtime.block_on(work),
            // The one who waits is told.
            Err(_) => drop(work),
        }
    });
    let thread = thread.map_err(unavailable)?;
    let ended = || Err(unavailable("the store's thread has ended"));
    let started = is_ready.await.unwrap_or_else(|_| ended());
    let parts = started.map_err(|error| error.at(&place))?;
    Ok(PostgresStore {
        inner: Arc::new(Inner {
            parts,
            place,
            stop: Some(stop),
            thread: Some(thread),
        }),
    })
}

/// Runs the migrations on a thread of its own, so that any executor may wait for them.
pub(crate) async fn migrate(connector: Connector) -> Result<(), StoreError> {
    let place = connector.place();
    let (done, is_done) = oneshot::channel();
    let thread = thread::Builder::new().name("keyward-migrate".to_owned());
    let thread = thread.spawn(move || {
        let work = async {
            let session = connector.connect(None).await?;
            migration::migrate(&session).await
        };
        let migrated = runtime().and_then(|runtime| {
            let migrated = runtime.block_on(async { timeout(MIGRATION, work).await });
            Ok(migrated.map_err(unavailable)??)
        });
        drop(done.send(migrated));
    });
    drop(thread.map_err(unavailable)?);
    let migrated = is_done.await.map_err(unavailable)?;
    migrated.map_err(|error| error.at(place))
}

fn runtime() -> Result<Runtime, StoreError> {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.map_err(unavailable)
}

/// The work of the thread, from the first connection until the store is dropped.
async fn run(
    connector: Connector,
    pool: Pool,
    replica: Replica,
    settings: Settings,
    mut ready: oneshot::Sender<Result<Parts, StoreError>>,
    stopped: oneshot::Receiver<()>,
) {
    let ending = Ending {
        replica: replica.clone(),
        is_over: Arc::default(),
    };
    let Some(node) = random_node() else {
        drop(ready.send(Err(unavailable("the system has no randomness"))));
        return;
    };
    let (tasks, waiting) = mpsc::unbounded_channel();
    let handle = FeedHandle(tasks);
    let mut feed = Feed::new(
        connector,
        replica.clone(),
        waiting,
        handle.clone(),
        settings.poll_interval,
        node,
        settings.label,
    );
    let opened = tokio::select! {
        opened = feed.open() => opened,
        () = ready.closed() => return,
    };
    if let Err(error) = opened {
        drop(ready.send(Err(error)));
        return;
    }
    let calls = Calls {
        pool,
        deadline: settings.deadline,
    };
    let (jobs, todo) = mpsc::unbounded_channel();
    let worker = Worker {
        calls: calls.clone(),
        replica: replica.clone(),
        feed: handle.clone(),
        jobs: todo,
        wishes: Arc::default(),
        queue: FlushQueue::new(node),
        flush_interval: settings.flush_interval,
        flushing: VecDeque::new(),
        asked: Vec::new(),
        is_failing: false,
    };
    let wishes = (Arc::clone(&feed.wishes), Arc::clone(&worker.wishes));
    let is_over = Arc::clone(&ending.is_over);
    replica.on_demand(move |replica| {
        if is_over.load(Ordering::Acquire) {
            return false;
        }
        if replica.wants_poll() {
            wishes.0.notify_one();
        }
        // Whether for credits alone cannot be told, and to look costs nothing.
        wishes.1.notify_one();
        true
    });
    let mut feed = tokio::spawn(feed.run());
    let mut worker = tokio::spawn(worker.run());
    #[cfg(feature = "webhooks")]
    let (backlog, backlog_work) = {
        let wishes = Arc::new(tokio::sync::Notify::new());
        let work = crate::backlog::run(calls.clone(), Arc::clone(&wishes));
        (wishes, tokio::spawn(work))
    };
    let (under_way, mut calls_under_way) = mpsc::channel(1);
    let started = Parts {
        replica,
        calls: calls.clone(),
        runtime: Handle::current(),
        feed: handle,
        jobs: jobs.clone(),
        under_way,
        #[cfg(feature = "webhooks")]
        signal: keyward_webhooks::store::OutboxSignal::default(),
        #[cfg(feature = "webhooks")]
        claimed_to: Arc::default(),
        #[cfg(feature = "webhooks")]
        backlog,
    };
    // If nobody wants the store any more, it ends at once.
    drop(ready.send(Ok(started)));
    let has_panicked = tokio::select! {
        _ = stopped => false,
        _ = &mut feed => true,
        _ = &mut worker => true,
    };
    if has_panicked {
        tracing::error!("the store's thread panicked, requests will be refused");
    } else {
        drop(timeout(calls.deadline, calls_under_way.recv()).await);
        drop(jobs.send(Job::Stop));
        drop(timeout(2 * calls.deadline, worker).await);
    }
    #[cfg(feature = "webhooks")]
    backlog_work.abort();
    feed.abort();
    drop(ending);
}

/// Makes requests that wait fail, however the thread ends.
struct Ending {
    replica: Replica,
    is_over: Arc<AtomicBool>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        // In this order: a request that is too late to be woken finds that it is over.
        self.is_over.store(true, Ordering::Release);
        drop(self.replica.poll());
        self.replica.no_more_grants();
    }
}

/// Returns the number by which the database identifies this process.
fn random_node() -> Option<i64> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).ok()?;
    Some(i64::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {

    use std::net::TcpListener;
    use std::process::Stdio;
    use std::task::{Context, Waker};
    use std::time::Instant;

    use deadpool_postgres::Manager;
    use keyward::denial::DenialKind;
    use keyward::record::KeyStatus;
    use keyward::store::StoreErrorKind;
    use keyward::testing::block_on;
    use tokio_postgres::NoTls;

    use super::*;
    use crate::fixture::{
        Fixture, add, as_somebody, ask, ask_gate, ask_strictly, commit, eventually, key, stored,
        used,
    };

    #[test]
    fn two_stores_see_each_others_changes() {
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
    fn a_future_that_is_dropped_cancels_no_transaction_half_way() {
        let fixture = Fixture::new();
        let store = fixture.open();
        add(&store, "acme");
        let context = &mut Context::from_waker(Waker::noop());
        let (secret, record) = key("acme");
        let commit = Commit {
            keys: vec![record],
            ..Commit::default()
        };
        let mut begun = store.commit(commit);
        assert!(begun.as_mut().poll(context).is_pending());
        drop(begun);
        eventually(|| ask(&store, &secret) == Ok(()));
        // And none is lost when the store is dropped too.
        let (_, record) = key("acme");
        let id = record.id;
        let commit = Commit {
            keys: vec![record],
            ..Commit::default()
        };
        let mut begun = store.commit(commit);
        assert!(begun.as_mut().poll(context).is_pending());
        drop(begun);
        drop(store);
        stored(&fixture.open(), id);
    }

    #[test]
    fn a_call_answers_in_any_runtime_also_where_its_executor_is_blocked() {
        let fixture = Fixture::new();
        let store = fixture.open();
        let (secret, _) = add(&store, "acme");
        let runtime = runtime().unwrap();
        runtime.block_on(async {
            // The feed does not need this thread.
            let typed = "UPDATE keyward.key SET status = 'disabled'";
            thread::scope(|other| {
                let typed = other.spawn(|| fixture.type_in(typed));
                typed.join().unwrap().unwrap();
            });
            eventually(|| ask(&store, &secret) == Err(DenialKind::Disabled));
            store.flush().await.unwrap();
            drop(store);
        });
    }

    #[test]
    fn a_call_that_waits_for_a_lock_fails_in_time_and_leaves_nothing_behind() {
        let fixture = Fixture::new();
        let options = PostgresOptions::new().deadline(Duration::from_secs(1));
        let store = fixture.open_with(&options.connections(2));
        let (secret, mut record) = add(&store, "acme");
        let mut other = fixture.psql();
        other
            .execute("BEGIN; UPDATE keyward.key SET name = 'held'")
            .unwrap();
        record.status = KeyStatus::Revoked;
        let since = Instant::now();
        // More than there are connections.
        thread::scope(|threads| {
            for _ in 0..4 {
                threads.spawn(|| {
                    let revoked = commit(&store, vec![], vec![record.clone()]);
                    assert_eq!(revoked, Err(StoreErrorKind::Unavailable));
                });
            }
        });
        assert!(since.elapsed() < Duration::from_secs(20), "{since:?}");
        assert_eq!(ask_strictly(&store, &secret), Ok(()), "polls go on");
        other.execute("ROLLBACK").unwrap();
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
             AND state LIKE 'idle in transaction%'";
        let began = Instant::now();
        while other.value(waiting) != "0" {
            assert!(began.elapsed() < Duration::from_secs(20), "it never ends");
        }
        assert_eq!(commit(&store, vec![], vec![record]), Ok(()));
    }

    #[test]
    fn an_outage_or_a_plain_connection_to_another_machine_is_a_typed_error() {
        let connect = |url: &str| block_on(PostgresStore::connect(url)).unwrap_err();
        for url in [
            "postgres://keyward:hush@127.0.0.1:1/keyward",
            "postgres://keyward:hush@db.example/keyward",
            "postgres://keyward:hush@localhost/keyward?sslmode=require",
            "postgres://keyward:hush@localhost:no/keyward",
        ] {
            let error = connect(url);
            assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{url}");
            assert!(!format!("{error:?}").contains("hush"), "{error:?}");
        }
        let plain = connect("host=db.example user=keyward");
        let why = std::error::Error::source(&plain).unwrap().to_string();
        assert!(why.contains("sslmode=disable"), "{why}");
    }

    #[test]
    fn a_panic_leaves_no_call_waiting() {
        let fixture = Fixture::new();
        let store = fixture.open();
        let (secret, record) = add(&store, "acme");
        let panic = store.call::<()>(async { panic!("as the test wants") });
        assert_eq!(
            block_on(panic).unwrap_err().kind(),
            StoreErrorKind::Unavailable
        );
        assert_eq!(
            ask_strictly(&store, &secret),
            Ok(()),
            "another task goes on"
        );
        stored(&store, record.id);
    }

    #[test]
    fn dropping_the_store_ends_its_thread_and_refuses_what_waits() {
        let fixture = Fixture::new();
        let store = fixture.open_slow();
        let (secret, _) = add(&store, "acme");
        let replica = store.replica().clone();
        let since = Instant::now();
        let clone = store.clone();
        drop(store);
        assert_eq!(ask_strictly(&clone, &secret), Ok(()));
        drop(clone);
        assert!(
            since.elapsed() < Duration::from_secs(60),
            "not the interval"
        );
        let asked = ask_gate(&replica, Duration::ZERO, &secret);
        assert_eq!(asked, Err(DenialKind::Unavailable));
        let open = "SELECT count(*) FROM pg_stat_activity \
             WHERE datname = current_database() AND pid <> pg_backend_pid()";
        let mut psql = fixture.psql();
        let began = Instant::now();
        while psql.value(open) != "0" {
            assert!(began.elapsed() < Duration::from_secs(20), "it is connected");
        }
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
        assert!(error.contains("key_digest_key"), "{error}");
        let start = &record.digest.expose_bytes()[..4];
        let hex = format!("{:08X}", u32::from_be_bytes(start.try_into().unwrap()));
        assert!(!error.to_uppercase().contains(&hex), "{error}");
        let list = format!("{start:?}");
        assert!(!error.contains(list.trim_end_matches(']')), "{error}");
    }

    #[test]
    fn calls_may_go_through_pgbouncer_in_transaction_mode() {
        let fixture = Fixture::new();
        let (_, server) = fixture.url.split_once('@').unwrap();
        let (address, database) = server.split_once('/').unwrap();
        let (host, server_port) = address.split_once(':').unwrap();
        let port = {
            let free = TcpListener::bind("127.0.0.1:0").unwrap();
            free.local_addr().unwrap().port()
        };
        let settings = std::env::temp_dir().join(format!("keyward-pgbouncer-{port}.ini"));
        let text = format!(
            "[databases]\n{database} = host={host} port={server_port} user=keyward\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = any\n\
             pool_mode = transaction\ndefault_pool_size = 2\nunix_socket_dir =\n"
        );
        std::fs::write(&settings, text).unwrap();
        // Debian has it where only the administrator's PATH leads.
        let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin";
        let bouncer = as_somebody("pgbouncer")
            .env("PATH", path)
            .arg(&settings)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let mut bouncer = bouncer.expect("pgbouncer is not installed; scripts/test installs it");
        let through: tokio_postgres::Config =
            format!("postgres://keyward@127.0.0.1:{port}/{database}")
                .parse()
                .unwrap();
        let pool = Pool::builder(Manager::new(through, NoTls))
            .max_size(8)
            .build();
        let store = fixture.open_with(&PostgresOptions::new().pool(pool.unwrap()));
        eventually(|| block_on(store.schemes(SystemTime::now())).is_ok());
        let (secret, _) = add(&store, "acme");
        thread::scope(|threads| {
            for _ in 0..8 {
                threads.spawn(|| {
                    for _ in 0..5 {
                        let (secret, mut record) = key("acme");
                        commit(&store, vec![], vec![record.clone()]).unwrap();
                        assert_eq!(ask(&store, &secret), Ok(()));
                        record = stored(&store, record.id);
                        record.status = KeyStatus::Revoked;
                        commit(&store, vec![], vec![record]).unwrap();
                        assert_eq!(ask(&store, &secret), Err(DenialKind::Revoked));
                    }
                });
            }
        });
        assert_eq!(ask(&store, &secret), Ok(()));
        block_on(store.flush()).unwrap();
        assert_eq!(used(&store, "acme").0, 41);
        drop(store);
        bouncer.kill().unwrap();
        bouncer.wait().unwrap();
        std::fs::remove_file(settings).unwrap();
    }

    #[cfg(feature = "tls")]
    #[test]
    fn a_connection_with_tls_verifies_the_server() {
        use rustls::pki_types::CertificateDer;
        use rustls::pki_types::pem::PemObject as _;
        use rustls::{ClientConfig, RootCertStore};

        use crate::fixture::Server;

        let server = Server::start();
        let fixture = Fixture::on(&server);
        let certificate = server.speak_tls();
        let url = fixture.url.replace("127.0.0.1", "localhost");
        let connect = |roots: RootCertStore| {
            let tls = ClientConfig::builder()
                .with_root_certificates(roots)
                .with_no_client_auth();
            block_on(PostgresOptions::new().tls(tls).connect(&url))
        };
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(&certificate).unwrap())
            .unwrap();
        let store = connect(roots).unwrap();
        let (secret, _) = add(&store, "acme");
        assert_eq!(ask_strictly(&store, &secret), Ok(()));
        let plain = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
             WHERE application_name = 'keyward' AND NOT ssl";
        assert_eq!(fixture.psql().value(plain), "0");

        let error = connect(RootCertStore::empty()).unwrap_err();
        assert_eq!(
            error.kind(),
            StoreErrorKind::Unavailable,
            "an unknown authority"
        );
        let mut admin = crate::fixture::connect(&server.url).unwrap();
        admin.execute("ALTER SYSTEM SET ssl = off").unwrap();
        admin.execute("SELECT pg_reload_conf()").unwrap();
        thread::sleep(Duration::from_millis(200));
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(&certificate).unwrap())
            .unwrap();
        let error = connect(roots).unwrap_err();
        assert_eq!(
            error.kind(),
            StoreErrorKind::Unavailable,
            "no fall-back to plain text"
        );
    }
}
