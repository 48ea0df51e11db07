//! The receiver, which decides about each delivery.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use keyward::clock::Clock;
use keyward::gate::{KeyHeaderAction, UnreadBody};
use keyward::log_limit::{LogLimit, Unlogged};
use keyward::reply::Reply;
use keyward::request::{KeyLocation, RequestHead, trim};
use tracing::Level;

use crate::error::code::ReceiverReplies;
use crate::error::{WebhookError, WebhookErrorCode, WebhookErrorKind};
use crate::receive::builder::ExpectedKeys;
use crate::receive::{
    Receipt, ReplayMemory, ReplayStatus, WebhookAnswer, WebhookAttempt, WebhookDelivery,
    WebhookEvent, WebhookReceiverBuilder, WebhookVerdict,
};
use crate::send::challenge::answer_to;
use crate::signature::WebhookVerifier;
use crate::signature::scheme::Claim;

/// Verifies the deliveries of one sender before a handler sees them.
///
/// Clones are cheap and share the same receiver. It checks, in this order:
///
/// 1. exactly the expected [API key](WebhookReceiverBuilder::api_key), if one is expected (401,
///    400);
/// 2. a signature, its id and its timestamp, each present once and well formed (401, 400);
/// 3. a timestamp that is at most 300 seconds off (401);
/// 4. a body within its size limit (413) and deadline (408), and all bodies in transit within
///    theirs (503);
/// 5. a signature of the body under one of the secrets (401);
/// 6. a delivery that is neither being handled nor has been handled before (409).
///
/// A refusal looks like this, unless [`Replies`](keyward::reply::Replies) change the format. Over
/// HTTP/1 it has `connection: close` if the body was not read to its end:
///
/// ```text
/// HTTP/1.1 401 Unauthorized
/// cache-control: no-store
/// content-type: application/problem+json
/// www-authenticate: WebhookSignature realm="webhook"
///
/// {"type":"about:blank","title":"Unauthorized","status":401,"detail":"The signature does not match the body. Check the secret, and sign the bytes that are sent.","code":"invalid_webhook_signature"}
/// ```
///
/// # Challenges
///
/// A sender built with keyward asks a new endpoint to prove that it works: see
/// [`EndpointChallenge`](crate::send::EndpointChallenge). The receiver answers by itself, once the
/// signature has been verified: 200, with the challenge as the body. The handler never sees it.
///
/// # Replays and retries
///
/// A delivery is recorded when its handler is called. If the handler does not answer 2xx, or the
/// request is dropped, it is forgotten: the sender's next attempt gets through, and a handler that
/// was dropped halfway sees it again. While a delivery is being handled, a second one is a 409.
/// Once it has been handled, the same bytes again are a replay, 409. A *later* attempt of the same
/// message, signed again, means that the sender has not seen our response: it gets a 204 without
/// the handler, so that the sender stops retrying.
///
/// Stripe and GitHub do not sign an id. For them the signature is recorded instead, and a later
/// attempt by Stripe reaches the handler, which should look at the `id` in the body.
/// Stripe reaches the handler: it should look at the `id` in the body.
///
/// ```
/// # use std::time::SystemTime;
/// # use keyward::gate::Check;
/// # use keyward_webhooks::WebhookStore;
/// # use keyward::testing::{TestRequest, block_on};
/// # use keyward_webhooks::WebhookReceiver;
/// # use keyward_webhooks::receive::WebhookVerdict;
/// # use keyward_webhooks::{WebhookSigner, WebhookVerifier};
/// # use keyward_webhooks::signature::{WebhookId, WebhookSecret};
/// let secret = WebhookSecret::random()?; // the sender's
/// let verifier = WebhookVerifier::standard(secret.expose_secret())?;
/// let receiver = WebhookReceiver::builder(verifier).build()?;
///
/// // What an adapter does with it:
/// let headers = WebhookSigner::new(&secret).headers(&WebhookId::random()?, SystemTime::now(), b"{}");
/// let request = TestRequest::new("POST").headers(headers);
/// let mut awaited = receiver.check(&request).expect("the headers are valid");
/// let _ = awaited.time_left(); // the deadline for reading the body
/// awaited.receive(2).expect("it is within the limit"); // for each chunk that arrives
/// match block_on(awaited.verify(*b"{}")) {
///     WebhookVerdict::Deliver(delivery) => {
///         assert_eq!(delivery.event.body(), b"{}"); // put into the extensions
///         // The inner service is called here.
///         delivery.receipt.conclude(204);
///     }
///     WebhookVerdict::Answer(answer) => panic!("{answer:?}"),
/// }
///
/// let Err(answer) = receiver.check(&TestRequest::new("POST")) else { unreachable!() };
/// assert_eq!(answer.reply.status(), 401);
///
/// let awaited = receiver.check(&request).expect("the headers are valid");
/// let WebhookVerdict::Answer(replay) = block_on(awaited.verify(*b"{}")) else { unreachable!() };
/// assert_eq!(replay.reply.status(), 409);
/// # let awaited = receiver.check(&request).expect("the headers are valid");
/// # let WebhookVerdict::Answer(wrong) = block_on(awaited.verify(*b"{ }")) else { unreachable!() };
/// # let mut shown = wrong.reply.headers().map(|(name, value)| format!("{name}: {value}"));
/// # assert_eq!(shown.next().as_deref(), Some("cache-control: no-store"));
/// # assert_eq!(shown.next().as_deref(), Some("content-type: application/problem+json"));
/// # assert_eq!(shown.next().as_deref(), Some(r#"www-authenticate: WebhookSignature realm="webhook""#));
/// # assert_eq!((wrong.reply.status(), shown.next()), (401, None));
/// # assert_eq!(wrong.reply.body(), br#"{"type":"about:blank","title":"Unauthorized","status":401,"detail":"The signature does not match the body. Check the secret, and sign the bytes that are sent.","code":"invalid_webhook_signature"}"#);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct WebhookReceiver {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) verifier: WebhookVerifier,
    pub(crate) keys: ExpectedKeys,
    pub(crate) memory: Option<Arc<dyn ReplayMemory>>,
    pub(crate) limit: usize,
    pub(crate) total_limit: usize,
    /// The number of bytes that have arrived of bodies in transit.
    pub(crate) under_way: AtomicUsize,
    pub(crate) log: LogLimit,
    pub(crate) timeout: Duration,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) rendered: ReceiverReplies,
    pub(crate) known: Reply,
}

impl WebhookReceiver {
    /// Creates a builder for a receiver that uses this verifier.
    pub fn builder(verifier: WebhookVerifier) -> WebhookReceiverBuilder {
        WebhookReceiverBuilder::new(verifier)
    }

    /// Returns the locations at which the expected API key may be.
    ///
    /// There are none if no key is expected. [`KeyHeaderAction`] refers to one by its index.
    ///
    /// ```
    /// use keyward::KeyLocation;
    /// use keyward_webhooks::{WebhookReceiver, WebhookVerifier};
    ///
    /// let verifier = WebhookVerifier::standard("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")?;
    /// let receiver = WebhookReceiver::builder(verifier);
    /// let receiver = receiver.api_key(KeyLocation::x_api_key(), "the sender's key")?.build()?;
    /// assert_eq!(receiver.locations(), [KeyLocation::x_api_key()]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn locations(&self) -> &[KeyLocation] {
        self.inner.keys.locations()
    }

    /// Decides from the head of a request whether to read its body.
    ///
    /// # Errors
    /// Returns the answer to send if the body is not needed.
    pub fn check<R: RequestHead>(&self, head: &R) -> Result<AwaitedBody, WebhookAnswer> {
        let read = || {
            let key_header = self.inner.keys.check(head)?;
            let claim = self.inner.verifier.read(head, self.now())?;
            let length = head.values("content-length").map(trim);
            let mut length = length.filter_map(|text| std::str::from_utf8(text).ok()?.parse().ok());
            if length.any(|length: u128| length > self.inner.limit as u128) {
                return Err(WebhookError::new(WebhookErrorKind::TooLarge));
            }
            Ok((key_header, claim))
        };
        let unread = UnreadBody::of(head);
        let (key_header, claim) = read().map_err(|error| self.refuse_before(unread, error))?;
        Ok(AwaitedBody {
            arrived: Arrived {
                receiver: self.clone(),
                bytes: 0,
            },
            until: self.inner.clock.boot().saturating_add(self.inner.timeout),
            unread: unread.asked_for(),
            key_header,
            claim,
        })
    }

    fn now(&self) -> SystemTime {
        let now = SystemTime::UNIX_EPOCH.checked_add(self.inner.clock.unix());
        now.unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// Refuses a delivery before the end of its body.
    ///
    /// The rest of the body must not be taken for the next request, nor be read for as long as the
    /// client likes.
    fn refuse_before(&self, unread: UnreadBody, error: WebhookError) -> WebhookAnswer {
        let mut answer = self.refuse(error);
        if unread != UnreadBody::None {
            answer.reply.push_header("connection", "close".to_owned());
        }
        answer.unread = unread;
        answer
    }

    fn refuse(&self, error: WebhookError) -> WebhookAnswer {
        let code = error.kind().code();
        self.log(error);
        WebhookAnswer {
            reply: self.inner.rendered.of(code),
            error: Some(error),
            unread: UnreadBody::None,
        }
    }
}

impl WebhookReceiver {
    /// Logs a refusal.
    ///
    /// Kinds that any client can cause are logged at most ten times a minute each, so that a sender
    /// that repeats itself, or an attacker that replays deliveries, cannot fill the disk. The next
    /// line has the number of omitted ones as `unlogged`.
    fn log(&self, error: WebhookError) {
        let (code, reason) = (error.kind().code().as_str(), tracing::field::display(error));
        let is_told = matches!(
            error.kind(),
            WebhookErrorKind::Replayed | WebhookErrorKind::InProgress | WebhookErrorKind::Crowded
        );
        if !is_told {
            // Any client can cause these, as often as it likes.
            return tracing::debug!(code, reason, "webhook refused");
        }
        if !tracing::enabled!(Level::WARN) {
            return;
        }
        let now = self.inner.clock.boot();
        let Some(Unlogged(unlogged)) = self.inner.log.admit(error.kind(), now) else {
            return;
        };
        if error.kind() == WebhookErrorKind::Crowded {
            let limit = self.inner.total_limit;
            tracing::warn!(code, reason, unlogged, limit, "webhook refused");
        } else {
            tracing::info!(code, reason, unlogged, "webhook refused");
        }
    }
}

impl fmt::Debug for WebhookReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookReceiver")
            .field("verifier", &self.inner.verifier)
            .field("memory", &self.inner.memory)
            .field("limit", &self.inner.limit)
            .finish_non_exhaustive()
    }
}

/// A request with an acceptable head, whose body is to be read.
///
/// Report each chunk as it arrives, and stop reading at the first answer. See [`WebhookReceiver`].
#[must_use]
pub struct AwaitedBody {
    arrived: Arrived,
    /// The deadline, by the clock's `boot`.
    until: Duration,
    unread: UnreadBody,
    key_header: KeyHeaderAction,
    claim: Claim,
}

/// The bytes of a body in transit, as long as they count.
struct Arrived {
    receiver: WebhookReceiver,
    bytes: usize,
}

impl Arrived {
    fn add(&mut self, bytes: usize) -> Result<(), WebhookErrorKind> {
        let inner = &*self.receiver.inner;
        if bytes > inner.limit.saturating_sub(self.bytes) {
            return Err(WebhookErrorKind::TooLarge);
        }
        let add = |all: usize| {
            all.checked_add(bytes)
                .filter(|all| *all <= inner.total_limit)
        };
        let added = inner
            .under_way
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        added.map_err(|_| WebhookErrorKind::Crowded)?;
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Arrived {
    fn drop(&mut self) {
        let under_way = &self.receiver.inner.under_way;
        under_way.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl AwaitedBody {
    /// Returns the time left to read the body; after that, answer [`too_slow`](Self::too_slow).
    #[must_use]
    pub fn time_left(&self) -> Duration {
        let now = self.arrived.receiver.inner.clock.boot();
        self.until.saturating_sub(now)
    }

    /// Counts bytes that have arrived. Call it before storing them.
    ///
    /// # Errors
    /// Returns the answer to send instead of reading on: 413 `webhook_too_large`, 408
    /// `webhook_timeout`, or 503 `webhook_unavailable` if too much is in transit.
    pub fn receive(&mut self, bytes: usize) -> Result<(), WebhookAnswer> {
        let received = if self.time_left().is_zero() {
            Err(WebhookErrorKind::TooSlow)
        } else {
            self.arrived.add(bytes)
        };
        received.map_err(|kind| self.answer(kind))
    }

    /// Returns the answer for a body that takes too long: 408 `webhook_timeout`.
    #[must_use]
    pub fn too_slow(&self) -> WebhookAnswer {
        self.answer(WebhookErrorKind::TooSlow)
    }

    /// Returns the answer if no timer can be created: 503 `webhook_unavailable`.
    ///
    /// Without a timer, waiting for the body would have no deadline.
    #[must_use]
    pub fn no_timer(&self) -> WebhookAnswer {
        self.answer(WebhookErrorKind::NoTimer)
    }

    /// Returns the answer for a body that ends early: 400 `malformed_webhook`.
    #[must_use]
    pub fn unreadable(&self) -> WebhookAnswer {
        self.answer(WebhookErrorKind::Unreadable)
    }

    fn answer(&self, kind: WebhookErrorKind) -> WebhookAnswer {
        let receiver = &self.arrived.receiver;
        receiver.refuse_before(self.unread, WebhookError::new(kind))
    }

    /// Verifies the complete request. The future owns all it needs.
    pub fn verify(
        self,
        body: impl AsRef<[u8]> + Send + Sync + 'static,
    ) -> Pin<Box<dyn Future<Output = WebhookVerdict> + Send>> {
        Box::pin(self.decide(Box::new(body)))
    }

    async fn decide(self, body: Box<dyn AsRef<[u8]> + Send + Sync>) -> WebhookVerdict {
        let Self {
            arrived,
            key_header,
            claim,
            ..
        } = self;
        let receiver = &arrived.receiver;
        let inner = &*receiver.inner;
        let bytes = (*body).as_ref();
        let refuse = |kind| WebhookVerdict::Answer(receiver.refuse(WebhookError::new(kind)));
        if bytes.len() > inner.limit {
            return refuse(WebhookErrorKind::TooLarge);
        }
        let signed = match inner.verifier.prove(claim, bytes) {
            Ok(signed) => signed,
            Err(error) => return refuse(error.kind()),
        };
        // Answering a challenge again does no harm, so it is not recorded.
        if let Some(text) = answer_to(bytes).filter(|_| signed.id().is_some()) {
            let mut reply = Reply::new(200, text.to_vec());
            reply.push_shared_header("content-type", "text/plain".to_owned());
            return WebhookVerdict::Answer(WebhookAnswer {
                reply,
                error: None,
                unread: UnreadBody::None,
            });
        }
        let attempt = WebhookAttempt::new(&signed.replay_key(), signed.timestamp());
        let mut receipt = Receipt::none();
        if let Some(memory) = &inner.memory {
            let now = receiver.now();
            // A timestamp ahead by the tolerance stays valid for twice the tolerance.
            let until = now.checked_add(inner.verifier.tolerance() * 2 + Duration::from_secs(1));
            match memory.begin(&attempt, now, until.unwrap_or(now)).await {
                Ok(ReplayStatus::New) => receipt = Receipt::new(memory, attempt),
                Ok(ReplayStatus::InProgress) => return refuse(WebhookErrorKind::InProgress),
                Ok(ReplayStatus::Handled(at)) if at >= signed.timestamp() => {
                    return refuse(WebhookErrorKind::Replayed);
                }
                Ok(ReplayStatus::Handled(_)) => {
                    tracing::debug!("a webhook that was already handled was delivered again");
                    return WebhookVerdict::Answer(WebhookAnswer {
                        reply: inner.known.clone(),
                        error: None,
                        unread: UnreadBody::None,
                    });
                }
                Err(error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "the replay memory failed"
                    );
                    return refuse(WebhookErrorKind::Unavailable);
                }
            }
        }
        let invalid_json = inner.rendered.of(WebhookErrorCode::InvalidWebhookJson);
        WebhookVerdict::Deliver(WebhookDelivery {
            event: WebhookEvent::new(signed, body, invalid_json),
            key_header,
            receipt,
        })
    }
}

impl fmt::Debug for AwaitedBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwaitedBody")
            .field("arrived", &self.arrived.bytes)
            .finish_non_exhaustive()
    }
}
