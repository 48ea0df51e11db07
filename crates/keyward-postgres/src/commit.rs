//! Writes commits.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::try_join_all;
use keyward::address::AddressPolicy;
use keyward::record::{Account, DisabledBy, KeyRecord};
use keyward::store::{Commit, CreateToken, StoreError, StoreErrorKind};
use keyward::{AccountId, KeyId, OriginPolicy};
use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

use crate::error::{Error, conflict};
use crate::row::{Timestamp, escaped, rounded_up, spaced};
use crate::{audit, credit, list};

/// The number of statements that are sent without waiting for the answer to the first.
const AT_ONCE: usize = 256;

/// Writes a commit in a transaction, which the caller rolls back on failure.
///
/// The lines of the audit log come last, because they take a lock that all commits need.
pub(crate) async fn write(client: &Client, commit: &Commit) -> Result<(), Error> {
    write_rows(client, commit).await?;
    write_lines(client, commit).await
}

/// Writes the lines of the audit log.
pub(crate) async fn write_lines(client: &Client, commit: &Commit) -> Result<(), Error> {
    for entry in &commit.audit {
        audit::put(client, entry).await?;
    }
    Ok(())
}

/// Writes all but the lines of the audit log.
///
/// Rows are locked in the order of their ids, so that few commits deadlock: the accounts that change,
/// other accounts, the keys.
pub(crate) async fn write_rows(client: &Client, commit: &Commit) -> Result<(), Error> {
    let Commit {
        accounts,
        keys,
        unchanged_accounts,
        unchanged_keys,
        first,
        active_keys,
        credits,
        token,
        audit: _,
    } = commit;
    if *first {
        // Waits for accounts that are being created, and keeps others from being created.
        let lock = "LOCK TABLE keyward.account IN SHARE ROW EXCLUSIVE MODE";
        client.batch_execute(lock).await?;
        let any = "SELECT FROM keyward.account LIMIT 1";
        if client.query_typed_opt(any, &[]).await?.is_some() {
            return Err(conflict());
        }
    }
    lock_accounts(client, commit).await?;
    check_unchanged(client, "account", AccountId::to_string, unchanged_accounts).await?;
    put_accounts(client, accounts).await?;
    check_unchanged(client, "key", KeyId::to_string, unchanged_keys).await?;
    put_keys(client, keys).await?;
    if let Some(token) = token {
        put_token(client, token).await?;
    }
    if let Some(change) = credits {
        credit::change(client, change).await?;
    }
    if let Some(bound) = active_keys {
        let active = list::count_active(client, bound).await?;
        if active > bound.at_most.into() {
            return Err(StoreError::new(StoreErrorKind::TooManyKeys).into());
        }
    }
    Ok(())
}

/// Locks the accounts that change, and the one whose active keys are counted.
async fn lock_accounts(client: &Client, commit: &Commit) -> Result<(), Error> {
    let changed = commit.accounts.iter().filter(|row| row.revision > 0);
    let changed = changed.map(|account| &account.id);
    let counted = commit.active_keys.iter().map(|bound| &bound.account);
    let ids: BTreeSet<_> = changed.chain(counted).map(AccountId::as_str).collect();
    if !ids.is_empty() {
        let ids: Vec<_> = ids.into_iter().collect();
        let lock = "SELECT FROM keyward.account WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE";
        client
            .query_typed(lock, &[(&ids, Type::TEXT_ARRAY)])
            .await?;
    }
    Ok(())
}

/// Fails unless the rows still have these revisions, and keeps them from changing.
async fn check_unchanged<I>(
    client: &Client,
    table: &str,
    text: impl Fn(&I) -> String,
    rows: &[(I, u64)],
) -> Result<(), Error> {
    if rows.is_empty() {
        return Ok(());
    }
    let mut wanted = BTreeMap::new();
    for (id, revision) in rows {
        if *wanted.entry(text(id)).or_insert(*revision) != *revision {
            return Err(conflict());
        }
    }
    let ids: Vec<_> = wanted.keys().map(String::as_str).collect();
    let lock = format!(
        "SELECT id, revision FROM keyward.{table} WHERE id = ANY($1) ORDER BY id FOR SHARE"
    );
    for row in client
        .query_typed(&lock, &[(&ids, Type::TEXT_ARRAY)])
        .await?
    {
        let (id, revision): (&str, i64) = (row.try_get(0)?, row.try_get(1)?);
        if wanted.get(id).copied() == Some(revision.cast_unsigned()) {
            wanted.remove(id);
        }
    }
    // What is left has another revision, or should not be stored and is not.
    match wanted.values().all(|revision| *revision == 0) {
        true if wanted.is_empty() => Ok(()),
        true => check_absent(client, table, &wanted).await,
        false => Err(conflict()),
    }
}

async fn check_absent(
    client: &Client,
    table: &str,
    wanted: &BTreeMap<String, u64>,
) -> Result<(), Error> {
    let ids: Vec<_> = wanted.keys().map(String::as_str).collect();
    let any = format!("SELECT FROM keyward.{table} WHERE id = ANY($1) LIMIT 1");
    let ids: &[(&(dyn ToSql + Sync), Type)] = &[(&ids, Type::TEXT_ARRAY)];
    match client.query_typed_opt(&any, ids).await? {
        Some(_) => Err(conflict()),
        None => Ok(()),
    }
}

/// Writes accounts over those of their revisions; fails if one is not there.
async fn put_accounts(client: &Client, accounts: &[Account]) -> Result<(), Error> {
    let mut accounts: Vec<_> = accounts.iter().collect();
    accounts.sort_unstable_by(|one, other| one.id.as_str().cmp(other.id.as_str()));
    for some in accounts.chunks(AT_ONCE) {
        try_join_all(some.iter().map(|account| put_account(client, account))).await?;
    }
    // Their revocations. No row is deleted, and no counter reduced.
    for account in accounts {
        put_epochs(client, account).await?;
    }
    Ok(())
}

async fn put_epochs(client: &Client, account: &Account) -> Result<(), Error> {
    for (environment, revoked) in &account.revoked {
        let put = "INSERT INTO keyward.epoch AS old VALUES ($1, $2, $3) \
             ON CONFLICT (account, environment) DO UPDATE SET revoked = excluded.revoked \
             WHERE old.revoked <> excluded.revoked";
        client
            .execute_typed(
                put,
                &[
                    (&account.id.as_str(), Type::TEXT),
                    (&environment.as_str(), Type::TEXT),
                    (&i64::from(*revoked), Type::INT8),
                ],
            )
            .await?;
    }
    Ok(())
}

async fn put_account(client: &Client, account: &Account) -> Result<(), Error> {
    let sql = if account.revision == 0 {
        "INSERT INTO keyward.account (id, status, api_access, max_active_keys, revoked_all, \
         rate_limits, shared_rate_limits, credits) \
         SELECT $1, $3, $4, $5, $6, $7, $8, $9 WHERE $2 = 0"
    } else {
        "UPDATE keyward.account SET status = $3, api_access = $4, max_active_keys = $5, \
         revoked_all = $6, rate_limits = $7, shared_rate_limits = $8, credits = $9 \
         WHERE id = $1 AND revision = $2"
    };
    let written = client
        .execute_typed(
            sql,
            &[
                (&account.id.as_str(), Type::TEXT),
                (&account.revision.cast_signed(), Type::INT8),
                (&account.status.as_str(), Type::TEXT),
                (&account.api_access, Type::BOOL),
                (&account.max_active_keys.map(i64::from), Type::INT8),
                (&i64::from(account.revoked_all), Type::INT8),
                (&account.rate_limits.to_string(), Type::TEXT),
                (&account.shared_rate_limits.to_string(), Type::TEXT),
                (&account.credits.map(i64::from), Type::INT8),
            ],
        )
        .await?;
    one(written)
}

/// Writes keys over those of their revisions; fails if one is not there.
async fn put_keys(client: &Client, keys: &[KeyRecord]) -> Result<(), Error> {
    let mut keys: Vec<_> = keys.iter().map(|key| (key.id.to_string(), key)).collect();
    keys.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    for some in keys.chunks(AT_ONCE) {
        try_join_all(some.iter().map(|(id, key)| put_key(client, id, key))).await?;
    }
    Ok(())
}

async fn put_key(client: &Client, id: &str, key: &KeyRecord) -> Result<(), Error> {
    let sql = if key.revision == 0 {
        "INSERT INTO keyward.key (id, digest_scheme, digest, hint, name, account, environment, \
         kind, scopes, origins, no_origin, rate_limits, metadata, epoch, status, created_at, \
         expires_at, revoked_at, revoked_for, predecessor, successor, redigested, lineage, credits, \
         disabled_by, created_by, disabled_by_name, not_before, addresses) \
         SELECT $1, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, \
         $20, $21, $22, $23, $24, $25, $26, $27, $28, $29, $30 \
         WHERE $2 = 0"
    } else {
        "UPDATE keyward.key SET digest_scheme = $3, digest = $4, hint = $5, name = $6, \
         account = $7, environment = $8, kind = $9, scopes = $10, origins = $11, no_origin = $12, \
         rate_limits = $13, metadata = $14, epoch = $15, status = $16, created_at = $17, \
         expires_at = $18, revoked_at = $19, revoked_for = $20, predecessor = $21, \
         successor = $22, redigested = $23, lineage = $24, credits = $25, disabled_by = $26, \
         created_by = $27, disabled_by_name = $28, not_before = $29, addresses = $30 \
         WHERE id = $1 AND revision = $2"
    };
    let listed = key.origins != OriginPolicy::Any;
    // Not if any origin is allowed: a list typed in later must apply to every request.
    let no_origin = listed && key.origins.allows_no_origin();
    let addresses = &key.addresses;
    let addresses = (*addresses != AddressPolicy::Any)
        .then(|| addresses.ranges().collect::<Vec<_>>().join(" "));
    let written = client
        .execute_typed(
            sql,
            &[
                (&id, Type::TEXT),
                (&key.revision.cast_signed(), Type::INT8),
                (&key.digest.scheme().to_string(), Type::TEXT),
                (&key.digest.expose_bytes().as_slice(), Type::BYTEA),
                (&key.hint.to_string(), Type::TEXT),
                (&escaped(&key.name), Type::TEXT),
                (&key.account.as_str(), Type::TEXT),
                (&key.environment.as_str(), Type::TEXT),
                (&key.kind.as_str(), Type::TEXT),
                (&spaced(key.scopes.iter()), Type::TEXT),
                (&listed.then(|| spaced(key.origins.patterns())), Type::TEXT),
                (&no_origin, Type::BOOL),
                (&key.rate_limits.to_string(), Type::TEXT),
                (&key.metadata.as_str(), Type::TEXT),
                (&i64::from(key.epoch), Type::INT8),
                (&key.status.as_str(), Type::TEXT),
                (&Timestamp(key.created_at), Type::TIMESTAMPTZ),
                (&key.expires_at.map(Timestamp), Type::TIMESTAMPTZ),
                (&key.revoked_at.map(Timestamp), Type::TIMESTAMPTZ),
                (&escaped(&key.revoked_for), Type::TEXT),
                (&key.predecessor.map(|id| id.to_string()), Type::TEXT),
                (&key.successor.map(|id| id.to_string()), Type::TEXT),
                (&i64::from(key.redigested), Type::INT8),
                (&key.lineage.to_string(), Type::TEXT),
                (&key.credits.map(i64::from), Type::INT8),
                (&key.disabled_by.map(DisabledBy::as_str), Type::TEXT),
                (&key.created_by.as_deref().map(escaped), Type::TEXT),
                (&key.disabled_by_name.as_deref().map(escaped), Type::TEXT),
                (&key.not_before.map(rounded_up), Type::TIMESTAMPTZ),
                (&addresses, Type::TEXT),
            ],
        )
        .await?;
    one(written)
}

async fn put_token(client: &Client, token: &CreateToken) -> Result<(), Error> {
    let put = "INSERT INTO keyward.token (account, token, key) VALUES ($1, $2, $3)";
    client
        .execute_typed(
            put,
            &[
                (&token.account.as_str(), Type::TEXT),
                (&escaped(&token.token), Type::TEXT),
                (&token.key.to_string(), Type::TEXT),
            ],
        )
        .await?;
    Ok(())
}

/// Fails unless exactly one row was written.
pub(crate) fn one(written: u64) -> Result<(), Error> {
    if written == 1 {
        Ok(())
    } else {
        Err(conflict())
    }
}
