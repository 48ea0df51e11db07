//! What the tests of webhooks that go out share: a service with two accounts, and a client that answers
//! as it is told.

use std::collections::HashMap;
use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use keyward::clock::{Clock, ManualClock};
use keyward::request::RequestHead;
use keyward::{AccountId, Actor, Environment, KeyAdmin, KeyFormat, KeyScheme, Permission};
use keyward_sqlite::SqliteOptions;
use keyward_tower::WebhookSender;
use keyward_webhooks::sealing::{SealingKey, SealingKeys};
use keyward_webhooks::send::{DueDelivery, EndpointId, EndpointUrl};
use keyward_webhooks::signature::{WebhookId, WebhookSecret};
use keyward_webhooks::{MemoryWebhooks, WebhookAdmin, WebhookMessage, WebhookStore};
use tower::util::BoxCloneSyncService;
use tower::{BoxError, service_fn};

pub(crate) const NOW: Duration = Duration::from_secs(1_700_000_000);
pub(crate) const LIVE: Environment = Environment::LIVE;
pub(crate) const TEST: Environment = Environment::TEST;

/// A service that sends webhooks.
pub(crate) struct World {
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) store: Arc<dyn WebhookStore>,
    pub(crate) keys: KeyAdmin,
    pub(crate) webhooks: WebhookAdmin,
    pub(crate) operator: Actor,
    pub(crate) user: Actor,
    pub(crate) acme: AccountId,
}

impl World {
    /// One over each store.
    pub(crate) async fn all() -> [Self; 2] {
        [Self::in_memory().await, Self::in_sqlite().await]
    }

    pub(crate) async fn in_memory() -> Self {
        let clock = Arc::new(ManualClock::at(NOW));
        let store = MemoryWebhooks::with_clock(Arc::clone(&clock) as Arc<dyn Clock>);
        Self::over(clock, Arc::new(store)).await
    }

    pub(crate) async fn in_sqlite() -> Self {
        let clock = Arc::new(ManualClock::at(NOW));
        // The folder stays: `scripts/test` looks for secrets in it.
        let folder = tempfile::tempdir().unwrap().keep();
        let options = SqliteOptions::new().clock(Arc::clone(&clock) as Arc<dyn Clock>);
        let store = options.open(folder.join("keys.db")).unwrap();
        Self::over(clock, Arc::new(store)).await
    }

    pub(crate) async fn over(clock: Arc<ManualClock>, store: Arc<dyn WebhookStore>) -> Self {
        let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_").unwrap());
        let keys = KeyAdmin::new(&store, &scheme);
        let webhooks = WebhookAdmin::new(Arc::clone(&store), &scheme, sealing());
        let operator = Actor::operator("ops");
        for id in ["acme", "other"] {
            let id = AccountId::parse(id).unwrap();
            keys.open_account(&operator, &id).await.unwrap();
        }
        let acme = AccountId::parse("acme").unwrap();
        let user = Actor::user("ann", acme.clone(), Permission::ALL);
        Self {
            clock,
            store,
            keys,
            webhooks,
            operator,
            user,
            acme,
        }
    }

    /// A live endpoint at this URL, and its secret.
    pub(crate) async fn endpoint(&self, at: &str) -> (EndpointId, WebhookSecret) {
        self.endpoint_of("acme", LIVE, at).await
    }

    pub(crate) async fn endpoint_of(
        &self,
        account: &str,
        environment: Environment,
        at: &str,
    ) -> (EndpointId, WebhookSecret) {
        let account = AccountId::parse(account).unwrap();
        let create = self
            .webhooks
            .create_endpoint(&self.operator, &account, environment, url(at));
        let created = create.await.unwrap();
        (created.endpoint.id(), created.secret)
    }

    pub(crate) async fn publish(&self, payload: &str) -> WebhookId {
        self.publish_in("acme", LIVE, payload).await
    }

    pub(crate) async fn publish_in(
        &self,
        account: &str,
        environment: Environment,
        payload: &str,
    ) -> WebhookId {
        let account = AccountId::parse(account).unwrap();
        let id = WebhookId::random().unwrap();
        let message = WebhookMessage::new(account, environment, id.clone(), payload);
        let published = self.webhooks.publish(&self.operator, message.unwrap());
        published.await.unwrap();
        id
    }

    /// A sender whose timeouts never come.
    pub(crate) fn sender(&self, client: &Client) -> WebhookSender<Service, impl Timer> {
        let never = |_| pending::<()>();
        WebhookSender::new(client.service(), Arc::clone(&self.store), sealing(), never)
    }

    /// The same by tokio's clock.
    pub(crate) fn timed_sender(&self, client: &Client) -> WebhookSender<Service, impl Timer> {
        let store = Arc::clone(&self.store);
        WebhookSender::new(client.service(), store, sealing(), |length| {
            Box::pin(tokio::time::sleep(length))
                as std::pin::Pin<Box<dyn Future<Output = ()> + Send>>
        })
    }

    pub(crate) fn pass(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    pub(crate) fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.clock.unix()
    }
}

/// What `WebhookSender` asks of a timer.
pub(crate) trait Timer: Fn(Duration) -> Self::Wait + Clone + Send + 'static {
    type Wait: Future<Output = ()> + Send + 'static;
}

impl<T, F> Timer for T
where
    T: Fn(Duration) -> F + Clone + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    type Wait = F;
}

pub(crate) type Service =
    BoxCloneSyncService<Request<Full<Bytes>>, Response<Full<Bytes>>, BoxError>;

/// What a receiver does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Does {
    Answer(u16),
    AnswerWith(u16, &'static str, &'static str),
    Hang,
    BreakOff,
}

/// What a receiver has got.
#[derive(Clone, Debug)]
pub(crate) struct Got {
    pub(crate) url: String,
    pub(crate) fields: HeaderMap,
    pub(crate) body: Bytes,
}

impl RequestHead for Got {
    fn peer(&self) -> Option<std::net::IpAddr> {
        None
    }

    fn method(&self) -> &'static str {
        "POST"
    }

    fn values<'a>(&'a self, field: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.fields
            .get_all(field)
            .iter()
            .map(http::HeaderValue::as_bytes)
    }
}

impl Got {
    pub(crate) fn field(&self, name: &str) -> &str {
        self.fields[name].to_str().unwrap()
    }
}

/// A client whose receivers do what they are told, by host; all others answer 200.
#[derive(Clone, Default)]
pub(crate) struct Client {
    pub(crate) got: Arc<Mutex<Vec<Got>>>,
    script: Arc<Mutex<HashMap<&'static str, Does>>>,
}

impl Client {
    pub(crate) fn tell(&self, host: &'static str, does: Does) {
        self.script.lock().unwrap().insert(host, does);
    }

    /// What was got since it was asked last.
    pub(crate) fn take(&self) -> Vec<Got> {
        std::mem::take(&mut *self.got.lock().unwrap())
    }

    fn service(&self) -> Service {
        let client = self.clone();
        BoxCloneSyncService::new(service_fn(move |request| client.clone().answer(request)))
    }

    async fn answer(
        self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Full<Bytes>>, BoxError> {
        let (head, body) = request.into_parts();
        assert_eq!(head.method, http::Method::POST);
        // What stands around the client is told of it.
        let due = head.extensions.get::<DueDelivery>().unwrap();
        assert_eq!(*due.endpoint().url.as_str(), head.uri.to_string());
        let does = {
            let script = self.script.lock().unwrap();
            let does = head.uri.host().and_then(|host| script.get(host)).copied();
            does.unwrap_or(Does::Answer(200))
        };
        let got = Got {
            url: head.uri.to_string(),
            fields: head.headers,
            body: body.collect().await?.to_bytes(),
        };
        self.got.lock().unwrap().push(got);
        let mut response = Response::builder();
        match does {
            Does::Answer(status) => response = response.status(status),
            Does::AnswerWith(status, name, value) => {
                response = response.status(status).header(name, value);
            }
            Does::Hang => return pending().await,
            Does::BreakOff => return Err("connection reset".into()),
        }
        Ok(response.body(Full::default())?)
    }
}

pub(crate) fn sealing() -> SealingKeys {
    SealingKeys::new(SealingKey::new("2026", &[7; 32]).unwrap())
}

pub(crate) fn url(text: &str) -> EndpointUrl {
    EndpointUrl::parse(text).unwrap()
}
