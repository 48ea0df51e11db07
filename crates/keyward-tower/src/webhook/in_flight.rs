//! The attempts in progress.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use futures_util::stream::{FuturesUnordered, Stream};
use keyward_webhooks::send::{CircuitState, DeliveryAttempt, EndpointHealth, EndpointId};
use keyward_webhooks::store::{DeliveryClaim, ProvenEndpoints};

/// The outcome of an attempt, and the time at which it ended.
pub(crate) type Ended = (DeliveryAttempt, SystemTime);

type Attempt = Pin<Box<dyn Future<Output = (u64, Ended)> + Send>>;

/// The attempts in progress, and the health of their endpoints.
///
/// There are two lanes. The first holds attempts to endpoints that have responded, a few for each. The second
/// holds one attempt for each other endpoint, and attempts that have been in progress for long. Endpoints that
/// hang therefore take no capacity from those that respond. The second lane has a quarter more, for probes of
/// open circuits.
pub(crate) struct InFlight {
    attempts: FuturesUnordered<Attempt>,
    proven: BTreeMap<u64, (EndpointId, SystemTime)>,
    /// The attempts in the second lane, each with a flag for probes.
    others: BTreeMap<u64, (EndpointId, bool)>,
    begun: u64,
    /// The number of attempts in progress for each endpoint.
    busy: BTreeMap<EndpointId, usize>,
    pub(crate) health: EndpointHealth,
    /// Set when an attempt has ended since [`claim`](Self::claim), which makes its endpoint
    /// available.
    ended: bool,
}

impl InFlight {
    pub(crate) fn new(timeout: Duration) -> Self {
        Self {
            attempts: FuturesUnordered::new(),
            proven: BTreeMap::new(),
            others: BTreeMap::new(),
            begun: 0,
            busy: BTreeMap::new(),
            health: EndpointHealth::new(timeout),
            ended: false,
        }
    }

    pub(crate) fn begin(
        &mut self,
        endpoint: EndpointId,
        now: SystemTime,
        attempt: impl Future<Output = Ended> + Send + 'static,
    ) {
        self.begun += 1;
        let number = self.begun;
        *self.busy.entry(endpoint).or_default() += 1;
        if self.health.is_proven(endpoint) {
            self.proven.insert(number, (endpoint, now));
        } else {
            let is_probe = self.health.state(endpoint, now) == CircuitState::HalfOpen;
            self.others.insert(number, (endpoint, is_probe));
        }
        self.attempts
            .push(Box::pin(async move { (number, attempt.await) }));
    }

    /// Returns whether nothing is in progress, and nothing was at the last claim.
    pub(crate) fn is_done(&self) -> bool {
        self.attempts.is_empty() && !self.ended
    }

    /// Returns a claim for the free capacity, given limits per lane and endpoint.
    pub(crate) fn claim(
        &mut self,
        (now, until): (SystemTime, SystemTime),
        all: usize,
        each: usize,
    ) -> Option<DeliveryClaim> {
        self.ended = false;
        // They are in the order in which they have begun.
        while let Some((number, (endpoint, began))) = self.proven.first_key_value()
            && now
                .duration_since(*began)
                .is_ok_and(|age| age > self.health.slow())
        {
            let (number, endpoint) = (*number, *endpoint);
            self.proven.remove(&number);
            self.others.insert(number, (endpoint, false));
            self.health.is_slow(endpoint);
        }
        // A quarter more, for probes alone: they take no place from endpoints that are new.
        let probes = (all / 4).max(1);
        let limit = all.saturating_sub(self.proven.len());
        let others = all.saturating_add(probes).saturating_sub(self.others.len());
        if limit == 0 && others == 0 {
            return None;
        }
        let mut busy: Vec<_> = self.busy.keys().copied().collect();
        if others > 0 {
            let probing = self.others.values().filter(|(_, is_probe)| *is_probe);
            let probes = probes.saturating_sub(probing.count());
            let under_way = &self.busy;
            let is_busy = |id| under_way.contains_key(&id);
            busy.extend(self.health.resting(now, probes, is_busy));
        }
        let endpoints = self.health.proven();
        Some(DeliveryClaim {
            now,
            until,
            limit,
            each,
            busy,
            proven: Some(ProvenEndpoints { endpoints, others }),
        })
    }

    /// Waits for another future while the attempts make progress.
    pub(crate) async fn beside<T>(&mut self, other: impl Future<Output = T>) -> T {
        let mut other = pin!(other);
        poll_fn(|context| {
            self.poll(context);
            other.as_mut().poll(context)
        })
        .await
    }

    /// Waits until an attempt has ended, or for another future.
    pub(crate) async fn one_or(&mut self, other: impl Future) {
        let mut other = pin!(other);
        poll_fn(|context| {
            self.poll(context);
            match other.as_mut().poll(context) {
                Poll::Pending if !self.ended => Poll::Pending,
                _ => Poll::Ready(()),
            }
        })
        .await;
    }

    fn poll(&mut self, context: &mut Context<'_>) {
        while let Poll::Ready(Some((number, (attempt, ended)))) =
            Pin::new(&mut self.attempts).poll_next(context)
        {
            self.proven.remove(&number);
            self.others.remove(&number);
            if let Some(count) = self.busy.get_mut(&attempt.endpoint) {
                *count -= 1;
                if *count == 0 {
                    self.busy.remove(&attempt.endpoint);
                }
            }
            self.health.learn(&attempt, ended);
            self.ended = true;
        }
    }
}
