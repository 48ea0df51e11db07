//! Caching headers of the inner service's response.

use std::borrow::Cow;
use std::str;

use crate::reply::ResponseHead;
use crate::request::list::elements;

/// Prevents shared caches from storing the response to a request with a key.
///
/// RFC 9111 §3.5 forbids storing it after `Authorization`, unless the response contains one of
/// three directives. Real caches store anything with a `max-age` nevertheless, and nothing protects
/// other headers. So the rule of §3.5 is applied to every location. The directives are written as
/// one header line, because some caches read only the first. `private` comes first, so that
/// malformed directives after it cannot hide it.
pub(crate) fn keep_private<R: ResponseHead>(response: &mut R) {
    let header = "cache-control";
    if !response.has(header) {
        response.append(header, "private".into());
        return;
    }
    let own = || response.values(header).flat_map(elements);
    if !own().any(is_decided_by) {
        let line = joined([&b"private"[..]].into_iter().chain(own()));
        response.replace(header, line);
    }
}

/// Returns whether the handler has decided who may store the response. `private="…"` does not
/// count, because it is about single headers.
fn is_decided_by(directive: &[u8]) -> bool {
    let mut parts = directive.splitn(2, |byte| *byte == b'=');
    let name = parts.next().unwrap_or_default().trim_ascii();
    let is_one_of = |names: &[&str]| names.iter().any(|own| is(name, own));
    match parts.next() {
        None => is_one_of(&["private", "no-store", "public", "must-revalidate"]),
        Some(_) => is_one_of(&["s-maxage"]),
    }
}

/// Adds request headers to `Vary` (RFC 9110 §12.5.5), in one line: nginx before 1.23 reads only the
/// last.
pub(crate) fn vary_by<'a, R: ResponseHead>(response: &mut R, names: &[&'a str]) {
    let header = "vary";
    let told = || response.values(header).flat_map(elements);
    let is_told = |name: &&'a str| told().any(|own| own == b"*" || is(own, name));
    let new = names.iter().filter(|name| !is_told(name));
    let mut new = new.map(|name| name.as_bytes()).peekable();
    if new.peek().is_some() {
        let line = joined(told().chain(new));
        response.replace(header, line);
    }
}

fn is(given: &[u8], name: &str) -> bool {
    given.eq_ignore_ascii_case(name.as_bytes())
}

/// Joins the elements to a list, omitting those that a header value cannot contain.
pub(crate) fn joined<'a>(all: impl Iterator<Item = &'a [u8]>) -> Cow<'static, str> {
    let is_visible = |element: &&[u8]| element.iter().all(|byte| matches!(byte, b' '..=b'~'));
    let all = all
        .filter(is_visible)
        .filter_map(|element| str::from_utf8(element).ok());
    let mut line = String::new();
    for element in all {
        if !line.is_empty() {
            line.push_str(", ");
        }
        line.push_str(element);
    }
    line.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Head(Vec<(&'static str, String)>);

    impl Head {
        fn new(name: &'static str, lines: &[&str]) -> Self {
            let lines = lines.iter().map(|line| (name, (*line).to_owned()));
            Self(lines.collect())
        }

        fn lines(&self) -> Vec<&str> {
            self.0.iter().map(|(_, value)| &**value).collect()
        }
    }

    impl ResponseHead for Head {
        fn status(&self) -> u16 {
            200
        }

        fn is_denied(&self) -> bool {
            false
        }

        fn values<'a>(&'a self, name: &'static str) -> impl Iterator<Item = &'a [u8]> {
            let lines = self.0.iter().filter(move |(own, _)| *own == name);
            lines.map(|(_, value)| value.as_bytes())
        }

        fn append(&mut self, name: &'static str, value: Cow<'static, str>) {
            self.0.push((name, value.into_owned()));
        }

        fn replace(&mut self, name: &'static str, value: Cow<'static, str>) {
            self.0.retain(|(own, _)| *own != name);
            self.append(name, value);
        }
    }

    #[test]
    fn a_response_is_private_unless_the_handler_has_decided_who_may_store_it() {
        for (own, told) in [
            (&[][..], "private"),
            (&[""], "private"),
            (&["max-age=60"], "private, max-age=60"),
            (
                &["Max-Age=60", "immutable"],
                "private, Max-Age=60, immutable",
            ),
            (&["no-cache"], "private, no-cache"),
            (&["no-cache=\"public\""], "private, no-cache=\"public\""),
            (
                &["max-age=60, ext=\"a, public\""],
                "private, max-age=60, ext=\"a, public\"",
            ),
            (&["max-age=60, ext=\"a"], "private, max-age=60, ext=\"a"),
            (
                &["private=\"set-cookie\""],
                "private, private=\"set-cookie\"",
            ),
            (
                &["xpublic, public-ish, proxy-revalidate"],
                "private, xpublic, public-ish, proxy-revalidate",
            ),
            (&["max-age=60, \u{e9}"], "private, max-age=60"),
            (&["s-maxage"], "private, s-maxage"),
        ] {
            let mut response = Head::new("cache-control", own);
            keep_private(&mut response);
            assert_eq!(response.lines(), [told], "{own:?}");
        }
        for own in [
            &["private"][..],
            &["max-age=60, PRIVATE"],
            &["no-store"],
            &["public"],
            &["Public,max-age=60"],
            &["max-age=60", "public"],
            &["ext=\"a, b\", public"],
            &["s-maxage=60"],
            &["S-MaxAge=\"60\""],
            &["max-age=60 , must-revalidate"],
        ] {
            let mut response = Head::new("cache-control", own);
            keep_private(&mut response);
            assert_eq!(response.lines(), own);
        }
    }

    #[test]
    fn vary_lists_each_header_once() {
        for (own, told) in [
            (&[][..], &["X-Key, Origin"][..]),
            (&["Accept-Encoding"], &["Accept-Encoding, X-Key, Origin"]),
            (&["accept", "te"], &["accept, te, X-Key, Origin"]),
            (&["X-Origin"], &["X-Origin, X-Key, Origin"]),
            (&["origin"], &["origin, X-Key"]),
            (&["Accept, ORIGIN ,x-key"], &["Accept, ORIGIN ,x-key"]),
            (&["x-key", "origin"], &["x-key", "origin"]),
            (&["*"], &["*"]),
            (&["accept, *"], &["accept, *"]),
        ] {
            let mut response = Head::new("vary", own);
            vary_by(&mut response, &["X-Key", "Origin"]);
            assert_eq!(response.lines(), told, "{own:?}");
        }
    }
}
