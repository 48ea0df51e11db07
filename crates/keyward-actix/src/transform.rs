//! The middleware, as it is wrapped around a service.

use std::future::{Ready, ready};
use std::net::IpAddr;
use std::sync::Arc;

use actix_web::Error;
use actix_web::body::EitherBody;
use actix_web::dev::{Service, ServiceRequest, ServiceResponse, Transform};
use keyward::{AccountId, Environment, Gate, KeyKind, Requirement};

use crate::RequireKeyMiddleware;
use crate::head::{Peer, peer_addr};

/// Puts a gate, and what the routes demand, in front of a service.
///
/// Unless told otherwise: a live, secret key of any account, with any scopes. The methods are those
/// of [`Requirement`].
///
/// A refusal looks like this, unless the gate words it otherwise:
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
/// # Requests that another middleware holds
///
/// The middleware removes the key from the request's headers. actix-web panics when the headers are
/// changed while a clone of the [`HttpRequest`](actix_web::HttpRequest) is alive, so a middleware that is
/// wrapped *after* this one must not keep a clone while it calls the inner service. Where one does, the
/// handler is not reached: an error is logged and the answer is a 500 with `cache-control: no-store` and no
/// body. The panic is caught, though the panic hook prints it. With `panic = "abort"` in the profile it
/// cannot be caught, and each such request **ends the process**. Drop the clone before the call, or copy
/// what is needed of it. A gate with [`insecure_forward_key`](keyward::GateBuilder::insecure_forward_key) is
/// no way out, for it marks the header as sensitive.
///
/// # One method of a path
///
/// Every stack gives equal answers where the middleware covers a path: an app, a scope or a resource.
/// Around a single route, as in `web::get().to(…).wrap(…)`, it sees only what the route's guards let through.
/// Any other method, `OPTIONS` included, is answered by actix-web or by the resource's other routes: **no
/// key is asked for, and a CORS preflight gets no answer of ours** (404 in an app's route, 405 in a
/// resource). Where browsers call, wrap the resource; where only some methods need a key, add a resource
/// guard or an [`actix_cors::Cors`](https://docs.rs/actix-cors) outside, which answers preflights.
///
/// ```
/// # use actix_web::{App, test::{TestRequest, call_service, init_service}, web};
/// # use actix_web::HttpResponse;
/// # use keyward_actix::RequireKey;
/// # #[actix_web::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use keyward::{Environment, Gate, KeyFormat, MemoryStore, Store};
/// # let (store, format) = (MemoryStore::new(), KeyFormat::new("vhk_{env}_")?);
/// # let gate = Gate::builder(store.replica()).format(format).build()?;
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
    /// Demands a live, secret key.
    pub fn new(gate: Gate) -> Self {
        Self {
            gate,
            requirement: Arc::default(),
            peer: peer_addr,
        }
    }

    /// Demands this, instead of what was demanded so far.
    ///
    /// # Panics
    /// When no key could meet it: [`Gate::assert_meetable`].
    #[track_caller]
    pub fn requirement(mut self, requirement: Requirement) -> Self {
        self.gate.assert_meetable(&requirement);
        self.requirement = Arc::new(requirement);
        self
    }

    /// Also demands this scope.
    ///
    /// # Panics
    /// When it is not a scope, or the gate has a catalog that does not know it.
    #[track_caller]
    pub fn scope(self, scope: &str) -> Self {
        let requirement = self.own().scope(scope);
        self.requirement(requirement)
    }

    /// Also demands one of these scopes.
    ///
    /// # Panics
    /// As [`scope`](Self::scope), and when there is none.
    #[track_caller]
    pub fn any_scope<I>(self, scopes: I) -> Self
    where
        I: IntoIterator<Item: AsRef<str>>,
    {
        let requirement = self.own().any_scope(scopes);
        self.requirement(requirement)
    }

    /// Serves this environment only, instead of `live`.
    pub fn environment(self, environment: Environment) -> Self {
        self.also(|requirement| requirement.environment(environment))
    }

    /// Serves these environments, instead of `live`.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    pub fn environments(self, environments: impl IntoIterator<Item = Environment>) -> Self {
        let requirement = self.own().environments(environments);
        self.requirement(requirement)
    }

    /// Serves every environment; the handler must tell them apart.
    pub fn any_environment(self) -> Self {
        self.also(Requirement::any_environment)
    }

    /// Accepts these kinds of keys, instead of secret ones.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    pub fn kinds(self, kinds: impl IntoIterator<Item = KeyKind>) -> Self {
        let requirement = self.own().kinds(kinds);
        self.requirement(requirement)
    }

    /// Accepts only keys of this account; any other is answered like an unknown one.
    pub fn account(self, account: AccountId) -> Self {
        self.also(|requirement| requirement.account(account))
    }

    /// Reports keys that do not meet the demands, and lets them pass: [`Requirement::report_only`].
    pub fn report_only(self) -> Self {
        self.also(Requirement::report_only)
    }

    /// Refuses gRPC calls in the form of gRPC, on routes of a gRPC server: [`Requirement::grpc`].
    pub fn grpc(self) -> Self {
        self.also(Requirement::grpc)
    }

    /// Counts for so many requests in the key's rate limits, instead of one. 0 is free.
    ///
    /// # Panics
    /// When it is more than a limit of the gate's lets pass at once.
    #[track_caller]
    pub fn cost(self, cost: u32) -> Self {
        let requirement = self.own().cost(cost);
        self.requirement(requirement)
    }

    /// Spends so many credits of a live key, instead of one. 0 is free.
    pub fn credits(self, credits: u32) -> Self {
        self.also(|requirement| requirement.credits(credits))
    }

    /// Lets a request without any key pass as anonymous. A key that is there must be good.
    pub fn optional(self) -> Self {
        self.also(Requirement::optional)
    }

    /// Finds the address of the client's end of the connection.
    ///
    /// A gate with a [`FailureThrottle`](keyward::FailureThrottle) needs it, and refuses a request without
    /// one with 500. By default it is [`ServiceRequest::peer_addr`]. Never take it from a header: the
    /// throttle itself reads `X-Forwarded-For` of
    /// [trusted proxies](keyward::FailureThrottle::trusted_proxies).
    ///
    /// A connection over a Unix socket has no address. Where only a proxy on the same machine connects to
    /// the socket, give that proxy one and trust it:
    ///
    /// ```
    /// use std::net::{IpAddr, Ipv4Addr};
    /// # use actix_web::{App, test::{TestRequest, call_service, init_service}, web};
    /// # use keyward_actix::RequireKey;
    /// # #[actix_web::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use keyward::{Environment, FailureThrottle, Gate, KeyFormat, MemoryStore, RateLimit, Store};
    /// # let (store, format) = (MemoryStore::new(), KeyFormat::new("vhk_{env}_")?);
    /// # let unknown = format.generate(Environment::LIVE)?;
    /// let throttle = FailureThrottle::new(RateLimit::per_minute(10)).trusted_proxies(["127.0.0.1"])?;
    /// let gate = Gate::builder(store.replica()).format(format).failure_throttle(throttle).build()?;
    /// # let closed = RequireKey::new(gate.clone());
    /// let over_unix = RequireKey::new(gate).peer(|_| Some(IpAddr::V4(Ipv4Addr::LOCALHOST)));
    /// # for (layer, status) in [(closed, 500), (over_unix, 401)] {
    /// # let app = init_service(App::new().wrap(layer).route("/", web::get().to(async || "in"))).await;
    /// // The proxy sets `X-Forwarded-For`, by which failures are counted.
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
