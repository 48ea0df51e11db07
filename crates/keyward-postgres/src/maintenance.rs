//! Maintenance in short steps: prunes keys, merges usage, cuts the audit log, erases accounts.

use std::time::SystemTime;

use keyward::key::Hint;
use keyward::record::{AuditEntry, DeathCause, Tombstone};
use keyward::store::{AuditCut, Maintained, Maintenance, TombstoneQuery};
use keyward::{AccountId, Environment, KeyId};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use crate::error::{Error, RowError};
use crate::found::Found;
use crate::row::{Cells, Timestamp, escaped};
use crate::{audit, usage};

/// The number of keys or lines in one step.
const STEP: i64 = 256;

/// Does a step inside a transaction.
pub(crate) async fn step(
    client: &Client,
    task: &Maintenance,
    line: Option<AuditEntry>,
) -> Result<Maintained, Error> {
    let maintained = match task {
        Maintenance::PruneKeys { died_before, now } => {
            let (done, is_any) = prune(client, *died_before, *now).await?;
            Maintained {
                done,
                next: is_any.then(|| task.clone()),
            }
        }
        Maintenance::RollUpUsage { roll_up, after } => {
            let (done, last) = usage::merge_some(client, *roll_up, *after).await?;
            let roll_up = *roll_up;
            let next = last.map(|last| Maintenance::RollUpUsage {
                roll_up,
                after: Some(last),
            });
            Maintained { done, next }
        }
        Maintenance::CutAudit(cut) => cut_audit(client, cut).await?,
        Maintenance::EraseAccount {
            account,
            pseudonym,
            now,
        } => {
            let pseudonym = begin_erasing(client, account, pseudonym, *now).await?;
            let done = erase_some(client, account, &pseudonym, *now).await?;
            let next = done.map(|_| Maintenance::EraseAccount {
                account: account.clone(),
                pseudonym,
                now: *now,
            });
            Maintained {
                done: done.unwrap_or(1),
                next,
            }
        }
    };
    if let Some(line) = task.line(maintained.done, line) {
        audit::put(client, &line).await?;
    }
    Ok(maintained)
}

/// Deletes some dead keys, or notes when some keys were revoked with all of their account.
///
/// Returns the number of deleted keys, and whether there were any of either. Keys that another process
/// is writing are left for a later step.
async fn prune(
    client: &Client,
    died_before: SystemTime,
    now: SystemTime,
) -> Result<(u64, bool), Error> {
    for dead in [
        "SELECT id FROM keyward.key WHERE status = 'revoked' AND revoked_at <= $1 \
         LIMIT $2 FOR UPDATE SKIP LOCKED",
        "SELECT id FROM keyward.key WHERE expires_at <= $1 LIMIT $2 FOR UPDATE SKIP LOCKED",
    ] {
        let before = Timestamp(died_before);
        let rows = client
            .query_typed(dead, &[(&before, Type::TIMESTAMPTZ), (&STEP, Type::INT8)])
            .await?;
        if !rows.is_empty() {
            bury(client, &ids(&rows)?, now).await?;
            return Ok((rows.len() as u64, true));
        }
    }
    let with_all = "UPDATE keyward.key SET status = 'revoked', revoked_at = $1 WHERE id IN \
         (SELECT id FROM keyward.key_revoked WHERE revoked_at IS NULL AND account IN \
             (SELECT id FROM keyward.account WHERE revoked_all > 0 \
             UNION SELECT account FROM keyward.epoch) ORDER BY id LIMIT $2)";
    let noted = client
        .execute_typed(
            with_all,
            &[(&Timestamp(now), Type::TIMESTAMPTZ), (&STEP, Type::INT8)],
        )
        .await?;
    Ok((0, noted > 0))
}

fn ids(rows: &[Row]) -> Result<Vec<String>, Error> {
    let ids = rows.iter().map(|row| Ok(row.try_get(0)?));
    ids.collect()
}

/// Replaces dead keys with their tombstones.
async fn bury(client: &Client, ids: &[String], now: SystemTime) -> Result<(), Error> {
    let bury = "INSERT INTO keyward.tombstone (key, hint, account, environment, lineage, cause, \
         revoked_for, died_at, last_used_at, pruned_at) \
         SELECT key.id, key.hint, key.account, key.environment, key.lineage, \
         CASE key.status WHEN 'revoked' THEN 'revoked' ELSE 'expired' END, key.revoked_for, \
         coalesce(CASE key.status WHEN 'revoked' THEN key.revoked_at ELSE key.expires_at END, $2), \
         used.last_used_at, $2 \
         FROM keyward.key AS key LEFT JOIN keyward.usage_key AS used ON used.key = key.id \
         WHERE key.id = ANY ($1)";
    client
        .execute_typed(
            bury,
            &[
                (&ids, Type::TEXT_ARRAY),
                (&Timestamp(now), Type::TIMESTAMPTZ),
            ],
        )
        .await?;
    for sql in [
        "INSERT INTO keyward.revoked_digest SELECT digest FROM keyward.key WHERE id = ANY ($1) \
         ON CONFLICT DO NOTHING",
        // The balance of a chain goes with its last key.
        "DELETE FROM keyward.credit AS credit WHERE credit.owner IN \
         (SELECT lineage FROM keyward.key WHERE id = ANY ($1) AND credits IS NOT NULL) \
         AND NOT EXISTS (SELECT FROM keyward.key AS other WHERE other.lineage = credit.owner \
             AND other.credits IS NOT NULL AND other.id <> ALL ($1))",
        "DELETE FROM keyward.usage_key WHERE key = ANY ($1)",
        "DELETE FROM keyward.key WHERE id = ANY ($1)",
    ] {
        client
            .execute_typed(sql, &[(&ids, Type::TEXT_ARRAY)])
            .await?;
    }
    Ok(())
}

/// Records the cut, and deletes some of the lines.
async fn cut_audit(client: &Client, cut: &AuditCut) -> Result<Maintained, Error> {
    let through = cut.through.cast_signed();
    let note = "INSERT INTO keyward.audit_cut (through, lines, sha256, at) VALUES ($1, $2, $3, $4) \
         ON CONFLICT DO NOTHING";
    client
        .execute_typed(
            note,
            &[
                (&through, Type::INT8),
                (&cut.lines.cast_signed(), Type::INT8),
                (&cut.sha256.as_slice(), Type::BYTEA),
                (&Timestamp(cut.at), Type::TIMESTAMPTZ),
            ],
        )
        .await?;
    let delete = "DELETE FROM keyward.audit WHERE number IN \
         (SELECT number FROM keyward.audit WHERE number <= $1 ORDER BY number LIMIT $2)";
    let deleted = client
        .execute_typed(delete, &[(&through, Type::INT8), (&STEP, Type::INT8)])
        .await?;
    Ok(Maintained {
        done: deleted,
        next: (deleted == STEP.cast_unsigned()).then_some(Maintenance::CutAudit(*cut)),
    })
}

/// Returns the pseudonym under which an account is being erased, or notes this one.
async fn begin_erasing(
    client: &Client,
    account: &AccountId,
    pseudonym: &AccountId,
    now: SystemTime,
) -> Result<AccountId, Error> {
    let stored = "SELECT pseudonym FROM keyward.erasing WHERE account = $1 FOR UPDATE";
    let stored = client
        .query_typed_opt(stored, &[(&account.as_str(), Type::TEXT)])
        .await?;
    if let Some(row) = stored {
        return Ok(Cells::of(&row).parse(AccountId::parse)?);
    }
    let note = "INSERT INTO keyward.erasing VALUES ($1, $2)";
    client
        .execute_typed(
            note,
            &[
                (&account.as_str(), Type::TEXT),
                (&pseudonym.as_str(), Type::TEXT),
            ],
        )
        .await?;
    let note = "INSERT INTO keyward.erased VALUES ($1, $2)";
    client
        .execute_typed(
            note,
            &[
                (&pseudonym.as_str(), Type::TEXT),
                (&Timestamp(now), Type::TIMESTAMPTZ),
            ],
        )
        .await?;
    Ok(pseudonym.clone())
}

/// Erases a part of an account; `None` once nothing is left.
async fn erase_some(
    client: &Client,
    account: &AccountId,
    pseudonym: &AccountId,
    now: SystemTime,
) -> Result<Option<u64>, Error> {
    let (account, pseudonym) = (account.as_str(), pseudonym.as_str());
    let keys = "SELECT id FROM keyward.key WHERE account = $1 ORDER BY id LIMIT $2 FOR UPDATE";
    let keys = client
        .query_typed(keys, &[(&account, Type::TEXT), (&STEP, Type::INT8)])
        .await?;
    if !keys.is_empty() {
        let ids = ids(&keys)?;
        // The processes have not seen that they are dead: they find the rows gone, and read everything.
        let revoke = "UPDATE keyward.key SET status = 'revoked', \
             revoked_at = coalesce(revoked_at, $2) WHERE id = ANY ($1) AND status <> 'revoked'";
        client
            .execute_typed(
                revoke,
                &[
                    (&ids, Type::TEXT_ARRAY),
                    (&Timestamp(now), Type::TIMESTAMPTZ),
                ],
            )
            .await?;
        bury(client, &ids, now).await?;
        return Ok(Some(keys.len() as u64));
    }
    for sql in [
        "UPDATE keyward.tombstone SET account = $2, revoked_for = '' WHERE key IN \
         (SELECT key FROM keyward.tombstone WHERE account = $1 LIMIT $3)",
        "DELETE FROM keyward.message WHERE account = $1 AND $2 <> '' AND (environment, id) IN \
         (SELECT environment, id FROM keyward.message WHERE account = $1 LIMIT $3)",
        "DELETE FROM keyward.endpoint WHERE account = $1 AND $2 <> '' AND number IN \
         (SELECT number FROM keyward.endpoint WHERE account = $1 LIMIT $3)",
        "DELETE FROM keyward.token WHERE account = $1 AND $2 <> '' AND token IN \
         (SELECT token FROM keyward.token WHERE account = $1 LIMIT $3)",
        "UPDATE keyward.audit SET account = $2, detail = '', reason = '', \
         actor = CASE WHEN actor LIKE 'user:%' THEN 'user:' || $2 ELSE actor END \
         WHERE number IN (SELECT number FROM keyward.audit WHERE account = $1 LIMIT $3)",
    ] {
        let done = client
            .execute_typed(
                sql,
                &[
                    (&account, Type::TEXT),
                    (&pseudonym, Type::TEXT),
                    (&STEP, Type::INT8),
                ],
            )
            .await?;
        if done > 0 {
            return Ok(Some(done));
        }
    }
    for sql in [
        "DELETE FROM keyward.credit WHERE owner = 'account:' || $1",
        "DELETE FROM keyward.credit_held WHERE owner = 'account:' || $1",
        "DELETE FROM keyward.epoch WHERE account = $1",
        "DELETE FROM keyward.account WHERE id = $1",
        "DELETE FROM keyward.erasing WHERE account = $1",
    ] {
        client.execute_typed(sql, &[(&account, Type::TEXT)]).await?;
    }
    Ok(None)
}

/// Returns the tombstones that match a query, sorted by id.
pub(crate) async fn tombstones(
    client: &Client,
    query: &TombstoneQuery,
) -> Result<Vec<Tombstone>, Error> {
    let page = "SELECT key, hint, account, environment, lineage, cause, revoked_for, died_at, \
         last_used_at, pruned_at FROM keyward.tombstone \
         WHERE ($1::text IS NULL OR key = $1) AND ($2::text IS NULL OR hint = $2) \
         AND ($3::text IS NULL OR account = $3) AND key > $4 ORDER BY key LIMIT $5";
    let id = query.id.map(|id| id.to_string());
    let hint = query.hint.as_deref().map(escaped);
    let account = query.account.as_ref().map(AccountId::as_str);
    let mut after = query.after.map_or(String::new(), |after| after.to_string());
    let mut found = Found::at_most(query.limit);
    loop {
        let rows = client
            .query_typed(
                page,
                &[
                    (&id, Type::TEXT),
                    (&hint, Type::TEXT),
                    (&account, Type::TEXT),
                    (&after, Type::TEXT),
                    (&found.wanted(), Type::INT8),
                ],
            )
            .await?;
        match found.add(&rows, 0, tombstone) {
            Some(last) => after = last.try_get(0)?,
            None => return Ok(found.into_rows()),
        }
    }
}

fn tombstone(row: &Row) -> Result<Tombstone, RowError> {
    let mut cells = Cells::of(row);
    let id = cells.parse(KeyId::parse)?;
    let hint = cells.parse(Hint::parse)?;
    let account = cells.parse(AccountId::parse)?;
    let environment = cells.parse(Environment::parse)?;
    let lineage = cells.parse(KeyId::parse)?;
    let cause = cells.parse(DeathCause::parse)?;
    let revoked_for = cells.text()?;
    let died_at = cells.time()?;
    let last_used_at = cells.time_if_any()?;
    let mut tombstone = Tombstone::new(id, hint, account, environment, cells.time()?);
    tombstone.lineage = lineage;
    tombstone.cause = cause;
    tombstone.revoked_for = revoked_for;
    tombstone.died_at = died_at;
    tombstone.last_used_at = last_used_at;
    Ok(tombstone)
}
