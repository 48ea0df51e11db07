//! A receiver of webhooks in front of a service, and a sender of them through one.

#[cfg(feature = "axum")]
pub(crate) mod extract;
pub(crate) mod future;
mod in_flight;
pub(crate) mod layer;
pub(crate) mod resolver;
pub(crate) mod sender;
pub(crate) mod service;
