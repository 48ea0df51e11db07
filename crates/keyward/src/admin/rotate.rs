//! Rotates keys.

use crate::admin::list::{in_next_whole_seconds, in_whole_seconds};
use crate::admin::rules::earlier;
use crate::admin::{Actor, AdminError, CreatedKey, Grace, KeyAdmin};
use crate::ids::KeyId;
use crate::record::{AdminErrorKind, AuditAction};
use crate::scope::Permission;
use crate::store::Commit;

impl KeyAdmin {
    /// Rotates a key: creates a successor with the same grants and retires the old one.
    ///
    /// The old key stops working at once or after a grace period. The lifetime of the successor is
    /// that of the old key, counted from now. Of two concurrent rotations one wins; a key that has
    /// a successor cannot be rotated again. The successor of a disabled key is disabled too, by the
    /// same class of actor.
    ///
    /// ```
    /// # use keyward::{
    /// #     AccountId, Actor, Environment, Grace, KeyAdmin, KeyFormat, KeyScheme, MemoryStore, NewKey, Store,
    /// # };
    /// # use keyward::record::KeyState;
    /// # keyward::testing::block_on(async {
    /// # let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_")?);
    /// # let admin = KeyAdmin::new(&MemoryStore::new(), &scheme);
    /// # let operator = Actor::operator("docs");
    /// # let acme = AccountId::parse("acme")?;
    /// # let created = admin.bootstrap(&operator, NewKey::new(acme.clone(), Environment::LIVE, "first")).await?;
    /// # let id = created.record.id;
    /// # use std::time::Duration;
    /// let day = Grace::For(Duration::from_secs(24 * 60 * 60));
    /// let new = admin.rotate(&operator, id, day).await?;
    /// assert_eq!(new.record.predecessor, Some(id));
    ///
    /// let old = admin.key(&operator, id).await?;
    /// assert_eq!(old.state, KeyState::Active); // until tomorrow
    /// assert!(old.record.expires_at.is_some());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// Returns an error if the actor lacks the permission to create, to revoke, or one that the key
    /// grants ([`TooWide`](AdminErrorKind::TooWide)); if the key does not exist, or is revoked,
    /// expired or already has a successor ([`Conflict`](AdminErrorKind::Conflict)); if the grace
    /// period is too long to be represented, the account exceeds its limit of keys, or the store
    /// fails.
    pub async fn rotate(
        &self,
        actor: &Actor,
        id: KeyId,
        grace: Grace,
    ) -> Result<CreatedKey, AdminError> {
        let call = self.audited(actor, AuditAction::Rotate);
        call.amend(|line| line.key = Some(id));
        let (key, id) = call
            .run(|| async {
                let permissions = [Permission::Create, Permission::Revoke];
                let (mut old, account, permitted) = self.find(actor, &permissions, id).await?;
                self.check_alive(&old, &account)?;
                if old.successor.is_some() {
                    return Err(AdminErrorKind::Conflict.into());
                }
                let holder = permitted.holder();
                // An actor that rotates a key gets to hold its successor.
                if !permitted.may_hand_on(&old.scopes)
                    || holder.is_some_and(|holder| !self.is_within(&old, holder))
                {
                    return Err(AdminErrorKind::TooWide.into());
                }
                let now = self.now();
                let key = self.scheme.format_of(old.kind).generate(old.environment)?;
                let (digest, hint) = (self.scheme.peppers.digest(&key), key.hint().clone());
                let mut new = old.succeeded_by(KeyId::random()?, digest, hint, now);
                new.epoch = account.epoch(old.environment);
                // The same lifetime as the old key, within the limits of the service and of an
                // acting key.
                let lifetime = old.expires_at.map(|at| at.duration_since(old.created_at));
                let end =
                    lifetime.and_then(|lifetime| now.checked_add(lifetime.unwrap_or_default()));
                let bound = holder.and_then(|holder| holder.expires_at);
                let longest = self.longest(old.expires_at.is_some(), now);
                new.expires_at = earlier(earlier(end, longest), bound).map(in_whole_seconds);
                new.created_by = Some(self.name_of(actor));
                Self::check_validity(&new)?;
                self.check_scopes(&new)?;
                old.successor = Some(new.id);
                let works_beside = match grace {
                    Grace::None => {
                        self.mark_revoked(&mut old, "rotated");
                        false
                    }
                    Grace::For(grace) => {
                        // Rounded up: a grace period is never shorter than promised.
                        let end = now.checked_add(grace).and_then(in_next_whole_seconds);
                        let end = end.ok_or(AdminErrorKind::Expiry)?;
                        old.expires_at = earlier(old.expires_at, Some(end));
                        true
                    }
                };
                let id = new.id;
                let mut line = call.line();
                line.account = Some(account.id.clone());
                line.environment = Some(old.environment);
                line.detail = format!("successor={id}");
                let commit = Commit {
                    keys: vec![old, new],
                    // The old key may work beside the new one for a while, once.
                    active_keys: works_beside.then(|| self.active_keys(&account, 1)),
                    audit: vec![line],
                    ..Commit::default()
                };
                self.store.commit(permitted.bind(&account, commit)).await?;
                Ok((key, id))
            })
            .await?;
        Ok(CreatedKey {
            key: Some(key),
            record: self.stored(id).await?,
        })
    }
}
