//! The random part of public ids, which are unguessable but not secret.

use std::fmt;

use crate::error::{ParseError, ParseErrorKind};
use crate::key::{Alphabet, RandomError};

const LEN: usize = 12;

/// The random part of a public id: 12 base62 characters (71 bits), displayed after a prefix.
///
/// ```
/// use keyward::ids::PublicName;
///
/// let name = PublicName::random()?;
/// let text = format!("inv_{name}");
/// assert_eq!(PublicName::parse(&text, "inv_", "invoice id")?, name);
/// assert!(PublicName::parse(&text, "key_", "key id").is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicName([u8; LEN]);

impl PublicName {
    /// Creates a random name.
    ///
    /// # Errors
    /// Returns an error if the operating system provides no random bytes.
    pub fn random() -> Result<Self, RandomError> {
        let mut text = String::new();
        Alphabet::Base62.push_random(&mut text, LEN)?;
        Ok(Self(text.as_bytes().try_into().unwrap_or_default()))
    }

    /// Parses the name after a prefix. The error names `subject`, such as `"invoice id"`.
    ///
    /// # Errors
    /// Returns an error if the text has another prefix, another length, or a character other than
    /// `0-9`, `A-Z` and `a-z`.
    pub fn parse(text: &str, prefix: &str, subject: &'static str) -> Result<Self, ParseError> {
        text.strip_prefix(prefix)
            .filter(|id| id.bytes().all(|b| b.is_ascii_alphanumeric()))
            .and_then(|id| id.as_bytes().try_into().ok())
            .map(Self)
            .ok_or(ParseError::new(subject, ParseErrorKind::Character))
    }
}

impl fmt::Display for PublicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.0).unwrap_or_default())
    }
}
