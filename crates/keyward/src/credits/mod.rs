//! Balances of prepaid credits.

#[expect(
    clippy::module_inception,
    reason = "the room is named after its main type"
)]
pub(crate) mod credits;
pub(crate) mod schedule;

pub use self::credits::{
    CreditGrant, CreditOwner, CreditPeriod, CreditStatus, CreditWant, Credits, Refill, Unspent,
};
pub use self::schedule::RefillSchedule;
