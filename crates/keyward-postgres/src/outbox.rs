//! The rows of endpoints, messages and deliveries.

use std::time::{Duration, SystemTime};

use futures_util::try_join;
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
use keyward_webhooks::store::{EndpointLimit, Redelivery, WebhookCommit};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};

use crate::error::{Error, RowError};
use crate::found::Found;
use crate::row::{Cells, Columns, Timestamp};
use crate::{backlog, commit};

/// The columns that [`endpoint`] reads, of `keyward.endpoint AS endpoint`.
pub(crate) const ENDPOINT: &str = "endpoint.id, endpoint.account, endpoint.environment, \
     endpoint.url, endpoint.secret, endpoint.created_at, endpoint.revision, endpoint.status, \
     endpoint.previous_secret, endpoint.previous_until, endpoint.verified_at, endpoint.disabled_by";

/// The columns that [`message`] reads, of `keyward.message AS message`.
pub(crate) const MESSAGE: &str = "message.id, message.account, message.environment, \
     message.payload, message.content_type, message.created_at";

/// The number of messages that are examined at a time when some are deleted.
const FORGOTTEN_AT_ONCE: i64 = 256;

/// A parameter of a statement.
type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// Writes a commit in a transaction, which the caller rolls back on failure.
pub(crate) async fn write(client: &Client, commit: &WebhookCommit) -> Result<(), Error> {
    let WebhookCommit {
        endpoints,
        deleted,
        at_most,
        message,
        again,
        with,
    } = commit;
    if let Some(bound) = at_most {
        // Whoever adds an endpoint to the account meanwhile waits.
        let lock = "SELECT FROM keyward.account WHERE id = $1 FOR NO KEY UPDATE";
        let account: Parameter<'_> = (&bound.account.as_str(), Type::TEXT);
        client.query_typed(lock, &[account]).await?;
    }
    commit::write_rows(client, with).await?;
    for endpoint in endpoints {
        put_endpoint(client, endpoint).await?;
    }
    if let Some((id, revision)) = deleted {
        // The endpoint and its rows are deleted in steps, as there may be many.
        let delete = "UPDATE keyward.endpoint SET deleted = true \
             WHERE id = $1 AND revision = $2 AND NOT deleted";
        let own: [Parameter<'_>; 2] = [
            (&id.to_string(), Type::TEXT),
            (&revision.cast_signed(), Type::INT8),
        ];
        commit::one(client.execute_typed(delete, &own).await?)?;
    }
    if let Some(bound) = at_most
        && count(client, bound).await? > i64::from(bound.at_most)
    {
        return Err(StoreError::new(StoreErrorKind::TooManyEndpoints).into());
    }
    if let Some(message) = message {
        accept(client, message).await?;
    }
    if let Some((endpoint, what)) = again {
        deliver_again(client, *endpoint, what).await?;
    }
    commit::write_lines(client, with).await
}

/// Writes an endpoint over the one of its revision; fails if there is none.
async fn put_endpoint(client: &Client, endpoint: &WebhookEndpoint) -> Result<(), Error> {
    let sql = if endpoint.revision == 0 {
        "INSERT INTO keyward.endpoint (id, account, environment, created_at, url, status, secret, \
         previous_secret, previous_until, verified_at, disabled_by) \
         SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $12 WHERE $11 = 0"
    } else {
        "UPDATE keyward.endpoint SET created_at = $4, url = $5, status = $6, secret = $7, \
         previous_secret = $8, previous_until = $9, verified_at = $10, disabled_by = $12 \
         WHERE id = $1 AND account = $2 AND environment = $3 AND revision = $11 AND NOT deleted"
    };
    let previous = endpoint.previous.as_ref();
    let written = client
        .execute_typed(
            sql,
            &[
                (&endpoint.id().to_string(), Type::TEXT),
                (&endpoint.account().as_str(), Type::TEXT),
                (&endpoint.environment().as_str(), Type::TEXT),
                (&Timestamp(endpoint.created_at), Type::TIMESTAMPTZ),
                (&endpoint.url.as_str(), Type::TEXT),
                (&endpoint.status.as_str(), Type::TEXT),
                (&endpoint.secret.to_string(), Type::TEXT),
                (&previous.map(|(secret, _)| secret.to_string()), Type::TEXT),
                (
                    &previous.map(|(_, until)| Timestamp(*until)),
                    Type::TIMESTAMPTZ,
                ),
                (&endpoint.verified_at.map(Timestamp), Type::TIMESTAMPTZ),
                (&endpoint.revision.cast_signed(), Type::INT8),
                (&endpoint.disabled_by.map(DisabledBy::as_str), Type::TEXT),
            ],
        )
        .await?;
    commit::one(written)
}

async fn count(client: &Client, bound: &EndpointLimit) -> Result<i64, Error> {
    let count = "SELECT count(*) FROM keyward.endpoint \
         WHERE account = $1 AND environment = $2 AND NOT deleted";
    let place: [Parameter<'_>; 2] = [
        (&bound.account.as_str(), Type::TEXT),
        (&bound.environment.as_str(), Type::TEXT),
    ];
    Ok(client.query_typed_one(count, &place).await?.try_get(0)?)
}

/// Stores a message, and a delivery for each endpoint that it is deliverable to.
async fn accept(client: &Client, message: &WebhookMessage) -> Result<(), Error> {
    let account = message.account().as_str();
    let environment = message.environment();
    let environment = environment.as_str();
    let (id, created_at) = (message.id().as_str(), Timestamp(message.created_at()));
    let put = "INSERT INTO keyward.message \
         (account, environment, id, created_at, content_type, payload) \
         VALUES ($1, $2, $3, $4, $5, $6)";
    let place: [Parameter<'_>; 6] = [
        (&account, Type::TEXT),
        (&environment, Type::TEXT),
        (&id, Type::TEXT),
        (&created_at, Type::TIMESTAMPTZ),
        (&message.content_type(), Type::TEXT),
        (&message.payload(), Type::BYTEA),
    ];
    // An endpoint that is being disabled is waited for, and one that will be waits for this.
    let deliver = "INSERT INTO keyward.delivery (account, environment, message, endpoint, due_at) \
         SELECT account, environment, $3, id, $4 FROM ( \
         SELECT account, environment, id FROM keyward.endpoint \
         WHERE account = $1 AND environment = $2 AND status = 'enabled' AND NOT deleted \
         ORDER BY number FOR SHARE) AS open";
    try_join!(
        client.execute_typed(put, &place),
        client.execute_typed(deliver, &place[..4]),
    )?;
    Ok(())
}

/// Makes deliveries due again; fails if there is no such endpoint or message.
async fn deliver_again(
    client: &Client,
    endpoint: EndpointId,
    what: &Redelivery,
) -> Result<(), Error> {
    let endpoint = endpoint.to_string();
    let message = match what {
        Redelivery::Message(message) => message,
        Redelivery::FailedSince(since) => {
            return backlog::redeliver_since(client, &endpoint, *since).await;
        }
    };
    let again = "INSERT INTO keyward.delivery AS old \
         (account, environment, message, endpoint, due_at, status) \
         SELECT account, environment, message, endpoint, due_at, status FROM ( \
         SELECT message.account, message.environment, message.id AS message, \
         endpoint.id AS endpoint, message.created_at AS due_at, \
         CASE endpoint.status WHEN 'enabled' THEN 'pending' ELSE 'held' END AS status \
         FROM keyward.endpoint AS endpoint JOIN keyward.message AS message \
         ON message.account = endpoint.account AND message.environment = endpoint.environment \
         WHERE endpoint.id = $1 AND message.id = $2 AND NOT endpoint.deleted \
         FOR SHARE OF endpoint FOR KEY SHARE OF message) AS one \
         ON CONFLICT (account, environment, message, endpoint) DO UPDATE \
         SET due_at = excluded.due_at, status = excluded.status, failures = 0, \
         attempts = least(old.attempts + 1, 4294967295)";
    let place: [Parameter<'_>; 2] = [(&endpoint, Type::TEXT), (&message.as_str(), Type::TEXT)];
    commit::one(client.execute_typed(again, &place).await?)
}

/// Returns the endpoint with this id.
pub(crate) async fn stored_endpoint(
    client: &Client,
    id: EndpointId,
) -> Result<Option<WebhookEndpoint>, Error> {
    let one = format!(
        "SELECT {ENDPOINT} FROM keyward.endpoint AS endpoint WHERE id = $1 AND NOT deleted"
    );
    let row = client
        .query_typed_opt(&one, &[(&id.to_string(), Type::TEXT)])
        .await?;
    let row = row.map(|row| endpoint(&mut Cells::of(&row)));
    Ok(row.transpose()?)
}

/// Lists endpoints in the order of creation, optionally of one account and environment.
pub(crate) async fn endpoints(
    client: &Client,
    account: Option<&AccountId>,
    environment: Option<Environment>,
) -> Result<Vec<WebhookEndpoint>, Error> {
    let page = format!(
        "SELECT {ENDPOINT}, endpoint.number FROM keyward.endpoint AS endpoint \
         WHERE ($1::text IS NULL OR account = $1) AND ($2::text IS NULL OR environment = $2) \
         AND NOT deleted AND number > $3 ORDER BY number LIMIT $4"
    );
    let account = account.map(AccountId::as_str);
    let environment = environment.as_ref().map(Environment::as_str);
    let (mut found, mut after) = (Found::at_most(usize::MAX), 0_i64);
    loop {
        let rows = client
            .query_typed(
                &page,
                &[
                    (&account, Type::TEXT),
                    (&environment, Type::TEXT),
                    (&after, Type::INT8),
                    (&found.wanted(), Type::INT8),
                ],
            )
            .await?;
        match found.add(&rows, 0, |row| endpoint(&mut Cells::of(row))) {
            Some(last) => after = last.try_get(12)?,
            None => return Ok(found.into_rows()),
        }
    }
}

/// Reads an endpoint from the columns of [`ENDPOINT`].
pub(crate) fn endpoint(cells: &mut Cells<'_, impl Columns>) -> Result<WebhookEndpoint, RowError> {
    let mut endpoint = WebhookEndpoint::stored(
        cells.parse(EndpointId::parse)?,
        cells.parse(AccountId::parse)?,
        cells.parse(Environment::parse)?,
        cells.parse(EndpointUrl::parse)?,
        cells.parse(SealedSecret::parse)?,
        cells.time()?,
    );
    endpoint.revision = cells.get::<i64>()?.cast_unsigned();
    endpoint.status = cells.parse(EndpointStatus::parse)?;
    let previous = cells.parse_some(SealedSecret::parse)?;
    endpoint.previous = previous.zip(cells.time_if_any()?);
    endpoint.verified_at = cells.time_if_any()?;
    endpoint.disabled_by = cells.parse_some(DisabledBy::parse)?;
    Ok(endpoint)
}

/// Returns the message with this id.
pub(crate) async fn stored_message(
    client: &Client,
    account: &AccountId,
    environment: Environment,
    id: &WebhookId,
) -> Result<Option<WebhookMessage>, Error> {
    let one = format!(
        "SELECT {MESSAGE} FROM keyward.message AS message \
         WHERE account = $1 AND environment = $2 AND id = $3"
    );
    let place: [Parameter<'_>; 3] = [
        (&account.as_str(), Type::TEXT),
        (&environment.as_str(), Type::TEXT),
        (&id.as_str(), Type::TEXT),
    ];
    let row = client.query_typed_opt(&one, &place).await?;
    let row = row.map(|row| message(&mut Cells::of(&row)));
    Ok(row.transpose()?)
}

/// Reads a message from the columns of [`MESSAGE`].
pub(crate) fn message(cells: &mut Cells<'_, impl Columns>) -> Result<WebhookMessage, RowError> {
    let id = cells.parse(WebhookId::parse)?;
    let account = cells.parse(AccountId::parse)?;
    let environment = cells.parse(Environment::parse)?;
    let payload: Vec<u8> = cells.get()?;
    let message = cells.valid(WebhookMessage::new(account, environment, id, payload))?;
    let message = cells.parse(|text| message.with_content_type(text))?;
    Ok(message.accepted_at(cells.time()?))
}

/// Stores the outcome and the next step of an attempt, in a transaction.
pub(crate) async fn conclude(client: &Client, conclusion: &Conclusion) -> Result<(), Error> {
    let Conclusion {
        delivery: due,
        attempt,
        next,
    } = conclusion;
    let (message, endpoint) = (due.message(), due.endpoint());
    let (account, environment) = (message.account().as_str(), message.environment());
    let (environment, id) = (environment.as_str(), endpoint.id().to_string());
    let place: [Parameter<'_>; 4] = [
        (&account, Type::TEXT),
        (&environment, Type::TEXT),
        (&message.id().as_str(), Type::TEXT),
        (&id, Type::TEXT),
    ];
    if matches!(next, NextStep::Disable) {
        // Before the delivery, as in every transaction that switches an endpoint.
        let lock = "SELECT FROM keyward.endpoint WHERE id = $1 FOR NO KEY UPDATE";
        client.query_typed(lock, &[(&id, Type::TEXT)]).await?;
    }
    let claimed = "SELECT attempts FROM keyward.delivery WHERE account = $1 AND environment = $2 \
         AND message = $3 AND endpoint = $4 FOR NO KEY UPDATE";
    let Some(claimed) = client.query_typed_opt(claimed, &place).await? else {
        return Ok(()); // The endpoint was deleted meanwhile.
    };
    let claimed: i64 = claimed.try_get(0)?;
    put_attempt(client, due, attempt).await?;
    let is_ours = claimed == i64::from(due.attempt());
    let (change, at) = match next {
        // Even if it is late: the message has arrived.
        NextStep::Done => ("status = 'delivered'", None),
        _ if !is_ours => return Ok(()),
        NextStep::Retry(at) => (
            "due_at = $5, failures = least(failures + 1, 4294967295)",
            Some(*at),
        ),
        NextStep::GiveUp => (
            "status = 'failed', failures = least(failures + 1, 4294967295)",
            None,
        ),
        NextStep::Disable => ("due_at = $5", Some(message.created_at())),
    };
    let at = at.map(Timestamp);
    let waits = match next {
        NextStep::Done => "",
        _ => "AND status IN ('pending', 'held')",
    };
    let change = format!(
        "UPDATE keyward.delivery SET {change} WHERE account = $1 AND environment = $2 \
         AND message = $3 AND endpoint = $4 {waits}"
    );
    let [one, two, three, four] = place;
    let all = [one, two, three, four, (&at, Type::TIMESTAMPTZ)];
    client.execute_typed(&change, &all).await?;
    if matches!(next, NextStep::Disable) {
        // Not if its URL has changed.
        let disable = "UPDATE keyward.endpoint SET status = 'gone' \
             WHERE id = $1 AND status = 'enabled' AND url = $2";
        let own: [Parameter<'_>; 2] = [(&id, Type::TEXT), (&endpoint.url.as_str(), Type::TEXT)];
        client.execute_typed(disable, &own).await?;
    }
    Ok(())
}

async fn put_attempt(
    client: &Client,
    due: &DueDelivery,
    attempt: &DeliveryAttempt,
) -> Result<(), Error> {
    let put = "INSERT INTO keyward.attempt \
         (account, environment, message, endpoint, attempt, at, took, outcome, status, last) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
    let took = i64::try_from(attempt.took.as_millis()).unwrap_or(i64::MAX);
    client
        .execute_typed(
            put,
            &[
                (&due.message().account().as_str(), Type::TEXT),
                (&due.message().environment().as_str(), Type::TEXT),
                (&attempt.message.as_str(), Type::TEXT),
                (&attempt.endpoint.to_string(), Type::TEXT),
                (&i64::from(attempt.attempt), Type::INT8),
                (&Timestamp(attempt.at), Type::TIMESTAMPTZ),
                (&took, Type::INT8),
                (&attempt.outcome.as_str(), Type::TEXT),
                (&attempt.status.map(i64::from), Type::INT8),
                (&attempt.last, Type::BOOL),
            ],
        )
        .await?;
    Ok(())
}

/// Lists the attempts to reach an endpoint below a number, newest first.
pub(crate) async fn attempts(
    client: &Client,
    endpoint: EndpointId,
    before: Option<u64>,
    limit: usize,
) -> Result<Vec<DeliveryAttempt>, Error> {
    let page = "SELECT number, message, endpoint, attempt, at, took, outcome, status, last \
         FROM keyward.attempt WHERE endpoint = $1 AND number < $2 AND NOT EXISTS ( \
         SELECT FROM keyward.endpoint WHERE id = $1 AND deleted) ORDER BY number DESC LIMIT $3";
    let mut before = before.map_or(i64::MAX, |before| i64::try_from(before).unwrap_or(i64::MAX));
    let (mut found, endpoint) = (Found::at_most(limit), endpoint.to_string());
    loop {
        let rows = client
            .query_typed(
                page,
                &[
                    (&endpoint, Type::TEXT),
                    (&before, Type::INT8),
                    (&found.wanted(), Type::INT8),
                ],
            )
            .await?;
        match found.add(&rows, 1, attempt) {
            Some(last) => before = last.try_get(0)?,
            None => return Ok(found.into_rows()),
        }
    }
}

fn attempt(row: &Row) -> Result<DeliveryAttempt, RowError> {
    let mut cells = Cells::of(row);
    Ok(DeliveryAttempt {
        number: cells.number()?,
        message: cells.parse(WebhookId::parse)?,
        endpoint: cells.parse(EndpointId::parse)?,
        attempt: cells.small()?,
        at: cells.time()?,
        took: Duration::from_millis(cells.number()?),
        outcome: cells.parse(AttemptOutcome::parse)?,
        status: {
            let status: Option<i64> = cells.get()?;
            cells.valid(status.map(u16::try_from).transpose())?
        },
        last: cells.get()?,
    })
}

/// The position of a message in the order of acceptance.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    created_at: SystemTime,
    name: [String; 3],
}

/// Deletes some finished messages accepted before a time, in a transaction.
///
/// It begins after a position, and returns the number of messages and the position at which to
/// continue.
pub(crate) async fn forget(
    client: &Client,
    before: SystemTime,
    from: Option<Place>,
) -> Result<(u64, Option<Place>), Error> {
    let (created_at, [account, environment, id]) = match from {
        Some(place) => (Some(Timestamp(place.created_at)), place.name),
        None => (None, [const { String::new() }; 3]),
    };
    // What is redelivered meanwhile is waited for, and then seen by the next statement.
    let page = "SELECT created_at, account, environment, id FROM keyward.message \
         WHERE (created_at, account, environment, id) > (coalesce($2, '-infinity'), $3, $4, $5) \
         AND created_at < $1 ORDER BY created_at, account, environment, id LIMIT $6 FOR UPDATE";
    let rows = client
        .query_typed(
            page,
            &[
                (&Timestamp(before), Type::TIMESTAMPTZ),
                (&created_at, Type::TIMESTAMPTZ),
                (&account, Type::TEXT),
                (&environment, Type::TEXT),
                (&id, Type::TEXT),
                (&FORGOTTEN_AT_ONCE, Type::INT8),
            ],
        )
        .await?;
    let mut columns = [const { Vec::<String>::new() }; 3];
    let mut last = None;
    for row in &rows {
        let mut cells = Cells::of(row);
        let created_at = cells.time()?;
        let name: [String; 3] = [cells.get()?, cells.get()?, cells.get()?];
        for (column, text) in columns.iter_mut().zip(&name) {
            column.push(text.clone());
        }
        last = Some(Place { created_at, name });
    }
    // Deliveries and attempts are deleted with it.
    let delete = "DELETE FROM keyward.message AS message \
         USING unnest($1, $2, $3) AS old (account, environment, id) \
         WHERE message.account = old.account AND message.environment = old.environment \
         AND message.id = old.id AND NOT EXISTS (SELECT FROM keyward.delivery AS delivery \
         WHERE delivery.account = old.account AND delivery.environment = old.environment \
         AND delivery.message = old.id AND delivery.status IN ('pending', 'held'))";
    let [accounts, environments, ids] = &columns;
    let names: [Parameter<'_>; 3] = [
        (accounts, Type::TEXT_ARRAY),
        (environments, Type::TEXT_ARRAY),
        (ids, Type::TEXT_ARRAY),
    ];
    let forgotten = client.execute_typed(delete, &names).await?;
    let is_all = i64::try_from(rows.len()).is_ok_and(|rows| rows < FORGOTTEN_AT_ONCE);
    Ok((forgotten, last.filter(|_| !is_all)))
}
