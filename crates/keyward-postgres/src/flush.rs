//! Usage, rehashed keys and unspent credits, on their way from memory into the database.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use keyward::KeyId;
use keyward::credits::{CreditOwner, Unspent};
use keyward::replica::{Rehash, Replica, UsageCount};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};

use crate::credit;
use crate::error::Error;
use crate::row::Timestamp;
use crate::usage::Counted;

/// The number of keys or balances in one transaction.
const BATCH: usize = 1000;

/// The number of digests in one transaction. Each takes several statements.
const DIGESTS: usize = 100;

/// The batches that were taken from the replica and may not be stored.
///
/// A failed write may have succeeded. So a batch stays as it is and is written again under the same
/// number, and the database counts each number once. Until then no more is taken: the replica
/// accumulates what comes meanwhile, so that memory holds each key at most twice, however long it takes.
pub(crate) struct FlushQueue {
    node: i64,
    sequence: i64,
    batches: VecDeque<Arc<Batch>>,
    /// The owners that may have credits in this process.
    lent: HashSet<CreditOwner>,
}

impl FlushQueue {
    pub(crate) fn new(node: i64) -> Self {
        Self {
            node,
            sequence: 0,
            batches: VecDeque::new(),
            lent: HashSet::new(),
        }
    }

    /// Takes all that was counted until now. With `all`, it takes credits in use too.
    pub(crate) async fn take(&mut self, replica: &Replica, all: bool) {
        let hour = hour(replica.clock().unix());
        // Sorted like the tables: two processes that write the same rows do so in one order.
        let mut counts: BTreeMap<KeyId, UsageCount> = BTreeMap::new();
        for part in replica.take_usage_in_parts() {
            for count in part {
                let sum = counts.entry(count.key);
                sum.or_insert_with(|| UsageCount::new(count.key))
                    .add(&count);
            }
            // There may be a million, and polls run on the same thread.
            tokio::task::yield_now().await;
        }
        let mut counts = counts.into_values().peekable();
        while counts.peek().is_some() {
            let counts = counts.by_ref().take(BATCH).collect();
            self.push(Batch {
                hour,
                counts,
                ..Batch::default()
            });
        }
        let mut digests = replica.take_rehashes();
        digests.sort_unstable_by_key(|moved| moved.key);
        let mut digests = digests.into_iter().peekable();
        while digests.peek().is_some() {
            let digests = digests.by_ref().take(DIGESTS).collect();
            self.push(Batch {
                digests,
                ..Batch::default()
            });
        }
        for unspent in replica.take_unspent_in_parts(all) {
            self.give_back(replica, unspent);
            tokio::task::yield_now().await;
        }
    }

    /// Takes the credits beyond the number that may be out.
    pub(crate) fn take_excess(&mut self, replica: &Replica) {
        let unspent = replica.take_excess();
        self.give_back(replica, unspent);
    }

    /// Takes back the unneeded credits of every owner, and reports what the others hold.
    pub(crate) fn settle(&mut self, replica: &Replica) {
        let lent: Vec<_> = mem::take(&mut self.lent).into_iter().collect();
        for some in lent.chunks(BATCH) {
            let unspent = some
                .iter()
                .filter_map(|owner| replica.take_unspent_of(owner))
                .collect();
            let held: Vec<_> = some.iter().map(|owner| held(replica, owner)).collect();
            self.note_lent(&held);
            self.push(Batch {
                unspent,
                held,
                ..Batch::default()
            });
        }
    }

    fn give_back(&mut self, replica: &Replica, unspent: Vec<Unspent>) {
        if unspent.is_empty() {
            return;
        }
        let held: Vec<_> = unspent
            .iter()
            .map(|unspent| held(replica, &unspent.owner))
            .collect();
        self.note_lent(&held);
        self.push(Batch {
            unspent,
            held,
            ..Batch::default()
        });
    }

    fn note_lent(&mut self, held: &[Unspent]) {
        let some = held.iter().filter(|held| held.amount > 0);
        self.lent.extend(some.map(|held| held.owner.clone()));
    }

    /// Notes that credits of this owner are out.
    pub(crate) fn lend(&mut self, owner: CreditOwner) {
        self.lent.insert(owner);
    }

    /// Returns whether any credits may be in this process.
    pub(crate) fn has_lent(&self) -> bool {
        !self.lent.is_empty()
    }

    /// Appends a batch, with the next number.
    fn push(&mut self, batch: Batch) {
        self.sequence += 1;
        self.batches.push_back(Arc::new(Batch {
            node: self.node,
            sequence: self.sequence,
            ..batch
        }));
    }

    /// Returns the batch to write next.
    pub(crate) fn first(&self) -> Option<&Arc<Batch>> {
        self.batches.front()
    }

    /// Records that the next batch has been written.
    pub(crate) fn written(&mut self) {
        self.batches.pop_front();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Returns the number by which the database identifies this process.
    pub(crate) fn node(&self) -> i64 {
        self.node
    }

    /// Returns the number of the last batch so far.
    pub(crate) fn sequence(&self) -> i64 {
        self.sequence
    }

    /// Returns the credits of an owner in batches after this one.
    pub(crate) fn returning<'a>(
        &'a self,
        owner: &'a CreditOwner,
        after: i64,
    ) -> impl Iterator<Item = &'a Unspent> {
        let batches = self.batches.iter();
        let unwritten = batches.filter(move |batch| batch.sequence > after);
        let unspent = unwritten.flat_map(|batch| &batch.unspent);
        unspent.filter(move |unspent| unspent.owner == *owner)
    }
}

fn hour(now: Duration) -> i64 {
    (now.as_secs() / 3600).cast_signed()
}

/// Returns what is held of a balance, which may be nothing.
fn held(replica: &Replica, owner: &CreditOwner) -> Unspent {
    replica.held_of(owner).unwrap_or(Unspent {
        owner: owner.clone(),
        amount: 0,
        epoch: 0,
    })
}

/// A part of the counts that is written in one transaction.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    node: i64,
    sequence: i64,
    /// The hour for which the usage is counted.
    hour: i64,
    /// Sorted by key.
    counts: Vec<UsageCount>,
    digests: Vec<Rehash>,
    unspent: Vec<Unspent>,
    /// The credits that are held after that.
    held: Vec<Unspent>,
}

impl Batch {
    /// Writes the batch in a transaction, unless that was done before.
    pub(crate) async fn write(&self, client: &Client) -> Result<(), Error> {
        if !self.is_new(client).await? {
            return Ok(());
        }
        self.count(client).await?;
        credit::give_back(client, &self.unspent).await?;
        credit::report(client, &self.held, self.node).await?;
        self.redigest(client).await
    }

    pub(crate) fn sequence(&self) -> i64 {
        self.sequence
    }

    /// Returns whether it changes keys, so that the replica has to poll.
    pub(crate) fn changes_keys(&self) -> bool {
        !self.digests.is_empty()
    }

    /// Notes the number, and returns whether it is a new one.
    ///
    /// A transaction of the same number whose end is not known yet is waited for.
    async fn is_new(&self, client: &Client) -> Result<bool, Error> {
        let note = "INSERT INTO keyward.usage_node AS old (node, sequence) VALUES ($1, $2) \
             ON CONFLICT (node) DO UPDATE \
             SET sequence = excluded.sequence, written_at = excluded.written_at \
             WHERE excluded.sequence > old.sequence";
        let own: [(&(dyn ToSql + Sync), Type); 2] =
            [(&self.node, Type::INT8), (&self.sequence, Type::INT8)];
        Ok(client.execute_typed(note, &own).await? > 0)
    }

    /// Adds the counts of the keys that are still stored.
    async fn count(&self, client: &Client) -> Result<(), Error> {
        if self.counts.is_empty() {
            return Ok(());
        }
        let keys = self.counts.iter().map(|count| count.key.to_string());
        let keys: Vec<_> = keys.collect();
        let used: Vec<_> = self
            .counts
            .iter()
            .map(|count| count.last_used_at.map(Timestamp))
            .collect();
        let networks = self.counts.iter().map(|count| count.last_network);
        let networks = networks.map(|network| network.map(|network| network.to_string()));
        let networks: Vec<_> = networks.collect();
        let mut counted = Counted::default();
        for (key, count) in keys.iter().zip(&self.counts) {
            counted.push(key, None, &count.counts);
            for (label, counts) in &count.labels {
                counted.push(key, Some(*label), counts);
            }
        }
        counted.add(client, self.hour, 1).await?;
        let last = "INSERT INTO keyward.usage_key AS old (key, last_used_at, last_network) \
             SELECT key.id, new.used, new.network \
             FROM unnest($1, $2, $3) AS new (key, used, network) \
             JOIN keyward.key AS key ON key.id = new.key WHERE new.used IS NOT NULL \
             ORDER BY key.id \
             ON CONFLICT (key) DO UPDATE SET last_used_at = excluded.last_used_at, \
             last_network = coalesce(excluded.last_network, old.last_network) \
             WHERE excluded.last_used_at > old.last_used_at";
        client
            .execute_typed(
                last,
                &[
                    (&keys, Type::TEXT_ARRAY),
                    (&used, Type::TIMESTAMPTZ_ARRAY),
                    (&networks, Type::TEXT_ARRAY),
                ],
            )
            .await?;
        Ok(())
    }

    /// Replaces digests, unless another process has done so before.
    ///
    /// If the database refuses a new digest, because another key has it or had it when it was revoked,
    /// nothing changes and there is no error: the rest of the batch must not fail with it.
    async fn redigest(&self, client: &Client) -> Result<(), Error> {
        for moved in &self.digests {
            let replace = "UPDATE keyward.key \
                 SET digest_scheme = $2, digest = $3, redigested = redigested + 1 \
                 WHERE id = $1 AND digest = $4";
            client.batch_execute("SAVEPOINT digest").await?;
            let replaced = client
                .execute_typed(
                    replace,
                    &[
                        (&moved.key.to_string(), Type::TEXT),
                        (&moved.to.scheme().to_string(), Type::TEXT),
                        (&moved.to.expose_bytes().as_slice(), Type::BYTEA),
                        (&moved.from.as_slice(), Type::BYTEA),
                    ],
                )
                .await;
            let is_refused = |error: &tokio_postgres::Error| {
                let code = error.code().map(SqlState::code);
                code.is_some_and(|code| code.starts_with("23"))
            };
            match replaced {
                Ok(_) => client.batch_execute("RELEASE SAVEPOINT digest").await?,
                Err(error) if is_refused(&error) => {
                    client.batch_execute("ROLLBACK TO SAVEPOINT digest").await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// Deletes the rows of a process that writes no more.
pub(crate) async fn forget(client: &Client, node: i64) -> Result<(), Error> {
    for table in ["usage_node", "credit_held", "node"] {
        let forget = format!("DELETE FROM keyward.{table} WHERE node = $1");
        client
            .execute_typed(&forget, &[(&node, Type::INT8)])
            .await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {

    use std::thread;

    use keyward::denial::DenialKind;
    use keyward::key::{DigestScheme, Pepper};
    use keyward::testing::block_on;
    use keyward::{Gate, Peppers, Store};

    use super::*;
    use crate::PostgresOptions;
    use crate::fixture::{
        Fixture, add, ask_often, ask_strictly, ask_with, commit, eventually, key, scheme, stored,
        used,
    };

    #[test]
    fn more_keys_than_a_batch_holds_are_all_counted_by_processes_at_once() {
        const PROCESSES: u64 = 4;
        let fixture = Fixture::new();
        let store = fixture.open_slow();
        add(&store, "acme");
        let keys: Vec<_> = (0..=BATCH).map(|_| key("acme")).collect();
        let records = keys.iter().map(|(_, record)| record.clone());
        commit(&store, vec![], records.collect()).unwrap();
        thread::scope(|threads| {
            for _ in 0..PROCESSES {
                threads.spawn(|| {
                    let store = fixture.open();
                    let gate = Gate::new(&store, &scheme()).unwrap();
                    for round in 0..2 {
                        for (secret, _) in &keys {
                            ask_with(&gate, secret).unwrap();
                        }
                        if round == 0 {
                            block_on(store.flush()).unwrap();
                        }
                    }
                });
            }
        });
        // What a process counted last was written when it was dropped.
        assert_eq!(used(&store, "acme").0, 2 * PROCESSES * keys.len() as u64);
        let nodes = "SELECT count(*) FROM keyward.usage_node";
        assert_eq!(fixture.psql().value(nodes), "0", "nothing is left of them");
    }

    #[test]
    fn what_was_counted_is_written_in_time() {
        let fixture = Fixture::new();
        let soon = PostgresOptions::new().flush_interval(Duration::from_millis(5));
        let store = fixture.open_with(&soon);
        let (secret, _) = add(&store, "acme");
        ask_often(&store, &secret, 2);
        eventually(|| used(&store, "acme") == (2, 0));
    }

    #[test]
    fn a_use_is_no_change_of_a_key() {
        let fixture = Fixture::new();
        let store = fixture.open_slow();
        let (secret, record) = add(&store, "acme");
        let head = "SELECT max(rev) FROM keyward.rev_log";
        let before = fixture.psql().value(head);
        ask_often(&store, &secret, 1);
        block_on(store.flush()).unwrap();
        assert_eq!(fixture.psql().value(head), before);
        let now = stored(&store, record.id);
        assert!(now.last_used_at.is_some());
        assert_eq!(now.revision, record.revision);
    }

    #[test]
    fn a_digest_that_may_not_come_back_keeps_no_count_from_being_written() {
        let fixture = Fixture::new();
        let store = fixture.open_slow();
        let (revoked, _) = add(&store, "acme");
        let (used_too, _) = add(&store, "other");
        let typed = "UPDATE keyward.account SET revoked_all = 1 WHERE id = 'acme'";
        fixture.type_in(typed).unwrap();
        ask_strictly(&store, &revoked).unwrap_err();
        let pepper = || Pepper::new("new", &[7; 32]).unwrap();
        let sha256 = DigestScheme::Sha256;
        // One version of the service moves digests to a pepper, and the version before moves them back.
        for peppers in [
            Peppers::new(pepper()).accepting(sha256).unwrap(),
            Peppers::none().retired(pepper()).unwrap(),
        ] {
            let gate = Gate::new(&store, &scheme().peppers(peppers)).unwrap();
            let denied = ask_with(&gate, &revoked).unwrap_err();
            assert_eq!(denied, DenialKind::Revoked);
            ask_with(&gate, &used_too).unwrap();
            block_on(store.flush()).unwrap();
        }
        assert_eq!(used(&store, "other"), (2, 0));
        assert_eq!(used(&store, "acme").1, 3);
    }
}
