//! The copy of all keys in memory that answers requests, and how fresh it is.

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::fmt;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::mem;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll as TaskPoll, Waker};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;

use crate::key::digest::DigestBytes;
use crate::store::entry::{Entry, Group};
use crate::{Account, AccountId, Clock, Environment, KeyRecord, Scopes, SystemClock};

/// A change replaces one of these tables whole. Three times a power of two, so that a round number
/// of keys does not fall just past the size at which a table doubles.
const SHARDS: usize = 192;
const DEFAULT_CEILING: usize = 1_000_000;
/// The freshness of a replica that nothing else can change behind its back.
const ALWAYS: u64 = u64::MAX;

/// All keys of a service in memory, fed by one store and read by its gates.
///
/// Reading never waits and never does I/O. A store feeds it with [`poll`](Self::poll). A clone is
/// another handle to the same memory.
#[derive(Clone)]
pub struct Replica {
    inner: Arc<Inner>,
}

struct Inner {
    shards: Box<[ArcSwap<Shard>]>,
    clock: Arc<dyn Clock>,
    ceiling: usize,
    freshness: Freshness,
    feed: Mutex<Feed>,
    waiting: Mutex<Vec<Waker>>,
    nudge: OnceLock<Box<dyn Fn() -> bool + Send + Sync>>,
}

type Shard = HashSet<ByDigest, BuildHasherDefault<Identity>>;

impl Replica {
    /// An empty replica on the machine's clocks, for up to a million keys.
    ///
    /// It answers nothing until its first poll is finished.
    #[must_use]
    pub fn new() -> Self {
        Self::with(Arc::new(SystemClock), DEFAULT_CEILING)
    }

    /// An empty replica on a clock of the caller's, that loads at most `ceiling` keys.
    #[must_use]
    pub fn with(clock: Arc<dyn Clock>, ceiling: usize) -> Self {
        let shards = (0..SHARDS).map(|_| ArcSwap::default()).collect();
        Self {
            inner: Arc::new(Inner {
                shards,
                clock,
                ceiling,
                freshness: Freshness::default(),
                feed: Mutex::default(),
                waiting: Mutex::default(),
                nudge: OnceLock::new(),
            }),
        }
    }

    /// The clock by which keys expire and freshness is judged.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.inner.clock
    }

    /// Starts to ask the store for news: notes the time *before* anything is read.
    ///
    /// What the store's answer holds was true at that time or later, so the replica is as fresh as
    /// that once [`Poll::finish`] has applied it. A poll that is dropped unfinished changes nothing.
    pub fn poll(&self) -> Poll<'_> {
        let asked = Moment::now(&*self.inner.clock);
        let since = self.feed().revision;
        Poll {
            replica: self,
            asked,
            since,
            restarted: since.is_none(),
            accounts: Vec::new(),
            entries: Vec::new(),
            finished: false,
        }
    }

    /// Says that nothing can change behind the replica's back: every change comes through this
    /// process, and is applied before it is acknowledged.
    pub fn always_fresh(&self) {
        self.inner.freshness.set(Moment {
            boot: ALWAYS,
            unix: ALWAYS,
        });
    }

    /// Says how to make the next poll come at once; called when a request waits for one.
    ///
    /// It must not block, and gives `false` when no poll will come. The first one given stays.
    pub fn on_demand(&self, nudge: impl Fn() -> bool + Send + Sync + 'static) {
        // A second nudge would be a second feed, which a replica never has.
        drop(self.inner.nudge.set(Box::new(nudge)));
    }

    /// The number of keys in memory, revoked ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner
            .shards
            .iter()
            .map(|shard| shard.load().len())
            .sum()
    }

    /// Whether no key is in memory.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// When the key was used last through this replica, to the second.
    #[must_use]
    pub fn last_used(&self, record: &KeyRecord) -> Option<SystemTime> {
        let used = self.find(&record.digest.bytes())?.last_used();
        (used > 0).then(|| SystemTime::UNIX_EPOCH + Duration::from_secs(used.into()))
    }

    pub(crate) fn find(&self, digest: &DigestBytes) -> Option<Arc<Entry>> {
        let shard = self.inner.shards.get(shard_of(digest))?.load();
        shard.get(digest).map(|found| Arc::clone(&found.0))
    }

    /// The time of the store's answer that was last applied. Read it *before* an entry: an entry
    /// read later is at least as fresh.
    pub(crate) fn fresh_as_of(&self) -> Moment {
        self.inner.freshness.get()
    }

    /// Ends when a poll that began now or later is applied (`true`) or has failed (`false`).
    pub(crate) fn refreshed(&self) -> Refreshed {
        let asked = Moment::now(&*self.inner.clock).boot;
        let failures = self.inner.freshness.failures.load(Ordering::Acquire);
        Refreshed {
            replica: self.clone(),
            asked,
            failures,
        }
    }

    fn feed(&self) -> MutexGuard<'_, Feed> {
        self.inner
            .feed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Waker>> {
        self.inner
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn wake_all(&self) {
        let waiting = mem::take(&mut *self.waiting());
        waiting.into_iter().for_each(Waker::wake);
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

/// Which of a store's changes was the last: its number, and a random number that a history which was
/// lost and written anew does not repeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a store makes it from its two columns"
)]
pub struct Revision {
    /// Grows with every change, by one or more.
    pub number: u64,
    /// Random.
    pub nonce: u64,
}

/// One round of asking the store what has changed; made by [`Replica::poll`].
#[must_use = "a poll changes nothing until it is finished"]
pub struct Poll<'a> {
    replica: &'a Replica,
    asked: Moment,
    since: Option<Revision>,
    restarted: bool,
    accounts: Vec<Account>,
    entries: Vec<Arc<Entry>>,
    finished: bool,
}

impl Poll<'_> {
    /// The last change that is in the replica; `None` before the first poll.
    ///
    /// A store that does not know it, number and nonce, must [`restart`](Self::restart) and give
    /// everything.
    #[must_use]
    pub fn since(&self) -> Option<Revision> {
        self.since
    }

    /// Says that what follows is everything, and what is not in it is gone.
    pub fn restart(&mut self) {
        self.restarted = true;
        self.accounts.clear();
        self.entries.clear();
    }

    /// An account that is new or has changed.
    pub fn account(&mut self, account: Account) {
        self.accounts.push(account);
    }

    /// A key that is new or has changed.
    pub fn key(&mut self, record: &KeyRecord) {
        let mut feed = self.replica.feed();
        let group = feed.group(record);
        let scopes = feed.scopes(&record.scopes);
        self.entries
            .push(Arc::new(Entry::new(record, group, scopes)));
    }

    /// Applies what was given: the replica then stands at `head`, and is as fresh as the start of
    /// this poll.
    ///
    /// # Errors
    /// When this is the first poll and gives more keys than the ceiling, or another poll finished first.
    /// Nothing is changed then.
    pub fn finish(mut self, head: Revision) -> Result<(), ReplicaError> {
        let inner = &self.replica.inner;
        let mut feed = self.replica.feed();
        if feed.revision != self.since {
            return Err(ReplicaError::new(ReplicaErrorKind::Overtaken));
        }
        // Only when the service starts: one that runs must not stop because of one key more.
        if self.since.is_none() && self.entries.len() > inner.ceiling {
            return Err(ReplicaError::new(ReplicaErrorKind::TooManyKeys));
        }
        // What an account forbids comes before its keys, what it allows after them: no request may
        // see an old key under an account that was opened when the key was closed.
        let accounts = mem::take(&mut self.accounts);
        feed.close(&accounts);
        let entries = mem::take(&mut self.entries);
        if self.restarted || !entries.is_empty() {
            replace(&inner.shards, entries, self.restarted);
        }
        feed.follow(accounts, self.restarted);
        feed.revision = Some(head);
        drop(feed);
        inner.freshness.set(self.asked);
        self.finished = true;
        self.replica.wake_all();
        Ok(())
    }
}

impl Drop for Poll<'_> {
    fn drop(&mut self) {
        if !self.finished {
            let failures = &self.replica.inner.freshness.failures;
            failures.fetch_add(1, Ordering::AcqRel);
            self.replica.wake_all();
        }
    }
}

impl fmt::Debug for Poll<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poll")
            .field("since", &self.since)
            .field("accounts", &self.accounts.len())
            .field("keys", &self.entries.len())
            .finish_non_exhaustive()
    }
}

/// Why the store's news could not be applied.
#[derive(Clone, Copy, Debug)]
pub struct ReplicaError {
    kind: ReplicaErrorKind,
}

impl ReplicaError {
    const fn new(kind: ReplicaErrorKind) -> Self {
        Self { kind }
    }

    /// Which it is.
    #[must_use]
    pub const fn kind(&self) -> ReplicaErrorKind {
        self.kind
    }
}

impl fmt::Display for ReplicaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            ReplicaErrorKind::TooManyKeys => "the store holds more keys than the replica's ceiling",
            ReplicaErrorKind::Overtaken => "another poll finished first",
        })
    }
}

impl Error for ReplicaError {}

/// Which error it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReplicaErrorKind {
    /// The store holds more keys than the replica may load.
    TooManyKeys,
    /// Another poll finished between the start and the end of this one: what it read may be old.
    Overtaken,
}

/// Both clocks at one moment, in nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moment {
    boot: u64,
    unix: u64,
}

impl Moment {
    pub(crate) fn now(clock: &dyn Clock) -> Self {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(ALWAYS - 1);
        Self {
            boot: nanos(clock.boot()),
            unix: nanos(clock.unix()),
        }
    }

    /// Since the Unix epoch.
    pub(crate) fn unix(self) -> Duration {
        Duration::from_nanos(self.unix)
    }

    /// Whether this is longer ago than allowed. A virtual machine that was put to sleep may see only
    /// the time of day jump, so that clock may say so too, with a second for its corrections.
    pub(crate) fn is_older_than(self, age: Duration, now: Self) -> bool {
        let age = u64::try_from(age.as_nanos()).unwrap_or(ALWAYS);
        let jump = age.saturating_add(1_000_000_000);
        self.boot == 0
            || now.boot.saturating_sub(self.boot) > age
            || now.unix.saturating_sub(self.unix) > jump
    }
}

/// The moment as of which the replica is true; zero before the first poll.
#[derive(Default)]
struct Freshness {
    boot: AtomicU64,
    unix: AtomicU64,
    failures: AtomicU64,
}

impl Freshness {
    fn set(&self, moment: Moment) {
        if self.boot.load(Ordering::Acquire) == ALWAYS {
            return;
        }
        self.unix.store(moment.unix, Ordering::Release);
        self.boot.store(moment.boot, Ordering::Release);
    }

    fn get(&self) -> Moment {
        let boot = self.boot.load(Ordering::Acquire);
        let unix = self.unix.load(Ordering::Acquire);
        Moment { boot, unix }
    }
}

/// Waits for a poll that began after it did.
pub(crate) struct Refreshed {
    replica: Replica,
    asked: u64,
    failures: u64,
}

impl Future for Refreshed {
    type Output = bool;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> TaskPoll<bool> {
        let inner = &self.replica.inner;
        // Registered before the look, so that a poll that ends in between still wakes it.
        self.replica.waiting().push(context.waker().clone());
        if inner.freshness.get().boot >= self.asked {
            return TaskPoll::Ready(true);
        }
        if inner.freshness.failures.load(Ordering::Acquire) != self.failures {
            return TaskPoll::Ready(false);
        }
        if inner.nudge.get().is_some_and(|nudge| nudge()) {
            TaskPoll::Pending
        } else {
            TaskPoll::Ready(false)
        }
    }
}

/// What only the feed touches.
#[derive(Default)]
struct Feed {
    revision: Option<Revision>,
    accounts: HashMap<AccountId, Account>,
    groups: HashMap<AccountId, Vec<Arc<Group>>>,
    scopes: HashSet<Arc<Scopes>>,
}

impl Feed {
    fn group(&mut self, record: &KeyRecord) -> Arc<Group> {
        let (environment, prefix) = (record.environment, &record.hint.prefix);
        let groups = self.groups.entry(record.account.clone()).or_default();
        let same = |group: &&Arc<Group>| is_of(group, environment, prefix);
        if let Some(group) = groups.iter().find(same) {
            return Arc::clone(group);
        }
        let group = Group::closed(record.account.clone(), environment, prefix.clone());
        group.follow(self.accounts.get(&record.account));
        let group = Arc::new(group);
        groups.push(Arc::clone(&group));
        group
    }

    fn scopes(&mut self, scopes: &Scopes) -> Arc<Scopes> {
        if let Some(known) = self.scopes.get(scopes) {
            return Arc::clone(known);
        }
        let scopes = Arc::new(scopes.clone());
        self.scopes.insert(Arc::clone(&scopes));
        scopes
    }

    fn close(&self, accounts: &[Account]) {
        for account in accounts {
            for group in self.groups.get(&account.id).into_iter().flatten() {
                group.close(account);
            }
        }
    }

    fn follow(&mut self, accounts: Vec<Account>, restarted: bool) {
        if restarted {
            self.accounts.clear();
        }
        for account in accounts {
            for group in self.groups.get(&account.id).into_iter().flatten() {
                group.follow(Some(&account));
            }
            self.accounts.insert(account.id.clone(), account);
        }
        if restarted {
            let gone = self
                .groups
                .iter()
                .filter(|(id, _)| !self.accounts.contains_key(id));
            gone.flat_map(|(_, groups)| groups)
                .for_each(|group| group.follow(None));
        }
    }
}

fn is_of(group: &Group, environment: Environment, prefix: &str) -> bool {
    group.environment == environment && *group.prefix == *prefix
}

/// Puts entries into their shards; each shard changes at once, and no reader waits.
#[expect(
    clippy::mutable_key_type,
    reason = "only counters change, never the digest"
)]
fn replace(shards: &[ArcSwap<Shard>], entries: Vec<Arc<Entry>>, restarted: bool) {
    let mut by_shard: Vec<Vec<Arc<Entry>>> = shards.iter().map(|_| Vec::new()).collect();
    for entry in entries {
        if let Some(shard) = by_shard.get_mut(shard_of(&entry.digest)) {
            shard.push(entry);
        }
    }
    for (shard, entries) in shards.iter().zip(by_shard) {
        if entries.is_empty() && !restarted {
            continue;
        }
        let old = shard.load();
        let mut new = if restarted {
            Shard::default()
        } else {
            Shard::clone(&old)
        };
        new.reserve(entries.len());
        let mut gone = Vec::new();
        for entry in entries {
            if let Some(older) = old.get(&entry.digest) {
                entry.inherit(&older.0);
                gone.push(Arc::clone(&older.0));
            }
            new.replace(ByDigest(entry));
        }
        shard.store(Arc::new(new));
        // Before their accounts change: see `Gate::conclude`.
        for entry in gone {
            entry.supersede();
        }
        if restarted {
            old.iter().for_each(|entry| entry.0.supersede());
        }
    }
}

fn shard_of(digest: &DigestBytes) -> usize {
    usize::try_from(digest.word(1) % SHARDS as u64).unwrap_or_default()
}

/// An entry that is found by its digest.
#[derive(Clone)]
struct ByDigest(Arc<Entry>);

impl std::borrow::Borrow<DigestBytes> for ByDigest {
    fn borrow(&self) -> &DigestBytes {
        &self.0.digest
    }
}

impl PartialEq for ByDigest {
    fn eq(&self, other: &Self) -> bool {
        self.0.digest == other.0.digest
    }
}

impl Eq for ByDigest {}

impl Hash for ByDigest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.digest.hash(state);
    }
}

/// A digest is uniform: eight of its bytes are its hash.
#[derive(Clone, Copy, Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = word;
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Hint, KeyDigest, KeyId};

    const FIRST: Revision = Revision {
        number: 1,
        nonce: 7,
    };
    const SECOND: Revision = Revision {
        number: 2,
        nonce: 8,
    };

    fn record(n: u8) -> KeyRecord {
        let digest = KeyDigest::new(crate::DigestScheme::Sha256, [n; 32]);
        let account = AccountId::parse("acme").unwrap();
        let hint = Hint::parse("x_…0000").unwrap();
        let id = KeyId::random().unwrap();
        let epoch = SystemTime::UNIX_EPOCH;
        KeyRecord::new(id, digest, hint, account, Environment::LIVE, epoch)
    }

    fn load(replica: &Replica, keys: std::ops::Range<u8>, head: Revision) {
        let mut poll = replica.poll();
        poll.restart();
        keys.for_each(|n| poll.key(&record(n)));
        poll.finish(head).unwrap();
    }

    #[test]
    fn a_restart_forgets_what_is_not_given_again() {
        let replica = Replica::new();
        load(&replica, 0..200, FIRST);
        assert_eq!(replica.len(), 200);
        load(&replica, 100..150, SECOND);
        assert_eq!(replica.len(), 50);
        assert!(replica.find(&record(99).digest.bytes()).is_none());
        assert!(replica.find(&record(100).digest.bytes()).is_some());
    }

    #[test]
    fn a_poll_that_is_not_finished_changes_nothing() {
        let replica = Replica::new();
        load(&replica, 0..1, FIRST);
        let mut poll = replica.poll();
        poll.restart();
        drop(poll);
        assert_eq!((replica.len(), replica.poll().since()), (1, Some(FIRST)));
    }

    #[test]
    fn a_poll_that_was_overtaken_cannot_bring_old_rows_back() {
        let replica = Replica::new();
        load(&replica, 0..1, FIRST);
        let mut slow = replica.poll();
        slow.key(&record(1));
        replica.poll().finish(SECOND).unwrap();
        let error = slow.finish(FIRST).unwrap_err();
        assert_eq!(error.kind(), ReplicaErrorKind::Overtaken);
        assert_eq!((replica.len(), replica.poll().since()), (1, Some(SECOND)));
    }

    #[test]
    fn refuses_to_load_more_keys_than_its_ceiling() {
        let replica = Replica::with(Arc::new(SystemClock), 2);
        let mut poll = replica.poll();
        (0..3).for_each(|n| poll.key(&record(n)));
        let error = poll.finish(FIRST).unwrap_err();
        assert_eq!(error.kind(), ReplicaErrorKind::TooManyKeys);
        assert!(replica.is_empty());
        load(&replica, 0..2, FIRST);
    }

    #[test]
    fn keys_of_one_account_share_what_they_have_in_common() {
        let replica = Replica::new();
        load(&replica, 0..2, FIRST);
        let find = |n| replica.find(&record(n).digest.bytes()).unwrap();
        let (one, two) = (find(0), find(1));
        assert!(Arc::ptr_eq(&one.group, &two.group) && Arc::ptr_eq(&one.scopes, &two.scopes));
        assert!(
            !one.group.is_active(),
            "an account that was never given is closed"
        );
    }
}
