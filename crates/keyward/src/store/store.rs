//! The `Store` trait.

use std::fmt;
use std::future::ready;
use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use crate::credits::{CreditOwner, Credits};
use crate::ids::{AccountId, KeyId};
use crate::key::DigestScheme;
use crate::record::{Account, AuditEntry, KeyRecord, Tombstone};
use crate::replica::Replica;
use crate::store::{
    AccountQuery, AuditQuery, Commit, KeyQuery, Maintained, Maintenance, StoreError,
    StoreErrorKind, TombstoneQuery,
};
use crate::usage::{KeyUsage, UsageQuery};

/// The future of a [`Store`] method. An outage is an error, never "not found".
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Durable storage of accounts and keys.
///
/// A store keeps accounts and keys, and feeds the [`Replica`] from which requests are answered. It
/// makes no decisions of its own: whether a change is allowed is settled before the store is
/// called. This is a complete store, in a vector of one process:
///
/// ```
/// use std::cmp::Reverse;
/// use std::collections::HashMap;
/// use std::sync::{Arc, Mutex};
/// use std::time::SystemTime;
/// use keyward::{AccountId, KeyId, Store};
/// use keyward::credits::{CreditOwner, Credits};
/// use keyward::key::DigestScheme;
/// use keyward::record::{Account, AuditEntry, KeyRecord};
/// use keyward::replica::{Replica, Revision};
/// use keyward::store::{
///     AccountQuery, AuditQuery, Commit, CreateToken, KeyQuery, StoreError, StoreErrorKind, StoreFuture,
/// };
/// use keyward::usage::{KeyUsage, UsageQuery};
///
/// #[derive(Debug)]
/// struct VecStore {
///     replica: Replica,
///     rows: Arc<Mutex<Rows>>,
/// }
///
/// #[derive(Debug, Default, Clone)]
/// struct Rows {
///     revision: u64,
///     accounts: Vec<Account>,
///     keys: Vec<KeyRecord>,
///     tokens: Vec<CreateToken>,
///     credits: HashMap<CreditOwner, Credits>,
///     audit: Vec<AuditEntry>,
///     usage: Vec<KeyUsage>,
/// }
///
/// impl VecStore {
///     fn new() -> Self {
///         let store = VecStore { replica: Replica::new(), rows: Arc::default() };
///         store.replica.always_fresh(); // only this process can change anything
///         let rows = store.rows.clone();
///         // A store with a database would wake its thread here.
///         store.replica.on_demand(move |replica| {
///             let mut rows = rows.lock().unwrap();
///             for unspent in replica.take_excess() {
///                 if let Some(credits) = rows.credits.get_mut(&unspent.owner) {
///                     credits.put_back(&unspent);
///                 }
///             }
///             for want in replica.take_wanted() {
///                 match rows.credits.get_mut(&want.owner) {
///                     Some(credits) => replica.grant(&credits.draw(&want, SystemTime::now())),
///                     None => replica.no_grant(&want.owner),
///                 }
///             }
///             true
///         });
///         store
///     }
///
///     /// Writes all or nothing: any conflict refuses the whole commit.
///     fn write(&self, commit: Commit) -> Result<(), StoreError> {
///         let mut rows = self.rows.lock().map_err(|_| StoreError::new(StoreErrorKind::Unavailable))?;
///         let conflict = || Err(StoreError::new(StoreErrorKind::Conflict));
///         let mut new = rows.clone();
///         new.revision += 1;
///         let Rows { revision, accounts, keys, tokens, credits, audit, .. } = &mut new;
///         let is = |revision: Option<u64>, wanted: &u64| revision.unwrap_or(0) == *wanted;
///         let account_at = |id: &AccountId| accounts.iter().find(|row| row.id == *id).map(|row| row.revision);
///         let key_at = |id: &KeyId| keys.iter().find(|row| row.id == *id).map(|row| row.revision);
///         if commit.first && !accounts.is_empty()
///             || !commit.unchanged_accounts.iter().all(|(id, revision)| is(account_at(id), revision))
///             || !commit.unchanged_keys.iter().all(|(id, revision)| is(key_at(id), revision))
///         {
///             return conflict();
///         }
///         for mut account in commit.accounts {
///             let old = accounts.iter().position(|old| old.id == account.id);
///             if old.map_or(0, |at| accounts[at].revision) != account.revision {
///                 return conflict();
///             }
///             account.revision = *revision;
///             match old {
///                 Some(at) => accounts[at] = account,
///                 None => accounts.push(account),
///             }
///         }
///         for mut key in commit.keys {
///             let old = keys.iter().position(|old| old.id == key.id);
///             let taken = |other: &KeyRecord| other.digest == key.digest && other.id != key.id;
///             let owned = accounts.iter().any(|account| account.id == key.account);
///             if old.map_or(0, |at| keys[at].revision) != key.revision
///                 || old.is_some_and(|at| {
///                     let moved = u32::from(keys[at].digest != key.digest);
///                     keys[at].redigested + moved != key.redigested
///                 })
///                 || keys.iter().any(taken)
///                 || !owned
///             {
///                 return conflict();
///             }
///             key.revision = *revision;
///             key.last_used_at = old.and_then(|at| keys[at].last_used_at);
///             key.last_network = old.and_then(|at| keys[at].last_network);
///             match old {
///                 Some(at) => keys[at] = key,
///                 None => keys.push(key),
///             }
///         }
///         if let Some(change) = &commit.credits {
///             let Some(changed) = change.apply(credits.get(change.owner()).cloned()) else {
///                 return conflict();
///             };
///             credits.insert(change.owner().clone(), changed);
///         }
///         for token in commit.token {
///             let same = |old: &CreateToken| old.account == token.account && old.token == token.token;
///             if tokens.iter().any(same) {
///                 return conflict();
///             }
///             tokens.push(token);
///         }
///         for bound in commit.active_keys {
///             let active = keys.iter().filter(|key| {
///                 let owner = accounts.iter().find(|row| row.id == key.account);
///                 let is_final = |owner: &Account| key.state(owner, bound.now).is_final();
///                 key.account == bound.account && owner.is_some_and(|owner| !is_final(owner))
///             });
///             if active.count() > bound.at_most as usize {
///                 return Err(StoreError::new(StoreErrorKind::TooManyKeys));
///             }
///         }
///         for mut entry in commit.audit {
///             entry.number = audit.len() as u64 + 1;
///             audit.push(entry);
///         }
///         *rows = new;
///
///         // Feed the replica before returning: the next request must see the change.
///         let mut poll = self.replica.poll();
///         let since = poll.since().map_or(0, |revision| revision.number);
///         rows.accounts.iter().filter(|row| row.revision > since).for_each(|row| poll.account(row.clone()));
///         rows.keys.iter().filter(|row| row.revision > since).for_each(|row| poll.key(row));
///         poll.finish(Revision { number: rows.revision, nonce: 0 })?;
///         commit.credits.iter().for_each(|change| self.replica.credits_changed(change.owner()));
///         Ok(())
///     }
/// }
///
/// impl Store for VecStore {
///     fn replica(&self) -> &Replica {
///         &self.replica
///     }
///
///     fn commit(&self, commit: Commit) -> StoreFuture<'_, ()> {
///         Box::pin(async { self.write(commit) })
///     }
///
///     fn account(&self, id: AccountId) -> StoreFuture<'_, Option<Account>> {
///         let rows = self.rows.lock().unwrap();
///         let found = rows.accounts.iter().find(|row| row.id == id).cloned();
///         Box::pin(async { Ok(found) })
///     }
///
///     fn key(&self, id: KeyId) -> StoreFuture<'_, Option<KeyRecord>> {
///         let rows = self.rows.lock().unwrap();
///         let found = rows.keys.iter().find(|row| row.id == id).cloned();
///         Box::pin(async { Ok(found) })
///     }
///
///     fn keys(&self, query: KeyQuery) -> StoreFuture<'_, Vec<KeyRecord>> {
///         let rows = self.rows.lock().unwrap();
///         let owner = |key: &KeyRecord| rows.accounts.iter().find(|row| row.id == key.account);
///         let wanted = |key: &&KeyRecord| owner(key).is_some_and(|owner| query.wants(key, owner));
///         let mut found: Vec<_> = rows.keys.iter().filter(wanted).cloned().collect();
///         found.sort_by_key(|key| Reverse(query.position(key)));
///         found.truncate(query.limit);
///         Box::pin(async { Ok(found) })
///     }
///
///     fn accounts(&self, query: AccountQuery) -> StoreFuture<'_, Vec<Account>> {
///         let rows = self.rows.lock().unwrap();
///         let wanted = |account: &&Account| query.wants(account);
///         let mut found: Vec<_> = rows.accounts.iter().filter(wanted).cloned().collect();
///         found.sort_by(|one, other| one.id.cmp(&other.id));
///         found.truncate(query.limit);
///         Box::pin(async { Ok(found) })
///     }
///
///     fn created_with(&self, account: AccountId, token: String) -> StoreFuture<'_, Option<KeyId>> {
///         let rows = self.rows.lock().unwrap();
///         let mut tokens = rows.tokens.iter();
///         let found = tokens.find(|row| row.account == account && row.token == token);
///         let found = found.map(|row| row.key);
///         Box::pin(async move { Ok(found) })
///     }
///
///     fn credits(&self, owner: CreditOwner) -> StoreFuture<'_, Option<Credits>> {
///         let rows = self.rows.lock().unwrap(); // no credits are taken or returned meanwhile
///         let mut found = rows.credits.get(&owner).cloned();
///         if let (Some(credits), Some(held)) = (&mut found, self.replica.held_of(&owner)) {
///             credits.put_back(&held);
///         }
///         Box::pin(async move { Ok(found) })
///     }
///
///     fn flush(&self) -> StoreFuture<'_, ()> {
///         let mut rows = self.rows.lock().unwrap();
///         let hour = self.replica.clock().unix().as_secs() / 3600;
///         for count in self.replica.take_usage() {
///             let Some(key) = rows.keys.iter_mut().find(|key| key.id == count.key) else { continue };
///             key.last_used_at = key.last_used_at.max(count.last_used_at);
///             key.last_network = count.last_network.or(key.last_network);
///             let used = KeyUsage::new(key.account.clone(), key.id, key.environment, hour);
///             let all = [(None, count.counts)].into_iter();
///             let labels = count.labels.into_iter().map(|(label, counts)| (Some(label), counts));
///             for (label, counts) in all.chain(labels) {
///                 let mut used = used.clone();
///                 (used.label, used.counts) = (label, counts);
///                 rows.usage.push(used); // a real store adds it to the row of that hour
///             }
///         }
///         for unspent in self.replica.take_unspent(false) {
///             if let Some(credits) = rows.credits.get_mut(&unspent.owner) {
///                 credits.put_back(&unspent);
///             }
///         }
///         let mut commit = Commit::default();
///         for moved in self.replica.take_rehashes() {
///             let mut keys = rows.keys.iter();
///             let Some(key) = keys.find(|key| key.id == moved.key) else { continue };
///             let mut key = key.clone();
///             if *key.digest.expose_bytes() != moved.from {
///                 continue;
///             }
///             (key.digest, key.redigested) = (moved.to, key.redigested + 1);
///             commit.keys.push(key);
///         }
///         drop(rows);
///         let written = self.write(commit);
///         Box::pin(async { written })
///     }
///
///     fn schemes(&self, now: SystemTime) -> StoreFuture<'_, Vec<(DigestScheme, u64)>> {
///         let rows = self.rows.lock().unwrap();
///         let mut found: Vec<(DigestScheme, u64)> = Vec::new();
///         let owner = |key: &KeyRecord| rows.accounts.iter().find(|row| row.id == key.account);
///         let is_final = |key: &KeyRecord| owner(key).is_none_or(|owner| key.state(owner, now).is_final());
///         for key in rows.keys.iter().filter(|key| !is_final(key)) {
///             match found.iter_mut().find(|(scheme, _)| scheme == key.digest.scheme()) {
///                 Some((_, count)) => *count += 1,
///                 None => found.push((key.digest.scheme().clone(), 1)),
///             }
///         }
///         Box::pin(async { Ok(found) })
///     }
///
///     fn usage(&self, query: UsageQuery) -> StoreFuture<'_, Vec<KeyUsage>> {
///         let mut rows = self.rows.lock().unwrap();
///         rows.usage.sort_by_key(KeyUsage::cursor);
///         let found = query.select(&rows.usage);
///         Box::pin(async { Ok(found) })
///     }
///
///     fn audit(&self, query: AuditQuery) -> StoreFuture<'_, Vec<AuditEntry>> {
///         let rows = self.rows.lock().unwrap();
///         let wanted = rows.audit.iter().rev().filter(|row| query.wants(row));
///         let found = wanted.take(query.limit).cloned().collect();
///         Box::pin(async { Ok(found) })
///     }
/// }
///
/// # #[cfg(feature = "testing")]
/// keyward::testing::suites::store(|_| VecStore::new()); // a suite for every store
/// ```
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// Returns the copy in memory that this store feeds.
    fn replica(&self) -> &Replica;

    /// Writes the commit durably and atomically: all of it, or nothing.
    ///
    /// When it returns, the replica of this process has the change, and was told of any
    /// [changed](Replica::credits_changed) balance.
    ///
    /// # Errors
    /// Returns [`Conflict`](crate::store::StoreErrorKind::Conflict) if a row's revision is not the
    /// stored one (zero: not stored yet), a key's account is not stored, a key's digest is taken or
    /// would change without `redigested` growing by one, a row that must be unchanged has changed,
    /// the token is taken, or a balance [cannot change](crate::store::CreditChange::apply) in this
    /// way. [`TooManyKeys`](crate::store::StoreErrorKind::TooManyKeys) if an account would exceed
    /// its limit of active keys.
    fn commit(&self, commit: Commit) -> StoreFuture<'_, ()>;

    /// Returns the account with this id.
    ///
    /// # Errors
    /// Returns an error if the store cannot answer.
    fn account(&self, id: AccountId) -> StoreFuture<'_, Option<Account>>;

    /// Returns the key with this id.
    ///
    /// # Errors
    /// Returns an error if the store cannot answer.
    fn key(&self, id: KeyId) -> StoreFuture<'_, Option<KeyRecord>>;

    /// Lists the keys that match the query, newest first.
    ///
    /// Among keys created in the same millisecond, the highest id comes first. A search by name is
    /// in the order of the names instead, and of equal names the newest key comes first. Both are
    /// the reverse order of [`KeyQuery::position`].
    ///
    /// Keys whose account is not stored match no query.
    ///
    /// # Errors
    /// Returns an error if the store cannot answer.
    fn keys(&self, query: KeyQuery) -> StoreFuture<'_, Vec<KeyRecord>>;

    /// Lists the accounts that match the query, in the order of the bytes of their ids.
    ///
    /// # Errors
    /// Returns an error if the store cannot answer.
    fn accounts(&self, query: AccountQuery) -> StoreFuture<'_, Vec<Account>>;

    /// Returns the key that was created with this token in this account.
    ///
    /// # Errors
    /// Returns an error if the store cannot answer.
    fn created_with(&self, account: AccountId, token: String) -> StoreFuture<'_, Option<KeyId>>;

    /// Writes what the replica has counted since the last flush.
    ///
    /// This includes the usage of [`Replica::take_usage`]; the new digests of
    /// [`Replica::take_rehashes`], each with `redigested` increased by one, if the key is still
    /// stored under the old digest; and the credits of [`Replica::take_unspent`], if the balance is
    /// still of the same epoch.
    ///
    /// A store that outlives its process also flushes on a timer and when it is dropped. Nothing is
    /// counted twice, and the time of the last use never goes back.
    ///
    /// # Errors
    /// Returns an error if the store cannot write; the counts are kept for the next flush.
    fn flush(&self) -> StoreFuture<'_, ()>;

    /// Returns the balance of this owner, including credits that processes have taken but not
    /// spent.
    ///
    /// The part of this process is [`Replica::held_of`], and it must be exact.
    ///
    /// # Errors
    /// Returns an error if the store cannot answer.
    fn credits(&self, owner: CreditOwner) -> StoreFuture<'_, Option<Credits>>;

    /// Returns how often keys were used, as of the last flush.
    ///
    /// The rows are sorted by key, then by label, then by hour, as
    /// [`UsageCursor`](crate::usage::UsageCursor) is. [`UsageQuery::select`] says exactly which are
    /// returned.
    ///
    /// # Errors
    /// Returns an error if the store cannot answer.
    fn usage(&self, query: UsageQuery) -> StoreFuture<'_, Vec<KeyUsage>>;

    /// Returns the number of keys per digest scheme, without keys revoked or expired at `now`.
    ///
    /// # Errors
    /// Returns an error if the store cannot answer.
    fn schemes(&self, now: SystemTime) -> StoreFuture<'_, Vec<(DigestScheme, u64)>>;

    /// Returns the lines of the audit log that match the query, newest first.
    ///
    /// # Errors
    /// Returns an error if the store cannot answer.
    fn audit(&self, query: AuditQuery) -> StoreFuture<'_, Vec<AuditEntry>>;

    /// Does a step of maintenance, which takes no more than a few milliseconds of the store's time.
    ///
    /// The line is added to the audit log together with the first change, as
    /// [`Maintenance::line`] returns it. A step may be killed at any time; the same task then goes on
    /// where it was.
    ///
    /// # Errors
    /// Returns [`Unsupported`](crate::store::StoreErrorKind::Unsupported) unless the store
    /// overrides it, or another error if it cannot write.
    fn maintain(&self, task: Maintenance, line: Option<AuditEntry>) -> StoreFuture<'_, Maintained> {
        drop((task, line));
        Box::pin(ready(Err(StoreError::new(StoreErrorKind::Unsupported))))
    }

    /// Returns the tombstones that match the query, sorted by the id of the key.
    ///
    /// # Errors
    /// Returns an error if the store cannot answer. A store that keeps none returns an empty list.
    fn tombstones(&self, query: TombstoneQuery) -> StoreFuture<'_, Vec<Tombstone>> {
        drop(query);
        Box::pin(ready(Ok(Vec::new())))
    }
}

impl<S: Store + ?Sized> Store for Arc<S> {
    fn replica(&self) -> &Replica {
        (**self).replica()
    }

    fn commit(&self, commit: Commit) -> StoreFuture<'_, ()> {
        (**self).commit(commit)
    }

    fn account(&self, id: AccountId) -> StoreFuture<'_, Option<Account>> {
        (**self).account(id)
    }

    fn key(&self, id: KeyId) -> StoreFuture<'_, Option<KeyRecord>> {
        (**self).key(id)
    }

    fn keys(&self, query: KeyQuery) -> StoreFuture<'_, Vec<KeyRecord>> {
        (**self).keys(query)
    }

    fn accounts(&self, query: AccountQuery) -> StoreFuture<'_, Vec<Account>> {
        (**self).accounts(query)
    }

    fn created_with(&self, account: AccountId, token: String) -> StoreFuture<'_, Option<KeyId>> {
        (**self).created_with(account, token)
    }

    fn flush(&self) -> StoreFuture<'_, ()> {
        (**self).flush()
    }

    fn credits(&self, owner: CreditOwner) -> StoreFuture<'_, Option<Credits>> {
        (**self).credits(owner)
    }

    fn usage(&self, query: UsageQuery) -> StoreFuture<'_, Vec<KeyUsage>> {
        (**self).usage(query)
    }

    fn schemes(&self, now: SystemTime) -> StoreFuture<'_, Vec<(DigestScheme, u64)>> {
        (**self).schemes(now)
    }

    fn audit(&self, query: AuditQuery) -> StoreFuture<'_, Vec<AuditEntry>> {
        (**self).audit(query)
    }

    fn maintain(&self, task: Maintenance, line: Option<AuditEntry>) -> StoreFuture<'_, Maintained> {
        (**self).maintain(task, line)
    }

    fn tombstones(&self, query: TombstoneQuery) -> StoreFuture<'_, Vec<Tombstone>> {
        (**self).tombstones(query)
    }
}
