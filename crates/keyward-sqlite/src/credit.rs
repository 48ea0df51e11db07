//! Balances of credits.

use std::error::Error;
use std::time::{Duration, SystemTime};

use keyward::credits::{CreditGrant, CreditOwner, CreditWant, Credits, Refill, Unspent};
use keyward::store::{CreditChange, StoreError, StoreErrorKind};
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use crate::error::failed;
use crate::row::{self, Cells};

/// How long what another process holds is shown after it was reported. One that lives reports again
/// before that.
const FRESH: Duration = Duration::from_secs(3);

/// The balance of an owner.
pub(crate) fn stored(
    connection: &Connection,
    owner: &CreditOwner,
) -> rusqlite::Result<Option<Credits>> {
    let balance =
        "SELECT remaining, epoch, refill_at, refill_to FROM keyward_credit WHERE owner = ?1";
    connection
        .prepare_cached(balance)?
        .query_row([owner.to_string()], |row| {
            let mut cells = Cells::of(row);
            let mut credits = Credits::new(cells.number()?);
            credits.epoch = cells.get()?;
            if let Some(at) = cells.time_if_any()? {
                credits.refill = Some(Refill::new(at, cells.number()?));
            }
            Ok(credits)
        })
        .optional()
}

/// The balance of an owner, with what other processes hold of it.
pub(crate) fn shown(
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

/// Notes what a process holds, for others to show. What was not reported for long is of nobody.
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

/// Changes a balance, if it can be changed in this way.
pub(crate) fn change(connection: &Connection, change: &CreditChange) -> Result<(), StoreError> {
    let owner = change.owner();
    let stored = stored(connection, owner).map_err(failed)?;
    let changed = change.apply(stored);
    let credits = changed.ok_or(StoreError::new(StoreErrorKind::Conflict))?;
    put(connection, owner, &credits).map_err(failed)
}

/// Takes out what a process wants; an owner without a balance, or with one that is not valid, gets
/// nothing, and holds up nobody else.
pub(crate) fn draw(
    connection: &mut Connection,
    wants: &[CreditWant],
    node: i64,
    now: SystemTime,
) -> Result<Vec<CreditGrant>, StoreError> {
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(failed)?;
    let mut grants = Vec::new();
    for want in wants {
        let stored = match stored(&transaction, &want.owner).map_err(failed) {
            Err(error) if error.kind() == StoreErrorKind::Corrupt => {
                let error: &(dyn Error + 'static) = &error;
                tracing::error!(owner = %want.owner, error, "a balance is not valid");
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
    transaction.commit().map_err(failed)?;
    Ok(grants)
}

/// Gives back what was not spent, unless the balance was replaced meanwhile.
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
    connection
        .prepare_cached("INSERT OR REPLACE INTO keyward_credit VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![
            owner.to_string(),
            credits.epoch,
            most(credits.left),
            credits.refill.map(|refill| row::millis(refill.at)),
            credits.refill.map(|refill| most(refill.to)),
        ])
        .map(drop)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::Instant;

    use keyward::denial::DenialKind;
    use keyward::testing::block_on;
    use keyward::{AccountId, Actor, ApiKey, KeyAdmin, Store};

    use super::*;
    use crate::SqliteStore;
    use crate::fixture::{Fixture, add, ask, eventually, scheme, type_inside};

    /// A key whose account has so many credits.
    fn rich(fixture: &Fixture, credits: u64) -> (CreditOwner, ApiKey) {
        let store = fixture.open_slow();
        let (secret, record) = add(&store, "acme");
        let admin = KeyAdmin::new(&store, &scheme());
        let (operator, account) = (Actor::operator("test"), record.account.clone());
        let credits = Some(Credits::new(credits));
        block_on(admin.set_credits(&operator, account, credits)).unwrap();
        (record.account.into(), secret)
    }

    fn left(store: &SqliteStore, owner: &CreditOwner) -> u64 {
        block_on(store.credits(owner.clone()))
            .unwrap()
            .unwrap()
            .left
    }

    fn spend_all(store: &SqliteStore, key: &ApiKey) -> u64 {
        let mut spent = 0;
        loop {
            match ask(store, key) {
                Ok(()) => spent += 1,
                Err(DenialKind::CreditsExhausted) => return spent,
                Err(other) => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn processes_that_spend_one_balance_spend_it_once() {
        let fixture = Fixture::new();
        let (owner, key) = rich(&fixture, 3000);
        let spent: u64 = thread::scope(|threads| {
            let process = || {
                let store = fixture.open();
                thread::scope(|requests| {
                    let all: Vec<_> = (0..2)
                        .map(|_| requests.spawn(|| spend_all(&store, &key)))
                        .collect();
                    all.into_iter().map(|one| one.join().unwrap()).sum::<u64>()
                })
            };
            let all: Vec<_> = (0..3).map(|_| threads.spawn(process)).collect();
            all.into_iter().map(|one| one.join().unwrap()).sum()
        });
        // What one held last when another was refused is given back when it ends.
        let store = fixture.open_slow();
        assert_eq!(spent + left(&store, &owner), 3000);
        assert_eq!(spend_all(&store, &key), 3000 - spent);
    }

    #[test]
    fn what_a_process_holds_is_shown_also_by_others_and_given_back_when_it_ends() {
        let fixture = Fixture::new();
        let (owner, key) = rich(&fixture, 10_000);
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
        // The other knows what was reported, whenever that was.
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
        // More than there can be is all there can be.
        assert_eq!(ask(&other, &key), Ok(()));
        let most = format!("UPDATE keyward_credit SET remaining = {}", i64::MAX);
        fixture.type_in(&most).unwrap();
        let all = i64::MAX.cast_unsigned();
        assert!(left(&other, &owner) >= all);
    }

    #[test]
    fn what_is_not_needed_any_more_goes_back_soon() {
        let fixture = Fixture::new();
        let (owner, key) = rich(&fixture, 10_000);
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
        let (owner, key) = rich(&fixture, 10);
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
        // Of another balance, it is of no worth.
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
        let (owner, key) = rich(&fixture, 50);
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
        let (_, key) = rich(&fixture, 50);
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
                at_least: 1,
                spent: 100,
                held: 0,
                epoch: 0,
            }
        };
        let wants = ["broken", "whole"].map(want);
        file.execute_batch(
            "PRAGMA ignore_check_constraints = ON; INSERT INTO keyward_credit VALUES \
             ('account:broken', 1, -5, NULL, NULL), ('account:whole', 1, 800, NULL, NULL)",
        )
        .unwrap();
        let grants = draw(&mut file, &wants, 7, SystemTime::now()).unwrap();
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
        let (owner, key) = rich(&fixture, 50);
        let store = fixture.open();
        fixture.type_in("DELETE FROM keyward_credit").unwrap();
        assert_eq!(ask(&store, &key), Err(DenialKind::LimitUnavailable));
        let back = format!("INSERT INTO keyward_credit VALUES ('{owner}', 1, 2, NULL, NULL)");
        fixture.type_in(&back).unwrap();
        assert_eq!(spend_all(&store, &key), 2);
    }
}
