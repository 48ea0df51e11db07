//! Extraction of exactly one key from a request.

use crate::request::location::names_a_scheme;
use crate::request::websocket::{BEARER, is_handshake, offered};
use crate::request::{KeyLocation, RequestHead};

/// The credential in the configured locations of a request.
///
/// ```
/// # use keyward::testing::TestRequest;
/// use keyward::request::{Credential, KeyLocation};
///
/// let locations = [KeyLocation::x_api_key(), KeyLocation::bearer()];
/// // A request with `authorization: Bearer vhk_live_…`
/// let request = TestRequest::get().header("authorization", "Bearer vhk_live_7f3a");
/// assert_eq!(Credential::find(&request, &locations), Credential::One(b"vhk_live_7f3a", 1));
/// assert_eq!(Credential::find(&TestRequest::get().header("authorization", "Basic dTpw"), &locations), Credential::Absent);
/// ```
#[derive(Debug, PartialEq, Eq)]
#[expect(
    clippy::exhaustive_enums,
    reason = "one key, none or several: whoever decides about a request must handle each"
)]
pub enum Credential<'a> {
    /// No location is used.
    Absent,
    /// A location is used but contains nothing that could be a key.
    Empty,
    /// A single key and the index of its location.
    One(&'a [u8], usize),
    /// More than one key. Choosing one would be a guess, and another program may choose
    /// differently.
    Several,
}

impl<'a> Credential<'a> {
    /// Finds the key of a request. Two keys are refused, also where they are the same.
    pub fn find<R: RequestHead>(request: &'a R, locations: &'a [KeyLocation]) -> Self {
        Self::find_where(request, locations, |_| true, |_| false)
    }

    /// Finds the key of a request in some of the locations.
    ///
    /// `is_claimed` tells which subprotocols of a WebSocket may be keys, besides that after `bearer`.
    pub(crate) fn find_where<R: RequestHead>(
        request: &'a R,
        locations: &'a [KeyLocation],
        is_searched: impl Fn(&KeyLocation) -> bool,
        is_claimed: impl Fn(&[u8]) -> bool,
    ) -> Self {
        let mut found = Credential::Absent;
        let locations = locations.iter().enumerate();
        for (index, location) in locations.filter(|(_, location)| is_searched(location)) {
            let mut lines = request.values_at(index, location.header_name());
            let Some(line) = lines.next() else { continue };
            let key = if location.is_websocket_protocol() {
                if !is_handshake(request) {
                    continue;
                }
                let all = offered([line].into_iter().chain(lines));
                let mut keys = all.filter(|(name, is_marked)| *is_marked || is_claimed(name));
                match (keys.next(), keys.next()) {
                    (Some((key, _)), None) => key,
                    (Some(_), Some(_)) => return Credential::Several,
                    (None, _) => {
                        let mut all = offered(request.values_at(index, location.header_name()));
                        if !all.any(|(name, _)| name == BEARER.as_bytes()) {
                            continue;
                        }
                        &[]
                    }
                }
            } else if lines.next().is_some() {
                return Credential::Several;
            } else {
                match location.key_in(line) {
                    Some(key) => key,
                    // The key may be on either side of the comma. One in front is refused by its
                    // format.
                    None if location.is_joined_in(line) => return Credential::Several,
                    None if names_a_scheme(line) => continue,
                    // Neither our scheme nor another one, so the client tried to send a key.
                    None => &[],
                }
            };
            found = match found {
                Credential::Absent if key.is_empty() => Credential::Empty,
                found if key.is_empty() => found,
                Credential::One(..) => return Credential::Several,
                _ => Credential::One(key, index),
            };
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;
    use crate::request::websocket::HEADER;

    struct Head(Vec<(&'static str, Vec<u8>)>);

    impl RequestHead for Head {
        fn method(&self) -> &'static str {
            let has = |name| self.0.iter().any(|(own, _)| *own == name);
            match [has(":protocol"), has("content-length")] {
                [true, _] => "CONNECT",
                [_, true] => "POST",
                _ => "GET",
            }
        }

        fn peer(&self) -> Option<IpAddr> {
            None
        }

        fn values<'a>(&'a self, field: &'a str) -> impl Iterator<Item = &'a [u8]> {
            let lines = self.0.iter().filter(move |(name, _)| *name == field);
            lines.map(|(_, value)| &value[..])
        }
    }

    fn locations() -> [KeyLocation; 3] {
        [
            KeyLocation::x_api_key(),
            KeyLocation::bearer(),
            KeyLocation::client_key(),
        ]
    }

    #[expect(clippy::needless_pass_by_value, reason = "reads as a table")]
    fn check(lines: &[(&'static str, &[u8])], expected: Credential<'_>) {
        let head = Head(lines.iter().map(|(n, v)| (*n, v.to_vec())).collect());
        let locations = locations();
        assert_eq!(Credential::find(&head, &locations), expected, "{lines:?}");
    }

    #[test]
    fn tells_none_from_empty_from_one_from_several() {
        use Credential::{Absent, Empty, One, Several};
        let x = "x-api-key";
        let a = "authorization";
        check(&[], Absent);
        check(&[("x-other", b"k")], Absent);
        check(&[(a, b"Basic dTpw")], Absent);
        check(&[(a, b"Bearer\tk")], Empty);
        check(&[(a, b"Bearer:k")], Empty);
        check(&[(a, b"vhk_live_k")], Empty);
        check(&[(a, b"")], Empty);
        check(&[(a, b"Negotiate")], Absent);
        check(&[(x, b"")], Empty);
        check(&[(x, b"   ")], Empty);
        check(&[(x, b"\t")], Empty);
        check(&[(a, b"Bearer")], Empty);
        check(&[(x, b"k")], One(b"k", 0));
        check(&[(x, b" k ")], One(b"k", 0));
        check(&[(a, b"bearer  k")], One(b"k", 1));
        check(&[(a, b"clientkey k")], One(b"k", 2));
        check(&[(x, b""), (a, b"Bearer k")], One(b"k", 1));
        check(&[(x, b"k"), (a, b"Basic dTpw")], One(b"k", 0));
        check(&[(x, b"k"), (a, b"Bearer")], One(b"k", 0));
        check(&[(x, b"k"), (x, b"k")], Several);
        check(&[(x, b"k"), (x, b"")], Several);
        check(&[(x, b"k"), (a, b"Bearer k")], Several);
        check(&[(x, b"k"), (a, b"Bearer ey.J.w")], Several);
        check(&[(a, b"Bearer k"), (a, b"Basic dTpw")], Several);
        check(&[(x, b"\0\x80\xFF")], One(b"\0\x80\xFF", 0));
        // Joined lines with the key last. A key in front fails later, as no key contains a comma.
        check(&[(a, b"Basic dTpw, Bearer k")], Several);
        check(&[(a, b"Basic dTpw,bearer k")], Several);
        check(&[(a, b"Basic dTpw, Negotiate x, ClientKey k")], Several);
        check(&[(a, b"Bearer k, Basic dTpw")], One(b"k, Basic dTpw", 1));
        check(&[(a, b"Bearer k, ClientKey k")], Several);
        check(&[(a, b"vhk_live_k, Bearer k")], Several);
        check(&[(a, b"Basic \"x, Bearer k")], Several);
        check(&[(a, b"Digest a=\"x, Bearer k\", b=c")], Absent);
        check(&[(a, b"Digest username=\"a, b\", nc=1")], Absent);
        check(&[(a, b"Basic dTpw, Bearer")], Absent);
        check(&[(a, b"Basic dTpw, Digest x")], Absent);
    }

    #[test]
    fn parameters_of_another_scheme_are_no_raw_keys() {
        let locations = [KeyLocation::raw_authorization()];
        for (line, expected) in [
            (
                &b"Digest username=\"u\", realm=\"r, s\", nc=01"[..],
                Credential::Absent,
            ),
            (b"Basic dTpw, cs_k", Credential::Several),
            (b"Basic dTpw, abc==", Credential::Several),
            (b"Basic dTpw, Bearer cs_k", Credential::Absent),
        ] {
            let head = Head(vec![("authorization", line.to_vec())]);
            assert_eq!(Credential::find(&head, &locations), expected, "{line:?}");
        }
    }

    #[test]
    fn the_key_of_a_handshake_is_the_subprotocol_after_bearer_or_one_in_the_format_of_keys() {
        use Credential::{Absent, Empty, One, Several};
        let locations = [KeyLocation::x_api_key(), KeyLocation::websocket_protocol()];
        let find = |lines: &[&str], more: &[(&'static str, &str)], expected: Credential<'_>| {
            let lines = lines.iter().map(|line| (HEADER, *line));
            let all = lines.chain(more.iter().copied());
            let head = Head(
                all.map(|(name, line)| (name, line.as_bytes().to_vec()))
                    .collect(),
            );
            let is_claimed = |name: &[u8]| name.starts_with(b"vhk_");
            let found = Credential::find_where(&head, &locations, |_| true, is_claimed);
            assert_eq!(found, expected, "{:?}", head.0);
        };
        let upgrade = &[("upgrade", "websocket")][..];
        let key = One(b"vhk_k", 1);
        find(&["bearer, vhk_k"], upgrade, One(b"vhk_k", 1));
        find(&["chat,bearer ,\tvhk_k, news"], upgrade, One(b"vhk_k", 1));
        find(&["chat, bearer", "vhk_k"], upgrade, One(b"vhk_k", 1));
        find(&["bearer", "", " , ", "vhk_k"], upgrade, One(b"vhk_k", 1));
        find(&["vhk_k, bearer"], upgrade, One(b"vhk_k", 1));
        find(&["vhk_k"], upgrade, One(b"vhk_k", 1));
        find(&["bearer, nonsense"], upgrade, One(b"nonsense", 1));
        find(&["bearer, vhk_k"], &[("upgrade", "h2c, WebSocket")], key);
        find(
            &["bearer, vhk_k"],
            &[(":protocol", "websocket")],
            One(b"vhk_k", 1),
        );
        // No two keys, in whatever form.
        find(&["bearer, vhk_k, vhk_k"], upgrade, Several);
        find(&["bearer, vhk_k", "bearer, vhk_k"], upgrade, Several);
        find(&["bearer, chat, vhk_k"], upgrade, Several);
        find(&["bearer, bearer, vhk_k"], upgrade, Several);
        find(&["bearer, \"x, vhk_k, y\""], upgrade, Several);
        find(
            &["bearer, vhk_k"],
            &[("upgrade", "websocket"), ("x-api-key", "vhk_k")],
            Several,
        );
        // None.
        find(&["bearer"], upgrade, Empty);
        find(&["chat, bearer, "], upgrade, Empty);
        find(&["chat, Bearer"], upgrade, Absent);
        find(&["chat"], upgrade, Absent);
        find(&[""], upgrade, Absent);
        find(&["bearer, vhk_k"], &[], Absent);
        let post = &[("upgrade", "websocket"), ("content-length", "1")];
        find(&["bearer, vhk_k"], post, Absent);
        find(&["bearer, vhk_k"], &[("upgrade", "h2c")], Absent);
        find(&["bearer, vhk_k"], &[("upgrade", "\"websocket\"")], Absent);
        find(
            &["bearer, vhk_k"],
            &[("x-api-key", "vhk_k")],
            One(b"vhk_k", 0),
        );
    }

    proptest! {
        #[test]
        fn reads_any_bytes_without_panic(
            one in proptest::collection::vec(any::<u8>(), 0..40),
            two in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let head = Head(vec![("x-api-key", one), ("authorization", two)]);
            let locations = locations();
            if let Credential::One(key, _) = Credential::find(&head, &locations) {
                prop_assert!(!key.is_empty());
            }
        }
    }
}
