//! The in-memory copy of keys and accounts that answers requests, fed by a store.

pub(crate) mod cached_key;
pub(crate) mod credit_cache;
pub(crate) mod feed;
pub(crate) mod freshness;
pub(crate) mod key_buckets;
pub(crate) mod poll;
pub(crate) mod refresh;
pub(crate) mod refused_calls;
pub(crate) mod reload;
#[expect(
    clippy::module_inception,
    reason = "the room is named after its main type"
)]
pub(crate) mod replica;
pub(crate) mod table;
pub(crate) mod usage;

pub use self::credit_cache::DeferredWake;
pub use self::poll::{Poll, ReplicaError, ReplicaErrorKind, Revision};
pub use self::replica::Replica;
pub use self::usage::{Rehash, UsageCount};
