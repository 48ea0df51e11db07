//! The rate limit buckets of one owner.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwapOption;

use crate::clock::Clock;
use crate::environment::Environment;
use crate::ids::{AccountId, KeyId};
use crate::limit::bucket::nanos;
use crate::limit::{Bucket, BucketOwner, RateLimit};

/// The buckets of one owner, each created when its limit is first used.
///
/// A changed limit gets a new, full bucket. An unchanged limit keeps its level, whatever else
/// changes.
pub(crate) struct KeyBuckets {
    /// The first key of the rotation chain that owns them; `None` if the account does.
    key: Option<KeyId>,
    clock: Arc<dyn Clock>,
    buckets: ArcSwapOption<Vec<Arc<Bucket>>>,
}

impl KeyBuckets {
    pub(crate) fn of_account(clock: Arc<dyn Clock>) -> Self {
        Self::of(None, clock)
    }

    pub(crate) fn of_key(lineage: KeyId, clock: Arc<dyn Clock>) -> Self {
        Self::of(Some(lineage), clock)
    }

    fn of(key: Option<KeyId>, clock: Arc<dyn Clock>) -> Self {
        Self {
            key,
            clock,
            buckets: ArcSwapOption::empty(),
        }
    }

    /// Returns the bucket of a limit. The account and environment are those of the owner; they are
    /// not kept here because every account in memory has such buckets.
    pub(crate) fn bucket(
        &self,
        limit: RateLimit,
        account: &AccountId,
        environment: Environment,
    ) -> Arc<Bucket> {
        if let Some(buckets) = &*self.buckets.load()
            && let Some(bucket) = find(buckets, limit)
        {
            return bucket;
        }
        let account = account.clone();
        let owner = match self.key {
            Some(key) => BucketOwner::Key(account, environment, key),
            None => BucketOwner::Account(account, environment),
        };
        let new = Arc::new(Bucket::new(owner, limit, Arc::clone(&self.clock)));
        let now = nanos(self.clock.boot());
        self.buckets.rcu(|buckets| {
            let known = buckets.as_deref().map(Vec::as_slice).unwrap_or_default();
            let mut all = known.to_vec();
            if find(known, limit).is_none() {
                if all.len() >= MOST {
                    // A full bucket equals a new one, so dropping it loses nothing.
                    all.retain(|bucket| bucket.level(0, now).full_in > 0);
                    all.drain(..all.len().saturating_sub(MOST - 1));
                }
                all.push(Arc::clone(&new));
            }
            Some(Arc::new(all))
        });
        let buckets = self.buckets.load();
        let buckets = buckets.as_deref().map(Vec::as_slice).unwrap_or_default();
        find(buckets, limit).unwrap_or(new)
    }
}

impl KeyBuckets {
    /// Returns whether all buckets are full, so that new ones would be equal.
    pub(crate) fn is_full(&self) -> bool {
        let now = nanos(self.clock.boot());
        let buckets = self.buckets.load();
        let mut buckets = buckets.iter().flat_map(|all| all.iter());
        buckets.all(|bucket| bucket.level(0, now).full_in == 0)
    }
}

/// The number of buckets that are kept even if limits are changed repeatedly.
const MOST: usize = 32;

fn find(buckets: &[Arc<Bucket>], limit: RateLimit) -> Option<Arc<Bucket>> {
    let found = buckets.iter().find(|bucket| bucket.limit() == limit);
    found.cloned()
}

impl fmt::Debug for KeyBuckets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyBuckets")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::ManualClock;

    #[test]
    fn limits_that_change_repeatedly_take_bounded_memory() {
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(Duration::from_secs(100)));
        let now = nanos(clock.boot());
        let acme = AccountId::parse("acme").unwrap();
        let key_buckets = KeyBuckets::of_key(KeyId::random().unwrap(), Arc::clone(&clock));
        let bucket_of = |limit| key_buckets.bucket(limit, &acme, Environment::LIVE);
        let held = || {
            key_buckets
                .buckets
                .load()
                .as_ref()
                .map_or(0, |all| all.len())
        };
        let used = bucket_of(RateLimit::per_day(1));
        used.take(1, now).unwrap();
        for count in 1..=200 {
            let bucket = bucket_of(RateLimit::per_minute(count));
            assert!(Arc::ptr_eq(&bucket, &bucket_of(bucket.limit())));
            assert!(held() <= MOST, "{}", held());
        }
        // Full buckets are dropped first.
        assert!(Arc::ptr_eq(&used, &bucket_of(used.limit())));
        for count in 1..=200 {
            let bucket = bucket_of(RateLimit::per_hour(count));
            bucket.take(1, now).unwrap();
            assert!(held() <= MOST, "{}", held());
        }
    }
}
