//! A worker that delivers webhooks.

use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::future::{pending, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use bytes::{Buf, Bytes};
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{Request, Response};
use http_body::Body;
use keyward::Actor;
use keyward::admin::AdminError;
use keyward::store::StoreError;
use keyward_webhooks::sealing::SealingKeys;
use keyward_webhooks::send::{
    AnsweredChallenge, AttemptOutcome, Conclusion, DueDelivery, EndpointChallenge, EndpointId,
    EndpointRules, NextStep, RetrySchedule, WebhookEndpoint,
};
use keyward_webhooks::store::OutboxSignal;
use keyward_webhooks::{WebhookAdmin, WebhookStore};
use tower_service::Service;

use crate::webhook::in_flight::{Ended, InFlight};
use crate::{ResolveError, ResolveErrorKind};

/// The number of endpoints that are checked for deletion at a time.
const CHECKED_AT_ONCE: usize = 8;

/// The maximum length of an answer to a challenge, in bytes.
const ANSWER: usize = 1024;

/// A worker that delivers webhooks from the outbox of a store, with retries.
///
/// Each attempt is a POST of the payload with a new signature: the `webhook-id` stays the same, the
/// `webhook-timestamp` changes. A 2xx status is a success, and a 410 disables the endpoint. Any other status,
/// including a redirect, which is not followed, is retried with exponential backoff according to a
/// [`RetrySchedule`], or later if the receiver asks for it with `retry-after`. When the last attempt fails, the
/// delivery is given up, and the log and the list of attempts say so; it is sent again on request
/// ([`WebhookAdmin::redeliver`]).
///
/// The outbox survives the process. A delivery that was in progress when the process was killed is sent again,
/// so a receiver must recognize by the ID what it has already handled.
///
/// ```
/// # use std::convert::Infallible;
/// # use std::sync::Arc;
/// # use bytes::Bytes;
/// # use http::{Request, Response};
/// # use http_body_util::Full;
/// # use keyward::{AccountId, Actor, Environment, KeyAdmin, KeyFormat, KeyScheme};
/// # use keyward_webhooks::{MemoryWebhooks, WebhookAdmin, WebhookMessage};
/// # use keyward_webhooks::send::{AttemptOutcome, EndpointUrl};
/// # use keyward_webhooks::WebhookStore;
/// # use keyward_webhooks::sealing::{SealingKey, SealingKeys};
/// # use keyward_webhooks::signature::WebhookId;
/// # use tower::service_fn;
/// use keyward_tower::WebhookSender;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let store = Arc::new(MemoryWebhooks::new());
/// # let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_")?);
/// # let sealing = SealingKeys::new(SealingKey::new("2026", &[7; 32])?);
/// # let acme = AccountId::parse("acme")?;
/// # let operator = Actor::operator("docs");
/// # KeyAdmin::new(&store, &scheme).open_account(&operator, &acme).await?;
/// # let client = service_fn(async |request: Request<Full<Bytes>>| {
/// #     assert_eq!(request.uri(), "https://acme.example/hook");
/// #     assert_eq!(request.headers()["webhook-id"], "report-17-done");
/// #     Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
/// # });
/// # let live = Environment::LIVE;
/// let webhooks = WebhookAdmin::new(store.clone(), &scheme, sealing.clone());
/// let url = EndpointUrl::parse("https://acme.example/hook")?;
/// let id = webhooks.create_endpoint(&operator, &acme, live, url).await?.endpoint.id();
/// let message = WebhookMessage::new(acme, live, WebhookId::parse("report-17-done")?, "{}")?;
/// webhooks.publish(&operator, message).await?;
///
/// // A service spawns `sender.run()` instead.
/// let sender = WebhookSender::new(client, store, sealing, tokio::time::sleep);
/// assert_eq!(sender.deliver_due().await?, 1);
/// let attempts = webhooks.attempts(&operator, id, None).await?;
/// assert_eq!(attempts[0].outcome, AttemptOutcome::Delivered);
/// # Ok(())
/// # }
/// ```
///
/// # The client
///
/// The client is any tower service of HTTP requests. It must not follow redirects, and it must resolve names
/// through [`PublicOnlyResolver`](crate::PublicOnlyResolver). Otherwise, anyone who can register an endpoint can make
/// the service send requests within its own network (SSRF). `hyper_util`'s client does not follow redirects,
/// and its connector accepts the resolver. The client needs TLS, because live endpoints are `https`.
///
/// The extensions of each request, including the challenge to a new endpoint, hold the [`DueDelivery`]. A layer
/// around the client can use it to add what a receiver expects beside the signature, such as an API key. This
/// function is for `tower`'s `map_request`:
///
/// ```
/// # use http::{HeaderValue, Request};
/// use keyward_webhooks::send::DueDelivery;
///
/// # fn key_for(_: &keyward::AccountId) -> HeaderValue { HeaderValue::from_static("hk_5a8ac1b2c0ae4dd7") }
/// fn with_key<B>(mut request: Request<B>) -> Request<B> {
///     if let Some(due) = request.extensions().get::<DueDelivery>() {
///         let mut key: HeaderValue = key_for(due.endpoint().account());
///         key.set_sensitive(true);
///         request.headers_mut().insert("x-api-key", key);
///     }
///     request
/// }
/// # use keyward::{AccountId, Environment, Store};
/// # use keyward_webhooks::WebhookMessage;
/// # use keyward_webhooks::send::{EndpointUrl, WebhookEndpoint};
/// # use keyward_webhooks::WebhookStore;
/// # use keyward_webhooks::sealing::{SealingKey, SealingKeys};
/// # use keyward_webhooks::signature::{WebhookId, WebhookSecret};
/// # let keys = SealingKeys::new(SealingKey::new("2026", &[7; 32])?);
/// # let (acme, live) = (AccountId::parse("acme")?, Environment::LIVE);
/// # let url = EndpointUrl::parse("https://acme.example/hook")?;
/// # let (secret, now) = (WebhookSecret::random()?, std::time::SystemTime::now());
/// # let endpoint = WebhookEndpoint::new(acme.clone(), live, url, &secret, &keys, now)?;
/// # let message = WebhookMessage::new(acme, live, WebhookId::random()?, "{}")?;
/// # let due = DueDelivery::new(message, endpoint).expect("both are live");
/// # let request = with_key(Request::builder().extension(due).body(())?);
/// assert_eq!(request.headers()["x-api-key"], "hk_5a8ac1b2c0ae4dd7");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// The sender has its own timeouts and retries. `tower`'s `Timeout` and `Retry` do not replace them: a retry
/// may be hours later, in another process, and needs a new signature.
///
/// # Multiple processes
///
/// Any number of senders may share a store. A delivery is claimed for slightly more than two timeouts. After
/// a process is killed, another one takes over its deliveries when that time has passed.
///
/// # Slow and failing endpoints
///
/// Each endpoint has a circuit breaker ([`EndpointHealth`](keyward_webhooks::send::EndpointHealth)). An attempt that times out
/// opens the circuit, and so do five consecutive failures. While the circuit is open, nothing is sent to the
/// endpoint; its deliveries stay due and use up no retries. After a pause, one attempt is made as a probe. If
/// the probe succeeds, the circuit closes; if it fails, the pause doubles, up to eight timeouts.
///
/// Endpoints that have responded share 256 concurrent attempts. All others share another 256, one for each
/// endpoint, and probes share a quarter as many. An endpoint that has responded is therefore not delayed by
/// endpoints that hang, however many there are. A new endpoint may have to wait for a free slot among the
/// others, at most one timeout for each 256 of them.
///
/// An endpoint that begins to hang leaves the first group after a quarter of the timeout. Until then, it can
/// delay others if so many endpoints begin to hang at the same moment that they fill the group: 64 of them,
/// with four attempts each, delay the others by a quarter of the timeout, and 256 by one timeout.
///
/// [`run`](Self::run) keeps the state of the endpoints in memory while they exist. After a restart, it starts
/// without any.
#[derive(Clone)]
#[must_use]
pub struct WebhookSender<C, T> {
    client: C,
    timer: T,
    store: Arc<dyn WebhookStore>,
    sealing: SealingKeys,
    rules: EndpointRules,
    schedule: RetrySchedule,
    timeout: Duration,
    poll_interval: Duration,
    concurrency: usize,
    each: usize,
}

impl<C, T> WebhookSender<C, T> {
    /// Creates a sender for the outbox of `store`.
    ///
    /// `sealing` decrypts the signing secrets. `timer` returns a future that completes after a duration, for
    /// example `tokio::time::sleep`.
    pub fn new(client: C, store: Arc<dyn WebhookStore>, sealing: SealingKeys, timer: T) -> Self {
        Self {
            client,
            timer,
            store,
            sealing,
            rules: EndpointRules::new(),
            schedule: RetrySchedule::default(),
            timeout: Duration::from_secs(15),
            poll_interval: Duration::from_millis(250),
            concurrency: 256,
            each: 4,
        }
    }

    /// Sets the rules for allowed endpoints.
    ///
    /// Use the same rules as for the [`WebhookAdmin`].
    pub fn rules(mut self, rules: EndpointRules) -> Self {
        self.rules = rules;
        self
    }

    /// Sets the retry schedule.
    pub fn schedule(mut self, schedule: RetrySchedule) -> Self {
        self.schedule = schedule;
        self
    }

    /// Sets the timeout of an attempt. The default is 15 seconds.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets how often [`run`](Self::run) polls for due deliveries. The default is 250 ms.
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.poll_interval = interval;
        self
    }

    /// Sets the maximum number of concurrent attempts, in total and per endpoint.
    ///
    /// The defaults are 256 and 4, and the minimum of both is 1. Endpoints that have not responded yet may use
    /// as many attempts again, one each, and probes of failing endpoints a quarter as many.
    pub fn concurrency(mut self, all: usize, each: usize) -> Self {
        self.concurrency = all.max(1);
        self.each = each.max(1);
        self
    }

    fn now(&self) -> SystemTime {
        let now = self.store.replica().clock().unix();
        SystemTime::UNIX_EPOCH
            .checked_add(now)
            .unwrap_or(SystemTime::UNIX_EPOCH)
    }
}

impl<C, T, F> WebhookSender<C, T>
where
    T: Fn(Duration) -> F + Clone + Send + 'static,
    F: Future + Send + 'static,
{
    /// Delivers webhooks as they become due, until the future is dropped.
    ///
    /// Errors of the store are logged and retried. An attempt that is dropped while in progress is repeated
    /// after its claim has expired.
    pub async fn run<B, R>(self) -> Infallible
    where
        C: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
        C::Future: Send,
        C::Error: Into<Box<dyn Error + Send + Sync>>,
        B: From<Bytes> + Send + 'static,
        R: Send + 'static,
    {
        let mut in_flight = InFlight::new(self.timeout);
        let mut failing = false;
        loop {
            // Created before the store is asked, so that nothing is missed in between.
            let news = self.store.outbox_signal().map(OutboxSignal::wait);
            let begun = self.begin(&mut in_flight).await;
            match &begun {
                Err(error) if !failing => {
                    let error: &(dyn Error + 'static) = error;
                    tracing::error!(error, "due webhooks cannot be read from the store");
                }
                Ok(_) if failing => tracing::info!("due webhooks can be read from the store again"),
                _ => {}
            }
            failing = begun.is_err();
            if begun.is_ok_and(|count| count > 0) {
                continue; // There may be more.
            }
            let mut later = pin!((self.timer)(self.poll_interval));
            let mut news = pin!(news);
            let something = poll_fn(|context| {
                let news = news.as_mut().as_pin_mut();
                match news.map_or(Poll::Pending, |news| news.poll(context)) {
                    Poll::Ready(()) => Poll::Ready(()),
                    Poll::Pending => later.as_mut().poll(context).map(drop),
                }
            });
            in_flight.one_or(something).await;
        }
    }

    /// Attempts all due deliveries once, and returns the number of attempts.
    ///
    /// Deliveries to an endpoint whose circuit opens in the meantime stay due.
    ///
    /// # Errors
    /// Returns an error if the store fails. Attempts in progress are dropped and repeated later.
    pub async fn deliver_due<B, R>(&self) -> Result<usize, StoreError>
    where
        C: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
        C::Future: Send,
        C::Error: Into<Box<dyn Error + Send + Sync>>,
        B: From<Bytes> + Send + 'static,
        R: Send + 'static,
    {
        let mut in_flight = InFlight::new(self.timeout);
        let mut count = 0;
        loop {
            count += self.begin(&mut in_flight).await?;
            if in_flight.is_done() {
                return Ok(count);
            }
            in_flight.one_or(pending::<()>()).await;
        }
    }

    /// Verifies that an endpoint works, by sending it a signed challenge.
    ///
    /// If the endpoint answers the challenge, the store marks it as working.
    ///
    /// # Errors
    /// Returns [`Unanswered`](keyward::record::AdminErrorKind::Unanswered) if the endpoint does not answer in time or
    /// answers incorrectly, and the errors of [`WebhookAdmin::challenge`] and [`WebhookAdmin::verify`].
    ///
    /// ```
    /// # use std::convert::Infallible;
    /// # use std::sync::Arc;
    /// # use axum::{Router, body::Body, routing::post};
    /// # use keyward::{AccountId, Actor, Environment, KeyAdmin, KeyFormat, KeyScheme};
    /// # use keyward_webhooks::{MemoryWebhooks, WebhookAdmin};
    /// # use keyward_webhooks::send::EndpointUrl;
    /// # use keyward_webhooks::WebhookReceiver;
    /// # use keyward_webhooks::sealing::{SealingKey, SealingKeys};
    /// # use keyward_webhooks::WebhookVerifier;
    /// # use keyward_tower::{ReceiveWebhookLayer, WebhookSender};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = Arc::new(MemoryWebhooks::new());
    /// # let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_")?);
    /// # let sealing = SealingKeys::new(SealingKey::new("2026", &[7; 32])?);
    /// # let acme = AccountId::parse("acme")?;
    /// # let operator = Actor::operator("docs");
    /// # KeyAdmin::new(&store, &scheme).open_account(&operator, &acme).await?;
    /// # let webhooks = WebhookAdmin::new(store.clone(), &scheme, sealing.clone());
    /// # let url = EndpointUrl::parse("https://acme.example/hook")?;
    /// # let created = webhooks.create_endpoint(&operator, &acme, Environment::LIVE, url).await?;
    /// # let verifier = WebhookVerifier::standard(created.secret.expose_secret())?;
    /// // The receiver answers the challenge itself; the handler is not called.
    /// let layer = ReceiveWebhookLayer::new(WebhookReceiver::builder(verifier).build()?);
    /// let app = Router::<()>::new().route("/hook", post(async || "handled")).layer(layer);
    ///
    /// let sender = WebhookSender::new(app, store, sealing, tokio::time::sleep);
    /// let endpoint = sender.verify_endpoint::<Body, _>(&webhooks, &operator, created.endpoint.id()).await?;
    /// assert!(endpoint.is_working());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn verify_endpoint<B, R>(
        &self,
        webhooks: &WebhookAdmin,
        actor: &Actor,
        id: EndpointId,
    ) -> Result<WebhookEndpoint, AdminError>
    where
        C: Service<Request<B>, Response = Response<R>> + Clone,
        C::Error: Into<Box<dyn Error + Send + Sync>>,
        B: From<Bytes>,
        R: Body,
    {
        let challenge = webhooks.challenge(actor, id).await?;
        let answer = in_time(self.ask(challenge), (self.timer)(self.timeout)).await;
        if let Err(outcome) = &answer {
            let (endpoint, outcome) = (tracing::field::display(id), outcome.as_str());
            tracing::info!(endpoint, outcome, "webhook challenge not answered");
        }
        webhooks.verify(actor, id, answer).await
    }

    async fn ask<B, R>(
        &self,
        challenge: EndpointChallenge,
    ) -> Result<AnsweredChallenge, AttemptOutcome>
    where
        C: Service<Request<B>, Response = Response<R>> + Clone,
        C::Error: Into<Box<dyn Error + Send + Sync>>,
        B: From<Bytes>,
        R: Body,
    {
        let request = self.request(challenge.delivery(), self.now())?;
        let response = call(self.client.clone(), request).await?;
        let (head, body) = response.into_parts();
        let mut body = pin!(body);
        let mut read = Vec::new();
        while let Some(frame) = poll_fn(|context| body.as_mut().poll_frame(context)).await {
            let frame = frame.map_err(|_| AttemptOutcome::Unreachable)?;
            if let Ok(mut data) = frame.into_data() {
                // A longer body is not a valid answer.
                if data.remaining() > ANSWER - read.len() {
                    return Err(AttemptOutcome::Refused);
                }
                read.extend_from_slice(&data.copy_to_bytes(data.remaining()));
            }
        }
        challenge.answered(head.status.as_u16(), &read)
    }

    /// Claims as many deliveries as there is capacity for, starts them, and returns their number.
    async fn begin<B, R>(&self, in_flight: &mut InFlight) -> Result<usize, StoreError>
    where
        C: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
        C::Future: Send,
        C::Error: Into<Box<dyn Error + Send + Sync>>,
        B: From<Bytes> + Send + 'static,
        R: Send + 'static,
    {
        let now = self.now();
        let lease = self
            .timeout
            .saturating_mul(2)
            .saturating_add(Duration::from_secs(1));
        let until = now.checked_add(lease).unwrap_or(now);
        let Some(claim) = in_flight.claim((now, until), self.concurrency, self.each) else {
            return Ok(0);
        };
        let due = in_flight.beside(self.store.claim(claim)).await?;
        let count = due.len();
        for due in due {
            let endpoint = due.endpoint().id();
            in_flight.begin(endpoint, self.now(), self.clone().deliver(due));
        }
        for _ in 0..CHECKED_AT_ONCE {
            let Some(id) = in_flight.health.next_to_check() else {
                break;
            };
            if let Ok(None) = in_flight.beside(self.store.endpoint(id)).await {
                in_flight.health.forget(id);
            }
        }
        Ok(count)
    }

    /// Attempts a delivery, and returns its outcome and the time at which it ended.
    async fn deliver<B, R>(self, due: DueDelivery) -> Ended
    where
        C: Service<Request<B>, Response = Response<R>> + Clone,
        C::Error: Into<Box<dyn Error + Send + Sync>>,
        B: From<Bytes>,
    {
        let began = self.now();
        let answer = match self.request(&due, began) {
            Ok(request) => {
                let over = (self.timer)(self.timeout);
                in_time(call(self.client.clone(), request), over).await
            }
            Err(outcome) => Err(outcome),
        };
        let (outcome, status, retry_after) = match answer {
            Ok(response) => {
                let status = response.status().as_u16();
                let retry_after = response.headers().get(RETRY_AFTER).cloned();
                // The body is not needed, and may be endless.
                (AttemptOutcome::of_status(status), Some(status), retry_after)
            }
            Err(outcome) => (outcome, None, None),
        };
        let retry_after = retry_after.as_ref().map(http::HeaderValue::as_bytes);
        let span = (began, self.now());
        let conclusion = due.conclude(outcome, status, retry_after, span, &self.schedule);
        tell(&due, &conclusion);
        let attempt = conclusion.attempt.clone();
        if let Err(error) = self.store.conclude(conclusion).await {
            let error: &(dyn Error + 'static) = &error;
            tracing::error!(
                error,
                "the outcome of a webhook cannot be stored; the webhook is sent again"
            );
        }
        (attempt, span.1)
    }

    /// Creates the signed request of an attempt.
    fn request<B>(&self, due: &DueDelivery, now: SystemTime) -> Result<Request<B>, AttemptOutcome>
    where
        B: From<Bytes>,
    {
        if !due.is_allowed(&self.rules) {
            return Err(AttemptOutcome::NotPublic);
        }
        let signed = due.sign(&self.sealing, now).map_err(|error| {
            let endpoint = tracing::field::display(due.endpoint().id());
            let error: &(dyn Error + 'static) = &error;
            tracing::error!(
                error,
                endpoint,
                "the signing secret of a webhook endpoint cannot be decrypted"
            );
            AttemptOutcome::NotSendable
        })?;
        let mut request = Request::post(due.endpoint().url.as_str());
        request = request.header(CONTENT_TYPE, due.message().content_type());
        for (name, value) in signed {
            request = request.header(name, value);
        }
        let request = request.extension(due.clone());
        let body = B::from(Bytes::copy_from_slice(due.message().payload()));
        request.body(body).map_err(|_| AttemptOutcome::NotSendable)
    }
}

impl<C, T> fmt::Debug for WebhookSender<C, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookSender")
            .field("rules", &self.rules)
            .field("schedule", &self.schedule)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// Calls the client, and returns the response or the outcome of the failure.
async fn call<C, B, R>(mut client: C, request: Request<B>) -> Result<Response<R>, AttemptOutcome>
where
    C: Service<Request<B>, Response = Response<R>>,
    C::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let ready = poll_fn(|context| client.poll_ready(context));
    ready.await.map_err(|error| outcome_of(&*error.into()))?;
    let answer = client.call(request).await;
    answer.map_err(|error| outcome_of(&*error.into()))
}

/// Waits for the work or for its timeout.
async fn in_time<O>(
    work: impl Future<Output = Result<O, AttemptOutcome>>,
    over: impl Future,
) -> Result<O, AttemptOutcome> {
    let (mut work, mut over) = (pin!(work), pin!(over));
    poll_fn(|context| match work.as_mut().poll(context) {
        Poll::Ready(done) => Poll::Ready(done),
        Poll::Pending => over
            .as_mut()
            .poll(context)
            .map(|_| Err(AttemptOutcome::TimedOut)),
    })
    .await
}

/// Classifies an error of the client. The text is not kept, because it may contain the URL.
fn outcome_of(error: &(dyn Error + 'static)) -> AttemptOutcome {
    let mut next = Some(error);
    while let Some(error) = next {
        let resolving = error.downcast_ref::<ResolveError>();
        if resolving.is_some_and(|error| error.kind() == ResolveErrorKind::NotPublic) {
            return AttemptOutcome::NotPublic;
        }
        next = error.source();
    }
    AttemptOutcome::Unreachable
}

/// Logs the outcome of an attempt, with only the host of the URL.
fn tell(due: &DueDelivery, conclusion: &Conclusion) {
    let endpoint = tracing::field::display(due.endpoint().id());
    let (message, host) = (due.message().id().as_str(), due.endpoint().url.host());
    let (outcome, status) = (
        conclusion.attempt.outcome.as_str(),
        conclusion.attempt.status,
    );
    let attempt = due.attempt();
    match conclusion.next {
        NextStep::Done => tracing::debug!(endpoint, message, host, attempt, "webhook delivered"),
        NextStep::Retry(_) => tracing::info!(
            endpoint,
            message,
            host,
            attempt,
            outcome,
            status,
            "webhook not delivered, retrying later"
        ),
        NextStep::GiveUp => tracing::warn!(
            endpoint,
            message,
            host,
            attempt,
            outcome,
            status,
            "webhook given up"
        ),
        NextStep::Disable => {
            tracing::warn!(
                endpoint,
                host,
                "webhook endpoint responded 410 Gone and was disabled"
            );
        }
    }
}
