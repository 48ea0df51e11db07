//! One round of asking the store what has changed.

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::fmt;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::key::digest::DigestBytes;
use crate::store::entry::Entry;
use crate::store::feed::Feed;
use crate::store::freshness::Moment;
use crate::store::replica::Inner;
use crate::{Account, CreditOwner, KeyId, KeyRecord, KeyStatus, Replica};

/// Which of a store's changes was the last. See [`Replica`].
///
/// Its number, and a random number that a history which was lost and written anew does not repeat.
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

/// A key in a chain of rotations, or with credits of its own.
struct Chained {
    entry: Arc<Entry>,
    /// The first of the chain.
    lineage: KeyId,
    is_revoked: bool,
}

/// One round of asking the store what has changed; made by [`Replica::poll`]. See [`Replica`].
#[must_use = "a poll changes nothing until it is finished"]
pub struct Poll<'a> {
    replica: &'a Replica,
    asked: Moment,
    since: Option<Revision>,
    restarted: bool,
    accounts: Vec<Account>,
    entries: Vec<Arc<Entry>>,
    /// Keys that may still be there under an old digest.
    moved: HashMap<KeyId, DigestBytes>,
    /// Keys that share what is counted of them.
    chained: Vec<Chained>,
    finished: bool,
}

impl<'a> Poll<'a> {
    pub(super) fn new(replica: &'a Replica, asked: Moment, since: Option<Revision>) -> Self {
        Self {
            replica,
            asked,
            since,
            restarted: since.is_none(),
            accounts: Vec::new(),
            entries: Vec::new(),
            moved: HashMap::new(),
            chained: Vec::new(),
            finished: false,
        }
    }

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
        self.moved.clear();
        self.chained.clear();
    }

    /// An account that is new or has changed.
    pub fn account(&mut self, account: Account) {
        self.accounts.push(account);
    }

    /// A key that is new or has changed.
    pub fn key(&mut self, record: &KeyRecord) {
        let mut feed = self.replica.feed();
        let group = feed.group(record, self.replica.clock());
        let grant = feed.grant(record);
        let digest = record.digest.bytes();
        let is_there = || {
            self.replica
                .find(&digest)
                .is_some_and(|entry| entry.id == record.id)
        };
        if record.redigested > 0 && !self.restarted && !is_there() {
            self.moved.insert(record.id, digest);
        }
        let entry = Arc::new(Entry::new(record, group, grant));
        let is_chained = record.lineage != record.id || record.successor.is_some();
        if is_chained || record.credits.is_some() {
            self.chained.push(Chained {
                entry: Arc::clone(&entry),
                lineage: record.lineage,
                is_revoked: record.status == KeyStatus::Revoked,
            });
        }
        self.entries.push(entry);
    }

    /// Applies what was given.
    ///
    /// The replica then stands at `head`, and is as fresh as the start of this poll.
    ///
    /// # Errors
    /// When this is the first poll and gives more keys than the ceiling, or another poll finished
    /// first. Nothing is changed then.
    pub fn finish(mut self, head: Revision) -> Result<(), ReplicaError> {
        let inner = &self.replica.inner;
        let mut feed = self.replica.feed();
        if feed.revision != self.since {
            // The store has not failed: the other poll did what this one should.
            self.finished = true;
            return Err(ReplicaError::new(ReplicaErrorKind::Overtaken));
        }
        // Only when the service starts: one that runs must not stop because of one key more.
        if self.since.is_none() && self.entries.len() > inner.ceiling {
            return Err(ReplicaError::new(ReplicaErrorKind::TooManyKeys));
        }
        let revoked = self.revoked_until_now();
        // What an account forbids comes before its keys, what it allows after them: no request may
        // see an old key under an account that was opened when the key was closed.
        let accounts = mem::take(&mut self.accounts);
        feed.close(&accounts);
        let gone = if self.moved.is_empty() {
            Vec::new()
        } else {
            inner.table.moved(&self.moved)
        };
        self.hand_on_tallies(&mut feed, &gone);
        let entries = mem::take(&mut self.entries);
        let moving = u64::from(!self.moved.is_empty());
        inner.moves.fetch_add(moving, Ordering::AcqRel);
        if self.restarted || !entries.is_empty() {
            inner.table.replace(entries, self.restarted);
        }
        if !self.moved.is_empty() {
            inner.table.remove(gone);
        }
        inner.moves.fetch_add(moving, Ordering::AcqRel);
        feed.follow(accounts, self.restarted);
        let revived = inner.revived(&revoked);
        feed.revision = Some(head);
        drop(feed);
        inner.freshness.set(self.asked);
        self.finished = true;
        inner.refresh.succeed();
        if revived > 0 {
            tracing::error!(
                revived,
                "keys that were revoked work again: the store's history was replaced, probably by a \
                 backup from before they were revoked"
            );
        }
        Ok(())
    }

    /// The keys that memory knows as revoked, where all is read anew.
    fn revoked_until_now(&self) -> HashSet<KeyId> {
        if !self.restarted || self.since.is_none() {
            return HashSet::new();
        }
        let revoked = self.replica.inner.table.matching(Entry::is_revoked);
        revoked.iter().map(|entry| entry.id).collect()
    }
}

impl Inner {
    /// How many of these keys are there and not revoked.
    fn revived(&self, revoked: &HashSet<KeyId>) -> usize {
        if revoked.is_empty() {
            return 0;
        }
        let revived = |entry: &Entry| revoked.contains(&entry.id) && !entry.is_revoked();
        self.table.matching(revived).len()
    }
}

impl Poll<'_> {
    /// Lets every key go on with its counters, and the keys of a chain share their buckets.
    fn hand_on_tallies(&self, feed: &mut Feed, moved: &[Arc<Entry>]) {
        let Self { replica, .. } = self;
        let moved: HashMap<_, _> = moved.iter().map(|old| (old.id, old)).collect();
        for entry in &self.entries {
            // Also one that is not in use yet: a request that is just now the first must count in both.
            let old = moved.get(&entry.id).map(|old| Arc::clone(old));
            let old = old.or_else(|| replica.find(&entry.digest));
            let tally = old.as_ref().and_then(|old| {
                if self.restarted {
                    old.tally()
                } else {
                    replica.tally(old)
                }
            });
            if let Some(tally) = tally {
                entry.set_tally(tally);
                if moved.contains_key(&entry.id) {
                    tally.move_to(entry.digest);
                }
            }
        }
        // The keys that are in use come first: it is their buckets that the others get.
        let is_used = |chained: &&Chained| chained.entry.tally().is_some();
        let (used, unused): (Vec<_>, Vec<_>) = self.chained.iter().partition(is_used);
        let unused = unused.into_iter().filter(|chained| !chained.is_revoked);
        for Chained { entry, lineage, .. } in used.into_iter().chain(unused) {
            if let Some(tally) = replica.tally(entry) {
                let own = || Arc::clone(tally.meter(*lineage, replica.clock()));
                tally.share(feed.meter(*lineage, own));
                if entry.own_credits().is_some() {
                    tally.give_purse(feed.purse(CreditOwner::Key(*lineage)));
                }
            }
        }
    }
}

impl Drop for Poll<'_> {
    fn drop(&mut self) {
        if !self.finished {
            self.replica.inner.refresh.fail();
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
///
/// ```
/// use keyward::{Replica, ReplicaErrorKind, Revision};
///
/// let replica = Replica::new();
/// let slow = replica.poll();
/// replica.poll().finish(Revision { number: 2, nonce: 7 })?;
/// let error = slow.finish(Revision { number: 1, nonce: 7 }).unwrap_err();
/// assert_eq!(error.kind(), ReplicaErrorKind::Overtaken);
/// # Ok::<(), keyward::ReplicaError>(())
/// ```
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

/// Which error it is. See [`ReplicaError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReplicaErrorKind {
    /// The store holds more keys than the replica may load.
    TooManyKeys,
    /// Another poll finished during this one: what it read may be old.
    Overtaken,
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::{AccountId, Environment, Hint, KeyDigest, SystemClock};

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

    /// Odd: as if a key were just being moved to another digest.
    pub(crate) fn set_moves(replica: &Replica, moves: u64) {
        replica.inner.moves.store(moves, Ordering::Release);
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
        assert!(Arc::ptr_eq(&one.group, &two.group) && Arc::ptr_eq(&one.grant, &two.grant));
        assert!(
            !one.group.is_active(),
            "an account that was never given is closed"
        );
    }
}
