//! The schema and its migrations.

use std::time::Duration;

use keyward::store::{StoreError, StoreErrorKind};
use rusqlite::{Connection, TransactionBehavior};

use crate::error::{PATIENCE, failed, is_busy, unavailable};

/// The tables as numbered SQL files, in order; each records its number.
///
/// Opening a store runs those that the file lacks. An application may run them with its own tool
/// instead, each in one transaction.
///
/// ```
/// let (number, sql) = keyward_sqlite::MIGRATIONS[0];
/// assert_eq!(number, 1);
/// assert!(sql.contains("CREATE TABLE keyward_key"));
/// ```
pub const MIGRATIONS: &[(u32, &str)] = &[
    (1, include_str!("../migrations/0001_keys.sql")),
    (2, include_str!("../migrations/0002_webhooks.sql")),
    (3, include_str!("../migrations/0003_disabled_by.sql")),
    (4, include_str!("../migrations/0004_credit_held.sql")),
    (5, include_str!("../migrations/0005_audit_environment.sql")),
    (6, include_str!("../migrations/0006_revoked_is_final.sql")),
    (7, include_str!("../migrations/0007_outbox.sql")),
    (8, include_str!("../migrations/0008_recent_revisions.sql")),
    (
        9,
        include_str!("../migrations/0009_revoked_without_account.sql"),
    ),
    (
        10,
        include_str!("../migrations/0010_endpoint_disabled_by.sql"),
    ),
    (11, include_str!("../migrations/0011_revoked_digest.sql")),
    (12, include_str!("../migrations/0012_backlogs.sql")),
    (13, include_str!("../migrations/0013_deleted_digest.sql")),
    (14, include_str!("../migrations/0014_validity.sql")),
    (15, include_str!("../migrations/0015_addresses.sql")),
    (16, include_str!("../migrations/0016_credit_schedule.sql")),
    (17, include_str!("../migrations/0017_usage_labels.sql")),
    (18, include_str!("../migrations/0018_search.sql")),
    (19, include_str!("../migrations/0019_retention.sql")),
    (20, include_str!("../migrations/0020_last_network.sql")),
    (21, include_str!("../migrations/0021_buried_revision.sql")),
];

/// The treatment of a file without keyward's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoTables {
    Create,
    Refuse,
}

/// Brings the tables up to date. Concurrent processes wait for each other.
pub(crate) fn migrate(connection: &mut Connection, no_tables: NoTables) -> Result<(), StoreError> {
    // Most starts find all done, and need not wait for a process that writes.
    let newest = MIGRATIONS.last().map(|(number, _)| *number);
    if version(connection).is_ok_and(|version| Some(version) == newest) {
        return can_write(connection);
    }
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(failed)?;
    let version = version(&transaction).map_err(failed)?;
    if version == 0 && no_tables == NoTables::Refuse {
        return Err(unavailable("the file has no tables for keys"));
    }
    if MIGRATIONS.iter().all(|(number, _)| *number < version) {
        return Err(StoreError::new(StoreErrorKind::Schema));
    }
    for (_, sql) in MIGRATIONS.iter().filter(|(number, _)| *number > version) {
        transaction.execute_batch(sql).map_err(failed)?;
    }
    transaction.commit().map_err(failed)
}

/// Checks that the file can be written, now or when another process has finished.
fn can_write(connection: &Connection) -> Result<(), StoreError> {
    connection.busy_timeout(Duration::ZERO).map_err(failed)?;
    // Beginning a transaction is not enough: SQLite begins a read transaction on a read-only file.
    let written = connection.execute("DELETE FROM keyward_meta WHERE false", []);
    connection.busy_timeout(PATIENCE).map_err(failed)?;
    match written.map_err(failed) {
        Err(error) if !is_busy(&error) => Err(error),
        _ => Ok(()),
    }
}

/// Returns the number of the last migration that was run; zero before the first.
fn version(connection: &Connection) -> rusqlite::Result<u32> {
    let ours = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'keyward_meta'";
    if connection.query_row(ours, [], |row| row.get::<_, i64>(0))? == 0 {
        return Ok(0);
    }
    let version = "SELECT max(schema_version) FROM keyward_meta";
    connection.query_row(version, [], |row| row.get(0))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;
    use std::time::Instant;

    use keyward::denial::DenialKind;
    use keyward::record::{AdminErrorKind, DisabledBy, KeyStatus};
    use keyward::store::AuditQuery;
    use keyward::testing::block_on;
    use keyward::{AccountId, Actor, Environment, KeyAdmin, KeyId, Permission, Store};

    use super::*;
    use crate::SqliteStore;
    use crate::fixture::{Fixture, add, ask, ask_strictly, commit, eventually, scheme, stored};

    #[test]
    fn a_start_does_not_wait_for_a_process_that_writes() {
        let fixture = Fixture::new();
        drop(fixture.open());
        let writer = Connection::open(fixture.path()).unwrap();
        writer.execute_batch("BEGIN IMMEDIATE").unwrap();
        let began = Instant::now();
        drop(SqliteStore::open(fixture.path()).unwrap());
        assert!(
            began.elapsed() < Duration::from_secs(2),
            "{:?}",
            began.elapsed()
        );
    }

    #[test]
    fn a_newer_schema_is_refused() {
        let fixture = Fixture::new();
        drop(fixture.open());
        let newer = "UPDATE keyward_meta SET schema_version = schema_version + 1";
        fixture.type_in(newer).unwrap();
        let error = SqliteStore::open(fixture.path()).unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Schema);
    }

    #[test]
    fn processes_that_open_a_new_file_at_once_all_succeed() {
        for _ in 0..10 {
            let fixture = Fixture::new();
            thread::scope(|threads| {
                let open = || drop(SqliteStore::open(fixture.path()).unwrap());
                let all: Vec<_> = (0..8).map(|_| threads.spawn(open)).collect();
                for one in all {
                    one.join().unwrap();
                }
            });
        }
    }

    #[test]
    fn the_tables_may_lie_in_the_file_of_an_application() {
        let fixture = Fixture::new();
        let own = "CREATE TABLE user (id); PRAGMA user_version = 7";
        fixture.type_in(own).unwrap();
        fixture.type_in(MIGRATIONS[0].1).unwrap();
        add(&fixture.open(), "acme");
        let connection = Connection::open(fixture.path()).unwrap();
        let version = connection.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0));
        assert_eq!(version.unwrap(), 7);
    }

    #[test]
    fn a_change_of_any_column_has_a_revision() {
        let fixture = Fixture::new();
        drop(fixture.open());
        let connection = Connection::open(fixture.path()).unwrap();
        for table in ["keyward_key", "keyward_account"] {
            let columns = "SELECT name FROM pragma_table_info(?1) WHERE name <> 'revision'";
            let mut columns = connection.prepare(columns).unwrap();
            let columns = columns.query_map([table], |row| row.get::<_, String>(0));
            let trigger = "SELECT sql FROM sqlite_master WHERE type = 'trigger' AND name = ?1";
            let updated = format!("{table}_updated");
            let trigger = connection.query_row(trigger, [updated], |row| row.get::<_, String>(0));
            let trigger = trigger.unwrap();
            let named = trigger.split("\nON ").next().unwrap();
            let named: Vec<_> = named.split([' ', ',', '\n']).collect();
            for column in columns.unwrap().map(Result::unwrap) {
                assert!(named.contains(&&*column), "{column}: {trigger}");
            }
        }
    }

    #[test]
    fn what_makes_no_sense_cannot_be_typed() {
        let fixture = Fixture::new();
        let store = fixture.open();
        let (secret, _) = add(&store, "acme");
        for typed in [
            "UPDATE keyward_key SET status = 'Revoked'",
            "UPDATE keyward_key SET status = NULL",
            "UPDATE keyward_key SET kind = ''",
            "UPDATE keyward_key SET environment = 'Live'",
            "UPDATE keyward_key SET environment = 'a-very-long-token'",
            "UPDATE keyward_key SET origins = ' '",
            "UPDATE keyward_key SET addresses = ' '",
            "UPDATE keyward_key SET addresses = x'31'",
            "UPDATE keyward_key SET epoch = -1",
            "UPDATE keyward_key SET epoch = 4294967296",
            "UPDATE keyward_key SET expires_at = 'tomorrow'",
            "UPDATE keyward_key SET revision = 'x'",
            "UPDATE keyward_key SET digest = randomblob(32)",
            "UPDATE keyward_key SET digest_scheme = 'hmac-sha256:x'",
            "UPDATE keyward_key SET digest = randomblob(32), redigested = redigested + 2",
            "UPDATE keyward_key SET redigested = redigested + 1",
            "UPDATE keyward_key SET id = 'key_000000000000'",
            "UPDATE keyward_account SET id = 'other'",
            "UPDATE keyward_key SET rate_limits = 'hundred'",
            "UPDATE keyward_key SET rate_limits = NULL",
            "UPDATE keyward_key SET rate_limits = x'31'",
            "UPDATE keyward_key SET metadata = NULL",
            "UPDATE keyward_key SET metadata = ''",
            "UPDATE keyward_key SET revoked_at = 'now'",
            "UPDATE keyward_key SET revoked_for = NULL",
            "UPDATE keyward_key SET disabled_by = 'ann'",
            "UPDATE keyward_key SET disabled_by = x'6f'",
            "UPDATE keyward_key SET disabled_by_name = x'6f'",
            "UPDATE keyward_key SET created_by = x'6f'",
            "UPDATE keyward_key SET not_before = 'tomorrow'",
            "UPDATE keyward_key SET lineage = NULL",
            "UPDATE keyward_key SET lineage = 'key_1'",
            "UPDATE keyward_key SET predecessor = 'key_1'",
            "UPDATE keyward_key SET successor = ''",
            "UPDATE keyward_account SET max_active_keys = -1",
            "UPDATE keyward_account SET max_active_keys = 'many'",
            "UPDATE keyward_account SET revoked_all = NULL",
            "UPDATE keyward_account SET revoked_all = 4294967296",
            "UPDATE keyward_account SET status = 'gone'",
            "UPDATE keyward_account SET api_access = 2",
            "INSERT INTO keyward_account (id) VALUES ('two words')",
            "INSERT INTO keyward_epoch VALUES ('acme', 'live', -1)",
            "INSERT INTO keyward_epoch VALUES ('acme', '', 1)",
        ] {
            assert!(fixture.type_in(typed).is_err(), "{typed}");
        }
        assert_eq!(ask_strictly(&store, &secret), Ok(()));
    }

    #[test]
    fn no_way_to_change_a_key_goes_unseen() {
        const COPY: &str = "(id, digest_scheme, digest, hint, account, environment, created_at, lineage, status) \
             SELECT id, digest_scheme, randomblob(32), hint, account, environment, created_at, \
             lineage, 'active' FROM keyward_key";
        for (typed, answer) in [
            (
                "PRAGMA recursive_triggers = ON; UPDATE keyward_key SET status = 'revoked'",
                DenialKind::Revoked,
            ),
            (
                "UPDATE keyward_key SET status = 'revoked', revision = revision + 1",
                DenialKind::Revoked,
            ),
            (
                "UPDATE keyward_key SET status = 'revoked', revision = 0",
                DenialKind::Revoked,
            ),
            ("DELETE FROM keyward_key", DenialKind::Unknown),
            (
                "INSERT OR REPLACE INTO keyward_key COPY",
                DenialKind::Unknown,
            ),
            (
                "UPDATE keyward_key SET account = 'other'; DELETE FROM keyward_account WHERE id = 'other'",
                DenialKind::Revoked,
            ),
            (
                "DELETE FROM keyward_account WHERE id = 'acme'",
                DenialKind::Revoked,
            ),
            (
                "INSERT INTO keyward_epoch VALUES ('acme', 'live', 0); \
                 UPDATE keyward_epoch SET revoked = 1",
                DenialKind::Revoked,
            ),
            (
                "DELETE FROM keyward_revision; INSERT INTO keyward_revision DEFAULT VALUES; \
                 UPDATE keyward_key SET status = 'disabled'",
                DenialKind::Disabled,
            ),
        ] {
            let fixture = Fixture::new();
            let store = fixture.open_slow();
            let (secret, _) = add(&store, "acme");
            add(&store, "other");
            let typed = typed.replace("COPY", COPY);
            fixture.type_in(&typed).unwrap();
            assert_eq!(ask_strictly(&store, &secret), Err(answer), "{typed}");
        }
    }

    #[test]
    fn who_disabled_a_key_is_forgotten_when_another_status_is_typed() {
        let fixture = Fixture::new();
        let store = fixture.open();
        let (_, mut record) = add(&store, "acme");
        (record.status, record.disabled_by) = (KeyStatus::Disabled, Some(DisabledBy::User));
        record.disabled_by_name = Some("user:ann".to_owned());
        commit(&store, vec![], vec![record.clone()]).unwrap();
        let id = record.id;
        let mut renamed = stored(&store, id);
        renamed.name = "new".to_owned();
        commit(&store, vec![], vec![renamed]).unwrap();
        assert_eq!(stored(&store, id).disabled_by, Some(DisabledBy::User));
        let name = || stored(&store, id).disabled_by_name;
        assert_eq!(name().as_deref(), Some("user:ann"));
        let before = stored(&store, id).revision;
        for status in ["active", "disabled"] {
            let typed = format!("UPDATE keyward_key SET status = '{status}'");
            fixture.type_in(&typed).unwrap();
            assert_eq!(stored(&store, id).disabled_by, None, "{status}");
            assert_eq!(name(), None, "{status}");
        }
        let typed = "UPDATE keyward_key SET disabled_by = 'operator'";
        let between = stored(&store, id).revision;
        fixture.type_in(typed).unwrap();
        assert!(before < between && between < stored(&store, id).revision);
        assert_eq!(stored(&store, id).disabled_by, Some(DisabledBy::Operator));
    }

    #[test]
    fn a_key_that_an_older_version_disabled_counts_as_disabled_by_an_operator() {
        let fixture = Fixture::new();
        for (_, sql) in &MIGRATIONS[..2] {
            fixture.type_in(sql).unwrap();
        }
        fixture
            .type_in(
                "INSERT INTO keyward_account (id) VALUES ('acme'); \
                 INSERT INTO keyward_key (id, digest_scheme, digest, hint, account, environment, \
                 status, created_at, lineage) VALUES ('key_0123456789ab', 'sha256', randomblob(32), \
                 'sql_live_…abcd', 'acme', 'live', 'disabled', 0, 'key_0123456789ab')",
            )
            .unwrap();
        let store = Arc::new(fixture.open());
        let id = KeyId::parse("key_0123456789ab").unwrap();
        let admin = KeyAdmin::new(&store, &scheme());
        let acme = AccountId::parse("acme").unwrap();
        let ann = Actor::user("ann", acme, Permission::ALL);
        let error = block_on(admin.enable(&ann, id)).unwrap_err();
        assert_eq!(error.kind(), AdminErrorKind::NotPermitted);
        // Disabling it once more does not make it hers.
        block_on(admin.disable(&ann, id)).unwrap();
        assert!(block_on(admin.enable(&ann, id)).is_err());
        block_on(admin.enable(&Actor::operator("ops"), id)).unwrap();
        assert_eq!(stored(&store, id).status, KeyStatus::Active);
    }

    #[test]
    fn a_build_with_or_without_webhooks_opens_a_file_that_has_some_and_does_what_is_left() {
        let fixture = Fixture::new();
        for (_, sql) in &MIGRATIONS[..2] {
            fixture.type_in(sql).unwrap();
        }
        fixture
            .type_in(
                "INSERT INTO keyward_account (id) VALUES ('acme'); \
                 INSERT INTO keyward_endpoint (id, account, environment, url, secret, created_at) \
                 VALUES ('whe_0123456789ab', 'acme', 'live', 'https://acme.example/', \
                 'a:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA', 0); \
                 INSERT INTO keyward_message (account, environment, id, payload, created_at) \
                 WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000) \
                 SELECT 'acme', 'live', 'n' || i, x'', i FROM n; \
                 INSERT INTO keyward_delivery (account, environment, message, endpoint, due_at) \
                 SELECT account, environment, id, 'whe_0123456789ab', 7 FROM keyward_message",
            )
            .unwrap();
        let store = fixture.open();
        let (key, _) = add(&store, "other");
        ask_strictly(&store, &key).unwrap();
        let count = |status: &str| -> u32 {
            let sql = "SELECT count(*) FROM keyward_delivery WHERE status = ?1";
            let file = Connection::open(fixture.path()).unwrap();
            file.query_row(sql, [status], |row| row.get(0)).unwrap()
        };
        assert_eq!(count("pending"), 1000);
        fixture
            .type_in("UPDATE keyward_endpoint SET status = 'disabled'")
            .unwrap();
        eventually(|| count("held") == 1000);
    }

    #[test]
    fn lines_that_an_older_version_wrote_are_of_their_keys_environment() {
        let fixture = Fixture::new();
        for (_, sql) in &MIGRATIONS[..3] {
            fixture.type_in(sql).unwrap();
        }
        let key = |account: &str, environment: &str, id: &str| {
            format!(
                "INSERT INTO keyward_key (id, digest_scheme, digest, hint, account, environment, \
                 created_at, lineage) VALUES ('{id}', 'sha256', randomblob(32), 'sql_…abcd', \
                 '{account}', '{environment}', 0, '{id}');"
            )
        };
        let line = |account: &str, key: &str, detail: &str| {
            format!(
                "INSERT INTO keyward_audit (at, actor, action, account, key, detail) \
                 VALUES (0, 'operator:ops', 'update', {account}, {key}, '{detail}');"
            )
        };
        let typed = [
            "INSERT INTO keyward_account (id) VALUES ('acme'), ('other');".to_owned(),
            key("acme", "test", "key_000000000001"),
            key("other", "live", "key_000000000002"),
            "INSERT INTO keyward_endpoint (id, account, environment, url, secret, created_at) \
             VALUES ('whe_000000000001', 'acme', 'live', 'https://acme.example', 'a:b', 0);"
                .to_owned(),
            line("'acme'", "'key_000000000001'", ""),
            line("'acme'", "'key_000000000002'", ""), // another account's
            line("'acme'", "'key_000000000009'", ""),
            line("'acme'", "NULL", "endpoint=whe_000000000001 status=enabled"),
            line("NULL", "NULL", ""),
        ];
        fixture.type_in(&typed.concat()).unwrap();
        let store = fixture.open();
        let lines = block_on(store.audit(AuditQuery::newest(9))).unwrap();
        let environments: Vec<_> = lines.iter().rev().map(|line| line.environment).collect();
        let (own, other) = (Some(Environment::TEST), Some(Environment::LIVE));
        assert_eq!(environments, [own, None, None, other, None]);
        let typed = "UPDATE keyward_audit SET environment = 'live'";
        assert!(fixture.type_in(typed).is_err(), "it only grows, still");
    }

    #[test]
    fn replacing_an_account_keeps_its_keys_revoked() {
        let fixture = Fixture::new();
        let store = fixture.open();
        let (secret, record) = add(&store, "acme");
        let revoked = "INSERT INTO keyward_epoch VALUES ('acme', 'live', 1)";
        fixture.type_in(revoked).unwrap();
        eventually(|| ask(&store, &secret) == Err(DenialKind::Revoked));
        let replaced =
            "PRAGMA foreign_keys = ON; INSERT OR REPLACE INTO keyward_account (id) VALUES ('acme')";
        fixture.type_in(replaced).unwrap();
        assert_eq!(ask_strictly(&store, &secret), Err(DenialKind::Revoked));
        let account = block_on(store.account(record.account)).unwrap().unwrap();
        assert_eq!(account.epoch(record.environment), 1);
    }
}
