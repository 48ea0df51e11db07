//! The thread that owns the file.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use keyward::{Commit, Replica, StoreError};
use rusqlite::Connection;

use crate::commit::write;
use crate::error::failed;
use crate::feed::feed;
use crate::file::KeyFile;

/// What the thread is told to do.
pub(crate) type Task = Box<dyn FnOnce(&mut Worker) + Send>;

/// What the thread owns: the file, and the feed of the replica.
#[derive(Debug)]
pub(crate) struct Worker {
    file: KeyFile,
    replica: Replica,
    wish: Arc<Wish>,
    poll_interval: Duration,
    polled: Instant,
    failing: bool,
    stopped: bool,
}

impl Worker {
    pub(crate) fn new(file: KeyFile, replica: Replica, poll_interval: Duration) -> Self {
        Self {
            file,
            replica,
            wish: Arc::default(),
            poll_interval,
            polled: Instant::now(),
            failing: false,
            stopped: false,
        }
    }

    /// Lets requests that wait for news ask for them.
    pub(crate) fn answer_wishes(&self, tasks: Sender<Task>) {
        let wish = Arc::clone(&self.wish);
        self.replica.on_demand(move || wish.make(&tasks));
    }

    /// Works until it is stopped. Neither tasks nor polls can hold up the other for long: after every
    /// task a poll has its turn if it is due, and it is not due again before the interval is over.
    pub(crate) fn run(mut self, tasks: &Receiver<Task>) {
        while !self.stopped {
            let wait = self.poll_interval.saturating_sub(self.polled.elapsed());
            match tasks.recv_timeout(wait) {
                Ok(task) => task(&mut self),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if self.polled.elapsed() >= self.poll_interval {
                drop(self.poll()); // It is logged, and the replica ages.
            }
        }
    }

    pub(crate) fn stop(&mut self) {
        self.stopped = true;
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
        write(self.file.connection()?, commit).map_err(failed)?;
        self.poll()
    }

    /// Reads what the replica does not keep.
    pub(crate) fn read<T>(
        &mut self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        read(self.file.connection()?).map_err(failed)
    }

    fn fulfil(&mut self) {
        // Before the poll begins: a request that comes while it runs needs another.
        self.wish.made.swap(false, Ordering::AcqRel);
        drop(self.poll());
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
            ("revoked", Err(DenialKind::Revoked)),
            ("disabled", Err(DenialKind::Disabled)),
            ("active", Ok(())),
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
}
