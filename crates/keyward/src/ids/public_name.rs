//! The random part of public ids, which are unguessable but not secret.

use std::fmt;

use crate::error::{ParseError, ParseErrorKind};
use crate::key::{Alphabet, RandomError};

const LEN: usize = 12;

/// 12 random base62 characters (71 bits), displayed after a prefix.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PublicName([u8; LEN]);

impl PublicName {
    pub(crate) fn random() -> Result<Self, RandomError> {
        let mut text = String::new();
        Alphabet::Base62.push_random(&mut text, LEN)?;
        Ok(Self(text.as_bytes().try_into().unwrap_or_default()))
    }

    /// Parses the part after `prefix`. Errors name the `subject`.
    pub(crate) fn parse(
        text: &str,
        prefix: &str,
        subject: &'static str,
    ) -> Result<Self, ParseError> {
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
