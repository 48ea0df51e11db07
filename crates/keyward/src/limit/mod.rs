//! How often a key may be used: what is allowed, and what is left of it.

pub(crate) mod bucket;
pub(crate) mod credits;
pub(crate) mod limiter;
pub(crate) mod meter;
pub(crate) mod purse;
pub(crate) mod quota;
pub(crate) mod rate_limit;
pub(crate) mod rate_limits;
#[cfg(test)]
mod tests;
