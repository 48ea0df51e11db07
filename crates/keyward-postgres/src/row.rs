//! The rows of accounts and keys.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::time::{Duration, SystemTime};

use keyward::address::AddressPolicy;
use keyward::error::ParseError;
use keyward::key::{DigestScheme, Hint, KeyDigest};
use keyward::record::{Account, AccountStatus, DisabledBy, KeyRecord, KeyStatus, Metadata};
use keyward::usage::ClientNetwork;
use keyward::{AccountId, Environment, KeyId, KeyKind, OriginPolicy, RateLimits, Scopes};
use tokio_postgres::Row;
use tokio_postgres::binary_copy::BinaryCopyOutRow;
use tokio_postgres::types::private::BytesMut;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

use crate::error::RowError;

/// The columns that [`account`] reads, of `keyward.account AS account`.
pub(crate) const ACCOUNT: &str = "account.id, account.revision, account.status, \
     account.api_access, account.max_active_keys, account.revoked_all, account.rate_limits, \
     account.shared_rate_limits, account.credits, \
     (SELECT array_agg(epoch.environment ORDER BY epoch.environment) FROM keyward.epoch AS epoch \
      WHERE epoch.account = account.id), \
     (SELECT array_agg(epoch.revoked ORDER BY epoch.environment) FROM keyward.epoch AS epoch \
      WHERE epoch.account = account.id)";

/// The types of [`ACCOUNT`].
pub(crate) const ACCOUNT_TYPES: [Type; 11] = [
    Type::TEXT,
    Type::INT8,
    Type::TEXT,
    Type::BOOL,
    Type::INT8,
    Type::INT8,
    Type::TEXT,
    Type::TEXT,
    Type::INT8,
    Type::TEXT_ARRAY,
    Type::INT8_ARRAY,
];

/// The columns that [`key`] reads, of `keyward.key AS key`.
pub(crate) const KEY: &str = "key.id, key.digest_scheme, key.digest, key.hint, key.account, \
     key.environment, key.created_at, key.revision, key.name, key.kind, key.scopes, key.no_origin, \
     key.origins, key.rate_limits, key.credits, key.metadata, key.epoch, key.status, \
     key.expires_at, key.revoked_at, key.revoked_for, key.predecessor, key.successor, \
     key.redigested, key.lineage, key.disabled_by, key.created_by, key.disabled_by_name, \
     key.not_before, key.addresses";

/// The types of [`KEY`].
pub(crate) const KEY_TYPES: [Type; 30] = [
    Type::TEXT,
    Type::TEXT,
    Type::BYTEA,
    Type::TEXT,
    Type::TEXT,
    Type::TEXT,
    Type::TIMESTAMPTZ,
    Type::INT8,
    Type::TEXT,
    Type::TEXT,
    Type::TEXT,
    Type::BOOL,
    Type::TEXT,
    Type::TEXT,
    Type::INT8,
    Type::TEXT,
    Type::INT8,
    Type::TEXT,
    Type::TIMESTAMPTZ,
    Type::TIMESTAMPTZ,
    Type::TEXT,
    Type::TEXT,
    Type::TEXT,
    Type::INT8,
    Type::TEXT,
    Type::TEXT,
    Type::TEXT,
    Type::TEXT,
    Type::TIMESTAMPTZ,
    Type::TEXT,
];

/// Reads the account from columns that begin with those of [`ACCOUNT`].
pub(crate) fn account(row: &impl Columns, from: usize) -> Result<Account, RowError> {
    let mut cells = Cells { row, next: from };
    let mut account = Account::new(cells.parse(AccountId::parse)?);
    account.revision = cells.get::<i64>()?.cast_unsigned();
    account.status = cells.parse(AccountStatus::parse)?;
    account.api_access = cells.get()?;
    account.max_active_keys = cells.small_if_any()?;
    account.revoked_all = cells.small()?;
    account.rate_limits = cells.parse(RateLimits::parse)?;
    account.shared_rate_limits = cells.parse(RateLimits::parse)?;
    account.credits = cells.small_if_any()?;
    let environments: Option<Vec<&str>> = cells.get()?;
    let environments: Result<Vec<_>, _> = environments
        .into_iter()
        .flatten()
        .map(Environment::parse)
        .collect();
    let environments = cells.valid(environments)?;
    let revoked: Option<Vec<i64>> = cells.get()?;
    for (environment, revoked) in environments.into_iter().zip(revoked.into_iter().flatten()) {
        let revoked = cells.valid(u32::try_from(revoked))?;
        account.revoked.insert(environment, revoked);
    }
    Ok(account)
}

/// Reads the key from columns that begin with those of [`KEY`], without its last use.
pub(crate) fn key(row: &impl Columns, from: usize) -> Result<KeyRecord, RowError> {
    let mut cells = Cells { row, next: from };
    let id = cells.parse(KeyId::parse)?;
    let scheme = cells.parse(DigestScheme::parse)?;
    let digest: &[u8] = cells.get()?;
    let digest = KeyDigest::new(scheme, cells.valid(digest.try_into())?);
    let hint = cells.parse(Hint::parse)?;
    let account = cells.parse(AccountId::parse)?;
    let environment = cells.parse(Environment::parse)?;
    let created_at = cells.time()?;
    let mut key = KeyRecord::new(id, digest, hint, account, environment, created_at);
    key.revision = cells.get::<i64>()?.cast_unsigned();
    key.name = cells.text()?;
    key.kind = cells.parse(KeyKind::parse)?;
    key.scopes = cells.parse(|text| Scopes::parse(text.split_ascii_whitespace()))?;
    let no_origin: bool = cells.get()?;
    if let Some(text) = cells.get::<Option<&str>>()? {
        let listed = cells.valid(OriginPolicy::listed(text.split_ascii_whitespace()))?;
        key.origins = if no_origin {
            listed.or_no_origin()
        } else {
            listed
        };
    }
    key.rate_limits = cells.parse(RateLimits::parse)?;
    key.credits = cells.small_if_any()?;
    key.metadata = cells.parse(Metadata::stored)?;
    key.epoch = cells.small()?;
    key.status = cells.parse(KeyStatus::parse)?;
    key.expires_at = cells.time_if_any()?;
    key.revoked_at = cells.time_if_any()?;
    key.revoked_for = cells.text()?;
    key.predecessor = cells.parse_some(KeyId::parse)?;
    key.successor = cells.parse_some(KeyId::parse)?;
    key.redigested = cells.small()?;
    key.lineage = cells.parse(KeyId::parse)?;
    key.disabled_by = cells.parse_some(DisabledBy::parse)?;
    key.created_by = cells.text_if_any()?;
    key.disabled_by_name = cells.text_if_any()?;
    key.not_before = cells.time_if_any()?;
    let listed = |text: &str| AddressPolicy::listed(text.split_ascii_whitespace());
    if let Some(listed) = cells.parse_some(listed)? {
        key.addresses = listed;
    }
    Ok(key)
}

/// The columns of a key's last use, of `keyward.usage_key AS used`.
pub(crate) const LAST_USE: &str = "used.last_used_at, used.last_network";

/// Reads the key from columns that begin with those of [`KEY`] and [`LAST_USE`].
pub(crate) fn used_key(row: &impl Columns) -> Result<KeyRecord, RowError> {
    let mut key = key(row, 0)?;
    let mut cells = Cells {
        row,
        next: KEY_TYPES.len(),
    };
    key.last_used_at = cells.time_if_any()?;
    key.last_network = cells.parse_some(ClientNetwork::parse)?;
    Ok(key)
}

/// Logs that a row is invalid. Its first column is its id.
pub(crate) fn log_broken(row: &impl Columns, from: usize, why: &RowError) {
    let id: Result<Option<String>, _> = row.column(from);
    let error: &(dyn StdError + 'static) = why;
    tracing::error!(
        id = id.ok().flatten().unwrap_or_default(),
        error,
        "invalid row; its key or account is refused"
    );
}

/// A row, of a query or of a copy.
pub(crate) trait Columns {
    fn column<'a, T: FromSql<'a>>(&'a self, at: usize) -> Result<T, tokio_postgres::Error>;
}

impl Columns for Row {
    fn column<'a, T: FromSql<'a>>(&'a self, at: usize) -> Result<T, tokio_postgres::Error> {
        self.try_get(at)
    }
}

impl Columns for BinaryCopyOutRow {
    fn column<'a, T: FromSql<'a>>(&'a self, at: usize) -> Result<T, tokio_postgres::Error> {
        self.try_get(at)
    }
}

/// Reads a row from left to right.
pub(crate) struct Cells<'a, R> {
    row: &'a R,
    next: usize,
}

impl<'a, R: Columns> Cells<'a, R> {
    pub(crate) fn of(row: &'a R) -> Self {
        Self { row, next: 0 }
    }

    pub(crate) fn get<T: FromSql<'a>>(&mut self) -> Result<T, RowError> {
        let column = self.next;
        self.next += 1;
        self.row.column(column).map_err(|error| RowError {
            column,
            why: error.into_source().unwrap_or_else(|| "unreadable".into()),
        })
    }

    /// Reads a number that is never negative.
    pub(crate) fn number(&mut self) -> Result<u64, RowError> {
        let number: i64 = self.get()?;
        self.valid(u64::try_from(number))
    }

    /// Reads a number that is never negative, if there is one.
    pub(crate) fn number_if_any(&mut self) -> Result<Option<u64>, RowError> {
        let number: Option<i64> = self.get()?;
        self.valid(number.map(u64::try_from).transpose())
    }

    /// Reads a number of 32 bits.
    pub(crate) fn small(&mut self) -> Result<u32, RowError> {
        let number: i64 = self.get()?;
        self.valid(u32::try_from(number))
    }

    fn small_if_any(&mut self) -> Result<Option<u32>, RowError> {
        let number: Option<i64> = self.get()?;
        self.valid(number.map(u32::try_from).transpose())
    }

    /// Reads a text that may have any characters.
    pub(crate) fn text(&mut self) -> Result<String, RowError> {
        self.get().map(unescaped)
    }

    fn text_if_any(&mut self) -> Result<Option<String>, RowError> {
        let text: Option<String> = self.get()?;
        Ok(text.map(unescaped))
    }

    pub(crate) fn parse<T>(
        &mut self,
        parse: impl FnOnce(&str) -> Result<T, ParseError>,
    ) -> Result<T, RowError> {
        let text: &str = self.get()?;
        self.valid(parse(text))
    }

    pub(crate) fn parse_some<T>(
        &mut self,
        parse: impl FnOnce(&str) -> Result<T, ParseError>,
    ) -> Result<Option<T>, RowError> {
        let text: Option<&str> = self.get()?;
        self.valid(text.map(parse).transpose())
    }

    pub(crate) fn time(&mut self) -> Result<SystemTime, RowError> {
        let Timestamp(time) = self.get()?;
        Ok(time)
    }

    pub(crate) fn time_if_any(&mut self) -> Result<Option<SystemTime>, RowError> {
        let time: Option<Timestamp> = self.get()?;
        Ok(time.map(|Timestamp(time)| time))
    }

    /// Returns what the last cell was converted to, or an error for its column.
    pub(crate) fn valid<T, E: StdError + Send + Sync + 'static>(
        &self,
        converted: Result<T, E>,
    ) -> Result<T, RowError> {
        converted.map_err(|error| RowError {
            column: self.next - 1,
            why: error.into(),
        })
    }
}

/// A time in milliseconds, rounded down, within what PostgreSQL can store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timestamp(pub(crate) SystemTime);

/// Returns a time that is rounded up to milliseconds.
pub(crate) fn rounded_up(time: SystemTime) -> Timestamp {
    let almost_one = Duration::from_nanos(999_999);
    Timestamp(time.checked_add(almost_one).unwrap_or(time))
}

/// The seconds from 1970 to 2000, from which PostgreSQL counts microseconds.
const TO_2000: Duration = Duration::from_secs(946_684_800);

/// The earliest and the latest time that PostgreSQL can store, in milliseconds from 2000.
const EARLIEST: i64 = -211_813_488_000_000;
const LATEST: i64 = 9_223_371_331_199_999;

impl Timestamp {
    fn micros(self) -> i64 {
        let millis = match self.0.duration_since(SystemTime::UNIX_EPOCH + TO_2000) {
            Ok(after) => i64::try_from(after.as_millis()).unwrap_or(LATEST),
            Err(before) => {
                let nanos = before.duration().as_nanos();
                i64::try_from(nanos.div_ceil(1_000_000)).map_or(EARLIEST, |millis| -millis)
            }
        };
        millis.clamp(EARLIEST, LATEST) * 1000
    }

    /// Returns the seconds since the Unix epoch, as SQL.
    pub(crate) fn seconds(self) -> String {
        let since_2000 = self.micros().div_euclid(1_000_000);
        (since_2000 + TO_2000.as_secs().cast_signed()).to_string()
    }
}

impl ToSql for Timestamp {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        self.micros().to_sql(&Type::INT8, out)
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::TIMESTAMPTZ
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for Timestamp {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn StdError + Sync + Send>> {
        let micros = i64::from_sql(&Type::INT8, raw)?;
        if micros == i64::MIN || micros == i64::MAX {
            return Err("an infinite time".into());
        }
        let distance = Duration::from_micros(micros.unsigned_abs());
        let start = SystemTime::UNIX_EPOCH + TO_2000;
        let time = if micros < 0 {
            start.checked_sub(distance)
        } else {
            start.checked_add(distance)
        };
        time.map(Self)
            .ok_or_else(|| "a time that this platform cannot represent".into())
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::TIMESTAMPTZ
    }
}

/// Returns a text as it is stored.
///
/// PostgreSQL stores no NUL. It becomes the character U+001A and a zero, and U+001A itself becomes two.
pub(crate) fn escaped(text: &str) -> Cow<'_, str> {
    if text.contains(['\0', '\u{1a}']) {
        let text = text.replace('\u{1a}', "\u{1a}\u{1a}");
        text.replace('\0', "\u{1a}0").into()
    } else {
        text.into()
    }
}

fn unescaped(text: String) -> String {
    if !text.contains('\u{1a}') {
        return text;
    }
    let mut whole = String::with_capacity(text.len());
    let mut left = text.chars();
    while let Some(one) = left.next() {
        match (one, left.as_str().chars().next()) {
            ('\u{1a}', Some('0')) => {
                left.next();
                whole.push('\0');
            }
            ('\u{1a}', Some('\u{1a}')) => {
                left.next();
                whole.push('\u{1a}');
            }
            _ => whole.push(one),
        }
    }
    whole
}

/// Returns words with a space between them.
pub(crate) fn spaced<'a>(words: impl Iterator<Item = &'a str>) -> String {
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_any_age_is_kept_to_the_millisecond_and_within_what_the_server_can_store() {
        let epoch = SystemTime::UNIX_EPOCH;
        let millis = |time: SystemTime| {
            let mut raw = BytesMut::new();
            Timestamp(time)
                .to_sql(&Type::TIMESTAMPTZ, &mut raw)
                .unwrap();
            let Timestamp(read) = Timestamp::from_sql(&Type::TIMESTAMPTZ, &raw).unwrap();
            read
        };
        let milli = Duration::from_millis(1);
        assert_eq!(millis(epoch - milli), epoch - milli);
        assert_eq!(millis(epoch - Duration::from_nanos(1)), epoch - milli);
        assert_eq!(millis(epoch + Duration::from_nanos(1)), epoch);
        let far = Duration::from_secs(u64::MAX >> 2);
        assert!(millis(epoch + far) > epoch + Duration::from_secs(1 << 43));
        assert!(millis(epoch - far) < epoch - Duration::from_secs(1 << 37));
    }

    #[test]
    fn every_text_comes_back_as_it_was() {
        for text in [
            "",
            "plain",
            "\0",
            "\u{1a}",
            "\u{1a}0",
            "a\0\u{1a}\u{1a}0\0",
            "0\u{1a}",
        ] {
            let stored = escaped(text);
            assert!(!stored.contains('\0'));
            assert_eq!(unescaped(stored.into_owned()), text);
        }
    }
}
