//! The compact in-memory form of a key.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwapOption, Guard};
use once_cell::race::OnceBox;

use crate::address::AddressPolicy;
use crate::clock::unix_time;
use crate::denial::DenialKind;
use crate::environment::Environment;
use crate::ids::{AccountId, KeyId};
use crate::key::digest::DigestBytes;
use crate::key::{Hint, KeyKind};
use crate::limit::{Bucket, RateLimits};
use crate::origin::OriginPolicy;
use crate::record::{Account, AccountStatus, KeyRecord, KeyStatus, Metadata};
use crate::replica::credit_cache::CreditCache;
use crate::replica::key_buckets::KeyBuckets;
use crate::replica::usage::SharedCounter;
use crate::scope::Scopes;

/// A key in the replica. There may be a million of them, so every byte counts.
pub(crate) struct CachedKey {
    pub(crate) digest: DigestBytes,
    pub(crate) id: KeyId,
    last: [u8; 4],
    pub(crate) account_state: Arc<AccountState>,
    pub(crate) grant: Arc<Grant>,
    /// Empty until the first use.
    usage_counter: OnceBox<SharedCounter>,
    epoch: u32,
    /// The expiry or revocation in seconds since the Unix epoch; the maximum means never.
    expires_at: u32,
    /// The epoch of the key's own balance of credits; zero if it has none.
    credits: u32,
    superseded: AtomicBool,
    redigested: AtomicBool,
    pub(crate) kind: KeyKind,
    phase: Phase,
}

impl CachedKey {
    pub(crate) fn new(
        record: &KeyRecord,
        account_state: Arc<AccountState>,
        grant: Arc<Grant>,
        now: Duration,
    ) -> Self {
        Self {
            digest: record.digest.bytes(),
            id: record.id,
            last: record.hint.last,
            account_state,
            grant,
            usage_counter: OnceBox::new(),
            epoch: record.epoch,
            expires_at: ends_at(record, now),
            credits: record.credits.unwrap_or(0),
            superseded: AtomicBool::new(false),
            redigested: AtomicBool::new(false),
            kind: record.kind,
            phase: Phase::of(record),
        }
    }

    /// Returns why the key itself is dead, whatever the request.
    pub(crate) fn dead(&self, now: Duration) -> Option<DenialKind> {
        if self.is_revoked() {
            return Some(DenialKind::Revoked);
        }
        if self.phase == Phase::Disabled {
            return Some(DenialKind::Disabled);
        }
        if self.expires_at != u32::MAX && now.as_secs() >= u64::from(self.expires_at) {
            return Some(DenialKind::Expired);
        }
        let too_early = self.phase == Phase::Starts && now.as_secs() < self.grant.not_before;
        too_early.then_some(DenialKind::NotYetValid)
    }

    /// Returns whether the key is revoked, alone or with all keys of its account.
    pub(crate) fn is_revoked(&self) -> bool {
        self.phase == Phase::Revoked
            || self.epoch < self.account_state.revoked_before.load(Ordering::Acquire)
    }

    /// Returns the time since which the key is unusable; `None` if it is usable.
    ///
    /// The time is in seconds since the Unix epoch. A dead key stays unusable unless its record
    /// changes. A key whose account is gone counts as usable, because the account may come back.
    pub(crate) fn died_at(&self, now: Duration) -> Option<u32> {
        let own = died_at(self.phase == Phase::Revoked, self.expires_at, now);
        let with_all = self.account_state.revoked_all_at(self.epoch);
        own.into_iter().chain(with_all).min()
    }

    /// Returns the usage counters, which exist after the first use.
    pub(crate) fn usage_counter(&self) -> Option<&SharedCounter> {
        self.usage_counter.get()
    }

    /// Sets the usage counters unless another thread was faster.
    pub(crate) fn set_usage_counter(&self, usage_counter: &SharedCounter) -> bool {
        self.usage_counter
            .set(Box::new(SharedCounter::clone(usage_counter)))
            .is_ok()
    }

    /// Returns the epoch of the key's own balance of credits, if it has one.
    pub(crate) fn own_credits(&self) -> Option<u32> {
        (self.credits > 0).then_some(self.credits)
    }

    /// Returns whether a newer entry has replaced this one, or the key is gone.
    pub(crate) fn is_superseded(&self) -> bool {
        self.superseded.load(Ordering::Acquire)
    }

    /// Returns `true` to the first caller that requests a new digest.
    pub(crate) fn first_to_redigest(&self) -> bool {
        !self.redigested.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn supersede(&self) {
        self.superseded.store(true, Ordering::Release);
    }

    /// Returns the expiry of a key that is neither revoked nor expired.
    pub(crate) fn expires_at(&self) -> Option<SystemTime> {
        let at = Duration::from_secs(self.expires_at.into());
        (self.expires_at != u32::MAX).then_some(SystemTime::UNIX_EPOCH + at)
    }

    pub(crate) fn hint(&self) -> Hint {
        Hint {
            prefix: self.account_state.prefix.clone(),
            last: self.last,
        }
    }
}

impl fmt::Debug for CachedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedKey")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// Returns when a key died by its own record, in seconds since the Unix epoch.
pub(crate) fn died(record: &KeyRecord, now: Duration) -> Option<u32> {
    let is_revoked = record.status == KeyStatus::Revoked;
    died_at(is_revoked, ends_at(record, now), now)
}

fn died_at(is_revoked: bool, ends_at: u32, now: Duration) -> Option<u32> {
    let is_over = is_revoked || now.as_secs() >= u64::from(ends_at);
    (is_over && ends_at != u32::MAX).then_some(ends_at)
}

/// Returns when a key expires or was revoked, whichever is first. A revoked key without a date
/// counts as revoked now.
fn ends_at(record: &KeyRecord, now: Duration) -> u32 {
    let expires_at = record.expires_at.map_or(u32::MAX, |at| secs(unix_time(at)));
    if record.status != KeyStatus::Revoked {
        return expires_at;
    }
    let now = secs(now);
    let revoked_at = record.revoked_at.map_or(now, |at| secs(unix_time(at)));
    expires_at.min(revoked_at).min(now)
}

fn secs(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}

/// The stored status, which also tells whether there is a start of validity to look at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Active,
    /// Active from [`Grant::not_before`] on.
    Starts,
    Disabled,
    Revoked,
}

impl Phase {
    fn of(record: &KeyRecord) -> Self {
        match record.status {
            KeyStatus::Active if record.not_before.is_some() => Self::Starts,
            KeyStatus::Active => Self::Active,
            KeyStatus::Disabled => Self::Disabled,
            KeyStatus::Revoked => Self::Revoked,
        }
    }
}

/// The permissions of a key, shared by all keys with the same permissions.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Grant {
    pub(crate) scopes: Scopes,
    pub(crate) origins: OriginPolicy,
    pub(crate) addresses: AddressPolicy,
    pub(crate) rate_limits: RateLimits,
    /// The start of validity in seconds since the Unix epoch, rounded up; zero if there is none.
    not_before: u64,
    /// Kept here because an entry has no room: without details, a key pays nothing for them.
    pub(crate) details: Option<Box<Details>>,
}

/// What a replica holds only if the service asks for it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Details {
    pub(crate) name: Box<str>,
    pub(crate) metadata: Metadata,
    pub(crate) created_by: Option<Box<str>>,
}

impl Grant {
    pub(crate) fn of(record: &KeyRecord, with_details: bool) -> Self {
        Self {
            scopes: record.scopes.clone(),
            origins: record.origins.clone(),
            addresses: record.addresses.clone(),
            rate_limits: record.rate_limits.clone(),
            not_before: record.not_before.map_or(0, whole_seconds_after),
            details: with_details.then(|| Box::new(Details::of(record))),
        }
    }
}

impl Details {
    fn of(record: &KeyRecord) -> Self {
        Self {
            name: record.name.as_str().into(),
            metadata: record.metadata.clone(),
            created_by: record.created_by.as_deref().map(Box::from),
        }
    }
}

/// Returns the seconds since the Unix epoch, rounded up.
fn whole_seconds_after(time: SystemTime) -> u64 {
    let since = unix_time(time);
    since.as_secs() + u64::from(since.subsec_nanos() > 0)
}

/// The epoch of an account that is gone. No key reaches it.
const GONE: u32 = u32::MAX;

/// The state shared by all keys of an account and environment, updated in place.
#[derive(Debug)]
pub(crate) struct AccountState {
    pub(crate) account: AccountId,
    pub(crate) environment: Environment,
    pub(crate) prefix: Box<str>,
    active: AtomicBool,
    api_access: AtomicBool,
    revoked_before: AtomicU32,
    /// The last applied `revoked_before`, and when it changed, in Unix seconds.
    followed: AtomicU32,
    revoked_at: AtomicU32,
    /// The rate limit buckets shared by all keys of the account and environment.
    pub(crate) key_buckets: Arc<KeyBuckets>,
    plan: ArcSwapOption<Plan>,
    /// True if there is a plan. Most accounts have none, and this check is cheaper.
    has_plan: AtomicBool,
}

/// The limits and credits of an account's plan, if it sets any.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The rate limits of each key without its own.
    pub(crate) rate_limits: RateLimits,
    /// The rate limits that all keys share.
    pub(crate) shared: Vec<Arc<Bucket>>,
    /// The credits of all keys without their own.
    pub(crate) budget: Option<Budget>,
}

/// A balance of credits that may be spent.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    /// The epoch of the balance. Credits drawn from an earlier epoch are void.
    pub(crate) epoch: u32,
    pub(crate) credit_cache: Arc<CreditCache>,
}

impl Plan {
    fn of(account: &Account, state: &AccountState, budget: Option<Budget>) -> Option<Self> {
        let bucket = |limit| {
            let environment = state.environment;
            state.key_buckets.bucket(limit, &state.account, environment)
        };
        let plan = Self {
            rate_limits: account.rate_limits.clone(),
            shared: account.shared_rate_limits.iter().map(bucket).collect(),
            budget,
        };
        let says_something =
            !plan.rate_limits.is_empty() || !plan.shared.is_empty() || plan.budget.is_some();
        says_something.then_some(plan)
    }
}

impl AccountState {
    /// Creates the state of an account that is not known yet. It refuses all requests until
    /// [`follow`](Self::follow) opens it.
    pub(crate) fn closed(
        account: AccountId,
        environment: Environment,
        prefix: Box<str>,
        key_buckets: Arc<KeyBuckets>,
    ) -> Self {
        Self {
            account,
            environment,
            prefix,
            active: AtomicBool::new(false),
            api_access: AtomicBool::new(false),
            revoked_before: AtomicU32::new(0),
            followed: AtomicU32::new(0),
            revoked_at: AtomicU32::new(0),
            key_buckets,
            plan: ArcSwapOption::empty(),
            has_plan: AtomicBool::new(false),
        }
    }

    /// Applies only the restrictions of the account's new state.
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

    /// Applies the account's new state; `None` for an account that is gone.
    pub(crate) fn follow(&self, account: Option<&Account>, budget: Option<Budget>, now: Duration) {
        let epoch = account.map_or(GONE, |account| account.epoch(self.environment));
        let active = account.is_some_and(|account| account.status == AccountStatus::Active);
        let access = account.is_some_and(|account| account.api_access);
        let plan = account.and_then(|account| Plan::of(account, self, budget));
        let has_plan = plan.is_some();
        self.plan.store(plan.map(Arc::new));
        self.has_plan.store(has_plan, Ordering::Release);
        if epoch != self.followed.swap(epoch, Ordering::AcqRel) {
            self.revoked_at.store(secs(now), Ordering::Release);
        }
        self.revoked_before.store(epoch, Ordering::Release);
        self.active.store(active, Ordering::Release);
        self.api_access.store(access, Ordering::Release);
    }

    /// Returns since when all keys of this epoch are revoked, if they are.
    fn revoked_all_at(&self, epoch: u32) -> Option<u32> {
        let revoked_before = self.revoked_before.load(Ordering::Acquire);
        let is_revoked = epoch < revoked_before && revoked_before != GONE;
        is_revoked.then(|| self.revoked_at.load(Ordering::Acquire))
    }

    pub(crate) fn is_active(&self) -> bool {
        self.active.load(Ordering::Acquire)
    }

    pub(crate) fn has_plan(&self) -> bool {
        self.has_plan.load(Ordering::Acquire)
    }

    pub(crate) fn plan(&self) -> Guard<Option<Arc<Plan>>> {
        self.plan.load()
    }

    pub(crate) fn has_api_access(&self) -> bool {
        self.api_access.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_takes_no_more_memory_than_promised() {
        // 112 bytes with the two counters of an `Arc` and the allocator's header.
        assert!(size_of::<CachedKey>() <= 88, "{}", size_of::<CachedKey>());
    }
}
