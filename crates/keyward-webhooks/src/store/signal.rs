//! Wakes senders when a delivery becomes due.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker};

use std::sync::{Mutex, MutexGuard};

/// Wakes the senders of this process when a delivery becomes due.
///
/// A store raises it after accepting a message; see
/// [`WebhookStore::outbox_signal`](crate::store::WebhookStore::outbox_signal).
///
/// ```
/// use keyward_webhooks::store::OutboxSignal;
/// # use std::task::{Context, Poll, Waker};
/// # let mut context = Context::from_waker(Waker::noop());
///
/// let signal = OutboxSignal::default();
/// let mut news = signal.wait();
/// # let mut news = std::pin::pin!(news);
/// assert!(news.as_mut().poll(&mut context).is_pending());
/// signal.raise();
/// assert!(news.as_mut().poll(&mut context).is_ready());
/// ```
#[derive(Clone, Default)]
pub struct OutboxSignal(Arc<Mutex<Waiting>>);

#[derive(Default)]
struct Waiting {
    raised: u64,
    /// The wakers, each with a number of its own.
    wakers: Vec<(u64, Waker)>,
    numbered: u64,
}

impl OutboxSignal {
    /// Wakes all waiting senders.
    pub fn raise(&self) {
        let woken = {
            let mut waiting = self.lock();
            waiting.raised = waiting.raised.wrapping_add(1);
            std::mem::take(&mut waiting.wakers)
        };
        for (_, waker) in woken {
            waker.wake();
        }
    }

    /// Waits until it is raised after this call.
    pub fn wait(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut waiting = self.lock();
        waiting.numbered += 1;
        Raised {
            seen: waiting.raised,
            number: waiting.numbered,
            signal: self.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Raised {
    signal: OutboxSignal,
    seen: u64,
    number: u64,
}

impl Future for Raised {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut waiting = self.signal.lock();
        if waiting.raised != self.seen {
            return Poll::Ready(());
        }
        let mut own = waiting.wakers.iter_mut();
        if let Some((_, waker)) = own.find(|(number, _)| *number == self.number) {
            waker.clone_from(context.waker());
        } else {
            let own = (self.number, context.waker().clone());
            waiting.wakers.push(own);
        }
        Poll::Pending
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        let mut waiting = self.signal.lock();
        waiting.wakers.retain(|(number, _)| *number != self.number);
    }
}

impl fmt::Debug for OutboxSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutboxSignal").finish_non_exhaustive()
    }
}
