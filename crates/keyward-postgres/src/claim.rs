//! Claims of due deliveries.

use std::ops::Bound;

use keyward_webhooks::send::{DueDelivery, EndpointId};
use keyward_webhooks::store::{ClaimRoom, DeliveryClaim};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use crate::error::{Error, RowError};
use crate::outbox::{self, ENDPOINT, MESSAGE};
use crate::row::{Cells, Timestamp};

/// The number of due deliveries that are examined one by one.
const LOOK: i64 = 200;

/// The number of endpoints that a claim visits if there are more deliveries than that.
const VISIT: usize = 256;

/// The columns of a due delivery, of `keyward.delivery AS delivery`.
const DUE: &str = "delivery.endpoint, delivery.account, delivery.environment, delivery.message";

/// The endpoints that the last claim visited last.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cursor {
    any: String,
    proven: Option<EndpointId>,
}

/// Returns whether any delivery is due.
pub(crate) async fn is_due(client: &Client, claim: &DeliveryClaim) -> Result<bool, Error> {
    let any = "SELECT FROM keyward.delivery WHERE status = 'pending' AND due_at <= $1 \
         ORDER BY due_at LIMIT 1";
    let now = Timestamp(claim.now);
    let row = client
        .query_typed_opt(any, &[(&now, Type::TIMESTAMPTZ)])
        .await?;
    Ok(row.is_some())
}

/// Claims due deliveries in a transaction.
///
/// However many are due, it examines a bounded number. If it finds mostly deliveries for endpoints
/// that may get no more, it visits endpoints in turn, from where the last claim of this process ended,
/// proven ones first; then it looks at the latest messages. So an endpoint with a large backlog that it
/// cannot take hides neither what others have waited for longest nor what is new.
pub(crate) async fn claim(
    client: &Client,
    claim: &DeliveryClaim,
    from: &mut Cursor,
) -> Result<Vec<DueDelivery>, Error> {
    client.batch_execute("SELECT keyward.claim_lock()").await?;
    let mut found = Found {
        client,
        now: Timestamp(claim.now),
        room: ClaimRoom::new(claim),
        due: Default::default(),
    };
    if !found.room.is_enough() && found.look("ASC").await? >= LOOK && !found.room.is_enough() {
        found.visit_proven(claim, from).await?;
        found.visit_any(from).await?;
        if !found.room.is_enough() {
            found.look("DESC").await?;
        }
    }
    found.take(claim).await
}

/// The deliveries that a claim has found.
struct Found<'a> {
    client: &'a Client,
    now: Timestamp,
    room: ClaimRoom<'a>,
    /// Their endpoints, accounts, environments and messages.
    due: [Vec<String>; 4],
}

impl Found<'_> {
    /// Examines the longest due or the latest deliveries, and returns how many there were.
    async fn look(&mut self, order: &str) -> Result<i64, Error> {
        let look = format!(
            "SELECT {DUE}, coalesce(endpoint.status = 'enabled' AND NOT endpoint.deleted, false) \
             FROM (SELECT * FROM keyward.delivery WHERE status = 'pending' AND due_at <= $1 \
                 ORDER BY due_at {order} LIMIT {LOOK}) AS delivery \
             LEFT JOIN keyward.endpoint AS endpoint ON endpoint.id = delivery.endpoint \
             ORDER BY delivery.due_at"
        );
        let rows = self
            .client
            .query_typed(&look, &[(&self.now, Type::TIMESTAMPTZ)])
            .await?;
        if order == "DESC" {
            // Other deliveries to these endpoints may have waited longer than the latest.
            let mut endpoints: Vec<String> = Vec::new();
            for row in &rows {
                let endpoint: String = row.try_get(0)?;
                if !endpoints.contains(&endpoint) {
                    endpoints.push(endpoint);
                }
            }
            self.visit(&endpoints).await?;
        } else {
            for row in &rows {
                if row.try_get(4)? {
                    self.add(row)?;
                }
            }
        }
        Ok(i64::try_from(rows.len()).unwrap_or(i64::MAX))
    }

    /// Visits proven endpoints, in turn.
    async fn visit_proven(
        &mut self,
        claim: &DeliveryClaim,
        from: &mut Cursor,
    ) -> Result<(), Error> {
        let Some(proven) = &claim.proven else {
            return Ok(());
        };
        let begun = from.proven.map_or(Bound::Unbounded, Bound::Excluded);
        let rest = proven.endpoints.range((begun, Bound::Unbounded));
        let all = rest.chain(&*proven.endpoints).take(proven.endpoints.len());
        let some: Vec<_> = all.take(VISIT).map(EndpointId::to_string).collect();
        if let Some(last) = self.visit(&some).await? {
            from.proven = EndpointId::parse(&last).ok();
        }
        Ok(())
    }

    /// Visits endpoints with pending deliveries, in turn.
    async fn visit_any(&mut self, from: &mut Cursor) -> Result<(), Error> {
        // It jumps from one endpoint to the next in the index.
        let next = "WITH RECURSIVE one (id) AS ( \
             (SELECT endpoint FROM keyward.delivery WHERE status = 'pending' AND endpoint > $1 \
                 ORDER BY endpoint LIMIT 1) \
             UNION ALL SELECT (SELECT endpoint FROM keyward.delivery \
                 WHERE status = 'pending' AND endpoint > one.id ORDER BY endpoint LIMIT 1) \
             FROM one WHERE one.id IS NOT NULL) \
             SELECT id FROM one WHERE id IS NOT NULL LIMIT $2";
        let begun = from.any.clone();
        for has_turned in [false, true] {
            if self.room.is_enough() || has_turned && begun.is_empty() {
                break;
            }
            if has_turned {
                from.any.clear();
            }
            let most = i64::try_from(VISIT).unwrap_or(i64::MAX);
            let rows = self
                .client
                .query_typed(next, &[(&from.any, Type::TEXT), (&most, Type::INT8)])
                .await?;
            let mut some: Vec<String> = Vec::new();
            for row in &rows {
                let id: String = row.try_get(0)?;
                if !has_turned || id <= begun {
                    some.push(id);
                }
            }
            let is_whole = rows.len() < VISIT;
            if let Some(last) = self.visit(&some).await? {
                from.any = last;
            }
            if !is_whole {
                break;
            }
        }
        Ok(())
    }

    /// Takes what has waited longest for each of these endpoints, but for those that were seen before.
    ///
    /// Returns the last endpoint that it came to.
    async fn visit(&mut self, endpoints: &[String]) -> Result<Option<String>, Error> {
        let mut last = None;
        // Few at a time, as the first may have enough.
        for some in endpoints.chunks(32) {
            if self.room.is_enough() {
                break;
            }
            let mut ids = Vec::new();
            let mut wanted = Vec::new();
            for text in some {
                if let Ok(id) = EndpointId::parse(text)
                    && self.room.is_untouched(id)
                    && self.room.of(id) > 0
                {
                    ids.push(id);
                    wanted.push(text.as_str());
                }
            }
            let most = ids.iter().map(|id| self.room.of(*id)).max().unwrap_or(0);
            let most = i64::try_from(most).unwrap_or(i64::MAX);
            let visit = format!(
                "SELECT {DUE} FROM unnest($2) WITH ORDINALITY AS wanted (id, number) \
                 JOIN keyward.endpoint AS endpoint ON endpoint.id = wanted.id \
                 AND endpoint.status = 'enabled' AND NOT endpoint.deleted \
                 CROSS JOIN LATERAL (SELECT * FROM keyward.delivery AS own \
                     WHERE own.status = 'pending' AND own.endpoint = wanted.id AND own.due_at <= $1 \
                     ORDER BY own.due_at LIMIT $3) AS delivery \
                 ORDER BY wanted.number, delivery.due_at"
            );
            let rows = self
                .client
                .query_typed(
                    &visit,
                    &[
                        (&self.now, Type::TIMESTAMPTZ),
                        (&wanted, Type::TEXT_ARRAY),
                        (&most, Type::INT8),
                    ],
                )
                .await?;
            for row in &rows {
                self.add(row)?;
            }
            for id in ids {
                self.room.close(id);
            }
            last = some.last().cloned();
        }
        Ok(last)
    }

    /// Adds a delivery, if there is room for it.
    fn add(&mut self, row: &Row) -> Result<(), Error> {
        let Ok(endpoint) = EndpointId::parse(row.try_get(0)?) else {
            return Ok(());
        };
        if self.room.of(endpoint) > 0 {
            self.room.take(endpoint);
            for (at, column) in self.due.iter_mut().enumerate() {
                column.push(row.try_get(at)?);
            }
        }
        Ok(())
    }

    /// Claims what was found. An invalid delivery is logged and not returned.
    async fn take(self, claim: &DeliveryClaim) -> Result<Vec<DueDelivery>, Error> {
        let [endpoints, accounts, environments, messages] = &self.due;
        if endpoints.is_empty() {
            return Ok(Vec::new());
        }
        // What another transaction holds, or has changed since, is for a later claim.
        let take = format!(
            "WITH found AS (SELECT delivery.ctid, delivery.due_at \
             FROM unnest($2, $3, $4, $5) AS wanted (endpoint, account, environment, message) \
             JOIN keyward.delivery AS delivery ON delivery.account = wanted.account \
             AND delivery.environment = wanted.environment \
             AND delivery.message = wanted.message AND delivery.endpoint = wanted.endpoint \
             WHERE delivery.status = 'pending' AND delivery.due_at <= $1 \
             FOR NO KEY UPDATE OF delivery SKIP LOCKED), \
             claimed AS (UPDATE keyward.delivery AS delivery SET due_at = $6, \
                 attempts = least(delivery.attempts + 1, 4294967295) \
                 FROM found WHERE delivery.ctid = found.ctid \
                 RETURNING {DUE}, delivery.attempts, delivery.failures, found.due_at) \
             SELECT claimed.endpoint, claimed.message, claimed.attempts, claimed.failures, \
             {ENDPOINT}, {MESSAGE} FROM claimed \
             LEFT JOIN keyward.endpoint AS endpoint ON endpoint.account = claimed.account \
             AND endpoint.environment = claimed.environment AND endpoint.id = claimed.endpoint \
             LEFT JOIN keyward.message AS message ON message.account = claimed.account \
             AND message.environment = claimed.environment AND message.id = claimed.message \
             ORDER BY claimed.due_at"
        );
        let rows = self
            .client
            .query_typed(
                &take,
                &[
                    (&self.now, Type::TIMESTAMPTZ),
                    (endpoints, Type::TEXT_ARRAY),
                    (accounts, Type::TEXT_ARRAY),
                    (environments, Type::TEXT_ARRAY),
                    (messages, Type::TEXT_ARRAY),
                    (&Timestamp(claim.until), Type::TIMESTAMPTZ),
                ],
            )
            .await?;
        let mut claimed = Vec::new();
        for row in &rows {
            match due(row) {
                Ok(Some(due)) => claimed.push(due),
                Ok(None) => log_broken(row, &"its message or its endpoint is another's"),
                Err(error) => log_broken(row, &error),
            }
        }
        Ok(claimed)
    }
}

fn due(row: &Row) -> Result<Option<DueDelivery>, RowError> {
    let mut cells = Cells::of(row);
    let (_, _): (&str, &str) = (cells.get()?, cells.get()?);
    let (attempts, failures) = (cells.small()?, cells.small()?);
    let endpoint = outbox::endpoint(&mut cells)?;
    let message = outbox::message(&mut cells)?;
    let due = DueDelivery::new(message, endpoint);
    Ok(due.map(|due| due.claimed(attempts, failures)))
}

fn log_broken(row: &Row, why: &dyn std::fmt::Display) {
    let text = |at| row.try_get::<_, &str>(at).unwrap_or_default();
    let (id, message) = (text(0), text(1));
    let error = tracing::field::display(why);
    tracing::error!(
        id,
        message,
        error,
        "a delivery cannot be read and stays pending"
    );
}
