//! Address ranges.

use std::net::IpAddr;

use crate::error::{ParseError, ParseErrorKind};

/// A range of IP addresses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Network {
    /// The address in the representation of [`bits`].
    address: u128,
    /// The number of significant bits, from 1 to 128.
    prefix: u32,
}

impl Network {
    /// Parses an address with an optional prefix length (RFC 4632 §3.1, RFC 4291 §2.3).
    ///
    /// Set bits after the prefix are refused, because `10.1.2.3/8` is ambiguous. A range that
    /// includes every IPv4 address is refused too, because it would trust every client.
    pub(crate) fn parse(text: &str) -> Result<Self, ParseError> {
        Self::read(text).ok_or(ParseError::new("network", ParseErrorKind::Network))
    }

    pub(crate) fn contains(self, address: IpAddr) -> bool {
        (self.address ^ bits(address)) >> (128 - self.prefix) == 0
    }

    fn read(text: &str) -> Option<Self> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let (before, longest) = if address.is_ipv4() {
            (96, 32)
        } else {
            (0, 128)
        };
        let prefix = match prefix {
            // The integer parser also accepts `+8`.
            Some(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok()?,
            Some(_) => return None,
            None => longest,
        };
        if prefix == 0 || prefix > longest {
            return None;
        }
        let (address, prefix) = (bits(address), before + prefix);
        let is_exact = address.checked_shl(prefix).unwrap_or(0) == 0;
        let network = Self { address, prefix };
        let any_v4 = IpAddr::from([0, 0, 0, 0]);
        (is_exact && !(prefix <= 96 && network.contains(any_v4))).then_some(network)
    }
}

/// Returns an address as a number, the same for both forms of an IPv4 address (RFC 4291 §2.5.5.2).
pub(crate) fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contains_the_addresses_with_its_prefix() {
        for (network, address, held) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.0", false),
            ("10.0.0.0/8", "::ffff:10.1.1.1", true),
            ("10.0.0.0/8", "a00::1", false),
            ("::ffff:10.0.0.0/104", "10.1.1.1", true),
            ("192.0.2.7", "192.0.2.7", true),
            ("192.0.2.7", "192.0.2.6", false),
            ("192.0.2.7/32", "192.0.2.7", true),
            ("128.0.0.0/1", "255.0.0.1", true),
            ("128.0.0.0/1", "127.0.0.1", false),
            ("0.0.0.0/1", "127.0.0.1", true),
            ("fd00::/8", "fdff::1", true),
            ("fd00::/8", "fe00::1", false),
            ("::1", "::1", true),
            ("::1", "127.0.0.1", false),
            ("8000::/1", "ffff::", true),
        ] {
            let network = Network::parse(network).unwrap();
            let address = address.parse().unwrap();
            assert_eq!(network.contains(address), held, "{network:?} {address}");
        }
    }

    #[test]
    fn refuses_malformed_ranges_and_those_with_every_address() {
        for bad in [
            "",
            "/8",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "10.0.0.0/-1",
            "10.0.0.0/8/8",
            "10.0.0.1/8",
            "10.0.0/8",
            "0.0.0.0/0",
            "::/0",
            "::/8",
            "::ffff:0:0/96",
            "fd00::/129",
            "fd00::1/64",
            " 10.0.0.0/8",
            "proxy.example",
            "10.0.0.0/4294967304",
        ] {
            let error = Network::parse(bad).unwrap_err();
            assert_eq!(error.kind(), ParseErrorKind::Network, "{bad}");
        }
    }
}
