//! Writes commits.

use keyward::store::{Commit, CreateToken, StoreError, StoreErrorKind};
use rusqlite::{Connection, OptionalExtension};

use crate::error::failed;
use crate::{audit, credit, list, row};

/// Writes a commit in an exclusive transaction, which the caller rolls back on failure.
pub(crate) fn write(transaction: &Connection, commit: &Commit) -> Result<(), StoreError> {
    if commit.first && has_accounts(transaction).map_err(failed)?
        || !is_unchanged(transaction, commit).map_err(failed)?
    {
        return Err(StoreError::new(StoreErrorKind::Conflict));
    }
    put(transaction, commit).map_err(failed)?;
    if let Some(change) = &commit.credits {
        credit::change(transaction, change)?;
    }
    if let Some(bound) = &commit.active_keys {
        let active = list::count_active(transaction, bound).map_err(failed)?;
        if active > bound.at_most.into() {
            return Err(StoreError::new(StoreErrorKind::TooManyKeys));
        }
    }
    Ok(())
}

fn has_accounts(connection: &Connection) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("SELECT 1 FROM keyward_account")?
        .exists([])
}

/// Returns whether everything that the commit relies on is unchanged.
fn is_unchanged(connection: &Connection, commit: &Commit) -> rusqlite::Result<bool> {
    let is = |table: &str, id: &str, wanted: u64| {
        let stored = connection
            .prepare_cached(&format!("SELECT revision FROM {table} WHERE id = ?1"))?
            .query_row([id], |row| row.get::<_, i64>(0))
            .optional()?;
        Ok::<_, rusqlite::Error>(stored.unwrap_or(0).cast_unsigned() == wanted)
    };
    for (id, revision) in &commit.unchanged_accounts {
        if !is("keyward_account", id.as_str(), *revision)? {
            return Ok(false);
        }
    }
    for (id, revision) in &commit.unchanged_keys {
        if !is("keyward_key", &id.to_string(), *revision)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn put(connection: &Connection, commit: &Commit) -> rusqlite::Result<()> {
    let Commit {
        accounts,
        keys,
        unchanged_accounts: _,
        unchanged_keys: _,
        first: _,
        active_keys: _,
        credits: _,
        token,
        audit,
    } = commit;
    for account in accounts {
        row::put_account(connection, account)?;
    }
    for key in keys {
        row::put_key(connection, key)?;
    }
    if let Some(CreateToken {
        account,
        token,
        key,
    }) = token
    {
        connection
            .prepare_cached("INSERT INTO keyward_token (account, token, key) VALUES (?1, ?2, ?3)")?
            .execute([account.as_str(), token, &key.to_string()])?;
    }
    for entry in audit {
        audit::put(connection, entry)?;
    }
    Ok(())
}
