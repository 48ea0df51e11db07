//! List-valued headers.

use std::iter;

use crate::request::location::trim;

/// Returns the non-empty elements of a list (RFC 9110 §5.6.1), trimmed.
///
/// A comma within a quoted string (§5.6.4) does not separate. A quote that is never closed does not
/// begin a string.
pub(crate) fn elements(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(line);
    let mut has_strings = true;
    let split = iter::from_fn(move || {
        let text = rest.take()?;
        let (element, behind) = text.split_at_checked(end(text, &mut has_strings))?;
        rest = behind.split_first().map(|(_, behind)| behind);
        Some(trim(element))
    });
    split.filter(|element| !element.is_empty())
}

/// Returns the end of the first element.
fn end(text: &[u8], has_strings: &mut bool) -> usize {
    let mut at = 0;
    while let Some((byte, behind)) = text.get(at..).and_then(<[u8]>::split_first) {
        at += 1;
        match byte {
            b',' => return at - 1,
            b'"' if *has_strings => {
                let len = string_len(behind);
                // Remember a failed search, or a line of quotes would take quadratic time.
                *has_strings = len.is_some();
                at += len.unwrap_or(0);
            }
            _ => {}
        }
    }
    at
}

/// Returns the length of a quoted string after its opening quote, including the closing one.
fn string_len(text: &[u8]) -> Option<usize> {
    let mut escaped = false;
    let end = text.iter().position(|byte| {
        let ends = *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && !escaped;
        ends
    });
    end.map(|end| end + 1)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn splits_at_commas_that_no_string_holds() {
        for (line, all) in [
            ("", &[][..]),
            (" , ,", &[]),
            ("a", &["a"]),
            ("a,b , c\t", &["a", "b", "c"]),
            (r#"a="x, y", b"#, &[r#"a="x, y""#, "b"]),
            (r#"a="x\", y", b"#, &[r#"a="x\", y""#, "b"]),
            (r#"a="x\\", b"#, &[r#"a="x\\""#, "b"]),
            (r#"a="x, b"#, &[r#"a="x"#, "b"]),
            (r#"a="x\", b"#, &[r#"a="x\""#, "b"]),
            (r#"a="x" "y, z", b"#, &[r#"a="x" "y, z""#, "b"]),
        ] {
            let split: Vec<_> = elements(line.as_bytes()).collect();
            let all: Vec<_> = all.iter().map(|element| element.as_bytes()).collect();
            assert_eq!(split, all, "{line}");
        }
    }

    #[test]
    fn takes_time_in_proportion_to_the_line() {
        let line = r#""\"#.repeat(1 << 20);
        let start = Instant::now();
        assert_eq!(elements(line.as_bytes()).count(), 1);
        // A quadratic algorithm would take hours.
        assert!(start.elapsed() < Duration::from_secs(60));
    }
}
