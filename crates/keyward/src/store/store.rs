//! Where keys are kept for good.

use std::error::Error;
use std::fmt;
use std::pin::Pin;

use crate::{Account, AccountId, KeyId, KeyRecord, Replica, ReplicaError};

/// What a store gives back: an outage is an error, never "not found".
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Where keys are kept for good.
///
/// A store keeps accounts and keys, and feeds the [`Replica`] from which requests are answered. It
/// decides nothing: what may be written, and why, is settled before it is asked. This is a whole
/// store, in a vector that one process owns:
///
/// ```
/// use std::sync::Mutex;
/// use keyward::{
///     Account, AccountId, Commit, KeyId, KeyRecord, Replica, Revision, Store, StoreError,
///     StoreErrorKind, StoreFuture,
/// };
///
/// #[derive(Debug, Default)]
/// struct VecStore {
///     replica: Replica,
///     rows: Mutex<Rows>,
/// }
///
/// #[derive(Debug, Default)]
/// struct Rows {
///     revision: u64,
///     accounts: Vec<Account>,
///     keys: Vec<KeyRecord>,
/// }
///
/// impl VecStore {
///     /// All or nothing: whatever is at odds with what is stored refuses the whole commit.
///     fn write(&self, commit: Commit) -> Result<(), StoreError> {
///         let mut rows = self.rows.lock().map_err(|_| StoreError::new(StoreErrorKind::Unavailable))?;
///         let conflict = || Err(StoreError::new(StoreErrorKind::Conflict));
///         let revision = rows.revision + 1;
///         let (mut accounts, mut keys) = (rows.accounts.clone(), rows.keys.clone());
///         for mut account in commit.accounts {
///             let old = accounts.iter().position(|old| old.id == account.id);
///             if old.map_or(0, |at| accounts[at].revision) != account.revision {
///                 return conflict();
///             }
///             account.revision = revision;
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
///                 || old.is_some_and(|at| keys[at].digest != key.digest)
///                 || keys.iter().any(taken)
///                 || !owned
///             {
///                 return conflict();
///             }
///             key.revision = revision;
///             match old {
///                 Some(at) => keys[at] = key,
///                 None => keys.push(key),
///             }
///         }
///         *rows = Rows { revision, accounts, keys };
///
///         // Feed the replica before the commit is acknowledged: the next request must see it.
///         let mut poll = self.replica.poll();
///         let since = poll.since().map_or(0, |revision| revision.number);
///         rows.accounts.iter().filter(|row| row.revision > since).for_each(|row| poll.account(row.clone()));
///         rows.keys.iter().filter(|row| row.revision > since).for_each(|row| poll.key(row));
///         poll.finish(Revision { number: revision, nonce: 0 })?;
///         self.replica.always_fresh(); // this process is the only one that can change anything
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
/// }
///
/// # #[cfg(feature = "conformance")]
/// keyward::conformance::check(|| VecStore::default()); // the suite every store must pass
/// ```
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// The copy in memory that this store feeds.
    fn replica(&self) -> &Replica;

    /// Writes all of it, durably and at once, or nothing.
    ///
    /// When it returns, the replica of this process has it too.
    ///
    /// # Errors
    /// [`Conflict`](StoreErrorKind::Conflict) when a row's revision is not the stored one (zero: not
    /// stored yet), a key's account is not stored, or its digest is taken or would change.
    fn commit(&self, commit: Commit) -> StoreFuture<'_, ()>;

    /// The account of this name.
    ///
    /// # Errors
    /// When the store cannot answer.
    fn account(&self, id: AccountId) -> StoreFuture<'_, Option<Account>>;

    /// The key of this name.
    ///
    /// # Errors
    /// When the store cannot answer.
    fn key(&self, id: KeyId) -> StoreFuture<'_, Option<KeyRecord>>;
}

/// What is written together. Each row replaces the stored one of its revision.
#[derive(Clone, Debug, Default)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a store takes it apart, a new part must not be missed"
)]
pub struct Commit {
    /// New and changed accounts.
    pub accounts: Vec<Account>,
    /// New and changed keys.
    pub keys: Vec<KeyRecord>,
}

/// The store could not do what it was asked.
///
/// ```
/// use keyward::{StoreError, StoreErrorKind};
///
/// let full = std::io::Error::other("no space left on device");
/// let error = StoreError::new(StoreErrorKind::Unavailable).because(full);
/// assert_eq!(error.to_string(), "the store cannot answer");
/// assert!(std::error::Error::source(&error).is_some());
/// ```
#[derive(Debug)]
pub struct StoreError {
    kind: StoreErrorKind,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl StoreError {
    /// An error of this kind.
    #[must_use]
    pub fn new(kind: StoreErrorKind) -> Self {
        Self { kind, source: None }
    }

    /// With the error behind it.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Which it is.
    #[must_use]
    pub fn kind(&self) -> StoreErrorKind {
        self.kind
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            StoreErrorKind::Unavailable => "the store cannot answer",
            StoreErrorKind::Conflict => "what was to be changed has changed meanwhile",
            StoreErrorKind::Corrupt => "the store holds a row that is not valid",
            StoreErrorKind::Schema => "the store's schema is newer than this program",
        })
    }
}

impl Error for StoreError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

impl From<ReplicaError> for StoreError {
    fn from(error: ReplicaError) -> Self {
        Self::new(StoreErrorKind::Unavailable).because(error)
    }
}

/// Which error it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// It cannot be reached, read or written.
    Unavailable,
    /// What was to be changed has changed meanwhile; read it again and decide anew.
    Conflict,
    /// It holds a row that is not valid.
    Corrupt,
    /// It was written by a newer version.
    Schema,
}
