//! One limit of one owner, and how much of it is used.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::{AccountId, Clock, Environment, KeyId, Quota, RateLimit};

/// A bucket of requests: a limit, whose it is, and how much of it is used.
///
/// It follows the generic cell rate algorithm (GCRA): one number says when the bucket will be full
/// again, and a request moves it on by its cost. Taking is one atomic step, and of any number that
/// come at once exactly as many pass as there is room for.
///
/// See [`Charge`](crate::Charge).
pub struct Bucket {
    owner: BucketOwner,
    limit: RateLimit,
    clock: Arc<dyn Clock>,
    /// When it is full, in nanoseconds of the boot clock.
    full_at: AtomicU64,
}

/// Whose a bucket is. See [`Charge`](crate::Charge).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "a limiter must know them all")]
pub enum BucketOwner {
    /// A key, and all that came before and after it in rotations: the first of them.
    Key(KeyId),
    /// All keys of an account in one environment.
    Account(AccountId, Environment),
}

/// What is left of a bucket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Level {
    pub(crate) remaining: u64,
    /// Until there is enough for what was asked for; zero where there was.
    pub(crate) wait: u64,
    pub(crate) full_in: u64,
}

impl Bucket {
    pub(crate) fn new(owner: BucketOwner, limit: RateLimit, clock: Arc<dyn Clock>) -> Self {
        let full_at = AtomicU64::new(0);
        Self {
            owner,
            limit,
            clock,
            full_at,
        }
    }

    /// Whose it is.
    #[must_use]
    pub fn owner(&self) -> &BucketOwner {
        &self.owner
    }

    /// What it allows.
    #[must_use]
    pub fn limit(&self) -> RateLimit {
        self.limit
    }

    /// Takes `cost`, or nothing. `Ok` holds when the bucket is full then, as [`give_back`] needs it.
    ///
    /// A clock that has gone back grants nothing: what was taken lies further ahead of it.
    ///
    /// [`give_back`]: Self::give_back
    pub(crate) fn take(&self, cost: u32, now: u64) -> Result<u64, Level> {
        let (read, done) = (Ordering::Relaxed, Ordering::AcqRel);
        let mut old = self.full_at.load(read);
        loop {
            let new = self.after(old, cost, now);
            if new - now > self.limit.depth_nanos() {
                return Err(self.level_at(old, cost, now));
            }
            match self.full_at.compare_exchange_weak(old, new, done, read) {
                Ok(_) => return Ok(new),
                Err(other) => old = other,
            }
        }
    }

    /// Gives back what was taken, as far as time has not done so.
    ///
    /// `full_at` is what [`take`](Self::take) gave. Once that moment is over the bucket has refilled by
    /// itself, and to give back would let more pass than the limit allows.
    pub(crate) fn give_back(&self, cost: u32, full_at: u64) {
        let cost = self.cost(cost);
        let (read, done) = (Ordering::Acquire, Ordering::AcqRel);
        let mut old = self.full_at.load(read);
        loop {
            // In this order: whoever took before the load had read the clock before this.
            let now = nanos(self.clock.boot());
            if full_at <= now {
                return;
            }
            let new = old.saturating_sub(cost);
            match self.full_at.compare_exchange_weak(old, new, done, read) {
                Ok(_) => return,
                Err(other) => old = other,
            }
        }
    }

    /// What is left, and how long it takes until `cost` could be taken.
    pub(crate) fn level(&self, cost: u32, now: u64) -> Level {
        self.level_at(self.full_at.load(Ordering::Acquire), cost, now)
    }

    pub(crate) fn quota(&self, level: Level) -> Quota {
        let remaining = u32::try_from(level.remaining).unwrap_or(u32::MAX);
        let time = Duration::from_nanos;
        Quota::new(self, remaining, time(level.wait), time(level.full_in))
    }

    pub(crate) fn level_at(&self, full_at: u64, cost: u32, now: u64) -> Level {
        let depth = self.limit.depth_nanos();
        let full_in = full_at.saturating_sub(now);
        Level {
            remaining: depth.saturating_sub(full_in) / self.limit.interval_nanos(),
            wait: (self.after(full_at, cost, now) - now).saturating_sub(depth),
            full_in,
        }
    }

    fn after(&self, full_at: u64, cost: u32, now: u64) -> u64 {
        full_at.max(now).saturating_add(self.cost(cost))
    }

    fn cost(&self, cost: u32) -> u64 {
        self.limit.interval_nanos().saturating_mul(cost.into())
    }
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bucket")
            .field("owner", &self.owner)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

pub(crate) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
