//! Where keys are kept, and the copy in memory that answers requests.

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub(crate) mod entry;
pub(crate) mod memory;
pub(crate) mod replica;
#[expect(
    clippy::module_inception,
    reason = "the room is named after its main type"
)]
pub(crate) mod store;
