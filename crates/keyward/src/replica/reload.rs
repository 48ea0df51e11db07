//! Full reloads that run beside polls.

use std::collections::{HashMap, HashSet};
use std::mem;
use std::slice;
use std::time::Duration;

use crate::ids::{AccountId, KeyId};
use crate::record::Account;
use crate::replica::cached_key::CachedKey;
use crate::replica::feed::Feed;
use crate::replica::freshness::Moment;
use crate::replica::{Poll, Replica, ReplicaError, ReplicaErrorKind, Revision};
use crate::sync::MutexGuard;

/// The number of accounts or keys that are processed before polls get a turn.
const AT_ONCE: usize = 1000;

/// The updates from polls during a full reload, which are newer than its data.
pub(crate) struct Reload {
    number: u64,
    keys: HashSet<KeyId>,
    /// Restrictions of these accounts apply at once, the rest when no older key is left.
    accounts: HashMap<AccountId, Account>,
    /// The start of the last of these polls.
    asked: Moment,
}

impl Reload {
    pub(crate) fn note(&mut self, keys: impl Iterator<Item = KeyId>, asked: Moment) {
        self.keys.extend(keys);
        self.asked = asked;
    }

    pub(crate) fn note_account(&mut self, account: Account) {
        self.accounts.insert(account.id.clone(), account);
    }

    fn has(&self, entry: &CachedKey) -> bool {
        self.keys.contains(&entry.id)
    }
}

impl Feed {
    pub(crate) fn is_reloading(&self, number: u64) -> bool {
        self.reload
            .as_ref()
            .is_some_and(|reload| reload.number == number)
    }
}

impl Poll {
    /// Ends this poll and begins a full reload that runs beside further polls.
    ///
    /// Use it if the store's history no longer leads from [`since`](Self::since) to `head`, its last
    /// change, and the store has too much data to deliver within one poll.
    ///
    /// Another thread may fill the returned poll and may read the rows in several transactions, all
    /// of them later than `head`. Meanwhile, polls continue from `head`. Their data wins over that
    /// of the reload, and restrictions apply at once: a revocation takes effect when its poll is
    /// finished. An account that becomes active does so when everything is read, because only then
    /// no key in memory is older. The replica gets no fresher until then, so requests are refused
    /// if it becomes too old.
    ///
    /// ```
    /// use keyward::AccountId;
    /// use keyward::record::Account;
    /// use keyward::replica::{Replica, Revision};
    ///
    /// let replica = Replica::new();
    /// let [first, second] = [1, 2].map(|number| Revision { number, nonce: 7 });
    /// let mut everything = replica.poll().reload(first)?;
    /// everything.account(Account::new(AccountId::parse("acme")?));
    ///
    /// let poll = replica.poll(); // the changes in the meantime
    /// assert_eq!((poll.since(), poll.is_beside_reload()), (Some(first), true));
    /// poll.finish(second)?;
    /// everything.finish(second)?; // and read no later change
    /// assert!(!replica.poll().is_beside_reload());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Returns an error if another poll finished first.
    pub fn reload(mut self, head: Revision) -> Result<Self, ReplicaError> {
        let replica = self.replica.clone();
        let mut feed = replica.feed();
        self.overtaken_by(&feed)?;
        feed.reloads += 1;
        let number = feed.reloads;
        feed.reload = Some(Reload {
            number,
            keys: HashSet::new(),
            accounts: HashMap::new(),
            asked: self.asked,
        });
        // The reload includes the forgotten keys.
        feed.forgotten = None;
        // Apply what was delivered so far. Everything else stays until the reload is complete.
        self.restarted = false;
        self.apply_beside(&mut feed, head);
        let mut reload = Self::new(&replica, self.asked, Some(head));
        reload.restart();
        reload.reload = Some(number);
        Ok(reload)
    }

    /// Returns whether a full reload runs beside this poll.
    ///
    /// Such a poll must contain the account of each of its keys, changed or not, so that an older
    /// account does not judge a key. See [`reload`](Self::reload).
    #[must_use]
    pub fn is_beside_reload(&self) -> bool {
        self.reload.is_none() && self.replica.feed().reload.is_some()
    }

    /// Applies a poll that runs beside a reload.
    pub(super) fn apply_beside(&mut self, feed: &mut Feed, head: Revision) {
        let now = self.asked.unix();
        let accounts = mem::take(&mut self.accounts);
        feed.close(&accounts);
        let keys = self.apply_keys(feed);
        for account in accounts {
            if !feed.has_known(&account.id) {
                // No key is older than a new account.
                feed.follow_one(account.clone(), now);
            }
            if let Some(reload) = &mut feed.reload {
                reload.note_account(account);
            }
        }
        if let Some(reload) = &mut feed.reload {
            reload.note(keys.iter().map(|entry| entry.id), self.asked);
        }
        feed.revision = Some(head);
        self.finished = true;
    }

    /// Applies a reload in small steps, so that polls get their turn.
    pub(super) fn finish_reload(mut self, number: u64, head: Revision) -> Result<(), ReplicaError> {
        let replica = self.replica.clone();
        let (inner, now) = (&replica.inner, self.asked.unix());
        let revoked = self.revoked_until_now();
        self.forget_what_is_too_much();
        let accounts = mem::take(&mut self.accounts);
        {
            let feed = reloading(&replica, number)?;
            if feed.revision.is_none_or(|seen| seen.number < head.number) {
                return Err(ReplicaError::new(ReplicaErrorKind::Incomplete));
            }
            // Includes account states that were created for keys of the reload.
            for account in feed
                .reload
                .iter()
                .flat_map(|reload| reload.accounts.values())
            {
                feed.close(slice::from_ref(account));
            }
        }
        for some in accounts.chunks(AT_ONCE) {
            reloading(&replica, number)?.close(some);
        }

        let chained = mem::take(&mut self.chained);
        for one in &chained {
            replica.hand_on(&one.entry);
        }
        let (mut all, unused): (Vec<_>, Vec<_>) = chained
            .into_iter()
            .partition(|one| one.entry.usage_counter().is_some());
        all.extend(unused);
        for some in all.chunks(AT_ONCE) {
            self.share_chained(&mut *reloading(&replica, number)?, some);
        }
        let parts = inner.table.by_part(mem::take(&mut self.entries));
        for (part, mut entries) in parts.into_iter().enumerate() {
            let feed = reloading(&replica, number)?;
            if let Some(newer) = &feed.reload {
                entries.retain(|entry| !newer.has(entry));
                for entry in &entries {
                    replica.hand_on(entry);
                }
                inner.table.renew(part, entries, |old| newer.has(old));
            }
        }

        for some in accounts.chunks(AT_ONCE) {
            let mut feed = reloading(&replica, number)?;
            for account in some {
                let is_older = |reload: &Reload| reload.accounts.contains_key(&account.id);
                if !feed.reload.as_ref().is_some_and(is_older) {
                    feed.follow_one(account.clone(), now);
                }
            }
        }
        let mut feed = reloading(&replica, number)?;
        let Some(newer) = feed.reload.take() else {
            return Err(ReplicaError::new(ReplicaErrorKind::Overtaken));
        };
        for account in newer.accounts.into_values() {
            feed.follow_one(account, now);
        }
        feed.leave_others(number, now);
        let dead = (mem::take(&mut feed.dead), mem::take(&mut feed.buried));
        feed.forgotten = self.left_out;
        drop(feed);
        drop(dead);
        inner.freshness.set(newer.asked);
        self.finished = true;
        inner.refresh.succeed();
        self.bury_all(now);
        inner.tell_revived(&revoked);
        Ok(())
    }

    /// Records the dead keys, one shard after the other.
    fn bury_all(&self, now: Duration) {
        let table = &self.replica.inner.table;
        for part in 0.. {
            let mut feed = self.replica.feed();
            let Some(dead) = table.dead(part, now) else {
                break;
            };
            feed.bury(dead.into_iter());
        }
    }
}

/// Locks the feed while this reload is in progress.
fn reloading(replica: &Replica, number: u64) -> Result<MutexGuard<'_, Feed>, ReplicaError> {
    let feed = replica.feed();
    if feed.is_reloading(number) {
        Ok(feed)
    } else {
        Err(ReplicaError::new(ReplicaErrorKind::Overtaken))
    }
}

impl Replica {
    /// Carries the usage counters of a used key over to its new entry.
    fn hand_on(&self, entry: &CachedKey) {
        let old = self.find(&entry.digest);
        if let Some(usage_counter) = old.as_ref().and_then(|old| old.usage_counter()) {
            entry.set_usage_counter(usage_counter);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;
    use std::time::Instant;
    use std::time::SystemTime;

    use super::*;
    use crate::clock::{Clock, ManualClock};
    use crate::denial::DenialKind;
    use crate::environment::Environment;
    use crate::key::{DigestScheme, Hint, KeyDigest};
    use crate::record::{AccountStatus, KeyRecord, KeyStatus};

    const HEADS: [Revision; 4] = [
        Revision {
            number: 1,
            nonce: 7,
        },
        Revision {
            number: 20,
            nonce: 8,
        },
        Revision {
            number: 21,
            nonce: 9,
        },
        Revision {
            number: 22,
            nonce: 10,
        },
    ];

    fn acme() -> Account {
        Account::new(AccountId::parse("acme").unwrap())
    }

    fn record(n: u8) -> KeyRecord {
        let digest = KeyDigest::new(DigestScheme::Sha256, [n; 32]);
        let hint = Hint::parse("x_…0000").unwrap();
        let id = KeyId::parse(&format!("key_{n:012}")).unwrap();
        let (live, epoch) = (Environment::LIVE, SystemTime::UNIX_EPOCH);
        KeyRecord::new(id, digest, hint, acme().id, live, epoch)
    }

    fn revoked(n: u8) -> KeyRecord {
        let mut record = record(n);
        record.status = KeyStatus::Revoked;
        record
    }

    fn suspended() -> Account {
        let mut account = acme();
        account.status = AccountStatus::Suspended;
        account
    }

    /// A replica with this data, on a clock.
    fn loaded(account: Account) -> (Replica, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::at(Duration::from_secs(1_700_000_000)));
        let replica = Replica::with(Arc::<ManualClock>::clone(&clock), 100);
        let mut poll = replica.poll();
        poll.account(account);
        (0..4).for_each(|n| poll.key(&record(n)));
        poll.finish(HEADS[0]).unwrap();
        (replica, clock)
    }

    fn beside(replica: &Replica, keys: &[KeyRecord], account: Account, head: Revision) {
        let mut poll = replica.poll();
        assert!(poll.is_beside_reload());
        poll.account(account);
        for key in keys {
            poll.key(key);
        }
        poll.finish(head).unwrap();
    }

    fn ask(replica: &Replica, n: u8) -> Result<(), DenialKind> {
        let found = replica.find(&record(n).digest.bytes());
        let found = found.ok_or(DenialKind::Unknown)?;
        found.dead(replica.clock().unix()).map_or(Ok(()), Err)
    }

    fn is_open(replica: &Replica, n: u8) -> bool {
        let found = replica.find(&record(n).digest.bytes()).unwrap();
        found.account_state.is_active()
    }

    #[test]
    fn a_poll_that_waits_for_a_step_of_a_reload_comes_before_the_next_step() {
        let (replica, has_polled) = (Replica::new(), AtomicBool::new(false));
        thread::scope(|threads| {
            let step = replica.feed();
            threads.spawn(|| {
                let _feed = replica.feed();
                has_polled.store(true, Ordering::Release);
            });
            let since = Instant::now();
            while replica.inner.feed_turn.try_lock().is_ok() {
                assert!(since.elapsed() < Duration::from_secs(20), "nothing waits");
                thread::yield_now();
            }
            drop(step);
            let _next = replica.feed();
            assert!(has_polled.load(Ordering::Acquire));
        });
    }

    #[test]
    fn polls_beside_a_reload_apply_at_once_and_win() {
        let (replica, _) = loaded(acme());
        let mut everything = replica.poll().reload(HEADS[1]).unwrap();
        everything.account(acme());
        // One key was read before its revocation, one is gone, one is new, and one was added after
        // the read.
        everything.key(&record(0));
        everything.key(&record(2));
        beside(&replica, &[revoked(0), record(5)], acme(), HEADS[2]);
        everything.key(&revoked(3));
        everything.key(&record(5));
        let revoked = Err(DenialKind::Revoked);
        assert_eq!(ask(&replica, 0), revoked, "before it is finished");
        assert_eq!(ask(&replica, 5), Ok(()));
        beside(&replica, &[self::revoked(5)], acme(), HEADS[3]);
        everything.finish(HEADS[2]).unwrap();
        let all = [0, 1, 2, 3, 5].map(|n| ask(&replica, n));
        assert_eq!(
            all,
            [revoked, Err(DenialKind::Unknown), Ok(()), revoked, revoked]
        );
        assert_eq!(replica.poll().since(), Some(HEADS[3]));
        assert_eq!((replica.len(), replica.living()), (4, 4));
        replica.poll().finish(HEADS[3]).unwrap();
        assert_eq!(replica.living(), 1);
    }

    #[test]
    fn the_replica_becomes_as_fresh_as_the_last_poll_when_a_reload_ends() {
        let (replica, clock) = loaded(acme());
        let loaded = replica.fresh_as_of().boot();
        let second = Duration::from_secs(1);
        clock.advance(second);
        let everything = replica.poll().reload(HEADS[1]).unwrap();
        clock.advance(second);
        let last = clock.boot();
        beside(&replica, &[], acme(), HEADS[2]);
        assert_eq!(replica.fresh_as_of().boot(), loaded);
        clock.advance(second);
        everything.finish(HEADS[2]).unwrap();
        assert_eq!(replica.fresh_as_of().boot(), last);
    }

    #[test]
    fn an_account_closes_at_once_and_opens_when_no_older_key_is_left() {
        let (replica, _) = loaded(suspended());
        let mut everything = replica.poll().reload(HEADS[1]).unwrap();
        everything.account(suspended());
        everything.key(&revoked(0));
        everything.key(&record(1));
        beside(&replica, &[], acme(), HEADS[2]);
        assert!(!is_open(&replica, 0), "this key was revoked before");
        everything.finish(HEADS[2]).unwrap();
        assert!(is_open(&replica, 0) && is_open(&replica, 1));
        assert_eq!(ask(&replica, 0), Err(DenialKind::Revoked));

        let mut everything = replica.poll().reload(HEADS[1]).unwrap();
        everything.account(acme());
        everything.key(&record(1));
        beside(&replica, &[], suspended(), HEADS[2]);
        assert!(!is_open(&replica, 1));
        everything.finish(HEADS[2]).unwrap();
        assert!(!is_open(&replica, 1));

        // A missing account is gone, and a new one has no older keys.
        let everything = replica.poll().reload(HEADS[1]).unwrap();
        let new = AccountId::parse("new").unwrap();
        let mut key = record(7);
        key.account = new.clone();
        let mut poll = replica.poll();
        poll.account(Account::new(new));
        poll.key(&key);
        poll.finish(HEADS[2]).unwrap();
        assert!(is_open(&replica, 7));
        everything.finish(HEADS[2]).unwrap();
        assert!(is_open(&replica, 7));
        assert_eq!(replica.len(), 1);
    }

    #[test]
    fn a_reload_fails_if_it_is_ahead_of_polls_overtaken_or_dropped() {
        let (replica, _) = loaded(acme());
        let early = replica.poll().reload(HEADS[1]).unwrap();
        let error = early.finish(HEADS[2]).unwrap_err();
        assert_eq!(error.kind(), ReplicaErrorKind::Incomplete);
        assert_eq!(replica.poll().since(), None, "everything is to be given");

        let first = replica.poll().reload(HEADS[1]).unwrap();
        let second = replica.poll().reload(HEADS[1]).unwrap();
        let third = replica.poll().reload(HEADS[1]).unwrap();
        drop(second);
        let error = first.finish(HEADS[1]).unwrap_err();
        assert_eq!(error.kind(), ReplicaErrorKind::Overtaken);
        assert!(replica.poll().is_beside_reload(), "of the third");
        drop(third);
        assert_eq!(replica.poll().since(), None);
        assert_eq!(ask(&replica, 0), Ok(()), "nothing is lost meanwhile");
    }
}
