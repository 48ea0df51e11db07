//! The store as one of webhooks.

use std::time::SystemTime;

use keyward::{
    AccountId, Conclusion, DeliveryAttempt, DeliveryClaim, DueDelivery, EndpointId, Environment,
    StoreFuture, WebhookCommit, WebhookEndpoint, WebhookId, WebhookMessage, WebhookStore,
};

use crate::error::failed;
use crate::{SqliteStore, outbox, row};

impl WebhookStore for SqliteStore {
    fn commit_webhooks(&self, commit: WebhookCommit) -> StoreFuture<'_, ()> {
        self.ask(move |worker| {
            worker.commit_by(&commit.with, |connection| {
                outbox::write(connection, &commit)
            })
        })
    }

    fn endpoint(&self, id: EndpointId) -> StoreFuture<'_, Option<WebhookEndpoint>> {
        self.ask(move |worker| worker.read(|connection| outbox::stored_endpoint(connection, id)))
    }

    fn endpoints(
        &self,
        account: Option<AccountId>,
        environment: Option<Environment>,
    ) -> StoreFuture<'_, Vec<WebhookEndpoint>> {
        self.ask(move |worker| {
            worker.read(|connection| outbox::endpoints(connection, account.as_ref(), environment))
        })
    }

    fn message(
        &self,
        account: AccountId,
        environment: Environment,
        id: WebhookId,
    ) -> StoreFuture<'_, Option<WebhookMessage>> {
        self.ask(move |worker| {
            worker.read(|connection| {
                let (account, environment) = (account.as_str(), environment.as_str());
                outbox::stored_message(connection, account, environment, id.as_str())
            })
        })
    }

    fn claim(&self, claim: DeliveryClaim) -> StoreFuture<'_, Vec<DueDelivery>> {
        self.ask(move |worker| {
            worker.patiently(|connection| outbox::claim(connection, &claim).map_err(failed))
        })
    }

    fn conclude(&self, conclusion: Conclusion) -> StoreFuture<'_, ()> {
        self.ask(move |worker| {
            worker.patiently(|connection| outbox::conclude(connection, &conclusion).map_err(failed))
        })
    }

    fn attempts(
        &self,
        endpoint: EndpointId,
        before: Option<u64>,
        limit: usize,
    ) -> StoreFuture<'_, Vec<DeliveryAttempt>> {
        self.ask(move |worker| {
            worker.read(|connection| outbox::attempts(connection, endpoint, before, limit))
        })
    }

    fn forget_messages(&self, before: SystemTime) -> StoreFuture<'_, u64> {
        let before = row::millis(before);
        self.ask(move |worker| {
            worker.patiently(|connection| outbox::forget(connection, before).map_err(failed))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use crate::SqliteStore;
    use crate::fixture::Fixture;

    #[test]
    fn keeps_the_promises_of_a_store_of_webhooks() {
        let (fixture, next) = (Fixture::new(), Cell::new(0));
        keyward::conformance::check_webhooks(|| {
            next.set(next.get() + 1);
            SqliteStore::open(fixture.at(&next.get().to_string())).unwrap()
        });
    }
}
