//! The record of a key that was pruned.

use std::time::SystemTime;

use crate::environment::Environment;
use crate::error::named;
use crate::ids::{AccountId, KeyId};
use crate::key::Hint;

/// The remains of a dead key that was pruned: which key it was, and why it died.
///
/// See [`KeyAdmin::maintain`](crate::admin::KeyAdmin::maintain).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tombstone {
    /// The public id of the key.
    pub id: KeyId,
    /// The displayable part of the key.
    pub hint: Hint,
    /// The account that owned the key.
    pub account: AccountId,
    /// The environment of the key.
    pub environment: Environment,
    /// The first key of its rotation chain.
    pub lineage: KeyId,
    /// The reason why the key was dead.
    pub cause: DeathCause,
    /// The reason given for the revocation.
    pub revoked_for: String,
    /// The time of the revocation or expiry.
    pub died_at: SystemTime,
    /// The time of the last use.
    pub last_used_at: Option<SystemTime>,
    /// The time at which the key was pruned.
    pub pruned_at: SystemTime,
}

impl Tombstone {
    /// Creates the tombstone of a revoked key, without a reason or a last use.
    ///
    /// ```
    /// use std::time::SystemTime;
    /// use keyward::{AccountId, Environment, KeyId};
    /// use keyward::key::Hint;
    /// use keyward::record::{DeathCause, Tombstone};
    ///
    /// let (id, acme) = (KeyId::random()?, AccountId::parse("acme")?);
    /// let now = SystemTime::now();
    /// let tombstone = Tombstone::new(id, Hint::unknown(), acme, Environment::LIVE, now);
    /// assert_eq!((tombstone.lineage, tombstone.cause), (id, DeathCause::Revoked));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn new(
        id: KeyId,
        hint: Hint,
        account: AccountId,
        environment: Environment,
        pruned_at: SystemTime,
    ) -> Self {
        Self {
            id,
            hint,
            account,
            environment,
            lineage: id,
            cause: DeathCause::Revoked,
            revoked_for: String::new(),
            died_at: pruned_at,
            last_used_at: None,
            pruned_at,
        }
    }
}

/// The reason why a pruned key was dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeathCause {
    /// The key was revoked.
    Revoked,
    /// The key had expired.
    Expired,
}

named!(DeathCause, "cause of death": Revoked = "revoked", Expired = "expired");
