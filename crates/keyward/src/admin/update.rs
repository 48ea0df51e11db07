//! Changes, disables and enables keys.

use std::time::SystemTime;

use crate::admin::authority::Permitted;
use crate::admin::list::in_whole_seconds;
use crate::admin::{Actor, AdminError, KeyAdmin, KeyChange, KeyView};
use crate::clock::unix_time;
use crate::ids::KeyId;
use crate::record::{
    Account, AdminErrorKind, AuditAction, DisabledBy, KeyRecord, KeyState, KeyStatus,
};
use crate::scope::Permission;
use crate::store::Commit;

impl KeyAdmin {
    /// Changes a key. The change is in effect when this returns; usage counts are kept.
    ///
    /// # Errors
    /// Returns an error if the actor lacks the permission, the key does not exist, is revoked or
    /// expired, the change would widen it beyond what the actor may grant, the new
    /// [expiry](KeyChange::expires_at) or start is not allowed
    /// ([`Expiry`](AdminErrorKind::Expiry)), or the store fails.
    pub async fn update(
        &self,
        actor: &Actor,
        id: KeyId,
        change: KeyChange,
    ) -> Result<KeyView, AdminError> {
        let action = AuditAction::Update;
        self.change(
            actor,
            Some(Permission::Update),
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
                }
                if let Some(origins) = &change.origins {
                    change
                        .origin_exceptions
                        .check(origins, record.environment, &record.origins)
                        .map_err(AdminError::origins)?;
                    record.origins = origins.clone();
                }
                if let Some(addresses) = &change.addresses {
                    record.addresses = addresses.clone();
                }
                if let Some(limits) = &change.rate_limits {
                    record.rate_limits = limits.clone();
                    if !permitted.may_limit(limits, account, Some(&before.rate_limits)) {
                        return Err(AdminErrorKind::TooWide.into());
                    }
                }
                if let Some(start) = change.not_before {
                    record.not_before = Self::start(start)?;
                }
                if let Some(end) = change.expires_at {
                    record.expires_at = self.changed_expiry(record, end)?;
                }
                if change.not_before.is_some() || change.expires_at.is_some() {
                    Self::check_validity(record)?;
                }
                let may_widen =
                    permitted.may(Permission::Create) && permitted.may_hand_on(&record.scopes);
                let mine = permitted
                    .holder()
                    .is_none_or(|holder| self.is_within(record, holder));
                if !mine || !may_widen && !self.is_within(record, &before) {
                    return Err(AdminErrorKind::TooWide.into());
                }
                if change.scopes.is_some() {
                    self.check_scopes(record)?;
                }
                Ok(())
            },
        )
        .await
    }

    /// Returns the new expiry of a key, if the service allows it.
    fn changed_expiry(
        &self,
        record: &KeyRecord,
        asked: Option<SystemTime>,
    ) -> Result<Option<SystemTime>, AdminErrorKind> {
        let asked = asked.map(in_whole_seconds);
        let is_after = |end: SystemTime| asked.is_none_or(|at| at > end);
        let latest = self.max_lifetime;
        let latest = latest.and_then(|lifetime| record.created_at.checked_add(lifetime));
        let is_past = asked.is_some_and(|at| at <= self.now());
        // A bound that was set later makes no key stay as long as it is.
        if is_past || record.expires_at.is_some_and(is_after) && latest.is_some_and(is_after) {
            return Err(AdminErrorKind::Expiry);
        }
        Ok(asked)
    }

    /// Disables a key until it is enabled again.
    ///
    /// The key records [the class](KeyRecord::disabled_by) and the name of the actor: a key that an
    /// operator disabled can be enabled only by an operator.
    ///
    /// # Errors
    /// Returns an error if the actor lacks the permission, the key does not exist or is revoked, or
    /// the store fails.
    pub async fn disable(&self, actor: &Actor, id: KeyId) -> Result<KeyView, AdminError> {
        self.switch(actor, AuditAction::Disable, id, KeyStatus::Disabled)
            .await
    }

    /// Enables a disabled key.
    ///
    /// ```
    /// # use keyward::{AccountId, Actor, Environment, KeyAdmin, KeyFormat, KeyScheme, MemoryStore, NewKey, Permission};
    /// # use keyward::record::{AdminErrorKind, DisabledBy};
    /// # keyward::testing::block_on(async {
    /// # let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_")?);
    /// # let admin = KeyAdmin::new(&MemoryStore::new(), &scheme);
    /// # let operator = Actor::operator("docs");
    /// # let acme = AccountId::parse("acme")?;
    /// # let created = admin.bootstrap(&operator, NewKey::new(acme.clone(), Environment::LIVE, "first")).await?;
    /// # let id = created.record.id;
    /// let disabled = admin.disable(&operator, id).await?; // it sends spam
    /// assert_eq!(disabled.record.disabled_by, Some(DisabledBy::Operator));
    ///
    /// let owner = Actor::user("ann@acme.example", acme, Permission::ALL);
    /// let error = admin.enable(&owner, id).await.unwrap_err();
    /// assert_eq!(error.kind(), AdminErrorKind::NotPermitted);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// As [`disable`](Self::disable): a revoked key stays revoked. Also returns an error if an
    /// operator disabled it and the actor is not one
    /// ([`NotPermitted`](AdminErrorKind::NotPermitted)), or if the key grants more than the actor
    /// may ([`TooWide`](AdminErrorKind::TooWide)).
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
            Some(Permission::Update),
            action,
            id,
            "",
            |record, account, permitted| {
                if record.state(account, self.now()) == KeyState::Revoked {
                    return Err(AdminErrorKind::Revoked.into());
                }
                let is_disabled = record.status == KeyStatus::Disabled;
                if to == KeyStatus::Disabled {
                    // The first actor to disable it is recorded, unless an operator does so later.
                    if !is_disabled || permitted.is_operator() {
                        record.disabled_by = Some(actor.class());
                        record.disabled_by_name = Some(self.name_of(actor));
                    }
                    record.status = to;
                    return Ok(());
                }
                let by_operator = DisabledBy::is_operator(record.disabled_by);
                if is_disabled && by_operator && !permitted.is_operator() {
                    return Err(AdminErrorKind::NotPermitted.into());
                }
                // Enabling a key grants what it can do.
                let mine = permitted
                    .holder()
                    .is_none_or(|holder| self.is_within(record, holder));
                if !mine || !permitted.may_hand_on(&record.scopes) {
                    return Err(AdminErrorKind::TooWide.into());
                }
                record.status = to;
                (record.disabled_by, record.disabled_by_name) = (None, None);
                Ok(())
            },
        )
        .await
    }

    /// Changes one key, with retries until no concurrent commit conflicts.
    pub(super) async fn change(
        &self,
        actor: &Actor,
        permission: Option<Permission>,
        action: AuditAction,
        id: KeyId,
        reason: &str,
        change: impl Fn(&mut KeyRecord, &Account, &Permitted) -> Result<(), AdminError>,
    ) -> Result<KeyView, AdminError> {
        let call = self.audited(actor, action);
        call.amend(|line| line.key = Some(id));
        let account = call
            .run(|| async {
                let (mut record, account, permitted) =
                    self.find(actor, permission.as_slice(), id).await?;
                call.amend(|line| {
                    line.account = Some(account.id.clone());
                    line.environment = Some(record.environment);
                });
                let before = record.clone();
                change(&mut record, &account, &permitted)?;
                let mut line = call.line();
                reason.clone_into(&mut line.reason);
                line.detail = changed_validity(&before, &record);
                let keys = if record == before {
                    vec![]
                } else {
                    vec![record]
                };
                let audit = vec![line];
                let commit = Commit {
                    keys,
                    audit,
                    ..Commit::default()
                };
                self.store.commit(permitted.bind(&account, commit)).await?;
                Ok(account)
            })
            .await?;
        Ok(self.view(self.stored(id).await?, &account))
    }
}

/// Returns what the audit log says of a change to the start or the expiry of a key.
fn changed_validity(before: &KeyRecord, after: &KeyRecord) -> String {
    let changed = [
        ("not_before", before.not_before, after.not_before),
        ("expires_at", before.expires_at, after.expires_at),
    ];
    let changed = changed.into_iter().filter(|(_, old, new)| old != new);
    let changed = changed.map(|(what, _, new)| match new {
        Some(at) => format!("{what}={}", unix_time(at).as_secs()),
        None => format!("{what}=none"),
    });
    changed.collect::<Vec<_>>().join(" ")
}
