//! The shared parts of entries, and the state that only the feed uses.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use crate::clock::Clock;
use crate::credits::CreditOwner;
use crate::environment::Environment;
use crate::ids::{AccountId, KeyId};
use crate::key::digest::DigestBytes;
use crate::record::{Account, KeyRecord};
use crate::replica::cached_key::{AccountState, Budget, CachedKey, Grant};
use crate::replica::credit_cache::CreditCache;
use crate::replica::key_buckets::KeyBuckets;
use crate::replica::reload::Reload;
use crate::replica::replica::WeakReplica;
use crate::replica::table::Table;
use crate::replica::{Rehash, Revision};

/// The state that only the feed uses.
#[derive(Default)]
pub(crate) struct Feed {
    pub(crate) revision: Option<Revision>,
    /// Boxed because a hash table has more slots than entries.
    accounts: HashMap<AccountId, Box<Known>>,
    grants: HashSet<Arc<Grant>>,
    /// The dead keys in memory, by time of death.
    pub(crate) dead: BTreeMap<(u32, KeyId), Arc<CachedKey>>,
    /// The recorded time of death of each.
    pub(crate) buried: HashMap<KeyId, u32>,
    /// The latest time of death among the forgotten keys, if any were forgotten.
    pub(crate) forgotten: Option<u32>,
    /// The next shard to search for dead keys, and the time of the last search.
    pub(crate) swept: (usize, Duration),
    pub(crate) warned: Option<Duration>,
    /// The buckets of every rotation chain, by its first key.
    key_buckets_of: HashMap<KeyId, Arc<KeyBuckets>>,
    credit_caches: CreditCaches,
    /// The previous digests of keys that this process has rehashed, until a poll gives the new ones.
    rehashed: HashMap<KeyId, DigestBytes>,
    /// The reload in progress, and the number of reloads started so far.
    pub(crate) reload: Option<Reload>,
    pub(crate) reloads: u64,
    groups_made: usize,
    grants_doubling: Doubling,
    key_buckets_doubling: Doubling,
    credit_caches_doubling: Doubling,
    groups_doubling: Doubling,
}

/// The credits that this process has drawn, by owner.
#[derive(Default)]
struct CreditCaches {
    /// Sorted, so that they can be visited in parts.
    all: BTreeMap<CreditOwner, Arc<CreditCache>>,
    replica: WeakReplica,
}

impl CreditCaches {
    /// Returns the credits of an owner, which are none at first.
    fn of(&mut self, owner: CreditOwner) -> Arc<CreditCache> {
        let known = self.all.entry(owner.clone());
        Arc::clone(known.or_insert_with(|| {
            let new = CreditCache::new(owner);
            new.belongs_to(&self.replica);
            Arc::new(new)
        }))
    }
}

/// The number of rehashed keys whose previous digests are remembered: some 5 MB.
const MOST_REHASHED: usize = 100_000;

/// A trigger for cleaning a collection when it has doubled since the last cleaning.
///
/// The cost of cleaning is then proportional to that of filling.
#[derive(Clone, Copy, Default)]
pub(crate) struct Doubling(usize);

impl Doubling {
    pub(crate) fn is_due(self, len: usize) -> bool {
        len > self.0.saturating_mul(2).saturating_add(128)
    }

    pub(crate) fn cleared(&mut self, left: usize) {
        self.0 = left;
    }
}

/// The known state of an account.
#[derive(Default)]
struct Known {
    /// `None` if the account is gone or has not arrived yet.
    account: Option<Account>,
    /// True if a full read did not contain it. If it reappears, older keys may be in memory.
    gone: bool,
    /// The number of the last reload that contained it.
    reload: u64,
    account_states: SmallVec<[Arc<AccountState>; 1]>,
}

impl Feed {
    /// Creates the feed of a replica, to which the credits belong that it knows.
    pub(crate) fn of(replica: WeakReplica) -> Self {
        let mut feed = Self::default();
        feed.credit_caches.replica = replica;
        feed
    }

    pub(crate) fn account_state(
        &mut self,
        record: &KeyRecord,
        clock: &Arc<dyn Clock>,
        now: Duration,
    ) -> Arc<AccountState> {
        let (environment, prefix) = (record.environment, &record.hint.prefix);
        let known = self.accounts.entry(record.account.clone()).or_default();
        let Known {
            account,
            account_states,
            ..
        } = &mut **known;
        let same = |account_state: &&Arc<AccountState>| is_of(account_state, environment, prefix);
        if let Some(account_state) = account_states.iter().find(same) {
            return Arc::clone(account_state);
        }
        // Share the account's id if it is known, because that of the record is a copy.
        let id = account.as_ref().map_or(&record.account, |own| &own.id);
        // Keys with another prefix share their limits with these.
        let sibling = account_states
            .iter()
            .find(|account_state| account_state.environment == environment);
        let key_buckets = sibling.map_or_else(
            || Arc::new(KeyBuckets::of_account(Arc::clone(clock))),
            |sibling| Arc::clone(&sibling.key_buckets),
        );
        let account_state =
            AccountState::closed(id.clone(), environment, prefix.clone(), key_buckets);
        let account = account.as_ref();
        account_state.follow(account, budget(&mut self.credit_caches, account), now);
        self.groups_made += 1;
        let account_state = Arc::new(account_state);
        account_states.push(Arc::clone(&account_state));
        account_state
    }

    /// Returns the permissions of a key, shared with all keys that have the same.
    pub(crate) fn grant(&mut self, record: &KeyRecord, with_details: bool) -> Arc<Grant> {
        let grant = Grant::of(record, with_details);
        if let Some(known) = self.grants.get(&grant) {
            return Arc::clone(known);
        }
        let new = Arc::new(grant);
        self.grants.insert(Arc::clone(&new));
        new
    }

    /// Returns the buckets of a rotation chain, calling `make` if there are none.
    pub(crate) fn key_buckets(
        &mut self,
        lineage: KeyId,
        make: impl FnOnce() -> Arc<KeyBuckets>,
    ) -> Arc<KeyBuckets> {
        Arc::clone(self.key_buckets_of.entry(lineage).or_insert_with(make))
    }

    /// Returns the credits that this process has drawn from a balance.
    pub(crate) fn credit_cache(&mut self, owner: CreditOwner) -> Arc<CreditCache> {
        self.credit_caches.of(owner)
    }

    pub(crate) fn known_credit_cache(&self, owner: &CreditOwner) -> Option<Arc<CreditCache>> {
        self.credit_caches.all.get(owner).cloned()
    }

    pub(crate) fn credit_caches(&self) -> Vec<Arc<CreditCache>> {
        self.credit_caches.all.values().cloned().collect()
    }

    /// Returns at most this many credit caches, in order, after an owner.
    pub(crate) fn credit_caches_after(
        &self,
        after: Option<&CreditOwner>,
        most: usize,
    ) -> Vec<Arc<CreditCache>> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let credit_caches = self.credit_caches.all.range((from, Bound::Unbounded));
        let credit_caches = credit_caches.map(|(_, credit_cache)| Arc::clone(credit_cache));
        credit_caches.take(most).collect()
    }

    /// Remembers the digests under which these keys are in the table.
    pub(crate) fn note_rehashes(&mut self, rehashes: &[Rehash]) {
        if self.rehashed.len() + rehashes.len() > MOST_REHASHED {
            self.rehashed.clear();
        }
        let known = rehashes.iter().take(MOST_REHASHED);
        self.rehashed
            .extend(known.map(|one| (one.key, DigestBytes(one.from))));
    }

    /// Returns the entries of keys whose digest has changed, under their previous digests.
    ///
    /// Keys that another process has rehashed are searched for among all keys.
    pub(crate) fn moved(
        &mut self,
        moved: &HashMap<KeyId, DigestBytes>,
        table: &Table,
    ) -> Vec<Arc<CachedKey>> {
        let (mut gone, mut unknown) = (Vec::new(), HashMap::new());
        for (id, new) in moved {
            let from = self.rehashed.remove(id).filter(|from| from != new);
            let old = from.and_then(|from| table.find(&from));
            match old.filter(|old| old.id == *id) {
                Some(old) => gone.push(old),
                None => _ = unknown.insert(*id, *new),
            }
        }
        if !unknown.is_empty() {
            gone.extend(table.moved(&unknown));
        }
        gone
    }

    pub(crate) fn close(&self, accounts: &[Account]) {
        for account in accounts {
            let known = self.accounts.get(&account.id);
            for account_state in known.into_iter().flat_map(|known| &known.account_states) {
                account_state.close(account);
            }
        }
    }

    pub(crate) fn follow(&mut self, accounts: Vec<Account>, restarted: bool, now: Duration) {
        if restarted {
            self.accounts
                .values_mut()
                .for_each(|known| known.account = None);
        }
        for account in accounts {
            self.follow_one(account, now);
        }
        if restarted {
            let gone = self.accounts.values_mut();
            for known in gone.filter(|known| known.account.is_none()) {
                known.leave(now);
            }
        }
    }
}

impl Feed {
    /// Applies the new state of an account.
    pub(crate) fn follow_one(&mut self, account: Account, now: Duration) {
        let budget = budget(&mut self.credit_caches, Some(&account));
        let known = self.accounts.entry(account.id.clone()).or_default();
        for account_state in &known.account_states {
            account_state.follow(Some(&account), budget.clone(), now);
        }
        known.account = Some(account);
        (known.gone, known.reload) = (false, self.reloads);
    }

    /// Returns whether keys older than the account's present state may be in memory.
    pub(crate) fn has_known(&self, account: &AccountId) -> bool {
        let known = self.accounts.get(account);
        known.is_some_and(|known| known.gone || known.account.is_some())
    }

    /// Closes the accounts that this reload did not contain.
    pub(crate) fn leave_others(&mut self, reload: u64, now: Duration) {
        let others = self.accounts.values_mut();
        for known in others.filter(|known| known.reload != reload) {
            known.leave(now);
        }
    }
}

impl Known {
    /// Closes the account, which is gone.
    fn leave(&mut self, now: Duration) {
        self.account = None;
        self.gone = true;
        self.account_states
            .iter()
            .for_each(|account_state| account_state.follow(None, None, now));
    }
}

impl Feed {
    /// Returns whether this update revives keys of the account that may have been forgotten.
    pub(crate) fn may_revive(&self, account: &Account) -> bool {
        let known = self.accounts.get(&account.id);
        let Some(old) = known.and_then(|known| known.account.as_ref()) else {
            return false;
        };
        let mut environments = old.revoked.keys();
        self.forgotten.is_some()
            && (account.revoked_all < old.revoked_all
                || environments.any(|of| account.epoch(*of) < old.epoch(*of)))
    }

    /// Records dead keys with their time of death. A recorded key keeps its time, even if all keys
    /// of its account are revoked later.
    pub(crate) fn bury(&mut self, dead: impl Iterator<Item = (u32, Arc<CachedKey>)>) {
        for (died, entry) in dead {
            let id = entry.id;
            if let Some(before) = self.buried.get(&id) {
                let noted = self.dead.get(&(*before, id));
                if noted.is_some_and(|noted| Arc::ptr_eq(noted, &entry)) {
                    continue;
                }
                self.unbury(id);
            }
            self.buried.insert(id, died);
            self.dead.insert((died, id), entry);
        }
    }

    /// Removes a key from the dead.
    pub(crate) fn unbury(&mut self, id: KeyId) {
        if let Some(died) = self.buried.remove(&id) {
            self.dead.remove(&(died, id));
        }
    }

    /// Takes the key that died first if its time of death matches.
    pub(crate) fn first_dead(
        &mut self,
        is_so: impl FnOnce(u32) -> bool,
    ) -> Option<(u32, Arc<CachedKey>)> {
        let first = self.dead.first_entry()?;
        is_so(first.key().0).then(|| {
            let ((died, id), entry) = first.remove_entry();
            self.buried.remove(&id);
            (died, entry)
        })
    }

    /// Drops state that no key uses any more, if there may be much of it. Levels of rate limits and
    /// drawn credits are kept until they make no difference.
    pub(crate) fn tidy(&mut self) {
        if self.grants_doubling.is_due(self.grants.len()) {
            self.grants.retain(|grant| Arc::strong_count(grant) > 1);
            self.grants_doubling.cleared(self.grants.len());
        }
        if self.key_buckets_doubling.is_due(self.key_buckets_of.len()) {
            self.key_buckets_of.retain(|_, key_buckets| {
                Arc::strong_count(key_buckets) > 1 || !key_buckets.is_full()
            });
            self.key_buckets_doubling.cleared(self.key_buckets_of.len());
        }
        if self
            .groups_doubling
            .is_due(self.groups_made.max(self.accounts.len()))
        {
            let mut left = 0;
            self.accounts.retain(|_, known| {
                known.account_states.retain(|account_state| {
                    Arc::strong_count(account_state) > 1 || !account_state.key_buckets.is_full()
                });
                left += known.account_states.len();
                known.account.is_some() || !known.account_states.is_empty()
            });
            self.groups_made = left;
            self.groups_doubling.cleared(left.max(self.accounts.len()));
        }
        let credit_caches = &mut self.credit_caches.all;
        if self.credit_caches_doubling.is_due(credit_caches.len()) {
            credit_caches.retain(|_, credit_cache| {
                Arc::strong_count(credit_cache) > 1 || !credit_cache.is_idle()
            });
            self.credit_caches_doubling.cleared(credit_caches.len());
        }
    }
}

/// Returns the credits for all keys of an account without their own.
fn budget(credit_caches: &mut CreditCaches, account: Option<&Account>) -> Option<Budget> {
    let account = account?;
    Some(Budget {
        epoch: account.credits?,
        credit_cache: credit_caches.of(CreditOwner::Account(account.id.clone())),
    })
}

fn is_of(account_state: &AccountState, environment: Environment, prefix: &str) -> bool {
    account_state.environment == environment && *account_state.prefix == *prefix
}
