//! The attempts that are under way.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use futures_util::stream::{FuturesUnordered, Stream};
use keyward::{
    CircuitState, DeliveryAttempt, DeliveryClaim, EndpointHealth, EndpointId, ProvenEndpoints,
};

/// What came of an attempt, and when it has ended.
pub(crate) type Ended = (DeliveryAttempt, SystemTime);

type Attempt = Pin<Box<dyn Future<Output = (u64, Ended)> + Send>>;

/// The attempts that are under way, and what is known of their endpoints.
///
/// They are in two lanes. In one are those to endpoints that are proven, a few to each; in
/// the other one to each of the rest, and whatever has been under way for long. So endpoints that hang take
/// nothing from those that answer. The other lane has a quarter more, for probes of open circuits.
pub(crate) struct InFlight {
    attempts: FuturesUnordered<Attempt>,
    proven: BTreeMap<u64, (EndpointId, SystemTime)>,
    /// Each with whether it is a probe.
    others: BTreeMap<u64, (EndpointId, bool)>,
    begun: u64,
    /// How many are under way to each.
    busy: BTreeMap<EndpointId, usize>,
    pub(crate) health: EndpointHealth,
    /// Whether one has ended since [`claim`](Self::claim): its endpoint was busy then, and is not now.
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

    /// Whether nothing is under way, and nothing was when it was claimed.
    pub(crate) fn is_done(&self) -> bool {
        self.attempts.is_empty() && !self.ended
    }

    /// What there is room for, of so many in each lane and so many to each endpoint; if for anything.
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

    /// Waits for something else; the attempts go on meanwhile.
    pub(crate) async fn beside<T>(&mut self, other: impl Future<Output = T>) -> T {
        let mut other = pin!(other);
        poll_fn(|context| {
            self.poll(context);
            other.as_mut().poll(context)
        })
        .await
    }

    /// Waits until one has ended, or for this.
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
