//! Lists keys, accounts and the audit log, and finds leaked keys in a text.

use std::collections::HashMap;
use std::future::poll_fn;
use std::mem;
use std::task::Poll;

use crate::admin::authority::{Permitted, Reach};
use crate::admin::search::{Found, Search};
use crate::admin::{
    AccountFilter, AccountPage, Actor, AdminError, AuditPage, KeyAdmin, KeyFilter, KeyPage,
    KeyView, Leak,
};
use crate::ids::{AccountId, KeyId};
use crate::key::DigestScheme;
use crate::record::{Account, AuditAction, KeyRecord};
use crate::replica::cached_key::CachedKey;
use crate::scope::Permission;
use crate::store::{AuditQuery, KeyQuery};

/// The page size of the audit log.
const PAGE: usize = 100;

/// The number of known keys to read before yielding to other tasks.
const AT_ONCE: usize = 64;

impl KeyAdmin {
    /// Returns a key of the actor's account.
    ///
    /// # Errors
    /// Returns an error if the actor lacks the permission, the key does not exist, or the store
    /// fails.
    pub async fn key(&self, actor: &Actor, id: KeyId) -> Result<KeyView, AdminError> {
        let found = self.find(actor, &[Permission::Read], id).await;
        let call = self.audited(actor, AuditAction::Read);
        call.amend(|line| line.key = Some(id));
        let (record, account, _) = call.check(found).await?;
        Ok(self.view(record, &account))
    }

    /// Lists or searches keys, newest first, in pages. Revoked keys stay listed.
    ///
    /// With an account, these are its keys. With `None`, an operator lists the keys of all
    /// accounts, and any other actor those of its own. An acting key sees only keys of its own
    /// environment. See [`KeyFilter`] and [`KeySearch`](crate::store::KeySearch).
    ///
    /// # Errors
    /// Returns an error if the actor lacks the permission, the account is unknown, or the store
    /// fails.
    pub async fn keys<'a>(
        &self,
        actor: &Actor,
        account: impl Into<Option<&'a AccountId>>,
        mut filter: KeyFilter,
    ) -> Result<KeyPage, AdminError> {
        let reach = self.reach(actor, Permission::Read, account.into()).await;
        let call = self.audited(actor, AuditAction::Read);
        let reach = call.check(reach).await?;
        let limit = filter.0.limit;
        // One more than asked for, to find out whether there is another page.
        filter.0.limit += 1;
        let Some(query) = self.query(&reach, filter) else {
            let (keys, next) = (Vec::new(), None);
            return Ok(KeyPage { keys, next });
        };
        let mut records = self.select(&query).await?;
        let more = records.len() > limit;
        records.truncate(limit);
        let next = records.last().filter(|_| more);
        let next = next.map(|last| query.position(last));
        let mut accounts = KnownAccounts::of(&reach);
        let mut keys = Vec::with_capacity(records.len());
        for record in records {
            if let Some(account) = accounts.get(self, &record.account).await? {
                keys.push(self.view(record, account));
            }
        }
        Ok(KeyPage { keys, next })
    }

    /// Returns the query of a filter within what the actor may see; `None` if that is nothing.
    pub(super) fn query(&self, reach: &Reach, filter: KeyFilter) -> Option<KeyQuery> {
        let environment = reach.permitted.seen(filter.0.environment)?;
        let account = reach.account.as_ref().map(|account| account.id.clone());
        Some(filter.query(account, environment, self.now()))
    }

    /// Returns the stored keys that match a query.
    pub(super) async fn select(&self, query: &KeyQuery) -> Result<Vec<KeyRecord>, AdminError> {
        if query.unused_since.is_some() {
            self.store.flush().await?;
        }
        Ok(self.store.keys(query.clone()).await?)
    }

    /// Lists accounts by id, in pages. For operators. See [`AccountFilter`].
    ///
    /// # Errors
    /// Returns an error if the actor is not an operator, or the store fails.
    pub async fn accounts(
        &self,
        actor: &Actor,
        AccountFilter(mut query): AccountFilter,
    ) -> Result<AccountPage, AdminError> {
        self.audited(actor, AuditAction::Read)
            .check(actor.must_be_operator())
            .await?;
        let limit = query.limit;
        // One more than asked for, to find out whether there is another page.
        query.limit += 1;
        let mut accounts = self.store.accounts(query).await?;
        let more = accounts.len() > limit;
        accounts.truncate(limit);
        let next = accounts.last().filter(|_| more);
        let next = next.map(|account| account.id.clone());
        Ok(AccountPage { accounts, next })
    }

    /// Returns a page of the audit log, newest first, 100 lines each.
    ///
    /// See [`AuditEntry`](crate::record::AuditEntry). Without an account, an operator reads the
    /// lines of all accounts. An acting key sees the lines of its own environment
    /// ([`AuditEntry::environment`](crate::record::AuditEntry::environment)). `before` is the
    /// [`next`](AuditPage::next) of an earlier page.
    ///
    /// # Errors
    /// Returns an error if the actor lacks the permission, or the store fails.
    pub async fn audit(
        &self,
        actor: &Actor,
        account: Option<&AccountId>,
        before: Option<u64>,
    ) -> Result<AuditPage, AdminError> {
        let environment = match account {
            Some(account) => self
                .permit_in(actor, Permission::Read, account)
                .await
                .map(|(_, permitted)| permitted.environment()),
            None => actor.must_be_operator().map(|()| None),
        };
        let environment = self
            .audited(actor, AuditAction::Read)
            .check(environment)
            .await?;
        let query = AuditQuery {
            account: account.cloned(),
            environment,
            before,
            // One more than a page, to find out whether there is another.
            limit: PAGE + 1,
        };
        self.write_left().await;
        let mut entries = self.store.audit(query).await?;
        let more = entries.len() > PAGE;
        entries.truncate(PAGE);
        let next = entries.last().filter(|_| more).map(|entry| entry.number);
        Ok(AuditPage { entries, next })
    }

    /// Returns the number of usable keys stored under each digest scheme. For operators.
    ///
    /// A pepper can be removed when no key is left under it.
    ///
    /// ```
    /// # use keyward::{AccountId, Actor, Environment, KeyAdmin, KeyFormat, KeyScheme, MemoryStore, NewKey};
    /// # use keyward::key::DigestScheme;
    /// # keyward::testing::block_on(async {
    /// # let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_")?);
    /// # let admin = KeyAdmin::new(&MemoryStore::new(), &scheme);
    /// # let operator = Actor::operator("docs");
    /// # let acme = AccountId::parse("acme")?;
    /// # let created = admin.bootstrap(&operator, NewKey::new(acme.clone(), Environment::LIVE, "first")).await?;
    /// # let id = created.record.id;
    /// assert_eq!(admin.schemes(&operator).await?, [(DigestScheme::Sha256, 1)]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// Returns an error if the actor is not an operator, or the store fails.
    pub async fn schemes(&self, actor: &Actor) -> Result<Vec<(DigestScheme, u64)>, AdminError> {
        self.audited(actor, AuditAction::Read)
            .check(actor.must_be_operator())
            .await?;
        self.store.flush().await?;
        Ok(self.store.schemes(self.now()).await?)
    }

    /// Finds leaked keys of this service in a text (secret scanning). See [`Leak`].
    ///
    /// The text may be a log or a commit of any size. Each key is reported once, in the order of
    /// first occurrence, with its state. A text of more than 32 KiB is searched on a thread of its
    /// own, so that the executor runs other tasks meanwhile. A process has at most two such
    /// threads; further searches wait. A search stops when its future is dropped. Pass a long text
    /// as a `String`: a `&str` is copied. The memory used grows with the number of different keys,
    /// not with the text.
    ///
    /// A key of another account, or of another environment than the acting key, is reported like an
    /// unknown one, and so is a key that another process has created since the last poll of this
    /// one. Keys of a [`ForeignFormat`](crate::key::ForeignFormat) are not searched for.
    ///
    /// # Errors
    /// Returns an error if the actor lacks the permission to read, the store fails, or no thread
    /// can be started.
    pub async fn leaks(
        &self,
        actor: &Actor,
        text: impl Into<String>,
    ) -> Result<Vec<Leak>, AdminError> {
        let permitted = self.permitted(actor, &[Permission::Read]).await;
        let permitted = self
            .audited(actor, AuditAction::Read)
            .check(permitted)
            .await?;
        let search = Search {
            scheme: self.scheme.clone(),
            replica: self.store.replica().clone(),
        };
        let Found { mut leaks, known } = search.run(text.into()).await?;
        for (number, (place, entry)) in known.into_iter().enumerate() {
            if number % AT_ONCE == AT_ONCE - 1 {
                yield_now().await;
            }
            if let Some(leak) = leaks.get_mut(place) {
                leak.key = self.look_up(actor, &permitted, &entry).await?;
            }
        }
        Ok(leaks)
    }

    /// Returns the key of this entry, if the actor may see it.
    async fn look_up(
        &self,
        actor: &Actor,
        permitted: &Permitted,
        entry: &CachedKey,
    ) -> Result<Option<Box<KeyView>>, AdminError> {
        if !actor.acts_in(&entry.account_state.account)
            || !permitted.sees(entry.account_state.environment)
        {
            return Ok(None);
        }
        let account = self.account_of(actor, &entry.account_state.account).await?;
        // It may have been deleted meanwhile.
        let record = self.store.key(entry.id).await?;
        Ok(record.map(|record| Box::new(self.view(record, &account))))
    }
}

/// The accounts of the keys in a list, each read once.
pub(super) struct KnownAccounts(HashMap<AccountId, Option<Account>>);

impl KnownAccounts {
    pub(super) fn of(reach: &Reach) -> Self {
        let own = reach.account.iter();
        Self(own.map(|own| (own.id.clone(), Some(own.clone()))).collect())
    }

    /// Returns the account; `None` if it was deleted meanwhile.
    pub(super) async fn get(
        &mut self,
        admin: &KeyAdmin,
        id: &AccountId,
    ) -> Result<Option<&Account>, AdminError> {
        if !self.0.contains_key(id) {
            let account = admin.store.account(id.clone()).await?;
            self.0.insert(id.clone(), account);
        }
        Ok(self.0.get(id).and_then(Option::as_ref))
    }
}

/// Lets other tasks of the thread run. The task is woken at once.
async fn yield_now() {
    let mut has_yielded = false;
    poll_fn(|context| {
        if mem::replace(&mut has_yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
