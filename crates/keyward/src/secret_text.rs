//! Notices what a file, a shell or a form has put around a secret.

use crate::error::{ParseError, ParseErrorKind};

/// A beginning that a secret cannot have, and what to do about it.
pub(crate) type WrongPrefix<'a> = (&'a str, &'static str);

/// Refuses a secret text that is not as it was issued.
///
/// With a newline of its file or the quotes of its configuration a secret is another one: every request
/// would be refused, and nobody told why.
pub(crate) fn check_text(
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

/// Refuses the bytes of a secret if they are text, and that is not as it was issued.
///
/// Random bytes pass: of 16 that are random, fewer than one in ten million are text with a blank or a
/// quotation mark at its ends.
pub(crate) fn check_bytes(
    subject: &'static str,
    bytes: &[u8],
    advice: &'static str,
) -> Result<(), ParseError> {
    let kind = match bytes {
        // UTF-16, as PowerShell writes it: every other byte of ASCII is 0.
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

/// The text that the bytes are, unless they are no text.
pub(crate) fn as_text(bytes: &[u8]) -> Option<&str> {
    let text = str::from_utf8(bytes).ok()?;
    let inner = text.trim_matches(|c: char| c.is_whitespace() || c == BYTE_ORDER_MARK);
    (!inner.is_empty() && !inner.contains(char::is_control)).then_some(text)
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

/// Whether quotation marks stand at both ends. One alone may be a part of the secret.
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

/// Control characters, every white space but the space, and the format characters that a page or a
/// document leaves in what is copied from it.
fn is_invisible(c: char) -> bool {
    c.is_control()
        || (c.is_whitespace() && c != ' ')
        || matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{2069}' | BYTE_ORDER_MARK)
}
