//! Who has failed, and how often, in a memory that does not grow.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Clock;
use crate::limit::RateLimit;
use crate::request::client::Client;

/// Together 256 KiB, for 32,768 clients.
const SETS: usize = 4096;

/// As many as fill a cache line.
const WAYS: usize = 8;

/// A second has so many, so that 32 bits of them last for eight years.
const TICKS_PER_SECOND: u32 = 16;

/// A count of failures for each client, for as long as there is room.
///
/// A slot holds a tag of its client and, in ticks since the start, the moment until which the
/// client's failures count: one more puts it off by an interval (the generic cell rate algorithm).
/// Both change at once, so that no client inherits what another has done.
///
/// A client belongs to one set of slots. Where all are taken, the one that would be free first gives
/// way: failing once from many addresses makes nothing forgotten that weighs more. The set and the
/// tag depend on a secret, so that nobody can choose whose place to take; that a client is taken for
/// another that fails happens to less than one in 500 million, however full the memory is.
pub(crate) struct Failures {
    clock: Arc<dyn Clock>,
    started: Duration,
    secret: RandomState,
    sets: Box<[Set]>,
    /// For how long a failure counts.
    interval: u32,
    /// For how long a whole burst of them does.
    full: u32,
}

#[derive(Default)]
#[repr(align(64))]
struct Set([AtomicU64; WAYS]);

impl Failures {
    pub(crate) fn new(limit: RateLimit, clock: Arc<dyn Clock>) -> Self {
        // So that `now + full` is not cut off within four years.
        let ticks = |ticks: u64| u32::try_from(ticks).map_or(u32::MAX / 2, |t| t.min(u32::MAX / 2));
        let (count, seconds, burst) = (limit.count(), limit.seconds(), limit.max_burst());
        let period = u64::from(seconds) * u64::from(TICKS_PER_SECOND);
        let interval = ticks(period.div_ceil(u64::from(count)));
        Self {
            started: clock.boot(),
            clock,
            secret: RandomState::new(),
            sets: (0..SETS).map(|_| Set::default()).collect(),
            interval,
            full: ticks(u64::from(interval) * u64::from(burst)),
        }
    }

    /// The seconds until one more failure of this client fits; `None` when it does now.
    pub(crate) fn wait(&self, client: Client) -> Option<u32> {
        let (tag, set) = self.place(client)?;
        let mut slots = set.0.iter().map(|slot| slot.load(Ordering::Relaxed));
        let own = slots.find(|slot| tag_of(*slot) == tag)?;
        let ahead = until(own).saturating_sub(self.now());
        let over = ahead.saturating_sub(self.full - self.interval);
        (over > 0).then(|| over.div_ceil(TICKS_PER_SECOND))
    }

    /// Notes that a client has failed.
    pub(crate) fn note(&self, client: Client) {
        let Some((tag, set)) = self.place(client) else {
            return;
        };
        let now = self.now();
        let latest = now.saturating_add(self.full);
        loop {
            let seen = set
                .0
                .iter()
                .map(|slot| (slot, slot.load(Ordering::Relaxed)));
            let own_or_least = seen.min_by_key(|(_, seen)| (tag_of(*seen) != tag, until(*seen)));
            let Some((slot, seen)) = own_or_least else {
                return;
            };
            let counted = if tag_of(seen) == tag { until(seen) } else { 0 };
            let one_more = counted.max(now).saturating_add(self.interval);
            // More than a burst is no worse than a burst. Another thread's clock may be ahead.
            let next = packed(tag, one_more.min(latest).max(counted));
            let order = Ordering::Relaxed;
            if next == seen || slot.compare_exchange_weak(seen, next, order, order).is_ok() {
                return;
            }
        }
    }

    fn place(&self, client: Client) -> Option<(u32, &Set)> {
        let hash = self.secret.hash_one(client);
        let (tag, rest) = (tag_of(hash), until(hash));
        let set = usize::try_from(rest).ok()? % SETS;
        Some((tag, self.sets.get(set)?))
    }

    fn now(&self) -> u32 {
        let elapsed = self.clock.boot().saturating_sub(self.started);
        let ticks = elapsed.as_nanos() * u128::from(TICKS_PER_SECOND) / 1_000_000_000;
        u32::try_from(ticks).unwrap_or(u32::MAX)
    }
}

impl fmt::Debug for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failures").finish_non_exhaustive()
    }
}

/// The upper half of a slot.
fn tag_of(slot: u64) -> u32 {
    (slot >> 32) as u32
}

/// The lower half of a slot.
fn until(slot: u64) -> u32 {
    (slot & 0xFFFF_FFFF) as u32
}

fn packed(tag: u32, until: u32) -> u64 {
    u64::from(tag) << 32 | u64::from(until)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv6Addr};
    use std::thread;

    use super::*;
    use crate::clock::ManualClock;

    fn failures(limit: &str) -> (Arc<ManualClock>, Failures) {
        let clock = Arc::new(ManualClock::at(Duration::from_secs(1_700_000_000)));
        let limit = RateLimit::parse(limit).unwrap();
        let failures = Failures::new(limit, Arc::<ManualClock>::clone(&clock));
        (clock, failures)
    }

    fn victim() -> Client {
        Client::at(IpAddr::from([192, 0, 2, 1]))
    }

    /// One of as many clients as anybody can have.
    fn client(number: u128) -> Client {
        let first = 0x2001_0db8 << 96;
        Client::at(Ipv6Addr::from_bits(first | number << 64).into())
    }

    #[test]
    fn a_burst_fails_and_then_one_in_each_interval() {
        let (clock, failures) = failures("10/60;3");
        for failed in 0..3 {
            assert_eq!(failures.wait(victim()), None, "{failed}");
            failures.note(victim());
        }
        assert_eq!(failures.wait(victim()), Some(6));
        clock.advance(Duration::from_millis(5_937));
        assert_eq!(failures.wait(victim()), Some(1));
        clock.advance(Duration::from_millis(63));
        assert_eq!(failures.wait(victim()), None);
        failures.note(victim());
        assert_eq!(failures.wait(victim()), Some(6));
        clock.advance(Duration::from_secs(18));
        for failed in 0..3 {
            assert_eq!(failures.wait(victim()), None, "all is forgotten: {failed}");
            failures.note(victim());
        }
        assert_eq!(failures.wait(victim()), Some(6));
    }

    #[test]
    fn nobody_waits_longer_however_often_he_fails() {
        let (clock, failures) = failures("10/60;3");
        for _ in 0..1000 {
            failures.note(victim());
        }
        assert_eq!(failures.wait(victim()), Some(6));
        clock.advance(Duration::from_secs(6));
        assert_eq!(failures.wait(victim()), None);
    }

    #[test]
    fn any_limit_allows_one_failure_and_refuses_some() {
        for limit in ["1/1;1", "1000000/1;1", "1/315360000;1"] {
            let (clock, failures) = failures(limit);
            assert_eq!(failures.wait(victim()), None, "{limit}");
            failures.note(victim());
            failures.note(victim());
            assert!(failures.wait(victim()).is_some(), "{limit}");
            clock.advance(Duration::from_secs(u64::from(u32::MAX)));
            assert_eq!(failures.wait(victim()), None, "{limit}");
        }
    }

    #[test]
    fn time_counts_from_the_start_however_long_the_machine_has_run() {
        let clock = Arc::new(ManualClock::at(Duration::ZERO));
        clock.advance(Duration::from_secs(u64::from(u32::MAX)));
        let limit = RateLimit::parse("1/60;1").unwrap();
        let failures = Failures::new(limit, clock);
        failures.note(victim());
        assert_eq!(failures.wait(victim()), Some(60));
    }

    #[test]
    fn the_memory_stays_as_it_is() {
        let (_, failures) = failures("10/60;10");
        let slots = || failures.sets.iter().flat_map(|set| &set.0);
        assert_eq!(size_of_val(&*failures.sets), 256 * 1024);
        for number in 0..1_000_000 {
            failures.note(client(number));
        }
        assert_eq!(size_of_val(&*failures.sets), 256 * 1024);
        let used = slots().filter(|slot| slot.load(Ordering::Relaxed) != 0);
        assert_eq!(used.count(), SETS * WAYS);
    }

    #[test]
    fn who_fails_once_from_a_million_addresses_is_forgotten_first() {
        let (_, failures) = failures("10/60;10");
        for _ in 0..10 {
            failures.note(victim());
        }
        for number in 0..1_000_000 {
            failures.note(client(number));
        }
        assert!(failures.wait(victim()).is_some());
    }

    #[test]
    fn who_fails_more_than_there_is_room_for_is_forgotten_and_nobody_pays_for_it() {
        let (_, failures) = failures("10/60;3");
        for _ in 0..3 {
            failures.note(victim());
        }
        for number in 0..200_000 {
            for _ in 0..3 {
                failures.note(client(number));
            }
            assert!(failures.wait(client(number)).is_some(), "{number}");
        }
        assert!(failures.wait(victim()).is_none());
        let others = (200_000..300_000).filter(|number| failures.wait(client(*number)).is_some());
        assert_eq!(others.count(), 0);
    }

    #[test]
    fn what_counts_no_more_gives_way_first() {
        let (clock, failures) = failures("10/60;3");
        for number in 0..200_000 {
            failures.note(client(number));
        }
        clock.advance(Duration::from_secs(6));
        for _ in 0..3 {
            failures.note(victim());
        }
        for number in 200_000..210_000 {
            failures.note(client(number));
        }
        assert!(failures.wait(victim()).is_some());
    }

    #[test]
    fn no_failure_is_lost_between_threads() {
        let (_, failures) = failures("1000/1000;64000");
        thread::scope(|threads| {
            for _ in 0..64 {
                threads.spawn(|| (0..500).for_each(|_| failures.note(victim())));
            }
        });
        for _ in 0..64_000 - 64 * 500 {
            assert_eq!(failures.wait(victim()), None);
            failures.note(victim());
        }
        assert_eq!(failures.wait(victim()), Some(1));
    }
}
