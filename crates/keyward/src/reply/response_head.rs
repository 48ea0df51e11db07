//! The head of a response, as the adapters show it to core.

use std::borrow::Cow;

/// The head of a response, as far as core touches it.
///
/// Names are in lower case.
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
///     fn values<'a>(&'a self, field: &'static str) -> impl Iterator<Item = &'a [u8]> {
///         let lines = self.0.iter().filter(move |(name, _)| *name == field);
///         lines.map(|(_, value)| value.as_bytes())
///     }
///
///     fn append(&mut self, field: &'static str, value: Cow<'static, str>) {
///         self.0.push((field, value.into_owned()));
///     }
///
///     fn replace(&mut self, field: &'static str, value: Cow<'static, str>) {
///         self.0.retain(|(name, _)| *name != field);
///         self.append(field, value);
///     }
/// }
///
/// let mut head = Head(vec![("cache-control", "max-age=60".to_owned())]);
/// Finish::default().apply(&mut head);
/// assert_eq!(head.0.len(), 1); // the finish of an anonymous request adds nothing
/// ```
pub trait ResponseHead {
    /// The status.
    fn status(&self) -> u16;

    /// Whether a layer further inside has refused: its [`Denial`](crate::gate::Denial) is among the extensions.
    fn is_denied(&self) -> bool;

    /// The value of every line of a field, in order.
    fn values<'a>(&'a self, field: &'static str) -> impl Iterator<Item = &'a [u8]>;

    /// Whether there is such a field.
    fn has(&self, field: &'static str) -> bool {
        self.values(field).next().is_some()
    }

    /// Adds a line. The value is of visible ASCII characters and spaces.
    fn append(&mut self, field: &'static str, value: Cow<'static, str>);

    /// Puts one line in the place of all lines of a header, if any.
    fn replace(&mut self, field: &'static str, value: Cow<'static, str>);
}
