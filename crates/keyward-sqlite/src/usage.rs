//! Usage per key, label and hour, as stored in the file.

use keyward::usage::{KeyUsage, RequestCounts, UsageLabel, UsageQuery, UsageRollUp};
use keyward::{AccountId, Environment, KeyId};
use rusqlite::{Connection, Row, named_params, params};

use crate::row::{self, Cells};

/// Adds counts to a row of the usage of a key, unless the key was deleted.
pub(crate) fn add(
    connection: &Connection,
    key: &str,
    label: Option<UsageLabel>,
    hour: i64,
    counts: &RequestCounts,
) -> rusqlite::Result<()> {
    let RequestCounts {
        admitted,
        refused,
        client_errors,
        server_errors,
        unanswered,
        units,
    } = counts;
    let number = |count: &u64| i64::try_from(*count).unwrap_or(i64::MAX);
    let Some(label) = label else {
        return connection
            .prepare_cached(
                "INSERT INTO keyward_usage (key, hour, admitted, refused, units) \
                 SELECT id, ?2, ?3, ?4, ?5 FROM (SELECT id FROM keyward_key \
                 UNION ALL SELECT key FROM keyward_tombstone) WHERE id = ?1 \
                 ON CONFLICT (key, hour) DO UPDATE SET \
                 admitted = admitted + excluded.admitted, refused = refused + excluded.refused, \
                 units = min(units, 9223372036854775807 - excluded.units) + excluded.units",
            )?
            .execute(params![
                key,
                hour,
                number(admitted),
                number(refused),
                number(units)
            ])
            .map(drop);
    };
    connection
        .prepare_cached(
            "INSERT INTO keyward_usage_label (key, hour, label, admitted, refused, client_errors, \
             server_errors, unanswered, units) \
             SELECT id, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9 FROM (SELECT id FROM keyward_key \
             UNION ALL SELECT key FROM keyward_tombstone) WHERE id = ?1 \
             ON CONFLICT (key, label, hour) DO UPDATE SET \
             admitted = admitted + excluded.admitted, refused = refused + excluded.refused, \
             client_errors = client_errors + excluded.client_errors, \
             server_errors = server_errors + excluded.server_errors, \
             unanswered = unanswered + excluded.unanswered, \
             units = min(units, 9223372036854775807 - excluded.units) + excluded.units",
        )?
        .execute(params![
            key,
            hour,
            label.as_str(),
            number(admitted),
            number(refused),
            number(client_errors),
            number(server_errors),
            number(unanswered),
            number(units),
        ])
        .map(drop)
}

/// Returns the usage that matches a query, in the order of its cursor.
///
/// One key after another: its rows are neighbours in the tables, so that a page reads only what it
/// returns.
pub(crate) fn page(connection: &Connection, query: &UsageQuery) -> rusqlite::Result<Vec<KeyUsage>> {
    let whose = match query.account {
        Some(_) => "INDEXED BY keyward_key_by_account WHERE account = :account",
        None => "WHERE :account IS NULL",
    };
    let whose_tombstone = match query.account {
        Some(_) => "account = :account",
        None => "key > ''",
    };
    let mut keys = connection.prepare_cached(&format!(
        "SELECT id, account, environment FROM keyward_key {whose} AND id >= :from \
         AND (:environment IS NULL OR environment = :environment) \
         UNION ALL SELECT key, account, environment FROM keyward_tombstone \
         WHERE {whose_tombstone} AND key >= :from \
         AND (:environment IS NULL OR environment = :environment) ORDER BY id"
    ))?;
    let mut keys = keys.query(named_params! {
        ":from": query.after.map_or(String::new(), |after| after.key.to_string()),
        ":account": query.account.as_ref().map(AccountId::as_str),
        ":environment": query.environment.as_ref().map(Environment::as_str),
    })?;
    let mut rows = Vec::new();
    while rows.len() < query.limit
        && let Some(key) = keys.next()?
    {
        let Ok((id, account, environment)) = key_of(key) else {
            continue; // A broken row; its key works no more.
        };
        let first = KeyUsage::new(account, id, environment, query.from);
        of_key(connection, query, &first, &mut rows)?;
    }
    Ok(rows)
}

fn key_of(row: &Row<'_>) -> rusqlite::Result<(KeyId, AccountId, Environment)> {
    let mut cells = Cells::of(row);
    Ok((
        cells.parse(KeyId::parse)?,
        cells.parse(AccountId::parse)?,
        cells.parse(Environment::parse)?,
    ))
}

/// Adds the rows of a key.
fn of_key(
    connection: &Connection,
    query: &UsageQuery,
    of: &KeyUsage,
    rows: &mut Vec<KeyUsage>,
) -> rusqlite::Result<()> {
    let after = query.after.filter(|after| after.key == of.key);
    let mut stored = connection.prepare_cached(if query.labels {
        "SELECT hour, hours, admitted, refused, units, label, client_errors, server_errors, \
         unanswered FROM keyward_usage_label \
         WHERE key = ?1 AND label >= ?2 AND hour >= ?3 AND hour < ?4 ORDER BY label, hour"
    } else {
        "SELECT hour, hours, admitted, refused, units FROM keyward_usage \
         WHERE key = ?1 AND ?2 IS NOT NULL AND hour >= ?3 AND hour < ?4 ORDER BY hour"
    })?;
    let hour = |hour: u64| i64::try_from(hour).unwrap_or(i64::MAX);
    let label = after.and_then(|after| after.label);
    let mut stored = stored.query(params![
        of.key.to_string(),
        label.as_ref().map_or("", UsageLabel::as_str),
        hour(query.from),
        hour(query.until),
    ])?;
    let own = rows.len();
    while let Some(row) = stored.next()? {
        let usage = match used(row, of, query.labels) {
            Ok(usage) if query.wants(&usage) => usage,
            Ok(_) => continue,
            Err(why) => {
                row::Broken::new(row, why)?.log();
                continue;
            }
        };
        let is_full = rows.len() == query.limit;
        match rows.get_mut(own..).and_then(<[_]>::last_mut) {
            Some(sum) if query.summed && sum.label == usage.label => sum.counts += usage.counts,
            _ if is_full => break,
            _ if query.summed => {
                let mut sum = usage;
                (sum.hour, sum.hours) = (query.from, query.until.saturating_sub(query.from));
                rows.push(sum);
            }
            _ => rows.push(usage),
        }
    }
    Ok(())
}

fn used(row: &Row<'_>, of: &KeyUsage, has_label: bool) -> rusqlite::Result<KeyUsage> {
    let mut cells = Cells::of(row);
    let mut usage = of.clone();
    usage.hour = cells.number()?;
    usage.hours = cells.number()?;
    usage.counts.admitted = cells.number()?;
    usage.counts.refused = cells.number()?;
    usage.counts.units = cells.number()?;
    if has_label {
        usage.label = Some(cells.parse(UsageLabel::parse)?);
        usage.counts.client_errors = cells.number()?;
        usage.counts.server_errors = cells.number()?;
        usage.counts.unanswered = cells.number()?;
    }
    Ok(usage)
}

/// Merges the old usage of a key, and returns by how many rows there are fewer.
pub(crate) fn merge(
    connection: &Connection,
    key: &str,
    roll_up: UsageRollUp,
) -> rusqlite::Result<u64> {
    let Ok(id) = KeyId::parse(key) else {
        return Ok(0); // Typed past the checks.
    };
    let until = roll_up.days_before.max(roll_up.months_before);
    // Neither account nor environment is in these tables.
    let of = AccountId::parse("any").ok();
    let Some(of) = of.map(|any| KeyUsage::new(any, id, Environment::LIVE, 0)) else {
        return Ok(0);
    };
    let mut rows = Vec::new();
    for labels in [false, true] {
        let query = UsageQuery {
            labels,
            ..UsageQuery::of(None, 0..until)
        };
        of_key(connection, &query, &of, &mut rows)?;
    }
    let merged = roll_up.merge(rows.iter().cloned());
    if merged == rows {
        return Ok(0);
    }
    for row in &rows {
        let (table, of_label) = table_of(row);
        let sql = format!("DELETE FROM {table} WHERE key = ?1 AND hour = ?2 AND {of_label}");
        connection.prepare_cached(&sql)?.execute(params![
            key,
            row.hour.cast_signed(),
            row.label.as_ref().map(UsageLabel::as_str)
        ])?;
    }
    for row in &merged {
        let (table, _) = table_of(row);
        let outcomes = row
            .label
            .map_or("", |_| ", label, client_errors, server_errors, unanswered");
        let values = row.label.map_or("", |_| ", ?7, ?8, ?9, ?10");
        let sql = format!(
            "INSERT INTO {table} (key, hour, hours, admitted, refused, units{outcomes}) \
             SELECT ?1, ?2, ?3, ?4, ?5, ?6{values} WHERE ?7 IS ?7 AND ?8 + ?9 + ?10 >= 0"
        );
        let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let counts = &row.counts;
        connection.prepare_cached(&sql)?.execute(params![
            key,
            row.hour.cast_signed(),
            number(row.hours),
            number(counts.admitted),
            number(counts.refused),
            number(counts.units),
            row.label.as_ref().map(UsageLabel::as_str),
            number(counts.client_errors),
            number(counts.server_errors),
            number(counts.unanswered),
        ])?;
    }
    Ok((rows.len() - merged.len()) as u64)
}

/// Returns the table of a row, and the condition for its label.
fn table_of(row: &KeyUsage) -> (&'static str, &'static str) {
    match row.label {
        Some(_) => ("keyward_usage_label", "label = ?3"),
        None => ("keyward_usage", "?3 IS NULL"),
    }
}
