//! Group commits: changes of the file that are written in one transaction.

use std::collections::VecDeque;
use std::error::Error;
use std::time::{Duration, Instant};

use futures_channel::oneshot;
use keyward::credits::CreditOwner;
use keyward::store::{Commit, StoreError, StoreErrorKind};
use rusqlite::Connection;

use crate::error::{PATIENCE, failed};

/// The maximum number of changes in one commit.
const AT_ONCE: usize = 256;

/// The time for which a commit accepts further changes. All other work of the thread waits.
pub(crate) const SLICE: Duration = Duration::from_millis(4);

/// The waiting changes, in the order in which they were requested.
#[derive(Default)]
pub(crate) struct Changes {
    waiting: VecDeque<Box<dyn Change>>,
    /// The number of leading changes that are written alone, because their joint commit has failed.
    alone: usize,
}

impl Changes {
    pub(crate) fn push(&mut self, change: Box<dyn Change>) {
        self.waiting.push_back(change);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Returns the time until which the first change may wait for another process.
    pub(crate) fn until(&self) -> Option<Instant> {
        self.waiting.front().map(|change| change.until())
    }

    /// Answers the first change with the error that keeps it from being written.
    pub(crate) fn refuse_first(&mut self, error: StoreError) {
        self.alone = self.alone.saturating_sub(1);
        if let Some(change) = self.waiting.pop_front() {
            change.answer(Err(error));
        }
    }

    /// Commits the first changes in the current transaction, and returns those to answer.
    ///
    /// A change that fails does not affect the others. If the commit fails, each is written again
    /// by itself, so that one which does not fit on the disk fails alone.
    pub(crate) fn write(
        &mut self,
        connection: &mut Connection,
    ) -> (Vec<Box<dyn Change>>, Result<(), StoreError>) {
        let began = Instant::now();
        let most = if self.alone > 0 { 1 } else { AT_ONCE };
        let mut group = Vec::new();
        let mut written = Ok(());
        while written.is_ok()
            && group.len() < most
            && (group.is_empty() || began.elapsed() < SLICE)
            && let Some(mut change) = self.waiting.pop_front()
        {
            written = write_one(connection, &mut *change);
            group.push(change);
        }
        let committed = written.and_then(|()| connection.execute_batch("COMMIT"));
        if committed.is_err() && !connection.is_autocommit() {
            // If this fails too, the next transaction cannot begin, and reports it.
            drop(connection.execute_batch("ROLLBACK"));
        }
        self.alone = self.alone.saturating_sub(1);
        if committed.is_err() && group.len() > 1 {
            self.alone = group.len();
            for change in group.drain(..).rev() {
                self.waiting.push_front(change);
            }
        }
        (group, committed.map_err(failed))
    }
}

fn write_one(connection: &mut Connection, change: &mut dyn Change) -> rusqlite::Result<()> {
    let mut savepoint = connection.savepoint()?;
    if change.write(&savepoint) || savepoint.rollback().is_ok() {
        savepoint.commit()?;
    } else {
        drop(savepoint);
    }
    // A full disk, for example, makes SQLite roll back the whole transaction.
    if connection.is_autocommit() {
        return Err(rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_ABORT),
            None,
        ));
    }
    Ok(())
}

/// A change of the file that may be written in one commit with others.
pub(crate) trait Change: Send {
    /// Returns whether there is anything to write. If not, it is answered without a lock.
    fn is_needed(&mut self, connection: &Connection) -> bool;

    /// Writes the change inside a transaction, and returns whether it succeeded.
    ///
    /// It is called again if the commit fails.
    fn write(&mut self, connection: &Connection) -> bool;

    /// Returns whether the replica must be fed before the answer.
    fn changes_keys(&self) -> bool;

    /// Returns whether it takes power away, and so must reach the main file first.
    fn takes_power(&self) -> bool;

    /// Returns the owner of the credits that it replaces.
    fn credits(&self) -> Option<&CreditOwner>;

    /// Returns the time until which it may wait for another process.
    fn until(&self) -> Instant;

    /// Sends the result: its own error, or that of the commit.
    fn answer(self: Box<Self>, committed: Result<(), StoreError>);
}

/// A [`Change`] made from a closure.
pub(crate) struct Write<T, W> {
    run: W,
    written: Option<Result<T, StoreError>>,
    commit: Option<OfCommit>,
    nothing: Option<Nothing<T>>,
    until: Instant,
    answer: oneshot::Sender<Result<T, StoreError>>,
}

/// The effects of a successful commit.
struct OfCommit {
    changes_keys: bool,
    takes_power: bool,
    credits: Option<CreditOwner>,
}

/// Returns the answer of a change that has nothing to write.
type Nothing<T> = Box<dyn FnMut(&Connection) -> Result<Option<T>, StoreError> + Send>;

impl<T, W> Write<T, W>
where
    W: FnMut(&Connection) -> Result<T, StoreError>,
{
    pub(crate) fn new(write: W, answer: oneshot::Sender<Result<T, StoreError>>) -> Self {
        Self {
            run: write,
            written: None,
            commit: None,
            nothing: None,
            until: Instant::now() + PATIENCE,
            answer,
        }
    }

    /// Marks it as a commit, which feeds the replica and logs failures.
    pub(crate) fn of(mut self, commit: &Commit) -> Self {
        let credits = commit.credits.as_ref();
        self.commit = Some(OfCommit {
            changes_keys: !commit.keys.is_empty() || !commit.accounts.is_empty(),
            // Any change of an existing row may take power away.
            takes_power: commit.accounts.iter().any(|account| account.revision > 0)
                || commit.keys.iter().any(|key| key.revision > 0)
                || commit.credits.is_some(),
            credits: credits.map(|change| change.owner().clone()),
        });
        self
    }

    /// Marks it as a commit that may also change endpoints.
    #[cfg(feature = "webhooks")]
    pub(crate) fn of_webhooks(self, commit: &keyward_webhooks::store::WebhookCommit) -> Self {
        let mut of = self.of(&commit.with);
        if let Some(of) = &mut of.commit {
            of.takes_power |= commit.deleted.is_some()
                || commit
                    .endpoints
                    .iter()
                    .any(|endpoint| endpoint.revision > 0);
        }
        of
    }

    /// Sets a check that is made first, whether there is anything to write.
    #[cfg(feature = "webhooks")]
    pub(crate) fn unless(
        mut self,
        nothing: impl FnMut(&Connection) -> Result<Option<T>, StoreError> + Send + 'static,
    ) -> Self {
        self.nothing = Some(Box::new(nothing));
        self
    }

    fn succeeded(&self) -> Option<&OfCommit> {
        let commit = self.commit.as_ref();
        commit.filter(|_| matches!(self.written, Some(Ok(_))))
    }
}

impl<T, W> Change for Write<T, W>
where
    T: Send,
    W: FnMut(&Connection) -> Result<T, StoreError> + Send,
{
    fn is_needed(&mut self, connection: &Connection) -> bool {
        let Some(nothing) = &mut self.nothing else {
            return true;
        };
        if self.answer.is_canceled() {
            return false;
        }
        self.written = nothing(connection).transpose();
        self.written.is_none()
    }

    fn write(&mut self, connection: &Connection) -> bool {
        let written = (self.run)(connection);
        self.written.insert(written).is_ok()
    }

    fn changes_keys(&self) -> bool {
        self.succeeded().is_some_and(|commit| commit.changes_keys)
    }

    fn takes_power(&self) -> bool {
        self.succeeded().is_some_and(|commit| commit.takes_power)
    }

    fn credits(&self) -> Option<&CreditOwner> {
        self.succeeded()?.credits.as_ref()
    }

    fn until(&self) -> Instant {
        self.until
    }

    fn answer(self: Box<Self>, committed: Result<(), StoreError>) {
        let result = match (self.written, committed) {
            (Some(Err(error)), _) | (_, Err(error)) => Err(error),
            (Some(Ok(written)), Ok(())) => Ok(written),
            (None, Ok(())) => return, // Nothing waits for it.
        };
        if let Err(error) = &result
            && self.commit.is_some()
            && matches!(
                error.kind(),
                StoreErrorKind::Unavailable | StoreErrorKind::Corrupt
            )
        {
            let error: &(dyn Error + 'static) = error;
            tracing::error!(error, "a change could not be written");
        }
        drop(self.answer.send(result));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use keyward::Store;
    use keyward::record::{AuditAction, AuditEntry};
    use keyward::store::{AuditQuery, StoreErrorKind};
    use keyward::testing::block_on;

    use super::*;
    use crate::SqliteStore;
    use crate::fixture::{Fixture, type_inside};

    fn note(connection: &Connection, length: usize) -> Result<(), StoreError> {
        let mut entry =
            AuditEntry::new(std::time::SystemTime::UNIX_EPOCH, "ann", AuditAction::Read);
        entry.reason = "x".repeat(length);
        crate::audit::put(connection, &entry).map_err(failed)
    }

    type Writes = Vec<Box<dyn FnMut(&Connection) -> Result<(), StoreError> + Send>>;

    /// Writes all of these in one transaction, and returns their results.
    fn together(store: &SqliteStore, writes: Writes) -> Vec<Result<(), StoreErrorKind>> {
        let (go, wait) = mpsc::channel::<()>();
        let mut held = store.ask(move |_| Ok(wait.recv().is_err()));
        let mut all: Vec<_> = writes
            .into_iter()
            .map(|write| store.write(write, |change| change))
            .collect();
        let context = &mut std::task::Context::from_waker(std::task::Waker::noop());
        assert!(held.as_mut().poll(context).is_pending());
        for one in &mut all {
            assert!(one.as_mut().poll(context).is_pending());
        }
        drop(go);
        let all = all.into_iter().map(block_on);
        all.map(|one| one.map_err(|error| error.kind())).collect()
    }

    fn lines(store: &SqliteStore) -> Vec<usize> {
        let trail = block_on(store.audit(AuditQuery::newest(99))).unwrap();
        trail.iter().map(|line| line.reason.len()).collect()
    }

    #[test]
    fn changes_that_wait_together_are_one_commit() {
        let fixture = Fixture::new();
        let store = fixture.open_slow();
        let path = fixture.path();
        let look = move |connection: &Connection| {
            note(connection, 2)?;
            let other = Connection::open(&path).map_err(failed)?;
            let count = "SELECT count(*) FROM keyward_audit";
            let seen = other.query_row(count, [], |row| row.get::<_, u32>(0));
            assert_eq!(seen.unwrap(), 0, "the first is not written yet");
            Ok(())
        };
        let first = |connection: &Connection| note(connection, 1);
        let done = together(&store, vec![Box::new(first), Box::new(look)]);
        assert_eq!(done, [Ok(()), Ok(())]);
        assert_eq!(lines(&store), [2, 1]);
    }

    #[test]
    fn a_change_that_fails_takes_none_beside_it_along() {
        let fixture = Fixture::new();
        let store = fixture.open_slow();
        let fails = |connection: &Connection| {
            note(connection, 2)?;
            Err(StoreError::new(StoreErrorKind::Conflict))
        };
        let done = together(
            &store,
            vec![
                Box::new(|connection| note(connection, 1)),
                Box::new(fails),
                Box::new(|connection| note(connection, 3)),
            ],
        );
        assert_eq!(done, [Ok(()), Err(StoreErrorKind::Conflict), Ok(())]);
        assert_eq!(lines(&store), [3, 1], "nor leaves anything behind");
    }

    #[test]
    fn one_that_ends_the_transaction_of_all_fails_alone() {
        let fixture = Fixture::new();
        let store = fixture.open_slow();
        // As SQLite does by itself if the disk is full.
        let ends = |connection: &Connection| {
            connection.execute_batch("ROLLBACK").map_err(failed)?;
            Err(StoreError::new(StoreErrorKind::Unavailable))
        };
        let done = together(
            &store,
            vec![
                Box::new(|connection| note(connection, 1)),
                Box::new(ends),
                Box::new(|connection| note(connection, 3)),
            ],
        );
        assert_eq!(done, [Ok(()), Err(StoreErrorKind::Unavailable), Ok(())]);
        assert_eq!(lines(&store), [3, 1]);
    }

    #[test]
    fn one_that_fails_at_the_commit_is_refused_alone_and_called_twice_at_most() {
        let fixture = Fixture::new();
        let store = fixture.open_slow();
        // At the commit, and not before: it is not visible which change it was.
        type_inside(
            &store,
            "CREATE TEMP TABLE one (id INTEGER PRIMARY KEY); PRAGMA foreign_keys = ON; \
             CREATE TEMP TABLE other (one INTEGER REFERENCES one DEFERRABLE INITIALLY DEFERRED)",
        );
        let writes = (0..5).map(|place| {
            let mut called = 0;
            let write = move |connection: &Connection| {
                // Once with all others, and once alone. Otherwise it would go on forever.
                called += 1;
                assert!(called <= 2);
                if place == 2 {
                    let poison = "INSERT INTO temp.other VALUES (7)";
                    return connection.execute_batch(poison).map_err(failed);
                }
                note(connection, place)
            };
            Box::new(write) as Box<dyn FnMut(&Connection) -> _ + Send>
        });
        let done = together(&store, writes.collect());
        let outcomes: Vec<_> = done.iter().map(Result::is_ok).collect();
        assert_eq!(outcomes, [true, true, false, true, true]);
        assert_eq!(lines(&store), [4, 3, 1, 0]);
    }

    #[test]
    fn one_that_does_not_fit_on_the_disk_fails_alone() {
        let fixture = Fixture::new();
        let store = fixture.open_slow();
        type_inside(&store, "PRAGMA max_page_count = 200");
        let done = together(
            &store,
            vec![
                Box::new(|connection| note(connection, 1)),
                Box::new(|connection| note(connection, 5_000_000)),
                Box::new(|connection| note(connection, 3)),
            ],
        );
        assert_eq!(done, [Ok(()), Err(StoreErrorKind::Unavailable), Ok(())]);
        assert_eq!(lines(&store), [3, 1]);
    }
}
