//! The interface through which the core reads and changes a response.

use std::borrow::Cow;

/// The head of a response, as far as the core reads and changes it.
///
/// An adapter implements this trait. Header names are in lower case.
///
/// ```
/// use std::borrow::Cow;
/// use keyward::gate::Finish;
/// use keyward::reply::ResponseHead;
///
/// struct Head(Vec<(&'static str, String)>);
///
/// impl ResponseHead for Head {
///     fn status(&self) -> u16 {
///         200
///     }
///
///     fn is_denied(&self) -> bool {
///         false // no `Denial` among its extensions
///     }
///
///     fn values<'a>(&'a self, name: &'static str) -> impl Iterator<Item = &'a [u8]> {
///         let lines = self.0.iter().filter(move |(own, _)| *own == name);
///         lines.map(|(_, value)| value.as_bytes())
///     }
///
///     fn append(&mut self, name: &'static str, value: Cow<'static, str>) {
///         self.0.push((name, value.into_owned()));
///     }
///
///     fn replace(&mut self, name: &'static str, value: Cow<'static, str>) {
///         self.0.retain(|(own, _)| *own != name);
///         self.append(name, value);
///     }
/// }
///
/// let mut head = Head(vec![("cache-control", "max-age=60".to_owned())]);
/// Finish::default().apply(&mut head);
/// assert_eq!(head.0.len(), 1); // nothing is added for an anonymous request
/// ```
pub trait ResponseHead {
    /// Returns the HTTP status.
    fn status(&self) -> u16;

    /// Returns whether an inner layer has refused the request.
    ///
    /// The response's extensions then contain its [`Denial`](crate::gate::Denial).
    fn is_denied(&self) -> bool;

    /// Returns the value of every line of a header, in order.
    fn values<'a>(&'a self, name: &'static str) -> impl Iterator<Item = &'a [u8]>;

    /// Returns whether the header is present.
    fn has(&self, name: &'static str) -> bool {
        self.values(name).next().is_some()
    }

    /// Adds a header line. The value consists of visible ASCII characters and spaces.
    fn append(&mut self, name: &'static str, value: Cow<'static, str>);

    /// Replaces all lines of a header, if any, with one line.
    fn replace(&mut self, name: &'static str, value: Cow<'static, str>);
}
