//! A store for tests: everything is gone when the process ends.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{
    Account, AccountId, Clock, Commit, KeyId, KeyRecord, Replica, Revision, Store, StoreError,
    StoreErrorKind, StoreFuture,
};

/// Keeps everything in memory, for tests.
///
/// ```
/// use keyward::{MemoryStore, Store};
///
/// let store = MemoryStore::new();
/// assert!(store.replica().is_empty());
/// ```
#[derive(Default)]
pub struct MemoryStore {
    replica: Replica,
    rows: Mutex<Rows>,
}

#[derive(Default)]
struct Rows {
    revision: u64,
    accounts: HashMap<AccountId, Account>,
    keys: HashMap<KeyId, KeyRecord>,
    ids: HashMap<[u8; 32], KeyId>,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default().opened()
    }

    /// An empty store on a clock of the caller's.
    #[must_use]
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        let replica = Replica::with(clock, usize::MAX);
        let rows = Mutex::default();
        Self { replica, rows }.opened()
    }

    fn opened(self) -> Self {
        // Every change goes through `commit`, which feeds the replica before it returns.
        self.replica.always_fresh();
        self
    }

    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, commit: Commit) -> Result<(), StoreError> {
        let mut rows = self.rows();
        rows.check(&commit)?;
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
            poll.key(&key);
            rows.ids.insert(*key.digest.expose_bytes(), key.id);
            rows.keys.insert(key.id, key);
        }
        // The history cannot be lost and written anew, so any nonce will do.
        let nonce = 0;
        Ok(poll.finish(Revision { number, nonce })?)
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
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore")
            .field("replica", &self.replica)
            .finish_non_exhaustive()
    }
}

impl Rows {
    fn check(&self, commit: &Commit) -> Result<(), StoreError> {
        let mut fits = true;
        for (at, new) in commit.accounts.iter().enumerate() {
            let stored = self.accounts.get(&new.id).map_or(0, |old| old.revision);
            let again = commit
                .accounts
                .iter()
                .skip(at + 1)
                .any(|other| other.id == new.id);
            fits &= stored == new.revision && !again;
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
            fits &= stored.map_or(0, |old| old.revision) == new.revision
                && stored.is_none_or(|old| old.digest == new.digest)
                && holder.is_none_or(|id| *id == new.id)
                && owned
                && !again;
        }
        if fits {
            Ok(())
        } else {
            Err(StoreError::new(StoreErrorKind::Conflict))
        }
    }
}
