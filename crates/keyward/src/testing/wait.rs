//! Futures and pending decisions, without a runtime.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use crate::gate::{Decision, Verdict};

/// Runs a future to completion on this thread.
///
/// ```
/// assert_eq!(keyward::testing::block_on(async { 1 + 1 }), 2);
/// ```
pub fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

/// Waits on this thread for the verdict of a gate, for as long as the gate may wait.
///
/// ```
/// use std::sync::Arc;
/// use keyward::gate::Verdict;
/// use keyward::testing::{TestRequest, World, decided};
///
/// let world = World::new();
/// let request = TestRequest::get().key(&world.key("kyc"));
/// let decision = world.gate().check(&request, &Arc::default(), None);
/// assert!(matches!(decided(decision), Verdict::Admit(_)));
/// ```
pub fn decided(decision: Decision) -> Verdict {
    match decision {
        Decision::Ready(verdict) => verdict,
        Decision::Pending(pending) => block_on(pending.with_timer(sleep)),
    }
}

/// A timer that needs no runtime: a thread that ends when the timer is dropped.
fn sleep(wait: Duration) -> impl Future<Output = ()> + Send {
    let (alive, dropped) = mpsc::channel::<()>();
    let over: Arc<Mutex<(bool, Option<Waker>)>> = Arc::default();
    let state = Arc::clone(&over);
    thread::spawn(move || {
        if dropped.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            state.0 = true;
            state.1.take().into_iter().for_each(Waker::wake);
        }
    });
    poll_fn(move |context| {
        let _alive = &alive;
        let mut state = over.lock().unwrap_or_else(PoisonError::into_inner);
        state.1 = Some(context.waker().clone());
        if state.0 {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
}
