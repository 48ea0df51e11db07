//! The rows that a poll reads.

use keyward::replica::{Poll, Revision};
use rusqlite::types::Value;
use rusqlite::{Connection, Row, ToSql, params};

use crate::row::{self, Broken};

/// The number of rows that a full reload reads at a time.
const AT_ONCE: usize = 2000;

/// The result of a poll.
pub(crate) struct News {
    /// The latest change.
    pub(crate) head: Revision,
    /// Set if the poll got everything that is new. Otherwise a full reload is needed.
    pub(crate) is_all: bool,
}

/// Gives the replica what it has not seen.
///
/// If that is not known, it gives what has changed since `own`. One transaction is one snapshot of
/// the file.
pub(crate) fn feed(
    connection: &mut Connection,
    poll: &mut Poll,
    own: Option<Revision>,
) -> rusqlite::Result<News> {
    let snapshot = connection.transaction()?;
    let head = head(&snapshot)?;
    let since = poll.since();
    let is_known = match since {
        Some(since) => holds(&snapshot, since)? && has_seen_the_pruned(&snapshot, since)?,
        None => false,
    };
    let from = since.filter(|_| is_known).or(own);
    let broken = match from {
        Some(from) => {
            let with_accounts = !is_known || poll.is_beside_reload();
            give(
                &snapshot,
                from.number.cast_signed(),
                i64::MIN,
                with_accounts,
                poll,
            )?
        }
        None => Vec::new(),
    };
    // The replica may have a broken row as it was before; a full reload drops it.
    let is_all = is_known && broken.is_empty() && !poll.must_restart();
    Ok(News { head, is_all })
}

/// Gives the replica everything, from one snapshot of the file.
pub(crate) fn load(connection: &mut Connection, poll: &mut Poll) -> rusqlite::Result<Revision> {
    let snapshot = connection.transaction()?;
    poll.restart();
    let remembered = row::millis(poll.remembers_since());
    let broken = give(&snapshot, i64::MIN, remembered, false, poll)?;
    broken.iter().for_each(Broken::log);
    head(&snapshot)
}

/// Gives a reload everything, and returns the last change that it may have read.
///
/// It returns `None` if it was stopped. It reads some rows at a time, each time from another
/// snapshot, so that the log can be checkpointed meanwhile. Changes in between are given by polls.
pub(crate) fn read_all(
    connection: &Connection,
    poll: &mut Poll,
    is_over: impl Fn() -> bool,
) -> rusqlite::Result<Option<Revision>> {
    let remembered = row::millis(poll.remembers_since());
    let mut broken = Vec::new();
    let accounts = format!("{} WHERE ?2 IS NOT NULL", row::ACCOUNTS);
    let keys = format!("{} WHERE {DIED_AFTER}", row::KEYS);
    for (rows, are_keys) in [(accounts, false), (keys, true)] {
        let rows = format!("{rows} AND id > ?1 ORDER BY id LIMIT {AT_ONCE}");
        let mut after = Value::Text(String::new());
        let mut last = AT_ONCE;
        while last == AT_ONCE {
            if is_over() {
                return Ok(None);
            }
            last = 0;
            let begun = params![after.clone(), remembered];
            each(connection, &rows, begun, &mut broken, |row| {
                last += 1;
                after = row.get(0)?;
                if are_keys {
                    poll.key(&row::key(row)?);
                } else {
                    poll.account(row::account(connection, row)?);
                }
                Ok(())
            })?;
        }
    }
    broken.iter().for_each(Broken::log);
    head(connection).map(Some)
}

/// Returns the latest change.
pub(crate) fn head(snapshot: &Connection) -> rusqlite::Result<Revision> {
    snapshot
        .prepare_cached("SELECT number, nonce FROM keyward_revision ORDER BY number DESC LIMIT 1")?
        .query_row([], |row| {
            Ok(Revision {
                number: row.get::<_, i64>(0)?.cast_unsigned(),
                nonce: row.get::<_, i64>(1)?.cast_unsigned(),
            })
        })
}

/// Returns whether the history of the file contains this change.
fn holds(snapshot: &Connection, revision: Revision) -> rusqlite::Result<bool> {
    let Revision { number, nonce } = revision;
    snapshot
        .prepare_cached("SELECT 1 FROM keyward_revision WHERE number = ?1 AND nonce = ?2")?
        .exists([number.cast_signed(), nonce.cast_signed()])
}

/// Returns whether a poll up to this change has read of each pruned key that it is dead.
fn has_seen_the_pruned(snapshot: &Connection, since: Revision) -> rusqlite::Result<bool> {
    snapshot
        .prepare_cached("SELECT coalesce(max(revision), ?1 + 1) <= ?1 FROM keyward_buried")?
        .query_row([since.number.cast_signed()], |row| row.get(0))
}

/// Excludes keys that died too long ago.
const DIED_AFTER: &str = "(expires_at IS NULL OR expires_at > ?2) \
     AND NOT (status = 'revoked' AND revoked_at IS NOT NULL AND revoked_at <= ?2)";

/// Gives the rows above a revision, without keys that died too long ago.
///
/// It returns the rows that could not be given. On request, it also gives the accounts of the keys.
fn give(
    snapshot: &Connection,
    above: i64,
    died_after: i64,
    with_accounts: bool,
    poll: &mut Poll,
) -> rusqlite::Result<Vec<Broken>> {
    let mut broken = Vec::new();
    let of_keys = if with_accounts {
        "OR id IN (SELECT account FROM keyward_key WHERE revision > ?1)"
    } else {
        ""
    };
    let accounts = format!("{} WHERE revision > ?1 {of_keys}", row::ACCOUNTS);
    each(snapshot, &accounts, params![above], &mut broken, |row| {
        poll.account(row::account(snapshot, row)?);
        Ok(())
    })?;
    let keys = format!("{} WHERE revision > ?1 AND {DIED_AFTER}", row::KEYS);
    let from = params![above, died_after];
    each(snapshot, &keys, from, &mut broken, |row| {
        poll.key(&row::key(row)?);
        Ok(())
    })?;
    Ok(broken)
}

fn each(
    snapshot: &Connection,
    rows: &str,
    from: &[&dyn ToSql],
    broken: &mut Vec<Broken>,
    mut give: impl FnMut(&Row<'_>) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    let mut rows = snapshot.prepare_cached(rows)?;
    let mut rows = rows.query(from)?;
    while let Some(row) = rows.next()? {
        if let Err(why) = give(row) {
            broken.push(Broken::new(row, why)?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use keyward::denial::DenialKind;
    use keyward::store::StoreErrorKind;
    use keyward::testing::block_on;
    use keyward::{AccountId, Actor, Environment, Grace, KeyAdmin, NewKey, Store};
    use rusqlite::Connection;

    use crate::SqliteOptions;
    use crate::fixture::{Fixture, add, ask, ask_strictly, scheme, type_inside};

    /// Writes a value past the checks of the table, as a program could.
    fn force(fixture: &Fixture, sql: &str) {
        fixture
            .type_in(&format!("PRAGMA ignore_check_constraints = ON; {sql}"))
            .unwrap();
    }

    #[test]
    fn a_row_that_is_not_valid_closes_that_key_only() {
        let fixture = Fixture::new();
        let store = fixture.open_slow();
        let (secret, record) = add(&store, "acme");
        let (others, _) = add(&store, "other");
        for odd in [
            "environment = 'Not An Environment'",
            "environment = X'ff'",
            "hint = 'none'",
            "kind = 'both'",
            "status = 'Active'",
            "scopes = '*'",
            "scopes = X'ff'",
            "scopes = CAST(X'ff' AS TEXT)",
            "origins = ''",
            "origins = 'null'",
            "addresses = ''",
            "addresses = '0.0.0.0/0'",
            "no_origin = 'x'",
            "no_origin = 2",
            "name = X'00'",
            "account = 'two words'",
            "epoch = -1",
            "epoch = 4294967296",
            "created_at = 'long ago'",
            "expires_at = 'never'",
            "expires_at = 1e300",
            "rate_limits = '100'",
            "rate_limits = '1/1;0'",
            "metadata = '[]'",
            "metadata = '{\"a\":}'",
            "revoked_at = 'once'",
            "not_before = 'soon'",
            "created_by = X'00'",
            "disabled_by_name = X'00'",
            "revoked_for = X'00'",
            "predecessor = 'key_1'",
            "successor = 'next'",
        ] {
            let only = format!("WHERE id = '{}'", record.id);
            force(&fixture, &format!("UPDATE keyward_key SET {odd} {only}"));
            assert_eq!(
                ask_strictly(&store, &secret),
                Err(DenialKind::Unknown),
                "{odd}"
            );
            assert_eq!(ask_strictly(&store, &others), Ok(()), "{odd}");
            let error = block_on(store.key(record.id)).unwrap_err();
            assert_eq!(error.kind(), StoreErrorKind::Corrupt, "{odd}");
            assert_eq!(ask(&fixture.open(), &others), Ok(()), "{odd}, when opened");

            fixture
                .type_in(&format!(
                    "UPDATE keyward_key SET environment = 'live', hint = '{}', kind = 'secret', \
                 status = 'active', scopes = '', origins = NULL, addresses = NULL, no_origin = 0, name = '', \
                 account = 'acme', epoch = 0, created_at = 0, expires_at = NULL, rate_limits = '', \
                 metadata = '{{}}', not_before = NULL, created_by = NULL, disabled_by_name = NULL, \
                 revoked_at = NULL, revoked_for = '', predecessor = NULL, \
                 successor = NULL {only}",
                    record.hint
                ))
                .unwrap();
            assert_eq!(ask_strictly(&store, &secret), Ok(()), "mended");
        }
    }

    #[test]
    fn an_account_that_is_not_valid_closes_its_keys() {
        let fixture = Fixture::new();
        let store = fixture.open_slow();
        let (secret, record) = add(&store, "acme");
        let (others, _) = add(&store, "other");
        for (odd, mended) in [
            (
                "UPDATE keyward_account SET status = 'x' WHERE id = 'acme'",
                "UPDATE keyward_account SET status = 'active' WHERE id = 'acme'",
            ),
            (
                "UPDATE keyward_account SET api_access = 2 WHERE id = 'acme'",
                "UPDATE keyward_account SET api_access = 1 WHERE id = 'acme'",
            ),
            (
                "UPDATE keyward_account SET max_active_keys = -1 WHERE id = 'acme'",
                "UPDATE keyward_account SET max_active_keys = NULL WHERE id = 'acme'",
            ),
            (
                "UPDATE keyward_account SET revoked_all = 'x' WHERE id = 'acme'",
                "UPDATE keyward_account SET revoked_all = 0 WHERE id = 'acme'",
            ),
            (
                "INSERT INTO keyward_epoch VALUES ('acme', 'TEST', 1)",
                "DELETE FROM keyward_epoch",
            ),
            (
                "INSERT INTO keyward_epoch VALUES ('acme', 'test', 'x')",
                "DELETE FROM keyward_epoch",
            ),
        ] {
            force(&fixture, odd);
            assert_eq!(
                ask_strictly(&store, &secret),
                Err(DenialKind::Revoked),
                "{odd}"
            );
            assert_eq!(ask_strictly(&store, &others), Ok(()), "{odd}");
            let error = block_on(store.account(record.account.clone())).unwrap_err();
            assert_eq!(error.kind(), StoreErrorKind::Corrupt, "{odd}");
            fixture.type_in(mended).unwrap();
            assert_eq!(ask_strictly(&store, &secret), Ok(()), "{mended}");
        }
    }

    #[test]
    fn origins_typed_in_are_demanded_of_every_call() {
        let fixture = Fixture::new();
        let store = fixture.open_slow();
        let (secret, _) = add(&store, "acme");
        assert_eq!(ask_strictly(&store, &secret), Ok(()));
        let listed = "UPDATE keyward_key SET origins = 'shop.example'";
        fixture.type_in(listed).unwrap();
        assert_eq!(
            ask_strictly(&store, &secret),
            Err(DenialKind::OriginMissing)
        );
    }

    #[test]
    fn addresses_typed_in_are_demanded_of_every_call() {
        let fixture = Fixture::new();
        let store = fixture.open_slow();
        let (secret, record) = add(&store, "acme");
        assert_eq!(ask_strictly(&store, &secret), Ok(()));
        let listed = "UPDATE keyward_key SET addresses = '10.0.0.0/8 ::ffff:192.0.2.1'";
        fixture.type_in(listed).unwrap();
        assert_eq!(
            ask_strictly(&store, &secret),
            Err(DenialKind::AddressUnknown)
        );
        let addresses = block_on(store.key(record.id)).unwrap().unwrap().addresses;
        assert!(addresses.ranges().eq(["10.0.0.0/8", "192.0.2.1"]));
    }

    #[test]
    fn a_key_whose_metadata_repeats_a_name_still_loads() {
        let fixture = Fixture::new();
        let store = fixture.open_slow();
        let (secret, record) = add(&store, "acme");
        let kept = r#"{"a":1,"a":2}"#;
        let typed = format!("UPDATE keyward_key SET metadata = '{kept}'");
        fixture.type_in(&typed).unwrap();
        assert_eq!(ask_strictly(&store, &secret), Ok(()));
        let stored = block_on(store.key(record.id)).unwrap().unwrap();
        assert_eq!(stored.metadata.as_str(), kept);
    }

    #[test]
    fn a_history_without_an_end_is_not_read() {
        let fixture = Fixture::new();
        let store = fixture.open_slow();
        let (secret, _) = add(&store, "acme");
        fixture.type_in("DELETE FROM keyward_revision").unwrap();
        assert_eq!(ask_strictly(&store, &secret), Err(DenialKind::Unavailable));
    }

    fn rows(fixture: &Fixture, table: &str) -> i64 {
        let file = Connection::open(fixture.path()).unwrap();
        let count = format!("SELECT count(*) FROM {table}");
        file.query_row(&count, [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn the_last_ten_thousand_revisions_are_kept_and_a_poll_behind_them_reads_everything() {
        let fixture = Fixture::new();
        let (store, behind) = (fixture.open_slow(), fixture.open_slow());
        let (secret, _) = add(&store, "acme");
        assert_eq!(ask_strictly(&behind, &secret), Ok(()));
        let many = "UPDATE keyward_key SET status = 'revoked'; \
            WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10500) \
            INSERT INTO keyward_revision (nonce) SELECT random() FROM n";
        fixture.type_in(many).unwrap();
        assert_eq!(rows(&fixture, "keyward_revision"), 10_000);
        assert_eq!(ask_strictly(&behind, &secret), Err(DenialKind::Revoked));
        let since = behind.replica().poll().since().unwrap();
        assert!(since.number > 10_500, "{since:?}");
    }

    #[test]
    fn keys_that_died_long_ago_are_not_read_when_a_file_is_opened() {
        let fixture = Fixture::new();
        let store = fixture.open();
        let (secret, _) = add(&store, "acme");
        let (_, month) = crate::fixture::key("acme");
        crate::fixture::commit(&store, vec![], vec![month]).unwrap();
        drop(store);
        // Of 5,000 keys 4,000 are dead: half of them long ago, and a few of the others are
        // remembered.
        fixture
            .type_in(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4998) \
                 INSERT INTO keyward_key (id, digest_scheme, digest, hint, account, environment, \
                 created_at, lineage, status, revoked_at, expires_at) \
                 SELECT 'key_' || printf('%012d', i), digest_scheme, randomblob(32), hint, account, \
                 environment, created_at, lineage, iif(i % 5 < 2, 'revoked', 'active'), \
                 iif(i % 5 < 2, (unixepoch() - i % 5 * 5000000) * 1000, NULL), \
                 CASE i % 5 WHEN 2 THEN (unixepoch() - 60) * 1000 \
                 WHEN 3 THEN (unixepoch() - 5000000) * 1000 END \
                 FROM n, (SELECT * FROM keyward_key LIMIT 1)",
            )
            .unwrap();
        let options = SqliteOptions::new().ceiling(100);
        let store = options.open(fixture.path()).unwrap();
        assert_eq!(ask(&store, &secret), Ok(()));
        assert_eq!(store.replica().living(), 1001);
        assert_eq!(store.replica().above_ceiling(), 901);
        assert_eq!(store.replica().len(), 1011);
    }

    #[test]
    fn keys_that_come_and_go_leave_in_the_file_what_is_kept_of_them_and_nothing_else() {
        let fixture = Fixture::new();
        let options = SqliteOptions::new().ceiling(1000);
        let store = Arc::new(options.open(fixture.path()).unwrap());
        type_inside(&store, "PRAGMA synchronous = OFF");
        let admin = KeyAdmin::new(&store, &scheme());
        let (operator, acme) = (Actor::operator("test"), AccountId::parse("acme").unwrap());
        block_on(admin.open_account(&operator, &acme)).unwrap();
        // As in a file that has been in use for long.
        fixture
            .type_in(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000) \
                 INSERT INTO keyward_revision (nonce) SELECT random() FROM n",
            )
            .unwrap();
        let cycle = || {
            let new = NewKey::new(acme.clone(), Environment::LIVE, "key");
            let first = block_on(admin.create(&operator, new)).unwrap().record.id;
            let grace = Grace::For(Duration::from_secs(60));
            let second = block_on(admin.rotate(&operator, first, grace)).unwrap();
            for id in [first, second.record.id] {
                block_on(admin.revoke(&operator, id, "test")).unwrap();
            }
        };
        let count = || {
            block_on(store.flush()).unwrap();
            let file = Connection::open(fixture.path()).unwrap();
            let tables = "SELECT name FROM sqlite_master WHERE type = 'table' \
                          AND name NOT IN ('keyward_key', 'keyward_audit')";
            let mut tables = file.prepare(tables).unwrap();
            let names = tables.query_map([], |row| row.get::<_, String>(0)).unwrap();
            let names: Vec<_> = names.map(Result::unwrap).collect();
            let counted = names.into_iter().map(|name| {
                let rows = rows(&fixture, &name);
                (name, rows)
            });
            (counted.collect::<Vec<_>>(), store.replica().len())
        };
        (0..200).for_each(|_| cycle());
        let tenth = count();
        (0..1800).for_each(|_| cycle());
        assert_eq!(count(), tenth);
        assert_eq!(tenth.1, 100, "a tenth of the ceiling");
        assert_eq!(rows(&fixture, "keyward_key"), 4000);
    }
}
