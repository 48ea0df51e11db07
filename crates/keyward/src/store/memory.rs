//! A store in memory, for tests.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::future::ready;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::clock::Clock;
use crate::credits::{CreditOwner, Credits, Unspent};
use crate::ids::{AccountId, KeyId};
use crate::key::DigestScheme;
use crate::record::{Account, AuditEntry, KeyRecord, Tombstone};
use crate::replica::{Replica, Revision, UsageCount};
use crate::store::{
    AccountQuery, AuditQuery, Commit, KeyQuery, Maintained, Maintenance, Store, StoreError,
    StoreErrorKind, StoreFuture, TombstoneQuery,
};
use crate::usage::{KeyUsage, UsageCursor, UsageQuery};

/// A store that keeps everything in memory, for tests.
///
/// ```
/// use keyward::{MemoryStore, Store};
///
/// let store = MemoryStore::new();
/// assert!(store.replica().is_empty());
/// ```
#[derive(Clone)]
pub struct MemoryStore {
    replica: Replica,
    rows: Arc<Mutex<Rows>>,
}

#[derive(Default)]
pub(super) struct Rows {
    revision: u64,
    pub(super) accounts: HashMap<AccountId, Account>,
    pub(super) keys: HashMap<KeyId, KeyRecord>,
    pub(super) ids: HashMap<[u8; 32], KeyId>,
    pub(super) tokens: HashMap<(AccountId, String), KeyId>,
    pub(super) credits: HashMap<CreditOwner, Credits>,
    pub(super) audit: Vec<AuditEntry>,
    /// The number of the last line of the audit log.
    lines: u64,
    pub(super) usage: BTreeMap<UsageCursor, KeyUsage>,
    pub(super) tombstones: BTreeMap<KeyId, Tombstone>,
    /// The digests of deleted keys.
    pub(super) barred: HashSet<[u8; 32]>,
}

impl MemoryStore {
    /// Creates an empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::over(Replica::new())
    }

    /// Creates an empty store that uses this clock.
    #[must_use]
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        Self::over(Replica::with(clock, usize::MAX))
    }

    fn over(replica: Replica) -> Self {
        let rows = Arc::default();
        let store = Self { replica, rows };
        // Every change goes through `commit`, which feeds the replica before it returns.
        store.replica.always_fresh();
        let rows = Arc::clone(&store.rows);
        store.replica.on_demand(move |replica| {
            locked(&rows).draw(replica);
            true
        });
        store
    }

    pub(super) fn rows(&self) -> MutexGuard<'_, Rows> {
        locked(&self.rows)
    }

    /// Writes a commit atomically with rows that are kept outside this store.
    ///
    /// This is for a store in memory that keeps more than keys. `write_others` is called once the
    /// commit is certain to be written, before any other call can read or write here. If it returns
    /// an error, nothing is written. Its argument tells whether an account is stored, including
    /// those of the commit.
    ///
    /// ```
    /// # use keyward::{AccountId, MemoryStore};
    /// # use keyward::record::Account;
    /// # use keyward::store::{Commit, StoreError, StoreErrorKind};
    /// # let (acme, other) = (AccountId::parse("acme")?, AccountId::parse("other")?);
    /// let store = MemoryStore::new();
    /// let commit = Commit { accounts: vec![Account::new(acme.clone())], ..Commit::default() };
    /// let refused = store.commit_with(commit.clone(), |is_stored| match is_stored(&other) {
    ///     true => Ok(()),
    ///     false => Err(StoreError::new(StoreErrorKind::Conflict)),
    /// });
    /// assert!(refused.is_err()); // and `acme` was not written
    ///
    /// let mut owner = None;
    /// store.commit_with(commit, |is_stored| {
    ///     assert!(is_stored(&acme));
    ///     owner = Some(acme.clone());
    ///     Ok(())
    /// })?;
    /// assert!(owner.is_some());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Returns the errors of [`commit`](Store::commit), and that of `write_others`.
    pub fn commit_with(
        &self,
        commit: Commit,
        write_others: impl FnOnce(&dyn Fn(&AccountId) -> bool) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut rows = self.rows();
        rows.check(&commit)?;
        write_others(&|id| {
            let mut new = commit.accounts.iter();
            rows.accounts.contains_key(id) || new.any(|account| account.id == *id)
        })?;
        let mut poll = self.replica.poll();
        rows.revision += 1;
        let number = rows.revision;
        for mut account in commit.accounts {
            account.revision = number;
            poll.account(account.clone());
            rows.accounts.insert(account.id.clone(), account);
        }
        for mut key in commit.keys {
            key.revision = number;
            let old = rows.keys.get(&key.id);
            key.last_used_at = old.and_then(|old| old.last_used_at);
            key.last_network = old.and_then(|old| old.last_network);
            poll.key(&key);
            if let Some(old) = rows.keys.get(&key.id).map(|old| *old.digest.expose_bytes()) {
                rows.ids.remove(&old);
            }
            rows.ids.insert(*key.digest.expose_bytes(), key.id);
            rows.keys.insert(key.id, key);
        }
        if let Some(change) = &commit.credits {
            let owner = change.owner();
            let changed = change.apply(rows.credits.get(owner).cloned());
            rows.credits
                .extend(changed.map(|credits| (owner.clone(), credits)));
            self.replica.credits_changed(owner);
        }
        if let Some(token) = commit.token {
            rows.tokens.insert((token.account, token.token), token.key);
        }
        for mut entry in commit.audit {
            rows.lines += 1;
            entry.number = rows.lines;
            rows.audit.push(entry);
        }
        if poll.must_restart() {
            poll.restart();
            rows.accounts
                .values()
                .for_each(|row| poll.account(row.clone()));
            rows.keys.values().for_each(|row| poll.key(row));
        }
        // The history cannot be lost and written again, so any nonce will do.
        let nonce = 0;
        poll.finish(Revision { number, nonce })?;
        Ok(())
    }

    pub(super) fn write(&self, commit: Commit) -> Result<(), StoreError> {
        self.commit_with(commit, |_| Ok(()))
    }
}

impl Store for MemoryStore {
    fn replica(&self) -> &Replica {
        &self.replica
    }

    fn commit(&self, commit: Commit) -> StoreFuture<'_, ()> {
        Box::pin(async { self.write(commit) })
    }

    fn account(&self, id: AccountId) -> StoreFuture<'_, Option<Account>> {
        Box::pin(async move { Ok(self.rows().accounts.get(&id).cloned()) })
    }

    fn key(&self, id: KeyId) -> StoreFuture<'_, Option<KeyRecord>> {
        Box::pin(async move { Ok(self.rows().keys.get(&id).cloned()) })
    }

    fn keys(&self, query: KeyQuery) -> StoreFuture<'_, Vec<KeyRecord>> {
        Box::pin(async move { Ok(self.rows().keys(&query)) })
    }

    fn accounts(&self, query: AccountQuery) -> StoreFuture<'_, Vec<Account>> {
        Box::pin(async move {
            let rows = self.rows();
            let accounts = rows.accounts.values();
            let mut found: Vec<_> = accounts.filter(|account| query.wants(account)).collect();
            found.sort_unstable_by_key(|account| &account.id);
            Ok(found.into_iter().take(query.limit).cloned().collect())
        })
    }

    fn created_with(&self, account: AccountId, token: String) -> StoreFuture<'_, Option<KeyId>> {
        Box::pin(async move { Ok(self.rows().tokens.get(&(account, token)).copied()) })
    }

    fn credits(&self, owner: CreditOwner) -> StoreFuture<'_, Option<Credits>> {
        Box::pin(async move {
            // While the rows are locked, no credits are taken out or returned.
            let rows = self.rows();
            let mut credits = rows.credits.get(&owner).cloned();
            if let (Some(credits), Some(held)) = (&mut credits, self.replica.held_of(&owner)) {
                credits.put_back(&held);
            }
            Ok(credits)
        })
    }

    fn flush(&self) -> StoreFuture<'_, ()> {
        let now = self.replica.clock().unix();
        let mut rows = self.rows();
        for unspent in self.replica.take_unspent(false) {
            rows.give_back(&unspent);
        }
        rows.count(&self.replica.take_usage(), now.as_secs() / 3600);
        let mut keys = Vec::new();
        for moved in self.replica.take_rehashes() {
            let key = rows
                .keys
                .get(&moved.key)
                .filter(|key| *key.digest.expose_bytes() == moved.from);
            keys.extend(key.cloned().map(|mut key| {
                (key.digest, key.redigested) = (moved.to, key.redigested.saturating_add(1));
                key
            }));
        }
        drop(rows);
        let nothing = keys.is_empty();
        let commit = Commit {
            keys,
            ..Commit::default()
        };
        let written = if nothing { Ok(()) } else { self.write(commit) };
        Box::pin(ready(written))
    }

    fn schemes(&self, now: SystemTime) -> StoreFuture<'_, Vec<(DigestScheme, u64)>> {
        Box::pin(async move {
            let mut found: Vec<(DigestScheme, u64)> = Vec::new();
            let rows = self.rows();
            for key in rows.keys.values().filter(|key| rows.is_usable(key, now)) {
                match found
                    .iter_mut()
                    .find(|(scheme, _)| scheme == key.digest.scheme())
                {
                    Some((_, count)) => *count += 1,
                    None => found.push((key.digest.scheme().clone(), 1)),
                }
            }
            Ok(found)
        })
    }

    fn usage(&self, query: UsageQuery) -> StoreFuture<'_, Vec<KeyUsage>> {
        Box::pin(async move { Ok(query.select(self.rows().usage.values())) })
    }

    fn audit(&self, query: AuditQuery) -> StoreFuture<'_, Vec<AuditEntry>> {
        Box::pin(async move {
            let rows = self.rows();
            let wanted = rows.audit.iter().rev().filter(|line| query.wants(line));
            Ok(wanted.take(query.limit).cloned().collect())
        })
    }

    fn maintain(&self, task: Maintenance, line: Option<AuditEntry>) -> StoreFuture<'_, Maintained> {
        Box::pin(async { self.maintain_all(task, line) })
    }

    fn tombstones(&self, query: TombstoneQuery) -> StoreFuture<'_, Vec<Tombstone>> {
        Box::pin(async move {
            let rows = self.rows();
            let found = rows.tombstones.values().filter(|stone| query.wants(stone));
            Ok(found.take(query.limit).cloned().collect())
        })
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore")
            .field("replica", &self.replica)
            .finish_non_exhaustive()
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl Rows {
    /// Takes surplus credits from the replica, and gives it those that it asks for.
    fn draw(&mut self, replica: &Replica) {
        let now = SystemTime::UNIX_EPOCH + replica.clock().unix();
        for unspent in replica.take_excess() {
            self.give_back(&unspent);
        }
        for want in replica.take_wanted() {
            match self.credits.get_mut(&want.owner) {
                Some(credits) => replica.grant(&credits.draw(&want, now)),
                None => replica.no_grant(&want.owner),
            }
        }
    }

    fn give_back(&mut self, unspent: &Unspent) {
        if let Some(credits) = self.credits.get_mut(&unspent.owner) {
            credits.put_back(unspent);
        }
    }

    fn count(&mut self, counts: &[UsageCount], hour: u64) {
        for count in counts {
            let (account, environment) = if let Some(key) = self.keys.get_mut(&count.key) {
                key.last_used_at = key.last_used_at.max(count.last_used_at);
                key.last_network = count.last_network.or(key.last_network);
                (key.account.clone(), key.environment)
            } else if let Some(stone) = self.tombstones.get(&count.key) {
                (stone.account.clone(), stone.environment)
            } else {
                continue;
            };
            let empty = KeyUsage::new(account, count.key, environment, hour);
            let labels = count.labels.iter();
            let labels = labels.map(|(label, counts)| (Some(*label), *counts));
            for (label, counts) in [(None, count.counts)].into_iter().chain(labels) {
                let empty = KeyUsage {
                    label,
                    ..empty.clone()
                };
                let kept = self.usage.entry(empty.cursor()).or_insert(empty);
                kept.counts += counts;
            }
        }
    }

    fn keys(&self, query: &KeyQuery) -> Vec<KeyRecord> {
        let wanted = |key: &&KeyRecord| {
            let account = self.accounts.get(&key.account);
            account.is_some_and(|account| query.wants(key, account))
        };
        let mut keys: Vec<_> = self.keys.values().filter(wanted).collect();
        keys.sort_by_cached_key(|key| Reverse(query.position(key)));
        keys.into_iter().take(query.limit).cloned().collect()
    }

    fn check(&self, commit: &Commit) -> Result<(), StoreError> {
        let account_at = |id: &AccountId| self.accounts.get(id).map_or(0, |old| old.revision);
        let key_at = |id: &KeyId| self.keys.get(id).map_or(0, |old| old.revision);
        let mut fits = true;
        for (at, new) in commit.accounts.iter().enumerate() {
            let mut others = commit.accounts.iter().skip(at + 1);
            fits &= account_at(&new.id) == new.revision && !others.any(|other| other.id == new.id);
        }
        for (at, new) in commit.keys.iter().enumerate() {
            let stored = self.keys.get(&new.id);
            let mut others = commit.keys.iter().skip(at + 1);
            let again = others.any(|other| other.id == new.id || other.digest == new.digest);
            let owned = self.accounts.contains_key(&new.account)
                || commit
                    .accounts
                    .iter()
                    .any(|account| account.id == new.account);
            let holder = self.ids.get(new.digest.expose_bytes());
            fits &= key_at(&new.id) == new.revision
                && stored.is_none_or(|old| {
                    let moved = u32::from(old.digest != new.digest);
                    old.redigested.saturating_add(moved) == new.redigested
                })
                && holder.is_none_or(|id| *id == new.id)
                && !self.barred.contains(new.digest.expose_bytes())
                && !self.tombstones.contains_key(&new.id)
                && owned
                && !again;
        }
        let mut accounts = commit.unchanged_accounts.iter();
        let mut keys = commit.unchanged_keys.iter();
        let mut tokens = commit.token.iter();
        fits &= accounts.all(|(id, revision)| account_at(id) == *revision)
            && keys.all(|(id, revision)| key_at(id) == *revision)
            && tokens.all(|new| {
                let taken = (new.account.clone(), new.token.clone());
                !self.tokens.contains_key(&taken)
            });
        fits &= !commit.first || self.accounts.is_empty();
        fits &= commit.credits.iter().all(|change| {
            let stored = self.credits.get(change.owner()).cloned();
            change.apply(stored).is_some()
        });
        if !fits {
            return Err(StoreError::new(StoreErrorKind::Conflict));
        }
        if self.has_too_many_keys(commit) {
            return Err(StoreError::new(StoreErrorKind::TooManyKeys));
        }
        Ok(())
    }

    fn is_usable(&self, key: &KeyRecord, now: SystemTime) -> bool {
        let account = self.accounts.get(&key.account);
        account.is_some_and(|account| !key.state(account, now).is_final())
    }

    fn has_too_many_keys(&self, commit: &Commit) -> bool {
        let Some(bound) = &commit.active_keys else {
            return false;
        };
        let new = commit
            .accounts
            .iter()
            .find(|account| account.id == bound.account);
        let Some(account) = new.or_else(|| self.accounts.get(&bound.account)) else {
            return false;
        };
        let replaced = |key: &&KeyRecord| commit.keys.iter().any(|new| new.id == key.id);
        let old = self.keys.values().filter(|key| !replaced(key));
        let active = old.chain(&commit.keys).filter(|key| {
            key.account == bound.account && !key.state(account, bound.now).is_final()
        });
        active.count() > usize::try_from(bound.at_most).unwrap_or(usize::MAX)
    }
}

fn locked(rows: &Mutex<Rows>) -> MutexGuard<'_, Rows> {
    rows.lock().unwrap_or_else(PoisonError::into_inner)
}
