//! Lines of bounded length.

use std::io::{self, BufRead, ErrorKind};

/// The maximum length of a line in bytes.
pub(super) const MAX_LINE: usize = 64 * 1024;

/// A line of the export, without its line break.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    Text(Vec<u8>),
    TooLong,
}

/// Reads the next line; `None` at the end.
///
/// No more of a line than [`MAX_LINE`] is held in memory, whatever its length.
pub(super) fn next_line(reader: &mut impl BufRead) -> io::Result<Option<Line>> {
    let (mut text, mut is_too_long, mut has_begun) = (Vec::new(), false, false);
    loop {
        let read = match reader.fill_buf() {
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if read.is_empty() && !has_begun {
            return Ok(None);
        }
        has_begun = true;
        let end = read.iter().position(|byte| *byte == b'\n');
        let part = read.get(..end.unwrap_or(read.len())).unwrap_or_default();
        is_too_long |= text.len() + part.len() > MAX_LINE;
        if is_too_long {
            text = Vec::new();
        } else {
            text.extend_from_slice(part);
        }
        let is_over = end.is_some() || read.is_empty();
        let used = part.len() + usize::from(end.is_some());
        reader.consume(used);
        if is_over {
            break;
        }
    }
    if is_too_long {
        return Ok(Some(Line::TooLong));
    }
    if text.last() == Some(&b'\r') {
        text.pop();
    }
    Ok(Some(Line::Text(text)))
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    fn lines(bytes: &[u8], buffer: usize) -> Vec<Line> {
        let mut reader = BufReader::with_capacity(buffer, bytes);
        std::iter::from_fn(|| next_line(&mut reader).unwrap()).collect()
    }

    #[test]
    fn a_line_ends_with_either_line_break_or_the_file() {
        for buffer in [1, 2, 3, 64] {
            let text = |text: &str| Line::Text(text.into());
            let all = [text("a"), text(""), text("b\rc"), text("d")];
            assert_eq!(lines(b"a\r\n\nb\rc\nd", buffer), all);
            assert_eq!(lines(b"a\n", buffer), [text("a")]);
            assert_eq!(lines(b"", buffer), []);
        }
    }

    #[test]
    fn a_long_line_is_left_out_and_the_next_one_read() {
        let fits = "x".repeat(MAX_LINE);
        let input = format!("{fits}\n{fits}y\nnext\n{fits}{fits}");
        let next = Line::Text("next".into());
        let all = [Line::Text(fits.into()), Line::TooLong, next, Line::TooLong];
        for buffer in [7, 8192, MAX_LINE * 4] {
            assert_eq!(lines(input.as_bytes(), buffer), all);
        }
    }
}
