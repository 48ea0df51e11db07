//! Lists keys, usage and the audit trail, and finds keys in a text.

use std::ops::Range;
use std::time::SystemTime;

use crate::admin::authority::operator_only;
use crate::clock::unix_time;
use crate::{
    AccountId, Actor, AdminError, AdminErrorKind, AuditAction, AuditPage, DigestScheme,
    Environment, KeyAdmin, KeyCursor, KeyFilter, KeyId, KeyPage, KeyQuery, KeyView, Leak,
    Permission, UsageHour, UsageQuery,
};

/// The largest page of the audit trail.
const PAGE: usize = 100;

impl KeyAdmin {
    /// A key of the actor's account.
    ///
    /// # Errors
    /// When the actor may not, there is no such key or the store fails.
    pub async fn key(&self, actor: &Actor, id: KeyId) -> Result<KeyView, AdminError> {
        let found = self.find(actor, Permission::Read, id).await;
        let mut line = self.line(actor, AuditAction::Read);
        line.key = Some(id);
        let (record, account, _) = self.or_note(line, found).await?;
        Ok(self.view(record, &account))
    }

    /// The keys of an account, newest first, page by page. Revoked ones stay for good.
    ///
    /// # Errors
    /// When the actor may not, the account is unknown or the store fails.
    pub async fn keys(
        &self,
        actor: &Actor,
        account: &AccountId,
        filter: KeyFilter,
    ) -> Result<KeyPage, AdminError> {
        let permitted = self.permit_in(actor, Permission::Read, account).await;
        let line = self.line(actor, AuditAction::Read);
        let (account, _) = self.or_note(line, permitted).await?;
        let query = KeyQuery {
            account: account.id.clone(),
            environment: filter.environment,
            state: filter.state,
            now: self.now(),
            after: filter.after,
            // One more, to see whether there is another page.
            limit: filter.limit + 1,
        };
        let mut records = self.store.keys(query).await?;
        let more = records.len() > filter.limit;
        records.truncate(filter.limit);
        let next = records.last().filter(|_| more).map(KeyCursor::of);
        let keys = records
            .into_iter()
            .map(|record| self.view(record, &account));
        Ok(KeyPage {
            keys: keys.collect(),
            next,
        })
    }

    /// How often an account's keys were used, by key and hour.
    ///
    /// The span of time is widened to whole hours. Requests count in the hour in which they were
    /// flushed, at most one flush interval late.
    ///
    /// # Errors
    /// When the actor may not, the account is unknown, or the store fails.
    pub async fn usage(
        &self,
        actor: &Actor,
        account: &AccountId,
        environment: Option<Environment>,
        span: Range<SystemTime>,
    ) -> Result<Vec<UsageHour>, AdminError> {
        let permitted = self.permit_in(actor, Permission::Read, account).await;
        self.or_note(self.line(actor, AuditAction::Read), permitted)
            .await?;
        self.store.flush().await?;
        let query = UsageQuery {
            account: account.clone(),
            environment,
            from: unix_time(span.start).as_secs() / 3600,
            until: unix_time(span.end).as_secs().div_ceil(3600),
        };
        Ok(self.store.usage(query).await?)
    }

    /// The audit trail, newest first, 100 lines a page. See [`AuditEntry`](crate::AuditEntry).
    ///
    /// That of an account, or, for an operator who names none, of all. `before` is the
    /// [`next`](AuditPage::next) of an earlier page.
    ///
    /// # Errors
    /// When the actor may not, or the store fails.
    pub async fn audit(
        &self,
        actor: &Actor,
        account: Option<&AccountId>,
        before: Option<u64>,
    ) -> Result<AuditPage, AdminError> {
        let permitted = match account {
            Some(account) => self
                .permit_in(actor, Permission::Read, account)
                .await
                .map(drop),
            None => operator_only(actor),
        };
        self.or_note(self.line(actor, AuditAction::Read), permitted)
            .await?;
        let mut entries = self.store.audit(account.cloned(), before, PAGE + 1).await?;
        let more = entries.len() > PAGE;
        entries.truncate(PAGE);
        let next = entries.last().filter(|_| more).map(|entry| entry.number);
        Ok(AuditPage { entries, next })
    }

    /// How many keys are kept under each digest scheme. For an operator.
    ///
    /// When none is left under an old pepper, that can go.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use keyward::*;
    /// # let mut example = std::pin::pin!(async {
    /// # let admin = KeyAdmin::new(Arc::new(MemoryStore::new()), KeyFormat::new("vhk_{env}_")?);
    /// # let operator = Actor::operator("docs");
    /// # let acme = AccountId::parse("acme")?;
    /// # let created = admin.bootstrap(NewKey::new(acme.clone(), Environment::LIVE, "first")).await?;
    /// # let id = created.record.id;
    /// assert_eq!(admin.schemes(&operator).await?, [(DigestScheme::Sha256, 1)]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # });
    /// # let context = &mut std::task::Context::from_waker(std::task::Waker::noop());
    /// # let done = example.as_mut().poll(context);
    /// # assert!(matches!(done, std::task::Poll::Ready(Ok(()))), "{done:?}");
    /// ```
    ///
    /// # Errors
    /// When the actor is no operator or the store fails.
    pub async fn schemes(&self, actor: &Actor) -> Result<Vec<(DigestScheme, u64)>, AdminError> {
        self.or_note(self.line(actor, AuditAction::Read), operator_only(actor))
            .await?;
        self.store.flush().await?;
        Ok(self.store.schemes().await?)
    }

    /// Finds keys of this service in a text, and says which are live. See [`Leak`].
    ///
    /// The text may be a log or a commit. A key that is another account's answers like one that is
    /// unknown.
    ///
    /// # Errors
    /// When the actor lacks the permission to read, or the store fails.
    pub async fn leaks(&self, actor: &Actor, text: &str) -> Result<Vec<Leak>, AdminError> {
        let permitted = self.permits(actor, Permission::Read).await?;
        let permitted = permitted
            .then_some(())
            .ok_or(AdminErrorKind::NotPermitted.into());
        self.or_note(self.line(actor, AuditAction::Read), permitted)
            .await?;
        let mut leaks = Vec::new();
        for (at, key, hint) in self.format.find_in(text) {
            let mut digests = self.peppers.candidates(key.as_bytes(), hint.prefix.len());
            let entry = digests.find_map(|digest| self.store.replica().find(&digest));
            let entry = entry.filter(|entry| actor.acts_in(&entry.group.account));
            let key = match entry {
                None => None,
                Some(entry) => {
                    let account = self.account_of(actor, &entry.group.account).await?;
                    Some(self.view(self.stored(entry.id).await?, &account))
                }
            };
            leaks.push(Leak { at, hint, key });
        }
        Ok(leaks)
    }
}
