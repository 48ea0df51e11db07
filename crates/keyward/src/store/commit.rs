//! What is written together.

use std::time::SystemTime;

use crate::credits::{CreditOwner, Credits};
use crate::ids::{AccountId, KeyId};
use crate::record::{Account, AuditEntry, KeyRecord};

/// What is written together. Each row replaces the stored one of its revision.
///
/// ```
/// # use keyward::{AccountId, MemoryStore, Store};
/// # use keyward::record::Account;
/// # use keyward::store::{Commit, StoreErrorKind};
/// # keyward::testing::block_on(async {
/// # let store = MemoryStore::new();
/// # let acme = AccountId::parse("acme")?;
/// let commit = Commit { accounts: vec![Account::new(acme.clone())], ..Commit::default() };
/// store.commit(commit.clone()).await?;
/// let stored = store.account(acme).await?.expect("it was just written");
/// assert!(stored.revision > 0);
///
/// // It was made from revision 0, and that is not what is stored any more.
/// let error = store.commit(commit).await.unwrap_err();
/// assert_eq!(error.kind(), StoreErrorKind::Conflict);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
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
    /// A balance of credits that changes.
    pub credits: Option<CreditChange>,
    /// Accounts that must be of these revisions: what was decided rests on them.
    pub unchanged_accounts: Vec<(AccountId, u64)>,
    /// Keys that must be of these revisions: what was decided rests on them.
    pub unchanged_keys: Vec<(KeyId, u64)>,
    /// Whether no account may be stored yet.
    pub first: bool,
    /// How many active keys an account may have after this.
    pub active_keys: Option<ActiveKeys>,
    /// The token by which a repeated create finds its key.
    pub token: Option<CreateToken>,
    /// New lines of the audit trail.
    pub audit: Vec<AuditEntry>,
}

/// A bound on the active keys of an account, as a part of a [`Commit`].
///
/// Active are those that are neither revoked nor expired. Keys that are switched off count: they
/// can be switched on.
#[derive(Clone, Debug)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a store takes it apart, a new part must not be missed"
)]
pub struct ActiveKeys {
    /// Whose keys.
    pub account: AccountId,
    /// How many there may be after the commit.
    pub at_most: u32,
    /// The moment at which expiry is judged.
    pub now: SystemTime,
}

/// How a balance of credits changes, as a part of a [`Commit`].
#[derive(Clone, Debug)]
#[expect(
    clippy::exhaustive_enums,
    reason = "a store takes it apart, a new way must not be missed"
)]
pub enum CreditChange {
    /// There is this balance from now on.
    Set {
        /// Whose.
        owner: CreditOwner,
        /// The epoch of the balance it replaces; zero: there is none.
        since: u32,
        /// What there is from now on, of a later epoch.
        to: Credits,
    },
    /// There is more of the balance that there is.
    Add {
        /// Whose.
        owner: CreditOwner,
        /// How many credits more.
        amount: u64,
    },
}

impl CreditChange {
    /// Whose balance changes.
    #[must_use]
    pub fn owner(&self) -> &CreditOwner {
        match self {
            Self::Set { owner, .. } | Self::Add { owner, .. } => owner,
        }
    }

    /// The balance that comes of it; `None` where the change is at odds with what is stored.
    #[must_use]
    pub fn apply(&self, stored: Option<Credits>) -> Option<Credits> {
        match self {
            Self::Set { since, to, .. } => {
                let epoch = stored.map_or(0, |stored| stored.epoch);
                (epoch == *since && to.epoch > epoch).then_some(*to)
            }
            Self::Add { amount, .. } => stored.map(|stored| Credits {
                left: stored.left.saturating_add(*amount),
                ..stored
            }),
        }
    }
}

/// The token of a create, as a part of a [`Commit`].
///
/// In one account no two creates have the same.
#[derive(Clone, Debug)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a store takes it apart, a new part must not be missed"
)]
pub struct CreateToken {
    /// In which account.
    pub account: AccountId,
    /// The token.
    pub token: String,
    /// The key that is created with it.
    pub key: KeyId,
}
