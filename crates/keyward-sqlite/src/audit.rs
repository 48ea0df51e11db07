//! The rows of the audit log.

use keyward::record::{AdminErrorKind, AuditAction, AuditEntry};
use keyward::store::AuditQuery;
use keyward::{AccountId, Environment, KeyId};
use rusqlite::{Connection, Row, params};

use crate::row::{self, Cells};

/// Appends a line with the next number.
pub(crate) fn put(connection: &Connection, entry: &AuditEntry) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO keyward_audit (at, actor, action, account, key, refused, detail, reason, \
             environment) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )?
        .execute(params![
            row::millis(entry.at),
            entry.actor,
            entry.action.as_str(),
            entry.account.as_ref().map(AccountId::as_str),
            entry.key.map(|key| key.to_string()),
            entry.refused.map(AdminErrorKind::as_str),
            entry.detail,
            entry.reason,
            entry.environment.as_ref().map(Environment::as_str),
        ])
        .map(drop)
}

/// Returns the lines that match a query, newest first.
pub(crate) fn page(
    connection: &Connection,
    query: &AuditQuery,
) -> rusqlite::Result<Vec<AuditEntry>> {
    let mut lines = connection.prepare_cached(&page_sql(query))?;
    let before = query.before.map(i64::try_from);
    let mut lines = lines.query(params![
        before.and_then(Result::ok).unwrap_or(i64::MAX),
        query.account.as_ref().map(AccountId::as_str),
        query.environment.as_ref().map(Environment::as_str),
    ])?;
    row::valid(&mut lines, query.limit, entry)
}

/// Returns a statement for each combination of filters, so that each uses its index.
fn page_sql(query: &AuditQuery) -> String {
    let whose = match query.account {
        Some(_) => "account = ?2",
        None => "?2 IS NULL",
    };
    let of = match query.environment {
        Some(_) => "environment = ?3",
        None => "?3 IS NULL",
    };
    format!(
        "SELECT number, at, actor, action, account, environment, key, refused, detail, reason \
         FROM keyward_audit WHERE number < ?1 AND {whose} AND {of} ORDER BY number DESC"
    )
}

fn entry(row: &Row<'_>) -> rusqlite::Result<AuditEntry> {
    let mut cells = Cells::of(row);
    let number = cells.number()?;
    let at = cells.time()?;
    let actor: String = cells.get()?;
    let mut entry = AuditEntry::new(at, &actor, cells.parse(AuditAction::parse)?);
    entry.number = number;
    entry.account = cells.parse_some(AccountId::parse)?;
    entry.environment = cells.parse_some(Environment::parse)?;
    entry.key = cells.parse_some(KeyId::parse)?;
    entry.refused = cells.parse_some(AdminErrorKind::parse)?;
    entry.detail = cells.get()?;
    entry.reason = cells.get()?;
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use keyward::Store;
    use keyward::store::Commit;
    use keyward::testing::block_on;

    use super::*;
    use crate::SqliteStore;
    use crate::fixture::{Fixture, write};

    fn note(store: &SqliteStore, actor: &str) {
        let entry = AuditEntry::new(SystemTime::UNIX_EPOCH, actor, AuditAction::Create);
        let commit = Commit {
            audit: vec![entry],
            ..Commit::default()
        };
        write(store, commit).unwrap();
    }

    fn actors(store: &SqliteStore) -> Vec<String> {
        let lines = block_on(store.audit(AuditQuery::newest(9))).unwrap();
        lines.into_iter().map(|line| line.actor).collect()
    }

    #[test]
    fn a_page_of_an_environment_is_found_by_its_index() {
        let fixture = Fixture::new();
        drop(fixture.open());
        let connection = Connection::open(fixture.path()).unwrap();
        for (account, environment, index) in [
            (true, true, "keyward_audit_by_environment"),
            (true, false, "keyward_audit_by_account"),
            (false, false, "INTEGER PRIMARY KEY"),
        ] {
            let query = AuditQuery {
                account: account.then(|| AccountId::parse("acme").unwrap()),
                environment: environment.then_some(Environment::LIVE),
                ..AuditQuery::newest(9)
            };
            let sql = format!("EXPLAIN QUERY PLAN {}", page_sql(&query));
            let mut plan = connection.prepare(&sql).unwrap();
            let steps = plan.query_map([""; 3], |row| row.get::<_, String>("detail"));
            let steps: Vec<_> = steps.unwrap().map(Result::unwrap).collect();
            assert!(
                matches!(&*steps, [step] if step.contains(index)),
                "{steps:?}"
            );
        }
    }

    #[test]
    fn no_line_can_be_changed_or_deleted() {
        const LINE: &str = "(number, at, actor, action) VALUES (1, 0, 'x', 'create')";
        let fixture = Fixture::new();
        let store = fixture.open();
        note(&store, "ann");
        note(&store, "bob");
        for typed in [
            "UPDATE keyward_audit SET actor = 'x'",
            "UPDATE OR REPLACE keyward_audit SET number = 1 WHERE number = 2",
            "DELETE FROM keyward_audit",
            "DELETE FROM keyward_audit WHERE number = 2",
            "INSERT OR REPLACE INTO keyward_audit LINE",
            "INSERT INTO keyward_audit LINE ON CONFLICT (number) DO UPDATE SET actor = 'x'",
            "PRAGMA recursive_triggers = ON; REPLACE INTO keyward_audit LINE",
            "PRAGMA ignore_check_constraints = ON; UPDATE keyward_audit SET actor = NULL",
        ] {
            let typed = typed.replace("LINE", LINE);
            assert!(fixture.type_in(&typed).is_err(), "{typed}");
        }
        assert_eq!(actors(&store), ["bob", "ann"]);
    }

    #[test]
    fn a_line_that_makes_no_sense_hides_no_other() {
        let fixture = Fixture::new();
        let store = fixture.open();
        note(&store, "ann");
        let typed = "INSERT INTO keyward_audit (at, actor, action) VALUES (0, 'x', 'dance')";
        fixture.type_in(typed).unwrap();
        note(&store, "bob");
        assert_eq!(actors(&store), ["bob", "ann"]);
    }

    #[test]
    fn a_line_alone_is_no_change_of_the_keys() {
        let fixture = Fixture::new();
        let store = fixture.open();
        let before = store.replica().poll().since();
        note(&store, "ann");
        assert_eq!(store.replica().poll().since(), before);
    }
}
