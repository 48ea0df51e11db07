//! Who may do what.

use crate::admin::actor::Authority;
use crate::{
    Account, AccountId, Actor, AdminError, AdminErrorKind, KeyAdmin, KeyId, KeyKind, KeyRecord,
    KeyState, Permission,
};

impl KeyAdmin {
    /// The key, its account, and the record of the key that acts, if one does.
    pub(super) async fn find(
        &self,
        actor: &Actor,
        permission: Permission,
        id: KeyId,
    ) -> Result<(KeyRecord, Account, Option<KeyRecord>), AdminError> {
        // Permission first: who may do nothing learns nothing.
        if !self.permits(actor, permission).await? {
            return Err(AdminErrorKind::NotPermitted.into());
        }
        let record = self.store.key(id).await?;
        let record = record.filter(|record| actor.acts_in(&record.account));
        let record = record.ok_or(AdminErrorKind::UnknownKey)?;
        let (account, holder) = self.permit_in(actor, permission, &record.account).await?;
        Ok((record, account, holder))
    }

    pub(super) async fn permit_in(
        &self,
        actor: &Actor,
        permission: Permission,
        account: &AccountId,
    ) -> Result<(Account, Option<KeyRecord>), AdminError> {
        if !self.permits(actor, permission).await? {
            return Err(AdminErrorKind::NotPermitted.into());
        }
        let account = self.account_of(actor, account).await?;
        Ok((account, self.holder(actor).await?))
    }

    pub(super) async fn permits(
        &self,
        actor: &Actor,
        permission: Permission,
    ) -> Result<bool, AdminError> {
        Ok(match &actor.authority {
            Authority::Operator => true,
            Authority::User(_, permissions) => permissions.contains(&permission),
            Authority::Key(..) => {
                let holder = self.holder(actor).await?;
                let scope = permission.scope();
                holder
                    .zip(scope)
                    .is_some_and(|(holder, scope)| holder.scopes.allow(&scope))
            }
        })
    }

    /// The key that acts, as it is now: it may have died since it passed the gate.
    pub(super) async fn holder(&self, actor: &Actor) -> Result<Option<KeyRecord>, AdminError> {
        let Authority::Key(account, id) = &actor.authority else {
            return Ok(None);
        };
        let account = self.store.account(account.clone()).await?;
        let record = self.store.key(*id).await?;
        let alive = account.zip(record).filter(|(account, record)| {
            record.kind == KeyKind::Secret
                && account.status == crate::AccountStatus::Active
                && account.api_access
                && record.state(account, self.now()) == KeyState::Active
        });
        match alive {
            Some((_, record)) => Ok(Some(record)),
            None => Err(AdminErrorKind::NotPermitted.into()),
        }
    }

    pub(super) async fn account_of(
        &self,
        actor: &Actor,
        id: &AccountId,
    ) -> Result<Account, AdminError> {
        if !actor.acts_in(id) {
            return Err(AdminErrorKind::UnknownAccount.into());
        }
        let account = self.store.account(id.clone()).await?;
        account.ok_or(AdminErrorKind::UnknownAccount.into())
    }
}

pub(super) fn operator_only(actor: &Actor) -> Result<(), AdminError> {
    match actor.authority {
        Authority::Operator => Ok(()),
        Authority::User(..) | Authority::Key(..) => Err(AdminErrorKind::NotPermitted.into()),
    }
}

/// A key that acts must still be as it was when the change is written: it may be revoked meanwhile.
pub(super) fn revision_of(holder: Option<&KeyRecord>) -> Vec<(KeyId, u64)> {
    holder
        .map(|holder| (holder.id, holder.revision))
        .into_iter()
        .collect()
}
