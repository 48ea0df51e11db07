//! The attempts that are under way.

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::SystemTime;

use keyward::EndpointId;

/// Ends with the moment until which its endpoint counts as slow, if it does.
type Attempt = Pin<Box<dyn Future<Output = Option<SystemTime>> + Send>>;

/// The attempts that are under way, and to which endpoints. There are few: each is polled.
#[derive(Default)]
pub(crate) struct InFlight {
    attempts: Vec<(EndpointId, Attempt)>,
    slow: HashMap<EndpointId, SystemTime>,
    /// Whether one has ended since [`look`](Self::look): its endpoint was busy then, and is not now.
    ended: bool,
}

impl InFlight {
    pub(crate) fn begin(&mut self, endpoint: EndpointId, attempt: Attempt) {
        self.attempts.push((endpoint, attempt));
    }

    /// Before it is asked what there is room for.
    pub(crate) fn look(&mut self, now: SystemTime) {
        self.ended = false;
        self.slow.retain(|_, until| now < *until);
    }

    /// Whether nothing is under way, and nothing was when it was looked.
    pub(crate) fn is_done(&self) -> bool {
        self.attempts.is_empty() && !self.ended
    }

    /// How many may begin, of so many at once, to endpoints that are not slow; and to which not.
    pub(crate) fn room(&self, all: usize) -> (usize, Vec<EndpointId>) {
        let quick = self.attempts.len() - self.slow();
        let room = (all - self.share(all)).saturating_sub(quick);
        let mut others = self.busy();
        others.extend(self.slow.keys());
        (room.min(self.left(all)), others)
    }

    /// The same for those that are slow: a quarter of all is theirs, and they have no more.
    pub(crate) fn slow_room(&self, all: usize) -> (usize, Vec<EndpointId>) {
        let room = self.share(all).saturating_sub(self.slow());
        (room.min(self.left(all)), self.busy())
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
        let (slow, ended) = (&mut self.slow, &mut self.ended);
        self.attempts.retain_mut(|(endpoint, attempt)| {
            let Poll::Ready(slow_until) = attempt.as_mut().poll(context) else {
                return true;
            };
            slow.extend(slow_until.map(|until| (*endpoint, until)));
            *ended = true;
            false
        });
    }

    fn busy(&self) -> Vec<EndpointId> {
        let endpoints = self.attempts.iter().map(|(endpoint, _)| *endpoint);
        let mut endpoints: Vec<_> = endpoints.collect();
        endpoints.sort_unstable();
        endpoints.dedup();
        endpoints
    }

    /// How many are under way to endpoints that are slow.
    fn slow(&self) -> usize {
        let is_slow = |(endpoint, _): &&(EndpointId, Attempt)| self.slow.contains_key(endpoint);
        self.attempts.iter().filter(is_slow).count()
    }

    fn share(&self, all: usize) -> usize {
        if self.slow.is_empty() {
            0
        } else {
            (all / 4).max(1)
        }
    }

    fn left(&self, all: usize) -> usize {
        all.saturating_sub(self.attempts.len())
    }
}
