//! The `WebhookStore` of the PostgreSQL store.

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

use crate::{PostgresStore, claim, outbox};

impl WebhookStore for PostgresStore {
    fn commit_webhooks(&self, commit: WebhookCommit) -> StoreFuture<'_, ()> {
        let parts = &self.inner.parts;
        let (calls, written) = (parts.calls.clone(), parts.written());
        let (signal, backlog) = (parts.signal.clone(), Arc::clone(&parts.backlog));
        self.call(async move {
            let commit = Arc::new(commit);
            let whole = Arc::clone(&commit);
            let write = calls
                .write(move |client| Box::pin(async move { outbox::write(client, &whole).await }));
            write.await?;
            if commit.makes_due() {
                signal.raise();
            }
            backlog.notify_one();
            written.is_in_force(&commit.with).await
        })
    }

    fn endpoint(&self, id: EndpointId) -> StoreFuture<'_, Option<WebhookEndpoint>> {
        self.read(move |client| Box::pin(outbox::stored_endpoint(client, id)))
    }

    fn endpoints(
        &self,
        account: Option<AccountId>,
        environment: Option<Environment>,
    ) -> StoreFuture<'_, Vec<WebhookEndpoint>> {
        self.read(move |client| {
            Box::pin(async move { outbox::endpoints(client, account.as_ref(), environment).await })
        })
    }

    fn message(
        &self,
        account: AccountId,
        environment: Environment,
        id: WebhookId,
    ) -> StoreFuture<'_, Option<WebhookMessage>> {
        self.read(move |client| {
            Box::pin(
                async move { outbox::stored_message(client, &account, environment, &id).await },
            )
        })
    }

    fn claim(&self, claim: DeliveryClaim) -> StoreFuture<'_, Vec<DueDelivery>> {
        let parts = &self.inner.parts;
        let (calls, cursor) = (parts.calls.clone(), Arc::clone(&parts.claimed_to));
        let claim = Arc::new(claim);
        self.call(async move {
            let asked = Arc::clone(&claim);
            // Usually nothing is due, so there is no need to wait for other claims.
            let is_due = calls
                .read(move |client| Box::pin(async move { claim::is_due(client, &asked).await }));
            if !is_due.await? {
                return Ok(Vec::new());
            }
            let mut from = cursor
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            let take = calls.write(move |client| {
                Box::pin(async move {
                    let claimed = claim::claim(client, &claim, &mut from).await?;
                    Ok((claimed, from))
                })
            });
            let (claimed, from) = take.await?;
            *cursor.lock().unwrap_or_else(PoisonError::into_inner) = from;
            Ok(claimed)
        })
    }

    fn conclude(&self, conclusion: Conclusion) -> StoreFuture<'_, ()> {
        let calls = self.inner.parts.calls.clone();
        self.call(async move {
            let write = calls.write(move |client| {
                Box::pin(async move { outbox::conclude(client, &conclusion).await })
            });
            write.await
        })
    }

    fn attempts(
        &self,
        endpoint: EndpointId,
        before: Option<u64>,
        limit: usize,
    ) -> StoreFuture<'_, Vec<DeliveryAttempt>> {
        self.read(move |client| Box::pin(outbox::attempts(client, endpoint, before, limit)))
    }

    fn forget_messages(&self, before: SystemTime) -> StoreFuture<'_, u64> {
        let calls = self.inner.parts.calls.clone();
        self.call(async move {
            let (mut count, mut from) = (0, None);
            loop {
                let forget =
                    calls.write(move |client| Box::pin(outbox::forget(client, before, from)));
                let (forgotten, next) = forget.await?;
                count += forgotten;
                match next {
                    Some(next) => from = Some(next),
                    None => return Ok(count),
                }
            }
        })
    }

    fn outbox_signal(&self) -> Option<&OutboxSignal> {
        Some(&self.inner.parts.signal)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use keyward::store::StoreErrorKind;
    use keyward::testing::block_on;
    use keyward::{Actor, KeyAdmin};
    use keyward_webhooks::WebhookAdmin;
    use keyward_webhooks::sealing::{SealingKey, SealingKeys};
    use keyward_webhooks::send::EndpointUrl;

    use super::*;
    use crate::fixture::{Fixture, eventually, patient, scheme, url_for_this_test};
    use crate::migration::GRANTS;

    /// More deliveries than the background work changes in one transaction.
    const MANY: u32 = 2_000;

    fn sealing() -> SealingKeys {
        SealingKeys::new(SealingKey::new("test", &[7; 32]).unwrap())
    }

    /// Creates endpoints and messages in two accounts and environments.
    fn fill(store: &Arc<PostgresStore>) {
        let keys = KeyAdmin::new(store, &scheme());
        let webhooks = WebhookAdmin::new(Arc::clone(store) as _, &scheme(), sealing());
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
    }

    /// Adds very many messages and deliveries with this status to one endpoint.
    fn backlog(fixture: &Fixture, status: &str, count: u32) -> EndpointId {
        let mut psql = fixture.psql();
        let id = psql.value(
            "SELECT id FROM keyward.endpoint WHERE account = 'acme' AND environment = 'live'",
        );
        psql.execute(&format!(
            "INSERT INTO keyward.message (account, environment, id, payload, created_at) \
             SELECT 'acme', 'live', 'n' || i, '', timestamptz '1970-01-01 00:00+00' + i * interval '1s' \
             FROM generate_series(1, {count}) AS n (i); \
             INSERT INTO keyward.delivery \
             (account, environment, message, endpoint, due_at, status, failures) \
             SELECT account, environment, id, '{id}', '1970-01-01 00:00+00', '{status}', 3 \
             FROM keyward.message WHERE id ~ '^n[0-9]+$'; ANALYZE keyward.delivery"
        ))
        .unwrap();
        EndpointId::parse(&id).unwrap()
    }

    fn count(fixture: &Fixture, status: &str) -> u32 {
        let count = format!("SELECT count(*) FROM keyward.delivery WHERE status = '{status}'");
        fixture.psql().value(&count).parse().unwrap()
    }

    fn claim_for(
        store: &PostgresStore,
        lease: Duration,
        (limit, each): (usize, usize),
        busy: &[EndpointId],
    ) -> Vec<(EndpointId, WebhookId)> {
        let now = SystemTime::now();
        let claim = DeliveryClaim {
            now,
            until: now + lease,
            limit,
            each,
            busy: busy.to_vec(),
            proven: None,
        };
        let due = block_on(store.claim(claim)).unwrap();
        let pair = |due: &DueDelivery| (due.endpoint().id(), due.message().id().clone());
        due.iter().map(pair).collect()
    }

    /// Claims all that is due, for no time.
    fn claim_all(store: &PostgresStore) -> Vec<(EndpointId, WebhookId)> {
        let mut all = claim_for(store, Duration::ZERO, (99, 99), &[]);
        all.sort();
        all
    }

    #[test]
    fn keeps_the_promises_of_a_store_of_webhooks() {
        keyward_webhooks::testing::check_webhooks(|| {
            block_on(patient().connect(&url_for_this_test())).unwrap()
        });
    }

    #[test]
    fn what_is_typed_takes_no_event_across() {
        const ALL: &str = "SELECT m.account, m.environment, m.id, e.id, now() \
             FROM keyward.message m JOIN keyward.endpoint e \
             ON m.account <> e.account OR m.environment <> e.environment";
        let fixture = Fixture::new();
        let store = Arc::new(fixture.open());
        fill(&store);
        let before = claim_all(&store);
        assert_eq!(before.len(), 4);
        for typed in [
            &*format!(
                "INSERT INTO keyward.delivery (account, environment, message, endpoint, due_at) {ALL}"
            ),
            "UPDATE keyward.delivery SET environment = 'live'",
            "UPDATE keyward.delivery SET endpoint = (SELECT min(id) FROM keyward.endpoint)",
            "UPDATE keyward.endpoint SET environment = 'live'",
            "UPDATE keyward.endpoint SET account = 'acme'",
            "UPDATE keyward.endpoint SET id = 'whe_0123456789ab'",
            "UPDATE keyward.message SET account = 'acme'",
            "UPDATE keyward.message SET payload = ''",
        ] {
            fixture.type_in(typed).unwrap_err();
        }
        assert_eq!(claim_all(&store), before);
        // An endpoint that is disabled by hand gets nothing until it is enabled.
        let typed = format!(
            "UPDATE keyward.endpoint SET status = 'disabled' WHERE id = '{}'",
            before[0].0
        );
        fixture.type_in(&typed).unwrap();
        assert_eq!(claim_all(&store), before[1..]);
        fixture
            .type_in("UPDATE keyward.endpoint SET status = 'enabled'")
            .unwrap();
        assert_eq!(claim_all(&store), before);
    }

    #[test]
    fn a_backlog_is_switched_redelivered_and_deleted_bit_by_bit() {
        let fixture = Fixture::new();
        let store = Arc::new(fixture.open());
        fill(&store);
        let endpoint = backlog(&fixture, "pending", MANY);
        let typed = |status: &str| {
            let typed =
                format!("UPDATE keyward.endpoint SET status = '{status}' WHERE id = '{endpoint}'");
            fixture.type_in(&typed).unwrap();
        };
        typed("disabled");
        let claimed = claim_all(&store);
        assert!(claimed.iter().all(|(id, _)| *id != endpoint), "at once");
        eventually(|| count(&fixture, "held") == MANY + 1);
        typed("enabled");
        assert!(count(&fixture, "pending") >= 256, "the first, at once");
        eventually(|| count(&fixture, "held") == 0);

        let failed =
            format!("UPDATE keyward.delivery SET status = 'failed' WHERE endpoint = '{endpoint}'");
        fixture.type_in(&failed).unwrap();
        let since = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::from(MANY / 2));
        let again = WebhookCommit {
            again: Some((
                endpoint,
                keyward_webhooks::store::Redelivery::FailedSince(since),
            )),
            ..WebhookCommit::default()
        };
        block_on(store.commit_webhooks(again)).unwrap();
        eventually(|| {
            fixture
                .psql()
                .value("SELECT count(*) FROM keyward.redelivery")
                == "0"
        });
        assert_eq!(count(&fixture, "failed"), MANY / 2 - 1);

        // A process that is killed here leaves the rest to others.
        let typed = format!("UPDATE keyward.endpoint SET deleted = true WHERE id = '{endpoint}'");
        fixture.type_in(&typed).unwrap();
        assert_eq!(block_on(store.endpoint(endpoint)).unwrap(), None);
        assert!(claim_all(&store).iter().all(|(id, _)| *id != endpoint));
        eventually(|| {
            fixture
                .psql()
                .value("SELECT count(*) FROM keyward.endpoint")
                == "3"
        });
        assert_eq!(claim_all(&store).len(), 3);
        let before = SystemTime::now() - Duration::from_secs(3600);
        assert_eq!(
            block_on(store.forget_messages(before)).unwrap(),
            u64::from(MANY)
        );
    }

    #[test]
    fn a_dead_backlog_hides_neither_other_endpoints_nor_what_is_new() {
        let fixture = Fixture::new();
        let store = Arc::new(fixture.open());
        fill(&store);
        let dead = backlog(&fixture, "pending", MANY);
        fixture
            .type_in(
                "INSERT INTO keyward.endpoint (id, account, environment, url, secret, created_at) \
                 SELECT 'whe_' || lpad(i::text, 12, '0'), account, environment, url, secret, now() \
                 FROM generate_series(1, 300) AS n (i), (SELECT * FROM keyward.endpoint \
                     WHERE account = 'acme' AND environment = 'live') AS one; \
                 INSERT INTO keyward.delivery (account, environment, message, endpoint, due_at) \
                 SELECT account, environment, 'n1', id, '1970-01-01 00:00:01+00' \
                 FROM keyward.endpoint WHERE id ~ '^whe_0000'",
            )
            .unwrap();
        let mut reached = std::collections::HashSet::new();
        while let claimed = claim_for(&store, Duration::from_secs(600), (32, 4), &[dead])
            && !claimed.is_empty()
        {
            for (endpoint, _) in claimed {
                assert_ne!(endpoint, dead);
                assert!(reached.insert(endpoint), "none twice");
            }
        }
        assert_eq!(reached.len(), 303);
    }

    #[test]
    fn processes_that_claim_at_once_get_each_delivery_once() {
        let fixture = Fixture::new();
        let store = Arc::new(fixture.open());
        fill(&store);
        backlog(&fixture, "pending", 600);
        let all = thread::scope(|threads| {
            let one = || {
                let store = fixture.open();
                let mut all = Vec::new();
                loop {
                    let some = claim_for(&store, Duration::from_secs(600), (20, 20), &[]);
                    if some.is_empty() {
                        return all;
                    }
                    all.extend(some);
                }
            };
            let all: Vec<_> = (0..4).map(|_| threads.spawn(one)).collect();
            let all = all.into_iter().flat_map(|one| one.join().unwrap());
            all.collect::<Vec<_>>()
        });
        let pairs: std::collections::HashSet<_> = all.iter().collect();
        assert_eq!((pairs.len(), all.len()), (604, 604));
    }

    #[test]
    fn a_claim_finds_what_is_due_by_an_index_however_much_was_delivered() {
        let fixture = Fixture::new();
        let store = Arc::new(fixture.open());
        fill(&store);
        backlog(&fixture, "delivered", 20_000);
        let due = fixture.psql().rows(
            "EXPLAIN SELECT * FROM keyward.delivery WHERE status = 'pending' AND due_at <= now() \
             ORDER BY due_at LIMIT 200",
        );
        assert!(format!("{due:?}").contains("delivery_due"), "{due:?}");
        assert_eq!(claim_all(&store).len(), 4);
    }

    #[test]
    fn the_role_of_a_service_can_deliver_webhooks() {
        let fixture = Fixture::new();
        fixture.type_in(GRANTS).unwrap();
        let login = format!("deliverer_{}", std::process::id());
        let create = format!("CREATE ROLE {login} LOGIN IN ROLE keyward_service");
        fixture.type_in(&create).unwrap();
        let url = fixture.url.replace("keyward@", &format!("{login}@"));
        keyward_webhooks::testing::check_webhooks(|| {
            let emptied = "TRUNCATE keyward.attempt, keyward.delivery, keyward.message, \
                 keyward.redelivery, keyward.endpoint; \
                 ALTER TABLE keyward.account DISABLE TRIGGER ALL; \
                 ALTER TABLE keyward.audit DISABLE TRIGGER truncated; \
                 DELETE FROM keyward.account; TRUNCATE keyward.audit; \
                 ALTER TABLE keyward.account ENABLE TRIGGER ALL; \
                 ALTER TABLE keyward.audit ENABLE TRIGGER truncated; SELECT keyward.resync()";
            fixture.type_in(emptied).unwrap();
            block_on(patient().connect(&url)).unwrap()
        });
        let store = Arc::new(block_on(patient().connect(&url)).unwrap());
        let endpoint = backlog_of_another_run(&fixture, &store);
        let disable = "UPDATE keyward.endpoint SET status = 'disabled'";
        let mut typist = crate::fixture::connect(&url).unwrap();
        typist.execute(disable).unwrap();
        eventually(|| count(&fixture, "pending") == 0);
        let delete = WebhookCommit {
            deleted: Some((
                endpoint,
                block_on(store.endpoint(endpoint))
                    .unwrap()
                    .unwrap()
                    .revision,
            )),
            ..WebhookCommit::default()
        };
        block_on(store.commit_webhooks(delete)).unwrap();
        let rows = format!("SELECT count(*) FROM keyward.endpoint WHERE id = '{endpoint}'");
        eventually(|| fixture.psql().value(&rows) == "0");
        for forbidden in [
            "TRUNCATE keyward.delivery",
            "DROP TABLE keyward.message",
            "UPDATE keyward.attempt SET last = true",
        ] {
            let error = typist.execute(forbidden).unwrap_err();
            assert_eq!(error.code().unwrap().code(), "42501", "{forbidden}");
        }
        drop((store, typist));
    }

    fn backlog_of_another_run(fixture: &Fixture, store: &Arc<PostgresStore>) -> EndpointId {
        let emptied = "TRUNCATE keyward.attempt, keyward.delivery, keyward.message, \
             keyward.redelivery, keyward.endpoint";
        fixture.type_in(emptied).unwrap();
        let webhooks = WebhookAdmin::new(Arc::clone(store) as _, &scheme(), sealing());
        let acme = AccountId::parse("acme").unwrap();
        let url = EndpointUrl::parse("https://acme.example/hook").unwrap();
        let actor = Actor::operator("test");
        drop(block_on(webhooks.create_endpoint(&actor, &acme, Environment::LIVE, url)).unwrap());
        backlog(fixture, "pending", 600)
    }

    #[test]
    fn an_event_is_written_with_the_change_or_not_at_all() {
        let fixture = Fixture::new();
        let store = Arc::new(fixture.open());
        fill(&store);
        let (secret, record) = crate::fixture::add(&store, "third");
        let id = WebhookId::parse("revoked").unwrap();
        let message = |account: &str| {
            let account = AccountId::parse(account).unwrap();
            WebhookMessage::new(account, Environment::LIVE, id.clone(), "{}").unwrap()
        };
        let mut revoked = record.clone();
        revoked.status = keyward::record::KeyStatus::Revoked;
        let commit = |account: &str| WebhookCommit {
            message: Some(message(account)),
            with: keyward::store::Commit {
                keys: vec![revoked.clone()],
                ..keyward::store::Commit::default()
            },
            ..WebhookCommit::default()
        };
        let refused = block_on(store.commit_webhooks(commit("nobody"))).unwrap_err();
        assert_eq!(refused.kind(), StoreErrorKind::Conflict);
        assert_eq!(crate::fixture::ask(&store, &secret), Ok(()));
        block_on(store.commit_webhooks(commit("acme"))).unwrap();
        assert_eq!(
            crate::fixture::ask(&store, &secret),
            Err(keyward::denial::DenialKind::Revoked),
            "in force when the commit returns"
        );
        assert!(claim_all(&store).iter().any(|(_, message)| *message == id));
    }
}
