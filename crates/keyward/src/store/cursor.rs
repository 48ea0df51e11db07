//! The position in a list of keys at which the next page begins.

use std::fmt;

use crate::clock::unix_time;

use crate::error::{ParseError, ParseErrorKind};
use crate::ids::KeyId;
use crate::record::KeyRecord;

/// A position in a list of keys, as text for a URL: `1700000000123.key_…`.
///
/// It stays valid when keys are added or removed.
///
/// ```
/// use keyward::store::KeyCursor;
///
/// let cursor = KeyCursor::parse("1700000000123.key_0123456789ab")?;
/// assert_eq!(cursor.created_at, 1_700_000_000_123);
/// assert_eq!(cursor.to_string(), "1700000000123.key_0123456789ab");
/// # Ok::<(), keyward::error::ParseError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct KeyCursor {
    /// The creation time of the page's last key, in milliseconds since the Unix epoch.
    pub created_at: u64,
    /// The id of that key.
    pub id: KeyId,
}

impl KeyCursor {
    /// Parses the output of `Display`.
    ///
    /// # Errors
    /// Returns an error if the format is different.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let error = ParseError::new("page", ParseErrorKind::Character);
        let (created_at, id) = text.split_once('.').ok_or(error)?;
        Ok(Self {
            created_at: created_at.parse().map_err(|_| error)?,
            id: KeyId::parse(id)?,
        })
    }

    /// Returns the position of this key.
    #[must_use]
    pub fn of(record: &KeyRecord) -> Self {
        let created_at = unix_time(record.created_at).as_millis();
        Self {
            created_at: u64::try_from(created_at).unwrap_or(u64::MAX),
            id: record.id,
        }
    }
}

impl fmt::Display for KeyCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.created_at, self.id)
    }
}
