//! A key as the replica holds it: small, and ready to be judged.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use crate::clock::unix_time;
use crate::key::digest::DigestBytes;
use crate::{
    Account, AccountId, AccountStatus, DenialKind, Environment, Hint, KeyId, KeyKind, KeyRecord,
    KeyStatus, OriginPolicy, Scopes,
};

/// What the replica keeps of a key. A million of them are held, so every byte counts.
pub(crate) struct Entry {
    pub(crate) digest: DigestBytes,
    pub(crate) id: KeyId,
    last: [u8; 4],
    pub(crate) group: Arc<Group>,
    pub(crate) scopes: Arc<Scopes>,
    /// `None` stands for any origin.
    pub(crate) origins: Option<Arc<OriginPolicy>>,
    epoch: u32,
    /// Seconds since the Unix epoch; the maximum stands for never.
    expires_at: u32,
    /// One more than the place of its counters; zero before its first use.
    tally: AtomicU32,
    superseded: AtomicBool,
    redigested: AtomicBool,
    pub(crate) kind: KeyKind,
    status: KeyStatus,
}

impl Entry {
    pub(crate) fn new(
        record: &KeyRecord,
        group: Arc<Group>,
        scopes: Arc<Scopes>,
        origins: Option<Arc<OriginPolicy>>,
    ) -> Self {
        Self {
            digest: record.digest.bytes(),
            id: record.id,
            last: record.hint.last,
            group,
            scopes,
            origins,
            epoch: record.epoch,
            expires_at: record.expires_at.map_or(u32::MAX, |at| {
                u32::try_from(unix_time(at).as_secs()).unwrap_or(u32::MAX)
            }),
            tally: AtomicU32::new(0),
            superseded: AtomicBool::new(false),
            redigested: AtomicBool::new(false),
            kind: record.kind,
            status: record.status,
        }
    }

    /// Whether the key itself is dead, whatever is asked of it.
    pub(crate) fn dead(&self, now: Duration) -> Option<DenialKind> {
        match self.status {
            KeyStatus::Revoked => Some(DenialKind::Revoked),
            _ if self.epoch < self.group.revoked_before.load(Ordering::Acquire) => {
                Some(DenialKind::Revoked)
            }
            KeyStatus::Disabled => Some(DenialKind::Disabled),
            KeyStatus::Active => {
                let expired =
                    self.expires_at != u32::MAX && now.as_secs() >= u64::from(self.expires_at);
                expired.then_some(DenialKind::Expired)
            }
        }
    }

    /// Where its uses are counted, once there are any.
    pub(crate) fn tally(&self) -> Option<usize> {
        let place = self.tally.load(Ordering::Acquire).checked_sub(1)?;
        usize::try_from(place).ok()
    }

    /// Gives it a place to count, if it has none yet.
    pub(crate) fn set_tally(&self, place: usize) {
        let place = u32::try_from(place).map_or(u32::MAX, |place| place.saturating_add(1));
        let (done, read) = (Ordering::AcqRel, Ordering::Acquire);
        // Whoever was first has given it one.
        _ = self.tally.compare_exchange(0, place, done, read);
    }

    /// Whether a newer entry of the key, or none, has taken its place.
    pub(crate) fn is_superseded(&self) -> bool {
        self.superseded.load(Ordering::Acquire)
    }

    /// Whether nobody has asked before for a new digest of it.
    pub(crate) fn first_to_redigest(&self) -> bool {
        !self.redigested.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn supersede(&self) {
        self.superseded.store(true, Ordering::Release);
    }

    /// Takes over what was counted in an older entry of the same key.
    pub(crate) fn inherit(&self, older: &Self) {
        if let Some(place) = older.tally() {
            self.set_tally(place);
        }
    }

    pub(crate) fn hint(&self) -> Hint {
        Hint {
            prefix: self.group.prefix.clone(),
            last: self.last,
        }
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// What all keys of one account and environment share, changed in place when the account changes.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) account: AccountId,
    pub(crate) environment: Environment,
    pub(crate) prefix: Box<str>,
    active: AtomicBool,
    api_access: AtomicBool,
    revoked_before: AtomicU32,
}

impl Group {
    /// A group whose account is not known yet: closed until [`follow`](Self::follow) opens it.
    pub(crate) fn closed(account: AccountId, environment: Environment, prefix: Box<str>) -> Self {
        Self {
            account,
            environment,
            prefix,
            active: AtomicBool::new(false),
            api_access: AtomicBool::new(false),
            revoked_before: AtomicU32::new(0),
        }
    }

    /// Takes over what the account's state forbids.
    pub(crate) fn close(&self, account: &Account) {
        let epoch = account.epoch(self.environment);
        self.revoked_before.fetch_max(epoch, Ordering::AcqRel);
        if account.status != AccountStatus::Active {
            self.active.store(false, Ordering::Release);
        }
        if !account.api_access {
            self.api_access.store(false, Ordering::Release);
        }
    }

    /// Takes over the account's state; `None` for an account that is gone.
    pub(crate) fn follow(&self, account: Option<&Account>) {
        let epoch = account.map_or(u32::MAX, |account| account.epoch(self.environment));
        let active = account.is_some_and(|account| account.status == AccountStatus::Active);
        let access = account.is_some_and(|account| account.api_access);
        self.revoked_before.store(epoch, Ordering::Release);
        self.active.store(active, Ordering::Release);
        self.api_access.store(access, Ordering::Release);
    }

    pub(crate) fn is_active(&self) -> bool {
        self.active.load(Ordering::Acquire)
    }

    pub(crate) fn has_api_access(&self) -> bool {
        self.api_access.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_takes_no_more_than_its_share_of_memory() {
        // With the two counters of an `Arc` and the allocator's word: 112 bytes.
        assert!(size_of::<Entry>() <= 88, "{}", size_of::<Entry>());
    }
}
