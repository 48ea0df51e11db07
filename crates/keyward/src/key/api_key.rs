//! The secret text, and the part of it that may be shown.

use std::fmt;

use zeroize::Zeroizing;

use crate::error::{ParseError, ParseErrorKind};

/// The secret text of a key, shown to its owner once.
///
/// It has no `Display`, its `Debug` shows the hint, and its memory is zeroed on drop.
///
/// ```
/// use keyward::{Environment, KeyFormat};
///
/// let key = KeyFormat::new("vhk_{env}_")?.generate(Environment::LIVE)?;
/// assert!(key.expose_secret().starts_with("vhk_live_"));
/// assert_eq!(format!("{key:?}"), format!("ApiKey({})", key.hint()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct ApiKey {
    text: Zeroizing<String>,
    hint: Hint,
}

impl ApiKey {
    pub(crate) fn new(text: Zeroizing<String>, prefix: &str) -> Self {
        let hint = Hint::of(&text, prefix);
        Self { text, hint }
    }

    /// The secret. Show it to its owner and keep no copy.
    #[must_use]
    pub fn expose_secret(&self) -> &str {
        &self.text
    }

    /// What may be shown of the key from now on.
    #[must_use]
    pub fn hint(&self) -> &Hint {
        &self.hint
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKey({})", self.hint)
    }
}

/// The last characters of a key of which they are not known; no key has these.
const NOT_KNOWN: [u8; 4] = [0; 4];

/// What may be shown of a key: its prefix and its last four characters.
///
/// ```
/// use keyward::key::Hint;
///
/// assert_eq!(Hint::parse("vhk_live_…x7Qd")?.to_string(), "vhk_live_…x7Qd");
/// assert_eq!(Hint::unknown().to_string(), "…"); // of an imported key
/// # Ok::<(), keyward::error::ParseError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Hint {
    pub(crate) prefix: Box<str>,
    pub(crate) last: [u8; 4],
}

impl Hint {
    pub(crate) fn of(key: &str, prefix: &str) -> Self {
        let last = key.as_bytes().last_chunk().copied().unwrap_or_default();
        let prefix = prefix.into();
        Self { prefix, last }
    }

    /// The hint of a key whose text is not known, shown as an ellipsis alone.
    ///
    /// ```
    /// use keyward::key::Hint;
    ///
    /// assert_eq!(Hint::parse("…")?, Hint::unknown());
    /// # Ok::<(), keyward::error::ParseError>(())
    /// ```
    #[must_use]
    pub fn unknown() -> Self {
        Self {
            prefix: "".into(),
            last: NOT_KNOWN,
        }
    }

    /// Parses the shown form, as a store keeps it.
    ///
    /// The prefix may be empty. The last characters are missing where only the prefix is known.
    ///
    /// # Errors
    /// When it is not a prefix of at most 32 bytes, an ellipsis and four ASCII characters or none.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let error = ParseError::new("hint", ParseErrorKind::Character);
        let (prefix, last) = text.split_once('…').ok_or(error)?;
        if prefix.len() > 32 || !text.chars().all(|c| c.is_ascii_graphic() || c == '…') {
            return Err(error);
        }
        let last = match last.as_bytes() {
            [] => NOT_KNOWN,
            last => last.try_into().map_err(|_| error)?,
        };
        let prefix = prefix.into();
        Ok(Self { prefix, last })
    }
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = match self.last {
            NOT_KNOWN => "",
            _ => std::str::from_utf8(&self.last).unwrap_or_default(),
        };
        write!(f, "{}…{last}", self.prefix)
    }
}

impl fmt::Debug for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hint({self})")
    }
}
