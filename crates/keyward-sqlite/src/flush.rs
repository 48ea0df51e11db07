//! What requests leave behind in memory, on its way into the file.

use std::collections::{HashSet, VecDeque};
use std::mem;
use std::time::SystemTime;

use keyward::credits::{CreditOwner, Unspent};
use keyward::replica::{Rehash, Replica, UsageCount};
use rusqlite::{Connection, TransactionBehavior, params};

use crate::{credit, row};

/// So many keys are written in one transaction, while which nobody else can write.
const BATCH: usize = 512;

/// What was taken out of the replica and is not known to be in the file.
///
/// When a write fails, it may have succeeded. So a batch stays as it is and is written again under the
/// same number, and the file counts each number once. Until then no more is taken: the replica adds up
/// what comes meanwhile, so that however long it lasts, memory holds each key twice at most.
#[derive(Debug)]
pub(crate) struct FlushQueue {
    node: i64,
    sequence: i64,
    /// How often was taken what had been counted.
    takings: u64,
    batches: VecDeque<Batch>,
    /// Whose credits may be out.
    lent: HashSet<CreditOwner>,
    /// Whether credits are given back that are in use.
    all: bool,
}

impl FlushQueue {
    /// For a store that was just opened: a node of its own, whatever ran here before.
    pub(crate) fn new(connection: &Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            node: connection.query_row("SELECT random()", [], |row| row.get(0))?,
            sequence: 0,
            takings: 0,
            batches: VecDeque::new(),
            lent: HashSet::new(),
            all: false,
        })
    }

    /// Gives back all credits from now on, also those that are in use.
    pub(crate) fn take_all(&mut self) {
        self.all = true;
    }

    /// The batch to write next; more is taken only when none is left.
    pub(crate) fn next(&mut self, replica: &Replica) -> Option<&Batch> {
        if self.batches.is_empty() {
            self.takings += 1;
            let mut counts = replica.take_usage().into_iter();
            let mut digests = replica.take_rehashes().into_iter();
            let mut unspent = replica.take_unspent(self.all).into_iter();
            while counts.len() + digests.len() + unspent.len() > 0 {
                let mut batch = self.batch(replica);
                batch.counts.extend(counts.by_ref().take(BATCH));
                batch.digests.extend(digests.by_ref().take(BATCH));
                batch.unspent.extend(unspent.by_ref().take(BATCH));
                let owners = batch.unspent.iter().map(|unspent| &unspent.owner);
                batch.held = owners.map(|owner| held(replica, owner)).collect();
                self.batches.push_back(batch);
            }
        }
        self.batches.front()
    }

    /// Takes the credits that are out and not needed, and what is held of the others.
    pub(crate) fn settle(&mut self, replica: &Replica) {
        let lent = mem::take(&mut self.lent);
        let mut owners = lent.into_iter().peekable();
        while owners.peek().is_some() {
            let mut batch = self.batch(replica);
            for owner in owners.by_ref().take(BATCH) {
                batch.unspent.extend(replica.take_unspent_of(&owner));
                let held = held(replica, &owner);
                if held.amount > 0 {
                    self.lent.insert(owner);
                }
                batch.held.push(held);
            }
            self.batches.push_back(batch);
        }
    }

    /// Takes the credits of which more are out than may be.
    pub(crate) fn take_excess(&mut self, replica: &Replica) {
        let mut unspent = replica.take_excess().into_iter();
        while unspent.len() > 0 {
            let mut batch = self.batch(replica);
            batch.unspent.extend(unspent.by_ref().take(BATCH));
            let owners = batch.unspent.iter().map(|unspent| &unspent.owner);
            batch.held = owners.map(|owner| held(replica, owner)).collect();
            let kept = batch.held.iter().filter(|held| held.amount > 0);
            self.lent.extend(kept.map(|held| held.owner.clone()));
            self.batches.push_back(batch);
        }
    }

    /// Credits of this owner are out from now on.
    pub(crate) fn lend(&mut self, owner: CreditOwner) {
        self.lent.insert(owner);
    }

    /// Whether credits may be out.
    pub(crate) fn has_lent(&self) -> bool {
        !self.lent.is_empty()
    }

    /// What is on its way back to a balance.
    pub(crate) fn returning<'a>(
        &'a self,
        owner: &'a CreditOwner,
    ) -> impl Iterator<Item = &'a Unspent> {
        let all = self.batches.iter().flat_map(|batch| &batch.unspent);
        all.filter(move |unspent| unspent.owner == *owner)
    }

    /// A new batch, with nothing in it.
    fn batch(&mut self, replica: &Replica) -> Batch {
        self.sequence += 1;
        let now = replica.clock().unix();
        Batch {
            node: self.node,
            sequence: self.sequence,
            now: SystemTime::UNIX_EPOCH + now,
            hour: (now.as_secs() / 3600).cast_signed(),
            counts: Vec::new(),
            digests: Vec::new(),
            unspent: Vec::new(),
            held: Vec::new(),
        }
    }

    /// The batch that was next is in the file.
    pub(crate) fn written(&mut self) {
        self.batches.pop_front();
    }

    /// How often was taken what had been counted, and all of it, at that time.
    pub(crate) fn takings(&self) -> u64 {
        self.takings
    }

    /// How many batches wait.
    pub(crate) fn waiting(&self) -> usize {
        self.batches.len()
    }

    /// By which the file knows this store.
    pub(crate) fn node(&self) -> i64 {
        self.node
    }

    /// Whether the file may know it.
    pub(crate) fn is_known(&self) -> bool {
        self.sequence > 0 || self.has_lent()
    }
}

/// What is written at once.
#[derive(Debug)]
pub(crate) struct Batch {
    node: i64,
    sequence: i64,
    /// When they were taken, and in which hour.
    now: SystemTime,
    hour: i64,
    /// In the order of their keys, which is that of the tables.
    counts: Vec<UsageCount>,
    digests: Vec<Rehash>,
    unspent: Vec<Unspent>,
    /// What is held after that.
    held: Vec<Unspent>,
}

impl Batch {
    /// Adds the counts to those in the file, unless that was done before, and replaces the digests.
    pub(crate) fn write(&self, connection: &mut Connection) -> rusqlite::Result<()> {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        if self.is_new(&transaction)? {
            for count in &self.counts {
                self.add(&transaction, count)?;
            }
            for moved in &self.digests {
                redigest(&transaction, moved)?;
            }
            for unspent in &self.unspent {
                credit::give_back(&transaction, unspent)?;
            }
            for held in &self.held {
                credit::report(&transaction, held, self.node, self.now)?;
            }
        }
        transaction.commit()
    }

    /// Whether it is news to the replica.
    pub(crate) fn changes_keys(&self) -> bool {
        !self.digests.is_empty()
    }

    fn is_new(&self, connection: &Connection) -> rusqlite::Result<bool> {
        let noted = connection
            .prepare_cached(
                "INSERT INTO keyward_usage_node (node, sequence) VALUES (?1, ?2) \
                 ON CONFLICT (node) DO UPDATE SET sequence = excluded.sequence \
                 WHERE excluded.sequence > keyward_usage_node.sequence",
            )?
            .execute([self.node, self.sequence])?;
        Ok(noted > 0)
    }

    /// A key that is gone is not counted.
    fn add(&self, connection: &Connection, count: &UsageCount) -> rusqlite::Result<()> {
        let key = count.key.to_string();
        connection
            .prepare_cached(
                "INSERT INTO keyward_usage (key, hour, admitted, refused, units) \
                 SELECT id, ?2, ?3, ?4, ?5 FROM keyward_key WHERE id = ?1 \
                 ON CONFLICT (key, hour) DO UPDATE SET \
                 admitted = keyward_usage.admitted + excluded.admitted, \
                 refused = keyward_usage.refused + excluded.refused, \
                 units = min(keyward_usage.units, 9223372036854775807 - excluded.units) \
                 + excluded.units",
            )?
            .execute(params![
                key,
                self.hour,
                count.admitted.cast_signed(),
                count.refused.cast_signed(),
                i64::try_from(count.units).unwrap_or(i64::MAX),
            ])?;
        if let Some(last_used_at) = count.last_used_at {
            connection
                .prepare_cached(
                    "INSERT INTO keyward_usage_key (key, last_used_at) \
                     SELECT id, ?2 FROM keyward_key WHERE id = ?1 \
                     ON CONFLICT (key) DO UPDATE SET last_used_at = excluded.last_used_at \
                     WHERE excluded.last_used_at > keyward_usage_key.last_used_at",
                )?
                .execute(params![key, row::millis(last_used_at)])?;
        }
        Ok(())
    }
}

/// What is held of a balance; perhaps nothing.
fn held(replica: &Replica, owner: &CreditOwner) -> Unspent {
    replica.held_of(owner).unwrap_or(Unspent {
        owner: owner.clone(),
        amount: 0,
        epoch: 0,
    })
}

/// Deletes what the file knows of a node that writes no more.
pub(crate) fn forget(connection: &Connection, node: i64) -> rusqlite::Result<()> {
    for forget in [
        "DELETE FROM keyward_usage_node WHERE node = ?1",
        "DELETE FROM keyward_credit_held WHERE node = ?1",
    ] {
        connection.execute(forget, [node])?;
    }
    Ok(())
}

/// Another process may have been faster. A digest that another key has stays where it is, and holds
/// up nobody.
fn redigest(connection: &Connection, moved: &Rehash) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "UPDATE OR IGNORE keyward_key \
             SET digest_scheme = ?2, digest = ?3, redigested = redigested + 1 \
             WHERE id = ?1 AND digest = ?4",
        )?
        .execute(params![
            moved.key.to_string(),
            moved.to.scheme().to_string(),
            moved.to.expose_bytes(),
            moved.from,
        ])
        .map(drop)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;
    use std::time::{Duration, SystemTime};

    use keyward::clock::ManualClock;
    use keyward::key::{DigestScheme, Pepper};
    use keyward::store::StoreErrorKind;
    use keyward::testing::block_on;
    use keyward::{ApiKey, Gate, Peppers, Store};

    use super::*;
    use crate::fixture::{Fixture, add, ask, ask_with, eventually, stored, type_inside, used};
    use crate::{SqliteOptions, SqliteStore};

    fn ask_often(store: &SqliteStore, key: &ApiKey, times: u64) {
        (0..times).for_each(|_| ask(store, key).unwrap());
    }

    #[test]
    fn a_batch_that_comes_again_is_not_counted_again() {
        let fixture = Fixture::new();
        let store = fixture.open_slow();
        let (secret, _) = add(&store, "acme");
        let mut file = Connection::open(fixture.path()).unwrap();
        let mut taken = FlushQueue::new(&file).unwrap();
        ask_often(&store, &secret, 3);
        taken
            .next(store.replica())
            .unwrap()
            .write(&mut file)
            .unwrap();
        // Nobody knows whether that succeeded; meanwhile the key is used.
        ask_often(&store, &secret, 4);
        taken
            .next(store.replica())
            .unwrap()
            .write(&mut file)
            .unwrap();
        assert_eq!(used(&store, "acme"), (3, 0));
        taken.written();
        taken
            .next(store.replica())
            .unwrap()
            .write(&mut file)
            .unwrap();
        assert_eq!(used(&store, "acme"), (7, 0));
        taken.written();
        assert!(taken.next(store.replica()).is_none());

        let mut another = FlushQueue::new(&file).unwrap();
        ask_often(&store, &secret, 1);
        another
            .next(store.replica())
            .unwrap()
            .write(&mut file)
            .unwrap();
        assert_eq!(
            used(&store, "acme"),
            (8, 0),
            "the first batch of another store"
        );
    }

    #[test]
    fn a_flush_that_fails_is_made_up_for() {
        let fixture = Fixture::new();
        let store = fixture.open_slow();
        let (secret, _) = add(&store, "acme");
        type_inside(&store, "PRAGMA query_only = ON");
        for _ in 0..3 {
            ask_often(&store, &secret, 2);
            let error = block_on(store.flush()).unwrap_err();
            assert_eq!(error.kind(), StoreErrorKind::Unavailable);
        }
        type_inside(&store, "PRAGMA query_only = OFF");
        block_on(store.flush()).unwrap();
        assert_eq!(used(&store, "acme"), (6, 0));
    }

    #[test]
    fn a_last_use_shows_also_while_it_cannot_be_written() {
        let fixture = Fixture::new();
        let store = fixture.open_slow();
        let (secret, record) = add(&store, "acme");
        ask_often(&store, &secret, 1);
        let used = store.replica().last_used(&record);
        assert!(used.is_some());
        type_inside(&store, "PRAGMA query_only = ON");
        block_on(store.flush()).unwrap_err();
        assert_eq!(store.replica().last_used(&record), used);
    }

    #[test]
    fn more_keys_than_a_batch_holds_are_all_counted() {
        let fixture = Fixture::new();
        let store = fixture.open_slow();
        let (secret, record) = add(&store, "acme");
        let keys: Vec<_> = (0..BATCH).map(|_| crate::fixture::key("acme")).collect();
        let records = keys.iter().map(|(_, record)| record.clone());
        crate::fixture::commit(&store, vec![], records.collect()).unwrap();
        let gate = Gate::builder(&store, &crate::fixture::scheme());
        let gate = gate.build().unwrap();
        for secret in keys.iter().map(|(secret, _)| secret).chain([&secret]) {
            ask_with(&gate, secret).unwrap();
        }
        block_on(store.flush()).unwrap();
        assert_eq!(used(&store, "acme").0, BATCH as u64 + 1);
        assert!(stored(&store, record.id).last_used_at.is_some());
    }

    #[test]
    fn a_flush_of_many_keys_gives_others_their_turn() {
        let fixture = Fixture::new();
        let store = fixture.open_slow();
        add(&store, "acme");
        let keys: Vec<_> = (0..3 * BATCH)
            .map(|_| crate::fixture::key("acme"))
            .collect();
        let records = keys.iter().map(|(_, record)| record.clone());
        crate::fixture::commit(&store, vec![], records.collect()).unwrap();
        let gate = Gate::builder(&store, &crate::fixture::scheme());
        let gate = gate.build().unwrap();
        for (secret, _) in &keys {
            ask_with(&gate, secret).unwrap();
        }
        let mut flush = store.flush();
        let context = &mut std::task::Context::from_waker(std::task::Waker::noop());
        // Each step is a task of its own, beside which others are done.
        while flush.as_mut().poll(context).is_pending() && used(&store, "acme").0 == 0 {}
        block_on(store.ask(|_| Ok(()))).unwrap();
        let written = used(&store, "acme").0;
        assert!(written > 0 && written < 3 * BATCH as u64, "{written}");
        block_on(flush).unwrap();
        assert_eq!(used(&store, "acme").0, 3 * BATCH as u64);
    }

    #[test]
    fn what_was_counted_is_written_in_time() {
        let fixture = Fixture::new();
        let options = SqliteOptions::new().flush_interval(Duration::from_millis(5));
        let store = options.open(fixture.path()).unwrap();
        let (secret, _) = add(&store, "acme");
        ask_often(&store, &secret, 2);
        eventually(|| used(&store, "acme") == (2, 0));
    }

    #[test]
    fn what_was_counted_is_written_when_the_last_clone_of_the_store_is_dropped() {
        let fixture = Fixture::new();
        let store = fixture.open_slow();
        let (secret, record) = add(&store, "acme");
        ask_often(&store, &secret, 2);
        let clone = store.clone();
        drop(store);
        add(&clone, "other");
        drop(clone);
        let store = fixture.open_slow();
        assert_eq!(used(&store, "acme"), (2, 0));
        assert!(stored(&store, record.id).last_used_at.is_some());
        let file = Connection::open(fixture.path()).unwrap();
        let nodes = "SELECT count(*) FROM keyward_usage_node";
        let nodes = file.query_row(nodes, [], |row| row.get::<_, i64>(0));
        assert_eq!(nodes.unwrap(), 0, "nothing is left of a store that is gone");
    }

    #[test]
    fn a_use_is_no_change_of_a_key() {
        let fixture = Fixture::new();
        let (one, other) = (fixture.open_slow(), fixture.open_slow());
        let (secret, record) = add(&one, "acme");
        let poll = |store: &SqliteStore| {
            block_on(store.ask(crate::worker::Worker::poll)).unwrap();
            store.replica().poll().since()
        };
        let before = poll(&other);
        ask_often(&one, &secret, 1);
        block_on(one.flush()).unwrap();
        assert_eq!(poll(&other), before, "there is nothing to read");
        let now = stored(&other, record.id);
        assert!(now.last_used_at.is_some());
        assert_eq!(now.revision, record.revision);
    }

    #[test]
    fn a_last_use_never_goes_back() {
        let start = Duration::from_secs(1_700_000_000);
        let hour = Duration::from_secs(3600);
        let clock = Arc::new(ManualClock::at(start + 2 * hour));
        let fixture = Fixture::new();
        let options = SqliteOptions::new().clock(Arc::<ManualClock>::clone(&clock));
        let store = options.open(fixture.path()).unwrap();
        let (secret, record) = add(&store, "acme");
        for later in [2, 1, 0] {
            clock.set_unix(start + later * hour);
            ask_often(&store, &secret, 1);
            block_on(store.flush()).unwrap();
            let last = stored(&store, record.id).last_used_at;
            assert_eq!(last, Some(SystemTime::UNIX_EPOCH + start + 2 * hour));
        }
        assert_eq!(used(&store, "acme"), (3, 0));
    }

    #[test]
    fn two_processes_that_digest_a_key_anew_agree() {
        let fixture = Fixture::new();
        let (one, other) = (fixture.open_slow(), fixture.open_slow());
        let (secret, record) = add(&one, "acme");
        crate::fixture::ask_strictly(&other, &secret).unwrap();
        let new = Peppers::new(Pepper::new("new", &[7; 32]).unwrap());
        let both = new.clone().accepting(DigestScheme::Sha256).unwrap();
        let ask = |store: &SqliteStore, peppers: &Peppers| {
            let scheme = crate::fixture::scheme().peppers(peppers.clone());
            ask_with(&Gate::new(store, &scheme).unwrap(), &secret)
        };
        thread::scope(|threads| {
            for store in [&one, &other] {
                threads.spawn(|| {
                    ask(store, &both).unwrap();
                    block_on(store.flush()).unwrap();
                    ask(store, &new).unwrap();
                });
            }
        });
        let now = stored(&one, record.id);
        assert_eq!(now.redigested, 1);
        assert_eq!(now.digest, new.digest(&secret));
        assert_eq!(used(&one, "acme").0, 3);
    }

    #[test]
    fn a_digest_moves_only_from_where_it_was_seen() {
        let fixture = Fixture::new();
        let pepper = |id: &str| {
            let secret = format!("the long secret of {id}");
            Pepper::new(id, secret.as_bytes()).unwrap()
        };
        let moving_to = |id: &str| {
            let store = fixture.open_slow();
            let sha256 = DigestScheme::Sha256;
            let peppers = Peppers::new(pepper(id)).accepting(sha256).unwrap();
            let gate = Gate::builder(&store, &crate::fixture::scheme().peppers(peppers));
            (store, gate.build().unwrap())
        };
        let (secret, record) = add(&fixture.open(), "acme");
        let (first, one) = moving_to("one");
        let (second, other) = moving_to("other");
        // Both have seen the key under the old digest, and the second is late.
        assert_eq!(ask_with(&one, &secret), Ok(()));
        assert_eq!(ask_with(&other, &secret), Ok(()));
        block_on(first.flush()).unwrap();
        block_on(second.flush()).unwrap();
        let stored = block_on(second.key(record.id)).unwrap().unwrap();
        assert_eq!(stored.digest.scheme().to_string(), "hmac-sha256:one");
        assert_eq!(stored.redigested, 1);
    }
}
