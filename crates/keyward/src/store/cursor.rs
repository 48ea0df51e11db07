//! The position in a list of keys at which the next page begins.

use std::cmp::Ordering;
use std::fmt;

use crate::clock::unix_time;
use crate::error::{ParseError, ParseErrorKind};
use crate::ids::KeyId;
use crate::record::KeyRecord;

/// A position in a list of keys, as text for a URL: `1700000000123.key_…`.
///
/// It stays valid when keys are added or removed. In a list in the order of names, the text ends
/// with the name in hexadecimal digits: `1700000000123.key_….70726f64`. Lists are in the reverse
/// order of positions.
///
/// ```
/// use keyward::store::KeyCursor;
///
/// let cursor = KeyCursor::parse("1700000000123.key_0123456789ab")?;
/// assert_eq!(cursor.created_at, 1_700_000_000_123);
/// assert_eq!(cursor.to_string(), "1700000000123.key_0123456789ab");
///
/// let by_name = KeyCursor::parse("1700000000123.key_0123456789ab.70726f64")?;
/// assert_eq!(by_name.name.as_deref(), Some("prod"));
/// # Ok::<(), keyward::error::ParseError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyCursor {
    /// The creation time of the page's last key, in milliseconds since the Unix epoch.
    pub created_at: u64,
    /// The id of that key.
    pub id: KeyId,
    /// The name of that key without upper case, if the list is in the order of names.
    pub name: Option<String>,
}

impl KeyCursor {
    /// Parses the output of `Display`.
    ///
    /// # Errors
    /// Returns an error if the format is different.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let error = ParseError::new("page", ParseErrorKind::Character);
        let (created_at, rest) = text.split_once('.').ok_or(error)?;
        let (id, name) = match rest.split_once('.') {
            Some((id, name)) => (id, Some(from_hex(name).ok_or(error)?)),
            None => (rest, None),
        };
        Ok(Self {
            created_at: created_at.parse().map_err(|_| error)?,
            id: KeyId::parse(id)?,
            name,
        })
    }

    /// Returns the position of this key in a list of the newest keys.
    ///
    /// See [`KeyQuery::position`](crate::store::KeyQuery::position) for any list.
    #[must_use]
    pub fn of(record: &KeyRecord) -> Self {
        let created_at = unix_time(record.created_at).as_millis();
        Self {
            created_at: u64::try_from(created_at).unwrap_or(u64::MAX),
            id: record.id,
            name: None,
        }
    }
}

/// In the reverse order of a list: the last name first, and of equal names the oldest key.
impl Ord for KeyCursor {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_name = other.name.cmp(&self.name);
        by_name.then_with(|| (self.created_at, self.id).cmp(&(other.created_at, other.id)))
    }
}

impl PartialOrd for KeyCursor {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for KeyCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.created_at, self.id)?;
        let Some(name) = &self.name else {
            return Ok(());
        };
        f.write_str(".")?;
        name.bytes().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Reads a text from the lower-case hexadecimal digits of its bytes.
fn from_hex(digits: &str) -> Option<String> {
    let (pairs, []) = digits.as_bytes().as_chunks::<2>() else {
        return None;
    };
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let bytes = pairs
        .iter()
        .map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?));
    String::from_utf8(bytes.collect::<Option<_>>()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_comes_back_from_the_text_of_a_position() {
        let id = KeyId::parse("key_0123456789ab").unwrap();
        for name in [None, Some(""), Some("prod.\0 Ünï"), Some("\u{10ffff}")] {
            let name = name.map(str::to_owned);
            let cursor = KeyCursor {
                created_at: 7,
                id,
                name,
            };
            let text = cursor.to_string();
            assert!(
                text.bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"._".contains(&byte))
            );
            assert_eq!(KeyCursor::parse(&text).unwrap(), cursor);
        }
        for odd in [
            "7",
            "7.key_0123456789ab.7",
            "7.key_0123456789ab.7G",
            "7.key_0123456789ab.ff",
        ] {
            assert!(KeyCursor::parse(odd).is_err(), "{odd}");
        }
    }
}
