//! Address allowlists: the network addresses from which a key may be used.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::error::{ParseError, ParseErrorKind};

const MAX_RANGES: usize = 50;

/// The address allowlist of a key, which restricts the clients that may use it.
///
/// The address is that of the connection or, behind [trusted
/// proxies](crate::gate::GateBuilder::trusted_proxies), the one that they saw. A request from any
/// other address, or from an unknown one, is refused with 403 `address_not_allowed`.
///
/// ```
/// use keyward::address::AddressPolicy;
///
/// let policy = AddressPolicy::listed(["203.0.113.7", "10.0.0.0/8", "2001:db8::/32"])?;
/// assert!(policy.allows("10.1.2.3".parse()?) && !policy.allows("203.0.113.8".parse()?));
/// assert!(AddressPolicy::listed(Vec::<String>::new()).is_err()); // an empty list is an error
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AddressPolicy {
    /// Any address is allowed, and an unknown one too.
    Any,
    /// Allows only the listed addresses.
    Listed(AddressList),
}

impl AddressPolicy {
    /// Allows only these addresses and networks.
    ///
    /// An entry is an IPv4 or IPv6 address, or a network in CIDR notation (RFC 4632 §3.1, RFC 4291
    /// §2.3). The list is sorted, and an entry that is repeated is kept once. An IPv6 entry in
    /// IPv4-mapped form (`::ffff:192.0.2.1`) is stored as IPv4.
    ///
    /// ```
    /// use keyward::address::AddressPolicy;
    /// use keyward::error::ParseErrorKind;
    ///
    /// let policy = AddressPolicy::listed(["::ffff:192.0.2.1", "10.0.0.0/8", "192.0.2.1/32"])?;
    /// assert!(policy.ranges().eq(["10.0.0.0/8", "192.0.2.1"]));
    ///
    /// let error = AddressPolicy::listed(["192.0.2.1", "10.1.2.3/8"]).unwrap_err();
    /// assert_eq!((error.entry(), error.kind()), (Some(1), ParseErrorKind::HostBits));
    /// # Ok::<(), keyward::error::ParseError>(())
    /// ```
    ///
    /// # Errors
    /// Returns an error if the list is empty or has more than 50 entries, if an entry is neither an
    /// address nor a network ([`Network`](ParseErrorKind::Network)), if it has bits set after its
    /// prefix ([`HostBits`](ParseErrorKind::HostBits)), or if it includes every IPv4 or every IPv6
    /// address ([`EveryAddress`](ParseErrorKind::EveryAddress)), alone as `0.0.0.0/0` does or
    /// together with the others. To lift a restriction, use [`Any`](Self::Any).
    pub fn listed<I>(ranges: I) -> Result<Self, ParseError>
    where
        I: IntoIterator<Item: AsRef<str>>,
    {
        let error = |kind| Err(ParseError::new("address list", kind));
        let ranges = ranges.into_iter().enumerate();
        let mut ranges = ranges
            .map(|(entry, text)| parse(text.as_ref()).map_err(|error| error.at(entry)))
            .collect::<Result<Vec<_>, _>>()?;
        match ranges.len() {
            0 => return error(ParseErrorKind::Empty),
            1..=MAX_RANGES if include_every_address(&ranges) => {
                return error(ParseErrorKind::EveryAddress);
            }
            1..=MAX_RANGES => {}
            _ => return error(ParseErrorKind::TooMany),
        }
        ranges.sort_unstable();
        ranges.dedup();
        Ok(Self::Listed(AddressList(ranges.into())))
    }

    /// Returns the listed addresses and networks; empty if any address is allowed.
    ///
    /// They are in the form that [`listed`](Self::listed) parses: a store keeps them so.
    pub fn ranges(&self) -> impl Iterator<Item = String> {
        let ranges = match self {
            Self::Any => &[][..],
            Self::Listed(list) => &list.0,
        };
        ranges.iter().map(|range| {
            if range.prefix_len() == range.max_prefix_len() {
                range.addr().to_string()
            } else {
                range.to_string()
            }
        })
    }

    /// Returns whether the address is allowed. An IPv4-mapped IPv6 address counts as IPv4.
    #[must_use]
    pub fn allows(&self, address: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::Listed(list) => list.contains(address),
        }
    }

    /// Returns whether this policy allows every address that `other` allows.
    ///
    /// Networks count together: two halves cover the whole.
    ///
    /// ```
    /// use keyward::address::AddressPolicy;
    ///
    /// let halves = AddressPolicy::listed(["10.0.0.0/25", "10.0.0.128/25"])?;
    /// assert!(halves.covers(&AddressPolicy::listed(["10.0.0.0/24"])?));
    /// assert!(!halves.covers(&AddressPolicy::Any));
    /// # Ok::<(), keyward::error::ParseError>(())
    /// ```
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) => true,
            (Self::Listed(_), Self::Any) => false,
            (Self::Listed(own), Self::Listed(others)) => {
                let own = IpNet::aggregate(&own.0.to_vec());
                let mut others = others.0.iter();
                others.all(|other| own.iter().any(|own| own.contains(other)))
            }
        }
    }
}

/// A list of addresses and networks, created by [`AddressPolicy::listed`].
///
/// [`AddressPolicy::ranges`] returns its entries.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AddressList(Box<[IpNet]>);

impl AddressList {
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        contain(&self.0, address)
    }
}

/// Returns whether one of the networks contains the address.
pub(crate) fn contain(networks: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}

/// Returns whether the networks together include every IPv4 or every IPv6 address.
pub(crate) fn include_every_address(networks: &Vec<IpNet>) -> bool {
    let all = IpNet::aggregate(networks);
    all.iter().any(|network| network.prefix_len() == 0)
}

/// Parses an address or a network, which counts as IPv4 if it is within the IPv4-mapped addresses.
///
/// Set bits after the prefix are refused, because `10.1.2.3/8` is ambiguous.
pub(crate) fn parse(text: &str) -> Result<IpNet, ParseError> {
    normalise(text).map_err(|kind| {
        let error = ParseError::new("address or network", kind);
        match kind {
            ParseErrorKind::HostBits => error.advise("write the first address of the network"),
            _ => error,
        }
    })
}

fn normalise(text: &str) -> Result<IpNet, ParseErrorKind> {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    // The parser of `IpNet` accepts leading zeros, which some programs read as octal.
    let address: IpAddr = address.parse().map_err(|_| ParseErrorKind::Network)?;
    let network = match prefix {
        None => IpNet::from(address),
        Some(prefix) => prefix
            .bytes()
            .all(|byte| byte.is_ascii_digit())
            .then(|| IpNet::new(address, prefix.parse().ok()?).ok())
            .flatten()
            .ok_or(ParseErrorKind::Network)?,
    };
    if network != network.trunc() {
        return Err(ParseErrorKind::HostBits);
    }
    let network = match (network.addr(), network.prefix_len()) {
        (IpAddr::V6(address), prefix @ 96..) => match address.to_ipv4_mapped() {
            Some(address) => IpNet::new(address.into(), prefix - 96).unwrap_or(network),
            None => network,
        },
        _ => network,
    };
    // An IPv6 network around the IPv4-mapped addresses would include every IPv4 address.
    let any_v4 = IpAddr::from([0, 0, 0, 0, 0, 0xFFFF, 0, 0]);
    if network.prefix_len() == 0 || network.contains(&any_v4) {
        return Err(ParseErrorKind::EveryAddress);
    }
    Ok(network)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(ranges: &[&str]) -> AddressPolicy {
        AddressPolicy::listed(ranges).unwrap()
    }

    #[test]
    fn allows_the_addresses_of_its_networks() {
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
            ("2001:db8::5", "2001:db8::6", false),
            ("::1", "::1", true),
            ("::1", "127.0.0.1", false),
            ("8000::/1", "ffff::", true),
        ] {
            let address = address.parse().unwrap();
            assert_eq!(
                listed(&[network]).allows(address),
                held,
                "{network} {address}"
            );
        }
    }

    #[test]
    fn entries_are_normalised_sorted_and_kept_once() {
        for (given, stored) in [
            (&["192.0.2.1/32"][..], &["192.0.2.1"][..]),
            (&["::ffff:192.0.2.0/120"], &["192.0.2.0/24"]),
            (&["::ffff:c000:201"], &["192.0.2.1"]),
            (&["2001:DB8:0:0::/32"], &["2001:db8::/32"]),
            (&["::192.0.2.1"], &["::c000:201"]),
            (
                &["2001:db8::1", "192.0.2.1", "10.0.0.0/8", "192.0.2.1"],
                &["10.0.0.0/8", "192.0.2.1", "2001:db8::1"],
            ),
            // An entry within another one stays, as its owner may remove the other.
            (
                &["10.1.0.0/16", "10.0.0.0/8"],
                &["10.0.0.0/8", "10.1.0.0/16"],
            ),
        ] {
            let policy = listed(given);
            assert!(policy.ranges().eq(stored.iter().copied()), "{policy:?}");
            let again: Vec<_> = policy.ranges().collect();
            assert_eq!(AddressPolicy::listed(again).unwrap(), policy);
        }
    }

    #[test]
    fn refuses_malformed_entries() {
        for bad in [
            "",
            "/8",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "10.0.0.0/-1",
            "10.0.0.0/8/8",
            "10.0.0.0/4294967304",
            "10.0.0/8",
            "010.0.0.0/8",
            "10.0.0.1:80",
            "[::1]",
            "fd00::/129",
            "fe80::1%eth0",
            " 10.0.0.0/8",
            "10.0.0.0/255.0.0.0",
            "proxy.example",
        ] {
            let error = AddressPolicy::listed(["::1", bad]).unwrap_err();
            let found = (error.entry(), error.kind());
            assert_eq!(found, (Some(1), ParseErrorKind::Network), "{bad}");
        }
        for bad in [
            "10.0.0.1/8",
            "fd00::1/64",
            "1.2.3.4/0",
            "::ffff:10.1.0.0/104",
        ] {
            let error = parse(bad).unwrap_err();
            assert_eq!(error.kind(), ParseErrorKind::HostBits, "{bad}");
        }
        let error = parse("10.1.2.3/8").unwrap_err().to_string();
        assert_eq!(
            error,
            "invalid address or network: has bits set after its prefix; write the first address of the network"
        );
    }

    #[test]
    fn refuses_a_list_that_restricts_nothing() {
        for bad in [
            "0.0.0.0/0",
            "::/0",
            "::/8",
            "::ffff:0:0/96",
            "::fffe:0:0/95",
        ] {
            let error = AddressPolicy::listed(["::1", bad]).unwrap_err();
            let found = (error.entry(), error.kind());
            assert_eq!(found, (Some(1), ParseErrorKind::EveryAddress), "{bad}");
        }
        let halves = ["0.0.0.0/1", "128.0.0.0/2", "192.0.0.0/2"];
        let error = AddressPolicy::listed(halves).unwrap_err();
        let found = (error.entry(), error.kind());
        assert_eq!(found, (None, ParseErrorKind::EveryAddress));
        assert!(AddressPolicy::listed(&halves[..2]).is_ok());
    }

    #[test]
    fn a_list_has_1_to_50_entries() {
        let list = |len| {
            let list = (0..len).map(|at| format!("192.0.2.{at}"));
            AddressPolicy::listed(list)
                .map(drop)
                .map_err(|error| error.kind())
        };
        assert_eq!(list(0), Err(ParseErrorKind::Empty));
        assert_eq!(list(50), Ok(()));
        assert_eq!(list(51), Err(ParseErrorKind::TooMany));
    }
}
