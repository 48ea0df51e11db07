//! The only form in which a key is stored.

use std::fmt;
use std::hash::{Hash, Hasher};

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::error::{ParseError, ParseErrorKind};
use crate::key::PepperId;

/// The digest of a whole key, and how it was made.
///
/// One SHA-256 is enough: the keys have at least 112 bits of randomness, so there is nothing to
/// guess that a slow hash would slow down (NIST SP 800-63B-4 §3.1.2.2). `Debug` does not show it.
///
/// ```
/// use keyward::key::{DigestScheme, KeyDigest};
///
/// let digest = KeyDigest::new(DigestScheme::Sha256, [7; 32]);
/// assert_eq!(format!("{digest:?}"), "KeyDigest(sha256, ..)");
/// assert_eq!(digest.expose_bytes(), &[7; 32]);
/// ```
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

    /// A digest that another system has kept: hexadecimal or base64, either alphabet.
    ///
    /// ```
    /// use keyward::key::{DigestScheme, KeyDigest};
    ///
    /// let hex = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    /// let base64 = "ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0";
    /// let one = KeyDigest::import(DigestScheme::Sha256, hex)?;
    /// assert_eq!(one, KeyDigest::import(DigestScheme::Sha256, base64)?);
    /// # Ok::<(), keyward::error::ParseError>(())
    /// ```
    ///
    /// # Errors
    /// When the text is not 32 bytes in one of these forms, or 64 for SHA-512, or the scheme needs a
    /// pepper.
    pub fn import(scheme: DigestScheme, text: &str) -> Result<Self, ParseError> {
        let error = ParseError::new("digest", ParseErrorKind::Character);
        let bytes = decode(text).ok_or(error)?;
        let bytes = match scheme {
            DigestScheme::Sha512 if bytes.len() == 64 => Sha256::digest(bytes).into(),
            DigestScheme::Sha512 | DigestScheme::HmacSha256(_) => return Err(error),
            _ => bytes.try_into().map_err(|_| error)?,
        };
        Ok(Self::new(scheme, bytes))
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
/// use keyward::key::DigestScheme;
///
/// assert_eq!(DigestScheme::parse("sha256")?, DigestScheme::Sha256);
/// assert_eq!(DigestScheme::parse("hmac-sha256:2026")?.to_string(), "hmac-sha256:2026");
/// # Ok::<(), keyward::error::ParseError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DigestScheme {
    /// SHA-256 of the whole key.
    Sha256,
    /// SHA-256 of what follows the prefix; only for keys that were made elsewhere.
    Sha256OfSecret,
    /// SHA-512 of the whole key, kept as the SHA-256 of it.
    ///
    /// Only for keys that were made elsewhere.
    Sha512,
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
            None if text == "sha256-of-secret" => Ok(Self::Sha256OfSecret),
            None if text == "sha512" => Ok(Self::Sha512),
            Some(("hmac-sha256", id)) => Ok(Self::HmacSha256(PepperId::parse(id)?)),
            _ => Err(ParseError::new("digest scheme", ParseErrorKind::Unknown)),
        }
    }
}

impl fmt::Display for DigestScheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sha256 => f.write_str("sha256"),
            Self::Sha256OfSecret => f.write_str("sha256-of-secret"),
            Self::Sha512 => f.write_str("sha512"),
            Self::HmacSha256(id) => write!(f, "hmac-sha256:{id}"),
        }
    }
}

/// The bytes of a hexadecimal or base64 text, told apart by the length.
fn decode(text: &str) -> Option<Vec<u8>> {
    if !matches!(text.len(), 64 | 128) {
        let text = text
            .trim_end_matches('=')
            .replace('+', "-")
            .replace('/', "_");
        return BASE64_URL_SAFE_NO_PAD.decode(text).ok();
    }
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let (pairs, _) = text.as_bytes().as_chunks();
    let byte = |[high, low]: &[u8; 2]| u8::try_from(digit(*high)? * 16 + digit(*low)?).ok();
    pairs.iter().map(byte).collect()
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
        let differ = (0..4).fold(0, |differ, place| {
            differ | (self.word(place) ^ other.word(place))
        });
        // Without a branch on a part of the digest.
        differ.ct_eq(&0).into()
    }
}

impl Eq for DigestBytes {}

impl Hash for DigestBytes {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.word(0));
    }
}
