//! Stored records: keys, accounts and the audit log.

pub(crate) mod account;
pub(crate) mod admin_error_kind;
pub(crate) mod audit;
pub(crate) mod key_record;
pub(crate) mod metadata;
pub(crate) mod tombstone;

pub use self::account::{Account, AccountStatus};
pub use self::admin_error_kind::AdminErrorKind;
pub use self::audit::{AuditAction, AuditEntry};
pub use self::key_record::{DisabledBy, KeyRecord, KeyState, KeyStatus};
pub use self::metadata::{Metadata, MetadataError};
pub use self::tombstone::{DeathCause, Tombstone};
