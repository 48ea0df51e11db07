//! The API key as text, and the hint that may be displayed.

use std::fmt;

use zeroize::Zeroizing;

use crate::error::{ParseError, ParseErrorKind};

/// An API key in plain text, shown to its owner once.
///
/// It has no `Display`, its `Debug` output shows only the hint, and its memory is zeroed on drop.
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

    /// Returns the secret. Show it to the key's owner and keep no copy.
    #[must_use]
    pub fn expose_secret(&self) -> &str {
        &self.text
    }

    /// Returns the hint, which may be displayed at any time.
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

/// The placeholder for unknown last characters. No key contains NUL bytes.
const NOT_KNOWN: [u8; 4] = [0; 4];

/// A displayable part of a key: its prefix and its last four characters.
///
/// ```
/// use keyward::key::Hint;
///
/// assert_eq!(Hint::parse("vhk_live_…x7Qd")?.to_string(), "vhk_live_…x7Qd");
/// assert_eq!(Hint::unknown().to_string(), "…"); // for an imported key
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

    /// Returns the part before the ellipsis, which may be empty.
    ///
    /// ```
    /// use keyward::key::Hint;
    ///
    /// let hint = Hint::parse("vhk_live_…x7Qd")?;
    /// assert_eq!((hint.prefix(), hint.last()), ("vhk_live_", "x7Qd"));
    /// # Ok::<(), keyward::error::ParseError>(())
    /// ```
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Returns the last four characters of the key; an empty text if they are unknown.
    #[must_use]
    pub fn last(&self) -> &str {
        match self.last {
            NOT_KNOWN => "",
            _ => std::str::from_utf8(&self.last).unwrap_or_default(),
        }
    }

    /// Returns the hint for a key whose text is unknown, displayed as a lone ellipsis.
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

    /// Parses the form that `Display` writes, such as `vhk_live_…x7Qd`.
    ///
    /// The prefix may be empty. Nothing follows the ellipsis when only the prefix is known.
    ///
    /// # Errors
    /// Returns an error unless the text is a prefix of at most 32 bytes, an ellipsis, and either
    /// four ASCII characters or none.
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
        write!(f, "{}…{}", self.prefix, self.last())
    }
}

impl fmt::Debug for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hint({self})")
    }
}
