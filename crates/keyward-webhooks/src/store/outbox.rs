//! The transactional outbox in memory.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::time::SystemTime;

use keyward::environment::Environment;
use keyward::ids::AccountId;
use keyward::store::{StoreError, StoreErrorKind};

use crate::send::{
    Conclusion, DeliveryAttempt, DueDelivery, EndpointId, EndpointStatus, NextStep,
    WebhookEndpoint, WebhookMessage,
};
use crate::signature::WebhookId;
use crate::store::{ClaimRoom, DeliveryClaim, Redelivery, WebhookCommit};

/// Endpoints, messages, deliveries and attempts in memory.
#[derive(Default)]
pub(crate) struct Outbox {
    endpoints: HashMap<EndpointId, (u64, WebhookEndpoint)>,
    /// The endpoints, each with its number in the order of creation.
    made: u64,
    messages: HashMap<MessageName, WebhookMessage>,
    deliveries: BTreeMap<(EndpointId, MessageName), Delivery>,
    attempts: Vec<DeliveryAttempt>,
    attempted: u64,
}

type MessageName = (AccountId, Environment, WebhookId);

struct Delivery {
    due_at: SystemTime,
    attempts: u32,
    failures: u32,
    end: Option<End>,
}

#[derive(Clone, Copy, PartialEq)]
enum End {
    Delivered,
    GivenUp,
}

impl Delivery {
    fn begin_anew(&mut self, due_at: SystemTime) {
        self.due_at = due_at;
        self.failures = 0;
        self.end = None;
    }
}

impl Outbox {
    /// Checks whether the webhook part of a commit may be written.
    pub(crate) fn check(
        &self,
        commit: &WebhookCommit,
        is_account: &dyn Fn(&AccountId) -> bool,
    ) -> Result<(), StoreError> {
        let mut fits = true;
        for (at, endpoint) in commit.endpoints.iter().enumerate() {
            let stored = self.endpoints.get(&endpoint.id());
            let mut others = commit.endpoints.iter().skip(at + 1);
            fits &= is_account(endpoint.account())
                && !others.any(|other| other.id() == endpoint.id())
                && stored.map_or(endpoint.revision == 0, |(_, old)| {
                    old.revision == endpoint.revision
                        && old.account() == endpoint.account()
                        && old.environment() == endpoint.environment()
                });
        }
        if let Some((id, revision)) = commit.deleted {
            let stored = self.endpoints.get(&id);
            fits &= stored.is_some_and(|(_, old)| old.revision == revision)
                && commit.endpoints.iter().all(|endpoint| endpoint.id() != id);
        }
        if let Some(message) = &commit.message {
            fits &= !self.messages.contains_key(&name(message)) && is_account(message.account());
        }
        if let Some((id, what)) = &commit.again {
            fits &= self
                .endpoints
                .get(id)
                .is_some_and(|(_, endpoint)| match what {
                    Redelivery::Message(message) => {
                        let of = (endpoint.account().clone(), endpoint.environment());
                        self.messages.contains_key(&(of.0, of.1, message.clone()))
                    }
                    Redelivery::FailedSince(_) => true,
                });
        }
        if !fits {
            return Err(StoreError::new(StoreErrorKind::Conflict));
        }
        if let Some(bound) = &commit.at_most {
            let counts = |endpoint: &&WebhookEndpoint| {
                let deleted = commit.deleted.map(|(id, _)| id);
                *endpoint.account() == bound.account
                    && endpoint.environment() == bound.environment
                    && deleted != Some(endpoint.id())
            };
            let stored = self.endpoints.values().map(|(_, endpoint)| endpoint);
            let new = commit.endpoints.iter();
            let new = new.filter(|endpoint| endpoint.revision == 0);
            let count = stored.chain(new).filter(counts).count();
            if count > usize::try_from(bound.at_most).unwrap_or(usize::MAX) {
                return Err(StoreError::new(StoreErrorKind::TooManyEndpoints));
            }
        }
        Ok(())
    }

    /// Writes the webhook part of a commit that was [checked](Self::check).
    pub(crate) fn write(&mut self, commit: &WebhookCommit) {
        for endpoint in &commit.endpoints {
            let stored = self.endpoints.get(&endpoint.id());
            let made = stored.map_or(self.made + 1, |(made, _)| *made);
            let mut endpoint = endpoint.clone();
            endpoint.revision += 1;
            self.made = self.made.max(made);
            self.endpoints.insert(endpoint.id(), (made, endpoint));
        }
        if let Some((id, _)) = commit.deleted {
            self.endpoints.remove(&id);
            self.deliveries.retain(|(endpoint, _), _| *endpoint != id);
            self.attempts.retain(|attempt| attempt.endpoint != id);
        }
        if let Some(message) = &commit.message {
            let name = name(message);
            let endpoints = self
                .endpoints
                .values()
                .map(|(_, endpoint)| endpoint.clone());
            let due: Vec<_> = message.deliverable(endpoints).collect();
            for due in due {
                let delivery = Delivery {
                    due_at: message.created_at(),
                    attempts: 0,
                    failures: 0,
                    end: None,
                };
                self.deliveries
                    .insert((due.endpoint().id(), name.clone()), delivery);
            }
            self.messages.insert(name, message.clone());
        }
        if let Some((endpoint, what)) = &commit.again {
            // Both exist, as was checked before.
            self.again(*endpoint, what);
        }
    }

    /// Returns `None` if the endpoint or the message does not exist.
    fn again(&mut self, id: EndpointId, what: &Redelivery) -> Option<()> {
        let (_, endpoint) = self.endpoints.get(&id)?;
        match what {
            Redelivery::Message(message) => {
                let of = (endpoint.account().clone(), endpoint.environment());
                let name = (of.0, of.1, message.clone());
                let due_at = self.messages.get(&name)?.created_at();
                let delivery = self.deliveries.entry((id, name));
                let delivery = delivery.or_insert(Delivery {
                    due_at,
                    attempts: 0,
                    failures: 0,
                    end: None,
                });
                // A concurrent attempt now only decides whether the message has arrived.
                delivery.attempts = delivery.attempts.saturating_add(1);
                delivery.begin_anew(due_at);
            }
            Redelivery::FailedSince(since) => {
                for ((endpoint, name), delivery) in &mut self.deliveries {
                    if let Some(message) = self.messages.get(name)
                        && *endpoint == id
                        && delivery.end == Some(End::GivenUp)
                        && message.created_at() >= *since
                    {
                        delivery.begin_anew(message.created_at());
                    }
                }
            }
        }
        Some(())
    }

    pub(crate) fn endpoint(&self, id: EndpointId) -> Option<WebhookEndpoint> {
        self.endpoints
            .get(&id)
            .map(|(_, endpoint)| endpoint.clone())
    }

    pub(crate) fn endpoints(
        &self,
        account: Option<&AccountId>,
        environment: Option<Environment>,
    ) -> Vec<WebhookEndpoint> {
        let wanted = |(_, endpoint): &&(u64, WebhookEndpoint)| {
            account.is_none_or(|account| account == endpoint.account())
                && environment.is_none_or(|environment| environment == endpoint.environment())
        };
        let mut found: Vec<_> = self.endpoints.values().filter(wanted).collect();
        found.sort_by_key(|(made, _)| *made);
        found
            .into_iter()
            .map(|(_, endpoint)| endpoint.clone())
            .collect()
    }

    pub(crate) fn message(&self, name: &MessageName) -> Option<WebhookMessage> {
        self.messages.get(name).cloned()
    }

    pub(crate) fn claim(&mut self, claim: &DeliveryClaim) -> Vec<DueDelivery> {
        let mut due: Vec<_> = self
            .deliveries
            .iter_mut()
            .filter(|((endpoint, _), delivery)| {
                delivery.end.is_none()
                    && delivery.due_at <= claim.now
                    && !claim.busy.contains(endpoint)
            })
            .collect();
        due.sort_by_key(|(_, delivery)| delivery.due_at);
        let mut room = ClaimRoom::new(claim);
        let mut claimed = Vec::new();
        for ((endpoint, message), delivery) in due {
            if room.of(*endpoint) == 0 {
                continue;
            }
            let (endpoint, message) = (self.endpoints.get(endpoint), self.messages.get(message));
            let Some((message, (_, endpoint))) = message.zip(endpoint) else {
                continue;
            };
            if let Some(due) = DueDelivery::new(message.clone(), endpoint.clone()) {
                room.take(due.endpoint().id());
                delivery.attempts = delivery.attempts.saturating_add(1);
                delivery.due_at = claim.until;
                claimed.push(due.claimed(delivery.attempts, delivery.failures));
            }
        }
        claimed
    }

    pub(crate) fn conclude(&mut self, conclusion: Conclusion) {
        let Conclusion {
            delivery: due,
            mut attempt,
            next,
        } = conclusion;
        let place = (due.endpoint().id(), name(due.message()));
        let Some(delivery) = self.deliveries.get_mut(&place) else {
            return;
        };
        self.attempted += 1;
        attempt.number = self.attempted;
        self.attempts.push(attempt);
        let ours = delivery.attempts == due.attempt() && delivery.end.is_none();
        match next {
            NextStep::Done => delivery.end = Some(End::Delivered),
            _ if !ours => {}
            NextStep::Retry(at) => {
                delivery.due_at = at;
                delivery.failures = delivery.failures.saturating_add(1);
            }
            NextStep::GiveUp => delivery.end = Some(End::GivenUp),
            NextStep::Disable => {
                delivery.due_at = due.message().created_at();
                // Not if its URL has changed.
                if let Some((_, endpoint)) = self.endpoints.get_mut(&place.0)
                    && endpoint.status == EndpointStatus::Enabled
                    && endpoint.url == due.endpoint().url
                {
                    endpoint.status = EndpointStatus::Gone;
                    endpoint.revision += 1;
                }
            }
        }
    }

    pub(crate) fn attempts(
        &self,
        endpoint: EndpointId,
        before: Option<u64>,
        limit: usize,
    ) -> Vec<DeliveryAttempt> {
        let wanted = |attempt: &&DeliveryAttempt| {
            attempt.endpoint == endpoint && before.is_none_or(|before| attempt.number < before)
        };
        let mut found: Vec<_> = self.attempts.iter().filter(wanted).cloned().collect();
        found.sort_by_key(|attempt| Reverse(attempt.number));
        found.truncate(limit);
        found
    }

    pub(crate) fn forget(&mut self, before: SystemTime) -> u64 {
        let waits = |wanted: &MessageName| {
            let mut all = self.deliveries.iter();
            all.any(|((_, message), delivery)| message == wanted && delivery.end.is_none())
        };
        let old = |(name, message): &(&MessageName, &WebhookMessage)| {
            message.created_at() < before && !waits(name)
        };
        let old: Vec<_> = self
            .messages
            .iter()
            .filter(old)
            .map(|(name, _)| name.clone())
            .collect();
        for message in &old {
            self.messages.remove(message);
            self.deliveries.retain(|(endpoint, own), _| {
                if own == message {
                    self.attempts.retain(|attempt| {
                        attempt.endpoint != *endpoint || attempt.message != own.2
                    });
                }
                own != message
            });
        }
        old.len() as u64
    }
}

fn name(message: &WebhookMessage) -> MessageName {
    let account = message.account().clone();
    (account, message.environment(), message.id().clone())
}
