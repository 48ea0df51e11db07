//! How often keys are used: counted in memory, kept by the store.

use std::fmt;
use std::mem;
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};

use crate::clock::Clock;
use crate::environment::Environment;
use crate::ids::{AccountId, KeyId};
use crate::key::KeyDigest;
use crate::key::digest::DigestBytes;
use crate::limit::BucketOwner;
use crate::replica::credit_cache::CreditCache;
use crate::replica::feed::Doubling;
use crate::replica::key_buckets::KeyBuckets;
use crate::sync;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// What was counted of a key since it was last taken.
///
/// See [`Replica::take_usage`](crate::replica::Replica::take_usage).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a store takes it apart")]
pub struct UsageCount {
    /// Which key.
    pub key: KeyId,
    /// Requests that passed.
    pub admitted: u64,
    /// Requests that were refused although the key was proved, such as an expired one.
    pub refused: u64,
    /// What the service has recorded: [`Principal::record`](crate::gate::Principal::record).
    pub units: u64,
    /// When a request passed last, to the second.
    pub last_used_at: Option<SystemTime>,
}

impl UsageCount {
    pub(crate) fn add(&mut self, other: &Self) -> bool {
        self.admitted += other.admitted;
        self.refused += other.refused;
        self.units = self.units.saturating_add(other.units);
        self.last_used_at = self.last_used_at.max(other.last_used_at);
        true
    }
}

/// How often a key was used in an hour.
///
/// ```
/// use keyward::{Environment, KeyId};
/// use keyward::replica::UsageHour;
///
/// let mut hour = UsageHour::new(KeyId::random()?, Environment::TEST, 472_222);
/// (hour.admitted, hour.units) = (10, 25);
/// assert_eq!((hour.billable(), hour.billable_units()), (0, 0)); // what is done in `test` is free
/// # Ok::<(), keyward::key::RandomError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UsageHour {
    /// Which key.
    pub key: KeyId,
    /// The world it acts in.
    pub environment: Environment,
    /// The hour, counted from the Unix epoch.
    pub hour: u64,
    /// Requests that passed.
    pub admitted: u64,
    /// Requests that were refused although the key was proved.
    pub refused: u64,
    /// What the service has recorded: [`Principal::record`](crate::gate::Principal::record).
    pub units: u64,
}

impl UsageHour {
    /// An hour in which nothing was counted.
    #[must_use]
    pub fn new(key: KeyId, environment: Environment, hour: u64) -> Self {
        Self {
            key,
            environment,
            hour,
            admitted: 0,
            refused: 0,
            units: 0,
        }
    }

    /// What may be billed: requests that passed, of live keys only.
    #[must_use]
    pub fn billable(&self) -> u64 {
        self.if_live(self.admitted)
    }

    /// What may be billed of the units: those of live keys only.
    #[must_use]
    pub fn billable_units(&self) -> u64 {
        self.if_live(self.units)
    }

    fn if_live(&self, count: u64) -> u64 {
        if self.environment == Environment::LIVE {
            count
        } else {
            0
        }
    }
}

/// A key that shall have another digest, because it was used and is kept under an old scheme.
#[derive(Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a store takes it apart")]
pub struct Rehash {
    /// Which key.
    pub key: KeyId,
    /// The bytes it is kept under. If they are others by now, it stays as it is.
    pub from: [u8; 32],
    /// What it shall be kept under.
    pub to: KeyDigest,
}

impl fmt::Debug for Rehash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let to = self.to.scheme();
        write!(f, "Rehash({}, {to})", self.key)
    }
}

/// Which usage is wanted. See [`Store::usage`](crate::store::Store::usage).
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a store takes it apart")]
pub struct UsageQuery {
    /// Of which account's keys.
    pub account: AccountId,
    /// Only of this environment.
    pub environment: Option<Environment>,
    /// From this hour on, counted from the Unix epoch.
    pub from: u64,
    /// Up to and without this hour.
    pub until: u64,
}

/// The counters of a key that is in use, and the buckets of its chain of rotations.
pub(crate) struct UsageCounter {
    key: KeyId,
    /// Seconds since the Unix epoch; zero stands for never.
    last_used: AtomicU32,
    admitted: AtomicU32,
    refused: AtomicU32,
    units: AtomicU64,
    meter: OnceLock<Arc<KeyBuckets>>,
    purse: OnceLock<Arc<CreditCache>>,
    /// Where the key is now, if its digest has changed since it was used first.
    moved_to: ArcSwapOption<DigestBytes>,
}

impl UsageCounter {
    pub(crate) fn new(key: KeyId) -> Self {
        Self {
            key,
            units: AtomicU64::new(0),
            meter: OnceLock::new(),
            purse: OnceLock::new(),
            moved_to: ArcSwapOption::empty(),
            last_used: AtomicU32::new(0),
            admitted: AtomicU32::new(0),
            refused: AtomicU32::new(0),
        }
    }

    pub(crate) fn count(&self, admitted: bool, now: Duration) {
        if admitted {
            let now = u32::try_from(now.as_secs()).unwrap_or(u32::MAX);
            // It changes once a second, and what is only read need not travel between processors.
            if self.last_used.load(Ordering::Relaxed) != now {
                self.last_used.store(now, Ordering::Relaxed);
            }
            self.admitted.fetch_add(1, Ordering::Relaxed);
        } else {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn record(&self, units: u64) {
        // Beyond all measure it stays at the most there is.
        let add = |sum: u64| Some(sum.saturating_add(units));
        _ = self
            .units
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// The buckets of the key, made now if there are none. One that came out of a rotation has been
    /// given those of the key before it.
    pub(crate) fn meter(&self, lineage: KeyId, clock: &Arc<dyn Clock>) -> &Arc<KeyBuckets> {
        self.meter.get_or_init(|| {
            let owner = BucketOwner::Key(lineage);
            Arc::new(KeyBuckets::new(owner, Arc::clone(clock)))
        })
    }

    /// Where the key is now, if its digest has changed since it was used first.
    pub(crate) fn moved_to(&self) -> Option<DigestBytes> {
        self.moved_to.load().as_deref().copied()
    }

    pub(crate) fn move_to(&self, digest: DigestBytes) {
        self.moved_to.store(Some(Arc::new(digest)));
    }

    /// The credits of the key, where it has a balance of its own.
    pub(crate) fn purse(&self) -> Option<&Arc<CreditCache>> {
        self.purse.get()
    }

    pub(crate) fn give_purse(&self, purse: Arc<CreditCache>) {
        // There is one for each chain of rotations, so it is the same where it has one.
        _ = self.purse.set(purse);
    }

    /// Gives it buckets, if it has none yet.
    pub(crate) fn share(&self, meter: Arc<KeyBuckets>) {
        // Whoever was first has given it some.
        _ = self.meter.set(meter);
    }

    /// What was counted as let in was refused after all, further inside.
    pub(crate) fn refuse_after_all(&self) {
        // Nothing to take back where it was flushed in between.
        let taken = self
            .admitted
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |admitted| {
                admitted.checked_sub(1)
            });
        if taken.is_ok() {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn last_used(&self) -> Option<SystemTime> {
        let at = self.last_used.load(Ordering::Relaxed);
        (at > 0).then(|| SystemTime::UNIX_EPOCH + Duration::from_secs(at.into()))
    }

    fn counts_something(&self) -> bool {
        let counted =
            [&self.admitted, &self.refused].map(|counter| counter.load(Ordering::Relaxed));
        counted != [0, 0] || self.units.load(Ordering::Relaxed) > 0
    }

    /// What was counted; `None` when there is nothing.
    pub(crate) fn take(&self) -> Option<UsageCount> {
        let take = |counter: &AtomicU32| match counter.load(Ordering::Relaxed) {
            0 => 0, // A look first: most are not in use, and a write would dirty their memory.
            _ => u64::from(counter.swap(0, Ordering::Relaxed)),
        };
        let (admitted, refused) = (take(&self.admitted), take(&self.refused));
        let units = match self.units.load(Ordering::Relaxed) {
            0 => 0,
            _ => self.units.swap(0, Ordering::Relaxed),
        };
        (admitted + refused > 0 || units > 0).then(|| UsageCount {
            key: self.key,
            admitted,
            refused,
            units,
            last_used_at: self.last_used(),
        })
    }
}

impl fmt::Debug for UsageCounter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut tally = f.debug_struct("UsageCounter");
        tally.field("key", &self.key).finish_non_exhaustive()
    }
}

/// The counters of a key, which all its entries and the list of all share.
#[cfg_attr(
    not(keyward_loom),
    expect(unused_qualifications, reason = "loom has an `Arc` of its own")
)]
pub(crate) type SharedTally = sync::Arc<UsageCounter>;

/// The counters of all keys that were used.
///
/// To add some takes no lock. They leave when no entry of their key is left, be it in memory or in the
/// hands of a request, and what was counted has been taken.
#[derive(Default)]
pub(crate) struct Tallies {
    new: ArcSwap<boxcar::Vec<SharedTally>>,
    listed: Mutex<Listed>,
}

#[derive(Default)]
struct Listed {
    /// Were new; who adds to one has not let go of it yet.
    replaced: Vec<Arc<boxcar::Vec<SharedTally>>>,
    all: Vec<SharedTally>,
    doubling: Doubling,
}

impl Tallies {
    pub(crate) fn add(&self, tally: SharedTally) {
        self.new.load().push(tally);
    }

    /// Takes what was counted.
    pub(crate) fn take(&self) -> Vec<UsageCount> {
        let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        listed.gather(&self.new);
        let mut counts = Vec::new();
        take_from(&mut listed.all, &mut counts);
        counts
    }

    /// Forgets counters that nobody holds and that are zero, when there may be many.
    pub(crate) fn tidy(&self) {
        let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        if listed
            .doubling
            .is_due(listed.all.len() + self.new.load().count())
        {
            listed.gather(&self.new);
            let is_wanted = |tally: &mut SharedTally| match last_of(tally) {
                None => true,
                Some(last) => last.counts_something(),
            };
            listed.all.retain_mut(is_wanted);
            let left = listed.all.len();
            listed.doubling.cleared(left);
        }
    }
}

impl Listed {
    fn gather(&mut self, new: &ArcSwap<boxcar::Vec<SharedTally>>) {
        if new.load().count() > 0 {
            self.replaced.push(new.swap(Arc::default()));
        }
        for replaced in mem::take(&mut self.replaced) {
            match Arc::try_unwrap(replaced) {
                Ok(new) => self.all.extend(new),
                // Somebody is about to add to it: the next time.
                Err(in_use) => self.replaced.push(in_use),
            }
        }
    }
}

/// Takes what was counted, and drops the counters that nobody holds any more.
fn take_from(all: &mut Vec<SharedTally>, counts: &mut Vec<UsageCount>) {
    all.retain_mut(|tally| {
        // In this order: what the last holder has counted is taken with the rest.
        let is_held = last_of(tally).is_none();
        counts.extend(tally.take());
        is_held
    });
}

/// The counters, where nobody else holds them: all that was ever counted is seen.
fn last_of(tally: &mut SharedTally) -> Option<&mut UsageCounter> {
    // A look first: `get_mut` writes, and most are held.
    if SharedTally::strong_count(tally) > 1 {
        return None;
    }
    SharedTally::get_mut(tally)
}

#[cfg(all(test, keyward_loom))]
mod every_order {
    use loom::thread;

    use super::*;

    #[test]
    fn what_is_counted_while_a_key_leaves_is_taken_once() {
        loom::model(|| {
            let own = SharedTally::new(UsageCounter::new(KeyId::random().unwrap()));
            let mut all = vec![SharedTally::clone(&own)];
            let request = thread::spawn(move || {
                own.count(true, Duration::from_secs(1));
                own.count(true, Duration::from_secs(1));
            });
            let mut counts = Vec::new();
            take_from(&mut all, &mut counts);
            request.join().unwrap();
            take_from(&mut all, &mut counts);
            assert!(all.is_empty());
            let admitted: u64 = counts.iter().map(|count| count.admitted).sum();
            assert_eq!(admitted, 2);
        });
    }
}
