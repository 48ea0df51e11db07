//! Maintenance in short steps: prunes keys, merges usage, cuts the audit log, erases accounts.

use std::time::Instant;

use keyward::record::{AuditEntry, DeathCause, Tombstone};
use keyward::store::{AuditCut, Maintained, Maintenance, StoreError, TombstoneQuery};
use keyward::usage::UsageRollUp;
use keyward::{AccountId, Environment, KeyId};
use rusqlite::{Connection, OptionalExtension, Row, named_params, params};

use crate::error::failed;
use crate::group::SLICE;
use crate::row::{self, Cells};
use crate::{audit, usage};

/// The number of keys, lines or messages in one step.
const STEP: usize = 256;

/// The number of keys whose usage is looked at in one step.
const LOOK: usize = 2000;

/// The keys that a step works on, as a reader has found them. The step checks them again.
#[derive(Debug, Default)]
pub(crate) struct Found {
    keys: Vec<String>,
    /// Keys that were revoked with all keys of their account.
    revoked_with_all: Vec<String>,
    /// The last key that was looked at; `None` if it was the last one of all.
    last: Option<String>,
}

impl Found {
    fn is_any(&self) -> bool {
        !self.keys.is_empty() || !self.revoked_with_all.is_empty()
    }
}

/// Looks for the keys of the next step.
pub(crate) fn find(connection: &Connection, task: &Maintenance) -> rusqlite::Result<Found> {
    let mut found = Found::default();
    match task {
        Maintenance::PruneKeys { died_before, .. } => {
            let died_before = row::millis(*died_before);
            found.keys = ids(
                connection,
                "SELECT id FROM keyward_key WHERE status = 'revoked' AND revoked_at <= ?1 LIMIT ?2",
                died_before,
            )?;
            if found.keys.is_empty() {
                found.keys = ids(
                    connection,
                    "SELECT id FROM keyward_key WHERE expires_at <= ?1 LIMIT ?2",
                    died_before,
                )?;
            }
            if found.keys.is_empty() {
                found.revoked_with_all = ids(
                    connection,
                    "SELECT id FROM keyward_key_revoked WHERE revoked_at IS NULL AND account IN \
                     (SELECT id FROM keyward_account WHERE revoked_all > 0 \
                     UNION SELECT account FROM keyward_epoch) AND ?1 IS NOT NULL LIMIT ?2",
                    died_before,
                )?;
            }
        }
        Maintenance::RollUpUsage { roll_up, after } => {
            find_usage(connection, *roll_up, *after, &mut found)?;
        }
        Maintenance::CutAudit(_) | Maintenance::EraseAccount { .. } => {}
    }
    Ok(found)
}

fn ids(connection: &Connection, sql: &str, before: i64) -> rusqlite::Result<Vec<String>> {
    let mut ids = connection.prepare_cached(sql)?;
    let ids = ids.query_map(params![before, STEP.cast_signed()], |row| row.get(0))?;
    ids.collect()
}

/// The usage of a key that is to be merged: into days of 24 hours, or months of at least 672.
const IS_OLD: &str = "key = ?1 AND (hours < 24 AND hour < ?2 OR hours < 672 AND hour < ?3)";

/// Looks for keys with usage that is to be merged, key by key.
fn find_usage(
    connection: &Connection,
    roll_up: UsageRollUp,
    after: Option<KeyId>,
    found: &mut Found,
) -> rusqlite::Result<()> {
    let mut next = connection.prepare_cached(
        "SELECT min(key) FROM (SELECT min(key) AS key FROM keyward_usage WHERE key > ?1 \
         UNION ALL SELECT min(key) FROM keyward_usage_label WHERE key > ?1)",
    )?;
    let mut is_old = connection.prepare_cached(&format!(
        "SELECT EXISTS (SELECT 1 FROM keyward_usage WHERE {IS_OLD}) \
         OR EXISTS (SELECT 1 FROM keyward_usage_label WHERE {IS_OLD})"
    ))?;
    let (days, months) = (hour(roll_up.days_before), hour(roll_up.months_before));
    let mut last = after.map_or(String::new(), |after| after.to_string());
    for _ in 0..LOOK {
        let key: Option<String> = next.query_row([&last], |row| row.get(0))?;
        let Some(key) = key else {
            found.last = None;
            return Ok(());
        };
        if is_old.query_row(params![key, days, months], |row| row.get(0))? {
            found.keys.push(key.clone());
        }
        last = key;
        if found.keys.len() == STEP {
            break;
        }
    }
    found.last = Some(last);
    Ok(())
}

fn hour(hour: u64) -> i64 {
    i64::try_from(hour).unwrap_or(i64::MAX)
}

/// Does a step inside a transaction.
pub(crate) fn step(
    connection: &Connection,
    task: &Maintenance,
    line: Option<&AuditEntry>,
    found: &Found,
) -> Result<Maintained, StoreError> {
    let step = || -> rusqlite::Result<Maintained> {
        let maintained = match task {
            Maintenance::PruneKeys { died_before, now } => {
                let (died_before, now) = (row::millis(*died_before), row::millis(*now));
                prune(connection, found, died_before, now).map(|done| Maintained {
                    done,
                    next: found.is_any().then(|| task.clone()),
                })?
            }
            Maintenance::RollUpUsage { roll_up, .. } => {
                let (done, last) = merge_all(connection, *roll_up, found)?;
                let after = last.and_then(|last| KeyId::parse(&last).ok());
                let roll_up = *roll_up;
                let next = after.map(|_| Maintenance::RollUpUsage { roll_up, after });
                Maintained { done, next }
            }
            Maintenance::CutAudit(cut) => cut_audit(connection, cut)?,
            Maintenance::EraseAccount {
                account,
                pseudonym,
                now,
            } => {
                let now_in_millis = row::millis(*now);
                let pseudonym = begin_erasing(connection, account, pseudonym, now_in_millis)?;
                let done = erase_some(connection, account, &pseudonym, now_in_millis)?;
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
        if let Some(line) = task.line(maintained.done, line.cloned()) {
            audit::put(connection, &line)?;
        }
        Ok(maintained)
    };
    step().map_err(failed)
}

/// Deletes the found keys that are dead, and notes when keys were revoked with all of an account.
fn prune(
    connection: &Connection,
    found: &Found,
    died_before: i64,
    now: i64,
) -> rusqlite::Result<u64> {
    // Revision zero marks it as not typed.
    for id in &found.revoked_with_all {
        connection
            .prepare_cached(
                "UPDATE keyward_key SET revision = 0, status = 'revoked', revoked_at = ?2 \
                 WHERE id = ?1 AND id IN (SELECT id FROM keyward_key_revoked WHERE id = ?1)",
            )?
            .execute(params![id, now])?;
    }
    let mut pruned = 0;
    for id in &found.keys {
        let is_dead = connection
            .prepare_cached(
                "SELECT 1 FROM keyward_key WHERE id = ?1 \
                 AND (status = 'revoked' AND revoked_at <= ?2 OR expires_at <= ?2)",
            )?
            .exists(params![id, died_before])?;
        if is_dead {
            bury(connection, id, now)?;
            pruned += 1;
        }
    }
    Ok(pruned)
}

/// Replaces a dead key with its tombstone.
fn bury(connection: &Connection, id: &str, now: i64) -> rusqlite::Result<()> {
    for sql in [
        "INSERT INTO keyward_tombstone (key, hint, account, environment, lineage, cause, \
         revoked_for, died_at, last_used_at, pruned_at) \
         SELECT id, hint, account, environment, lineage, \
         CASE status WHEN 'revoked' THEN 'revoked' ELSE 'expired' END, revoked_for, \
         coalesce(CASE status WHEN 'revoked' THEN revoked_at ELSE expires_at END, ?2), \
         (SELECT last_used_at FROM keyward_usage_key WHERE key = ?1), ?2 \
         FROM keyward_key WHERE id = ?1",
        "INSERT INTO keyward_revoked_digest SELECT digest FROM keyward_key \
         WHERE id = ?1 AND ?2 IS NOT NULL \
         AND digest NOT IN (SELECT digest FROM keyward_revoked_digest)",
        // The balance of a chain goes with its last key.
        "DELETE FROM keyward_credit WHERE ?2 IS NOT NULL AND owner = \
         (SELECT lineage FROM keyward_key WHERE id = ?1 AND credits IS NOT NULL) \
         AND NOT EXISTS (SELECT 1 FROM keyward_key \
             WHERE lineage = keyward_credit.owner AND credits IS NOT NULL AND id <> ?1)",
        "DELETE FROM keyward_usage_key WHERE key = ?1 AND ?2 IS NOT NULL",
        "DELETE FROM keyward_key WHERE id = ?1 AND ?2 IS NOT NULL",
    ] {
        connection.prepare_cached(sql)?.execute(params![id, now])?;
    }
    Ok(())
}

/// Merges the usage of the found keys, for one time slice. Returns the last key that was merged.
fn merge_all(
    connection: &Connection,
    roll_up: UsageRollUp,
    found: &Found,
) -> rusqlite::Result<(u64, Option<String>)> {
    let (began, mut merged) = (Instant::now(), 0);
    for (number, key) in found.keys.iter().enumerate() {
        merged += usage::merge(connection, key, roll_up)?;
        if began.elapsed() > SLICE && number + 1 < found.keys.len() {
            return Ok((merged, Some(key.clone())));
        }
    }
    Ok((merged, found.last.clone()))
}

/// Records the cut, and deletes some of the lines.
fn cut_audit(connection: &Connection, cut: &AuditCut) -> rusqlite::Result<Maintained> {
    let through = cut.through.cast_signed();
    connection
        .prepare_cached(
            "INSERT INTO keyward_audit_cut (through, lines, sha256, at) SELECT ?1, ?2, ?3, ?4 \
             WHERE NOT EXISTS (SELECT 1 FROM keyward_audit_cut WHERE through = ?1)",
        )?
        .execute(params![
            through,
            cut.lines.cast_signed(),
            cut.sha256,
            row::millis(cut.at)
        ])?;
    let deleted = connection
        .prepare_cached(
            "DELETE FROM keyward_audit WHERE number IN \
             (SELECT number FROM keyward_audit WHERE number <= ?1 ORDER BY number LIMIT ?2)",
        )?
        .execute(params![through, STEP.cast_signed()])?;
    Ok(Maintained {
        done: deleted as u64,
        next: (deleted == STEP).then_some(Maintenance::CutAudit(*cut)),
    })
}

/// Returns the pseudonym under which an account is being erased, or notes this one.
fn begin_erasing(
    connection: &Connection,
    account: &AccountId,
    pseudonym: &AccountId,
    now: i64,
) -> rusqlite::Result<AccountId> {
    let stored = connection
        .prepare_cached("SELECT pseudonym FROM keyward_erasing WHERE account = ?1")?
        .query_row([account.as_str()], |row| {
            Cells::of(row).parse(AccountId::parse)
        })
        .optional()?;
    if let Some(stored) = stored {
        return Ok(stored);
    }
    connection.execute(
        "INSERT INTO keyward_erasing VALUES (?1, ?2)",
        [account.as_str(), pseudonym.as_str()],
    )?;
    connection.execute(
        "INSERT INTO keyward_erased VALUES (?1, ?2)",
        params![pseudonym.as_str(), now],
    )?;
    Ok(pseudonym.clone())
}

/// Erases a part of an account; `None` once nothing is left.
fn erase_some(
    connection: &Connection,
    account: &AccountId,
    pseudonym: &AccountId,
    now: i64,
) -> rusqlite::Result<Option<u64>> {
    let (account, pseudonym) = (account.as_str(), pseudonym.as_str());
    let mut keys =
        connection.prepare_cached("SELECT id FROM keyward_key WHERE account = ?1 LIMIT ?2")?;
    let keys = keys.query_map(params![account, STEP.cast_signed()], |row| row.get(0))?;
    let keys: Vec<String> = keys.collect::<rusqlite::Result<_>>()?;
    for id in &keys {
        connection
            .prepare_cached(
                "UPDATE keyward_key SET revision = 0, status = 'revoked', \
                 revoked_at = coalesce(revoked_at, ?2) WHERE id = ?1 AND status <> 'revoked'",
            )?
            .execute(params![id, now])?;
        bury(connection, id, now)?;
    }
    if !keys.is_empty() {
        // Not every process has seen that the last of them are dead: all read everything anew.
        connection.execute_batch(
            "DELETE FROM keyward_revision; INSERT INTO keyward_revision (nonce) VALUES (random())",
        )?;
        return Ok(Some(keys.len() as u64));
    }
    for sql in [
        "UPDATE keyward_tombstone SET account = :pseudonym, revoked_for = '' WHERE key IN \
         (SELECT key FROM keyward_tombstone WHERE account = :account LIMIT :step)",
        // Deliveries and attempts go with them.
        "DELETE FROM keyward_message WHERE rowid IN \
         (SELECT rowid FROM keyward_message WHERE account = :account LIMIT :step / 4) \
         AND :pseudonym IS NOT NULL",
        "DELETE FROM keyward_endpoint WHERE number IN \
         (SELECT number FROM keyward_endpoint WHERE account = :account LIMIT :step) \
         AND :pseudonym IS NOT NULL",
        "DELETE FROM keyward_token WHERE account = :account AND token IN \
         (SELECT token FROM keyward_token WHERE account = :account LIMIT :step) \
         AND :pseudonym IS NOT NULL",
        "UPDATE keyward_audit SET account = :pseudonym, detail = '', reason = '', \
         actor = CASE WHEN actor GLOB 'user:*' THEN 'user:' || :pseudonym ELSE actor END \
         WHERE number IN \
         (SELECT number FROM keyward_audit WHERE account = :account LIMIT :step)",
    ] {
        let done = connection.prepare_cached(sql)?.execute(named_params! {
            ":account": account,
            ":pseudonym": pseudonym,
            ":step": STEP.cast_signed(),
        })?;
        if done > 0 {
            return Ok(Some(done as u64));
        }
    }
    for sql in [
        "DELETE FROM keyward_credit WHERE owner = 'account:' || ?1",
        "DELETE FROM keyward_credit_held WHERE owner = 'account:' || ?1",
        "DELETE FROM keyward_epoch WHERE account = ?1",
        "DELETE FROM keyward_account WHERE id = ?1",
        "DELETE FROM keyward_erasing WHERE account = ?1",
    ] {
        connection.execute(sql, [account])?;
    }
    Ok(None)
}

/// Returns the tombstones that match a query, sorted by id.
pub(crate) fn tombstones(
    connection: &Connection,
    query: &TombstoneQuery,
) -> rusqlite::Result<Vec<Tombstone>> {
    // Each is found by its own index.
    let (id, hint, account) = (&query.id, &query.hint, &query.account);
    let of = [
        id.map_or(":id IS NULL", |_| "key = :id"),
        hint.as_ref().map_or(":hint IS NULL", |_| "hint = :hint"),
        account
            .as_ref()
            .map_or(":account IS NULL", |_| "account = :account"),
    ]
    .join(" AND ");
    let mut rows = connection.prepare_cached(&format!(
        "SELECT key, hint, account, environment, lineage, cause, revoked_for, died_at, \
         last_used_at, pruned_at FROM keyward_tombstone WHERE {of} AND key > :after ORDER BY key"
    ))?;
    let mut rows = rows.query(named_params! {
        ":id": id.map(|id| id.to_string()),
        ":hint": hint,
        ":account": account.as_ref().map(AccountId::as_str),
        ":after": query.after.map_or(String::new(), |after| after.to_string()),
    })?;
    row::valid(&mut rows, query.limit, tombstone)
}

fn tombstone(row: &Row<'_>) -> rusqlite::Result<Tombstone> {
    let mut cells = Cells::of(row);
    let id = cells.parse(KeyId::parse)?;
    let hint = cells.parse(keyward::key::Hint::parse)?;
    let account = cells.parse(AccountId::parse)?;
    let environment = cells.parse(Environment::parse)?;
    let lineage = cells.parse(KeyId::parse)?;
    let cause = cells.parse(DeathCause::parse)?;
    let revoked_for = cells.get()?;
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, SystemTime};

    use keyward::admin::Retention;
    use keyward::clock::ManualClock;
    use keyward::denial::DenialKind;
    use keyward::record::KeyStatus;
    use keyward::testing::block_on;
    use keyward::{Actor, KeyAdmin, Store};

    use super::*;
    use crate::fixture::{Fixture, add, ask, ask_strictly, commit, eventually, scheme, stored};
    use crate::{SqliteOptions, SqliteStore};

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn retention() -> Retention {
        Retention::new().dead_keys(30 * DAY)
    }

    /// Opens a store that polls only when asked, on a clock.
    fn open_at(fixture: &Fixture, clock: &Arc<ManualClock>) -> Arc<SqliteStore> {
        let options = SqliteOptions::new().poll_interval(Duration::MAX);
        let options = options.clock(Arc::<ManualClock>::clone(clock));
        Arc::new(options.open(fixture.path()).unwrap())
    }

    fn revoke(store: &SqliteStore, id: KeyId, at: SystemTime) {
        let mut record = stored(store, id);
        (record.status, record.revoked_at) = (KeyStatus::Revoked, Some(at));
        commit(store, vec![], vec![record]).unwrap();
    }

    #[test]
    fn pruning_makes_no_process_read_everything_anew() {
        let fixture = Fixture::new();
        let clock = Arc::new(ManualClock::at(Duration::from_secs(1_800_000_000)));
        let now = || SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let (one, other) = (open_at(&fixture, &clock), open_at(&fixture, &clock));
        let (living, _) = add(&one, "living");
        let (dead, record) = add(&one, "acme");
        revoke(&one, record.id, now());
        clock.advance(31 * DAY);
        let since = |store: &SqliteStore| {
            block_on(store.ask(crate::worker::Worker::poll)).unwrap();
            store.replica().poll().since()
        };
        let before = since(&other);
        let operator = Actor::operator("ops");
        let admin = KeyAdmin::new(&one, &scheme());
        let report = block_on(admin.maintain(&operator, &retention())).unwrap();
        assert_eq!(report.pruned_keys, 1);
        assert_eq!(since(&other), before, "the history goes on");
        assert_eq!(since(&one), before);
        for store in [&one, &other] {
            assert_eq!(ask(store, &living), Ok(()));
            assert!(ask(store, &dead).is_err());
        }
        // What is typed still makes every process read everything.
        fixture
            .type_in("DELETE FROM keyward_key WHERE account = 'living'")
            .unwrap();
        eventually(|| {
            since(&other);
            ask(&other, &living) == Err(DenialKind::Unknown)
        });
        drop((admin, one, other));
        assert_eq!(ask(&fixture.open(), &dead), Err(DenialKind::Unknown));
    }

    #[test]
    fn a_process_that_has_not_seen_that_a_pruned_key_is_dead_reads_everything_anew() {
        let typed =
            |value: &str, id: KeyId| format!("UPDATE keyward_key SET {value} WHERE id = '{id}'");
        for dead in [
            "expires_at = 1000",
            "status = 'revoked', revoked_at = 1000",
            // Frozen since before it was revoked, and for longer than dead keys are kept.
            "revision = 0, status = 'revoked', revoked_at = 1800000000000",
        ] {
            let fixture = Fixture::new();
            let clock = Arc::new(ManualClock::at(Duration::from_secs(1_800_000_000)));
            let (one, behind) = (open_at(&fixture, &clock), open_at(&fixture, &clock));
            let (living, _) = add(&one, "living");
            let (key, record) = add(&one, "acme");
            let poll = || block_on(behind.ask(crate::worker::Worker::poll)).unwrap();
            poll();
            assert_eq!(ask(&behind, &key), Ok(()));
            fixture.type_in(&typed(dead, record.id)).unwrap();
            clock.advance(31 * DAY);
            let admin = KeyAdmin::new(&one, &scheme());
            let report = block_on(admin.maintain(&Actor::operator("ops"), &retention())).unwrap();
            assert_eq!(report.pruned_keys, 1, "{dead}");
            eventually(|| {
                poll();
                ask(&behind, &key) == Err(DenialKind::Unknown)
            });
            assert_eq!(ask(&behind, &living), Ok(()), "{dead}");
            let since = behind.replica().poll().since();
            poll();
            assert_eq!(behind.replica().poll().since(), since, "once");
        }
    }

    #[test]
    fn keys_of_an_erased_account_end_in_a_process_that_has_seen_nothing_of_the_erasure() {
        let fixture = Fixture::new();
        let clock = Arc::new(ManualClock::at(Duration::from_secs(1_800_000_000)));
        let (one, behind) = (open_at(&fixture, &clock), open_at(&fixture, &clock));
        let (living, _) = add(&one, "living");
        let (key, record) = add(&one, "acme");
        let poll = || block_on(behind.ask(crate::worker::Worker::poll)).unwrap();
        poll();
        assert_eq!(ask(&behind, &key), Ok(()));
        let pseudonym = AccountId::parse("erased-1").unwrap();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let step = Maintenance::EraseAccount {
            account: record.account,
            pseudonym,
            now,
        };
        // The process that erases is killed after the first step.
        let left = block_on(one.maintain(step, None)).unwrap().next;
        assert!(left.is_some());
        eventually(|| {
            poll();
            ask(&behind, &key) == Err(DenialKind::Unknown)
        });
        assert_eq!(ask(&behind, &living), Ok(()));
    }

    #[test]
    fn a_tombstone_that_is_typed_hides_no_deletion_of_a_living_key() {
        let fixture = Fixture::new();
        let store = fixture.open_slow();
        let (key, record) = add(&store, "acme");
        let id = record.id;
        fixture
            .type_in(&format!(
                "INSERT INTO keyward_tombstone VALUES \
                 ('{id}', '', 'acme', 'live', '{id}', 'revoked', '', 0, NULL, 0); \
                 DELETE FROM keyward_key"
            ))
            .unwrap();
        assert_eq!(ask_strictly(&store, &key), Err(DenialKind::Unknown));
    }

    #[test]
    fn what_retention_has_left_cannot_be_typed_away() {
        let fixture = Fixture::new();
        let clock = Arc::new(ManualClock::at(Duration::from_secs(1_800_000_000)));
        let store = open_at(&fixture, &clock);
        let (dead, record) = add(&store, "acme");
        add(&store, "other");
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        revoke(&store, record.id, start);
        clock.advance(31 * DAY);
        let operator = Actor::operator("ops");
        let admin = KeyAdmin::new(&store, &scheme());
        block_on(admin.maintain(&operator, &retention())).unwrap();
        let mut out = Vec::new();
        let export = admin.export_audit(&operator, start + 60 * DAY, &mut out);
        let export = block_on(export).unwrap().unwrap();
        block_on(admin.cut_audit(&operator, export)).unwrap();
        let other = AccountId::parse("other").unwrap();
        block_on(admin.erase_account(&operator, &other)).unwrap();
        let id = record.id;
        let bytes = record.digest.expose_bytes().iter();
        let digest = bytes.fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        let anew = |id: &str| {
            format!(
                "INSERT INTO keyward_key (id, digest_scheme, digest, hint, account, environment, \
                 created_at, lineage) VALUES ('{id}', 'sha256', X'{digest}', 'sql_…abcd', 'acme', \
                 'live', 0, '{id}')"
            )
        };
        for typed in [
            "DELETE FROM keyward_revoked_digest".to_owned(),
            "UPDATE keyward_revoked_digest SET digest = X'00'".to_owned(),
            "UPDATE OR REPLACE keyward_revoked_digest SET digest = X'00'".to_owned(),
            anew("key_000000000001"),
            anew(&id.to_string()).replace(&digest, &"00".repeat(32)),
            "DELETE FROM keyward_tombstone".to_owned(),
            "UPDATE keyward_tombstone SET account = 'x'".to_owned(),
            "UPDATE keyward_tombstone SET revoked_for = 'x'".to_owned(),
            "REPLACE INTO keyward_tombstone SELECT * FROM keyward_tombstone".to_owned(),
            "DELETE FROM keyward_audit".to_owned(),
            "UPDATE keyward_audit SET account = 'x'".to_owned(),
            "UPDATE keyward_audit SET detail = ''".to_owned(),
            "INSERT INTO keyward_audit (number, at, actor, action) VALUES (1, 0, 'x', 'create')"
                .to_owned(),
            "DELETE FROM keyward_audit_cut".to_owned(),
            "UPDATE keyward_audit_cut SET lines = 0".to_owned(),
            "REPLACE INTO keyward_audit_cut SELECT * FROM keyward_audit_cut".to_owned(),
            "DELETE FROM keyward_erased".to_owned(),
            "UPDATE keyward_erased SET at = 0".to_owned(),
        ] {
            assert!(fixture.type_in(&typed).is_err(), "{typed}");
        }
        // A line without a number is still added.
        fixture
            .type_in("INSERT INTO keyward_audit (at, actor, action) VALUES (0, 'x', 'create')")
            .unwrap();
        assert!(ask(&store, &dead).is_err());
    }

    #[test]
    fn a_file_with_webhooks_loses_those_of_an_erased_account() {
        let fixture = Fixture::new();
        let store = Arc::new(fixture.open_slow());
        add(&store, "acme");
        add(&store, "other");
        for account in ["acme", "other"] {
            let typed = "INSERT INTO keyward_endpoint (id, account, environment, url, secret, \
                 created_at) VALUES ('whe_ACCOUNT0000', 'ACCOUNT', 'live', 'https://a.example/', \
                 'a:AAAA', 0); \
                 INSERT INTO keyward_message (account, environment, id, payload, created_at) \
                 VALUES ('ACCOUNT', 'live', 'm', x'', 0); \
                 INSERT INTO keyward_delivery (account, environment, message, endpoint, due_at) \
                 VALUES ('ACCOUNT', 'live', 'm', 'whe_ACCOUNT0000', 7); \
                 INSERT INTO keyward_credit (owner, epoch, remaining) \
                 VALUES ('account:ACCOUNT', 1, 5)";
            let id = format!("{account:0<8}");
            let typed = typed.replace("whe_ACCOUNT0000", &format!("whe_{id}0000"));
            fixture.type_in(&typed.replace("ACCOUNT", account)).unwrap();
        }
        let admin = KeyAdmin::new(&store, &scheme());
        let acme = AccountId::parse("acme").unwrap();
        block_on(admin.erase_account(&Actor::operator("ops"), &acme)).unwrap();
        let file = Connection::open(fixture.path()).unwrap();
        for (table, column) in [
            ("keyward_account", "id"),
            ("keyward_key", "account"),
            ("keyward_endpoint", "account"),
            ("keyward_message", "account"),
            ("keyward_delivery", "account"),
            ("keyward_credit", "substr(owner, 9)"),
        ] {
            let left: String = file
                .query_row(
                    &format!("SELECT group_concat({column}) FROM {table}"),
                    [],
                    |row| row.get(0),
                )
                .unwrap();
            assert_eq!(left, "other", "{table}");
        }
        let bad = "SELECT count(*) FROM pragma_foreign_key_check";
        assert_eq!(
            file.query_row(bad, [], |row| row.get::<_, i64>(0)).unwrap(),
            0
        );
    }
}
