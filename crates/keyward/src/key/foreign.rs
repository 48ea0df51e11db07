//! How keys look that were made elsewhere.

use std::ops::RangeInclusive;

use crate::error::{ParseError, ParseErrorKind};
use crate::key::format::Recognised;

/// How keys look that were made elsewhere and are imported by their digest.
///
/// Any visible ASCII characters but the comma and the quotation mark, from 20 to 200 with the prefix.
/// Such keys have no checksum: every one that looks right costs a look-up in memory.
///
/// They are found under the plain SHA-256 digest that was imported, whatever peppers the gate has, until
/// their first use. So whoever can write to the database can put the digest of such a key there: remove the
/// format once [`KeyAdmin::schemes`](crate::admin::KeyAdmin::schemes) counts none under `sha256`.
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
    /// Keys with this prefix, which may be empty.
    ///
    /// # Errors
    /// When the prefix holds anything but visible ASCII characters, or a comma or quotation mark.
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

    /// Where the secret part begins: after the first of these, instead of after the prefix.
    ///
    /// What stands before it, such as the number of a row, is then no part of the key.
    #[must_use]
    pub fn secret_after(mut self, separator: char) -> Self {
        self.separator = Some(separator);
        self
    }

    /// How many bytes a key has with its prefix.
    #[must_use]
    pub fn lengths(mut self, lengths: RangeInclusive<usize>) -> Self {
        self.lengths = lengths;
        self
    }

    /// Whether the bytes have this form.
    #[must_use]
    pub fn recognises(&self, text: &[u8]) -> bool {
        self.parse(text).is_some()
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
