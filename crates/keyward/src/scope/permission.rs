//! Permissions to manage keys and webhook endpoints, which are also scopes.

use crate::scope::Scopes;

/// A permission to manage keys or webhook endpoints.
///
/// Each permission is also a scope of keys. Scopes that begin with `api_keys.` or `webhooks.` are
/// reserved for management: the only ones are these six, `api_keys.*` and `webhooks.*`. Only an
/// operator, or an actor with the permission itself, can grant such a scope to a key; for anyone
/// else it fails with [`TooWide`](crate::record::AdminErrorKind::TooWide). If the service has a
/// [`ScopeCatalog`](crate::scope::ScopeCatalog), the scope must be listed there too.
///
/// ```
/// use keyward::Permission;
///
/// assert_eq!(Permission::Revoke.as_str(), "api_keys.revoke"); // also the name of the scope
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Permission {
    /// The permission to create keys: `api_keys.create`.
    ///
    /// Together with [`Revoke`](Self::Revoke), it also permits rotating keys.
    Create,
    /// The permission to list and view keys, usage and the audit log: `api_keys.read`.
    Read,
    /// The permission to update, disable and enable keys: `api_keys.update`.
    Update,
    /// The permission to revoke keys: `api_keys.revoke`.
    Revoke,
    /// The permission to list webhook endpoints and delivery attempts: `webhooks.read`.
    ReadWebhooks,
    /// The permission to create, update, verify and delete webhook endpoints: `webhooks.manage`.
    ///
    /// Its holder decides where the account's events are sent.
    ManageWebhooks,
}

/// The prefixes of management scopes.
const MANAGING: [&str; 2] = ["api_keys.", "webhooks."];

impl Permission {
    /// All permissions.
    pub const ALL: [Self; 6] = [
        Self::Create,
        Self::Read,
        Self::Update,
        Self::Revoke,
        Self::ReadWebhooks,
        Self::ManageWebhooks,
    ];

    /// Returns the scope that grants this permission to a key.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "api_keys.create",
            Self::Read => "api_keys.read",
            Self::Update => "api_keys.update",
            Self::Revoke => "api_keys.revoke",
            Self::ReadWebhooks => "webhooks.read",
            Self::ManageWebhooks => "webhooks.manage",
        }
    }

    /// Returns whether a grant has a management prefix, known or not.
    pub(crate) fn is_reserved(grant: &str) -> bool {
        MANAGING.iter().any(|stem| grant.starts_with(stem))
    }

    /// Returns whether a reserved grant exists.
    pub(crate) fn is_known(grant: &str) -> bool {
        let stem = grant.strip_suffix('*');
        stem.is_some_and(|stem| MANAGING.contains(&stem))
            || Self::ALL.iter().any(|own| own.as_str() == grant)
    }

    /// Returns the permissions that the grants give. Scopes implied by others do not count.
    pub(crate) fn given_by(grants: &Scopes) -> impl Iterator<Item = Self> {
        let all = Self::ALL.into_iter();
        all.filter(|own| grants.covers_grant(own.as_str()))
    }
}
