//! Labels, under which a service counts the requests of its routes.

use std::fmt;
use std::sync::OnceLock;

use crate::error::{ParseError, ParseErrorKind};

/// A label, under which the requests of some routes are counted, such as `reports`.
///
/// The service chooses it in its code; nothing that a client sends becomes a label. See
/// [`Requirement::label`](crate::gate::Requirement::label).
///
/// ```
/// use keyward::usage::UsageLabel;
///
/// assert_eq!(UsageLabel::parse("reports.pdf")?.as_str(), "reports.pdf");
/// assert!(UsageLabel::parse("Reports!").is_err());
/// # Ok::<(), keyward::error::ParseError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UsageLabel {
    text: [u8; UsageLabel::MAX_LEN],
    len: u8,
}

impl UsageLabel {
    pub(crate) const MAX_LEN: usize = 23;

    /// The label of requests whose own label is one too many.
    ///
    /// See [`Requirement::label`](crate::gate::Requirement::label).
    pub const OTHER: Self = Self {
        text: *b"other\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        len: 5,
    };

    /// Parses a lower-case letter, followed by up to 22 of `a-z`, `0-9`, `.`, `_` and `-`.
    ///
    /// # Errors
    /// Returns an error if the text is empty, longer than 23 bytes, or contains another character.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let error = |kind| ParseError::new("usage label", kind);
        let bytes = text.as_bytes();
        let first = bytes.first().ok_or(error(ParseErrorKind::Empty))?;
        let is_token = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
        if bytes.len() > Self::MAX_LEN {
            return Err(error(ParseErrorKind::TooLong));
        }
        if !first.is_ascii_lowercase() || !bytes.iter().copied().all(is_token) {
            return Err(error(ParseErrorKind::Character));
        }
        let mut own = [0; Self::MAX_LEN];
        for (own, byte) in own.iter_mut().zip(bytes) {
            *own = *byte;
        }
        let len = u8::try_from(bytes.len()).map_err(|_| error(ParseErrorKind::TooLong))?;
        Ok(Self { text: own, len })
    }

    /// Returns the label as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let text = self.text.get(..usize::from(self.len));
        text.and_then(|text| str::from_utf8(text).ok())
            .unwrap_or_default()
    }
}

impl fmt::Display for UsageLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for UsageLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UsageLabel({})", self.as_str())
    }
}

/// The maximum number of labels of a store in a process.
pub(crate) const MAX_LABELS: usize = 32;

/// The labels that the gates of a process use, each with a number.
///
/// Reading it takes no lock.
#[derive(Default)]
pub(crate) struct LabelNames([OnceLock<UsageLabel>; MAX_LABELS]);

/// The number of a label in [`LabelNames`]; [`MAX_LABELS`] stands for all others.
pub(crate) type LabelNumber = u8;

/// The number of [`UsageLabel::OTHER`].
#[expect(clippy::cast_possible_truncation, reason = "it is 32")]
pub(crate) const OTHER: LabelNumber = MAX_LABELS as u8;

impl LabelNames {
    /// Returns the number of a label, which is given to it at its first use.
    pub(crate) fn number(&self, label: UsageLabel) -> LabelNumber {
        if label == UsageLabel::OTHER {
            return OTHER;
        }
        let known = self.0.iter().zip(0..);
        let mut known = known.map(|(name, number)| (name.get_or_init(|| label), number));
        let found = known.find(|(name, _)| **name == label);
        found.map_or_else(|| too_many(label), |(_, number)| number)
    }

    /// Returns the label with this number.
    pub(crate) fn name(&self, number: LabelNumber) -> UsageLabel {
        let name = self.0.get(usize::from(number)).and_then(OnceLock::get);
        name.copied().unwrap_or(UsageLabel::OTHER)
    }
}

/// Logs, once in a process, that a label is one too many.
#[cold]
fn too_many(label: UsageLabel) -> LabelNumber {
    static LOGGED: OnceLock<()> = OnceLock::new();
    LOGGED.get_or_init(|| {
        tracing::warn!(
            %label,
            "there are more than 32 usage labels; the requests of this one count as `other`"
        );
    });
    OTHER
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_one_too_many_counts_as_other() {
        let names = LabelNames::default();
        for round in 0..2 {
            for number in 0..40_u8 {
                let label = UsageLabel::parse(&format!("l{number}")).unwrap();
                let found = names.number(label);
                assert_eq!(found, number.min(OTHER), "{round}");
                let name = if number < OTHER {
                    label
                } else {
                    UsageLabel::OTHER
                };
                assert_eq!(names.name(found), name);
            }
        }
        assert_eq!(UsageLabel::OTHER, UsageLabel::parse("other").unwrap());
    }

    #[test]
    fn a_label_is_a_short_token() {
        for valid in ["a", "reports", "a.b_c-9", "abcdefghijklmnopqrstuvw"] {
            assert_eq!(UsageLabel::parse(valid).unwrap().to_string(), valid);
        }
        for invalid in [
            "",
            "A",
            "9",
            "=a",
            "a b",
            "a,b",
            "ä",
            "abcdefghijklmnopqrstuvwx",
        ] {
            assert!(UsageLabel::parse(invalid).is_err(), "{invalid}");
        }
    }
}
