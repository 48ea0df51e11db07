//! The verified delivery that a handler receives.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use keyward::reply::Reply;
use serde_core::de::DeserializeOwned;

use crate::error::{WebhookError, WebhookErrorKind};
use crate::signature::{SignedWebhook, WebhookId};

/// A verified delivery with its body, placed in the request's extensions.
///
/// Clones are cheap and share the body. The `VerifiedJson` extractor of an adapter reads it.
///
/// ```
/// # use std::sync::Arc;
/// # use std::time::{Duration, SystemTime};
/// # use keyward::testing::{TestRequest, block_on};
/// # use keyward_webhooks::error::WebhookErrorKind;
/// # use keyward_webhooks::WebhookReceiver;
/// # use keyward_webhooks::receive::{WebhookEvent, WebhookVerdict};
/// # use keyward_webhooks::{WebhookSigner, WebhookVerifier};
/// # use keyward_webhooks::signature::{WebhookId, WebhookSecret};
/// # let secret = WebhookSecret::random()?;
/// # let receiver = WebhookReceiver::builder(WebhookVerifier::standard(secret.expose_secret())?).build()?;
/// # let id = WebhookId::parse("msg_1")?;
/// # let headers = WebhookSigner::new(&secret).headers(&id, SystemTime::now(), b"[1, 2]");
/// # let request = TestRequest::new("POST").headers(headers);
/// # let Ok(awaited) = receiver.check(&request) else { unreachable!() };
/// # let WebhookVerdict::Deliver(delivery) = block_on(awaited.verify(*b"[1, 2]")) else { unreachable!() };
/// # let event: WebhookEvent = delivery.event;
/// assert_eq!(event.id().map(|id| id.as_str()), Some("msg_1"));
/// assert_eq!(event.body(), b"[1, 2]");
/// assert_eq!(event.json::<Vec<u8>>()?, [1, 2]);
/// let error = event.json::<String>().unwrap_err();
/// assert_eq!(error.kind(), WebhookErrorKind::InvalidJson);
/// assert_eq!(event.invalid_json().status(), 400);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct WebhookEvent(Arc<Inner>);

struct Inner {
    signed: SignedWebhook,
    body: Box<dyn AsRef<[u8]> + Send + Sync>,
    invalid_json: Reply,
}

impl WebhookEvent {
    pub(crate) fn new(
        signed: SignedWebhook,
        body: Box<dyn AsRef<[u8]> + Send + Sync>,
        invalid_json: Reply,
    ) -> Self {
        Self(Arc::new(Inner {
            signed,
            body,
            invalid_json,
        }))
    }

    /// Returns the id of the message. See [`SignedWebhook::id`].
    #[must_use]
    pub fn id(&self) -> Option<&WebhookId> {
        self.0.signed.id()
    }

    /// Returns the time at which this attempt was signed; `None` for GitHub.
    #[must_use]
    pub fn timestamp(&self) -> Option<SystemTime> {
        self.0.signed.timestamp()
    }

    /// Returns the signed bytes.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        (*self.0.body).as_ref()
    }

    /// Deserializes the body as JSON.
    ///
    /// # Errors
    /// Returns an error if the body is not JSON, not UTF-8, nested deeper than 128 levels, or not
    /// of this type.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, WebhookError> {
        serde_json::from_slice(self.body()).map_err(|error| {
            // Not the error's text, which may quote the body.
            let (line, column) = (error.line(), error.column());
            tracing::info!(line, column, kind = ?error.classify(), "webhook body is not the expected JSON");
            WebhookError::new(WebhookErrorKind::InvalidJson)
        })
    }

    /// Returns the reply for a body that is not the expected JSON: 400 `invalid_webhook_json`.
    #[must_use]
    pub fn invalid_json(&self) -> &Reply {
        &self.0.invalid_json
    }
}

impl fmt::Debug for WebhookEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookEvent")
            .field("id", &self.id())
            .field("timestamp", &self.timestamp())
            .field("len", &self.body().len())
            .finish_non_exhaustive()
    }
}
