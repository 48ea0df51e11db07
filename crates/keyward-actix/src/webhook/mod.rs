//! Receiving webhooks.

pub(crate) mod extract;
pub(crate) mod future;
pub(crate) mod middleware;
pub(crate) mod transform;
