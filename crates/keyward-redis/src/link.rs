//! The connection to Redis, and the circuit breaker around it.

use std::future::poll_fn;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ErrorKind, RedisError, ServerErrorKind};
use tokio::runtime::Handle;
use tokio::time::Sleep;

use crate::script::{Call, Scripts};

/// The first and the longest pause between two attempts to connect.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// The connection, unless Redis does not answer.
///
/// After some failures in a row the connection is closed, and requests do without it. One task then
/// connects anew and runs a script; requests use the new connection once it has answered.
pub(crate) struct Link {
    pub(crate) scripts: Scripts,
    pub(crate) prefix: String,
    settings: LinkSettings,
    client: Client,
    /// The runtime that drives connections and timers, whichever polls a request.
    runtime: Handle,
    /// Empty while the circuit is open.
    live: ArcSwapOption<Live>,
    is_connecting: AtomicBool,
    in_flight: AtomicUsize,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct LinkSettings {
    pub(crate) deadline: Duration,
    pub(crate) connect_timeout: Duration,
    /// The number of failures in a row after which the circuit opens.
    pub(crate) failures: u32,
    pub(crate) in_flight: usize,
}

/// A connection that has answered.
pub(crate) struct Live {
    connection: MultiplexedConnection,
    /// The number of failures since the last answer.
    failures: AtomicU32,
}

impl Link {
    pub(crate) fn new(
        client: Client,
        runtime: Handle,
        scripts: Scripts,
        prefix: String,
        settings: LinkSettings,
    ) -> Self {
        Self {
            scripts,
            prefix,
            settings,
            client,
            runtime,
            live: ArcSwapOption::empty(),
            is_connecting: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
        }
    }

    /// Returns the connection, unless the circuit is open.
    pub(crate) fn live(self: &Arc<Self>) -> Option<Arc<Live>> {
        let live = self.live.load_full();
        if live.is_none() && !self.is_connecting.load(Ordering::Acquire) {
            // The task that should connect has ended early.
            self.connect_in_background();
        }
        live
    }

    pub(crate) fn is_live(&self) -> bool {
        self.live.load().is_some()
    }

    /// Reserves one of the places for requests that wait for Redis.
    pub(crate) fn place(self: &Arc<Self>) -> Option<Place> {
        let place = Place(Arc::clone(self));
        let taken = self.in_flight.fetch_add(1, Ordering::AcqRel);
        (taken < self.settings.in_flight).then_some(place)
    }

    /// Runs a script, within the deadline.
    pub(crate) async fn run(
        self: &Arc<Self>,
        live: &Arc<Live>,
        call: &Call,
    ) -> Result<Vec<u64>, RedisError> {
        let outcome = self
            .within(self.settings.deadline, live.run(call, &self.scripts))
            .await;
        match &outcome {
            Ok(_) if live.failures.load(Ordering::Relaxed) > 0 => {
                live.failures.store(0, Ordering::Relaxed);
            }
            Ok(_) => {}
            Err(error) => {
                let failures = live
                    .failures
                    .fetch_add(1, Ordering::Relaxed)
                    .saturating_add(1);
                if failures >= self.settings.failures || error.is_unrecoverable_error() {
                    self.open_circuit(live, error);
                }
            }
        }
        outcome
    }

    /// Closes a connection, unless another caller has.
    fn open_circuit(self: &Arc<Self>, live: &Arc<Live>, error: &RedisError) {
        let old = self.live.compare_and_swap(live, None);
        if old.as_ref().is_some_and(|old| Arc::ptr_eq(old, live)) {
            let error: &dyn std::error::Error = error;
            tracing::error!(
                error,
                "Redis does not answer, rate limits are decided without it"
            );
            self.connect_in_background();
        }
    }

    /// Starts the task that connects, unless it runs.
    pub(crate) fn connect_in_background(self: &Arc<Self>) {
        if !self.is_connecting.swap(true, Ordering::AcqRel) {
            self.runtime
                .spawn(connect(Connecting(Arc::downgrade(self))));
        }
    }

    /// Connects and runs the scripts, which also tells whether this user may and there is memory.
    pub(crate) async fn connect(self: &Arc<Self>) -> Result<(), RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.settings.connect_timeout))
            // The deadline is kept by our own timer, which needs no runtime of the caller.
            .set_response_timeout(None)
            .set_pipeline_buffer_size(self.settings.in_flight);
        let connecting = self
            .client
            .get_multiplexed_async_connection_with_config(&config);
        let live = Live {
            connection: connecting.await?,
            failures: AtomicU32::new(0),
        };
        // Both scripts are loaded, so that a refund is in order with the request after it.
        for probe in Call::probes(&self.prefix) {
            let probe = probe.at(Some(Duration::ZERO));
            let probing = live.run(&probe, &self.scripts);
            self.within(self.settings.connect_timeout, probing).await?;
        }
        self.is_connecting.store(false, Ordering::Release);
        self.live.store(Some(Arc::new(live)));
        Ok(())
    }

    /// Polls a future until the deadline.
    async fn within<T>(
        &self,
        deadline: Duration,
        future: impl Future<Output = Result<T, RedisError>>,
    ) -> Result<T, RedisError> {
        let (mut future, mut timer) = (pin!(future), pin!(self.timer(deadline)));
        poll_fn(|context| {
            if let Poll::Ready(outcome) = future.as_mut().poll(context) {
                return Poll::Ready(outcome);
            }
            let is_over = timer.as_mut().poll(context);
            is_over.map(|()| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()))
        })
        .await
    }

    fn timer(&self, deadline: Duration) -> Sleep {
        let _entered = self.runtime.enter();
        tokio::time::sleep(deadline)
    }

    /// Polls a future once on this thread, so that what it sends is in order, and then elsewhere.
    pub(crate) fn start(&self, future: impl Future<Output = ()> + Send + 'static) {
        let mut future = Box::pin(future);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        if future.as_mut().poll(&mut context).is_pending() {
            self.runtime.spawn(future);
        }
    }
}

impl Live {
    async fn run(&self, call: &Call, scripts: &Scripts) -> Result<Vec<u64>, RedisError> {
        let mut connection = self.connection.clone();
        match call.by_hash(scripts).query_async(&mut connection).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                call.in_full(scripts).query_async(&mut connection).await
            }
            outcome => outcome,
        }
    }
}

/// A place among the requests that wait for Redis.
pub(crate) struct Place(Arc<Link>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Connects, again and again, until Redis answers or the limiter is gone.
async fn connect(mut connecting: Connecting) {
    let (mut pause, longest) = PAUSES;
    loop {
        // Processes that lost Redis together do not come back together.
        tokio::time::sleep(pause.mul_f64(0.5 + random() / 2.0)).await;
        let Some(link) = connecting.0.upgrade() else {
            return;
        };
        match link.connect().await {
            Ok(()) => {
                connecting.0 = Weak::new(); // another task may connect by now
                return tracing::info!("Redis answers, rate limits are counted in it");
            }
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::debug!(error, "failed to connect to Redis");
            }
        }
        pause = longest.min(pause * 2);
    }
}

/// The right to connect, which is returned if the task ends without having connected.
struct Connecting(Weak<Link>);

impl Drop for Connecting {
    fn drop(&mut self) {
        if let Some(link) = self.0.upgrade() {
            link.is_connecting.store(false, Ordering::Release);
        }
    }
}

/// Returns a random number of at most one.
fn random() -> f64 {
    let random = RandomState::new().build_hasher().finish();
    f64::from(u32::try_from(random >> 32).unwrap_or_default()) / f64::from(u32::MAX)
}
