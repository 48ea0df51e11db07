//! The in-memory copy of all keys, and its freshness.

use std::fmt;
use std::iter;
use std::mem;
use std::sync::{Arc, OnceLock, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use crate::clock::{Clock, SystemClock};
use crate::credits::{CreditGrant, CreditOwner, CreditWant, Unspent};
use crate::key::KeyDigest;
use crate::key::digest::DigestBytes;
use crate::record::KeyRecord;
use crate::replica::cached_key::CachedKey;
use crate::replica::credit_cache::{CreditCache, DeferredWake};
use crate::replica::feed::Feed;
use crate::replica::freshness::{Freshness, Moment};
use crate::replica::refresh::Refresh;
use crate::replica::refused_calls::Refusals;
use crate::replica::table::Table;
use crate::replica::usage::{SharedCounter, UsageCounter, UsageCounters};
use crate::replica::{Poll, Rehash, UsageCount};
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Mutex, MutexGuard};
use crate::usage::ClientNetwork;
use crate::usage::label::LabelNames;

const DEFAULT_CEILING: usize = 1_000_000;

/// An in-memory copy of all keys of a service, fed by one store.
///
/// Gates read it without ever waiting or doing I/O. A store feeds it with [`poll`](Self::poll). A
/// clone is another handle to the same memory.
///
/// ```
/// # use keyward::{AccountId, Environment, KeyFormat, KeyId, Peppers, Store};
/// # use keyward::record::{Account, KeyRecord};
/// # use keyward::replica::{Replica, Revision};
/// # let (acme, live) = (AccountId::parse("acme")?, Environment::LIVE);
/// # let key = KeyFormat::new("vhk_{env}_")?.generate(live)?;
/// # let (digest, hint) = (Peppers::none().digest(&key), key.hint().clone());
/// # let now = std::time::SystemTime::now();
/// # let record = KeyRecord::new(KeyId::random()?, digest, hint, acme.clone(), live, now);
/// let replica = Replica::new();
/// let mut poll = replica.poll();
/// assert_eq!(poll.since(), None); // so the store provides everything
/// poll.account(Account::new(acme));
/// poll.key(&record);
///
/// let head = Revision { number: 1, nonce: 7 };
/// poll.finish(head)?;
/// assert_eq!(replica.len(), 1);
/// assert_eq!(replica.poll().since(), Some(head));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Replica {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) table: Table,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) ceiling: usize,
    holds_details: AtomicBool,
    pub(super) freshness: Freshness,
    pub(super) refresh: Refresh,
    feed: Mutex<Feed>,
    /// Held by the thread that gets the feed next.
    pub(super) feed_turn: Mutex<()>,
    pub(super) usage_counters: UsageCounters,
    labels: LabelNames,
    /// The number of dead keys in memory.
    pub(super) dead: AtomicUsize,
    pub(super) moves: AtomicU64,
    redigested: Mutex<Vec<Rehash>>,
    /// The caches that want credits from the store.
    wanting: Mutex<Vec<Arc<CreditCache>>>,
    /// The caches that hold more credits than they may.
    excess: Mutex<Vec<Arc<CreditCache>>>,
    nudge: OnceLock<Nudge>,
    /// Kept here because all admins of a store share only the replica.
    refusals: Refusals,
}

/// The number of balances that are visited under one lock of the feed.
const CREDIT_CACHES_AT_ONCE: usize = 512;

type Nudge = Box<dyn Fn(&Replica) -> bool + Send + Sync>;

impl Replica {
    /// Creates an empty replica on the system clocks, for up to a million keys.
    ///
    /// It answers no lookups until its first poll is finished; until then, the gate responds with
    /// 503.
    #[must_use]
    pub fn new() -> Self {
        Self::with(Arc::new(SystemClock), DEFAULT_CEILING)
    }

    /// Creates an empty replica on a custom clock, for up to `ceiling` keys.
    ///
    /// It holds all live keys even if there are [more](Self::above_ceiling), and logs a warning.
    /// Revoked and expired keys are reported as such for 30 days and as unknown afterwards. The
    /// most recent ones are kept, up to a tenth of the ceiling.
    #[must_use]
    pub fn with(clock: Arc<dyn Clock>, ceiling: usize) -> Self {
        Self {
            inner: Arc::new_cyclic(|inner| Inner {
                table: Table::default(),
                clock,
                ceiling,
                holds_details: AtomicBool::new(false),
                freshness: Freshness::default(),
                refresh: Refresh::default(),
                feed: Mutex::new(Feed::of(WeakReplica(Weak::clone(inner)))),
                feed_turn: Mutex::default(),
                usage_counters: UsageCounters::default(),
                labels: LabelNames::default(),
                dead: AtomicUsize::new(0),
                moves: AtomicU64::new(0),
                redigested: Mutex::default(),
                wanting: Mutex::default(),
                excess: Mutex::default(),
                nudge: OnceLock::new(),
                refusals: Refusals::default(),
            }),
        }
    }

    /// Returns the clock that judges expiry and freshness.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.inner.clock
    }

    /// Holds names, metadata and creators of keys in memory too, for [`Principal`](crate::Principal).
    ///
    /// Call it before the first poll: keys that are in memory already get them when their records
    /// change. A key then takes about 170 bytes more, and the text of its details and scopes,
    /// because it no longer shares its permissions with other keys.
    ///
    /// ```
    /// # use keyward::{Gate, KeyAdmin, KeyFormat, KeyScheme, Requirement, Store};
    /// # use keyward::record::Metadata;
    /// # use keyward::testing::World;
    /// # let world = World::new();
    /// world.store().replica().hold_details();
    /// let metadata = Metadata::parse(r#"{"team":"billing"}"#)?;
    /// let created = world.create(world.new_key().metadata(metadata.clone()));
    /// let principal = world.principal(created.key.unwrap().expose_secret());
    /// assert_eq!(principal.metadata(), Some(&metadata));
    /// # Ok::<(), keyward::error::ParseError>(())
    /// ```
    pub fn hold_details(&self) {
        self.inner.holds_details.store(true, Ordering::Release);
    }

    pub(super) fn holds_details(&self) -> bool {
        self.inner.holds_details.load(Ordering::Acquire)
    }

    pub(crate) fn refusals(&self) -> &Refusals {
        &self.inner.refusals
    }

    /// Starts a poll: notes the time *before* anything is read from the store.
    ///
    /// The data that the store then returns was true at that time or later, so the replica is that
    /// fresh once [`Poll::finish`] has applied it. A poll that is dropped unfinished changes
    /// nothing and counts as failed. Until a poll succeeds, requests that find the replica too old
    /// are refused at once instead of waiting for a poll, so a store should retry soon.
    pub fn poll(&self) -> Poll {
        // In this order: a request that asked for a poll before this gets one that began later.
        self.inner.refresh.begin();
        let asked = Moment::now(&*self.inner.clock);
        let mut feed = self.feed();
        // A wrong clock made the replica forget live keys, so it starts over.
        if feed
            .forgotten
            .is_some_and(|died| asked.unix().as_secs() < died.into())
        {
            feed.revision = None;
        }
        Poll::new(self, asked, feed.revision)
    }

    /// Returns how old the memory is: every change made before that is known to this process.
    ///
    /// A gate whose `max_staleness` is smaller refuses requests with 503. `None` means that the keys were
    /// not read yet. It is meant for health checks and metrics.
    ///
    /// ```
    /// use std::time::Duration;
    /// use keyward::replica::Replica;
    /// use keyward::{MemoryStore, Store};
    ///
    /// assert_eq!(Replica::new().staleness(), None);
    /// assert_eq!(MemoryStore::new().replica().staleness(), Some(Duration::ZERO)); // always
    /// ```
    #[must_use]
    pub fn staleness(&self) -> Option<Duration> {
        let fresh_as_of = self.inner.freshness.get();
        fresh_as_of.age(Moment::now(&*self.inner.clock))
    }

    /// Declares that nothing can change without the replica.
    ///
    /// Use it if every change goes through this process and is applied before it is acknowledged.
    pub fn always_fresh(&self) {
        self.inner.freshness.set(Moment::ALWAYS);
    }

    /// Sets the callback that triggers a poll or a credit exchange at once.
    ///
    /// It is called when requests wait for a poll, once for all of them, when they want credits
    /// ([`take_wanted`](Self::take_wanted)), and when credits have to be returned
    /// ([`take_excess`](Self::take_excess)). It must not block, and returns `false` if neither will
    /// happen. Only the first callback that is set takes effect.
    pub fn on_demand(&self, nudge: impl Fn(&Self) -> bool + Send + Sync + 'static) {
        // A second callback would be a second feed, which a replica never has.
        drop(self.inner.nudge.set(Box::new(nudge)));
    }

    /// Returns the number of live keys in memory, neither revoked nor expired.
    ///
    /// An expired key may be counted for up to another minute.
    ///
    /// ```
    /// use keyward::{MemoryStore, Store};
    ///
    /// assert_eq!(MemoryStore::new().replica().living(), 0);
    /// ```
    #[must_use]
    pub fn living(&self) -> usize {
        let dead = self.inner.dead.load(Ordering::Acquire);
        self.len().saturating_sub(dead)
    }

    /// Returns the number of live keys above the ceiling. Each takes about 130 bytes of memory.
    ///
    /// ```
    /// use keyward::replica::Replica;
    ///
    /// let replica = Replica::new(); // ceiling: one million keys
    /// assert_eq!(replica.above_ceiling(), 0);
    /// ```
    #[must_use]
    pub fn above_ceiling(&self) -> usize {
        self.living().saturating_sub(self.inner.ceiling)
    }

    /// Returns the number of keys in memory, including revoked and expired ones.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.table.len()
    }

    /// Returns whether no key is in memory.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns when the key was last used through this replica, to the second.
    #[must_use]
    pub fn last_used(&self, record: &KeyRecord) -> Option<SystemTime> {
        self.find(&record.digest.bytes())?
            .usage_counter()?
            .last_used()
    }

    /// Returns the network from which the key was used last through this replica, if that is
    /// recorded.
    #[must_use]
    pub fn last_network(&self, record: &KeyRecord) -> Option<ClientNetwork> {
        self.find(&record.digest.bytes())?
            .usage_counter()?
            .last_network()
    }

    /// Takes the usage counted since the last call.
    ///
    /// The store adds it to its own counts. The result is sorted by key and has one entry per key.
    /// Counts that are taken but not stored are lost.
    ///
    /// ```
    /// # use keyward::{Requirement, Store};
    /// # use keyward::testing::{TestRequest, World};
    /// # let world = World::new();
    /// # let request = TestRequest::get().key(&world.key("kyc"));
    /// let replica = world.store().replica();
    /// assert_eq!(world.status(&request, Requirement::new()), 200);
    /// let counts = replica.take_usage();
    /// assert_eq!((counts[0].counts.admitted, counts[0].counts.refused), (1, 0));
    /// assert!(replica.take_usage().is_empty());
    /// ```
    #[must_use]
    pub fn take_usage(&self) -> Vec<UsageCount> {
        let mut counts: Vec<_> = self.take_usage_in_parts().flatten().collect();
        counts.sort_unstable_by_key(|count| count.key);
        counts.dedup_by(|next, first| {
            let is_same = next.key == first.key;
            if is_same {
                first.add(next);
            }
            is_same
        });
        counts
    }

    /// Takes the same counts as [`take_usage`](Self::take_usage) in parts.
    ///
    /// Each item holds the counts of up to a few thousand keys, unsorted, and may be empty. A store uses
    /// it to do other work in between. Together the items hold everything that was counted before the
    /// first was taken.
    ///
    /// ```
    /// use keyward::replica::Replica;
    ///
    /// let replica = Replica::new();
    /// assert_eq!(replica.take_usage_in_parts().flatten().count(), 0);
    /// ```
    pub fn take_usage_in_parts(&self) -> impl Iterator<Item = Vec<UsageCount>> + Send + use<> {
        let (replica, mut below) = (self.clone(), None);
        iter::from_fn(move || {
            if below == Some(0) {
                return None;
            }
            let inner = &replica.inner;
            let (counts, rest) = inner.usage_counters.take_part(below, &inner.labels);
            below = Some(rest);
            Some(counts)
        })
    }

    /// Takes the new digests of used keys that are stored under an old scheme.
    ///
    /// The store replaces the old digests with them. Rehashes that are taken but not stored come up
    /// again after a restart.
    #[must_use]
    pub fn take_rehashes(&self) -> Vec<Rehash> {
        let rehashes = mem::take(
            &mut *self
                .inner
                .redigested
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        if !rehashes.is_empty() {
            self.feed().note_rehashes(&rehashes);
        }
        rehashes
    }

    /// Takes all requests for credits.
    ///
    /// See [`take_some_wanted`](Self::take_some_wanted).
    ///
    /// ```
    /// assert!(keyward::replica::Replica::new().take_wanted().is_empty());
    /// ```
    #[must_use]
    pub fn take_wanted(&self) -> Vec<CreditWant> {
        self.take_some_wanted(usize::MAX)
    }

    /// Takes the oldest requests for credits, of at most this many balances.
    ///
    /// The store [draws](crate::credits::Credits::draw) them from the balances, saves what remains,
    /// and then responds to each with [`grant`](Self::grant), or with [`no_grant`](Self::no_grant)
    /// if it cannot. If it gets as many as it asked for, there may be more.
    ///
    /// ```
    /// assert!(keyward::replica::Replica::new().take_some_wanted(100).is_empty());
    /// ```
    #[must_use]
    pub fn take_some_wanted(&self, most: usize) -> Vec<CreditWant> {
        let mut wanting = self.wanting();
        let most = most.min(wanting.len());
        let wanting: Vec<_> = wanting.drain(..most).collect();
        let now = self.inner.clock.boot();
        let wants = wanting
            .iter()
            .map(|credit_cache| credit_cache.take_want(now));
        wants.collect()
    }

    /// Hands over credits that have left the store, for this process to spend.
    pub fn grant(&self, grant: &CreditGrant) {
        drop(self.grant_deferred(grant));
    }

    /// Hands over credits like [`grant`](Self::grant), and wakes no request yet.
    ///
    /// Requests that wait for the credits are woken when the result is dropped. A store that holds a lock
    /// from its commit until the replica has the credits, so that it can report an exact balance, drops the
    /// result after the lock: wakers may run arbitrary code.
    ///
    /// ```
    /// use keyward::AccountId;
    /// use keyward::credits::{CreditWant, Credits};
    /// use keyward::replica::Replica;
    ///
    /// let (replica, owner) = (Replica::new(), AccountId::parse("acme")?.into());
    /// let want = CreditWant { owner, all_or_none: vec![1], up_to: 0, spent: 0, held: 0, epoch: 0 };
    /// let grant = Credits::new(1000).draw(&want, std::time::SystemTime::now());
    /// let wake = replica.grant_deferred(&grant);
    /// drop(wake);
    /// # Ok::<(), keyward::error::ParseError>(())
    /// ```
    pub fn grant_deferred(&self, grant: &CreditGrant) -> DeferredWake {
        let credit_cache = self.credit_cache(&grant.owner);
        if let Some(credit_cache) = &credit_cache {
            credit_cache.take_in_without_waking(grant, self.inner.clock.boot());
        }
        DeferredWake(credit_cache)
    }

    /// Reports that the store cannot provide credits. Requests that wait for them are refused.
    pub fn no_grant(&self, owner: &CreditOwner) {
        if let Some(credit_cache) = self.credit_cache(owner) {
            credit_cache.fail();
        }
    }

    /// Reports that the store has shut down. All requests that wait for credits are refused.
    pub fn no_more_grants(&self) {
        self.wanting().clear();
        let credit_caches = self.feed().credit_caches();
        for credit_cache in credit_caches {
            credit_cache.fail();
        }
    }

    /// Reports that a balance has changed in the store.
    pub fn credits_changed(&self, owner: &CreditOwner) {
        if let Some(credit_cache) = self.credit_cache(owner) {
            credit_cache.doubt();
        }
    }

    /// Takes unspent credits, to return them to the store.
    ///
    /// Unless `all` is set, it takes only credits that no request waits for and that exceed either
    /// the spending of the last second or 1 % of the balance. Credits that are taken but not stored
    /// are lost. Credits of another epoch than the stored balance are void; see
    /// [`Credits::put_back`](crate::credits::Credits::put_back).
    #[must_use]
    pub fn take_unspent(&self, all: bool) -> Vec<Unspent> {
        self.take_unspent_in_parts(all).flatten().collect()
    }

    /// Takes the same credits as [`take_unspent`](Self::take_unspent) in parts.
    ///
    /// Each item holds the credits of up to a few hundred balances, and may be empty. A store uses it to do
    /// other work in between.
    ///
    /// ```
    /// use keyward::replica::Replica;
    ///
    /// let replica = Replica::new();
    /// assert_eq!(replica.take_unspent_in_parts(true).flatten().count(), 0);
    /// ```
    pub fn take_unspent_in_parts(
        &self,
        all: bool,
    ) -> impl Iterator<Item = Vec<Unspent>> + Send + use<> {
        let (replica, mut after) = (self.clone(), None);
        iter::from_fn(move || {
            let credit_caches = replica
                .feed()
                .credit_caches_after(after.as_ref(), CREDIT_CACHES_AT_ONCE);
            after = Some(credit_caches.last()?.owner().clone());
            let now = replica.inner.clock.boot();
            let unspent = credit_caches.iter();
            Some(
                unspent
                    .filter_map(|credit_cache| credit_cache.take_unspent(all, now))
                    .collect(),
            )
        })
    }

    /// Takes the credits that exceed this process's limit of 1 % of a balance.
    ///
    /// They accumulate when requests are refunded or abandoned. The store returns them to the
    /// balance, like those of [`take_unspent`](Self::take_unspent), when it is
    /// [triggered](Self::on_demand) and before it draws others. If it cannot, it takes none and
    /// gets them with the next call.
    ///
    /// ```
    /// assert!(keyward::replica::Replica::new().take_excess().is_empty());
    /// ```
    #[must_use]
    pub fn take_excess(&self) -> Vec<Unspent> {
        let credit_caches = mem::take(&mut *self.excess());
        let now = self.inner.clock.boot();
        credit_caches
            .iter()
            .filter_map(|credit_cache| credit_cache.take_excess(now))
            .collect()
    }

    /// Takes the unspent credits of one balance, like [`take_unspent`](Self::take_unspent).
    #[must_use]
    pub fn take_unspent_of(&self, owner: &CreditOwner) -> Option<Unspent> {
        let now = self.inner.clock.boot();
        self.credit_cache(owner)?.take_unspent(false, now)
    }

    /// Returns the credits of a balance that were drawn and are not spent yet.
    ///
    /// A store adds them to the balance that it displays between draws.
    #[must_use]
    pub fn held_of(&self, owner: &CreditOwner) -> Option<Unspent> {
        let held = self.credit_cache(owner)?.held();
        (held.amount > 0).then_some(held)
    }

    pub(crate) fn credit_cache(&self, owner: &CreditOwner) -> Option<Arc<CreditCache>> {
        self.feed().known_credit_cache(owner)
    }

    /// Asks the store for credits, once; `false` if it will not respond. Without `must`, it does
    /// nothing while the list is in use.
    pub(crate) fn want(&self, credit_cache: &Arc<CreditCache>, must: bool) -> bool {
        let list = if must {
            Some(self.wanting())
        } else {
            self.inner.wanting.try_lock().ok()
        };
        let Some(mut list) = list else { return true };
        if !credit_cache.first_to_ask(self) {
            return true;
        }
        list.push(Arc::clone(credit_cache));
        drop(list);
        self.nudge()
    }

    /// Notifies the store once of the excess credits of a cache.
    pub(crate) fn has_excess(&self, credit_cache: &Arc<CreditCache>) {
        self.excess().push(Arc::clone(credit_cache));
        // A store that has shut down has taken everything that it will take.
        self.nudge();
    }

    pub(crate) fn downgrade(&self) -> WeakReplica {
        WeakReplica(Arc::downgrade(&self.inner))
    }

    /// Wakes the store; `false` if it has shut down.
    pub(super) fn nudge(&self) -> bool {
        self.inner.nudge.get().is_some_and(|nudge| nudge(self))
    }

    fn wanting(&self) -> MutexGuard<'_, Vec<Arc<CreditCache>>> {
        self.inner
            .wanting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn excess(&self) -> MutexGuard<'_, Vec<Arc<CreditCache>>> {
        self.inner
            .excess
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the new digest of a key, once.
    pub(crate) fn redigest(&self, entry: &CachedKey, digest: impl FnOnce() -> KeyDigest) {
        // Requests never wait: if the list is in use, the next request with an old key tries again.
        if let Ok(mut list) = self.inner.redigested.try_lock()
            && entry.first_to_redigest()
        {
            list.push(Rehash {
                key: entry.id,
                from: entry.digest.0,
                to: digest(),
            });
        }
    }

    /// Returns the counters of a key, creating them if necessary.
    pub(crate) fn usage_counter<'a>(&self, entry: &'a CachedKey) -> Option<&'a SharedCounter> {
        if entry.usage_counter().is_none() {
            let usage_counter = SharedCounter::new(UsageCounter::new(entry.id));
            if entry.set_usage_counter(&usage_counter) {
                self.inner.usage_counters.add(usage_counter);
            }
        }
        entry.usage_counter()
    }

    /// Returns the labels under which requests are counted.
    pub(crate) fn labels(&self) -> &LabelNames {
        &self.inner.labels
    }

    /// Returns how often keys have moved to another digest. The number is odd during a move.
    pub(crate) fn moves(&self) -> u64 {
        self.inner.moves.load(Ordering::Acquire)
    }

    pub(crate) fn find(&self, digest: &DigestBytes) -> Option<Arc<CachedKey>> {
        self.inner.table.find(digest)
    }

    /// Returns the current entry of a key that has been used; `None` if the key is gone.
    pub(crate) fn current(&self, entry: &CachedKey) -> Option<Arc<CachedKey>> {
        let moved = || self.find(&entry.usage_counter()?.moved_to()?);
        // A moved key appears in its new place before it leaves the old one.
        let found = self.find(&entry.digest).or_else(moved);
        found.filter(|found| found.id == entry.id)
    }

    /// Returns the time of the last applied poll. Read it *before* an entry: an entry read later is
    /// at least as fresh.
    pub(crate) fn fresh_as_of(&self) -> Moment {
        self.inner.freshness.get()
    }

    /// Locks the feed. No thread gets it twice while another waits.
    ///
    /// A reload locks it in many short steps. A single mutex is not fair: a poll would hardly ever get it
    /// between two of them.
    pub(super) fn feed(&self) -> MutexGuard<'_, Feed> {
        let turn = &self.inner.feed_turn;
        let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.inner
            .feed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A weak handle, for parts of the replica itself.
#[derive(Clone, Default)]
pub(crate) struct WeakReplica(Weak<Inner>);

impl WeakReplica {
    pub(crate) fn upgrade(&self) -> Option<Replica> {
        let inner = self.0.upgrade()?;
        Some(Replica { inner })
    }
}

impl Default for Replica {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replica")
            .field("keys", &self.len())
            .finish_non_exhaustive()
    }
}
