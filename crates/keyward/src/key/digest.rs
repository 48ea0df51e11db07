//! The only form in which a key is stored.

use std::fmt;
use std::hash::{Hash, Hasher};

use subtle::ConstantTimeEq;

use crate::{ParseError, ParseErrorKind, PepperId};

/// The digest of a whole key, and how it was made.
///
/// One SHA-256 is enough: the keys have at least 112 bits of randomness, so there is nothing to
/// guess that a slow hash would slow down (NIST SP 800-63B-4 §3.1.2.2). `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyDigest {
    scheme: DigestScheme,
    bytes: DigestBytes,
}

impl KeyDigest {
    /// A digest as a store kept it.
    #[must_use]
    pub fn new(scheme: DigestScheme, bytes: [u8; 32]) -> Self {
        let bytes = DigestBytes(bytes);
        Self { scheme, bytes }
    }

    /// How it was made.
    #[must_use]
    pub fn scheme(&self) -> &DigestScheme {
        &self.scheme
    }

    /// Its bytes, to be stored.
    #[must_use]
    pub fn expose_bytes(&self) -> &[u8; 32] {
        &self.bytes.0
    }

    pub(crate) fn bytes(&self) -> DigestBytes {
        self.bytes
    }
}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyDigest({}, ..)", self.scheme)
    }
}

/// How a digest is made.
///
/// ```
/// use keyward::DigestScheme;
///
/// assert_eq!(DigestScheme::parse("sha256")?, DigestScheme::Sha256);
/// assert_eq!(DigestScheme::parse("hmac-sha256:2026")?.to_string(), "hmac-sha256:2026");
/// # Ok::<(), keyward::ParseError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DigestScheme {
    /// SHA-256 of the whole key.
    Sha256,
    /// HMAC-SHA-256 of the whole key under the pepper of this id.
    HmacSha256(PepperId),
}

impl DigestScheme {
    /// Parses what `Display` writes.
    ///
    /// # Errors
    /// When the text names no scheme.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        match text.split_once(':') {
            None if text == "sha256" => Ok(Self::Sha256),
            Some(("hmac-sha256", id)) => Ok(Self::HmacSha256(PepperId::parse(id)?)),
            _ => Err(ParseError::new("digest scheme", ParseErrorKind::Unknown)),
        }
    }
}

impl fmt::Display for DigestScheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sha256 => f.write_str("sha256"),
            Self::HmacSha256(id) => write!(f, "hmac-sha256:{id}"),
        }
    }
}

/// The bytes by which a record is found. They are compared in constant time, and as they are uniform
/// they are their own hash.
#[derive(Clone, Copy)]
pub(crate) struct DigestBytes(pub(crate) [u8; 32]);

impl DigestBytes {
    /// Eight of the bytes as a number, `place` from 0 to 3.
    pub(crate) fn word(&self, place: usize) -> u64 {
        let (words, _) = self.0.as_chunks();
        words.get(place).copied().map_or(0, u64::from_le_bytes)
    }
}

impl PartialEq for DigestBytes {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for DigestBytes {}

impl Hash for DigestBytes {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.word(0));
    }
}
