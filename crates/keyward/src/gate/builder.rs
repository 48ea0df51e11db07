//! The builder of a gate.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ipnet::IpNet;

use crate::address;
use crate::environment::Environment;
use crate::error::{ParseError, ParseErrorKind};
use crate::gate::cors::CorsReplies;
use crate::gate::gate::Inner;
use crate::gate::rendered::GateReplies;
use crate::gate::reports::Reports;
use crate::gate::{Cors, Gate, PeerSource};
use crate::key::ForeignFormat;
use crate::limit::{Limiter, RateLimits, ResetUnit};
use crate::log_limit::LogLimit;
use crate::replica::Replica;
use crate::reply::Replies;
use crate::request::KeyLocation;
use crate::scheme::KeyScheme;
use crate::throttle::AuthFailureLimiter;

/// A builder for a [`Gate`], created by [`Gate::builder`].
///
/// ```
/// # use std::sync::Arc;
/// # use keyward::{Gate, KeyFormat, KeyLocation, KeyScheme, MemoryStore};
/// # use keyward::gate::{Decision, Verdict};
/// # use keyward::testing::TestRequest;
/// # let store = MemoryStore::new();
/// let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_")?);
/// let gate = Gate::builder(&store, &scheme)
///     .location(KeyLocation::bearer())
///     .realm("api.example.com")
///     .build()?;
/// let decision = gate.check(&TestRequest::get(), &Arc::default(), None);
/// let Decision::Ready(Verdict::Refuse(refusal)) = decision else { unreachable!() };
/// let challenge = ("www-authenticate", r#"Bearer realm="api.example.com""#);
/// assert!(refusal.reply.headers().any(|field| field == challenge));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use]
pub struct GateBuilder {
    replica: Replica,
    scheme: KeyScheme,
    foreign: Vec<ForeignFormat>,
    locations: Vec<KeyLocation>,
    realm: String,
    replies: Replies,
    max_staleness: Duration,
    refresh_wait: Duration,
    forwards_key: bool,
    counts_usage: bool,
    records_networks: bool,
    cors: Option<Cors>,
    rate_limits: Vec<(Environment, RateLimits)>,
    rate_ceilings: Vec<(Environment, RateLimits)>,
    limiter: Option<Arc<dyn Limiter>>,
    legacy_fields: Option<ResetUnit>,
    refunds_from: u16,
    throttle: Option<AuthFailureLimiter>,
    trusted_proxies: Vec<IpNet>,
    peers: Vec<Box<dyn PeerSource>>,
}

impl GateBuilder {
    pub(crate) fn new(replica: Replica, scheme: KeyScheme) -> Self {
        Self {
            replica,
            scheme,
            foreign: Vec::new(),
            locations: Vec::new(),
            realm: "api".to_owned(),
            replies: Replies::default(),
            max_staleness: Duration::from_secs(30),
            refresh_wait: Duration::from_millis(500),
            forwards_key: false,
            counts_usage: true,
            records_networks: false,
            cors: None,
            rate_limits: Vec::new(),
            rate_ceilings: Vec::new(),
            limiter: None,
            legacy_fields: None,
            refunds_from: u16::MAX,
            throttle: None,
            trusted_proxies: Vec::new(),
            peers: Vec::new(),
        }
    }

    /// Accepts imported keys of this format as well.
    ///
    /// A key that has several of these formats is looked up by each of them, so that keys of several
    /// systems may look alike. A lookup tries at most four digests for each different part of the
    /// text that may be the key: the whole text, or what follows a prefix or a separator.
    pub fn foreign_format(mut self, format: ForeignFormat) -> Self {
        self.foreign.push(format);
        self
    }

    /// Accepts a key in this location, instead of `X-API-Key` and `Authorization: Bearer`.
    pub fn location(mut self, location: KeyLocation) -> Self {
        self.locations.push(location);
        self
    }

    /// Sets the realm in challenges (RFC 9110 §11.5). The default is `api`.
    pub fn realm(mut self, realm: &str) -> Self {
        realm.clone_into(&mut self.realm);
        self
    }

    /// Sets the format of rejections; `application/problem+json` by default.
    pub fn replies(mut self, replies: Replies) -> Self {
        self.replies = replies;
        self
    }

    /// Sets the maximum age of the replica, after which responses are 503.
    ///
    /// The default is 30 seconds. This bounds the time until a revocation takes effect, and the
    /// time for which known keys keep working when the store is down. With zero, memory is never
    /// trusted: every request waits for the store.
    pub fn max_staleness(mut self, age: Duration) -> Self {
        self.max_staleness = age;
        self
    }

    /// Sets how long a request waits for the store if memory is too old.
    ///
    /// The default is 500 milliseconds. Memory is too old if the process was frozen for longer than
    /// `max_staleness`, as a throttled container may be. All waiting requests share one poll, and
    /// are then checked again. A request gets a 503 when the time is over, and at once if the last
    /// poll failed or 10,000 requests are waiting already. With zero no request waits, so a gate
    /// with `max_staleness(0)` then admits none.
    ///
    /// ```
    /// use std::time::Duration;
    /// # use keyward::{Gate, KeyFormat, KeyScheme, MemoryStore};
    /// # let (store, scheme) = (MemoryStore::new(), KeyScheme::new(KeyFormat::new("vhk_{env}_")?));
    ///
    /// let gate = Gate::builder(&store, &scheme);
    /// assert!(gate.refresh_wait(Duration::from_secs(2)).build().is_ok());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn refresh_wait(mut self, wait: Duration) -> Self {
        self.refresh_wait = wait;
        self
    }

    /// Leaves the key in the request, marked as sensitive.
    ///
    /// Insecure: the handler and every layer before it see the key, and anything that logs or
    /// forwards the request may leak it. Required for a second gate further inside, which must see
    /// the key too.
    pub fn insecure_forward_key(mut self) -> Self {
        self.forwards_key = true;
        self
    }

    /// Disables usage counts and the time of the last use.
    pub fn without_usage(mut self) -> Self {
        self.counts_usage = false;
        self
    }

    /// Records from which network a key was used last, without the last part of the address.
    ///
    /// Off by default, as even a truncated address is personal data in some places. It is recorded of
    /// requests that pass all checks but those of rate limits and credits, stored with the time of
    /// the last use, and shown as [`KeyView::last_network`](crate::admin::KeyView::last_network).
    /// The address is that of the peer, or of the client that [trusted
    /// proxies](Self::trusted_proxies) forward for.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use keyward::{Gate, KeyId};
    /// # use keyward::testing::{TestRequest, World, block_on, decided};
    /// # let world = World::new();
    /// # let (admin, operator, key) = (world.admin(), world.operator(), world.key("kyc"));
    /// # let id = world.principal(&key).key_id();
    /// let gate = Gate::builder(world.store(), admin.scheme()).record_networks().build()?;
    /// let request = TestRequest::get().key(&key).peer([203, 0, 113, 7]);
    /// decided(gate.check(&request, &Arc::default(), None));
    /// let view = block_on(admin.key(&operator, id))?;
    /// assert_eq!(view.last_network.map(|own| own.to_string()), Some("203.0.113.0/24".to_owned()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn record_networks(mut self) -> Self {
        self.records_networks = true;
        self
    }

    /// Sets the CORS policy, which lets pages of other origins call the API. Off by default.
    pub fn cors(mut self, cors: Cors) -> Self {
        self.cors = Some(cors);
        self
    }

    /// Sets the default rate limits of keys in this environment.
    ///
    /// They apply to keys without limits of their own or of their account's plan. Rate limiting is
    /// off by default. A second call for the same environment replaces the limits.
    pub fn rate_limits(mut self, of: Environment, limits: impl Into<RateLimits>) -> Self {
        self.rate_limits.retain(|(other, _)| *other != of);
        self.rate_limits.push((of, limits.into()));
        self
    }

    /// Limits every key of this environment, in addition to its own limits.
    ///
    /// A low limit for `test` keeps test keys from being used for load tests.
    pub fn rate_ceiling(mut self, of: Environment, limits: impl Into<RateLimits>) -> Self {
        self.rate_ceilings.retain(|(other, _)| *other != of);
        self.rate_ceilings.push((of, limits.into()));
        self
    }

    /// Counts requests with this limiter, outside of this process.
    pub fn limiter(mut self, limiter: impl Limiter) -> Self {
        self.limiter = Some(Arc::new(limiter));
        self
    }

    /// Sends `X-RateLimit-Limit`, `-Remaining` and `-Reset` as well, with the reset in this unit.
    ///
    /// The standard headers are always sent if there is a limit; see
    /// [`Quota`](crate::limit::Quota).
    pub fn legacy_rate_limit_headers(mut self, reset: ResetUnit) -> Self {
        self.legacy_fields = Some(reset);
        self
    }

    /// Refunds credits if the handler responds with a 5xx. Rate limits are not refunded.
    ///
    /// A request that the client cancels is charged, and so is one that ends without a response:
    /// with an error of a service, such as a timeout, or with a panic, even if an outer layer turns
    /// it into a 5xx.
    pub fn refund_server_errors(mut self) -> Self {
        self.refunds_from = self.refunds_from.min(500);
        self
    }

    /// Refunds credits if the handler responds with a 4xx or a 5xx.
    ///
    /// Otherwise like [`refund_server_errors`](Self::refund_server_errors). Use it for a service
    /// that sells results: a request that it cannot process costs nothing but its share of the rate
    /// limit.
    ///
    /// ```
    /// # use keyward::{Gate, KeyFormat, KeyScheme, MemoryStore};
    /// # let (store, scheme) = (MemoryStore::new(), KeyScheme::new(KeyFormat::new("acme_{env}_")?));
    /// let gate = Gate::builder(&store, &scheme).refund_errors().build();
    /// assert!(gate.is_ok());
    /// # Ok::<(), keyward::error::ParseError>(())
    /// ```
    pub fn refund_errors(mut self) -> Self {
        self.refunds_from = 400;
        self
    }

    /// Rejects addresses with too many failed requests (brute-force protection). Off by default.
    pub fn failure_throttle(mut self, throttle: AuthFailureLimiter) -> Self {
        self.throttle = Some(throttle);
        self
    }

    /// Takes the client's address from these proxies: addresses, or networks such as `10.0.0.0/8`.
    ///
    /// If the connection comes from one of them, `X-Forwarded-For` is read from right to left, over all its
    /// lines, to the first address that is not a trusted proxy. Whatever precedes it may be forged. An entry
    /// that is not an address ends the search at the one before it; if all are proxies, the leftmost counts.
    ///
    /// Every proxy must append the address that it sees to the header. Do not name a network from which
    /// clients connect: they could claim any address, and get it rejected or accepted. The address is used by
    /// the [failure throttle](Self::failure_throttle) and for the [address
    /// allowlist](crate::address::AddressPolicy) of a key.
    ///
    /// Behind a proxy that is not named here, every client has the address of the proxy: an allowlist then
    /// refuses all clients, or accepts all of them if the proxy itself is on it. The first such request with
    /// `X-Forwarded-For` and a key with an allowlist is logged as a warning.
    ///
    /// ```
    /// # use keyward::{Gate, KeyFormat, KeyScheme, MemoryStore, RateLimit};
    /// # use keyward::error::ParseErrorKind;
    /// # use keyward::throttle::AuthFailureLimiter;
    /// # let (store, scheme) = (MemoryStore::new(), KeyScheme::new(KeyFormat::new("vhk_{env}_")?));
    /// let gate = || Gate::builder(&store, &scheme)
    ///     .failure_throttle(AuthFailureLimiter::new(RateLimit::per_minute(10)));
    /// assert!(gate().trusted_proxies(["10.0.0.0/8", "2001:db8::17"])?.build().is_ok());
    ///
    /// let everybody = gate().trusted_proxies(["0.0.0.0/0"]);
    /// assert_eq!(everybody.unwrap_err().kind(), ParseErrorKind::EveryAddress);
    /// # Ok::<(), keyward::error::ParseError>(())
    /// ```
    ///
    /// # Errors
    /// Returns an error if one is neither an address nor a network, if a network has bits set after its
    /// prefix, or if they include every IPv4 or every IPv6 address, alone or together.
    pub fn trusted_proxies<I>(mut self, proxies: I) -> Result<Self, ParseError>
    where
        I: IntoIterator<Item: AsRef<str>>,
    {
        for proxy in proxies {
            self.trusted_proxies.push(address::parse(proxy.as_ref())?);
        }
        if address::include_every_address(&self.trusted_proxies) {
            let kind = ParseErrorKind::EveryAddress;
            return Err(ParseError::new("list of trusted proxies", kind));
        }
        Ok(self)
    }

    /// Sets how an adapter finds the address at the other end of a connection.
    ///
    /// The source is a type of the adapter: `PeerFromExtensions` of keyward-tower, `PeerFromRequest` of
    /// keyward-actix. Their docs say which address is used by default. A source of one adapter does not
    /// affect another one, and a second source of the same type replaces the first.
    pub fn peer(mut self, source: impl PeerSource) -> Self {
        self.peers.push(Box::new(source));
        self
    }

    /// Builds the gate.
    ///
    /// # Errors
    /// Returns an error if two locations could claim the same key, there are more than 16
    /// locations, the realm or the body's content type cannot be sent in a header, a status is
    /// mapped to another class, or a method or header name of the CORS policy is not a token.
    pub fn build(mut self) -> Result<Gate, GateError> {
        /// Starts at one: [`NO_GATE`](crate::gate::principal) is zero.
        static NEXT: AtomicU64 = AtomicU64::new(1);
        if self.locations.is_empty() {
            self.locations = KeyLocation::defaults().into();
        }
        self.check()?;
        let Self {
            locations,
            realm,
            replies,
            ..
        } = &self;
        let legacy = self.legacy_fields.is_some();
        let cors = CorsReplies::made(self.cors.as_ref(), locations, legacy);
        let rendered = GateReplies::made(replies, realm, locations, cors.cors_headers.as_ref());
        let websocket = locations
            .iter()
            .position(KeyLocation::is_websocket_protocol);
        // No cache stores the response to a handshake.
        let cached = locations.iter().filter(|own| !own.is_websocket_protocol());
        let names = cached.map(KeyLocation::header_name);
        let headers = once_each(names.clone());
        let headers_and_authorization = once_each(names.chain(["authorization"]));
        Ok(Gate {
            inner: Arc::new(Inner {
                id: NEXT.fetch_add(1, Ordering::Relaxed),
                forwards_key: self.forwards_key,
                rendered,
                cors,
                peers: self.peers,
                throttle: self.throttle.map(|it| it.start(self.replica.clock())),
                trusted_proxies: self.trusted_proxies,
                warned_of_proxy: AtomicBool::new(false),
                replica: self.replica,
                scheme: self.scheme,
                headers,
                headers_and_authorization,
                websocket,
                foreign: self.foreign,
                locations: self.locations,
                realm: self.realm,
                replies: self.replies,
                max_staleness: self.max_staleness,
                refresh_wait: self.refresh_wait,
                counts_usage: self.counts_usage,
                records_networks: self.records_networks,
                rate_limits: self.rate_limits,
                rate_ceilings: self.rate_ceilings,
                limiter: self.limiter,
                legacy_fields: self.legacy_fields,
                refunds_from: self.refunds_from,
                reports: Reports::default(),
                log: LogLimit::default(),
            }),
        })
    }

    fn check(&self) -> Result<(), GateError> {
        let is_quotable = |b: u8| matches!(b, b' '..=b'~') && b != b'"' && b != b'\\';
        let overlap = KeyLocation::any_overlap(&self.locations);
        let kind = if overlap || self.locations.len() > 16 {
            GateErrorKind::Locations
        } else if !self.realm.bytes().all(is_quotable) {
            GateErrorKind::Realm
        } else if !self.replies.is_valid() {
            GateErrorKind::Replies
        } else if self.cors.as_ref().is_some_and(|cors| !cors.is_valid()) {
            GateErrorKind::Cors
        } else {
            return Ok(());
        };
        Err(GateError::new(kind))
    }
}

/// Returns these headers without duplicates.
fn once_each<'a>(names: impl Iterator<Item = &'a str>) -> Arc<[Box<str>]> {
    let mut headers: Vec<Box<str>> = Vec::new();
    for header in names {
        if !headers.iter().any(|own| **own == *header) {
            headers.push(header.into());
        }
    }
    headers.into()
}

/// The error of building a [`Gate`].
///
/// ```
/// use keyward::{Gate, KeyFormat, KeyScheme, MemoryStore};
/// use keyward::gate::GateErrorKind;
///
/// let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_")?);
/// let error = Gate::builder(&MemoryStore::new(), &scheme).realm("\n").build().unwrap_err();
/// assert_eq!(error.kind(), GateErrorKind::Realm);
/// # Ok::<(), keyward::error::ParseError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct GateError {
    kind: GateErrorKind,
}

impl GateError {
    pub(crate) const fn new(kind: GateErrorKind) -> Self {
        Self { kind }
    }

    /// Returns the kind of error.
    #[must_use]
    pub const fn kind(&self) -> GateErrorKind {
        self.kind
    }
}

impl fmt::Display for GateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            GateErrorKind::Locations => "two locations claim the same API key, or there are too many",
            GateErrorKind::Realm => "the realm contains a character that is not allowed in a challenge",
            GateErrorKind::Replies => {
                "a status is mapped to another class, or the content type cannot be sent in a header"
            }
            GateErrorKind::Cors => "a method or a header name of the CORS policy is not a token",
        })
    }
}

impl Error for GateError {}

/// The kind of a [`GateError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GateErrorKind {
    /// Two locations could claim the same key, or there are more than 16.
    Locations,
    /// The realm contains a quote, a backslash, a control or a non-ASCII character.
    Realm,
    /// A status is mapped to another class, or the content type is not valid.
    Replies,
    /// A CORS method or header name is not a token, or there is no method.
    Cors,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::denial::ErrorCode;
    use crate::key::KeyFormat;
    use crate::store::MemoryStore;

    fn builder() -> GateBuilder {
        let scheme = KeyScheme::new(KeyFormat::new("x_").unwrap());
        Gate::builder(&MemoryStore::new(), &scheme)
    }

    #[test]
    fn refuses_proxies_that_are_every_client_together() {
        let halves = ["0.0.0.0/1", "128.0.0.0/1"];
        let error = builder().trusted_proxies(halves).unwrap_err();
        assert_eq!(error.kind(), ParseErrorKind::EveryAddress);
        let one = builder().trusted_proxies(&halves[..1]).unwrap();
        let error = one.trusted_proxies(&halves[1..]).unwrap_err();
        assert_eq!(error.kind(), ParseErrorKind::EveryAddress);
    }

    #[test]
    fn refuses_what_could_not_work() {
        let kind = |builder: GateBuilder| builder.build().unwrap_err().kind();
        let twice = builder()
            .location(KeyLocation::bearer())
            .location(KeyLocation::scheme("BEARER").unwrap());
        assert_eq!(kind(twice), GateErrorKind::Locations);
        let twice = builder()
            .location(KeyLocation::x_client_key())
            .location(KeyLocation::header("X-Client-Key").unwrap());
        assert_eq!(kind(twice), GateErrorKind::Locations);
        assert_eq!(kind(builder().realm("a\"b")), GateErrorKind::Realm);
        assert_eq!(kind(builder().realm("a\r\nb")), GateErrorKind::Realm);
        let ok = Replies::default().status(ErrorCode::MissingApiKey, 200);
        assert_eq!(kind(builder().replies(ok)), GateErrorKind::Replies);
        let field = Cors::new().request_header("x y");
        assert_eq!(kind(builder().cors(field)), GateErrorKind::Cors);
    }
}
