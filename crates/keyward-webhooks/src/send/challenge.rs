//! Challenges that an endpoint answers to prove that it works.

use std::fmt;
use std::time::SystemTime;

use keyward::key::{Alphabet, RandomError};
use subtle::ConstantTimeEq;

use crate::send::{AttemptOutcome, DueDelivery, EndpointId, WebhookEndpoint, WebhookMessage};
use crate::signature::WebhookId;

/// The beginning of the body of every challenge.
const BEFORE: &[u8] = br#"{"type":"keyward.challenge","challenge":""#;
const AFTER: &[u8] = br#""}"#;

/// A signed challenge that an endpoint must answer before it counts as working.
///
/// It is delivered like any message, with the body
/// `{"type":"keyward.challenge","challenge":"chl_…"}`. The expected response is 200 with only the
/// text of the challenge. A [`WebhookReceiver`](crate::receive::WebhookReceiver) sends it once the
/// signature has been verified. A server that echoes every request does not pass.
///
/// ```
/// # use std::time::SystemTime;
/// # use keyward::{AccountId, Environment};
/// # use keyward_webhooks::send::{EndpointChallenge, EndpointUrl, WebhookEndpoint};
/// # use keyward_webhooks::WebhookStore;
/// # use keyward_webhooks::sealing::{SealingKey, SealingKeys};
/// # use keyward_webhooks::signature::WebhookSecret;
/// # let keys = SealingKeys::new(SealingKey::new("2026", &[7; 32])?);
/// # let url = EndpointUrl::parse("https://acme.example/hook")?;
/// # let acme = AccountId::parse("acme")?;
/// # let secret = WebhookSecret::random()?;
/// # let endpoint = WebhookEndpoint::new(acme, Environment::LIVE, url, &secret, &keys, SystemTime::now())?;
/// let challenge = EndpointChallenge::new(endpoint)?;
/// let question = challenge.delivery().message().payload().to_vec(); // signed and sent
/// let text = String::from_utf8(question.clone())?;
/// let text = text.split('"').nth(7).expect("it is the challenge").as_bytes();
/// assert!(challenge.clone().answered(200, text).is_ok());
/// assert!(challenge.clone().answered(200, &question).is_err()); // an echo
/// assert!(challenge.answered(401, text).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct EndpointChallenge {
    delivery: DueDelivery,
    text: String,
}

impl EndpointChallenge {
    /// Creates a challenge to an endpoint, whatever its status.
    ///
    /// # Errors
    /// Returns an error if the operating system returns no random bytes.
    pub fn new(endpoint: WebhookEndpoint) -> Result<Self, RandomError> {
        let mut text = "chl_".to_owned();
        Alphabet::Base62.push_random(&mut text, 27)?;
        let message = WebhookMessage::challenge(
            &endpoint,
            WebhookId::random()?,
            &[BEFORE, text.as_bytes(), AFTER].concat(),
        );
        let delivery = DueDelivery::of_challenge(message, endpoint);
        Ok(Self { delivery, text })
    }

    /// Returns the delivery to send.
    #[must_use]
    pub fn delivery(&self) -> &DueDelivery {
        &self.delivery
    }

    /// Checks the response: its status and the first 1 KiB of its body.
    ///
    /// # Errors
    /// Returns the outcome of the attempt if the challenge was not answered.
    pub fn answered(self, status: u16, body: &[u8]) -> Result<AnsweredChallenge, AttemptOutcome> {
        match AttemptOutcome::of_status(status) {
            AttemptOutcome::Delivered if self.text.as_bytes().ct_eq(body.trim_ascii()).into() => {
                Ok(AnsweredChallenge(self.delivery.endpoint().clone()))
            }
            AttemptOutcome::Delivered => Err(AttemptOutcome::Refused),
            outcome => Err(outcome),
        }
    }
}

impl fmt::Debug for EndpointChallenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndpointChallenge")
            .field("endpoint", &self.delivery.endpoint().id())
            .finish_non_exhaustive()
    }
}

/// Proof that an endpoint has answered a challenge. See [`EndpointChallenge::answered`].
#[derive(Clone, Debug)]
pub struct AnsweredChallenge(WebhookEndpoint);

impl AnsweredChallenge {
    /// Returns the id of the endpoint.
    #[must_use]
    pub fn endpoint(&self) -> EndpointId {
        self.0.id()
    }

    /// Records the answer, unless the URL or the secret has changed meanwhile.
    pub(crate) fn note(&self, endpoint: &mut WebhookEndpoint, now: SystemTime) -> bool {
        let same = endpoint.url == self.0.url && endpoint.secret == self.0.secret;
        if same {
            endpoint.verified_at = Some(now);
        }
        same
    }
}

/// Returns the answer to a body, if it is a challenge.
pub(crate) fn answer_to(body: &[u8]) -> Option<&[u8]> {
    let text = body.strip_prefix(BEFORE)?.strip_suffix(AFTER)?;
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    (text.len() <= 64 && text.iter().all(plain)).then_some(text)
}
