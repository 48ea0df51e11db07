//! Messages to deliver.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use keyward::environment::Environment;
use keyward::error::{ParseError, ParseErrorKind};
use keyward::ids::AccountId;

use crate::send::{DueDelivery, WebhookEndpoint};
use crate::signature::WebhookId;

/// The maximum size of a payload in bytes, equal to the receiver's default limit.
const MAX_PAYLOAD: usize = 1 << 20;

/// An event of one account and environment, as signed and delivered.
///
/// ```
/// use keyward::{AccountId, Environment};
/// use keyward_webhooks::WebhookMessage;
/// use keyward_webhooks::signature::WebhookId;
///
/// let acme = AccountId::parse("acme")?;
/// let id = WebhookId::parse("report-17-done")?; // or WebhookId::random()
/// let message = WebhookMessage::new(acme, Environment::LIVE, id, r#"{"type":"report.done"}"#)?;
/// assert_eq!(message.content_type(), "application/json");
/// assert!(!format!("{message:?}").contains("report.done"));
/// # Ok::<(), keyward::error::ParseError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookMessage {
    account: AccountId,
    environment: Environment,
    id: WebhookId,
    content_type: Arc<str>,
    payload: Arc<[u8]>,
    created_at: SystemTime,
}

impl WebhookMessage {
    /// Creates a message with a JSON payload of at most 1 MiB.
    ///
    /// The id must be unique in its account and environment.
    ///
    /// # Errors
    /// Returns an error if the payload is longer.
    pub fn new(
        account: AccountId,
        environment: Environment,
        id: WebhookId,
        payload: impl AsRef<[u8]>,
    ) -> Result<Self, ParseError> {
        let payload = payload.as_ref();
        if payload.len() > MAX_PAYLOAD {
            let kind = ParseErrorKind::TooLong;
            return Err(ParseError::new("webhook payload", kind));
        }
        Ok(Self {
            account,
            environment,
            id,
            content_type: "application/json".into(),
            payload: payload.into(),
            created_at: SystemTime::UNIX_EPOCH,
        })
    }

    /// Creates a challenge, which is short.
    pub(crate) fn challenge(endpoint: &WebhookEndpoint, id: WebhookId, payload: &[u8]) -> Self {
        Self {
            account: endpoint.account().clone(),
            environment: endpoint.environment(),
            id,
            content_type: "application/json".into(),
            payload: payload.into(),
            created_at: SystemTime::UNIX_EPOCH,
        }
    }

    /// Sets another content type: 1 to 100 visible ASCII characters and spaces.
    ///
    /// # Errors
    /// Returns an error if it is malformed.
    pub fn with_content_type(mut self, text: &str) -> Result<Self, ParseError> {
        let error = |kind| Err(ParseError::new("content type", kind));
        let holds = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
        match text.len() {
            0 => error(ParseErrorKind::Empty),
            1..=100 if text.bytes().all(holds) => {
                self.content_type = text.into();
                Ok(self)
            }
            1..=100 => error(ParseErrorKind::Character),
            _ => error(ParseErrorKind::TooLong),
        }
    }

    /// Sets the time of acceptance, for stores.
    #[must_use]
    pub fn accepted_at(mut self, time: SystemTime) -> Self {
        self.created_at = time;
        self
    }

    /// Pairs the message with each enabled endpoint of its account and environment.
    ///
    /// ```
    /// # use std::time::SystemTime;
    /// # use keyward::{AccountId, Environment};
    /// # use keyward_webhooks::WebhookMessage;
    /// # use keyward_webhooks::send::{EndpointUrl, WebhookEndpoint};
    /// # use keyward_webhooks::WebhookStore;
    /// # use keyward_webhooks::sealing::{SealingKey, SealingKeys};
    /// # use keyward_webhooks::signature::{WebhookId, WebhookSecret};
    /// # let keys = SealingKeys::new(SealingKey::new("2026", &[7; 32])?);
    /// # let acme = AccountId::parse("acme")?;
    /// let endpoint = |environment| {
    ///     let url = EndpointUrl::parse("https://acme.example/hook").expect("it is a URL");
    ///     let secret = WebhookSecret::random().expect("there is randomness");
    ///     WebhookEndpoint::new(acme.clone(), environment, url, &secret, &keys, SystemTime::now())
    /// };
    /// let endpoints = [endpoint(Environment::LIVE)?, endpoint(Environment::TEST)?];
    /// let message = WebhookMessage::new(acme.clone(), Environment::TEST, WebhookId::random()?, "{}")?;
    /// let mut deliveries = message.deliverable(endpoints.clone());
    /// assert_eq!(deliveries.next().map(|due| due.endpoint().id()), Some(endpoints[1].id()));
    /// assert!(deliveries.next().is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn deliverable(
        &self,
        endpoints: impl IntoIterator<Item = WebhookEndpoint>,
    ) -> impl Iterator<Item = DueDelivery> {
        let endpoints = endpoints.into_iter();
        endpoints.filter_map(|endpoint| DueDelivery::new(self.clone(), endpoint))
    }

    /// Returns the account of the event.
    #[must_use]
    pub fn account(&self) -> &AccountId {
        &self.account
    }

    /// Returns the environment.
    #[must_use]
    pub fn environment(&self) -> Environment {
        self.environment
    }

    /// Returns the id, the same in every attempt.
    #[must_use]
    pub fn id(&self) -> &WebhookId {
        &self.id
    }

    /// Returns the content type of the payload.
    #[must_use]
    pub fn content_type(&self) -> &str {
        &self.content_type
    }

    /// Returns the signed bytes.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// Returns the time of acceptance.
    #[must_use]
    pub fn created_at(&self) -> SystemTime {
        self.created_at
    }
}

impl fmt::Debug for WebhookMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookMessage")
            .field("account", &self.account)
            .field("environment", &self.environment)
            .field("id", &self.id)
            .field("len", &self.payload.len())
            .finish_non_exhaustive()
    }
}
