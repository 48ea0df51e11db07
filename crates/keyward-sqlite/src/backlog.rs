//! Background work on the deliveries of an endpoint, in small steps.

use std::time::Instant;

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use crate::group::SLICE;
#[cfg(feature = "webhooks")]
use crate::row;

/// The number of deliveries that are changed before the time is checked.
const STEP: usize = 32;

/// The number of deliveries that are redelivered at once with the request itself.
#[cfg(feature = "webhooks")]
const AT_ONCE: usize = 256;

/// The deliveries of an endpoint with a status, in the order of an index.
const OF_ENDPOINT: &str = "endpoint = ?1 AND account = ?2 AND environment = ?3 AND status = ?4";

/// Returns whether work is left for any endpoint.
pub(crate) fn is_left(connection: &Connection) -> rusqlite::Result<bool> {
    connection
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM keyward_endpoint_switching) \
             OR EXISTS (SELECT 1 FROM keyward_redelivery) \
             OR EXISTS (SELECT 1 FROM keyward_endpoint_deleted)",
        )?
        .query_row([], |row| row.get(0))
}

/// Works for one time slice, and returns whether more is left.
pub(crate) fn work(connection: &mut Connection) -> rusqlite::Result<bool> {
    if !is_left(connection)? {
        return Ok(false);
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let began = Instant::now();
    while began.elapsed() < SLICE
        && (switch(&transaction)? || redeliver(&transaction)? || delete(&transaction)?)
    {}
    let is_more = is_left(&transaction)?;
    transaction.commit()?;
    Ok(is_more)
}

/// Redelivers all failed messages accepted since then: the first at once, the rest in steps.
///
/// Fails if there is no such endpoint.
#[cfg(feature = "webhooks")]
pub(crate) fn redeliver_since(
    connection: &Connection,
    endpoint: &str,
    since: i64,
) -> rusqlite::Result<()> {
    // A delivery that fails again is due later than the last failed one, and is not visited again.
    row::one(
        connection
            .prepare_cached(
                "INSERT INTO keyward_redelivery \
                 SELECT e.id, ?2, ?3, '', coalesce((SELECT max(due_at) FROM keyward_delivery \
                     WHERE endpoint = e.id AND account = e.account AND environment = e.environment \
                     AND status = 'failed'), ?3) \
                 FROM keyward_endpoint_kept e WHERE e.id = ?1 \
                 ON CONFLICT (endpoint) DO UPDATE SET since = min(since, excluded.since), \
                 after_due_at = excluded.after_due_at, after_message = '', \
                 until_due_at = excluded.until_due_at",
            )?
            .execute(params![endpoint, since, i64::MIN])?,
    )?;
    for _ in 0..AT_ONCE / STEP {
        if !redeliver_to(connection, endpoint)? {
            break;
        }
    }
    Ok(())
}

/// Updates some deliveries of an enabled or disabled endpoint, and returns whether there were any.
fn switch(connection: &Connection) -> rusqlite::Result<bool> {
    let Some(endpoint) = first_of(connection, "keyward_endpoint_switching")? else {
        return Ok(false);
    };
    let switched = match place_of(connection, &endpoint)? {
        Some((account, environment, status)) => {
            let (from, to) = match &*status {
                "enabled" => ("held", "pending"),
                _ => ("pending", "held"),
            };
            connection
                .prepare_cached(&format!(
                    "UPDATE keyward_delivery SET status = ?5 \
                     WHERE account = ?2 AND environment = ?3 AND endpoint = ?1 AND message IN ( \
                     SELECT message FROM keyward_delivery WHERE {OF_ENDPOINT} \
                     ORDER BY due_at LIMIT {STEP})"
                ))?
                .execute([&*endpoint, &*account, &*environment, from, to])?
        }
        None => 0,
    };
    if switched < STEP {
        is_done(connection, "keyward_endpoint_switching", &endpoint)?;
    }
    Ok(true)
}

/// Redelivers some failed messages, and returns whether there were any.
fn redeliver(connection: &Connection) -> rusqlite::Result<bool> {
    let Some(endpoint) = first_of(connection, "keyward_redelivery")? else {
        return Ok(false);
    };
    redeliver_to(connection, &endpoint)?;
    Ok(true)
}

/// Redelivers some failed messages to an endpoint, and returns whether there may be more.
fn redeliver_to(connection: &Connection, endpoint: &str) -> rusqlite::Result<bool> {
    let mut failed: Vec<(i64, String, i64, bool)> = Vec::new();
    if let Some((account, environment, status)) = place_of(connection, endpoint)? {
        let mut rows = connection.prepare_cached(&format!(
            "SELECT d.due_at, d.message, m.created_at, m.created_at >= r.since \
             FROM keyward_redelivery r, \
             (SELECT * FROM keyward_delivery WHERE {OF_ENDPOINT}) d \
             JOIN keyward_message m ON m.account = d.account AND m.environment = d.environment \
             AND m.id = d.message \
             WHERE r.endpoint = ?1 AND (d.due_at, d.message) > (r.after_due_at, r.after_message) \
             AND d.due_at <= r.until_due_at ORDER BY d.due_at, d.message LIMIT {STEP}"
        ))?;
        let place = [endpoint, &account, &environment, "failed"];
        for row in rows.query_map(place, |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        })? {
            failed.push(row?);
        }
        for (_, message, created_at, _) in failed.iter().filter(|(.., is_wanted)| *is_wanted) {
            connection
                .prepare_cached(
                    "UPDATE keyward_delivery SET due_at = ?5, failures = 0, \
                     status = CASE ?6 WHEN 'enabled' THEN 'pending' ELSE 'held' END \
                     WHERE endpoint = ?1 AND account = ?2 AND environment = ?3 AND message = ?4",
                )?
                .execute(params![
                    endpoint,
                    account,
                    environment,
                    message,
                    created_at,
                    status
                ])?;
        }
    }
    match failed.last() {
        Some((due_at, message, ..)) if failed.len() == STEP => {
            connection
                .prepare_cached(
                    "UPDATE keyward_redelivery SET after_due_at = ?2, after_message = ?3 \
                     WHERE endpoint = ?1",
                )?
                .execute(params![endpoint, due_at, message])?;
            Ok(true)
        }
        _ => {
            is_done(connection, "keyward_redelivery", endpoint)?;
            Ok(false)
        }
    }
}

/// Deletes some rows of a deleted endpoint, and returns whether there were any.
fn delete(connection: &Connection) -> rusqlite::Result<bool> {
    let Some(endpoint) = first_of(connection, "keyward_endpoint_deleted")? else {
        return Ok(false);
    };
    let places: Vec<[String; 3]> = connection
        .prepare_cached(&format!(
            "SELECT account, environment, message FROM keyward_delivery \
             WHERE endpoint = ?1 LIMIT {STEP}"
        ))?
        .query_map([&endpoint], |row| {
            Ok([row.get(0)?, row.get(1)?, row.get(2)?])
        })?
        .collect::<rusqlite::Result<_>>()?;
    for [account, environment, message] in &places {
        // The attempts are deleted with it.
        connection
            .prepare_cached(
                "DELETE FROM keyward_delivery WHERE account = ?1 AND environment = ?2 \
                 AND message = ?3 AND endpoint = ?4",
            )?
            .execute([account, environment, message, &endpoint])?;
    }
    if places.is_empty() {
        connection
            .prepare_cached("DELETE FROM keyward_endpoint WHERE id = ?1")?
            .execute([&endpoint])?;
        is_done(connection, "keyward_endpoint_deleted", &endpoint)?;
    }
    Ok(true)
}

/// Returns the first endpoint of a table of pending work.
fn first_of(connection: &Connection, table: &str) -> rusqlite::Result<Option<String>> {
    connection
        .prepare_cached(&format!("SELECT endpoint FROM {table} LIMIT 1"))?
        .query_row([], |row| row.get(0))
        .optional()
}

fn is_done(connection: &Connection, table: &str, endpoint: &str) -> rusqlite::Result<()> {
    connection
        .prepare_cached(&format!("DELETE FROM {table} WHERE endpoint = ?1"))?
        .execute([endpoint])
        .map(drop)
}

/// Returns the account, environment and status of an endpoint, unless it is deleted.
fn place_of(
    connection: &Connection,
    endpoint: &str,
) -> rusqlite::Result<Option<(String, String, String)>> {
    connection
        .prepare_cached(
            "SELECT account, environment, status FROM keyward_endpoint_kept WHERE id = ?1",
        )?
        .query_row([endpoint], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .optional()
}

#[cfg(test)]
#[cfg(feature = "webhooks")]
mod tests {
    use std::sync::mpsc::{Sender, channel};
    use std::time::SystemTime;

    use keyward::testing::block_on;
    use keyward::{AccountId, Actor, Environment, KeyAdmin};
    use keyward_webhooks::sealing::{SealingKey, SealingKeys};
    use keyward_webhooks::send::{EndpointId, EndpointUrl};
    use keyward_webhooks::store::DeliveryClaim;
    use keyward_webhooks::{WebhookAdmin, WebhookStore};

    use super::*;
    use crate::SqliteStore;
    use crate::fixture::{Fixture, scheme};
    use crate::outbox::{self, Cursor};
    use crate::worker::Worker;

    /// More deliveries than can be changed in one slice, on any machine.
    const MANY: u32 = 20_000;

    /// Creates an endpoint with very many deliveries of this status; the store is closed
    /// afterwards.
    fn filled(fixture: &Fixture, status: &str) -> EndpointId {
        let store = std::sync::Arc::new(fixture.open_slow());
        let sealing = SealingKeys::new(SealingKey::new("test", &[7; 32]).unwrap());
        let keys = KeyAdmin::new(&store, &scheme());
        let webhooks = WebhookAdmin::new(std::sync::Arc::clone(&store) as _, &scheme(), sealing);
        let (actor, acme) = (Actor::operator("test"), AccountId::parse("acme").unwrap());
        block_on(keys.open_account(&actor, &acme)).unwrap();
        let url = EndpointUrl::parse("https://acme.example/hook").unwrap();
        let made = webhooks.create_endpoint(&actor, &acme, Environment::LIVE, url);
        drop(block_on(made).unwrap());
        let endpoint = block_on(store.endpoints(None, None)).unwrap()[0].id();
        let typed = format!(
            "INSERT INTO keyward_message (account, environment, id, payload, created_at) \
             WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {MANY}) \
             SELECT 'acme', 'live', 'n' || i, x'', i FROM n; \
             INSERT INTO keyward_delivery (account, environment, message, endpoint, due_at, status, failures) \
             SELECT account, environment, id, '{endpoint}', 7, '{status}', 3 FROM keyward_message"
        );
        fixture.type_in(&typed).unwrap();
        endpoint
    }

    fn count(connection: &Connection, status: &str) -> u32 {
        let sql = "SELECT count(*) FROM keyward_delivery WHERE status = ?1";
        connection
            .query_row(sql, [status], |row| row.get(0))
            .unwrap()
    }

    fn claims_something(connection: &Connection) -> bool {
        let now = SystemTime::now();
        let claim = DeliveryClaim {
            now,
            until: now,
            limit: 9,
            each: 9,
            busy: vec![],
            proven: None,
        };
        let claimed = outbox::claim(connection, &claim, &mut Cursor::default());
        !claimed.unwrap().is_empty()
    }

    /// Reports at each turn how much is left, as one task among others.
    fn take_turns(worker: &mut Worker, left: fn(&Connection) -> u32, turns: Sender<u32>) {
        let now = worker.read(|connection| Ok(left(connection))).unwrap();
        turns.send(now).unwrap();
        if now > 0 {
            worker.later(move |worker| take_turns(worker, left, turns));
        }
    }

    /// Returns what was left at each turn of another task, until nothing was.
    fn turns_until_none(store: &SqliteStore, left: fn(&Connection) -> u32) -> Vec<u32> {
        let (turns, taken) = channel();
        // In one task, so that nothing is done before the first turn.
        let begun = store.ask(move |worker| {
            worker.begin_work();
            take_turns(worker, left, turns);
            Ok(())
        });
        block_on(begun).unwrap();
        taken.iter().collect()
    }

    fn has_turns_between(left: &[u32]) -> bool {
        let between = left.iter().filter(|left| (1..MANY - 256).contains(*left));
        between.count() > 2 && left.last() == Some(&0)
    }

    #[test]
    fn an_endpoint_with_much_is_switched_bit_by_bit_and_gets_nothing_once_it_is_off() {
        let fixture = Fixture::new();
        filled(&fixture, "pending");
        let store = fixture.open_slow();
        let file = Connection::open(fixture.path()).unwrap();
        assert!(claims_something(&file));
        let switch = |status: &str| {
            let typed = format!("UPDATE keyward_endpoint SET status = '{status}'");
            fixture.type_in(&typed).unwrap();
        };
        switch("disabled");
        assert_eq!(count(&file, "held"), 256, "the first, with the statement");
        assert!(!claims_something(&file), "although most are not held yet");
        let left = turns_until_none(&store, |file| count(file, "pending"));
        assert!(has_turns_between(&left), "{left:?}");
        assert_eq!(count(&file, "held"), MANY);

        switch("enabled");
        assert_eq!(count(&file, "pending"), 256);
        assert!(claims_something(&file), "what is due longest");
        let left = turns_until_none(&store, |file| count(file, "held"));
        assert!(has_turns_between(&left), "{left:?}");
        assert!(claims_something(&file));
    }

    #[test]
    fn an_endpoint_that_is_switched_off_and_on_again_meanwhile_keeps_all() {
        let fixture = Fixture::new();
        filled(&fixture, "pending");
        let file = Connection::open(fixture.path()).unwrap();
        for (at, status) in ["disabled", "enabled", "gone", "disabled", "enabled"]
            .into_iter()
            .enumerate()
        {
            let typed = format!("UPDATE keyward_endpoint SET status = '{status}'");
            fixture.type_in(&typed).unwrap();
            assert_eq!(claims_something(&file), status == "enabled");
            for _ in 0..at {
                work(&mut Connection::open(fixture.path()).unwrap()).unwrap();
            }
        }
        let mut worker = Connection::open(fixture.path()).unwrap();
        while work(&mut worker).unwrap() {}
        assert_eq!(count(&file, "pending"), MANY);
    }

    #[test]
    fn what_is_typed_is_worked_off_by_a_process_that_runs() {
        let fixture = Fixture::new();
        filled(&fixture, "pending");
        let store = fixture.open();
        let file = Connection::open(fixture.path()).unwrap();
        fixture
            .type_in("UPDATE keyward_endpoint SET status = 'disabled'")
            .unwrap();
        crate::fixture::eventually(|| count(&file, "held") == MANY);
        drop(store);
    }

    #[test]
    fn much_that_failed_is_delivered_again_bit_by_bit_and_each_once() {
        let fixture = Fixture::new();
        let endpoint = filled(&fixture, "failed");
        let store = fixture.open_slow();
        let mut file = Connection::open(fixture.path()).unwrap();
        let transaction = file.transaction().unwrap();
        redeliver_since(&transaction, &endpoint.to_string(), i64::from(MANY / 2)).unwrap();
        transaction.commit().unwrap();
        let first = count(&file, "pending");
        assert!(
            first > 0 && first <= u32::try_from(AT_ONCE).unwrap(),
            "{first}"
        );
        // One that fails again is not redelivered again.
        let typed =
            "UPDATE keyward_delivery SET status = 'failed', due_at = 9 WHERE message = 'n10001'";
        fixture.type_in(typed).unwrap();
        let left = turns_until_none(&store, |file| {
            let left = is_left(file).unwrap();
            if left { count(file, "failed") } else { 0 }
        });
        assert!(has_turns_between(&left), "{left:?}");
        assert_eq!(count(&file, "pending"), MANY / 2);
    }
}
