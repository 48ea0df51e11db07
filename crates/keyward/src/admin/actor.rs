//! Who asks for a change.

use crate::admin::AdminError;
use crate::environment::Environment;
use crate::gate::Principal;
use crate::ids::{AccountId, KeyId};
use crate::record::{AdminErrorKind, DisabledBy};
use crate::scope::Permission;

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
