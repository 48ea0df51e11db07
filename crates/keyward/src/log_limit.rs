//! A rate limit for log lines that clients can cause.

use std::fmt;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The number of lines per minute about one subject.
const LINES: u64 = 10;

const SLOTS: usize = 1024;

/// A rate limiter for log lines: ten per minute about one subject.
///
/// It takes 8 KiB, however many subjects there are.
///
/// ```
/// use std::time::Duration;
/// use keyward::log_limit::{LogLimit, Unlogged};
///
/// let limit = LogLimit::default();
/// let second = Duration::from_secs(1);
/// let admitted = (0..15).filter(|_| limit.admit("key_0123456789ab", second).is_some());
/// assert_eq!(admitted.count(), 10);
/// let next_minute = limit.admit("key_0123456789ab", 61 * second);
/// assert_eq!(next_minute, Some(Unlogged(Some(5))));
/// ```
///
/// A slot holds a minute and the number of lines in it, so that one compare-and-swap changes both.
/// Subjects with the same slot share its lines. The hash has a random secret, so clients cannot
/// choose a slot.
pub struct LogLimit {
    secret: RandomState,
    slots: Box<[AtomicU64]>,
}

impl LogLimit {
    /// Decides whether to log a line about a subject.
    ///
    /// Returns how many lines were suppressed since the last one, or `None` to suppress this line.
    ///
    /// `now` is the time since a start that never jumps, such as
    /// [`Clock::boot`](crate::clock::Clock::boot).
    pub fn admit(&self, about: impl Hash, now: Duration) -> Option<Unlogged> {
        let minute = (now.as_secs() / 60) << 32;
        let place = usize::try_from(self.secret.hash_one(about) % (SLOTS as u64)).ok()?;
        let slot = self.slots.get(place)?;
        let mut seen = slot.load(Ordering::Relaxed);
        loop {
            let lines = seen & u64::from(u32::MAX);
            // Another thread's clock may be ahead.
            let is_over = (seen ^ lines) < minute;
            let (next, admitted) = if is_over {
                let unlogged = lines.saturating_sub(LINES);
                (
                    minute | 1,
                    Some(Unlogged((unlogged > 0).then_some(unlogged))),
                )
            } else if lines < LINES {
                (seen + 1, Some(Unlogged(None)))
            } else {
                (seen + u64::from(lines < u64::from(u32::MAX)), None)
            };
            let order = Ordering::Relaxed;
            match slot.compare_exchange_weak(seen, next, order, order) {
                Ok(_) => return admitted,
                Err(changed) => seen = changed,
            }
        }
    }
}

/// The number of suppressed log lines; `None` if there were none.
///
/// See [`LogLimit::admit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "it is a number, and stays one")]
pub struct Unlogged(pub Option<u64>);

impl fmt::Debug for LogLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogLimit").finish_non_exhaustive()
    }
}

impl Default for LogLimit {
    fn default() -> Self {
        Self {
            secret: RandomState::new(),
            slots: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn logs_ten_lines_a_minute_and_then_the_number_of_suppressed_lines() {
        let limit = LogLimit::default();
        let admitted = |now| {
            let lines = (0..100).filter_map(|_| limit.admit("one", now));
            lines.map(|line| line.0).collect::<Vec<_>>()
        };
        assert_eq!(admitted(at(60)), [None; 10]);
        assert_eq!(admitted(at(119)), []);
        let mut next = vec![Some(190)];
        next.extend([None; 9]);
        assert_eq!(admitted(at(120)), next);
        assert_eq!(admitted(at(119)), [], "a clock that is behind");
        assert_eq!(admitted(at(3600)).first(), Some(&Some(190)));
    }

    #[test]
    fn many_subjects_cause_a_bounded_number_of_lines() {
        let limit = LogLimit::default();
        let lines = (0..1_000_000_u64).filter_map(|about| limit.admit(about, at(60)));
        assert_eq!(lines.count(), SLOTS * 10);
        assert!(limit.admit("another", at(120)).is_some());
    }

    #[test]
    fn concurrent_threads_log_no_more_lines() {
        let limit = LogLimit::default();
        let logged: usize = thread::scope(|threads| {
            let log = || (0..1000).filter_map(|_| limit.admit("one", at(60))).count();
            let all: Vec<_> = (0..8).map(|_| threads.spawn(log)).collect();
            all.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(logged, 10);
        assert_eq!(limit.admit("one", at(120)).unwrap().0, Some(7990));
    }
}
