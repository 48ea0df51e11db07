//! The life of keys: who may do what to them, and what then happens.

mod accounts;
pub(crate) mod actor;
#[expect(
    clippy::module_inception,
    reason = "the room is named after its main type"
)]
pub(crate) mod admin;
mod authority;
#[cfg(test)]
mod calls;
pub(crate) mod change;
mod create;
mod credits;
mod deliveries;
mod endpoint_secrets;
pub(crate) mod endpoints;
pub(crate) mod error;
pub(crate) mod list;
pub(crate) mod origins;
mod read;
pub(crate) mod refusals;
mod revoke;
mod rotate;
mod rules;
mod search;
#[cfg(test)]
mod tests;
mod threads;
mod update;
pub(crate) mod webhooks;
