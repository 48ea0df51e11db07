//! Credits that this process has drawn from the store.

use std::collections::BTreeMap;
use std::fmt;
use std::mem;
use std::pin::Pin;
use std::sync::atomic::AtomicU64 as ShownNumber;
use std::sync::{Arc, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use crate::clock::unix_time;
use crate::credits::{CreditGrant, CreditOwner, CreditStatus, CreditWant, Unspent};
use crate::limit::bucket::nanos;
use crate::limit::quota::{CreditQuota, seconds};
use crate::replica::Replica;
use crate::replica::replica::WeakReplica;
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard};

/// The time for which a balance is assumed to have no more credits than after the last draw. Credits
/// may be returned or added meanwhile.
const BELIEF: Duration = Duration::from_secs(1);

/// The period whose spending determines how many credits are drawn ahead.
const LATELY: Duration = Duration::from_secs(1);

/// The credits of one owner that were drawn from the store and not spent yet.
pub(crate) struct CreditCache {
    owner: CreditOwner,
    /// The epoch of the balance (upper half) and the number of credits (lower half).
    held: AtomicU64,
    /// The number of credits in the last grant.
    granted: AtomicU32,
    /// The time of the next refill, in nanoseconds since the Unix epoch.
    refill_at: AtomicU64,
    shown: Shown,
    /// The number of credits in the store after the last draw, as far as this process knows.
    stored: AtomicU64,
    /// The time until which `stored` is assumed to be true, in nanoseconds of the boot clock.
    stored_until: AtomicU64,
    /// The number of credits that may be held ahead of waiting requests.
    ahead: AtomicU32,
    /// The number of credits that waiting requests need: the sum of `waits`.
    wanted: AtomicU64,
    /// The costs of waiting requests, oldest first.
    waits: Mutex<BTreeMap<u64, Amount>>,
    /// True if the store was asked and has not responded.
    asked: AtomicBool,
    /// True if the store was notified of the excess and has not taken it.
    is_excess_told: AtomicBool,
    /// The replica, to notify the store.
    replica: OnceLock<WeakReplica>,
    /// The number of credits drawn and not returned. Those that are not held were spent.
    given: AtomicU64,
    /// Used only when the store asks, which is rare.
    pace: Mutex<Pace>,
    answers: AtomicU32,
    failures: AtomicU32,
    waiting: Mutex<Vec<Waker>>,
}

/// What is only shown: it decides nothing, so loom need not try it in every order.
#[derive(Default)]
struct Shown {
    /// The soft limit; zero if there is none.
    warn_below: ShownNumber,
    /// The credits of a period of the calendar, and its length in seconds; zero without a schedule.
    period_credits: ShownNumber,
    period_length: ShownNumber,
}

/// Two readings of the total spending, at least half a second apart.
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    older: (Duration, u64),
    newer: (Duration, u64),
}

/// Wakes the requests that wait for a grant when it is dropped.
///
/// Returned by [`Replica::grant_deferred`](crate::replica::Replica::grant_deferred).
///
/// ```
/// use keyward::replica::{DeferredWake, Replica};
/// use keyward::credits::CreditGrant;
///
/// fn grant_all(replica: &Replica, grants: &[CreditGrant]) -> Vec<DeferredWake> {
///     grants.iter().map(|grant| replica.grant_deferred(grant)).collect()
/// }
/// assert!(grant_all(&Replica::new(), &[]).is_empty());
/// ```
#[derive(Debug)]
#[must_use = "requests that wait for the grant are woken when it is dropped"]
pub struct DeferredWake(pub(super) Option<Arc<CreditCache>>);

impl Drop for DeferredWake {
    fn drop(&mut self) {
        if let Some(credit_cache) = &self.0 {
            credit_cache.wake_all();
        }
    }
}

/// Spent credits, which are refunded if the request is refused after all.
#[derive(Debug)]
pub(crate) struct Spent {
    credit_cache: Arc<CreditCache>,
    epoch: u32,
    amount: u32,
}

impl Spent {
    /// Creates a charge of zero credits.
    pub(crate) fn nothing(credit_cache: Arc<CreditCache>) -> Self {
        Self {
            credit_cache,
            epoch: 0,
            amount: 0,
        }
    }

    /// Refunds the credits, unless they were refunded or kept before.
    pub(crate) fn give_back(&mut self) {
        let amount = mem::take(&mut self.amount);
        if amount > 0 {
            self.credit_cache.put(self.epoch, amount);
        }
    }

    /// Makes the charge final.
    pub(crate) fn keep(&mut self) {
        self.amount = 0;
    }

    pub(crate) fn amount(&self) -> u32 {
        self.amount
    }

    pub(crate) fn credit_cache(&self) -> &CreditCache {
        &self.credit_cache
    }
}

/// The number of credits to spend.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Amount {
    /// All of them, or none.
    All(u32),
    /// As many as are left, at most this number.
    UpTo(u32),
}

impl Amount {
    pub(crate) fn most(self) -> u32 {
        match self {
            Self::All(most) | Self::UpTo(most) => most,
        }
    }
}

/// The reason for not spending credits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotSpent {
    /// Too few credits are left.
    Exhausted,
    /// The store has to be asked.
    Ask,
}

impl CreditCache {
    pub(crate) fn new(owner: CreditOwner) -> Self {
        Self {
            owner,
            held: AtomicU64::new(0),
            granted: AtomicU32::new(0),
            refill_at: AtomicU64::new(u64::MAX),
            shown: Shown::default(),
            stored: AtomicU64::new(0),
            stored_until: AtomicU64::new(0),
            ahead: AtomicU32::new(0),
            wanted: AtomicU64::new(0),
            waits: Mutex::default(),
            asked: AtomicBool::new(false),
            is_excess_told: AtomicBool::new(false),
            replica: OnceLock::new(),
            given: AtomicU64::new(0),
            pace: Mutex::default(),
            answers: AtomicU32::new(0),
            failures: AtomicU32::new(0),
            waiting: Mutex::default(),
        }
    }

    /// Spends held credits of the epoch in the record or of a later one.
    pub(crate) fn spend(
        self: &Arc<Self>,
        amount: u32,
        epoch: u32,
        replica: &Replica,
    ) -> Result<Spent, NotSpent> {
        if self.is_refill_due(replica) {
            return Err(NotSpent::Ask);
        }
        self.spend_held(amount, epoch, replica)
    }

    /// Spends held credits, even if a refill is due.
    fn spend_held(
        self: &Arc<Self>,
        amount: u32,
        epoch: u32,
        replica: &Replica,
    ) -> Result<Spent, NotSpent> {
        let (read, done) = (Ordering::Acquire, Ordering::AcqRel);
        let spend = self.held.fetch_update(done, read, |held| {
            let (own, left) = parts(held);
            (own >= epoch && left >= amount).then(|| joined(own, left - amount))
        });
        match spend {
            Ok(before) => {
                let (epoch, left) = parts(before);
                // Early enough that no request has to wait.
                if left - amount < self.granted.load(Ordering::Relaxed) / 4 {
                    self.ask(replica, false);
                }
                let credit_cache = Arc::clone(self);
                Ok(Spent {
                    credit_cache,
                    epoch,
                    amount,
                })
            }
            Err(_) if self.is_too_little(amount, epoch, replica) => Err(NotSpent::Exhausted),
            Err(_) => Err(NotSpent::Ask),
        }
    }

    /// Returns whether a request would be refused, as far as this process knows.
    pub(crate) fn would_refuse(&self, amount: u32, epoch: u32, replica: &Replica) -> bool {
        !self.is_refill_due(replica) && self.is_too_little(amount, epoch, replica)
    }

    fn is_refill_due(&self, replica: &Replica) -> bool {
        nanos(replica.clock().unix()) >= self.refill_at.load(Ordering::Acquire)
    }

    /// Returns whether the held credits and those in the store are presumably too few.
    fn is_too_little(&self, amount: u32, epoch: u32, replica: &Replica) -> bool {
        let until = self.stored_until.load(Ordering::Acquire);
        let stored = self.stored.load(Ordering::Acquire);
        let (own, held) = parts(self.held.load(Ordering::Acquire));
        own >= epoch
            && stored.saturating_add(held.into()) < amount.into()
            && nanos(replica.clock().boot()) < until
            // The two numbers are of one moment: no credits have come or been returned in between.
            && self.stored_until.load(Ordering::Acquire) == until
    }

    /// Spends credits after drawing them from the store. The error is `Ask` if the store cannot
    /// respond.
    pub(crate) async fn fetch(
        self: Arc<Self>,
        amount: Amount,
        epoch: u32,
        replica: Replica,
    ) -> Result<Spent, NotSpent> {
        let most = amount.most();
        let mut spent = self.spend(most, epoch, &replica);
        let _waits = Waits::new(&self, amount);
        let (mut has_asked, mut seen) = (false, None);
        loop {
            match (&spent, amount) {
                (Ok(_), _) | (Err(NotSpent::Exhausted), Amount::All(_)) => return spent,
                // All that the store had is held.
                (Err(NotSpent::Exhausted), Amount::UpTo(_))
                    if has_asked && self.stored.load(Ordering::Acquire) == 0 =>
                {
                    return Ok(self.spend_rest(most, epoch));
                }
                (Err(_), _) => has_asked = true,
            }
            let answer = Answer {
                answers: self.answers.load(Ordering::Acquire),
                failures: self.failures.load(Ordering::Acquire),
                credit_cache: &self,
            };
            let answered = self.ask(&replica, true) && answer.await;
            // A balance older than the record is not the right one.
            if !answered || parts(self.held.load(Ordering::Acquire)).0 < epoch {
                return Err(NotSpent::Ask);
            }
            // The store decides when a refill is due: its clock may be behind, and asking
            // repeatedly would drain the balance.
            spent = self.spend_held(most, epoch, &replica);
            let left = (
                self.stored.load(Ordering::Acquire),
                parts(self.held.load(Ordering::Acquire)),
            );
            let (stored, (_, held)) = left;
            if matches!((amount, &spent), (Amount::All(_), Err(NotSpent::Ask)))
                && stored.saturating_add(held.into()) < self.wanted.load(Ordering::Acquire)
                && seen.replace(left) == Some(left)
            {
                // Not all can be paid, and the store gave nothing more: what is held is for requests
                // that came earlier.
                return Err(NotSpent::Exhausted);
            }
        }
    }

    /// Spends the held credits, at most this number.
    fn spend_rest(self: &Arc<Self>, most: u32, epoch: u32) -> Spent {
        let (read, done) = (Ordering::Acquire, Ordering::AcqRel);
        let spend = self.held.fetch_update(done, read, |held| {
            let (own, left) = parts(held);
            (own >= epoch).then(|| joined(own, left.saturating_sub(most)))
        });
        let (epoch, left) = spend.map_or((epoch, 0), parts);
        Spent {
            credit_cache: Arc::clone(self),
            epoch,
            amount: left.min(most),
        }
    }

    /// Asks the store for credits; `false` if it will not respond. Without `must`, the next request
    /// tries again if the list is in use.
    fn ask(self: &Arc<Self>, replica: &Replica, must: bool) -> bool {
        let will_answer = self.asked.load(Ordering::Acquire) || replica.want(self, must);
        if !will_answer {
            self.fail();
        }
        will_answer
    }

    /// Returns `true` to the first caller since the last response. Call it only if the store can
    /// then be asked, because others rely on the response.
    pub(crate) fn first_to_ask(&self, replica: &Replica) -> bool {
        self.replica.get_or_init(|| replica.downgrade());
        !self.asked.swap(true, Ordering::AcqRel)
    }

    /// Notifies the store once if more credits are held than allowed.
    fn tell_excess(self: &Arc<Self>) {
        let (_, left) = parts(self.held.load(Ordering::Acquire));
        if left > self.most()
            && !self.is_excess_told.swap(true, Ordering::AcqRel)
            && let Some(replica) = self.replica()
        {
            replica.has_excess(self);
        }
    }

    /// Returns how many credits may be held: those for waiting requests and those drawn ahead.
    fn most(&self) -> u32 {
        let ahead = self.ahead.load(Ordering::Acquire);
        ahead.saturating_add(self.wanted())
    }

    /// Returns how many credits waiting requests need.
    fn wanted(&self) -> u32 {
        u32::try_from(self.wanted.load(Ordering::Acquire)).unwrap_or(u32::MAX)
    }

    fn waits(&self) -> MutexGuard<'_, BTreeMap<u64, Amount>> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes excess credits, if more are held than allowed.
    pub(crate) fn take_excess(&self, now: Duration) -> Option<Unspent> {
        // This comes first and is a read-modify-write: a thread that added credits and found the
        // store notified is seen here, and any later one notifies it again.
        self.is_excess_told.swap(false, Ordering::AcqRel);
        let (_, left) = parts(self.held.load(Ordering::Acquire));
        (left > self.most()).then(|| self.take_unspent(false, now))?
    }

    /// Returns the request to the store.
    pub(crate) fn take_want(&self, now: Duration) -> CreditWant {
        let (epoch, held) = parts(self.held.load(Ordering::Acquire));
        let (mut all_or_none, mut up_to) = (Vec::new(), 0_u32);
        for amount in self.waits().values() {
            match *amount {
                Amount::All(cost) => all_or_none.push(cost),
                Amount::UpTo(most) => up_to = up_to.saturating_add(most),
            }
        }
        CreditWant {
            owner: self.owner.clone(),
            all_or_none,
            up_to,
            spent: self.spent_lately(now),
            held,
            epoch,
        }
    }

    /// Returns the replica that the credits belong to, unless it is gone.
    pub(crate) fn replica(&self) -> Option<Replica> {
        self.replica.get()?.upgrade()
    }

    /// Sets the replica that the credits belong to.
    pub(crate) fn belongs_to(&self, replica: &WeakReplica) {
        self.replica.get_or_init(|| replica.clone());
    }

    /// Returns the owner of the balance.
    pub(crate) fn owner(&self) -> &CreditOwner {
        &self.owner
    }

    /// Returns the held credits.
    pub(crate) fn held(&self) -> Unspent {
        let (epoch, amount) = parts(self.held.load(Ordering::Acquire));
        self.unspent(epoch, amount)
    }

    /// Returns what is known of the balance; `None` before the first draw.
    pub(crate) fn status(&self) -> Option<CreditStatus> {
        let (epoch, held) = parts(self.held.load(Ordering::Acquire));
        let stored = self.stored.load(Ordering::Acquire);
        let left = stored.saturating_add(held.into());
        (epoch > 0).then(|| CreditStatus {
            left,
            is_low: left < self.shown.warn_below.load(Ordering::Acquire),
            refill_at: self.refill_at().map(|at| SystemTime::UNIX_EPOCH + at),
        })
    }

    /// Returns the state of the quota; `None` without a schedule.
    pub(crate) fn quota(&self, now: Duration) -> Option<CreditQuota> {
        let window = self.shown.period_length.load(Ordering::Acquire);
        (window > 0).then_some(())?;
        Some(CreditQuota {
            credits: self.shown.period_credits.load(Ordering::Acquire),
            window,
            left: self.status()?.left,
            warn_below: self.shown.warn_below.load(Ordering::Acquire),
            reset: self.refill_in(now)?,
        })
    }

    /// Returns the seconds until the next refill, if there is one.
    pub(crate) fn refill_in(&self, now: Duration) -> Option<u64> {
        Some(seconds(self.refill_at()?.saturating_sub(now)))
    }

    /// Returns the time of the next refill since the Unix epoch, if there is one.
    fn refill_at(&self) -> Option<Duration> {
        let at = self.refill_at.load(Ordering::Acquire);
        (at < u64::MAX).then(|| Duration::from_nanos(at))
    }

    /// Returns whether it is empty and expects nothing, so that a new one would be equal.
    pub(crate) fn is_idle(&self) -> bool {
        self.held().amount == 0 && !self.asked.load(Ordering::Acquire)
    }

    /// Returns the spending of the last second, or of its last half.
    fn spent_lately(&self, now: Duration) -> u32 {
        let (_, held) = parts(self.held.load(Ordering::Acquire));
        let given = self.given.load(Ordering::Acquire);
        let spent = given.saturating_sub(held.into());
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_sub(pace.newer.0) >= LATELY / 2 {
            pace.older = mem::replace(&mut pace.newer, (now, spent));
        }
        let is_late = now.saturating_sub(pace.older.0) <= LATELY;
        let (_, before) = if is_late { pace.older } else { pace.newer };
        u32::try_from(spent.saturating_sub(before)).unwrap_or(u32::MAX)
    }

    fn unspent(&self, epoch: u32, amount: u32) -> Unspent {
        Unspent {
            owner: self.owner.clone(),
            amount,
            epoch,
        }
    }

    /// Adds the credits of a grant, and wakes the requests that wait for it.
    #[cfg(test)]
    pub(crate) fn take_in(&self, grant: &CreditGrant, now: Duration) {
        self.take_in_without_waking(grant, now);
        self.wake_all();
    }

    /// Adds the credits of a grant. The caller wakes the requests that wait for it.
    pub(crate) fn take_in_without_waking(&self, grant: &CreditGrant, now: Duration) {
        let refill_at = grant.refill_at.map(|at| nanos(unix_time(at)));
        self.doubt();
        self.granted.store(grant.amount, Ordering::Relaxed);
        self.shown
            .warn_below
            .store(grant.warn_below, Ordering::Release);
        let period = grant
            .period
            .map(|period| (period.credits, seconds(period.length)));
        let (credits, length) = period.unwrap_or_default();
        self.shown.period_credits.store(credits, Ordering::Release);
        self.shown.period_length.store(length, Ordering::Release);
        self.ahead.store(grant.ahead, Ordering::Release);
        let (read, done) = (Ordering::Acquire, Ordering::AcqRel);
        // In this order: credits in transit count as spent earlier, not as spent lately.
        self.given.fetch_add(grant.amount.into(), done);
        let before = self.held.fetch_update(done, read, |held| {
            let (own, left) = parts(held);
            let left = if own == grant.epoch { left } else { 0 };
            Some(joined(grant.epoch, left.saturating_add(grant.amount)))
        });
        let (own, left) = parts(before.unwrap_or_default());
        if own != grant.epoch {
            self.given.fetch_sub(left.into(), done);
        }
        self.stored.store(grant.left, Ordering::Release);
        self.refill_at
            .store(refill_at.unwrap_or(u64::MAX), Ordering::Release);
        self.stored_until
            .store(nanos(now + BELIEF), Ordering::Release);
        self.has_answered();
        self.answers.fetch_add(1, Ordering::AcqRel);
    }

    /// Allows asking again. It is a read-modify-write, so that it is ordered after threads that
    /// found the store asked.
    fn has_answered(&self) {
        self.asked.swap(false, Ordering::AcqRel);
    }

    /// Reports that the store cannot respond.
    pub(crate) fn fail(&self) {
        self.has_answered();
        self.failures.fetch_add(1, Ordering::AcqRel);
        self.wake_all();
    }

    /// Reports that the balance may have changed: nothing is assumed about it any longer.
    pub(crate) fn doubt(&self) {
        self.stored_until.store(0, Ordering::Release);
    }

    /// Takes held credits. Without `all`, takes only those that are not needed.
    ///
    /// Credits are needed for waiting requests and, within the limit, to match recent spending. If
    /// the limit is exceeded, only half of it is kept, so that the next refund does not exceed it
    /// again.
    pub(crate) fn take_unspent(&self, all: bool, now: Duration) -> Option<Unspent> {
        let spent = if all { 0 } else { self.spent_lately(now) };
        let ahead = self.ahead.load(Ordering::Acquire);
        let wanted = self.wanted();
        let kept = |left: u32| match left.saturating_sub(wanted) {
            _ if all => 0,
            more if more > ahead => spent.min(ahead / 2).saturating_add(wanted),
            _ => spent.min(ahead).saturating_add(wanted),
        };
        let (read, done) = (Ordering::Acquire, Ordering::AcqRel);
        let taken = self.held.fetch_update(done, read, |held| {
            let (epoch, left) = parts(held);
            (left > kept(left)).then(|| {
                self.doubt();
                joined(epoch, kept(left))
            })
        });
        let (epoch, left) = parts(taken.ok()?);
        let taken = left - kept(left);
        self.given.fetch_sub(taken.into(), done);
        self.stored.fetch_add(taken.into(), done);
        Some(self.unspent(epoch, taken))
    }

    fn put(self: &Arc<Self>, epoch: u32, amount: u32) {
        let (read, done) = (Ordering::Acquire, Ordering::AcqRel);
        // Credits of a replaced balance are void.
        _ = self.held.fetch_update(done, read, |held| {
            let (own, left) = parts(held);
            (own == epoch).then(|| joined(own, left.saturating_add(amount)))
        });
        self.doubt();
        self.tell_excess();
    }

    pub(crate) fn wake_all(&self) {
        let waiting = mem::take(&mut *self.waiting());
        waiting.into_iter().for_each(Waker::wake);
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Waker>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for CreditCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreditCache")
            .field("owner", &self.owner)
            .finish_non_exhaustive()
    }
}

/// The credits that a request waits for, until it continues or is dropped.
struct Waits<'a> {
    credit_cache: &'a Arc<CreditCache>,
    number: u64,
    most: u32,
}

impl<'a> Waits<'a> {
    fn new(credit_cache: &'a Arc<CreditCache>, amount: Amount) -> Self {
        let most = amount.most();
        credit_cache.wanted.fetch_add(most.into(), Ordering::AcqRel);
        let mut waits = credit_cache.waits();
        let number = waits.last_key_value().map_or(0, |(last, _)| last + 1);
        waits.insert(number, amount);
        Self {
            credit_cache,
            number,
            most,
        }
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        let credit_cache = self.credit_cache;
        credit_cache.waits().remove(&self.number);
        credit_cache
            .wanted
            .fetch_sub(self.most.into(), Ordering::AcqRel);
        // The credits drawn for a dropped request are excess.
        credit_cache.tell_excess();
    }
}

/// A future that resolves when the store has responded (`true`) or failed (`false`).
struct Answer<'a> {
    credit_cache: &'a CreditCache,
    answers: u32,
    failures: u32,
}

impl Future for Answer<'_> {
    type Output = bool;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<bool> {
        // Register before checking, so that a response in between still wakes this task.
        self.credit_cache.waiting().push(context.waker().clone());
        if self.credit_cache.answers.load(Ordering::Acquire) != self.answers {
            Poll::Ready(true)
        } else if self.credit_cache.failures.load(Ordering::Acquire) != self.failures {
            Poll::Ready(false)
        } else {
            Poll::Pending
        }
    }
}

fn parts(held: u64) -> (u32, u32) {
    let part = |bits: u64| u32::try_from(bits).unwrap_or(u32::MAX);
    (part(held >> 32), part(held & u64::from(u32::MAX)))
}

fn joined(epoch: u32, left: u32) -> u64 {
    u64::from(epoch) << 32 | u64::from(left)
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;
    use crate::credits::Credits;
    use crate::ids::AccountId;

    pub(super) fn credit_cache(amount: u32) -> Arc<CreditCache> {
        let credit_cache = Arc::new(CreditCache::new(AccountId::parse("acme").unwrap().into()));
        credit_cache.take_in(&grant(amount, 1), Duration::ZERO);
        credit_cache
    }

    pub(super) fn grant(amount: u32, left: u64) -> CreditGrant {
        CreditGrant {
            owner: AccountId::parse("acme").unwrap().into(),
            amount,
            epoch: 1,
            ahead: u32::MAX,
            refill_at: None,
            left,
            warn_below: 0,
            period: None,
        }
    }

    fn replica() -> Replica {
        let replica = Replica::new();
        replica.on_demand(|_| true);
        replica
    }

    #[test]
    fn asks_for_more_when_a_quarter_is_left_and_once() {
        let (replica, credit_cache) = (replica(), credit_cache(100));
        let asked = |amount| {
            credit_cache.spend(amount, 1, &replica).unwrap();
            replica.take_wanted().len()
        };
        assert_eq!([asked(74), asked(1), asked(1), asked(1)], [0, 0, 1, 0]);
        credit_cache.take_in(&grant(100, 1), Duration::ZERO);
        assert_eq!([asked(23 + 75), asked(1)], [0, 1]);
    }

    #[test]
    fn credits_are_drawn_ahead_by_the_spending_of_the_last_second() {
        let (replica, credit_cache) = (replica(), credit_cache(0));
        let millis = Duration::from_millis;
        let mut credits = Credits::new(1_000_000);
        credits.epoch = 1;
        let mut at = Duration::from_secs(100);
        // Sends one request more than there are held credits, and returns how many are then drawn.
        let mut next = |later| {
            at += later;
            while credit_cache.spend(1, 1, &replica).is_ok() {}
            let _waits = Waits::new(&credit_cache, Amount::All(1));
            let grant = credits.draw(&credit_cache.take_want(at), SystemTime::UNIX_EPOCH);
            credit_cache.take_in(&grant, Duration::ZERO);
            credit_cache.spend(1, 1, &replica).unwrap();
            grant.amount
        };
        let slow: Vec<_> = (0..3).map(|_| next(millis(1100))).collect();
        assert_eq!(slow, [1, 1, 1]);
        let faster: Vec<_> = (0..7).map(|_| next(millis(10))).collect();
        assert_eq!(faster, [2, 4, 8, 16, 32, 64, 128]);
        let taken: Vec<_> = (0..200).map(|_| next(millis(100))).collect();
        let all: u32 = taken.iter().sum();
        for (now, second) in taken.iter().zip(taken.windows(10)).skip(10) {
            assert!(second.iter().sum::<u32>() > *now, "{taken:?}");
        }
        assert!(all > 1000, "{taken:?}");
        // Half a second later nothing is needed, and everything is returned once.
        let held = credit_cache.held().amount;
        assert!(held > 0);
        let back = |later| credit_cache.take_unspent(false, Duration::from_secs(200) + later);
        _ = back(millis(0));
        _ = back(millis(500));
        assert_eq!(back(millis(1000)), None);
        assert_eq!(credit_cache.held().amount, 0);
    }

    #[test]
    fn a_balance_is_assumed_to_be_too_small_for_one_second() {
        let replica = replica();
        let now = || replica.clock().boot();
        for (left, answer) in [(1, NotSpent::Ask), (0, NotSpent::Exhausted)] {
            let credit_cache = credit_cache(1);
            credit_cache.take_in(&grant(0, left), now());
            assert_eq!(credit_cache.spend(2, 1, &replica).unwrap_err(), answer);
            // Nothing is known about a later balance.
            assert_eq!(
                credit_cache.spend(2, 2, &replica).unwrap_err(),
                NotSpent::Ask
            );
            // A refund may be enough.
            credit_cache.spend(1, 1, &replica).unwrap().give_back();
            assert_eq!(
                credit_cache.spend(2, 1, &replica).unwrap_err(),
                NotSpent::Ask
            );
            credit_cache.take_in(&grant(0, left), now().saturating_sub(BELIEF));
            assert_eq!(
                credit_cache.spend(2, 1, &replica).unwrap_err(),
                NotSpent::Ask
            );
        }
    }

    #[test]
    fn returned_credits_can_be_drawn_again_at_once() {
        let replica = replica();
        let now = || replica.clock().boot();
        let credit_cache = credit_cache(0);
        let spend = |amount| credit_cache.spend(amount, 1, &replica).unwrap_err();
        credit_cache.take_in(&grant(2, 0), now());
        assert_eq!(spend(3), NotSpent::Exhausted);
        assert_eq!(credit_cache.take_unspent(true, now()).unwrap().amount, 2);
        assert_eq!(spend(2), NotSpent::Ask);
        credit_cache.take_in(&grant(0, 2), now());
        assert_eq!(spend(3), NotSpent::Exhausted);
        assert_eq!(spend(2), NotSpent::Ask);
        credit_cache.take_in(&grant(0, 1), now());
        assert_eq!(spend(2), NotSpent::Exhausted);
    }

    #[test]
    fn excess_refunds_are_returned_and_the_store_is_notified_once() {
        let told = Arc::new(AtomicU32::new(0));
        let (replica, credit_cache) = (Replica::new(), credit_cache(0));
        let tells = Arc::clone(&told);
        replica.on_demand(move |_| {
            tells.fetch_add(1, Ordering::AcqRel);
            true
        });
        assert!(credit_cache.first_to_ask(&replica));
        let grant = CreditGrant {
            ahead: 10,
            ..grant(100, 1)
        };
        credit_cache.take_in(&grant, Duration::ZERO);
        let spent: Vec<_> = (0..70)
            .map(|_| credit_cache.spend(1, 1, &replica).unwrap())
            .collect();
        // Twenty are for a waiting request and no excess.
        let waits = Waits::new(&credit_cache, Amount::All(20));
        told.store(0, Ordering::Release);
        for mut one in spent {
            one.give_back();
        }
        assert_eq!(told.load(Ordering::Acquire), 1);
        let taken = |replica: &Replica| {
            let taken = replica.take_excess();
            let amounts = taken.iter().map(|unspent| unspent.amount);
            (amounts.collect::<Vec<_>>(), credit_cache.held().amount)
        };
        assert_eq!(taken(&replica), (vec![80], 20));
        assert_eq!(taken(&replica), (vec![], 20));
        // The request is dropped, so no one needs them.
        drop(waits);
        assert_eq!(told.load(Ordering::Acquire), 2);
        assert_eq!(taken(&replica), (vec![20], 0));
    }

    #[test]
    fn a_request_that_costs_more_than_is_left_is_refused_after_one_answer() {
        let (replica, credit_cache) = (replica(), credit_cache(0));
        let mut credits = Credits::new(1000);
        credits.epoch = 1;
        let context = &mut Context::from_waker(Waker::noop());
        let amounts = [Amount::All(600), Amount::UpTo(500), Amount::All(1001)];
        let mut waiting = amounts
            .map(|amount| Box::pin(Arc::clone(&credit_cache).fetch(amount, 1, replica.clone())));
        for one in &mut waiting {
            assert!(one.as_mut().poll(context).is_pending());
        }
        let [want] = &replica.take_wanted()[..] else {
            panic!("one balance")
        };
        let grant = credits.draw(want, SystemTime::UNIX_EPOCH);
        assert_eq!((grant.amount, credits.left), (1000, 0));
        credit_cache.take_in(&grant, replica.clock().boot());
        let paid = waiting
            .each_mut()
            .map(|one| match one.as_mut().poll(context) {
                Poll::Ready(paid) => paid.map(|spent| spent.amount()),
                Poll::Pending => panic!("answered"),
            });
        assert_eq!(paid, [Ok(600), Ok(400), Err(NotSpent::Exhausted)]);
        // The next one is refused by this process alone.
        let next = Arc::clone(&credit_cache).fetch(Amount::All(1), 1, replica.clone());
        let Poll::Ready(Err(NotSpent::Exhausted)) = pin!(next).poll(context) else {
            panic!("refused at once")
        };
        assert!(replica.take_wanted().is_empty());
    }

    #[test]
    fn a_request_does_not_ask_forever_for_credits_that_an_earlier_one_gets() {
        let (replica, credit_cache) = (Replica::new(), credit_cache(0));
        let mut credits = Credits::new(2);
        credits.epoch = 1;
        let (store, credits) = (Arc::clone(&credit_cache), Mutex::new(credits));
        replica.on_demand(move |replica| {
            for want in replica.take_wanted() {
                let grant = credits.lock().unwrap().draw(&want, SystemTime::UNIX_EPOCH);
                store.take_in(&grant, replica.clock().boot());
            }
            true
        });
        // It waits, and is not polled any more.
        let earlier = Waits::new(&credit_cache, Amount::All(1));
        let fetch = |amount| {
            let fetched = Arc::clone(&credit_cache).fetch(Amount::All(amount), 1, replica.clone());
            crate::testing::block_on(fetched).map(|spent| spent.amount())
        };
        assert_eq!(fetch(2), Err(NotSpent::Exhausted));
        drop(earlier);
        assert_eq!(fetch(1), Ok(1));
    }

    #[test]
    fn a_request_whose_credits_return_to_the_store_first_asks_again() {
        let (replica, credit_cache) = (Replica::new(), credit_cache(0));
        let mut credits = Credits::new(1000);
        credits.epoch = 1;
        let (store, balance) = (Arc::clone(&credit_cache), Mutex::new((credits, 0)));
        replica.on_demand(move |replica| {
            let now = replica.clock().boot();
            for want in replica.take_wanted() {
                let (credits, answers) = &mut *balance.lock().unwrap();
                store.take_in(&credits.draw(&want, SystemTime::UNIX_EPOCH), now);
                *answers += 1;
                if *answers < 5 {
                    credits.put_back(&store.take_unspent(true, now).unwrap());
                }
            }
            true
        });
        let fetched = Arc::clone(&credit_cache).fetch(Amount::All(1), 1, replica.clone());
        let spent = crate::testing::block_on(fetched);
        assert_eq!(spent.map(|spent| spent.amount()), Ok(1));
    }

    #[test]
    fn the_store_is_asked_once_for_the_credits_of_all_waiting_requests() {
        let (replica, credit_cache) = (replica(), credit_cache(0));
        let context = &mut Context::from_waker(Waker::noop());
        let mut waiting: Vec<_> = [3, 40, 500]
            .map(|amount| {
                Box::pin(Arc::clone(&credit_cache).fetch(Amount::All(amount), 1, replica.clone()))
            })
            .into();
        for one in &mut waiting {
            assert!(one.as_mut().poll(context).is_pending());
        }
        let wanted = |replica: &Replica| {
            let wants = replica.take_wanted().into_iter();
            wants
                .map(|want| (want.all_or_none, want.held))
                .collect::<Vec<_>>()
        };
        assert_eq!(wanted(&replica), [(vec![3, 40, 500], 0)]);
        assert!(waiting[0].as_mut().poll(context).is_pending());
        credit_cache.take_in(&grant(43, 460), Duration::ZERO);
        assert!(waiting[0].as_mut().poll(context).is_ready());
        assert!(waiting[2].as_mut().poll(context).is_pending());
        assert_eq!(wanted(&replica), [(vec![40, 500], 40)]);
        credit_cache.fail();
        assert!(waiting[2].as_mut().poll(context).is_ready());
        assert!(waiting[1].as_mut().poll(context).is_ready());
    }
}

#[cfg(all(test, keyward_loom))]
mod every_order {
    use loom::future::block_on;
    use loom::thread;

    use super::tests::{credit_cache, grant};
    use super::*;

    #[test]
    fn every_waiting_request_gets_its_credits() {
        loom::model(|| {
            let (replica, credit_cache) = (Replica::new(), credit_cache(0));
            let store = Arc::clone(&credit_cache);
            replica.on_demand(move |replica| {
                for want in replica.take_wanted() {
                    let cost = want.all_or_none.iter().sum();
                    store.take_in(&grant(cost, 1), Duration::ZERO);
                }
                true
            });
            let fetch = {
                let (replica, credit_cache) = (replica.clone(), Arc::clone(&credit_cache));
                move || {
                    block_on(Arc::clone(&credit_cache).fetch(Amount::All(1), 1, replica.clone()))
                        .map(drop)
                }
            };
            let other = thread::spawn(fetch.clone());
            assert_eq!(fetch(), Ok(()));
            assert_eq!(other.join().unwrap(), Ok(()));
        });
    }

    #[test]
    fn credits_are_spent_refunded_and_returned_once() {
        loom::model(|| {
            let (replica, credit_cache) = (Replica::new(), credit_cache(2));
            let spender = {
                let (replica, credit_cache) = (replica.clone(), Arc::clone(&credit_cache));
                thread::spawn(move || {
                    if let Ok(mut spent) = credit_cache.spend(1, 1, &replica) {
                        spent.give_back();
                    }
                    u32::from(credit_cache.spend(2, 1, &replica).is_ok()) * 2
                })
            };
            let closer = {
                let credit_cache = Arc::clone(&credit_cache);
                thread::spawn(move || {
                    credit_cache
                        .take_unspent(true, Duration::ZERO)
                        .map_or(0, |unspent| unspent.amount)
                })
            };
            credit_cache.take_in(&grant(3, 1), Duration::ZERO);
            let gone = spender.join().unwrap() + closer.join().unwrap();
            assert_eq!(gone + parts(credit_cache.held.load(Ordering::Acquire)).1, 5);
        });
    }

    #[test]
    fn excess_refunds_do_not_stay() {
        loom::model(|| {
            let (replica, credit_cache) = (Replica::new(), credit_cache(0));
            let back = Arc::new(AtomicU32::new(0));
            let store = Arc::clone(&back);
            replica.on_demand(move |replica| {
                let taken = replica.take_excess().into_iter();
                let taken = taken.map(|unspent| unspent.amount).sum();
                store.fetch_add(taken, Ordering::AcqRel);
                true
            });
            assert!(credit_cache.first_to_ask(&replica));
            let two = CreditGrant {
                ahead: 0,
                ..grant(2, 1)
            };
            credit_cache.take_in(&two, Duration::ZERO);
            let [mut one, mut other] =
                [(); 2].map(|()| credit_cache.spend(1, 1, &replica).unwrap());
            let thread = thread::spawn(move || one.give_back());
            other.give_back();
            thread.join().unwrap();
            assert_eq!(back.load(Ordering::Acquire), 2);
            assert_eq!(parts(credit_cache.held.load(Ordering::Acquire)).1, 0);
        });
    }
}
