//! What an answer must look like.

use std::collections::HashMap;

/// Whether a text is of a pattern; takes note of what its new names stand for.
pub(super) fn matches(names: &mut HashMap<String, String>, pattern: &str, text: &str) -> bool {
    let pattern = fill_in(names, pattern);
    let mut rest = text;
    let mut found = Vec::new();
    // What stands between two gaps must come next; in a gap, anything may.
    let mut gap: Option<Option<&str>> = None;
    let mut pattern = &*pattern;
    loop {
        let (literal, next) = next_gap(pattern);
        let at = match gap {
            None if rest.starts_with(literal) => 0,
            None => return false,
            Some(_) if next.is_none() => match rest.strip_suffix(literal) {
                Some(before) => before.len(),
                None => return false,
            },
            Some(_) => match rest.find(literal) {
                Some(at) => at,
                None => return false,
            },
        };
        if let Some(Some(name)) = gap {
            let text = &rest[..at];
            // `{new 32}` is so many characters that are safe in a URL.
            let (name, length) = match name.rsplit_once(' ') {
                Some((name, length)) => (name, length.parse::<usize>().ok()),
                None => (name, None),
            };
            let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
            if length.is_some_and(|length| text.len() != length || !text.bytes().all(safe)) {
                return false;
            }
            found.push((name.to_owned(), text.to_owned()));
        }
        rest = &rest[at + literal.len()..];
        let Some((name, after)) = next else {
            if !rest.is_empty() {
                return false;
            }
            names.extend(found);
            return true;
        };
        gap = Some(name);
        pattern = after;
    }
}

/// Puts what names stand for in their place.
pub(super) fn fill_in(names: &HashMap<String, String>, text: &str) -> String {
    names.iter().fold(text.to_owned(), |text, (name, value)| {
        text.replace(&format!("{{{name}}}"), value)
    })
}

/// The text up to the next gap; the gap's name, if it has one; and what is after it.
fn next_gap(pattern: &str) -> (&str, Option<(Option<&str>, &str)>) {
    let dots = pattern.find('…');
    let named = pattern.match_indices('{').find_map(|(at, _)| {
        let end = at + pattern[at..].find('}')?;
        let name = &pattern[at + 1..end];
        let is_name =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._ ".contains(&byte);
        (!name.is_empty() && name.bytes().all(is_name)).then_some((at, end, name))
    });
    match (dots, named) {
        (Some(dots), named) if named.is_none_or(|(at, ..)| dots < at) => {
            let after = &pattern[dots + '…'.len_utf8()..];
            (&pattern[..dots], Some((None, after)))
        }
        (_, Some((at, end, name))) => (&pattern[..at], Some((Some(name), &pattern[end + 1..]))),
        _ => (pattern, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_matches_only_its_pattern() {
        let matches = |pattern: &str, text: &str| {
            let mut names = HashMap::from([("own".to_owned(), "mine".to_owned())]);
            matches(&mut names, pattern, text).then_some(names)
        };
        assert!(matches(r#"{"a":1}"#, r#"{"a":1}"#).is_some());
        assert!(matches(r#"{"a":1}"#, r#"{"a":1} "#).is_none());
        assert!(matches(r#"{"a":…}"#, r#"{"a":1}"#).is_some());
        assert!(matches(r#"{"a":…}"#, r#"{"b":1}"#).is_none());
        assert!(matches("{own}", "mine").is_some());
        assert!(matches("{own}", "yours").is_none());
        let names = matches("sk_{new 4}.", "sk_a-_1.").unwrap();
        assert_eq!(names["new"], "a-_1");
        assert!(matches("sk_{new 4}.", "sk_abc.").is_none());
        assert!(matches("sk_{new 4}.", "sk_ab+c.").is_none());
    }
}
