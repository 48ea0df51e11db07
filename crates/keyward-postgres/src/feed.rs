//! The task that follows the changes in the database, and feeds the replica.

use std::error::Error as StdError;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, try_join};
use keyward::replica::{Poll, Replica, Revision};
use keyward::store::StoreError;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::{Notify, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_postgres::binary_copy::{BinaryCopyOutRow, BinaryCopyOutStream};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Row, Statement};

use crate::connect::{Connector, Session};
use crate::error::{Error, RowError, unavailable};
use crate::migration;
use crate::row::{self, ACCOUNT, ACCOUNT_TYPES, KEY, KEY_TYPES, Timestamp};

/// The deadline of the statement that every poll begins with.
const STATUS: Duration = Duration::from_secs(1);

/// The deadline of connecting.
const CONNECT: Duration = Duration::from_secs(2);

/// The deadline of statements that may read many rows.
const LONG: Duration = Duration::from_secs(5);

/// The interval below which notifications wait for each other.
const COALESCED: Duration = Duration::from_millis(20);

/// The first and the last pause after a failure.
const BACKOFF: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(1)];

/// The interval at which this process reports that it is alive.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// The interval at which old history is removed.
const PRUNE: Duration = Duration::from_secs(60);

/// How old the memory of a process may be when it answers a request: that of a gate by default.
const MAX_STALENESS: Duration = Duration::from_secs(30);

/// The number of changes above which everything is read instead.
const MOST_CHANGES: i64 = 50_000;

/// The number of rows that are read before other tasks get their turn.
const AT_ONCE: usize = 500;

/// A task for the feed.
pub(crate) enum FeedTask {
    /// Poll, and answer when everything that was committed before is applied.
    Poll(Answer),
    /// Note the end of a full read.
    HasRead(u64, Result<(), StoreError>),
}

type Answer = oneshot::Sender<Result<(), StoreError>>;

/// A handle by which other tasks ask for polls.
#[derive(Clone, Debug)]
pub(crate) struct FeedHandle(pub(crate) UnboundedSender<FeedTask>);

impl FeedHandle {
    /// Waits until the replica has everything that was committed before this call.
    pub(crate) async fn applied(&self, deadline: Duration) -> Result<(), StoreError> {
        let (answer, answered) = oneshot::channel();
        drop(self.0.send(FeedTask::Poll(answer)));
        match timeout(deadline, answered).await {
            Ok(Ok(applied)) => applied,
            Ok(Err(_)) => Err(unavailable("the store has shut down")),
            Err(_) => Err(unavailable(
                "the change is stored, but was not read in time",
            )),
        }
    }
}

/// The state of the task.
pub(crate) struct Feed {
    pub(crate) connector: Connector,
    pub(crate) replica: Replica,
    pub(crate) tasks: UnboundedReceiver<FeedTask>,
    /// Its own tasks come to the same place.
    pub(crate) handle: FeedHandle,
    /// Woken when requests wait for a poll.
    pub(crate) wishes: Arc<Notify>,
    /// Woken by the server when something has changed.
    pub(crate) notified: Arc<Notify>,
    pub(crate) interval: Duration,
    pub(crate) node: i64,
    pub(crate) label: String,
    link: Option<Link>,
    waiting: Vec<Answer>,
    reading: Option<Reading>,
    readings: u64,
    is_failing: bool,
    failures: u32,
    /// The last revision that was applied.
    applied: Option<u64>,
    polled: Instant,
    beat: Option<Instant>,
    pruned: Instant,
}

/// A full read that is under way beside the polls.
struct Reading {
    number: u64,
    task: AbortHandle,
    /// Those who wait for changes that no poll can deliver.
    waiting: Vec<Answer>,
}

/// What a poll has done.
enum Fed {
    /// The replica has everything up to this revision.
    All(Revision),
    /// A full read was begun, at whose end it has.
    Reading(Poll),
}

impl Feed {
    pub(crate) fn new(
        connector: Connector,
        replica: Replica,
        tasks: UnboundedReceiver<FeedTask>,
        handle: FeedHandle,
        interval: Duration,
        node: i64,
        label: String,
    ) -> Self {
        let now = Instant::now();
        Self {
            connector,
            replica,
            tasks,
            handle,
            wishes: Arc::default(),
            notified: Arc::default(),
            interval,
            node,
            label,
            link: None,
            waiting: Vec::new(),
            reading: None,
            readings: 0,
            is_failing: false,
            failures: 0,
            applied: None,
            polled: now,
            beat: None,
            pruned: now,
        }
    }

    /// Connects, and reads everything for the first time.
    pub(crate) async fn open(&mut self) -> Result<(), StoreError> {
        self.connect().await?;
        let (answer, mut answered) = oneshot::channel();
        self.waiting.push(answer);
        self.poll().await?;
        loop {
            tokio::select! {
                read = &mut answered => {
                    return read.unwrap_or_else(|_| Err(unavailable("the store has shut down")));
                }
                task = self.tasks.recv() => {
                    if let Some(task) = task {
                        self.take(task);
                    }
                    if !self.waiting.is_empty() {
                        self.poll().await?;
                    }
                }
                () = sleep_until(self.polled + self.interval.min(LONG)) => self.poll().await?,
            }
        }
    }

    /// Runs until the store ends.
    pub(crate) async fn run(mut self) {
        let mut due = self.next_poll();
        loop {
            tokio::select! {
                task = self.tasks.recv() => {
                    let Some(task) = task else { return };
                    self.take(task);
                    while let Ok(task) = self.tasks.try_recv() {
                        self.take(task);
                    }
                    if self.waiting.is_empty() {
                        continue;
                    }
                    // After a failure, the next attempt is made when it is due.
                    if self.failures > 0 && due > Instant::now() {
                        continue;
                    }
                }
                () = self.wishes.notified() => {}
                () = self.notified.notified() => {
                    if self.failures == 0 {
                        due = due.min(self.polled + COALESCED);
                    }
                    if due > Instant::now() {
                        continue;
                    }
                }
                () = sleep_until(due) => {}
            }
            // A failure is logged, and the replica ages.
            drop(self.poll().await);
            due = self.next_poll();
        }
    }

    fn take(&mut self, task: FeedTask) {
        match task {
            FeedTask::Poll(answer) => self.waiting.push(answer),
            FeedTask::HasRead(number, read) => self.has_read(number, &read),
        }
    }

    /// Returns when the next poll is due: sooner or later by a tenth, so that processes spread.
    fn next_poll(&self) -> Instant {
        let pause = match self.failures.checked_sub(1) {
            None => self.interval,
            Some(doubled) => {
                let pause = BACKOFF[0].saturating_mul(1 << doubled.min(10));
                pause.min(BACKOFF[1])
            }
        };
        let spread = f64::from(random_byte()) / 1280.0 + 0.9;
        let far = self.polled + Duration::from_secs(3600);
        self.polled
            .checked_add(Duration::try_from_secs_f64(pause.as_secs_f64() * spread).unwrap_or(pause))
            .unwrap_or(far)
    }

    /// Feeds the replica. A failure is logged once, and once when it is over.
    async fn poll(&mut self) -> Result<(), StoreError> {
        // In this order: the poll notes the time before anything is sent.
        let poll = self.replica.poll();
        let waiting = std::mem::take(&mut self.waiting);
        let fed = self.feed(poll).await;
        self.polled = Instant::now();
        match fed {
            Ok(Fed::All(head)) => {
                self.failures = 0;
                for answer in waiting {
                    drop(answer.send(Ok(())));
                }
                // Until a full read has ended, memory may hold what is older.
                if self.reading.is_none() {
                    self.note(None);
                    self.applied = Some(head.number);
                    self.report().await;
                }
                Ok(())
            }
            Ok(Fed::Reading(everything)) => {
                self.failures = 0;
                self.read_all(everything, waiting);
                Ok(())
            }
            Err(error) => {
                // Whatever happened: its statements may still be running.
                self.link = None;
                self.failures = self.failures.saturating_add(1);
                self.note(Some(&error));
                // They wait for a poll that succeeds, or until their deadline.
                self.waiting.extend(waiting);
                self.waiting.retain(|answer| !answer.is_closed());
                Err(error)
            }
        }
    }

    fn note(&mut self, error: Option<&StoreError>) {
        match error {
            Some(error) if !self.is_failing => {
                let error: &(dyn StdError + 'static) = error;
                let place = self.connector.place();
                tracing::error!(
                    place,
                    error,
                    "the keys cannot be read, requests will be refused"
                );
            }
            None if self.is_failing => tracing::info!("the keys can be read again"),
            _ => {}
        }
        self.is_failing = error.is_some();
    }

    async fn feed(&mut self, mut poll: Poll) -> Result<Fed, StoreError> {
        self.connect().await?;
        let Some(link) = &self.link else {
            return Err(unavailable("the connection was closed"));
        };
        let since = poll.since();
        let Status { head, is_known } = in_time(STATUS, link.status(since)).await?;
        if Some(head) == since {
            poll.finish(head)?;
            return Ok(Fed::All(head));
        }
        let mut seen = head;
        if let Some(since) = since.filter(|_| is_known) {
            let news = in_time(LONG, link.changes(since, &mut poll)).await?;
            if news.is_all && !poll.must_restart() {
                poll.finish(news.head)?;
                return Ok(Fed::All(news.head));
            }
            seen = news.head;
        }
        Ok(Fed::Reading(poll.reload(seen)?))
    }

    /// Starts to read everything, beside the polls.
    fn read_all(&mut self, everything: Poll, mut waiting: Vec<Answer>) {
        self.readings += 1;
        let number = self.readings;
        let (connector, handle) = (self.connector.clone(), self.handle.clone());
        let task = tokio::spawn(async move {
            let read = read_all(&connector, everything, &handle).await;
            drop(handle.0.send(FeedTask::HasRead(number, read)));
        });
        let task = task.abort_handle();
        if let Some(old) = self.reading.take() {
            old.task.abort();
            waiting.extend(old.waiting);
        }
        self.reading = Some(Reading {
            number,
            task,
            waiting,
        });
    }

    fn has_read(&mut self, number: u64, read: &Result<(), StoreError>) {
        let Some(reading) = self.reading.take_if(|reading| reading.number == number) else {
            return;
        };
        if let Err(error) = read {
            // The next poll begins another.
            self.failures = self.failures.saturating_add(1);
            self.note(Some(error));
        } else {
            self.note(None);
        }
        for answer in reading.waiting {
            let read = match read {
                Ok(()) => Ok(()),
                Err(error) => Err(StoreError::new(error.kind()).because(error.to_string())),
            };
            drop(answer.send(read));
        }
    }

    async fn connect(&mut self) -> Result<(), StoreError> {
        if self
            .link
            .as_ref()
            .is_some_and(|link| link.session.is_closed())
        {
            self.link = None;
        }
        if self.link.is_none() {
            let open = Link::open(&self.connector, &self.notified);
            let link = in_time(CONNECT, open).await?;
            // A process registers before it reads: whoever counts the processes sees it, or it sees the
            // change.
            in_time(STATUS, link.register(self.node, &self.label)).await?;
            self.link = Some(link);
            self.beat = None;
        }
        Ok(())
    }

    /// Reports the revision that is applied, if it is another one or was not reported lately.
    async fn report(&mut self) {
        let (Some(link), Some(applied)) = (&mut self.link, self.applied) else {
            return;
        };
        let is_due = self.beat.is_none_or(|beat| beat.elapsed() >= HEARTBEAT);
        if link.acked != Some(applied) || is_due {
            let node = self.node;
            let beat = in_time(STATUS, link.beat(node, &self.label, applied)).await;
            if beat.is_ok() {
                link.acked = Some(applied);
                self.beat = Some(Instant::now());
            } else {
                self.link = None;
                return;
            }
        }
        if self.pruned.elapsed() >= PRUNE {
            self.pruned = Instant::now();
            if in_time(LONG, link.prune()).await.is_err() {
                self.link = None;
            }
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        if let Some(reading) = &self.reading {
            reading.task.abort();
        }
    }
}

async fn in_time<T>(
    deadline: Duration,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, StoreError> {
    match timeout(deadline, work).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(unavailable("the server did not answer in time")),
    }
}

fn random_byte() -> u8 {
    let mut byte = [128];
    // Without randomness, processes only spread less.
    getrandom::fill(&mut byte).unwrap_or_default();
    let [byte] = byte;
    byte
}

/// The connection of the feed, with its statements.
struct Link {
    session: Session,
    status: Statement,
    seen: Statement,
    accounts: Statement,
    keys: Statement,
    /// The revision that was last reported.
    acked: Option<u64>,
}

struct Status {
    head: Revision,
    /// Set if the history leads from the known revision to the head.
    is_known: bool,
}

struct News {
    head: Revision,
    /// Set if the poll has everything that is new.
    is_all: bool,
}

/// Begins a transaction that sees one state of the database.
const SNAPSHOT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

const HEAD: &str = "SELECT rev, nonce FROM keyward.rev_log ORDER BY rev DESC LIMIT 1";

impl Link {
    async fn open(connector: &Connector, notified: &Arc<Notify>) -> Result<Self, Error> {
        let session = connector.connect(Some(Arc::clone(notified))).await?;
        migration::check(&session).await?;
        // A report that is lost in a crash is made again.
        session
            .batch_execute(
                "LISTEN keyward; SET synchronous_commit = off; SET statement_timeout = '10s'; \
                 SET idle_in_transaction_session_timeout = '10s'",
            )
            .await?;
        let both = [Type::INT8, Type::INT8];
        let status = format!(
            "SELECT head.rev, head.nonce, EXISTS ( \
             SELECT FROM keyward.rev_log AS known WHERE known.rev = $1 AND known.nonce = $2) \
             FROM ({HEAD}) AS head"
        );
        let status = session.prepare_typed(&status, &both).await?;
        let recent = format!(
            "WITH recent AS MATERIALIZED (SELECT kind, id FROM keyward.change WHERE rev > $1 \
             ORDER BY rev LIMIT {MOST_CHANGES} + 1)"
        );
        let seen = format!(
            "{recent} SELECT head.rev, head.nonce, EXISTS ( \
             SELECT FROM keyward.rev_log AS known WHERE known.rev = $1 AND known.nonce = $2), \
             (SELECT count(*) FROM recent), (SELECT bool_or(kind = '*') FROM recent) \
             FROM ({HEAD}) AS head"
        );
        let seen = session.prepare_typed(&seen, &both).await?;
        // None if everything is read instead: what a poll gives would only be in the way of that.
        let few = format!("(SELECT count(*) FROM recent) <= {MOST_CHANGES}");
        let accounts = format!(
            "{recent} SELECT changed.id, {ACCOUNT} FROM ( \
                 SELECT id FROM recent WHERE kind = 'a' AND {few} \
                 UNION \
                 SELECT key.account FROM recent JOIN keyward.key AS key ON key.id = recent.id \
                 WHERE recent.kind = 'k' AND $2 AND {few} \
             ) AS changed LEFT JOIN keyward.account AS account ON account.id = changed.id"
        );
        let types = [Type::INT8, Type::BOOL];
        let accounts = session.prepare_typed(&accounts, &types).await?;
        let keys = format!(
            "{recent} SELECT changed.id, {KEY} FROM ( \
                 SELECT DISTINCT id FROM recent WHERE kind = 'k' AND {few} \
             ) AS changed LEFT JOIN keyward.key AS key ON key.id = changed.id"
        );
        let keys = session.prepare_typed(&keys, &[Type::INT8]).await?;
        Ok(Self {
            session,
            status,
            seen,
            accounts,
            keys,
            acked: None,
        })
    }

    /// Looks whether anything is new. One statement sees one state of the database.
    async fn status(&self, since: Option<Revision>) -> Result<Status, Error> {
        let (rev, nonce) = pair(since);
        status(
            &self
                .session
                .query_one(&self.status, &[&rev, &nonce])
                .await?,
        )
    }

    /// Gives the poll all that has changed, from one state of the database.
    async fn changes(&self, since: Revision, poll: &mut Poll) -> Result<News, Error> {
        let (rev, nonce) = pair(Some(since));
        let with_accounts = poll.is_beside_reload();
        // Sent together, without waiting for the answers in between.
        let own: [&(dyn ToSql + Sync); 2] = [&rev, &nonce];
        let of_accounts: [&(dyn ToSql + Sync); 2] = [&rev, &with_accounts];
        let of_keys: [&(dyn ToSql + Sync); 1] = [&rev];
        let ((), seen, accounts, keys, ()) = try_join!(
            self.session.batch_execute(SNAPSHOT),
            self.session.query_one(&self.seen, &own),
            self.session.query(&self.accounts, &of_accounts),
            self.session.query(&self.keys, &of_keys),
            self.session.batch_execute("COMMIT"),
        )?;
        let Status { head, is_known } = status(&seen)?;
        let changes: i64 = seen.try_get(3)?;
        let is_everything: Option<bool> = seen.try_get(4)?;
        let mut is_all = is_known && changes <= MOST_CHANGES && !is_everything.unwrap_or_default();
        // The replica may have an invalid row as it was before, or one that is gone; a full read drops it.
        for row in &accounts {
            is_all &= give(row, |row| {
                poll.account(row::account(row, 1)?);
                Ok(())
            });
        }
        for row in &keys {
            is_all &= give(row, |row| {
                poll.key(&row::key(row, 1)?);
                Ok(())
            });
        }
        Ok(News { head, is_all })
    }

    async fn register(&self, node: i64, label: &str) -> Result<(), Error> {
        let register = "INSERT INTO keyward.node (node, label, acked_rev, max_staleness_ms) \
             VALUES ($1, $2, 0, $3) \
             ON CONFLICT (node) DO UPDATE SET heartbeat_at = excluded.heartbeat_at";
        self.put_node(register, node, label, None).await
    }

    async fn beat(&self, node: i64, label: &str, applied: u64) -> Result<(), Error> {
        let beat = "INSERT INTO keyward.node (node, label, max_staleness_ms, acked_rev) \
             VALUES ($1, $2, $3, $4) \
             ON CONFLICT (node) DO UPDATE SET acked_rev = excluded.acked_rev, \
             heartbeat_at = excluded.heartbeat_at";
        self.put_node(beat, node, label, Some(applied)).await
    }

    async fn put_node(
        &self,
        put: &str,
        node: i64,
        label: &str,
        applied: Option<u64>,
    ) -> Result<(), Error> {
        let label = row::escaped(label);
        let staleness = i64::try_from(MAX_STALENESS.as_millis()).unwrap_or(i64::MAX);
        let applied = applied.map(u64::cast_signed);
        let mut values: Vec<(&(dyn ToSql + Sync), Type)> = vec![
            (&node, Type::INT8),
            (&label, Type::TEXT),
            (&staleness, Type::INT8),
        ];
        if let Some(applied) = &applied {
            values.push((applied, Type::INT8));
        }
        self.session.execute_typed(put, &values).await?;
        Ok(())
    }

    async fn prune(&self) -> Result<(), Error> {
        Ok(self.session.batch_execute("SELECT keyward.prune()").await?)
    }
}

fn pair(revision: Option<Revision>) -> (i64, i64) {
    match revision {
        Some(Revision { number, nonce }) => (number.cast_signed(), nonce.cast_signed()),
        None => (-1, 0),
    }
}

fn status(row: &Row) -> Result<Status, Error> {
    let (rev, nonce): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
    let head = Revision {
        number: rev.cast_unsigned(),
        nonce: nonce.cast_unsigned(),
    };
    let is_known = row.try_get(2)?;
    Ok(Status { head, is_known })
}

/// Gives a row whose first column is the id that has changed, unless it is invalid or gone.
fn give(row: &Row, give: impl FnOnce(&Row) -> Result<(), RowError>) -> bool {
    let own: Result<Option<&str>, _> = row.try_get(1);
    matches!(own, Ok(Some(_))) && give(row).is_ok()
}

/// Reads everything into a reload, from one state of the database.
async fn read_all(
    connector: &Connector,
    mut everything: Poll,
    handle: &FeedHandle,
) -> Result<(), StoreError> {
    let session = in_time(CONNECT, connector.connect(None)).await?;
    let head = copy_all(&session, &mut everything).await?;
    drop(session);
    // It can be applied only when polls have seen at least as much as it has read.
    handle.applied(LONG).await?;
    // It takes as long as a second where there are a million keys, and polls go on.
    let finish = tokio::task::spawn_blocking(move || everything.finish(head));
    Ok(finish.await.map_err(unavailable)??)
}

async fn copy_all(session: &Session, everything: &mut Poll) -> Result<Revision, StoreError> {
    let began = async {
        session.batch_execute(SNAPSHOT).await?;
        status(
            &session
                .query_typed_one(&format!("SELECT head.*, true FROM ({HEAD}) AS head"), &[])
                .await?,
        )
    };
    let Status { head, .. } = in_time(LONG, began).await?;
    let accounts = format!("SELECT {ACCOUNT} FROM keyward.account AS account");
    copy(session, &accounts, &ACCOUNT_TYPES, |row| {
        everything.account(row::account(row, 0)?);
        Ok(())
    })
    .await?;
    // Keys that died too long ago would be forgotten at once.
    let since = Timestamp(everything.remembers_since()).seconds();
    let keys = format!(
        "SELECT {KEY} FROM keyward.key AS key \
         WHERE (key.expires_at IS NULL OR key.expires_at > to_timestamp({since})) \
         AND NOT (key.status = 'revoked' AND key.revoked_at IS NOT NULL \
             AND key.revoked_at <= to_timestamp({since}))"
    );
    copy(session, &keys, &KEY_TYPES, |row| {
        everything.key(&row::key(row, 0)?);
        Ok(())
    })
    .await?;
    in_time(LONG, async { Ok(session.batch_execute("COMMIT").await?) }).await?;
    Ok(head)
}

async fn copy(
    session: &Session,
    query: &str,
    types: &[Type],
    mut give: impl FnMut(&BinaryCopyOutRow) -> Result<(), RowError>,
) -> Result<(), StoreError> {
    let copy = format!("COPY ({query}) TO STDOUT (FORMAT binary)");
    let rows = in_time(LONG, async { Ok(session.copy_out(&copy).await?) }).await?;
    let mut rows = pin!(BinaryCopyOutStream::new(rows, types));
    let mut read = 0_usize;
    loop {
        let next = in_time(LONG, async { Ok(rows.next().await.transpose()?) });
        let Some(row) = next.await? else {
            return Ok(());
        };
        if let Err(why) = give(&row) {
            row::log_broken(&row, 0, &why);
        }
        read += 1;
        if read.is_multiple_of(AT_ONCE) {
            tokio::task::yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use keyward::denial::DenialKind;
    use keyward::record::KeyStatus;
    use keyward::store::StoreErrorKind;
    use keyward::testing::block_on;
    use keyward::{AccountId, KeyId, Store};

    use crate::PostgresOptions;
    use crate::fixture::{Fixture, add, ask, ask_strictly, commit, eventually, key, stored};

    #[test]
    fn a_row_that_is_not_valid_closes_that_key_only() {
        let fixture = Fixture::new();
        let store = fixture.open_slow();
        let (secret, record) = add(&store, "acme");
        let (others, _) = add(&store, "other");
        for odd in [
            "hint = 'none'",
            "scopes = '*'",
            "origins = 'null'",
            "rate_limits = '100'",
            "rate_limits = '1/1;0'",
            "metadata = '[]'",
            "metadata = '{\"a\":}'",
        ] {
            let typed = format!("UPDATE keyward.key SET {odd} WHERE id = '{}'", record.id);
            fixture.type_in(&typed).unwrap();
            assert_eq!(
                ask_strictly(&store, &secret),
                Err(DenialKind::Unknown),
                "{odd}"
            );
            assert_eq!(ask_strictly(&store, &others), Ok(()), "{odd}");
            let error = block_on(store.key(record.id)).unwrap_err();
            assert_eq!(error.kind(), StoreErrorKind::Corrupt, "{odd}");
            assert_eq!(ask(&fixture.open(), &others), Ok(()), "{odd}, when opened");
            let mended = format!(
                "UPDATE keyward.key SET hint = '{}', scopes = '', origins = NULL, \
                 rate_limits = '', metadata = '{{}}' WHERE id = '{}'",
                record.hint, record.id
            );
            fixture.type_in(&mended).unwrap();
            assert_eq!(ask_strictly(&store, &secret), Ok(()), "mended");
        }
    }

    #[test]
    fn what_no_program_would_write_is_refused_by_the_tables() {
        let fixture = Fixture::new();
        let store = fixture.open_slow();
        let (secret, _) = add(&store, "acme");
        for odd in [
            "key SET environment = 'Not An Environment'",
            "key SET environment = 'TEST'",
            "key SET kind = 'both'",
            "key SET status = 'Active'",
            "key SET origins = ' '",
            "key SET epoch = -1",
            "key SET epoch = 4294967296",
            "key SET created_at = 'infinity'",
            "key SET expires_at = '-infinity'",
            "key SET predecessor = 'key_1'",
            "key SET digest = '\\x00'",
            "key SET id = 'key_000000000000'",
            "key SET account = 'two words'",
            "key SET redigested = redigested + 1",
            "account SET status = 'x'",
            "account SET max_active_keys = -1",
            "account SET id = 'other'",
        ] {
            fixture
                .type_in(&format!("UPDATE keyward.{odd}"))
                .unwrap_err();
        }
        assert_eq!(ask_strictly(&store, &secret), Ok(()));
    }

    #[test]
    fn an_account_that_is_not_valid_closes_its_keys() {
        let fixture = Fixture::new();
        let store = fixture.open_slow();
        let (secret, record) = add(&store, "acme");
        let (others, _) = add(&store, "other");
        let odd = "UPDATE keyward.account SET rate_limits = '1' WHERE id = 'acme'";
        fixture.type_in(odd).unwrap();
        assert_eq!(ask_strictly(&store, &secret), Err(DenialKind::Revoked));
        assert_eq!(ask_strictly(&store, &others), Ok(()));
        let error = block_on(store.account(record.account.clone())).unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Corrupt);
        let mended = "UPDATE keyward.account SET rate_limits = '' WHERE id = 'acme'";
        fixture.type_in(mended).unwrap();
        assert_eq!(ask_strictly(&store, &secret), Ok(()));
    }

    #[test]
    fn a_gate_that_trusts_no_memory_sees_a_change_at_once() {
        let fixture = Fixture::new();
        let store = fixture.open_slow();
        let (secret, _) = add(&store, "acme");
        for (status, answer) in [
            ("disabled", Err(DenialKind::Disabled)),
            ("active", Ok(())),
            ("revoked", Err(DenialKind::Revoked)),
        ] {
            let typed = format!("UPDATE keyward.key SET status = '{status}'");
            fixture.type_in(&typed).unwrap();
            thread::scope(|threads| {
                let ask = || ask_strictly(&store, &secret);
                let all: Vec<_> = (0..8).map(|_| threads.spawn(ask)).collect();
                for one in all {
                    assert_eq!(one.join().unwrap(), answer);
                }
            });
        }
    }

    #[test]
    fn a_notification_brings_a_change_without_any_poll() {
        let fixture = Fixture::new();
        let store = fixture.open_slow();
        let (secret, _) = add(&store, "acme");
        fixture
            .type_in("UPDATE keyward.key SET status = 'revoked'")
            .unwrap();
        eventually(|| ask(&store, &secret) == Err(DenialKind::Revoked));
    }

    #[test]
    fn a_change_without_a_notification_is_found_by_the_next_poll() {
        let fixture = Fixture::new();
        let store = fixture.open();
        let (secret, _) = add(&store, "acme");
        // As if the notification was lost.
        fixture
            .type_in(
                "ALTER TABLE keyward.key DISABLE TRIGGER ALL; \
                 UPDATE keyward.key SET status = 'revoked'; \
                 ALTER TABLE keyward.key ENABLE TRIGGER ALL; \
                 INSERT INTO keyward.rev_log (rev) VALUES (nextval('keyward.rev_seq')); \
                 INSERT INTO keyward.change SELECT max(rev), 'k', key.id \
                 FROM keyward.rev_log, keyward.key GROUP BY key.id",
            )
            .unwrap();
        eventually(|| ask(&store, &secret) == Err(DenialKind::Revoked));
    }

    #[test]
    fn rows_that_are_deleted_or_truncated_are_gone_from_memory() {
        let fixture = Fixture::new();
        let store = fixture.open_slow();
        let (first, record) = add(&store, "acme");
        let (second, _) = add(&store, "other");
        let delete = format!("DELETE FROM keyward.key WHERE id = '{}'", record.id);
        fixture.type_in(&delete).unwrap();
        assert_eq!(ask_strictly(&store, &first), Err(DenialKind::Unknown));
        assert_eq!(ask_strictly(&store, &second), Ok(()));
        fixture.type_in("TRUNCATE keyward.key CASCADE").unwrap();
        assert_eq!(ask_strictly(&store, &second), Err(DenialKind::Unknown));
        assert_eq!(store.replica().len(), 0);
        let (third, _) = add(&store, "third");
        assert_eq!(ask_strictly(&store, &third), Ok(()));
    }

    #[test]
    fn a_dead_key_that_is_deleted_is_no_change() {
        let fixture = Fixture::new();
        let store = fixture.open_slow();
        let (secret, mut record) = add(&store, "acme");
        record.status = KeyStatus::Revoked;
        commit(&store, vec![], vec![record]).unwrap();
        let head = "SELECT max(rev) FROM keyward.rev_log";
        let before = fixture.psql().value(head);
        fixture.type_in("DELETE FROM keyward.key").unwrap();
        assert_eq!(fixture.psql().value(head), before);
        assert_eq!(ask_strictly(&store, &secret), Err(DenialKind::Revoked));
    }

    #[test]
    fn a_key_that_was_revoked_and_deleted_before_a_poll_is_gone_from_memory() {
        let fixture = Fixture::new();
        let store = fixture.open_slow();
        let (revoked, _) = add(&store, "acme");
        let (expired, _) = add(&store, "other");
        let (kept, _) = add(&store, "kept");
        fixture
            .type_in(
                "BEGIN; UPDATE keyward.key SET status = 'revoked' WHERE account = 'acme'; \
                 UPDATE keyward.key SET expires_at = '2001-01-01' WHERE account = 'other'; \
                 DELETE FROM keyward.key WHERE account IN ('acme', 'other'); COMMIT",
            )
            .unwrap();
        for dead in [revoked, expired] {
            assert_eq!(ask_strictly(&store, &dead), Err(DenialKind::Unknown));
        }
        assert_eq!(ask_strictly(&store, &kept), Ok(()));
    }

    #[test]
    fn a_program_behind_the_remembered_history_reads_everything() {
        let fixture = Fixture::new();
        let (store, behind) = (fixture.open_slow(), fixture.open_slow());
        let (secret, record) = add(&store, "acme");
        assert_eq!(ask_strictly(&behind, &secret), Ok(()));
        let mut psql = fixture.psql();
        psql.execute("BEGIN; UPDATE keyward.key SET status = 'revoked'")
            .unwrap();
        // In one commit with the change, so that no notification comes between.
        psql.execute("SET CONSTRAINTS ALL IMMEDIATE; SELECT keyward.prune(1); COMMIT")
            .unwrap();
        assert_eq!(psql.value("SELECT count(*) FROM keyward.rev_log"), "1");
        assert_eq!(ask_strictly(&behind, &secret), Err(DenialKind::Revoked));
        assert_eq!(stored(&store, record.id).status, KeyStatus::Revoked);
    }

    #[test]
    fn changes_with_triggers_off_are_read_when_asked_for() {
        let fixture = Fixture::new();
        let store = fixture.open_slow();
        let (secret, _) = add(&store, "acme");
        let hidden = "SET session_replication_role = replica; \
             UPDATE keyward.key SET status = 'revoked'; RESET session_replication_role";
        fixture.type_in(hidden).unwrap();
        assert_eq!(ask_strictly(&store, &secret), Ok(()));
        fixture.type_in("SELECT keyward.resync()").unwrap();
        assert_eq!(ask_strictly(&store, &secret), Err(DenialKind::Revoked));
    }

    #[test]
    fn many_changes_are_read_whole_and_dead_keys_of_long_ago_are_left_out() {
        let fixture = Fixture::new();
        let options = PostgresOptions::new().ceiling(1000);
        let store = fixture.open_with(&options.poll_interval(std::time::Duration::MAX));
        let (secret, _) = add(&store, "acme");
        // Of 60,000 keys 40,000 are dead: most of them long ago, and a few are remembered.
        fixture
            .type_in(
                "INSERT INTO keyward.key (id, digest_scheme, digest, hint, account, environment, \
                 created_at, lineage, status, revoked_at, expires_at) \
                 SELECT 'key_' || lpad(i::text, 12, '0'), digest_scheme, sha256(i::text::bytea), \
                 hint, account, environment, created_at, lineage, \
                 CASE WHEN i % 3 = 0 THEN 'revoked' ELSE 'active' END, \
                 CASE WHEN i % 3 = 0 THEN now() - interval '60 days' END, \
                 CASE WHEN i % 300 = 1 THEN now() - interval '1 hour' \
                     WHEN i % 3 = 1 THEN now() - interval '60 days' END \
                 FROM generate_series(1, 60000) AS i, (SELECT * FROM keyward.key LIMIT 1) AS one",
            )
            .unwrap();
        assert_eq!(ask_strictly(&store, &secret), Ok(()));
        // The dead keys are counted after the keys can be used.
        eventually(|| {
            assert_eq!(ask_strictly(&store, &secret), Ok(()));
            store.replica().living() == 20_001
        });
        assert_eq!(store.replica().len(), 20_001 + 100);
        let one = KeyId::parse("key_000000000002").unwrap();
        let revoke = format!("UPDATE keyward.key SET status = 'revoked' WHERE id = '{one}'");
        fixture.type_in(&revoke).unwrap();
        eventually(|| store.replica().living() == 20_000);
    }

    #[test]
    fn what_is_committed_while_everything_is_read_holds_at_once() {
        let fixture = Fixture::new();
        let store = fixture.open();
        let (first, mut revoked) = add(&store, "acme");
        let (second, typed) = add(&store, "other");
        let (kept, _) = add(&store, "kept");
        let (new, record) = key("acme");
        // The read of everything waits for this lock, and polls do not.
        let mut locked = fixture.psql();
        locked
            .execute("BEGIN; LOCK TABLE keyward.epoch IN ACCESS EXCLUSIVE MODE")
            .unwrap();
        fixture.type_in("SELECT keyward.resync()").unwrap();
        let asked = |secret| ask(&store, secret);
        thread::scope(|threads| {
            threads.spawn(|| {
                thread::sleep(std::time::Duration::from_millis(300));
                locked.execute("COMMIT").unwrap();
            });
            revoked.status = KeyStatus::Revoked;
            commit(&store, vec![], vec![revoked.clone()]).unwrap();
            assert_eq!(asked(&first), Err(DenialKind::Revoked));
            commit(&store, vec![], vec![record]).unwrap();
            assert_eq!(asked(&new), Ok(()));
            let only = format!(
                "UPDATE keyward.key SET status = 'disabled' WHERE id = '{}'",
                typed.id
            );
            fixture.type_in(&only).unwrap();
            eventually(|| asked(&second) == Err(DenialKind::Disabled));
            assert_eq!(asked(&kept), Ok(()));
        });
        assert_eq!(ask_strictly(&store, &kept), Ok(()));
        assert_eq!(ask_strictly(&store, &first), Err(DenialKind::Revoked));
        assert_eq!(ask_strictly(&store, &second), Err(DenialKind::Disabled));
        assert_eq!(ask_strictly(&store, &new), Ok(()));
    }

    #[test]
    fn a_process_registers_and_reports_what_it_has_applied() {
        let fixture = Fixture::new();
        let store = fixture.open_with(&PostgresOptions::new().label("api-1"));
        add(&store, "acme");
        let mut psql = fixture.psql();
        let behind = "SELECT label || (SELECT max(rev) FROM keyward.rev_log) - acked_rev \
             FROM keyward.node";
        let since = std::time::Instant::now();
        while psql.value(behind) != "api-10" {
            assert!(since.elapsed() < std::time::Duration::from_secs(20));
        }
        drop(store);
        assert_eq!(psql.value("SELECT count(*) FROM keyward.node"), "0");
    }

    #[test]
    fn an_account_without_keys_may_be_deleted() {
        let fixture = Fixture::new();
        let store = fixture.open_slow();
        let (secret, _) = add(&store, "acme");
        let empty = keyward::record::Account::new(AccountId::parse("empty").unwrap());
        commit(&store, vec![empty], vec![]).unwrap();
        let delete = "DELETE FROM keyward.account WHERE id = ";
        fixture.type_in(&format!("{delete} 'empty'")).unwrap();
        fixture.type_in(&format!("{delete} 'acme'")).unwrap_err();
        assert_eq!(ask_strictly(&store, &secret), Ok(()));
    }
}
