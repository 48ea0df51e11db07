//! Decides which IP addresses are public, for SSRF protection.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Returns whether an address is public: a unicast address on the Internet.
///
/// Every address in the registries of special-purpose addresses (RFC 6890 and its updates) counts
/// as not public, even those that are called globally reachable: relays and sinks of protocols are
/// not endpoints. The same applies to addresses at which clouds serve internal requests although
/// they look public. An IPv6 address that represents an IPv4 one (mapped, or translated under
/// `64:ff9b::/96`) is judged by that.
pub(crate) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => match embedded(address) {
            Some(embedded) => is_public_v4(embedded),
            None => is_public_v6(address),
        },
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    const NOT_PUBLIC: [([u8; 4], u32); 25] = [
        ([0, 0, 0, 0], 8),        // this network
        ([10, 0, 0, 0], 8),       // private
        ([34, 118, 224, 0], 20),  // Google: services of Kubernetes clusters
        ([34, 126, 0, 0], 18),    // Google: its APIs, from within
        ([100, 64, 0, 0], 10),    // carrier-grade NAT; metadata of Alibaba
        ([127, 0, 0, 0], 8),      // loopback
        ([161, 26, 0, 0], 16),    // IBM: its infrastructure, from within
        ([166, 8, 0, 0], 14),     // IBM: its services, from within
        ([168, 63, 129, 16], 32), // Azure: the host of a virtual machine
        ([169, 254, 0, 0], 16),   // link-local, where most clouds keep their metadata
        ([172, 16, 0, 0], 12),    // private
        ([192, 0, 0, 0], 24),     // protocols; metadata of Oracle
        ([192, 0, 2, 0], 24),     // documentation
        ([192, 31, 196, 0], 24),  // AS112
        ([192, 52, 193, 0], 24),  // AMT
        ([192, 88, 99, 0], 24),   // 6to4 relays
        ([192, 168, 0, 0], 16),   // private
        ([192, 175, 48, 0], 24),  // AS112
        ([198, 18, 0, 0], 15),    // benchmarks
        ([198, 51, 100, 0], 24),  // documentation
        ([199, 36, 153, 4], 30),  // Google: its APIs, from within
        ([199, 36, 153, 8], 30),  // Google: its APIs, from within
        ([203, 0, 113, 0], 24),   // documentation
        ([224, 0, 0, 0], 4),      // multicast
        ([240, 0, 0, 0], 4),      // reserved, broadcast
    ];
    let address = u32::from(address);
    !NOT_PUBLIC.iter().any(|(network, bits)| {
        let shift = 32 - bits;
        address >> shift == u32::from_be_bytes(*network) >> shift
    })
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    const NOT_PUBLIC: [(Ipv6Addr, u32); 11] = [
        (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23), // protocols, Teredo, ORCHID
        (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32), // documentation
        (Ipv6Addr::new(0x2001, 0x4860, 0x8040, 0, 0, 0, 0, 0), 42), // Google: its APIs, from within
        (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16), // 6to4: an IPv4 address that may be private
        (Ipv6Addr::new(0x2600, 0x2d00, 0, 2, 0, 0, 0, 0), 63), // Google: routers
        (Ipv6Addr::new(0x2600, 0x2d00, 0, 4, 0, 0, 0, 0), 64), // Google: services of clusters
        (Ipv6Addr::new(0x2600, 0x2d00, 2, 0x1000, 0, 0, 0, 0), 56), // Google: its APIs, from within
        (Ipv6Addr::new(0x2600, 0x2d00, 2, 0x2000, 0, 0, 0, 0), 56), // Google: its APIs, from within
        (Ipv6Addr::new(0x2620, 0x4f, 0x8000, 0, 0, 0, 0, 0), 48), // AS112
        (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20), // documentation
        (Ipv6Addr::new(0x3ffe, 0, 0, 0, 0, 0, 0, 0), 16), // 6bone, given back
    ];
    let within = |(network, bits): &(Ipv6Addr, u32)| {
        let shift = 128 - bits;
        address.to_bits() >> shift == network.to_bits() >> shift
    };
    // ISATAP (RFC 5214 §6.1): an IPv4 address that may be private.
    let is_tunnel = matches!(address.segments(), [_, _, _, _, 0 | 0x0200, 0x5efe, _, _]);
    // Global unicast. The rest is loopback, local, multicast or unassigned.
    let is_global = address
        .segments()
        .first()
        .is_some_and(|one| one & 0xe000 == 0x2000);
    is_global && !is_tunnel && !NOT_PUBLIC.iter().any(within)
}

/// Returns the IPv4 address that an IPv6 address represents.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    match address.segments() {
        [0, 0, 0, 0, 0, 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => {
            let [.., a, b, c, d] = address.octets();
            Some(Ipv4Addr::new(a, b, c, d))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Every row of the IANA IPv4 Special-Purpose Address Registry as of 2025-10-09.
    ///
    /// Also class D, which it omits, and addresses at which clouds serve internal requests.
    const V4: &[&str] = &[
        "0.0.0.0/8",
        "0.0.0.0/32",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.0.0/29",
        "192.0.0.8/32",
        "192.0.0.9/32",
        "192.0.0.10/32",
        "192.0.0.170/32",
        "192.0.0.171/32",
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",
        "192.88.99.2/32",
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "240.0.0.0/4",
        "255.255.255.255/32",
        "224.0.0.0/4",
        "34.118.224.0/20",
        "34.126.0.0/18",
        "161.26.0.0/16",
        "166.8.0.0/14",
        "168.63.129.16/32",
        "199.36.153.4/30",
        "199.36.153.8/30",
    ];

    /// Every row of the IANA IPv6 Special-Purpose Address Registry as of 2025-10-09.
    ///
    /// The two rows that are decided by the embedded IPv4 address are omitted. Also the ranges
    /// reserved by RFC 4291 and its predecessors, and addresses at which clouds serve internal
    /// requests.
    const V6: &[&str] = &[
        "::1/128",
        "::/128",
        "64:ff9b:1::/48",
        "100::/64",
        "100:0:0:1::/64",
        "2001::/23",
        "2001::/32",
        "2001:1::1/128",
        "2001:1::2/128",
        "2001:1::3/128",
        "2001:2::/48",
        "2001:3::/32",
        "2001:4:112::/48",
        "2001:10::/28",
        "2001:20::/28",
        "2001:30::/28",
        "2001:db8::/32",
        "2002::/16",
        "2620:4f:8000::/48",
        "3fff::/20",
        "5f00::/16",
        "fc00::/7",
        "fe80::/10",
        "::/96",
        "::ffff:0:0:0/96",
        "fec0::/10",
        "ff00::/8",
        "3ffe::/16",
        "2001:4860:8040::/42",
        "2600:2d00:0:2::/64",
        "2600:2d00:0:3::/64",
        "2600:2d00:0:4::/64",
        "2600:2d00:2:1000::/56",
        "2600:2d00:2:2000::/56",
    ];

    /// Returns the first and last address of a network, as numbers of this many bits.
    fn bounds(network: &str, width: u32) -> (u128, u128) {
        let (first, bits) = network.split_once('/').unwrap();
        let first = match first.parse().unwrap() {
            IpAddr::V4(address) => u32::from(address).into(),
            IpAddr::V6(address) => address.to_bits(),
        };
        let host = width - bits.parse::<u32>().unwrap();
        let rest = 1_u128.checked_shl(host).map_or(u128::MAX, |size| size - 1);
        assert_eq!(first & rest, 0, "{network}");
        (first, first | rest)
    }

    fn v4(number: u128) -> IpAddr {
        Ipv4Addr::from(u32::try_from(number).unwrap()).into()
    }

    fn v6(number: u128) -> IpAddr {
        Ipv6Addr::from(number).into()
    }

    fn is_listed(networks: &[&str], width: u32, number: u128) -> bool {
        networks.iter().any(|network| {
            let (first, last) = bounds(network, width);
            (first..=last).contains(&number)
        })
    }

    /// Returns whether the lists call an IPv6 address without an embedded IPv4 one public.
    fn is_public_by_list(number: u128) -> bool {
        let interface = number >> 32 & 0xffff_ffff;
        let is_isatap = matches!(interface, 0x0000_5efe | 0x0200_5efe);
        number >> 125 == 1 && !is_isatap && !is_listed(V6, 128, number)
    }

    #[test]
    fn nothing_of_the_registries_is_public_and_what_is_beside_it_is() {
        for network in V4 {
            let (first, last) = bounds(network, 32);
            for number in [first, u128::midpoint(first, last), last] {
                for address in [
                    v4(number),
                    v6(0xffff << 32 | number),
                    v6(0x64_ff9b << 96 | number),
                ] {
                    assert!(!is_public(address), "{address} of {network}");
                }
            }
            let beside = [first.checked_sub(1), last.checked_add(1)]
                .into_iter()
                .flatten();
            for number in beside.filter(|number| *number < 1 << 32) {
                let expected = !is_listed(V4, 32, number);
                assert_eq!(
                    is_public(v4(number)),
                    expected,
                    "{} by {network}",
                    v4(number)
                );
            }
        }
        for network in V6 {
            let (first, last) = bounds(network, 128);
            for number in [first, u128::midpoint(first, last), last] {
                assert!(!is_public(v6(number)), "{} of {network}", v6(number));
            }
            for number in [first.checked_sub(1), last.checked_add(1)]
                .into_iter()
                .flatten()
            {
                if embedded(Ipv6Addr::from(number)).is_none() {
                    let expected = is_public_by_list(number);
                    assert_eq!(
                        is_public(v6(number)),
                        expected,
                        "{} by {network}",
                        v6(number)
                    );
                }
            }
        }
    }

    #[test]
    fn metadata_services_of_clouds_are_not_public() {
        for (whose, address) in [
            (
                "AWS, Azure, Google, Oracle, DigitalOcean, OpenStack, Hetzner, Vultr",
                "169.254.169.254",
            ),
            ("AWS: DNS", "169.254.169.253"),
            ("AWS: time", "169.254.169.123"),
            ("AWS: credentials of tasks", "169.254.170.2"),
            ("AWS: credentials of pods", "169.254.170.23"),
            ("AWS", "fd00:ec2::254"),
            ("AWS: DNS", "fd00:ec2::253"),
            ("AWS: time", "fd00:ec2::123"),
            ("AWS: credentials of pods", "fd00:ec2::23"),
            ("Azure: host", "168.63.129.16"),
            ("Google", "fd20:ce::254"),
            ("Google: private.googleapis.com", "199.36.153.8"),
            ("Google: restricted.googleapis.com", "199.36.153.4"),
            ("Google: services of clusters", "34.118.224.1"),
            ("Alibaba", "100.100.100.200"),
            ("Alibaba: DNS", "100.100.2.136"),
            ("Oracle", "192.0.0.192"),
            ("Oracle", "fd00:c1::a9fe:a9fe"),
            ("Tencent", "169.254.0.23"),
            ("Scaleway", "169.254.42.42"),
            ("Scaleway", "fd00:42::42"),
            ("Linode", "fd00:a9fe:a9fe::1"),
            ("OpenStack", "fe80::a9fe:a9fe"),
            ("IBM: DNS", "161.26.0.10"),
            ("IBM: services", "166.9.12.1"),
            ("Fly", "fdaa::3"),
        ] {
            let address = address.parse().unwrap();
            assert!(!is_public(address), "{whose}: {address}");
            let IpAddr::V4(address) = address else {
                continue;
            };
            let [a, b, c, d] = address.octets();
            let word = u32::from(address);
            let (high, low) = (word >> 16, word & 0xffff);
            for hidden in [
                format!("::ffff:{a}.{b}.{c}.{d}"),
                format!("::{a}.{b}.{c}.{d}"),
                format!("::ffff:0:{a}.{b}.{c}.{d}"),
                format!("64:ff9b::{a}.{b}.{c}.{d}"),
                format!("64:ff9b:1::{a}.{b}.{c}.{d}"),
                format!("2002:{high:x}:{low:x}::1"),
                format!("2001::{:x}:{:x}", high ^ 0xffff, low ^ 0xffff),
                format!("2a00::5efe:{high:x}:{low:x}"),
                format!("2a00::200:5efe:{high:x}:{low:x}"),
            ] {
                assert!(!is_public(hidden.parse().unwrap()), "{whose}: {hidden}");
            }
        }
    }

    #[test]
    fn what_receivers_have_is_public() {
        for address in [
            "1.1.1.1",
            "168.63.129.15",
            "168.63.129.17",
            "199.36.153.3",
            "199.36.153.12",
            "223.255.255.255",
            "2606:4700:4700::1111",
            "2001:200::1",
            "2001:4860:4860::8888",
            "2600:2d00::1",
            "2a00::1",
            "2a00::5eff:1:1",
            "::ffff:1.1.1.1",
            "64:ff9b::1.1.1.1",
        ] {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
    }

    proptest! {
        #[test]
        fn exactly_the_listed_networks_are_not_public(four: u32, six: u128, inside: u32, of in 0..V6.len()) {
            prop_assert_eq!(is_public(v4(four.into())), !is_listed(V4, 32, four.into()));
            // A random address is hardly ever global unicast.
            for number in [six, six >> 3 | 1 << 125] {
                prop_assert_eq!(is_public(v6(number)), is_public_by_list(number));
            }
            let (first, last) = bounds(V6[of], 128);
            prop_assert!(!is_public(v6(first | u128::from(inside) & (last - first))));
        }
    }
}
