//! Addresses in the mesh: ranges, what is reserved in them, and how a node
//! comes by its own.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use crate::id::{DeviceId, Digest, NetworkId, NodeId};
use crate::wire::{Reader, Wire, WireError, Writer};

/// The default port: UDP for data, TCP for control.
pub const DEFAULT_PORT: u16 = 7755;

/// The MTU of the mesh interface unless a path asks for less, in bytes.
pub const DEFAULT_MTU: u16 = 1420;

/// The default range of IPv4 addresses.
pub const DEFAULT_RANGE: Ipv4Range = Ipv4Range { base: Ipv4Addr::new(10, 77, 0, 0), prefix: 16 };

/// The last part of the address at which every node answers DNS.
pub const DNS_HOST: u8 = 53;

/// The last part of the address at which every node balances the cluster API.
pub const CLUSTER_API_HOST: u8 = 6;

/// An IPv4 range for a network's nodes.
///
/// Its first /24 is reserved for addresses that are local to every node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ipv4Range {
    base: Ipv4Addr,
    prefix: u8,
}

/// Why a text is not a usable range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a usable IPv4 range: {reason}")]
pub struct RangeError {
    text: String,
    reason: &'static str,
}

/// Carrier-grade NAT (RFC 6598): providers use it on the same machines.
const SHARED: (Ipv4Addr, u8) = (Ipv4Addr::new(100, 64, 0, 0), 10);

/// The ranges set aside for private use (RFC 1918).
const PRIVATE: [(Ipv4Addr, u8); 3] = [
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
];

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

fn contains((base, prefix): (Ipv4Addr, u8), address: Ipv4Addr) -> bool {
    (u32::from(base) ^ u32::from(address)) & mask(prefix) == 0
}

impl Ipv4Range {
    /// A range from its first address and its prefix length (8 to 22 bits).
    pub fn new(base: Ipv4Addr, prefix: u8) -> Result<Self, RangeError> {
        let refuse = |reason| Err(RangeError { text: format!("{base}/{prefix}"), reason });
        if !(8..=22).contains(&prefix) {
            return refuse("the prefix must be between /8 and /22, as the first /24 is reserved");
        }
        if u32::from(base) & !mask(prefix) != 0 {
            return refuse("it has bits set behind its prefix");
        }
        if contains(SHARED, base) {
            return refuse("100.64.0.0/10 belongs to providers (RFC 6598); take one of 10.0.0.0/8");
        }
        if !PRIVATE.iter().any(|private| prefix >= private.1 && contains(*private, base)) {
            return refuse("it is not a private range (RFC 1918), such as 10.77.0.0/16");
        }
        Ok(Self { base, prefix })
    }

    /// The first address.
    pub fn base(self) -> Ipv4Addr {
        self.base
    }

    /// The prefix length in bits.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// Whether an address lies within.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        contains((self.base, self.prefix), address)
    }

    /// Whether two ranges share an address.
    pub fn overlaps(self, base: Ipv4Addr, prefix: u8) -> bool {
        let shorter = self.prefix.min(prefix);
        (u32::from(self.base) ^ u32::from(base)) & mask(shorter) == 0
    }

    /// Whether a node may have the address: within, behind the reserved /24,
    /// not the broadcast address.
    pub fn assignable(self, address: Ipv4Addr) -> bool {
        self.contains(address)
            && u32::from(address) - u32::from(self.base) >= 256
            && u32::from(address) | mask(self.prefix) != u32::MAX
    }

    /// How many addresses nodes can have.
    pub fn capacity(self) -> u32 {
        !mask(self.prefix) - 256
    }

    /// The `attempt`-th address that a node tries: by hash, so that nodes
    /// which cannot talk yet seldom choose the same one.
    pub fn candidate(self, network: NetworkId, node: NodeId, attempt: u32) -> Ipv4Addr {
        self.hashed("epsilon/1 IPv4 candidate", network, &node.0, attempt)
    }

    /// The same for a device.
    pub fn device_candidate(self, network: NetworkId, device: DeviceId, attempt: u32) -> Ipv4Addr {
        self.hashed("epsilon/1 IPv4 candidate of a device", network, &device.0, attempt)
    }

    fn hashed(self, context: &str, network: NetworkId, key: &[u8], attempt: u32) -> Ipv4Addr {
        let hash = Digest::of_parts(context, &[&network.0, key, &attempt.to_le_bytes()]);
        let [a, b, c, d, ..] = hash.0;
        let share = u64::from(u32::from_le_bytes([a, b, c, d])) * u64::from(self.capacity());
        let offset = share >> 32;
        Ipv4Addr::from(u32::from(self.base) + 256 + offset as u32)
    }

    /// A reserved address that is local to every node.
    pub fn local(self, host: u8) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.base) + u32::from(host))
    }
}

impl FromStr for Ipv4Range {
    type Err = RangeError;
    fn from_str(text: &str) -> Result<Self, RangeError> {
        text.split_once('/')
            .and_then(|(base, prefix)| Some((base.parse().ok()?, prefix.parse().ok()?)))
            .ok_or(RangeError { text: text.to_owned(), reason: "write it like 10.77.0.0/16" })
            .and_then(|(base, prefix)| Self::new(base, prefix))
    }
}

impl fmt::Display for Ipv4Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

impl fmt::Debug for Ipv4Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Wire for Ipv4Range {
    fn write(&self, to: &mut Writer) {
        let [a, b, c, d] = self.base.octets();
        to.bytes(&[a, b, c, d, self.prefix]);
    }
    fn read(from: &mut Reader<'_>) -> Result<Self, WireError> {
        let invalid = WireError::Invalid("IPv4 range");
        let [a, b, c, d, prefix]: [u8; 5] =
            from.bytes()?.try_into().map_err(|_| invalid.clone())?;
        Self::new([a, b, c, d].into(), prefix).map_err(|_| invalid)
    }
}

/// The IPv6 range of a network: `fd`, 40 bits of its hash, then 80 bits for
/// nodes (RFC 4193). Its first /112 is reserved like the first IPv4 /24.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ipv6Range([u8; 6]);

impl Ipv6Range {
    /// The prefix length in bits.
    pub const PREFIX: u8 = 48;

    /// The range of a network.
    pub fn of(network: NetworkId) -> Self {
        let hash = Digest::of_parts("epsilon/1 IPv6 range", &[&network.0]);
        let mut prefix = [0xfd; 6];
        prefix[1..].copy_from_slice(&hash.0[..5]);
        Self(prefix)
    }

    /// The first address.
    pub fn base(self) -> Ipv6Addr {
        self.with_host([0; 10])
    }

    /// Whether an address lies within.
    pub fn contains(self, address: Ipv6Addr) -> bool {
        address.octets().starts_with(&self.0)
    }

    /// The address of a node: permanent, and nobody else's, because it is a
    /// hash of its key.
    pub fn node(self, node: NodeId) -> Ipv6Addr {
        self.hashed("epsilon/1 IPv6 host", &node.0)
    }

    /// The address of a device, likewise.
    pub fn device(self, device: DeviceId) -> Ipv6Addr {
        self.hashed("epsilon/1 IPv6 host of a device", &device.0)
    }

    fn hashed(self, context: &str, key: &[u8]) -> Ipv6Addr {
        let hash = Digest::of_parts(context, &[&self.0, key]);
        let mut host = [0; 10];
        host.copy_from_slice(&hash.0[..10]);
        // Keeps out of the reserved first /112.
        host[0] |= 0x80;
        self.with_host(host)
    }

    /// A reserved address that is local to every node.
    pub fn local(self, host: u8) -> Ipv6Addr {
        // Written so that 53 reads `::53`.
        let digits = u16::from(host / 10 % 10) << 4 | u16::from(host % 10);
        let [high, low] = digits.to_be_bytes();
        self.with_host([0, 0, 0, 0, 0, 0, 0, 0, high, low])
    }

    fn with_host(self, host: [u8; 10]) -> Ipv6Addr {
        let mut octets = [0; 16];
        octets[..6].copy_from_slice(&self.0);
        octets[6..].copy_from_slice(&host);
        octets.into()
    }
}

impl fmt::Display for Ipv6Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base(), Self::PREFIX)
    }
}

/// The addresses of streams, where datagrams travel by TCP: of the prefix in which no host
/// is (RFC 6666), so that everything that knows addresses knows streams. Each node counts
/// its own.
const STREAMS: [u8; 8] = [1, 0, 0, 0, 0, 0, 0, 0];

/// The address of a stream.
pub fn stream_address(number: u64) -> SocketAddr {
    let mut octets = [0; 16];
    octets[..8].copy_from_slice(&STREAMS);
    octets[8..].copy_from_slice(&number.to_be_bytes());
    SocketAddr::new(IpAddr::V6(octets.into()), 1)
}

/// Whether an address is one of a stream.
pub fn is_stream(address: SocketAddr) -> bool {
    matches!(address.ip(), IpAddr::V6(ip) if ip.octets().starts_with(&STREAMS))
}

/// Whether a node may say that it can be reached here: unicast, with a port, and known to
/// others. (Whether it lies inside the mesh is another question.)
pub fn is_usable_endpoint(address: SocketAddr) -> bool {
    address.port() != 0
        && !is_stream(address)
        && match address.ip() {
            IpAddr::V4(ip) => {
                !ip.is_unspecified()
                    && !ip.is_multicast()
                    && !ip.is_broadcast()
                    && !ip.is_loopback()
            }
            IpAddr::V6(ip) => {
                !ip.is_unspecified()
                    && !ip.is_multicast()
                    && !ip.is_loopback()
                    && !ip.is_unicast_link_local()
                    && ip.to_ipv4_mapped().is_none()
            }
        }
}

/// Whether an address of IPv4 is behind a NAT (RFC 1918, 6598).
pub fn is_behind_nat(address: Ipv4Addr) -> bool {
    contains(SHARED, address) || PRIVATE.iter().any(|private| contains(*private, address))
}

/// Whether an address is the same for everybody (RFC 1918, 3927, 4193, 6598).
pub fn is_public(address: IpAddr) -> bool {
    let is_private = match address {
        IpAddr::V4(ip) => is_behind_nat(ip),
        IpAddr::V6(ip) => ip.is_unique_local(),
    };
    !(is_private || is_link_local(address) || address.is_loopback())
}

/// Whether an address means something on one link alone (RFC 3927, RFC 4291 section 2.5.6).
pub fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_shared_and_local_addresses_are_not_public() {
        for private in [
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "100.127.0.1",
            "169.254.1.1",
            "127.0.0.1",
            "fd00::1",
            "fe80::1",
            "::1",
        ] {
            assert!(!is_public(private.parse().unwrap()), "{private}");
        }
        for public in ["198.51.100.7", "100.128.0.1", "100.63.0.1", "2001:db8::1"] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
    }

    #[test]
    fn the_default_range_is_a_valid_one() {
        assert_eq!("10.77.0.0/16".parse(), Ok(DEFAULT_RANGE));
    }

    #[test]
    fn unusable_ranges_say_why() {
        for (text, reason) in [
            ("100.64.0.0/16", "RFC 6598"),
            ("8.8.0.0/16", "RFC 1918"),
            ("10.77.1.0/16", "bits set"),
            ("10.77.0.0/24", "between /8 and /22"),
            ("10.0.0.0/4", "between /8 and /22"),
            ("172.0.0.0/8", "RFC 1918"),
            ("10.77.0.0", "write it like"),
            ("10.77.0.0/x", "write it like"),
        ] {
            let error = text.parse::<Ipv4Range>().unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains(text), "{error}");
        }
    }

    #[test]
    fn an_address_of_a_stream_is_none_that_others_could_use() {
        let (first, other) = (stream_address(1), stream_address(u64::MAX));
        assert_eq!(first.to_string(), "[100::1]:1");
        assert!(is_stream(first) && is_stream(other) && first != other);
        assert!(!is_usable_endpoint(first));
        for no in ["[100:0:0:1::1]:1", "[2001:db8::1]:7755", "100.0.0.1:7755"] {
            let no = no.parse().unwrap();
            assert!(!is_stream(no) && is_usable_endpoint(no), "{no}");
        }
    }

    #[test]
    fn reserved_addresses_are_not_assignable() {
        assert!(!DEFAULT_RANGE.assignable(DEFAULT_RANGE.local(DNS_HOST)));
        assert!(!DEFAULT_RANGE.assignable(Ipv4Addr::new(10, 77, 0, 255)));
        assert!(DEFAULT_RANGE.assignable(Ipv4Addr::new(10, 77, 1, 0)));
        assert!(!DEFAULT_RANGE.assignable(Ipv4Addr::new(10, 77, 255, 255)));
        assert!(!DEFAULT_RANGE.assignable(Ipv4Addr::new(10, 78, 1, 0)));
        let v6 = Ipv6Range::of(NetworkId([1; 32]));
        assert!(v6.local(DNS_HOST).to_string().ends_with("::53"));
        assert!(v6.local(CLUSTER_API_HOST).to_string().ends_with("::6"));
    }

    proptest::proptest! {
        #[test]
        fn every_candidate_is_assignable(node: [u8; 32], network: [u8; 32], attempt: u32, prefix in 8u8..=22) {
            let range = Ipv4Range::new(Ipv4Addr::new(10, 0, 0, 0), prefix).unwrap();
            proptest::prop_assert!(range.assignable(range.candidate(NetworkId(network), NodeId(node), attempt)));
            let device = range.device_candidate(NetworkId(network), DeviceId(node), attempt);
            proptest::prop_assert!(range.assignable(device));
        }

        #[test]
        fn a_node_never_gets_a_reserved_ipv6_address(node: [u8; 32], network: [u8; 32]) {
            let range = Ipv6Range::of(NetworkId(network));
            let address = range.node(NodeId(node));
            proptest::prop_assert!(range.contains(address));
            proptest::prop_assert!(address.octets()[6..14] != [0; 8]);
        }

        #[test]
        fn no_text_makes_a_range_panic(text in ".{0,24}") {
            let _ = text.parse::<Ipv4Range>();
        }
    }
}
