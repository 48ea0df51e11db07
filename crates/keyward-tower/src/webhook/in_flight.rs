//! The attempts that are under way.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use keyward::EndpointId;

type Attempt = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The attempts that are under way, and to which endpoints. There are few: each is polled.
#[derive(Default)]
pub(crate) struct InFlight(Vec<(EndpointId, Attempt)>);

impl InFlight {
    pub(crate) fn begin(&mut self, endpoint: EndpointId, attempt: Attempt) {
        self.0.push((endpoint, attempt));
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn endpoints(&self) -> Vec<EndpointId> {
        let mut endpoints: Vec<_> = self.0.iter().map(|(endpoint, _)| *endpoint).collect();
        endpoints.sort_unstable();
        endpoints.dedup();
        endpoints
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
        poll_fn(|context| match other.as_mut().poll(context) {
            Poll::Pending if !self.poll(context) => Poll::Pending,
            _ => Poll::Ready(()),
        })
        .await;
    }

    /// Whether any has ended.
    fn poll(&mut self, context: &mut Context<'_>) -> bool {
        let before = self.0.len();
        self.0
            .retain_mut(|(_, attempt)| attempt.as_mut().poll(context).is_pending());
        self.0.len() < before
    }
}
