//! A receiver of webhooks in front of a service.

#[cfg(feature = "axum")]
pub(crate) mod extract;
pub(crate) mod future;
pub(crate) mod layer;
pub(crate) mod service;
