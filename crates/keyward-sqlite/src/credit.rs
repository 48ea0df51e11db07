//! Balances of credits.

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

/// Takes out what a process wants; an owner without a balance gets nothing.
pub(crate) fn draw(
    connection: &mut Connection,
    wants: &[CreditWant],
    now: SystemTime,
) -> rusqlite::Result<Vec<CreditGrant>> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut grants = Vec::new();
    for want in wants {
        if let Some(mut credits) = stored(&transaction, &want.owner)? {
            grants.push(credits.draw(want, now));
            put(&transaction, &want.owner, &credits)?;
        }
    }
    transaction.commit()?;
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
