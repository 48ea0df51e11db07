//! The id of a webhook message.

use std::fmt;

use keyward::error::{ParseError, ParseErrorKind};
use keyward::key::{Alphabet, RandomError};

/// The id of a message, the same in every attempt to deliver it.
///
/// A receiver uses it to recognize messages that it has already handled.
///
/// ```
/// use keyward_webhooks::signature::WebhookId;
///
/// let id = WebhookId::random()?;
/// assert!(id.as_str().starts_with("msg_"));
/// assert_eq!(WebhookId::parse("evt-2026-11-21")?.to_string(), "evt-2026-11-21");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WebhookId(Box<str>);

impl WebhookId {
    /// Generates a new id: `msg_` and 27 random base62 characters (160 bits).
    ///
    /// # Errors
    /// Returns an error if the operating system returns no random bytes.
    pub fn random() -> Result<Self, RandomError> {
        let mut text = "msg_".to_owned();
        Alphabet::Base62.push_random(&mut text, 27)?;
        Ok(Self(text.into()))
    }

    /// Parses an id of 1 to 128 visible ASCII characters other than `.`.
    ///
    /// The signed text is `id.timestamp.body`: a dot in the id would make it ambiguous.
    ///
    /// # Errors
    /// Returns an error if it is empty, too long or contains another character.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let holds = |byte: u8| byte.is_ascii_graphic() && byte != b'.';
        let kind = match text.len() {
            0 => ParseErrorKind::Empty,
            1..=128 if text.bytes().all(holds) => return Ok(Self(text.into())),
            1..=128 => ParseErrorKind::Character,
            _ => ParseErrorKind::TooLong,
        };
        Err(ParseError::new("webhook id", kind))
    }

    /// Returns the id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WebhookId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_neither_a_dot_nor_what_is_not_visible() {
        let long = "a".repeat(129);
        for bad in ["", ".", "a.b", "a b", "a\nb", "a\0", "é", &*long] {
            assert!(WebhookId::parse(bad).is_err(), "{bad:?}");
        }
        assert!(WebhookId::parse(&long[1..]).is_ok());
    }
}
