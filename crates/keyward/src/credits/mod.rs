//! Balances of prepaid credits.

#[expect(
    clippy::module_inception,
    reason = "the room is named after its main type"
)]
pub(crate) mod credits;

pub use self::credits::{CreditGrant, CreditOwner, CreditWant, Credits, Refill, Unspent};
