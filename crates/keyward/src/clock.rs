//! The two clocks a decision needs, so that a test can hand in its own.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

/// Where the gate reads the time.
///
/// Both are read on every request: an implementation must not lock or allocate. See [`ManualClock`].
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Time since the Unix epoch. Judges expiry and dates last-used; may step either way.
    fn unix(&self) -> Duration;

    /// Time since some start that never steps and goes on while the machine sleeps.
    /// Judges how old the replica is.
    fn boot(&self) -> Duration;
}

/// The machine's own clocks.
///
/// On Linux `CLOCK_REALTIME_COARSE` (a few milliseconds of resolution) and `CLOCK_BOOTTIME`;
/// elsewhere [`SystemTime`] and the monotonic clock, which may stand still while the machine sleeps.
///
/// ```
/// use keyward::clock::{Clock, SystemClock};
///
/// assert!(SystemClock.boot() <= SystemClock.boot());
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "written by its name")]
pub struct SystemClock;

impl Clock for SystemClock {
    fn unix(&self) -> Duration {
        #[cfg(target_os = "linux")]
        return since_zero(rustix::time::ClockId::RealtimeCoarse);
        #[cfg(not(target_os = "linux"))]
        unix_time(SystemTime::now())
    }

    fn boot(&self) -> Duration {
        #[cfg(target_os = "linux")]
        return since_zero(rustix::time::ClockId::Boottime);
        #[cfg(not(target_os = "linux"))]
        {
            static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
            START.get_or_init(std::time::Instant::now).elapsed()
        }
    }
}

/// A clock that stands still until it is told to move; for tests.
///
/// ```
/// use std::time::Duration;
/// use keyward::clock::{Clock, ManualClock};
///
/// let clock = ManualClock::at(Duration::from_secs(1_700_000_000));
/// clock.advance(Duration::from_secs(60));
/// assert_eq!(clock.unix().as_secs(), 1_700_000_060);
/// assert_eq!(clock.boot().as_secs(), 61);
/// ```
#[derive(Debug)]
pub struct ManualClock(Mutex<Reading>);

#[derive(Clone, Copy, Debug)]
struct Reading {
    unix: Duration,
    boot: Duration,
}

impl ManualClock {
    /// A clock that shows this time since the Unix epoch, a second after boot.
    #[must_use]
    pub fn at(unix: Duration) -> Self {
        let boot = Duration::from_secs(1);
        Self(Mutex::new(Reading { unix, boot }))
    }

    /// Lets time pass.
    pub fn advance(&self, by: Duration) {
        let mut now = self.lock();
        now.unix += by;
        now.boot += by;
    }

    /// Sets the time of day, as an administrator would; no time passes.
    pub fn set_unix(&self, unix: Duration) {
        self.lock().unix = unix;
    }

    fn lock(&self) -> MutexGuard<'_, Reading> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for ManualClock {
    fn unix(&self) -> Duration {
        self.lock().unix
    }

    fn boot(&self) -> Duration {
        self.lock().boot
    }
}

#[cfg(target_os = "linux")]
fn since_zero(clock: rustix::time::ClockId) -> Duration {
    let time = rustix::time::clock_gettime(clock);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or_default(),
        u32::try_from(time.tv_nsec).unwrap_or_default(),
    )
}

/// Returns the time since the Unix epoch; zero for anything earlier.
///
/// ```
/// use std::time::{Duration, SystemTime};
///
/// let time = SystemTime::UNIX_EPOCH + Duration::from_secs(60);
/// assert_eq!(keyward::clock::unix_time(time).as_secs(), 60);
/// ```
#[must_use]
pub fn unix_time(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_clock_agrees_with_the_standard_library() {
        let here = SystemClock.unix();
        let there = unix_time(SystemTime::now());
        assert!(there.abs_diff(here) < Duration::from_secs(1));
        assert!(SystemClock.boot() <= SystemClock.boot());
    }
}
