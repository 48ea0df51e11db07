//! The layer.

use std::net::IpAddr;
use std::sync::Arc;

use http::Extensions;
use http_body::Body;
use keyward::{AccountId, Environment, Gate, KeyKind, Requirement};
use tower_layer::Layer;

use crate::RequireKey;
use crate::drain::{self, Drain};
use crate::head::{FieldNames, Peer, socket_addr};

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
/// ```
/// # use axum::{Router, body::Body, routing::post};
/// # use keyward_tower::RequireKeyLayer;
/// # use tower::ServiceExt;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use keyward::{Environment, Gate, KeyFormat, MemoryStore, Store};
/// # let (store, format) = (MemoryStore::new(), KeyFormat::new("vhk_{env}_")?);
/// # let gate = Gate::builder(store.replica()).format(format).build()?;
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
    /// Demands a live, secret key.
    pub fn new(gate: Gate) -> Self {
        Self {
            names: FieldNames::of(gate.locations()),
            gate,
            requirement: Arc::default(),
            peer: socket_addr,
            drain: drain::known,
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

    /// Finds the address of the connection's other end like this.
    ///
    /// A gate with a [`FailureThrottle`](keyward::FailureThrottle) needs it, and refuses with 500 what
    /// has none. Unless told otherwise, a [`SocketAddr`](std::net::SocketAddr) among the extensions of
    /// the request, which a server on plain hyper puts there itself. axum has a type of its own, as
    /// below; tonic too, `TcpConnectInfo`, whose `remote_addr()` it is. Never take it from a field: the
    /// throttle reads those of [trusted proxies](keyward::FailureThrottle::trusted_proxies) itself.
    ///
    /// A connection over a Unix socket has no address. Where only a proxy on the same machine connects to
    /// the socket, give that proxy one, as in `.peer(|_| Some(Ipv4Addr::LOCALHOST.into()))`, and trust it
    /// with `trusted_proxies(["127.0.0.1"])`.
    ///
    /// ```
    /// use std::net::SocketAddr;
    /// use axum::extract::ConnectInfo;
    /// # use axum::{Router, body::Body, routing::get};
    /// # use keyward_tower::RequireKeyLayer;
    /// # use tower::ServiceExt;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use keyward::{Environment, FailureThrottle, Gate, KeyFormat, MemoryStore, RateLimit, Store};
    /// # let (store, format) = (MemoryStore::new(), KeyFormat::new("vhk_{env}_")?);
    /// # let throttle = FailureThrottle::new(RateLimit::per_minute(10));
    /// # let unknown = format.generate(Environment::LIVE)?;
    /// # let gate = Gate::builder(store.replica()).format(format).failure_throttle(throttle).build()?;
    ///
    /// let layer = RequireKeyLayer::new(gate)
    ///     .peer(|extensions| Some(extensions.get::<ConnectInfo<SocketAddr>>()?.0.ip()));
    /// let app = Router::<()>::new().route("/", get("reached")).layer(layer);
    /// # let request = || http::Request::get("/").header("x-api-key", unknown.expose_secret());
    /// # let unconnected = app.clone().oneshot(request().body(Body::empty())?).await?;
    /// # assert_eq!(unconnected.status(), 500);
    ///
    /// // As `into_make_service_with_connect_info::<SocketAddr>()` adds it.
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

    /// Names the type of the request bodies, where it is neither axum's nor hyper's own.
    ///
    /// A client that is refused while it still sends an upload over HTTP/1 sees a reset instead of the
    /// answer, unless the server reads on. The layer does so for an [`axum::body::Body`] and a
    /// [`hyper::body::Incoming`] by itself, as [`BodyDrain`](keyward::BodyDrain) allows. Behind a layer that
    /// gives requests a body of another type, it has to be told that type.
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
    /// # use keyward::{Gate, KeyFormat, MemoryStore, Store};
    /// # let (store, format) = (MemoryStore::new(), KeyFormat::new("vhk_{env}_")?);
    /// # let gate = Gate::builder(store.replica()).format(format).build()?;
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
