//! Polls: incremental updates from the store.

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::fmt;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use crate::credits::CreditOwner;
use crate::ids::KeyId;
use crate::key::digest::DigestBytes;
use crate::record::{Account, KeyRecord, KeyStatus};
use crate::replica::Replica;
use crate::replica::cached_key::{CachedKey, died};
use crate::replica::feed::Feed;
use crate::replica::freshness::Moment;
use crate::replica::replica::Inner;

/// A revision of a store, which identifies its last change. See [`Replica`].
///
/// The random nonce distinguishes histories: a history that was lost and rewritten has other
/// nonces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a store makes it from its two columns"
)]
pub struct Revision {
    /// A number that grows with every change, by one or more.
    pub number: u64,
    /// A random number.
    pub nonce: u64,
}

/// A key in a rotation chain, or with its own credits.
pub(super) struct Chained {
    pub(super) entry: Arc<CachedKey>,
    /// The first key of the chain.
    lineage: KeyId,
    is_revoked: bool,
}

/// An update from the store, started by [`Replica::poll`]. See [`Replica`].
#[must_use = "a poll changes nothing until it is finished"]
pub struct Poll {
    pub(super) replica: Replica,
    pub(super) asked: Moment,
    since: Option<Revision>,
    pub(super) restarted: bool,
    pub(super) accounts: Vec<Account>,
    pub(super) entries: Vec<Arc<CachedKey>>,
    /// Rehashed keys that may still be in memory under their old digest.
    moved: HashMap<KeyId, DigestBytes>,
    /// Keys that share counters and buckets.
    pub(super) chained: Vec<Chained>,
    /// The number of dead keys in a restart, and the latest death among those left out.
    dead: usize,
    pub(super) left_out: Option<u32>,
    /// The number of the reload if this is one, beside which polls continue.
    pub(super) reload: Option<u64>,
    pub(super) finished: bool,
}

/// The period for which the replica remembers dead keys and why they died.
const REMEMBERED: Duration = Duration::from_secs(30 * 24 * 3600);

/// The interval between warnings about the ceiling.
const WARNED: Duration = Duration::from_secs(3600);

/// The interval at which the next shard is searched for expired keys.
const SWEPT: Duration = Duration::from_millis(200);

impl Poll {
    pub(super) fn new(replica: &Replica, asked: Moment, since: Option<Revision>) -> Self {
        Self {
            replica: replica.clone(),
            asked,
            since,
            restarted: since.is_none(),
            accounts: Vec::new(),
            entries: Vec::new(),
            moved: HashMap::new(),
            chained: Vec::new(),
            dead: 0,
            left_out: None,
            reload: None,
            finished: false,
        }
    }

    /// Returns the last change in the replica; `None` before the first poll.
    ///
    /// A store that does not know this revision (number and nonce) must [`restart`](Self::restart)
    /// and deliver everything.
    #[must_use]
    pub fn since(&self) -> Option<Revision> {
        self.since
    }

    /// Starts a full read: everything that does not follow is removed.
    pub fn restart(&mut self) {
        self.restarted = true;
        self.accounts.clear();
        self.entries.clear();
        self.moved.clear();
        self.chained.clear();
        (self.dead, self.left_out) = (0, None);
    }

    /// Returns whether the store must [`restart`](Self::restart) and deliver everything.
    ///
    /// That is the case if an account in this poll revives keys that the replica has forgotten.
    /// Call it after everything new was delivered.
    ///
    /// ```
    /// use keyward::replica::Replica;
    ///
    /// assert!(!Replica::new().poll().must_restart());
    /// ```
    #[must_use]
    pub fn must_restart(&self) -> bool {
        let feed = self.replica.feed();
        self.brings_back(&feed)
    }

    fn brings_back(&self, feed: &Feed) -> bool {
        // A reload beside this poll includes the forgotten keys.
        let is_all_given = self.restarted || feed.reload.is_some();
        !is_all_given && self.accounts.iter().any(|new| feed.may_revive(new))
    }

    /// Returns the time before which dead keys can be left out of a restart.
    ///
    /// The replica would not keep them.
    ///
    /// ```
    /// use std::time::{Duration, SystemTime};
    /// use keyward::replica::Replica;
    ///
    /// let month = Duration::from_secs(30 * 24 * 3600);
    /// assert!(Replica::new().poll().remembers_since() <= SystemTime::now() - month);
    /// ```
    #[must_use]
    pub fn remembers_since(&mut self) -> SystemTime {
        let since = self.asked.unix().saturating_sub(REMEMBERED);
        // Keys that the store leaves out count as forgotten.
        let died = u32::try_from(since.as_secs()).unwrap_or(u32::MAX);
        self.left_out = self.left_out.max(Some(died));
        SystemTime::UNIX_EPOCH + since
    }

    /// Delivers an account that is new or has changed.
    pub fn account(&mut self, account: Account) {
        self.accounts.push(account);
    }

    /// Delivers a key that is new or has changed.
    pub fn key(&mut self, record: &KeyRecord) {
        let now = self.asked.unix();
        let died = self.restarted.then(|| died(record, now)).flatten();
        if let Some(died) = died.filter(|died| is_forgotten(*died, now)) {
            self.left_out = self.left_out.max(Some(died));
            return;
        }
        let mut feed = self.replica.feed();
        let account_state = feed.account_state(record, self.replica.clock(), now);
        let grant = feed.grant(record, self.replica.holds_details());
        let digest = record.digest.bytes();
        let is_there = || {
            self.replica
                .find(&digest)
                .is_some_and(|entry| entry.id == record.id)
        };
        if record.redigested > 0 && !self.restarted && !is_there() {
            self.moved.insert(record.id, digest);
        }
        drop(feed);
        let entry = Arc::new(CachedKey::new(record, account_state, grant, now));
        let is_chained = record.lineage != record.id || record.successor.is_some();
        if died.is_none() && (is_chained || record.credits.is_some()) {
            self.chained.push(Chained {
                entry: Arc::clone(&entry),
                lineage: record.lineage,
                is_revoked: record.status == KeyStatus::Revoked,
            });
        }
        self.entries.push(entry);
        if died.is_some() {
            self.dead += 1;
            let most = self.replica.most_dead();
            if self.dead > most.saturating_mul(2).saturating_add(1024) {
                self.keep_latest_dead(most);
            }
        }
    }

    /// Drops dead keys that would be forgotten at once.
    pub(super) fn forget_what_is_too_much(&mut self) {
        let most = self.replica.most_dead();
        if self.dead > most {
            self.keep_latest_dead(most);
        }
    }

    /// Drops all but the latest `most` dead keys, so that they take no memory.
    fn keep_latest_dead(&mut self, most: usize) {
        let now = self.asked.unix();
        let mut deaths: Vec<_> = self
            .entries
            .iter()
            .filter_map(|it| it.died_at(now))
            .collect();
        deaths.sort_unstable_by(|one, other| other.cmp(one));
        let Some(last) = deaths.get(most).copied() else {
            return;
        };
        // Among keys that died in the same second, keep as many as there is room for.
        let mut room = most - deaths.partition_point(|died| *died > last);
        self.entries.retain(|entry| match entry.died_at(now) {
            Some(died) if died == last && room > 0 => {
                room -= 1;
                true
            }
            Some(died) => died > last,
            None => true,
        });
        self.dead = most;
        self.left_out = self.left_out.max(Some(last));
    }

    /// Applies everything that was delivered.
    ///
    /// Afterwards, the replica is at `head` and as fresh as the start of this poll.
    ///
    /// # Errors
    /// Returns an error and changes nothing if another poll finished first, or if this one [must
    /// restart](Self::must_restart) and did not.
    ///
    /// Finish a [`reload`](Self::reload) only after polls have reached its `head`, the last change
    /// that it may have read.
    pub fn finish(mut self, head: Revision) -> Result<(), ReplicaError> {
        if let Some(number) = self.reload {
            return self.finish_reload(number, head);
        }
        let replica = self.replica.clone();
        let (inner, mut feed) = (&replica.inner, replica.feed());
        self.overtaken_by(&feed)?;
        if self.brings_back(&feed) {
            // The next poll delivers everything.
            feed.revision = None;
            return Err(ReplicaError::new(ReplicaErrorKind::Incomplete));
        }
        if self.restarted {
            feed.reload = None;
        } else if feed.reload.is_some() {
            self.apply_beside(&mut feed, head);
            return Ok(());
        }
        let revoked = self.revoked_until_now();
        // The restrictions of an account come before its keys and its permissions after them: no
        // request may see an old key under an account that was opened while the key was closed.
        let accounts = mem::take(&mut self.accounts);
        feed.close(&accounts);
        let given = self.apply_keys(&mut feed);
        let now = self.asked.unix();
        feed.follow(accounts, self.restarted, now);
        self.bury(&mut feed, given);
        feed.tidy();
        inner.usage_counters.tidy();
        feed.revision = Some(head);
        drop(feed);
        inner.freshness.set(self.asked);
        self.finished = true;
        inner.refresh.succeed();
        inner.tell_revived(&revoked);
        Ok(())
    }

    /// Returns an error if another poll finished first.
    pub(super) fn overtaken_by(&mut self, feed: &Feed) -> Result<(), ReplicaError> {
        if feed.revision == self.since {
            return Ok(());
        }
        // The store has not failed: the other poll did the work of this one.
        self.finished = true;
        Err(ReplicaError::new(ReplicaErrorKind::Overtaken))
    }

    /// Inserts the delivered keys into the table and returns them, except those of a restart.
    pub(super) fn apply_keys(&mut self, feed: &mut Feed) -> Vec<Arc<CachedKey>> {
        let inner = &self.replica.inner;
        let gone = if self.moved.is_empty() {
            Vec::new()
        } else {
            feed.moved(&self.moved, &inner.table)
        };
        self.hand_on_usage_counters(&gone);
        self.share_chained(feed, &self.chained);
        let entries = mem::take(&mut self.entries);
        // A restart searches the whole table for dead keys anyway.
        let given = if self.restarted {
            Vec::new()
        } else {
            for new in &entries {
                feed.unbury(new.id);
            }
            entries.clone()
        };
        let moving = u64::from(!self.moved.is_empty());
        inner.moves.fetch_add(moving, Ordering::AcqRel);
        if self.restarted || !entries.is_empty() {
            inner.table.replace(entries, self.restarted);
        }
        if !self.moved.is_empty() {
            inner.table.remove(gone);
        }
        inner.moves.fetch_add(moving, Ordering::AcqRel);
        given
    }

    /// Returns the keys that are revoked in memory before a full read.
    pub(super) fn revoked_until_now(&self) -> HashSet<KeyId> {
        if !self.restarted || self.since.is_none() {
            return HashSet::new();
        }
        let revoked = self.replica.inner.table.matching(CachedKey::is_revoked);
        revoked.iter().map(|entry| entry.id).collect()
    }
}

impl Inner {
    /// Counts those of the keys that are in memory and not revoked.
    fn revived(&self, revoked: &HashSet<KeyId>) -> usize {
        if revoked.is_empty() {
            return 0;
        }
        let revived = |entry: &CachedKey| revoked.contains(&entry.id) && !entry.is_revoked();
        self.table.matching(revived).len()
    }

    /// Logs the number of revived keys.
    pub(super) fn tell_revived(&self, revoked: &HashSet<KeyId>) {
        let revived = self.revived(revoked);
        if revived > 0 {
            tracing::error!(
                revived,
                "keys that were revoked work again: the store's history was replaced, probably by a \
                 backup from before they were revoked"
            );
        }
    }
}

impl Poll {
    /// Records dead keys and forgets the oldest.
    fn bury(&self, feed: &mut Feed, given: Vec<Arc<CachedKey>>) {
        let inner = &self.replica.inner;
        let (now, boot) = (self.asked.unix(), self.asked.boot());
        if self.restarted {
            feed.dead.clear();
            feed.buried.clear();
            feed.forgotten = self.left_out;
            let parts = (0..).map_while(|part| inner.table.dead(part, now));
            feed.bury(parts.flatten());
        } else {
            let died = |entry: Arc<CachedKey>| Some((entry.died_at(now)?, entry));
            feed.bury(given.into_iter().filter_map(died));
        }
        let (part, swept) = feed.swept;
        if boot.saturating_sub(swept) >= SWEPT {
            let dead = inner.table.dead(part, now);
            feed.swept = (dead.as_ref().map_or(0, |_| part + 1), boot);
            feed.bury(dead.into_iter().flatten());
            inner.table.each(part, |entry| {
                // Recorded while the clock was wrong.
                if !feed.buried.is_empty() && entry.died_at(now).is_none() {
                    feed.unbury(entry.id);
                }
            });
        }
        let most = self.replica.most_dead();
        let mut forgotten = Vec::new();
        loop {
            let too_many = feed.dead.len() > most;
            let Some((died, entry)) = feed.first_dead(|died| too_many || is_forgotten(died, now))
            else {
                break;
            };
            // The key may have been revived with its account.
            if entry.died_at(now).is_some() {
                feed.forgotten = feed.forgotten.max(Some(died));
                forgotten.push(entry);
            }
        }
        if !forgotten.is_empty() {
            inner.table.remove(forgotten);
        }
        inner.dead.store(feed.dead.len(), Ordering::Release);
        let above = self.replica.above_ceiling();
        let may_warn = feed
            .warned
            .is_none_or(|warned| boot.saturating_sub(warned) >= WARNED);
        if above > 0 && may_warn {
            feed.warned = Some(boot);
            let ceiling = inner.ceiling;
            tracing::warn!(
                above,
                ceiling,
                "there are more live keys than the ceiling; all are kept in memory"
            );
        }
    }

    /// Carries the usage counters over to the new entries.
    fn hand_on_usage_counters(&self, moved: &[Arc<CachedKey>]) {
        let Self { replica, .. } = self;
        let moved: HashMap<_, _> = moved.iter().map(|old| (old.id, old)).collect();
        for entry in &self.entries {
            // Includes unused keys, because a concurrent first request must count in both entries.
            let old = moved.get(&entry.id).map(|old| Arc::clone(old));
            let old = old.or_else(|| replica.find(&entry.digest));
            let usage_counter = old.as_ref().and_then(|old| {
                if self.restarted {
                    old.usage_counter()
                } else {
                    replica.usage_counter(old)
                }
            });
            if let Some(usage_counter) = usage_counter {
                entry.set_usage_counter(usage_counter);
                if moved.contains_key(&entry.id) {
                    usage_counter.move_to(entry.digest);
                }
            }
        }
    }

    /// Makes the keys of a rotation chain share their buckets.
    pub(super) fn share_chained(&self, feed: &mut Feed, chained: &[Chained]) {
        let Self { replica, .. } = self;
        // Used keys come first, because the others get their buckets.
        let is_used = |chained: &&Chained| chained.entry.usage_counter().is_some();
        let (used, unused): (Vec<_>, Vec<_>) = chained.iter().partition(is_used);
        let unused = unused.into_iter().filter(|chained| !chained.is_revoked);
        for Chained { entry, lineage, .. } in used.into_iter().chain(unused) {
            if let Some(usage_counter) = replica.usage_counter(entry) {
                let own = || Arc::clone(usage_counter.key_buckets(*lineage, replica.clock()));
                usage_counter.share(feed.key_buckets(*lineage, own));
                if entry.own_credits().is_some() {
                    usage_counter.give_credit_cache(feed.credit_cache(CreditOwner::Key(*lineage)));
                }
            }
        }
    }
}

fn is_forgotten(died: u32, now: Duration) -> bool {
    Duration::from_secs(died.into()) + REMEMBERED <= now
}

impl Replica {
    /// Returns the number of dead keys that are remembered.
    fn most_dead(&self) -> usize {
        self.inner.ceiling / 10
    }
}

impl Drop for Poll {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        if let Some(number) = self.reload {
            let mut feed = self.replica.feed();
            if !feed.is_reloading(number) {
                return;
            }
            // The next poll will have to deliver everything.
            (feed.reload, feed.revision) = (None, None);
        }
        self.replica.inner.refresh.fail();
    }
}

impl fmt::Debug for Poll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poll")
            .field("since", &self.since)
            .field("accounts", &self.accounts.len())
            .field("keys", &self.entries.len())
            .finish_non_exhaustive()
    }
}

/// The error returned when a poll cannot be applied.
///
/// ```
/// use keyward::replica::{Replica, ReplicaErrorKind, Revision};
///
/// let replica = Replica::new();
/// let slow = replica.poll();
/// replica.poll().finish(Revision { number: 2, nonce: 7 })?;
/// let error = slow.finish(Revision { number: 1, nonce: 7 }).unwrap_err();
/// assert_eq!(error.kind(), ReplicaErrorKind::Overtaken);
/// # Ok::<(), keyward::replica::ReplicaError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ReplicaError {
    kind: ReplicaErrorKind,
}

impl ReplicaError {
    pub(super) const fn new(kind: ReplicaErrorKind) -> Self {
        Self { kind }
    }

    /// Returns the kind of error.
    #[must_use]
    pub const fn kind(&self) -> ReplicaErrorKind {
        self.kind
    }
}

impl fmt::Display for ReplicaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            ReplicaErrorKind::Incomplete => "the poll revives keys that the replica has forgotten",
            ReplicaErrorKind::Overtaken => "another poll finished first",
        })
    }
}

impl Error for ReplicaError {}

/// The kind of a [`ReplicaError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReplicaErrorKind {
    /// The poll revives keys that the replica has forgotten: see [`Poll::must_restart`].
    Incomplete,
    /// Another poll finished during this one, so its data may be outdated.
    Overtaken,
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::clock::{Clock, ManualClock};
    use crate::environment::Environment;
    use crate::ids::AccountId;
    use crate::key::{Hint, KeyDigest};

    const FIRST: Revision = Revision {
        number: 1,
        nonce: 7,
    };
    const SECOND: Revision = Revision {
        number: 2,
        nonce: 8,
    };

    fn record(n: u8) -> KeyRecord {
        let digest = KeyDigest::new(crate::key::DigestScheme::Sha256, [n; 32]);
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

    /// The number of searches of all keys for old entries.
    pub(crate) fn searches(replica: &Replica) -> usize {
        replica.inner.table.searches.load(Ordering::Relaxed)
    }

    /// An odd number simulates a key that is being moved to another digest.
    pub(crate) fn set_moves(replica: &Replica, moves: u64) {
        replica.inner.moves.store(moves, Ordering::Release);
    }

    #[test]
    fn a_restart_forgets_keys_that_are_not_delivered_again() {
        let replica = Replica::new();
        load(&replica, 0..200, FIRST);
        assert_eq!(replica.len(), 200);
        load(&replica, 100..150, SECOND);
        assert_eq!(replica.len(), 50);
        assert!(replica.find(&record(99).digest.bytes()).is_none());
        assert!(replica.find(&record(100).digest.bytes()).is_some());
    }

    #[test]
    fn keys_that_a_restored_history_revives_are_counted() {
        let account = |revoked_all| {
            let mut account = Account::new(AccountId::parse("acme").unwrap());
            account.revoked_all = revoked_all;
            account
        };
        let records: Vec<_> = (0..4).map(record).collect();
        let replica = Replica::new();
        let load = |replica: &Replica, revoked: &[usize], revoked_all, head| {
            let mut poll = replica.poll();
            poll.restart();
            poll.account(account(revoked_all));
            for (n, record) in records.iter().enumerate() {
                let mut record = record.clone();
                if revoked.contains(&n) {
                    record.status = KeyStatus::Revoked;
                }
                poll.key(&record);
            }
            let known = poll.revoked_until_now();
            poll.finish(head).unwrap();
            replica.inner.revived(&known)
        };
        assert_eq!(load(&replica, &[0, 1], 0, FIRST), 0, "the first poll");
        assert_eq!(load(&replica, &[0, 1, 2], 0, SECOND), 0, "none is revived");
        assert_eq!(load(&replica, &[0], 0, FIRST), 2);
        assert_eq!(load(&replica, &[], 1, SECOND), 0, "all are, by the account");
        assert_eq!(load(&replica, &[3], 0, FIRST), 3);
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
    fn keys_of_one_account_share_their_common_state() {
        let replica = Replica::new();
        load(&replica, 0..2, FIRST);
        let find = |n| replica.find(&record(n).digest.bytes()).unwrap();
        let (one, two) = (find(0), find(1));
        assert!(
            Arc::ptr_eq(&one.account_state, &two.account_state)
                && Arc::ptr_eq(&one.grant, &two.grant)
        );
        assert!(
            !one.account_state.is_active(),
            "an account that was never given is closed"
        );
    }
    const DAY: Duration = Duration::from_secs(24 * 3600);
    const START: Duration = Duration::from_secs(1_700_000_000);

    /// A replica on a manual clock that keeps ten dead keys.
    struct Aging {
        clock: Arc<ManualClock>,
        replica: Replica,
        number: u64,
    }

    impl Aging {
        fn new() -> Self {
            let clock = Arc::new(ManualClock::at(START));
            let replica = Replica::with(Arc::<ManualClock>::clone(&clock), 100);
            let number = 0;
            let mut aging = Self {
                clock,
                replica,
                number,
            };
            aging.feed(&[]);
            aging
        }

        fn now(&self) -> SystemTime {
            SystemTime::UNIX_EPOCH + self.clock.unix()
        }

        fn feed(&mut self, records: &[&KeyRecord]) {
            let head = self.head();
            let mut poll = self.replica.poll();
            poll.account(account());
            for record in records {
                poll.key(record);
            }
            poll.finish(head).unwrap();
        }

        fn head(&mut self) -> Revision {
            self.number += 1;
            let number = self.number;
            Revision { number, nonce: 0 }
        }

        /// Runs enough polls, one per second, to search the whole table.
        fn sweep(&mut self) {
            for _ in 0..200 {
                self.clock.advance(Duration::from_secs(1));
                self.feed(&[]);
            }
        }

        fn has(&self, record: &KeyRecord) -> bool {
            self.replica.find(&record.digest.bytes()).is_some()
        }
    }

    fn account() -> Account {
        Account::new(AccountId::parse("acme").unwrap())
    }

    fn revoked(n: u8, at: SystemTime) -> KeyRecord {
        let mut record = record(n);
        record.status = KeyStatus::Revoked;
        record.revoked_at = Some(at);
        record
    }

    #[test]
    fn a_revoked_key_is_remembered_for_thirty_days() {
        let mut aging = Aging::new();
        let (lives, dies) = (record(1), revoked(2, aging.now()));
        aging.feed(&[&lives, &dies]);
        assert_eq!((aging.replica.len(), aging.replica.living()), (2, 1));
        aging.clock.advance(29 * DAY);
        aging.feed(&[]);
        assert!(aging.has(&dies));
        aging.clock.advance(DAY);
        aging.feed(&[]);
        assert!(!aging.has(&dies) && aging.has(&lives));
        assert_eq!((aging.replica.len(), aging.replica.living()), (1, 1));
    }

    #[test]
    fn an_expired_key_leaves_memory_and_a_longer_expiry_brings_it_back() {
        let mut aging = Aging::new();
        let mut expires = record(1);
        expires.expires_at = Some(aging.now() + DAY);
        aging.feed(&[&expires]);
        aging.clock.advance(2 * DAY);
        aging.sweep();
        assert!(aging.has(&expires));
        assert_eq!(
            aging.replica.living(),
            0,
            "nothing has changed in the store"
        );
        aging.clock.advance(29 * DAY);
        aging.feed(&[]);
        assert!(!aging.has(&expires));
        expires.expires_at = Some(aging.now() + DAY);
        aging.feed(&[&expires]);
        assert!(aging.has(&expires));
        assert_eq!(aging.replica.living(), 1);
    }

    #[test]
    fn the_latest_dead_keys_are_remembered_up_to_a_tenth_of_the_ceiling() {
        let mut aging = Aging::new();
        let now = aging.now();
        let died = |n: u8| now - Duration::from_secs(u64::from(n) + 1);
        let dead: Vec<_> = (0..30).map(|n| revoked(n, died(n))).collect();
        for one in dead.iter().rev() {
            aging.feed(&[one]);
            assert!(aging.replica.len() <= 10);
        }
        let kept = |aging: &Aging| dead.iter().map(|one| aging.has(one)).collect::<Vec<_>>();
        let latest: Vec<_> = (0..30).map(|n| n < 10).collect();
        assert_eq!(kept(&aging), latest);

        // A key that died before all of them is not remembered.
        aging.feed(&[&dead[29]]);
        assert_eq!(kept(&aging), latest);

        // Also after a restart, and after one with so many that they are thinned out early.
        let many: Vec<_> = (0..1100_u32)
            .map(|n| {
                let mut one = revoked(0, now - Duration::from_secs(1000 + u64::from(n)));
                let mut digest = [0xff; 32];
                digest[..4].copy_from_slice(&n.to_be_bytes());
                one.digest = KeyDigest::new(crate::key::DigestScheme::Sha256, digest);
                one
            })
            .collect();
        for more in [&[][..], &many] {
            let mut poll = aging.replica.poll();
            poll.restart();
            poll.account(account());
            more.iter().chain(&dead).for_each(|one| poll.key(one));
            poll.key(&revoked(31, now - 31 * DAY));
            aging.number += 1;
            let number = aging.number;
            poll.finish(Revision { number, nonce: 0 }).unwrap();
            assert_eq!(kept(&aging), latest);
            assert_eq!(aging.replica.len(), 10);
        }
    }

    #[test]
    fn an_update_of_a_dead_key_counts_it_once() {
        let mut aging = Aging::new();
        let mut expires = record(1);
        for days in 1..20 {
            expires.expires_at = Some(aging.now() - days * DAY);
            aging.feed(&[&expires]);
        }
        assert_eq!((aging.replica.len(), aging.replica.living()), (1, 0));
        expires.expires_at = None;
        aging.feed(&[&expires]);
        assert_eq!((aging.replica.len(), aging.replica.living()), (1, 1));
    }

    #[test]
    fn keys_revoked_repeatedly_with_their_account_die_once() {
        let mut aging = Aging::new();
        let records: Vec<_> = (0..5).map(record).collect();
        aging.feed(&records.iter().collect::<Vec<_>>());
        for times in 1..4 {
            let mut all_revoked = account();
            all_revoked.revoked_all = times;
            let head = aging.head();
            let mut poll = aging.replica.poll();
            poll.account(all_revoked.clone());
            let mut alive = record(9);
            alive.epoch = times;
            poll.key(&alive);
            poll.finish(head).unwrap();
            for _ in 0..200 {
                aging.clock.advance(Duration::from_secs(1));
                let head = aging.head();
                aging.replica.poll().finish(head).unwrap();
            }
            assert_eq!((aging.replica.len(), aging.replica.living()), (6, 1));
        }
        assert!(records.iter().all(|one| aging.has(one)));
    }

    #[test]
    fn a_key_that_expired_by_a_wrong_clock_counts_as_live_again() {
        let mut aging = Aging::new();
        let mut expires = record(1);
        expires.expires_at = Some(aging.now() + 5 * DAY);
        aging.feed(&[&expires]);
        aging.clock.set_unix(START + 10 * DAY);
        aging.sweep();
        assert_eq!((aging.replica.len(), aging.replica.living()), (1, 0));
        aging.clock.set_unix(START);
        aging.sweep();
        assert_eq!((aging.replica.len(), aging.replica.living()), (1, 1));
    }

    #[test]
    fn live_keys_above_the_ceiling_are_kept_and_counted() {
        let replica = Replica::with(Arc::new(ManualClock::at(START)), 100);
        load(&replica, 0..150, FIRST);
        assert_eq!((replica.living(), replica.above_ceiling()), (150, 50));
        load(&replica, 0..10, SECOND);
        assert_eq!((replica.living(), replica.above_ceiling()), (10, 0));
    }

    #[test]
    fn keys_that_an_account_revives_are_read_again() {
        let mut aging = Aging::new();
        let key = record(1);
        aging.feed(&[&key]);
        let mut all_revoked = account();
        all_revoked.revoked_all = 1;
        let head = aging.head();
        let mut poll = aging.replica.poll();
        poll.account(all_revoked);
        poll.finish(head).unwrap();
        for _ in 0..200 {
            aging.clock.advance(Duration::from_secs(1));
            let head = aging.head();
            aging.replica.poll().finish(head).unwrap();
        }
        assert!(aging.has(&key));
        aging.clock.advance(31 * DAY);
        let head = aging.head();
        aging.replica.poll().finish(head).unwrap();
        assert!(!aging.has(&key));

        let head = aging.head();
        let mut poll = aging.replica.poll();
        poll.account(account());
        assert!(poll.must_restart());
        let error = poll.finish(head).unwrap_err();
        assert_eq!(error.kind(), ReplicaErrorKind::Incomplete);
        assert_eq!(aging.replica.poll().since(), None, "so everything is given");
        aging.feed(&[&key]);
        assert!(aging.has(&key));
    }

    #[test]
    fn a_corrected_clock_triggers_one_full_read() {
        let mut aging = Aging::new();
        let mut expires = record(1);
        expires.expires_at = Some(aging.now() + DAY);
        aging.feed(&[&expires]);
        aging.clock.set_unix(START + 100 * DAY);
        aging.sweep();
        assert!(!aging.has(&expires));
        aging.clock.set_unix(START);
        assert_eq!(aging.replica.poll().since(), None);
        aging.feed(&[&expires]);
        assert!(aging.has(&expires));
        assert!(aging.replica.poll().since().is_some());
    }
}
