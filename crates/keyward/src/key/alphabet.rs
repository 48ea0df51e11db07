//! The alphabets of keys, and the generation of random characters.

use std::error::Error;
use std::fmt;

use zeroize::Zeroizing;

/// The character set of a key's secret part.
///
/// All characters are safe in a URL. A double click selects the whole key, unless it contains `-`.
///
/// ```
/// use keyward::KeyFormat;
/// use keyward::key::Alphabet;
///
/// let format = KeyFormat::new("acme_")?.alphabet(Alphabet::Hex).length(32)?;
/// assert_eq!(format.regex(), "acme_[0-9a-f]{40}"); // the last 8 are the checksum
/// # Ok::<(), keyward::error::ParseError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Alphabet {
    /// `0-9`, `A-Z` and `a-z`: 5.95 bits per character.
    Base62,
    /// `0-9`, `A-Z`, `a-z`, `-` and `_`: 6 bits per character.
    Base64Url,
    /// `0-9` and `a-f`: 4 bits per character.
    Hex,
}

impl Alphabet {
    const fn chars(self) -> &'static [u8] {
        match self {
            Self::Base62 => b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
            Self::Base64Url => b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_",
            Self::Hex => b"0123456789abcdef",
        }
    }

    /// Returns whether every byte belongs to this alphabet. The loop has no branch, so that the
    /// compiler can vectorize it.
    pub(crate) fn holds_all(self, text: &[u8]) -> bool {
        fn all(text: &[u8], holds: impl Fn(u8) -> bool) -> bool {
            text.iter().fold(true, |all, byte| all & holds(*byte))
        }
        match self {
            Self::Base62 => all(text, |byte| byte.is_ascii_alphanumeric()),
            Self::Base64Url => all(text, |byte| {
                byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
            }),
            Self::Hex => all(text, |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')),
        }
    }

    /// Returns the number of digits that can hold any `u32`.
    pub(crate) const fn checksum_len(self) -> usize {
        match self {
            Self::Base62 | Self::Base64Url => 6,
            Self::Hex => 8,
        }
    }

    /// Writes a number in this alphabet, padded to 8 digits, the most significant first. The last
    /// [`checksum_len`](Self::checksum_len) of them hold any `u32`.
    pub(crate) fn digits(self, number: u32) -> [u8; 8] {
        match self {
            Self::Base62 => digits::<62>(number, self.chars()),
            Self::Base64Url => digits::<64>(number, self.chars()),
            Self::Hex => digits::<16>(number, self.chars()),
        }
    }

    /// Appends random characters without modulo bias.
    ///
    /// A byte at or above the last whole multiple of the alphabet's size is discarded.
    ///
    /// ```
    /// use keyward::key::Alphabet;
    ///
    /// let mut text = String::from("evt_");
    /// Alphabet::Base62.push_random(&mut text, 24)?;
    /// assert_eq!(text.len(), 28);
    /// # Ok::<(), keyward::key::RandomError>(())
    /// ```
    ///
    /// # Errors
    /// Returns an error if the operating system provides no random bytes.
    pub fn push_random(self, text: &mut String, count: usize) -> Result<(), RandomError> {
        let chars = self.chars();
        let fair = 256 / chars.len() * chars.len();
        let mut random = Zeroizing::new([0; 64]);
        let mut left = count;
        while left > 0 {
            fill_random(random.as_mut_slice())?;
            let fair = random.iter().map(|b| usize::from(*b)).filter(|b| *b < fair);
            let drawn = fair.filter_map(|b| chars.get(b % chars.len()));
            for char in drawn.take(left) {
                text.push(char::from(*char));
                left -= 1;
            }
        }
        Ok(())
    }
}

/// Writes eight digits, the most significant first. A constant base lets the compiler avoid
/// division.
fn digits<const BASE: u32>(mut number: u32, chars: &[u8]) -> [u8; 8] {
    let mut digits = [0; 8];
    for digit in digits.iter_mut().rev() {
        let value = usize::try_from(number % BASE).unwrap_or_default();
        *digit = chars.get(value).copied().unwrap_or_default();
        number /= BASE;
    }
    digits
}

/// Fills a buffer with random bytes from the operating system.
///
/// ```
/// let mut nonce = [0; 24];
/// keyward::key::fill_random(&mut nonce)?;
/// assert_ne!(nonce, [0; 24]);
/// # Ok::<(), keyward::key::RandomError>(())
/// ```
///
/// # Errors
/// Returns an error if the operating system provides none.
pub fn fill_random(bytes: &mut [u8]) -> Result<(), RandomError> {
    getrandom::fill(bytes).map_err(RandomError)
}

/// The error returned when the operating system provides no random bytes.
///
/// See [`KeyFormat::generate`](crate::key::KeyFormat::generate).
#[derive(Clone, Copy, Debug)]
pub struct RandomError(getrandom::Error);

impl fmt::Display for RandomError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the operating system returned no random bytes")
    }
}

impl Error for RandomError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_character_is_equally_likely() {
        let mut text = String::new();
        Alphabet::Base62.push_random(&mut text, 62_000).unwrap();
        for char in Alphabet::Base62.chars() {
            // 1,000 are expected with a standard deviation of 31; a deviation of eight is no
            // accident.
            let seen = text.bytes().filter(|b| b == char).count();
            assert!((750..1250).contains(&seen), "{char}: {seen}");
        }
    }
}
