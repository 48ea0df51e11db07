//! The writing thread, which owns the file.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use keyward::replica::{Replica, Revision};
use keyward::store::StoreError;
use rusqlite::Connection;

use crate::answers::Answers;
use crate::backlog;
use crate::credit::{self, CreditLedger};
use crate::error::{PATIENCE, failed, is_busy};
use crate::feed::{self, News};
use crate::file::KeyFile;
use crate::flush::{FlushQueue, forget};
use crate::group::{Change, Changes, SLICE};
use crate::reader::{Place, PollRequest};
use crate::reading::Reading;

/// The time for which the file stays unlocked now and then for other writers.
///
/// SQLite has no queue for its lock. A waiting process looks for it every [`LOOK_AGAIN`], which is
/// shorter, so it gets its turn even beside a process that always has something to write.
const UNLOCKED: Duration = Duration::from_micros(400);

/// The time for which the file may be locked repeatedly before it must stay unlocked.
const LOCKED: Duration = Duration::from_millis(5);

/// The interval at which a process that waits for the lock looks for it.
const LOOK_AGAIN: Duration = Duration::from_micros(200);

/// The interval of a process that has waited for unusually long.
const LOOK_AGAIN_LATER: Duration = Duration::from_millis(1);

/// The interval at which unneeded credits are returned.
const SETTLE: Duration = Duration::from_secs(1);

/// The interval at which a failed poll is repeated, however long the poll interval is.
const RETRY: Duration = Duration::from_millis(250);

/// A task for the thread.
pub(crate) enum Task {
    /// Run a function immediately, by itself.
    Do(Box<dyn FnOnce(&mut Worker) + Send>),
    /// Write a change, in one commit with other waiting changes.
    Write(Box<dyn Change>),
    /// Finish all waiting tasks, then stop.
    Stop,
}

/// The state of the thread: the file, the replica's feed, and pending writes.
pub(crate) struct Worker {
    file: KeyFile,
    replica: Replica,
    wish: Arc<Wish>,
    poll_interval: Duration,
    polled: Instant,
    failing: bool,
    pub(crate) queue: FlushQueue,
    flush_interval: Duration,
    flushed: Instant,
    settled: Instant,
    unkept: bool,
    /// `None` while the store is being opened.
    place: Option<Place>,
    pub(crate) reading: Reading,
    /// The time until which the present task may wait for another process that is writing.
    until: Instant,
    answers: Answers,
    changes: Changes,
    /// Set while work on the deliveries of endpoints is in progress.
    working: bool,
    /// The time at which this process last left the lock to others.
    let_go: Instant,
    locking: Instant,
    tasks: Sender<Task>,
}

impl Worker {
    pub(crate) fn new(
        mut file: KeyFile,
        replica: Replica,
        poll_interval: Duration,
        flush_interval: Duration,
        tasks: Sender<Task>,
    ) -> Result<Self, StoreError> {
        let queue = FlushQueue::new(file.connection()?).map_err(failed)?;
        Ok(Self {
            file,
            replica,
            wish: Arc::default(),
            poll_interval,
            polled: Instant::now(),
            failing: false,
            queue,
            flush_interval,
            flushed: Instant::now(),
            settled: Instant::now(),
            unkept: false,
            place: None,
            reading: Reading::default(),
            until: Instant::now(),
            answers: Answers::new(),
            changes: Changes::default(),
            working: false,
            let_go: Instant::now(),
            locking: Instant::now(),
            tasks,
        })
    }

    /// Starts to answer requests.
    ///
    /// From now on, requests that wait for news ask for polls, and polls continue during a full
    /// reload.
    pub(crate) fn serve(&mut self, place: Place) {
        self.place = Some(place);
        let (wish, tasks) = (Arc::clone(&self.wish), self.tasks.clone());
        self.replica.on_demand(move |_| wish.make(&tasks));
    }

    /// Runs until it is stopped. No kind of work delays the others for long.
    ///
    /// After a few milliseconds of tasks, waiting changes are written; after each task, a poll is
    /// made if it is due, and it is not due again before the interval is over. A flush comes last,
    /// one batch at a time.
    pub(crate) fn run(mut self, tasks: &Receiver<Task>) {
        loop {
            let wait = if self.changes.is_empty() {
                self.until_poll()
                    .min(self.until_flush())
                    .min(self.until_settled())
            } else {
                Duration::ZERO
            };
            let first = match tasks.recv_timeout(wait) {
                Ok(task) => Some(task),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return self.stop(),
            };
            let began = Instant::now();
            for task in first.into_iter().chain(tasks.try_iter()) {
                match task {
                    Task::Do(task) => task(&mut self),
                    Task::Write(change) => self.take(change),
                    Task::Stop => return self.stop(),
                }
                self.poll_if_due();
                if began.elapsed() > SLICE {
                    break;
                }
            }
            self.write_changes();
            self.poll_if_due();
            if self.until_settled().is_zero() {
                self.settle();
            }
            if self.until_flush().is_zero() {
                self.flush_some();
            }
            self.give_back_excess();
        }
    }

    /// Writes the waiting changes and counts, as far as possible.
    fn stop(mut self) {
        self.reading.stop();
        while !self.changes.is_empty() {
            self.write_changes();
        }
        self.wait_until(Instant::now() + PATIENCE);
        self.queue.take_all();
        if let Err(error) = self.flush().and_then(|()| self.leave()) {
            let error: &(dyn Error + 'static) = &error;
            let path = self.file.path().display();
            tracing::error!(%path, error, "the last usage counts are lost");
        }
        self.answers.complete(&mut self.file);
    }

    /// Runs a task after everything that is waiting now.
    pub(crate) fn later(&self, task: impl FnOnce(&mut Self) + Send + 'static) {
        // The thread itself has the other end, and is running.
        drop(self.tasks.send(Task::Do(Box::new(task))));
    }

    /// Feeds the replica. A failure is logged once, and once when it is over.
    pub(crate) fn poll(&mut self) -> Result<(), StoreError> {
        self.poll_after(None)
    }

    /// Feeds the replica after changes of our own, which have followed upon this one.
    fn poll_after(&mut self, own: Option<Revision>) -> Result<(), StoreError> {
        let fed = self.feed(own);
        self.polled = Instant::now();
        // During a full reload, it is not known yet.
        if fed.is_err() || !self.reading.is_under_way {
            self.note(&fed);
        }
        fed
    }

    /// Handles the end of a full reload.
    pub(crate) fn has_read(&mut self, number: u64, read: &Result<(), StoreError>) {
        if self.reading.is_latest(number) {
            self.reading.is_under_way = false;
            self.note(read);
        }
    }

    fn note(&mut self, fed: &Result<(), StoreError>) {
        match fed {
            Err(error) if !self.failing => {
                let error: &(dyn Error + 'static) = error;
                let path = self.file.path().display();
                tracing::error!(%path, error, "the keys cannot be read, requests will be refused");
            }
            Ok(()) if self.failing => tracing::info!("the keys can be read again"),
            _ => {}
        }
        self.failing = fed.is_err();
    }

    fn take(&mut self, mut change: Box<dyn Change>) {
        match self.file.connection() {
            Ok(connection) if !change.is_needed(connection) => change.answer(Ok(())),
            _ => self.changes.push(change),
        }
    }

    /// Writes waiting changes in one commit, feeds the replica, and sends the answers.
    fn write_changes(&mut self) {
        let Some(until) = self.changes.until() else {
            return;
        };
        self.leave_unlocked();
        self.wait_until(until);
        let begun = self.patiently(|connection| {
            let begun = connection.execute_batch("BEGIN IMMEDIATE");
            begun.map_err(failed)
        });
        if let Err(error) = begun {
            return self.changes.refuse_first(error);
        }
        // If there is none, the poll fails.
        let own = feed::head(self.file.same_connection()).ok();
        let (mut group, committed) = self.changes.write(self.file.same_connection());
        self.let_go = Instant::now();
        if let Err(error) = committed {
            // A change that was written alone; those of many wait to be written again.
            if let Some(change) = group.pop() {
                change.answer(Err(error));
            }
            return;
        }
        let fed = if group.iter().any(|change| change.changes_keys()) {
            self.poll_after(own)
        } else {
            Ok(())
        };
        for owner in group.iter().filter_map(|change| change.credits()) {
            self.replica.credits_changed(owner);
        }
        for change in group {
            let unfed = fed.as_ref().err().filter(|_| change.changes_keys());
            let unfed = unfed.map(|error| StoreError::new(error.kind()).because(error.to_string()));
            let takes = change.takes_power();
            self.answers
                .give(takes, move || change.answer(unfed.map_or(Ok(()), Err)));
        }
        self.answers.release(&mut self.file);
    }

    /// Leaves the lock to other processes for a moment, if it was retaken repeatedly.
    fn leave_unlocked(&mut self) {
        if self.let_go.elapsed() < UNLOCKED && self.locking.elapsed() < LOCKED {
            return;
        }
        thread::sleep(UNLOCKED.saturating_sub(self.let_go.elapsed()));
        self.locking = Instant::now();
    }

    /// Sets the time until which the next task may wait for another process.
    ///
    /// The task is tried once even if that time has passed.
    pub(crate) fn wait_until(&mut self, until: Instant) {
        self.until = until;
    }

    /// Waits for another process that is writing, and keeps polling meanwhile.
    pub(crate) fn patiently<T>(
        &mut self,
        mut write: impl FnMut(&mut Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.until_free(|worker| {
            let connection = worker.file.connection()?;
            // SQLite's own wait gets longer and longer, and soon misses the moments when the lock
            // is free.
            connection.busy_timeout(Duration::ZERO).map_err(failed)?;
            let written = write(connection);
            connection.busy_timeout(PATIENCE).map_err(failed)?;
            written
        })
    }

    /// Retries while another process is writing, and polls in between.
    fn until_free<T>(
        &mut self,
        mut attempt: impl FnMut(&mut Self) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let began = Instant::now();
        loop {
            match attempt(self) {
                Err(error) if is_busy(&error) && Instant::now() < self.until => {
                    let is_long = began.elapsed() > Duration::from_millis(100);
                    thread::sleep(if is_long {
                        LOOK_AGAIN_LATER
                    } else {
                        LOOK_AGAIN
                    });
                    // A request that wants credits also waits for the task behind this one.
                    if self.wish.made.load(Ordering::Acquire) {
                        drop(self.poll());
                    }
                    self.poll_if_due();
                }
                done => return done,
            }
        }
    }

    /// Writes everything counted until now, when the store is dropped.
    fn flush(&mut self) -> Result<(), StoreError> {
        let round = self.queue.next_round();
        while !self.flush_until(round)? {
            self.poll_if_due();
        }
        Ok(())
    }

    /// Returns the number of the round that takes everything counted until now.
    pub(crate) fn next_round(&self) -> u64 {
        self.queue.next_round()
    }

    /// Writes a batch, and returns whether all of this round is written.
    pub(crate) fn flush_until(&mut self, round: u64) -> Result<bool, StoreError> {
        self.until_free(Self::flush_batch)?;
        Ok(self.queue.has_written(round))
    }

    /// Returns the ledger of credits that are neither in the file nor in the replica.
    pub(crate) fn ledger(&self) -> &CreditLedger {
        self.queue.ledger()
    }

    /// Begins the pending work on deliveries, unless it is in progress.
    pub(crate) fn begin_work(&mut self) {
        let is_left = |connection: &mut Connection| backlog::is_left(connection).unwrap_or(false);
        if !self.working && self.file.connection().is_ok_and(is_left) {
            self.working = true;
            self.later(Self::work);
        }
    }

    /// Does some of the work, and continues after other tasks had their turn.
    fn work(&mut self) {
        self.wait_until(Instant::now() + PATIENCE);
        match self.patiently(|connection| backlog::work(connection).map_err(failed)) {
            Ok(true) => return self.later(Self::work),
            Ok(false) => {}
            Err(error) => {
                let error: &(dyn Error + 'static) = &error;
                tracing::error!(
                    error,
                    "background work on deliveries failed and will be retried"
                );
            }
        }
        self.working = false;
    }

    /// Reads through the writing connection.
    #[cfg(test)]
    pub(crate) fn read<T>(
        &mut self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        read(self.file.connection()?).map_err(failed)
    }

    /// Returns unneeded credits, and reports the rest.
    fn settle(&mut self) {
        self.settled = Instant::now();
        self.queue.begin_settling();
        self.write_waiting();
    }

    /// Returns credits above the limit that may be held, after any batches that are waiting.
    fn give_back_excess(&mut self) {
        if self.queue.waiting() > 0 {
            return;
        }
        self.queue.take_excess(&self.replica);
        self.write_waiting();
    }

    /// Writes the waiting batches, and those of a settlement in progress, one at a time, so that other
    /// tasks have their turn.
    fn write_waiting(&mut self) {
        // While batches cannot be written, no more are made.
        if self.queue.waiting() == 0 {
            self.queue.settle_some(&self.replica);
        }
        if self.queue.waiting() > 0 && self.write_some() {
            self.later(Self::write_waiting);
        }
    }

    /// Writes a batch if it is due.
    fn flush_some(&mut self) {
        if !self.write_some() || self.queue.is_idle() {
            self.flushed = Instant::now();
        }
    }

    /// Writes a batch, if possible. A failure is logged once, and once when it is over.
    fn write_some(&mut self) -> bool {
        // Another process that is writing must not delay the next poll.
        self.wait_until(Instant::now() + self.poll_interval.min(PATIENCE));
        let flushed = self.until_free(Self::flush_batch);
        match &flushed {
            Err(error) if !self.unkept => {
                let error: &(dyn Error + 'static) = error;
                tracing::error!(error, "usage counts cannot be written and stay in memory");
            }
            Ok(()) if self.unkept => tracing::info!("usage counts can be written again"),
            _ => {}
        }
        self.unkept = flushed.is_err();
        !self.unkept
    }

    /// Writes the next batch, if there is one.
    fn flush_batch(&mut self) -> Result<(), StoreError> {
        let ledger = self.queue.ledger().clone();
        let Some(batch) = self.queue.next(&self.replica) else {
            return Ok(());
        };
        let connection = self.file.connection()?;
        connection.busy_timeout(Duration::ZERO).map_err(failed)?;
        let written = batch.write(connection, &ledger);
        connection.busy_timeout(PATIENCE).map_err(failed)?;
        written.map_err(failed)?;
        let changes_keys = batch.changes_keys();
        self.queue.written();
        if changes_keys {
            self.poll()?;
        }
        Ok(())
    }

    /// Removes what the file keeps for recognizing this store's last write.
    fn leave(&mut self) -> Result<(), StoreError> {
        if self.queue.is_known() {
            forget(self.file.connection()?, self.queue.ledger().node()).map_err(failed)?;
        }
        Ok(())
    }

    fn poll_if_due(&mut self) {
        if self.until_poll().is_zero() {
            drop(self.poll()); // A failure is logged, and the replica ages.
            self.answers.catch_up(&mut self.file);
            // Work that was typed, or left by a process that was killed.
            self.begin_work();
        }
    }

    fn until_poll(&self) -> Duration {
        // Requests are refused while polls fail, and do not ask for another.
        let interval = if self.failing {
            self.poll_interval.min(RETRY)
        } else {
            self.poll_interval
        };
        interval.saturating_sub(self.polled.elapsed())
    }

    fn until_flush(&self) -> Duration {
        self.flush_interval.saturating_sub(self.flushed.elapsed())
    }

    fn until_settled(&self) -> Duration {
        if self.queue.has_lent() {
            SETTLE.saturating_sub(self.settled.elapsed())
        } else {
            Duration::MAX
        }
    }

    fn fulfil(&mut self) {
        // Before the poll begins: a request that comes while it runs needs another.
        self.wish.made.swap(false, Ordering::AcqRel);
        drop(self.poll());
        self.give_back_excess();
        self.draw();
    }

    /// Draws the credits that requests want, of some owners at a time.
    fn draw(&mut self) {
        let wants = self.replica.take_some_wanted(credit::DRAWN_AT_ONCE);
        if wants.is_empty() {
            return;
        }
        if wants.len() == credit::DRAWN_AT_ONCE {
            self.later(Self::draw);
        }
        self.wait_until(Instant::now() + PATIENCE);
        let (ledger, replica) = (self.queue.ledger().clone(), self.replica.clone());
        let drawn =
            self.patiently(|connection| credit::draw(connection, &wants, &ledger, &replica));
        let (grants, wakes) = drawn.unwrap_or_else(|error| {
            let error: &(dyn Error + 'static) = &error;
            tracing::error!(error, "credits cannot be drawn, requests will be refused");
            (Vec::new(), Vec::new())
        });
        for want in &wants {
            let Some(grant) = grants.iter().find(|grant| grant.owner == want.owner) else {
                self.replica.no_grant(&want.owner);
                continue;
            };
            // Credits that waiting requests take are spent soon.
            if want.held_after(grant) > 0 {
                self.queue.lend(grant.owner.clone());
            }
        }
        drop(wakes);
    }

    fn feed(&mut self, own: Option<Revision>) -> Result<(), StoreError> {
        // In this order: the poll notes the time before the file is looked at.
        let mut poll = self.replica.poll();
        let connection = self.file.connection()?;
        let Some(place) = &self.place else {
            let head = feed::load(connection, &mut poll).map_err(failed)?;
            return Ok(poll.finish(head)?);
        };
        let News { head, is_all } = feed::feed(connection, &mut poll, own).map_err(failed)?;
        if is_all {
            return Ok(poll.finish(head)?);
        }
        let tasks = self.tasks.clone();
        self.reading
            .start(place.clone(), poll.reload(head)?, move |number, read| {
                let told = Task::Do(Box::new(move |worker| worker.has_read(number, &read)));
                drop(tasks.send(told)); // A store that is being dropped need not know.
            })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if thread::panicking() {
            tracing::error!("the store's thread panicked, requests will be refused");
        }
        // In this order: a request that is too late to be woken finds that it is over.
        self.wish.over.store(true, Ordering::Release);
        drop(self.replica.poll());
        self.replica.no_more_grants();
    }
}

/// Makes the thread poll, and passes on the result.
pub(crate) fn poll_through(tasks: Sender<Task>) -> PollRequest {
    Arc::new(move |answer| {
        let poll = Task::Do(Box::new(move |worker| answer(worker.poll())));
        drop(tasks.send(poll)); // The thread exists while the store does.
    })
}

/// A request for a poll: however many requests want one, one poll serves them all.
#[derive(Debug, Default)]
struct Wish {
    made: AtomicBool,
    over: AtomicBool,
}

impl Wish {
    /// Asks for a poll, and returns whether one will come.
    fn make(self: &Arc<Self>, tasks: &Sender<Task>) -> bool {
        if self.over.load(Ordering::Acquire) {
            return false;
        }
        self.made.swap(true, Ordering::AcqRel)
            || tasks.send(Task::Do(Box::new(Worker::fulfil))).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use keyward::clock::ManualClock;
    use keyward::denial::DenialKind;
    use keyward::testing::block_on;

    use super::*;
    use crate::SqliteOptions;
    use crate::fixture::{Fixture, add, ask, ask_strictly, eventually};

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
            let typed = format!("UPDATE keyward_key SET status = '{status}'");
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
    fn a_write_that_waits_for_another_process_holds_up_no_request() {
        let fixture = Fixture::new();
        let store = fixture.open_slow();
        let (secret, _) = add(&store, "acme");
        let other = Connection::open(fixture.path()).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        thread::scope(|threads| {
            let write = threads.spawn(|| add(&store, "other"));
            thread::sleep(Duration::from_millis(100));
            let since = Instant::now();
            assert_eq!(ask_strictly(&store, &secret), Ok(()));
            assert!(since.elapsed() < Duration::from_secs(2), "{since:?}");
            other.execute_batch("COMMIT").unwrap();
            write.join().unwrap();
        });
    }

    #[test]
    fn while_polls_fail_the_replica_ages() {
        let clock = Arc::new(ManualClock::at(Duration::from_secs(1_700_000_000)));
        let fixture = Fixture::new();
        let options = SqliteOptions::new().poll_interval(Duration::from_millis(5));
        let options = options.clock(Arc::<ManualClock>::clone(&clock));
        let store = options.open(fixture.path()).unwrap();
        let (secret, _) = add(&store, "acme");
        let hours = Duration::from_secs(3600);

        clock.advance(hours);
        eventually(|| ask(&store, &secret) == Ok(()));
        for table in ["keyward_key", "keyward_account", "keyward_revision"] {
            let rename = format!("ALTER TABLE {table} RENAME TO away");
            fixture.type_in(&rename).unwrap();
            clock.advance(hours);
            assert_eq!(
                ask(&store, &secret),
                Err(DenialKind::Unavailable),
                "{table}"
            );
            assert_eq!(ask_strictly(&store, &secret), Err(DenialKind::Unavailable));
            let back = format!("ALTER TABLE away RENAME TO {table}");
            fixture.type_in(&back).unwrap();
            eventually(|| ask(&store, &secret) == Ok(()));
        }
    }

    #[test]
    fn neither_tasks_nor_polls_starve() {
        let fixture = Fixture::new();
        let store = fixture.open();
        let (secret, record) = add(&store, "acme");
        thread::scope(|threads| {
            for _ in 0..4 {
                threads.spawn(|| {
                    while ask(&store, &secret) == Ok(()) {
                        crate::fixture::stored(&store, record.id);
                    }
                });
            }
            fixture
                .type_in("UPDATE keyward_key SET status = 'revoked'")
                .unwrap();
            eventually(|| ask(&store, &secret) == Err(DenialKind::Revoked));
        });
    }

    #[test]
    fn all_that_wait_for_another_process_are_answered_within_one_deadline() {
        let fixture = Fixture::new();
        let store = fixture.open();
        let records: Vec<_> = ["a", "b", "c", "d"]
            .map(|account| add(&store, account).1)
            .into();
        let writer = Connection::open(fixture.path()).unwrap();
        writer.execute_batch("BEGIN IMMEDIATE").unwrap();
        let began = Instant::now();
        let (answers, answered) = std::sync::mpsc::channel();
        thread::scope(|threads| {
            for record in &records {
                let (answers, store) = (answers.clone(), &store);
                threads.spawn(move || {
                    let mut record = record.clone();
                    record.status = keyward::record::KeyStatus::Revoked;
                    let answer = crate::fixture::commit(store, vec![], vec![record]);
                    answers.send((answer, began.elapsed())).unwrap();
                });
            }
            // Meanwhile queries that only read are answered at once.
            thread::sleep(Duration::from_millis(100));
            for record in &records {
                let name = crate::fixture::stored(&store, record.id).name;
                assert_eq!(name, record.name);
                assert_eq!(crate::fixture::used(&store, "a"), (0, 0));
            }
            assert!(answered.try_recv().is_err(), "nobody has given up by now");
        });
        drop(answers);
        let answers: Vec<_> = answered.iter().collect();
        assert_eq!(answers.len(), 4);
        for (answer, after) in answers {
            assert_eq!(answer, Err(keyward::store::StoreErrorKind::Unavailable));
            assert!(after < 2 * PATIENCE, "{after:?}");
        }
        writer.execute_batch("ROLLBACK").unwrap();
    }

    #[test]
    fn a_request_that_comes_alone_leaves_no_credits_to_give_back() {
        let fixture = Fixture::new();
        let store = fixture.open_slow();
        let (secret, _) = add(&store, "acme");
        fixture
            .type_in(
                "UPDATE keyward_account SET credits = 1; \
                 INSERT INTO keyward_credit (owner, epoch, remaining) \
                 VALUES ('account:acme', 1, 1000)",
            )
            .unwrap();
        assert_eq!(ask_strictly(&store, &secret), Ok(()));
        let has_lent = || {
            let lent = store.ask(|worker| Ok(worker.queue.has_lent()));
            block_on(lent).unwrap()
        };
        assert!(!has_lent());
        (0..9).for_each(|_| assert_eq!(ask_strictly(&store, &secret), Ok(())));
        assert!(has_lent());
    }

    #[test]
    fn a_commit_that_waits_for_another_process_holds_up_no_poll() {
        let fixture = Fixture::new();
        let store = fixture.open();
        let (secret, record) = add(&store, "acme");
        let writer = Connection::open(fixture.path()).unwrap();
        writer.execute_batch("BEGIN IMMEDIATE").unwrap();
        thread::scope(|threads| {
            let revoke = threads.spawn(|| {
                let mut record = crate::fixture::stored(&store, record.id);
                record.status = keyward::record::KeyStatus::Revoked;
                let keys = vec![record];
                let commit = keyward::store::Commit {
                    keys,
                    ..keyward::store::Commit::default()
                };
                block_on(keyward::Store::commit(&store, commit))
            });
            thread::sleep(Duration::from_millis(50));
            let began = Instant::now();
            assert_eq!(ask_strictly(&store, &secret), Ok(()));
            assert!(
                began.elapsed() < Duration::from_secs(2),
                "{:?}",
                began.elapsed()
            );
            writer.execute_batch("ROLLBACK").unwrap();
            revoke.join().unwrap().unwrap();
        });
        assert_eq!(ask(&store, &secret), Err(DenialKind::Revoked));
    }
}
