//! The shared secret of a webhook's sender and receiver.

use std::fmt;
use std::time::SystemTime;

use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use hmac::digest::KeyInit;
use hmac::{Hmac, Mac};
use keyward::admin::Grace;
use keyward::error::{ParseError, ParseErrorKind};
use keyward::key::{RandomError, fill_random};
use keyward::secret_text::{WrongPrefix, check_text};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::signature::WebhookSigner;

const SUBJECT: &str = "webhook secret";
const PREFIX: &str = "whsec_";
const WRONG_PREFIXES: [WrongPrefix<'_>; 5] = [
    ("v1,", "remove `v1,`"),
    ("whsec_whsec_", "`whsec_` is repeated"),
    ("v1a,", ASYMMETRIC),
    ("whsk_", ASYMMETRIC),
    ("whpk_", ASYMMETRIC),
];
const ASYMMETRIC: &str =
    "Ed25519 signatures are not supported, use a secret that begins with `whsec_`";
const READER: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The secret of an endpoint: `whsec_` and the base64 of 24 to 64 random bytes.
///
/// Show it to the receiver once. It has no `Display`, its `Debug` output hides it, it is compared
/// in constant time and its memory is zeroed on drop. To store it,
/// [seal](crate::sealing::SealingKeys) it.
///
/// ```
/// use keyward_webhooks::signature::WebhookSecret;
///
/// let secret = WebhookSecret::random()?;
/// assert!(secret.expose_secret().starts_with("whsec_"));
/// assert_eq!(format!("{secret:?}"), "WebhookSecret(..)");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct WebhookSecret {
    text: Zeroizing<String>,
    bytes: MacKey,
}

impl WebhookSecret {
    /// Generates a secret of 32 random bytes.
    ///
    /// # Errors
    /// Returns an error if the operating system returns no random bytes.
    pub fn random() -> Result<Self, RandomError> {
        let mut bytes = Zeroizing::new(vec![0; 32]);
        fill_random(&mut bytes)?;
        Ok(Self::of(bytes))
    }

    /// Parses a secret, with or without its prefix and padding.
    ///
    /// The libraries of Standard Webhooks accept all of these forms, and some services issue
    /// secrets that way.
    ///
    /// # Errors
    /// Returns an error if it is not standard base64, does not have 24 to 64 bytes, or is
    /// surrounded by extra characters, such as a newline, quotation marks or `v1,`.
    ///
    /// ```
    /// use keyward::error::ParseErrorKind;
    /// use keyward_webhooks::signature::WebhookSecret;
    ///
    /// let secret = WebhookSecret::parse("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")?;
    /// assert_eq!(secret.expose_secret(), "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    ///
    /// let unset = String::new(); // a missing environment variable must not count as a secret
    /// let error = WebhookSecret::parse(&unset).unwrap_err();
    /// assert_eq!(error.kind(), ParseErrorKind::Empty);
    /// # Ok::<(), keyward::error::ParseError>(())
    /// ```
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let error = |kind| ParseError::new(SUBJECT, kind);
        check_text(SUBJECT, text, &WRONG_PREFIXES)?;
        let text = text.strip_prefix(PREFIX).unwrap_or(text);
        // 64 bytes are 88 characters.
        if text.len() > 88 {
            return Err(error(ParseErrorKind::TooLong));
        }
        let bytes = READER.decode(text).map(Zeroizing::new);
        let bytes = bytes.map_err(|_| error(ParseErrorKind::Character))?;
        match bytes.len() {
            0..24 => Err(error(ParseErrorKind::Empty)),
            24..=64 => Ok(Self::of(bytes)),
            _ => Err(error(ParseErrorKind::TooLong)),
        }
    }

    /// Returns the secret. Show it to the receiver and keep no copy.
    #[must_use]
    pub fn expose_secret(&self) -> &str {
        &self.text
    }

    pub(crate) fn key(&self) -> &MacKey {
        &self.bytes
    }

    fn of(bytes: Zeroizing<Vec<u8>>) -> Self {
        // Allocated at full size at once, as growing would leave copies behind.
        let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + 88));
        text.push_str(PREFIX);
        BASE64_STANDARD.encode_string(&*bytes, &mut text);
        let bytes = MacKey(bytes);
        Self { text, bytes }
    }
}

impl PartialEq for WebhookSecret {
    fn eq(&self, other: &Self) -> bool {
        self.bytes.0.ct_eq(&other.bytes.0).into()
    }
}

impl Eq for WebhookSecret {}

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookSecret(..)")
    }
}

/// The current secret of an endpoint, and the previous one during its grace period.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use keyward::Grace;
/// use keyward_webhooks::signature::{WebhookSecret, WebhookSecrets};
///
/// let now = SystemTime::now();
/// let mut secrets = WebhookSecrets::new(WebhookSecret::random()?);
/// secrets.regenerate(Grace::For(Duration::from_secs(3600)), now)?;
/// assert!(secrets.previous(now).is_some()); // both sign
/// assert!(secrets.previous(now + Duration::from_secs(3600)).is_none());
///
/// secrets.regenerate(Grace::None, now)?; // the secret has leaked
/// assert!(secrets.previous(now).is_none());
/// # Ok::<(), keyward::key::RandomError>(())
/// ```
#[derive(Clone, Debug)]
pub struct WebhookSecrets {
    current: WebhookSecret,
    previous: Option<(WebhookSecret, SystemTime)>,
}

impl WebhookSecrets {
    /// Creates a set with a single secret.
    #[must_use]
    pub fn new(current: WebhookSecret) -> Self {
        let previous = None;
        Self { current, previous }
    }

    /// Adds the previous secret, which signs until this time, as read from a store.
    #[must_use]
    pub fn and_previous(mut self, secret: WebhookSecret, until: SystemTime) -> Self {
        self.previous = Some((secret, until));
        self
    }

    /// Generates a new secret; the current one also signs for the grace period.
    ///
    /// An earlier previous secret is dropped: at most two secrets sign.
    ///
    /// # Errors
    /// Returns an error if the operating system returns no random bytes.
    pub fn regenerate(&mut self, grace: Grace, now: SystemTime) -> Result<(), RandomError> {
        let old = std::mem::replace(&mut self.current, WebhookSecret::random()?);
        self.previous = match grace {
            Grace::None => None,
            // An end that cannot be represented would never come, so the safe choice is no grace
            // period.
            Grace::For(length) => now.checked_add(length).map(|until| (old, until)),
        };
        Ok(())
    }

    /// Returns the current secret.
    #[must_use]
    pub fn current(&self) -> &WebhookSecret {
        &self.current
    }

    /// Returns the previous secret and the time until which it signs; `None` after that.
    #[must_use]
    pub fn previous(&self, now: SystemTime) -> Option<(&WebhookSecret, SystemTime)> {
        let (secret, until) = self.previous.as_ref()?;
        (now < *until).then_some((secret, *until))
    }

    /// Returns a signer with the secrets that sign at this time.
    pub fn signer(&self, now: SystemTime) -> WebhookSigner {
        let signer = WebhookSigner::new(&self.current);
        match self.previous(now) {
            Some((previous, _)) => signer.and(previous),
            None => signer,
        }
    }
}

/// A key for HMAC-SHA-256.
#[derive(Clone)]
pub(crate) struct MacKey(Zeroizing<Vec<u8>>);

impl MacKey {
    /// Creates a key from the text of a secret that another service has chosen.
    pub(crate) fn of_text(text: &str, wrong: &[WrongPrefix<'_>]) -> Result<Self, ParseError> {
        let error = |kind| Err(ParseError::new(SUBJECT, kind));
        check_text(SUBJECT, text, wrong)?;
        match text.len() {
            0..16 => error(ParseErrorKind::Empty),
            16..=256 => Ok(Self(Zeroizing::new(text.as_bytes().to_vec()))),
            _ => error(ParseErrorKind::TooLong),
        }
    }

    /// Returns the MAC of the concatenated parts.
    pub(crate) fn sign(&self, parts: &[&[u8]]) -> [u8; 32] {
        // HMAC accepts a key of any length (RFC 2104 §2).
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.0) else {
            return [0; 32];
        };
        for part in parts {
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn parses_only_base64_of_24_to_64_bytes() {
        use ParseErrorKind::{Character, Empty, TooLong};
        let of = |count| format!("whsec_{}", BASE64_STANDARD.encode(vec![7_u8; count]));
        for good in [24, 25, 32, 63, 64] {
            let secret = WebhookSecret::parse(&of(good)).unwrap();
            assert_eq!(secret.expose_secret(), of(good));
            let bare = of(good)[6..].replace('=', "");
            assert_eq!(WebhookSecret::parse(&bare).unwrap(), secret);
        }
        for (bad, kind) in [
            (String::new(), Empty),
            ("whsec_".to_owned(), Empty),
            (of(1), Empty),
            (of(23), Empty),
            (of(65), TooLong),
            (of(1000), TooLong),
            (of(32) + "=", Character),
            (of(32).replace("c=", "d="), Character),
            (of(24).replacen('B', "-", 1), Character),
            (of(24).replacen("whsec_", "WHSEC_", 1), Character),
        ] {
            assert_eq!(
                WebhookSecret::parse(&bad).unwrap_err().kind(),
                kind,
                "{bad}"
            );
        }
    }

    #[test]
    fn no_two_are_alike_and_equal_ones_are_equal() {
        let secret = WebhookSecret::random().unwrap();
        assert_ne!(secret, WebhookSecret::random().unwrap());
        assert_eq!(
            secret,
            WebhookSecret::parse(secret.expose_secret()).unwrap()
        );
    }

    #[test]
    fn the_old_secret_signs_to_the_end_of_its_grace_and_no_third_one() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let first = WebhookSecret::random().unwrap();
        let mut secrets = WebhookSecrets::new(first.clone());
        let grace = Duration::from_secs(60);
        secrets.regenerate(Grace::For(grace), now).unwrap();
        assert_ne!(*secrets.current(), first);
        let last = now + grace - Duration::from_secs(1);
        assert_eq!(secrets.previous(last).unwrap().0, &first);
        assert!(secrets.previous(now + grace).is_none());
        let second = secrets.current().clone();
        secrets.regenerate(Grace::For(grace), now).unwrap();
        assert_eq!(secrets.previous(now).unwrap().0, &second);
        secrets.regenerate(Grace::For(Duration::MAX), now).unwrap();
        assert!(secrets.previous(now).is_none());
    }
}
