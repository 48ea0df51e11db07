//! Durable storage of endpoints, messages and deliveries.

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

/// Durable storage of endpoints, messages and deliveries, as an extension of [`Store`].
///
/// A message is written together with a delivery for each endpoint that it is
/// [deliverable](WebhookMessage::deliverable) to (a transactional outbox): an accepted message is
/// delivered at least once, even if the process ends. The suite
/// `keyward_webhooks::testing::check_webhooks` tests implementations.
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
/// assert!(store.claim(claim).await?.is_empty()); // leased for a minute
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
pub trait WebhookStore: Store {
    /// Writes the commit durably and atomically: all of it, or nothing.
    ///
    /// # Errors
    /// Returns those of [`commit`](Store::commit).
    /// [`Conflict`](keyward::store::StoreErrorKind::Conflict) if the revision of an endpoint is not
    /// the stored one (zero: not stored yet), its account is not stored, it would change account or
    /// environment, a message with the same id exists in its account and environment, or what is to
    /// be redelivered does not exist.
    /// [`TooManyEndpoints`](keyward::store::StoreErrorKind::TooManyEndpoints) if the commit would
    /// exceed the [limit](WebhookCommit::at_most).
    fn commit_webhooks(&self, commit: WebhookCommit) -> StoreFuture<'_, ()>;

    /// Returns the endpoint with this id.
    ///
    /// # Errors
    /// Returns an error if the store cannot answer.
    fn endpoint(&self, id: EndpointId) -> StoreFuture<'_, Option<WebhookEndpoint>>;

    /// Lists the endpoints of an account, or of all accounts, in the order of creation.
    ///
    /// # Errors
    /// Returns an error if the store cannot answer.
    fn endpoints(
        &self,
        account: Option<AccountId>,
        environment: Option<Environment>,
    ) -> StoreFuture<'_, Vec<WebhookEndpoint>>;

    /// Returns the message with this id, unless it has been deleted.
    ///
    /// # Errors
    /// Returns an error if the store cannot answer.
    fn message(
        &self,
        account: AccountId,
        environment: Environment,
        id: WebhookId,
    ) -> StoreFuture<'_, Option<WebhookMessage>>;

    /// Claims due deliveries for a while, the longest due first.
    ///
    /// No other sender gets them until the claim ends. The caller must [conclude](Self::conclude)
    /// each of them before the claim ends. A delivery that is claimed but not concluded becomes due
    /// again.
    ///
    /// # Errors
    /// Returns an error if the store cannot answer. Then nothing is claimed, or the claim expires
    /// unused.
    fn claim(&self, claim: DeliveryClaim) -> StoreFuture<'_, Vec<DueDelivery>>;

    /// Stores the outcome of an attempt and carries out the next step.
    ///
    /// If the delivery was claimed again meanwhile, the only effect is that it is marked as arrived
    /// if it has.
    ///
    /// # Errors
    /// Returns an error if the store cannot answer; the delivery then becomes due again when the
    /// claim ends.
    fn conclude(&self, conclusion: Conclusion) -> StoreFuture<'_, ()>;

    /// Lists the attempts to reach an endpoint, below a number, newest first.
    ///
    /// # Errors
    /// Returns an error if the store cannot answer.
    fn attempts(
        &self,
        endpoint: EndpointId,
        before: Option<u64>,
        limit: usize,
    ) -> StoreFuture<'_, Vec<DeliveryAttempt>>;

    /// Deletes messages accepted before this time that were delivered or given up at every
    /// endpoint.
    ///
    /// Their attempts are deleted too. Returns the number of messages. Other calls are served
    /// meanwhile.
    ///
    /// # Errors
    /// Returns an error if the store cannot answer; some messages may be deleted by then.
    fn forget_messages(&self, before: SystemTime) -> StoreFuture<'_, u64>;

    /// Returns the signal that is raised when this process makes a delivery due.
    ///
    /// That is when it accepts or redelivers a message, or enables an endpoint. A sender waits for
    /// the signal to deliver new messages at once. Without one (the default), the sender finds them
    /// at its next poll, as it does with messages that other processes accept.
    fn outbox_signal(&self) -> Option<&OutboxSignal> {
        None
    }
}

/// The changes that are written atomically. See [`WebhookStore`].
#[derive(Clone, Debug, Default)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a store must handle every part, so a new one must not be missed"
)]
pub struct WebhookCommit {
    /// New and changed endpoints. Each replaces the stored one of the same revision.
    pub endpoints: Vec<WebhookEndpoint>,
    /// The id and revision of an endpoint to delete, with its deliveries.
    pub deleted: Option<(EndpointId, u64)>,
    /// The limit of endpoints after this commit.
    pub at_most: Option<EndpointLimit>,
    /// An accepted message, which creates a delivery for each endpoint.
    pub message: Option<WebhookMessage>,
    /// An endpoint and what to redeliver to it, as if no attempt had failed.
    ///
    /// If the endpoint is disabled, delivery begins once it is enabled.
    pub again: Option<(EndpointId, Redelivery)>,
    /// The rest of the commit, such as the audit log and what must be unchanged.
    pub with: Commit,
}

impl WebhookCommit {
    /// Returns whether the commit can make a delivery due.
    #[must_use]
    pub fn makes_due(&self) -> bool {
        self.message.is_some() || self.again.is_some() || !self.endpoints.is_empty()
    }
}

/// The deliveries to repeat. See
/// [`WebhookAdmin::redeliver`](crate::admin::WebhookAdmin::redeliver).
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a store must carry out each")]
pub enum Redelivery {
    /// A single message, whatever its outcome.
    ///
    /// The message may be older than the endpoint.
    Message(WebhookId),
    /// All messages accepted from this time on that were given up.
    FailedSince(SystemTime),
}

/// A limit on the endpoints of an account and environment, as part of a [`WebhookCommit`].
#[derive(Clone, Debug)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a store must handle every part, so a new one must not be missed"
)]
pub struct EndpointLimit {
    /// The account.
    pub account: AccountId,
    /// The environment.
    pub environment: Environment,
    /// The maximum number of endpoints after the commit.
    pub at_most: u32,
}

/// The number of deliveries to claim, and for how long. See [`WebhookStore::claim`].
#[derive(Clone, Debug)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a store must handle every part, so a new one must not be missed"
)]
pub struct DeliveryClaim {
    /// The present time: only deliveries due by then are claimed.
    pub now: SystemTime,
    /// The time at which the claim ends and the delivery becomes due again.
    pub until: SystemTime,
    /// The maximum number of deliveries.
    pub limit: usize,
    /// The maximum number of deliveries per endpoint.
    pub each: usize,
    /// Endpoints to skip.
    pub busy: Vec<EndpointId>,
    /// The endpoints to which the limits above apply; `None` for all.
    pub proven: Option<ProvenEndpoints>,
}

/// The endpoints that are known to answer, as part of a [`DeliveryClaim`].
#[derive(Clone, Debug)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a store must handle every part, so a new one must not be missed"
)]
pub struct ProvenEndpoints {
    /// The endpoints that answer.
    pub endpoints: Arc<BTreeSet<EndpointId>>,
    /// The number of deliveries to claim for all other endpoints together.
    ///
    /// Each of those gets at most one.
    pub others: usize,
}
