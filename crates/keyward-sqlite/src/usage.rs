//! Usage per key and hour, as stored in the file.

use keyward::replica::{UsageHour, UsageQuery};
use keyward::{Environment, KeyId};
use rusqlite::{Connection, Row, params};

use crate::row::{self, Cells};

/// Returns the usage of an account's keys, by hour.
pub(crate) fn hours(
    connection: &Connection,
    query: &UsageQuery,
) -> rusqlite::Result<Vec<UsageHour>> {
    let mut hours = connection.prepare_cached(
        "SELECT usage.key, own.environment, usage.hour, usage.admitted, usage.refused, usage.units \
         FROM keyward_key AS own JOIN keyward_usage AS usage ON usage.key = own.id \
         WHERE own.account = ?1 AND (?2 IS NULL OR own.environment = ?2) \
         AND usage.hour >= ?3 AND usage.hour < ?4 ORDER BY usage.hour, usage.key",
    )?;
    let hour = |hour: u64| i64::try_from(hour).unwrap_or(i64::MAX);
    let mut hours = hours.query(params![
        query.account.as_str(),
        query.environment.as_ref().map(Environment::as_str),
        hour(query.from),
        hour(query.until),
    ])?;
    row::valid(&mut hours, usize::MAX, used)
}

fn used(row: &Row<'_>) -> rusqlite::Result<UsageHour> {
    let mut cells = Cells::of(row);
    let key = cells.parse(KeyId::parse)?;
    let environment = cells.parse(Environment::parse)?;
    let mut hour = UsageHour::new(key, environment, cells.number()?);
    hour.admitted = cells.number()?;
    hour.refused = cells.number()?;
    hour.units = cells.number()?;
    Ok(hour)
}
