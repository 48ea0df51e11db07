//! Changes that are written to a store atomically.

use std::time::SystemTime;

use crate::credits::{CreditOwner, Credits};
use crate::ids::{AccountId, KeyId};
use crate::record::{Account, AuditEntry, KeyRecord};

/// Changes that are written atomically. Each row replaces the stored one of the same revision.
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
/// // It was made from revision 0, which is no longer the stored one.
/// let error = store.commit(commit).await.unwrap_err();
/// assert_eq!(error.kind(), StoreErrorKind::Conflict);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug, Default)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a store must handle every part, so a new one must not be missed"
)]
pub struct Commit {
    /// New and changed accounts.
    pub accounts: Vec<Account>,
    /// New and changed keys.
    pub keys: Vec<KeyRecord>,
    /// A change to a credit balance.
    pub credits: Option<CreditChange>,
    /// Accounts that must still have these revisions, because the decision relied on them.
    pub unchanged_accounts: Vec<(AccountId, u64)>,
    /// Keys that must still have these revisions, because the decision relied on them.
    pub unchanged_keys: Vec<(KeyId, u64)>,
    /// The requirement that no account is stored yet.
    pub first: bool,
    /// The limit of active keys of an account after this commit.
    pub active_keys: Option<ActiveKeys>,
    /// The token by which a repeated create finds its key (idempotent create).
    pub token: Option<CreateToken>,
    /// New lines of the audit log.
    pub audit: Vec<AuditEntry>,
}

/// A limit on the active keys of an account, as part of a [`Commit`].
///
/// A key is active if it is neither revoked nor expired. Disabled keys count, as they can be
/// enabled again.
#[derive(Clone, Debug)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a store must handle every part, so a new one must not be missed"
)]
pub struct ActiveKeys {
    /// The account.
    pub account: AccountId,
    /// The maximum number of active keys after the commit.
    pub at_most: u32,
    /// The time at which expiry is judged.
    pub now: SystemTime,
}

/// A change to a credit balance, as part of a [`Commit`].
#[derive(Clone, Debug)]
#[expect(
    clippy::exhaustive_enums,
    reason = "a store must handle every case, so a new one must not be missed"
)]
pub enum CreditChange {
    /// Replaces the balance.
    Set {
        /// The owner of the balance.
        owner: CreditOwner,
        /// The epoch of the balance that is replaced; zero if there is none.
        since: u32,
        /// The new balance, of a later epoch.
        to: Credits,
    },
    /// Adds to the existing balance.
    Add {
        /// The owner of the balance.
        owner: CreditOwner,
        /// The number of credits to add.
        amount: u64,
    },
}

impl CreditChange {
    /// Returns the owner of the balance.
    #[must_use]
    pub fn owner(&self) -> &CreditOwner {
        match self {
            Self::Set { owner, .. } | Self::Add { owner, .. } => owner,
        }
    }

    /// Returns the resulting balance; `None` if the change conflicts with what is stored.
    #[must_use]
    pub fn apply(&self, stored: Option<Credits>) -> Option<Credits> {
        match self {
            Self::Set { since, to, .. } => {
                let epoch = stored.map_or(0, |stored| stored.epoch);
                (epoch == *since && to.epoch > epoch).then(|| to.clone())
            }
            Self::Add { amount, .. } => stored.map(|stored| Credits {
                left: stored.left.saturating_add(*amount),
                ..stored
            }),
        }
    }
}

/// The idempotency token of a create, as part of a [`Commit`].
///
/// It is unique within its account.
#[derive(Clone, Debug)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a store must handle every part, so a new one must not be missed"
)]
pub struct CreateToken {
    /// The account.
    pub account: AccountId,
    /// The token.
    pub token: String,
    /// The key created with the token.
    pub key: KeyId,
}
