//! Usage, rehashed keys and unspent credits, on their way from memory into the file.

use std::collections::{BTreeMap, HashSet, VecDeque, hash_set};
use std::time::{Duration, Instant, SystemTime};
use std::{iter, mem, slice, vec};

use keyward::KeyId;
use keyward::credits::{CreditOwner, Unspent};
use keyward::replica::{Rehash, Replica, UsageCount};
use rusqlite::{Connection, ErrorCode, TransactionBehavior, params};

use crate::credit::CreditLedger;
use crate::group::SLICE;
use crate::{credit, row, usage};

/// The number of keys in one transaction, during which other processes cannot write.
const BATCH: usize = 512;

/// The batches that were taken from the replica and may not be in the file.
///
/// A failed write may have succeeded. So a batch stays as it is and is written again under the same
/// number, and the file counts each number once. Until then no more is taken: the replica
/// accumulates what comes meanwhile, so that memory holds each key at most twice, however long it
/// takes.
pub(crate) struct FlushQueue {
    ledger: CreditLedger,
    sequence: i64,
    /// The number of rounds that have begun.
    rounds: u64,
    round: Option<Round>,
    batches: VecDeque<Batch>,
    /// The owners that may have credits in this process.
    lent: HashSet<CreditOwner>,
    /// Those of them that are still to be settled with.
    settling: Option<hash_set::IntoIter<CreditOwner>>,
    /// Set if credits in use are returned too.
    all: bool,
    /// Set once there was a batch to write.
    known: bool,
}

impl FlushQueue {
    /// Creates the queue of a store that was just opened, with a new node number.
    pub(crate) fn new(connection: &Connection) -> rusqlite::Result<Self> {
        let node = connection.query_row("SELECT random()", [], |row| row.get(0))?;
        Ok(Self {
            ledger: CreditLedger::new(node),
            sequence: 0,
            rounds: 0,
            round: None,
            batches: VecDeque::new(),
            lent: HashSet::new(),
            settling: None,
            all: false,
            known: false,
        })
    }

    /// Returns all credits from now on, including those in use.
    pub(crate) fn take_all(&mut self) {
        self.all = true;
    }

    /// Returns the batch to write next.
    ///
    /// If none waits, it takes counts from the replica for a few milliseconds. It may return `None` although
    /// the round goes on: see [`is_idle`](Self::is_idle).
    pub(crate) fn next(&mut self, replica: &Replica) -> Option<&Batch> {
        if self.batches.is_empty() {
            let mut round = self.round.take().unwrap_or_else(|| {
                self.rounds += 1;
                Round::begin(replica, self.all)
            });
            if round.collect() {
                let batch = self.batch_of(&mut round, replica);
                if !batch.is_empty() {
                    self.batches.push_back(batch);
                }
                self.round = (!round.is_over()).then_some(round);
            } else {
                self.round = Some(round);
            }
        }
        self.known |= !self.batches.is_empty();
        self.batches.front()
    }

    /// Creates a batch of what the round has collected, with some credits to return.
    fn batch_of(&mut self, round: &mut Round, replica: &Replica) -> Batch {
        let mut batch = self.batch(replica);
        batch.hour = round.hour;
        let counts = iter::from_fn(|| round.counts.pop_first());
        batch.counts = counts.map(|(_, count)| count).take(BATCH).collect();
        batch.digests.extend(round.digests.by_ref().take(BATCH));
        let began = Instant::now();
        while batch.unspent.is_empty()
            && began.elapsed() < SLICE
            && let Some(parts) = &mut round.unspent
        {
            let mut returning = self.ledger.lock();
            match parts.next() {
                Some(unspent) => {
                    returning.add(batch.sequence, &unspent);
                    batch.unspent = unspent;
                }
                None => round.unspent = None,
            }
        }
        batch.report_held(replica);
        batch
    }

    /// Begins to settle with every owner of credits that may be out, unless that is under way.
    pub(crate) fn begin_settling(&mut self) {
        if !self.is_settling() {
            self.settling = Some(mem::take(&mut self.lent).into_iter());
        }
    }

    /// Takes back the unneeded credits of some owners, and reports what the others hold.
    pub(crate) fn settle_some(&mut self, replica: &Replica) {
        let owners = self.settling.iter_mut().flatten().take(BATCH);
        let owners: Vec<_> = owners.collect();
        if owners.is_empty() {
            return;
        }
        let mut batch = self.batch(replica);
        for owner in owners {
            let mut returning = self.ledger.lock();
            if let Some(unspent) = replica.take_unspent_of(&owner) {
                returning.add(batch.sequence, slice::from_ref(&unspent));
                batch.unspent.push(unspent);
            }
            drop(returning);
            let held = held(replica, &owner);
            if held.amount > 0 {
                self.lent.insert(owner);
            }
            batch.held.push(held);
        }
        self.batches.push_back(batch);
    }

    fn is_settling(&self) -> bool {
        self.settling.as_ref().is_some_and(|left| left.len() > 0)
    }

    /// Takes the credits beyond the number that may be out.
    pub(crate) fn take_excess(&mut self, replica: &Replica) {
        let ledger = self.ledger.clone();
        let mut returning = ledger.lock();
        let mut unspent = replica.take_excess().into_iter();
        while unspent.len() > 0 {
            let mut batch = self.batch(replica);
            batch.unspent.extend(unspent.by_ref().take(BATCH));
            returning.add(batch.sequence, &batch.unspent);
            batch.report_held(replica);
            let kept = batch.held.iter().filter(|held| held.amount > 0);
            self.lent.extend(kept.map(|held| held.owner.clone()));
            self.batches.push_back(batch);
        }
    }

    /// Notes that credits of this owner are out.
    pub(crate) fn lend(&mut self, owner: CreditOwner) {
        self.lent.insert(owner);
    }

    /// Returns whether any credits may be in this process.
    pub(crate) fn has_lent(&self) -> bool {
        !self.lent.is_empty() || self.is_settling()
    }

    /// Creates an empty batch.
    fn batch(&mut self, replica: &Replica) -> Batch {
        self.sequence += 1;
        let now = replica.clock().unix();
        Batch {
            node: self.ledger.node(),
            sequence: self.sequence,
            now: SystemTime::UNIX_EPOCH + now,
            hour: hour(now),
            counts: Vec::new(),
            digests: Vec::new(),
            unspent: Vec::new(),
            held: Vec::new(),
        }
    }

    /// Records that the next batch has been written.
    pub(crate) fn written(&mut self) {
        self.batches.pop_front();
    }

    /// Returns the number of the round that takes everything counted until now.
    pub(crate) fn next_round(&self) -> u64 {
        self.rounds + 1
    }

    /// Returns whether everything that this round has taken is written.
    pub(crate) fn has_written(&self, round: u64) -> bool {
        self.rounds > round || self.rounds == round && self.is_idle()
    }

    /// Returns whether no round is in progress and nothing is waiting to be written.
    pub(crate) fn is_idle(&self) -> bool {
        self.round.is_none() && self.batches.is_empty()
    }

    /// Returns the number of waiting batches.
    pub(crate) fn waiting(&self) -> usize {
        self.batches.len()
    }

    /// Returns the ledger of the credits on their way back.
    pub(crate) fn ledger(&self) -> &CreditLedger {
        &self.ledger
    }

    /// Returns whether the file may hold rows of this node.
    pub(crate) fn is_known(&self) -> bool {
        self.known || self.has_lent()
    }
}

/// One round of taking all counts, a few milliseconds at a time.
struct Round {
    /// The hour in which it began.
    hour: i64,
    /// The counters that are still to be read; `None` if none is.
    usage: Option<Box<dyn Iterator<Item = Vec<UsageCount>> + Send>>,
    /// Sorted like the tables: neighbours are in the same page of the file.
    counts: BTreeMap<KeyId, UsageCount>,
    digests: vec::IntoIter<Rehash>,
    /// The balances that are still to be read; `None` if none is.
    unspent: Option<Box<dyn Iterator<Item = Vec<Unspent>> + Send>>,
}

impl Round {
    fn begin(replica: &Replica, all: bool) -> Self {
        Self {
            hour: hour(replica.clock().unix()),
            usage: Some(Box::new(replica.take_usage_in_parts())),
            counts: BTreeMap::new(),
            digests: replica.take_rehashes().into_iter(),
            unspent: Some(Box::new(replica.take_unspent_in_parts(all))),
        }
    }

    /// Collects counts for a few milliseconds, and returns whether all are collected.
    fn collect(&mut self) -> bool {
        let began = Instant::now();
        while let Some(usage) = &mut self.usage {
            if began.elapsed() > SLICE {
                return false;
            }
            let Some(part) = usage.next() else {
                self.usage = None;
                break;
            };
            for count in part {
                let sum = self.counts.entry(count.key);
                sum.or_insert_with(|| UsageCount::new(count.key))
                    .add(&count);
            }
        }
        true
    }

    fn is_over(&self) -> bool {
        self.usage.is_none()
            && self.counts.is_empty()
            && self.digests.len() == 0
            && self.unspent.is_none()
    }
}

fn hour(now: Duration) -> i64 {
    (now.as_secs() / 3600).cast_signed()
}

/// A part of the counts that is written in one transaction.
#[derive(Debug)]
pub(crate) struct Batch {
    node: i64,
    sequence: i64,
    /// The time at which they were taken. Usage is counted for its hour.
    now: SystemTime,
    hour: i64,
    /// Sorted by key, like the tables.
    counts: Vec<UsageCount>,
    digests: Vec<Rehash>,
    unspent: Vec<Unspent>,
    /// The credits that are held after that.
    held: Vec<Unspent>,
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.counts.is_empty() && self.digests.is_empty() && self.unspent.is_empty()
    }

    /// Records what is held of the balances that get something back.
    fn report_held(&mut self, replica: &Replica) {
        let owners = self.unspent.iter().map(|unspent| &unspent.owner);
        self.held = owners.map(|owner| held(replica, owner)).collect();
    }

    /// Adds the counts to the file, unless done before, and replaces digests.
    pub(crate) fn write(
        &self,
        connection: &mut Connection,
        ledger: &CreditLedger,
    ) -> rusqlite::Result<()> {
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
        if self.unspent.is_empty() {
            return transaction.commit();
        }
        let mut returning = ledger.lock();
        transaction.commit()?;
        returning.remove(self.sequence, &self.unspent);
        Ok(())
    }

    /// Returns whether it changes keys, so that the replica has to poll.
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

    /// Adds the counts of a key, unless it was deleted.
    fn add(&self, connection: &Connection, count: &UsageCount) -> rusqlite::Result<()> {
        let key = count.key.to_string();
        let labels = count.labels.iter();
        let labels = labels.map(|(label, counts)| (Some(*label), counts));
        for (label, counts) in iter::once((None, &count.counts)).chain(labels) {
            usage::add(connection, &key, label, self.hour, counts)?;
        }
        if let Some(last_used_at) = count.last_used_at {
            connection
                .prepare_cached(
                    "INSERT INTO keyward_usage_key (key, last_used_at, last_network) \
                     SELECT id, ?2, ?3 FROM keyward_key WHERE id = ?1 \
                     ON CONFLICT (key) DO UPDATE SET last_used_at = excluded.last_used_at, \
                     last_network = coalesce(excluded.last_network, last_network) \
                     WHERE excluded.last_used_at > keyward_usage_key.last_used_at",
                )?
                .execute(params![
                    key,
                    row::millis(last_used_at),
                    count.last_network.map(|network| network.to_string())
                ])?;
        }
        Ok(())
    }
}

/// Returns what is held of a balance, which may be nothing.
fn held(replica: &Replica, owner: &CreditOwner) -> Unspent {
    replica.held_of(owner).unwrap_or(Unspent {
        owner: owner.clone(),
        amount: 0,
        epoch: 0,
    })
}

/// Deletes the rows of a node that writes no more.
pub(crate) fn forget(connection: &Connection, node: i64) -> rusqlite::Result<()> {
    for forget in [
        "DELETE FROM keyward_usage_node WHERE node = ?1",
        "DELETE FROM keyward_credit_held WHERE node = ?1",
    ] {
        connection.execute(forget, [node])?;
    }
    Ok(())
}

/// Replaces a digest, unless another process has done so before.
///
/// If the file refuses the new digest, because another key has it or had it when it was revoked, nothing
/// changes and there is no error: the rest of the batch must not fail with it.
fn redigest(connection: &Connection, moved: &Rehash) -> rusqlite::Result<()> {
    let replaced = connection
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
        ]);
    match replaced {
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => Ok(()),
        replaced => replaced.map(drop),
    }
}

#[cfg(test)]
mod tests {

    use std::time::Duration;

    use keyward::key::{DigestScheme, Pepper};
    use keyward::store::StoreErrorKind;
    use keyward::testing::block_on;
    use keyward::{Gate, Peppers, Store};

    use super::*;
    use crate::fixture::{
        Fixture, add, ask_often, ask_with, eventually, stored, type_inside, used,
    };
    use crate::{SqliteOptions, SqliteStore};

    #[test]
    fn a_batch_that_comes_again_is_not_counted_again() {
        let fixture = Fixture::new();
        let store = fixture.open_slow();
        let (secret, _) = add(&store, "acme");
        let mut file = Connection::open(fixture.path()).unwrap();
        let mut taken = FlushQueue::new(&file).unwrap();
        let ledger = taken.ledger().clone();
        ask_often(&store, &secret, 3);
        taken
            .next(store.replica())
            .unwrap()
            .write(&mut file, &ledger)
            .unwrap();
        // It is unknown whether that succeeded; meanwhile the key is used.
        ask_often(&store, &secret, 4);
        taken
            .next(store.replica())
            .unwrap()
            .write(&mut file, &ledger)
            .unwrap();
        assert_eq!(used(&store, "acme"), (3, 0));
        taken.written();
        taken
            .next(store.replica())
            .unwrap()
            .write(&mut file, &ledger)
            .unwrap();
        assert_eq!(used(&store, "acme"), (7, 0));
        taken.written();
        assert!(taken.next(store.replica()).is_none());

        let mut another = FlushQueue::new(&file).unwrap();
        ask_often(&store, &secret, 1);
        another
            .next(store.replica())
            .unwrap()
            .write(&mut file, &ledger)
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
        // Each step is a task of its own, between which other tasks run.
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

    #[test]
    fn a_digest_that_may_not_come_back_keeps_no_count_from_the_file() {
        let fixture = Fixture::new();
        let store = fixture.open_slow();
        let (revoked, _) = add(&store, "acme");
        let (used_too, _) = add(&store, "other");
        let typed = "UPDATE keyward_account SET revoked_all = 1 WHERE id = 'acme'";
        fixture.type_in(typed).unwrap();
        crate::fixture::ask_strictly(&store, &revoked).unwrap_err();
        let pepper = || Pepper::new("new", &[7; 32]).unwrap();
        let sha256 = DigestScheme::Sha256;
        // One version of the service moves digests to a pepper, and the version before moves them back.
        for peppers in [
            Peppers::new(pepper()).accepting(sha256).unwrap(),
            Peppers::none().retired(pepper()).unwrap(),
        ] {
            let gate = Gate::new(&store, &crate::fixture::scheme().peppers(peppers)).unwrap();
            let denied = ask_with(&gate, &revoked).unwrap_err();
            assert_eq!(denied, keyward::denial::DenialKind::Revoked);
            ask_with(&gate, &used_too).unwrap();
            block_on(store.flush()).unwrap();
        }
        assert_eq!(used(&store, "other"), (2, 0));
        assert_eq!(used(&store, "acme").1, 3);
    }

    #[test]
    fn settling_with_many_owners_takes_some_at_a_time_and_each_once() {
        let connection = Connection::open_in_memory().unwrap();
        let mut queue = FlushQueue::new(&connection).unwrap();
        let replica = Replica::new();
        for number in 0..=BATCH {
            let account = keyward::AccountId::parse(&format!("a{number}")).unwrap();
            queue.lend(account.into());
        }
        queue.begin_settling();
        queue.settle_some(&replica);
        assert_eq!(queue.batches[0].held.len(), BATCH);
        assert!(queue.has_lent());
        queue.written();
        // While that is under way, it does not begin anew.
        queue.begin_settling();
        queue.settle_some(&replica);
        assert_eq!(queue.batches[0].held.len(), 1);
        queue.written();
        queue.settle_some(&replica);
        assert!(queue.is_idle() && !queue.has_lent());
    }
}
