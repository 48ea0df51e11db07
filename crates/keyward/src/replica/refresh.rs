//! Requests that wait until the replica is fresh enough.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::replica::Replica;
use crate::replica::freshness::Moment;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, MutexGuard};

/// The maximum number of waiting requests. Each takes memory, which an outage must not exhaust.
pub(crate) const MOST_WAITING: usize = 10_000;

/// The state that all waiting requests share.
#[derive(Default)]
pub(crate) struct Refresh {
    /// True if a poll was requested and has not begun.
    wanted: AtomicBool,
    /// True if the last poll failed.
    failing: AtomicBool,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    next: u64,
    /// One entry per request; `None` until its future is polled.
    wakers: HashMap<u64, Option<Waker>>,
}

impl Refresh {
    /// Records the start of a poll, which serves all requests made until now. Must be called before
    /// the poll reads the clock.
    pub(crate) fn begin(&self) {
        self.wanted.swap(false, Ordering::AcqRel);
    }

    /// Records that a poll was applied.
    pub(crate) fn succeed(&self) {
        self.failing.store(false, Ordering::Release);
        self.wake_all();
    }

    /// Records that a poll failed. No request waits until one succeeds.
    pub(crate) fn fail(&self) {
        self.failing.store(true, Ordering::Release);
        self.wake_all();
    }

    /// Wakes all waiting requests, to check again.
    pub(crate) fn wake_all(&self) {
        let wakers: Vec<_> = {
            let mut waiting = self.waiting();
            let wakers = waiting.wakers.values_mut();
            wakers.filter_map(Option::take).collect()
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Acquire)
    }

    /// Reserves a place for a waiting request, if one is free.
    fn enter(&self) -> Option<u64> {
        let mut waiting = self.waiting();
        if waiting.wakers.len() >= MOST_WAITING {
            return None;
        }
        let id = waiting.next;
        waiting.next += 1;
        waiting.wakers.insert(id, None);
        Some(id)
    }

    fn register(&self, id: u64, waker: &Waker) {
        self.waiting().wakers.insert(id, Some(waker.clone()));
    }

    fn leave(&self, id: u64) {
        self.waiting().wakers.remove(&id);
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Replica {
    /// Waits until the replica is at most this old; with zero, waits for a poll that begins later.
    ///
    /// Returns `None` if waiting is pointless: the last poll failed, no poll will come, or too many
    /// requests wait already.
    pub(crate) fn refreshed(&self, max_staleness: Duration) -> Option<Refreshed> {
        let asked = Moment::now(&*self.inner.clock);
        let refresh = &self.inner.refresh;
        if refresh.is_failing() {
            return None;
        }
        let refreshed = Refreshed {
            id: refresh.enter()?,
            replica: self.clone(),
            max_staleness,
            asked,
            over: Arc::new(AtomicBool::new(false)),
            is_registered: false,
        };
        // After `asked` was read, so that the poll that this triggers is newer.
        self.want_poll().then_some(refreshed)
    }

    /// Returns whether requests wait for a poll that has not begun.
    ///
    /// A store whose polls cost more than a read of its memory asks this when it is
    /// [triggered](Self::on_demand), as it may have been triggered for credits alone.
    ///
    /// ```
    /// assert!(!keyward::replica::Replica::new().wants_poll());
    /// ```
    #[must_use]
    pub fn wants_poll(&self) -> bool {
        self.inner.refresh.wanted.load(Ordering::Acquire)
    }

    /// Triggers the next poll, once for all requests; `false` if none will come.
    fn want_poll(&self) -> bool {
        let wanted = &self.inner.refresh.wanted;
        if wanted.swap(true, Ordering::AcqRel) {
            return true;
        }
        let will_come = self.nudge();
        if !will_come {
            wanted.store(false, Ordering::Release);
        }
        will_come
    }
}

/// A future that resolves to whether the replica is fresh enough: `false` after a failure of the
/// store or a timeout.
pub(crate) struct Refreshed {
    id: u64,
    replica: Replica,
    max_staleness: Duration,
    asked: Moment,
    over: Arc<AtomicBool>,
    is_registered: bool,
}

impl Refreshed {
    /// Returns the flag that a timer sets when the time is over.
    pub(crate) fn over(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.over)
    }

    fn is_fresh(&self) -> bool {
        let inner = &self.replica.inner;
        let fresh_as_of = inner.freshness.get();
        let now = if self.max_staleness.is_zero() {
            self.asked
        } else {
            Moment::now(&*inner.clock)
        };
        !fresh_as_of.is_older_than(self.max_staleness, now)
    }
}

impl Future for Refreshed {
    type Output = bool;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<bool> {
        let refresh = &self.replica.inner.refresh;
        // Register before checking, so that a poll that ends in between still wakes this task.
        refresh.register(self.id, context.waker());
        if self.is_fresh() {
            return Poll::Ready(true);
        }
        if refresh.is_failing() || self.over.load(Ordering::Acquire) {
            return Poll::Ready(false);
        }
        // The poll that woke this task began too early.
        if self.is_registered && !self.replica.want_poll() {
            return Poll::Ready(false);
        }
        self.is_registered = true;
        Poll::Pending
    }
}

impl Drop for Refreshed {
    fn drop(&mut self) {
        self.replica.inner.refresh.leave(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::Revision;

    #[test]
    fn a_request_that_stops_waiting_leaves_nothing_behind() {
        let replica = Replica::new();
        replica.on_demand(|_| true);
        let context = &mut Context::from_waker(Waker::noop());
        for _ in 0..100 {
            let mut refreshed = replica.refreshed(Duration::ZERO).unwrap();
            for _ in 0..3 {
                assert!(Pin::new(&mut refreshed).poll(context).is_pending());
            }
        }
        assert!(replica.inner.refresh.waiting().wakers.is_empty());
    }

    #[test]
    fn a_failed_poll_ends_every_wait_until_one_succeeds() {
        let replica = Replica::new();
        replica.on_demand(|_| true);
        let context = &mut Context::from_waker(Waker::noop());
        let mut waits = replica.refreshed(Duration::from_secs(1)).unwrap();
        assert!(Pin::new(&mut waits).poll(context).is_pending());
        assert!(replica.wants_poll());
        drop(replica.poll());
        assert!(!replica.wants_poll());
        assert_eq!(Pin::new(&mut waits).poll(context), Poll::Ready(false));
        assert!(replica.refreshed(Duration::from_secs(1)).is_none());

        let first = Revision {
            number: 1,
            nonce: 0,
        };
        replica.poll().finish(first).unwrap();
        let mut waits = replica.refreshed(Duration::from_secs(1)).unwrap();
        assert_eq!(Pin::new(&mut waits).poll(context), Poll::Ready(true));
    }
}

#[cfg(all(test, keyward_loom))]
mod every_order {
    use loom::future::block_on;
    use loom::thread;

    use super::*;
    use crate::clock::ManualClock;
    use crate::replica::Revision;

    /// A replica that is an hour old and polls in the thread that requests it.
    fn stale(poll: impl Fn(&Replica, u64) -> bool + Send + Sync + 'static) -> Replica {
        let clock = Arc::new(ManualClock::at(Duration::from_secs(1)));
        let replica = Replica::with(Arc::<ManualClock>::clone(&clock), 1);
        let number = std::sync::atomic::AtomicU64::new(1);
        replica.on_demand(move |replica| poll(replica, number.fetch_add(1, Ordering::Relaxed)));
        clock.advance(Duration::from_secs(3600));
        replica
    }

    fn finish(replica: &Replica, number: u64) -> bool {
        // The other thread's poll may have overtaken this one.
        _ = replica.poll().finish(Revision { number, nonce: 0 });
        true
    }

    fn wait(replica: &Replica, max_staleness: Duration) -> Option<bool> {
        replica.refreshed(max_staleness).map(block_on)
    }

    #[test]
    fn a_poll_wakes_every_waiting_request() {
        for max_staleness in [Duration::ZERO, Duration::from_secs(1)] {
            loom::model(move || {
                let replica = stale(finish);
                let other = replica.clone();
                let other = thread::spawn(move || wait(&other, max_staleness));
                assert_eq!(wait(&replica, max_staleness), Some(true));
                assert_eq!(other.join().unwrap(), Some(true));
                assert!(replica.inner.refresh.waiting().wakers.is_empty());
            });
        }
    }

    #[test]
    fn a_failed_poll_wakes_every_waiting_request() {
        loom::model(|| {
            let replica = stale(|replica, _| {
                drop(replica.poll());
                true
            });
            let other = replica.clone();
            let other = thread::spawn(move || wait(&other, Duration::from_secs(1)));
            assert_ne!(wait(&replica, Duration::from_secs(1)), Some(true));
            assert_ne!(other.join().unwrap(), Some(true));
        });
    }

    #[test]
    fn a_timeout_during_a_poll_leaves_no_request_waiting() {
        loom::model(|| {
            // The store promises a poll, which another thread runs, perhaps too late.
            let replica = stale(|_, _| true);
            let refreshed = replica.refreshed(Duration::from_secs(1)).unwrap();
            let over = refreshed.over();
            let feed = {
                let replica = replica.clone();
                thread::spawn(move || finish(&replica, 1))
            };
            // Like `Pending`: set the flag, then check once more.
            let mut refreshed = refreshed;
            let context = &mut Context::from_waker(Waker::noop());
            let mut answer = Pin::new(&mut refreshed).poll(context);
            if answer.is_pending() {
                over.store(true, Ordering::Release);
                answer = Pin::new(&mut refreshed).poll(context);
            }
            assert!(answer.is_ready());
            feed.join().unwrap();
        });
    }
}
