//! The health of endpoints, as seen by a sender.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::send::{AttemptOutcome, DeliveryAttempt, EndpointId};

/// The number of failures in a row that open the circuit. A timeout opens it at once.
const REFUSALS: u32 = 5;

/// The longest pause between two probes, in multiples of the timeout.
const LONGEST: u32 = 8;

/// A circuit breaker for each endpoint, and the set of endpoints known to answer.
///
/// An endpoint is *proven* once it has answered within a quarter of the timeout. Its circuit
/// *opens* when an attempt times out, or after five failures in a row: no connection, a status of
/// 5xx, or a request that could not be made. Then nothing is sent to it until a pause is over. The
/// pause is one timeout long and doubles after each further failure, up to eight timeouts. After
/// that the circuit is half open: a single attempt, the probe, is made. An answer closes the
/// circuit, and a failure opens it again.
///
/// An attempt that is not made does not count, so deliveries wait while the circuit is open and are
/// not given up because of it.
///
/// The state is kept in memory: after a restart, no endpoint is known.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use keyward_webhooks::send::{
///     AttemptOutcome, CircuitState, DeliveryAttempt, EndpointHealth, EndpointId,
/// };
/// use keyward_webhooks::signature::WebhookId;
///
/// let (endpoint, now) = (EndpointId::random()?, SystemTime::now());
/// let attempt = |outcome, seconds| DeliveryAttempt {
///     number: 0,
///     message: WebhookId::random().unwrap(),
///     endpoint,
///     attempt: 1,
///     at: now,
///     took: Duration::from_secs(seconds),
///     outcome,
///     status: None,
///     last: false,
/// };
/// let mut health = EndpointHealth::new(Duration::from_secs(15));
/// health.learn(&attempt(AttemptOutcome::Delivered, 1), now);
/// assert!(health.is_proven(endpoint));
///
/// health.learn(&attempt(AttemptOutcome::TimedOut, 15), now);
/// assert_eq!(health.state(endpoint, now), CircuitState::Open);
/// let later = now + Duration::from_secs(15);
/// assert_eq!(health.state(endpoint, later), CircuitState::HalfOpen);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct EndpointHealth {
    timeout: Duration,
    known: BTreeMap<EndpointId, Known>,
    /// The proven endpoints, shared with claims in progress.
    proven: Arc<BTreeSet<EndpointId>>,
    checked: Option<EndpointId>,
    unchecked: usize,
    /// The endpoint that was probed last.
    probed: Option<EndpointId>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// The number of failures in a row.
    failures: u32,
    /// The number of times the circuit has opened in a row, and its end.
    opened: u32,
    open_until: Option<SystemTime>,
}

impl Known {
    /// Returns whether the circuit is open. A clock set back never makes the pause exceed the
    /// longest.
    fn is_open(&self, now: SystemTime, timeout: Duration) -> bool {
        let left = self.open_until.map(|until| until.duration_since(now));
        left.is_some_and(|left| {
            left.is_ok_and(|left| !left.is_zero() && left <= timeout.saturating_mul(LONGEST))
        })
    }
}

/// The state of an endpoint's circuit breaker. See [`EndpointHealth`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a circuit has no fourth state")]
pub enum CircuitState {
    /// Everything that is due is sent.
    Closed,
    /// No attempt is made.
    Open,
    /// A single attempt is made, the probe.
    HalfOpen,
}

impl EndpointHealth {
    /// Creates a state without known endpoints. `timeout` is that of an attempt.
    #[must_use]
    pub fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            known: BTreeMap::new(),
            proven: Arc::default(),
            checked: None,
            unchecked: 0,
            probed: None,
        }
    }

    /// Returns the duration after which a running attempt makes its endpoint unproven.
    #[must_use]
    pub fn slow(&self) -> Duration {
        self.timeout / 4
    }

    /// Records the outcome of an attempt that has just ended.
    pub fn learn(&mut self, attempt: &DeliveryAttempt, now: SystemTime) {
        let id = attempt.endpoint;
        let is_slow = attempt.took >= self.slow();
        if !self.known.contains_key(&id) {
            // Two are checked for each that is added, so that deleted ones do not accumulate.
            self.unchecked = self.unchecked.saturating_add(2);
        }
        let known = self.known.entry(id).or_default();
        let fails_for = match attempt.outcome {
            AttemptOutcome::TimedOut => Some(1),
            AttemptOutcome::Unreachable
            | AttemptOutcome::NotPublic
            | AttemptOutcome::NotSendable => Some(REFUSALS),
            _ if attempt.status.is_some_and(|status| status >= 500) => Some(REFUSALS),
            _ => None,
        };
        let Some(most) = fails_for else {
            *known = Known::default();
            self.prove(id, !is_slow);
            return;
        };
        known.failures = known.failures.saturating_add(1);
        // Several concurrent attempts open it only once.
        let is_open = known.is_open(now, self.timeout);
        let is_probe = known.open_until.is_some() && !is_open;
        if !is_open && (is_probe || known.failures >= most) {
            let pause = self
                .timeout
                .saturating_mul((1 << known.opened.min(8)).min(LONGEST));
            known.opened = known.opened.saturating_add(1);
            known.open_until = Some(now.checked_add(pause).unwrap_or(now));
        }
        if is_slow || known.open_until.is_some() {
            self.prove(id, false);
        }
    }

    /// Records that an attempt has been running for longer than [`slow`](Self::slow).
    pub fn is_slow(&mut self, endpoint: EndpointId) {
        self.prove(endpoint, false);
    }

    /// Returns whether the endpoint is proven, that is, known to answer.
    #[must_use]
    pub fn is_proven(&self, endpoint: EndpointId) -> bool {
        self.proven.contains(&endpoint)
    }

    /// Returns the proven endpoints, for a [`DeliveryClaim`](crate::store::DeliveryClaim).
    #[must_use]
    pub fn proven(&self) -> Arc<BTreeSet<EndpointId>> {
        Arc::clone(&self.proven)
    }

    /// Returns the state of an endpoint's circuit.
    #[must_use]
    pub fn state(&self, endpoint: EndpointId, now: SystemTime) -> CircuitState {
        match self.known.get(&endpoint) {
            Some(known) if known.is_open(now, self.timeout) => CircuitState::Open,
            Some(known) if known.open_until.is_some() => CircuitState::HalfOpen,
            _ => CircuitState::Closed,
        }
    }

    /// Returns the endpoints to which nothing may be sent now.
    ///
    /// Their circuit is open, or it is half open and others are probed first. At most `probes`
    /// half-open endpoints are left out, to be probed; never ones that are busy with a probe.
    pub fn resting(
        &mut self,
        now: SystemTime,
        probes: usize,
        is_busy: impl Fn(EndpointId) -> bool,
    ) -> Vec<EndpointId> {
        let (mut resting, mut half_open) = (Vec::new(), Vec::new());
        for (id, known) in &self.known {
            if known.is_open(now, self.timeout) {
                resting.push(*id);
            } else if known.open_until.is_some() && !is_busy(*id) {
                half_open.push(*id);
            }
        }
        // Start after the endpoint that was probed last: some may have nothing to send.
        let from = half_open.partition_point(|id| Some(*id) <= self.probed);
        half_open.rotate_left(from);
        // // Endpoints that failed just once come before those that have failed for long, however
        // many.
        half_open.sort_by_key(|id| self.known.get(id).is_some_and(|known| known.opened > 1));
        let probes = probes.min(half_open.len());
        if let Some(last) = probes.checked_sub(1) {
            self.probed = half_open.get(last).copied();
        }
        resting.extend(half_open.into_iter().skip(probes));
        resting
    }

    /// Returns the next endpoint to check for whether it still exists, if any.
    ///
    /// For each endpoint added, two are returned, so that the state stays in proportion to the
    /// existing endpoints.
    pub fn next_to_check(&mut self) -> Option<EndpointId> {
        self.unchecked = self.unchecked.checked_sub(1)?;
        let from = self.checked.map_or(Bound::Unbounded, Bound::Excluded);
        let next = self.known.range((from, Bound::Unbounded)).next();
        let next = next.or_else(|| self.known.iter().next());
        self.checked = next.map(|(id, _)| *id);
        self.checked
    }

    /// Removes an endpoint that was deleted.
    pub fn forget(&mut self, endpoint: EndpointId) {
        self.known.remove(&endpoint);
        self.prove(endpoint, false);
    }

    fn prove(&mut self, endpoint: EndpointId, is_proven: bool) {
        if self.proven.contains(&endpoint) == is_proven {
            return;
        }
        let proven = Arc::make_mut(&mut self.proven);
        if is_proven {
            proven.insert(endpoint);
        } else {
            proven.remove(&endpoint);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signature::WebhookId;

    const TIMEOUT: Duration = Duration::from_secs(10);

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn attempt(endpoint: EndpointId, outcome: AttemptOutcome, took: u64) -> DeliveryAttempt {
        DeliveryAttempt {
            number: 0,
            message: WebhookId::random().unwrap(),
            endpoint,
            attempt: 1,
            at: at(0),
            took: Duration::from_secs(took),
            outcome,
            status: None,
            last: false,
        }
    }

    #[test]
    fn the_pauses_between_probes_double_up_to_eight_timeouts() {
        let id = EndpointId::random().unwrap();
        let mut health = EndpointHealth::new(TIMEOUT);
        let mut now = 0;
        for pause in [10, 20, 40, 80, 80, 80] {
            health.learn(&attempt(id, AttemptOutcome::TimedOut, 10), at(now));
            assert_eq!(health.state(id, at(now + pause - 1)), CircuitState::Open);
            assert_eq!(health.state(id, at(now + pause)), CircuitState::HalfOpen);
            now += pause;
        }
        health.learn(&attempt(id, AttemptOutcome::Delivered, 0), at(now));
        assert_eq!(health.state(id, at(now)), CircuitState::Closed);
        assert!(health.is_proven(id));
        health.learn(&attempt(id, AttemptOutcome::TimedOut, 10), at(now));
        assert_eq!(
            health.state(id, at(now + 10)),
            CircuitState::HalfOpen,
            "anew"
        );
    }

    #[test]
    fn failures_in_a_row_open_the_circuit_unless_an_answer_interrupts_them() {
        let id = EndpointId::random().unwrap();
        let mut health = EndpointHealth::new(TIMEOUT);
        let refused = attempt(id, AttemptOutcome::Unreachable, 0);
        let broken = DeliveryAttempt {
            status: Some(503),
            ..attempt(id, AttemptOutcome::Refused, 0)
        };
        let not_found = DeliveryAttempt {
            status: Some(404),
            ..broken.clone()
        };
        for one in [&refused, &broken, &refused, &broken, &not_found] {
            health.learn(one, at(0));
            assert_eq!(health.state(id, at(0)), CircuitState::Closed);
        }
        for _ in 0..5 {
            assert!(health.is_proven(id));
            health.learn(&broken, at(0));
        }
        assert_eq!(health.state(id, at(0)), CircuitState::Open);
        assert!(!health.is_proven(id));
        // A single failed probe opens it again.
        health.learn(&refused, at(10));
        assert_eq!(health.state(id, at(29)), CircuitState::Open);
    }

    #[test]
    fn attempts_that_time_out_together_open_the_circuit_once() {
        let id = EndpointId::random().unwrap();
        let mut health = EndpointHealth::new(TIMEOUT);
        for _ in 0..4 {
            health.learn(&attempt(id, AttemptOutcome::TimedOut, 10), at(0));
        }
        assert_eq!(health.state(id, at(10)), CircuitState::HalfOpen);
    }

    #[test]
    fn endpoints_are_probed_in_turn_and_few_at_once() {
        let mut health = EndpointHealth::new(TIMEOUT);
        let all: BTreeSet<_> = (0..10).map(|_| EndpointId::random().unwrap()).collect();
        for id in &all {
            health.learn(&attempt(*id, AttemptOutcome::TimedOut, 10), at(0));
        }
        assert_eq!(health.resting(at(9), 3, |_| false).len(), 10, "open");
        let mut probed = BTreeSet::new();
        for _ in 0..4 {
            let resting: BTreeSet<_> = health.resting(at(10), 3, |_| false).into_iter().collect();
            assert_eq!(resting.len(), 7);
            probed.extend(all.difference(&resting).copied());
        }
        assert_eq!(probed, all);
        let busy = all.first().copied().unwrap();
        assert_eq!(health.resting(at(10), 0, |id| id == busy).len(), 9);
    }

    #[test]
    fn one_that_failed_once_is_probed_before_those_that_hang_for_long() {
        let mut health = EndpointHealth::new(TIMEOUT);
        for _ in 0..1000 {
            let id = EndpointId::random().unwrap();
            for now in [0, 10, 30] {
                health.learn(&attempt(id, AttemptOutcome::TimedOut, 10), at(now));
            }
        }
        let once = EndpointId::random().unwrap();
        health.learn(&attempt(once, AttemptOutcome::Delivered, 0), at(80));
        health.learn(&attempt(once, AttemptOutcome::TimedOut, 10), at(90));
        for _ in 0..3 {
            let resting = health.resting(at(100), 2, |_| false);
            assert_eq!(resting.len(), 999);
            assert!(!resting.contains(&once));
        }
    }

    #[test]
    fn a_clock_that_is_set_back_leaves_no_circuit_open() {
        let id = EndpointId::random().unwrap();
        let mut health = EndpointHealth::new(TIMEOUT);
        health.learn(&attempt(id, AttemptOutcome::TimedOut, 10), at(100_000));
        assert_eq!(health.state(id, at(100_000)), CircuitState::Open);
        assert_eq!(health.state(id, at(0)), CircuitState::HalfOpen);
        assert!(health.resting(at(0), 1, |_| false).is_empty());
        health.learn(&attempt(id, AttemptOutcome::TimedOut, 10), at(0));
        assert_eq!(health.state(id, at(19)), CircuitState::Open);
        assert_eq!(health.state(id, at(20)), CircuitState::HalfOpen);
    }

    #[test]
    fn an_endpoint_that_answers_slowly_is_not_proven() {
        let id = EndpointId::random().unwrap();
        let mut health = EndpointHealth::new(TIMEOUT);
        health.learn(&attempt(id, AttemptOutcome::Delivered, 2), at(0));
        assert!(health.is_proven(id));
        health.learn(&attempt(id, AttemptOutcome::Delivered, 3), at(0));
        assert!(!health.is_proven(id));
        assert_eq!(health.state(id, at(0)), CircuitState::Closed);
    }

    #[test]
    fn the_state_stays_in_proportion_to_the_existing_endpoints() {
        let mut health = EndpointHealth::new(TIMEOUT);
        let kept: BTreeSet<_> = (0..100).map(|_| EndpointId::random().unwrap()).collect();
        for id in &kept {
            health.learn(&attempt(*id, AttemptOutcome::TimedOut, 10), at(0));
        }
        for _ in 0..10_000 {
            let id = EndpointId::random().unwrap();
            health.learn(&attempt(id, AttemptOutcome::Delivered, 0), at(0));
            while let Some(id) = health.next_to_check() {
                if !kept.contains(&id) {
                    health.forget(id);
                }
            }
            assert!(health.known.len() < 220 && health.proven.len() < 120);
        }
        assert!(kept.iter().all(|id| health.known.contains_key(id)));
    }
}
