//! Devices: members without the daemon, which speak plain WireGuard with the
//! node that owns them.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

use zeroize::Zeroizing;

use crate::address::{DEFAULT_MTU, Ipv4Range, Ipv6Range};
use crate::clock::Timestamp;
use crate::document::Document;
use crate::id::{DeviceId, NodeId};
use crate::key::AgreementKey;
use crate::name::NodeName;
use crate::token::HostPort;
use crate::wire::{WireError, wire_struct};

/// The most devices that a node may own, and the most that it may serve.
pub const MAX_DEVICES: usize = 1024;
/// The most nodes besides its owner that may serve a device.
pub const MAX_FALLBACKS: usize = 3;

/// What a node says about devices: those that it owns, and those that it
/// serves. Signed by the node.
///
/// Of two lists by one node the one with the higher sequence counts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeviceList {
    /// Counts the lists of the node, over all its runs.
    pub sequence: u64,
    /// Those that it owns, by key.
    pub devices: Vec<Device>,
    /// Those that came to this node while another served them, by id.
    pub serving: Vec<Serving>,
}
wire_struct!(DeviceList { 0 => sequence, 1 => devices, 2 => serving } check |list| list.check());

impl Document for DeviceList {
    const TYPE: &'static str = "devices";
    const MAX_BYTES: usize = 320 * 1024;
}

impl DeviceList {
    fn check(&self) -> Result<(), WireError> {
        let refuse = |what| Err(WireError::Invalid(what));
        if self.devices.len() > MAX_DEVICES || self.serving.len() > MAX_DEVICES {
            return refuse("devices: too many");
        }
        if !self.devices.is_sorted_by(|a, b| a.key < b.key)
            || !self.serving.is_sorted_by(|a, b| a.device < b.device)
        {
            return refuse("devices: not in order");
        }
        let addresses: BTreeSet<_> = self.devices.iter().map(|device| device.ipv4).collect();
        let names: BTreeSet<_> = self.devices.iter().map(|device| &device.name).collect();
        if addresses.len() < self.devices.len() || names.len() < self.devices.len() {
            return refuse("devices: two with one name or address");
        }
        if self.devices.iter().any(|device| device.fallbacks.len() > MAX_FALLBACKS) {
            return refuse("devices: too many fallbacks");
        }
        Ok(())
    }

    /// Which turn at a device this node had last; 0 for none.
    pub fn turn(&self, device: DeviceId) -> u64 {
        let place = self.serving.binary_search_by_key(&device, |serving| serving.device);
        place.ok().and_then(|place| self.serving.get(place)).map_or(0, |serving| serving.turn)
    }
}

/// A device, in the words of its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its WireGuard key.
    pub key: AgreementKey,
    /// The owner's claim to a name for it.
    pub name: NodeName,
    /// The owner's claim to an IPv4 address for it.
    pub ipv4: Ipv4Addr,
    /// Who else may serve it.
    pub fallbacks: Vec<NodeId>,
    /// When it was added, by the owner's clock: information only.
    pub added: Timestamp,
}
wire_struct!(Device { 0 => key, 1 => name, 2 => ipv4, 3 => fallbacks, 4 => added });

/// That a device came to the node that says so.
///
/// Whoever may serve it and has had the highest turn serves it, before any
/// turn its owner. A turn is one more than all that the node knew of, so that
/// no clock decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Serving {
    /// Which device.
    pub device: DeviceId,
    /// Counts the moves of the device.
    pub turn: u64,
}
wire_struct!(Serving { 0 => device, 1 => turn });

/// What a device's WireGuard has to be told, in the format of wg-quick(8).
pub struct WgQuick<'a> {
    /// Says which network, device and node the file is about.
    pub title: String,
    /// The device's key; its own if absent.
    pub private_key: Option<&'a [u8; 32]>,
    /// The device's IPv4 address.
    pub ipv4: Ipv4Addr,
    /// The device's IPv6 address.
    pub ipv6: Ipv6Addr,
    /// The node that serves it.
    pub server: AgreementKey,
    /// Where that node is.
    pub endpoint: &'a HostPort,
    /// The network's addresses.
    pub range: Ipv4Range,
    /// The network's addresses.
    pub range6: Ipv6Range,
}

/// Seconds between keepalives: NATs forget a flow after 30 s at the earliest
/// (RFC 4787, section 4.3, and what routers do).
const KEEPALIVE: u32 = 25;

impl WgQuick<'_> {
    /// The file, with the private key in it.
    pub fn to_text(&self) -> Zeroizing<String> {
        // Long enough to never move what is secret.
        let mut text = Zeroizing::new(String::with_capacity(1024));
        let key = match self.private_key {
            Some(key) => {
                let mut encoded = Zeroizing::new([0; 44]);
                data_encoding::BASE64.encode_mut(key, &mut *encoded);
                Zeroizing::new(String::from_utf8_lossy(&*encoded).into_owned())
            }
            None => Zeroizing::new("(the device's own)".to_owned()),
        };
        let _ = write!(
            text,
            "# {}\n\
             [Interface]\n\
             PrivateKey = {}\n\
             Address = {}/32, {}/128\n\
             MTU = {DEFAULT_MTU}\n\
             \n\
             [Peer]\n\
             PublicKey = {}\n\
             AllowedIPs = {}, {}\n\
             Endpoint = {}\n\
             PersistentKeepalive = {KEEPALIVE}\n",
            self.title,
            *key,
            self.ipv4,
            self.ipv6,
            self.server,
            self.range,
            self.range6,
            self.endpoint,
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire;

    fn device(key: u8, name: &str, host: u8) -> Device {
        Device {
            key: AgreementKey([key; 32]),
            name: name.parse().unwrap(),
            ipv4: Ipv4Addr::new(10, 77, 1, host),
            fallbacks: Vec::new(),
            added: Timestamp(1),
        }
    }

    fn is_list(devices: Vec<Device>) -> bool {
        let list = DeviceList { sequence: 1, devices, serving: Vec::new() };
        wire::decode::<DeviceList>(&wire::encode(&list)).is_ok()
    }

    #[test]
    fn a_list_is_in_order_and_says_nothing_twice() {
        assert!(is_list(vec![device(1, "a", 1), device(2, "b", 2)]));
        assert!(!is_list(vec![device(2, "b", 2), device(1, "a", 1)]));
        assert!(!is_list(vec![device(1, "a", 1), device(1, "b", 2)]));
        assert!(!is_list(vec![device(1, "a", 1), device(2, "a", 2)]));
        assert!(!is_list(vec![device(1, "a", 1), device(2, "b", 1)]));
        let crowded = Device { fallbacks: vec![NodeId([1; 32]); 4], ..device(1, "a", 1) };
        assert!(!is_list(vec![crowded]));
    }

    #[test]
    fn the_longest_list_fits_a_document() {
        let devices: Vec<Device> = (0..MAX_DEVICES)
            .map(|index| {
                let mut key = [0; 32];
                key[..2].copy_from_slice(&(index as u16).to_be_bytes());
                Device {
                    key: AgreementKey(key),
                    name: format!("{index:063}").parse().unwrap(),
                    ipv4: Ipv4Addr::from(index as u32),
                    fallbacks: vec![NodeId([7; 32]); MAX_FALLBACKS],
                    added: Timestamp(u64::MAX),
                }
            })
            .collect();
        let id = |one: &Device| DeviceId(one.key.0);
        let serving = devices.iter().map(|one| Serving { device: id(one), turn: u64::MAX });
        let list = DeviceList { sequence: u64::MAX, serving: serving.collect(), devices };
        let bytes = wire::encode(&list);
        assert!(bytes.len() <= DeviceList::MAX_BYTES, "{}", bytes.len());
        assert_eq!(wire::decode(&bytes), Ok(list));
    }

    #[test]
    fn a_configuration_reads_as_wg_quick_has_it() {
        let range6 = Ipv6Range::of(crate::id::NetworkId([1; 32]));
        let text = |private_key| {
            let config = WgQuick {
                title: "phone in home, by n1".to_owned(),
                private_key,
                ipv4: Ipv4Addr::new(10, 77, 3, 4),
                ipv6: range6.base(),
                server: AgreementKey([2; 32]),
                endpoint: &"[2001:db8::1]:7755".parse().unwrap(),
                range: crate::address::DEFAULT_RANGE,
                range6,
            };
            config.to_text().to_string()
        };
        let expected = format!(
            "# phone in home, by n1\n[Interface]\n\
             PrivateKey = AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\n\
             Address = 10.77.3.4/32, {}/128\nMTU = 1420\n\n[Peer]\n\
             PublicKey = AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=\n\
             AllowedIPs = 10.77.0.0/16, {range6}\n\
             Endpoint = [2001:db8::1]:7755\nPersistentKeepalive = 25\n",
            range6.base()
        );
        assert_eq!(text(Some(&[1; 32])), expected);
        assert!(text(None).contains("PrivateKey = (the device's own)\n"));
    }
}
