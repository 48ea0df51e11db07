//! The schema and its migrations.

use keyward::store::{StoreError, StoreErrorKind};
use tokio_postgres::Client;

use crate::error::{Error, unavailable};

/// The tables as numbered SQL files, in order, for a migration tool of the application.
///
/// [`PostgresStore::migrate`](crate::PostgresStore::migrate) runs those that a database lacks. A tool
/// runs each in one transaction, and then [`GRANTS`].
///
/// ```
/// let (number, sql) = keyward_postgres::MIGRATIONS[0];
/// assert_eq!(number, 1);
/// assert!(sql.contains("CREATE TABLE keyward.key"));
/// ```
pub const MIGRATIONS: &[(u32, &str)] = &[
    (1, include_str!("../migrations/0001_keys.sql")),
    (2, include_str!("../migrations/0002_webhooks.sql")),
];

/// The rights that a service needs at run time, as SQL, to be run after the migrations.
///
/// It creates the group role `keyward_service`, unless there is one, and grants it exactly what a
/// [`PostgresStore`](crate::PostgresStore) uses. So it needs the right to create roles the first time.
///
/// ```
/// assert!(keyward_postgres::GRANTS.contains("GRANT SELECT, INSERT ON keyward.token, keyward.audit"));
/// assert!(!keyward_postgres::GRANTS.contains("TRUNCATE"));
/// ```
pub const GRANTS: &str = include_str!("../migrations/roles.sql");

/// Held while migrations run, so that programs that start at once wait for each other.
const LOCK: &str = "SELECT pg_advisory_xact_lock(30229394876363366)";

/// Returns the number of the last migration that this build knows.
fn newest() -> u32 {
    MIGRATIONS.last().map_or(0, |(number, _)| *number)
}

/// Runs the migrations that the database lacks, all or none.
pub(crate) async fn migrate(client: &Client) -> Result<(), Error> {
    client.batch_execute("BEGIN").await?;
    client.batch_execute(LOCK).await?;
    let version = versions(client).await?.map_or(0, |(version, _)| version);
    for (number, sql) in MIGRATIONS.iter().filter(|(number, _)| *number > version) {
        client.batch_execute(sql).await?;
        tracing::info!(number, "the schema was migrated");
    }
    Ok(client.batch_execute("COMMIT").await?)
}

/// Fails unless this build can work with the database.
pub(crate) async fn check(client: &Client) -> Result<(), Error> {
    let row = client.query_typed_one("SELECT pg_is_in_recovery()", &[]);
    if row.await?.try_get(0)? {
        // Its keys may be older than it can tell.
        return Err(unavailable("the server is a read replica").into());
    }
    let Some((version, min_reader)) = versions(client).await? else {
        return Err(
            unavailable("the database has no tables for keys: run PostgresStore::migrate").into(),
        );
    };
    if version < newest() {
        return Err(unavailable(
            "the tables for keys are of an older version: run PostgresStore::migrate",
        )
        .into());
    }
    if min_reader > newest() {
        return Err(StoreError::new(StoreErrorKind::Schema).into());
    }
    Ok(())
}

/// Returns the number of the last migration, and that of the build that it asks for.
async fn versions(client: &Client) -> Result<Option<(u32, u32)>, Error> {
    let any = "SELECT to_regclass('keyward.meta') IS NOT NULL";
    if !client.query_typed_one(any, &[]).await?.try_get(0)? {
        return Ok(None);
    }
    let versions = "SELECT schema_version, min_reader FROM keyward.meta";
    let row = client.query_typed_one(versions, &[]).await?;
    let (version, min_reader): (i32, i32) = (row.try_get(0)?, row.try_get(1)?);
    let number = |number: i32| u32::try_from(number).unwrap_or(u32::MAX);
    Ok(Some((number(version), number(min_reader))))
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use keyward::denial::DenialKind;
    use keyward::record::{AuditAction, AuditEntry, KeyStatus};
    use keyward::store::{AuditQuery, Commit, Maintenance};
    use keyward::testing::block_on;
    use keyward::{AccountId, Actor, Environment, KeyAdmin, NewKey, Store};

    use super::*;
    use crate::PostgresStore;
    use crate::fixture::{Fixture, Server, add, ask, commit, scheme, stored, used};

    #[test]
    fn a_database_without_tables_or_with_older_ones_is_refused() {
        let fixture = Fixture::empty();
        let error = block_on(PostgresStore::connect(&fixture.url)).unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Unavailable);
        let why = std::error::Error::source(&error).unwrap().to_string();
        assert!(why.contains("run PostgresStore::migrate"), "{why}");
        block_on(PostgresStore::migrate(&fixture.url)).unwrap();
        add(&fixture.open(), "acme");

        let older = "UPDATE keyward.meta SET schema_version = 0";
        fixture.type_in(older).unwrap();
        let error = block_on(PostgresStore::connect(&fixture.url)).unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    }

    #[test]
    fn a_newer_schema_is_used_until_it_asks_for_a_newer_program() {
        let fixture = Fixture::new();
        let newer = "UPDATE keyward.meta SET schema_version = schema_version + 5";
        fixture.type_in(newer).unwrap();
        add(&fixture.open(), "acme");
        block_on(PostgresStore::migrate(&fixture.url)).unwrap();
        add(&fixture.open(), "other");
        let newer = "UPDATE keyward.meta SET min_reader = schema_version";
        fixture.type_in(newer).unwrap();
        let error = block_on(PostgresStore::connect(&fixture.url)).unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Schema);
    }

    #[test]
    fn programs_that_migrate_at_once_all_succeed() {
        let fixture = Fixture::empty();
        thread::scope(|threads| {
            let migrate = || block_on(PostgresStore::migrate(&fixture.url));
            let all: Vec<_> = (0..8).map(|_| threads.spawn(migrate)).collect();
            for one in all {
                one.join().unwrap().unwrap();
            }
        });
        add(&fixture.open(), "acme");
    }

    #[test]
    fn the_tables_may_lie_in_the_database_of_an_application() {
        let fixture = Fixture::empty();
        let own = "CREATE SCHEMA keyward; CREATE TABLE public.key (id int)";
        fixture.type_in(own).unwrap();
        // What an application sets for all its transactions.
        let database = fixture.psql().value("SELECT current_database()");
        let own = format!(
            "ALTER DATABASE {database} SET default_transaction_isolation = 'serializable'; \
             ALTER DATABASE {database} SET search_path = public"
        );
        fixture.type_in(&own).unwrap();
        for (_, sql) in MIGRATIONS {
            fixture.type_in(sql).unwrap();
        }
        add(&fixture.open(), "acme");
    }

    #[test]
    fn a_read_replica_is_refused() {
        let server = Server::start();
        let fixture = Fixture::on(&server);
        drop(fixture.open());
        let replica = server.copy_of(true);
        let error = block_on(PostgresStore::connect(&fixture.url_on(&replica))).unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Unavailable);
        drop(fixture.open());
    }

    #[test]
    fn the_role_of_a_service_can_do_all_that_a_store_does_and_no_more() {
        let fixture = Fixture::new();
        fixture.type_in(GRANTS).unwrap();
        fixture.type_in(GRANTS).unwrap();
        let login = format!("service_{}", std::process::id());
        let create = format!("CREATE ROLE {login} LOGIN IN ROLE keyward_service");
        fixture.type_in(&create).unwrap();
        let url = fixture.url.replace("keyward@", &format!("{login}@"));
        let store = std::sync::Arc::new(block_on(PostgresStore::connect(&url)).unwrap());

        let admin = KeyAdmin::new(&store, &scheme());
        let (ann, acme) = (Actor::operator("ann"), AccountId::parse("acme").unwrap());
        block_on(admin.open_account(&ann, &acme)).unwrap();
        let new = || NewKey::new(acme.clone(), Environment::LIVE, "key");
        let created = block_on(admin.create(&ann, new().token("t"))).unwrap();
        let secret = created.key.unwrap();
        let credits = Some(keyward::credits::Credits::new(1000));
        block_on(admin.set_credits(&ann, acme.clone(), credits)).unwrap();
        (0..20).for_each(|_| assert_eq!(ask(&store, &secret), Ok(())));
        block_on(store.flush()).unwrap();
        assert_eq!(used(&store, "acme"), (20, 0));
        let rotated = block_on(admin.rotate(&ann, created.record.id, keyward::Grace::None));
        let rotated = rotated.unwrap().key.unwrap();
        block_on(admin.revoke_all(&ann, &acme, Some(Environment::LIVE), "")).unwrap();
        assert_eq!(ask(&store, &rotated), Err(DenialKind::Revoked));
        let first = Commit {
            first: true,
            ..Commit::default()
        };
        let first = block_on(store.commit(first)).unwrap_err();
        assert_eq!(first.kind(), StoreErrorKind::Conflict);
        let mut typist = crate::fixture::connect(&url).unwrap();
        typist.execute("SELECT keyward.prune()").unwrap();
        typist.execute("UPDATE keyward.key SET name = 'x'").unwrap();

        for forbidden in [
            "DROP TABLE keyward.key",
            "DROP SCHEMA keyward CASCADE",
            "TRUNCATE keyward.key CASCADE",
            "ALTER TABLE keyward.audit DISABLE TRIGGER ALL",
            "DROP TRIGGER changed ON keyward.audit",
            "UPDATE keyward.audit SET actor = 'x'",
            "DELETE FROM keyward.audit",
            "TRUNCATE keyward.audit",
            "DELETE FROM keyward.rev_log",
            "INSERT INTO keyward.rev_log (rev) VALUES (99)",
            "DELETE FROM keyward.change",
            "DELETE FROM keyward.revoked_digest",
            "SELECT keyward.note_change('k', 'x')",
            "SELECT keyward.resync()",
            "UPDATE keyward.meta SET min_reader = 0",
            "CREATE TABLE keyward.other (id int)",
            "SET session_replication_role = replica",
        ] {
            let error = typist.execute(forbidden).unwrap_err();
            let code = error.code().unwrap().code();
            assert_eq!(code, "42501", "{forbidden}: {error:?}");
        }
        for forbidden in ["DELETE FROM keyward.key", "DELETE FROM keyward.account"] {
            typist.execute(forbidden).unwrap_err();
        }
        // What retention deletes is for another role.
        let tomorrow = std::time::SystemTime::now() + Duration::from_secs(86_400);
        let prune = || Maintenance::PruneKeys {
            died_before: tomorrow,
            now: tomorrow,
        };
        let revoke = "UPDATE keyward.key SET status = 'revoked'";
        fixture.type_in(revoke).unwrap();
        let refused = block_on(store.maintain(prune(), None)).unwrap_err();
        assert_eq!(refused.kind(), StoreErrorKind::Unavailable);
        let maintainer = format!("maintainer_{}", std::process::id());
        let create = format!("CREATE ROLE {maintainer} LOGIN IN ROLE keyward_maintenance");
        fixture.type_in(&create).unwrap();
        let url = fixture.url.replace("keyward@", &format!("{maintainer}@"));
        let other = std::sync::Arc::new(block_on(PostgresStore::connect(&url)).unwrap());
        let maintain = KeyAdmin::new(&other, &scheme());
        let pruned = block_on(other.maintain(prune(), None)).unwrap();
        assert_eq!(pruned.done, 2, "{pruned:?}");
        let later = std::time::SystemTime::now() + Duration::from_secs(60);
        let export = block_on(maintain.export_audit(&ann, later, &mut Vec::new()));
        block_on(maintain.cut_audit(&ann, export.unwrap().unwrap())).unwrap();
        block_on(maintain.erase_account(&ann, &acme)).unwrap();
        assert_eq!(block_on(store.account(acme.clone())).unwrap(), None);
        drop((store, admin, other, maintain));
        assert_eq!(
            fixture.psql().value("SELECT count(*) FROM keyward.node"),
            "0"
        );
    }

    #[test]
    fn a_line_beside_a_key_is_written_with_it() {
        let fixture = Fixture::new();
        let store = fixture.open();
        let (_, record) = add(&store, "acme");
        let mut record = stored(&store, record.id);
        record.status = KeyStatus::Revoked;
        let now = std::time::SystemTime::now();
        let line = AuditEntry::new(now, "a\0\u{1a}b", AuditAction::Revoke);
        let written = Commit {
            keys: vec![record.clone()],
            audit: vec![line],
            ..Commit::default()
        };
        block_on(store.commit(written.clone())).unwrap();
        assert!(block_on(store.commit(written)).is_err());
        let lines = block_on(store.audit(AuditQuery::newest(9))).unwrap();
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0].actor, "a\0\u{1a}b");
        assert_eq!(commit(&store, vec![], vec![]), Ok(()));
    }
}
