//! The actor of a management call.

use crate::admin::AdminError;
use crate::environment::Environment;
use crate::gate::Principal;
use crate::ids::{AccountId, KeyId};
use crate::record::{AdminErrorKind, DisabledBy};
use crate::scope::Permission;

/// The user, key or operator on whose behalf a call is made. Every call requires one.
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
    /// Creates an actor for a signed-in user, limited to an account and to these permissions.
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

    /// Creates an actor for a key, limited to the key's account and scopes.
    ///
    /// The principal is that of a key that has passed a gate. The key needs the scope of each
    /// permission (`api_keys.create` and so on), either directly or through `api_keys.*`; being
    /// implied by another scope in the catalog does not count. It can grant at most what it holds
    /// itself, and sees and changes only resources of its own environment.
    #[must_use]
    pub fn key(principal: &Principal) -> Self {
        let id = principal.key_id();
        Self {
            name: format!("key:{id}"),
            authority: Authority::Key(principal.account().clone(), principal.environment(), id),
        }
    }

    /// Creates an actor for the service's own staff or jobs, with full access.
    ///
    /// It may act in every account. Only an operator can open and change accounts. Never create one
    /// from data in a request.
    #[must_use]
    pub fn operator(name: &str) -> Self {
        Self {
            name: format!("operator:{name}"),
            authority: Authority::Operator,
        }
    }

    /// Returns the kind of actor and its name, as written to the audit log.
    ///
    /// The audit log keeps the first 200 characters.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the class of the actor, which is recorded on what it disables.
    #[must_use]
    pub fn class(&self) -> DisabledBy {
        match self.authority {
            Authority::Operator => DisabledBy::Operator,
            Authority::User(..) => DisabledBy::User,
            Authority::Key(..) => DisabledBy::Key,
        }
    }

    /// Returns the actor's account; `None` for an operator, who acts in all accounts.
    #[must_use]
    pub fn account(&self) -> Option<&AccountId> {
        match &self.authority {
            Authority::Operator => None,
            Authority::User(account, _) | Authority::Key(account, ..) => Some(account),
        }
    }

    /// Returns the environment of an acting key; `None` for operators and users.
    #[must_use]
    pub fn environment(&self) -> Option<Environment> {
        match self.authority {
            Authority::Operator | Authority::User(..) => None,
            Authority::Key(_, environment, _) => Some(environment),
        }
    }

    /// Returns the id of an acting key; `None` for operators and users.
    pub(super) fn key_id(&self) -> Option<KeyId> {
        match self.authority {
            Authority::Operator | Authority::User(..) => None,
            Authority::Key(_, _, id) => Some(id),
        }
    }

    /// Returns whether the actor may act in this account. An operator acts in every account.
    #[must_use]
    pub fn acts_in(&self, account: &AccountId) -> bool {
        self.account().is_none_or(|own| own == account)
    }

    /// Checks that the actor is an operator.
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
    /// Returns [`NotPermitted`](AdminErrorKind::NotPermitted) if it is a user or a key.
    pub fn must_be_operator(&self) -> Result<(), AdminError> {
        match self.authority {
            Authority::Operator => Ok(()),
            Authority::User(..) | Authority::Key(..) => Err(AdminErrorKind::NotPermitted.into()),
        }
    }
}
