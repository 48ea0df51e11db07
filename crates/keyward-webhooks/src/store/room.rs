//! The limits of a claim, as it is filled.

use std::collections::{HashMap, HashSet};

use crate::send::EndpointId;
use crate::store::DeliveryClaim;

/// The number of deliveries that a [`DeliveryClaim`] has room for, while a store fills it.
///
/// ```
/// # use std::time::SystemTime;
/// use keyward_webhooks::send::EndpointId;
/// use keyward_webhooks::store::{ClaimRoom, DeliveryClaim};
///
/// # let now = SystemTime::now();
/// let claim = DeliveryClaim { now, until: now, limit: 3, each: 2, busy: vec![], proven: None };
/// let endpoint = EndpointId::random()?;
/// let mut room = ClaimRoom::new(&claim);
/// assert_eq!(room.of(endpoint), 2);
/// room.take(endpoint);
/// assert_eq!((room.of(endpoint), room.left()), (1, (2, 0)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct ClaimRoom<'a> {
    claim: &'a DeliveryClaim,
    busy: HashSet<EndpointId>,
    taken: HashMap<EndpointId, usize>,
    to_proven: usize,
    to_others: usize,
}

impl<'a> ClaimRoom<'a> {
    /// Creates the room of a claim of which nothing is taken yet.
    #[must_use]
    pub fn new(claim: &'a DeliveryClaim) -> Self {
        Self {
            claim,
            busy: claim.busy.iter().copied().collect(),
            taken: HashMap::new(),
            to_proven: 0,
            to_others: 0,
        }
    }

    /// Returns the number of deliveries that this endpoint may still get.
    #[must_use]
    pub fn of(&self, endpoint: EndpointId) -> usize {
        let taken = self.taken.get(&endpoint).copied().unwrap_or(0);
        let (to_proven, to_others) = self.left();
        if self.busy.contains(&endpoint) {
            0
        } else if self.is_proven(endpoint) {
            self.claim.each.saturating_sub(taken).min(to_proven)
        } else if taken == 0 {
            to_others.min(1)
        } else {
            0
        }
    }

    /// Returns whether the endpoint was neither given a delivery nor closed yet.
    #[must_use]
    pub fn is_untouched(&self, endpoint: EndpointId) -> bool {
        !self.taken.contains_key(&endpoint)
    }

    /// Counts a delivery to this endpoint.
    pub fn take(&mut self, endpoint: EndpointId) {
        if self.is_proven(endpoint) {
            self.to_proven += 1;
        } else {
            self.to_others += 1;
        }
        let taken = self.taken.entry(endpoint).or_default();
        *taken = taken.saturating_add(1);
    }

    /// Leaves no more room for this endpoint: all that is due to it was seen, or it is disabled.
    pub fn close(&mut self, endpoint: EndpointId) {
        self.taken.insert(endpoint, usize::MAX);
    }

    /// Returns how many more may go to proven endpoints, and to all others together.
    #[must_use]
    pub fn left(&self) -> (usize, usize) {
        let proven = self.claim.proven.as_ref();
        let to_proven = match proven {
            Some(proven) if proven.endpoints.is_empty() => 0,
            _ if self.claim.each == 0 => 0,
            _ => self.claim.limit.saturating_sub(self.to_proven),
        };
        let to_others = proven.map_or(0, |proven| proven.others);
        (to_proven, to_others.saturating_sub(self.to_others))
    }

    /// Returns whether the search for deliveries can stop.
    ///
    /// Endpoints that are not proven get their turn when their deliveries have waited longest.
    #[must_use]
    pub fn is_enough(&self) -> bool {
        let (to_proven, to_others) = self.left();
        to_proven == 0 && (to_others == 0 || self.to_proven > 0)
    }

    fn is_proven(&self, endpoint: EndpointId) -> bool {
        let proven = self.claim.proven.as_ref();
        proven.is_none_or(|proven| proven.endpoints.contains(&endpoint))
    }
}
