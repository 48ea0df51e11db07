//! What a sender of webhooks keeps: endpoints, messages, and which is still to reach which.

pub(crate) mod address;
pub(crate) mod attempt;
pub(crate) mod challenge;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub(crate) mod delivery;
pub(crate) mod endpoint;
pub(crate) mod health;
pub(crate) mod memory;
pub(crate) mod message;
#[expect(
    clippy::module_inception,
    reason = "the room is named after its main type"
)]
pub(crate) mod outbox;
pub(crate) mod rules;
pub(crate) mod schedule;
pub(crate) mod signal;
pub(crate) mod store;
#[cfg(test)]
mod tests;
pub(crate) mod url;

pub use self::attempt::{AttemptOutcome, DeliveryAttempt};
pub use self::challenge::{AnsweredChallenge, EndpointChallenge};
pub use self::delivery::{Conclusion, DueDelivery, NextStep};
pub use self::endpoint::{EndpointId, EndpointStatus, WebhookEndpoint};
pub use self::health::{CircuitState, EndpointHealth};
pub use self::memory::MemoryWebhooks;
pub use self::message::WebhookMessage;
pub use self::rules::EndpointRules;
pub use self::schedule::RetrySchedule;
pub use self::signal::OutboxSignal;
pub use self::store::{
    DeliveryClaim, EndpointLimit, ProvenEndpoints, Redelivery, WebhookCommit, WebhookStore,
};
pub use self::url::EndpointUrl;
