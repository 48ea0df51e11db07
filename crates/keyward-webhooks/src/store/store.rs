//! Where endpoints, messages and deliveries are kept for good.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use keyward::environment::Environment;
use keyward::ids::AccountId;
use keyward::store::{Commit, Store, StoreFuture};

use crate::send::{
    Conclusion, DeliveryAttempt, DueDelivery, EndpointId, WebhookEndpoint, WebhookMessage,
};
use crate::signature::WebhookId;
use crate::store::OutboxSignal;

/// Where endpoints, messages and deliveries are kept for good. A [`Store`] need not be one.
///
/// What is written together with a message is a delivery for each endpoint that it is
/// [deliverable](WebhookMessage::deliverable) to: once a message is accepted it is delivered at least
/// once, whatever happens to the process. The suite `keyward_webhooks::testing::check_webhooks` runs over any
/// such store.
///
/// ```
/// # use std::time::{Duration, SystemTime};
/// # use keyward::{AccountId, Environment};
/// # use keyward_webhooks::{MemoryWebhooks, WebhookMessage};
/// # use keyward_webhooks::send::{EndpointUrl, WebhookEndpoint};
/// # use keyward_webhooks::WebhookStore;
/// # use keyward_webhooks::store::{DeliveryClaim, WebhookCommit};
/// # use keyward::record::Account;
/// # use keyward::store::Commit;
/// # use keyward_webhooks::sealing::{SealingKey, SealingKeys};
/// # use keyward_webhooks::signature::{WebhookId, WebhookSecret};
/// # keyward::testing::block_on(async {
/// # let keys = SealingKeys::new(SealingKey::new("2026", &[7; 32])?);
/// # let url = EndpointUrl::parse("https://acme.example/hook")?;
/// # let acme = AccountId::parse("acme")?;
/// # let secret = WebhookSecret::random()?;
/// # let now = SystemTime::now();
/// # let endpoint = WebhookEndpoint::new(acme.clone(), Environment::LIVE, url, &secret, &keys, now)?;
/// # let message = WebhookMessage::new(acme.clone(), Environment::LIVE, WebhookId::random()?, "{}")?;
/// let store = MemoryWebhooks::new();
/// let account = Commit { accounts: vec![Account::new(acme)], ..Commit::default() };
/// store.commit_webhooks(WebhookCommit { endpoints: vec![endpoint], with: account, ..WebhookCommit::default() }).await?;
/// store.commit_webhooks(WebhookCommit { message: Some(message.clone()), ..WebhookCommit::default() }).await?;
///
/// let claim = DeliveryClaim { now, until: now + Duration::from_secs(60), limit: 10, each: 2, busy: vec![], proven: None };
/// let due = store.claim(claim.clone()).await?;
/// assert_eq!(due[0].message().id(), message.id());
/// assert!(store.claim(claim).await?.is_empty()); // for a minute it is ours
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
pub trait WebhookStore: Store {
    /// Writes all of it, durably and at once, or nothing.
    ///
    /// # Errors
    /// As [`commit`](Store::commit), and [`Conflict`](keyward::store::StoreErrorKind::Conflict) when the revision
    /// of an endpoint is not the stored one (zero: not stored yet), its account is not stored, it would
    /// change account or environment, a message of the same id is there in its account and environment,
    /// or what is to be delivered again is not there. [`TooManyEndpoints`](keyward::store::StoreErrorKind::TooManyEndpoints) when there would be
    /// more than there may be.
    fn commit_webhooks(&self, commit: WebhookCommit) -> StoreFuture<'_, ()>;

    /// The endpoint of this name.
    ///
    /// # Errors
    /// When the store cannot answer.
    fn endpoint(&self, id: EndpointId) -> StoreFuture<'_, Option<WebhookEndpoint>>;

    /// The endpoints of an account or, where none is named, of all, in the order of their making.
    ///
    /// # Errors
    /// When the store cannot answer.
    fn endpoints(
        &self,
        account: Option<AccountId>,
        environment: Option<Environment>,
    ) -> StoreFuture<'_, Vec<WebhookEndpoint>>;

    /// The message of this name, until it is forgotten.
    ///
    /// # Errors
    /// When the store cannot answer.
    fn message(
        &self,
        account: AccountId,
        environment: Environment,
        id: WebhookId,
    ) -> StoreFuture<'_, Option<WebhookMessage>>;

    /// Takes deliveries that are due, the longest due first, so that nobody else gets them for a while.
    ///
    /// Whoever claims one has to [conclude](Self::conclude) it before the claim is over. A delivery that
    /// was claimed and not concluded is due again then.
    ///
    /// # Errors
    /// When the store cannot answer. Nothing is claimed then, or for nobody.
    fn claim(&self, claim: DeliveryClaim) -> StoreFuture<'_, Vec<DueDelivery>>;

    /// Keeps what came of an attempt, and what follows from it.
    ///
    /// Where the delivery has been claimed anew meanwhile, only that it has arrived follows.
    ///
    /// # Errors
    /// When the store cannot answer; the delivery is then due again when the claim is over.
    fn conclude(&self, conclusion: Conclusion) -> StoreFuture<'_, ()>;

    /// The attempts to reach an endpoint, below a number, newest first.
    ///
    /// # Errors
    /// When the store cannot answer.
    fn attempts(
        &self,
        endpoint: EndpointId,
        before: Option<u64>,
        limit: usize,
    ) -> StoreFuture<'_, Vec<DeliveryAttempt>>;

    /// Forgets messages accepted before this moment that have arrived or were given up everywhere,
    /// with all attempts; and tells how many. Others are served meanwhile.
    ///
    /// # Errors
    /// When the store cannot answer; some may be forgotten by then.
    fn forget_messages(&self, before: SystemTime) -> StoreFuture<'_, u64>;

    /// The signal that is raised when this process has made something due: accepted a message, asked for one
    /// again, switched an endpoint on.
    ///
    /// A sender waits for it, so that what is published leaves at once. `None`, unless a store has one: then
    /// the sender finds it when it looks next, as it does with what other processes accept.
    fn outbox_signal(&self) -> Option<&OutboxSignal> {
        None
    }
}

/// What is written together. See [`WebhookStore`].
#[derive(Clone, Debug, Default)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a store takes it apart, a new part must not be missed"
)]
pub struct WebhookCommit {
    /// New and changed endpoints. Each replaces the stored one of its revision.
    pub endpoints: Vec<WebhookEndpoint>,
    /// An endpoint that is deleted, with its deliveries; and its revision.
    pub deleted: Option<(EndpointId, u64)>,
    /// How many endpoints there may be after this.
    pub at_most: Option<EndpointLimit>,
    /// A message that is accepted, with a delivery for each endpoint.
    pub message: Option<WebhookMessage>,
    /// What is to be delivered to an endpoint again, as if nothing had failed; where it is switched off,
    /// once it is on.
    pub again: Option<(EndpointId, Redelivery)>,
    /// What else is written: the audit trail, what must be unchanged.
    pub with: Commit,
}

impl WebhookCommit {
    /// Whether something may be due once it is written.
    #[must_use]
    pub fn makes_due(&self) -> bool {
        self.message.is_some() || self.again.is_some() || !self.endpoints.is_empty()
    }
}

/// What is to be delivered again. See [`WebhookAdmin::redeliver`](crate::admin::WebhookAdmin::redeliver).
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a store must carry out each")]
pub enum Redelivery {
    /// This message, whatever came of it; also one that was accepted before the endpoint was there.
    Message(WebhookId),
    /// Whatever was accepted from this moment on and was given up.
    FailedSince(SystemTime),
}

/// A bound on the endpoints of an account and environment, as a part of a [`WebhookCommit`].
#[derive(Clone, Debug)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a store takes it apart, a new part must not be missed"
)]
pub struct EndpointLimit {
    /// Of which account.
    pub account: AccountId,
    /// Of which environment.
    pub environment: Environment,
    /// How many there may be after the commit.
    pub at_most: u32,
}

/// Which deliveries to take, and for how long. See [`WebhookStore::claim`].
#[derive(Clone, Debug)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a store takes it apart, a new part must not be missed"
)]
pub struct DeliveryClaim {
    /// Only what is due now.
    pub now: SystemTime,
    /// When it is due again if it is not concluded.
    pub until: SystemTime,
    /// At most so many.
    pub limit: usize,
    /// At most so many to one endpoint.
    pub each: usize,
    /// Nothing to these endpoints.
    pub busy: Vec<EndpointId>,
    /// Where named, the limits above are for these endpoints alone. Without, they are for any.
    pub proven: Option<ProvenEndpoints>,
}

/// The endpoints that are known to answer, as a part of a [`DeliveryClaim`].
#[derive(Clone, Debug)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a store takes it apart, a new part must not be missed"
)]
pub struct ProvenEndpoints {
    /// Those that answer.
    pub endpoints: Arc<BTreeSet<EndpointId>>,
    /// How many deliveries to take for all others together, at most one for each.
    pub others: usize,
}
