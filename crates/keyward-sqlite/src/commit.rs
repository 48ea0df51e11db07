//! What a commit writes.

use keyward::Commit;
use rusqlite::{Connection, TransactionBehavior};

use crate::row;

/// Writes all of it or nothing.
pub(crate) fn write(connection: &mut Connection, commit: &Commit) -> rusqlite::Result<()> {
    let Commit { accounts, keys } = commit;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for account in accounts {
        row::put_account(&transaction, account)?;
    }
    for key in keys {
        row::put_key(&transaction, key)?;
    }
    transaction.commit()
}
