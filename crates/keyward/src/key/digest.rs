//! Hashed keys: the only form in which keys are stored.

use std::fmt;
use std::hash::{Hash, Hasher};

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::error::{ParseError, ParseErrorKind};
use crate::key::PepperId;

/// The digest of a whole key and the scheme that produced it.
///
/// A single SHA-256 is enough. Keys hold at least 112 random bits, so there are no guesses for a
/// slow hash to slow down (NIST SP 800-63B-4 §3.1.2.2). The `Debug` output does not contain the
/// digest.
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
    /// Creates a digest from its stored parts.
    #[must_use]
    pub fn new(scheme: DigestScheme, bytes: [u8; 32]) -> Self {
        let bytes = DigestBytes(bytes);
        Self { scheme, bytes }
    }

    /// Parses a digest that another system stored, in hexadecimal or base64.
    ///
    /// Both base64 alphabets are accepted, with or without padding.
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
    /// Returns an error if the text does not encode 32 bytes (64 for SHA-512), or if the scheme
    /// needs a pepper.
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

    /// Returns the scheme that produced the digest.
    #[must_use]
    pub fn scheme(&self) -> &DigestScheme {
        &self.scheme
    }

    /// Returns the bytes, for storage.
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

/// The scheme that turns a key into a digest.
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
    /// SHA-256 of the part after the prefix, for imported keys only.
    Sha256OfSecret,
    /// SHA-512 of the whole key, for imported keys only.
    ///
    /// It is stored as the SHA-256 of that SHA-512.
    Sha512,
    /// HMAC-SHA-256 of the whole key with the pepper of this id.
    HmacSha256(PepperId),
}

impl DigestScheme {
    /// Parses the form that `Display` writes, such as `hmac-sha256:2026`.
    ///
    /// # Errors
    /// Returns an error if the text names no known scheme.
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

/// Decodes hexadecimal or base64, which differ in length.
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

/// The digest bytes that key a lookup. They are compared in constant time, and since they are
/// uniform they serve as their own hash.
#[derive(Clone, Copy)]
pub(crate) struct DigestBytes(pub(crate) [u8; 32]);

impl DigestBytes {
    /// Returns eight of the bytes as a number; `place` is 0 to 3.
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
        // No branch depends on a part of the digest.
        differ.ct_eq(&0).into()
    }
}

impl Eq for DigestBytes {}

impl Hash for DigestBytes {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.word(0));
    }
}
