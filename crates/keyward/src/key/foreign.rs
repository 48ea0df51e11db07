//! The format of keys that another system created.

use std::ops::RangeInclusive;

use crate::error::{ParseError, ParseErrorKind};
use crate::key::format::{Recognised, after_prefix};

/// The format of keys that another system created and that are imported by their digest.
///
/// Such a key is 20 to 200 visible ASCII characters, including the prefix, without commas and
/// quotation marks. It has no checksum, so every text of this format costs a lookup in memory.
///
/// An imported key is found by the digest that it was imported with until its first use, even when
/// the gate has peppers: plain SHA-256, and other schemes that
/// [`Peppers::accepting`](crate::key::Peppers::accepting) allows. Anyone with write access to the
/// database could therefore insert the digest of a key of their own. Stop
/// accepting a scheme when [`KeyAdmin::schemes`](crate::admin::KeyAdmin::schemes) no longer counts
/// keys under it, and remove the format when no imported key is in use any more.
///
/// ```
/// use keyward::key::ForeignFormat;
///
/// let sanctum = ForeignFormat::new("")?.secret_after('|');
/// assert!(sanctum.recognises(b"12|kq6iJPYFEFCZ1gJSmrfJ0xX9sYdM7Tz7"));
/// # Ok::<(), keyward::error::ParseError>(())
/// ```
#[derive(Clone, Debug)]
pub struct ForeignFormat {
    prefix: Box<str>,
    separator: Option<char>,
    lengths: RangeInclusive<usize>,
}

impl ForeignFormat {
    /// Creates a format for keys with this prefix, which may be empty.
    ///
    /// # Errors
    /// Returns an error if the prefix contains a comma, a quotation mark, or anything but visible
    /// ASCII.
    pub fn new(prefix: &str) -> Result<Self, ParseError> {
        if !prefix.bytes().all(is_key_byte) {
            return Err(ParseError::new("key format", ParseErrorKind::Character));
        }
        Ok(Self {
            prefix: prefix.into(),
            separator: None,
            lengths: 20..=200,
        })
    }

    /// Starts the secret part after the first `separator` instead of after the prefix.
    ///
    /// The text before it, such as a row number, is then not part of the key.
    #[must_use]
    pub fn secret_after(mut self, separator: char) -> Self {
        self.separator = Some(separator);
        self
    }

    /// Sets the allowed lengths of a key in bytes, including its prefix. The default is 20 to 200.
    #[must_use]
    pub fn lengths(mut self, lengths: RangeInclusive<usize>) -> Self {
        self.lengths = lengths;
        self
    }

    /// Returns whether the bytes match this format.
    #[must_use]
    pub fn recognises(&self, text: &[u8]) -> bool {
        self.parse(text).is_some()
    }

    /// Returns whether a text begins like a key of this format or, without a prefix, is one.
    pub(crate) fn claims(&self, text: &[u8]) -> bool {
        if self.prefix.is_empty() {
            self.recognises(text)
        } else {
            after_prefix(text, &self.prefix).is_some()
        }
    }

    /// Returns whether tokens of any other kind may have this format.
    pub(crate) fn is_vague(&self) -> bool {
        let is_in_tokens = |char: char| char.is_ascii_alphanumeric() || "-._~+/=".contains(char);
        self.prefix.is_empty()
            && self.separator.is_none_or(is_in_tokens)
            && self.lengths.start() != self.lengths.end()
    }

    pub(crate) fn parse<'a>(&self, text: &'a [u8]) -> Option<Recognised<'a>> {
        let rest = text.strip_prefix(self.prefix.as_bytes())?;
        if !self.lengths.contains(&text.len()) || !rest.iter().copied().all(is_key_byte) {
            return None;
        }
        let after = match self.separator {
            None => 0,
            Some(separator) => 1 + rest.iter().position(|b| char::from(*b) == separator)?,
        };
        Some(Recognised {
            environment: None,
            secret: self.prefix.len() + after,
            secret_alone: self.separator.is_some(),
        })
    }
}

fn is_key_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b',' | b'"')
}
