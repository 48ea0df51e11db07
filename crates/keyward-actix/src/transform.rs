//! The middleware.

use std::future::{Ready, ready};
use std::net::IpAddr;
use std::sync::Arc;

use actix_web::Error;
use actix_web::body::EitherBody;
use actix_web::dev::{Service, ServiceRequest, ServiceResponse, Transform};
use keyward::{AccountId, Environment, Gate, KeyKind, Requirement};

use crate::RequireKeyMiddleware;
use crate::head::{Peer, peer_addr};

/// A middleware that requires an API key for every request.
///
/// By default, it requires a live, secret key of any account, with any scopes. Its methods are those of
/// [`Requirement`].
///
/// A rejected request gets this response, unless the gate has [`Replies`](keyward::Replies) of its own:
///
/// ```text
/// HTTP/1.1 403 Forbidden
/// cache-control: no-store
/// content-type: application/problem+json
/// www-authenticate: ApiKey realm="api", error="insufficient_scope", scope="kyc"
/// www-authenticate: Bearer realm="api", error="insufficient_scope", scope="kyc"
///
/// {"type":"about:blank","title":"Forbidden","status":403,"detail":"The API key lacks a scope that is required here: kyc.","code":"insufficient_scope"}
/// ```
///
/// # Clones of the request in other middleware
///
/// The middleware removes the key from the headers of the request. actix-web panics if the headers are changed
/// while a clone of the [`HttpRequest`](actix_web::HttpRequest) exists. Therefore, a middleware that is wrapped
/// *after* this one must not hold a clone while it calls the inner service. If it does, the handler is not
/// called, an error is logged, and the response is a 500 with `cache-control: no-store` and no body. The panic
/// is caught, although the panic hook prints it. With `panic = "abort"` in the profile it cannot be caught, and
/// each such request **ends the process**. Drop the clone before the call, or copy the parts that are needed.
/// A gate with [`insecure_forward_key`](keyward::gate::GateBuilder::insecure_forward_key) does not avoid the problem,
/// because it marks the header as sensitive.
///
/// # Wrapping a single method
///
/// Responses are the same as with the other adapters if the middleware covers whole paths: an app, a scope or a
/// resource. Around a single route, as in `web::get().to(…).wrap(…)`, it sees only requests that match the
/// route's guards. Any other method, including `OPTIONS`, is answered by actix-web or by other routes of the
/// resource: **no key is required, and the middleware does not answer CORS preflight requests** (404 in an app's
/// route, 405 in a resource). If browsers call the service, wrap the resource. If only some methods need a key,
/// add a resource guard, or an [`actix_cors::Cors`](https://docs.rs/actix-cors) outside, which answers preflight
/// requests.
///
/// ```
/// # use actix_web::{App, test::{TestRequest, call_service, init_service}, web};
/// # use actix_web::HttpResponse;
/// # use keyward_actix::RequireKey;
/// # #[actix_web::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use keyward::{Environment, Gate, KeyFormat, KeyScheme, MemoryStore};
/// # let (store, scheme) = (MemoryStore::new(), KeyScheme::new(KeyFormat::new("vhk_{env}_")?));
/// # let gate = Gate::new(&store, &scheme)?;
/// # let submit = || async { HttpResponse::Created() };
/// let live = RequireKey::new(gate.clone()).scope("kyc");
/// let test = RequireKey::new(gate).scope("kyc").environment(Environment::TEST);
/// let app = App::new()
///     .service(web::resource("/live/cases").wrap(live).post(submit))
///     .service(web::resource("/test/cases").wrap(test).post(submit));
///
/// let app = init_service(app).await;
/// let without_key = TestRequest::post().uri("/live/cases").to_request();
/// assert_eq!(call_service(&app, without_key).await.status(), 401);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct RequireKey {
    gate: Gate,
    requirement: Arc<Requirement>,
    peer: Peer,
}

impl RequireKey {
    /// Creates a middleware that requires a live, secret key.
    pub fn new(gate: Gate) -> Self {
        Self {
            gate,
            requirement: Arc::default(),
            peer: peer_addr,
        }
    }

    /// Replaces the requirement.
    ///
    /// # Panics
    /// Panics if no key can meet the requirement, see [`Gate::assert_meetable`].
    #[track_caller]
    pub fn requirement(mut self, requirement: Requirement) -> Self {
        self.gate.assert_meetable(&requirement);
        self.requirement = Arc::new(requirement);
        self
    }

    /// Requires this scope, in addition to those required so far.
    ///
    /// # Panics
    /// Panics if this is not a valid scope, or if the catalog of the gate does not contain it.
    #[track_caller]
    pub fn scope(self, scope: &str) -> Self {
        let requirement = self.own().scope(scope);
        self.requirement(requirement)
    }

    /// Requires at least one of these scopes, in addition to those required so far.
    ///
    /// # Panics
    /// Panics if `scopes` is empty, and in the cases in which [`scope`](Self::scope) panics.
    #[track_caller]
    pub fn any_scope<I>(self, scopes: I) -> Self
    where
        I: IntoIterator<Item: AsRef<str>>,
    {
        let requirement = self.own().any_scope(scopes);
        self.requirement(requirement)
    }

    /// Accepts keys of this environment only, instead of `live`.
    pub fn environment(self, environment: Environment) -> Self {
        self.also(|requirement| requirement.environment(environment))
    }

    /// Accepts keys of these environments, instead of `live`.
    ///
    /// # Panics
    /// Panics if `environments` is empty.
    #[track_caller]
    pub fn environments(self, environments: impl IntoIterator<Item = Environment>) -> Self {
        let requirement = self.own().environments(environments);
        self.requirement(requirement)
    }

    /// Accepts keys of every environment.
    ///
    /// The handler must distinguish them, by the environment of the principal.
    pub fn any_environment(self) -> Self {
        self.also(Requirement::any_environment)
    }

    /// Accepts keys of these kinds, instead of secret keys only.
    ///
    /// # Panics
    /// Panics if `kinds` is empty.
    #[track_caller]
    pub fn kinds(self, kinds: impl IntoIterator<Item = KeyKind>) -> Self {
        let requirement = self.own().kinds(kinds);
        self.requirement(requirement)
    }

    /// Accepts keys of this account only.
    ///
    /// A key of another account is rejected like an unknown key.
    pub fn account(self, account: AccountId) -> Self {
        self.also(|requirement| requirement.account(account))
    }

    /// Logs keys that do not meet the requirement instead of rejecting them.
    ///
    /// See [`Requirement::report_only`].
    pub fn report_only(self) -> Self {
        self.also(Requirement::report_only)
    }

    /// Rejects gRPC calls with a gRPC status, for routes of a gRPC server.
    ///
    /// See [`Requirement::grpc`].
    pub fn grpc(self) -> Self {
        self.also(Requirement::grpc)
    }

    /// Sets how many requests one request counts for in rate limiting.
    ///
    /// The default is 1. A request with a cost of 0 is not counted.
    ///
    /// # Panics
    /// Panics if the cost is higher than the burst of one of the gate's rate limits.
    #[track_caller]
    pub fn cost(self, cost: u32) -> Self {
        let requirement = self.own().cost(cost);
        self.requirement(requirement)
    }

    /// Sets how many credits a request with a live key costs.
    ///
    /// The default is 1. With 0, requests are free.
    pub fn credits(self, credits: u32) -> Self {
        self.also(|requirement| requirement.credits(credits))
    }

    /// Admits requests without a key as anonymous.
    ///
    /// A request with an invalid key is still rejected.
    pub fn optional(self) -> Self {
        self.also(Requirement::optional)
    }

    /// Sets the function that returns the client's IP address for a request.
    ///
    /// A gate with a [`AuthFailureLimiter`](keyward::throttle::AuthFailureLimiter), the brute-force protection, needs the
    /// address and rejects a request without one with 500. The default is [`ServiceRequest::peer_addr`]. Never
    /// take the address from a header: the throttle itself reads `X-Forwarded-For` of
    /// [trusted proxies](keyward::throttle::AuthFailureLimiter::trusted_proxies).
    ///
    /// A connection over a Unix socket has no address. If only a proxy on the same machine connects to the
    /// socket, assign it an address and trust it:
    ///
    /// ```
    /// use std::net::{IpAddr, Ipv4Addr};
    /// # use actix_web::{App, test::{TestRequest, call_service, init_service}, web};
    /// # use keyward_actix::RequireKey;
    /// # #[actix_web::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use keyward::{Environment, Gate, KeyFormat, KeyScheme, MemoryStore, RateLimit};
    /// # use keyward::throttle::AuthFailureLimiter;
    /// # let (store, format) = (MemoryStore::new(), KeyFormat::new("vhk_{env}_")?);
    /// # let unknown = format.generate(Environment::LIVE)?;
    /// let throttle = AuthFailureLimiter::new(RateLimit::per_minute(10)).trusted_proxies(["127.0.0.1"])?;
    /// let gate = Gate::builder(&store, &KeyScheme::new(format)).failure_throttle(throttle).build()?;
    /// # let closed = RequireKey::new(gate.clone());
    /// let over_unix = RequireKey::new(gate).peer(|_| Some(IpAddr::V4(Ipv4Addr::LOCALHOST)));
    /// # for (layer, status) in [(closed, 500), (over_unix, 401)] {
    /// # let app = init_service(App::new().wrap(layer).route("/", web::get().to(async || "in"))).await;
    /// // The proxy sets `X-Forwarded-For`, and failures are counted by that address.
    /// let request = TestRequest::default().insert_header(("x-forwarded-for", "192.0.2.1"));
    /// # let request = request.insert_header(("x-api-key", unknown.expose_secret()));
    /// # assert_eq!(call_service(&app, request.to_request()).await.status(), status);
    /// # }
    /// # Ok(())
    /// # }
    /// ```
    pub fn peer(mut self, peer: fn(&ServiceRequest) -> Option<IpAddr>) -> Self {
        self.peer = peer;
        self
    }

    #[track_caller]
    fn also(self, change: impl FnOnce(Requirement) -> Requirement) -> Self {
        let requirement = change(self.own());
        self.requirement(requirement)
    }

    fn own(&self) -> Requirement {
        Requirement::clone(&self.requirement)
    }
}

impl<S, B> Transform<S, ServiceRequest> for RequireKey
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error>,
{
    type Response = ServiceResponse<EitherBody<B>>;
    type Error = Error;
    type Transform = RequireKeyMiddleware<S>;
    type InitError = ();
    type Future = Ready<Result<Self::Transform, ()>>;

    fn new_transform(&self, service: S) -> Self::Future {
        let (gate, requirement) = (self.gate.clone(), Arc::clone(&self.requirement));
        let middleware = RequireKeyMiddleware::new(service, gate, requirement, self.peer);
        ready(Ok(middleware))
    }
}
