use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage,
};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteNextHop, RouteType,
};

/// An interface, by whichever handle the caller has.
///
/// A name may be taken over by another interface, an index never is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interface<'a> {
    /// By name, `eth0`.
    Name(&'a str),
    /// By index, as in [`Link::index`].
    Index(u32),
}

impl<'a> From<&'a str> for Interface<'a> {
    fn from(name: &'a str) -> Self {
        Self::Name(name)
    }
}

impl<'a> From<&'a String> for Interface<'a> {
    fn from(name: &'a String) -> Self {
        Self::Name(name)
    }
}

impl From<u32> for Interface<'_> {
    fn from(index: u32) -> Self {
        Self::Index(index)
    }
}

impl From<&Link> for Interface<'_> {
    fn from(link: &Link) -> Self {
        Self::Index(link.index)
    }
}

impl fmt::Display for Interface<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Index(index) => write!(f, "index {index}"),
        }
    }
}

/// An address and the number of its leading bits that name the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    /// The address. Its host bits may be set.
    pub address: IpAddr,
    /// The length in bits, at most 32 or 128.
    pub length: u8,
}

impl Prefix {
    /// `address`/`length`.
    pub fn new(address: impl Into<IpAddr>, length: u8) -> Self {
        Self { address: address.into(), length }
    }

    /// The address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// A single address: /32 or /128.
    pub fn host(address: impl Into<IpAddr>) -> Self {
        let address = address.into();
        let length = if address.is_ipv4() { 32 } else { 128 };
        Self { address, length }
    }

    /// Whether any address is in both.
    pub fn overlaps(&self, other: &Self) -> bool {
        let shorter = self.length.min(other.length);
        match (self.address, other.address) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                let differing = u32::from(a) ^ u32::from(b);
                differing.leading_zeros() >= u32::from(shorter)
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                let differing = u128::from(a) ^ u128::from(b);
                differing.leading_zeros() >= u32::from(shorter)
            }
            _ => false,
        }
    }

    /// Whether `address` is inside.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.overlaps(&Self::host(address))
    }

    /// The same network with its host bits cleared.
    #[must_use]
    pub fn network(&self) -> Self {
        let address = match self.address {
            IpAddr::V4(v4) => {
                let host = u32::MAX.checked_shr(self.length.into()).unwrap_or(0);
                IpAddr::V4((u32::from(v4) & !host).into())
            }
            IpAddr::V6(v6) => {
                let host = u128::MAX.checked_shr(self.length.into()).unwrap_or(0);
                IpAddr::V6((u128::from(v6) & !host).into())
            }
        };
        Self { address, length: self.length }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// A network interface.
#[allow(clippy::struct_excessive_bools, reason = "the kernel's independent flags")]
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Link {
    /// Unique while the namespace lives.
    pub index: u32,
    /// `eth0`.
    pub name: String,
    /// The largest packet in bytes.
    pub mtu: u32,
    /// Whether it is switched on.
    pub up: bool,
    /// Whether it has a carrier: a cable that is plugged in at both ends.
    pub carrier: bool,
    /// Whether it is the loopback interface.
    pub loopback: bool,
    /// Whether it can send to many at once.
    pub multicast: bool,
    /// The kind of a virtual interface (`veth`, `bridge`, `tun`, …).
    pub kind: Option<String>,
    /// The index of the bridge or bond that it belongs to.
    pub controller: Option<u32>,
    /// A free text for people.
    pub alias: Option<String>,
}

impl Link {
    pub(super) fn from_message(message: LinkMessage) -> Self {
        let flags = message.header.flags;
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            mtu: 0,
            up: flags.contains(LinkFlags::Up),
            carrier: flags.contains(LinkFlags::LowerUp),
            loopback: flags.contains(LinkFlags::Loopback),
            multicast: flags.contains(LinkFlags::Multicast),
            kind: None,
            controller: None,
            alias: None,
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Controller(index) => link.controller = Some(index),
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
                LinkAttribute::LinkInfo(infos) => {
                    link.kind = infos.into_iter().find_map(|info| match info {
                        LinkInfo::Kind(kind) => Some(kind.to_string()),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        link
    }
}

/// An address of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Address {
    /// The index of the interface.
    pub interface: u32,
    /// The address and its network.
    pub prefix: Prefix,
    /// Whether packets can be sent from it: duplicate address detection is
    /// over and found none.
    pub usable: bool,
    /// Whether new connections should prefer another address.
    pub deprecated: bool,
    /// Whether it is a privacy address that will be replaced (IPv6 only).
    pub temporary: bool,
}

impl Address {
    pub(super) fn from_message(message: &AddressMessage) -> Option<Self> {
        let header = &message.header;
        // With a point-to-point peer, IFA_ADDRESS is the other end's.
        let mut local = None;
        let mut either = None;
        let mut flags = AddressFlags::from_bits_retain(header.flags.bits().into());
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Local(address) => local = Some(*address),
                AddressAttribute::Address(address) => either = Some(*address),
                AddressAttribute::Flags(full) => flags = *full,
                _ => {}
            }
        }
        let address = local.or(either)?;
        Some(Self {
            interface: header.index,
            prefix: Prefix::new(address, header.prefix_len),
            usable: !flags.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed),
            deprecated: flags.contains(AddressFlags::Deprecated),
            temporary: address.is_ipv6() && flags.contains(AddressFlags::Secondary),
        })
    }

    pub(super) fn message(interface: u32, prefix: Prefix) -> AddressMessage {
        let mut message = match prefix.address {
            IpAddr::V4(address) => rtnetlink::AddressMessageBuilder::<Ipv4Addr>::new()
                .index(interface)
                .address(address, prefix.length)
                .build(),
            IpAddr::V6(address) => rtnetlink::AddressMessageBuilder::<Ipv6Addr>::new()
                .index(interface)
                .address(address, prefix.length)
                .build(),
        };
        if prefix.address.is_ipv6() {
            message.header.flags = AddressHeaderFlags::Nodad;
        }
        message
    }
}

/// A route of the main table.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Route {
    /// Where it leads; `0.0.0.0/0` or `::/0` for a default route.
    pub destination: Prefix,
    /// The index of the outgoing interface; `None` where packets are dropped
    /// or refused.
    pub interface: Option<u32>,
    /// The next hop; `None` where the destination is on the link itself.
    pub gateway: Option<IpAddr>,
    /// The kernel prefers the lowest.
    pub metric: Option<u32>,
}

impl Route {
    /// The routes in a message: one for each next hop, none where the message
    /// is not about the main table or about traffic of this host itself.
    pub(super) fn from_message(message: &RouteMessage) -> Vec<Self> {
        Self::in_table(message, u32::from(RouteHeader::RT_TABLE_MAIN))
    }

    /// The same of another table.
    pub(super) fn in_table(message: &RouteMessage, wanted: u32) -> Vec<Self> {
        let header = &message.header;
        let forwards = matches!(
            header.kind,
            RouteType::Unicast
                | RouteType::BlackHole
                | RouteType::Unreachable
                | RouteType::Prohibit
                | RouteType::Throw
        );
        let unspecified = match header.address_family {
            AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            _ => return Vec::new(),
        };
        let mut table = u32::from(header.table);
        let mut route = Self {
            destination: Prefix::new(unspecified, header.destination_prefix_length),
            interface: None,
            gateway: None,
            metric: None,
        };
        let mut hops: &[RouteNextHop] = &[];
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Table(full) => table = *full,
                RouteAttribute::Destination(address) => {
                    if let Some(address) = ip(address) {
                        route.destination.address = address;
                    }
                }
                RouteAttribute::Oif(index) => route.interface = Some(*index),
                RouteAttribute::Gateway(address) => route.gateway = ip(address),
                RouteAttribute::Priority(metric) => route.metric = Some(*metric),
                RouteAttribute::MultiPath(many) => hops = many,
                _ => {}
            }
        }
        if !forwards || table != wanted {
            return Vec::new();
        }
        if hops.is_empty() {
            return vec![route];
        }
        hops.iter()
            .map(|hop| Self {
                interface: Some(hop.interface_index),
                gateway: hop.attributes.iter().find_map(|attribute| match attribute {
                    RouteAttribute::Gateway(address) => ip(address),
                    _ => None,
                }),
                ..route.clone()
            })
            .collect()
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "route {}", self.destination)?;
        if let Some(gateway) = self.gateway {
            write!(f, " via {gateway}")?;
        }
        match self.interface {
            Some(index) => write!(f, " on interface index {index}"),
            None => f.write_str(" to nowhere"),
        }
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        let (address, length) = text.split_once('/').unwrap();
        Prefix::new(address.parse::<IpAddr>().unwrap(), length.parse().unwrap())
    }

    #[test]
    fn ranges_overlap_when_one_holds_the_other() {
        for (a, b, expected) in [
            ("10.77.0.0/16", "10.77.3.0/24", true),
            ("10.77.3.0/24", "10.77.0.0/16", true),
            ("10.77.0.0/16", "10.78.0.0/16", false),
            ("0.0.0.0/0", "10.0.0.1/32", true),
            ("10.0.0.1/32", "10.0.0.1/32", true),
            ("10.0.0.1/32", "10.0.0.2/32", false),
            ("fd00::/8", "fd00:1::/64", true),
            ("fd00:1::/64", "fd00:2::/64", false),
            ("::/0", "0.0.0.0/0", false),
        ] {
            assert_eq!(prefix(a).overlaps(&prefix(b)), expected, "{a} and {b}");
        }
    }

    #[test]
    fn a_network_has_its_host_bits_cleared() {
        for (given, expected) in [
            ("10.1.2.3/24", "10.1.2.0/24"),
            ("10.1.2.3/32", "10.1.2.3/32"),
            ("10.1.2.3/0", "0.0.0.0/0"),
            ("fd00::1/64", "fd00::/64"),
            ("fd00::1/128", "fd00::1/128"),
            ("fd00::1/0", "::/0"),
        ] {
            assert_eq!(prefix(given).network(), prefix(expected));
        }
    }
}
