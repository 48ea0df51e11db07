//! The tower layer.

use std::sync::Arc;

use http_body::Body;
use keyward::{Gate, Requirement};
use tower_layer::Layer;

use crate::drain::{self, Drain};
use crate::head::{FieldNames, Peer, socket_addr};
use crate::{PeerFromExtensions, RequireKey};

/// A layer that requires an API key for every request.
///
/// The [`Requirement`] says which keys it admits: by default live, secret keys of any account.
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
/// # use keyward::{Environment, Gate, KeyFormat, KeyScheme, MemoryStore, Requirement};
/// # let (store, scheme) = (MemoryStore::new(), KeyScheme::new(KeyFormat::new("vhk_{env}_")?));
/// # let gate = Gate::new(&store, &scheme)?;
/// # let submit = async || "created";
/// let live = RequireKeyLayer::new(&gate, Requirement::new().scope("kyc"));
/// let test = RequireKeyLayer::new(&gate, Requirement::new().scope("kyc").environment(Environment::TEST));
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
    /// Creates a layer that admits the requests which meet a requirement.
    ///
    /// # Panics
    /// Panics if no key can meet the requirement, see [`Gate::assert_meetable`].
    #[track_caller]
    pub fn new(gate: &Gate, requirement: Requirement) -> Self {
        gate.assert_meetable(&requirement);
        Self {
            names: FieldNames::of(gate.locations()),
            gate: gate.clone(),
            requirement: Arc::new(requirement),
            peer: gate
                .peer()
                .map_or(socket_addr, |PeerFromExtensions(own)| *own),
            drain: drain::known,
        }
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
    /// # use keyward::{Gate, KeyFormat, KeyScheme, MemoryStore, Requirement};
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
    /// let layer = RequireKeyLayer::new(&gate, Requirement::new()).request_body::<Upload>();
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
