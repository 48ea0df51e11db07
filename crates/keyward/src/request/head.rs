//! The request as core sees it: bytes.

use std::net::IpAddr;

/// The head of a request.
///
/// An adapter implements it over its own request type, without copying.
///
/// ```
/// use std::net::{IpAddr, SocketAddr};
/// use keyward::request::RequestHead;
///
/// struct Head(Vec<(String, Vec<u8>)>, SocketAddr);
///
/// impl RequestHead for Head {
///     fn method(&self) -> &str {
///         "GET"
///     }
///
///     fn peer(&self) -> Option<IpAddr> {
///         Some(self.1.ip())
///     }
///
///     fn values<'a>(&'a self, field: &'a str) -> impl Iterator<Item = &'a [u8]> {
///         let lines = self.0.iter().filter(move |(name, _)| name.eq_ignore_ascii_case(field));
///         lines.map(|(_, value)| &value[..])
///     }
/// }
///
/// let origin = ("Origin".into(), b"https://shop.example".to_vec());
/// let head = Head(vec![origin], "192.0.2.7:40312".parse()?);
/// assert!(head.values("origin").eq([b"https://shop.example"]));
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
pub trait RequestHead {
    /// The method, such as `GET`.
    fn method(&self) -> &str;

    /// The address at the other end of the connection, which may be a proxy's.
    ///
    /// Never one that a field of the request names. A gate with a
    /// [`AuthFailureLimiter`](crate::throttle::AuthFailureLimiter) asks for it; there `None` is refused with 500.
    fn peer(&self) -> Option<IpAddr>;

    /// Whether the request came over HTTP/1, where its body stands in the way of the next request.
    ///
    /// There a refusal closes the connection if there is a body. Where this is `false`, as in HTTP/2 and
    /// by default, a refusal says nothing of the connection.
    fn is_http1(&self) -> bool {
        false
    }

    /// The value of every line of a field, in order. The name is in lower case.
    ///
    /// It must not join lines and must not stop at the first: a second line is what an attacker adds.
    fn values<'a>(&'a self, field: &'a str) -> impl Iterator<Item = &'a [u8]>;

    /// The [`values`](Self::values) of the field of a location, by its place among
    /// [`Gate::locations`](crate::gate::Gate::locations).
    ///
    /// Every request is asked for these: an adapter that has their names ready need not read them.
    fn values_at<'a>(&'a self, location: usize, field: &'a str) -> impl Iterator<Item = &'a [u8]> {
        _ = location;
        self.values(field)
    }
}

/// Whether this is a CORS preflight (Fetch standard, "CORS-preflight request").
pub(crate) fn is_preflight<R: RequestHead>(request: &R) -> bool {
    let has = |field| request.values(field).next().is_some();
    request.method() == "OPTIONS" && has("origin") && has("access-control-request-method")
}
