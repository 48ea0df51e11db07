//! Sending webhooks: endpoints, messages, deliveries, attempts, and retries with exponential
//! backoff.

pub(crate) mod address;
pub(crate) mod attempt;
pub(crate) mod challenge;
pub(crate) mod delivery;
pub(crate) mod endpoint;
pub(crate) mod health;
pub(crate) mod message;
pub(crate) mod retry;
pub(crate) mod rules;
pub(crate) mod url;

pub use self::attempt::{AttemptOutcome, DeliveryAttempt};
pub use self::challenge::{AnsweredChallenge, EndpointChallenge};
pub use self::delivery::{Conclusion, DueDelivery, NextStep};
pub use self::endpoint::{EndpointId, EndpointStatus, WebhookEndpoint};
pub use self::health::{CircuitState, EndpointHealth};
pub use self::message::WebhookMessage;
pub use self::retry::RetrySchedule;
pub use self::rules::EndpointRules;
pub use self::url::EndpointUrl;
