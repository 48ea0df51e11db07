//! Account ids.

use std::fmt;
use std::sync::Arc;

use crate::error::{ParseError, ParseErrorKind};

/// The id that the service uses for an account.
///
/// It is 1 to 128 printable ASCII characters without spaces.
///
/// ```
/// assert_eq!(keyward::AccountId::parse("acct_42")?.as_str(), "acct_42");
/// # Ok::<(), keyward::error::ParseError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountId(Arc<str>);

impl AccountId {
    /// Parses an account id.
    ///
    /// # Errors
    /// Returns an error if the text is empty, longer than 128 bytes, or contains a space, a control
    /// character or a non-ASCII character.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let kind = match text.len() {
            0 => ParseErrorKind::Empty,
            1..=128 if text.bytes().all(|b| b.is_ascii_graphic()) => return Ok(Self(text.into())),
            1..=128 => ParseErrorKind::Character,
            _ => ParseErrorKind::TooLong,
        };
        Err(ParseError::new("account id", kind))
    }

    /// Returns the id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AccountId({})", self.as_str())
    }
}
