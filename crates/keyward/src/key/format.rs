//! The format of a service's own keys.

use zeroize::Zeroizing;

use crate::environment::Environment;
use crate::error::{ParseError, ParseErrorKind};
use crate::key::{Alphabet, ApiKey, RandomError};

/// The longest text that is examined as a key, in bytes.
pub(crate) const MAX_KEY_LEN: usize = 512;

const PLACEHOLDER: &str = "{env}";

/// The format of a service's keys: prefix, alphabet, length and checksum.
///
/// A format generates keys and recognises them. The prefix may contain the environment
/// (`vhk_{env}_`) or be fixed (`sk_live_`). By default, 32 base62 characters (190 bits) and a
/// checksum follow it. The checksum is the CRC-32 of everything before it: a mistyped key or an
/// edited environment is detected without a lookup, and secret scanning has few false positives. It
/// is not secret and proves nothing.
///
/// ```
/// use keyward::{Environment, KeyFormat};
/// use keyward::key::Alphabet;
///
/// let format = KeyFormat::new("vhk_{env}_")?;
/// let key = format.generate(Environment::TEST)?;
/// assert!(format.recognises(key.expose_secret().as_bytes()));
/// assert_eq!(key.expose_secret().len(), "vhk_test_".len() + 32 + 6);
///
/// let edited = key.expose_secret().replace("_test_", "_live_");
/// assert!(!format.recognises(edited.as_bytes()));
///
/// let format = KeyFormat::new("cs_")?
///     .alphabet(Alphabet::Base64Url)
///     .length(64)?
///     .without_checksum();
/// assert_eq!(format.generate(Environment::LIVE)?.expose_secret().len(), 3 + 64);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFormat {
    /// The text before the environment, or the whole prefix.
    head: Box<str>,
    /// The text after the environment; `None` if keys of this format do not contain it.
    tail: Option<Box<str>>,
    alphabet: Alphabet,
    length: usize,
    checksum: bool,
}

impl KeyFormat {
    /// Creates a format with this prefix, in which `{env}` stands for the environment.
    ///
    /// # Errors
    /// Returns an error if the prefix is empty or longer than 32 bytes, contains a character
    /// outside `A-Z`, `a-z`, `0-9`, `_` and `-`, or if `{env}` is not followed by a character that
    /// no environment contains, such as `_`.
    ///
    /// ```
    /// let error = keyward::KeyFormat::new("sk_{env}").unwrap_err();
    /// let text = "invalid key format: lacks a separator such as `_` after `{env}`";
    /// assert_eq!(error.to_string(), text);
    /// ```
    pub fn new(prefix: &str) -> Result<Self, ParseError> {
        let error = |kind| Err(ParseError::new("key format", kind));
        if prefix.is_empty() {
            return error(ParseErrorKind::Empty);
        }
        if prefix.len() > 32 {
            return error(ParseErrorKind::TooLong);
        }
        let (head, tail) = match prefix.split_once(PLACEHOLDER) {
            Some((head, tail)) => (head, Some(tail)),
            None => (prefix, None),
        };
        let safe = |text: &str| Alphabet::Base64Url.holds_all(text.as_bytes());
        let ends_environment =
            |text: &str| !text.bytes().next().is_none_or(Environment::is_token_byte);
        if !safe(head) || !tail.is_none_or(safe) {
            return error(ParseErrorKind::Character);
        }
        if !tail.is_none_or(ends_environment) {
            return error(ParseErrorKind::NoSeparator);
        }
        Ok(Self {
            head: head.into(),
            tail: tail.map(Into::into),
            alphabet: Alphabet::Base62,
            length: 32,
            checksum: true,
        })
    }

    /// Sets the alphabet of the secret part. The default is base62.
    #[must_use]
    pub fn alphabet(mut self, alphabet: Alphabet) -> Self {
        self.alphabet = alphabet;
        self
    }

    /// Sets the number of random characters. The default is 32.
    ///
    /// # Errors
    /// Returns an error below 28 characters, which hold 112 bits even in hexadecimal, and above
    /// 256.
    pub fn length(mut self, length: usize) -> Result<Self, ParseError> {
        let error = |kind| Err(ParseError::new("key format", kind));
        if length < 28 {
            return error(ParseErrorKind::TooWeak);
        }
        if length > 256 {
            return error(ParseErrorKind::TooLong);
        }
        self.length = length;
        Ok(self)
    }

    /// Omits the checksum. Every well-formed key then costs a lookup.
    #[must_use]
    pub fn without_checksum(mut self) -> Self {
        self.checksum = false;
        self
    }

    /// Generates a key with the operating system's random number generator.
    ///
    /// All characters of the alphabet are equally likely.
    ///
    /// # Errors
    /// Returns an error if the operating system provides no random bytes.
    pub fn generate(&self, environment: Environment) -> Result<ApiKey, RandomError> {
        let mut prefix = self.head.to_string();
        if let Some(tail) = &self.tail {
            prefix.push_str(environment.as_str());
            prefix.push_str(tail);
        }
        let checksum = self.checksum_len();
        // Allocated at once: a growing `String` would leave copies of the secret in memory.
        let room = prefix.len() + self.length + checksum;
        let mut text = Zeroizing::new(String::with_capacity(room));
        text.push_str(&prefix);
        self.alphabet.push_random(&mut text, self.length)?;
        if self.checksum {
            let sum = crc32fast::hash(text.as_bytes());
            let digits = self.alphabet.digits(sum);
            text.extend(
                digits
                    .iter()
                    .skip(8 - checksum)
                    .map(|digit| char::from(*digit)),
            );
        }
        Ok(ApiKey::new(text, &prefix))
    }

    /// Returns whether the bytes match this format, including the checksum.
    #[must_use]
    pub fn recognises(&self, text: &[u8]) -> bool {
        self.parse(text).is_some()
    }

    /// Returns a regular expression that matches these keys, for secret scanning.
    ///
    /// It does not verify the checksum.
    ///
    /// ```
    /// let format = keyward::KeyFormat::new("vhk_{env}_")?;
    /// assert_eq!(format.regex(), r"vhk_[a-z][a-z0-9-]{0,14}_[0-9A-Za-z]{38}");
    /// # Ok::<(), keyward::error::ParseError>(())
    /// ```
    #[must_use]
    pub fn regex(&self) -> String {
        let environment = self
            .tail
            .as_ref()
            .map(|tail| format!("[a-z][a-z0-9-]{{0,14}}{tail}"));
        let class = match self.alphabet {
            Alphabet::Base62 => "[0-9A-Za-z]",
            Alphabet::Base64Url => "[0-9A-Za-z_-]",
            Alphabet::Hex => "[0-9a-f]",
        };
        let length = self.length + self.checksum_len();
        format!(
            "{}{}{class}{{{length}}}",
            self.head,
            environment.unwrap_or_default()
        )
    }

    /// Returns the key that begins at this offset of a text, and its prefix.
    pub(crate) fn find_at<'a>(&self, text: &'a str, at: usize) -> Option<(&'a str, &'a str)> {
        // The head is empty when the prefix begins with `{env}`.
        if !text.as_bytes().get(at..)?.starts_with(self.head.as_bytes()) {
            return None;
        }
        let rest = text.get(at..)?;
        let key = rest.get(..self.whole_length(rest)?)?;
        self.parse(key.as_bytes())?;
        let prefix = key.get(..key.len() - self.length - self.checksum_len())?;
        Some((key, prefix))
    }

    /// Returns the length of a key that begins here.
    fn whole_length(&self, text: &str) -> Option<usize> {
        let mut prefix = self.head.len();
        if let Some(tail) = &self.tail {
            let rest = text.as_bytes().get(prefix..)?;
            let token = rest.iter().take(Environment::MAX_LEN + 1);
            prefix += { token }.position(|b| !Environment::is_token_byte(*b))? + tail.len();
        }
        Some(prefix + self.length + self.checksum_len())
    }

    /// Parses a text; `None` if it does not match the format.
    pub(crate) fn parse<'a>(&self, text: &'a [u8]) -> Option<Recognised<'a>> {
        let mut rest = text.strip_prefix(self.head.as_bytes())?;
        let mut environment = None;
        if let Some(tail) = &self.tail {
            let ends = rest.iter().position(|b| !Environment::is_token_byte(*b))?;
            let (token, after) = rest.split_at_checked(ends)?;
            environment = Some(Environment::check(token).ok()?);
            rest = after.strip_prefix(tail.as_bytes())?;
        }
        let checksum = self.checksum_len();
        if rest.len() != self.length + checksum || !self.alphabet.holds_all(rest) {
            return None;
        }
        if self.checksum {
            let (signed, sum) = text.split_at_checked(text.len() - checksum)?;
            if !self.alphabet.digits(crc32fast::hash(signed)).ends_with(sum) {
                return None;
            }
        }
        let secret = text.len() - rest.len();
        let secret_alone = false;
        Some(Recognised {
            environment,
            secret,
            secret_alone,
        })
    }

    /// Returns whether a text begins like a key of this format, in any case.
    pub(crate) fn claims(&self, text: &[u8]) -> bool {
        let Some(rest) = after_prefix(text, &self.head) else {
            return false;
        };
        match &self.tail {
            // The prefix begins with the environment, which alone is too common.
            Some(tail) if self.head.is_empty() => {
                let is_token_byte = |b: &u8| Environment::is_token_byte(b.to_ascii_lowercase());
                let token = rest.iter().take_while(|byte| is_token_byte(byte)).count();
                (1..=Environment::MAX_LEN).contains(&token)
                    && rest
                        .get(token..)
                        .is_some_and(|rest| after_prefix(rest, tail).is_some())
            }
            _ => true,
        }
    }

    pub(crate) fn has_checksum(&self) -> bool {
        self.checksum
    }

    /// Returns whether a text can match both formats without a checksum to decide.
    ///
    /// A checksum in only one of them decides as long as that format is tried first.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        let checksums_differ =
            self.checksum != other.checksum || self.checksum && self.alphabet != other.alphabet;
        let meet = |own: &[u128], other: &[u128]| {
            own.len() == other.len() && own.iter().zip(other).all(|(a, b)| a & b != 0)
        };
        let others: Vec<_> = other.forms().collect();
        let mut forms = self.forms();
        !checksums_differ && forms.any(|own| others.iter().any(|other| meet(&own, other)))
    }

    /// Returns the possible bytes at each offset as bit sets, one list per environment length.
    fn forms(&self) -> impl Iterator<Item = Vec<u128>> {
        let set = |holds: &dyn Fn(u8) -> bool| {
            let bytes = (0..128).filter(|byte| holds(*byte));
            bytes.fold(0, |set, byte| set | 1 << byte)
        };
        let only = |text: &str| -> Vec<u128> { text.bytes().map(|byte| 1 << byte).collect() };
        let (head, tail) = (only(&self.head), only(self.tail.as_deref().unwrap_or("")));
        let token = set(&Environment::is_token_byte);
        let random = set(&|byte| self.alphabet.holds_all(&[byte]));
        let random = vec![random; self.length + self.checksum_len()];
        let lengths = match self.tail {
            Some(_) => 1..=Environment::MAX_LEN,
            None => 0..=0,
        };
        lengths.map(move |length| [&head[..], &vec![token; length], &tail, &random].concat())
    }

    fn checksum_len(&self) -> usize {
        if self.checksum {
            self.alphabet.checksum_len()
        } else {
            0
        }
    }
}

/// Returns the text after a prefix that may be in any case.
pub(crate) fn after_prefix<'a>(text: &'a [u8], prefix: &str) -> Option<&'a [u8]> {
    let (start, rest) = text.split_at_checked(prefix.len())?;
    start
        .eq_ignore_ascii_case(prefix.as_bytes())
        .then_some(rest)
}

/// A text that matches a key format.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recognised<'a> {
    /// The environment in the text, if the format includes it.
    pub(crate) environment: Option<&'a [u8]>,
    /// The offset of the secret part.
    pub(crate) secret: usize,
    /// True if only the secret part identifies the key, because the text before it is arbitrary.
    pub(crate) secret_alone: bool,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn formats() -> [KeyFormat; 5] {
        let format = |prefix| KeyFormat::new(prefix).unwrap();
        [
            format("vhk_{env}_"),
            format("sk_live_"),
            format("cs_")
                .alphabet(Alphabet::Base64Url)
                .length(64)
                .unwrap()
                .without_checksum(),
            format("hx-{env}_x_").alphabet(Alphabet::Hex),
            format("{env}_").alphabet(Alphabet::Base64Url),
        ]
    }

    #[test]
    fn recognises_what_it_generates_and_no_other_format_does() {
        for (i, format) in formats().iter().enumerate() {
            for environment in ["live", "test", "eu-west-1"] {
                let environment = Environment::parse(environment).unwrap();
                let key = format.generate(environment).unwrap();
                let text = key.expose_secret().as_bytes();
                let parsed = format.parse(text).unwrap();
                assert!(parsed.environment.is_none_or(|token| environment.is(token)));
                for (j, other) in formats().iter().enumerate() {
                    assert_eq!(other.recognises(text), i == j, "{key:?} as {other:?}");
                }
            }
        }
    }

    #[test]
    fn every_changed_character_is_noticed() {
        let format = KeyFormat::new("vhk_{env}_").unwrap();
        let key = format.generate(Environment::TEST).unwrap();
        let text = key.expose_secret().as_bytes();
        for at in 0..text.len() {
            for byte in [b'0', b'a', b'Z', b'_', 0, 0xFF] {
                let mut edited = text.to_vec();
                edited[at] = byte;
                assert_eq!(format.recognises(&edited), edited == text, "{at} {byte}");
            }
        }
        for shorter in 0..text.len() {
            assert!(!format.recognises(&text[..shorter]));
        }
        assert!(!format.recognises(&[text, b"0"].concat()));
    }

    #[test]
    fn the_checksum_is_the_crc_32_of_all_before_it() {
        let format = KeyFormat::new("vhk_{env}_").unwrap();
        // crc32("vhk_test_" + 32 zeros), computed with zlib: 0x2C2A0A8C.
        let body = format!("vhk_test_{}", "0".repeat(32));
        let sum = crc32fast::hash(body.as_bytes());
        let digits = Alphabet::Base62.digits(sum);
        let digits = std::str::from_utf8(&digits[2..]).unwrap();
        assert!(format.recognises(format!("{body}{digits}").as_bytes()));
        assert_eq!(&Alphabet::Base62.digits(u32::MAX)[2..], b"4gfFC3");
        assert_eq!(&Alphabet::Hex.digits(0xDEAD_BEEF), b"deadbeef");
    }

    #[test]
    fn refuses_a_prefix_that_could_not_be_read_back() {
        for bad in [
            "",
            "a b_",
            "é_",
            "vhk_{env}",
            "vhk_{env}x_",
            "{env}-",
            "a_{ENV}_",
            "{env}_{env}_",
        ] {
            assert!(KeyFormat::new(bad).is_err(), "{bad}");
        }
        for unseparated in ["{env}", "vhk_{env}", "vhk_{env}x_", "{env}-"] {
            let kind = KeyFormat::new(unseparated).unwrap_err().kind();
            assert_eq!(kind, ParseErrorKind::NoSeparator, "{unseparated}");
        }
        assert!(KeyFormat::new(&"x".repeat(33)).is_err());
        let format = KeyFormat::new("x_").unwrap();
        assert!(format.clone().length(27).is_err());
        assert!(format.length(257).is_err());
    }

    #[test]
    fn the_hint_is_the_prefix_and_the_last_four() {
        let key = KeyFormat::new("sk_live_")
            .unwrap()
            .generate(Environment::TEST)
            .unwrap();
        let text = key.expose_secret();
        let hint = format!("sk_live_…{}", &text[text.len() - 4..]);
        assert_eq!(key.hint().to_string(), hint);
    }

    proptest! {
        #[test]
        fn parses_any_bytes_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for format in formats() {
                prop_assert!(!format.recognises(&bytes));
            }
        }

        #[test]
        fn parses_any_text_behind_a_prefix_without_panic(text in "(vhk_|sk_|cs_|hx-)?(live|test)?_?[ -~]{0,80}") {
            for format in formats() {
                let text = text.as_bytes();
                prop_assert!(!format.recognises(text) || !format.checksum);
            }
        }
    }
}
