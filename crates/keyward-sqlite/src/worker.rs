//! The thread that owns the file.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use keyward::{Commit, CreditOwner, Credits, Replica, StoreError, StoreErrorKind};
use rusqlite::Connection;

use crate::answers::Answers;
use crate::commit::write;
use crate::credit;
use crate::error::{failed, is_busy};
use crate::feed::feed;
use crate::file::{KeyFile, PATIENCE};
use crate::flush::{Taken, forget};

/// How often credits that are out are looked at: what is not needed goes back.
const SETTLE: Duration = Duration::from_secs(1);

/// How soon a poll that failed is repeated, however long the interval of polls is.
const RETRY: Duration = Duration::from_millis(250);

/// What the thread is told to do.
pub(crate) type Task = Box<dyn FnOnce(&mut Worker) + Send>;

/// What the thread owns: the file, the feed of the replica, and what is taken out of it.
#[derive(Debug)]
pub(crate) struct Worker {
    file: KeyFile,
    replica: Replica,
    wish: Arc<Wish>,
    poll_interval: Duration,
    polled: Instant,
    failing: bool,
    taken: Taken,
    flush_interval: Duration,
    flushed: Instant,
    settled: Instant,
    unkept: bool,
    stopped: bool,
    /// How long the present task may wait for another process that is writing.
    until: Instant,
    answers: Answers,
}

impl Worker {
    pub(crate) fn new(
        mut file: KeyFile,
        replica: Replica,
        poll_interval: Duration,
        flush_interval: Duration,
    ) -> Result<Self, StoreError> {
        let taken = Taken::new(file.connection()?).map_err(failed)?;
        Ok(Self {
            file,
            replica,
            wish: Arc::default(),
            poll_interval,
            polled: Instant::now(),
            failing: false,
            taken,
            flush_interval,
            flushed: Instant::now(),
            settled: Instant::now(),
            unkept: false,
            stopped: false,
            until: Instant::now(),
            answers: Answers::new(),
        })
    }

    /// Lets requests that wait for news ask for them.
    pub(crate) fn answer_wishes(&self, tasks: Sender<Task>) {
        let wish = Arc::clone(&self.wish);
        self.replica.on_demand(move |_| wish.make(&tasks));
    }

    /// Works until it is stopped. Neither tasks nor polls can hold up the other for long: after every
    /// task a poll has its turn if it is due, and it is not due again before the interval is over.
    /// A flush comes last, one batch at a time.
    pub(crate) fn run(mut self, tasks: &Receiver<Task>) {
        while !self.stopped {
            let wait = if self.answers.are_given() {
                let wait = self.until_poll().min(self.until_flush());
                wait.min(self.until_settled())
            } else {
                Duration::ZERO
            };
            match tasks.recv_timeout(wait) {
                Ok(task) => task(&mut self),
                Err(RecvTimeoutError::Timeout) => self.release(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if self.answers.are_due() {
                self.release();
            }
            self.poll_if_due();
            if !self.stopped && self.until_settled().is_zero() {
                self.settle();
            }
            if !self.stopped && self.until_flush().is_zero() {
                self.flush_some();
            }
        }
        self.release();
    }

    /// Says that the present task has taken power away, from a key, an account or an endpoint.
    ///
    /// It is answered when the change is in the main file.
    pub(crate) fn checkpoint_first(&mut self) {
        self.answers.checkpoint_first();
    }

    /// Gives the answer of a task, now or after the checkpoint that it wants.
    pub(crate) fn answer(&mut self, answer: impl FnOnce() + Send + 'static) {
        self.answers.give(answer);
    }

    /// Makes the checkpoint for all answers that wait for one, and gives them.
    pub(crate) fn release(&mut self) {
        self.answers.release(&mut self.file);
    }

    /// Writes what was counted, as far as it goes, and ends the loop.
    pub(crate) fn stop(&mut self) {
        self.stopped = true;
        self.wait_until(Instant::now() + PATIENCE);
        self.taken.take_all();
        // Before the counts: these may wait for another process.
        self.release();
        if let Err(error) = self.flush().and_then(|()| self.leave()) {
            let error: &(dyn Error + 'static) = &error;
            tracing::error!(error, "what was counted last of the keys' use is lost");
        }
        self.answers.complete(&mut self.file);
    }

    /// Feeds the replica. What goes wrong is logged once, until it is over.
    pub(crate) fn poll(&mut self) -> Result<(), StoreError> {
        let fed = self.feed();
        self.polled = Instant::now();
        match &fed {
            Err(error) if !self.failing => {
                let error: &(dyn Error + 'static) = error;
                tracing::error!(error, "the keys cannot be read, requests will be refused");
            }
            Ok(()) if self.failing => tracing::info!("the keys can be read again"),
            _ => {}
        }
        self.failing = fed.is_err();
        fed
    }

    /// Writes, and feeds the replica before it says so.
    pub(crate) fn commit(&mut self, commit: &Commit) -> Result<(), StoreError> {
        self.commit_by(commit, |connection| write(connection, commit))
    }

    /// Writes in this way, a commit with it.
    pub(crate) fn commit_by(
        &mut self,
        commit: &Commit,
        write: impl FnMut(&mut Connection) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let written = self.patiently(write);
        if let Err(error) = &written
            && matches!(
                error.kind(),
                StoreErrorKind::Unavailable | StoreErrorKind::Corrupt
            )
        {
            let error: &(dyn Error + 'static) = error;
            tracing::error!(error, "a change of the keys could not be written");
        }
        written?;
        // Whatever changes what was there may take power away.
        let changes = commit.accounts.iter().any(|account| account.revision > 0)
            || commit.keys.iter().any(|key| key.revision > 0)
            || commit.credits.is_some();
        if changes {
            self.checkpoint_first();
        }
        let polled = self.poll();
        if let Some(change) = &commit.credits {
            self.replica.credits_changed(change.owner());
        }
        polled
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
        self.until_free(|worker, patience| {
            let connection = worker.file.connection()?;
            connection.busy_timeout(patience).map_err(failed)?;
            let written = write(connection);
            connection.busy_timeout(PATIENCE).map_err(failed)?;
            written
        })
    }

    /// Tries again while another process is writing, and polls in between.
    fn until_free<T>(
        &mut self,
        mut attempt: impl FnMut(&mut Self, Duration) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        loop {
            let left = self.until.saturating_duration_since(Instant::now());
            match attempt(self, left.min(self.poll_interval)) {
                Err(error) if is_busy(&error) && Instant::now() < self.until => self.poll_if_due(),
                done => return done,
            }
        }
    }

    /// Writes all that was counted until now.
    pub(crate) fn flush(&mut self) -> Result<(), StoreError> {
        // Nothing is taken before what is left of an earlier flush is written.
        for _ in 0..self.taken.waiting() {
            self.until_free(Self::flush_batch)?;
            self.poll_if_due();
        }
        while self.until_free(Self::flush_batch)? && self.taken.waiting() > 0 {
            self.poll_if_due();
        }
        Ok(())
    }

    /// The balance of an owner, with what is out of it: only this thread takes out and gives back.
    pub(crate) fn credits(&mut self, owner: &CreditOwner) -> Result<Option<Credits>, StoreError> {
        let (node, now) = (self.taken.node(), self.now());
        let shown = credit::shown(self.file.connection()?, owner, node, now).map_err(failed)?;
        Ok(shown.map(|mut credits| {
            if let Some(held) = self.replica.held_of(owner) {
                credits.put_back(&held);
            }
            for unspent in self.taken.returning(owner) {
                credits.put_back(unspent);
            }
            credits
        }))
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
        if self.taken.waiting() == 0 {
            self.taken.settle(&self.replica);
        }
        while self.taken.waiting() > 0 && self.write_some() {
            self.poll_if_due();
        }
    }

    /// Writes a batch when it is time to.
    fn flush_some(&mut self) {
        if !self.write_some() || self.taken.waiting() == 0 {
            self.flushed = Instant::now();
        }
    }

    /// Writes a batch, if it can. What goes wrong is logged once, until it is over.
    fn write_some(&mut self) -> bool {
        // Another process that is writing must not hold up the next poll.
        let flushed = self.flush_batch(self.poll_interval.min(PATIENCE));
        match &flushed {
            Err(error) if !self.unkept => {
                let error: &(dyn Error + 'static) = error;
                tracing::error!(
                    error,
                    "the use of the keys cannot be written, memory keeps it"
                );
            }
            Ok(_) if self.unkept => tracing::info!("the use of the keys can be written again"),
            _ => {}
        }
        self.unkept = flushed.is_err();
        !self.unkept
    }

    /// Writes the next batch, and tells whether there was one.
    fn flush_batch(&mut self, patience: Duration) -> Result<bool, StoreError> {
        let Some(batch) = self.taken.next(&self.replica) else {
            return Ok(false);
        };
        let connection = self.file.connection()?;
        connection.busy_timeout(patience).map_err(failed)?;
        let written = batch.write(connection);
        connection.busy_timeout(PATIENCE).map_err(failed)?;
        written.map_err(failed)?;
        let changes_keys = batch.changes_keys();
        self.taken.written();
        if changes_keys {
            self.poll()?;
        }
        Ok(true)
    }

    /// The file need not know any longer what this store wrote last.
    fn leave(&mut self) -> Result<(), StoreError> {
        if self.taken.is_known() {
            forget(self.file.connection()?, self.taken.node()).map_err(failed)?;
        }
        Ok(())
    }

    fn poll_if_due(&mut self) {
        if self.until_poll().is_zero() {
            drop(self.poll()); // It is logged, and the replica ages.
            self.answers.catch_up(&mut self.file);
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
        if self.taken.has_lent() {
            SETTLE.saturating_sub(self.settled.elapsed())
        } else {
            Duration::MAX
        }
    }

    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.replica.clock().unix()
    }

    fn fulfil(&mut self) {
        // Before the poll begins: a request that comes while it runs needs another.
        self.wish.made.swap(false, Ordering::AcqRel);
        drop(self.poll());
        self.draw();
    }

    /// Takes out the credits that requests want.
    fn draw(&mut self) {
        let wants = self.replica.take_wanted();
        if wants.is_empty() {
            return;
        }
        let (node, now) = (self.taken.node(), self.now());
        self.wait_until(Instant::now() + PATIENCE);
        let drawn = self.patiently(|connection| credit::draw(connection, &wants, node, now));
        let grants = drawn.unwrap_or_else(|error| {
            let error: &(dyn Error + 'static) = &error;
            tracing::error!(
                error,
                "credits cannot be taken out, requests will be refused"
            );
            Vec::new()
        });
        for want in &wants {
            let Some(grant) = grants.iter().find(|grant| grant.owner == want.owner) else {
                self.replica.no_grant(&want.owner);
                continue;
            };
            // What the waiting requests take is not out for long.
            if want.held_after(grant) > 0 {
                self.taken.lend(grant.owner.clone());
            }
            self.replica.grant(grant);
        }
    }

    fn feed(&mut self) -> Result<(), StoreError> {
        // In this order: the poll notes the time before the file is looked at.
        let mut poll = self.replica.poll();
        let head = feed(self.file.connection()?, &mut poll).map_err(failed)?;
        Ok(poll.finish(head)?)
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
        self.made.swap(true, Ordering::AcqRel) || tasks.send(Box::new(Worker::fulfil)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use keyward::conformance::block_on;
    use keyward::{DenialKind, ManualClock};

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
                    record.status = keyward::KeyStatus::Revoked;
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
            assert_eq!(answer, Err(StoreErrorKind::Unavailable));
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
            let lent = store.ask(|worker| Ok(worker.taken.has_lent()));
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
                record.status = keyward::KeyStatus::Revoked;
                let keys = vec![record];
                let commit = Commit {
                    keys,
                    ..Commit::default()
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
