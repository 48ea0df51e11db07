//! The copy of all keys in memory that answers requests, and how fresh it is.

use std::fmt;
use std::mem;
use std::sync::{Arc, OnceLock, PoisonError, Weak};
use std::time::SystemTime;

use crate::clock::{Clock, SystemClock};
use crate::credits::{CreditGrant, CreditOwner, CreditWant, Unspent};
use crate::key::KeyDigest;
use crate::key::digest::DigestBytes;
use crate::record::KeyRecord;
use crate::replica::cached_key::CachedKey;
use crate::replica::credit_cache::CreditCache;
use crate::replica::feed::Feed;
use crate::replica::freshness::{Freshness, Moment};
use crate::replica::refresh::Refresh;
use crate::replica::refusals::Refusals;
use crate::replica::table::Table;
use crate::replica::usage::{SharedTally, Tallies, UsageCounter};
use crate::replica::{Poll, Rehash, UsageCount};
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Mutex, MutexGuard};

const DEFAULT_CEILING: usize = 1_000_000;

/// All keys of a service in memory, fed by one store.
///
/// Its gates read it, and reading never waits and never does I/O. A store feeds it with
/// [`poll`](Self::poll). A clone is another handle to the same memory.
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
/// assert_eq!(poll.since(), None); // so the store gives everything
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
    pub(super) freshness: Freshness,
    pub(super) refresh: Refresh,
    feed: Mutex<Feed>,
    pub(super) tallies: Tallies,
    /// How many of the keys are dead.
    pub(super) dead: AtomicUsize,
    pub(super) moves: AtomicU64,
    redigested: Mutex<Vec<Rehash>>,
    /// Those for which the store shall be asked.
    wanting: Mutex<Vec<Arc<CreditCache>>>,
    /// Those that hold more than they may.
    excess: Mutex<Vec<Arc<CreditCache>>>,
    nudge: OnceLock<Nudge>,
    /// Here, as it is the one thing that all admins over a store share.
    refusals: Refusals,
}

type Nudge = Box<dyn Fn(&Replica) -> bool + Send + Sync>;

impl Replica {
    /// An empty replica on the machine's clocks, for up to a million keys.
    ///
    /// It answers nothing until its first poll is finished.
    #[must_use]
    pub fn new() -> Self {
        Self::with(Arc::new(SystemClock), DEFAULT_CEILING)
    }

    /// An empty replica on a clock of the caller's, for up to `ceiling` keys.
    ///
    /// It holds all that live, also where they are [more](Self::above_ceiling), and says so in the log.
    /// Revoked and expired keys answer as such for 30 days, the latest first, and as unknown from then
    /// on, or where they would be more than a tenth of the ceiling.
    #[must_use]
    pub fn with(clock: Arc<dyn Clock>, ceiling: usize) -> Self {
        Self {
            inner: Arc::new(Inner {
                table: Table::default(),
                clock,
                ceiling,
                freshness: Freshness::default(),
                refresh: Refresh::default(),
                feed: Mutex::default(),
                tallies: Tallies::default(),
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

    /// The clock by which keys expire and freshness is judged.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.inner.clock
    }

    pub(crate) fn refusals(&self) -> &Refusals {
        &self.inner.refusals
    }

    /// Starts to ask the store for news: notes the time *before* anything is read.
    ///
    /// What the store's answer holds was true at that time or later, so the replica is as fresh as
    /// that once [`Poll::finish`] has applied it. A poll that is dropped unfinished changes nothing, and
    /// has failed: requests that find the replica too old are refused at once, and not made to wait
    /// for a poll, until one succeeds. So a store polls again soon after one has failed.
    pub fn poll(&self) -> Poll {
        // In this order: whoever asked for a poll before gets one that began later.
        self.inner.refresh.begin();
        let asked = Moment::now(&*self.inner.clock);
        let mut feed = self.feed();
        // A clock that was wrong has made memory forget keys that live: it starts anew.
        if feed
            .forgotten
            .is_some_and(|died| asked.unix().as_secs() < died.into())
        {
            feed.revision = None;
        }
        Poll::new(self, asked, feed.revision)
    }

    /// Says that nothing can change behind the replica's back.
    ///
    /// Every change comes through this process, and is applied before it is acknowledged.
    pub fn always_fresh(&self) {
        self.inner.freshness.set(Moment::ALWAYS);
    }

    /// Says how to make the next poll come at once, and credits be taken from the store.
    ///
    /// Called when requests wait for a poll, once for all of them, when they want credits, see
    /// [`take_wanted`](Self::take_wanted), and when some are to be given back, see
    /// [`take_excess`](Self::take_excess). It must not block, and gives `false` when neither will come.
    /// The first one given stays.
    pub fn on_demand(&self, nudge: impl Fn(&Self) -> bool + Send + Sync + 'static) {
        // A second nudge would be a second feed, which a replica never has.
        drop(self.inner.nudge.set(Box::new(nudge)));
    }

    /// The number of living keys in memory: neither revoked nor expired.
    ///
    /// A key that expires is counted for up to a minute more.
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

    /// The number of living keys above the ceiling; each takes some 130 bytes of memory.
    ///
    /// ```
    /// use keyward::replica::Replica;
    ///
    /// let replica = Replica::new(); // for up to a million keys
    /// assert_eq!(replica.above_ceiling(), 0);
    /// ```
    #[must_use]
    pub fn above_ceiling(&self) -> usize {
        self.living().saturating_sub(self.inner.ceiling)
    }

    /// The number of keys in memory, revoked and expired ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.table.len()
    }

    /// Whether no key is in memory.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// When the key was used last through this replica, to the second.
    #[must_use]
    pub fn last_used(&self, record: &KeyRecord) -> Option<SystemTime> {
        self.find(&record.digest.bytes())?.tally()?.last_used()
    }

    /// Takes what was counted since the last time.
    ///
    /// The store adds it to what it keeps. Sorted by key, each once. What is taken and not kept is
    /// lost.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use keyward::{AccountId, Environment, Gate, KeyFormat, KeyId, KeyScheme, Peppers, Scopes};
    /// # use keyward::gate::{Decision, Verdict};
    /// # use keyward::record::{Account, KeyRecord};
    /// # use keyward::replica::{Replica, Revision};
    /// # use keyward::request::RequestHead;
    /// # struct Get<'a>(Option<&'a str>);
    /// # impl RequestHead for Get<'_> {
    /// #     fn method(&self) -> &str { "GET" }
    /// #     fn peer(&self) -> Option<std::net::IpAddr> { None }
    /// #     fn values<'a>(&'a self, field: &'a str) -> impl Iterator<Item = &'a [u8]> {
    /// #         self.0.filter(|_| field == "x-api-key").map(str::as_bytes).into_iter()
    /// #     }
    /// # }
    /// # let (replica, format) = (Replica::new(), KeyFormat::new("vhk_{env}_")?);
    /// # let (key, acme) = (format.generate(Environment::LIVE)?, AccountId::parse("acme")?);
    /// # let (digest, now) = (Peppers::none().digest(&key), std::time::SystemTime::now());
    /// # let (id, hint, live) = (KeyId::random()?, key.hint().clone(), Environment::LIVE);
    /// # let mut record = KeyRecord::new(id, digest, hint, acme.clone(), live, now);
    /// # record.scopes = Scopes::parse(["kyc"])?;
    /// # let mut poll = replica.poll();
    /// # poll.account(Account::new(acme));
    /// # poll.key(&record);
    /// # poll.finish(Revision { number: 1, nonce: 0 })?;
    /// # let gate = Gate::builder_from_replica(&replica, &KeyScheme::new(format)).build()?;
    /// let decision = gate.check(&Get(Some(key.expose_secret())), &Arc::default(), None);
    /// assert!(matches!(decision, Decision::Ready(Verdict::Admit(_))));
    /// let counts = replica.take_usage();
    /// assert_eq!((counts[0].admitted, counts[0].refused), (1, 0));
    /// assert!(replica.take_usage().is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn take_usage(&self) -> Vec<UsageCount> {
        let mut counts = self.inner.tallies.take();
        counts.sort_unstable_by_key(|count| count.key);
        counts.dedup_by(|next, first| next.key == first.key && first.add(next));
        counts
    }

    /// Takes the new digests of used keys that are kept under an old scheme.
    ///
    /// The store keeps them instead of the old. What is taken and not kept is asked for again after
    /// a restart.
    #[must_use]
    pub fn take_redigested(&self) -> Vec<Rehash> {
        mem::take(
            &mut *self
                .inner
                .redigested
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// Takes what is wanted of balances.
    ///
    /// The store [draws](crate::credits::Credits::draw) it from them, keeps what that leaves, and then answers
    /// each with [`grant`](Self::grant), or with [`no_grant`](Self::no_grant) when it cannot.
    #[must_use]
    pub fn take_wanted(&self) -> Vec<CreditWant> {
        let wanting = mem::take(&mut *self.wanting());
        let now = self.inner.clock.boot();
        let wants = wanting.iter().map(|purse| purse.take_want(now));
        wants.collect()
    }

    /// Credits that the store no longer has, for this process to spend.
    pub fn grant(&self, grant: &CreditGrant) {
        if let Some(purse) = self.purse(&grant.owner) {
            purse.take_in(grant, self.inner.clock.boot());
        }
    }

    /// The store cannot say whether there are credits: requests that wait for them are refused.
    pub fn no_grant(&self, owner: &CreditOwner) {
        if let Some(purse) = self.purse(owner) {
            purse.fail();
        }
    }

    /// The store answers no more: whatever waits for credits is refused.
    pub fn no_more_grants(&self) {
        self.wanting().clear();
        let purses = self.feed().purses();
        for purse in purses {
            purse.fail();
        }
    }

    /// The balance has changed in the store.
    pub fn credits_changed(&self, owner: &CreditOwner) {
        if let Some(purse) = self.purse(owner) {
            purse.doubt();
        }
    }

    /// Takes the credits that were taken from the store and not spent, to be given back to it.
    ///
    /// Unless `all`, only what is more than was spent in the last second, or than 1 % of the balance, and
    /// what no request waits for. What is taken and not kept is lost. Those of another epoch than the stored balance are void: see
    /// [`Credits::put_back`](crate::credits::Credits::put_back).
    #[must_use]
    pub fn take_unspent(&self, all: bool) -> Vec<Unspent> {
        let now = self.inner.clock.boot();
        let purses = self.feed().purses();
        purses
            .iter()
            .filter_map(|purse| purse.take_unspent(all, now))
            .collect()
    }

    /// Takes the credits by which this process holds more of a balance than it may: 1 % of it.
    ///
    /// That many come together where requests are refunded or given up. The store gives them back when
    /// it is woken, [on demand](Self::on_demand), like those of [`take_unspent`](Self::take_unspent), and
    /// before it draws others. Where it cannot, it takes none, and has them with the next.
    ///
    /// ```
    /// assert!(keyward::replica::Replica::new().take_excess().is_empty());
    /// ```
    #[must_use]
    pub fn take_excess(&self) -> Vec<Unspent> {
        let purses = mem::take(&mut *self.excess());
        let now = self.inner.clock.boot();
        purses
            .iter()
            .filter_map(|purse| purse.take_excess(now))
            .collect()
    }

    /// Takes what [`take_unspent`](Self::take_unspent) takes, of one balance.
    #[must_use]
    pub fn take_unspent_of(&self, owner: &CreditOwner) -> Option<Unspent> {
        let now = self.inner.clock.boot();
        self.purse(owner)?.take_unspent(false, now)
    }

    /// The credits of a balance that were taken from the store and are not spent yet.
    ///
    /// A store adds them to the balance that it shows, between its draws.
    #[must_use]
    pub fn held_of(&self, owner: &CreditOwner) -> Option<Unspent> {
        let held = self.purse(owner)?.held();
        (held.amount > 0).then_some(held)
    }

    fn purse(&self, owner: &CreditOwner) -> Option<Arc<CreditCache>> {
        self.feed().known_purse(owner)
    }

    /// Has the store asked for credits, once; `false` when it will not answer. Unless it must be, it is
    /// not where the list is in use.
    pub(crate) fn want(&self, purse: &Arc<CreditCache>, must: bool) -> bool {
        let list = if must {
            Some(self.wanting())
        } else {
            self.inner.wanting.try_lock().ok()
        };
        let Some(mut list) = list else { return true };
        if !purse.first_to_ask(self) {
            return true;
        }
        list.push(Arc::clone(purse));
        drop(list);
        self.nudge()
    }

    /// Has the store take back what is too much in a purse, which it is told of once.
    pub(crate) fn has_excess(&self, purse: &Arc<CreditCache>) {
        self.excess().push(Arc::clone(purse));
        // Where the store sleeps for good, it has taken all that it will take.
        self.nudge();
    }

    pub(crate) fn downgrade(&self) -> WeakReplica {
        WeakReplica(Arc::downgrade(&self.inner))
    }

    /// Wakes the store; `false` when it sleeps for good.
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

    /// Notes the digest that a key shall have from now on, once.
    pub(crate) fn redigest(&self, entry: &CachedKey, digest: impl FnOnce() -> KeyDigest) {
        // A request does not wait: if the list is in use, the next request with an old key tries.
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

    /// The counters of a key, made now if it has none.
    pub(crate) fn tally<'a>(&self, entry: &'a CachedKey) -> Option<&'a SharedTally> {
        if entry.tally().is_none() {
            let tally = SharedTally::new(UsageCounter::new(entry.id));
            if entry.set_tally(&tally) {
                self.inner.tallies.add(tally);
            }
        }
        entry.tally()
    }

    /// How often keys have moved to another digest; odd while they do.
    pub(crate) fn moves(&self) -> u64 {
        self.inner.moves.load(Ordering::Acquire)
    }

    pub(crate) fn find(&self, digest: &DigestBytes) -> Option<Arc<CachedKey>> {
        self.inner.table.find(digest)
    }

    /// The entry of a key that has been used, as it is now; `None` where the key is gone.
    pub(crate) fn current(&self, entry: &CachedKey) -> Option<Arc<CachedKey>> {
        let moved = || self.find(&entry.tally()?.moved_to()?);
        // It is in its new place before it is gone from the old one.
        let found = self.find(&entry.digest).or_else(moved);
        found.filter(|found| found.id == entry.id)
    }

    /// The time of the store's answer that was last applied. Read it *before* an entry: an entry
    /// read later is at least as fresh.
    pub(crate) fn fresh_as_of(&self) -> Moment {
        self.inner.freshness.get()
    }

    pub(super) fn feed(&self) -> MutexGuard<'_, Feed> {
        self.inner
            .feed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A replica, for what is itself a part of it.
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
