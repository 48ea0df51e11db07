//! Decides what an actor may do.

use crate::admin::actor::Authority;
use crate::admin::{Actor, AdminError, KeyAdmin};
use crate::environment::Environment;
use crate::ids::{AccountId, KeyId};
use crate::key::KeyKind;
use crate::limit::RateLimits;
use crate::record::{Account, AccountStatus, AdminErrorKind, KeyRecord, KeyState};
use crate::scope::{Permission, Scopes};
use crate::store::Commit;

/// The permissions of an actor at the time they were read. See [`KeyAdmin::permitted`].
#[derive(Debug)]
pub struct Permitted {
    /// The acting key and its account, if the actor is a key.
    holder: Option<(KeyRecord, Account)>,
    permissions: Vec<Permission>,
    is_operator: bool,
}

impl Permitted {
    /// Returns whether the actor is an operator, who may do everything.
    #[must_use]
    pub fn is_operator(&self) -> bool {
        self.is_operator
    }

    /// Returns the acting key, if there is one. What it creates or widens must stay within its own
    /// grants.
    pub(super) fn holder(&self) -> Option<&KeyRecord> {
        self.holder.as_ref().map(|(record, _)| record)
    }

    /// Returns the environment to which an acting key is limited.
    pub(super) fn environment(&self) -> Option<Environment> {
        self.holder().map(|holder| holder.environment)
    }

    /// Returns whether the actor may see resources of this environment. A key sees only its own.
    #[must_use]
    pub fn sees(&self, environment: Environment) -> bool {
        self.environment().is_none_or(|own| own == environment)
    }

    /// Narrows a requested environment (`None` for all) to what the actor may see.
    ///
    /// Returns `None` if the actor may not see the requested environment.
    #[expect(
        clippy::option_option,
        reason = "`None` means nothing is visible, `Some(None)` means all environments"
    )]
    pub(super) fn seen(&self, asked: Option<Environment>) -> Option<Option<Environment>> {
        match (self.environment(), asked) {
            (Some(own), Some(asked)) if own != asked => None,
            (own, asked) => Some(own.or(asked)),
        }
    }

    /// Returns whether the actor also has this permission.
    pub(super) fn may(&self, permission: Permission) -> bool {
        self.permissions.contains(&permission)
    }

    /// Returns whether the actor has every permission that these scopes grant.
    ///
    /// An actor needs them to create, widen, rotate or enable a key with such scopes.
    pub(super) fn may_hand_on(&self, scopes: &Scopes) -> bool {
        Permission::given_by(scopes).all(|given| self.may(given))
    }

    /// Returns whether the actor may give a key these limits; `before` are its present limits.
    ///
    /// A key's limits replace those of the plan, so they must be covered by the plan, by the
    /// present limits or by those of an acting key. The service's default limits are not known
    /// here: if there are no limits to compare with, only an operator may set them.
    pub(super) fn may_limit(
        &self,
        limits: &RateLimits,
        account: &Account,
        before: Option<&RateLimits>,
    ) -> bool {
        let holder = self.holder().map(|holder| &holder.rate_limits);
        let bounds = [Some(&account.rate_limits), holder, before];
        let covers = |bound: &RateLimits| !bound.is_empty() && bound.covers(limits);
        self.is_operator || limits.is_empty() || bounds.into_iter().flatten().any(covers)
    }

    /// Makes a commit fail with a conflict if this permission may have changed meanwhile.
    ///
    /// The account could be suspended or the acting key revoked before the commit. The commit
    /// therefore requires that their revisions are unchanged. A row that it writes already carries
    /// its own revision.
    #[must_use]
    pub fn bind(&self, account: &Account, commit: Commit) -> Commit {
        let written = |id: &AccountId| commit.accounts.iter().any(|account| account.id == *id);
        let own = self.holder.as_ref().map(|(_, own)| own);
        let mut accounts = vec![account];
        accounts.extend(own.filter(|own| own.id != account.id));
        let accounts = accounts.into_iter().filter(|account| !written(&account.id));
        let holder = self
            .holder()
            .filter(|holder| commit.keys.iter().all(|key| key.id != holder.id));
        Commit {
            unchanged_accounts: accounts
                .map(|account| (account.id.clone(), account.revision))
                .collect(),
            unchanged_keys: holder
                .map(|holder| (holder.id, holder.revision))
                .into_iter()
                .collect(),
            ..commit
        }
    }
}

/// The keys that an actor may list. See [`KeyAdmin::reach`].
pub(super) struct Reach {
    /// The account of the keys; `None` for all accounts, if the actor is an operator.
    pub(super) account: Option<Account>,
    pub(super) permitted: Permitted,
}

impl KeyAdmin {
    /// Returns the key and its account, if the actor has the permissions there.
    ///
    /// An acting key sees only keys of its own environment.
    pub(super) async fn find(
        &self,
        actor: &Actor,
        permissions: &[Permission],
        id: KeyId,
    ) -> Result<(KeyRecord, Account, Permitted), AdminError> {
        // Check permissions first, so that an actor without them learns nothing about the key.
        let permitted = self.permitted(actor, permissions).await?;
        let record = self.store.key(id).await?;
        let record = record
            .filter(|record| permitted.sees(record.environment) && actor.acts_in(&record.account));
        let record = record.ok_or(AdminErrorKind::UnknownKey)?;
        let account = self.account_of(actor, &record.account).await?;
        Ok((record, account, permitted))
    }

    /// Returns the account and the actor's permissions in it, if they include this one.
    ///
    /// See [`audited`](Self::audited) for an example.
    ///
    /// # Errors
    /// Returns the errors of [`permitted`](Self::permitted) and [`account_of`](Self::account_of).
    pub async fn permit_in(
        &self,
        actor: &Actor,
        permission: Permission,
        account: &AccountId,
    ) -> Result<(Account, Permitted), AdminError> {
        let permitted = self.permitted(actor, &[permission]).await?;
        Ok((self.account_of(actor, account).await?, permitted))
    }

    /// Returns which keys the actor may list, if it has this permission.
    ///
    /// Without an account, an operator reaches the keys of all accounts, and any other actor those
    /// of its own.
    pub(super) async fn reach(
        &self,
        actor: &Actor,
        permission: Permission,
        account: Option<&AccountId>,
    ) -> Result<Reach, AdminError> {
        let permitted = self.permitted(actor, &[permission]).await?;
        let account = match account.or(actor.account()) {
            Some(account) => Some(self.account_of(actor, account).await?),
            None => None,
        };
        Ok(Reach { account, permitted })
    }

    /// Returns the actor's permissions, if they include all of these.
    ///
    /// Call this before reading anything for the actor, so that an actor without permission learns
    /// nothing.
    ///
    /// ```
    /// # use keyward::{AccountId, Actor, Environment, KeyAdmin, KeyFormat, KeyScheme, MemoryStore, Permission};
    /// # keyward::testing::block_on(async {
    /// # let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_")?);
    /// # let admin = KeyAdmin::new(&MemoryStore::new(), &scheme);
    /// let user = Actor::user("ann@acme.example", AccountId::parse("acme")?, [Permission::Read]);
    /// let permitted = admin.permitted(&user, &[Permission::Read]).await?;
    /// assert!(permitted.sees(Environment::LIVE) && !permitted.is_operator());
    /// assert!(admin.permitted(&user, &[Permission::Revoke]).await.is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// Returns [`NotPermitted`](AdminErrorKind::NotPermitted) if a permission is missing or the
    /// acting key is no longer active. Also returns an error if the store fails.
    pub async fn permitted(
        &self,
        actor: &Actor,
        permissions: &[Permission],
    ) -> Result<Permitted, AdminError> {
        let holder = self.holder(actor).await?;
        let own = match &actor.authority {
            Authority::Operator => Permission::ALL.to_vec(),
            Authority::User(_, own) => own.clone(),
            Authority::Key(..) => {
                let holder = holder.iter();
                holder
                    .flat_map(|(record, _)| Permission::given_by(&record.scopes))
                    .collect()
            }
        };
        let permitted = Permitted {
            holder,
            permissions: own,
            is_operator: actor.must_be_operator().is_ok(),
        };
        if permissions.iter().all(|wanted| permitted.may(*wanted)) {
            Ok(permitted)
        } else {
            Err(AdminErrorKind::NotPermitted.into())
        }
    }

    /// Reads the acting key again: it may have been revoked since it passed the gate.
    async fn holder(&self, actor: &Actor) -> Result<Option<(KeyRecord, Account)>, AdminError> {
        let Authority::Key(account, _, id) = &actor.authority else {
            return Ok(None);
        };
        let account = self.store.account(account.clone()).await?;
        let record = self.store.key(*id).await?;
        let alive = record.zip(account).filter(|(record, account)| {
            record.kind == KeyKind::Secret
                && account.status == AccountStatus::Active
                && account.api_access
                && record.state(account, self.now()) == KeyState::Active
        });
        match alive {
            None => Err(AdminErrorKind::NotPermitted.into()),
            alive => Ok(alive),
        }
    }

    /// Returns whether the actor has any permission, even if its key has since been revoked.
    pub(super) async fn may_do_something(&self, actor: &Actor) -> bool {
        match &actor.authority {
            Authority::Operator => true,
            Authority::User(_, permissions) => !permissions.is_empty(),
            Authority::Key(_, _, id) => {
                let record = self.store.key(*id).await.ok().flatten();
                record.is_some_and(|record| {
                    record.kind == KeyKind::Secret
                        && Permission::given_by(&record.scopes).next().is_some()
                })
            }
        }
    }

    /// Returns the account, if the actor may act in it. Permissions are not checked.
    ///
    /// # Errors
    /// Returns [`UnknownAccount`](AdminErrorKind::UnknownAccount) if the account does not exist or
    /// is not the actor's. Also returns an error if the store fails.
    pub async fn account_of(&self, actor: &Actor, id: &AccountId) -> Result<Account, AdminError> {
        if !actor.acts_in(id) {
            return Err(AdminErrorKind::UnknownAccount.into());
        }
        let account = self.store.account(id.clone()).await?;
        account.ok_or(AdminErrorKind::UnknownAccount.into())
    }
}
