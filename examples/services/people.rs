//! Who may sign in to a dashboard. A real one has sessions; here each request says who it is.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use keyward::admin::AdminError;
use keyward::record::AdminErrorKind;
use keyward::{AccountId, Actor, Permission};

use crate::Answer;

/// What everybody here signs in with.
const PASSWORD: &str = "open-sesame";

/// Somebody who has signed in.
#[derive(Clone, Debug)]
pub struct Person {
    name: String,
    permissions: Vec<Permission>,
    pub account: AccountId,
}

impl Person {
    /// The one who acts, and is named in the audit trail.
    #[must_use]
    pub fn actor(&self) -> Actor {
        let permissions = self.permissions.iter().copied();
        Actor::user(&self.name, self.account.clone(), permissions)
    }

    /// For what the service does when somebody asks it to, and is no call of a key page's.
    ///
    /// # Errors
    /// When the person lacks the permission: 403.
    pub fn must_have(&self, permission: Permission) -> Result<(), Answer> {
        if self.permissions.contains(&permission) {
            return Ok(());
        }
        Err(AdminError::from(AdminErrorKind::NotPermitted).into())
    }
}

/// Those who can sign in, by HTTP Basic (RFC 7617): `curl -u ann:open-sesame`. Whoever has another name
/// may do everything in the account that is called so.
#[derive(Debug)]
pub struct People(Vec<Person>);

impl People {
    /// Ann, of this account, and Eve, of the other.
    #[must_use]
    pub fn new(own: &AccountId, other: &AccountId) -> Self {
        let none = Self(Vec::new());
        let ann = none.and("ann", own, &Permission::ALL);
        ann.and("eve", other, &Permission::ALL)
    }

    /// Also this one, in this account, permitted to do this with keys.
    #[must_use]
    pub fn and(mut self, name: &str, account: &AccountId, permissions: &[Permission]) -> Self {
        self.0.push(Person {
            name: name.to_owned(),
            permissions: permissions.to_vec(),
            account: account.clone(),
        });
        self
    }

    pub(crate) fn sign_in(&self, authorization: &str) -> Option<Person> {
        let (scheme, encoded) = authorization.split_once(' ')?;
        let text = String::from_utf8(BASE64_STANDARD.decode(encoded).ok()?).ok()?;
        let (name, password) = text.split_once(':')?;
        if !scheme.eq_ignore_ascii_case("basic") || password != PASSWORD {
            return None;
        }
        let known = self.0.iter().find(|person| person.name == name);
        known.cloned().or_else(|| {
            Some(Person {
                name: name.to_owned(),
                permissions: Permission::ALL.to_vec(),
                account: AccountId::parse(name).ok()?,
            })
        })
    }
}
