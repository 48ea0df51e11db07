//! The public name of a key.

use std::fmt;

use crate::{Alphabet, ParseError, ParseErrorKind, RandomError};

const PREFIX: &str = "key_";
const LEN: usize = 12;

/// The public name of a key: `key_` and 12 random base62 characters (71 bits). No secret.
///
/// ```
/// use keyward::KeyId;
///
/// let id = KeyId::random()?;
/// assert_eq!(KeyId::parse(&id.to_string())?, id);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; LEN]);

impl KeyId {
    /// A new name.
    ///
    /// # Errors
    /// When the operating system gives no random bytes.
    pub fn random() -> Result<Self, RandomError> {
        let mut text = String::new();
        Alphabet::Base62.push_random(&mut text, LEN)?;
        Ok(Self(text.as_bytes().try_into().unwrap_or_default()))
    }

    /// Parses what `Display` writes.
    ///
    /// # Errors
    /// When it is not `key_` and 12 letters and digits.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        text.strip_prefix(PREFIX)
            .filter(|id| id.bytes().all(|b| b.is_ascii_alphanumeric()))
            .and_then(|id| id.as_bytes().try_into().ok())
            .map(Self)
            .ok_or(ParseError::new("key id", ParseErrorKind::Character))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = std::str::from_utf8(&self.0).unwrap_or_default();
        write!(f, "{PREFIX}{id}")
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_only_its_own_form() {
        let id = KeyId::random().unwrap().to_string();
        for bad in [
            "",
            "key_",
            "key_é",
            &id[4..],
            &id[..15],
            &format!("{id}0"),
            "key_0123456789a-",
        ] {
            assert!(KeyId::parse(bad).is_err(), "{bad}");
        }
    }
}
