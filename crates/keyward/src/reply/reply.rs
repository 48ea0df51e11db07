//! An answer of the layer's own.

use std::fmt;

/// What the layer answers itself: a refusal or a preflight.
///
/// The same for every adapter: each field on a line of its own, lines of one name in this order.
#[derive(Clone, PartialEq, Eq)]
pub struct Reply {
    status: u16,
    fields: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Reply {
    pub(crate) fn new(status: u16, body: Vec<u8>) -> Self {
        let mut reply = Self {
            status,
            fields: Vec::new(),
            body,
        };
        reply.field("cache-control", "no-store".to_owned());
        reply
    }

    pub(crate) fn field(&mut self, name: &'static str, value: String) {
        self.fields.push((name, value));
    }

    /// The status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The fields: names in lower case, values of visible ASCII characters and spaces.
    pub fn fields(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.fields.iter().map(|(name, value)| (*name, &**value))
    }

    /// The body.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply")
            .field("status", &self.status)
            .field("fields", &self.fields)
            .field("body", &String::from_utf8_lossy(&self.body))
            .finish()
    }
}
