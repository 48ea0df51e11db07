//! The syntax of credentials in `Authorization`.

use crate::request::list::elements;
use crate::request::location::{is_parameter, names_a_scheme, trim};

/// Splits a line of `Authorization` into the scheme and the rest, if it holds exactly one credential.
///
/// That is a scheme, spaces, and a token or a list of parameters (RFC 9110 §11.4). A token may have
/// other visible characters than those of `token68`, except quotation marks and commas.
pub(crate) fn one_credential(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let line = trim(line);
    let (scheme, rest) = line.split_at_checked(line.iter().position(|byte| *byte == b' ')?)?;
    let spaces = rest.iter().take_while(|byte| **byte == b' ').count();
    let rest = rest.get(spaces..)?;
    let is_text = rest.iter().all(|byte| matches!(byte, b' '..=b'~'));
    let mut all = elements(rest);
    let first = all.next()?;
    let is_one = if is_auth_param(first) {
        all.all(is_auth_param)
    } else {
        first.len() == rest.len() && !first.iter().any(|byte| b" \",".contains(byte))
    };
    (names_a_scheme(line) && is_text && is_one).then_some((scheme, rest))
}

/// Returns whether this is a parameter whose name is a word and whose value is a word or a quoted
/// string.
fn is_auth_param(element: &[u8]) -> bool {
    let mut parts = element.splitn(2, |byte| *byte == b'=');
    let [name, value] = [parts.next(), parts.next()].map(|part| trim(part.unwrap_or_default()));
    let is_name_byte = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.*".contains(byte);
    let is_word = |text: &[u8]| !text.iter().any(|byte| b" \"".contains(byte));
    let is_quoted =
        |text: &[u8]| matches!(text, [b'"', inner @ .., b'"'] if !inner.contains(&b'"'));
    !name.is_empty()
        && name.iter().all(is_name_byte)
        && is_parameter(element)
        && (is_word(value) || is_quoted(value))
}

/// Returns the rest of a text from each place at which a key could begin: its start, and wherever a
/// character follows one that no token has (`token68`, RFC 9110 §11.2).
pub(crate) fn beginnings(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let is_inner = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~+/".contains(byte);
    let ends = text
        .iter()
        .enumerate()
        .filter(move |(_, byte)| !is_inner(byte));
    let after = ends.filter_map(|(at, _)| text.get(at + 1..));
    [text].into_iter().chain(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_credential_is_a_scheme_and_a_token_or_parameters() {
        for (line, credential) in [
            ("Bearer eyJ.e30.x-_", "eyJ.e30.x-_"),
            ("  bearer    a ", "a"),
            ("Bearer 12|abc:d", "12|abc:d"),
            ("Bearer <a>", "<a>"),
            ("Basic dTpw=", "dTpw="),
            ("Basic dTpwcA==", "dTpwcA=="),
            (
                "Digest username=\"a, b\", realm=r,nc=01",
                "username=\"a, b\", realm=r,nc=01",
            ),
            ("Digest username = \"a\"", "username = \"a\""),
            (
                "AWS4-HMAC-SHA256 Credential=A/b, SignedHeaders=a;b",
                "Credential=A/b, SignedHeaders=a;b",
            ),
        ] {
            let (_, found) = one_credential(line.as_bytes()).unwrap_or_else(|| panic!("{line}"));
            assert_eq!(found, credential.as_bytes(), "{line}");
        }
        for line in [
            "",
            "Bearer",
            "Bearer   ",
            "eyJ.e30.x",
            "eyJ.e30.x a",
            "Bearer\ta",
            "Bearer \ta",
            "Bearer:a",
            "Bearer a b",
            "Bearer \"a\"",
            "Bearer a,",
            "Bearer a, b",
            "Bearer a, Bearer b",
            "Basic a, Negotiate b",
            "Basic dTpw==, Digest a=b",
            "Digest a=b, Bearer c",
            "Digest a=b, Basic dTpw==",
            "Digest a=b, c",
            "Digest a=\"x, Bearer c",
            "Digest a=b Bearer c",
            "Digest a=\"b\" c=\"d\"",
            "Bearer \u{e9}",
            "Bearer a\u{7f}",
        ] {
            assert_eq!(one_credential(line.as_bytes()), None, "{line}");
        }
    }

    #[test]
    fn a_key_may_begin_where_no_token_goes_on() {
        let found = |text: &str| -> Vec<String> {
            let all = beginnings(text.as_bytes());
            all.map(|rest| String::from_utf8(rest.into()).unwrap())
                .collect()
        };
        assert_eq!(found("a.b-c_d~e+f/g"), ["a.b-c_d~e+f/g"]);
        assert_eq!(found("<a>"), ["<a>", "a>", ""]);
        assert_eq!(found("n=\"a\""), ["n=\"a\"", "\"a\"", "a\"", ""]);
        assert_eq!(found("u:a|b"), ["u:a|b", "a|b", "b"]);
    }
}
