//! Durable storage of keys and accounts: the `Store` trait and a store in memory.

pub(crate) mod commit;
pub(crate) mod cursor;
pub(crate) mod error;
pub(crate) mod maintenance;
pub(crate) mod memory;
pub(crate) mod memory_maintenance;
pub(crate) mod query;
pub(crate) mod search;
#[expect(
    clippy::module_inception,
    reason = "the room is named after its main type"
)]
pub(crate) mod store;

pub use self::commit::{ActiveKeys, Commit, CreateToken, CreditChange};
pub use self::cursor::KeyCursor;
pub use self::error::{StoreError, StoreErrorKind};
pub use self::maintenance::{AuditCut, Maintained, Maintenance, TombstoneQuery};
pub use self::memory::MemoryStore;
pub use self::query::{AccountQuery, AuditQuery, KeyQuery};
pub use self::search::KeySearch;
pub use self::store::{Store, StoreFuture};
