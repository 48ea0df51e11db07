//! Delivers what is due.

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
use keyward::{
    Actor, AdminError, AnsweredChallenge, AttemptOutcome, Conclusion, DeliveryClaim, DueDelivery,
    EndpointChallenge, EndpointId, EndpointRules, NextStep, RetrySchedule, SealingKeys, StoreError,
    WebhookAdmin, WebhookEndpoint, WebhookStore,
};
use tower_service::Service;

use crate::webhook::in_flight::InFlight;
use crate::{ResolveError, ResolveErrorKind};

/// How much of the answer to a challenge is read.
const ANSWER: usize = 1024;

/// Delivers what a store has accepted, through any client that is a service of requests.
///
/// Each attempt is a POST of the payload, signed anew: the same `webhook-id`, its own
/// `webhook-timestamp`. 2xx is a success; 410 switches the endpoint off; anything else, also a redirect,
/// which is not followed, is tried again on a [`RetrySchedule`], or later where the receiver asks for it
/// with `retry-after`. When the last attempt has failed the delivery is given up, which the log and the
/// attempts tell, until its owner asks for it ([`WebhookAdmin::redeliver`]). What is in the store survives the process: a delivery that was under way when it was
/// killed is sent again, so a receiver has to know what it has handled, by the id.
///
/// ```
/// # use std::convert::Infallible;
/// # use std::sync::Arc;
/// # use bytes::Bytes;
/// # use http::{Request, Response};
/// # use http_body_util::Full;
/// # use keyward::*;
/// # use tower::service_fn;
/// use keyward_tower::WebhookSender;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let store = Arc::new(MemoryStore::new());
/// # let format = KeyFormat::new("vhk_{env}_")?;
/// # let sealing = SealingKeys::new(SealingKey::new("2026", &[7; 32])?);
/// # let acme = AccountId::parse("acme")?;
/// # let operator = Actor::operator("docs");
/// # KeyAdmin::new(store.clone(), format.clone()).open_account(&operator, &acme).await?;
/// # let client = service_fn(async |request: Request<Full<Bytes>>| {
/// #     assert_eq!(request.uri(), "https://acme.example/hook");
/// #     assert_eq!(request.headers()["webhook-id"], "report-17-done");
/// #     Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
/// # });
/// # let live = Environment::LIVE;
/// let webhooks = WebhookAdmin::new(store.clone(), format, sealing.clone());
/// let url = EndpointUrl::parse("https://acme.example/hook")?;
/// let id = webhooks.create_endpoint(&operator, &acme, live, url).await?.endpoint.id();
/// let message = WebhookMessage::new(acme, live, WebhookId::parse("report-17-done")?, "{}")?;
/// webhooks.publish(&operator, message).await?;
///
/// // A service runs `sender.run()` for good instead.
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
/// It must not follow redirects, and must resolve names through
/// [`PublicAddresses`](crate::PublicAddresses): otherwise whoever registers an endpoint chooses what the
/// service calls in its own network. `hyper_util`'s client follows none, and its connector takes the
/// resolver. It speaks TLS or not; live endpoints are `https`.
///
/// The request's extensions hold the [`DueDelivery`], also of a challenge, for a layer around the client
/// that adds what the receiver expects beside the signature, such as an API key; here for `tower`'s
/// `map_request`:
///
/// ```
/// # use http::{HeaderValue, Request};
/// use keyward::DueDelivery;
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
/// # use keyward::*;
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
/// Timeouts and retries are the sender's own. `tower`'s `Timeout` needs tokio, and ends at the head of the
/// response; its `Retry` repeats the same request within one process, where a delivery is signed anew,
/// hours later, by whichever process is there.
///
/// # Many processes
///
/// Any number of senders may share a store. A delivery is claimed for a little more than two timeouts:
/// that long after a process is killed, another one takes it up.
///
/// # Slow endpoints
///
/// To one endpoint goes a handful of attempts at once. One that takes a quarter of the timeout or more
/// counts as slow for ten timeouts: to such endpoints goes one attempt at a time, and to all of them
/// together no more than a quarter of what may be under way. So those that hang hold up others only when
/// they begin to, and for a timeout.
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
    /// Sends through this client what is in this store, signed with secrets that these keys open.
    ///
    /// The timer gives a future that is ready after so long, such as `tokio::time::sleep`.
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
            concurrency: 32,
            each: 4,
        }
    }

    /// Sends only where these rules allow: the same as those of the [`WebhookAdmin`].
    pub fn rules(mut self, rules: EndpointRules) -> Self {
        self.rules = rules;
        self
    }

    /// Tries again on this schedule.
    pub fn schedule(mut self, schedule: RetrySchedule) -> Self {
        self.schedule = schedule;
        self
    }

    /// How long an attempt may take; 15 seconds unless said otherwise.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How often [`run`](Self::run) looks for what is due; four times a second unless said otherwise.
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.poll_interval = interval;
        self
    }

    /// How many attempts are under way at once, 32, and how many of them to one endpoint, 4.
    ///
    /// At least one.
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
    /// Delivers what is due, and what becomes due, for good. Drop the future to stop.
    ///
    /// What the store cannot do is logged, and tried again. An attempt that is dropped half-way is made
    /// again when its claim is over.
    pub async fn run<B, R>(self) -> Infallible
    where
        C: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
        C::Future: Send,
        C::Error: Into<Box<dyn Error + Send + Sync>>,
        B: From<Bytes> + Send + 'static,
        R: Send + 'static,
    {
        let mut in_flight = InFlight::default();
        let mut failing = false;
        loop {
            let begun = self.begin(&mut in_flight).await;
            match &begun {
                Err(error) if !failing => {
                    let error: &(dyn Error + 'static) = error;
                    tracing::error!(error, "the webhooks that are due cannot be read");
                }
                Ok(_) if failing => tracing::info!("the webhooks that are due can be read again"),
                _ => {}
            }
            failing = begun.is_err();
            in_flight.one_or((self.timer)(self.poll_interval)).await;
        }
    }

    /// Delivers what is due, waits until all of it has been attempted, and tells how many attempts.
    ///
    /// # Errors
    /// When the store cannot answer; what is under way is dropped then, and made again later.
    pub async fn deliver_due<B, R>(&self) -> Result<usize, StoreError>
    where
        C: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
        C::Future: Send,
        C::Error: Into<Box<dyn Error + Send + Sync>>,
        B: From<Bytes> + Send + 'static,
        R: Send + 'static,
    {
        let mut in_flight = InFlight::default();
        let mut count = 0;
        loop {
            count += self.begin(&mut in_flight).await?;
            if in_flight.is_done() {
                return Ok(count);
            }
            in_flight.one_or(pending::<()>()).await;
        }
    }

    /// Asks an endpoint to show that it works: it answers a signed challenge, and that is noted.
    ///
    /// # Errors
    /// [`Unanswered`](keyward::AdminErrorKind::Unanswered) when it does not answer in time, or not as it
    /// should; and as [`WebhookAdmin::challenge`] and [`WebhookAdmin::verify`].
    ///
    /// ```
    /// # use std::convert::Infallible;
    /// # use std::sync::Arc;
    /// # use axum::{Router, body::Body, routing::post};
    /// # use keyward::*;
    /// # use keyward_tower::{ReceiveWebhookLayer, WebhookSender};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = Arc::new(MemoryStore::new());
    /// # let format = KeyFormat::new("vhk_{env}_")?;
    /// # let sealing = SealingKeys::new(SealingKey::new("2026", &[7; 32])?);
    /// # let acme = AccountId::parse("acme")?;
    /// # let operator = Actor::operator("docs");
    /// # KeyAdmin::new(store.clone(), format.clone()).open_account(&operator, &acme).await?;
    /// # let webhooks = WebhookAdmin::new(store.clone(), format, sealing.clone());
    /// # let url = EndpointUrl::parse("https://acme.example/hook")?;
    /// # let created = webhooks.create_endpoint(&operator, &acme, Environment::LIVE, url).await?;
    /// # let verifier = WebhookVerifier::standard(created.secret.expose_secret())?;
    /// // The receiver answers by itself; the handler is not called.
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
            tracing::info!(endpoint, outcome, "a webhook challenge was not answered");
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
                // A longer one is no answer.
                if data.remaining() > ANSWER - read.len() {
                    return Err(AttemptOutcome::Refused);
                }
                read.extend_from_slice(&data.copy_to_bytes(data.remaining()));
            }
        }
        challenge.answered(head.status.as_u16(), &read)
    }

    /// Claims as many as there is room for, begins to deliver them, and tells how many.
    async fn begin<B, R>(&self, in_flight: &mut InFlight) -> Result<usize, StoreError>
    where
        C: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
        C::Future: Send,
        C::Error: Into<Box<dyn Error + Send + Sync>>,
        B: From<Bytes> + Send + 'static,
        R: Send + 'static,
    {
        in_flight.look(self.now());
        let room = in_flight.room(self.concurrency);
        let quick = self.claim(in_flight, room, self.each).await?;
        let room = in_flight.slow_room(self.concurrency);
        Ok(quick + self.claim(in_flight, room, 1).await?)
    }

    async fn claim<B, R>(
        &self,
        in_flight: &mut InFlight,
        (limit, busy): (usize, Vec<EndpointId>),
        each: usize,
    ) -> Result<usize, StoreError>
    where
        C: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
        C::Future: Send,
        C::Error: Into<Box<dyn Error + Send + Sync>>,
        B: From<Bytes> + Send + 'static,
        R: Send + 'static,
    {
        if limit == 0 {
            return Ok(0);
        }
        let now = self.now();
        let lease = self
            .timeout
            .saturating_mul(2)
            .saturating_add(Duration::from_secs(1));
        let claim = DeliveryClaim {
            now,
            until: now.checked_add(lease).unwrap_or(now),
            limit,
            each,
            busy,
        };
        let due = in_flight.beside(self.store.claim(claim)).await?;
        let count = due.len();
        for due in due {
            let endpoint = due.endpoint().id();
            in_flight.begin(endpoint, Box::pin(self.clone().deliver(due)));
        }
        Ok(count)
    }

    /// Tells until when the endpoint counts as slow, if it does.
    async fn deliver<B, R>(self, due: DueDelivery) -> Option<SystemTime>
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
                // The body is of no interest, and may have no end.
                (AttemptOutcome::of_status(status), Some(status), retry_after)
            }
            Err(outcome) => (outcome, None, None),
        };
        let retry_after = retry_after.as_ref().map(http::HeaderValue::as_bytes);
        let span = (began, self.now());
        let conclusion = due.conclude(outcome, status, retry_after, span, &self.schedule);
        tell(&due, &conclusion);
        if let Err(error) = self.store.conclude(conclusion).await {
            let error: &(dyn Error + 'static) = &error;
            tracing::error!(
                error,
                "what came of a webhook cannot be kept, it is sent again"
            );
        }
        let (began, ended) = span;
        let took = ended.duration_since(began).unwrap_or_default();
        let is_slow = outcome == AttemptOutcome::TimedOut || took >= self.timeout / 4;
        let until = ended.checked_add(self.timeout.saturating_mul(10));
        until.filter(|_| is_slow)
    }

    /// An attempt, signed, or why there can be none.
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
                "the secret of an endpoint cannot be opened"
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

/// The head of the response, or what came of it instead.
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

/// What comes of it, or that it takes too long.
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

/// What an error of the client means. Its text is not kept: it may quote the URL.
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

/// Of the URL the log gets the host.
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
            "webhook not delivered, it is tried again"
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
        NextStep::SwitchOff => {
            tracing::warn!(endpoint, host, "an endpoint is gone, and switched off");
        }
    }
}
