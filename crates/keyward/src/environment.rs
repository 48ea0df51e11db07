//! Environments of keys and routes: live, test, or one of the service's own.

use std::fmt;

use crate::error::{ParseError, ParseErrorKind};

/// The environment of a key: `live`, `test`, or a token of the service's own.
///
/// The key's record, the key's text if its format includes the environment, and the route's
/// requirement all state it, and they have to agree.
///
/// ```
/// use keyward::Environment;
///
/// assert_eq!(Environment::parse("live")?, Environment::LIVE);
/// assert_eq!(Environment::parse("staging")?.as_str(), "staging");
/// assert!(Environment::parse("Pre Prod").is_err());
/// # Ok::<(), keyward::error::ParseError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Environment {
    text: [u8; Environment::MAX_LEN],
    len: u8,
}

impl Environment {
    pub(crate) const MAX_LEN: usize = 15;

    /// The production environment, where requests have real effects.
    pub const LIVE: Self = Self {
        text: *b"live\0\0\0\0\0\0\0\0\0\0\0",
        len: 4,
    };
    /// The development environment, where nothing is real or billable.
    pub const TEST: Self = Self {
        text: *b"test\0\0\0\0\0\0\0\0\0\0\0",
        len: 4,
    };

    /// Parses a token: a lower-case letter, followed by up to 14 of `a-z`, `0-9` and `-`.
    ///
    /// # Errors
    /// Returns an error if the text is empty, longer than 15 bytes, or contains another character.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let error = |kind| ParseError::new("environment", kind);
        let token = Self::check(text.as_bytes()).map_err(error)?;
        let mut own = [0; Self::MAX_LEN];
        for (own, byte) in own.iter_mut().zip(token) {
            *own = *byte;
        }
        let len = u8::try_from(token.len()).map_err(|_| error(ParseErrorKind::TooLong))?;
        Ok(Self { text: own, len })
    }

    /// Returns the bytes if they are a valid token.
    pub(crate) fn check(text: &[u8]) -> Result<&[u8], ParseErrorKind> {
        let first = text.first().ok_or(ParseErrorKind::Empty)?;
        if text.len() > Self::MAX_LEN {
            return Err(ParseErrorKind::TooLong);
        }
        if !first.is_ascii_lowercase() || !text.iter().copied().all(Self::is_token_byte) {
            return Err(ParseErrorKind::Character);
        }
        Ok(text)
    }

    /// Returns whether this is the environment's token.
    pub(crate) fn is(&self, token: &[u8]) -> bool {
        self.text.get(..usize::from(self.len)) == Some(token)
    }

    pub(crate) const fn is_token_byte(byte: u8) -> bool {
        matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-')
    }

    /// Returns the token.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.text
            .get(..usize::from(self.len))
            .and_then(|text| std::str::from_utf8(text).ok())
            .unwrap_or_default()
    }
}

impl fmt::Display for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Environment({})", self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_only_short_lower_case_tokens() {
        for good in ["live", "test", "s", "eu-west-1", "abcdefghijklmno"] {
            assert_eq!(Environment::parse(good).unwrap().as_str(), good);
        }
        for bad in [
            "",
            "Live",
            "1st",
            "-x",
            "a_b",
            "a b",
            "é",
            "abcdefghijklmnop",
        ] {
            assert!(Environment::parse(bad).is_err(), "{bad}");
        }
    }
}
