//! What a service wants to remember of a key.

use std::fmt;

use serde_json::{Map, Value};

use crate::{ParseError, ParseErrorKind};

const MAX_LEN: usize = 4096;

/// What a service wants to remember of a key.
///
/// A JSON object of at most 4096 bytes.
///
/// ```
/// use keyward::Metadata;
///
/// let metadata = Metadata::parse(r#"{"powered_by":true}"#)?;
/// assert_eq!(metadata.as_str(), r#"{"powered_by":true}"#);
/// assert!(Metadata::parse("[1]").is_err());
/// assert_eq!(Metadata::default().as_str(), "{}");
/// # Ok::<(), keyward::ParseError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Metadata(Box<str>);

impl Metadata {
    /// Takes a JSON object, as it is written.
    ///
    /// # Errors
    /// When it is longer than 4096 bytes or no JSON object.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let kind = if text.len() > MAX_LEN {
            ParseErrorKind::TooLong
        } else if serde_json::from_str::<Map<String, Value>>(text).is_ok() {
            return Ok(Self(text.into()));
        } else {
            ParseErrorKind::Json
        };
        Err(ParseError::new("metadata", kind))
    }

    /// The JSON object.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Metadata {
    fn default() -> Self {
        Self("{}".into())
    }
}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Metadata({})", self.as_str())
    }
}
