//! Who asks for a change.

use crate::admin::AdminError;
use crate::environment::Environment;
use crate::gate::Principal;
use crate::ids::{AccountId, KeyId};
use crate::record::{AdminErrorKind, DisabledBy};
use crate::scope::Scopes;

/// Who asks for a change. There is no call without one, and none that trusts a missing one.
///
/// ```
/// use keyward::{AccountId, Actor, Permission};
///
/// let acme = AccountId::parse("acme")?;
/// let developer = Actor::user("user_42", acme, [Permission::Create, Permission::Read]);
/// assert_eq!(developer.name(), "user:user_42");
/// # Ok::<(), keyward::error::ParseError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Actor {
    name: String,
    pub(crate) authority: Authority,
}

#[derive(Clone, Debug)]
pub(crate) enum Authority {
    Operator,
    User(AccountId, Vec<Permission>),
    Key(AccountId, Environment, KeyId),
}

impl Actor {
    /// A signed-in user of an account: acts in that account, as far as permitted.
    pub fn user(
        name: &str,
        account: AccountId,
        permissions: impl IntoIterator<Item = Permission>,
    ) -> Self {
        Self {
            name: format!("user:{name}"),
            authority: Authority::User(account, permissions.into_iter().collect()),
        }
    }

    /// A key that has passed a gate: acts in its account, by its scopes.
    ///
    /// It needs the scope of a permission (`api_keys.create` and so on), directly or by `api_keys.*`;
    /// that another scope implies it does not count. It hands on at most what it holds itself, and sees
    /// and changes only what is of its own environment.
    #[must_use]
    pub fn key(principal: &Principal) -> Self {
        let id = principal.key_id();
        Self {
            name: format!("key:{id}"),
            authority: Authority::Key(principal.account().clone(), principal.environment(), id),
        }
    }

    /// The service's own staff or machinery: acts in every account, and alone on accounts.
    ///
    /// Never make one from what a request says.
    #[must_use]
    pub fn operator(name: &str) -> Self {
        Self {
            name: format!("operator:{name}"),
            authority: Authority::Operator,
        }
    }

    /// As it stands in the audit trail: its first 200 characters, with what it is before the name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the class of the actor, as it is kept with a key or an endpoint that the actor disables.
    #[must_use]
    pub fn class(&self) -> DisabledBy {
        match self.authority {
            Authority::Operator => DisabledBy::Operator,
            Authority::User(..) => DisabledBy::User,
            Authority::Key(..) => DisabledBy::Key,
        }
    }

    /// Returns the account it acts in; `None` for an operator, who acts in all.
    #[must_use]
    pub fn account(&self) -> Option<&AccountId> {
        match &self.authority {
            Authority::Operator => None,
            Authority::User(account, _) | Authority::Key(account, ..) => Some(account),
        }
    }

    /// Returns the environment of a key that acts; `None` for operators and users, who act in all.
    #[must_use]
    pub fn environment(&self) -> Option<Environment> {
        match self.authority {
            Authority::Operator | Authority::User(..) => None,
            Authority::Key(_, environment, _) => Some(environment),
        }
    }

    /// Returns whether it acts in this account. An operator acts in all.
    #[must_use]
    pub fn acts_in(&self, account: &AccountId) -> bool {
        self.account().is_none_or(|own| own == account)
    }

    /// Checks that it is an operator.
    ///
    /// ```
    /// use keyward::{AccountId, Actor, Permission};
    ///
    /// let user = Actor::user("ann@acme.example", AccountId::parse("acme")?, Permission::ALL);
    /// assert!(user.must_be_operator().is_err());
    /// assert!(Actor::operator("billing").must_be_operator().is_ok());
    /// # Ok::<(), keyward::error::ParseError>(())
    /// ```
    ///
    /// # Errors
    /// [`NotPermitted`](AdminErrorKind::NotPermitted) when it is a user or a key.
    pub fn must_be_operator(&self) -> Result<(), AdminError> {
        match self.authority {
            Authority::Operator => Ok(()),
            Authority::User(..) | Authority::Key(..) => Err(AdminErrorKind::NotPermitted.into()),
        }
    }
}

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
