//! Enforcement: the gate, the requirements of routes, and the principal that handlers receive.

pub(crate) mod alive;
pub(crate) mod answer;
pub(crate) mod builder;
pub(crate) mod charging;
pub(crate) mod check;
pub(crate) mod cors;
pub(crate) mod denial;
pub(crate) mod drain;
pub(crate) mod explain;
#[expect(
    clippy::module_inception,
    reason = "the room is named after its main type"
)]
pub(crate) mod gate;
pub(crate) mod handshake;
pub(crate) mod judge;
pub(crate) mod labelled;
pub(crate) mod later_charge;
pub(crate) mod other_credential;
pub(crate) mod peer;
pub(crate) mod pending;
pub(crate) mod per_environment;
pub(crate) mod principal;
pub(crate) mod prove;
pub(crate) mod refund;
pub(crate) mod rendered;
pub(crate) mod reports;
pub(crate) mod requirement;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod verdict;
pub(crate) mod waiting;

pub use self::alive::KeyDied;
pub use self::builder::{GateBuilder, GateError, GateErrorKind};
pub use self::check::Check;
pub use self::cors::Cors;
pub use self::denial::Denial;
pub use self::drain::{BodyDrain, UnreadBody};
pub use self::explain::Explanation;
pub use self::gate::Gate;
pub use self::later_charge::ChargeError;
pub use self::peer::PeerSource;
pub use self::pending::Pending;
pub use self::per_environment::PerEnvironment;
pub use self::principal::Principal;
pub use self::requirement::Requirement;
pub use self::verdict::{
    Access, Admitted, Anonymous, Decision, Finish, KeyHeaderAction, Refusal, Verdict,
};
