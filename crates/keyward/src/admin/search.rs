//! Finds keys in a text; long texts are searched on a separate thread.

use std::collections::HashMap;
use std::sync::Arc;

use crate::admin::threads::THREADS;
use crate::admin::{AdminError, Leak};
use crate::key::Hint;
use crate::replica::Replica;
use crate::replica::cached_key::CachedKey;
use crate::scheme::KeyScheme;

/// The longest text, in bytes, that is searched on the caller's thread.
///
/// This takes a fraction of a millisecond.
const SHORT: usize = 32 * 1024;

/// The number of bytes searched between checks whether the result is still wanted.
const PART: usize = 256 * 1024;

/// The number of positions reported per leaked key.
const POSITIONS: usize = 10;

/// The context needed to recognize and look up keys.
pub(super) struct Search {
    pub(super) scheme: KeyScheme,
    pub(super) replica: Replica,
}

/// The keys found in a text.
#[derive(Default)]
pub(super) struct Found {
    /// Each key once, in the order of first occurrence.
    pub(super) leaks: Vec<Leak>,
    /// Those in memory, each with its index in `leaks`.
    pub(super) known: Vec<(usize, Arc<CachedKey>)>,
}

impl Search {
    /// Searches a text, on a separate thread if it is long.
    ///
    /// The thread stops when the future is dropped.
    pub(super) async fn run(self, text: String) -> Result<Found, AdminError> {
        if text.len() <= SHORT {
            return Ok(self.find(&text, &|| true));
        }
        THREADS
            .run(move |is_wanted| self.find(&text, is_wanted))
            .await
    }

    fn find(&self, text: &str, is_wanted: &dyn Fn() -> bool) -> Found {
        let mut found = Found::default();
        let mut seen = HashMap::new();
        let mut part = 0..0;
        while part.end < text.len() && is_wanted() {
            part = part.end..text.len().min(part.end + PART);
            for (at, key, prefix) in self.scheme.find_from(text, part.clone()) {
                let before = seen
                    .get(key)
                    .and_then(|place: &usize| found.leaks.get_mut(*place));
                if let Some(leak) = before {
                    leak.count += 1;
                    if leak.positions.len() < POSITIONS {
                        leak.positions.push(at);
                    }
                    continue;
                }
                let place = found.leaks.len();
                seen.insert(key, place);
                found.leaks.push(Leak {
                    positions: vec![at],
                    count: 1,
                    hint: Hint::of(key, prefix),
                    key: None,
                });
                let entry = self.entry(key, prefix.len());
                found.known.extend(entry.map(|entry| (place, entry)));
            }
        }
        found
    }

    fn entry(&self, key: &str, secret: usize) -> Option<Arc<CachedKey>> {
        let clock = &**self.replica.clock();
        let mut digests = self
            .scheme
            .peppers
            .candidates(key.as_bytes(), secret, false, clock);
        digests.find_map(|(_, digest)| self.replica.find(&digest))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::task::{Context, Poll, Waker};
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::admin::{Actor, KeyAdmin, NewKey};
    use crate::environment::Environment;
    use crate::ids::AccountId;
    use crate::key::KeyFormat;
    use crate::store::MemoryStore;
    use crate::testing::block_on;

    #[test]
    fn a_search_ends_soon_after_its_future_is_dropped() {
        let format = KeyFormat::new("vhk_{env}_").unwrap();
        let key = format.generate(Environment::LIVE).unwrap();
        let text = format!("{}\n", key.expose_secret()).repeat(100_000);
        let search = Search {
            scheme: KeyScheme::new(format),
            replica: Replica::new(),
        };
        let asked = Cell::new(0);
        let found = search.find(&text, &|| {
            asked.set(asked.get() + 1);
            asked.get() <= 2
        });
        assert_eq!(asked.get(), 3);
        let line = text.len() / 100_000;
        assert_eq!(found.leaks[0].count, (2 * PART).div_ceil(line) as u64);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_executor_runs_other_tasks_while_a_long_text_is_searched() {
        /// Returns the CPU time of this thread, whatever else the machine does.
        fn worked() -> Duration {
            let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
            Duration::try_from(time).unwrap()
        }

        let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_").unwrap());
        let admin = KeyAdmin::new(&MemoryStore::new(), &scheme);
        let acme = AccountId::parse("acme").unwrap();
        let operator = Actor::operator("test");
        let new = NewKey::new(acme, Environment::LIVE, "first");
        let created = block_on(admin.bootstrap(&operator, new)).unwrap();
        let key = created.key.unwrap();
        let never = "vhk_live_0123456789\n".repeat(200_000);
        let text = format!("{never}{}", key.expose_secret());
        let began = worked();
        assert_eq!(scheme.find_from(&text, 0..text.len()).count(), 1);
        let whole = worked().saturating_sub(began);

        let (mut longest, mut other_ran) = (Duration::ZERO, 0_u64);
        let mut scan = Box::pin(admin.leaks(&operator, text));
        let context = &mut Context::from_waker(Waker::noop());
        let leaks = loop {
            let began = worked();
            let polled = scan.as_mut().poll(context);
            longest = longest.max(worked().saturating_sub(began));
            if let Poll::Ready(leaks) = polled {
                break leaks.unwrap();
            }
            other_ran += 1;
            thread::yield_now();
        };
        assert!(leaks[0].key.is_some());
        assert!(other_ran > 10, "{other_ran}");
        assert!(
            longest < whole / 8,
            "{longest:?} at a stretch of {whole:?} in all"
        );
    }
}
