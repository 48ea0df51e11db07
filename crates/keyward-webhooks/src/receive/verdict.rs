//! The receiver's decision, for an adapter to carry out.

use std::sync::Arc;

use keyward::gate::UnreadBody;
use keyward::gate::{BodyDrain, KeyHeaderAction};
use keyward::reply::Reply;

use crate::error::WebhookError;
use crate::receive::{ReplayMemory, WebhookAttempt, WebhookEvent};

/// The decision about a delivery. See [`WebhookReceiver`](crate::receive::WebhookReceiver).
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "an adapter must handle both")]
pub enum WebhookVerdict {
    /// Pass the request to the inner service.
    Deliver(WebhookDelivery),
    /// Answer the request without calling the inner service.
    Answer(WebhookAnswer),
}

/// A verified delivery to pass on. See [`WebhookReceiver`](crate::receive::WebhookReceiver).
#[derive(Debug)]
#[non_exhaustive]
pub struct WebhookDelivery {
    /// The event to put into the request's extensions.
    pub event: WebhookEvent,
    /// The change to the header that held an API key.
    pub key_header: KeyHeaderAction,
    /// The receipt, which must be told the status of the response.
    pub receipt: Receipt,
}

/// An answer to a delivery that is not passed on. See
/// [`WebhookReceiver`](crate::receive::WebhookReceiver).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WebhookAnswer {
    /// The reply to send.
    pub reply: Reply,
    /// The reason, for the response's extensions; `None` for a repeated delivery or a challenge.
    pub error: Option<WebhookError>,
    pub(crate) unread: UnreadBody,
}

impl WebhookAnswer {
    /// Permits the adapter to drain the rest of the body.
    ///
    /// Draining lets the client read the answer. Returns `None` if the connection must be closed at
    /// once: the body has been read to its end, the client has not begun to send it (`Expect:
    /// 100-continue`), or too many bodies are being drained already. See [`BodyDrain`].
    #[must_use]
    pub fn drain(&self) -> Option<BodyDrain> {
        self.unread.drain()
    }
}

/// The record that a delivery is being handled. See
/// [`WebhookReceiver`](crate::receive::WebhookReceiver).
///
/// If it is dropped without a conclusion, for instance because the request is dropped, the delivery
/// is forgotten and may be sent again.
#[derive(Debug)]
#[must_use]
pub struct Receipt(Option<(Arc<dyn ReplayMemory>, WebhookAttempt)>);

impl Receipt {
    /// Creates the receipt of a receiver without replay memory.
    pub(crate) fn none() -> Self {
        Self(None)
    }

    pub(crate) fn new(memory: &Arc<dyn ReplayMemory>, attempt: WebhookAttempt) -> Self {
        Self(Some((Arc::clone(memory), attempt)))
    }

    /// Reports the status of the handler: 2xx means handled, any other lets the sender retry.
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
