//! Decisions that have to wait.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::gate::Verdict;
use crate::sync::atomic::{AtomicBool, Ordering};

/// A decision that has to wait for the store or a limiter.
///
/// It is not a future, because core has no timer: an adapter must supply one to get the verdict. So
/// no request waits without a limit because a timer was forgotten. It owns all it needs, and may be
/// dropped.
///
/// ```
/// use std::time::Duration;
/// # use std::sync::Arc;
/// # use keyward::{Environment, Gate, KeyFormat, KeyScheme};
/// # use keyward::gate::{Decision, Verdict};
/// # use keyward::replica::Replica;
/// # use keyward::testing::{TestRequest, block_on};
/// # let (replica, format) = (Replica::new(), KeyFormat::new("vhk_{env}_")?);
/// # let key = format.generate(Environment::LIVE)?;
/// # let request = TestRequest::get().key(key.expose_secret());
/// // The store is asked to poll, but never does.
/// replica.on_demand(|_| true);
/// let gate = Gate::builder_from_replica(&replica, &KeyScheme::new(format)).build()?;
///
/// let Decision::Pending(pending) = gate.check(&request, &Arc::default(), None) else { panic!() };
/// let verdict = pending.with_timer(|wait| {
///     assert_eq!(wait, Duration::from_millis(500)); // `GateBuilder::refresh_wait`
///     std::future::ready(()) // an adapter returns `tokio::time::sleep(wait)`
/// });
/// let Verdict::Refuse(refusal) = block_on(verdict) else { panic!() };
/// assert_eq!(refusal.reply.status(), 503);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a request waits for it"]
pub struct Pending {
    verdict: Pin<Box<dyn Future<Output = Verdict> + Send>>,
    limit: Option<Limit>,
}

/// The time limit of a wait.
struct Limit {
    wait: Duration,
    /// Set when the time is over; the verdict is then ready.
    over: Arc<AtomicBool>,
}

impl Pending {
    /// Creates a decision that ends by itself.
    pub(crate) fn new(verdict: impl Future<Output = Verdict> + Send + 'static) -> Self {
        Self {
            verdict: Box::pin(verdict),
            limit: None,
        }
    }

    /// Creates a decision that ends after this time at the latest, once `over` is set.
    pub(crate) fn at_most(
        wait: Duration,
        over: Arc<AtomicBool>,
        verdict: impl Future<Output = Verdict> + Send + 'static,
    ) -> Self {
        Self {
            verdict: Box::pin(verdict),
            limit: Some(Limit { wait, over }),
        }
    }

    /// Waits for the verdict.
    ///
    /// `timer` is called if the wait has a limit. The future that it returns must be ready after
    /// the given time; if it is ready earlier, the request is refused earlier: 503
    /// `auth_unavailable`.
    pub fn with_timer<T>(
        self,
        timer: impl FnOnce(Duration) -> T,
    ) -> Pin<Box<dyn Future<Output = Verdict> + Send>>
    where
        T: Future<Output = ()> + Send + 'static,
    {
        let Self { mut verdict, limit } = self;
        let Some(Limit { wait, over }) = limit else {
            return verdict;
        };
        let mut timer = Box::pin(timer(wait));
        Box::pin(poll_fn(move |context| {
            let polled = verdict.as_mut().poll(context);
            let is_over = || over.load(Ordering::Acquire);
            if polled.is_ready() || is_over() || timer.as_mut().poll(context).is_pending() {
                return polled;
            }
            over.store(true, Ordering::Release);
            verdict.as_mut().poll(context)
        }))
    }

    /// Changes the verdict once it is known.
    pub(crate) fn map(self, change: impl FnOnce(Verdict) -> Verdict + Send + 'static) -> Self {
        let Self { verdict, limit } = self;
        let verdict = Box::pin(async move { change(verdict.await) });
        Self { verdict, limit }
    }

    /// Returns the verdict, for a wait without a limit or as part of another wait.
    pub(crate) fn without_timer(self) -> Pin<Box<dyn Future<Output = Verdict> + Send>> {
        self.verdict
    }
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pending(..)")
    }
}
