//! Revokes all keys that match a filter.

use crate::admin::authority::Reach;
use crate::admin::read::KnownAccounts;
use crate::admin::{Actor, AdminError, AuditedCall, KeyAdmin, KeyFilter};
use crate::ids::AccountId;
use crate::record::{AuditAction, KeyRecord, KeyState};
use crate::scope::Permission;
use crate::store::{Commit, KeyCursor};

/// The number of keys that are revoked in one commit.
const BATCH: usize = 250;

/// Whether [`revoke_matching`](KeyAdmin::revoke_matching) changes anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "closed by nature")]
pub enum BulkMode {
    /// Only counts the keys.
    DryRun,
    /// Revokes the keys.
    Commit,
}

impl KeyAdmin {
    /// Revokes all keys that match a filter, or counts them, and returns their number.
    ///
    /// The filter covers [what the actor lists](Self::keys) with this account; its page size and
    /// position do not count. Keys that are revoked already are left out, and so is an acting key.
    /// A dry run returns the number that a commit would return if nothing changed in between.
    ///
    /// Keys are revoked 250 at a time, which is not atomic over all of them: if the call fails or
    /// the process ends, the same call revokes the rest. Each key has its own line in the audit
    /// log, with the detail `matching`. A key that is created meanwhile may be missed; to end every
    /// key of an account, use [`revoke_all`](Self::revoke_all).
    ///
    /// Without an account, an operator revokes keys of all accounts. Make a dry run first.
    ///
    /// ```
    /// # use keyward::{AccountId, Actor, Environment, KeyAdmin, KeyFormat, KeyScheme, MemoryStore, NewKey};
    /// # use keyward::admin::{BulkMode, KeyFilter};
    /// # keyward::testing::block_on(async {
    /// # let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_")?);
    /// # let admin = KeyAdmin::new(&MemoryStore::new(), &scheme);
    /// # let operator = Actor::operator("docs");
    /// # let acme = AccountId::parse("acme")?;
    /// # let created = admin.bootstrap(&operator, NewKey::new(acme.clone(), Environment::LIVE, "first")).await?;
    /// // Everything that a former employee has created.
    /// let filter = KeyFilter::new().created_by("operator:docs");
    /// let run = |mode| admin.revoke_matching(&operator, &acme, filter.clone(), "has left", mode);
    /// let count = run(BulkMode::DryRun).await?;
    /// assert_eq!((count, run(BulkMode::Commit).await?), (1, 1));
    /// assert_eq!(run(BulkMode::Commit).await?, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// As [`revoke`](Self::revoke), and if the account is unknown. Some keys may be revoked even
    /// so.
    pub async fn revoke_matching<'a>(
        &self,
        actor: &Actor,
        account: impl Into<Option<&'a AccountId>>,
        mut filter: KeyFilter,
        reason: &str,
        mode: BulkMode,
    ) -> Result<u64, AdminError> {
        let account = account.into();
        let call = self.audited(actor, AuditAction::Revoke);
        call.amend(|line| {
            "matching".clone_into(&mut line.detail);
            if let Some(account) = account.filter(|account| actor.acts_in(account)) {
                line.account = Some(account.clone());
            }
        });
        let mut count = 0;
        (filter.0.after, filter.0.limit) = (None, BATCH);
        loop {
            let attempt = || self.revoke_some(&call, actor, account, &filter, reason, mode);
            let (revoked, next) = call.run(attempt).await?;
            count += revoked;
            let Some(next) = next else {
                return Ok(count);
            };
            filter.0.after = Some(next);
        }
    }

    /// Revokes or counts the keys of one page; returns where the next one begins, if there is one.
    async fn revoke_some(
        &self,
        call: &AuditedCall<'_>,
        actor: &Actor,
        account: Option<&AccountId>,
        filter: &KeyFilter,
        reason: &str,
        mode: BulkMode,
    ) -> Result<(u64, Option<KeyCursor>), AdminError> {
        self.check_reason(reason)?;
        let reach = self.reach(actor, Permission::Revoke, account).await?;
        let Some(query) = self.query(&reach, filter.clone()) else {
            return Ok((0, None));
        };
        let records = self.select(&query).await?;
        let last = records.last().filter(|_| records.len() == query.limit);
        let next = last.map(|last| query.position(last));
        let mut keys = self.revocable(actor, &reach, records).await?;
        let count = keys.len() as u64;
        if mode == BulkMode::Commit && count > 0 {
            let lines = keys.iter_mut().map(|key| {
                self.mark_revoked(key, reason);
                let mut line = call.line();
                line.account = Some(key.account.clone());
                line.environment = Some(key.environment);
                line.key = Some(key.id);
                reason.clone_into(&mut line.reason);
                line
            });
            let audit = lines.collect();
            let commit = Commit {
                keys,
                audit,
                ..Commit::default()
            };
            let commit = match &reach.account {
                Some(account) => reach.permitted.bind(account, commit),
                // An operator, whose permission cannot change.
                None => commit,
            };
            self.store.commit(commit).await?;
        }
        Ok((count, next))
    }

    /// Returns the keys that are not revoked yet, without the acting one.
    async fn revocable(
        &self,
        actor: &Actor,
        reach: &Reach,
        records: Vec<KeyRecord>,
    ) -> Result<Vec<KeyRecord>, AdminError> {
        let mut accounts = KnownAccounts::of(reach);
        let mut keys = Vec::with_capacity(records.len());
        for record in records {
            let Some(account) = accounts.get(self, &record.account).await? else {
                continue;
            };
            let is_revoked = record.state(account, self.now()) == KeyState::Revoked;
            if !is_revoked && actor.key_id() != Some(record.id) {
                keys.push(record);
            }
        }
        Ok(keys)
    }
}
