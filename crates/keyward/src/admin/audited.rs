//! Writes the audit log line of a call and retries its commit.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::admin::{Actor, AdminError, KeyAdmin};
use crate::record::{AuditAction, AuditEntry};

/// The maximum number of attempts if other commits conflict with a change.
const ATTEMPTS: usize = 64;

impl KeyAdmin {
    /// Begins a call that writes a line to the audit log.
    ///
    /// [`KeyAdmin`] makes its own changes this way; admins of other resources can do the same. The
    /// line names the actor, the action, and the account and environment in which the actor acts.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use keyward::{AccountId, Actor, KeyAdmin, KeyFormat, KeyScheme, MemoryStore, Permission, Store};
    /// # use keyward::record::{AdminErrorKind, AuditAction};
    /// # use keyward::store::Commit;
    /// # keyward::testing::block_on(async {
    /// # let store = Arc::new(MemoryStore::new());
    /// # let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_")?);
    /// # let admin = KeyAdmin::new(&store, &scheme);
    /// # let operator = Actor::operator("docs");
    /// # let acme = AccountId::parse("acme")?;
    /// # admin.open_account(&operator, &acme).await?;
    /// // Resets the account's limit to the default.
    /// let call = admin.audited(&operator, AuditAction::UpdateAccount);
    /// call.amend(|line| line.account = Some(acme.clone()));
    /// call.run(|| async {
    ///     let (before, permitted) = admin.permit_in(&operator, Permission::Update, &acme).await?;
    ///     let mut account = before.clone();
    ///     account.max_active_keys = None;
    ///     let commit = Commit { accounts: vec![account], audit: vec![call.line()], ..Commit::default() };
    ///     Ok(store.commit(permitted.bind(&before, commit)).await?)
    /// })
    /// .await?;
    ///
    /// // A refusal is recorded too.
    /// let user = Actor::user("ann", acme.clone(), [Permission::Read]);
    /// let call = admin.audited(&user, AuditAction::UpdateAccount);
    /// let permitted = admin.permit_in(&user, Permission::Update, &acme).await;
    /// assert!(call.check(permitted).await.is_err());
    /// let lines = admin.audit(&operator, Some(&acme), None).await?.entries;
    /// assert_eq!(lines[0].refused, Some(AdminErrorKind::NotPermitted));
    /// assert_eq!(lines[1].action, AuditAction::UpdateAccount);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub fn audited<'a>(&'a self, actor: &'a Actor, action: AuditAction) -> AuditedCall<'a> {
        AuditedCall {
            admin: self,
            actor,
            line: Mutex::new(self.line(actor, action)),
        }
    }
}

/// A call that writes a line to the audit log. See [`KeyAdmin::audited`].
#[must_use]
pub struct AuditedCall<'a> {
    admin: &'a KeyAdmin,
    actor: &'a Actor,
    line: Mutex<AuditEntry>,
}

impl AuditedCall<'_> {
    /// Changes the line, whether the call succeeds or is refused.
    ///
    /// What is true only on success, such as the id of a created key, belongs in the copy that
    /// [`line`](Self::line) returns.
    pub fn amend(&self, change: impl FnOnce(&mut AuditEntry)) {
        change(&mut self.locked());
    }

    /// Returns the line of a successful call, to be committed together with the change.
    #[must_use]
    pub fn line(&self) -> AuditEntry {
        self.locked().clone()
    }

    /// Runs an attempt until it succeeds or fails for good, at most 64 times.
    ///
    /// An attempt reads, decides and commits. It is repeated if its commit fails with
    /// [`StoreErrorKind::Conflict`](crate::store::StoreErrorKind::Conflict), because what it read
    /// has been changed by another commit.
    ///
    /// # Errors
    /// Returns the error of the last attempt, which is also written to the audit log, as in
    /// [`check`](Self::check).
    pub async fn run<T, F>(&self, mut attempt: impl FnMut() -> F) -> Result<T, AdminError>
    where
        F: Future<Output = Result<T, AdminError>>,
    {
        let mut outcome = attempt().await;
        for _ in 1..ATTEMPTS {
            match outcome {
                Err(error) if error.is_conflicting_commit() => outcome = attempt().await,
                outcome => return self.check(outcome).await,
            }
        }
        self.check(outcome).await
    }

    /// Returns the outcome, after writing a refusal to the audit log.
    ///
    /// Refusals that happen [too often](KeyAdmin::unlisted_refusals) are not written.
    ///
    /// # Errors
    /// Returns the error of the outcome.
    pub async fn check<T>(&self, outcome: Result<T, AdminError>) -> Result<T, AdminError> {
        if let Err(error) = &outcome {
            let mut line = self.line();
            line.refused = Some(error.kind());
            // No actor writes into the audit log of an account that is not its own.
            if let Some(own) = self.actor.account() {
                line.account = Some(own.clone());
            }
            self.admin.note_refusal(self.actor, line).await;
        }
        outcome
    }

    fn locked(&self) -> MutexGuard<'_, AuditEntry> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for AuditedCall<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = self.locked();
        f.debug_struct("AuditedCall")
            .field("actor", &line.actor)
            .field("action", &line.action)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::{AccountChange, NewKey};
    use crate::environment::Environment;
    use crate::ids::AccountId;
    use crate::record::AdminErrorKind;
    use crate::scope::Permission;
    use crate::testing::{World, block_on};

    #[test]
    fn a_refused_call_about_another_account_is_in_the_audit_log_of_the_actor() {
        let world = World::new();
        let (admin, operator) = (world.admin(), world.operator());
        let [acme, other] = ["acme", "other"].map(|id| AccountId::parse(id).unwrap());
        for account in [&acme, &other] {
            drop(block_on(admin.open_account(&operator, account)));
        }
        let before = |account| block_on(admin.audit(&operator, Some(account), None)).unwrap();
        let (own, foreign) = (before(&acme).entries.len(), before(&other).entries);
        let actor = Actor::user("ann", acme.clone(), Permission::ALL);
        let new = NewKey::new(other.clone(), Environment::LIVE, "key");
        for refused in [
            block_on(admin.open_account(&actor, &other)).map(drop),
            block_on(admin.update_account(&actor, &other, AccountChange::new())).map(drop),
            block_on(admin.bootstrap(&actor, new.clone())).map(drop),
            block_on(admin.create(&actor, new)).map(drop),
            block_on(admin.revoke_all(&actor, &other, None, "")),
        ] {
            let kind = refused.unwrap_err().kind();
            let kinds = [AdminErrorKind::NotPermitted, AdminErrorKind::UnknownAccount];
            assert!(kinds.contains(&kind), "{kind:?}");
        }
        assert_eq!(before(&other).entries, foreign);
        assert_eq!(before(&acme).entries.len(), own + 5);
    }
}
