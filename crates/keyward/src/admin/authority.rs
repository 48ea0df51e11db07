//! Who may do what.

use crate::admin::actor::Authority;
use crate::admin::{Actor, AdminError, KeyAdmin};
use crate::environment::Environment;
use crate::ids::{AccountId, KeyId};
use crate::key::KeyKind;
use crate::limit::RateLimits;
use crate::record::{Account, AccountStatus, AdminErrorKind, KeyRecord, KeyState};
use crate::scope::{Permission, Scopes};
use crate::store::Commit;

/// What an actor may do, as of when that was read. See [`KeyAdmin::permitted`].
#[derive(Debug)]
pub struct Permitted {
    /// The key that acts, if one does, and its account.
    holder: Option<(KeyRecord, Account)>,
    permissions: Vec<Permission>,
    is_operator: bool,
}

impl Permitted {
    /// Whether the actor is an operator, who may do everything.
    #[must_use]
    pub fn is_operator(&self) -> bool {
        self.is_operator
    }

    /// The key that acts, if one does: what it makes or opens must stay within it.
    pub(super) fn holder(&self) -> Option<&KeyRecord> {
        self.holder.as_ref().map(|(record, _)| record)
    }

    /// The environment to which a key that acts keeps.
    pub(super) fn environment(&self) -> Option<Environment> {
        self.holder().map(|holder| holder.environment)
    }

    /// Returns whether the actor may see resources of this environment: a key sees its own only.
    #[must_use]
    pub fn sees(&self, environment: Environment) -> bool {
        self.environment().is_none_or(|own| own == environment)
    }

    /// Which environment is read where this one, or all, are asked for; of one that the actor does not
    /// see there is nothing to read.
    #[expect(
        clippy::option_option,
        reason = "`None` is nothing, `Some(None)` all environments"
    )]
    pub(super) fn seen(&self, asked: Option<Environment>) -> Option<Option<Environment>> {
        match (self.environment(), asked) {
            (Some(own), Some(asked)) if own != asked => None,
            (own, asked) => Some(own.or(asked)),
        }
    }

    /// Whether the actor may also do this.
    pub(super) fn may(&self, permission: Permission) -> bool {
        self.permissions.contains(&permission)
    }

    /// Whether the actor has every permission that a key with these scopes has: only then may it make,
    /// widen, rotate or enable one.
    pub(super) fn may_hand_on(&self, scopes: &Scopes) -> bool {
        Permission::given_by(scopes).all(|given| self.may(given))
    }

    /// Whether the actor may give a key these limits, `before` being those it had.
    ///
    /// They take the place of the plan's, so they must be covered by it, or by limits of a key's own. What
    /// the service itself says nobody knows here: where there is nothing else, an operator must.
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

    /// Makes a commit fail with a conflict once this permission is no longer certain.
    ///
    /// The account may be suspended and the key that acts may be revoked meanwhile. The commit then
    /// requires the revisions on which the permission rests. A row that it writes has its own revision.
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

impl KeyAdmin {
    /// The key and its account, for an actor that has the permissions there.
    ///
    /// A key that acts sees only keys of its own environment.
    pub(super) async fn find(
        &self,
        actor: &Actor,
        permissions: &[Permission],
        id: KeyId,
    ) -> Result<(KeyRecord, Account, Permitted), AdminError> {
        // Permission first: who may do nothing learns nothing.
        let permitted = self.permitted(actor, permissions).await?;
        let record = self.store.key(id).await?;
        let record = record
            .filter(|record| permitted.sees(record.environment) && actor.acts_in(&record.account));
        let record = record.ok_or(AdminErrorKind::UnknownKey)?;
        let account = self.account_of(actor, &record.account).await?;
        Ok((record, account, permitted))
    }

    /// Returns the account and what the actor may do in it, if that includes the permission.
    ///
    /// See [`audited`](Self::audited) for an example.
    ///
    /// # Errors
    /// As [`permitted`](Self::permitted) and [`account_of`](Self::account_of).
    pub async fn permit_in(
        &self,
        actor: &Actor,
        permission: Permission,
        account: &AccountId,
    ) -> Result<(Account, Permitted), AdminError> {
        let permitted = self.permitted(actor, &[permission]).await?;
        Ok((self.account_of(actor, account).await?, permitted))
    }

    /// Returns what the actor may do, if that includes all of these permissions.
    ///
    /// Check this before anything is read for the actor: an actor without the permission learns nothing.
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
    /// [`NotPermitted`](AdminErrorKind::NotPermitted) when a permission is missing or the key that acts
    /// is no longer active; also when the store fails.
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

    /// The key that acts, as it is now: it may have died since it passed the gate.
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

    /// Whether an actor has any permission, in whatever state a key that acts is by now.
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

    /// Returns the account, if the actor acts in it. Permissions are not checked.
    ///
    /// # Errors
    /// [`UnknownAccount`](AdminErrorKind::UnknownAccount) when there is no such account or it is not the
    /// actor's; also when the store fails.
    pub async fn account_of(&self, actor: &Actor, id: &AccountId) -> Result<Account, AdminError> {
        if !actor.acts_in(id) {
            return Err(AdminErrorKind::UnknownAccount.into());
        }
        let account = self.store.account(id.clone()).await?;
        account.ok_or(AdminErrorKind::UnknownAccount.into())
    }
}
