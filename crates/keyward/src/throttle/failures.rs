//! A fixed-size table of failures by client.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Clock;
use crate::limit::RateLimit;
use crate::request::client::Client;

/// The number of sets: 256 KiB in total, for 32,768 clients.
const SETS: usize = 4096;

/// The number of slots in a set, which fill a cache line.
const WAYS: usize = 8;

/// The resolution of time, chosen so that 32 bits last for eight years.
const TICKS_PER_SECOND: u32 = 16;

/// A count of failures per client, in a table that does not grow.
///
/// A slot holds the tag of a client and the time, in ticks since the start, until which its
/// failures count. Each failure moves that time on by one interval (the generic cell rate
/// algorithm). Tag and time change in one atomic step, so that no client inherits another's
/// failures.
///
/// A client belongs to one set of slots. If all of them are taken, the one that would become free
/// first is replaced, so a single failure from each of many addresses does not displace clients
/// with more failures. The set and the tag depend on a random secret, so an attacker cannot choose
/// which client to displace. The probability that a client is mistaken for another one that fails
/// is below one in 500 million, however full the table is.
pub(crate) struct Failures {
    clock: Arc<dyn Clock>,
    started: Duration,
    secret: RandomState,
    sets: Box<[Set]>,
    /// The number of ticks for which one failure counts.
    interval: u32,
    /// The number of ticks for which a whole burst counts.
    full: u32,
}

#[derive(Default)]
#[repr(align(64))]
struct Set([AtomicU64; WAYS]);

impl Failures {
    pub(crate) fn new(limit: RateLimit, clock: Arc<dyn Clock>) -> Self {
        // Bounded so that `now + full` does not saturate within four years.
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

    /// Returns the seconds until one more failure of this client fits; `None` if it fits now.
    pub(crate) fn wait(&self, client: Client) -> Option<u32> {
        let (tag, set) = self.place(client)?;
        let mut slots = set.0.iter().map(|slot| slot.load(Ordering::Relaxed));
        let own = slots.find(|slot| tag_of(*slot) == tag)?;
        let ahead = until(own).saturating_sub(self.now());
        let over = ahead.saturating_sub(self.full - self.interval);
        (over > 0).then(|| over.div_ceil(TICKS_PER_SECOND))
    }

    /// Records a failure of a client.
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
            // Failures beyond a burst count no more. Another thread's clock may be ahead.
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

/// Returns the upper half of a slot.
fn tag_of(slot: u64) -> u32 {
    (slot >> 32) as u32
}

/// Returns the lower half of a slot.
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

    /// One of a large number of clients.
    fn client(number: u128) -> Client {
        let first = 0x2001_0db8 << 96;
        Client::at(Ipv6Addr::from_bits(first | number << 64).into())
    }

    #[test]
    fn a_burst_may_fail_and_then_one_per_interval() {
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
    fn the_wait_does_not_grow_with_more_failures() {
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
    fn the_table_does_not_grow() {
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
    fn single_failures_from_a_million_addresses_are_forgotten_first() {
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
    fn failures_beyond_the_capacity_are_forgotten_and_charged_to_no_other_client() {
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
    fn failures_that_no_longer_count_are_replaced_first() {
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
