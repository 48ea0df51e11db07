//! Tells customers' servers, through the outbox that lies beside the keys.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{HeaderValue, Request, Response};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::GaiResolver;
use hyper_util::rt::TokioExecutor;
use keyward::admin::AdminError;
use keyward::record::AdminErrorKind;
use keyward::{AccountId, Actor, Environment, KeyScheme};
use keyward_sqlite::SqliteStore;
use keyward_tower::{PublicOnlyResolver, WebhookSender};
use keyward_webhooks::admin::EndpointChange;
use keyward_webhooks::sealing::{SealingKey, SealingKeys};
use keyward_webhooks::send::{
    DueDelivery, EndpointId, EndpointRules, EndpointUrl, WebhookEndpoint,
};
use keyward_webhooks::signature::{WebhookId, WebhookSecret};
use keyward_webhooks::{WebhookAdmin, WebhookMessage};
use serde_json::{Value, json};
use tokio::time::Sleep;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, ServiceBuilder, ServiceExt};

use crate::run::Sending;
use crate::{Answer, Route, on_axum};

/// How long another server may take.
const TIMEOUT: Duration = Duration::from_secs(5);

type Sender = WebhookSender<HttpClient, fn(Duration) -> Sleep>;
type HttpClient = BoxCloneSyncService<Request<Body>, Response<Body>, BoxError>;
type KeyOf = Arc<dyn Fn(&AccountId) -> Option<HeaderValue> + Send + Sync>;

/// Endpoints of customers, and what brings them their events.
#[derive(Clone)]
pub struct Webhooks {
    pub admin: WebhookAdmin,
    pub sealing: SealingKeys,
    store: Arc<SqliteStore>,
    rules: EndpointRules,
    key_of: KeyOf,
}

impl Webhooks {
    /// Those of a service whose keys have this scheme.
    ///
    /// # Errors
    /// When the key that seals their secrets is none.
    pub fn new(store: &Arc<SqliteStore>, scheme: &KeyScheme) -> Result<Self, Box<dyn Error>> {
        // A real service reads this key from where it keeps its secrets: not from its code. And it
        // leaves the rules as they are, while here all is on one machine, without TLS.
        let sealing = SealingKeys::new(SealingKey::new("example", &[7; 32])?);
        let rules = EndpointRules::new()
            .insecure_http_for_live()
            .insecure_private_host("127.0.0.1");
        let admin = WebhookAdmin::new(store.clone(), scheme, sealing.clone()).rules(rules.clone());
        Ok(Self {
            admin,
            sealing,
            store: Arc::clone(store),
            rules,
            key_of: Arc::new(|_| None),
        })
    }

    /// Sends also an API key of the account's, in `x-api-key`.
    #[must_use]
    pub fn with_key(
        mut self,
        key_of: impl Fn(&AccountId) -> Option<HeaderValue> + Send + Sync + 'static,
    ) -> Self {
        self.key_of = Arc::new(key_of);
        self
    }

    /// Delivers what is due, for as long as the service runs.
    #[must_use]
    pub fn sending(&self) -> Sending {
        let sender = self.sender(client(&self.rules));
        let sender = sender.poll_interval(Duration::from_millis(100));
        Box::pin(sender.run::<Body, Body>())
    }

    /// Accepts an event: from now on it arrives.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn tell(
        &self,
        account: &AccountId,
        environment: Environment,
        event: &Value,
    ) -> Result<(), Answer> {
        let id = WebhookId::random()?;
        let message = WebhookMessage::new(account.clone(), environment, id, event.to_string())?;
        let service = Actor::operator("webhooks");
        Ok(self.admin.publish(&service, message).await?)
    }

    /// The endpoint of an environment, where there is one at most.
    ///
    /// # Errors
    /// When the actor may not see it, or the store fails.
    pub async fn endpoint(
        &self,
        actor: &Actor,
        account: &AccountId,
        environment: Environment,
    ) -> Result<Option<WebhookEndpoint>, AdminError> {
        let all = self.admin.endpoints(actor, account, Some(environment));
        Ok(all.await?.into_iter().next())
    }

    /// Makes the one endpoint of an environment, or moves it. The secret is there if it is new.
    ///
    /// # Errors
    /// When the actor may not, no endpoint may be there, or the store fails.
    pub async fn set_url(
        &self,
        actor: &Actor,
        account: &AccountId,
        environment: Environment,
        url: &str,
    ) -> Result<(WebhookEndpoint, Option<WebhookSecret>), AdminError> {
        let url = EndpointUrl::parse(url)?;
        if let Some(known) = self.endpoint(actor, account, environment).await? {
            let change = EndpointChange::new().url(url).enabled(true);
            let moved = self.admin.update_endpoint(actor, known.id(), change);
            return Ok((moved.await?, None));
        }
        let one = self.admin.clone().max_endpoints(1);
        let created = one
            .create_endpoint(actor, account, environment, url)
            .await?;
        Ok((created.endpoint, Some(created.secret)))
    }

    /// Asks an endpoint to show that it works, now.
    ///
    /// # Errors
    /// When the actor may not, or the store fails; not when it does not work.
    pub async fn works(&self, actor: &Actor, id: EndpointId) -> Result<bool, AdminError> {
        self.works_by(client(&self.rules), actor, id).await
    }

    /// Asks an endpoint that is among these routes, which are not served yet.
    ///
    /// # Errors
    /// As [`works`](Self::works).
    pub async fn works_in(
        &self,
        routes: &[Route],
        actor: &Actor,
        id: EndpointId,
    ) -> Result<bool, AdminError> {
        let client = ServiceBuilder::new()
            .map_err(BoxError::from)
            .service(on_axum::router(routes));
        self.works_by(BoxCloneSyncService::new(client), actor, id)
            .await
    }

    async fn works_by(
        &self,
        client: HttpClient,
        actor: &Actor,
        id: EndpointId,
    ) -> Result<bool, AdminError> {
        let sender = self.sender(client);
        let asked = sender.verify_endpoint::<Body, Body>(&self.admin, actor, id);
        match asked.await {
            Ok(endpoint) => Ok(endpoint.is_working()),
            Err(error) if error.kind() == AdminErrorKind::Unanswered => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// What was tried to reach an endpoint, the last first.
    ///
    /// # Errors
    /// When the actor may not see it, or the store fails.
    pub async fn attempts(&self, actor: &Actor, id: EndpointId) -> Result<Value, AdminError> {
        let attempts = self.admin.attempts(actor, id, None).await?.into_iter();
        let attempts = attempts.map(
            |attempt| json!({ "outcome": attempt.outcome.as_str(), "status": attempt.status }),
        );
        Ok(attempts.collect())
    }

    fn sender(&self, client: HttpClient) -> Sender {
        let key_of = Arc::clone(&self.key_of);
        let client = ServiceBuilder::new()
            .map_request(move |mut request: Request<Body>| {
                let due = request.extensions().get::<DueDelivery>();
                if let Some(key) = due.and_then(|due| key_of(due.endpoint().account())) {
                    request.headers_mut().insert("x-api-key", key);
                }
                request
            })
            .service(client);
        let (store, sealing) = (self.store.clone(), self.sealing.clone());
        let sleep: fn(Duration) -> Sleep = tokio::time::sleep;
        WebhookSender::new(BoxCloneSyncService::new(client), store, sealing, sleep)
            .rules(self.rules.clone())
            .timeout(TIMEOUT)
    }
}

impl fmt::Debug for Webhooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Webhooks(..)")
    }
}

/// Posts JSON with these fields, once, and gives the answer's status and JSON, if there is one.
pub async fn post(url: &str, fields: &[(&str, String)], json: &str) -> Option<(u16, Value)> {
    let mut request = Request::post(url).header("content-type", "application/json");
    for (name, value) in fields {
        request = request.header(*name, value);
    }
    let request = request.body(Body::from(json.to_owned())).ok()?;
    let rules = EndpointRules::new().insecure_private_host("127.0.0.1");
    let answered = async {
        let answer = client(&rules).oneshot(request).await.ok()?;
        let status = answer.status().as_u16();
        let body = to_bytes(answer.into_body(), 1 << 16).await.ok()?;
        Some((status, serde_json::from_slice(&body).unwrap_or_default()))
    };
    tokio::time::timeout(TIMEOUT, answered).await.ok()?
}

/// Calls what these rules allow.
fn client(rules: &EndpointRules) -> HttpClient {
    let resolver = PublicOnlyResolver::new(GaiResolver::new(), rules.clone());
    let connector = HttpConnector::new_with_resolver(resolver);
    let client = Client::builder(TokioExecutor::new()).build::<_, Body>(connector);
    let client = ServiceBuilder::new()
        .map_response(|response: Response<_>| response.map(Body::new))
        .map_err(BoxError::from)
        .service(client);
    BoxCloneSyncService::new(client)
}
