//! Who has which address: pure, so that it can be read off without a lab.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use epsilon_sys::netlink::Prefix;

use super::spec::Families;

/// The most sites of a lab: below the mesh's own default range, 10.77.0.0/16.
pub(super) const MOST_SITES: u8 = 64;

/// The most hosts of a site.
pub(super) const MOST_HOSTS: u8 = 200;

/// An address of each family, with the length of its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) v4: Ipv4Addr,
    v4_length: u8,
    pub(super) v6: Ipv6Addr,
    v6_length: u8,
}

impl Pair {
    pub(super) fn prefixes(&self) -> [Prefix; 2] {
        [Prefix::new(self.v4, self.v4_length), Prefix::new(self.v6, self.v6_length)]
    }

    pub(super) fn addresses(&self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }

    /// The prefixes of some families.
    pub(super) fn of(self, families: Families) -> impl Iterator<Item = Prefix> {
        self.prefixes().into_iter().filter(move |prefix| families.has(prefix.address()))
    }
}

/// The port of a daemon.
pub(super) const MESH_PORT: u16 = 7755;

/// The addresses of a site's own network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lan {
    pub(super) site: u8,
    /// Behind a NAT every site has the same IPv4 network, as at home.
    pub(super) is_private: bool,
}

impl Lan {
    /// The `host`th host, from 1: `10.2.0.11` and `fd00:2::11` for the first of site 2,
    /// `192.168.1.11` behind a NAT.
    pub(super) fn host(self, host: u8) -> Pair {
        self.at(host.saturating_add(10))
    }

    /// The gateway, as its hosts see it: `10.2.0.1` and `fd00:2::1`.
    pub(super) fn gateway(self) -> Pair {
        self.at(1)
    }

    fn at(self, number: u8) -> Pair {
        let Self { site, is_private } = self;
        Pair {
            v4: if is_private {
                Ipv4Addr::new(192, 168, 1, number)
            } else {
                Ipv4Addr::new(10, site, 0, number)
            },
            v4_length: 24,
            v6: Ipv6Addr::new(0xfd00, as_read(site), 0, 0, 0, 0, 0, as_read(number)),
            v6_length: 64,
        }
    }
}

/// The network between a NAT and the next one: that end of it where the outer one is, or
/// the inner one (RFC 6598).
pub(super) fn between(layer: u8, is_outer: bool) -> Pair {
    Pair {
        v4: Ipv4Addr::new(100, 64, layer, if is_outer { 1 } else { 2 }),
        v4_length: 24,
        ..uplink(layer)
    }
}

/// The gateway of a site, as the other gateways see it, on the network that
/// connects them: `198.18.0.2` (RFC 2544) and `fd00:ffff::2`.
pub(super) fn uplink(site: u8) -> Pair {
    Pair {
        v4: Ipv4Addr::new(198, 18, 0, site),
        v4_length: 24,
        v6: Ipv6Addr::new(0xfd00, 0xffff, 0, 0, 0, 0, 0, as_read(site)),
        v6_length: 64,
    }
}

/// The hardware address of a gateway's bridge, so that it stays the same
/// whatever is plugged in.
pub(super) fn bridge(site: u8) -> [u8; 6] {
    [0x02, 0, 0, 0, site, 1]
}

/// The number whose hexadecimal digits are the decimal digits of `number`, so
/// that a person reads the same in both families.
fn as_read(number: u8) -> u16 {
    let number = u16::from(number);
    ((number / 100) << 8) | ((number / 10 % 10) << 4) | (number % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_read_alike() {
        let routed = |site| Lan { site, is_private: false };
        let pair = routed(12).host(200);
        assert_eq!(pair.v4.to_string(), "10.12.0.210");
        assert_eq!(pair.v6.to_string(), "fd00:12::210");
        assert_eq!(routed(3).gateway().v6.to_string(), "fd00:3::1");
        assert_eq!(uplink(64).v6.to_string(), "fd00:ffff::64");
    }

    #[test]
    fn no_site_overlaps_another_the_uplinks_or_the_default_range_of_the_mesh() {
        let mesh = Prefix::new(Ipv4Addr::new(10, 77, 0, 0), 16);
        let lan = |site, is_private| Lan { site, is_private };
        for site in 1..=MOST_SITES {
            for own in lan(site, false).gateway().prefixes() {
                assert!(!own.overlaps(&mesh));
                assert!(uplink(site).prefixes().iter().all(|uplink| !own.overlaps(uplink)));
                for other in
                    (1..site).flat_map(|other| lan(other, other % 2 == 0).gateway().prefixes())
                {
                    assert!(!own.overlaps(&other), "{own} and {other}");
                }
                let last = lan(site, false).host(MOST_HOSTS).addresses();
                assert!(last.iter().filter(|last| own.contains(**last)).count() == 1);
            }
        }
    }
}
