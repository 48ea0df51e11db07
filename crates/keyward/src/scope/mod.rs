//! Scopes of keys and routes, and the scope catalog of a service.

pub(crate) mod catalog;
pub(crate) mod permission;
#[expect(
    clippy::module_inception,
    reason = "the room is named after its main type"
)]
pub(crate) mod scope;

pub use self::catalog::ScopeCatalog;
pub use self::permission::Permission;
pub use self::scope::{Scope, Scopes};
