//! Reloads of all keys, on a thread of their own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use keyward::replica::Poll;
use keyward::store::StoreError;

use crate::error::{failed, unavailable};
use crate::feed;
use crate::reader::Place;

/// The interval at which a waiting thread checks whether it is to end.
const LOOK_UP: Duration = Duration::from_millis(20);

/// The threads that read all keys again while the store's own thread goes on.
///
/// Only the latest reading counts. Earlier ones end as soon as they notice.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    number: u64,
    pub(crate) is_under_way: bool,
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    /// While a test holds this lock, no reading ends.
    #[cfg(test)]
    pub(crate) pause: Arc<std::sync::Mutex<()>>,
}

impl Reading {
    /// Starts a reload, and calls `done` with its number and its result.
    ///
    /// It stops a reload in progress.
    pub(crate) fn start(
        &mut self,
        place: Place,
        everything: Poll,
        done: impl FnOnce(u64, Result<(), StoreError>) + Send + 'static,
    ) -> Result<(), StoreError> {
        self.over.store(true, Ordering::Release);
        self.over = Arc::default();
        self.number += 1;
        self.is_under_way = true;
        self.threads.retain(|thread| !thread.is_finished());
        let (number, over) = (self.number, Arc::clone(&self.over));
        #[cfg(test)]
        let pause = Arc::clone(&self.pause);
        let thread = thread::Builder::new().name("keyward-reading".to_owned());
        let thread = thread.spawn(move || {
            #[cfg(test)]
            drop(pause.lock());
            done(number, read(&place, everything, &over));
        });
        self.threads.push(thread.map_err(unavailable)?);
        Ok(())
    }

    /// Returns whether this is the latest reading.
    pub(crate) fn is_latest(&self, number: u64) -> bool {
        self.number == number
    }

    /// Ends all threads, which closes their files.
    pub(crate) fn stop(&mut self) {
        self.over.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

fn read(place: &Place, mut everything: Poll, over: &AtomicBool) -> Result<(), StoreError> {
    let stopped = || unavailable("the keys are being read by another thread");
    let connection = place.connect_to_read()?.0;
    let is_over = || over.load(Ordering::Acquire);
    let head = feed::read_all(&connection, &mut everything, is_over).map_err(failed)?;
    let head = head.ok_or_else(stopped)?;
    drop(connection);
    // The reload can be applied only when polls have seen at least as much as it has read.
    let (tell, told) = mpsc::channel();
    (place.poll)(Box::new(move |polled| drop(tell.send(polled))));
    loop {
        match told.recv_timeout(LOOK_UP) {
            Ok(polled) => break polled?,
            Err(RecvTimeoutError::Timeout) if !is_over() => {}
            Err(_) => return Err(stopped()),
        }
    }
    Ok(everything.finish(head)?)
}

#[cfg(test)]
mod tests {
    use std::sync::PoisonError;

    use keyward::Store;
    use keyward::denial::DenialKind;
    use keyward::record::KeyStatus;
    use keyward::testing::block_on;

    use crate::SqliteStore;
    use crate::fixture::{Fixture, add, ask, ask_strictly, commit, eventually, key, stored};

    fn is_reading(store: &SqliteStore) -> bool {
        block_on(store.ask(|worker| Ok(worker.reading.is_under_way))).unwrap()
    }

    /// Runs a function while everything is being reloaded.
    fn while_reading(store: &SqliteStore, fixture: &Fixture, history: &str, then: impl FnOnce()) {
        let pause = block_on(store.ask(|worker| Ok(std::sync::Arc::clone(&worker.reading.pause))));
        let pause = pause.unwrap();
        let paused = pause.lock().unwrap_or_else(PoisonError::into_inner);
        fixture
            .type_in(&format!("BEGIN; {history}; COMMIT"))
            .unwrap();
        then();
        assert!(is_reading(store), "it still goes on");
        drop(paused);
    }

    /// Deletes the history, as if more had changed than it remembers.
    const NEW_HISTORY: &str = "DELETE FROM keyward_revision; \
         INSERT INTO keyward_revision (nonce) VALUES (random())";

    #[test]
    fn what_is_revoked_and_typed_while_everything_is_read_holds_at_once() {
        let fixture = Fixture::new();
        let store = fixture.open();
        let (first, mut revoked) = add(&store, "acme");
        let (second, typed) = add(&store, "other");
        let (kept, _) = add(&store, "kept");
        let (new, record) = key("acme");
        while_reading(&store, &fixture, NEW_HISTORY, || {
            // The first change of our own detects that the history is another.
            revoked.status = KeyStatus::Revoked;
            commit(&store, vec![], vec![revoked]).unwrap();
            assert_eq!(ask(&store, &first), Err(DenialKind::Revoked));
            commit(&store, vec![], vec![record]).unwrap();
            assert_eq!(ask(&store, &new), Ok(()));
            let only = format!("WHERE id = '{}'", typed.id);
            fixture
                .type_in(&format!(
                    "UPDATE keyward_key SET status = 'disabled' {only}"
                ))
                .unwrap();
            eventually(|| ask(&store, &second) == Err(DenialKind::Disabled));
            assert_eq!(ask(&store, &kept), Ok(()));
        });
        assert_eq!(ask_strictly(&store, &kept), Ok(()));
        eventually(|| !is_reading(&store));
        assert_eq!(ask(&store, &first), Err(DenialKind::Revoked));
        assert_eq!(ask(&store, &second), Err(DenialKind::Disabled));
        assert_eq!(ask(&store, &new), Ok(()));
    }

    #[test]
    fn one_statement_that_changes_more_rows_than_are_remembered_is_read_beside_the_polls() {
        let fixture = Fixture::new();
        let store = fixture.open();
        let (secret, mut record) = add(&store, "acme");
        let many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10500) \
                    INSERT INTO keyward_account (id) SELECT 'many' || i FROM n";
        while_reading(&store, &fixture, many, || {
            eventually(|| is_reading(&store));
            record.status = KeyStatus::Revoked;
            commit(&store, vec![], vec![record]).unwrap();
            assert_eq!(ask(&store, &secret), Err(DenialKind::Revoked));
        });
        eventually(|| !is_reading(&store));
    }

    #[test]
    fn a_key_that_works_again_waits_until_its_account_is_read() {
        let fixture = Fixture::new();
        let store = fixture.open();
        let (secret, record) = add(&store, "acme");
        let (other, _) = add(&store, "other");
        fixture
            .type_in("UPDATE keyward_key SET status = 'disabled' WHERE account = 'acme'")
            .unwrap();
        eventually(|| ask(&store, &secret) == Err(DenialKind::Disabled));
        // Suspended in a change that no poll sees, as with a restored backup.
        let suspended = format!(
            "UPDATE keyward_account SET status = 'suspended' WHERE id = 'acme'; {NEW_HISTORY}"
        );
        while_reading(&store, &fixture, &suspended, || {
            eventually(|| is_reading(&store));
            let mut record = stored(&store, record.id);
            record.status = KeyStatus::Active;
            commit(&store, vec![], vec![record]).unwrap();
            assert_eq!(ask(&store, &secret), Err(DenialKind::AccountInactive));
        });
        assert_eq!(ask_strictly(&store, &other), Ok(()));
        assert_eq!(ask(&store, &secret), Err(DenialKind::AccountInactive));
    }

    #[test]
    fn a_history_that_is_replaced_again_meanwhile_is_read_from_its_beginning() {
        let fixture = Fixture::new();
        let store = fixture.open();
        let (secret, _) = add(&store, "acme");
        let (gone, record) = add(&store, "other");
        while_reading(&store, &fixture, NEW_HISTORY, || {
            eventually(|| is_reading(&store));
            let delete = format!("DELETE FROM keyward_key WHERE id = '{}'", record.id);
            fixture.type_in(&delete).unwrap();
        });
        assert_eq!(ask_strictly(&store, &gone), Err(DenialKind::Unknown));
        assert_eq!(ask_strictly(&store, &secret), Ok(()));
        assert_eq!(store.replica().len(), 1);
    }

    #[test]
    fn a_store_that_is_dropped_while_everything_is_read_ends() {
        let fixture = Fixture::new();
        let store = fixture.open();
        let (secret, _) = add(&store, "acme");
        fixture
            .type_in(&format!("BEGIN; {NEW_HISTORY}; COMMIT"))
            .unwrap();
        drop(block_on(store.ask(crate::worker::Worker::poll)));
        drop(store);
        assert_eq!(ask(&fixture.open(), &secret), Ok(()));
    }

    #[test]
    fn everything_is_read_however_many_rows_there_are() {
        let fixture = Fixture::new();
        let store = fixture.open_slow();
        let (secret, _) = add(&store, "acme");
        let many = format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4500) \
             INSERT INTO keyward_account (id) SELECT 'many' || i FROM n; \
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4500) \
             INSERT INTO keyward_key (id, digest_scheme, digest, hint, account, environment, \
             created_at, lineage) \
             SELECT 'key_' || printf('%012d', i), digest_scheme, randomblob(32), hint, 'many' || i, \
             environment, created_at, lineage FROM n, (SELECT * FROM keyward_key LIMIT 1); {NEW_HISTORY}"
        );
        fixture.type_in(&many).unwrap();
        assert_eq!(ask_strictly(&store, &secret), Ok(()));
        assert_eq!(store.replica().living(), 4501);
    }
}
