//! The client's IP address.

use std::net::IpAddr;

use http::Extensions;
use keyward::gate::PeerSource;

use crate::head::Peer;

/// Finds the client's IP address in the extensions of a request, for [`GateBuilder::peer`].
///
/// A gate with an [`AuthFailureLimiter`], the brute-force protection, needs the address and rejects a request
/// without one with 500. So does a key with an [allowlist of addresses], with 403. The default is a [`SocketAddr`](std::net::SocketAddr) in the extensions of the
/// request, which a server on plain hyper has to insert. axum uses a type of its own, as shown below, and so
/// does tonic: there it is the `remote_addr()` of `TcpConnectInfo`. Never take the address from a header: the
/// gate itself reads the headers of [trusted proxies].
///
/// A connection over a Unix socket has no address. If only a proxy on the same machine connects to the
/// socket, assign it an address with `PeerFromExtensions::new(|_| Some(Ipv4Addr::LOCALHOST.into()))`, and
/// trust it with `trusted_proxies(["127.0.0.1"])`.
///
/// ```
/// use std::net::SocketAddr;
/// use axum::extract::ConnectInfo;
/// # use axum::{Router, body::Body, routing::get};
/// use keyward_tower::{PeerFromExtensions, RequireKeyLayer};
/// # use tower::ServiceExt;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use keyward::{Environment, Gate, KeyFormat, KeyScheme, MemoryStore, RateLimit, Requirement};
/// # use keyward::throttle::AuthFailureLimiter;
/// # let (store, format) = (MemoryStore::new(), KeyFormat::new("vhk_{env}_")?);
/// # let unknown = format.generate(Environment::LIVE)?;
/// # let scheme = KeyScheme::new(format);
///
/// let gate = Gate::builder(&store, &scheme)
///     .failure_throttle(AuthFailureLimiter::new(RateLimit::per_minute(10)))
///     .peer(PeerFromExtensions::new(|extensions| {
///         Some(extensions.get::<ConnectInfo<SocketAddr>>()?.0.ip())
///     }))
///     .build()?;
/// let layer = RequireKeyLayer::new(&gate, Requirement::new());
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
///
/// [`GateBuilder::peer`]: keyward::gate::GateBuilder::peer
/// [`AuthFailureLimiter`]: keyward::throttle::AuthFailureLimiter
/// [allowlist of addresses]: keyward::address::AddressPolicy
/// [trusted proxies]: keyward::gate::GateBuilder::trusted_proxies
#[derive(Clone, Copy, Debug)]
pub struct PeerFromExtensions(pub(crate) Peer);

impl PeerFromExtensions {
    /// Creates a source that calls this function.
    #[must_use]
    pub fn new(find: fn(&Extensions) -> Option<IpAddr>) -> Self {
        Self(find)
    }
}

impl PeerSource for PeerFromExtensions {}
