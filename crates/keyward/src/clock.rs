//! The clocks that decisions use, and a manual clock for tests.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

/// A source of time for the gate.
///
/// Both clocks are read on every request, so an implementation must not lock or allocate. See
/// [`ManualClock`] for tests.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Returns the time since the Unix epoch, for expiry and last use. It may jump in both
    /// directions.
    fn unix(&self) -> Duration;

    /// Returns the time since an arbitrary start, for the age of the replica.
    ///
    /// It never jumps and continues while the machine sleeps.
    fn boot(&self) -> Duration;
}

/// The clocks of the operating system.
///
/// On Linux, they are `CLOCK_REALTIME_COARSE` (a resolution of a few milliseconds) and
/// `CLOCK_BOOTTIME`. Elsewhere they are [`SystemTime`] and the monotonic clock, which may stop
/// while the machine sleeps.
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

/// A manual clock for tests, which moves only when advanced.
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
    /// Creates a clock that shows this time since the Unix epoch, one second after boot.
    #[must_use]
    pub fn at(unix: Duration) -> Self {
        let boot = Duration::from_secs(1);
        Self(Mutex::new(Reading { unix, boot }))
    }

    /// Advances both clocks.
    pub fn advance(&self, by: Duration) {
        let mut now = self.lock();
        now.unix += by;
        now.boot += by;
    }

    /// Sets the time of day, as an administrator might, without advancing the boot clock.
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
