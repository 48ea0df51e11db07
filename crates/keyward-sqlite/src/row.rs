//! Accounts and keys as rows.

use std::time::{Duration, SystemTime};

use keyward::{
    Account, AccountId, AccountStatus, DigestScheme, Environment, Hint, KeyDigest, KeyId, KeyKind,
    KeyRecord, KeyStatus, OriginPolicy, ParseError, Scopes,
};
use rusqlite::types::{FromSql, Type};
use rusqlite::{Connection, Error, Row, params};

/// The columns that [`account`] reads.
pub(crate) const ACCOUNTS: &str = "SELECT id, revision, status, api_access FROM keyward_account";

/// The columns that [`key`] reads.
pub(crate) const KEYS: &str = "SELECT id, digest_scheme, digest, hint, account, environment, \
     created_at, revision, name, kind, scopes, no_origin, origins, epoch, status, expires_at \
     FROM keyward_key";

/// The account of a row of [`ACCOUNTS`].
pub(crate) fn account(connection: &Connection, row: &Row<'_>) -> rusqlite::Result<Account> {
    let mut cells = Cells { row, next: 0 };
    let mut account = Account::new(cells.parse(AccountId::parse)?);
    account.revision = cells.get::<i64>()?.cast_unsigned();
    account.status = cells.parse(AccountStatus::parse)?;
    account.api_access = cells.get()?;

    let epochs = "SELECT environment, revoked_before FROM keyward_epoch WHERE account = ?1";
    let mut epochs = connection.prepare_cached(epochs)?;
    let mut epochs = epochs.query([account.id.as_str()])?;
    while let Some(row) = epochs.next()? {
        let mut cells = Cells { row, next: 0 };
        let environment = cells.parse(Environment::parse)?;
        account.revoked_before.insert(environment, cells.get()?);
    }
    Ok(account)
}

/// The key of a row of [`KEYS`].
pub(crate) fn key(row: &Row<'_>) -> rusqlite::Result<KeyRecord> {
    let mut cells = Cells { row, next: 0 };
    let id = cells.parse(KeyId::parse)?;
    let digest = KeyDigest::new(cells.parse(DigestScheme::parse)?, cells.get()?);
    let hint = cells.parse(Hint::parse)?;
    let account = cells.parse(AccountId::parse)?;
    let environment = cells.parse(Environment::parse)?;
    let created_at = cells.get().and_then(|millis| cells.time(millis))?;
    let mut key = KeyRecord::new(id, digest, hint, account, environment, created_at);
    key.revision = cells.get::<i64>()?.cast_unsigned();
    key.name = cells.get()?;
    key.kind = cells.parse(KeyKind::parse)?;
    key.scopes = cells.parse(|text| Scopes::parse(text.split_ascii_whitespace()))?;
    let no_origin = cells.get()?;
    if let Some(text) = cells.get::<Option<String>>()? {
        let listed = cells.valid(OriginPolicy::listed(text.split_ascii_whitespace()))?;
        key.origins = if no_origin {
            listed.or_no_origin()
        } else {
            listed
        };
    }
    key.epoch = cells.get()?;
    key.status = cells.parse(KeyStatus::parse)?;
    let expires_at = cells.get::<Option<i64>>()?;
    key.expires_at = expires_at.map(|millis| cells.time(millis)).transpose()?;
    Ok(key)
}

/// Writes an account over the one of its revision; fails when there is none.
pub(crate) fn put_account(connection: &Connection, account: &Account) -> rusqlite::Result<()> {
    let id = account.id.as_str();
    let sql = if account.revision == 0 {
        "INSERT INTO keyward_account (id, revision, status, api_access) VALUES (?1, ?2, ?3, ?4)"
    } else {
        "UPDATE keyward_account SET status = ?3, api_access = ?4 WHERE id = ?1 AND revision = ?2"
    };
    one(connection.prepare_cached(sql)?.execute(params![
        id,
        account.revision.cast_signed(),
        account.status.as_str(),
        account.api_access,
    ])?)?;
    connection
        .prepare_cached("DELETE FROM keyward_epoch WHERE account = ?1")?
        .execute([id])?;
    for (environment, epoch) in &account.revoked_before {
        connection
            .prepare_cached("INSERT INTO keyward_epoch VALUES (?1, ?2, ?3)")?
            .execute(params![id, environment.as_str(), i64::from(*epoch)])?;
    }
    Ok(())
}

/// Writes a key over the one of its revision; fails when there is none.
pub(crate) fn put_key(connection: &Connection, key: &KeyRecord) -> rusqlite::Result<()> {
    let sql = if key.revision == 0 {
        "INSERT INTO keyward_key (id, revision, digest_scheme, digest, hint, name, account, \
         environment, kind, scopes, origins, no_origin, epoch, status, created_at, expires_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)"
    } else {
        "UPDATE keyward_key SET digest_scheme = ?3, digest = ?4, hint = ?5, name = ?6, \
         account = ?7, environment = ?8, kind = ?9, scopes = ?10, origins = ?11, no_origin = ?12, \
         epoch = ?13, status = ?14, created_at = ?15, expires_at = ?16 \
         WHERE id = ?1 AND revision = ?2"
    };
    let listed = key.origins != OriginPolicy::Any;
    one(connection.prepare_cached(sql)?.execute(params![
        key.id.to_string(),
        key.revision.cast_signed(),
        key.digest.scheme().to_string(),
        key.digest.expose_bytes(),
        key.hint.to_string(),
        key.name,
        key.account.as_str(),
        key.environment.as_str(),
        key.kind.as_str(),
        spaced(key.scopes.iter()),
        listed.then(|| spaced(key.origins.patterns())),
        key.origins.allows_no_origin(),
        i64::from(key.epoch),
        key.status.as_str(),
        millis(key.created_at),
        key.expires_at.map(millis),
    ])?)
}

/// Reads a row from left to right.
struct Cells<'a> {
    row: &'a Row<'a>,
    next: usize,
}

impl Cells<'_> {
    fn get<T: FromSql>(&mut self) -> rusqlite::Result<T> {
        self.next += 1;
        self.row.get(self.next - 1)
    }

    fn parse<T>(
        &mut self,
        parse: impl FnOnce(&str) -> Result<T, ParseError>,
    ) -> rusqlite::Result<T> {
        let text: String = self.get()?;
        self.valid(parse(&text))
    }

    /// What was made of the cell that was read last.
    fn valid<T>(&self, parsed: Result<T, ParseError>) -> rusqlite::Result<T> {
        parsed.map_err(|error| {
            Error::FromSqlConversionFailure(self.next - 1, Type::Text, Box::new(error))
        })
    }

    /// The time of the cell that was read last; not every platform can tell every time.
    fn time(&self, millis: i64) -> rusqlite::Result<SystemTime> {
        let distance = Duration::from_millis(millis.unsigned_abs());
        let time = if millis < 0 {
            SystemTime::UNIX_EPOCH.checked_sub(distance)
        } else {
            SystemTime::UNIX_EPOCH.checked_add(distance)
        };
        time.ok_or(Error::IntegralValueOutOfRange(self.next - 1, millis))
    }
}

/// Milliseconds since the Unix epoch, rounded down; the last there are for a time beyond them.
fn millis(time: SystemTime) -> i64 {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_millis()).unwrap_or(i64::MAX),
        Err(before) => {
            let nanos = before.duration().as_nanos();
            i64::try_from(nanos.div_ceil(1_000_000)).map_or(i64::MIN, |millis| -millis)
        }
    }
}

fn spaced<'a>(words: impl Iterator<Item = &'a str>) -> String {
    words.collect::<Vec<_>>().join(" ")
}

fn one(changed: usize) -> rusqlite::Result<()> {
    match changed {
        1 => Ok(()),
        other => Err(Error::StatementChangedRows(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Fixture, add, commit, stored};

    #[test]
    fn a_time_of_any_age_is_kept_to_the_millisecond() {
        let fixture = Fixture::new();
        let store = fixture.open();
        let (_, mut record) = add(&store, "acme");
        let epoch = SystemTime::UNIX_EPOCH;
        for (time, kept) in [
            (
                epoch - Duration::from_millis(1),
                epoch - Duration::from_millis(1),
            ),
            (
                epoch - Duration::from_nanos(1),
                epoch - Duration::from_millis(1),
            ),
            (epoch + Duration::from_nanos(1), epoch),
            (
                epoch + Duration::from_secs(1 << 53),
                epoch + Duration::from_secs(1 << 53),
            ),
        ] {
            record.created_at = time;
            record.expires_at = Some(time);
            commit(&store, vec![], vec![record.clone()]).unwrap();
            record = stored(&store, record.id);
            assert_eq!(record.created_at, kept);
            assert_eq!(record.expires_at, Some(kept));
        }
    }

    #[test]
    fn a_time_beyond_all_measure_is_the_last_there_is() {
        let far = Duration::from_secs(u64::MAX >> 2);
        assert_eq!(millis(SystemTime::UNIX_EPOCH + far), i64::MAX);
        assert_eq!(millis(SystemTime::UNIX_EPOCH - far), i64::MIN);
    }
}
