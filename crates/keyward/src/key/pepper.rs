//! Peppers: secrets of the service that enter every digest, so that a stolen database is not enough
//! to recognise or forge keys.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hmac::digest::KeyInit;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256, Sha512};

use crate::clock::Clock;
use crate::clock::unix_time;
use crate::error::{ParseError, ParseErrorKind};
use crate::key::digest::DigestBytes;
use crate::key::format::MAX_KEY_LEN;
use crate::key::{DigestScheme, KeyDigest};
use crate::secret_text::{check_bytes, check_id};

/// The maximum number of schemes that a lookup tries.
const MAX_SCHEMES: usize = 4;

/// The public name of a pepper, stored with every digest made with it.
///
/// ```
/// assert_eq!(keyward::key::PepperId::parse("2026-11")?.to_string(), "2026-11");
/// # Ok::<(), keyward::error::ParseError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PepperId(Arc<str>);

impl PepperId {
    /// Parses a name of 1 to 32 letters, digits, `-`, `_` and `.`.
    ///
    /// # Errors
    /// Returns an error if the text is empty, longer, or contains another character.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        check_id("pepper id", text)?;
        Ok(Self(text.into()))
    }
}

impl fmt::Display for PepperId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A secret of the service outside the database, and its public name.
///
/// ```
/// use keyward::Peppers;
/// use keyward::key::Pepper;
///
/// let secret = b"from a random generator"; // read it from a secret store
/// let pepper = Pepper::new("2026", secret)?;
/// assert_eq!(format!("{pepper:?}"), "Pepper(2026, ..)");
/// assert_eq!(Peppers::new(pepper).current().to_string(), "hmac-sha256:2026");
/// # Ok::<(), keyward::error::ParseError>(())
/// ```
#[derive(Clone)]
pub struct Pepper {
    id: PepperId,
    mac: Hmac<Sha256>,
}

impl Pepper {
    /// Creates a pepper from at least 16 random bytes.
    ///
    /// The bytes may be text, such as base64, and are used as they are. Text that was visibly
    /// altered on its way is refused, because another process that trims it would have a different
    /// pepper and recognise none of the keys.
    ///
    /// # Errors
    /// Returns an error if the id is invalid, if the secret is shorter than 16 bytes, or if it is
    /// text that ends in a newline, is enclosed in quotation marks, or begins with a byte order
    /// mark or white space.
    ///
    /// ```
    /// use keyward::error::ParseErrorKind;
    /// use keyward::key::Pepper;
    ///
    /// let unset = String::new(); // an unset environment variable is not a pepper
    /// let error = Pepper::new("2026", unset.as_bytes()).unwrap_err();
    /// assert_eq!(error.kind(), ParseErrorKind::Empty);
    ///
    /// let file = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n"; // written by `openssl rand -base64 24 > pepper`
    /// let error = Pepper::new("2026", file.as_bytes()).unwrap_err();
    /// assert_eq!(error.kind(), ParseErrorKind::Newline);
    /// assert!(Pepper::new("2026", file.trim_end().as_bytes()).is_ok());
    /// ```
    pub fn new(id: &str, secret: &[u8]) -> Result<Self, ParseError> {
        let advice = "trim it, or use `Pepper::verbatim` if keys were digested with it";
        PepperId::parse(id)?;
        check_bytes("pepper", secret, advice)?;
        Self::verbatim(id, secret)
    }

    /// Creates a pepper from exactly these bytes, even if they look altered.
    ///
    /// Use it only for a pepper that [`new`](Self::new) refuses but that keys were already digested
    /// with. Make it [`retired`](Peppers::retired) in favour of a pepper without the newline.
    ///
    /// # Errors
    /// Returns an error if the id is invalid or the secret is shorter than 16 bytes.
    ///
    /// ```
    /// use keyward::Peppers;
    /// use keyward::key::Pepper;
    ///
    /// let file = b"MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n";
    /// let old = Pepper::verbatim("2025", file)?;
    /// let peppers = Peppers::new(Pepper::new("2026", file.trim_ascii())?).retired(old)?;
    /// assert_eq!(peppers.current().to_string(), "hmac-sha256:2026");
    /// # Ok::<(), keyward::error::ParseError>(())
    /// ```
    pub fn verbatim(id: &str, secret: &[u8]) -> Result<Self, ParseError> {
        let id = PepperId::parse(id)?;
        let error = ParseError::new("pepper", ParseErrorKind::Empty);
        if secret.len() < 16 {
            return Err(error);
        }
        let mac = Hmac::new_from_slice(secret).map_err(|_| error)?;
        Ok(Self { id, mac })
    }
}

impl fmt::Debug for Pepper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pepper({}, ..)", self.id)
    }
}

/// The digest schemes of a service: the current one, then the retired ones.
///
/// New keys use the current scheme. A lookup tries the schemes in order, so only a key that is not
/// found pays for all of them. There are at most four.
///
/// ```
/// use keyward::Peppers;
/// use keyward::key::{DigestScheme, Pepper};
///
/// let current = Pepper::new("2026", b"sixteen bytes or more")?;
/// let old = Pepper::new("2025", b"another sixteen bytes")?;
/// let peppers = Peppers::new(current).retired(old)?.accepting(DigestScheme::Sha256)?;
/// assert_eq!(peppers.current().to_string(), "hmac-sha256:2026");
/// # Ok::<(), keyward::error::ParseError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Peppers(Vec<Accepted>);

/// A digest method with an optional end date.
#[derive(Clone, Debug)]
struct Accepted {
    way: Way,
    /// The time since the Unix epoch; `None` means no end.
    until: Option<Duration>,
}

/// One digest method.
#[derive(Clone, Debug)]
enum Way {
    Pepper(Pepper),
    /// Another process already digests keys with it.
    Upcoming(Pepper),
    /// A scheme without a pepper.
    Plain(DigestScheme),
}

/// The usual digest of other systems, with which a key is imported unchanged.
static IMPORTED: Way = Way::Plain(DigestScheme::Sha256);

impl Peppers {
    /// Uses no pepper: keys are digested with plain SHA-256.
    #[must_use]
    pub fn none() -> Self {
        Self(vec![Way::Plain(DigestScheme::Sha256).accepted(None)])
    }

    /// Uses this pepper for new keys.
    #[must_use]
    pub fn new(current: Pepper) -> Self {
        Self(vec![Way::Pepper(current).accepted(None)])
    }

    /// Keeps accepting keys that were digested with this pepper.
    ///
    /// Such a key is rehashed with the current scheme at its next use.
    ///
    /// # Errors
    /// Returns an error if this would be a fifth scheme or the id is already present.
    pub fn retired(self, pepper: Pepper) -> Result<Self, ParseError> {
        self.or(Way::Pepper(pepper).accepted(None))
    }

    /// Keeps accepting keys that were digested with this pepper until `end`.
    ///
    /// A key that was not used before then becomes an unknown key. Use this when a rotation has to
    /// end on a certain date, for example because the old pepper has leaked.
    ///
    /// # Errors
    /// Returns an error if this would be a fifth scheme or the id is already present.
    pub fn retired_until(self, pepper: Pepper, end: SystemTime) -> Result<Self, ParseError> {
        self.or(Way::Pepper(pepper).accepted(Some(unix_time(end))))
    }

    /// Accepts keys that another process already digests with this pepper.
    ///
    /// Rotating a pepper takes three deployments to every process:
    ///
    /// 1. Add the new pepper as upcoming.
    /// 2. Make it the current one and the old one [`retired`](Self::retired).
    /// 3. Remove the old one when [`KeyAdmin::schemes`](crate::admin::KeyAdmin::schemes) no longer
    ///    counts keys under it.
    ///
    /// A process that listed the new pepper as retired in the first step would move keys back to
    /// the old one.
    ///
    /// # Errors
    /// Returns an error if this would be a fifth scheme or the id is already present.
    pub fn upcoming(self, pepper: Pepper) -> Result<Self, ParseError> {
        self.or(Way::Upcoming(pepper).accepted(None))
    }

    /// Keeps accepting keys that were digested with this scheme, which needs no pepper.
    ///
    /// Imported keys of a [`ForeignFormat`](crate::key::ForeignFormat) are found by their SHA-256
    /// even without this.
    ///
    /// # Errors
    /// Returns an error if this would be a fifth scheme, is already present, or needs a pepper.
    pub fn accepting(self, scheme: DigestScheme) -> Result<Self, ParseError> {
        match scheme {
            DigestScheme::HmacSha256(_) => {
                Err(ParseError::new("digest scheme", ParseErrorKind::Unknown))
            }
            plain => self.or(Way::Plain(plain).accepted(None)),
        }
    }

    /// Returns the scheme for new digests.
    #[must_use]
    pub fn current(&self) -> DigestScheme {
        let current = self.0.first();
        current.map_or(DigestScheme::Sha256, |current| current.way.scheme())
    }

    /// Digests a key with the current scheme.
    #[must_use]
    pub fn digest(&self, key: &crate::key::ApiKey) -> KeyDigest {
        self.digest_text(key.expose_secret().as_bytes())
    }

    pub(crate) fn digest_text(&self, key: &[u8]) -> KeyDigest {
        let bytes = self.0.first().map(|current| current.way.digest(key, 0));
        KeyDigest::new(self.current(), bytes.map_or([0; 32], |bytes| bytes.0))
    }

    /// Yields the digests to look up, each with the index of its method.
    ///
    /// They are in the order in which to try them. An imported key may be stored under plain
    /// SHA-256.
    pub(crate) fn candidates<'a>(
        &'a self,
        key: &'a [u8],
        secret: usize,
        is_foreign: bool,
        clock: &'a dyn Clock,
    ) -> impl Iterator<Item = (usize, DigestBytes)> + 'a {
        let accepted = self
            .0
            .iter()
            .enumerate()
            .filter(|(_, accepted)| accepted.until.is_none_or(|until| clock.unix() < until));
        let accepted = accepted.map(|(place, accepted)| (place, &accepted.way));
        let imported = is_foreign && self.lacks_sha256();
        accepted
            .chain(imported.then_some((self.0.len(), &IMPORTED)))
            .map(move |(place, way)| (place, way.digest(key, secret)))
    }

    /// Returns every digest under which a key may be stored, whatever its format.
    ///
    /// The secret part of an imported key may begin anywhere. A scheme counts even after its end.
    pub(crate) fn digests_of(&self, key: &[u8]) -> Vec<KeyDigest> {
        if key.is_empty() || key.len() > MAX_KEY_LEN {
            return Vec::new();
        }
        let own = self.0.iter().map(|accepted| &accepted.way);
        let ways = own.chain(self.lacks_sha256().then_some(&IMPORTED));
        let digests = ways.flat_map(|way| {
            let starts = match way {
                Way::Plain(DigestScheme::Sha256OfSecret) => key.len(),
                _ => 1,
            };
            (0..starts).map(|start| KeyDigest::new(way.scheme(), way.digest(key, start).0))
        });
        digests.collect()
    }

    fn lacks_sha256(&self) -> bool {
        let is_sha256 = |way: &Way| matches!(way, Way::Plain(DigestScheme::Sha256));
        !self.0.iter().any(|accepted| is_sha256(&accepted.way))
    }

    /// Returns whether a key that this method finds has to be rehashed.
    pub(crate) fn is_old(&self, way: usize) -> bool {
        let accepted = self.0.get(way).map(|accepted| &accepted.way);
        way > 0 && !matches!(accepted, Some(Way::Upcoming(_)))
    }

    fn or(mut self, new: Accepted) -> Result<Self, ParseError> {
        let known = |old: &Accepted| old.way.scheme() == new.way.scheme();
        if self.0.len() == MAX_SCHEMES || self.0.iter().any(known) {
            return Err(ParseError::new("peppers", ParseErrorKind::TooMany));
        }
        self.0.push(new);
        Ok(self)
    }
}

impl Default for Peppers {
    fn default() -> Self {
        Self::none()
    }
}

impl Way {
    fn accepted(self, until: Option<Duration>) -> Accepted {
        Accepted { way: self, until }
    }

    fn scheme(&self) -> DigestScheme {
        match self {
            Self::Pepper(pepper) | Self::Upcoming(pepper) => {
                DigestScheme::HmacSha256(pepper.id.clone())
            }
            Self::Plain(scheme) => scheme.clone(),
        }
    }

    /// Digests a key whose secret part begins at `secret`.
    fn digest(&self, key: &[u8], secret: usize) -> DigestBytes {
        DigestBytes(match self {
            Self::Pepper(pepper) | Self::Upcoming(pepper) => {
                let mac = pepper.mac.clone().chain_update(key);
                mac.finalize().into_bytes().into()
            }
            Self::Plain(DigestScheme::Sha256OfSecret) => {
                Sha256::digest(key.get(secret..).unwrap_or(key)).into()
            }
            Self::Plain(DigestScheme::Sha512) => Sha256::digest(Sha512::digest(key)).into(),
            Self::Plain(_) => Sha256::digest(key).into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: DigestBytes) -> String {
        format!("{:02x?}", bytes.0).replace(['[', ']', ',', ' '], "")
    }

    #[test]
    fn digests_are_those_of_the_standards() {
        // FIPS 180-4, the one-block example.
        assert_eq!(
            hex(Way::Plain(DigestScheme::Sha256).digest(b"abc", 0)),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        // RFC 4231 §4.2, test case 1.
        let pepper = Pepper::new("rfc", &[0x0b; 20]).unwrap();
        assert_eq!(
            hex(Way::Pepper(pepper).digest(b"Hi There", 0)),
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
        );
    }

    #[test]
    fn an_empty_or_short_pepper_is_an_error() {
        for secret in [&b""[..], b"fifteen bytes.."] {
            assert!(Pepper::new("2026", secret).is_err());
        }
        assert!(Pepper::new("", b"sixteen bytes or more").is_err());
    }

    #[test]
    fn tries_at_most_four_ways_and_none_twice() {
        let pepper = |id| Pepper::new(id, b"sixteen bytes or more").unwrap();
        let three = Peppers::new(pepper("a"))
            .retired(pepper("b"))
            .unwrap()
            .accepting(DigestScheme::Sha256)
            .unwrap();
        assert!(three.clone().retired(pepper("a")).is_err());
        assert!(three.clone().accepting(DigestScheme::Sha256).is_err());
        let four = three.retired(pepper("c")).unwrap();
        assert_eq!(
            four.candidates(b"key", 0, true, &crate::clock::SystemClock)
                .count(),
            4
        );
        assert!(four.retired(pepper("d")).is_err());
    }

    #[test]
    fn debug_shows_neither_pepper_nor_digest() {
        let peppers = Peppers::new(Pepper::new("id", b"sixteen bytes or more").unwrap());
        let key = crate::key::KeyFormat::new("x_")
            .unwrap()
            .generate(crate::environment::Environment::LIVE)
            .unwrap();
        assert_eq!(
            format!("{peppers:?}"),
            "Peppers([Accepted { way: Pepper(Pepper(id, ..)), until: None }])"
        );
        let digest = peppers.digest(&key);
        assert_eq!(format!("{digest:?}"), "KeyDigest(hmac-sha256:id, ..)");
    }
}
