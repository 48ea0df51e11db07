//! Usage metering: counters in memory, which the store collects.

use std::fmt;
use std::iter;
use std::mem;
use std::ops::Range;
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use once_cell::race::OnceBox;

use crate::clock::Clock;
use crate::ids::KeyId;
use crate::key::KeyDigest;
use crate::key::digest::DigestBytes;
use crate::replica::credit_cache::CreditCache;
use crate::replica::feed::Doubling;
use crate::replica::key_buckets::KeyBuckets;
use crate::sync;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::usage::label::{LabelNames, LabelNumber};
use crate::usage::{ClientNetwork, RequestCounts, UsageLabel};

/// The usage of a key counted since the last collection.
///
/// See [`Replica::take_usage`](crate::replica::Replica::take_usage).
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a store takes it apart")]
pub struct UsageCount {
    /// The key.
    pub key: KeyId,
    /// The counts of all requests, whose outcomes are not known.
    pub counts: RequestCounts,
    /// The counts of the requests with a label, each label once.
    pub labels: Vec<(UsageLabel, RequestCounts)>,
    /// The time of the last admitted request, to the second.
    pub last_used_at: Option<SystemTime>,
    /// The network of the last request, if the gate records it.
    pub last_network: Option<ClientNetwork>,
}

impl UsageCount {
    /// Creates an empty count.
    #[must_use]
    pub fn new(key: KeyId) -> Self {
        Self {
            key,
            counts: RequestCounts::default(),
            labels: Vec::new(),
            last_used_at: None,
            last_network: None,
        }
    }

    /// Adds the counts of the same key that were taken later.
    pub fn add(&mut self, later: &Self) {
        self.counts += later.counts;
        for (label, counts) in &later.labels {
            match self.labels.iter_mut().find(|(own, _)| own == label) {
                Some((_, sum)) => *sum += *counts,
                None => self.labels.push((*label, *counts)),
            }
        }
        self.last_used_at = self.last_used_at.max(later.last_used_at);
        self.last_network = later.last_network.or(self.last_network);
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

/// The counters of a used key, and the buckets of its rotation chain.
pub(crate) struct UsageCounter {
    key: KeyId,
    /// The last use in seconds since the Unix epoch; zero means never.
    last_used: AtomicU32,
    /// The network of the last request; zero means unknown.
    network: AtomicU64,
    admitted: AtomicU32,
    refused: AtomicU32,
    units: AtomicU64,
    key_buckets: OnceLock<Arc<KeyBuckets>>,
    credit_cache: OnceLock<Arc<CreditCache>>,
    /// The current digest of the key, if it was rehashed after its first use.
    moved_to: ArcSwapOption<DigestBytes>,
    /// The counters of its labels, if it was used with any.
    labels: OnceBox<LabelCounter>,
}

/// The counters of a key for a label, in a list of such counters.
pub(crate) struct LabelCounter {
    label: LabelNumber,
    succeeded: AtomicU32,
    client_errors: AtomicU32,
    server_errors: AtomicU32,
    unanswered: AtomicU32,
    refused: AtomicU32,
    units: AtomicU64,
    next: OnceBox<LabelCounter>,
}

/// The outcome of a request with a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The response has a status below 400.
    Succeeded,
    ClientError,
    ServerError,
    /// There was no response.
    Unanswered,
    /// The gate refused it, although the key was proved.
    Refused,
}

impl Outcome {
    pub(crate) fn of_status(status: u16) -> Self {
        match status {
            ..400 => Self::Succeeded,
            400..500 => Self::ClientError,
            500.. => Self::ServerError,
        }
    }
}

impl LabelCounter {
    fn new(label: LabelNumber) -> Self {
        Self {
            label,
            succeeded: AtomicU32::new(0),
            client_errors: AtomicU32::new(0),
            server_errors: AtomicU32::new(0),
            unanswered: AtomicU32::new(0),
            refused: AtomicU32::new(0),
            units: AtomicU64::new(0),
            next: OnceBox::new(),
        }
    }

    pub(crate) fn count(&self, outcome: Outcome) {
        let counter = match outcome {
            Outcome::Succeeded => &self.succeeded,
            Outcome::ClientError => &self.client_errors,
            Outcome::ServerError => &self.server_errors,
            Outcome::Unanswered => &self.unanswered,
            Outcome::Refused => &self.refused,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn record(&self, units: u64) {
        add_saturating(&self.units, units);
    }

    fn take(&self) -> RequestCounts {
        let [succeeded, client_errors, server_errors, unanswered, refused] = [
            &self.succeeded,
            &self.client_errors,
            &self.server_errors,
            &self.unanswered,
            &self.refused,
        ]
        .map(take);
        RequestCounts {
            admitted: succeeded + client_errors + server_errors + unanswered,
            refused,
            client_errors,
            server_errors,
            unanswered,
            units: take_all(&self.units),
        }
    }

    fn counts_something(&self) -> bool {
        let counters = [
            &self.succeeded,
            &self.client_errors,
            &self.server_errors,
            &self.unanswered,
            &self.refused,
        ];
        counters
            .into_iter()
            .any(|counter| counter.load(Ordering::Relaxed) > 0)
            || self.units.load(Ordering::Relaxed) > 0
    }
}

/// Takes a counter. Most are unused, and a write would dirty their memory.
fn take(counter: &AtomicU32) -> u64 {
    match counter.load(Ordering::Relaxed) {
        0 => 0,
        _ => u64::from(counter.swap(0, Ordering::Relaxed)),
    }
}

fn take_all(counter: &AtomicU64) -> u64 {
    match counter.load(Ordering::Relaxed) {
        0 => 0,
        _ => counter.swap(0, Ordering::Relaxed),
    }
}

/// Adds units; the sum stops at the maximum.
fn add_saturating(counter: &AtomicU64, units: u64) {
    let add = |sum: u64| Some(sum.saturating_add(units));
    _ = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
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
            network: AtomicU64::new(0),
            admitted: AtomicU32::new(0),
            refused: AtomicU32::new(0),
            labels: OnceBox::new(),
        }
    }

    /// Returns the counters of a label, creating them if necessary.
    ///
    /// There are few labels, so a list is short.
    pub(crate) fn label(&self, label: LabelNumber) -> &LabelCounter {
        let mut place = &self.labels;
        loop {
            let found = place.get_or_init(|| Box::new(LabelCounter::new(label)));
            if found.label == label {
                return found;
            }
            place = &found.next;
        }
    }

    fn labels(&self) -> impl Iterator<Item = &LabelCounter> {
        iter::successors(self.labels.get(), |counter| counter.next.get())
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
        add_saturating(&self.units, units);
    }

    /// Returns the buckets of the key, creating them if necessary. A rotated key was given those of
    /// its predecessor.
    pub(crate) fn key_buckets(&self, lineage: KeyId, clock: &Arc<dyn Clock>) -> &Arc<KeyBuckets> {
        self.key_buckets
            .get_or_init(|| Arc::new(KeyBuckets::of_key(lineage, Arc::clone(clock))))
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

    pub(crate) fn note_network(&self, network: ClientNetwork) {
        // Most requests of a key come from the same network; memory that is only read stays cached.
        if self.network.load(Ordering::Relaxed) != network.to_bits() {
            self.network.store(network.to_bits(), Ordering::Relaxed);
        }
    }

    pub(crate) fn last_network(&self) -> Option<ClientNetwork> {
        ClientNetwork::from_bits(self.network.load(Ordering::Relaxed))
    }

    pub(crate) fn last_used(&self) -> Option<SystemTime> {
        let at = self.last_used.load(Ordering::Relaxed);
        (at > 0).then(|| SystemTime::UNIX_EPOCH + Duration::from_secs(at.into()))
    }

    fn counts_something(&self) -> bool {
        let counted =
            [&self.admitted, &self.refused].map(|counter| counter.load(Ordering::Relaxed));
        counted != [0, 0]
            || self.units.load(Ordering::Relaxed) > 0
            || self.labels().any(LabelCounter::counts_something)
    }

    /// Takes the counts; `None` if there are none.
    pub(crate) fn take(&self, names: &LabelNames) -> Option<UsageCount> {
        let counts = RequestCounts {
            admitted: take(&self.admitted),
            refused: take(&self.refused),
            units: take_all(&self.units),
            ..RequestCounts::default()
        };
        let labels = self
            .labels()
            .map(|counter| (names.name(counter.label), counter.take()));
        let labels: Vec<_> = labels.filter(|(_, counts)| !counts.is_zero()).collect();
        (!counts.is_zero() || !labels.is_empty()).then(|| UsageCount {
            key: self.key,
            counts,
            labels,
            last_used_at: self.last_used(),
            last_network: self.last_network(),
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
    pub(crate) fn take_part(
        &self,
        below: Option<usize>,
        names: &LabelNames,
    ) -> (Vec<UsageCount>, usize) {
        let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        let below = below.unwrap_or_else(|| {
            listed.gather(&self.new);
            listed.all.len()
        });
        // Backwards, because counters only move to the front when others are removed.
        let from = below.saturating_sub(PART);
        let mut counts = Vec::new();
        take_from(&mut listed.all, from..below, names, &mut counts);
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
fn take_from(
    all: &mut Vec<SharedCounter>,
    part: Range<usize>,
    names: &LabelNames,
    counts: &mut Vec<UsageCount>,
) {
    for place in part.rev() {
        let Some(usage_counter) = all.get_mut(place) else {
            continue;
        };
        // In this order, so that the counts of the last holder are taken as well.
        let is_held = last_of(usage_counter).is_none();
        counts.extend(usage_counter.take(names));
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
            take_from(&mut all, 0..1, &LabelNames::default(), &mut counts);
            request.join().unwrap();
            take_from(&mut all, 0..1, &LabelNames::default(), &mut counts);
            assert!(all.is_empty());
            let admitted: u64 = counts.iter().map(|count| count.counts.admitted).sum();
            assert_eq!(admitted, 2);
        });
    }
}
