//! Key management: who may create, change, rotate and revoke keys, recorded in an audit log.

pub(crate) mod accounts;
pub(crate) mod actor;
#[expect(
    clippy::module_inception,
    reason = "the room is named after its main type"
)]
pub(crate) mod admin;
pub(crate) mod audited;
pub(crate) mod authority;
pub(crate) mod bulk;
pub(crate) mod change;
pub(crate) mod create;
pub(crate) mod credits;
pub(crate) mod error;
pub(crate) mod grace;
pub(crate) mod import;
pub(crate) mod list;
pub(crate) mod origins;
pub(crate) mod policy;
pub(crate) mod read;
pub(crate) mod retention;
pub(crate) mod revoke;
pub(crate) mod rotate;
pub(crate) mod rules;
pub(crate) mod search;
pub(crate) mod threads;
pub(crate) mod update;
pub(crate) mod usage;

pub use self::actor::Actor;
pub use self::admin::KeyAdmin;
pub use self::audited::AuditedCall;
pub use self::authority::Permitted;
pub use self::bulk::BulkMode;
pub use self::change::{AccountChange, CreatedKey, KeyChange, NewKey};
pub use self::error::AdminError;
pub use self::grace::Grace;
pub use self::list::{AccountFilter, AccountPage, AuditPage, KeyFilter, KeyPage, KeyView, Leak};
pub use self::policy::{CreatePolicy, PolicyFuture};
pub use self::retention::{AuditExport, MaintenanceReport, Retention};
pub use self::usage::{UsageFilter, UsagePage};
