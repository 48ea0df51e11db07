//! The permissions to manage keys and webhook endpoints, which are scopes of keys too.

use crate::scope::Scopes;

/// What a user or a key may be permitted to do.
///
/// Each permission is also a scope of keys. Scopes that begin with `api_keys.` or `webhooks.` manage keys
/// and endpoints; there are no others than these, and `api_keys.*` and `webhooks.*`. Only an operator, or
/// an actor that has the permission itself, can give such a scope to a key:
/// [`TooWide`](crate::record::AdminErrorKind::TooWide) otherwise. Where the service has a
/// [`ScopeCatalog`](crate::scope::ScopeCatalog), that has to list them too.
///
/// ```
/// use keyward::Permission;
///
/// assert_eq!(Permission::Revoke.as_str(), "api_keys.revoke"); // the scope a key needs for it
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Permission {
    /// Create keys: `api_keys.create`. With [`Revoke`](Self::Revoke) also rotate.
    Create,
    /// List and view keys, usage and the audit trail: `api_keys.read`.
    Read,
    /// Update, disable and enable keys: `api_keys.update`.
    Update,
    /// Revoke keys: `api_keys.revoke`.
    Revoke,
    /// List endpoints of webhooks and attempts to reach them: `webhooks.read`.
    ReadWebhooks,
    /// Create, change, verify and delete endpoints of webhooks: `webhooks.manage`.
    ///
    /// Who has it chooses where the events of the account go.
    ManageWebhooks,
}

/// What the scopes that manage keys and endpoints begin with.
const MANAGING: [&str; 2] = ["api_keys.", "webhooks."];

impl Permission {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Create,
        Self::Read,
        Self::Update,
        Self::Revoke,
        Self::ReadWebhooks,
        Self::ManageWebhooks,
    ];

    /// The scope a key needs for it.
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

    /// Whether this is a grant of scopes that manage keys or endpoints, existing or not.
    pub(crate) fn is_reserved(grant: &str) -> bool {
        MANAGING.iter().any(|stem| grant.starts_with(stem))
    }

    /// Whether a reserved grant is one that there is.
    pub(crate) fn is_known(grant: &str) -> bool {
        let stem = grant.strip_suffix('*');
        stem.is_some_and(|stem| MANAGING.contains(&stem))
            || Self::ALL.iter().any(|own| own.as_str() == grant)
    }

    /// Those that a key with these grants has. That another scope implies them does not count.
    pub(crate) fn given_by(grants: &Scopes) -> impl Iterator<Item = Self> {
        let all = Self::ALL.into_iter();
        all.filter(|own| grants.covers_grant(own.as_str()))
    }
}
