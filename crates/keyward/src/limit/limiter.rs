//! The interface for rate limiters that count outside this process.

use std::error::Error;
use std::fmt;
use std::iter;
use std::mem;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use crate::limit::bucket::nanos;
use crate::limit::{Bucket, Quota};

/// A rate limiter that counts outside this process, for processes that share a limit.
///
/// Each process counts for itself unless the gate has a limiter, exactly and in its own memory;
/// after a restart all buckets are full. The crate `keyward-redis` has a limiter that counts in Redis.
///
/// A limiter that asks a server calls [`Charge::reserve_here`] before it asks and
/// [`Charge::counted`] with the answer. If the server cannot be reached, it may fall back on
/// [`Charge::take_share_here`]. If it returns an error, the request is refused with 503
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

impl<L: Limiter + ?Sized> Limiter for Arc<L> {
    fn take(&self, charge: Charge, now: Duration) -> LimitFuture {
        (**self).take(charge, now)
    }

    fn give_back(&self, charge: Charge) {
        (**self).give_back(charge);
    }
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
///         BucketOwner::Key(account, _, key) => format!("{account} {key} {}", bucket.limit()),
///         BucketOwner::Account(account, _) => format!("{account} {}", bucket.limit()),
///     };
///     charge.buckets().map(name).collect()
/// }
/// # let _ = names;
/// ```
#[derive(Debug)]
pub struct Charge {
    cost: u32,
    /// The number of equal shares of which one was charged here; `None` if a server was charged.
    shares: Option<NonZeroU32>,
    first: Drawn,
    /// Up to three more buckets fit inline; only a fifth one allocates.
    others: SmallVec<[Drawn; 3]>,
}

#[derive(Debug)]
struct Drawn {
    bucket: Arc<Bucket>,
    /// The time at which the bucket is full after the take, or the receipt of the server; zero
    /// before.
    full_at: u64,
}

/// The level of a bucket, as a server has counted it. See [`Charge::counted`].
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a limiter makes it")]
pub struct CountedLevel {
    /// The time until the bucket is full, counted from when the server was asked.
    pub full_in: Duration,
    /// A number for the refund, such as the time at which the bucket is full by the server's clock.
    pub receipt: u64,
}

impl Charge {
    pub(crate) fn new(cost: u32, bucket: Arc<Bucket>) -> Self {
        Self {
            cost,
            shares: Some(NonZeroU32::MIN),
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
    pub fn take_here(self, now: Duration) -> LimitOutcome {
        // Check first, so that a refusal by one bucket costs the others nothing.
        match self.refusal(now) {
            Some(quota) => LimitOutcome::Nothing(quota),
            None => self.take_each(Drawn::take, now),
        }
    }

    /// Takes the cost from this process's share of each bucket, all or nothing.
    ///
    /// Each of `shares` processes lets an equal part of the limit pass, but always one request when
    /// its bucket is full: with a burst of 10 and 4 processes, each lets 2 pass at once.
    ///
    /// For a limiter that cannot reach its server, and for several processes without one. What was
    /// [reserved](Self::reserve_here) is returned first. A process knows what was left at the last
    /// [answer](Self::counted), and continues from there.
    #[must_use]
    pub fn take_share_here(mut self, shares: NonZeroU32, now: Duration) -> LimitOutcome {
        self.release();
        self.shares = Some(shares);
        let (cost, from) = (self.cost, nanos(now));
        let level = |drawn: &Drawn| drawn.share_quota(cost, shares, from);
        let levels = self.drawn().map(level);
        let refusing = levels.filter(|quota| !quota.wait().is_zero());
        match refusing.reduce(Quota::tighter) {
            Some(quota) => LimitOutcome::Nothing(quota),
            None => self.take_each(|drawn, cost, now| drawn.take_share(cost, shares, now), now),
        }
    }

    fn take_each(
        mut self,
        take: impl Fn(&mut Drawn, u32, u64) -> Result<Quota, Quota>,
        now: Duration,
    ) -> LimitOutcome {
        let (cost, now) = (self.cost, nanos(now));
        let mut tightest = match take(&mut self.first, cost, now) {
            Ok(quota) => quota,
            Err(quota) => return LimitOutcome::Nothing(quota),
        };
        let mut refused = None;
        for drawn in &mut self.others {
            match take(drawn, cost, now) {
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

    /// Reserves the cost in this process before a server is asked for it.
    ///
    /// Each bucket remembers what the server [said](Self::counted) last. If the cost is more than can
    /// be left by now, the server would refuse, so the quota is returned as an error and the server
    /// is not asked. While such a refusal lasts, one request is let through as soon as the last
    /// answer is older than `max_age`, since other processes may have given something back.
    ///
    /// # Errors
    /// Returns the most restrictive quota if the request has to be refused.
    pub fn reserve_here(self, now: Duration, max_age: Duration) -> Result<Self, Quota> {
        let Some(quota) = self.refusal(now) else {
            return match self.take_here(now) {
                LimitOutcome::All(reserved, _) => {
                    let buckets = reserved.buckets();
                    buckets.for_each(|bucket| bucket.ask(nanos(now)));
                    Ok(reserved)
                }
                LimitOutcome::Nothing(quota) => Err(quota),
            };
        };
        let (cost, now, max_age) = (self.cost, nanos(now), nanos(max_age));
        let refuses = |drawn: &&Drawn| drawn.bucket.level(cost, now).wait > 0;
        let is_known = |drawn: &Drawn| drawn.bucket.is_known(max_age, now);
        let first_to_ask = |drawn: &Drawn| drawn.bucket.first_to_ask(max_age, now);
        let is_certain = self.drawn().filter(refuses).any(is_known)
            || !self.drawn().find(refuses).is_some_and(first_to_ask);
        if is_certain { Err(quota) } else { Ok(self) }
    }

    /// Concludes a charge for which a server was asked.
    ///
    /// `levels` are the levels after the charge in the order of [`buckets`](Self::buckets); `now` is
    /// the time at which the server was asked. If nothing was taken, what was reserved is replaced by
    /// what the server said.
    ///
    /// ```
    /// use std::time::Duration;
    /// use keyward::limit::{Charge, CountedLevel, LimitFuture, LimitOutcome, Limiter};
    ///
    /// /// Asks a server, which here always answers that the bucket is full in two seconds.
    /// #[derive(Debug)]
    /// struct Remote;
    ///
    /// impl Limiter for Remote {
    ///     fn take(&self, charge: Charge, now: Duration) -> LimitFuture {
    ///         match charge.reserve_here(now, Duration::from_secs(1)) {
    ///             Err(quota) => LimitFuture::Ready(LimitOutcome::Nothing(quota)),
    ///             Ok(charge) => LimitFuture::Pending(Box::pin(async move {
    ///                 let level = CountedLevel { full_in: Duration::from_secs(2), receipt: 7 };
    ///                 Ok(charge.counted(true, [level], now))
    ///             })),
    ///         }
    ///     }
    ///
    ///     fn give_back(&self, charge: Charge) {
    ///         let receipts: Vec<u64> = charge.receipts().into_iter().flatten().collect();
    ///         assert_eq!(receipts, [7]); // for the server
    ///         charge.give_back_here();
    ///     }
    /// }
    /// # use std::sync::Arc;
    /// # use keyward::{Environment, Gate, RateLimit};
    /// # use keyward::gate::{Access, Verdict};
    /// # use keyward::testing::{TestRequest, World, decided};
    /// # let world = World::new();
    ///
    /// let gate = world.builder()
    ///     .rate_limits(Environment::LIVE, RateLimit::per_minute(60))
    ///     .limiter(Remote)
    ///     .build()?;
    /// let request = TestRequest::get().key(&world.key("kyc"));
    /// let verdict = decided(gate.check(&request, &Arc::default(), None));
    /// let Verdict::Admit(admitted) = verdict else { panic!() };
    /// let Some(Access::Principal(principal)) = admitted.access else { panic!() };
    /// assert_eq!(principal.quota().unwrap().remaining(), 58);
    /// admitted.finish.give_back();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn counted(
        mut self,
        is_taken: bool,
        levels: impl IntoIterator<Item = CountedLevel>,
        now: Duration,
    ) -> LimitOutcome {
        let asked_at = nanos(now);
        let cost = if is_taken { 0 } else { self.cost };
        let mut tightest: Option<Quota> = None;
        for (drawn, level) in iter::once(&mut self.first)
            .chain(&mut self.others)
            .zip(levels)
        {
            let full_at = asked_at.saturating_add(nanos(level.full_in));
            let is_reserved = drawn.full_at > 0;
            drawn.bucket.note(full_at, is_taken && is_reserved);
            drawn.full_at = level.receipt;
            let level = drawn.bucket.level_at(full_at, cost, asked_at);
            let quota = drawn.bucket.quota(level);
            tightest = Some(tightest.map_or(quota, |tightest| tightest.tighter(quota)));
        }
        self.shares = None;
        let unknown = || {
            self.first
                .bucket
                .quota(self.first.bucket.level(cost, asked_at))
        };
        let tightest = tightest.unwrap_or_else(unknown);
        if is_taken {
            LimitOutcome::All(self, tightest)
        } else {
            LimitOutcome::Nothing(tightest)
        }
    }

    /// Returns the receipts of the server that was charged, in the order of the buckets.
    ///
    /// `None` if this process was charged, because the server could not be reached.
    #[must_use]
    pub fn receipts(&self) -> Option<impl Iterator<Item = u64>> {
        let counted_elsewhere = self.shares.is_none();
        counted_elsewhere.then(|| self.drawn().map(|drawn| drawn.full_at))
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
    ///
    /// If a server was charged, this process only remembers that more is left; the server has to be
    /// told as well, with the [receipts](Self::receipts).
    pub fn give_back_here(mut self) {
        self.release();
    }

    fn release(&mut self) {
        let (cost, shares) = (self.cost, self.shares);
        for drawn in iter::once(&mut self.first).chain(&mut self.others) {
            match (mem::take(&mut drawn.full_at), shares) {
                (_, None) => drawn.bucket.forget(cost),
                (0, _) => {}
                (full_at, Some(shares)) => {
                    let cost = cost.saturating_mul(shares.get());
                    drawn.bucket.give_back(cost, full_at);
                }
            }
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

    fn take_share(&mut self, cost: u32, shares: NonZeroU32, now: u64) -> Result<Quota, Quota> {
        let taken = self.bucket.take_share(cost, shares.get(), now);
        self.full_at = taken.map_err(|level| self.bucket.quota(level))?;
        Ok(self.share_quota(0, shares, now))
    }

    fn share_quota(&self, cost: u32, shares: NonZeroU32, now: u64) -> Quota {
        let level = self.bucket.share_level(cost, shares.get(), now);
        self.bucket.quota(level)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::environment::Environment;
    use crate::ids::{AccountId, KeyId};
    use crate::limit::{BucketOwner, RateLimit};

    const NOW: Duration = Duration::from_secs(100);

    fn bucket(limit: &str) -> Arc<Bucket> {
        let acme = AccountId::parse("acme").unwrap();
        let owner = BucketOwner::Key(acme, Environment::LIVE, KeyId::random().unwrap());
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

    const SECOND: Duration = Duration::from_secs(1);

    fn charge(bucket: &Arc<Bucket>) -> Charge {
        Charge::new(1, Arc::clone(bucket))
    }

    fn passes(outcome: &LimitOutcome) -> bool {
        matches!(outcome, LimitOutcome::All(..))
    }

    fn level(seconds: u64) -> [CountedLevel; 1] {
        let full_in = Duration::from_secs(seconds);
        [CountedLevel {
            full_in,
            receipt: 1,
        }]
    }

    /// How many requests pass at once in one of `shares` processes.
    fn share(bucket: &Arc<Bucket>, shares: u32, now: Duration) -> usize {
        let shares = NonZeroU32::new(shares).unwrap();
        let taken = (0..100).map(|_| charge(bucket).take_share_here(shares, now));
        taken.take_while(passes).count()
    }

    #[test]
    fn shares_of_a_limit_add_up_to_it_but_each_is_at_least_one() {
        for (limit, shares, each, later) in [
            ("10/60;10", 1, 10, 10),
            ("10/60;10", 5, 2, 2),
            ("10/60;10", 4, 2, 2), // two more would be more than the limit
            ("10/60;10", 10, 1, 1),
            ("10/60;10", 40, 1, 0), // one in four minutes
            ("1/1;1", 3, 1, 1),
        ] {
            let bucket = bucket(limit);
            assert_eq!(share(&bucket, shares, NOW), each, "{limit} / {shares}");
            let minute = NOW + 60 * SECOND;
            assert_eq!(share(&bucket, shares, minute), later, "{limit} / {shares}");
        }
        let bucket = bucket("10/60;10");
        let quota = |outcome| match outcome {
            LimitOutcome::All(_, quota) | LimitOutcome::Nothing(quota) => quota,
        };
        let five = NonZeroU32::new(5).unwrap();
        let first = quota(charge(&bucket).take_share_here(five, NOW));
        assert_eq!((first.remaining(), first.wait()), (1, Duration::ZERO));
        quota(charge(&bucket).take_share_here(five, NOW));
        let third = quota(charge(&bucket).take_share_here(five, NOW));
        assert_eq!((third.remaining(), third.wait()), (0, 30 * SECOND));
    }

    #[test]
    fn a_share_continues_from_what_the_server_said_last() {
        let bucket = bucket("10/60;10");
        let asked = charge(&bucket).reserve_here(NOW, SECOND).unwrap();
        assert!(passes(&asked.counted(true, level(36), NOW)));
        assert_eq!(share(&bucket, 2, NOW), 2, "four are left of ten");
    }

    #[test]
    fn a_failed_share_returns_the_reservation_and_can_be_refunded() {
        let bucket = bucket("10/60;10");
        let asked = charge(&bucket).reserve_here(NOW, SECOND).unwrap();
        assert_eq!(remaining(&bucket), 9);
        let five = NonZeroU32::new(5).unwrap();
        let LimitOutcome::All(taken, _) = asked.take_share_here(five, NOW) else {
            panic!()
        };
        assert_eq!(remaining(&bucket), 5);
        assert!(taken.receipts().is_none());
        taken.give_back_here();
        assert_eq!(remaining(&bucket), 10);
    }

    #[test]
    fn a_refusal_is_remembered_but_one_request_asks_again() {
        let bucket = bucket("1/60;1");
        let ask = |now| charge(&bucket).reserve_here(now, SECOND);
        let asked = ask(NOW).unwrap();
        assert!(!passes(&asked.counted(false, level(60), NOW)));
        for millis in [0, 1, 999] {
            let now = NOW + Duration::from_millis(millis);
            let wait = ask(now).unwrap_err().wait();
            assert_eq!(now + wait, NOW + 60 * SECOND);
        }
        let later = NOW + SECOND;
        let asked = ask(later).expect("the answer is a second old");
        assert!(ask(later).is_err(), "another request has asked");
        // Another process has given back what it took.
        let LimitOutcome::All(taken, quota) = asked.counted(true, level(0), later) else {
            panic!()
        };
        assert_eq!(quota.remaining(), 1);
        assert_eq!(taken.receipts().unwrap().collect::<Vec<_>>(), [1]);
        assert!(ask(later).is_ok());
    }

    #[test]
    fn a_refund_of_the_server_is_known_at_once() {
        let bucket = bucket("1/60;1");
        let asked = charge(&bucket).reserve_here(NOW, SECOND).unwrap();
        let LimitOutcome::All(taken, _) = asked.counted(true, level(60), NOW) else {
            panic!()
        };
        assert!(charge(&bucket).reserve_here(NOW, SECOND).is_err());
        taken.give_back_here();
        assert!(charge(&bucket).reserve_here(NOW, SECOND).is_ok());
    }

    #[test]
    fn no_more_requests_ask_at_once_than_can_pass() {
        let bucket = bucket("3/60;3");
        let asked: Vec<_> = (0..10)
            .map_while(|_| charge(&bucket).reserve_here(NOW, SECOND).ok())
            .collect();
        assert_eq!(asked.len(), 3);
        // An answer to the first does not contain the others.
        let mut asked = asked.into_iter();
        assert!(passes(&asked.next().unwrap().counted(true, level(20), NOW)));
        assert!(charge(&bucket).reserve_here(NOW, SECOND).is_err());
    }
}
