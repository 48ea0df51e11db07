//! Token buckets for rate limiting.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Clock;
use crate::environment::Environment;
use crate::ids::{AccountId, KeyId};
use crate::limit::{Quota, RateLimit};

/// A token bucket: a rate limit, its owner, and its current level.
///
/// It uses the generic cell rate algorithm (GCRA): a single number holds the time at which the
/// bucket will be full again, and each request advances it by its cost. Taking is one atomic step,
/// so of any number of concurrent requests exactly as many pass as the limit allows.
///
/// See [`Charge`](crate::limit::Charge).
pub struct Bucket {
    owner: BucketOwner,
    limit: RateLimit,
    clock: Arc<dyn Clock>,
    /// The time at which the bucket is full, in nanoseconds of the boot clock. If it is counted
    /// elsewhere, as far as this process knows.
    full_at: AtomicU64,
    /// The time at which the level was last asked for elsewhere.
    asked_at: AtomicU64,
}

/// The owner of a bucket. See [`Charge`](crate::limit::Charge).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "a limiter must know them all")]
pub enum BucketOwner {
    /// A key of an account and environment, identified by the first key of its rotation chain. All
    /// keys of the chain share it.
    Key(AccountId, Environment, KeyId),
    /// An account in one environment. All its keys there share it.
    Account(AccountId, Environment),
}

impl BucketOwner {
    /// Returns the account, which owns the key if the owner is one.
    #[must_use]
    pub fn account(&self) -> &AccountId {
        let (Self::Key(account, ..) | Self::Account(account, _)) = self;
        account
    }

    /// Returns the environment.
    #[must_use]
    pub fn environment(&self) -> Environment {
        let (Self::Key(_, environment, _) | Self::Account(_, environment)) = self;
        *environment
    }
}

/// The level of a bucket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Level {
    pub(crate) remaining: u64,
    /// The nanoseconds until the cost could be taken; zero if it was.
    pub(crate) wait: u64,
    pub(crate) full_in: u64,
}

impl Bucket {
    pub(crate) fn new(owner: BucketOwner, limit: RateLimit, clock: Arc<dyn Clock>) -> Self {
        Self {
            owner,
            limit,
            clock,
            full_at: AtomicU64::new(0),
            asked_at: AtomicU64::new(0),
        }
    }

    /// Returns the owner.
    #[must_use]
    pub fn owner(&self) -> &BucketOwner {
        &self.owner
    }

    /// Returns the rate limit.
    #[must_use]
    pub fn limit(&self) -> RateLimit {
        self.limit
    }

    /// Takes `cost` or nothing. `Ok` contains the time at which the bucket is full afterwards,
    /// which [`give_back`] needs.
    ///
    /// A clock that goes back grants nothing, because what was taken then lies further ahead of it.
    ///
    /// [`give_back`]: Self::give_back
    pub(crate) fn take(&self, cost: u32, now: u64) -> Result<u64, Level> {
        let depth = self.limit.depth_nanos();
        let taken = self.take_within(depth, cost, now);
        taken.map_err(|full_at| self.level_at(full_at, cost, now))
    }

    /// Takes `cost` from one of `shares` equal parts, or nothing.
    ///
    /// A request counts as many times as there are parts. A full bucket always lets one pass.
    pub(crate) fn take_share(&self, cost: u32, shares: u32, now: u64) -> Result<u64, Level> {
        let all = cost.saturating_mul(shares);
        let depth = self.limit.depth_nanos().max(self.cost(all));
        let taken = self.take_within(depth, all, now);
        taken.map_err(|full_at| self.share_level_at(full_at, cost, shares, now))
    }

    /// `Err` contains the time at which the bucket is full.
    fn take_within(&self, depth: u64, cost: u32, now: u64) -> Result<u64, u64> {
        let (read, done) = (Ordering::Relaxed, Ordering::AcqRel);
        let mut old = self.full_at.load(read);
        loop {
            let new = self.after(old, cost, now);
            if new - now > depth {
                return Err(old);
            }
            match self.full_at.compare_exchange_weak(old, new, done, read) {
                Ok(_) => return Ok(new),
                Err(other) => old = other,
            }
        }
    }

    /// Gives back what was taken, except for what time has refilled already.
    ///
    /// `full_at` is the result of [`take`](Self::take). From the cost before that moment on, the
    /// bucket might have been full without this request. The time after that would have refilled
    /// nothing, so it cannot be given back, or more requests would pass than the limit allows.
    pub(crate) fn give_back(&self, cost: u32, full_at: u64) {
        let cost = self.cost(cost);
        let (read, done) = (Ordering::Acquire, Ordering::AcqRel);
        let mut old = self.full_at.load(read);
        loop {
            // Load first, then read the clock: any `take` before the load has read an earlier time.
            let now = nanos(self.clock.boot());
            let back = cost.min(full_at.saturating_sub(now));
            if back == 0 {
                return;
            }
            let new = old.saturating_sub(back);
            match self.full_at.compare_exchange_weak(old, new, done, read) {
                Ok(_) => return,
                Err(other) => old = other,
            }
        }
    }

    /// Lowers what this process knows of a bucket that is counted elsewhere.
    pub(crate) fn forget(&self, cost: u32) {
        let (read, done) = (Ordering::Acquire, Ordering::AcqRel);
        let lower = |full_at: u64| Some(full_at.saturating_sub(self.cost(cost)));
        _ = self.full_at.fetch_update(done, read, lower);
    }

    /// Notes the level of a bucket that is counted elsewhere.
    ///
    /// With `reserved`, later reservations are kept, which the answer does not contain.
    pub(crate) fn note(&self, full_at: u64, reserved: bool) {
        if reserved {
            self.full_at.fetch_max(full_at, Ordering::AcqRel);
        } else {
            self.full_at.store(full_at, Ordering::Release);
        }
    }

    /// Notes that the level is asked for elsewhere.
    pub(crate) fn ask(&self, now: u64) {
        self.asked_at.fetch_max(now, Ordering::AcqRel);
    }

    /// Returns whether the level is known from within the last `max_age`.
    pub(crate) fn is_known(&self, max_age: u64, now: u64) -> bool {
        now.saturating_sub(self.asked_at.load(Ordering::Acquire)) < max_age
    }

    /// Returns `true` to one caller within `max_age`, who asks for the level elsewhere.
    pub(crate) fn first_to_ask(&self, max_age: u64, now: u64) -> bool {
        let (read, done) = (Ordering::Acquire, Ordering::AcqRel);
        let old = self.asked_at.load(read);
        let claim = || self.asked_at.compare_exchange(old, now, done, read);
        now.saturating_sub(old) >= max_age && claim().is_ok()
    }

    /// Returns the level, and how long it takes until `cost` could be taken.
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

    /// Returns the level as [`take_share`](Self::take_share) sees it.
    pub(crate) fn share_level(&self, cost: u32, shares: u32, now: u64) -> Level {
        let full_at = self.full_at.load(Ordering::Acquire);
        self.share_level_at(full_at, cost, shares, now)
    }

    fn share_level_at(&self, full_at: u64, cost: u32, shares: u32, now: u64) -> Level {
        let all = cost.saturating_mul(shares);
        let depth = self.limit.depth_nanos().max(self.cost(all));
        let depth_of_one = depth.max(self.cost(shares));
        let full_in = full_at.saturating_sub(now);
        Level {
            remaining: depth_of_one.saturating_sub(full_in) / self.cost(shares),
            wait: (self.after(full_at, all, now) - now).saturating_sub(depth),
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
    let whole = time.as_secs().saturating_mul(1_000_000_000);
    whole.saturating_add(time.subsec_nanos().into())
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::thread;

    use governor::clock::FakeRelativeClock;
    use governor::{Quota as GovernorQuota, RateLimiter};
    use proptest::prelude::*;

    use super::*;
    use crate::clock::ManualClock;

    const SECOND: u64 = 1_000_000_000;

    fn owner() -> BucketOwner {
        let acme = AccountId::parse("acme").unwrap();
        BucketOwner::Key(acme, Environment::LIVE, KeyId::random().unwrap())
    }

    fn bucket(limit: &str) -> Bucket {
        let (_, bucket) = timed(limit);
        bucket
    }

    fn timed(limit: &str) -> (Arc<ManualClock>, Bucket) {
        let clock = Arc::new(ManualClock::at(Duration::ZERO));
        let limit = RateLimit::parse(limit).unwrap();
        let bucket = Bucket::new(owner(), limit, Arc::<ManualClock>::clone(&clock));
        (clock, bucket)
    }

    /// The level after a take, or the wait in nanoseconds.
    fn take(bucket: &Bucket, cost: u32, now: u64) -> Result<u64, u64> {
        let taken = bucket.take(cost, now);
        taken
            .map(|full_at| bucket.level_at(full_at, 0, now).remaining)
            .map_err(|level| level.wait)
    }

    #[test]
    fn follows_hand_computed_tables() {
        // 2 per second with bursts of 3: one more every half second.
        let half = SECOND / 2;
        let slow = bucket("2/1;3");
        for (now, cost, outcome) in [
            (0, 1, Ok(2)),
            (0, 1, Ok(1)),
            (0, 1, Ok(0)),
            (0, 1, Err(half)),
            (half - 1, 1, Err(1)),
            (half, 1, Ok(0)),
            (half, 1, Err(half)),
            (2 * half, 2, Err(half)),
            (3 * half, 2, Ok(0)),
            (3 * half + 1, 0, Ok(0)),
            (100 * half, 3, Ok(0)),
            (100 * half, 1, Err(half)),
            (101 * half + half / 2, 1, Ok(0)),
            (102 * half, 1, Ok(0)),
        ] {
            assert_eq!(take(&slow, cost, now), outcome, "{cost} at {now}");
        }
        // 100 per minute with bursts of 200: 300 in the worst minute and 100 in every other.
        let minute = bucket("100/60;200");
        let passing = |from: u64| {
            let at = (0..6000).map(|n| from + n * SECOND / 100);
            at.filter(|now| minute.take(1, *now).is_ok()).count()
        };
        assert_eq!(passing(SECOND), 299, "and the 300th at its very end");
        assert_eq!(passing(61 * SECOND), 100);
    }

    #[test]
    fn a_year_has_no_drift() {
        for limit in ["10/60;10", "7/60;7"] {
            let bucket = bucket(limit);
            let tries = (0..365 * 86_400 / 3).map(|n| SECOND + n * 3 * SECOND);
            let passed = tries.filter(|now| bucket.take(1, *now).is_ok()).count();
            let limit = bucket.limit();
            let seconds = 365 * 86_400 - 3;
            let exact = u64::from(limit.count()) * seconds / limit.period().as_secs();
            assert_eq!(
                passed as u64,
                u64::from(limit.max_burst()) + exact,
                "{limit}"
            );
        }
    }

    #[test]
    fn a_clock_that_goes_back_grants_nothing() {
        let bucket = bucket("1/1;2");
        let (later, earlier) = (100 * SECOND, 40 * SECOND);
        assert_eq!(take(&bucket, 1, later), Ok(1));
        assert_eq!(take(&bucket, 1, earlier), Err(60 * SECOND));
        assert_eq!(take(&bucket, 1, later), Ok(0));
        assert_eq!(take(&bucket, 1, later), Err(SECOND));
    }

    #[test]
    fn concurrent_requests_pass_exactly_up_to_the_limit() {
        let bucket = bucket("1/86400;1000");
        let passed: usize = thread::scope(|threads| {
            let many = || (0..100).filter(|_| bucket.take(1, SECOND).is_ok()).count();
            let all: Vec<_> = (0..64).map(|_| threads.spawn(many)).collect();
            all.into_iter().map(|one| one.join().unwrap()).sum()
        });
        assert_eq!(passed, 1000);
    }

    #[test]
    fn a_refund_can_be_taken_again_but_only_once() {
        let (clock, bucket) = timed("1/1;3");
        let now = || nanos(clock.boot());
        let first = bucket.take(2, now()).unwrap();
        bucket.take(1, now()).unwrap();
        bucket.give_back(2, first);
        assert_eq!(take(&bucket, 2, now()), Ok(0));
        assert_eq!(take(&bucket, 1, now()), Err(SECOND));
        // Time has refilled it already; the rest belongs to other requests.
        let (clock, bucket) = timed("1/1;3");
        let now = || nanos(clock.boot());
        let first = bucket.take(1, now()).unwrap();
        clock.advance(Duration::from_secs(1));
        bucket.take(3, now()).unwrap();
        bucket.give_back(1, first);
        assert_eq!(take(&bucket, 1, now()), Err(SECOND));
    }

    proptest! {
        /// The same arrivals get the same verdicts from another implementation.
        #[test]
        fn agrees_with_governor(
            (count, seconds) in (1_u32..2000, 1_u32..100),
            burst in 1_u32..50,
            arrivals in prop::collection::vec((0_u64..200, 1_u32..60), 1..200),
        ) {
            let limit = RateLimit::new(count, seconds, burst).unwrap();
            let bucket = Bucket::new(
                owner(),
                limit,
                Arc::new(ManualClock::at(Duration::ZERO)),
            );
            let clock = FakeRelativeClock::default();
            let quota = GovernorQuota::with_period(limit.interval()).unwrap();
            let quota = quota.allow_burst(NonZeroU32::new(burst).unwrap());
            let governor = RateLimiter::direct_with_clock(quota, clock.clone());
            let mut now = SECOND;
            for (hundredths, cost) in arrivals {
                let pause = limit.interval_nanos() * hundredths / 100;
                now += pause;
                clock.advance(Duration::from_nanos(pause));
                let theirs = governor.check_n(NonZeroU32::new(cost).unwrap());
                let theirs = theirs.is_ok_and(|passes| passes.is_ok());
                prop_assert_eq!(bucket.take(cost, now).is_ok(), theirs);
            }
        }

        /// Takes and refunds in any order never let more pass than the limit allows.
        #[test]
        fn never_lets_more_pass_than_the_limit(
            steps in prop::collection::vec((0_u64..300, 1_u32..4, any::<bool>()), 1..300),
        ) {
            let (clock, bucket) = timed("10/1;3");
            let mut kept = Vec::new();
            let mut open = Vec::new();
            for (millis, cost, give_back) in steps {
                clock.advance(Duration::from_millis(millis));
                let now = nanos(clock.boot());
                if let Ok(full_at) = bucket.take(cost, now) {
                    if give_back {
                        open.push((cost, full_at));
                    } else {
                        kept.push((now, cost));
                    }
                }
                if millis % 3 == 0 {
                    for (cost, full_at) in open.drain(..) {
                        bucket.give_back(cost, full_at);
                    }
                }
            }
            for (at, (from, _)) in kept.iter().enumerate() {
                let mut sum = 0;
                for (until, cost) in &kept[at..] {
                    sum += u64::from(*cost);
                    let most = 3 + (until - from) / bucket.limit().interval_nanos();
                    prop_assert!(sum <= most, "{sum} in {} ns", until - from);
                }
            }
        }
    }
}
