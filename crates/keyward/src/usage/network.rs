//! The network of a client.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::error::{ParseError, ParseErrorKind};

/// The network from which a key was used: a client's address, truncated to /24 (IPv4) or /48 (IPv6).
///
/// See [`GateBuilder::record_networks`](crate::gate::GateBuilder::record_networks).
///
/// ```
/// use keyward::usage::ClientNetwork;
///
/// let network = ClientNetwork::of("203.0.113.7".parse()?);
/// assert_eq!(network.to_string(), "203.0.113.0/24");
/// let network = ClientNetwork::of("2001:db8:1:2::3".parse()?);
/// assert_eq!(network.to_string(), "2001:db8:1::/48");
/// assert_eq!(ClientNetwork::parse("2001:db8:1::/48")?, network);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientNetwork(u64);

/// The bit of an IPv6 network in the number, above the 48 bits of its prefix.
const V6: u64 = 1 << 48;

/// The bit of an IPv4 network, above the 24 bits of its prefix.
const V4: u64 = 1 << 49;

impl ClientNetwork {
    /// Returns the network of an address. An IPv4 address in IPv6 form counts as IPv4.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(address) => V4 | u64::from(address.to_bits() >> 8),
            IpAddr::V6(address) => {
                let [first, second, third, ..] = address.segments().map(u64::from);
                V6 | first << 32 | second << 16 | third
            }
        })
    }

    /// Parses the output of `Display`.
    ///
    /// # Errors
    /// Returns an error if it is not an IPv4 network with a prefix of 24 bits, or an IPv6 network
    /// with a prefix of 48 bits.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let error = ParseError::new("client network", ParseErrorKind::Network);
        let (address, _) = text.split_once('/').ok_or(error)?;
        let network = Self::of(address.parse().map_err(|_| error)?);
        if network.to_string() == text {
            Ok(network)
        } else {
            Err(error)
        }
    }

    /// Returns it as a number, which is never zero.
    pub(crate) fn to_bits(self) -> u64 {
        self.0
    }

    /// Returns the network of a number; `None` for zero.
    pub(crate) fn from_bits(bits: u64) -> Option<Self> {
        (bits > 0).then_some(Self(bits))
    }
}

impl fmt::Display for ClientNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = u128::from(self.0 & (V6 - 1));
        if self.0 & V4 > 0 {
            let bits = u32::try_from(prefix << 8).unwrap_or(u32::MAX);
            write!(f, "{}/24", Ipv4Addr::from_bits(bits))
        } else {
            write!(f, "{}/48", Ipv6Addr::from_bits(prefix << 80))
        }
    }
}

impl fmt::Debug for ClientNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientNetwork({self})")
    }
}
