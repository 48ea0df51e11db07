//! The places in a request where a key may be sent.

use crate::error::{ParseError, ParseErrorKind};
use crate::key::KeyKind;
use crate::request::list::elements;
use crate::request::websocket;

/// Headers that browsers, proxies, caches, servers or tracing read or write themselves (RFC 9110
/// §16.3.1 and common practice). A key in one of them would be forwarded, logged or replaced, and
/// removing it would break the request.
#[rustfmt::skip]
const RESERVED: [&str; 121] = [
    "a-im", "age", "allow", "alt-svc", "alt-used", "alternates", "apply-to-redirect-ref",
    "authorization", "b3", "baggage", "close", "connection", "dasl", "date", "dav",
    "delta-base", "deprecation", "depth", "destination", "device-memory", "digest", "dnt",
    "downlink", "dpop", "dpop-nonce", "dpr", "early-data", "ect", "etag", "expect", "expires",
    "forwarded", "from", "host", "http2-settings", "idempotency-key", "im", "keep-alive",
    "label", "last-event-id", "last-modified", "link", "location", "lock-token", "max-forwards",
    "mime-version", "negotiate", "nel", "opt", "origin", "origin-agent-cluster", "overwrite",
    "ping-from", "ping-to", "position", "pragma", "prefer", "preference-applied", "priority",
    "purpose", "range", "redirect-ref", "referer", "refresh", "replay-nonce", "retry-after",
    "rtt", "save-data", "server", "server-timing", "signature", "signature-input", "slug",
    "soapaction", "strict-transport-security", "stripe-signature", "sunset", "tcn", "te",
    "timeout", "timing-allow-origin", "topic", "traceparent", "tracestate", "trailer",
    "transfer-encoding", "true-client-ip", "ttl", "upgrade", "upgrade-insecure-requests",
    "urgency", "uri", "user-agent", "vary", "via", "viewport-width", "warning", "width",
    "www-authenticate", "x-amzn-trace-id", "x-client-ip", "x-cloud-trace-context",
    "x-cluster-client-ip", "x-content-type-options", "x-correlation-id", "x-csrf-token",
    "x-frame-options", "x-grpc-web", "x-http-method", "x-http-method-override",
    "x-hub-signature", "x-hub-signature-256", "x-method-override", "x-moz", "x-real-ip",
    "x-request-id", "x-requested-with", "x-rewrite-url", "x-sendfile", "x-user-agent",
    "x-xsrf-token",
];

/// Prefixes of whole families of such headers.
#[rustfmt::skip]
const RESERVED_PREFIXES: [&str; 37] = [
    "accept", "access-control-", "attribution-reporting-", "authentication-", "cache-",
    "caldav-", "cdn-", "cf-", "client-cert", "content-", "cookie", "cross-origin-", "fastly-",
    "fly-", "grpc-", "if-", "method-check", "odata-", "proxy-", "ratelimit", "repeatability-",
    "schedule-", "sec-", "service-worker", "set-cookie", "surrogate-", "svix-", "tus-",
    "upload-", "want-", "webhook-", "x-accel-", "x-b3-", "x-envoy-", "x-forwarded",
    "x-original-", "x-ratelimit",
];

/// A place in a request where a key may be sent: a header, never the URL or a cookie.
///
/// ```
/// use keyward::{KeyKind, KeyLocation};
///
/// let own = KeyLocation::header("X-Acme-Key")?;
/// assert_eq!(own.header_name(), "x-acme-key");
/// assert_eq!(KeyLocation::bearer().header_name(), "authorization");
/// assert_eq!(KeyLocation::client_key().accepts(), KeyKind::Publishable);
/// # Ok::<(), keyward::error::ParseError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyLocation {
    place: Place,
    accepts: KeyKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Header(Box<str>),
    Scheme(Box<str>),
    RawAuthorization,
    WebSocketProtocol,
}

impl KeyLocation {
    /// Returns the locations that a gate accepts by default: `X-API-Key` and `Authorization: Bearer`.
    ///
    /// ```
    /// use keyward::KeyLocation;
    ///
    /// assert_eq!(KeyLocation::defaults(), [KeyLocation::x_api_key(), KeyLocation::bearer()]);
    /// ```
    #[must_use]
    pub fn defaults() -> [Self; 2] {
        [Self::x_api_key(), Self::bearer()]
    }

    /// Accepts the key in a header of its own that contains nothing else.
    ///
    /// # Errors
    /// Returns an error if the text is not a header name (RFC 9110 §5.1), or if the header is
    /// [reserved](ParseErrorKind::Reserved) because it has a meaning of its own: `authorization`,
    /// `cookie`, `host`, `range`, `via`, everything that begins with `sec-`, `x-forwarded-`,
    /// `proxy-`, `content-` and the like. For `Authorization`, use [`bearer`](Self::bearer),
    /// [`scheme`](Self::scheme) or [`raw_authorization`](Self::raw_authorization).
    ///
    /// ```
    /// use keyward::KeyLocation;
    /// use keyward::error::ParseErrorKind;
    ///
    /// let error = KeyLocation::header("X-Forwarded-For").unwrap_err();
    /// assert_eq!(error.kind(), ParseErrorKind::Reserved);
    /// let error = KeyLocation::header("Authorization").unwrap_err().to_string();
    /// assert!(error.contains("is reserved") && error.contains("use `KeyLocation::bearer`"), "{error}");
    /// ```
    pub fn header(name: &str) -> Result<Self, ParseError> {
        let name = name.to_ascii_lowercase();
        check_token("header name", &name)?;
        let begins = |prefix: &&str| name.starts_with(prefix);
        if RESERVED.contains(&&*name) || RESERVED_PREFIXES.iter().any(begins) {
            let error = ParseError::new("header name", ParseErrorKind::Reserved);
            return Err(error.advise(match &*name {
                "authorization" => {
                    "use `KeyLocation::bearer`, `KeyLocation::scheme` or `KeyLocation::raw_authorization`"
                }
                "sec-websocket-protocol" => "use `KeyLocation::websocket_protocol`",
                _ => "use `KeyLocation::x_api_key` or a name of your own, such as `x-acme-key`",
            }));
        }
        Ok(Self::secret(Place::Header(name.into())))
    }

    /// Accepts `X-API-Key: <key>`.
    #[must_use]
    pub fn x_api_key() -> Self {
        Self::secret(Place::Header("x-api-key".into()))
    }

    /// Accepts `Authorization: Bearer <key>` (RFC 6750 §2.1).
    #[must_use]
    pub fn bearer() -> Self {
        Self::secret(Place::Scheme("Bearer".into()))
    }

    /// Accepts `Authorization: <scheme> <key>`, with the scheme in any case.
    ///
    /// # Errors
    /// Returns an error if `scheme` is not a token (RFC 9110 §11.1).
    pub fn scheme(scheme: &str) -> Result<Self, ParseError> {
        check_token("authentication scheme", scheme)?;
        Ok(Self::secret(Place::Scheme(scheme.into())))
    }

    /// Accepts `Authorization: <key>`, without a scheme.
    ///
    /// Some services ask for this although RFC 9110 §11.6.2 requires a scheme.
    #[must_use]
    pub fn raw_authorization() -> Self {
        Self::secret(Place::RawAuthorization)
    }

    /// Accepts `Authorization: ClientKey <key>`, for publishable keys.
    #[must_use]
    pub fn client_key() -> Self {
        Self::secret(Place::Scheme("ClientKey".into())).publishable()
    }

    /// Accepts `X-Client-Key: <key>`, for publishable keys.
    #[must_use]
    pub fn x_client_key() -> Self {
        Self::secret(Place::Header("x-client-key".into())).publishable()
    }

    /// Accepts the key as a subprotocol of a WebSocket handshake, for publishable keys.
    ///
    /// A page cannot set headers on a WebSocket, but it can offer subprotocols (RFC 6455 §1.9). It
    /// offers `bearer`, then the key, and its own ones wherever it likes:
    ///
    /// ```js
    /// new WebSocket("wss://api.example.com/live", ["chat", "bearer", "acme_live_…"])
    /// ```
    ///
    /// The key is the subprotocol after `bearer`, or one that begins like a key of the gate, over all
    /// lines of `Sec-WebSocket-Protocol`. With more than one the request is refused: 400
    /// `multiple_api_keys`. Only the key is removed, so the handler sees `chat, bearer` and cannot
    /// send the key back by selecting it. A browser closes the connection if none of the subprotocols
    /// that it offered is selected. So if the handler selects none, the response selects `bearer`:
    ///
    /// ```text
    /// HTTP/1.1 101 Switching Protocols
    /// sec-websocket-protocol: bearer
    /// ```
    ///
    /// The header is a location only in a WebSocket handshake: `GET` with `Upgrade: websocket`, or
    /// `CONNECT` in HTTP/2 (RFC 8441). A page's key is publishable; a program that is no page can send
    /// its key in any other header.
    ///
    /// ```
    /// use keyward::{KeyKind, KeyLocation};
    ///
    /// let socket = KeyLocation::websocket_protocol();
    /// assert_eq!(socket.header_name(), "sec-websocket-protocol");
    /// assert_eq!(socket.accepts(), KeyKind::Publishable);
    /// ```
    #[must_use]
    pub fn websocket_protocol() -> Self {
        Self::secret(Place::WebSocketProtocol).publishable()
    }

    /// Accepts publishable keys in this location instead of secret ones.
    ///
    /// A secret key sent here is refused, because a secret key in a web page is a leak.
    #[must_use]
    pub fn publishable(mut self) -> Self {
        self.accepts = KeyKind::Publishable;
        self
    }

    /// Returns the name of the header, in lower case.
    #[must_use]
    pub fn header_name(&self) -> &str {
        match &self.place {
            Place::Header(name) => name,
            Place::Scheme(_) | Place::RawAuthorization => "authorization",
            Place::WebSocketProtocol => websocket::HEADER,
        }
    }

    /// Returns the kind of key that is accepted in this location.
    #[must_use]
    pub fn accepts(&self) -> KeyKind {
        self.accepts
    }

    /// Returns the scheme for the challenge; `ApiKey` if the key is not in a scheme.
    #[must_use]
    pub fn challenge(&self) -> &str {
        match &self.place {
            Place::Scheme(scheme) => scheme,
            Place::Header(_) | Place::RawAuthorization | Place::WebSocketProtocol => "ApiKey",
        }
    }

    /// Returns how to send a key in this location, for the text of a refusal.
    pub(crate) fn usage(&self) -> String {
        match &self.place {
            Place::Header(name) => format!("{name}: <key>"),
            Place::Scheme(scheme) => format!("Authorization: {scheme} <key>"),
            Place::RawAuthorization => "Authorization: <key>".to_owned(),
            Place::WebSocketProtocol => "Sec-WebSocket-Protocol: bearer, <key>".to_owned(),
        }
    }

    pub(crate) fn is_websocket_protocol(&self) -> bool {
        self.place == Place::WebSocketProtocol
    }

    pub(crate) fn is_authorization(&self) -> bool {
        matches!(self.place, Place::Scheme(_) | Place::RawAuthorization)
    }

    /// Returns whether any two of the locations could claim the same text.
    #[must_use]
    pub fn any_overlap(all: &[Self]) -> bool {
        let mut pairs = (1..).zip(all);
        pairs.any(|(next, one)| all.iter().skip(next).any(|other| one.overlaps(other)))
    }

    /// Returns whether both locations could claim the same text.
    fn overlaps(&self, other: &Self) -> bool {
        match (&self.place, &other.place) {
            (Place::Header(a), Place::Header(b)) => a == b,
            (Place::Scheme(a), Place::Scheme(b)) => a.eq_ignore_ascii_case(b),
            (a, b) => a == b,
        }
    }

    /// Returns the key in a line of this location's header: `None` if the line belongs to another
    /// scheme, empty if the key is missing.
    pub(crate) fn key_in<'a>(&self, line: &'a [u8]) -> Option<&'a [u8]> {
        let line = trim(line);
        match &self.place {
            // A list of subprotocols is not searched here.
            Place::Header(_) | Place::WebSocketProtocol => Some(line),
            Place::Scheme(scheme) => {
                let (given, rest) = match line.iter().position(|byte| *byte == b' ') {
                    Some(space) => line.split_at_checked(space)?,
                    None => (line, &[][..]),
                };
                let same = given.eq_ignore_ascii_case(scheme.as_bytes());
                // RFC 9110 §11.4 separates them by spaces. A tab is not a space.
                let spaces = rest.iter().take_while(|byte| **byte == b' ').count();
                same.then(|| rest.get(spaces..)).flatten()
            }
            Place::RawAuthorization => (!names_a_scheme(line)).then_some(line),
        }
    }

    /// Returns whether a line contains a key of this location after a comma.
    ///
    /// The comma joins what were two lines (RFC 9110 §5.3), the first with another credential.
    pub(crate) fn is_joined_in(&self, line: &[u8]) -> bool {
        // Fast path: most lines of other schemes have no comma.
        line.contains(&b',')
            && elements(line).skip(1).any(|element| {
                let key = self.key_in(element).unwrap_or_default();
                // Credentials of other schemes may be parameter lists (RFC 9110 §11.4).
                !(key.is_empty() || self.place == Place::RawAuthorization && is_parameter(key))
            })
    }

    fn secret(place: Place) -> Self {
        let accepts = KeyKind::Secret;
        Self { place, accepts }
    }
}

/// Returns whether this is a parameter, `name=value`, rather than base64 with padding.
pub(crate) fn is_parameter(element: &[u8]) -> bool {
    let value = element.splitn(2, |byte| *byte == b'=').nth(1);
    value.is_some_and(|value| value.iter().any(|byte| *byte != b'='))
}

/// Trims the optional white space around a header value (RFC 9110 §5.5).
///
/// ```
/// assert_eq!(keyward::request::trim(b" \tv1 "), b"v1");
/// ```
#[must_use]
pub fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Returns whether a line of `Authorization` begins with the name of a scheme (RFC 9110 §11.4):
/// letters, digits and hyphens, shorter than any key, then a space or the end.
pub(crate) fn names_a_scheme(line: &[u8]) -> bool {
    let name = line.split(|byte| *byte == b' ').next().unwrap_or_default();
    let is_name_byte = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-';
    (1..20).contains(&name.len()) && name.iter().all(is_name_byte)
}

pub(crate) fn check_token(subject: &'static str, text: &str) -> Result<(), ParseError> {
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    let kind = match text.len() {
        0 => ParseErrorKind::Empty,
        1..=64 if text.bytes().all(is_token) => return Ok(()),
        1..=64 => ParseErrorKind::Character,
        _ => ParseErrorKind::TooLong,
    };
    Err(ParseError::new(subject, kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_only_header_names_that_are_not_reserved() {
        let kind = |name| KeyLocation::header(name).unwrap_err().kind();
        for bad in ["", "x y", "x:y", "é"] {
            assert_ne!(kind(bad), ParseErrorKind::Reserved, "{bad}");
        }
        for reserved in [
            "Authorization",
            "cookie",
            "ORIGIN",
            "Host",
            "content-length",
            "Access-Control-Request-Method",
            "Sec-WebSocket-Protocol",
            "sec-websocket-key",
            "sec-fetch-site",
            "Range",
            "If-None-Match",
            "Via",
            "X-Forwarded-For",
            "X-Forwarded",
            "Forwarded",
            "Accept",
            "Accept-Language",
            "Cache-Control",
            "Traceparent",
            "Priority",
            "Proxy-Connection",
            "Keep-Alive",
            "X-Real-IP",
            "X-HTTP-Method-Override",
            "X-Original-URL",
            "grpc-timeout",
            "X-Grpc-Web",
            "webhook-signature",
            "User-Agent",
            "Idempotency-Key",
            "X-Request-Id",
            "Early-Data",
        ] {
            assert_eq!(kind(reserved), ParseErrorKind::Reserved, "{reserved}");
        }
        for free in [
            "api-key",
            "X-API-Key",
            "X-Acme-Key",
            "x-auth-token",
            "apikey",
            "Ocp-Apim-Subscription-Key",
            "x-acceptance-key",
            "second-key",
        ] {
            assert!(KeyLocation::header(free).is_ok(), "{free}");
        }
        assert!(KeyLocation::scheme("").is_err());
        assert!(KeyLocation::scheme("a b").is_err());
    }

    #[test]
    fn reads_a_scheme_without_case_and_only_spaces_after_it() {
        let bearer = KeyLocation::bearer();
        for line in [
            &b"Bearer k"[..],
            b"bearer k",
            b"BEARER    k",
            b" Bearer k\t",
        ] {
            assert_eq!(bearer.key_in(line), Some(&b"k"[..]), "{line:?}");
        }
        for line in [&b"Bearer"[..], b"Bearer ", b"bearer    "] {
            assert_eq!(bearer.key_in(line), Some(&b""[..]), "{line:?}");
        }
        for line in [&b"Bearer\tk"[..], b"Basic k", b"Bearerk", b"", b"k"] {
            assert_eq!(bearer.key_in(line), None, "{line:?}");
        }
        assert_eq!(bearer.key_in(b"Bearer \tk"), Some(&b"\tk"[..]));
    }

    #[test]
    fn takes_a_raw_key_only_without_a_scheme() {
        let raw = KeyLocation::raw_authorization();
        assert_eq!(raw.key_in(b" cs_1 "), Some(&b"cs_1"[..]));
        for other in [
            &b"Bearer cs_1"[..],
            b"Bearer",
            b"Basic ",
            b"AWS4-HMAC-SHA256 x",
        ] {
            assert_eq!(raw.key_in(other), None, "{other:?}");
        }
        for odd in [&b"cs_1 x"[..], b"cs_1, cs_1", b"Bearer\tcs_1"] {
            assert_eq!(raw.key_in(odd), Some(odd), "{odd:?}");
        }
    }
}
