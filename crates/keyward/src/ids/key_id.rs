//! The public name of a key.

use std::fmt;

use crate::error::ParseError;
use crate::ids::public_name::PublicName;
use crate::key::RandomError;

const PREFIX: &str = "key_";

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
pub struct KeyId(PublicName);

impl KeyId {
    /// A new name.
    ///
    /// # Errors
    /// When the operating system gives no random bytes.
    pub fn random() -> Result<Self, RandomError> {
        PublicName::random().map(Self)
    }

    /// Parses what `Display` writes.
    ///
    /// # Errors
    /// When it is not `key_` and 12 letters and digits.
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
