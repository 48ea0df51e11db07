//! The parts of a request that are kept while it waits for the store.

use std::net::IpAddr;
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::gate::Requirement;
use crate::gate::prove::{Presented, Reading};
use crate::request::RequestHead;
use crate::request::client::{Client, FORWARDED_FOR};

/// A request that is decided again when the store has answered.
///
/// It owns a copy of what the decision needs, because the adapter lends the request only for the
/// time of the first decision.
pub(super) struct WaitingRequest {
    text: Zeroizing<Vec<u8>>,
    location: usize,
    environment: Option<Vec<u8>>,
    reading: Reading,
    is_foreign: bool,
    client: Option<Client>,
    pub(super) head: WaitingHead,
    pub(super) requirement: Arc<Requirement>,
}

impl WaitingRequest {
    pub(super) fn of<R: RequestHead>(
        presented: &Presented<'_>,
        request: &R,
        requirement: &Arc<Requirement>,
    ) -> Self {
        Self {
            text: Zeroizing::new(presented.text.to_vec()),
            location: presented.location,
            environment: presented.environment.map(<[u8]>::to_vec),
            reading: presented.reading,
            is_foreign: presented.is_foreign,
            client: presented.client,
            head: WaitingHead::of(request),
            requirement: Arc::clone(requirement),
        }
    }

    pub(super) fn presented(&self) -> Presented<'_> {
        Presented {
            text: &self.text,
            location: self.location,
            environment: self.environment.as_deref(),
            reading: self.reading,
            is_foreign: self.is_foreign,
            client: self.client,
        }
    }
}

/// The part of a waiting request's head that is still needed.
pub(super) struct WaitingHead {
    peer: Option<IpAddr>,
    lines: Vec<(&'static str, Vec<u8>)>,
}

impl WaitingHead {
    fn of<R: RequestHead>(request: &R) -> Self {
        let lines = ["origin", FORWARDED_FOR].into_iter();
        let lines =
            lines.flat_map(|name| request.values(name).map(move |line| (name, line.to_vec())));
        Self {
            peer: request.peer(),
            lines: lines.collect(),
        }
    }
}

impl RequestHead for WaitingHead {
    fn method(&self) -> &'static str {
        ""
    }

    fn peer(&self) -> Option<IpAddr> {
        self.peer
    }

    fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let lines = self.lines.iter().filter(move |(own, _)| *own == name);
        lines.map(|(_, line)| &line[..])
    }
}
