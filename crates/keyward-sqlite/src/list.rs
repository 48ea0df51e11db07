//! Lists and searches keys and accounts in pages.

use keyward::AccountId;
use keyward::record::{Account, AccountStatus, KeyRecord, KeyState};
use keyward::store::{AccountQuery, ActiveKeys, KeyCursor, KeyQuery, KeySearch};
use rusqlite::types::Value;
use rusqlite::{Connection, ToSql, named_params};

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

/// Returns the keys that match a query, in the order of the query.
pub(crate) fn page(connection: &Connection, query: &KeyQuery) -> rusqlite::Result<Vec<KeyRecord>> {
    let mut found = Vec::new();
    for part in parts(query) {
        let mut keys = connection.prepare_cached(&part.sql())?;
        let mut keys = keys.query(&*part.values())?;
        let limit = query.limit.saturating_sub(found.len());
        found.extend(row::valid(&mut keys, limit, |row| {
            row::used_key(connection, row)
        })?);
    }
    Ok(found)
}

/// A statement that lists keys in the order of an index.
struct Listing {
    conditions: Vec<String>,
    values: Vec<(String, Value)>,
    order: &'static str,
}

/// The order of all lists but those by name.
const NEWEST: &str = "max(created_at, 0) DESC, id DESC";

/// Returns the statements whose rows, one after the other, are the list.
///
/// Each reads one index from the position on. A search by name may stand among keys of the same
/// name, which come first.
fn parts(query: &KeyQuery) -> Vec<Listing> {
    let Some(KeySearch::Name(start)) = &query.search else {
        let mut part = Listing::of(query, NEWEST);
        if let Some(after) = &query.after {
            part.after(after);
        }
        return vec![part];
    };
    let start = start.to_ascii_lowercase();
    // No name that begins like this is behind.
    let end = format!("{start}{}", "\u{10ffff}".repeat(101));
    let mut beyond = Listing::of(
        query,
        "name COLLATE NOCASE, max(created_at, 0) DESC, id DESC",
    );
    beyond.and("name COLLATE NOCASE <= :name_end", "name_end", end);
    beyond.and(
        "substr(name, 1, length(:name_start)) = :name_start COLLATE NOCASE",
        "name_start",
        start.clone(),
    );
    let Some(after) = &query.after else {
        beyond.and("name COLLATE NOCASE >= :name", "name", start);
        return vec![beyond];
    };
    let name = after.name.clone().unwrap_or_default();
    beyond.and("name COLLATE NOCASE > :name", "name", name.clone());
    beyond.and("name COLLATE NOCASE >= :name_start", "name_start", start);
    let mut same = Listing::of(query, NEWEST);
    same.and("name COLLATE NOCASE = :name", "name", name);
    same.after(after);
    vec![same, beyond]
}

impl Listing {
    /// Creates the statement for everything but the position and a search by name.
    ///
    /// The sign before a column keeps SQLite from using its index: a search has the better one.
    fn of(query: &KeyQuery, order: &'static str) -> Self {
        let mut it = Self {
            conditions: vec![OWNED.to_owned()],
            values: vec![],
            order,
        };
        let sign = if query.search.is_some() { "+" } else { "" };
        if let Some(account) = &query.account {
            let condition = format!("{sign}account = :account");
            it.and(&condition, "account", account.as_str().to_owned());
        }
        if let Some(creator) = &query.created_by {
            // An account has few keys, and an actor may have created most.
            let sign = if query.account.is_some() { "+" } else { sign };
            let condition = format!("{sign}created_by = :created_by");
            it.and(&condition, "created_by", creator.clone());
        }
        match &query.search {
            None | Some(KeySearch::Name(_)) => {}
            Some(KeySearch::Id(id)) => it.and("id = :search", "search", id.to_string()),
            Some(KeySearch::Lineage(first)) => it.and(
                "id IN (SELECT id FROM keyward_key WHERE id = :search AND lineage = id UNION ALL \
                 SELECT id FROM keyward_key WHERE lineage = :search AND lineage <> id)",
                "search",
                first.to_string(),
            ),
            Some(KeySearch::Hint(hint)) => {
                it.and("substr(hint, -4) = :last", "last", hint.last().to_owned());
                let begins = "substr(hint, 1, length(:prefix)) = :prefix";
                it.and(begins, "prefix", hint.prefix().to_owned());
            }
            Some(KeySearch::Digest(digests)) => {
                let names: Vec<_> = (0..digests.len()).map(|n| format!(":digest{n}")).collect();
                let listed = format!("digest IN ({})", names.join(", "));
                it.conditions.push(listed);
                let bytes = digests
                    .iter()
                    .map(|own| Value::Blob(own.expose_bytes().to_vec()));
                it.values.extend(names.into_iter().zip(bytes));
            }
        }
        if let Some(environment) = &query.environment {
            let own = environment.as_str().to_owned();
            it.and("environment = :environment", "environment", own);
        }
        if let Some(kind) = query.kind {
            it.and("kind = :kind", "kind", kind.as_str().to_owned());
        }
        for (n, scope) in query.scopes.iter().enumerate() {
            let name = format!("scope{n}");
            let held = format!("instr(' ' || scopes || ' ', ' ' || :{name} || ' ') > 0");
            it.and(&held, &name, scope.to_owned());
        }
        if let Some(end) = query.expires_before {
            it.and("+expires_at < :end", "end", row::millis_after(end));
        }
        if let Some(since) = query.unused_since {
            let last_used =
                "(SELECT last_used_at FROM keyward_usage_key WHERE key = keyward_key.id)";
            let unused = format!("coalesce({last_used}, created_at) < :since");
            it.and(&unused, "since", row::millis_after(since));
        }
        if let Some(state) = query.state {
            if state != KeyState::Revoked {
                it.conditions.push("status <> 'revoked'".to_owned());
            }
            let is_in_state = format!("{STATE} = :state");
            it.and(&is_in_state, "state", state.as_str().to_owned());
            it.values
                .push((":now".to_owned(), row::millis(query.now).into()));
        }
        it
    }

    fn and(&mut self, condition: &str, name: &str, value: impl Into<Value>) {
        self.conditions.push(condition.to_owned());
        let name = format!(":{name}");
        if self.values.iter().all(|(old, _)| *old != name) {
            self.values.push((name, value.into()));
        }
    }

    /// Begins after this position. A row comparison would not use the index.
    fn after(&mut self, after: &KeyCursor) {
        let created_at = i64::try_from(after.created_at).unwrap_or(i64::MAX);
        self.and(
            "max(created_at, 0) <= :created_at",
            "created_at",
            created_at,
        );
        self.and(
            "(max(created_at, 0) < :created_at OR id < :id)",
            "id",
            after.id.to_string(),
        );
    }

    /// Returns the statement.
    ///
    /// There is no limit, as invalid rows do not count, and SQLite reads the next row only when
    /// asked for it.
    fn sql(&self) -> String {
        let (conditions, order) = (self.conditions.join(" AND "), self.order);
        format!("{} WHERE {conditions} ORDER BY {order}", row::KEYS)
    }

    fn values(&self) -> Vec<(&str, &dyn ToSql)> {
        let values = self.values.iter();
        values
            .map(|(name, value)| (name.as_str(), value as &dyn ToSql))
            .collect()
    }
}

/// The account of a key is stored. `EXISTS` could become a join, which is read in another order.
const OWNED: &str = "(SELECT 1 FROM keyward_account WHERE id = keyward_key.account)";

/// Returns the accounts that match a query, in the order of their ids.
pub(crate) fn accounts(
    connection: &Connection,
    query: &AccountQuery,
) -> rusqlite::Result<Vec<Account>> {
    let mut accounts = connection.prepare_cached(&accounts_sql(query.status))?;
    let mut accounts = accounts.query(named_params! {
        ":start": query.prefix,
        // Behind every id that begins so: an id has no character beyond `~`.
        ":end": format!("{}\u{7f}", query.prefix),
        ":after": query.after.as_ref().map_or("", AccountId::as_str),
        ":status": query.status.map(AccountStatus::as_str),
    })?;
    row::valid(&mut accounts, query.limit, |row| {
        row::account(connection, row)
    })
}

fn accounts_sql(status: Option<AccountStatus>) -> String {
    let status = match status {
        Some(_) => "status = :status",
        None => ":status IS NULL",
    };
    format!(
        "{} WHERE {status} AND id >= max(:start, :after) AND id < :end AND id <> :after ORDER BY id",
        row::ACCOUNTS
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

    use keyward::key::{DigestScheme, Hint, KeyDigest};
    use keyward::testing::block_on;
    use keyward::{Environment, KeyId, KeyKind, Scopes, Store};

    use super::*;
    use crate::fixture::{Fixture, add, commit, key};

    fn query(after: Option<KeyCursor>, record: &KeyRecord) -> KeyQuery {
        KeyQuery {
            account: Some(record.account.clone()),
            after,
            ..KeyQuery::newest(SystemTime::UNIX_EPOCH, 2)
        }
    }

    /// Returns the steps in which SQLite answers a statement.
    fn plan(connection: &Connection, sql: &str) -> Vec<String> {
        let sql = format!("EXPLAIN QUERY PLAN {sql}");
        let mut plan = connection.prepare(&sql).unwrap();
        let steps = plan
            .raw_query()
            .mapped(|row| row.get::<_, String>("detail"));
        steps.map(Result::unwrap).collect()
    }

    type Change = fn(&mut KeyQuery);

    /// Every way to find keys, with its index within an account and over all accounts.
    const WAYS: [(Change, &str, &str); 8] = [
        (
            |_| {},
            "keyward_key_by_account (account=?",
            "keyward_key_by_creation",
        ),
        (
            |query| query.state = Some(KeyState::Active),
            "keyward_key_not_revoked (account=?",
            "keyward_key_by_creation",
        ),
        (
            |query| query.created_by = Some("user:ann".to_owned()),
            "keyward_key_by_account (account=?",
            "keyward_key_by_creator (created_by=?",
        ),
        (
            |query| query.search = Some(KeySearch::Hint(Hint::parse("x_…abcd").unwrap())),
            "keyward_key_by_hint (<expr>=?",
            "keyward_key_by_hint (<expr>=?",
        ),
        (
            |query| query.search = Some(KeySearch::Name("prod".to_owned())),
            "keyward_key_by_name (name",
            "keyward_key_by_name (name",
        ),
        (
            |query| query.search = Some(KeySearch::Id(KeyId::random().unwrap())),
            "PRIMARY KEY (id=?",
            "PRIMARY KEY (id=?",
        ),
        (
            |query| query.search = Some(KeySearch::Lineage(KeyId::random().unwrap())),
            "keyward_key_by_lineage (lineage=?",
            "keyward_key_by_lineage (lineage=?",
        ),
        (
            |query| {
                let digest = KeyDigest::new(DigestScheme::Sha256, [7; 32]);
                query.search = Some(KeySearch::Digest(vec![digest.clone(), digest]));
            },
            "sqlite_autoindex_keyward_key_2 (digest=?",
            "sqlite_autoindex_keyward_key_2 (digest=?",
        ),
    ];

    /// What may be asked for besides.
    const BESIDES: [Change; 4] = [
        |_| {},
        |query| query.after = Some(KeyCursor::parse("7.key_0123456789ab.6170").unwrap()),
        |query| {
            query.environment = Some(Environment::LIVE);
            query.kind = Some(KeyKind::Secret);
            query.scopes = Scopes::parse(["a", "b"]).unwrap();
            query.unused_since = Some(SystemTime::UNIX_EPOCH);
            query.expires_before = Some(SystemTime::UNIX_EPOCH);
        },
        |query| {
            query.state = Some(KeyState::Active);
            if query.account.is_some() || query.search.is_some() {
                query.created_by = Some("user:ann".to_owned());
            }
        },
    ];

    #[test]
    fn every_list_and_search_reads_its_index_in_order_and_no_whole_table() {
        let fixture = Fixture::new();
        let store = fixture.open();
        let (_, record) = add(&store, "acme");
        let connection = Connection::open(fixture.path()).unwrap();
        let mut seen = 0;
        for (way, of_account, of_all) in WAYS {
            for (account, index) in [(Some(&record.account), of_account), (None, of_all)] {
                for besides in BESIDES {
                    let mut query = KeyQuery::newest(SystemTime::UNIX_EPOCH, 2);
                    query.account = account.cloned();
                    way(&mut query);
                    besides(&mut query);
                    // Either index of an account is in the order of the list.
                    let index = match (index, query.state) {
                        ("keyward_key_by_account (account=?", Some(_)) => "keyward_key_not_revoked",
                        (index, _) => index,
                    };
                    for part in parts(&query) {
                        let steps = plan(&connection, &part.sql());
                        let reads = |step: &String| step.contains(index);
                        assert!(steps.iter().any(reads), "{index}: {steps:?}");
                        // Without a search, a list over all accounts may read all of its index.
                        let is_scan = |step: &String| step.starts_with("SCAN");
                        let may = |step: &String| step.contains("keyward_key_by_creation");
                        let scans = steps.iter().any(|step| is_scan(step) && !may(step));
                        assert!(!scans, "{steps:?}");
                        // There are few keys with one id, lineage or digest.
                        let few = matches!(
                            query.search,
                            Some(KeySearch::Id(_) | KeySearch::Lineage(_) | KeySearch::Digest(_))
                        );
                        let sorts = |step: &String| step.contains("ORDER BY");
                        assert!(few || !steps.iter().any(sorts), "{steps:?}");
                        seen += 1;
                    }
                }
            }
        }
        assert_eq!(seen, 2 * (8 * 4 + 1), "a name has two parts after a page");
        for (status, index) in [
            (None, "PRIMARY KEY (id>? AND id<?)"),
            (
                Some(AccountStatus::Suspended),
                "keyward_account_by_status (status=? AND id>? AND id<?)",
            ),
        ] {
            let steps = plan(&connection, &accounts_sql(status));
            assert!(
                matches!(&*steps, [step] if step.contains(index)),
                "{steps:?}"
            );
        }
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
