//! Origin allowlists: the web pages that may use a key (RFC 6454).

use std::fmt;

use url::{Host, Url};

use crate::error::{ParseError, ParseErrorKind};

const MAX_PATTERNS: usize = 25;

/// The origin allowlist of a key, which restricts the web pages that may use it.
///
/// A browser sends the page's origin and pages cannot forge it, but any other program can. The
/// allowlist therefore restricts pages in browsers and proves nothing about other callers.
///
/// ```
/// use keyward::OriginPolicy;
///
/// let policy = OriginPolicy::listed(["shop.example", "*.shop.example"])?;
/// assert!(policy.patterns().eq(["https://shop.example", "https://*.shop.example"]));
/// assert!(OriginPolicy::listed(Vec::<String>::new()).is_err()); // an empty list is an error
/// # Ok::<(), keyward::error::ParseError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OriginPolicy {
    /// Any origin is allowed, and requests without `Origin` too.
    Any,
    /// Allows only pages of the listed origins.
    Listed(OriginList),
}

impl OriginPolicy {
    /// Allows only pages of the listed origins. Requests without `Origin` are refused.
    ///
    /// A pattern is `[scheme://][*.]host[:port]`. The scheme defaults to `https` and the port to
    /// that of the scheme; the port `*` allows any. `*.` stands for one label or more. A trailing
    /// slash, as in an address copied from a browser, is dropped.
    ///
    /// The origins of apps and browser extensions are listed by their exact value, without
    /// wildcards: `capacitor://localhost`, `ionic://localhost`, `tauri://localhost`, and
    /// `chrome-extension://…` and `moz-extension://…` with the extension's id. All apps of such a
    /// framework have the same origin, which distinguishes apps from web pages but not from each
    /// other. The id of an extension is unique.
    ///
    /// ```
    /// use keyward::OriginPolicy;
    ///
    /// let policy = OriginPolicy::listed(["https://EXAMPLE.com/", "capacitor://localhost"])?;
    /// assert!(policy.patterns().eq(["https://example.com", "capacitor://localhost"]));
    /// # Ok::<(), keyward::error::ParseError>(())
    /// ```
    ///
    /// [`KeyAdmin`](crate::admin::KeyAdmin) decides whether a key may have a list, because that
    /// depends on the key's environment: see [`NewKey::origins`](crate::admin::NewKey::origins).
    ///
    /// # Errors
    /// Returns an error if the list is empty or has more than 25 entries, or if an entry is not a
    /// pattern; the error tells [which one](ParseError::entry). A lone wildcard, a wildcard within
    /// a label or before an IP address, a path, userinfo and `null` are not allowed.
    pub fn listed<I>(patterns: I) -> Result<Self, ParseError>
    where
        I: IntoIterator<Item: AsRef<str>>,
    {
        let patterns = patterns
            .into_iter()
            .enumerate()
            .map(|(entry, pattern)| {
                let pattern = OriginPattern::parse(pattern.as_ref());
                pattern.map_err(|error| error.at(entry))
            })
            .collect::<Result<Box<[_]>, _>>()?;
        let kind = match patterns.len() {
            0 => ParseErrorKind::Empty,
            1..=MAX_PATTERNS => {
                let servers = false;
                return Ok(Self::Listed(OriginList { patterns, servers }));
            }
            _ => ParseErrorKind::TooMany,
        };
        Err(ParseError::new("origin list", kind))
    }

    /// Additionally allows requests without `Origin`: servers, apps, and same-origin `GET`s.
    ///
    /// ```
    /// let listed = keyward::OriginPolicy::listed(["shop.example"])?;
    /// assert!(!listed.allows_no_origin());
    /// assert!(listed.or_no_origin().allows_no_origin());
    /// # Ok::<(), keyward::error::ParseError>(())
    /// ```
    #[must_use]
    pub fn or_no_origin(mut self) -> Self {
        if let Self::Listed(list) = &mut self {
            list.servers = true;
        }
        self
    }

    /// Returns the normalised patterns; empty if any origin is allowed.
    pub fn patterns(&self) -> impl Iterator<Item = &str> {
        let patterns = match self {
            Self::Any => &[][..],
            Self::Listed(list) => &list.patterns,
        };
        patterns.iter().map(|pattern| &*pattern.text)
    }

    /// Returns whether this policy allows every request that `other` allows.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) => true,
            (Self::Listed(_), Self::Any) => false,
            (Self::Listed(own), Self::Listed(others)) => {
                (own.servers || !others.servers)
                    && others
                        .patterns
                        .iter()
                        .all(|pattern| own.patterns.contains(pattern))
            }
        }
    }

    /// Returns whether a request without `Origin` is allowed.
    #[must_use]
    pub fn allows_no_origin(&self) -> bool {
        match self {
            Self::Any => true,
            Self::Listed(list) => list.servers,
        }
    }

    /// Checks all `Origin` values of a request.
    pub(crate) fn judge<'a>(
        &self,
        mut origins: impl Iterator<Item = &'a [u8]>,
    ) -> Result<(), OriginRefusal> {
        let Self::Listed(list) = self else {
            return Ok(());
        };
        match (origins.next(), origins.next()) {
            (None, _) if list.servers => Ok(()),
            (None, _) => Err(OriginRefusal::Missing),
            (Some(origin), None) if list.holds(origin) => Ok(()),
            _ => Err(OriginRefusal::NotAllowed),
        }
    }
}

/// The reason for refusing a request's origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OriginRefusal {
    Missing,
    NotAllowed,
}

/// A list of origin patterns, created by [`OriginPolicy::listed`].
///
/// [`OriginPolicy::patterns`] returns its entries.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OriginList {
    patterns: Box<[OriginPattern]>,
    servers: bool,
}

impl OriginList {
    fn holds(&self, origin: &[u8]) -> bool {
        self.patterns.iter().any(|pattern| pattern.matches(origin))
    }
}

/// A normalised pattern of the form `[scheme://][*.]host[:port or :*]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct OriginPattern {
    /// The whole pattern, which without wildcards is the serialised origin.
    text: Box<str>,
    scheme: Scheme,
    /// True if one or more labels have to precede the host.
    subdomains: bool,
    host: Box<str>,
    port: Port,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Scheme {
    Http,
    Https,
    Capacitor,
    Ionic,
    Tauri,
    ChromeExtension,
    MozExtension,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Port {
    /// The scheme's default port, which a serialised origin omits.
    Default,
    Exactly(u16),
    Any,
}

impl OriginPattern {
    fn parse(text: &str) -> Result<Self, ParseError> {
        let error = |kind| {
            match kind {
            ParseErrorKind::Scheme => ParseError::new("origin pattern", kind).advise(
                "for apps and extensions use capacitor, ionic, tauri, chrome-extension or moz-extension",
            ),
            kind => ParseError::new("origin pattern", kind),
        }
        };
        Self::normalise(text).map_err(error)
    }

    fn normalise(text: &str) -> Result<Self, ParseErrorKind> {
        if text.is_empty() {
            return Err(ParseErrorKind::Empty);
        }
        if text.trim_end_matches('/').eq_ignore_ascii_case("null") {
            return Err(ParseErrorKind::Null);
        }
        let (scheme, rest) = match text.split_once("://") {
            None => (Scheme::Https, text),
            Some((scheme, rest)) => (Scheme::parse(scheme).ok_or(ParseErrorKind::Scheme)?, rest),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '\\', '?', '#', '@']) {
            return Err(ParseErrorKind::NotAnOrigin);
        }
        if scheme.is_of_apps() {
            return Self::of_an_app(scheme, rest);
        }
        let (rest, subdomains) = match rest.strip_prefix("*.") {
            Some(rest) => (rest, true),
            None => (rest, false),
        };
        let (host, port) = split_port(rest);
        let port = match port {
            None => Port::Default,
            Some("*") => Port::Any,
            Some(port) => scheme.port(port).ok_or(ParseErrorKind::Port)?,
        };
        if host.contains('*') {
            return Err(ParseErrorKind::Wildcard);
        }
        let host = match Host::parse(host).map_err(|_| ParseErrorKind::Host)? {
            Host::Domain(host) if are_labels(host.as_bytes()) => host,
            Host::Domain(_) => return Err(ParseErrorKind::Host),
            Host::Ipv4(_) | Host::Ipv6(_) if subdomains => return Err(ParseErrorKind::Wildcard),
            ip => ip.to_string(),
        };
        let star = if subdomains { "*." } else { "" };
        let text = match port {
            Port::Default => format!("{}{star}{host}", scheme.before_host()),
            Port::Exactly(port) => format!("{}{star}{host}:{port}", scheme.before_host()),
            Port::Any => format!("{}{star}{host}:*", scheme.before_host()),
        };
        Ok(Self {
            text: text.into(),
            scheme,
            subdomains,
            host: host.into(),
            port,
        })
    }

    /// Parses the exact origin of an app or an extension.
    fn of_an_app(scheme: Scheme, rest: &str) -> Result<Self, ParseErrorKind> {
        if rest.contains('*') {
            return Err(ParseErrorKind::Wildcard);
        }
        let host = rest.to_ascii_lowercase();
        let is_id =
            |len: usize, is_one: fn(u8) -> bool| host.len() == len && host.bytes().all(is_one);
        let is_host = match scheme {
            // 128 bits, written with the letters a to p.
            Scheme::ChromeExtension => is_id(32, |byte| matches!(byte, b'a'..=b'p')),
            Scheme::MozExtension => {
                is_id(36, |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-'))
            }
            _ => are_labels(host.as_bytes()),
        };
        if !is_host {
            return Err(ParseErrorKind::Host);
        }
        Ok(Self {
            text: format!("{}{host}", scheme.before_host()).into(),
            scheme,
            subdomains: false,
            host: host.into(),
            port: Port::Default,
        })
    }

    fn matches(&self, origin: &[u8]) -> bool {
        if !self.subdomains && self.port != Port::Any {
            return self.text.as_bytes() == origin;
        }
        std::str::from_utf8(origin).is_ok_and(|origin| self.matches_wildly(origin))
    }

    /// Matches a pattern with a wildcard. The parts that the wildcard covers have to be in the form
    /// in which a browser serialises them.
    fn matches_wildly(&self, origin: &str) -> bool {
        let Some(rest) = origin.strip_prefix(self.scheme.before_host()) else {
            return false;
        };
        let (host, port) = split_port(rest);
        let port_matches = match (self.port, port) {
            (Port::Default | Port::Any, None) => true,
            (Port::Exactly(_) | Port::Any, Some(text)) => {
                matches!(self.scheme.port(text), Some(Port::Exactly(port))
                    if (self.port == Port::Any || self.port == Port::Exactly(port))
                        && !text.starts_with(['0', '+']))
            }
            _ => false,
        };
        let host_matches = if self.subdomains {
            host.strip_suffix(&*self.host)
                .and_then(|labels| labels.strip_suffix('.'))
                .is_some_and(|labels| are_labels(labels.as_bytes()))
                && host.len() <= 253
                && (!host.contains("xn--") || serialises_to_itself(origin))
        } else {
            *host == *self.host
        };
        port_matches && host_matches
    }
}

impl Scheme {
    fn parse(text: &str) -> Option<Self> {
        let all = [
            Self::Http,
            Self::Https,
            Self::Capacitor,
            Self::Ionic,
            Self::Tauri,
            Self::ChromeExtension,
            Self::MozExtension,
        ];
        let name = |scheme: &Self| scheme.before_host().trim_end_matches("://");
        all.into_iter()
            .find(|scheme| text.eq_ignore_ascii_case(name(scheme)))
    }

    const fn is_of_apps(self) -> bool {
        !matches!(self, Self::Http | Self::Https)
    }

    const fn before_host(self) -> &'static str {
        match self {
            Self::Http => "http://",
            Self::Https => "https://",
            Self::Capacitor => "capacitor://",
            Self::Ionic => "ionic://",
            Self::Tauri => "tauri://",
            Self::ChromeExtension => "chrome-extension://",
            Self::MozExtension => "moz-extension://",
        }
    }

    fn port(self, text: &str) -> Option<Port> {
        if !text.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        match (self, text.parse().ok()?) {
            (_, 0) => None,
            (Self::Http, 80) | (Self::Https, 443) => Some(Port::Default),
            (_, port) => Some(Port::Exactly(port)),
        }
    }
}

/// Splits at the colon before the port, not at those of an IPv6 address.
fn split_port(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    }
}

/// Returns whether the text consists of dot-separated labels.
///
/// A label is 1 to 63 `a-z`, `0-9`, `-` and `_`.
fn are_labels(text: &[u8]) -> bool {
    text.split(|byte| *byte == b'.').all(|label| {
        (1..=63).contains(&label.len())
            && label
                .iter()
                .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
    })
}

/// Returns whether punycode in the host is valid and canonical, which needs the IDNA tables.
fn serialises_to_itself(origin: &str) -> bool {
    Url::parse(origin).is_ok_and(|url| url.origin().ascii_serialization() == origin)
}

impl fmt::Display for OriginPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn allows(pattern: &str, origin: &str) -> bool {
        let policy = OriginPolicy::listed([pattern]).unwrap();
        policy.judge([origin.as_bytes()].into_iter()).is_ok()
    }

    #[test]
    fn normalises_patterns() {
        for (stored, normal) in [
            ("example.com", "https://example.com"),
            ("HTTPS://Example.COM:443", "https://example.com"),
            ("http://localhost:80", "http://localhost"),
            ("http://localhost:*", "http://localhost:*"),
            ("*.Example.com:8443", "https://*.example.com:8443"),
            ("bücher.example", "https://xn--bcher-kva.example"),
            ("http://[0:0::1]:3000", "http://[::1]:3000"),
            ("127.0.0.1", "https://127.0.0.1"),
            ("a_b.example", "https://a_b.example"),
            ("https://EXAMPLE.com/", "https://example.com"),
            ("Example.com:8443/", "https://example.com:8443"),
            ("https://*.example.com/", "https://*.example.com"),
            ("http://tauri.localhost", "http://tauri.localhost"),
            ("capacitor://localhost", "capacitor://localhost"),
            ("IONIC://localhost/", "ionic://localhost"),
            ("tauri://localhost", "tauri://localhost"),
            (
                "chrome-extension://ABCDEFGHIJKLMNOPabcdefghijklmnop",
                "chrome-extension://abcdefghijklmnopabcdefghijklmnop",
            ),
            (
                "moz-extension://01234567-89ab-cdef-0123-456789abcdef/",
                "moz-extension://01234567-89ab-cdef-0123-456789abcdef",
            ),
        ] {
            let policy = OriginPolicy::listed([stored]).unwrap();
            assert!(policy.patterns().eq([normal]), "{stored}: {policy:?}");
        }
    }

    #[test]
    fn refuses_invalid_patterns() {
        use ParseErrorKind as Kind;
        for (bad, kind) in [
            ("", Kind::Empty),
            ("null", Kind::Null),
            ("*", Kind::Wildcard),
            ("https://*", Kind::Wildcard),
            ("*:443", Kind::Wildcard),
            ("*shop.example", Kind::Wildcard),
            ("sh*p.example", Kind::Wildcard),
            ("shop.*", Kind::Wildcard),
            ("10.0.0.*", Kind::Wildcard),
            ("*.10.1", Kind::Wildcard),
            ("%2a.shop.example", Kind::Host),
            ("*.", Kind::Host),
            ("*://shop.example", Kind::Scheme),
            ("shop.example/*", Kind::NotAnOrigin),
            ("user:pw@shop.example", Kind::NotAnOrigin),
            ("NULL", Kind::Null),
            ("exa*mple.com", Kind::Wildcard),
            ("*.*.example.com", Kind::Wildcard),
            ("*example.com", Kind::Wildcard),
            ("*.127.0.0.1", Kind::Wildcard),
            ("*.[::1]", Kind::Wildcard),
            ("ftp://example.com", Kind::Scheme),
            ("example.com/path", Kind::NotAnOrigin),
            ("https://example.com//", Kind::NotAnOrigin),
            ("https://example.com/path/", Kind::NotAnOrigin),
            ("https:///", Kind::Host),
            ("/", Kind::Host),
            ("null/", Kind::Null),
            ("capacitor://*", Kind::Wildcard),
            ("capacitor://*.localhost", Kind::Wildcard),
            ("capacitor://localhost:*", Kind::Wildcard),
            ("capacitor://localhost:80", Kind::Host),
            ("capacitor://", Kind::Host),
            ("capacitor://localhost/index.html", Kind::NotAnOrigin),
            ("chrome-extension://*", Kind::Wildcard),
            ("chrome-extension://abc", Kind::Host),
            (
                "chrome-extension://zbcdefghijklmnopabcdefghijklmnop",
                Kind::Host,
            ),
            ("moz-extension://localhost", Kind::Host),
            ("file://", Kind::Scheme),
            ("user@example.com", Kind::NotAnOrigin),
            ("example.com?x", Kind::NotAnOrigin),
            ("example.com#x", Kind::NotAnOrigin),
            ("example.com:0", Kind::Port),
            ("example.com:65536", Kind::Port),
            ("example.com:+80", Kind::Port),
            ("example.com:", Kind::Port),
            ("example.com.", Kind::Host),
            ("exa mple.com", Kind::Host),
            ("a..b", Kind::Host),
        ] {
            let error = OriginPolicy::listed(["shop.example", bad]).unwrap_err();
            assert_eq!((error.kind(), error.entry()), (kind, Some(1)), "{bad}");
        }
    }

    #[test]
    fn a_list_has_1_to_25_entries() {
        let hosts = |n| (0..n).map(|n| format!("h{n}.example"));
        let error = OriginPolicy::listed(hosts(0)).unwrap_err();
        assert_eq!(error.kind(), ParseErrorKind::Empty);
        assert!(OriginPolicy::listed(hosts(25)).is_ok());
        let error = OriginPolicy::listed(hosts(26)).unwrap_err();
        assert_eq!(error.kind(), ParseErrorKind::TooMany);
    }

    #[test]
    fn the_origin_of_an_app_matches_only_the_same_bytes() {
        for origin in [
            "capacitor://localhost",
            "ionic://localhost",
            "tauri://localhost",
            "chrome-extension://abcdefghijklmnopabcdefghijklmnop",
            "moz-extension://01234567-89ab-cdef-0123-456789abcdef",
            "http://tauri.localhost",
        ] {
            assert!(allows(origin, origin), "{origin}");
            for other in [
                "null".to_owned(),
                origin.to_uppercase(),
                format!("{origin}/"),
                format!("{origin}:80"),
                format!("x.{origin}"),
                origin.replacen("://", "://x.", 1),
                origin.replacen("://", ":", 1),
            ] {
                assert!(!allows(origin, &other), "{origin} {other}");
            }
        }
        assert!(!allows("localhost", "capacitor://localhost"));
        assert!(!allows("http://localhost:*", "capacitor://localhost"));
    }

    #[test]
    fn an_exact_pattern_matches_only_the_same_bytes() {
        assert!(allows("example.com", "https://example.com"));
        for other in [
            "",
            "null",
            "http://example.com",
            "https://EXAMPLE.com",
            "https://example.com:443",
            "https://example.com:8443",
            "https://example.com.",
            "https://example.com/",
            "https://user@example.com",
            "https://www.example.com",
            "https://example.com.evil.io",
            "https://evil-example.com",
            "https://example.com https://example.com",
            " https://example.com",
        ] {
            assert!(!allows("example.com", other), "{other}");
        }
        assert!(allows("bücher.example", "https://xn--bcher-kva.example"));
        assert!(!allows("bücher.example", "https://bücher.example"));
        assert!(allows("http://[::1]:3000", "http://[::1]:3000"));
    }

    #[test]
    fn a_subdomain_pattern_matches_labels_and_never_the_apex() {
        for yes in [
            "https://a.example.com",
            "https://a.b-c.example.com",
            "https://a_b.example.com",
        ] {
            assert!(allows("*.example.com", yes), "{yes}");
        }
        for no in [
            "https://example.com",
            "https://.example.com",
            "https://a..example.com",
            "https://evil-example.com",
            "https://evilexample.com",
            "https://a.example.com.",
            "https://a.example.com.evil.io",
            "https://A.example.com",
            "https://a.example.com:443",
            "https://a.example.com:8443",
            "http://a.example.com",
            "https://u@a.example.com",
            "https://a/b.example.com",
            "https://a b.example.com",
            "https://xn--a.example.com",
        ] {
            assert!(!allows("*.example.com", no), "{no}");
        }
        assert!(allows("*.example.com", "https://xn--bcher-kva.example.com"));
    }

    #[test]
    fn a_port_pattern_matches_ports_as_browsers_serialise_them() {
        for yes in [
            "http://localhost",
            "http://localhost:1",
            "http://localhost:65535",
        ] {
            assert!(allows("http://localhost:*", yes), "{yes}");
        }
        for no in [
            "http://localhost:",
            "http://localhost:80",
            "http://localhost:0",
            "http://localhost:08",
            "http://localhost:+8",
            "http://localhost:65536",
            "http://localhost:*",
            "https://localhost:1",
        ] {
            assert!(!allows("http://localhost:*", no), "{no}");
        }
        assert!(allows("*.example.com:8443", "https://a.example.com:8443"));
        assert!(!allows("*.example.com:8443", "https://a.example.com"));
    }

    #[test]
    fn refuses_more_than_one_origin_header() {
        let listed = OriginPolicy::listed(["example.com"]).unwrap();
        let one = &b"https://example.com"[..];
        assert_eq!(listed.judge([].into_iter()), Err(OriginRefusal::Missing));
        assert_eq!(
            listed.judge([one, one].into_iter()),
            Err(OriginRefusal::NotAllowed)
        );
        let with_servers = listed.or_no_origin();
        assert_eq!(with_servers.judge([].into_iter()), Ok(()));
        assert!(with_servers.judge([&b"null"[..]].into_iter()).is_err());
        assert_eq!(OriginPolicy::Any.judge([one, one].into_iter()), Ok(()));
    }

    #[test]
    fn covers_policies_that_allow_no_more() {
        let list = |patterns: &[&str]| OriginPolicy::listed(patterns).unwrap();
        let (one, two) = (list(&["a.example"]), list(&["a.example", "b.example"]));
        let with_servers = |list: &OriginPolicy| list.clone().or_no_origin();
        let policies = [
            (one.clone(), false),
            (two.clone(), false),
            (with_servers(&one), true),
            (with_servers(&two), true),
            (OriginPolicy::Any, true),
        ];
        // Each row lists what one policy covers of the others.
        let covered = [
            [true, false, false, false, false],
            [true, true, false, false, false],
            [true, false, true, false, false],
            [true, true, true, true, false],
            [true, true, true, true, true],
        ];
        for ((policy, servers), covered) in policies.iter().zip(covered) {
            assert_eq!(policy.allows_no_origin(), *servers, "{policy:?}");
            assert!(
                policies
                    .iter()
                    .map(|(other, _)| policy.covers(other))
                    .eq(covered),
                "{policy:?}"
            );
        }
    }

    proptest! {
        /// Any origin that passes is serialised as the URL standard requires.
        #[test]
        fn an_allowed_origin_is_its_own_serialisation(
            origin in "https?://([a-zA-Z0-9_.*-]{0,9}\\.|xn--[a-z0-9-]{1,6}\\.)?(example\\.com|localhost)(:[0-9+]{0,6})?[/.]?"
        ) {
            for pattern in ["*.example.com", "*.example.com:*", "example.com:*", "http://localhost:*"] {
                if allows(pattern, &origin) {
                    prop_assert!(serialises_to_itself(&origin), "{pattern} {origin}");
                }
            }
        }

        #[test]
        fn a_normalised_pattern_is_its_own_normal_form(text in "(https?://)?(\\*\\.)?[a-zA-Zü0-9.:*-]{1,20}") {
            if let Ok(pattern) = OriginPattern::parse(&text) {
                prop_assert_eq!(OriginPattern::parse(&pattern.to_string()).unwrap(), pattern);
            }
        }

        #[test]
        fn any_bytes_are_judged_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let policy = OriginPolicy::listed(["*.example.com:*", "example.com"]).unwrap();
            prop_assert!(policy.judge([&bytes[..]].into_iter()).is_err());
        }
    }
}
