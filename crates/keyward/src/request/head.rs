//! The request as core sees it: bytes.

/// The head of a request.
///
/// An adapter implements it over its own request type, without copying.
///
/// ```
/// use keyward::RequestHead;
///
/// struct Head(Vec<(String, Vec<u8>)>);
///
/// impl RequestHead for Head {
///     fn method(&self) -> &str {
///         "GET"
///     }
///
///     fn values<'a>(&'a self, field: &'a str) -> impl Iterator<Item = &'a [u8]> {
///         let lines = self.0.iter().filter(move |(name, _)| name.eq_ignore_ascii_case(field));
///         lines.map(|(_, value)| &value[..])
///     }
/// }
///
/// let head = Head(vec![("Origin".into(), b"https://shop.example".to_vec())]);
/// assert!(head.values("origin").eq([b"https://shop.example"]));
/// ```
pub trait RequestHead {
    /// The method, such as `GET`.
    fn method(&self) -> &str;

    /// The value of every line of a field, in order. The name is in lower case.
    ///
    /// It must not join lines and must not stop at the first: a second line is what an attacker adds.
    fn values<'a>(&'a self, field: &'a str) -> impl Iterator<Item = &'a [u8]>;
}

/// Whether this is a CORS preflight (Fetch standard, "CORS-preflight request").
pub(crate) fn is_preflight<R: RequestHead>(request: &R) -> bool {
    let has = |field| request.values(field).next().is_some();
    request.method() == "OPTIONS" && has("origin") && has("access-control-request-method")
}
