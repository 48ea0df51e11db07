//! Brute-force protection: limits failed authentication per client address.

pub(crate) mod failures;
#[expect(
    clippy::module_inception,
    reason = "the room is named after its main type"
)]
pub(crate) mod throttle;

pub use self::throttle::AuthFailureLimiter;
