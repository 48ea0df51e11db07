//! What a poll reads.

use keyward::{Poll, Revision};
use rusqlite::{Connection, Row, Transaction};

use crate::row::{self, Broken};

/// Gives the replica what it has not seen. One transaction is one snapshot of the file.
pub(crate) fn feed(connection: &mut Connection, poll: &mut Poll<'_>) -> rusqlite::Result<Revision> {
    let snapshot = connection.transaction()?;
    let head = head(&snapshot)?;
    let known = match poll.since() {
        Some(since) if holds(&snapshot, since)? => Some(since.number.cast_signed()),
        _ => None,
    };
    let mut broken = match known {
        Some(number) => give(&snapshot, number, poll)?,
        None => Vec::new(),
    };
    // The replica may hold a broken row as it was before: only a restart makes it forget that.
    if known.is_none() || !broken.is_empty() {
        poll.restart();
        broken = give(&snapshot, i64::MIN, poll)?;
    }
    broken.iter().for_each(Broken::log);
    Ok(head)
}

fn head(snapshot: &Transaction<'_>) -> rusqlite::Result<Revision> {
    snapshot
        .prepare_cached("SELECT number, nonce FROM keyward_revision ORDER BY number DESC LIMIT 1")?
        .query_row([], |row| {
            Ok(Revision {
                number: row.get::<_, i64>(0)?.cast_unsigned(),
                nonce: row.get::<_, i64>(1)?.cast_unsigned(),
            })
        })
}

/// Whether the file's history leads through this change.
fn holds(snapshot: &Transaction<'_>, revision: Revision) -> rusqlite::Result<bool> {
    let Revision { number, nonce } = revision;
    snapshot
        .prepare_cached("SELECT 1 FROM keyward_revision WHERE number = ?1 AND nonce = ?2")?
        .exists([number.cast_signed(), nonce.cast_signed()])
}

/// Gives the rows above a revision, and tells which could not be given.
fn give(
    snapshot: &Transaction<'_>,
    above: i64,
    poll: &mut Poll<'_>,
) -> rusqlite::Result<Vec<Broken>> {
    let mut broken = Vec::new();
    each(snapshot, row::ACCOUNTS, above, &mut broken, |row| {
        poll.account(row::account(snapshot, row)?);
        Ok(())
    })?;
    each(snapshot, row::KEYS, above, &mut broken, |row| {
        poll.key(&row::key(row)?);
        Ok(())
    })?;
    Ok(broken)
}

fn each(
    snapshot: &Transaction<'_>,
    rows: &str,
    above: i64,
    broken: &mut Vec<Broken>,
    mut give: impl FnMut(&Row<'_>) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    let mut rows = snapshot.prepare_cached(&format!("{rows} WHERE revision > ?1"))?;
    let mut rows = rows.query([above])?;
    while let Some(row) = rows.next()? {
        if let Err(why) = give(row) {
            broken.push(Broken::new(row, why)?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use keyward::conformance::block_on;
    use keyward::{DenialKind, Store, StoreErrorKind};

    use crate::fixture::{Fixture, add, ask, ask_strictly};

    /// Past the checks of the table, as a program may that sets its mind to it.
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
                 status = 'active', scopes = '', origins = NULL, no_origin = 0, name = '', \
                 account = 'acme', epoch = 0, created_at = 0, expires_at = NULL, rate_limits = '', \
                 metadata = '{{}}', revoked_at = NULL, revoked_for = '', predecessor = NULL, \
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
}
