//! The rows of accounts and keys.

use std::time::{Duration, SystemTime};

use keyward::address::AddressPolicy;
use keyward::error::ParseError;
use keyward::key::{DigestScheme, Hint, KeyDigest};
use keyward::record::{Account, AccountStatus, DisabledBy, KeyRecord, KeyStatus, Metadata};
use keyward::usage::ClientNetwork;
use keyward::{AccountId, Environment, KeyId, KeyKind, OriginPolicy, RateLimits, Scopes};
use rusqlite::types::{FromSql, Type, ValueRef};
use rusqlite::{Connection, Error, OptionalExtension, Row, Rows, params};

/// The columns that [`account`] reads.
pub(crate) const ACCOUNTS: &str = "SELECT id, revision, status, api_access, max_active_keys, \
     revoked_all, rate_limits, shared_rate_limits, credits FROM keyward_account";

/// The columns that [`key`] reads.
pub(crate) const KEYS: &str = "SELECT id, digest_scheme, digest, hint, account, environment, \
     created_at, revision, name, kind, scopes, no_origin, origins, rate_limits, credits, metadata, epoch, \
     status, expires_at, revoked_at, revoked_for, predecessor, successor, redigested, \
     lineage, disabled_by, created_by, disabled_by_name, not_before, addresses FROM keyward_key";

/// Reads the account from a row of [`ACCOUNTS`].
pub(crate) fn account(connection: &Connection, row: &Row<'_>) -> rusqlite::Result<Account> {
    let mut cells = Cells::of(row);
    let mut account = Account::new(cells.parse(AccountId::parse)?);
    account.revision = cells.get::<i64>()?.cast_unsigned();
    account.status = cells.parse(AccountStatus::parse)?;
    account.api_access = cells.flag()?;
    account.max_active_keys = cells.get()?;
    account.revoked_all = cells.get()?;
    account.rate_limits = cells.parse(RateLimits::parse)?;
    account.shared_rate_limits = cells.parse(RateLimits::parse)?;
    account.credits = cells.get()?;

    let epochs = "SELECT environment, revoked FROM keyward_epoch WHERE account = ?1";
    let mut epochs = connection.prepare_cached(epochs)?;
    let mut epochs = epochs.query([account.id.as_str()])?;
    while let Some(row) = epochs.next()? {
        let mut cells = Cells::of(row);
        let environment = cells.parse(Environment::parse)?;
        account.revoked.insert(environment, cells.get()?);
    }
    Ok(account)
}

/// Reads the key from a row of [`KEYS`], without its last use.
pub(crate) fn key(row: &Row<'_>) -> rusqlite::Result<KeyRecord> {
    let mut cells = Cells::of(row);
    let id = cells.parse(KeyId::parse)?;
    let digest = KeyDigest::new(cells.parse(DigestScheme::parse)?, cells.get()?);
    let hint = cells.parse(Hint::parse)?;
    let account = cells.parse(AccountId::parse)?;
    let environment = cells.parse(Environment::parse)?;
    let created_at = cells.time()?;
    let mut key = KeyRecord::new(id, digest, hint, account, environment, created_at);
    key.revision = cells.get::<i64>()?.cast_unsigned();
    key.name = cells.get()?;
    key.kind = cells.parse(KeyKind::parse)?;
    key.scopes = cells.parse(|text| Scopes::parse(text.split_ascii_whitespace()))?;
    let no_origin = cells.flag()?;
    if let Some(text) = cells.get::<Option<String>>()? {
        let listed = cells.valid(OriginPolicy::listed(text.split_ascii_whitespace()))?;
        key.origins = if no_origin {
            listed.or_no_origin()
        } else {
            listed
        };
    }
    key.rate_limits = cells.parse(RateLimits::parse)?;
    key.credits = cells.get()?;
    key.metadata = cells.parse(Metadata::stored)?;
    key.epoch = cells.get()?;
    key.status = cells.parse(KeyStatus::parse)?;
    key.expires_at = cells.time_if_any()?;
    key.revoked_at = cells.time_if_any()?;
    key.revoked_for = cells.get()?;
    key.predecessor = cells.parse_some(KeyId::parse)?;
    key.successor = cells.parse_some(KeyId::parse)?;
    key.redigested = cells.get()?;
    key.lineage = cells.parse(KeyId::parse)?;
    key.disabled_by = cells.parse_some(DisabledBy::parse)?;
    key.created_by = cells.get()?;
    key.disabled_by_name = cells.get()?;
    key.not_before = cells.time_if_any()?;
    if let Some(listed) =
        cells.parse_some(|text| AddressPolicy::listed(text.split_ascii_whitespace()))?
    {
        key.addresses = listed;
    }
    Ok(key)
}

/// Reads the key from a row of [`KEYS`], with the time of its last use.
pub(crate) fn used_key(connection: &Connection, row: &Row<'_>) -> rusqlite::Result<KeyRecord> {
    let mut key = key(row)?;
    let last = connection
        .prepare_cached("SELECT last_used_at, last_network FROM keyward_usage_key WHERE key = ?1")?
        .query_row([key.id.to_string()], |row| {
            let mut cells = Cells::of(row);
            Ok((cells.time()?, cells.parse_some(ClientNetwork::parse)?))
        })
        .optional()?;
    (key.last_used_at, key.last_network) =
        last.map_or((None, None), |(at, network)| (Some(at), network));
    Ok(key)
}

/// Returns the first valid rows. Invalid ones are logged and skipped.
pub(crate) fn valid<T>(
    rows: &mut Rows<'_>,
    limit: usize,
    read: impl Fn(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    let mut valid = Vec::new();
    while valid.len() < limit
        && let Some(row) = rows.next()?
    {
        match read(row) {
            Err(why) => Broken::new(row, why)?.log(),
            read => valid.push(read?),
        }
    }
    Ok(valid)
}

/// An invalid row, written past the checks of the table.
pub(crate) struct Broken {
    id: String,
    why: Error,
}

impl Broken {
    /// Creates it from a row that could not be read.
    ///
    /// Errors that are not the row's fault are returned.
    pub(crate) fn new(row: &Row<'_>, why: Error) -> rusqlite::Result<Self> {
        if why.sqlite_error_code().is_some() {
            return Err(why);
        }
        // SQLite reports no error: the row could be read, but is invalid.
        let id = match row.get_ref(0) {
            Ok(ValueRef::Text(text)) => String::from_utf8_lossy(text).into_owned(),
            Ok(ValueRef::Integer(number)) => number.to_string(),
            _ => String::new(),
        };
        Ok(Self { id, why })
    }

    pub(crate) fn log(&self) {
        let error: &(dyn std::error::Error + 'static) = &self.why;
        tracing::error!(
            id = self.id,
            error,
            "invalid row; its key or account is refused"
        );
    }
}

/// Writes an account over the one of its revision; fails if there is none.
pub(crate) fn put_account(connection: &Connection, account: &Account) -> rusqlite::Result<()> {
    let id = account.id.as_str();
    let sql = if account.revision == 0 {
        "INSERT INTO keyward_account (id, revision, status, api_access, max_active_keys, revoked_all, \
         rate_limits, shared_rate_limits, credits) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)"
    } else {
        // Revision zero marks it as not typed.
        "UPDATE keyward_account SET revision = 0, status = ?3, api_access = ?4, max_active_keys = ?5, \
         revoked_all = ?6, rate_limits = ?7, shared_rate_limits = ?8, credits = ?9 WHERE id = ?1 AND revision = ?2"
    };
    one(connection.prepare_cached(sql)?.execute(params![
        id,
        account.revision.cast_signed(),
        account.status.as_str(),
        account.api_access,
        account.max_active_keys.map(i64::from),
        i64::from(account.revoked_all),
        account.rate_limits.to_string(),
        account.shared_rate_limits.to_string(),
        account.credits.map(i64::from),
    ])?)?;
    // Revocations are kept: no row is deleted, and no counter reduced.
    for (environment, revoked) in &account.revoked {
        connection
            .prepare_cached(
                "INSERT INTO keyward_epoch VALUES (?1, ?2, ?3) \
                 ON CONFLICT (account, environment) DO UPDATE SET revoked = excluded.revoked \
                 WHERE revoked <> excluded.revoked",
            )?
            .execute(params![id, environment.as_str(), i64::from(*revoked)])?;
    }
    Ok(())
}

/// Writes a key over the one of its revision; fails if there is none.
pub(crate) fn put_key(connection: &Connection, key: &KeyRecord) -> rusqlite::Result<()> {
    let sql = if key.revision == 0 {
        "INSERT INTO keyward_key (id, revision, digest_scheme, digest, hint, name, account, \
         environment, kind, scopes, origins, no_origin, rate_limits, metadata, epoch, status, \
         created_at, expires_at, revoked_at, revoked_for, predecessor, successor, \
         redigested, lineage, credits, disabled_by, created_by, disabled_by_name, not_before, addresses) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, \
         ?19, ?20, ?21, ?22, ?23, ?24, ?25, ?26, ?27, ?28, ?29, ?30)"
    } else {
        // Revision zero marks it as not typed.
        "UPDATE keyward_key SET revision = 0, digest_scheme = ?3, digest = ?4, hint = ?5, name = ?6, \
         account = ?7, environment = ?8, kind = ?9, scopes = ?10, origins = ?11, no_origin = ?12, \
         rate_limits = ?13, metadata = ?14, epoch = ?15, status = ?16, created_at = ?17, \
         expires_at = ?18, revoked_at = ?19, revoked_for = ?20, predecessor = ?21, successor = ?22, \
         redigested = ?23, lineage = ?24, credits = ?25, disabled_by = ?26, \
         created_by = ?27, disabled_by_name = ?28, not_before = ?29, addresses = ?30 \
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
        // Not if any origin is allowed: a list typed in later must apply to every request.
        listed && key.origins.allows_no_origin(),
        key.rate_limits.to_string(),
        key.metadata.as_str(),
        i64::from(key.epoch),
        key.status.as_str(),
        millis(key.created_at),
        key.expires_at.map(millis),
        key.revoked_at.map(millis),
        key.revoked_for,
        key.predecessor.map(|id| id.to_string()),
        key.successor.map(|id| id.to_string()),
        i64::from(key.redigested),
        key.lineage.to_string(),
        key.credits.map(i64::from),
        key.disabled_by.map(DisabledBy::as_str),
        key.created_by,
        key.disabled_by_name,
        key.not_before.map(millis_after),
        (key.addresses != AddressPolicy::Any).then(|| key
            .addresses
            .ranges()
            .collect::<Vec<_>>()
            .join(" ")),
    ])?)
}

/// Reads a row from left to right.
pub(crate) struct Cells<'a> {
    row: &'a Row<'a>,
    next: usize,
}

impl<'a> Cells<'a> {
    pub(crate) fn of(row: &'a Row<'a>) -> Self {
        Self { row, next: 0 }
    }

    pub(crate) fn get<T: FromSql>(&mut self) -> rusqlite::Result<T> {
        self.next += 1;
        self.row.get(self.next - 1)
    }

    /// Reads a number that is never negative.
    pub(crate) fn number(&mut self) -> rusqlite::Result<u64> {
        let number: i64 = self.get()?;
        u64::try_from(number).map_err(|_| Error::IntegralValueOutOfRange(self.next - 1, number))
    }

    /// Reads a number that is never negative, if there is one.
    pub(crate) fn number_if_any(&mut self) -> rusqlite::Result<Option<u64>> {
        let number: Option<i64> = self.get()?;
        let valid = |number| {
            u64::try_from(number).map_err(|_| Error::IntegralValueOutOfRange(self.next - 1, number))
        };
        number.map(valid).transpose()
    }

    /// Reads a boolean, and rejects any other value.
    pub(crate) fn flag(&mut self) -> rusqlite::Result<bool> {
        match self.get()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(Error::IntegralValueOutOfRange(self.next - 1, other)),
        }
    }

    pub(crate) fn parse<T>(
        &mut self,
        parse: impl FnOnce(&str) -> Result<T, ParseError>,
    ) -> rusqlite::Result<T> {
        let text: String = self.get()?;
        self.valid(parse(&text))
    }

    pub(crate) fn parse_some<T>(
        &mut self,
        parse: impl FnOnce(&str) -> Result<T, ParseError>,
    ) -> rusqlite::Result<Option<T>> {
        let text: Option<String> = self.get()?;
        text.map(|text| self.valid(parse(&text))).transpose()
    }

    pub(crate) fn time(&mut self) -> rusqlite::Result<SystemTime> {
        let millis = self.get()?;
        self.told(millis)
    }

    pub(crate) fn time_if_any(&mut self) -> rusqlite::Result<Option<SystemTime>> {
        let millis: Option<i64> = self.get()?;
        millis.map(|millis| self.told(millis)).transpose()
    }

    /// Returns what the last cell was parsed into, or an error for its column.
    pub(crate) fn valid<T>(&self, parsed: Result<T, ParseError>) -> rusqlite::Result<T> {
        parsed.map_err(|error| {
            Error::FromSqlConversionFailure(self.next - 1, Type::Text, Box::new(error))
        })
    }

    /// Converts the last cell to a time; not every platform can represent every time.
    fn told(&self, millis: i64) -> rusqlite::Result<SystemTime> {
        let distance = Duration::from_millis(millis.unsigned_abs());
        let time = if millis < 0 {
            SystemTime::UNIX_EPOCH.checked_sub(distance)
        } else {
            SystemTime::UNIX_EPOCH.checked_add(distance)
        };
        time.ok_or(Error::IntegralValueOutOfRange(self.next - 1, millis))
    }
}

/// Returns milliseconds since the Unix epoch, rounded down and saturating.
pub(crate) fn millis(time: SystemTime) -> i64 {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_millis()).unwrap_or(i64::MAX),
        Err(before) => {
            let nanos = before.duration().as_nanos();
            i64::try_from(nanos.div_ceil(1_000_000)).map_or(i64::MIN, |millis| -millis)
        }
    }
}

/// Returns milliseconds since the Unix epoch, rounded up.
pub(crate) fn millis_after(time: SystemTime) -> i64 {
    let almost_one = Duration::from_nanos(999_999);
    time.checked_add(almost_one).map_or(i64::MAX, millis)
}

fn spaced<'a>(words: impl Iterator<Item = &'a str>) -> String {
    words.collect::<Vec<_>>().join(" ")
}

/// Fails unless exactly one row was changed.
pub(crate) fn one(changed: usize) -> rusqlite::Result<()> {
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
