//! The thread that owns the file.

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

/// How long the file stays unlocked, now and then, for other processes that wait to write.
///
/// SQLite has no queue for its lock. A process that waits looks for it every [`LOOK_AGAIN`], which is shorter,
/// so it gets its turn also beside one that always has something to write.
const UNLOCKED: Duration = Duration::from_micros(400);

/// How long the file may be locked again and again until it has to stay unlocked for a while.
const LOCKED: Duration = Duration::from_millis(5);

/// How often a process that waits for the lock looks for it.
const LOOK_AGAIN: Duration = Duration::from_micros(200);

/// The same for one that has waited for longer than others hold it as a rule.
const LOOK_AGAIN_LATER: Duration = Duration::from_millis(1);

/// How often credits that are out are looked at: what is not needed goes back.
const SETTLE: Duration = Duration::from_secs(1);

/// How soon a poll that failed is repeated, however long the interval of polls is.
const RETRY: Duration = Duration::from_millis(250);

/// What the thread is told to do.
pub(crate) enum Task {
    /// Something by itself, at once.
    Do(Box<dyn FnOnce(&mut Worker) + Send>),
    /// A change, in one commit with others that wait.
    Write(Box<dyn Change>),
    /// Whatever waits, and then no more.
    Stop,
}

/// What the thread owns: the file, the feed of the replica, and what is taken out of it.
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
    /// `None` while the store is opened.
    place: Option<Place>,
    pub(crate) reading: Reading,
    /// How long the present task may wait for another process that is writing.
    until: Instant,
    answers: Answers,
    changes: Changes,
    /// Whether something is done bit by bit to the deliveries of endpoints.
    working: bool,
    /// When this process has last let go of the file's lock, and since when it takes it again at once.
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

    /// Answers requests from now on: those that wait for news ask for them, and polls go on while everything
    /// is read anew.
    pub(crate) fn serve(&mut self, place: Place) {
        self.place = Some(place);
        let (wish, tasks) = (Arc::clone(&self.wish), self.tasks.clone());
        self.replica.on_demand(move |_| wish.make(&tasks));
    }

    /// Works until it is stopped. Nothing holds up the rest for long: after a few milliseconds of tasks
    /// what waits to be written has its turn, after each task a poll if it is due, and a poll is not due
    /// again before the interval is over. A flush comes last, one batch at a time.
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

    /// Writes what waits, and what was counted, as far as it goes.
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
            tracing::error!(%path, error, "what was counted last of the keys' use is lost");
        }
        self.answers.complete(&mut self.file);
    }

    /// Does this after whatever waits now.
    pub(crate) fn later(&self, task: impl FnOnce(&mut Self) + Send + 'static) {
        // The thread itself has the other end, and works.
        drop(self.tasks.send(Task::Do(Box::new(task))));
    }

    /// Feeds the replica. What goes wrong is logged once, until it is over.
    pub(crate) fn poll(&mut self) -> Result<(), StoreError> {
        self.poll_after(None)
    }

    /// Does so after changes of our own, which have followed upon this one.
    fn poll_after(&mut self, own: Option<Revision>) -> Result<(), StoreError> {
        let fed = self.feed(own);
        self.polled = Instant::now();
        // While everything is read anew, it is not known yet.
        if fed.is_err() || !self.reading.is_under_way {
            self.note(&fed);
        }
        fed
    }

    /// Everything was read anew, or could not be.
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

    /// Writes the changes that wait in one commit, or the first of many, feeds the replica, and tells
    /// those who asked.
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
        // Where there is none, the poll fails.
        let own = feed::head(self.file.same_connection()).ok();
        let (mut group, committed) = self.changes.write(self.file.same_connection());
        self.let_go = Instant::now();
        if let Err(error) = committed {
            // One that was written alone; those of many wait to be written again.
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

    /// Leaves the lock to other processes for a moment, when it was taken again and again.
    fn leave_unlocked(&mut self) {
        if self.let_go.elapsed() < UNLOCKED && self.locking.elapsed() < LOCKED {
            return;
        }
        thread::sleep(UNLOCKED.saturating_sub(self.let_go.elapsed()));
        self.locking = Instant::now();
    }

    /// Until when the next task may wait for another process that is writing. It is tried once also when
    /// that is over.
    pub(crate) fn wait_until(&mut self, until: Instant) {
        self.until = until;
    }

    /// Waits for another process that is writing, and goes on polling meanwhile.
    pub(crate) fn patiently<T>(
        &mut self,
        mut write: impl FnMut(&mut Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.until_free(|worker| {
            let connection = worker.file.connection()?;
            // SQLite itself waits for longer and longer, and is soon never there when the lock is free.
            connection.busy_timeout(Duration::ZERO).map_err(failed)?;
            let written = write(connection);
            connection.busy_timeout(PATIENCE).map_err(failed)?;
            written
        })
    }

    /// Tries again while another process is writing, and polls in between.
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
                    // Whoever wants credits too waits for the task behind this one.
                    if self.wish.made.load(Ordering::Acquire) {
                        drop(self.poll());
                    }
                    self.poll_if_due();
                }
                done => return done,
            }
        }
    }

    /// Writes all that was counted until now, when the store is dropped.
    fn flush(&mut self) -> Result<(), StoreError> {
        let round = self.queue.next_round();
        while !self.flush_until(round)? {
            self.poll_if_due();
        }
        Ok(())
    }

    /// The number of the round that takes all that was counted until now.
    pub(crate) fn next_round(&self) -> u64 {
        self.queue.next_round()
    }

    /// Writes a batch, and tells whether all of this round is written.
    pub(crate) fn flush_until(&mut self, round: u64) -> Result<bool, StoreError> {
        self.until_free(Self::flush_batch)?;
        Ok(self.queue.has_written(round))
    }

    /// The credits that are neither in the file nor in the replica.
    pub(crate) fn ledger(&self) -> &CreditLedger {
        self.queue.ledger()
    }

    /// Does what is left of the deliveries of endpoints, unless that is under way.
    pub(crate) fn begin_work(&mut self) {
        let is_left = |connection: &mut Connection| backlog::is_left(connection).unwrap_or(false);
        if !self.working && self.file.connection().is_ok_and(is_left) {
            self.working = true;
            self.later(Self::work);
        }
    }

    /// Does some of it, and goes on when others had their turn.
    fn work(&mut self) {
        self.wait_until(Instant::now() + PATIENCE);
        match self.patiently(|connection| backlog::work(connection).map_err(failed)) {
            Ok(true) => return self.later(Self::work),
            Ok(false) => {}
            Err(error) => {
                let error: &(dyn Error + 'static) = &error;
                tracing::error!(
                    error,
                    "what is left of the deliveries of endpoints is done later"
                );
            }
        }
        self.working = false;
    }

    /// Reads through the connection that writes.
    #[cfg(test)]
    pub(crate) fn read<T>(
        &mut self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        read(self.file.connection()?).map_err(failed)
    }

    /// Gives back what is not needed of the credits that are out, and reports the rest.
    fn settle(&mut self) {
        self.settled = Instant::now();
        // While batches cannot be written, no more are made.
        if self.queue.waiting() == 0 {
            self.queue.settle(&self.replica);
        }
        self.write_waiting();
    }

    /// Gives back the credits of which more are out than may be. Where batches wait to be written, it is
    /// done after them.
    fn give_back_excess(&mut self) {
        if self.queue.waiting() > 0 {
            return;
        }
        self.queue.take_excess(&self.replica);
        self.write_waiting();
    }

    /// Writes the batches that wait, one at a time: others have their turn in between.
    fn write_waiting(&mut self) {
        if self.queue.waiting() > 0 && self.write_some() {
            self.later(Self::write_waiting);
        }
    }

    /// Writes a batch when it is time to.
    fn flush_some(&mut self) {
        if !self.write_some() || self.queue.is_idle() {
            self.flushed = Instant::now();
        }
    }

    /// Writes a batch, if it can. What goes wrong is logged once, until it is over.
    fn write_some(&mut self) -> bool {
        // Another process that is writing must not hold up the next poll.
        self.wait_until(Instant::now() + self.poll_interval.min(PATIENCE));
        let flushed = self.until_free(Self::flush_batch);
        match &flushed {
            Err(error) if !self.unkept => {
                let error: &(dyn Error + 'static) = error;
                tracing::error!(
                    error,
                    "the use of the keys cannot be written, memory keeps it"
                );
            }
            Ok(()) if self.unkept => tracing::info!("the use of the keys can be written again"),
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

    /// The file need not know any longer what this store wrote last.
    fn leave(&mut self) -> Result<(), StoreError> {
        if self.queue.is_known() {
            forget(self.file.connection()?, self.queue.ledger().node()).map_err(failed)?;
        }
        Ok(())
    }

    fn poll_if_due(&mut self) {
        if self.until_poll().is_zero() {
            drop(self.poll()); // It is logged, and the replica ages.
            self.answers.catch_up(&mut self.file);
            // Of what is typed, or of a process that was killed.
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

    /// Takes out the credits that requests want, of some owners at a time.
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
            tracing::error!(
                error,
                "credits cannot be taken out, requests will be refused"
            );
            (Vec::new(), Vec::new())
        });
        for want in &wants {
            let Some(grant) = grants.iter().find(|grant| grant.owner == want.owner) else {
                self.replica.no_grant(&want.owner);
                continue;
            };
            // What the waiting requests take is not out for long.
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
                drop(tasks.send(told)); // A store that is dropped need not know.
            })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if thread::panicking() {
            tracing::error!("the thread that keeps the keys panicked, requests will be refused");
        }
        // In this order: who comes too late to be woken finds that it is over.
        self.wish.over.store(true, Ordering::Release);
        drop(self.replica.poll());
        self.replica.no_more_grants();
    }
}

/// Has the thread poll, and passes on the result.
pub(crate) fn poll_through(tasks: Sender<Task>) -> PollRequest {
    Arc::new(move |answer| {
        let poll = Task::Do(Box::new(move |worker| answer(worker.poll())));
        drop(tasks.send(poll)); // While the store lives there is the thread.
    })
}

/// The wish for a poll: however many requests have it, one poll fulfils it for all.
#[derive(Debug, Default)]
struct Wish {
    made: AtomicBool,
    over: AtomicBool,
}

impl Wish {
    /// Says whether a poll will come.
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
            // Meanwhile whatever only reads is answered at once.
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
                 INSERT INTO keyward_credit VALUES ('account:acme', 1, 1000, NULL, NULL)",
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
