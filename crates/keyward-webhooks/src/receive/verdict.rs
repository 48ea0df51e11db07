//! What a receiver has decided, for an adapter to carry out.

use std::sync::Arc;

use keyward::gate::UnreadBody;
use keyward::gate::{BodyDrain, KeyHeaderAction};
use keyward::reply::Reply;

use crate::error::WebhookError;
use crate::receive::{ReplayMemory, WebhookAttempt, WebhookEvent};

/// What to do with a delivery. See [`WebhookReceiver`](crate::receive::WebhookReceiver).
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "an adapter must handle both")]
pub enum WebhookVerdict {
    /// Hand it to the inner service.
    Deliver(WebhookDelivery),
    /// Answer it here; the inner service is not called.
    Answer(WebhookAnswer),
}

/// How to hand a delivery on. See [`WebhookReceiver`](crate::receive::WebhookReceiver).
#[derive(Debug)]
#[non_exhaustive]
pub struct WebhookDelivery {
    /// What to put into the request's extensions.
    pub event: WebhookEvent,
    /// What to do with the field that held an API key.
    pub key_field: KeyHeaderAction,
    /// What to tell the status of the response.
    pub receipt: Receipt,
}

/// How to answer a delivery that is not handed on. See [`WebhookReceiver`](crate::receive::WebhookReceiver).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WebhookAnswer {
    /// What to answer.
    pub reply: Reply,
    /// Why, for the response's extensions; `None` where it has been handled before, or is a challenge.
    pub error: Option<WebhookError>,
    pub(crate) unread: UnreadBody,
}

impl WebhookAnswer {
    /// Permits the adapter to drain the rest of the body, so that the client can read the answer.
    ///
    /// Returns `None` if the connection is to be closed at once: the body has been read to its end, the
    /// client has not begun to send it (`Expect: 100-continue`), or too many bodies are being drained
    /// already. See [`BodyDrain`].
    #[must_use]
    pub fn drain(&self) -> Option<BodyDrain> {
        self.unread.drain()
    }
}

/// The note that a delivery is in hand. See [`WebhookReceiver`](crate::receive::WebhookReceiver).
///
/// Dropped without a conclusion, as when the request is given up, the delivery is forgotten and may
/// come again.
#[derive(Debug)]
#[must_use]
pub struct Receipt(Option<(Arc<dyn ReplayMemory>, WebhookAttempt)>);

impl Receipt {
    /// Of a receiver that remembers nothing.
    pub(crate) fn none() -> Self {
        Self(None)
    }

    pub(crate) fn new(memory: &Arc<dyn ReplayMemory>, attempt: WebhookAttempt) -> Self {
        Self(Some((Arc::clone(memory), attempt)))
    }

    /// The handler has answered with this status: 2xx is handled, all else may come again.
    pub fn conclude(mut self, status: u16) {
        if let Some((memory, attempt)) = self.0.take() {
            memory.conclude(&attempt, (200..300).contains(&status));
        }
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        if let Some((memory, attempt)) = self.0.take() {
            memory.conclude(&attempt, false);
        }
    }
}
