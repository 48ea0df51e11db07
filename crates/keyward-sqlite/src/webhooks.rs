//! The `WebhookStore` of the SQLite store.

use std::sync::{Arc, PoisonError};
use std::time::SystemTime;

use keyward::store::StoreFuture;
use keyward::{AccountId, Environment};
use keyward_webhooks::send::{
    Conclusion, DeliveryAttempt, DueDelivery, EndpointId, WebhookEndpoint,
};
use keyward_webhooks::signature::WebhookId;
use keyward_webhooks::store::{DeliveryClaim, OutboxSignal, WebhookCommit};
use keyward_webhooks::{WebhookMessage, WebhookStore};

use crate::error::failed;
use crate::{SqliteStore, outbox, row};

impl WebhookStore for SqliteStore {
    fn commit_webhooks(&self, commit: WebhookCommit) -> StoreFuture<'_, ()> {
        let commit = Arc::new(commit);
        let written = Arc::clone(&commit);
        let makes_due = commit.makes_due();
        let leaves_work = commit.deleted.is_some()
            || commit.again.is_some()
            || commit
                .endpoints
                .iter()
                .any(|endpoint| endpoint.revision > 0);
        let write = self.write(
            move |connection| outbox::write(connection, &written),
            move |change| change.of_webhooks(&commit),
        );
        Box::pin(async move {
            write.await?;
            if makes_due {
                self.signal.raise();
            }
            if leaves_work {
                self.work();
            }
            Ok(())
        })
    }

    fn endpoint(&self, id: EndpointId) -> StoreFuture<'_, Option<WebhookEndpoint>> {
        self.look_up(move |connection| outbox::stored_endpoint(connection, id))
    }

    fn endpoints(
        &self,
        account: Option<AccountId>,
        environment: Option<Environment>,
    ) -> StoreFuture<'_, Vec<WebhookEndpoint>> {
        self.report(move |connection| outbox::endpoints(connection, account.as_ref(), environment))
    }

    fn message(
        &self,
        account: AccountId,
        environment: Environment,
        id: WebhookId,
    ) -> StoreFuture<'_, Option<WebhookMessage>> {
        self.look_up(move |connection| {
            let (account, environment) = (account.as_str(), environment.as_str());
            outbox::stored_message(connection, account, environment, id.as_str())
        })
    }

    fn claim(&self, claim: DeliveryClaim) -> StoreFuture<'_, Vec<DueDelivery>> {
        let (claim, from) = (Arc::new(claim), Arc::clone(&self.claimed_to));
        let asked = Arc::clone(&claim);
        self.write(
            move |connection| {
                let mut from = from.lock().unwrap_or_else(PoisonError::into_inner);
                outbox::claim(connection, &claim, &mut from).map_err(failed)
            },
            // Usually nothing is due, so there is no need to wait for a process that writes.
            |change| {
                change.unless(move |connection| {
                    let is_due = outbox::is_due(connection, &asked).map_err(failed)?;
                    Ok((!is_due).then(Vec::new))
                })
            },
        )
    }

    fn conclude(&self, conclusion: Conclusion) -> StoreFuture<'_, ()> {
        self.write(
            move |connection| outbox::conclude(connection, &conclusion).map_err(failed),
            |change| change,
        )
    }

    fn attempts(
        &self,
        endpoint: EndpointId,
        before: Option<u64>,
        limit: usize,
    ) -> StoreFuture<'_, Vec<DeliveryAttempt>> {
        self.report(move |connection| outbox::attempts(connection, endpoint, before, limit))
    }

    fn forget_messages(&self, before: SystemTime) -> StoreFuture<'_, u64> {
        let before = row::millis(before);
        Box::pin(async move {
            let (mut count, mut from) = (0, (i64::MIN, 0));
            loop {
                let forget = self.ask(move |worker| {
                    worker.patiently(|connection| {
                        outbox::forget(connection, before, from).map_err(failed)
                    })
                });
                let (forgotten, next) = forget.await?;
                count += forgotten;
                match next {
                    Some(next) => from = next,
                    None => return Ok(count),
                }
            }
        })
    }

    fn outbox_signal(&self) -> Option<&OutboxSignal> {
        Some(&self.signal)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::task::{Context, Waker};

    use keyward::record::{AdminErrorKind, DisabledBy};
    use keyward::testing::block_on;
    use keyward::{Actor, KeyAdmin, Permission};
    use keyward_webhooks::WebhookAdmin;
    use keyward_webhooks::admin::EndpointChange;
    use keyward_webhooks::sealing::{SealingKey, SealingKeys};
    use keyward_webhooks::send::{EndpointStatus, EndpointUrl};

    use super::*;
    use crate::fixture::{Fixture, scheme};

    /// Creates a store with endpoints and messages in two accounts and environments.
    fn filled(fixture: &Fixture) -> Arc<SqliteStore> {
        let store = Arc::new(fixture.open());
        let sealing = SealingKeys::new(SealingKey::new("test", &[7; 32]).unwrap());
        let keys = KeyAdmin::new(&store, &scheme());
        let webhooks = WebhookAdmin::new(Arc::clone(&store) as _, &scheme(), sealing);
        let actor = Actor::operator("test");
        for account in ["acme", "other"] {
            let account = AccountId::parse(account).unwrap();
            block_on(keys.open_account(&actor, &account)).unwrap();
            for environment in [Environment::LIVE, Environment::TEST] {
                let url = EndpointUrl::parse("https://acme.example/hook").unwrap();
                block_on(webhooks.create_endpoint(&actor, &account, environment, url)).unwrap();
                let id = WebhookId::random().unwrap();
                let message = WebhookMessage::new(account.clone(), environment, id, "{}");
                block_on(webhooks.publish(&actor, message.unwrap())).unwrap();
            }
        }
        store
    }

    fn claim(store: &SqliteStore) -> Vec<(EndpointId, WebhookId)> {
        let now = SystemTime::now();
        let claim = DeliveryClaim {
            now,
            until: now,
            limit: 99,
            each: 99,
            busy: vec![],
            proven: None,
        };
        let due = block_on(store.claim(claim)).unwrap();
        let pair = |due: &DueDelivery| (due.endpoint().id(), due.message().id().clone());
        let mut pairs: Vec<_> = due.iter().map(pair).collect();
        pairs.sort();
        pairs
    }

    #[test]
    fn what_is_typed_takes_no_event_across() {
        const ALL: &str = "SELECT m.account, m.environment, m.id, e.id, 0 \
             FROM keyward_message m JOIN keyward_endpoint e \
             ON m.account <> e.account OR m.environment <> e.environment";
        const COLUMNS: &str = "(account, environment, message, endpoint, due_at)";
        let fixture = Fixture::new();
        let store = filled(&fixture);
        let before = claim(&store);
        assert_eq!(before.len(), 4);
        for typed in [
            &*format!("INSERT INTO keyward_delivery {COLUMNS} {ALL}"),
            &*format!("INSERT OR REPLACE INTO keyward_delivery {COLUMNS} {ALL}"),
            "UPDATE keyward_delivery SET environment = 'live'",
            "UPDATE keyward_delivery SET account = 'acme'",
            "UPDATE keyward_delivery SET endpoint = (SELECT min(id) FROM keyward_endpoint)",
            "UPDATE OR REPLACE keyward_delivery SET message = (SELECT min(id) FROM keyward_message)",
            "UPDATE keyward_endpoint SET environment = 'live'",
            "UPDATE keyward_endpoint SET account = 'acme'",
            "UPDATE keyward_endpoint SET id = 'whe_0123456789ab'",
            "UPDATE keyward_message SET environment = 'live'",
            "UPDATE keyward_message SET account = 'acme'",
            "UPDATE keyward_message SET payload = x'00'",
            "INSERT OR REPLACE INTO keyward_endpoint (id, account, environment, url, secret, created_at) \
             SELECT id, account, 'live', url, secret, 0 FROM keyward_endpoint",
            "INSERT OR REPLACE INTO keyward_message (account, environment, id, payload, created_at) \
             SELECT account, environment, id, x'00', 0 FROM keyward_message",
        ] {
            assert!(fixture.type_in(typed).is_err(), "{typed}");
        }
        assert_eq!(claim(&store), before);

        // Even past the triggers: mismatched pairs are not returned.
        let typed = "DROP TRIGGER keyward_endpoint_moved; \
             UPDATE keyward_endpoint SET environment = 'eu' WHERE environment = 'test'";
        fixture.type_in(typed).unwrap();
        let left = claim(&store);
        assert_eq!(left.len(), 2);
        assert!(left.iter().all(|pair| before.contains(pair)));
    }

    #[test]
    fn an_endpoint_can_be_disabled_by_hand() {
        let fixture = Fixture::new();
        let store = filled(&fixture);
        let before = claim(&store);
        let typed = format!(
            "UPDATE keyward_endpoint SET status = 'disabled' WHERE id = '{}'",
            before[0].0
        );
        fixture.type_in(&typed).unwrap();
        assert_eq!(claim(&store), before[1..]);
        fixture
            .type_in("UPDATE keyward_endpoint SET status = 'enabled'")
            .unwrap();
        assert_eq!(claim(&store), before);
    }

    #[test]
    fn much_that_waits_for_one_endpoint_hides_nothing() {
        let fixture = Fixture::new();
        let store = filled(&fixture);
        let before = claim(&store);
        // A thousand more for one of them, all due before those for the others.
        let (endpoint, message) = &before[0];
        let typed = format!(
            "INSERT INTO keyward_message (account, environment, id, payload, created_at) \
             WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000) \
             SELECT account, environment, 'n' || i, x'', 0 FROM n, keyward_message \
             WHERE id = '{message}'; \
             INSERT INTO keyward_delivery (account, environment, message, endpoint, due_at) \
             SELECT account, environment, id, '{endpoint}', 0 FROM keyward_message \
             WHERE id GLOB 'n[0-9]*'"
        );
        fixture.type_in(&typed).unwrap();
        let now = SystemTime::now();
        let claim = DeliveryClaim {
            now,
            until: now,
            limit: 5,
            each: 3,
            busy: vec![before[1].0],
            proven: None,
        };
        let due = block_on(store.claim(claim)).unwrap();
        let endpoints: Vec<_> = due.iter().map(|due| due.endpoint().id()).collect();
        assert_eq!(endpoints[..3], [*endpoint; 3]);
        let others: Vec<_> = before[2..].iter().map(|(other, _)| *other).collect();
        assert!(endpoints[3..].iter().all(|other| others.contains(other)));
        assert_eq!(endpoints.len(), 5);
    }

    /// Adds this many endpoints to acme, and runs a statement for each, as `endpoint`.
    fn add_endpoints(fixture: &Fixture, count: u32, then: &str) {
        let typed = format!(
            "INSERT INTO keyward_endpoint (id, account, environment, url, secret, created_at) \
             WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) \
             SELECT 'whe_' || substr('000000000000' || i, -12), account, environment, url, secret, 0 \
             FROM n, (SELECT * FROM keyward_endpoint WHERE account = 'acme' AND environment = 'live'); \
             INSERT INTO keyward_message (account, environment, id, payload, created_at) \
             WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000) \
             SELECT 'acme', 'live', 'n' || i, x'', 0 FROM n; {then}"
        );
        fixture.type_in(&typed).unwrap();
    }

    /// Claims for endpoints that are not busy, and returns them.
    fn claim_some(store: &SqliteStore, limit: usize, busy: EndpointId) -> Vec<EndpointId> {
        let now = SystemTime::now();
        let claim = DeliveryClaim {
            now,
            until: now + std::time::Duration::from_secs(600),
            limit,
            each: 4,
            busy: vec![busy],
            proven: None,
        };
        let due = block_on(store.claim(claim)).unwrap();
        due.iter().map(|due| due.endpoint().id()).collect()
    }

    const BACKLOG: &str = "INSERT INTO keyward_delivery \
         (account, environment, message, endpoint, due_at) \
         SELECT 'acme', 'live', id, 'whe_000000000001', 0 FROM keyward_message WHERE id GLOB 'n*'";

    #[test]
    fn beside_a_dead_backlog_each_endpoint_has_its_turn() {
        let fixture = Fixture::new();
        let store = filled(&fixture);
        add_endpoints(
            &fixture,
            300,
            &format!(
                "{BACKLOG}; INSERT INTO keyward_delivery \
                 (account, environment, message, endpoint, due_at) \
                 SELECT 'acme', 'live', 'n1', id, 1 FROM keyward_endpoint \
                 WHERE id GLOB 'whe_0000*' AND id <> 'whe_000000000001'"
            ),
        );
        let dead = EndpointId::parse("whe_000000000001").unwrap();
        let mut reached = std::collections::HashSet::new();
        while let claimed = claim_some(&store, 32, dead)
            && !claimed.is_empty()
        {
            assert!(!claimed.contains(&dead));
            reached.extend(claimed);
        }
        assert_eq!(reached.len(), 299 + 4);
    }

    #[test]
    fn what_is_new_is_found_beside_a_dead_backlog_and_many_idle_endpoints() {
        let fixture = Fixture::new();
        let store = filled(&fixture);
        let before = claim(&store);
        add_endpoints(
            &fixture,
            5000,
            &format!(
                "UPDATE keyward_delivery SET status = 'delivered'; {BACKLOG}; \
                 INSERT INTO keyward_delivery \
                 (account, environment, message, endpoint, due_at, status) \
                 SELECT 'acme', 'live', 'n1', id, 1, 'delivered' FROM keyward_endpoint \
                 WHERE id GLOB 'whe_0000*' AND id <> 'whe_000000000001'"
            ),
        );
        let dead = EndpointId::parse("whe_000000000001").unwrap();
        let (endpoint, _) = before[3];
        let new = format!(
            "UPDATE keyward_delivery SET status = 'pending', due_at = 9 WHERE endpoint = '{endpoint}'"
        );
        fixture.type_in(&new).unwrap();
        assert_eq!(claim_some(&store, 32, dead), [endpoint]);
    }

    #[test]
    fn an_endpoint_with_much_is_gone_at_once_and_its_deliveries_soon() {
        let fixture = Fixture::new();
        let store = filled(&fixture);
        add_endpoints(&fixture, 2, BACKLOG);
        let id = EndpointId::parse("whe_000000000001").unwrap();
        let revision = block_on(store.endpoint(id)).unwrap().unwrap().revision;
        let delete = || {
            let commit = WebhookCommit {
                deleted: Some((id, revision)),
                ..WebhookCommit::default()
            };
            block_on(store.commit_webhooks(commit)).map_err(|error| error.kind())
        };
        let all = "SELECT count(*) FROM keyward_delivery WHERE endpoint = 'whe_000000000001'";
        let count = |sql: &str| {
            let file = rusqlite::Connection::open(fixture.path()).unwrap();
            file.query_row(sql, [], |row| row.get::<_, u32>(0)).unwrap()
        };
        // A process that is killed here leaves the rest to the next.
        let typed = "INSERT INTO keyward_endpoint_deleted VALUES ('whe_000000000001')";
        fixture.type_in(typed).unwrap();
        assert_eq!(count(all), 1000);
        assert_eq!(block_on(store.endpoint(id)).unwrap(), None);
        assert_eq!(delete(), Err(keyward::store::StoreErrorKind::Conflict));
        let claimed = claim_some(&store, 999, EndpointId::random().unwrap());
        assert!(!claimed.contains(&id) && claimed.len() == 4, "{claimed:?}");
        drop(store);

        let store = fixture.open();
        crate::fixture::eventually(|| count(all) == 0);
        let rows = "SELECT count(*) FROM keyward_endpoint WHERE id = 'whe_000000000001'";
        crate::fixture::eventually(|| count(rows) == 0);
        drop(store);
    }

    #[test]
    fn deleting_many_messages_delays_no_other_call() {
        let fixture = Fixture::new();
        let store = filled(&fixture);
        fixture
            .type_in(
                "INSERT INTO keyward_message (account, environment, id, payload, created_at) \
                 WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000) \
                 SELECT 'acme', 'live', 'n' || i, x'', i / 700 FROM n",
            )
            .unwrap();
        let mut forgotten = store.forget_messages(SystemTime::now());
        let context = &mut Context::from_waker(Waker::noop());
        assert!(forgotten.as_mut().poll(context).is_pending());
        assert!(block_on(store.endpoints(None, None)).is_ok());
        assert!(
            forgotten.as_mut().poll(context).is_pending(),
            "there is more"
        );
        assert_eq!(block_on(forgotten).unwrap(), 2000);
    }

    #[test]
    fn keeps_the_promises_of_a_store_of_webhooks() {
        let (fixture, next) = (Fixture::new(), Cell::new(0));
        keyward_webhooks::testing::check_webhooks(|| {
            next.set(next.get() + 1);
            SqliteStore::open(fixture.at(&next.get().to_string())).unwrap()
        });
    }

    #[test]
    fn an_endpoint_that_was_disabled_by_somebody_unknown_only_an_operator_enables() {
        let fixture = Fixture::new();
        for (_, sql) in &crate::MIGRATIONS[..9] {
            fixture.type_in(sql).unwrap();
        }
        fixture
            .type_in(
                "INSERT INTO keyward_account (id) VALUES ('acme'); \
                 INSERT INTO keyward_endpoint (id, account, environment, url, secret, status, created_at) \
                 VALUES ('whe_0123456789ab', 'acme', 'live', 'https://acme.example/', \
                 'a:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA', \
                 'disabled', 0)",
            )
            .unwrap();
        let store = Arc::new(fixture.open());
        let id = EndpointId::parse("whe_0123456789ab").unwrap();
        let sealing = SealingKeys::new(SealingKey::new("2026", &[7; 32]).unwrap());
        let admin = WebhookAdmin::new(Arc::clone(&store) as _, &scheme(), sealing);
        let acme = AccountId::parse("acme").unwrap();
        let (ann, ops) = (
            Actor::user("ann", acme, Permission::ALL),
            Actor::operator("ops"),
        );
        let switch = |actor: &Actor, on| {
            let change = EndpointChange::new().enabled(on);
            let changed = block_on(admin.update_endpoint(actor, id, change));
            changed.map(|endpoint| (endpoint.status, endpoint.disabled_by))
        };
        let refused = |actor| switch(actor, true).unwrap_err().kind();
        let enabled = (EndpointStatus::Enabled, None);
        assert_eq!(refused(&ann), AdminErrorKind::NotPermitted);
        assert_eq!(switch(&ops, true).unwrap(), enabled);

        let by_user = (EndpointStatus::Disabled, Some(DisabledBy::User));
        assert_eq!(switch(&ann, false).unwrap(), by_user);
        for status in ["enabled", "disabled"] {
            let typed = format!("UPDATE keyward_endpoint SET status = '{status}'");
            fixture.type_in(&typed).unwrap();
        }
        assert_eq!(refused(&ann), AdminErrorKind::NotPermitted, "typed");
        let gone = "UPDATE keyward_endpoint SET status = 'gone'";
        fixture.type_in(gone).unwrap();
        assert_eq!(switch(&ann, true).unwrap(), enabled, "after a 410");
    }
}
