//! Usage per key, label and hour, as stored.

use keyward::usage::{KeyUsage, RequestCounts, UsageLabel, UsageQuery, UsageRollUp};
use keyward::{AccountId, Environment, KeyId};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use crate::error::{Error, RowError};
use crate::found::Found;
use crate::row::Cells;

/// The numbers of a row.
const COUNTS: &str = "admitted, refused, client_errors, server_errors, unanswered, units";

/// The keys that usage may be of, including those that were pruned.
const OWNERS: &str = "(SELECT id, account, environment FROM keyward.key \
     UNION ALL SELECT key, account, environment FROM keyward.tombstone)";

/// Usage to add, as columns.
#[derive(Default)]
pub(crate) struct Counted {
    keys: Vec<String>,
    labels: Vec<String>,
    admitted: Vec<i64>,
    refused: Vec<i64>,
    client_errors: Vec<i64>,
    server_errors: Vec<i64>,
    unanswered: Vec<i64>,
    units: Vec<i64>,
}

/// The number of keys whose usage is merged in one step.
const MERGED: i64 = 256;

/// Merges the old usage of some keys after this one.
///
/// Returns by how many rows there are fewer, and the last of the keys unless it was the last of all.
pub(crate) async fn merge_some(
    client: &Client,
    roll_up: UsageRollUp,
    after: Option<KeyId>,
) -> Result<(u64, Option<KeyId>), Error> {
    // Days have 24 hours, and months at least 672.
    let old = "SELECT DISTINCT key FROM keyward.usage WHERE key > $1 AND hours < 672 \
         AND hour < greatest($2, $3) \
         AND (hours < 24 AND hour < $2 OR hours < 672 AND hour < $3) ORDER BY key LIMIT $4";
    let hour = |hour: u64| i64::try_from(hour).unwrap_or(i64::MAX);
    let (days, months) = (hour(roll_up.days_before), hour(roll_up.months_before));
    let after = after.map_or(String::new(), |after| after.to_string());
    let keys = client
        .query_typed(
            old,
            &[
                (&after, Type::TEXT),
                (&days, Type::INT8),
                (&months, Type::INT8),
                (&MERGED, Type::INT8),
            ],
        )
        .await?;
    let (mut fewer, mut last) = (0, None);
    for row in &keys {
        let key = Cells::of(row).parse(KeyId::parse)?;
        fewer += merge(client, key, roll_up).await?;
        last = Some(key);
    }
    let is_all = i64::try_from(keys.len()).is_ok_and(|count| count < MERGED);
    Ok((fewer, last.filter(|_| !is_all)))
}

/// Merges the old usage of a key, and returns by how many rows there are fewer.
async fn merge(client: &Client, key: KeyId, roll_up: UsageRollUp) -> Result<u64, Error> {
    let until = roll_up.days_before.max(roll_up.months_before);
    let until = i64::try_from(until).unwrap_or(i64::MAX);
    let key = key.to_string();
    // In the order in which usage is added. Neither account nor environment is in this table.
    let old = format!(
        "SELECT key, 'any', 'live', label, hour, hours, {COUNTS} FROM keyward.usage \
         WHERE key = $1 AND hour < $2 ORDER BY key, label, hour FOR UPDATE"
    );
    let rows = client
        .query_typed(&old, &[(&key, Type::TEXT), (&until, Type::INT8)])
        .await?;
    let rows = rows.iter().map(used).collect::<Result<Vec<_>, _>>()?;
    let merged = roll_up.merge(rows.iter().cloned());
    let of = |row: &KeyUsage| (row.label, row.hour, row.hours);
    let fewer = rows.len().saturating_sub(merged.len()) as u64;
    if merged.iter().map(of).eq(rows.iter().map(of)) {
        return Ok(0);
    }
    let hours = rows.iter().map(|row| row.hour.cast_signed());
    let hours: Vec<_> = hours.collect();
    let labels = rows.iter().map(|row| label_of(row.label.as_ref()));
    let labels: Vec<_> = labels.collect();
    let delete = "DELETE FROM keyward.usage WHERE key = $1 \
         AND (label, hour) IN (SELECT * FROM unnest($2, $3))";
    client
        .execute_typed(
            delete,
            &[
                (&key, Type::TEXT),
                (&labels, Type::TEXT_ARRAY),
                (&hours, Type::INT8_ARRAY),
            ],
        )
        .await?;
    for row in &merged {
        let mut counted = Counted::default();
        counted.push(&key, row.label, &row.counts);
        let (hour, hours) = (row.hour.cast_signed(), row.hours.cast_signed());
        counted.add(client, hour, hours).await?;
    }
    Ok(fewer)
}

fn label_of(label: Option<&UsageLabel>) -> String {
    label.map_or("", UsageLabel::as_str).to_owned()
}

impl Counted {
    pub(crate) fn push(&mut self, key: &str, label: Option<UsageLabel>, counts: &RequestCounts) {
        let RequestCounts {
            admitted,
            refused,
            client_errors,
            server_errors,
            unanswered,
            units,
        } = counts;
        self.keys.push(key.to_owned());
        self.labels.push(label_of(label.as_ref()));
        for (column, count) in [
            (&mut self.admitted, admitted),
            (&mut self.refused, refused),
            (&mut self.client_errors, client_errors),
            (&mut self.server_errors, server_errors),
            (&mut self.unanswered, unanswered),
            (&mut self.units, units),
        ] {
            column.push(i64::try_from(*count).unwrap_or(i64::MAX));
        }
    }

    /// Adds it to the rows of a period, except that of keys that were deleted without a trace.
    ///
    /// The rows are written in one order, so that processes that write the same ones do not deadlock.
    pub(crate) async fn add(&self, client: &Client, hour: i64, hours: i64) -> Result<(), Error> {
        let sums = COUNTS.split(", ").map(|count| {
            format!(
                "{count} = least(old.{count}, 9223372036854775807 - excluded.{count}) \
                 + excluded.{count}"
            )
        });
        let sums = sums.collect::<Vec<_>>().join(", ");
        let add = format!(
            "INSERT INTO keyward.usage AS old (key, label, hour, hours, {COUNTS}) \
             SELECT own.id, new.label, $1, $10, {COUNTS} \
             FROM unnest($2, $3, $4, $5, $6, $7, $8, $9) AS new (key, label, {COUNTS}) \
             JOIN {OWNERS} AS own ON own.id = new.key \
             ORDER BY own.id, new.label COLLATE \"C\" \
             ON CONFLICT (key, label, hour) DO UPDATE \
             SET hours = greatest(old.hours, excluded.hours), {sums}"
        );
        client
            .execute_typed(
                &add,
                &[
                    (&hour, Type::INT8),
                    (&self.keys, Type::TEXT_ARRAY),
                    (&self.labels, Type::TEXT_ARRAY),
                    (&self.admitted, Type::INT8_ARRAY),
                    (&self.refused, Type::INT8_ARRAY),
                    (&self.client_errors, Type::INT8_ARRAY),
                    (&self.server_errors, Type::INT8_ARRAY),
                    (&self.unanswered, Type::INT8_ARRAY),
                    (&self.units, Type::INT8_ARRAY),
                    (&hours, Type::INT8),
                ],
            )
            .await?;
        Ok(())
    }
}

/// Returns the usage that matches a query, in the order of its cursor.
pub(crate) async fn page(client: &Client, query: &UsageQuery) -> Result<Vec<KeyUsage>, Error> {
    let page = page_sql(query);
    let hour = |hour: u64| i64::try_from(hour).unwrap_or(i64::MAX);
    let account = query.account.as_ref().map(AccountId::as_str);
    let environment = query.environment.as_ref().map(Environment::as_str);
    let (from, until) = (hour(query.from), hour(query.until));
    let mut after = query.after.map(|after| {
        let label = after.label.map(|label| label.to_string());
        (
            after.key.to_string(),
            label.unwrap_or_default(),
            hour(after.hour),
        )
    });
    let mut found = Found::at_most(query.limit);
    loop {
        let rows = client
            .query_typed(
                &page,
                &[
                    (&account, Type::TEXT),
                    (&environment, Type::TEXT),
                    (&from, Type::INT8),
                    (&until, Type::INT8),
                    (&after.as_ref().map(|(key, ..)| key), Type::TEXT),
                    (&after.as_ref().map(|(_, label, _)| label), Type::TEXT),
                    (&after.as_ref().map(|(.., hour)| hour), Type::INT8),
                    (&found.wanted(), Type::INT8),
                ],
            )
            .await?;
        match found.add(&rows, 0, used) {
            Some(last) => after = Some((last.try_get(0)?, last.try_get(3)?, last.try_get(4)?)),
            None => return Ok(found.into_rows()),
        }
    }
}

/// Returns the statement for a page, which begins after the key `$5`, the label `$6` and the hour `$7`.
fn page_sql(query: &UsageQuery) -> String {
    let kind = if query.labels { "<>" } else { "=" };
    let (columns, position, group) = if query.summed {
        let sums = COUNTS
            .split(", ")
            .map(|count| format!("least(sum(used.{count}), 9223372036854775807)::bigint"));
        let sums = sums.collect::<Vec<_>>().join(", ");
        let columns = format!("$3::bigint, greatest($4 - $3, 0)::bigint, {sums}");
        let group = "GROUP BY used.key, own.account, own.environment, used.label";
        (columns, "(used.key, used.label) > ($5, $6)", group)
    } else {
        let counts = COUNTS.split(", ").map(|count| format!("used.{count}"));
        let counts = counts.collect::<Vec<_>>().join(", ");
        let columns = format!("used.hour, used.hours, {counts}");
        let position = "(used.key, used.label, used.hour) > ($5, $6, $7)";
        (columns, position, "")
    };
    let order = if query.summed {
        "used.key, used.label"
    } else {
        "used.key, used.label, used.hour"
    };
    format!(
        "SELECT used.key, own.account, own.environment, used.label, {columns} \
         FROM {OWNERS} AS own JOIN keyward.usage AS used ON used.key = own.id \
         WHERE ($1::text IS NULL OR own.account = $1) \
         AND ($2::text IS NULL OR own.environment = $2) \
         AND used.label {kind} '' AND used.hour >= $3 AND used.hour < $4 \
         AND ($5::text IS NULL OR $7::bigint IS NULL OR {position}) \
         {group} ORDER BY {order} LIMIT $8"
    )
}

fn used(row: &Row) -> Result<KeyUsage, RowError> {
    let mut cells = Cells::of(row);
    let key = cells.parse(KeyId::parse)?;
    let account = cells.parse(AccountId::parse)?;
    let environment = cells.parse(Environment::parse)?;
    let label = cells.parse_some(|label| match label {
        "" => Ok(None),
        label => UsageLabel::parse(label).map(Some),
    })?;
    let mut usage = KeyUsage::new(account, key, environment, cells.number()?);
    usage.label = label.flatten();
    usage.hours = cells.number()?;
    usage.counts = RequestCounts {
        admitted: cells.number()?,
        refused: cells.number()?,
        client_errors: cells.number()?,
        server_errors: cells.number()?,
        unanswered: cells.number()?,
        units: cells.number()?,
    };
    Ok(usage)
}
