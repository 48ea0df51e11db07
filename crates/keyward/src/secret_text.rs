//! Checks of configured secrets for alterations by a file, a shell or a form.

use crate::error::{ParseError, ParseErrorKind};

/// A prefix that the secret cannot have, with advice on what to do about it.
pub type WrongPrefix<'a> = (&'a str, &'static str);

/// Checks that a secret text was not altered on its way.
///
/// A secret with the newline of its file or the quotation marks of its configuration is a different
/// secret: every request would be refused without an explanation. The error names `subject`.
///
/// ```
/// use keyward::error::ParseErrorKind;
/// use keyward::secret_text::check_text;
///
/// let wrong = [("bearer ", "give the token alone")];
/// assert!(check_text("token", "5a8ac1b2c0ae4dd7", &wrong).is_ok());
/// let error = check_text("token", "5a8ac1b2c0ae4dd7\n", &wrong).unwrap_err();
/// assert_eq!(error.kind(), ParseErrorKind::Newline);
/// let error = check_text("token", "Bearer 5a8ac1b2c0ae4dd7", &wrong).unwrap_err();
/// assert_eq!(error.kind(), ParseErrorKind::WrongPrefix);
/// ```
///
/// # Errors
/// Returns an error if the secret is surrounded by characters that are not part of it, contains an
/// invisible character, or begins with one of `wrong_prefixes`.
pub fn check_text(
    subject: &'static str,
    text: &str,
    wrong_prefixes: &[WrongPrefix<'_>],
) -> Result<(), ParseError> {
    if let Some(kind) = fault(text) {
        return Err(ParseError::new(subject, kind));
    }
    let begins_with = |prefix: &str| {
        let start = text.get(..prefix.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    };
    let wrong = wrong_prefixes
        .iter()
        .find(|(prefix, _)| begins_with(prefix));
    match wrong {
        Some((_, advice)) => {
            Err(ParseError::new(subject, ParseErrorKind::WrongPrefix).advise(advice))
        }
        None => Ok(()),
    }
}

/// Checks that secret bytes, if they are text, were not altered on their way.
///
/// Random bytes pass: fewer than one in ten million random 16-byte secrets are text with white
/// space or a quotation mark at an end.
///
/// ```
/// use keyward::secret_text::check_bytes;
///
/// assert!(check_bytes("secret", &[0x9C, 0x41, 0x0A], "cut the newline off").is_ok());
/// assert!(check_bytes("secret", b"sixteen letters\n", "cut the newline off").is_err());
/// ```
///
/// # Errors
/// Returns an error if the bytes are text that is surrounded by characters that are not part of the
/// secret, or that contains an invisible character. The error ends in `advice`.
pub fn check_bytes(
    subject: &'static str,
    bytes: &[u8],
    advice: &'static str,
) -> Result<(), ParseError> {
    let kind = match bytes {
        // UTF-16, which PowerShell writes: every other byte of ASCII text is 0.
        [0xFF, 0xFE, rest @ ..] if rest.chunks(2).all(|unit| unit.ends_with(&[0])) => {
            Some(ParseErrorKind::ByteOrderMark)
        }
        [0xFE, 0xFF, rest @ ..] if rest.chunks(2).all(|unit| unit.starts_with(&[0])) => {
            Some(ParseErrorKind::ByteOrderMark)
        }
        _ => as_text(bytes).and_then(fault),
    };
    match kind {
        Some(kind) => Err(ParseError::new(subject, kind).advise(advice)),
        None => Ok(()),
    }
}

/// Returns the bytes as text, or `None` if they are binary.
///
/// ```
/// use keyward::secret_text::as_text;
///
/// assert_eq!(as_text(b"whsec_"), Some("whsec_"));
/// assert_eq!(as_text(&[0xFF, 0x00]), None);
/// ```
#[must_use]
pub fn as_text(bytes: &[u8]) -> Option<&str> {
    let text = str::from_utf8(bytes).ok()?;
    let inner = text.trim_matches(|c: char| c.is_whitespace() || c == BYTE_ORDER_MARK);
    (!inner.is_empty() && !inner.contains(char::is_control)).then_some(text)
}

/// Checks the id of a pepper or another secret of the service.
///
/// An id is 1 to 32 ASCII letters, digits, `-`, `_` or `.`.
///
/// ```
/// use keyward::secret_text::check_id;
///
/// assert!(check_id("pepper id", "2026-05").is_ok());
/// assert!(check_id("pepper id", "").is_err());
/// ```
///
/// # Errors
/// Returns an error if the text is empty, longer, or contains another character.
pub fn check_id(subject: &'static str, text: &str) -> Result<(), ParseError> {
    let holds = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let kind = match text.len() {
        0 => ParseErrorKind::Empty,
        1..=32 if text.bytes().all(holds) => return Ok(()),
        1..=32 => ParseErrorKind::Character,
        _ => ParseErrorKind::TooLong,
    };
    Err(ParseError::new(subject, kind))
}

const BYTE_ORDER_MARK: char = '\u{feff}';

fn fault(text: &str) -> Option<ParseErrorKind> {
    if text.starts_with(BYTE_ORDER_MARK) {
        Some(ParseErrorKind::ByteOrderMark)
    } else if text.ends_with(['\n', '\r']) {
        Some(ParseErrorKind::Newline)
    } else if text.starts_with(char::is_whitespace) || text.ends_with(char::is_whitespace) {
        Some(ParseErrorKind::Blank)
    } else if is_quoted(text) {
        Some(ParseErrorKind::Quoted)
    } else if text.contains(is_invisible) {
        Some(ParseErrorKind::Invisible)
    } else {
        None
    }
}

/// Returns whether the text is enclosed in quotation marks. A single one may be part of the secret.
fn is_quoted(text: &str) -> bool {
    let mut chars = text.chars();
    match (chars.next(), chars.next_back()) {
        (Some(first @ ('"' | '\'' | '`')), Some(last)) => first == last,
        (Some('“' | '”' | '„' | '‘' | '’' | '‚' | '«' | '»'), Some(last)) => {
            matches!(last, '“' | '”' | '‘' | '’' | '«' | '»')
        }
        _ => false,
    }
}

/// Returns whether this character is invisible.
///
/// These are control characters, white space other than a space, and format characters that remain
/// in text copied from a page or a document.
fn is_invisible(c: char) -> bool {
    c.is_control()
        || (c.is_whitespace() && c != ' ')
        || matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{2069}' | BYTE_ORDER_MARK)
}
