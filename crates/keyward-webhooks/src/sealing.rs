//! Encryption of webhook secrets at rest, with a key that is not in the database.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use chacha20poly1305::{AeadInOut, KeyInit, Tag, XChaCha20Poly1305, XNonce};
use keyward::error::{ParseError, ParseErrorKind};
use keyward::key::{RandomError, fill_random};
use keyward::secret_text::check_id;
use keyward::secret_text::{as_text, check_bytes};
use zeroize::Zeroizing;

use crate::signature::WebhookSecret;

const NONCE: usize = 24;
const TAG: usize = 16;
const NONCE_AND_TAG: usize = NONCE + TAG;
/// The length with a prefix and 64 bytes in base64.
const MAX_SEALED: usize = NONCE_AND_TAG + 94;

/// A named encryption key for secrets, kept outside the database.
///
/// ```
/// let key = keyward_webhooks::sealing::SealingKey::new("2026", &[7; 32])?; // read it from a secret store
/// assert_eq!(format!("{key:?}"), "SealingKey(2026, ..)");
/// # Ok::<(), keyward::error::ParseError>(())
/// ```
#[derive(Clone)]
pub struct SealingKey {
    id: Arc<str>,
    cipher: XChaCha20Poly1305,
}

impl SealingKey {
    /// Creates a key from exactly 32 bytes of a random generator.
    ///
    /// The id consists of 1 to 32 letters, digits, `-`, `_` and `.`.
    ///
    /// # Errors
    /// Returns an error if the id is malformed, or the key does not have 32 bytes, or is text that
    /// ends in a newline, is in quotation marks, or begins with a byte order mark or white space.
    ///
    /// ```
    /// use keyward::error::ParseErrorKind;
    /// use keyward_webhooks::sealing::SealingKey;
    ///
    /// let file = b"MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n";
    /// let error = SealingKey::new("2026", file).unwrap_err();
    /// assert_eq!(error.kind(), ParseErrorKind::Newline);
    /// assert!(SealingKey::new("2026", file.trim_ascii_end()).is_ok());
    /// ```
    pub fn new(id: &str, key: &[u8]) -> Result<Self, ParseError> {
        check_id("sealing key id", id)?;
        let advice = "trim it, or use `SealingKey::verbatim` if secrets were sealed with it";
        check_bytes("sealing key", key, advice)?;
        Self::verbatim(id, key)
    }

    /// Creates a key from exactly these 32 bytes, without the checks for copied text.
    ///
    /// Use this only for a key that sealed secrets before [`new`](Self::new) began to reject it,
    /// and [retire](SealingKeys::retired) that key.
    ///
    /// # Errors
    /// Returns an error if the id is malformed, or the key does not have 32 bytes.
    ///
    /// ```
    /// use keyward_webhooks::sealing::{SealingKey, SealingKeys};
    ///
    /// let old = SealingKey::verbatim("2025", b"fKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n")?;
    /// let keys = SealingKeys::new(SealingKey::new("2026", &[7; 32])?).retired(old);
    /// assert!(keys.is_ok());
    /// # Ok::<(), keyward::error::ParseError>(())
    /// ```
    pub fn verbatim(id: &str, key: &[u8]) -> Result<Self, ParseError> {
        check_id("sealing key id", id)?;
        let error = match key.len() {
            0..=32 => ParseError::new("sealing key", ParseErrorKind::Empty),
            _ => ParseError::new("sealing key", ParseErrorKind::TooLong),
        };
        let error = match key.len() {
            // 32 bytes in base64, with and without padding, and in hexadecimal.
            43 | 44 | 64 if as_text(key).is_some() => {
                error.advise("decode its base64 or hexadecimal first")
            }
            _ => error,
        };
        let cipher = XChaCha20Poly1305::new_from_slice(key).map_err(|_| error)?;
        let id = id.into();
        Ok(Self { id, cipher })
    }
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealingKey({}, ..)", self.id)
    }
}

/// The encryption keys of a service: the current one and the retired ones.
///
/// Secrets are encrypted with XChaCha20-Poly1305 under a random nonce, and bound to a place: a
/// secret sealed for one endpoint cannot be opened for another. To rotate, deploy a new key as the
/// current one with the old one retired. Once no stored secret names the old key, it can be
/// removed.
///
/// ```
/// use keyward_webhooks::sealing::{SealErrorKind, SealedSecret, SealingKey, SealingKeys};
/// use keyward_webhooks::signature::WebhookSecret;
///
/// let old = SealingKeys::new(SealingKey::new("2025", &[5; 32])?);
/// let secret = WebhookSecret::random()?;
/// let row = old.seal(&secret, "endpoint-1")?.to_string();
/// assert!(row.starts_with("2025:"));
///
/// let keys = SealingKeys::new(SealingKey::new("2026", &[6; 32])?).retired(SealingKey::new("2025", &[5; 32])?)?;
/// let sealed = SealedSecret::parse(&row)?;
/// assert_eq!(keys.open(&sealed, "endpoint-1")?, secret);
/// assert!(!keys.is_current(&sealed)); // seal it again
/// assert_eq!(keys.open(&sealed, "endpoint-2").unwrap_err().kind(), SealErrorKind::Refused);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct SealingKeys {
    current: SealingKey,
    retired: Vec<SealingKey>,
}

impl SealingKeys {
    /// Creates a key ring that seals with this key.
    #[must_use]
    pub fn new(current: SealingKey) -> Self {
        let retired = Vec::new();
        Self { current, retired }
    }

    /// Adds a retired key, which only opens secrets.
    ///
    /// # Errors
    /// Returns an error if a key with this id is already present.
    pub fn retired(mut self, key: SealingKey) -> Result<Self, ParseError> {
        if self.of_id(&key.id).is_some() {
            return Err(ParseError::new("sealing keys", ParseErrorKind::Repeated));
        }
        self.retired.push(key);
        Ok(self)
    }

    /// Encrypts a secret and binds it to a place, such as an endpoint id.
    ///
    /// # Errors
    /// Returns an error if the operating system returns no random bytes.
    pub fn seal(&self, secret: &WebhookSecret, place: &str) -> Result<SealedSecret, SealError> {
        let mut nonce = [0; NONCE];
        fill_random(&mut nonce).map_err(SealError::random)?;
        let SealingKey { id, cipher } = &self.current;
        // Encrypted in place: until then it is plain text.
        let mut text = Zeroizing::new(secret.expose_secret().as_bytes().to_vec());
        let buffer = text.as_mut_slice().into();
        let tag = cipher.encrypt_inout_detached(&XNonce::from(nonce), &context(place), buffer);
        // Only a text of 256 GiB is too long for the cipher.
        let tag = tag.map_err(|_| SealError::new(SealErrorKind::Refused))?;
        let bytes = [&nonce[..], &text, &tag].concat();
        let id = Arc::clone(id);
        Ok(SealedSecret { id, bytes })
    }

    /// Decrypts a secret that was bound to this place.
    ///
    /// # Errors
    /// Returns an error if the key is not in this key ring, or the secret was sealed with another
    /// key of the same id or for another place, or was modified.
    pub fn open(&self, sealed: &SealedSecret, place: &str) -> Result<WebhookSecret, SealError> {
        let refused = SealError::new(SealErrorKind::Refused);
        let key = self.of_id(&sealed.id);
        let SealingKey { cipher, .. } = key.ok_or(SealError::new(SealErrorKind::UnknownKey))?;
        let parts = sealed.bytes.split_first_chunk::<NONCE>();
        let parts = parts.and_then(|(nonce, rest)| Some((nonce, rest.split_last_chunk::<TAG>()?)));
        let (nonce, (text, tag)) = parts.ok_or(refused)?;
        let mut text = Zeroizing::new(text.to_vec());
        let opened = cipher.decrypt_inout_detached(
            &XNonce::from(*nonce),
            &context(place),
            text.as_mut_slice().into(),
            &Tag::from(*tag),
        );
        opened.map_err(|_| refused)?;
        let text = std::str::from_utf8(&text).ok();
        let secret = text.and_then(|text| WebhookSecret::parse(text).ok());
        secret.ok_or(refused)
    }

    /// Returns whether the secret was sealed with the current key. If not, seal it again.
    #[must_use]
    pub fn is_current(&self, sealed: &SealedSecret) -> bool {
        sealed.id == self.current.id
    }

    fn of_id(&self, id: &str) -> Option<&SealingKey> {
        let mut all = std::iter::once(&self.current).chain(&self.retired);
        all.find(|key| *key.id == *id)
    }
}

/// Returns the data authenticated with the secret.
///
/// The label separates it from anything else that the service may encrypt with the key.
fn context(place: &str) -> Vec<u8> {
    [b"keyward webhook secret\0", place.as_bytes()].concat()
}

/// An encrypted secret as stored: the key's id, `:`, and base64.
///
/// It is useless without the key. See [`SealingKeys`].
#[derive(Clone, PartialEq, Eq)]
pub struct SealedSecret {
    id: Arc<str>,
    /// The nonce, ciphertext and tag.
    bytes: Vec<u8>,
}

impl SealedSecret {
    /// Parses the output of `Display`.
    ///
    /// # Errors
    /// Returns an error if the format is different, or no sealed secret has this length.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let error = |kind| ParseError::new("sealed secret", kind);
        let (id, rest) = text
            .split_once(':')
            .ok_or(error(ParseErrorKind::Character))?;
        check_id("sealing key id", id)?;
        if rest.len() > MAX_SEALED.div_ceil(3) * 4 {
            return Err(error(ParseErrorKind::TooLong));
        }
        let bytes = BASE64_STANDARD.decode(rest);
        let bytes = bytes.map_err(|_| error(ParseErrorKind::Character))?;
        match bytes.len() {
            0..=NONCE_AND_TAG => Err(error(ParseErrorKind::Empty)),
            _ => Ok(Self {
                id: id.into(),
                bytes,
            }),
        }
    }

    /// Returns the id of the key that sealed it.
    #[must_use]
    pub fn key_id(&self) -> &str {
        &self.id
    }
}

impl fmt::Display for SealedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.id, BASE64_STANDARD.encode(&self.bytes))
    }
}

impl fmt::Debug for SealedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealedSecret({}, ..)", self.id)
    }
}

/// The error of sealing or opening a secret. See [`SealingKeys`].
#[derive(Clone, Copy, Debug)]
pub struct SealError {
    kind: SealErrorKind,
    source: Option<RandomError>,
}

impl SealError {
    const fn new(kind: SealErrorKind) -> Self {
        Self { kind, source: None }
    }

    pub(crate) const fn random(source: RandomError) -> Self {
        let source = Some(source);
        let kind = SealErrorKind::Random;
        Self { kind, source }
    }

    /// Returns the kind of error.
    #[must_use]
    pub const fn kind(&self) -> SealErrorKind {
        self.kind
    }
}

impl fmt::Display for SealError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            SealErrorKind::UnknownKey => "the secret was sealed with an unknown key",
            SealErrorKind::Refused => {
                "the secret was sealed with another key or for another place, or was modified"
            }
            SealErrorKind::Random => "the operating system returned no random bytes for a nonce",
        })
    }
}

impl Error for SealError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}

/// The kind of a [`SealError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SealErrorKind {
    /// The sealed secret names a key that is not in the key ring.
    UnknownKey,
    /// The secret was modified, or sealed for another place or with another key.
    Refused,
    /// The operating system returned no random bytes.
    Random,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(id: &str, byte: u8) -> SealingKey {
        SealingKey::new(id, &[byte; 32]).unwrap()
    }

    #[test]
    fn a_key_is_of_32_bytes() {
        for length in [0, 16, 31, 33, 64] {
            assert!(SealingKey::new("id", &vec![7; length]).is_err(), "{length}");
        }
        assert!(SealingKey::new("", &[7; 32]).is_err());
        assert!(SealingKey::new("a:b", &[7; 32]).is_err());
        let keys = SealingKeys::new(key("a", 1));
        assert!(keys.retired(key("a", 2)).is_err());
    }

    #[test]
    fn the_same_secret_is_never_sealed_alike() {
        let keys = SealingKeys::new(key("a", 1));
        let secret = WebhookSecret::random().unwrap();
        let [one, two] = [0, 1].map(|_| keys.seal(&secret, "e").unwrap());
        assert_ne!(one, two);
        assert!(!format!("{one} {one:?}").contains(&secret.expose_secret()[6..]));
    }

    #[test]
    fn tells_an_unknown_key_from_a_wrong_one() {
        let secret = WebhookSecret::random().unwrap();
        let sealed = SealingKeys::new(key("a", 1)).seal(&secret, "e").unwrap();
        let kind = |keys: SealingKeys| keys.open(&sealed, "e").unwrap_err().kind();
        assert_eq!(
            kind(SealingKeys::new(key("b", 1))),
            SealErrorKind::UnknownKey
        );
        assert_eq!(kind(SealingKeys::new(key("a", 2))), SealErrorKind::Refused);
    }

    proptest! {
        #[test]
        fn opens_only_what_was_sealed(flip in 0_usize..800, length in 24_usize..=64) {
            let keys = SealingKeys::new(key("a", 1));
            let secret = WebhookSecret::parse(&BASE64_STANDARD.encode(vec![9; length])).unwrap();
            let sealed = keys.seal(&secret, "e").unwrap();
            let again = SealedSecret::parse(&sealed.to_string()).unwrap();
            prop_assert_eq!(&keys.open(&again, "e").unwrap(), &secret);
            let mut changed = sealed.clone();
            let at = flip / 8 % changed.bytes.len();
            changed.bytes[at] ^= 1 << (flip % 8);
            let error = keys.open(&changed, "e").unwrap_err();
            prop_assert_eq!(error.kind(), SealErrorKind::Refused);
            changed.bytes = sealed.bytes[..at].to_vec();
            prop_assert!(keys.open(&changed, "e").is_err());
        }

        #[test]
        fn reads_any_text_without_panic(text in ".{0,40}:?[A-Za-z0-9+/]{0,80}=?") {
            if let Ok(sealed) = SealedSecret::parse(&text) {
                prop_assert_eq!(sealed.to_string(), text);
            }
        }
    }
}
