//! Receiving webhooks: verification of deliveries and replay protection.

pub(crate) mod builder;
pub(crate) mod event;
pub(crate) mod receiver;
pub(crate) mod replay;
#[cfg(test)]
mod tests;
pub(crate) mod verdict;

pub use self::builder::WebhookReceiverBuilder;
pub use self::event::WebhookEvent;
pub use self::receiver::{AwaitedBody, WebhookReceiver};
pub use self::replay::{RecentWebhooks, ReplayMemory, ReplayStatus, WebhookAttempt};
pub use self::verdict::{Receipt, WebhookAnswer, WebhookDelivery, WebhookVerdict};
