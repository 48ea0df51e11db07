//! The freshness of the replica.

use std::time::Duration;

use crate::clock::Clock;
use crate::limit::bucket::nanos;
use crate::sync::atomic::{AtomicU64, Ordering};

/// A reading of both clocks at one moment, in nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moment {
    boot: u64,
    unix: u64,
}

impl Moment {
    /// The freshness of a replica that nothing else can change.
    pub(crate) const ALWAYS: Self = Self {
        boot: u64::MAX,
        unix: u64::MAX,
    };

    pub(crate) fn now(clock: &dyn Clock) -> Self {
        let nanos = |time: Duration| nanos(time).min(u64::MAX - 1);
        Self {
            boot: nanos(clock.boot()),
            unix: nanos(clock.unix()),
        }
    }

    /// Returns the reading of the boot clock, which never jumps.
    pub(crate) fn boot(self) -> Duration {
        Duration::from_nanos(self.boot)
    }

    /// Returns the time since the Unix epoch.
    pub(crate) fn unix(self) -> Duration {
        Duration::from_nanos(self.unix)
    }

    /// Returns the time since this moment by the clock that went further; `None` before the first poll.
    pub(crate) fn age(self, now: Self) -> Option<Duration> {
        let boot = now.boot.saturating_sub(self.boot);
        let unix = now.unix.saturating_sub(self.unix);
        (self.boot != 0).then(|| Duration::from_nanos(boot.max(unix)))
    }

    /// Returns whether this moment is too long ago. After a virtual machine was suspended, only the
    /// time of day may have jumped, so that clock counts too, with a tolerance of one second for
    /// its corrections.
    pub(crate) fn is_older_than(self, age: Duration, now: Self) -> bool {
        let age = u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
        let jump = age.saturating_add(1_000_000_000);
        self.boot == 0
            || now.boot.saturating_sub(self.boot) > age
            || now.unix.saturating_sub(self.unix) > jump
    }
}

/// The moment as of which the replica is true; zero before the first poll.
#[derive(Default)]
pub(crate) struct Freshness {
    boot: AtomicU64,
    unix: AtomicU64,
}

impl Freshness {
    pub(crate) fn set(&self, moment: Moment) {
        if self.boot.load(Ordering::Acquire) == Moment::ALWAYS.boot {
            return;
        }
        self.unix.store(moment.unix, Ordering::Release);
        self.boot.store(moment.boot, Ordering::Release);
    }

    pub(crate) fn get(&self) -> Moment {
        let boot = self.boot.load(Ordering::Acquire);
        let unix = self.unix.load(Ordering::Acquire);
        Moment { boot, unix }
    }
}

#[cfg(all(test, keyward_loom))]
mod every_order {
    use std::sync::Arc;

    use loom::thread;

    use super::*;

    #[test]
    fn the_boot_time_is_never_newer_than_the_time_of_day() {
        loom::model(|| {
            let freshness = Arc::new(Freshness::default());
            let feed = Arc::clone(&freshness);
            let feed = thread::spawn(move || {
                for at in [1, 2] {
                    feed.set(Moment { boot: at, unix: at });
                }
            });
            let seen = freshness.get();
            assert!(seen.unix >= seen.boot, "{seen:?}");
            feed.join().unwrap();
        });
    }
}
