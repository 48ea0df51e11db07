//! The client of a request, identified by its address.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str;

use ipnet::IpNet;

use crate::address;
use crate::request::RequestHead;

/// The header in which proxies append the address of the client.
pub(crate) const FORWARDED_FOR: &str = "x-forwarded-for";

/// A client's address, reduced to the part that distinguishes clients.
///
/// An IPv6 address counts by its first 64 bits, because a host has all addresses within them (RFC
/// 4291 §2.5.4). An IPv4 address in IPv6 form counts as IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Client(u128);

impl Client {
    /// Returns the client of a request; `None` if the adapter knows no peer.
    pub(crate) fn of<R: RequestHead>(request: &R, trusted: &[IpNet]) -> Option<Self> {
        client_address(request, trusted).map(Self::at)
    }

    /// Creates it from an address that is not IPv4-mapped.
    pub(crate) fn at(address: IpAddr) -> Self {
        /// The prefix of translated IPv4 addresses (RFC 6052 §2.1), which share 64 bits but not a
        /// host.
        const NAT64: u128 = 0x64_ff9b << 96;
        let whole = match address {
            IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
            IpAddr::V6(address) => address.to_bits(),
        };
        let last = whole & 0xFFFF_FFFF;
        Self(match whole - last {
            NAT64 => 0xFFFF << 32 | last,
            first if first == 0xFFFF << 32 => whole,
            _ => whole >> 64 << 64,
        })
    }
}

/// Returns the address of the client, in full; `None` if the adapter knows no peer.
///
/// An IPv4-mapped address is returned as IPv4.
pub(crate) fn client_address<R: RequestHead>(request: &R, trusted: &[IpNet]) -> Option<IpAddr> {
    Some(address(request, request.peer()?, trusted).to_canonical())
}

/// Returns the address of the client.
///
/// It is the peer's or, if the peer is a trusted proxy, the last address in `X-Forwarded-For` that
/// is not a trusted proxy. Anything before that one may be forged.
///
/// The search from the right ends at an entry that is not an address. The loop runs from the left,
/// so that no header line has to be stored: an entry that ends the search discards what was found
/// before it.
fn address<R: RequestHead>(request: &R, peer: IpAddr, trusted: &[IpNet]) -> IpAddr {
    let is_trusted = |address| address::contain(trusted, address);
    if !is_trusted(peer) {
        return peer;
    }
    let lines = request.values(FORWARDED_FOR);
    let entries = lines.flat_map(|line| line.split(|byte| *byte == b','));
    let mut found = None;
    // Empty entries are ignored (RFC 9110 §5.6.1.2).
    for entry in entries
        .map(<[u8]>::trim_ascii)
        .filter(|entry| !entry.is_empty())
    {
        found = match read(entry) {
            Some(address) if is_trusted(address) => found.or(Some(address)),
            ends => ends,
        };
    }
    found.unwrap_or(peer)
}

/// Parses an address with or without a port, or an IPv6 address in brackets.
fn read(entry: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(entry).ok()?;
    let with_port = || text.parse().map(|address: SocketAddr| address.ip()).ok();
    let in_brackets = || {
        let inner = text.strip_prefix('[')?.strip_suffix(']')?;
        inner.parse::<Ipv6Addr>().map(IpAddr::V6).ok()
    };
    text.parse().ok().or_else(with_port).or_else(in_brackets)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::TestRequest;

    fn request(peer: Option<&str>, lines: &[&[u8]]) -> TestRequest {
        let lines = lines.iter().map(|line| ("x-forwarded-for", line));
        let request = TestRequest::get().headers(lines);
        match peer {
            Some(peer) => request.peer(peer.parse::<IpAddr>().unwrap()),
            None => request,
        }
    }

    fn client(peer: &str, lines: &[&str]) -> Client {
        let trusted = ["10.0.0.0/8", "fd00::/8"].map(|text| address::parse(text).unwrap());
        let lines: Vec<_> = lines.iter().map(|line| line.as_bytes()).collect();
        Client::of(&request(Some(peer), &lines), &trusted).unwrap()
    }

    #[test]
    fn trusts_only_addresses_added_by_a_trusted_proxy() {
        let proxy = "10.0.0.1";
        for (peer, lines, address) in [
            ("192.0.2.1", &["198.51.100.9"][..], "192.0.2.1"),
            (proxy, &[], proxy),
            (proxy, &["192.0.2.1"], "192.0.2.1"),
            ("::ffff:10.0.0.1", &["192.0.2.1"], "192.0.2.1"),
            (proxy, &["198.51.100.9, 192.0.2.1"], "192.0.2.1"),
            (proxy, &["198.51.100.9, 192.0.2.1, 10.0.0.2"], "192.0.2.1"),
            (proxy, &["198.51.100.9,10.0.0.2,192.0.2.1"], "192.0.2.1"),
            (proxy, &["198.51.100.9", "192.0.2.1"], "192.0.2.1"),
            (proxy, &["198.51.100.9, 192.0.2.1", "10.0.0.2"], "192.0.2.1"),
            (proxy, &["192.0.2.1", "10.0.0.2", "", ",,"], "192.0.2.1"),
            (proxy, &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            (proxy, &["10.0.0.3", "10.0.0.2"], "10.0.0.3"),
            (proxy, &["192.0.2.1, unknown"], proxy),
            (
                proxy,
                &["192.0.2.1, unknown, 10.0.0.3, 10.0.0.2"],
                "10.0.0.3",
            ),
            (proxy, &["unknown, 192.0.2.1"], "192.0.2.1"),
            (proxy, &["192.0.2.1:4711"], "192.0.2.1"),
            (proxy, &["\t192.0.2.1 "], "192.0.2.1"),
            (proxy, &["192.0.2.1, 10.0.0.2:80"], "192.0.2.1"),
            (proxy, &["2001:db8:1::5"], "2001:db8:1::"),
            (proxy, &["[2001:db8:1::5]"], "2001:db8:1::"),
            (proxy, &["[2001:db8:1::5]:443"], "2001:db8:1::"),
            ("fd00::1", &["2001:db8:1::5, [fd00::2]:1"], "2001:db8:1::"),
        ] {
            let expected = Client::at(address.parse().unwrap());
            assert_eq!(client(peer, lines), expected, "{peer} {lines:?}");
        }
        for malformed in [
            "192.0.2.1.",
            "192.0.2.01",
            "192.0.2.1:65536",
            "192.0.2.1:",
            "[192.0.2.1]",
            "[::1",
            "::1]",
            "\"192.0.2.1\"",
            "for=192.0.2.1",
            "192.0.2.1 192.0.2.1",
            "fe80::1%eth0",
            "é",
        ] {
            let lines = [&*format!("192.0.2.1, {malformed}")];
            assert_eq!(client(proxy, &lines), client(proxy, &[]), "{malformed}");
        }
    }

    #[test]
    fn without_a_peer_there_is_no_client() {
        assert_eq!(Client::of(&request(None, &[b"192.0.2.1"]), &[]), None);
    }

    #[test]
    fn one_client_is_an_ipv4_address_or_an_ipv6_network() {
        let same = |one: &str, other: &str| {
            let at = |text: &str| client(text, &[]);
            at(one) == at(other)
        };
        for (one, other) in [
            ("192.0.2.1", "::ffff:192.0.2.1"),
            ("192.0.2.1", "64:ff9b::192.0.2.1"),
            ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff"),
            ("::", "::1"),
        ] {
            assert!(same(one, other), "{one} {other}");
        }
        for (one, other) in [
            ("192.0.2.1", "192.0.2.2"),
            ("::ffff:192.0.2.1", "::ffff:192.0.2.2"),
            ("64:ff9b::192.0.2.1", "64:ff9b::192.0.2.2"),
            ("192.0.2.1", "::192.0.2.1"),
            ("2001:db8::", "2001:db8:0:1::"),
            ("0.0.0.0", "::"),
        ] {
            assert!(!same(one, other), "{one} {other}");
        }
    }

    proptest! {
        #[test]
        fn an_untrusted_peer_is_the_client_whatever_the_header_says(
            line in proptest::collection::vec(any::<u8>(), 0..60),
        ) {
            let trusted = [address::parse("10.0.0.0/8").unwrap()];
            let found = Client::of(&request(Some("192.0.2.1"), &[&line]), &trusted);
            prop_assert_eq!(found, Some(Client::at(IpAddr::from([192, 0, 2, 1]))));
            // Behind a trusted proxy, the client is the address that the proxy appended.
            let lines = vec![&line[..], b"192.0.2.1"];
            let found = Client::of(&request(Some("10.0.0.1"), &lines), &trusted);
            prop_assert_eq!(found, Some(Client::at(IpAddr::from([192, 0, 2, 1]))));
        }
    }
}
