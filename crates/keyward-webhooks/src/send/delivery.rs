//! A message paired with the endpoint that it goes to.

use std::time::{Duration, SystemTime};

use crate::sealing::{SealError, SealingKeys};
use crate::send::{
    AttemptOutcome, DeliveryAttempt, EndpointRules, EndpointStatus, RetrySchedule, WebhookEndpoint,
    WebhookMessage,
};

/// A message to deliver to an endpoint of the same account and environment.
///
/// [`new`](Self::new) is the only way to pair a message with an endpoint, and a sender accepts
/// nothing else. So no test event reaches a live endpoint or the reverse, and no event reaches
/// another account's endpoint.
///
/// ```
/// # use std::time::SystemTime;
/// # use keyward::{AccountId, Environment};
/// # use keyward_webhooks::WebhookMessage;
/// # use keyward_webhooks::send::{DueDelivery, EndpointUrl, WebhookEndpoint};
/// # use keyward_webhooks::WebhookStore;
/// # use keyward_webhooks::sealing::{SealingKey, SealingKeys};
/// # use keyward_webhooks::signature::{WebhookId, WebhookSecret};
/// # let keys = SealingKeys::new(SealingKey::new("2026", &[7; 32])?);
/// # let url = EndpointUrl::parse("https://acme.example/hook")?;
/// # let acme = AccountId::parse("acme")?;
/// # let secret = WebhookSecret::random()?;
/// # let now = SystemTime::now();
/// # let endpoint = WebhookEndpoint::new(acme.clone(), Environment::LIVE, url, &secret, &keys, now)?;
/// let message = |environment| WebhookMessage::new(acme.clone(), environment, WebhookId::random().unwrap(), "{}");
/// assert!(DueDelivery::new(message(Environment::TEST)?, endpoint.clone()).is_none());
///
/// let due = DueDelivery::new(message(Environment::LIVE)?, endpoint).expect("both are live");
/// let [(_, id), ..] = due.sign(&keys, now)?;
/// assert_eq!(id, due.message().id().as_str());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct DueDelivery {
    message: WebhookMessage,
    endpoint: WebhookEndpoint,
    attempt: u32,
    failures: u32,
}

impl DueDelivery {
    /// Pairs them if account and environment are the same and the endpoint is enabled.
    #[must_use]
    pub fn new(message: WebhookMessage, endpoint: WebhookEndpoint) -> Option<Self> {
        let fits = message.account() == endpoint.account()
            && message.environment() == endpoint.environment()
            && endpoint.status == EndpointStatus::Enabled;
        fits.then_some(Self {
            message,
            endpoint,
            attempt: 1,
            failures: 0,
        })
    }

    /// Creates the delivery of a challenge to its endpoint, which may be disabled.
    pub(crate) fn of_challenge(message: WebhookMessage, endpoint: WebhookEndpoint) -> Self {
        Self {
            message,
            endpoint,
            attempt: 1,
            failures: 0,
        }
    }

    /// Sets the attempt number and the failures so far, as claimed from a store.
    #[must_use]
    pub fn claimed(self, attempt: u32, failures: u32) -> Self {
        Self {
            attempt,
            failures,
            ..self
        }
    }

    /// Returns the message to send.
    #[must_use]
    pub fn message(&self) -> &WebhookMessage {
        &self.message
    }

    /// Returns the endpoint to send it to.
    #[must_use]
    pub fn endpoint(&self) -> &WebhookEndpoint {
        &self.endpoint
    }

    /// Returns the number of this attempt, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Returns whether the rules allow the URL of the endpoint.
    #[must_use]
    pub fn is_allowed(&self, rules: &EndpointRules) -> bool {
        let Self { endpoint, .. } = self;
        rules.check(endpoint.environment(), &endpoint.url).is_ok()
    }

    /// Returns the three signature headers: message id, time of the attempt, signature.
    ///
    /// # Errors
    /// Returns an error if a secret of the endpoint cannot be opened.
    pub fn sign(
        &self,
        keys: &SealingKeys,
        now: SystemTime,
    ) -> Result<[(&'static str, String); 3], SealError> {
        let signer = self.endpoint.signer(keys, now)?;
        Ok(signer.headers(self.message.id(), now, self.message.payload()))
    }

    /// Decides the next step after an attempt that began and ended at these times.
    ///
    /// `retry_after` is the value of the `retry-after` header in the response.
    ///
    /// ```
    /// # use std::time::{Duration, SystemTime};
    /// # use keyward::{AccountId, Environment};
    /// # use keyward_webhooks::WebhookMessage;
    /// # use keyward_webhooks::send::{
    /// #     AttemptOutcome, DueDelivery, EndpointUrl, NextStep, RetrySchedule, WebhookEndpoint,
    /// # };
    /// # use keyward_webhooks::WebhookStore;
    /// # use keyward_webhooks::sealing::{SealingKey, SealingKeys};
    /// # use keyward_webhooks::signature::{WebhookId, WebhookSecret};
    /// # let keys = SealingKeys::new(SealingKey::new("2026", &[7; 32])?);
    /// # let url = EndpointUrl::parse("https://acme.example/hook")?;
    /// # let acme = AccountId::parse("acme")?;
    /// # let secret = WebhookSecret::random()?;
    /// # let now = SystemTime::now();
    /// # let endpoint = WebhookEndpoint::new(acme.clone(), Environment::LIVE, url, &secret, &keys, now)?;
    /// # let message = WebhookMessage::new(acme, Environment::LIVE, WebhookId::random()?, "{}")?;
    /// # let due = DueDelivery::new(message, endpoint).expect("both are live");
    /// # let began = now;
    /// let conclude = |status, retry_after: Option<&[u8]>| {
    ///     let outcome = AttemptOutcome::of_status(status);
    ///     due.conclude(outcome, Some(status), retry_after, (began, now), &RetrySchedule::default()).next
    /// };
    /// assert_eq!(conclude(204, None), NextStep::Done);
    /// assert_eq!(conclude(410, None), NextStep::Disable);
    /// assert_eq!(conclude(503, Some(b"120")), NextStep::Retry(now + Duration::from_secs(120)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn conclude(
        &self,
        outcome: AttemptOutcome,
        status: Option<u16>,
        retry_after: Option<&[u8]>,
        (began, ended): (SystemTime, SystemTime),
        schedule: &RetrySchedule,
    ) -> Conclusion {
        let failures = self.failures.saturating_add(1);
        let asked = retry_after.and_then(|field| wait(field, ended));
        let next = match outcome {
            AttemptOutcome::Delivered => NextStep::Done,
            AttemptOutcome::Gone => NextStep::Disable,
            _ => match schedule.delay(failures, asked) {
                Some(delay) => NextStep::Retry(ended.checked_add(delay).unwrap_or(ended)),
                None => NextStep::GiveUp,
            },
        };
        Conclusion {
            delivery: self.clone(),
            attempt: DeliveryAttempt {
                number: 0,
                message: self.message.id().clone(),
                endpoint: self.endpoint.id(),
                attempt: self.attempt,
                at: began,
                took: ended.duration_since(began).unwrap_or_default(),
                outcome,
                status,
                last: matches!(next, NextStep::Done | NextStep::GiveUp),
            },
            next,
        }
    }
}

/// The conclusion of an attempt, for a store to keep. See [`DueDelivery::conclude`].
#[derive(Clone, Debug)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a store must handle every part, so a new one must not be missed"
)]
pub struct Conclusion {
    /// The delivery as it was claimed.
    pub delivery: DueDelivery,
    /// The attempt and its outcome.
    pub attempt: DeliveryAttempt,
    /// The next step.
    pub next: NextStep,
}

/// The next step after an attempt. See [`DueDelivery::conclude`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a store must carry out each")]
pub enum NextStep {
    /// Do nothing, as the message has arrived.
    Done,
    /// Retry at this time.
    Retry(SystemTime),
    /// Do nothing, as the retry schedule is exhausted.
    GiveUp,
    /// Disable the endpoint as gone; its deliveries, including this one, wait.
    Disable,
}

/// Parses `retry-after`: a number of seconds or a date (RFC 9110 §10.2.3).
fn wait(field: &[u8], now: SystemTime) -> Option<Duration> {
    let text = std::str::from_utf8(field).ok()?.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // A number that is too large to parse is limited later, like any other.
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let until = httpdate::parse_http_date(text).ok()?;
    Some(until.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_forms_of_retry_after_and_no_other() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (field, seconds) in [
            ("0", Some(0)),
            (" 120 ", Some(120)),
            ("99999999999999999999999", Some(u64::MAX)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(0)),
            ("Sun, 06 Nov 1990 08:49:37 GMT", None),
            ("Tue, 06 Nov 1990 08:49:37 GMT", Some(0)),
            ("", None),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
            ("\u{ff11}", None),
        ] {
            let expected = seconds.map(Duration::from_secs);
            assert_eq!(wait(field.as_bytes(), now), expected, "{field}");
        }
        assert_eq!(wait(b"\xff", now), None);
    }
}
