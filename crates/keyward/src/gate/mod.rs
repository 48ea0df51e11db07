//! The one place that decides, what a route asks of it, and what a handler gets from it.

pub(crate) mod alive;
mod answer;
pub(crate) mod builder;
pub(crate) mod charging;
pub(crate) mod cors;
pub(crate) mod drain;
pub(crate) mod explain;
pub(crate) mod failures;
#[expect(
    clippy::module_inception,
    reason = "the room is named after its main type"
)]
pub(crate) mod gate;
mod judge;
pub(crate) mod pending;
pub(crate) mod principal;
mod prove;
pub(crate) mod replies;
pub(crate) mod reports;
pub(crate) mod requirement;
#[cfg(test)]
mod tests;
pub(crate) mod throttle;
pub(crate) mod verdict;
