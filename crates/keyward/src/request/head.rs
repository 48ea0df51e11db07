//! The interface through which the core reads a request.

use std::net::IpAddr;

/// The head of a request: method, headers and peer address.
///
/// An adapter implements this trait for its own request type without copying. Values are bytes.
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
///     fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
///         let lines = self.0.iter().filter(move |(own, _)| own.eq_ignore_ascii_case(name));
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
    /// Returns the method, such as `GET`.
    fn method(&self) -> &str;

    /// Returns the address at the other end of the connection, which may be a proxy's.
    ///
    /// It must never come from a request header. A gate with an
    /// [`AuthFailureLimiter`](crate::throttle::AuthFailureLimiter) needs it and responds to `None`
    /// with 500. A key with an [allowlist of addresses](crate::address::AddressPolicy) needs it too:
    /// `None` gets a 403.
    fn peer(&self) -> Option<IpAddr>;

    /// Returns whether the request came over HTTP/1, where an unread body blocks the next request.
    ///
    /// A refusal of an HTTP/1 request with a body closes the connection. If this is `false`, which
    /// is the default and right for HTTP/2, a refusal leaves the connection alone.
    fn is_http1(&self) -> bool {
        false
    }

    /// Returns the value of every line of a header, in order. The name is in lower case.
    ///
    /// It must neither join lines nor stop at the first: a second line may be an attacker's.
    fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]>;

    /// Returns the [`values`](Self::values) of the header of a key location.
    ///
    /// `location` is its index in [`Gate::locations`](crate::gate::Gate::locations).
    ///
    /// The gate calls this for every request, so an adapter that prepared the names when it was
    /// built can skip parsing them.
    fn values_at<'a>(&'a self, location: usize, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        _ = location;
        self.values(name)
    }
}

/// Returns whether the request is a CORS preflight (Fetch standard, "CORS-preflight request").
pub(crate) fn is_preflight<R: RequestHead>(request: &R) -> bool {
    let has = |name| request.values(name).next().is_some();
    request.method() == "OPTIONS" && has("origin") && has("access-control-request-method")
}
