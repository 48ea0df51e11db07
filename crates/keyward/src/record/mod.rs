//! Stored records: keys, accounts and the audit log.

pub(crate) mod account;
pub(crate) mod audit;
pub(crate) mod key_record;
pub(crate) mod metadata;
pub(crate) mod refusal;

pub use self::account::{Account, AccountStatus};
pub use self::audit::{AuditAction, AuditEntry};
pub use self::key_record::{DisabledBy, KeyRecord, KeyState, KeyStatus};
pub use self::metadata::Metadata;
pub use self::refusal::AdminErrorKind;
