//! Storage of endpoints, messages and deliveries.

pub(crate) mod memory;
pub(crate) mod outbox;
pub(crate) mod room;
pub(crate) mod signal;
#[expect(
    clippy::module_inception,
    reason = "the room is named after its main type"
)]
pub(crate) mod store;
#[cfg(test)]
mod tests;

pub use self::memory::MemoryWebhooks;
pub use self::room::ClaimRoom;
pub use self::signal::OutboxSignal;
pub use self::store::{
    DeliveryClaim, EndpointLimit, ProvenEndpoints, Redelivery, WebhookCommit, WebhookStore,
};
