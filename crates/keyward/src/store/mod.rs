//! Where keys are kept, and the copy in memory that answers requests.

pub(crate) mod commit;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub(crate) mod entry;
pub(crate) mod error;
pub(crate) mod feed;
pub(crate) mod freshness;
pub(crate) mod memory;
pub(crate) mod poll;
pub(crate) mod query;
pub(crate) mod refresh;
pub(crate) mod replica;
#[expect(
    clippy::module_inception,
    reason = "the room is named after its main type"
)]
pub(crate) mod store;
pub(crate) mod table;
pub(crate) mod usage;
