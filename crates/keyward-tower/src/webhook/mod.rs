//! Receiving and sending webhooks.

#[cfg(feature = "axum")]
pub(crate) mod extract;
pub(crate) mod future;
mod in_flight;
pub(crate) mod layer;
pub(crate) mod resolver;
pub(crate) mod sender;
pub(crate) mod service;
