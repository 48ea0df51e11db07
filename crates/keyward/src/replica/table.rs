//! The table of keys by digest, which changes without blocking readers.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::ids::KeyId;
use crate::key::digest::DigestBytes;
use crate::replica::cached_key::CachedKey;

/// The number of shards; a change replaces one of them whole. It is three times a power of two, so
/// that a round number of keys does not just exceed the size at which a hash table doubles.
const SHARDS: usize = 192;

/// A table of keys by digest. Readers never wait; a change replaces whole shards.
pub(crate) struct Table {
    shards: Box<[ArcSwap<Shard>]>,
    /// The number of searches through all keys for old entries.
    #[cfg(test)]
    pub(crate) searches: std::sync::atomic::AtomicUsize,
}

type Shard = HashSet<ByDigest, BuildHasherDefault<Identity>>;

impl Table {
    pub(crate) fn find(&self, digest: &DigestBytes) -> Option<Arc<CachedKey>> {
        let shard = self.shards.get(shard_of(digest))?.load();
        shard.get(digest).map(|found| Arc::clone(&found.0))
    }

    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.load().len()).sum()
    }

    /// Inserts or replaces entries by digest. With `all`, removes every other entry.
    #[expect(
        clippy::mutable_key_type,
        reason = "only counters change, never the digest"
    )]
    pub(crate) fn replace(&self, entries: Vec<Arc<CachedKey>>, all: bool) {
        for (shard, entries) in self.shards.iter().zip(self.by_part(entries)) {
            if entries.is_empty() && !all {
                continue;
            }
            let old = shard.load();
            let mut new = if all {
                Shard::default()
            } else {
                Shard::clone(&old)
            };
            new.reserve(entries.len());
            let mut gone = Vec::new();
            for entry in entries {
                if let Some(older) = old.get(&entry.digest) {
                    gone.push(Arc::clone(&older.0));
                }
                new.replace(ByDigest(entry));
            }
            shard.store(Arc::new(new));
            // Must happen before their accounts change: see `Gate::conclude`.
            for entry in gone {
                entry.supersede();
            }
            if all {
                old.iter().for_each(|entry| entry.0.supersede());
            }
        }
    }

    /// Groups entries by their shard.
    pub(crate) fn by_part(&self, entries: Vec<Arc<CachedKey>>) -> Vec<Vec<Arc<CachedKey>>> {
        let mut parts: Vec<Vec<Arc<CachedKey>>> = self.shards.iter().map(|_| Vec::new()).collect();
        for entry in entries {
            if let Some(part) = parts.get_mut(shard_of(&entry.digest)) {
                part.push(entry);
            }
        }
        parts
    }

    /// Replaces a shard with these entries and those of the old ones that stay.
    #[expect(
        clippy::mutable_key_type,
        reason = "only counters change, never the digest"
    )]
    pub(crate) fn renew(
        &self,
        part: usize,
        entries: Vec<Arc<CachedKey>>,
        stays: impl Fn(&CachedKey) -> bool,
    ) {
        let Some(shard) = self.shards.get(part) else {
            return;
        };
        let old = shard.load();
        let (stay, gone): (Vec<_>, Vec<_>) = old.iter().partition(|old| stays(&old.0));
        let mut new = Shard::default();
        new.extend(entries.into_iter().map(ByDigest));
        for entry in stay {
            new.replace(entry.clone());
        }
        shard.store(Arc::new(new));
        // Must happen before their accounts change: see `Gate::conclude`.
        for entry in gone {
            entry.0.supersede();
        }
    }

    /// Returns the dead keys of a shard with the time of death; `None` after the last shard.
    pub(crate) fn dead(&self, part: usize, now: Duration) -> Option<Vec<(u32, Arc<CachedKey>)>> {
        let shard = self.shards.get(part)?.load();
        let died = |found: &ByDigest| Some((found.0.died_at(now)?, Arc::clone(&found.0)));
        Some(shard.iter().filter_map(died).collect())
    }

    /// Calls a function with each entry of a shard.
    pub(crate) fn each(&self, part: usize, call: impl FnMut(&Arc<CachedKey>)) {
        if let Some(shard) = self.shards.get(part) {
            shard.load().iter().map(|found| &found.0).for_each(call);
        }
    }

    /// Finds the old entries of rehashed keys. It searches all keys, because only the old digest
    /// would tell where they are.
    pub(crate) fn moved(&self, moved: &HashMap<KeyId, DigestBytes>) -> Vec<Arc<CachedKey>> {
        #[cfg(test)]
        self.searches
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.matching(|entry| moved.get(&entry.id).is_some_and(|new| *new != entry.digest))
    }

    /// Returns all entries that match. It examines every entry.
    pub(crate) fn matching(&self, is_so: impl Fn(&CachedKey) -> bool) -> Vec<Arc<CachedKey>> {
        let shards = self.shards.iter().map(ArcSwap::load);
        let found = shards.flat_map(|shard| {
            let found = shard.iter().filter(|found| is_so(&found.0));
            found.map(|found| Arc::clone(&found.0)).collect::<Vec<_>>()
        });
        found.collect()
    }

    /// Removes these entries unless others have replaced them.
    #[expect(
        clippy::mutable_key_type,
        reason = "only counters change, never the digest"
    )]
    pub(crate) fn remove(&self, entries: Vec<Arc<CachedKey>>) {
        let mut by_shard: HashMap<usize, Vec<Arc<CachedKey>>> = HashMap::new();
        for entry in entries {
            by_shard
                .entry(shard_of(&entry.digest))
                .or_default()
                .push(entry);
        }
        for (at, gone) in by_shard {
            let Some(shard) = self.shards.get(at) else {
                continue;
            };
            let mut new = Shard::clone(&shard.load());
            for entry in &gone {
                let is_it = |found: &ByDigest| Arc::ptr_eq(&found.0, entry);
                if new.get(&entry.digest).is_some_and(is_it) {
                    new.remove(&entry.digest);
                }
            }
            shard.store(Arc::new(new));
            for entry in gone {
                entry.supersede();
            }
        }
    }
}

impl Default for Table {
    fn default() -> Self {
        let shards = (0..SHARDS).map(|_| ArcSwap::default()).collect();
        Self {
            shards,
            #[cfg(test)]
            searches: std::sync::atomic::AtomicUsize::default(),
        }
    }
}

fn shard_of(digest: &DigestBytes) -> usize {
    usize::try_from(digest.word(1) % SHARDS as u64).unwrap_or_default()
}

/// An entry that is hashed by its digest.
#[derive(Clone)]
struct ByDigest(Arc<CachedKey>);

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

/// A hasher for digests, which are uniform: eight of their bytes are the hash.
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
