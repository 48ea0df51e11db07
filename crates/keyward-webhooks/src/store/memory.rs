//! A store of keys and webhooks in memory, for tests.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use keyward::clock::Clock;
use keyward::credits::{CreditOwner, Credits};
use keyward::environment::Environment;
use keyward::ids::{AccountId, KeyId};
use keyward::key::DigestScheme;
use keyward::record::{Account, AuditEntry, KeyRecord, Tombstone};
use keyward::replica::Replica;
use keyward::store::{
    AccountQuery, AuditQuery, Commit, KeyQuery, Maintained, Maintenance, MemoryStore, Store,
    StoreFuture, TombstoneQuery,
};
use keyward::usage::{KeyUsage, UsageQuery};

use crate::send::{
    Conclusion, DeliveryAttempt, DueDelivery, EndpointId, WebhookEndpoint, WebhookMessage,
};
use crate::signature::WebhookId;
use crate::store::outbox::Outbox;
use crate::store::{DeliveryClaim, OutboxSignal, WebhookCommit, WebhookStore};

/// A store of keys, endpoints, messages and deliveries in memory, for tests.
///
/// ```
/// use keyward::Store;
/// use keyward_webhooks::MemoryWebhooks;
///
/// let store = MemoryWebhooks::new();
/// assert!(store.replica().is_empty());
/// ```
#[derive(Default)]
pub struct MemoryWebhooks {
    keys: MemoryStore,
    outbox: Mutex<Outbox>,
    signal: OutboxSignal,
}

impl MemoryWebhooks {
    /// Creates an empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates an empty store that uses this clock.
    #[must_use]
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        Self {
            keys: MemoryStore::with_clock(clock),
            ..Self::default()
        }
    }

    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for MemoryWebhooks {
    fn replica(&self) -> &Replica {
        self.keys.replica()
    }

    fn commit(&self, commit: Commit) -> StoreFuture<'_, ()> {
        self.keys.commit(commit)
    }

    fn account(&self, id: AccountId) -> StoreFuture<'_, Option<Account>> {
        self.keys.account(id)
    }

    fn key(&self, id: KeyId) -> StoreFuture<'_, Option<KeyRecord>> {
        self.keys.key(id)
    }

    fn keys(&self, query: KeyQuery) -> StoreFuture<'_, Vec<KeyRecord>> {
        self.keys.keys(query)
    }

    fn accounts(&self, query: AccountQuery) -> StoreFuture<'_, Vec<Account>> {
        self.keys.accounts(query)
    }

    fn created_with(&self, account: AccountId, token: String) -> StoreFuture<'_, Option<KeyId>> {
        self.keys.created_with(account, token)
    }

    fn flush(&self) -> StoreFuture<'_, ()> {
        self.keys.flush()
    }

    fn credits(&self, owner: CreditOwner) -> StoreFuture<'_, Option<Credits>> {
        self.keys.credits(owner)
    }

    fn usage(&self, query: UsageQuery) -> StoreFuture<'_, Vec<KeyUsage>> {
        self.keys.usage(query)
    }

    fn schemes(&self, now: SystemTime) -> StoreFuture<'_, Vec<(DigestScheme, u64)>> {
        self.keys.schemes(now)
    }

    fn audit(&self, query: AuditQuery) -> StoreFuture<'_, Vec<AuditEntry>> {
        self.keys.audit(query)
    }

    fn maintain(&self, task: Maintenance, line: Option<AuditEntry>) -> StoreFuture<'_, Maintained> {
        self.keys.maintain(task, line)
    }

    fn tombstones(&self, query: TombstoneQuery) -> StoreFuture<'_, Vec<Tombstone>> {
        self.keys.tombstones(query)
    }
}

impl WebhookStore for MemoryWebhooks {
    fn commit_webhooks(&self, commit: WebhookCommit) -> StoreFuture<'_, ()> {
        Box::pin(async move {
            let makes_due = commit.makes_due();
            let with = commit.with.clone();
            // Every call that needs both locks this one before the keys.
            let mut outbox = self.outbox();
            self.keys.commit_with(with, |is_stored| {
                outbox.check(&commit, is_stored)?;
                outbox.write(&commit);
                Ok(())
            })?;
            drop(outbox);
            if makes_due {
                self.signal.raise();
            }
            Ok(())
        })
    }

    fn endpoint(&self, id: EndpointId) -> StoreFuture<'_, Option<WebhookEndpoint>> {
        Box::pin(async move { Ok(self.outbox().endpoint(id)) })
    }

    fn endpoints(
        &self,
        account: Option<AccountId>,
        environment: Option<Environment>,
    ) -> StoreFuture<'_, Vec<WebhookEndpoint>> {
        Box::pin(async move { Ok(self.outbox().endpoints(account.as_ref(), environment)) })
    }

    fn message(
        &self,
        account: AccountId,
        environment: Environment,
        id: WebhookId,
    ) -> StoreFuture<'_, Option<WebhookMessage>> {
        Box::pin(async move { Ok(self.outbox().message(&(account, environment, id))) })
    }

    fn claim(&self, claim: DeliveryClaim) -> StoreFuture<'_, Vec<DueDelivery>> {
        Box::pin(async move { Ok(self.outbox().claim(&claim)) })
    }

    fn conclude(&self, conclusion: Conclusion) -> StoreFuture<'_, ()> {
        Box::pin(async move {
            self.outbox().conclude(conclusion);
            Ok(())
        })
    }

    fn attempts(
        &self,
        endpoint: EndpointId,
        before: Option<u64>,
        limit: usize,
    ) -> StoreFuture<'_, Vec<DeliveryAttempt>> {
        Box::pin(async move { Ok(self.outbox().attempts(endpoint, before, limit)) })
    }

    fn forget_messages(&self, before: SystemTime) -> StoreFuture<'_, u64> {
        Box::pin(async move { Ok(self.outbox().forget(before)) })
    }

    fn outbox_signal(&self) -> Option<&OutboxSignal> {
        Some(&self.signal)
    }
}

impl fmt::Debug for MemoryWebhooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryWebhooks")
            .field("keys", &self.keys)
            .finish_non_exhaustive()
    }
}
