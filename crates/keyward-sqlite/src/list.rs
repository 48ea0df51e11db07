//! Lists the keys of an account in pages.

use keyward::Environment;
use keyward::record::{KeyRecord, KeyState};
use keyward::store::{ActiveKeys, KeyQuery};
use rusqlite::{Connection, named_params};

use crate::row;

/// The SQL equivalent of [`KeyRecord::state`] for a row of the keys, at the time `:now`.
const STATE: &str = "CASE \
     WHEN status = 'revoked' OR epoch < min(4294967295, \
         (SELECT revoked_all FROM keyward_account WHERE id = keyward_key.account) \
         + coalesce((SELECT revoked FROM keyward_epoch WHERE account = keyward_key.account \
             AND environment = keyward_key.environment), 0)) \
     THEN 'revoked' \
     WHEN expires_at <= :now THEN 'expired' \
     WHEN status = 'active' AND not_before > :now THEN 'not_yet_valid' \
     ELSE status END";

/// Returns the keys that match a query, newest first.
pub(crate) fn page(connection: &Connection, query: &KeyQuery) -> rusqlite::Result<Vec<KeyRecord>> {
    let mut keys = connection.prepare_cached(&page_sql(query.state))?;
    // The first page begins above all keys.
    let (created_at, id) = match query.after {
        Some(after) => (after.created_at, after.id.to_string()),
        None => (u64::MAX, "~".to_owned()),
    };
    let mut keys = keys.query(named_params! {
        ":account": query.account.as_str(),
        ":environment": query.environment.as_ref().map(Environment::as_str),
        ":state": query.state.map(KeyState::as_str),
        ":now": row::millis(query.now),
        ":created_at": i64::try_from(created_at).unwrap_or(i64::MAX),
        ":id": id,
    })?;
    row::valid(&mut keys, query.limit, |row| row::used_key(connection, row))
}

/// Returns the statement for a page.
///
/// A row comparison would not use the index. There is no limit, as invalid rows do not count, and
/// SQLite reads the next row only when asked for it.
fn page_sql(state: Option<KeyState>) -> String {
    let not_revoked = match state {
        None | Some(KeyState::Revoked) => "",
        Some(_) => "AND status <> 'revoked'",
    };
    format!(
        "{} WHERE account = :account {not_revoked} \
         AND EXISTS (SELECT 1 FROM keyward_account WHERE id = :account) \
         AND max(created_at, 0) <= :created_at \
         AND (max(created_at, 0) < :created_at OR id < :id) \
         AND (:environment IS NULL OR environment = :environment) \
         AND (:state IS NULL OR {STATE} = :state) \
         ORDER BY max(created_at, 0) DESC, id DESC",
        row::KEYS
    )
}

/// Counts the keys of the account that are neither revoked nor expired.
pub(crate) fn count_active(connection: &Connection, bound: &ActiveKeys) -> rusqlite::Result<i64> {
    connection
        .prepare_cached(&format!(
            "SELECT count(*) FROM keyward_key \
             WHERE account = :account AND status <> 'revoked' AND {STATE} NOT IN ('revoked', 'expired')"
        ))?
        .query_row(
            named_params! {
                ":account": bound.account.as_str(),
                ":now": row::millis(bound.now),
            },
            |row| row.get(0),
        )
}

/// Returns the statement that counts usable keys per digest scheme.
pub(crate) fn schemes_sql() -> String {
    format!(
        "SELECT digest_scheme, count(*) FROM keyward_key \
         WHERE status <> 'revoked' AND {STATE} NOT IN ('revoked', 'expired') GROUP BY digest_scheme"
    )
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use keyward::Store;
    use keyward::store::KeyCursor;
    use keyward::testing::block_on;

    use super::*;
    use crate::fixture::{Fixture, add, commit, key};

    fn query(after: Option<KeyCursor>, record: &KeyRecord) -> KeyQuery {
        KeyQuery {
            account: record.account.clone(),
            environment: None,
            state: None,
            now: SystemTime::UNIX_EPOCH,
            after,
            limit: 2,
        }
    }

    #[test]
    fn a_page_is_read_in_the_order_of_the_index() {
        let fixture = Fixture::new();
        drop(fixture.open());
        let connection = Connection::open(fixture.path()).unwrap();
        let sql = format!("EXPLAIN QUERY PLAN {}", page_sql(None));
        let mut plan = connection.prepare(&sql).unwrap();
        let steps = plan.query_map([""; 6], |row| row.get::<_, String>("detail"));
        let steps: Vec<_> = steps.unwrap().map(Result::unwrap).collect();
        let wanted = "USING INDEX keyward_key_by_account (account=? AND <expr><?)";
        assert!(steps.iter().any(|step| step.contains(wanted)), "{steps:?}");
        assert!(!steps.iter().any(|step| step.contains("TEMP")), "{steps:?}");
    }

    #[test]
    fn pages_come_to_an_end_whatever_the_age_and_state_of_a_key() {
        let fixture = Fixture::new();
        let store = fixture.open();
        let (_, record) = add(&store, "acme");
        let mut all = vec![record.id];
        for n in 1..9 {
            let (_, mut record) = key("acme");
            record.created_at = SystemTime::UNIX_EPOCH - Duration::from_millis(n);
            all.push(record.id);
            commit(&store, vec![], vec![record]).unwrap();
        }
        let broken = all.swap_remove(4);
        fixture
            .type_in(&format!(
                "UPDATE keyward_key SET metadata = 'none' WHERE id = '{broken}'"
            ))
            .unwrap();
        let mut found = Vec::new();
        let mut after = None;
        loop {
            let page = block_on(store.keys(query(after, &record))).unwrap();
            let Some(last) = page.last() else { break };
            after = Some(KeyCursor::of(last));
            found.extend(page.iter().map(|key| key.id));
        }
        // For a cursor, all times before 1970 are equal.
        all.sort_unstable_by(|one, other| other.cmp(one));
        assert_eq!(found, all);
    }
}
