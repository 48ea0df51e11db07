//! Balances of credits.

use std::error::Error;
use std::time::SystemTime;

use keyward::{
    CreditChange, CreditGrant, CreditOwner, CreditWant, Credits, Refill, StoreError,
    StoreErrorKind, Unspent,
};
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use crate::error::failed;
use crate::row::{self, Cells};

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
            grants.push(credits.draw(want, now));
            put(&transaction, &want.owner, &credits).map_err(failed)?;
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
    use std::sync::{Arc, mpsc};
    use std::thread;

    use keyward::conformance::block_on;
    use keyward::{AccountId, Actor, ApiKey, DenialKind, KeyAdmin, Store};

    use super::*;
    use crate::SqliteStore;
    use crate::fixture::{Fixture, add, ask, format, type_inside};

    /// A key whose account has so many credits.
    fn rich(fixture: &Fixture, credits: u64) -> (CreditOwner, ApiKey) {
        let store = fixture.open_slow();
        let (secret, record) = add(&store, "acme");
        let admin = KeyAdmin::new(Arc::new(store), format());
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
    fn what_a_process_holds_is_given_back_when_it_ends() {
        let fixture = Fixture::new();
        let (owner, key) = rich(&fixture, 800);
        let store = fixture.open_slow();
        assert_eq!(ask(&store, &key), Ok(()));
        assert_eq!(left(&store, &owner), 700);
        // It is in use, and keeps what it holds.
        block_on(store.flush()).unwrap();
        assert_eq!(left(&store, &owner), 700);
        assert_eq!(ask(&store, &key), Ok(()));
        drop(store);
        assert_eq!(left(&fixture.open_slow(), &owner), 798);
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
            thread::sleep(std::time::Duration::from_millis(50));
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
            CreditWant { owner, at_least: 1 }
        };
        let wants = ["broken", "whole"].map(want);
        file.execute_batch(
            "PRAGMA ignore_check_constraints = ON; INSERT INTO keyward_credit VALUES \
             ('account:broken', 1, -5, NULL, NULL), ('account:whole', 1, 800, NULL, NULL)",
        )
        .unwrap();
        let grants = draw(&mut file, &wants, SystemTime::now()).unwrap();
        assert_eq!(grants.len(), 1);
        assert_eq!((&grants[0].owner, grants[0].amount), (&wants[1].owner, 100));
        assert_eq!(left(&store, &wants[1].owner), 700);
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
