//! The characters of keys, and random ones of them.

use std::error::Error;
use std::fmt;

use zeroize::Zeroizing;

/// The characters of a key's secret part.
///
/// All are safe in a URL and are selected by a double click, `-` excepted.
///
/// ```
/// use keyward::KeyFormat;
/// use keyward::key::Alphabet;
///
/// let format = KeyFormat::new("acme_")?.alphabet(Alphabet::Hex).length(32)?;
/// assert_eq!(format.regex(), "acme_[0-9a-f]{40}"); // 8 of them are the checksum
/// # Ok::<(), keyward::error::ParseError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Alphabet {
    /// `0-9`, `A-Z`, `a-z`: 5.95 bits a character.
    Base62,
    /// `0-9`, `A-Z`, `a-z`, `-`, `_`: 6 bits a character.
    Base64Url,
    /// `0-9`, `a-f`: 4 bits a character.
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

    /// Whether all bytes are characters of it. Looks at each without a branch, which the compiler
    /// turns into many at once.
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

    /// The number of digits that hold any `u32`.
    pub(crate) const fn checksum_len(self) -> usize {
        match self {
            Self::Base62 | Self::Base64Url => 6,
            Self::Hex => 8,
        }
    }

    /// A number in this alphabet, the highest digit first; all of
    /// [`checksum_len`](Self::checksum_len).
    pub(crate) fn digits(self, number: u32) -> [u8; 8] {
        match self {
            Self::Base62 => digits::<62>(number, self.chars()),
            Self::Base64Url => digits::<64>(number, self.chars()),
            Self::Hex => digits::<16>(number, self.chars()),
        }
    }

    /// Appends random characters without modulo bias: a byte past the last whole multiple of the
    /// alphabet's size is thrown away.
    pub(crate) fn push_random(self, text: &mut String, count: usize) -> Result<(), RandomError> {
        let chars = self.chars();
        let fair = 256 / chars.len() * chars.len();
        let mut random = Zeroizing::new([0; 64]);
        let mut left = count;
        while left > 0 {
            getrandom::fill(random.as_mut_slice()).map_err(RandomError)?;
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

/// Eight digits, the highest first: those of a base known to the compiler need no division.
fn digits<const BASE: u32>(mut number: u32, chars: &[u8]) -> [u8; 8] {
    let mut digits = [0; 8];
    for digit in digits.iter_mut().rev() {
        let value = usize::try_from(number % BASE).unwrap_or_default();
        *digit = chars.get(value).copied().unwrap_or_default();
        number /= BASE;
    }
    digits
}

/// The operating system gave no random bytes. See
/// [`KeyFormat::generate`](crate::key::KeyFormat::generate).
#[derive(Clone, Copy, Debug)]
pub struct RandomError(pub(crate) getrandom::Error);

impl fmt::Display for RandomError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the operating system's random generator failed")
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
            // 1,000 expected, standard deviation 31: eight of them never happen by chance.
            let seen = text.bytes().filter(|b| b == char).count();
            assert!((750..1250).contains(&seen), "{char}: {seen}");
        }
    }
}
