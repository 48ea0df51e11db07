//! Changes keys, and switches them off and on.

use crate::admin::admin::ATTEMPTS;
use crate::admin::authority::Permitted;
use crate::{
    Account, Actor, AdminError, AdminErrorKind, AuditAction, Commit, KeyAdmin, KeyChange, KeyId,
    KeyRecord, KeyState, KeyStatus, KeyView, Permission,
};

impl KeyAdmin {
    /// Changes a key. In force when it returns; what was counted of the key stays.
    ///
    /// # Errors
    /// When the actor may not, there is no such key, it is revoked or expired, the change would make
    /// it wider than the actor may, or the store fails.
    pub async fn update(
        &self,
        actor: &Actor,
        id: KeyId,
        change: KeyChange,
    ) -> Result<KeyView, AdminError> {
        let action = AuditAction::Update;
        self.change(
            actor,
            Permission::Update,
            action,
            id,
            "",
            |record, account, permitted| {
                self.check_alive(record, account)?;
                let before = record.clone();
                if let Some(name) = &change.name {
                    self.check_name(name)?;
                    record.name.clone_from(name);
                }
                if let Some(metadata) = &change.metadata {
                    self.check_metadata(metadata)?;
                    record.metadata = metadata.clone();
                }
                if let Some(scopes) = &change.scopes {
                    record.scopes = scopes.clone();
                    self.check_scopes(record)?;
                }
                if let Some(origins) = &change.origins {
                    change
                        .origin_exceptions
                        .check(origins, record.environment, &record.origins)
                        .map_err(AdminError::origins)?;
                    record.origins = origins.clone();
                }
                if let Some(limits) = &change.rate_limits {
                    record.rate_limits = limits.clone();
                    if !permitted.may_limit(limits, account, Some(&before.rate_limits)) {
                        return Err(AdminErrorKind::TooWide.into());
                    }
                }
                let narrower = self.is_within(record, &before);
                let mine = permitted
                    .holder()
                    .is_none_or(|holder| self.is_within(record, holder));
                if mine && (narrower || permitted.may_create) {
                    Ok(())
                } else {
                    Err(AdminErrorKind::TooWide.into())
                }
            },
        )
        .await
    }

    /// Switches a key off, until it is switched on again.
    ///
    /// # Errors
    /// When the actor may not, there is no such key, it is revoked, or the store fails.
    pub async fn disable(&self, actor: &Actor, id: KeyId) -> Result<KeyView, AdminError> {
        self.switch(actor, AuditAction::Disable, id, KeyStatus::Disabled)
            .await
    }

    /// Switches a key on again.
    ///
    /// # Errors
    /// As [`disable`](Self::disable): a revoked key stays revoked.
    pub async fn enable(&self, actor: &Actor, id: KeyId) -> Result<KeyView, AdminError> {
        self.switch(actor, AuditAction::Enable, id, KeyStatus::Active)
            .await
    }

    async fn switch(
        &self,
        actor: &Actor,
        action: AuditAction,
        id: KeyId,
        to: KeyStatus,
    ) -> Result<KeyView, AdminError> {
        self.change(
            actor,
            Permission::Update,
            action,
            id,
            "",
            |record, account, permitted| {
                if record.state(account, self.now()) == KeyState::Revoked {
                    return Err(AdminErrorKind::Revoked.into());
                }
                // To switch a key on is to hand on what it can do.
                let mine = permitted
                    .holder()
                    .is_none_or(|holder| self.is_within(record, holder));
                if to == KeyStatus::Active && !mine {
                    return Err(AdminErrorKind::TooWide.into());
                }
                record.status = to;
                Ok(())
            },
        )
        .await
    }

    /// Changes one key, as often as it takes to meet nobody else.
    pub(super) async fn change(
        &self,
        actor: &Actor,
        permission: Permission,
        action: AuditAction,
        id: KeyId,
        reason: &str,
        change: impl Fn(&mut KeyRecord, &Account, &Permitted) -> Result<(), AdminError>,
    ) -> Result<KeyView, AdminError> {
        let mut line = self.line(actor, action);
        line.key = Some(id);
        for _ in 0..ATTEMPTS {
            let found = self.find(actor, &[permission], id).await;
            let (mut record, account, permitted) = self.or_note(line.clone(), found).await?;
            line.account = Some(account.id.clone());
            let before = record.clone();
            let changed = change(&mut record, &account, &permitted);
            self.or_note(line.clone(), changed).await?;
            reason.clone_into(&mut line.reason);
            let keys = if record == before {
                vec![]
            } else {
                vec![record]
            };
            let audit = vec![line.clone()];
            let commit = Commit {
                keys,
                audit,
                ..Commit::default()
            };
            if self.try_commit(permitted.bind(&account, commit)).await? {
                return Ok(self.view(self.stored(id).await?, &account));
            }
        }
        self.give_up(line).await
    }
}
