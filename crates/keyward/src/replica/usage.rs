//! Usage metering: counters in memory, which the store collects.

use std::fmt;
use std::mem;
use std::ops::Range;
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};

use crate::clock::Clock;
use crate::environment::Environment;
use crate::ids::{AccountId, KeyId};
use crate::key::KeyDigest;
use crate::key::digest::DigestBytes;
use crate::limit::BucketOwner;
use crate::replica::cached_key::AccountState;
use crate::replica::credit_cache::CreditCache;
use crate::replica::feed::Doubling;
use crate::replica::key_buckets::KeyBuckets;
use crate::sync;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// The usage of a key counted since the last collection.
///
/// See [`Replica::take_usage`](crate::replica::Replica::take_usage).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a store takes it apart")]
pub struct UsageCount {
    /// The key.
    pub key: KeyId,
    /// The number of admitted requests.
    pub admitted: u64,
    /// The number of requests that were refused although the key was proved.
    ///
    /// An expired key is an example.
    pub refused: u64,
    /// The units that the service recorded with
    /// [`Principal::record`](crate::gate::Principal::record).
    pub units: u64,
    /// The time of the last admitted request, to the second.
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

/// The metered usage of a key within an hour.
///
/// ```
/// use keyward::{Environment, KeyId};
/// use keyward::replica::UsageHour;
///
/// let mut hour = UsageHour::new(KeyId::random()?, Environment::TEST, 472_222);
/// (hour.admitted, hour.units) = (10, 25);
/// assert_eq!((hour.billable(), hour.billable_units()), (0, 0)); // the `test` environment is free
/// # Ok::<(), keyward::key::RandomError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UsageHour {
    /// The key.
    pub key: KeyId,
    /// The environment of the key.
    pub environment: Environment,
    /// The hour, counted from the Unix epoch.
    pub hour: u64,
    /// The number of admitted requests.
    pub admitted: u64,
    /// The number of requests that were refused although the key was proved.
    pub refused: u64,
    /// The units that the service recorded with
    /// [`Principal::record`](crate::gate::Principal::record).
    pub units: u64,
}

impl UsageHour {
    /// Creates an hour without usage.
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

    /// Returns the billable requests: the admitted ones of live keys.
    #[must_use]
    pub fn billable(&self) -> u64 {
        self.if_live(self.admitted)
    }

    /// Returns the billable units, which are those of live keys.
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

/// A new digest for a used key that is stored under an old scheme.
#[derive(Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a store takes it apart")]
pub struct Rehash {
    /// The key.
    pub key: KeyId,
    /// The digest that it is stored under. If the store has another one by now, nothing is changed.
    pub from: [u8; 32],
    /// The new digest.
    pub to: KeyDigest,
}

impl fmt::Debug for Rehash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let to = self.to.scheme();
        write!(f, "Rehash({}, {to})", self.key)
    }
}

/// A query for usage. See [`Store::usage`](crate::store::Store::usage).
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a store takes it apart")]
pub struct UsageQuery {
    /// The account that owns the keys.
    pub account: AccountId,
    /// Restricts the result to this environment.
    pub environment: Option<Environment>,
    /// The first hour, counted from the Unix epoch.
    pub from: u64,
    /// The end, exclusive: the first hour after the range.
    pub until: u64,
}

/// The counters of a used key, and the buckets of its rotation chain.
pub(crate) struct UsageCounter {
    key: KeyId,
    /// The last use in seconds since the Unix epoch; zero means never.
    last_used: AtomicU32,
    admitted: AtomicU32,
    refused: AtomicU32,
    units: AtomicU64,
    key_buckets: OnceLock<Arc<KeyBuckets>>,
    credit_cache: OnceLock<Arc<CreditCache>>,
    /// The current digest of the key, if it was rehashed after its first use.
    moved_to: ArcSwapOption<DigestBytes>,
}

impl UsageCounter {
    pub(crate) fn new(key: KeyId) -> Self {
        Self {
            key,
            units: AtomicU64::new(0),
            key_buckets: OnceLock::new(),
            credit_cache: OnceLock::new(),
            moved_to: ArcSwapOption::empty(),
            last_used: AtomicU32::new(0),
            admitted: AtomicU32::new(0),
            refused: AtomicU32::new(0),
        }
    }

    pub(crate) fn count(&self, admitted: bool, now: Duration) {
        if admitted {
            let now = u32::try_from(now.as_secs()).unwrap_or(u32::MAX);
            // Changes once per second. Memory that is only read stays in every processor's cache.
            if self.last_used.load(Ordering::Relaxed) != now {
                self.last_used.store(now, Ordering::Relaxed);
            }
            self.admitted.fetch_add(1, Ordering::Relaxed);
        } else {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn record(&self, units: u64) {
        // Saturates instead of overflowing.
        let add = |sum: u64| Some(sum.saturating_add(units));
        _ = self
            .units
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// Returns the buckets of the key, creating them if necessary. A rotated key was given those of
    /// its predecessor.
    pub(crate) fn key_buckets(
        &self,
        of: &AccountState,
        lineage: KeyId,
        clock: &Arc<dyn Clock>,
    ) -> &Arc<KeyBuckets> {
        self.key_buckets.get_or_init(|| {
            let owner = BucketOwner::Key(of.account.clone(), of.environment, lineage);
            Arc::new(KeyBuckets::new(owner, Arc::clone(clock)))
        })
    }

    /// Returns the current digest of the key, if it was rehashed after its first use.
    pub(crate) fn moved_to(&self) -> Option<DigestBytes> {
        self.moved_to.load().as_deref().copied()
    }

    pub(crate) fn move_to(&self, digest: DigestBytes) {
        self.moved_to.store(Some(Arc::new(digest)));
    }

    /// Returns the key's own credits, if it has a balance.
    pub(crate) fn credit_cache(&self) -> Option<&Arc<CreditCache>> {
        self.credit_cache.get()
    }

    pub(crate) fn give_credit_cache(&self, credit_cache: Arc<CreditCache>) {
        // There is one per rotation chain, so an existing one is the same.
        _ = self.credit_cache.set(credit_cache);
    }

    /// Sets the buckets, if there are none yet.
    pub(crate) fn share(&self, key_buckets: Arc<KeyBuckets>) {
        // Another thread may have set them first.
        _ = self.key_buckets.set(key_buckets);
    }

    /// Corrects the counts for an admitted request that an inner layer refused.
    pub(crate) fn refuse_after_all(&self) {
        // Nothing to correct if the counter was collected in the meantime.
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

    /// Takes the counts; `None` if there are none.
    pub(crate) fn take(&self) -> Option<UsageCount> {
        let take = |counter: &AtomicU32| match counter.load(Ordering::Relaxed) {
            0 => 0, // Read first: most are unused, and a write would dirty their memory.
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
        let mut usage_counter = f.debug_struct("UsageCounter");
        usage_counter
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

/// The counters of a key, shared by all its entries and the list of counters.
#[cfg_attr(
    not(keyward_loom),
    expect(unused_qualifications, reason = "loom has an `Arc` of its own")
)]
pub(crate) type SharedCounter = sync::Arc<UsageCounter>;

/// The number of counters that are visited under one lock of the list.
const PART: usize = 4096;

/// The counters of all used keys.
///
/// Adding counters takes no lock. Counters are removed after they were collected, once no entry of
/// their key is left in memory or held by a request.
#[derive(Default)]
pub(crate) struct UsageCounters {
    new: ArcSwap<boxcar::Vec<SharedCounter>>,
    listed: Mutex<Listed>,
}

#[derive(Default)]
struct Listed {
    /// Replaced lists of new counters that a thread may still be adding to.
    replaced: Vec<Arc<boxcar::Vec<SharedCounter>>>,
    all: Vec<SharedCounter>,
    doubling: Doubling,
}

impl UsageCounters {
    pub(crate) fn add(&self, usage_counter: SharedCounter) {
        self.new.load().push(usage_counter);
    }

    /// Takes the counts of the [`PART`] counters before a position, or of the last ones.
    ///
    /// Also returns the position for the next part.
    pub(crate) fn take_part(&self, below: Option<usize>) -> (Vec<UsageCount>, usize) {
        let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        let below = below.unwrap_or_else(|| {
            listed.gather(&self.new);
            listed.all.len()
        });
        // Backwards, because counters only move to the front when others are removed.
        let from = below.saturating_sub(PART);
        let mut counts = Vec::new();
        take_from(&mut listed.all, from..below, &mut counts);
        (counts, from)
    }

    /// Drops unused counters that are zero, if there may be many.
    pub(crate) fn tidy(&self) {
        let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        if listed
            .doubling
            .is_due(listed.all.len() + self.new.load().count())
        {
            listed.gather(&self.new);
            let is_wanted = |usage_counter: &mut SharedCounter| match last_of(usage_counter) {
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
    fn gather(&mut self, new: &ArcSwap<boxcar::Vec<SharedCounter>>) {
        if new.load().count() > 0 {
            self.replaced.push(new.swap(Arc::default()));
        }
        for replaced in mem::take(&mut self.replaced) {
            match Arc::try_unwrap(replaced) {
                Ok(new) => self.all.extend(new),
                // A thread is about to add to it; try again next time.
                Err(in_use) => self.replaced.push(in_use),
            }
        }
    }
}

/// Takes the counts of a range of counters, and drops the counters that nothing else holds.
fn take_from(all: &mut Vec<SharedCounter>, part: Range<usize>, counts: &mut Vec<UsageCount>) {
    for place in part.rev() {
        let Some(usage_counter) = all.get_mut(place) else {
            continue;
        };
        // In this order, so that the counts of the last holder are taken as well.
        let is_held = last_of(usage_counter).is_none();
        counts.extend(usage_counter.take());
        if !is_held {
            drop(all.swap_remove(place));
        }
    }
}

/// Returns the counters unless they are held elsewhere, so that no count is missed.
fn last_of(usage_counter: &mut SharedCounter) -> Option<&mut UsageCounter> {
    // Read first: `get_mut` writes, and most are held.
    if SharedCounter::strong_count(usage_counter) > 1 {
        return None;
    }
    SharedCounter::get_mut(usage_counter)
}

#[cfg(all(test, keyward_loom))]
mod every_order {
    use loom::thread;

    use super::*;

    #[test]
    fn usage_counted_while_a_key_is_removed_is_taken_once() {
        loom::model(|| {
            let own = SharedCounter::new(UsageCounter::new(KeyId::random().unwrap()));
            let mut all = vec![SharedCounter::clone(&own)];
            let request = thread::spawn(move || {
                own.count(true, Duration::from_secs(1));
                own.count(true, Duration::from_secs(1));
            });
            let mut counts = Vec::new();
            take_from(&mut all, 0..1, &mut counts);
            request.join().unwrap();
            take_from(&mut all, 0..1, &mut counts);
            assert!(all.is_empty());
            let admitted: u64 = counts.iter().map(|count| count.admitted).sum();
            assert_eq!(admitted, 2);
        });
    }
}
