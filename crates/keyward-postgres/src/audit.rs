//! The rows of the audit log.

use keyward::record::{AdminErrorKind, AuditAction, AuditEntry};
use keyward::store::AuditQuery;
use keyward::{AccountId, Environment, KeyId};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use crate::error::{Error, RowError};
use crate::found::Found;
use crate::row::{Cells, Timestamp, escaped};

/// Appends a line with the next number.
pub(crate) async fn put(client: &Client, entry: &AuditEntry) -> Result<(), Error> {
    let put = "INSERT INTO keyward.audit (at, actor, action, account, key, refused, detail, \
         reason, environment) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
    client
        .execute_typed(
            put,
            &[
                (&Timestamp(entry.at), Type::TIMESTAMPTZ),
                (&escaped(&entry.actor), Type::TEXT),
                (&entry.action.as_str(), Type::TEXT),
                (&entry.account.as_ref().map(AccountId::as_str), Type::TEXT),
                (&entry.key.map(|key| key.to_string()), Type::TEXT),
                (&entry.refused.map(AdminErrorKind::as_str), Type::TEXT),
                (&escaped(&entry.detail), Type::TEXT),
                (&escaped(&entry.reason), Type::TEXT),
                (
                    &entry.environment.as_ref().map(Environment::as_str),
                    Type::TEXT,
                ),
            ],
        )
        .await?;
    Ok(())
}

/// Returns the lines that match a query, newest first.
pub(crate) async fn page(client: &Client, query: &AuditQuery) -> Result<Vec<AuditEntry>, Error> {
    const PAGE: &str = "SELECT number, at, actor, action, account, environment, key, refused, \
         detail, reason FROM keyward.audit \
         WHERE number < $1 AND ($2::text IS NULL OR account = $2) \
         AND ($3::text IS NULL OR environment = $3) ORDER BY number DESC LIMIT $4";
    let before = query.before.map(i64::try_from);
    let mut before = before.and_then(Result::ok).unwrap_or(i64::MAX);
    let account = query.account.as_ref().map(AccountId::as_str);
    let environment = query.environment.as_ref().map(Environment::as_str);
    let mut found = Found::at_most(query.limit);
    loop {
        let rows = client
            .query_typed(
                PAGE,
                &[
                    (&before, Type::INT8),
                    (&account, Type::TEXT),
                    (&environment, Type::TEXT),
                    (&found.wanted(), Type::INT8),
                ],
            )
            .await?;
        match found.add(&rows, 2, entry) {
            Some(last) => before = last.try_get(0)?,
            None => return Ok(found.into_rows()),
        }
    }
}

fn entry(row: &Row) -> Result<AuditEntry, RowError> {
    let mut cells = Cells::of(row);
    let number = cells.number()?;
    let at = cells.time()?;
    let actor = cells.text()?;
    let mut entry = AuditEntry::new(at, &actor, cells.parse(AuditAction::parse)?);
    entry.number = number;
    entry.account = cells.parse_some(AccountId::parse)?;
    entry.environment = cells.parse_some(Environment::parse)?;
    entry.key = cells.parse_some(KeyId::parse)?;
    entry.refused = cells.parse_some(AdminErrorKind::parse)?;
    entry.detail = cells.text()?;
    entry.reason = cells.text()?;
    Ok(entry)
}
