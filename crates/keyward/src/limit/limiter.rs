//! The interface for rate limiters that count outside this process.

use std::error::Error;
use std::fmt;
use std::iter;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use crate::limit::bucket::nanos;
use crate::limit::{Bucket, Quota};

/// A rate limiter that counts outside this process, for processes that share a limit.
///
/// Each process counts for itself unless the gate has a limiter, exactly and in its own memory;
/// after a restart all buckets are full. A limiter that cannot reach its backend may fall back on
/// [`Charge::take_here`]. If it returns an error, the request is refused with 503
/// `rate_limit_unavailable`.
///
/// ```
/// use std::time::Duration;
/// use keyward::limit::{Charge, Limiter, LimitOutcome, LimitFuture};
///
/// /// Counts in this process; a real limiter would call a server.
/// #[derive(Debug)]
/// struct Here;
///
/// impl Limiter for Here {
///     fn take(&self, charge: Charge, now: Duration) -> LimitFuture {
///         LimitFuture::Pending(Box::pin(async move { Ok(charge.take_here(now)) }))
///     }
///
///     fn give_back(&self, charge: Charge) {
///         charge.give_back_here();
///     }
/// }
/// # use std::sync::Arc;
/// # use keyward::{Environment, Gate, RateLimit};
/// # use keyward::gate::{Decision, Verdict};
/// # use keyward::testing::{TestRequest, World, block_on};
/// # let world = World::new();
/// # let (store, scheme) = (world.store(), world.scheme());
///
/// let gate = Gate::builder(store, scheme)
///     .rate_limits(Environment::LIVE, RateLimit::per_minute(1))
///     .limiter(Here)
///     .build()?;
/// # let request = TestRequest::get().key(&world.key("kyc"));
/// # let ask = || {
/// #     let Decision::Pending(pending) = gate.check(&request, &Arc::default(), None) else {
/// #         panic!("a limiter was asked");
/// #     };
/// #     block_on(pending.with_timer(|_| std::future::ready(())))
/// # };
/// assert!(matches!(ask(), Verdict::Admit(_)));
/// let Verdict::Refuse(refusal) = ask() else { panic!() };
/// assert_eq!(refusal.reply.status(), 429);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Limiter: fmt::Debug + Send + Sync + 'static {
    /// Takes the cost from every bucket of the charge, or from none.
    ///
    /// `now` is the time of [`Clock::boot`](crate::clock::Clock::boot), as [`Charge::take_here`] needs it.
    fn take(&self, charge: Charge, now: Duration) -> LimitFuture;

    /// Refunds a charge because the request was refused after all.
    ///
    /// The part that time has refilled already is not given back.
    fn give_back(&self, charge: Charge);
}

/// The response of a limiter: immediate, or a future. See [`Limiter`].
#[expect(clippy::exhaustive_enums, reason = "now or later, there is no third")]
pub enum LimitFuture {
    /// The immediate outcome.
    Ready(LimitOutcome),
    /// A future that resolves to the outcome.
    Pending(Pin<Box<dyn Future<Output = Result<LimitOutcome, LimiterError>> + Send>>),
}

impl fmt::Debug for LimitFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready(taken) => f.debug_tuple("Ready").field(taken).finish(),
            Self::Pending(_) => f.write_str("Pending(..)"),
        }
    }
}

/// The outcome of a charge. See [`Limiter`].
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "yes or no, there is no third")]
pub enum LimitOutcome {
    /// The cost was taken. Contains the charge, for a refund, and the most restrictive quota.
    All(Charge, Quota),
    /// Nothing was taken. Contains the most restrictive quota.
    Nothing(Quota),
}

/// The error of a limiter that cannot count. See [`Limiter`].
#[derive(Debug)]
pub struct LimiterError {
    source: Box<dyn Error + Send + Sync>,
}

impl LimiterError {
    /// Creates an error from its cause, which is logged.
    pub fn new(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        let source = source.into();
        Self { source }
    }
}

impl fmt::Display for LimiterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the rate limiter is unavailable")
    }
}

impl Error for LimiterError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.source)
    }
}

/// The cost of a request and the buckets to take it from. See [`Limiter`].
///
/// ```
/// # use keyward::limit::{Bucket, BucketOwner, Charge};
/// fn names(charge: &Charge) -> Vec<String> {
///     let name = |bucket: &Bucket| match bucket.owner() {
///         BucketOwner::Key(id) => format!("{id} {}", bucket.limit()),
///         BucketOwner::Account(id, environment) => format!("{id} {environment} {}", bucket.limit()),
///     };
///     charge.buckets().map(name).collect()
/// }
/// # let _ = names;
/// ```
#[derive(Debug)]
pub struct Charge {
    cost: u32,
    first: Drawn,
    /// Up to three more buckets fit inline; only a fifth one allocates.
    others: SmallVec<[Drawn; 3]>,
}

#[derive(Debug)]
struct Drawn {
    bucket: Arc<Bucket>,
    /// The time at which the bucket is full after the take; zero before.
    full_at: u64,
}

impl Charge {
    pub(crate) fn new(cost: u32, bucket: Arc<Bucket>) -> Self {
        Self {
            cost,
            first: Drawn::new(bucket),
            others: SmallVec::new(),
        }
    }

    /// Adds a bucket unless it is already present.
    pub(crate) fn add(&mut self, bucket: Arc<Bucket>) {
        if !self
            .drawn()
            .any(|drawn| Arc::ptr_eq(&drawn.bucket, &bucket))
        {
            self.others.push(Drawn::new(bucket));
        }
    }

    /// Returns the cost to take from each bucket, at most the burst of each.
    #[must_use]
    pub fn cost(&self) -> u32 {
        self.cost
    }

    /// Returns the buckets. No two share both owner and limit.
    pub fn buckets(&self) -> impl Iterator<Item = &Bucket> {
        self.drawn().map(|drawn| &*drawn.bucket)
    }

    /// Takes the cost from the buckets of this process, all or nothing.
    ///
    /// `now` is the time of [`Clock::boot`](crate::clock::Clock::boot).
    #[must_use]
    pub fn take_here(mut self, now: Duration) -> LimitOutcome {
        let cost = self.cost;
        // Check first, so that a refusal by one bucket costs the others nothing.
        if let Some(quota) = self.refusal(now) {
            return LimitOutcome::Nothing(quota);
        }
        let now = nanos(now);
        let mut tightest = match self.first.take(cost, now) {
            Ok(quota) => quota,
            Err(quota) => return LimitOutcome::Nothing(quota),
        };
        let mut refused = None;
        for drawn in &mut self.others {
            match drawn.take(cost, now) {
                Ok(quota) => tightest = tightest.tighter(quota),
                Err(quota) => {
                    refused = Some(quota);
                    break;
                }
            }
        }
        match refused {
            None => LimitOutcome::All(self, tightest),
            // A concurrent request was faster. Until the refund, others may be refused needlessly.
            Some(quota) => {
                self.give_back_here();
                LimitOutcome::Nothing(quota)
            }
        }
    }

    /// Returns the quota with the longest wait if any bucket would refuse the charge.
    pub(crate) fn refusal(&self, now: Duration) -> Option<Quota> {
        let (cost, now) = (self.cost, nanos(now));
        let levels = self
            .drawn()
            .map(|drawn| drawn.bucket.quota(drawn.bucket.level(cost, now)));
        let refusing = levels.filter(|quota| !quota.wait().is_zero());
        refusing.reduce(Quota::tighter)
    }

    /// Refunds the charge to the buckets of this process.
    pub fn give_back_here(self) {
        for drawn in self.drawn().filter(|drawn| drawn.full_at > 0) {
            drawn.bucket.give_back(self.cost, drawn.full_at);
        }
    }

    fn drawn(&self) -> impl Iterator<Item = &Drawn> {
        iter::once(&self.first).chain(&self.others)
    }
}

impl Drawn {
    fn new(bucket: Arc<Bucket>) -> Self {
        let full_at = 0;
        Self { bucket, full_at }
    }

    fn take(&mut self, cost: u32, now: u64) -> Result<Quota, Quota> {
        match self.bucket.take(cost, now) {
            Ok(full_at) => {
                self.full_at = full_at;
                Ok(self.bucket.quota(self.bucket.level_at(full_at, 0, now)))
            }
            Err(level) => Err(self.bucket.quota(level)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::ids::KeyId;
    use crate::limit::{BucketOwner, RateLimit};

    const NOW: Duration = Duration::from_secs(100);

    fn bucket(limit: &str) -> Arc<Bucket> {
        let owner = BucketOwner::Key(KeyId::random().unwrap());
        let limit = RateLimit::parse(limit).unwrap();
        Arc::new(Bucket::new(owner, limit, Arc::new(ManualClock::at(NOW))))
    }

    fn remaining(bucket: &Bucket) -> u64 {
        bucket.level(0, nanos(NOW)).remaining
    }

    #[test]
    fn a_charge_that_loses_a_race_takes_nothing() {
        let (wide, narrow) = (bucket("9/60;9"), bucket("3/3600;3"));
        let mut charge = Charge::new(2, Arc::clone(&wide));
        // There is room at the check but no longer at the take.
        let twice = [Arc::clone(&narrow), Arc::clone(&narrow)];
        charge.others.extend(twice.map(Drawn::new));
        assert!(matches!(charge.take_here(NOW), LimitOutcome::Nothing(_)));
        assert_eq!((remaining(&wide), remaining(&narrow)), (9, 3));
    }

    #[test]
    fn the_longest_wait_of_the_refusing_limits_is_reported() {
        let buckets = [bucket("1/1;1"), bucket("1/3600;1"), bucket("1/60;1")];
        let charge = || {
            let [first, others @ ..] = buckets.each_ref().map(Arc::clone);
            let mut charge = Charge::new(1, first);
            for bucket in others {
                charge.add(bucket);
            }
            charge
        };
        assert!(matches!(charge().take_here(NOW), LimitOutcome::All(..)));
        let LimitOutcome::Nothing(quota) = charge().take_here(NOW) else {
            panic!()
        };
        assert_eq!(quota.wait(), Duration::from_secs(3600));
    }
}
