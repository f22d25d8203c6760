//! The encodings of the standard library's types.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Reader, Wire, WireError, Writer};

/// The longest list that any structure may hold.
const MAX_LIST: u64 = 65_536;

macro_rules! unsigned {
    ($($type:ty => $what:literal),+) => {$(
        impl Wire for $type {
            fn write(&self, to: &mut Writer) {
                to.unsigned(u64::from(*self));
            }
            fn read(from: &mut Reader<'_>) -> Result<Self, WireError> {
                from.unsigned()?.try_into().map_err(|_| WireError::Invalid($what))
            }
        }
    )+};
}
unsigned!(u8 => "8-bit number", u16 => "16-bit number", u32 => "32-bit number");

impl Wire for u64 {
    fn write(&self, to: &mut Writer) {
        to.unsigned(*self);
    }
    fn read(from: &mut Reader<'_>) -> Result<Self, WireError> {
        from.unsigned()
    }
}

impl Wire for bool {
    fn write(&self, to: &mut Writer) {
        to.truth(*self);
    }
    fn read(from: &mut Reader<'_>) -> Result<Self, WireError> {
        from.truth()
    }
    fn absent() -> Option<Self> {
        Some(false)
    }
    fn is_absent(&self) -> bool {
        !*self
    }
}

impl Wire for String {
    fn write(&self, to: &mut Writer) {
        to.text(self);
    }
    fn read(from: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(from.text()?.to_owned())
    }
}

impl<T: Wire> Wire for Option<T> {
    fn write(&self, to: &mut Writer) {
        if let Some(value) = self {
            value.write(to);
        }
    }
    fn read(from: &mut Reader<'_>) -> Result<Self, WireError> {
        T::read(from).map(Some)
    }
    fn absent() -> Option<Self> {
        Some(None)
    }
    fn is_absent(&self) -> bool {
        self.is_none()
    }
}

/// As the value in it.
impl<T: Wire> Wire for Box<T> {
    fn write(&self, to: &mut Writer) {
        T::write(self, to);
    }
    fn read(from: &mut Reader<'_>) -> Result<Self, WireError> {
        T::read(from).map(Self::new)
    }
}

impl<T: Wire> Wire for Vec<T> {
    fn write(&self, to: &mut Writer) {
        to.list(self.len() as u64);
        for item in self {
            item.write(to);
        }
    }
    fn read(from: &mut Reader<'_>) -> Result<Self, WireError> {
        let items = from.list()?;
        if items > MAX_LIST {
            return Err(WireError::Invalid("list: too long"));
        }
        (0..items).map(|_| T::read(from)).collect()
    }
    fn absent() -> Option<Self> {
        Some(Vec::new())
    }
    fn is_absent(&self) -> bool {
        self.is_empty()
    }
}

impl<A: Wire, B: Wire> Wire for (A, B) {
    fn write(&self, to: &mut Writer) {
        to.list(2);
        self.0.write(to);
        self.1.write(to);
    }
    fn read(from: &mut Reader<'_>) -> Result<Self, WireError> {
        if from.list()? != 2 {
            return Err(WireError::Invalid("pair"));
        }
        Ok((A::read(from)?, B::read(from)?))
    }
}

/// A byte string. (A `Vec<u8>` would be a list of numbers.)
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Bytes(pub Vec<u8>);

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Wire for Bytes {
    fn write(&self, to: &mut Writer) {
        to.bytes(&self.0);
    }
    fn read(from: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self(from.bytes()?.to_vec()))
    }
}

impl Wire for Ipv4Addr {
    fn write(&self, to: &mut Writer) {
        to.bytes(&self.octets());
    }
    fn read(from: &mut Reader<'_>) -> Result<Self, WireError> {
        let octets: [u8; 4] =
            from.bytes()?.try_into().map_err(|_| WireError::Invalid("IPv4 address"))?;
        Ok(Self::from(octets))
    }
}

impl Wire for Ipv6Addr {
    fn write(&self, to: &mut Writer) {
        to.bytes(&self.octets());
    }
    fn read(from: &mut Reader<'_>) -> Result<Self, WireError> {
        let octets: [u8; 16] =
            from.bytes()?.try_into().map_err(|_| WireError::Invalid("IPv6 address"))?;
        Ok(Self::from(octets))
    }
}

/// 6 bytes for IPv4, 18 for IPv6: the address, then the port, big-endian.
/// Flow label and zone are not carried: they mean nothing on another host.
impl Wire for SocketAddr {
    fn write(&self, to: &mut Writer) {
        let port = self.port().to_be_bytes();
        match self.ip() {
            IpAddr::V4(ip) => to.bytes(&[&ip.octets()[..], &port].concat()),
            IpAddr::V6(ip) => to.bytes(&[&ip.octets()[..], &port].concat()),
        }
    }
    fn read(from: &mut Reader<'_>) -> Result<Self, WireError> {
        let bytes = from.bytes()?;
        let (ip, port) =
            bytes.split_last_chunk::<2>().ok_or(WireError::Invalid("socket address"))?;
        let ip: IpAddr = if let Ok(octets) = <[u8; 4]>::try_from(ip) {
            octets.into()
        } else if let Ok(octets) = <[u8; 16]>::try_from(ip) {
            octets.into()
        } else {
            return Err(WireError::Invalid("socket address"));
        };
        Ok(Self::new(ip, u16::from_be_bytes(*port)))
    }
}
