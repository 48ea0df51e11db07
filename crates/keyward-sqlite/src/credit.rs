//! Credit balances.

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use keyward::credits::{
    CreditGrant, CreditOwner, CreditWant, Credits, Refill, RefillSchedule, Unspent,
};
use keyward::replica::{DeferredWake, Replica};
use keyward::store::{CreditChange, StoreError, StoreErrorKind};
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use crate::error::failed;
use crate::row::{self, Cells};

/// The time for which a report of held credits counts. A running process reports again before that.
const FRESH: Duration = Duration::from_secs(3);

/// The number of balances from which one transaction draws.
///
/// It takes a few milliseconds, during which the thread does nothing else.
pub(crate) const DRAWN_AT_ONCE: usize = 128;

/// The credits of this process that are neither in the file nor in the replica.
///
/// Its lock is held while credits move between the three: from a commit until the replica has the
/// drawn credits, while a batch that returns some is committed, and while some are taken from the
/// replica. So a reader that holds the lock finds each credit once. The lock is never held while
/// waiting for another process.
#[derive(Clone, Debug)]
pub(crate) struct CreditLedger {
    node: i64,
    returning: Arc<Mutex<Returning>>,
}

/// Credits being returned to a balance, with the number of the batch that returns them.
#[derive(Debug, Default)]
pub(crate) struct Returning(HashMap<CreditOwner, Vec<(i64, Unspent)>>);

impl CreditLedger {
    /// Creates the ledger of a process, which the file identifies by this number.
    pub(crate) fn new(node: i64) -> Self {
        Self {
            node,
            returning: Arc::default(),
        }
    }

    /// Returns the number by which the file identifies this process.
    pub(crate) fn node(&self) -> i64 {
        self.node
    }

    /// Locks the ledger, so that no credits move and no balance is read.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Returning> {
        self.returning
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the balance of an owner, including the credits that processes hold.
    ///
    /// The connection must be at the start of a transaction, because the first read takes the snapshot.
    pub(crate) fn balance(
        &self,
        connection: &Connection,
        replica: &Replica,
        owner: &CreditOwner,
    ) -> rusqlite::Result<Option<Credits>> {
        let now = SystemTime::UNIX_EPOCH + replica.clock().unix();
        let returning = self.lock();
        let Some(mut credits) = shown(connection, owner, self.node, now)? else {
            return Ok(None);
        };
        if let Some(held) = replica.held_of(owner) {
            credits.put_back(&held);
        }
        for (_, unspent) in returning.0.get(owner).into_iter().flatten() {
            credits.put_back(unspent);
        }
        Ok(Some(credits))
    }
}

impl Returning {
    /// Records what a batch will return.
    pub(crate) fn add(&mut self, batch: i64, unspent: &[Unspent]) {
        for one in unspent {
            let of_owner = self.0.entry(one.owner.clone()).or_default();
            of_owner.push((batch, one.clone()));
        }
    }

    /// Records that a batch has returned its credits.
    pub(crate) fn remove(&mut self, batch: i64, unspent: &[Unspent]) {
        for one in unspent {
            if let Some(of_owner) = self.0.get_mut(&one.owner) {
                of_owner.retain(|(number, _)| *number != batch);
                if of_owner.is_empty() {
                    self.0.remove(&one.owner);
                }
            }
        }
    }
}

/// Returns the balance of an owner.
pub(crate) fn stored(
    connection: &Connection,
    owner: &CreditOwner,
) -> rusqlite::Result<Option<Credits>> {
    let balance = "SELECT remaining, epoch, warn_below, refill_at, refill_to, roll_over, schedule \
                   FROM keyward_credit WHERE owner = ?1";
    connection
        .prepare_cached(balance)?
        .query_row([owner.to_string()], |row| {
            let mut cells = Cells::of(row);
            let mut credits = Credits::new(cells.number()?);
            credits.epoch = cells.get()?;
            credits.warn_below = cells.number()?;
            if let Some(at) = cells.time_if_any()? {
                let mut refill = Refill::once(at, cells.number()?);
                refill.roll_over = cells.number_if_any()?;
                refill.schedule = cells.parse_some(RefillSchedule::parse)?;
                credits.refill = Some(refill);
            }
            Ok(credits)
        })
        .optional()
}

/// Returns the balance of an owner, with the credits that other processes hold.
fn shown(
    connection: &Connection,
    owner: &CreditOwner,
    node: i64,
    now: SystemTime,
) -> rusqlite::Result<Option<Credits>> {
    let Some(mut credits) = stored(connection, owner)? else {
        return Ok(None);
    };
    let held: i64 = connection
        .prepare_cached(
            "SELECT coalesce(sum(held), 0) FROM keyward_credit_held \
             WHERE owner = ?1 AND node <> ?2 AND epoch = ?3 AND abs(?4 - reported_at) < ?5",
        )?
        .query_row(
            params![
                owner.to_string(),
                node,
                credits.epoch,
                row::millis(now),
                i64::try_from(FRESH.as_millis()).unwrap_or(i64::MAX),
            ],
            |row| row.get(0),
        )?;
    credits.left = credits.left.saturating_add(held.cast_unsigned());
    Ok(Some(credits))
}

/// Reports what a process holds, for others to show, and deletes old reports.
pub(crate) fn report(
    connection: &Connection,
    held: &Unspent,
    node: i64,
    now: SystemTime,
) -> rusqlite::Result<()> {
    let (owner, now) = (held.owner.to_string(), row::millis(now));
    connection
        .prepare_cached(
            "DELETE FROM keyward_credit_held \
             WHERE owner = ?1 AND (node = ?2 OR abs(?3 - reported_at) >= ?4)",
        )?
        .execute(params![
            owner,
            node,
            now,
            i64::try_from(FRESH.as_millis()).unwrap_or(i64::MAX),
        ])?;
    if held.amount > 0 {
        connection
            .prepare_cached("INSERT INTO keyward_credit_held VALUES (?1, ?2, ?3, ?4, ?5)")?
            .execute(params![owner, node, held.epoch, held.amount, now])?;
    }
    Ok(())
}

/// Applies a change to a balance. It is a conflict if the balance does not allow it.
pub(crate) fn change(connection: &Connection, change: &CreditChange) -> Result<(), StoreError> {
    let owner = change.owner();
    let stored = stored(connection, owner).map_err(failed)?;
    let changed = change.apply(stored);
    let credits = changed.ok_or(StoreError::new(StoreErrorKind::Conflict))?;
    put(connection, owner, &credits).map_err(failed)
}

/// Draws the credits that this process needs, and gives them to the replica.
///
/// An owner without a valid balance gets nothing and does not delay others. Waiting requests are
/// woken when the caller drops the second part of the result.
pub(crate) fn draw(
    connection: &mut Connection,
    wants: &[CreditWant],
    ledger: &CreditLedger,
    replica: &Replica,
) -> Result<(Vec<CreditGrant>, Vec<DeferredWake>), StoreError> {
    let (node, now) = (ledger.node, SystemTime::UNIX_EPOCH + replica.clock().unix());
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(failed)?;
    let mut grants = Vec::new();
    for want in wants {
        let stored = match stored(&transaction, &want.owner).map_err(failed) {
            Err(error) if error.kind() == StoreErrorKind::Corrupt => {
                let error: &(dyn Error + 'static) = &error;
                tracing::error!(owner = %want.owner, error, "invalid credit balance");
                None
            }
            stored => stored?,
        };
        if let Some(mut credits) = stored {
            let grant = credits.draw(want, now);
            put(&transaction, &want.owner, &credits).map_err(failed)?;
            let held = Unspent {
                owner: want.owner.clone(),
                amount: want.held_after(&grant),
                epoch: grant.epoch,
            };
            report(&transaction, &held, node, now).map_err(failed)?;
            grants.push(grant);
        }
    }
    let moving = ledger.lock();
    transaction.commit().map_err(failed)?;
    let wakes = grants.iter().map(|grant| replica.grant_deferred(grant));
    let wakes = wakes.collect();
    drop(moving);
    Ok((grants, wakes))
}

/// Returns unspent credits to a balance, unless it was replaced meanwhile.
pub(crate) fn give_back(connection: &Connection, unspent: &Unspent) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "UPDATE keyward_credit \
             SET remaining = min(remaining, 9223372036854775807 - ?3) + ?3 \
             WHERE owner = ?1 AND epoch = ?2",
        )?
        .execute(params![
            unspent.owner.to_string(),
            unspent.epoch,
            unspent.amount
        ])
        .map(drop)
}

fn put(connection: &Connection, owner: &CreditOwner, credits: &Credits) -> rusqlite::Result<()> {
    let most = |credits: u64| i64::try_from(credits).unwrap_or(i64::MAX);
    let refill = credits.refill.as_ref();
    let schedule = refill.and_then(|refill| refill.schedule.as_ref());
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO keyward_credit \
             (owner, epoch, remaining, warn_below, refill_at, refill_to, roll_over, schedule) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![
            owner.to_string(),
            credits.epoch,
            most(credits.left),
            most(credits.warn_below),
            refill.map(|refill| row::millis(refill.at)),
            refill.map(|refill| most(refill.to)),
            refill.and_then(|refill| refill.roll_over).map(most),
            schedule.map(RefillSchedule::to_string),
        ])
        .map(drop)
}

#[cfg(test)]
mod tests {

    use std::sync::mpsc;
    use std::task::{Context, Waker};
    use std::thread;
    use std::time::Instant;

    use keyward::denial::DenialKind;
    use keyward::gate::Verdict;
    use keyward::testing::block_on;
    use keyward::{AccountId, Gate, Store};

    use super::*;

    use crate::fixture::{
        Fixture, add, ask, balance_is_exact, eventually, left, rich, scheme, spend_all,
        type_inside, waiting,
    };

    #[test]
    fn what_a_process_holds_is_shown_also_by_others_and_given_back_when_it_ends() {
        let fixture = Fixture::new();
        let (owner, key) = rich(&fixture.open_slow(), 10_000);
        let (store, other) = (fixture.open_slow(), fixture.open_slow());
        let held = || {
            store
                .replica()
                .held_of(&owner)
                .map_or(0, |held| held.amount)
        };
        let mut spent = 0;
        while spent < 200 || held() < 20 {
            assert_eq!(ask(&store, &key), Ok(()));
            spent += 1;
            assert_eq!(left(&store, &owner), 10_000 - spent);
            assert!(held() <= 100, "{}", held());
        }
        let held = u64::from(held());
        let in_file = || {
            let file = Connection::open(fixture.path()).unwrap();
            stored(&file, &owner).unwrap().unwrap().left
        };
        // The other process knows what was reported, at any time.
        assert!(left(&other, &owner) >= 10_000 - spent);
        eventually(|| left(&other, &owner) == 10_000 - spent);
        drop(store);
        assert_eq!(
            (in_file(), left(&other, &owner)),
            (10_000 - spent, 10_000 - spent)
        );
        assert!(held > 0);
        let reports = "SELECT count(*) FROM keyward_credit_held";
        let file = Connection::open(fixture.path()).unwrap();
        let reports = file.query_row(reports, [], |row| row.get::<_, i64>(0));
        assert_eq!(
            reports.unwrap(),
            0,
            "nothing is left of a store that is gone"
        );
        // A balance above the maximum is the maximum.
        assert_eq!(ask(&other, &key), Ok(()));
        let most = format!("UPDATE keyward_credit SET remaining = {}", i64::MAX);
        fixture.type_in(&most).unwrap();
        let all = i64::MAX.cast_unsigned();
        assert!(left(&other, &owner) >= all);
    }

    #[test]
    fn a_balance_is_told_at_once_while_another_process_writes() {
        let fixture = Fixture::new();
        let (owner, key) = rich(&fixture.open_slow(), 10_000);
        let store = fixture.open_slow();
        (0..50).for_each(|_| assert_eq!(ask(&store, &key), Ok(())));
        let writer = Connection::open(fixture.path()).unwrap();
        writer.execute_batch("BEGIN IMMEDIATE").unwrap();
        thread::scope(|threads| {
            let write = threads.spawn(|| add(&store, "other"));
            thread::sleep(Duration::from_millis(100));
            let began = Instant::now();
            for _ in 0..10 {
                assert_eq!(left(&store, &owner), 9950);
            }
            let took = began.elapsed();
            assert!(took < Duration::from_secs(3), "{took:?}");
            assert!(!write.is_finished(), "the thread that writes waits");
            writer.execute_batch("ROLLBACK").unwrap();
            write.join().unwrap();
        });
    }

    #[test]
    fn a_balance_is_exact_while_credits_are_drawn_spent_and_given_back() {
        let fixture = Fixture::new();
        let (owner, key) = rich(&fixture.open_slow(), 100_000);
        let store = fixture.open_slow();
        type_inside(&store, "PRAGMA synchronous = OFF");
        // Including credits in use, so that requests draw again and again.
        let take_all = |worker: &mut crate::worker::Worker| {
            worker.queue.take_all();
            Ok(())
        };
        block_on(store.ask(take_all)).unwrap();
        balance_is_exact(&store, &owner, &key);
    }

    #[test]
    fn one_transaction_draws_for_a_bounded_number_of_owners() {
        const OWNERS: usize = DRAWN_AT_ONCE + 20;
        let fixture = Fixture::new();
        let store = fixture.open_slow();
        let names: Vec<_> = (0..OWNERS).map(|i| format!("owner{i}")).collect();
        let keys: Vec<_> = names.iter().map(|name| crate::fixture::key(name)).collect();
        let accounts = names.iter().map(|name| AccountId::parse(name).unwrap());
        let accounts = accounts.map(keyward::record::Account::new).collect();
        let records = keys.iter().map(|(_, record)| record.clone()).collect();
        crate::fixture::commit(&store, accounts, records).unwrap();
        let typed = "UPDATE keyward_account SET credits = 1; \
                     INSERT INTO keyward_credit (owner, epoch, remaining) \
                     SELECT 'account:' || id, 1, 9 FROM keyward_account";
        fixture.type_in(typed).unwrap();
        block_on(store.ask(crate::worker::Worker::poll)).unwrap();
        let drawn = |connection: &Connection| {
            let sql = "SELECT count(*) FROM keyward_credit WHERE remaining < 9";
            let drawn = connection.query_row(sql, [], |row| row.get::<_, isize>(0));
            drawn.unwrap().cast_unsigned()
        };
        let gate = Gate::builder_from_replica(store.replica(), &scheme());
        let gate = gate.build().unwrap();
        let context = &mut Context::from_waker(Waker::noop());
        let (go, wait) = mpsc::channel::<()>();
        let (started, has_started) = mpsc::channel();
        let (tell, first) = mpsc::channel();
        let mut held = store.ask(move |worker| {
            started.send(()).unwrap();
            assert!(wait.recv().is_err());
            // Behind the first draw, for which all wait.
            worker.later(move |worker| {
                let drawn = worker.read(|connection| Ok(drawn(connection)));
                tell.send(drawn.unwrap()).unwrap();
            });
            Ok(())
        });
        assert!(held.as_mut().poll(context).is_pending());
        has_started.recv().unwrap();
        let mut asked: Vec<_> = keys.iter().map(|(key, _)| waiting(&gate, key)).collect();
        for one in &mut asked {
            assert!(one.as_mut().poll(context).is_pending());
        }
        drop(go);
        block_on(held).unwrap();
        assert_eq!(first.recv().unwrap(), DRAWN_AT_ONCE);
        for one in asked {
            assert!(matches!(block_on(one), Verdict::Admit(_)));
        }
        assert_eq!(drawn(&Connection::open(fixture.path()).unwrap()), OWNERS);
    }

    #[test]
    fn what_is_not_needed_any_more_goes_back_soon() {
        let fixture = Fixture::new();
        let (owner, key) = rich(&fixture.open_slow(), 10_000);
        let store = fixture.open_slow();
        let mut spent = 0;
        while store.replica().held_of(&owner).is_none() {
            assert_eq!(ask(&store, &key), Ok(()));
            spent += 1;
        }
        // It is never asked to flush, and its own timer is at ten seconds.
        let began = Instant::now();
        eventually(|| store.replica().held_of(&owner).is_none());
        assert!(
            began.elapsed() < Duration::from_secs(9),
            "{:?}",
            began.elapsed()
        );
        assert_eq!(left(&store, &owner), 10_000 - spent);
    }

    #[test]
    fn what_a_dead_process_held_is_shown_for_seconds_and_never_spent_again() {
        let fixture = Fixture::new();
        let (owner, key) = rich(&fixture.open_slow(), 10);
        let report = |ago: i64| {
            let now = row::millis(SystemTime::now()) - ago;
            let typed = format!(
                "INSERT OR REPLACE INTO keyward_credit_held VALUES ('{owner}', 7, 1, 5, {now})"
            );
            fixture.type_in(&typed).unwrap();
        };
        let store = fixture.open_slow();
        report(0);
        assert_eq!(left(&store, &owner), 15);
        report(10_000);
        assert_eq!(left(&store, &owner), 10);
        // A report of another balance does not count.
        report(0);
        fixture
            .type_in("UPDATE keyward_credit_held SET epoch = 2")
            .unwrap();
        assert_eq!(left(&store, &owner), 10);
        report(10_000);
        assert_eq!(spend_all(&store, &key), 10);
        let file = Connection::open(fixture.path()).unwrap();
        let reports = "SELECT count(*) FROM keyward_credit_held";
        let reports = file.query_row(reports, [], |row| row.get::<_, i64>(0));
        assert_eq!(reports.unwrap(), 0, "it is cleared away");
    }

    #[test]
    fn a_balance_in_a_file_of_the_first_version_is_shown_and_spent() {
        let fixture = Fixture::new();
        for (_, sql) in &crate::MIGRATIONS[..2] {
            fixture.type_in(sql).unwrap();
        }
        let balance = "INSERT INTO keyward_credit VALUES ('account:acme', 1, 12, NULL, NULL)";
        fixture.type_in(balance).unwrap();
        let store = fixture.open();
        let (secret, record) = add(&store, "acme");
        let owner = CreditOwner::from(record.account);
        fixture
            .type_in("UPDATE keyward_account SET credits = 1")
            .unwrap();
        eventually(|| ask(&store, &secret) == Ok(()) && left(&store, &owner) < 12);
        fixture
            .type_in("UPDATE keyward_credit SET remaining = 12")
            .unwrap();
        assert_eq!(left(&store, &owner), 12);
        assert_eq!(spend_all(&store, &secret), 12);
    }

    #[test]
    fn a_disk_that_takes_no_writes_refuses_and_costs_nothing() {
        let fixture = Fixture::new();
        let (owner, key) = rich(&fixture.open_slow(), 50);
        let store = fixture.open_slow();
        for (full, free) in [
            ("PRAGMA query_only = ON", "PRAGMA query_only = OFF"),
            (
                "CREATE TEMP TRIGGER full BEFORE INSERT ON main.keyward_credit \
                 BEGIN SELECT RAISE(ABORT, 'disk full'); END",
                "DROP TRIGGER full",
            ),
        ] {
            type_inside(&store, full);
            assert_eq!(ask(&store, &key), Err(DenialKind::LimitUnavailable));
            type_inside(&store, free);
            assert_eq!(left(&store, &owner), 50);
        }
        assert_eq!(spend_all(&store, &key), 50);
    }

    #[test]
    fn requests_that_wait_for_credits_when_the_thread_ends_are_refused() {
        let fixture = Fixture::new();
        let (_, key) = rich(&fixture.open_slow(), 50);
        let store = fixture.open_slow();
        let (go, wait) = mpsc::channel::<()>();
        let (started, has_started) = mpsc::channel();
        thread::scope(|threads| {
            let held = threads.spawn(|| {
                let held = store.ask::<()>(move |_| {
                    started.send(()).unwrap();
                    assert!(wait.recv().is_err());
                    panic!("as the test wants")
                });
                block_on(held).unwrap_err()
            });
            has_started.recv().unwrap();
            let waiting: Vec<_> = (0..4)
                .map(|_| threads.spawn(|| ask(&store, &key)))
                .collect();
            thread::sleep(Duration::from_millis(50));
            drop(go);
            for answer in waiting {
                assert_eq!(answer.join().unwrap(), Err(DenialKind::LimitUnavailable));
            }
            held.join().unwrap();
        });
        assert_eq!(ask(&store, &key), Err(DenialKind::LimitUnavailable));
    }

    #[test]
    fn a_balance_that_is_not_valid_holds_up_no_other() {
        let fixture = Fixture::new();
        let store = fixture.open_slow();
        let mut file = Connection::open(fixture.path()).unwrap();
        let want = |account| {
            let owner = CreditOwner::from(AccountId::parse(account).unwrap());
            CreditWant {
                owner,
                all_or_none: vec![1],
                up_to: 0,
                spent: 100,
                held: 0,
                epoch: 0,
            }
        };
        let wants = ["broken", "whole"].map(want);
        file.execute_batch(
            "PRAGMA ignore_check_constraints = ON; \
             INSERT INTO keyward_credit (owner, epoch, remaining) VALUES \
             ('account:broken', 1, -5), ('account:whole', 1, 800)",
        )
        .unwrap();
        let (ledger, other) = (CreditLedger::new(7), Replica::new());
        let (grants, _) = draw(&mut file, &wants, &ledger, &other).unwrap();
        assert_eq!(grants.len(), 1);
        assert_eq!((&grants[0].owner, grants[0].amount), (&wants[1].owner, 9));
        assert_eq!(
            left(&store, &wants[1].owner),
            799,
            "with what the other holds"
        );
    }

    #[test]
    fn a_balance_that_is_typed_away_refuses_until_it_is_back() {
        let fixture = Fixture::new();
        let (owner, key) = rich(&fixture.open_slow(), 50);
        let store = fixture.open();
        fixture.type_in("DELETE FROM keyward_credit").unwrap();
        assert_eq!(ask(&store, &key), Err(DenialKind::LimitUnavailable));
        let back = "INSERT INTO keyward_credit (owner, epoch, remaining)";
        let back = format!("{back} VALUES ('{owner}', 1, 2)");
        fixture.type_in(&back).unwrap();
        assert_eq!(spend_all(&store, &key), 2);
    }
}
