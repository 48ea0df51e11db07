//! The head of a request, written down.

use std::fmt;
use std::net::IpAddr;

use crate::request::RequestHead;

/// The head of a request, for tests without a web framework.
///
/// ```
/// use keyward::request::RequestHead;
/// use keyward::testing::TestRequest;
///
/// let request = TestRequest::get().header("Origin", "https://shop.example").peer([192, 0, 2, 7]);
/// assert_eq!(request.method(), "GET");
/// assert!(request.values("origin").eq([b"https://shop.example"]));
/// ```
#[derive(Clone)]
#[must_use]
pub struct TestRequest {
    method: String,
    headers: Vec<(String, Vec<u8>)>,
    peer: Option<IpAddr>,
    is_http1: bool,
}

impl TestRequest {
    /// Creates a `GET` request over HTTP/2 with no headers, from an unknown address.
    pub fn get() -> Self {
        Self::new("GET")
    }

    /// Creates a request with this method.
    ///
    /// ```
    /// use keyward::request::RequestHead;
    ///
    /// assert_eq!(keyward::testing::TestRequest::new("POST").method(), "POST");
    /// ```
    pub fn new(method: &str) -> Self {
        Self {
            method: method.to_owned(),
            headers: Vec::new(),
            peer: None,
            is_http1: false,
        }
    }

    /// Adds a header line. Lines of the same name stay apart.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref().to_vec();
        self.headers.push((name.to_ascii_lowercase(), value));
        self
    }

    /// Adds header lines, such as those of a signed webhook.
    ///
    /// ```
    /// use keyward::request::RequestHead;
    ///
    /// let request = keyward::testing::TestRequest::get().headers([("accept", "*/*"), ("via", "1.1 a")]);
    /// assert!(request.values("via").eq([b"1.1 a"]));
    /// ```
    pub fn headers<N: AsRef<str>, V: AsRef<[u8]>>(
        self,
        headers: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        let headers = headers.into_iter();
        headers.fold(self, |request, (name, value)| {
            request.header(name.as_ref(), value)
        })
    }

    /// Adds an API key, in the header `x-api-key`.
    ///
    /// ```
    /// use keyward::request::RequestHead;
    ///
    /// let request = keyward::testing::TestRequest::get().key("vhk_live_…");
    /// assert!(request.values("x-api-key").eq(["vhk_live_…".as_bytes()]));
    /// ```
    pub fn key(self, secret: &str) -> Self {
        self.header("x-api-key", secret)
    }

    /// Sets the address at the other end of the connection.
    pub fn peer(mut self, peer: impl Into<IpAddr>) -> Self {
        self.peer = Some(peer.into());
        self
    }

    /// Makes it a request over HTTP/1.
    ///
    /// ```
    /// use keyward::request::RequestHead;
    ///
    /// assert!(keyward::testing::TestRequest::get().http1().is_http1());
    /// ```
    pub fn http1(mut self) -> Self {
        self.is_http1 = true;
        self
    }
}

impl RequestHead for TestRequest {
    fn method(&self) -> &str {
        &self.method
    }

    fn peer(&self) -> Option<IpAddr> {
        self.peer
    }

    fn is_http1(&self) -> bool {
        self.is_http1
    }

    fn values<'a>(&'a self, field: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let lines = self.headers.iter().filter(move |(name, _)| name == field);
        lines.map(|(_, value)| &value[..])
    }
}

/// Shows the names of the headers, but no values, as one of them may be a key.
impl fmt::Debug for TestRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.headers.iter().map(|(name, _)| name).collect();
        f.debug_struct("TestRequest")
            .field("method", &self.method)
            .field("headers", &names)
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_key() {
        let shown = format!("{:?}", TestRequest::get().key("vhk_live_secret"));
        assert!(shown.contains("x-api-key") && !shown.contains("secret"));
    }
}
