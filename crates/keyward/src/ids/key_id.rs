//! Key ids.

use std::fmt;

use crate::error::ParseError;
use crate::ids::public_name::PublicName;
use crate::key::RandomError;

const PREFIX: &str = "key_";

/// The public id of a key: `key_` and 12 random base62 characters (71 bits).
///
/// It is not secret and appears in logs and the audit log.
///
/// ```
/// use keyward::KeyId;
///
/// let id = KeyId::random()?;
/// assert_eq!(KeyId::parse(&id.to_string())?, id);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(PublicName);

impl KeyId {
    /// Generates a random id.
    ///
    /// # Errors
    /// Returns an error if the operating system provides no random bytes.
    pub fn random() -> Result<Self, RandomError> {
        PublicName::random().map(Self)
    }

    /// Parses the form that `Display` writes.
    ///
    /// # Errors
    /// Returns an error unless the text is `key_` and 12 letters and digits.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        PublicName::parse(text, PREFIX, "key id").map(Self)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", self.0)
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
