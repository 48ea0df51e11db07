//! The tower layer.

use std::net::IpAddr;
use std::sync::Arc;

use http::Extensions;
use http_body::Body;
use keyward::{AccountId, Environment, Gate, KeyKind, Requirement};
use tower_layer::Layer;

use crate::RequireKey;
use crate::drain::{self, Drain};
use crate::head::{FieldNames, Peer, socket_addr};

/// A layer that requires an API key for every request.
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
/// ```
/// # use axum::{Router, body::Body, routing::post};
/// # use keyward_tower::RequireKeyLayer;
/// # use tower::ServiceExt;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use keyward::{Environment, Gate, KeyFormat, KeyScheme, MemoryStore};
/// # let (store, scheme) = (MemoryStore::new(), KeyScheme::new(KeyFormat::new("vhk_{env}_")?));
/// # let gate = Gate::new(&store, &scheme)?;
/// # let submit = async || "created";
/// let live = RequireKeyLayer::new(gate.clone()).scope("kyc");
/// let test = RequireKeyLayer::new(gate).scope("kyc").environment(Environment::TEST);
/// let app = Router::<()>::new()
///     .route("/live/cases", post(submit).layer(live))
///     .route("/test/cases", post(submit).layer(test));
///
/// let without_key = http::Request::post("/live/cases").body(Body::empty())?;
/// assert_eq!(app.oneshot(without_key).await?.status(), 401);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct RequireKeyLayer {
    gate: Gate,
    names: FieldNames,
    requirement: Arc<Requirement>,
    peer: Peer,
    drain: Drain,
}

impl RequireKeyLayer {
    /// Creates a layer that requires a live, secret key.
    pub fn new(gate: Gate) -> Self {
        Self {
            names: FieldNames::of(gate.locations()),
            gate,
            requirement: Arc::default(),
            peer: socket_addr,
            drain: drain::known,
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
    /// address and rejects a request without one with 500. The default is a
    /// [`SocketAddr`](std::net::SocketAddr) in the extensions of the request, which a server on plain hyper
    /// has to insert. axum uses a type of its own, as shown below, and so does tonic: there it is the
    /// `remote_addr()` of `TcpConnectInfo`. Never take the address from a header: the throttle itself reads
    /// the headers of [trusted proxies](keyward::throttle::AuthFailureLimiter::trusted_proxies).
    ///
    /// A connection over a Unix socket has no address. If only a proxy on the same machine connects to the
    /// socket, assign it an address with `.peer(|_| Some(Ipv4Addr::LOCALHOST.into()))`, and trust it with
    /// `trusted_proxies(["127.0.0.1"])`.
    ///
    /// ```
    /// use std::net::SocketAddr;
    /// use axum::extract::ConnectInfo;
    /// # use axum::{Router, body::Body, routing::get};
    /// # use keyward_tower::RequireKeyLayer;
    /// # use tower::ServiceExt;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use keyward::{Environment, Gate, KeyFormat, KeyScheme, MemoryStore, RateLimit};
    /// # use keyward::throttle::AuthFailureLimiter;
    /// # let (store, format) = (MemoryStore::new(), KeyFormat::new("vhk_{env}_")?);
    /// # let throttle = AuthFailureLimiter::new(RateLimit::per_minute(10));
    /// # let unknown = format.generate(Environment::LIVE)?;
    /// # let gate = Gate::builder(&store, &KeyScheme::new(format)).failure_throttle(throttle).build()?;
    ///
    /// let layer = RequireKeyLayer::new(gate)
    ///     .peer(|extensions| Some(extensions.get::<ConnectInfo<SocketAddr>>()?.0.ip()));
    /// let app = Router::<()>::new().route("/", get("reached")).layer(layer);
    /// # let request = || http::Request::get("/").header("x-api-key", unknown.expose_secret());
    /// # let unconnected = app.clone().oneshot(request().body(Body::empty())?).await?;
    /// # assert_eq!(unconnected.status(), 500);
    ///
    /// // `into_make_service_with_connect_info::<SocketAddr>()` adds this extension.
    /// let info = ConnectInfo(SocketAddr::from(([192, 0, 2, 1], 40312)));
    /// let response = app.oneshot(request().extension(info).body(Body::empty())?).await?;
    /// assert_eq!(response.status(), 401);
    /// # Ok(())
    /// # }
    /// ```
    pub fn peer(mut self, peer: fn(&Extensions) -> Option<IpAddr>) -> Self {
        self.peer = peer;
        self
    }

    /// Sets the type of the request body, if it is neither axum's nor hyper's own.
    ///
    /// A client that is rejected while it sends an upload over HTTP/1 sees a connection reset instead of the
    /// response, unless the server drains the body. The layer drains an [`axum::body::Body`] and a
    /// [`hyper::body::Incoming`] without being told, within the bounds of [`BodyDrain`](keyward::gate::BodyDrain).
    /// If an outer layer changes the body to another type, name that type here.
    ///
    /// ```
    /// # use std::pin::Pin;
    /// # use std::sync::atomic::{AtomicBool, Ordering};
    /// # use std::task::{Context, Poll};
    /// # use bytes::Bytes;
    /// # use http_body::{Body, Frame};
    /// # use http_body_util::Empty;
    /// # use keyward_tower::RequireKeyLayer;
    /// # use tower::{Layer, ServiceExt};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use keyward::{Gate, KeyFormat, KeyScheme, MemoryStore};
    /// # let (store, scheme) = (MemoryStore::new(), KeyScheme::new(KeyFormat::new("vhk_{env}_")?));
    /// # let gate = Gate::new(&store, &scheme)?;
    /// # static WAS_READ: AtomicBool = AtomicBool::new(false);
    /// # struct Upload;
    /// # impl Body for Upload {
    /// #     type Data = Bytes;
    /// #     type Error = std::convert::Infallible;
    /// #     fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
    /// #         WAS_READ.store(true, Ordering::Relaxed);
    /// #         Poll::Ready(None)
    /// #     }
    /// # }
    /// let layer = RequireKeyLayer::new(gate).request_body::<Upload>();
    /// # let service = layer.layer(tower::service_fn(async |_: http::Request<Upload>| {
    /// #     Ok::<_, std::convert::Infallible>(http::Response::new(Empty::<Bytes>::new()))
    /// # }));
    /// let upload = http::Request::post("/").header("content-length", "100000").body(Upload)?;
    /// let response = service.oneshot(upload).await?;
    /// assert_eq!(response.status(), 401);
    /// assert_eq!(response.headers()["connection"], "close");
    /// # tokio::task::yield_now().await;
    /// assert!(WAS_READ.load(Ordering::Relaxed));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// [`axum::body::Body`]: https://docs.rs/axum/latest/axum/body/struct.Body.html
    /// [`hyper::body::Incoming`]: https://docs.rs/hyper/latest/hyper/body/struct.Incoming.html
    pub fn request_body<B: Body + Send + 'static>(mut self) -> Self {
        self.drain = drain::only::<B>;
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

impl<S> Layer<S> for RequireKeyLayer {
    type Service = RequireKey<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RequireKey {
            inner,
            gate: self.gate.clone(),
            names: self.names.clone(),
            requirement: Arc::clone(&self.requirement),
            peer: self.peer,
            drain: self.drain,
        }
    }
}
