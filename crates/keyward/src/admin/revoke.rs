//! Revokes keys.

use crate::admin::{Actor, AdminError, KeyAdmin, KeyView};
use crate::environment::Environment;
use crate::ids::{AccountId, KeyId};
use crate::record::{AdminErrorKind, AuditAction, KeyRecord, KeyStatus};
use crate::scope::Permission;
use crate::store::Commit;

impl KeyAdmin {
    /// Revokes a key for good. This process refuses it from the next request on.
    ///
    /// A response in progress, such as server-sent events, a WebSocket or a download, continues
    /// unless its handler wraps it in the adapter's `WhileAlive`, which ends it within 250 ms. A
    /// background job can call [`Gate::is_alive`](crate::gate::Gate::is_alive).
    ///
    /// Revoking a revoked key changes nothing, not even the reason.
    ///
    /// A secret key may revoke itself without any permission: the request that presents it is the
    /// proof. A publishable key may not, as every visitor of the page has it.
    ///
    /// ```
    /// # let world = keyward::testing::World::new();
    /// # let (gate, admin) = (world.gate(), world.admin());
    /// # let principal = world.principal(&world.key("kyc"));
    /// # keyward::testing::block_on(async {
    /// use keyward::Actor;
    ///
    /// // In a handler, such as `DELETE /key`:
    /// admin.revoke(&Actor::key(&principal), principal.key_id(), "laptop stolen").await?;
    /// assert!(!gate.is_alive(&principal));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// Returns an error if the actor lacks the permission, the key does not exist, the reason is
    /// longer than 500 characters or contains a key, or the store fails.
    pub async fn revoke(
        &self,
        actor: &Actor,
        id: KeyId,
        reason: &str,
    ) -> Result<KeyView, AdminError> {
        let action = AuditAction::Revoke;
        // Whoever has the whole of a secret key may end it.
        let needed = Some(Permission::Revoke).filter(|_| actor.key_id() != Some(id));
        self.change(actor, needed, action, id, reason, |record, _, _| {
            self.check_reason(reason)?;
            if record.status != KeyStatus::Revoked {
                self.mark_revoked(record, reason);
            }
            Ok(())
        })
        .await
    }

    /// Turns a record into that of a revoked key.
    pub(super) fn mark_revoked(&self, record: &mut KeyRecord, reason: &str) {
        record.status = KeyStatus::Revoked;
        (record.disabled_by, record.disabled_by_name) = (None, None);
        record.revoked_at = Some(self.now());
        reason.clone_into(&mut record.revoked_for);
    }

    /// Revokes all keys of an account, or of one of its environments, in one step.
    ///
    /// Responses in progress continue or end as with [`revoke`](Self::revoke). A key that is
    /// created concurrently is either revoked too or was created afterwards.
    ///
    /// ```
    /// # use keyward::{AccountId, Actor, Environment, KeyAdmin, KeyFormat, KeyScheme, MemoryStore, NewKey};
    /// # use keyward::record::KeyState;
    /// # keyward::testing::block_on(async {
    /// # let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_")?);
    /// # let admin = KeyAdmin::new(&MemoryStore::new(), &scheme);
    /// # let operator = Actor::operator("docs");
    /// # let acme = AccountId::parse("acme")?;
    /// # let created = admin.bootstrap(&operator, NewKey::new(acme.clone(), Environment::LIVE, "first")).await?;
    /// # let id = created.record.id;
    /// admin.revoke_all(&operator, &acme, Some(Environment::LIVE), "laptop stolen").await?;
    /// assert_eq!(admin.key(&operator, id).await?.state, KeyState::Revoked);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// As [`revoke`](Self::revoke).
    pub async fn revoke_all(
        &self,
        actor: &Actor,
        account: &AccountId,
        environment: Option<Environment>,
        reason: &str,
    ) -> Result<(), AdminError> {
        let call = self.audited(actor, AuditAction::RevokeAll);
        if actor.acts_in(account) {
            call.amend(|line| {
                line.account = Some(account.clone());
                line.environment = line.environment.or(environment);
            });
        }
        call.run(|| async {
            self.check_reason(reason)?;
            let (before, permitted) = self.permit_in(actor, Permission::Revoke, account).await?;
            // An acting key is limited to its own environment.
            let own = permitted.environment();
            if own.is_some_and(|own| environment != Some(own)) {
                return Err(AdminErrorKind::NotPermitted.into());
            }
            let mut line = call.line();
            reason.clone_into(&mut line.reason);
            line.detail = environment.map_or("environment=*".to_owned(), |own| {
                format!("environment={own}")
            });
            let mut account = before.clone();
            let counter = match environment {
                None => &mut account.revoked_all,
                Some(environment) => account.revoked.entry(environment).or_default(),
            };
            *counter = counter.saturating_add(1);
            let commit = Commit {
                accounts: vec![account],
                audit: vec![line],
                ..Commit::default()
            };
            Ok(self.store.commit(permitted.bind(&before, commit)).await?)
        })
        .await
    }
}
