//! The rows of endpoints, messages and deliveries.

use std::collections::HashMap;
use std::ops::Bound;
use std::time::{Duration, Instant};

use keyward::record::DisabledBy;
use keyward::store::{StoreError, StoreErrorKind};
use keyward::{AccountId, Environment};
use keyward_webhooks::WebhookMessage;
use keyward_webhooks::sealing::SealedSecret;
use keyward_webhooks::send::{
    AttemptOutcome, Conclusion, DeliveryAttempt, DueDelivery, EndpointId, EndpointStatus,
    EndpointUrl, NextStep, WebhookEndpoint,
};
use keyward_webhooks::signature::WebhookId;
use keyward_webhooks::store::{ClaimRoom, DeliveryClaim, EndpointLimit, Redelivery, WebhookCommit};
use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};

use crate::error::failed;
use crate::group::SLICE;
use crate::row::{self, Cells, millis};
use crate::{backlog, commit};

/// The columns that [`endpoint`] reads.
const ENDPOINTS: &str = "SELECT id, account, environment, url, secret, created_at, revision, status, \
     previous_secret, previous_until, verified_at, disabled_by FROM keyward_endpoint_kept";

/// The columns that [`message`] reads.
const MESSAGES: &str =
    "SELECT id, account, environment, payload, content_type, created_at FROM keyward_message";

/// The columns that [`DueRow`] reads.
const DUE: &str = "SELECT due_at, account, environment, message, endpoint FROM keyward_delivery \
     WHERE status = 'pending' AND due_at <= ?1";

/// The number of due deliveries that are examined one by one.
const LOOK: usize = 200;

/// The number of endpoints that a claim visits if there are more deliveries than that.
const VISIT: usize = 256;

/// The number of messages that are examined at a time when some are deleted.
const FORGOTTEN_AT_ONCE: usize = 1000;

/// The position of a message in the order of acceptance.
pub(crate) type Place = (i64, i64);

/// Writes a commit in an exclusive transaction, which the caller rolls back on failure.
pub(crate) fn write(connection: &Connection, commit: &WebhookCommit) -> Result<(), StoreError> {
    let WebhookCommit {
        endpoints,
        deleted,
        at_most,
        message,
        again,
        with,
    } = commit;
    commit::write(connection, with)?;
    for endpoint in endpoints {
        put_endpoint(connection, endpoint).map_err(failed)?;
    }
    if let Some((id, revision)) = deleted {
        // The endpoint and its rows are deleted in steps, as there may be many.
        let deleted = connection
            .prepare_cached(
                "INSERT INTO keyward_endpoint_deleted (endpoint) \
                 SELECT id FROM keyward_endpoint_kept WHERE id = ?1 AND revision = ?2",
            )
            .and_then(|mut delete| delete.execute(params![id.to_string(), revision.cast_signed()]));
        row::one(deleted.map_err(failed)?).map_err(failed)?;
    }
    if let Some(bound) = at_most
        && count(connection, bound).map_err(failed)? > bound.at_most.into()
    {
        return Err(StoreError::new(StoreErrorKind::TooManyEndpoints));
    }
    if let Some(message) = message {
        accept(connection, message).map_err(failed)?;
    }
    if let Some((endpoint, what)) = again {
        deliver_again(connection, *endpoint, what).map_err(failed)?;
    }
    Ok(())
}

/// Writes an endpoint over the one of its revision; fails if there is none.
fn put_endpoint(connection: &Connection, endpoint: &WebhookEndpoint) -> rusqlite::Result<()> {
    let sql = if endpoint.revision == 0 {
        "INSERT INTO keyward_endpoint (id, account, environment, created_at, url, status, secret, \
         previous_secret, previous_until, verified_at, disabled_by) \
         SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?12 WHERE ?11 = 0"
    } else {
        "UPDATE keyward_endpoint SET created_at = ?4, url = ?5, status = ?6, secret = ?7, \
         previous_secret = ?8, previous_until = ?9, verified_at = ?10, disabled_by = ?12 \
         WHERE id = ?1 AND account = ?2 AND environment = ?3 AND revision = ?11 \
         AND id NOT IN (SELECT endpoint FROM keyward_endpoint_deleted)"
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
        endpoint.disabled_by.map(DisabledBy::as_str),
    ])?)
}

fn count(connection: &Connection, bound: &EndpointLimit) -> rusqlite::Result<i64> {
    connection
        .prepare_cached(
            "SELECT count(*) FROM keyward_endpoint_kept WHERE account = ?1 AND environment = ?2",
        )?
        .query_row(
            [bound.account.as_str(), bound.environment.as_str()],
            |row| row.get(0),
        )
}

/// Stores a message, and a delivery for each endpoint that it is deliverable to.
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
             SELECT account, environment, ?3, id, ?4 FROM keyward_endpoint_kept \
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

/// Makes deliveries due again; fails if there is no such endpoint or message.
fn deliver_again(
    connection: &Connection,
    endpoint: EndpointId,
    what: &Redelivery,
) -> rusqlite::Result<()> {
    let message = match what {
        Redelivery::Message(message) => message,
        Redelivery::FailedSince(since) => {
            return backlog::redeliver_since(connection, &endpoint.to_string(), millis(*since));
        }
    };
    row::one(
        connection
            .prepare_cached(
                "INSERT INTO keyward_delivery (account, environment, message, endpoint, due_at, status) \
                 SELECT m.account, m.environment, m.id, e.id, m.created_at, \
                 CASE e.status WHEN 'enabled' THEN 'pending' ELSE 'held' END \
                 FROM keyward_endpoint_kept e JOIN keyward_message m \
                 ON m.account = e.account AND m.environment = e.environment \
                 WHERE e.id = ?1 AND m.id = ?2 ON CONFLICT DO UPDATE \
                 SET due_at = excluded.due_at, status = excluded.status, failures = 0, \
                 attempts = min(attempts + 1, 4294967295)",
            )?
            .execute([&*endpoint.to_string(), message.as_str()])?,
    )
}

/// Returns the endpoint with this id.
pub(crate) fn stored_endpoint(
    connection: &Connection,
    id: EndpointId,
) -> rusqlite::Result<Option<WebhookEndpoint>> {
    connection
        .prepare_cached(&format!("{ENDPOINTS} WHERE id = ?1"))?
        .query_row([id.to_string()], endpoint)
        .optional()
}

/// Lists endpoints in the order of creation, optionally of one account and environment.
pub(crate) fn endpoints(
    connection: &Connection,
    account: Option<&AccountId>,
    environment: Option<Environment>,
) -> rusqlite::Result<Vec<WebhookEndpoint>> {
    // Two statements, so that each uses its index.
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
    endpoint.disabled_by = cells.parse_some(DisabledBy::parse)?;
    Ok(endpoint)
}

/// Returns the message with this id.
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

/// Returns whether any delivery is due.
pub(crate) fn is_due(connection: &Connection, claim: &DeliveryClaim) -> rusqlite::Result<bool> {
    connection
        .prepare_cached(&format!("{DUE} ORDER BY due_at LIMIT 1"))?
        .exists([millis(claim.now)])
}

/// The endpoints that the last claim visited last.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cursor {
    any: String,
    proven: Option<EndpointId>,
}

/// Claims due deliveries, in an exclusive transaction.
pub(crate) fn claim(
    connection: &Connection,
    claim: &DeliveryClaim,
    from: &mut Cursor,
) -> rusqlite::Result<Vec<DueDelivery>> {
    let last = from.clone();
    let mut claimed = Vec::new();
    let mut due = due_rows(connection, claim, from)?.into_iter();
    // The search is bounded by itself. On a busy machine it would use up the time, and leave one
    // delivery.
    let began = Instant::now();
    while let Some(row) = due.next() {
        claimed.extend(row.take(connection, claim)?);
        if began.elapsed() > SLICE && due.len() > 0 {
            // The rest is for the next claim, which must not skip it.
            *from = last;
            break;
        }
    }
    Ok(claimed)
}

/// Returns due deliveries, the longest due first.
///
/// However many are due, it examines a bounded number. If it finds mostly deliveries for endpoints
/// that may get no more, it visits endpoints in turn, from where the last claim ended, proven ones
/// first; then it looks at the latest messages. So an endpoint with a large backlog that it cannot
/// take hides neither what others have waited for longest nor what is new.
fn due_rows(
    connection: &Connection,
    claim: &DeliveryClaim,
    from: &mut Cursor,
) -> rusqlite::Result<Vec<DueRow>> {
    let mut found = Found::new(connection, claim);
    if found.room.is_enough() || found.look("ASC")? < LOOK {
        return Ok(found.due);
    }
    found.visit_proven(&mut from.proven)?;
    found.visit_any(&mut from.any)?;
    if !found.room.is_enough() {
        found.look("DESC")?;
    }
    found.due.sort_by_key(|row| row.due_at);
    Ok(found.due)
}

/// The deliveries that a claim has found.
struct Found<'a> {
    connection: &'a Connection,
    claim: &'a DeliveryClaim,
    room: ClaimRoom<'a>,
    /// The endpoints examined so far, and whether they are closed.
    closed: HashMap<EndpointId, bool>,
    due: Vec<DueRow>,
}

impl<'a> Found<'a> {
    fn new(connection: &'a Connection, claim: &'a DeliveryClaim) -> Self {
        Self {
            connection,
            claim,
            room: ClaimRoom::new(claim),
            closed: HashMap::new(),
            due: Vec::new(),
        }
    }

    /// Returns whether an endpoint is closed although its deliveries do not show it.
    ///
    /// It is deleted or disabled. Only the examined endpoints are checked, as there may be very
    /// many.
    fn is_closed(&mut self, endpoint: EndpointId) -> rusqlite::Result<bool> {
        if let Some(is_closed) = self.closed.get(&endpoint) {
            return Ok(*is_closed);
        }
        let is_closed = self
            .connection
            .prepare_cached(
                "SELECT EXISTS (SELECT 1 FROM keyward_endpoint_deleted WHERE endpoint = ?1) \
                 OR EXISTS (SELECT 1 FROM keyward_endpoint_switching \
                 JOIN keyward_endpoint ON id = endpoint WHERE endpoint = ?1 AND status <> 'enabled')",
            )?
            .query_row([endpoint.to_string()], |row| row.get(0))?;
        self.closed.insert(endpoint, is_closed);
        Ok(is_closed)
    }

    /// Returns the number of deliveries that this endpoint may still get.
    fn room(&mut self, endpoint: EndpointId) -> rusqlite::Result<usize> {
        let room = self.room.of(endpoint);
        Ok(if room > 0 && self.is_closed(endpoint)? {
            0
        } else {
            room
        })
    }

    fn take(&mut self, endpoint: EndpointId, row: DueRow) {
        self.room.take(endpoint);
        self.due.push(row);
    }

    /// Examines the longest due or the latest deliveries, and returns how many it has examined.
    fn look(&mut self, order: &str) -> rusqlite::Result<usize> {
        let sql = format!("{DUE} ORDER BY due_at {order} LIMIT {LOOK}");
        let mut rows = self.connection.prepare_cached(&sql)?;
        let mut rows = rows.query([millis(self.claim.now)])?;
        let (is_latest, mut looked) = (order == "DESC", 0);
        while let Some(row) = rows.next()? {
            if self.room.is_enough() {
                return Ok(0);
            }
            looked += 1;
            let Ok(endpoint) = EndpointId::parse(row.get_ref(4)?.as_str()?) else {
                continue;
            };
            if self.room(endpoint)? == 0 {
                continue;
            }
            let row = DueRow::of(row)?;
            if is_latest {
                // Other deliveries may have waited longer than the latest.
                self.visit(endpoint, &row.account, &row.environment)?;
            } else {
                self.take(endpoint, row);
            }
        }
        Ok(looked)
    }

    /// Visits proven endpoints, in turn.
    fn visit_proven(&mut self, from: &mut Option<EndpointId>) -> rusqlite::Result<()> {
        let Some(proven) = &self.claim.proven else {
            return Ok(());
        };
        let begun = from.map_or(Bound::Unbounded, Bound::Excluded);
        let rest = proven.endpoints.range((begun, Bound::Unbounded));
        let all = rest.chain(&*proven.endpoints).take(proven.endpoints.len());
        let mut place = self.connection.prepare_cached(
            "SELECT account, environment FROM keyward_delivery WHERE endpoint = ?1 LIMIT 1",
        )?;
        for id in all.take(VISIT) {
            if self.room.left().0 == 0 {
                break;
            }
            let place = place.query_row([id.to_string()], |row| Ok((row.get(0)?, row.get(1)?)));
            if let Some((account, environment)) = place.optional()? {
                let (account, environment): (String, String) = (account, environment);
                self.visit(*id, &account, &environment)?;
            }
            *from = Some(*id);
        }
        Ok(())
    }

    /// Visits endpoints with deliveries, in turn.
    fn visit_any(&mut self, from: &mut String) -> rusqlite::Result<()> {
        let begun = from.clone();
        let mut has_turned = false;
        let mut next = self.connection.prepare_cached(
            "SELECT endpoint, account, environment FROM keyward_delivery \
             WHERE endpoint > ?1 ORDER BY endpoint LIMIT 1",
        )?;
        for _ in 0..VISIT {
            if self.room.is_enough() || has_turned && *from >= begun {
                break;
            }
            let place = next.query_row([&*from], |row| {
                Ok([row.get(0)?, row.get(1)?, row.get(2)?] as [String; 3])
            });
            let Some([endpoint, account, environment]) = place.optional()? else {
                if has_turned {
                    break;
                }
                has_turned = true;
                from.clear();
                continue;
            };
            if let Ok(id) = EndpointId::parse(&endpoint) {
                self.visit(id, &account, &environment)?;
            }
            *from = endpoint;
        }
        Ok(())
    }

    /// Takes what has waited longest for this endpoint, unless it was visited before.
    fn visit(
        &mut self,
        endpoint: EndpointId,
        account: &str,
        environment: &str,
    ) -> rusqlite::Result<()> {
        let room = self.room(endpoint)?;
        if room == 0 || !self.room.is_untouched(endpoint) {
            return Ok(());
        }
        let most = i64::try_from(room).unwrap_or(i64::MAX);
        let mut rows = self.connection.prepare_cached(&format!(
            "{DUE} AND endpoint = ?2 AND account = ?3 AND environment = ?4 ORDER BY due_at LIMIT ?5"
        ))?;
        let id = endpoint.to_string();
        let place = params![millis(self.claim.now), id, account, environment, most];
        for row in rows.query_map(place, DueRow::of)? {
            self.take(endpoint, row?);
        }
        self.room.close(endpoint);
        Ok(())
    }
}

/// A due delivery.
struct DueRow {
    due_at: i64,
    account: String,
    environment: String,
    message: String,
    endpoint: String,
}

impl DueRow {
    fn of(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            due_at: row.get(0)?,
            account: row.get(1)?,
            environment: row.get(2)?,
            message: row.get(3)?,
            endpoint: row.get(4)?,
        })
    }

    /// Claims it. An invalid one is logged and not returned.
    fn take(
        self,
        connection: &Connection,
        claim: &DeliveryClaim,
    ) -> rusqlite::Result<Option<DueDelivery>> {
        let place = params![self.account, self.environment, self.message, self.endpoint];
        let (attempts, failures): (u32, u32) = connection
            .prepare_cached(
                "SELECT attempts, failures FROM keyward_delivery \
                 WHERE account = ?1 AND environment = ?2 AND message = ?3 AND endpoint = ?4",
            )?
            .query_row(place, |row| Ok((row.get(0)?, row.get(1)?)))?;
        let attempt = attempts.saturating_add(1);
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
            Ok(Some(due)) => Ok(Some(due.claimed(attempt, failures))),
            Ok(None) => {
                let (id, message) = (&*self.endpoint, &*self.message);
                tracing::error!(id, message, "a delivery has no message or no endpoint");
                Ok(None)
            }
            Err(error) if error.sqlite_error_code().is_some() => Err(error),
            Err(error) => {
                let (id, message) = (&*self.endpoint, &*self.message);
                let error: &(dyn std::error::Error + 'static) = &error;
                tracing::error!(
                    id,
                    message,
                    error,
                    "a delivery cannot be read and stays pending"
                );
                Ok(None)
            }
        }
    }

    /// Reads the message and the endpoint, both by the account and environment of the delivery.
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

/// Stores the outcome and the next step of an attempt, in an exclusive transaction.
pub(crate) fn conclude(connection: &Connection, conclusion: &Conclusion) -> rusqlite::Result<()> {
    let Conclusion {
        delivery: due,
        attempt,
        next,
    } = conclusion;
    let (message, endpoint) = (due.message(), due.endpoint());
    let (account, environment) = (message.account().as_str(), message.environment());
    let id = endpoint.id().to_string();
    let place = params![account, environment.as_str(), message.id().as_str(), &*id];
    let claimed = connection
        .prepare_cached(
            "SELECT attempts FROM keyward_delivery \
             WHERE account = ?1 AND environment = ?2 AND message = ?3 AND endpoint = ?4",
        )?
        .query_row(place, |row| row.get::<_, u32>(0))
        .optional()?;
    let Some(claimed) = claimed else {
        return Ok(()); // The endpoint was deleted meanwhile.
    };
    put_attempt(connection, due, attempt)?;
    let change = |change: &str| {
        connection
            .prepare_cached(&format!(
                "UPDATE keyward_delivery SET {change} WHERE account = ?1 AND environment = ?2 \
                 AND message = ?3 AND endpoint = ?4 AND status IN ('pending', 'held')"
            ))?
            .execute(place)
    };
    match next {
        // Even if it is late: the message has arrived.
        NextStep::Done => {
            connection
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
        NextStep::Disable => {
            let created_at = millis(message.created_at());
            change(&format!("due_at = {created_at}"))?;
            // Not if its URL has changed.
            connection
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
    Ok(())
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

/// Lists the attempts to reach an endpoint below a number, newest first.
pub(crate) fn attempts(
    connection: &Connection,
    endpoint: EndpointId,
    before: Option<u64>,
    limit: usize,
) -> rusqlite::Result<Vec<DeliveryAttempt>> {
    let mut rows = connection.prepare_cached(
        "SELECT number, message, endpoint, attempt, at, took, outcome, status, last \
         FROM keyward_attempt WHERE endpoint = ?1 AND number < ?2 \
         AND endpoint NOT IN (SELECT endpoint FROM keyward_endpoint_deleted) ORDER BY number DESC",
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

/// Deletes some finished messages accepted before a time, for one time slice.
///
/// It begins at a position, and returns the number of messages and the position at which to
/// continue.
pub(crate) fn forget(
    connection: &mut Connection,
    before: i64,
    from: Place,
) -> rusqlite::Result<(u64, Option<Place>)> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let began = Instant::now();
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
    let (mut forgotten, mut last) = (0, None);
    for place in &places {
        // Deliveries and attempts are deleted with it.
        forgotten += transaction
            .prepare_cached(
                "DELETE FROM keyward_message WHERE rowid = ?1 AND NOT EXISTS ( \
                 SELECT 1 FROM keyward_delivery WHERE account = keyward_message.account \
                 AND environment = keyward_message.environment AND message = keyward_message.id \
                 AND status IN ('pending', 'held'))",
            )?
            .execute([place.1])? as u64;
        last = Some(*place);
        if began.elapsed() > SLICE {
            break;
        }
    }
    transaction.commit()?;
    let is_all = places.len() < FORGOTTEN_AT_ONCE && last == places.last().copied();
    Ok((forgotten, last.filter(|_| !is_all)))
}
