//! Endpoints, messages and deliveries as rows.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use keyward::{
    AccountId, AttemptOutcome, Conclusion, DeliveryAttempt, DeliveryClaim, DueDelivery, EndpointId,
    EndpointStatus, EndpointUrl, EndpointsAtMost, Environment, NextStep, Redelivery, SealedSecret,
    StoreError, StoreErrorKind, WebhookCommit, WebhookEndpoint, WebhookId, WebhookMessage,
};
use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};

use crate::commit;
use crate::error::failed;
use crate::row::{self, Cells, millis};

/// The columns that [`endpoint`] reads.
const ENDPOINTS: &str = "SELECT id, account, environment, url, secret, created_at, revision, status, \
     previous_secret, previous_until, verified_at FROM keyward_endpoint";

/// The columns that [`message`] reads.
const MESSAGES: &str =
    "SELECT id, account, environment, payload, content_type, created_at FROM keyward_message";

/// The columns that [`DueRow`] reads.
const DUE: &str = "SELECT due_at, account, environment, message, endpoint, attempts, failures \
     FROM keyward_delivery WHERE status = 'pending' AND due_at <= ?1";

/// How many of the deliveries that are due are looked at one by one.
const LOOK: usize = 500;

/// How many messages are forgotten in one go: nobody else is served meanwhile.
const FORGOTTEN_AT_ONCE: usize = 500;

/// A message's place in the order of their acceptance.
pub(crate) type Place = (i64, i64);

/// Writes all of it or nothing.
pub(crate) fn write(connection: &mut Connection, commit: &WebhookCommit) -> Result<(), StoreError> {
    let WebhookCommit {
        endpoints,
        deleted,
        at_most,
        message,
        again,
        with,
    } = commit;
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(failed)?;
    commit::put_in(&transaction, with)?;
    for endpoint in endpoints {
        put_endpoint(&transaction, endpoint).map_err(failed)?;
    }
    if let Some((id, revision)) = deleted {
        let deleted = transaction
            .prepare_cached("DELETE FROM keyward_endpoint WHERE id = ?1 AND revision = ?2")
            .and_then(|mut delete| delete.execute(params![id.to_string(), revision.cast_signed()]));
        row::one(deleted.map_err(failed)?).map_err(failed)?;
    }
    if let Some(bound) = at_most
        && count(&transaction, bound).map_err(failed)? > bound.at_most.into()
    {
        return Err(StoreError::new(StoreErrorKind::TooManyEndpoints));
    }
    if let Some(message) = message {
        accept(&transaction, message).map_err(failed)?;
    }
    if let Some((endpoint, what)) = again {
        deliver_again(&transaction, *endpoint, what).map_err(failed)?;
    }
    transaction.commit().map_err(failed)
}

/// Writes an endpoint over the one of its revision; fails when there is none.
fn put_endpoint(connection: &Connection, endpoint: &WebhookEndpoint) -> rusqlite::Result<()> {
    let sql = if endpoint.revision == 0 {
        "INSERT INTO keyward_endpoint (id, account, environment, created_at, url, status, secret, \
         previous_secret, previous_until, verified_at) \
         SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10 WHERE ?11 = 0"
    } else {
        "UPDATE keyward_endpoint SET created_at = ?4, url = ?5, status = ?6, secret = ?7, \
         previous_secret = ?8, previous_until = ?9, verified_at = ?10 \
         WHERE id = ?1 AND account = ?2 AND environment = ?3 AND revision = ?11"
    };
    let previous = endpoint.previous.as_ref();
    row::one(connection.prepare_cached(sql)?.execute(params![
        endpoint.id().to_string(),
        endpoint.account().as_str(),
        endpoint.environment().as_str(),
        millis(endpoint.created_at),
        endpoint.url.as_str(),
        endpoint.status.as_str(),
        endpoint.secret.to_string(),
        previous.map(|(secret, _)| secret.to_string()),
        previous.map(|(_, until)| millis(*until)),
        endpoint.verified_at.map(millis),
        endpoint.revision.cast_signed(),
    ])?)
}

fn count(connection: &Connection, bound: &EndpointsAtMost) -> rusqlite::Result<i64> {
    connection
        .prepare_cached(
            "SELECT count(*) FROM keyward_endpoint WHERE account = ?1 AND environment = ?2",
        )?
        .query_row(
            [bound.account.as_str(), bound.environment.as_str()],
            |row| row.get(0),
        )
}

/// Keeps a message, and a delivery of it for each endpoint that it is deliverable to.
fn accept(connection: &Connection, message: &WebhookMessage) -> rusqlite::Result<()> {
    let (account, environment) = (message.account().as_str(), message.environment());
    let created_at = millis(message.created_at());
    connection
        .prepare_cached(
            "INSERT INTO keyward_message (account, environment, id, content_type, payload, created_at) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![
            account,
            environment.as_str(),
            message.id().as_str(),
            message.content_type(),
            message.payload(),
            created_at,
        ])?;
    connection
        .prepare_cached(
            "INSERT INTO keyward_delivery (account, environment, message, endpoint, due_at) \
             SELECT account, environment, ?3, id, ?4 FROM keyward_endpoint \
             WHERE account = ?1 AND environment = ?2 AND status = 'enabled'",
        )?
        .execute(params![
            account,
            environment.as_str(),
            message.id().as_str(),
            created_at,
        ])
        .map(drop)
}

/// Makes due what is to be delivered again; fails when there is no such endpoint or message.
fn deliver_again(
    connection: &Connection,
    endpoint: EndpointId,
    what: &Redelivery,
) -> rusqlite::Result<()> {
    let sql = match what {
        Redelivery::Message(_) => {
            "INSERT INTO keyward_delivery (account, environment, message, endpoint, due_at, status) \
             SELECT m.account, m.environment, m.id, e.id, m.created_at, \
             CASE e.status WHEN 'enabled' THEN 'pending' ELSE 'held' END \
             FROM keyward_endpoint e JOIN keyward_message m \
             ON m.account = e.account AND m.environment = e.environment \
             WHERE e.id = ?1 AND m.id = ?2 ON CONFLICT DO UPDATE \
             SET due_at = excluded.due_at, status = excluded.status, failures = 0, \
             attempts = min(attempts + 1, 4294967295)"
        }
        Redelivery::FailedSince(_) => {
            "UPDATE keyward_delivery SET due_at = m.created_at, failures = 0, \
             status = CASE e.status WHEN 'enabled' THEN 'pending' ELSE 'held' END \
             FROM keyward_endpoint e, keyward_message m \
             WHERE e.id = ?1 AND keyward_delivery.account = e.account \
             AND keyward_delivery.environment = e.environment AND keyward_delivery.endpoint = e.id \
             AND keyward_delivery.status = 'failed' AND m.account = e.account \
             AND m.environment = e.environment AND m.id = keyward_delivery.message \
             AND m.created_at >= ?2"
        }
    };
    let mut again = connection.prepare_cached(sql)?;
    let endpoint = endpoint.to_string();
    match what {
        Redelivery::Message(id) => row::one(again.execute([&*endpoint, id.as_str()])?),
        Redelivery::FailedSince(since) => {
            again.execute(params![endpoint, millis(*since)]).map(drop)
        }
    }
}

/// The endpoint of this name.
pub(crate) fn stored_endpoint(
    connection: &Connection,
    id: EndpointId,
) -> rusqlite::Result<Option<WebhookEndpoint>> {
    connection
        .prepare_cached(&format!("{ENDPOINTS} WHERE id = ?1"))?
        .query_row([id.to_string()], endpoint)
        .optional()
}

/// The endpoints of an account and environment, where they are named, in the order of their making.
pub(crate) fn endpoints(
    connection: &Connection,
    account: Option<&AccountId>,
    environment: Option<Environment>,
) -> rusqlite::Result<Vec<WebhookEndpoint>> {
    // Two statements, so that each finds its index.
    let whose = match account {
        Some(_) => "account = ?1",
        None => "?1 IS NULL",
    };
    let mut rows = connection.prepare_cached(&format!(
        "{ENDPOINTS} WHERE {whose} AND (?2 IS NULL OR environment = ?2) ORDER BY number"
    ))?;
    let environment = environment.as_ref().map(Environment::as_str);
    let mut rows = rows.query(params![account.map(AccountId::as_str), environment])?;
    row::valid(&mut rows, usize::MAX, endpoint)
}

fn endpoint(row: &Row<'_>) -> rusqlite::Result<WebhookEndpoint> {
    let mut cells = Cells::of(row);
    let mut endpoint = WebhookEndpoint::stored(
        cells.parse(EndpointId::parse)?,
        cells.parse(AccountId::parse)?,
        cells.parse(Environment::parse)?,
        cells.parse(EndpointUrl::parse)?,
        cells.parse(SealedSecret::parse)?,
        cells.time()?,
    );
    endpoint.revision = cells.number()?;
    endpoint.status = cells.parse(EndpointStatus::parse)?;
    let previous = cells.parse_some(SealedSecret::parse)?;
    endpoint.previous = previous.zip(cells.time_if_any()?);
    endpoint.verified_at = cells.time_if_any()?;
    Ok(endpoint)
}

/// The message of this name.
pub(crate) fn stored_message(
    connection: &Connection,
    account: &str,
    environment: &str,
    id: &str,
) -> rusqlite::Result<Option<WebhookMessage>> {
    connection
        .prepare_cached(&format!(
            "{MESSAGES} WHERE account = ?1 AND environment = ?2 AND id = ?3"
        ))?
        .query_row([account, environment, id], message)
        .optional()
}

fn message(row: &Row<'_>) -> rusqlite::Result<WebhookMessage> {
    let mut cells = Cells::of(row);
    let id = cells.parse(WebhookId::parse)?;
    let account = cells.parse(AccountId::parse)?;
    let environment = cells.parse(Environment::parse)?;
    let payload: Vec<u8> = cells.get()?;
    let message = cells.valid(WebhookMessage::new(account, environment, id, payload))?;
    let message = cells.parse(|text| message.with_content_type(text))?;
    Ok(message.accepted_at(cells.time()?))
}

/// Takes deliveries that are due.
pub(crate) fn claim(
    connection: &mut Connection,
    claim: &DeliveryClaim,
) -> rusqlite::Result<Vec<DueDelivery>> {
    // Most of the time nothing is due, and a process that writes need not be waited for.
    if due_rows(connection, claim)?.is_empty() {
        return Ok(Vec::new());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut claimed = Vec::new();
    for row in due_rows(&transaction, claim)? {
        claimed.extend(row.take(&transaction, claim)?);
    }
    transaction.commit()?;
    Ok(claimed)
}

/// What is due, the longest first: looked for one by one, in which the endpoints that wait for later cost
/// nothing, unless much of it is of a few endpoints; then by endpoint, in which it costs nothing how much.
fn due_rows(connection: &Connection, claim: &DeliveryClaim) -> rusqlite::Result<Vec<DueRow>> {
    let busy: HashSet<_> = claim.busy.iter().map(EndpointId::to_string).collect();
    let mut taken: HashMap<String, usize> = HashMap::new();
    let mut due = Vec::new();
    let mut rows = connection.prepare_cached(&format!("{DUE} ORDER BY due_at LIMIT {LOOK}"))?;
    let mut rows = rows.query([millis(claim.now)])?;
    for _ in 0..LOOK {
        let row = match rows.next()? {
            Some(row) if due.len() < claim.limit => DueRow::of(row)?,
            _ => return Ok(due),
        };
        let count = taken.entry(row.endpoint.clone()).or_default();
        if *count < claim.each && !busy.contains(&row.endpoint) {
            *count += 1;
            due.push(row);
        }
    }
    due.clear();
    for endpoint in due_endpoints(connection, claim)? {
        if !busy.contains(&endpoint) {
            due.extend(due_to(connection, claim, &endpoint)?);
        }
    }
    due.sort_by_key(|row| row.due_at);
    due.truncate(claim.limit);
    Ok(due)
}

/// The endpoints for which something is due: one look into the index for each that anything waits for.
fn due_endpoints(connection: &Connection, claim: &DeliveryClaim) -> rusqlite::Result<Vec<String>> {
    let mut next = connection.prepare_cached(
        "SELECT endpoint, due_at FROM keyward_delivery \
         WHERE status = 'pending' AND endpoint > ?1 ORDER BY endpoint, due_at LIMIT 1",
    )?;
    let (mut found, mut last) = (Vec::new(), String::new());
    let row = |row: &Row<'_>| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?));
    while let Some((endpoint, due_at)) = next.query_row([&last], row).optional()? {
        last.clone_from(&endpoint);
        if due_at <= millis(claim.now) {
            found.push(endpoint);
        }
    }
    Ok(found)
}

fn due_to(
    connection: &Connection,
    claim: &DeliveryClaim,
    endpoint: &str,
) -> rusqlite::Result<Vec<DueRow>> {
    let each = i64::try_from(claim.each.min(claim.limit)).unwrap_or(i64::MAX);
    let mut rows =
        connection.prepare_cached(&format!("{DUE} AND endpoint = ?2 ORDER BY due_at LIMIT ?3"))?;
    let rows = rows.query_map(params![millis(claim.now), endpoint, each], DueRow::of)?;
    rows.collect()
}

/// A delivery that is due.
struct DueRow {
    due_at: i64,
    account: String,
    environment: String,
    message: String,
    endpoint: String,
    attempts: u32,
    failures: u32,
}

impl DueRow {
    fn of(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            due_at: row.get(0)?,
            account: row.get(1)?,
            environment: row.get(2)?,
            message: row.get(3)?,
            endpoint: row.get(4)?,
            attempts: row.get(5)?,
            failures: row.get(6)?,
        })
    }

    /// Claims it. One that makes no sense is not given, and the log tells of it.
    fn take(
        self,
        connection: &Connection,
        claim: &DeliveryClaim,
    ) -> rusqlite::Result<Option<DueDelivery>> {
        let attempt = self.attempts.saturating_add(1);
        connection
            .prepare_cached(
                "UPDATE keyward_delivery SET due_at = ?5, attempts = ?6 \
                 WHERE account = ?1 AND environment = ?2 AND message = ?3 AND endpoint = ?4",
            )?
            .execute(params![
                self.account,
                self.environment,
                self.message,
                self.endpoint,
                millis(claim.until),
                attempt,
            ])?;
        match self.read(connection) {
            Ok(Some(due)) => Ok(Some(due.claimed(attempt, self.failures))),
            Ok(None) => {
                let (id, message) = (&*self.endpoint, &*self.message);
                tracing::error!(id, message, "a delivery is of no message to no endpoint");
                Ok(None)
            }
            Err(error) if error.sqlite_error_code().is_some() => Err(error),
            Err(error) => {
                let (id, message) = (&*self.endpoint, &*self.message);
                let error: &(dyn std::error::Error + 'static) = &error;
                tracing::error!(id, message, error, "a delivery cannot be read, and waits");
                Ok(None)
            }
        }
    }

    /// The message and the endpoint, both by the account and the environment of the delivery.
    fn read(&self, connection: &Connection) -> rusqlite::Result<Option<DueDelivery>> {
        let message = stored_message(connection, &self.account, &self.environment, &self.message)?;
        let endpoint = connection
            .prepare_cached(&format!(
                "{ENDPOINTS} WHERE account = ?1 AND environment = ?2 AND id = ?3"
            ))?
            .query_row([&self.account, &self.environment, &self.endpoint], endpoint)
            .optional()?;
        let pair = message.zip(endpoint);
        Ok(pair.and_then(|(message, endpoint)| DueDelivery::new(message, endpoint)))
    }
}

/// Keeps what came of an attempt, and what follows from it.
pub(crate) fn conclude(
    connection: &mut Connection,
    conclusion: &Conclusion,
) -> rusqlite::Result<()> {
    let Conclusion {
        delivery: due,
        attempt,
        next,
    } = conclusion;
    let (message, endpoint) = (due.message(), due.endpoint());
    let (account, environment) = (message.account().as_str(), message.environment());
    let id = endpoint.id().to_string();
    let place = params![account, environment.as_str(), message.id().as_str(), &*id];
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let claimed = transaction
        .prepare_cached(
            "SELECT attempts FROM keyward_delivery \
             WHERE account = ?1 AND environment = ?2 AND message = ?3 AND endpoint = ?4",
        )?
        .query_row(place, |row| row.get::<_, u32>(0))
        .optional()?;
    let Some(claimed) = claimed else {
        return Ok(()); // The endpoint was deleted meanwhile.
    };
    put_attempt(&transaction, due, attempt)?;
    let change = |change: &str| {
        transaction
            .prepare_cached(&format!(
                "UPDATE keyward_delivery SET {change} WHERE account = ?1 AND environment = ?2 \
                 AND message = ?3 AND endpoint = ?4 AND status IN ('pending', 'held')"
            ))?
            .execute(place)
    };
    match next {
        // However late: it has arrived.
        NextStep::Done => {
            transaction
                .prepare_cached(
                    "UPDATE keyward_delivery SET status = 'delivered' WHERE account = ?1 \
                     AND environment = ?2 AND message = ?3 AND endpoint = ?4",
                )?
                .execute(place)?;
        }
        _ if claimed != due.attempt() => {}
        NextStep::Retry(at) => {
            let at = millis(*at);
            change(&format!("due_at = {at}, failures = failures + 1"))?;
        }
        NextStep::GiveUp => {
            change("status = 'failed', failures = failures + 1")?;
        }
        NextStep::SwitchOff => {
            let created_at = millis(message.created_at());
            change(&format!("due_at = {created_at}"))?;
            // Not where it is another URL by now.
            transaction
                .prepare_cached(
                    "UPDATE keyward_endpoint SET status = 'gone' WHERE account = ?1 \
                     AND environment = ?2 AND id = ?3 AND status = 'enabled' AND url = ?4",
                )?
                .execute(params![
                    account,
                    environment.as_str(),
                    &*id,
                    endpoint.url.as_str()
                ])?;
        }
    }
    transaction.commit()
}

fn put_attempt(
    connection: &Connection,
    due: &DueDelivery,
    attempt: &DeliveryAttempt,
) -> rusqlite::Result<()> {
    let took = i64::try_from(attempt.took.as_millis()).unwrap_or(i64::MAX);
    connection
        .prepare_cached(
            "INSERT INTO keyward_attempt \
             (account, environment, message, endpoint, attempt, at, took, outcome, status, last) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        )?
        .execute(params![
            due.message().account().as_str(),
            due.message().environment().as_str(),
            attempt.message.as_str(),
            attempt.endpoint.to_string(),
            attempt.attempt,
            millis(attempt.at),
            took,
            attempt.outcome.as_str(),
            attempt.status,
            attempt.last,
        ])
        .map(drop)
}

/// The attempts to reach an endpoint below a number, newest first.
pub(crate) fn attempts(
    connection: &Connection,
    endpoint: EndpointId,
    before: Option<u64>,
    limit: usize,
) -> rusqlite::Result<Vec<DeliveryAttempt>> {
    let mut rows = connection.prepare_cached(
        "SELECT number, message, endpoint, attempt, at, took, outcome, status, last \
         FROM keyward_attempt WHERE endpoint = ?1 AND number < ?2 ORDER BY number DESC",
    )?;
    let before = before.map_or(i64::MAX, |before| i64::try_from(before).unwrap_or(i64::MAX));
    let mut rows = rows.query(params![endpoint.to_string(), before])?;
    row::valid(&mut rows, limit, |row| {
        let mut cells = Cells::of(row);
        Ok(DeliveryAttempt {
            number: cells.number()?,
            message: cells.parse(WebhookId::parse)?,
            endpoint: cells.parse(EndpointId::parse)?,
            attempt: cells.get()?,
            at: cells.time()?,
            took: Duration::from_millis(cells.number()?),
            outcome: cells.parse(AttemptOutcome::parse)?,
            status: cells.get()?,
            last: cells.get()?,
        })
    })
}

/// Forgets what was accepted before this moment and waits for nothing, some of it: from a place on. Tells
/// how many, and the place to go on from.
pub(crate) fn forget(
    connection: &mut Connection,
    before: i64,
    from: Place,
) -> rusqlite::Result<(u64, Option<Place>)> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let places: Vec<Place> = transaction
        .prepare_cached(&format!(
            "SELECT created_at, rowid FROM keyward_message \
             WHERE (created_at, rowid) > (?1, ?2) AND created_at < ?3 \
             ORDER BY created_at, rowid LIMIT {FORGOTTEN_AT_ONCE}"
        ))?
        .query_map([from.0, from.1, before], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?
        .collect::<rusqlite::Result<_>>()?;
    let mut forgotten = 0;
    for (_, rowid) in &places {
        // Deliveries and attempts go with it.
        forgotten += transaction
            .prepare_cached(
                "DELETE FROM keyward_message WHERE rowid = ?1 AND NOT EXISTS ( \
                 SELECT 1 FROM keyward_delivery WHERE account = keyward_message.account \
                 AND environment = keyward_message.environment AND message = keyward_message.id \
                 AND status IN ('pending', 'held'))",
            )?
            .execute([rowid])? as u64;
    }
    transaction.commit()?;
    let is_all = places.len() < FORGOTTEN_AT_ONCE;
    Ok((forgotten, places.last().copied().filter(|_| !is_all)))
}
