//! The retry schedule of failed deliveries.

use std::time::Duration;

use keyward::key::fill_random;

const HOUR: u64 = 3600;

/// The maximum delay, also if a receiver asks for longer.
const LONGEST: Duration = Duration::from_secs(24 * HOUR);

/// The delays after which a failed delivery is retried (exponential backoff).
///
/// ```
/// use std::time::Duration;
/// use keyward_webhooks::send::RetrySchedule;
///
/// let schedule = RetrySchedule::new([Duration::from_secs(5), Duration::from_secs(300)]);
/// let first = schedule.delay(1, None).expect("there are two retries");
/// assert!((5.0..=6.0).contains(&first.as_secs_f64())); // up to a fifth longer
/// assert_eq!(schedule.delay(1, Some(Duration::from_secs(60))), Some(Duration::from_secs(60)));
/// assert_eq!(schedule.delay(3, None), None); // that was the last attempt
/// ```
#[derive(Clone, Debug)]
pub struct RetrySchedule(Vec<Duration>);

impl RetrySchedule {
    /// Creates a schedule that waits for these delays in turn, then gives up. A delay is at most a
    /// day.
    #[must_use]
    pub fn new(delays: impl IntoIterator<Item = Duration>) -> Self {
        let delays = delays.into_iter().map(|delay| delay.min(LONGEST));
        Self(delays.collect())
    }

    /// Returns the delay after this many failures; `None` to give up.
    ///
    /// Up to a fifth is added at random (jitter), so that deliveries that failed together do not
    /// retry together. A receiver may ask for longer, up to a day, but never for shorter.
    #[must_use]
    pub fn delay(&self, failures: u32, asked: Option<Duration>) -> Option<Duration> {
        let place = usize::try_from(failures.checked_sub(1)?).ok()?;
        let delay = *self.0.get(place)?;
        let mut random = [0; 1];
        // Without random bytes there is just no jitter.
        let random = fill_random(&mut random).map_or(0, |()| random[0]);
        let delay = delay + delay.mul_f64(f64::from(random) / 255.0 / 5.0);
        Some(asked.map_or(delay, |asked| delay.max(asked.min(LONGEST))))
    }
}

impl Default for RetrySchedule {
    /// Creates a schedule that retries for three days, as Standard Webhooks suggests.
    ///
    /// The delays are 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 20 h and 24 h.
    fn default() -> Self {
        let hours = [2, 5, 10, 14, 20, 24].map(|hours| hours * HOUR);
        let seconds = [5, 300, 1800].into_iter().chain(hours);
        Self::new(seconds.map(Duration::from_secs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_takes_three_days_and_ends() {
        let schedule = RetrySchedule::default();
        let delays: Vec<_> = (1..)
            .map_while(|failures| schedule.delay(failures, None))
            .collect();
        assert_eq!(delays.len(), 9);
        let sum: Duration = delays.iter().sum();
        let days = sum.as_secs_f64() / 86400.0;
        assert!((3.1..3.9).contains(&days), "{days}");
        assert_eq!(schedule.delay(0, None), None);
        assert_eq!(schedule.delay(u32::MAX, None), None);
    }

    #[test]
    fn delays_are_never_shorter_and_hardly_ever_the_same() {
        let schedule = RetrySchedule::new([Duration::from_secs(100)]);
        let delays: Vec<_> = (0..100).filter_map(|_| schedule.delay(1, None)).collect();
        let in_bounds = |delay: &Duration| (100..=120).contains(&delay.as_secs());
        assert!(delays.iter().all(in_bounds), "{delays:?}");
        assert!(delays.iter().any(|delay| *delay != delays[0]));
    }

    #[test]
    fn a_receiver_may_ask_for_a_longer_delay_up_to_a_day() {
        let schedule = RetrySchedule::new([Duration::from_secs(100)]);
        let after = |asked| schedule.delay(1, Some(Duration::from_secs(asked))).unwrap();
        assert!(after(0) >= Duration::from_secs(100));
        assert_eq!(after(500), Duration::from_secs(500));
        assert_eq!(after(u64::MAX), LONGEST);
    }
}
