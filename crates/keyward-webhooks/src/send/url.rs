//! The URL of an endpoint.

use std::fmt;

use keyward::error::{ParseError, ParseErrorKind};
use url::{Host, Url};

/// The maximum length in characters.
const MAX_LEN: usize = 2048;

/// The URL of an endpoint, absolute and with `http` or `https`.
///
/// The host is in canonical form: lower case, punycode, IP addresses in their usual notation.
/// `Debug` shows only scheme and host, because people put tokens into paths and queries.
///
/// ```
/// use keyward_webhooks::send::EndpointUrl;
///
/// let url = EndpointUrl::parse("https://HOOKS.acme.example/kyc?token=123")?;
/// assert_eq!(url.as_str(), "https://hooks.acme.example/kyc?token=123");
/// assert_eq!(format!("{url:?}"), "EndpointUrl(https://hooks.acme.example/…)");
/// assert_eq!(EndpointUrl::parse("http://0x7f.1/")?.host(), "127.0.0.1");
/// assert!(EndpointUrl::parse("https://user:password@acme.example/").is_err());
/// # Ok::<(), keyward::error::ParseError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct EndpointUrl(Url);

impl EndpointUrl {
    /// Parses an absolute URL of at most 2048 characters, without userinfo or fragment.
    ///
    /// [`EndpointRules`](crate::send::EndpointRules) decide whether an endpoint may have it.
    ///
    /// # Errors
    /// Returns an error if it is malformed.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let error = |kind| ParseError::new("endpoint URL", kind);
        if text.is_empty() {
            return Err(error(ParseErrorKind::Empty));
        }
        // A URL parser silently drops some of these.
        if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(error(ParseErrorKind::Character));
        }
        let url = Url::parse(text).map_err(|_| error(ParseErrorKind::Host))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(error(ParseErrorKind::Scheme));
        }
        if text.len() > MAX_LEN || url.as_str().len() > MAX_LEN {
            return Err(error(ParseErrorKind::TooLong));
        }
        let userinfo = !url.username().is_empty() || url.password().is_some();
        if userinfo || url.fragment().is_some() {
            return Err(error(ParseErrorKind::NotAnEndpoint));
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err(error(ParseErrorKind::Host));
        }
        if url.port() == Some(0) {
            return Err(error(ParseErrorKind::Port));
        }
        Ok(Self(url))
    }

    /// Returns the whole URL. Do not log it: it may contain a token of the receiver.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Returns the host, with IPv6 addresses in brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        self.0.host_str().unwrap_or_default()
    }

    /// Returns whether the scheme is `https`.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.0.scheme() == "https"
    }

    pub(crate) fn parsed_host(&self) -> Option<Host<&str>> {
        self.0.host()
    }
}

impl fmt::Debug for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EndpointUrl({}://{}/…)", self.0.scheme(), self.host())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_only_what_can_be_posted_to() {
        let long = format!("https://a.example/{}", "x".repeat(2031));
        for (bad, kind) in [
            ("", ParseErrorKind::Empty),
            (&*long, ParseErrorKind::TooLong),
            (" https://a.example/", ParseErrorKind::Character),
            ("https://a.example/\n", ParseErrorKind::Character),
            ("ht\ttps://a.example/", ParseErrorKind::Character),
            ("a.example/hook", ParseErrorKind::Host),
            ("/hook", ParseErrorKind::Host),
            ("https://", ParseErrorKind::Host),
            ("https://256.1.1.1/", ParseErrorKind::Host),
            ("https://a b.example/", ParseErrorKind::Character),
            ("https://[::1/", ParseErrorKind::Host),
            ("ftp://a.example/", ParseErrorKind::Scheme),
            ("file:///etc/passwd", ParseErrorKind::Scheme),
            ("gopher://127.0.0.1:6379/_", ParseErrorKind::Scheme),
            ("unix:/run/docker.sock", ParseErrorKind::Scheme),
            ("https://ann@a.example/", ParseErrorKind::NotAnEndpoint),
            ("https://:secret@a.example/", ParseErrorKind::NotAnEndpoint),
            ("https://a.example/#part", ParseErrorKind::NotAnEndpoint),
            ("https://a.example/#", ParseErrorKind::NotAnEndpoint),
            ("https://a.example:0/", ParseErrorKind::Port),
            ("https://a.example:65536/", ParseErrorKind::Host),
        ] {
            assert_eq!(EndpointUrl::parse(bad).unwrap_err().kind(), kind, "{bad}");
        }
        assert!(EndpointUrl::parse(&long[..2048]).is_ok());
    }

    #[test]
    fn what_it_shows_holds_no_path_and_no_query() {
        let url = EndpointUrl::parse("https://a.example:8443/s3cret?token=s3cret").unwrap();
        assert!(!format!("{url:?}").contains("s3cret"));
    }
}
