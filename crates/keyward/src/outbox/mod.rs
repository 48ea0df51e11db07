//! What a sender of webhooks keeps: endpoints, messages, and which is still to reach which.

pub(crate) mod address;
pub(crate) mod attempt;
pub(crate) mod challenge;
#[cfg(any(test, feature = "conformance"))]
pub(crate) mod conformance;
pub(crate) mod delivery;
pub(crate) mod endpoint;
pub(crate) mod health;
pub(crate) mod memory;
pub(crate) mod message;
pub(crate) mod rules;
pub(crate) mod schedule;
pub(crate) mod signal;
pub(crate) mod store;
#[cfg(test)]
mod tests;
pub(crate) mod url;
