//! Replay protection: remembers handled deliveries.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::future::ready;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use keyward::store::{StoreError, StoreErrorKind, StoreFuture};

/// The number of seconds for which a delivery is kept.
///
/// Its timestamp may be off by 300 seconds either way.
const KEPT_FOR: usize = 601;

/// Remembers the deliveries of one sender, so that none is handled twice.
///
/// A delivery is recorded before its handler runs, in one atomic step with the check whether it is
/// known. If the handler does not answer 2xx, it is forgotten, so that the sender's next attempt
/// gets through. [`RecentWebhooks`] keeps them in the memory of one process; several processes
/// behind one address need shared storage, such as a table with a unique key:
///
/// ```
/// use std::time::SystemTime;
/// use keyward::store::StoreFuture;
/// use keyward_webhooks::receive::{ReplayMemory, ReplayStatus, WebhookAttempt};
/// # #[derive(Debug)] struct Pool;
/// # impl Pool {
/// #     async fn insert_or_get(&self, _: &str, _: Option<SystemTime>, _: SystemTime) -> Result<Option<(bool, Option<SystemTime>)>, keyward::store::StoreError> { Ok(None) }
/// #     fn spawn(&self, _: &'static str, _: &str) {}
/// # }
///
/// #[derive(Debug)]
/// struct Table(Pool);
///
/// impl ReplayMemory for Table {
///     fn begin<'a>(
///         &'a self,
///         attempt: &'a WebhookAttempt,
///         _now: SystemTime,
///         until: SystemTime,
///     ) -> StoreFuture<'a, ReplayStatus> {
///         Box::pin(async move {
///             // insert … on conflict (key) do update … where until <= now, else select
///             let row = self.0.insert_or_get(attempt.key(), attempt.timestamp(), until).await?;
///             Ok(match row {
///                 None => ReplayStatus::New,
///                 Some((true, at)) => ReplayStatus::Handled(at),
///                 Some((false, _)) => ReplayStatus::InProgress,
///             })
///         })
///     }
///
///     fn conclude(&self, attempt: &WebhookAttempt, handled: bool) {
///         let statement = if handled { "update … set handled" } else { "delete …" };
///         self.0.spawn(statement, attempt.key());
///     }
/// }
/// # let table = Table(Pool);
/// # let attempt = WebhookAttempt::new("msg_1", None);
/// # let now = SystemTime::now();
/// # assert_eq!(keyward::testing::block_on(table.begin(&attempt, now, now))?, ReplayStatus::New);
/// # table.conclude(&attempt, true);
/// # Ok::<(), keyward::store::StoreError>(())
/// ```
pub trait ReplayMemory: fmt::Debug + Send + Sync + 'static {
    /// Records a delivery until a time, unless it is already recorded; atomically.
    ///
    /// # Errors
    /// Returns an error if the memory cannot tell. The delivery is then refused with 503, and the
    /// sender retries.
    fn begin<'a>(
        &'a self,
        attempt: &'a WebhookAttempt,
        now: SystemTime,
        until: SystemTime,
    ) -> StoreFuture<'a, ReplayStatus>;

    /// Marks a recorded delivery as handled, or forgets it.
    ///
    /// It must not block: it is called when a response is ready or a request is dropped. If the
    /// call is lost, the delivery counts as being handled until its record expires.
    fn conclude(&self, attempt: &WebhookAttempt, handled: bool);
}

/// An attempt to deliver a message. See [`ReplayMemory`].
///
/// ```
/// let attempt = keyward_webhooks::receive::WebhookAttempt::new("msg_1", None);
/// assert_eq!((attempt.key(), attempt.timestamp()), ("msg_1", None));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookAttempt {
    key: Box<str>,
    timestamp: Option<SystemTime>,
}

impl WebhookAttempt {
    /// Creates an attempt, for tests of a replay memory.
    #[must_use]
    pub fn new(key: &str, timestamp: Option<SystemTime>) -> Self {
        let key = key.into();
        Self { key, timestamp }
    }

    /// Returns the key that identifies the message: at most 128 visible ASCII characters.
    ///
    /// It is the message id if that is signed, which is the same in every attempt; otherwise the
    /// signature.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Returns the time at which the attempt was signed.
    #[must_use]
    pub fn timestamp(&self) -> Option<SystemTime> {
        self.timestamp
    }
}

/// The state of a delivery in a replay memory. See [`ReplayMemory`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "there is no fourth answer")]
pub enum ReplayStatus {
    /// The delivery was unknown and is now recorded.
    New,
    /// The delivery is being handled.
    InProgress,
    /// The delivery has been handled, in an attempt signed at this time.
    Handled(Option<SystemTime>),
}

/// A bounded replay memory in this process, for 100,000 deliveries by default.
///
/// A delivery is kept for ten minutes, so 100,000 are enough for a sustained rate of 166 deliveries
/// a second. For more, size it by the rate: [`per_second`](Self::per_second). An entry takes some
/// 200 bytes, which is 120 kB for each delivery a second.
///
/// A full memory refuses new deliveries with 503, rather than forget one that could still be
/// replayed; the sender retries. A warning is logged once when it is four fifths full and once when
/// it is full, and again after it was less than half full. Only signed deliveries are recorded, so
/// other clients cannot fill it.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use keyward_webhooks::receive::{RecentWebhooks, ReplayMemory, ReplayStatus, WebhookAttempt};
/// # use keyward::testing::block_on;
///
/// let memory = RecentWebhooks::new(1);
/// let (now, message) = (SystemTime::now(), WebhookAttempt::new("msg_1", None));
/// let until = now + Duration::from_secs(600);
/// assert_eq!(block_on(memory.begin(&message, now, until))?, ReplayStatus::New);
/// assert_eq!(block_on(memory.begin(&message, now, until))?, ReplayStatus::InProgress);
/// memory.conclude(&message, true);
/// assert_eq!(block_on(memory.begin(&message, now, until))?, ReplayStatus::Handled(None));
///
/// let other = WebhookAttempt::new("msg_2", None);
/// assert!(block_on(memory.begin(&other, now, until)).is_err()); // full
/// assert_eq!(block_on(memory.begin(&other, until, until))?, ReplayStatus::New);
/// # Ok::<(), keyward::store::StoreError>(())
/// ```
#[derive(Debug)]
pub struct RecentWebhooks {
    capacity: usize,
    noted: Mutex<Noted>,
}

#[derive(Default)]
struct Noted {
    /// The fill level that was last logged, in fifths.
    logged: usize,
    by_key: HashMap<Arc<str>, Note>,
    by_end: BTreeSet<(SystemTime, Arc<str>)>,
}

struct Note {
    until: SystemTime,
    timestamp: Option<SystemTime>,
    handled: bool,
}

impl RecentWebhooks {
    /// Creates a memory for at most this many deliveries.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let noted = Mutex::default();
        Self { capacity, noted }
    }

    /// Creates a memory for a sustained rate of deliveries per second.
    ///
    /// ```
    /// use keyward_webhooks::receive::RecentWebhooks;
    ///
    /// let memory = RecentWebhooks::per_second(1_000); // 120 MB when it is full
    /// assert_eq!(memory.capacity(), 601_000);
    /// ```
    #[must_use]
    pub fn per_second(rate: u32) -> Self {
        let rate = usize::try_from(rate).unwrap_or(usize::MAX);
        Self::new(rate.saturating_mul(KEPT_FOR))
    }

    /// Returns the maximum number of deliveries.
    ///
    /// ```
    /// assert_eq!(keyward_webhooks::receive::RecentWebhooks::default().capacity(), 100_000);
    /// ```
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    fn note(
        &self,
        attempt: &WebhookAttempt,
        now: SystemTime,
        until: SystemTime,
    ) -> Result<ReplayStatus, StoreError> {
        let mut noted = self.lock();
        noted.forget_before(now);
        if let Some(note) = noted.by_key.get(&*attempt.key) {
            return Ok(if note.handled {
                ReplayStatus::Handled(note.timestamp)
            } else {
                ReplayStatus::InProgress
            });
        }
        noted.log_level(self.capacity);
        if noted.by_key.len() >= self.capacity {
            return Err(StoreError::new(StoreErrorKind::Unavailable));
        }
        let key: Arc<str> = attempt.key().into();
        noted.by_end.insert((until, Arc::clone(&key)));
        let note = Note {
            until,
            timestamp: attempt.timestamp,
            handled: false,
        };
        noted.by_key.insert(key, note);
        Ok(ReplayStatus::New)
    }

    fn lock(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for RecentWebhooks {
    fn default() -> Self {
        Self::new(100_000)
    }
}

impl ReplayMemory for RecentWebhooks {
    fn begin<'a>(
        &'a self,
        attempt: &'a WebhookAttempt,
        now: SystemTime,
        until: SystemTime,
    ) -> StoreFuture<'a, ReplayStatus> {
        Box::pin(ready(self.note(attempt, now, until)))
    }

    fn conclude(&self, attempt: &WebhookAttempt, handled: bool) {
        let mut noted = self.lock();
        if handled {
            if let Some(note) = noted.by_key.get_mut(&*attempt.key) {
                note.handled = true;
            }
        } else if let Some((key, note)) = noted.by_key.remove_entry(&*attempt.key) {
            noted.by_end.remove(&(note.until, key));
        }
    }
}

impl Noted {
    /// Logs once that the memory is nearly full, and once that it is full.
    fn log_level(&mut self, capacity: usize) {
        let len = self.by_key.len();
        let fifths = if len >= capacity {
            5
        } else if len >= capacity - capacity / 5 {
            4
        } else {
            if len < capacity / 2 {
                self.logged = 0;
            }
            return;
        };
        if fifths <= self.logged {
            return;
        }
        self.logged = fifths;
        if fifths == 5 {
            tracing::error!(
                capacity,
                "the replay memory is full, so new webhooks are refused with 503: \
                 size it with RecentWebhooks::per_second"
            );
        } else {
            tracing::warn!(
                capacity,
                len,
                "the replay memory is nearly full: size it with RecentWebhooks::per_second"
            );
        }
    }

    fn forget_before(&mut self, now: SystemTime) {
        while self.by_end.first().is_some_and(|(until, _)| *until <= now) {
            if let Some((_, key)) = self.by_end.pop_first() {
                self.by_key.remove(&key);
            }
        }
    }
}

impl fmt::Debug for Noted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Noted")
            .field("len", &self.by_key.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn attempt(key: &str) -> WebhookAttempt {
        WebhookAttempt::new(key, None)
    }

    #[test]
    fn an_unhandled_delivery_may_be_sent_again() {
        let memory = RecentWebhooks::default();
        for _ in 0..2 {
            let begun = memory.note(&attempt("a"), at(0), at(600)).unwrap();
            assert_eq!(begun, ReplayStatus::New);
            memory.conclude(&attempt("a"), false);
        }
        assert!(memory.lock().by_key.is_empty());
        assert!(memory.lock().by_end.is_empty());
    }

    #[test]
    fn a_full_memory_forgets_nothing_that_could_be_replayed() {
        let memory = RecentWebhooks::new(2);
        for (key, until) in [("a", 600), ("b", 601)] {
            assert!(memory.note(&attempt(key), at(0), at(until)).is_ok());
        }
        assert!(memory.note(&attempt("c"), at(599), at(1200)).is_err());
        let known = memory.note(&attempt("a"), at(599), at(1200)).unwrap();
        assert_eq!(known, ReplayStatus::InProgress);
        let begun = memory.note(&attempt("c"), at(600), at(1200)).unwrap();
        assert_eq!(begun, ReplayStatus::New);
        assert_eq!(memory.lock().by_key.len(), 2);
        assert_eq!(memory.lock().by_end.len(), 2);
    }

    #[test]
    fn logs_once_before_it_is_full_and_again_after_it_was_half_empty() {
        let memory = RecentWebhooks::new(10);
        let logged = || memory.lock().logged;
        let note = |from: u64, count: u64, now, until| {
            for key in from..from + count {
                drop(memory.note(&attempt(&key.to_string()), at(now), at(until)));
            }
        };
        note(0, 8, 0, 600);
        assert_eq!(logged(), 0);
        note(8, 1, 0, 600);
        assert_eq!(logged(), 4, "nearly");
        note(9, 2, 0, 600);
        assert_eq!(logged(), 5, "full: the last was refused");
        note(20, 1, 600, 1200);
        assert_eq!(logged(), 0, "all have gone");
        note(21, 9, 600, 1200);
        assert_eq!(logged(), 4);
    }

    #[test]
    fn concluding_a_forgotten_delivery_does_not_affect_its_successor() {
        let memory = RecentWebhooks::default();
        memory.note(&attempt("a"), at(0), at(600)).unwrap();
        memory.conclude(&attempt("a"), false);
        memory.note(&attempt("a"), at(100), at(700)).unwrap();
        let known = memory.note(&attempt("a"), at(600), at(1200)).unwrap();
        assert_eq!(known, ReplayStatus::InProgress);
    }
}
