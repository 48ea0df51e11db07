//! The kind of a key: secret or publishable.

use crate::error::named;

/// The kind of a key, which decides where it may be stored and sent.
///
/// See [`Requirement::kinds`](crate::gate::Requirement::kinds).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyKind {
    /// A secret key, which belongs on a server and nowhere else.
    Secret,
    /// A publishable key, which anyone can read in a web page or an app.
    ///
    /// It is accepted only on routes that allow it and only in the headers meant for it.
    Publishable,
}

named!(KeyKind, "key kind": Secret = "secret", Publishable = "publishable");
