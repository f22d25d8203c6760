//! Blocks of addresses, as routes have them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::wire::{Reader, Wire, WireError, Writer};

/// A block of addresses: those that share their first bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

/// What no packet is routed to.
const SPECIAL: [(IpAddr, u8); 7] = [
    (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 8),
    (IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8),
    (IpAddr::V4(Ipv4Addr::new(169, 254, 0, 0)), 16),
    (IpAddr::V4(Ipv4Addr::new(224, 0, 0, 0)), 3),
    (IpAddr::V6(Ipv6Addr::UNSPECIFIED), 16),
    (IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)), 10),
    (IpAddr::V6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0)), 8),
];

/// Why a text is not a block of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PrefixError {
    /// Not of the form.
    #[error("`{0}` is no block of addresses; write it like 192.168.10.0/24 or fd12::/64")]
    Form(String),
    /// Bits behind the length.
    #[error("`{text}` has bits set behind its length; the block is {block}")]
    HostBits {
        /// As written.
        text: String,
        /// Which was meant.
        block: Prefix,
    },
}

impl Prefix {
    /// Every IPv4 address.
    pub const ALL_V4: Self = Self { address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), length: 0 };

    /// Every IPv6 address.
    pub const ALL_V6: Self = Self { address: IpAddr::V6(Ipv6Addr::UNSPECIFIED), length: 0 };

    /// The block of the given length around an address. Bits behind the
    /// length are cleared; a length beyond the family's is the whole address.
    pub fn new(address: IpAddr, length: u8) -> Self {
        match address {
            IpAddr::V4(address) => {
                let length = length.min(32);
                let address = Ipv4Addr::from_bits(address.to_bits() & mask_v4(length));
                Self { address: address.into(), length }
            }
            IpAddr::V6(address) => {
                let length = length.min(128);
                let address = Ipv6Addr::from_bits(address.to_bits() & mask_v6(length));
                Self { address: address.into(), length }
            }
        }
    }

    /// The block of one address.
    pub fn host(address: impl Into<IpAddr>) -> Self {
        Self::new(address.into(), 128)
    }

    /// The first address.
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// The length in bits.
    pub fn length(self) -> u8 {
        self.length
    }

    /// Whether it is everything of its family: a default route.
    pub fn is_everything(self) -> bool {
        self.length == 0
    }

    /// Whether an address lies within.
    pub fn contains(self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4() && Self::new(address, self.length) == self
    }

    /// Whether all of another block lies within.
    pub fn covers(self, other: Self) -> bool {
        self.length <= other.length && self.contains(other.address)
    }

    /// Whether any address is in both.
    pub fn overlaps(self, other: Self) -> bool {
        self.covers(other) || other.covers(self)
    }

    /// Whether packets for it can be routed: nothing in it is for groups, for the host or for
    /// its link (RFC 6890, 4291), and it is everything or at least as long as what is given
    /// to one network at most.
    pub fn is_routable(self) -> bool {
        let longest = if self.address.is_ipv4() { 8 } else { 16 };
        let special = SPECIAL.into_iter().map(|(address, length)| Self::new(address, length));
        self.is_everything()
            || (self.length >= longest && !special.into_iter().any(|one| one.overlaps(self)))
    }
}

/// The first bits of an IPv4 address, so many of them.
pub fn mask_v4(length: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0)
}

/// The same of an IPv6 address.
pub fn mask_v6(length: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0)
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// `192.168.10.0/24`, `fd12::/64`; an address alone is the block of it.
impl FromStr for Prefix {
    type Err = PrefixError;
    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let form = || PrefixError::Form(text.to_owned());
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length.parse::<u8>().map_err(|_| form())?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| form())?;
        let whole = if address.is_ipv4() { 32 } else { 128 };
        let length = length.unwrap_or(whole);
        if length > whole {
            return Err(form());
        }
        let block = Self::new(address, length);
        if block.address == address {
            Ok(block)
        } else {
            Err(PrefixError::HostBits { text: text.to_owned(), block })
        }
    }
}

/// The bytes of the address, then the length.
impl Wire for Prefix {
    fn write(&self, to: &mut Writer) {
        match self.address {
            IpAddr::V4(address) => to.bytes(&[&address.octets()[..], &[self.length]].concat()),
            IpAddr::V6(address) => to.bytes(&[&address.octets()[..], &[self.length]].concat()),
        }
    }
    fn read(from: &mut Reader<'_>) -> Result<Self, WireError> {
        let wrong = || WireError::Invalid("block of addresses");
        let (length, address) = from.bytes()?.split_last().ok_or_else(wrong)?;
        let address: IpAddr = if let Ok(octets) = <[u8; 4]>::try_from(address) {
            octets.into()
        } else if let Ok(octets) = <[u8; 16]>::try_from(address) {
            octets.into()
        } else {
            return Err(wrong());
        };
        let block = Self::new(address, *length);
        if (block.address, block.length) == (address, *length) { Ok(block) } else { Err(wrong()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn blocks_are_read_as_they_are_shown() {
        for text in ["192.168.10.0/24", "0.0.0.0/0", "10.1.2.3/32", "fd12::/64", "::/0"] {
            assert_eq!(prefix(text).to_string(), text);
        }
        assert_eq!(prefix("10.1.2.3").to_string(), "10.1.2.3/32");
        let wrong = "192.168.10.5/24".parse::<Prefix>().unwrap_err();
        assert!(wrong.to_string().contains("the block is 192.168.10.0/24"), "{wrong}");
        for text in ["", "/24", "10.0.0.0/33", "fd00::/129", "10.0.0.0/-1", "10.0/8", "n2"] {
            assert!(text.parse::<Prefix>().is_err(), "{text}");
        }
    }

    #[test]
    fn one_block_covers_another_or_not() {
        for (a, b, covers, overlaps) in [
            ("10.0.0.0/8", "10.1.0.0/16", true, true),
            ("10.1.0.0/16", "10.0.0.0/8", false, true),
            ("10.1.0.0/16", "10.2.0.0/16", false, false),
            ("0.0.0.0/0", "10.2.0.0/16", true, true),
            ("0.0.0.0/0", "fd00::/8", false, false),
            ("fd00::/8", "fd12::/64", true, true),
        ] {
            let (a, b) = (prefix(a), prefix(b));
            assert_eq!((a.covers(b), a.overlaps(b), b.overlaps(a)), (covers, overlaps, overlaps));
        }
    }

    #[test]
    fn what_means_a_host_its_link_or_a_group_is_not_routable() {
        for text in ["224.0.0.0/4", "127.0.0.0/8", "169.254.0.0/16", "0.0.0.0/8", "255.255.255.255"]
        {
            assert!(!prefix(text).is_routable(), "{text}");
        }
        for text in [
            "ff00::/8",
            "fe80::/10",
            "::1",
            "::ffff:10.0.0.0/104",
            "0.0.0.0/1",
            "::/1",
            "160.0.0.0/3",
        ] {
            assert!(!prefix(text).is_routable(), "{text}");
        }
        for text in ["32.0.0.0/3", "2000::/3", "8.0.0.0/7"] {
            assert!(!prefix(text).is_routable(), "{text} is more than anybody has");
        }
        for text in ["10.0.0.0/8", "0.0.0.0/0", "::/0", "fd12::/64", "2001:db8::/32", "8.8.8.8"] {
            assert!(prefix(text).is_routable(), "{text}");
        }
    }

    #[test]
    fn bits_behind_the_length_are_refused_on_the_wire() {
        let bytes = wire::encode(&prefix("10.1.0.0/16"));
        assert_eq!(wire::decode::<Prefix>(&bytes), Ok(prefix("10.1.0.0/16")));
        let mut wrong = bytes.clone();
        wrong[4] = 1;
        assert!(wire::decode::<Prefix>(&wrong).is_err());
        let mut wrong = bytes;
        wrong[5] = 33;
        assert!(wire::decode::<Prefix>(&wrong).is_err());
    }
}
