//! The client's IP address.

use std::net::IpAddr;

use actix_web::dev::ServiceRequest;
use keyward::gate::PeerSource;

use crate::head::Peer;

/// Finds the client's IP address for a request, for [`GateBuilder::peer`].
///
/// A gate with an [`AuthFailureLimiter`], the brute-force protection, needs the address and rejects a request
/// without one with 500. So does a key with an [allowlist of addresses], with 403. The default is
/// [`ServiceRequest::peer_addr`]. Never take the address from a header:
/// the gate itself reads `X-Forwarded-For` of [trusted proxies].
///
/// A connection over a Unix socket has no address. If only a proxy on the same machine connects to the
/// socket, assign it an address and trust it:
///
/// ```
/// use std::net::Ipv4Addr;
/// # use actix_web::{App, test::{TestRequest, call_service, init_service}, web};
/// use keyward_actix::{PeerFromRequest, RequireKey};
/// # #[actix_web::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use keyward::{Environment, Gate, KeyFormat, KeyScheme, MemoryStore, RateLimit, Requirement};
/// # use keyward::throttle::AuthFailureLimiter;
/// # let (store, format) = (MemoryStore::new(), KeyFormat::new("vhk_{env}_")?);
/// # let unknown = format.generate(Environment::LIVE)?;
/// # let scheme = KeyScheme::new(format);
/// let gate = || Gate::builder(&store, &scheme)
///     .failure_throttle(AuthFailureLimiter::new(RateLimit::per_minute(10)))
///     .trusted_proxies(["127.0.0.1"]);
/// # let closed = gate()?.build()?;
/// let over_unix = gate()?
///     .peer(PeerFromRequest::new(|_| Some(Ipv4Addr::LOCALHOST.into())))
///     .build()?;
/// # for (gate, status) in [(closed, 500), (over_unix, 401)] {
/// # let layer = RequireKey::new(&gate, Requirement::new());
/// # let app = init_service(App::new().wrap(layer).route("/", web::get().to(async || "in"))).await;
/// // The proxy sets `X-Forwarded-For`, and failures are counted by that address.
/// let request = TestRequest::default().insert_header(("x-forwarded-for", "192.0.2.1"));
/// # let request = request.insert_header(("x-api-key", unknown.expose_secret()));
/// # assert_eq!(call_service(&app, request.to_request()).await.status(), status);
/// # }
/// # Ok(())
/// # }
/// ```
///
/// [`GateBuilder::peer`]: keyward::gate::GateBuilder::peer
/// [`AuthFailureLimiter`]: keyward::throttle::AuthFailureLimiter
/// [allowlist of addresses]: keyward::address::AddressPolicy
/// [trusted proxies]: keyward::gate::GateBuilder::trusted_proxies
#[derive(Clone, Copy, Debug)]
pub struct PeerFromRequest(pub(crate) Peer);

impl PeerFromRequest {
    /// Creates a source that calls this function.
    #[must_use]
    pub fn new(find: fn(&ServiceRequest) -> Option<IpAddr>) -> Self {
        Self(find)
    }
}

impl PeerSource for PeerFromRequest {}
