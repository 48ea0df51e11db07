//! The kind of a key: secret or publishable.

use crate::error::named;

/// Where a key may live. See [`Requirement::kinds`](crate::gate::Requirement::kinds).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyKind {
    /// On a server, and nowhere else.
    Secret,
    /// In a page or an app, where anyone can read it.
    ///
    /// Accepted only on routes that say so, and only from locations meant for it.
    Publishable,
}

named!(KeyKind, "key kind": Secret = "secret", Publishable = "publishable");
