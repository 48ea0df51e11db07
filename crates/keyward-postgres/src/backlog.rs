//! Background work on the deliveries of an endpoint, in short transactions.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use keyward::store::StoreError;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use crate::calls::Calls;
use crate::commit;
use crate::error::Error;
use crate::row::Timestamp;

/// The number of deliveries that one transaction changes.
const STEP: i64 = 256;

/// The interval at which work that other processes have left is looked for.
const LOOK: Duration = Duration::from_secs(5);

/// Runs the background work until it is aborted: at each wish, and every few seconds.
pub(crate) async fn run(calls: Calls, wishes: Arc<Notify>) {
    let mut is_failing = false;
    loop {
        // A wish that comes during the work is not lost.
        drop(timeout(LOOK, wishes.notified()).await);
        let done = work(&calls).await;
        match &done {
            Err(error) if !is_failing => {
                let error: &(dyn std::error::Error + 'static) = error;
                tracing::error!(
                    error,
                    "background work on deliveries failed and will be retried"
                );
            }
            Ok(()) if is_failing => tracing::info!("background work on deliveries goes on"),
            _ => {}
        }
        is_failing = done.is_err();
    }
}

/// Works until nothing is left but what other processes work on.
async fn work(calls: &Calls) -> Result<(), StoreError> {
    let any = "SELECT EXISTS (SELECT FROM keyward.endpoint WHERE switching) \
         OR EXISTS (SELECT FROM keyward.endpoint WHERE deleted) \
         OR EXISTS (SELECT FROM keyward.redelivery)";
    let is_any = calls.read(move |client| {
        Box::pin(async move { Ok(client.query_typed_one(any, &[]).await?.try_get(0)?) })
    });
    if !is_any.await? {
        return Ok(());
    }
    while calls.write(|client| Box::pin(step(client))).await? {}
    Ok(())
}

/// Does a step inside a transaction, and returns whether there was anything to do.
pub(crate) async fn step(client: &Client) -> Result<bool, Error> {
    Ok(switch(client).await? || redeliver(client).await? || delete(client).await?)
}

/// Switches some deliveries of an endpoint that was enabled or disabled.
async fn switch(client: &Client) -> Result<bool, Error> {
    let next = "SELECT id FROM keyward.endpoint WHERE switching \
         LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED";
    let Some(next) = client.query_typed_opt(next, &[]).await? else {
        return Ok(false);
    };
    let endpoint: &str = next.try_get(0)?;
    // In another statement than the lock, so that it sees what was committed before.
    let some = "UPDATE keyward.endpoint SET switching = keyward.switch_some(id, $2) WHERE id = $1";
    client
        .execute_typed(some, &[(&endpoint, Type::TEXT), (&STEP, Type::INT8)])
        .await?;
    Ok(true)
}

/// Redelivers some failed messages to an endpoint.
async fn redeliver(client: &Client) -> Result<bool, Error> {
    let next = "SELECT endpoint.id FROM keyward.redelivery JOIN keyward.endpoint AS endpoint \
         ON endpoint.id = redelivery.endpoint LIMIT 1 FOR SHARE OF endpoint SKIP LOCKED \
         FOR UPDATE OF redelivery SKIP LOCKED";
    let Some(next) = client.query_typed_opt(next, &[]).await? else {
        return Ok(false);
    };
    redeliver_to(client, next.try_get(0)?).await?;
    Ok(true)
}

/// Redelivers all failed messages accepted since then: the first at once, the rest in steps.
///
/// Fails if there is no such endpoint.
pub(crate) async fn redeliver_since(
    client: &Client,
    endpoint: &str,
    since: SystemTime,
) -> Result<(), Error> {
    // A delivery that fails again is due later than the last failed one, and is not visited again.
    let note = "INSERT INTO keyward.redelivery AS old SELECT endpoint.id, $2, '-infinity', '', \
         coalesce((SELECT max(due_at) FROM keyward.delivery AS delivery \
             WHERE delivery.endpoint = $1 AND delivery.status = 'failed'), '-infinity') \
         FROM (SELECT id FROM keyward.endpoint WHERE id = $1 AND NOT deleted FOR SHARE) AS endpoint \
         ON CONFLICT (endpoint) DO UPDATE SET since = least(old.since, excluded.since), \
         after_due_at = excluded.after_due_at, after_message = '', \
         until_due_at = excluded.until_due_at";
    let noted = client
        .execute_typed(
            note,
            &[
                (&endpoint, Type::TEXT),
                (&Timestamp(since), Type::TIMESTAMPTZ),
            ],
        )
        .await?;
    commit::one(noted)?;
    redeliver_to(client, endpoint).await
}

async fn redeliver_to(client: &Client, endpoint: &str) -> Result<(), Error> {
    let some = "WITH visited AS MATERIALIZED ( \
         SELECT delivery.account, delivery.environment, delivery.message, delivery.due_at, \
         message.created_at, message.created_at >= redelivery.since AS is_wanted \
         FROM keyward.redelivery AS redelivery JOIN keyward.delivery AS delivery \
         ON delivery.endpoint = redelivery.endpoint JOIN keyward.message AS message \
         ON message.account = delivery.account AND message.environment = delivery.environment \
         AND message.id = delivery.message \
         WHERE redelivery.endpoint = $1 AND delivery.endpoint = $1 AND delivery.status = 'failed' \
         AND (delivery.due_at, delivery.message) \
             > (redelivery.after_due_at, redelivery.after_message) \
         AND delivery.due_at <= redelivery.until_due_at \
         ORDER BY delivery.due_at, delivery.message LIMIT $2 \
         FOR NO KEY UPDATE OF delivery FOR KEY SHARE OF message), \
         again AS (UPDATE keyward.delivery AS delivery SET due_at = visited.created_at, failures = 0, \
             status = (SELECT CASE status WHEN 'enabled' THEN 'pending' ELSE 'held' END \
                 FROM keyward.endpoint WHERE id = $1) \
             FROM visited WHERE visited.is_wanted AND delivery.account = visited.account \
             AND delivery.environment = visited.environment AND delivery.message = visited.message \
             AND delivery.endpoint = $1), \
         place AS (UPDATE keyward.redelivery SET after_due_at = last.due_at, \
             after_message = last.message FROM (SELECT due_at, message FROM visited \
                 ORDER BY due_at DESC, message DESC LIMIT 1) AS last WHERE endpoint = $1) \
         SELECT count(*) FROM visited";
    let own = [(&endpoint as _, Type::TEXT), (&STEP as _, Type::INT8)];
    let visited: i64 = client.query_typed_one(some, &own).await?.try_get(0)?;
    if visited < STEP {
        let done = "DELETE FROM keyward.redelivery WHERE endpoint = $1";
        client.execute_typed(done, &own[..1]).await?;
    }
    Ok(())
}

/// Deletes some rows of a deleted endpoint.
async fn delete(client: &Client) -> Result<bool, Error> {
    let next = "SELECT id FROM keyward.endpoint WHERE deleted LIMIT 1 FOR UPDATE SKIP LOCKED";
    let Some(next) = client.query_typed_opt(next, &[]).await? else {
        return Ok(false);
    };
    let endpoint: &str = next.try_get(0)?;
    // The attempts are deleted with it.
    let some = "DELETE FROM keyward.delivery WHERE ctid = ANY (ARRAY( \
         SELECT ctid FROM keyward.delivery WHERE endpoint = $1 LIMIT $2 FOR UPDATE))";
    let own = [(&endpoint as _, Type::TEXT), (&STEP as _, Type::INT8)];
    if client.execute_typed(some, &own).await? == 0 {
        let whole = "DELETE FROM keyward.endpoint WHERE id = $1";
        client.execute_typed(whole, &own[..1]).await?;
    }
    Ok(true)
}
