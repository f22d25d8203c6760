//! Which router leads out.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use epsilon_mesh::path::LocalPrefix;
use epsilon_proto::address::is_behind_nat;
use epsilon_sys::netlink::{Prefix, Route};

use super::plan::Place;

/// A default route of IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::network) struct WayOut {
    interface: u32,
    gateway: Option<IpAddr>,
    /// The kernel takes the lowest.
    metric: u32,
}

impl WayOut {
    /// A route as a way out, if it is one.
    pub(in crate::network) fn of(route: &Route) -> Option<Self> {
        let Route { destination, interface, gateway, metric, .. } = *route;
        let is_default = destination == Prefix::new(Ipv4Addr::UNSPECIFIED, 0);
        let interface = interface.filter(|_| is_default)?;
        Some(Self { interface, gateway, metric: metric.unwrap_or(0) })
    }
}

/// The router of the way out that the kernel takes, if this host has an address behind it
/// that is not known outside: `local` are the addresses of the host without those of meshes,
/// and on which interfaces they are.
pub(in crate::network) fn place(
    ways: &[WayOut],
    local: &BTreeSet<(u32, LocalPrefix)>,
) -> Option<Place> {
    let way = ways.iter().min_by_key(|way| way.metric)?;
    let IpAddr::V4(router) = way.gateway? else { return None };
    let own = local.iter().find_map(|(interface, (address, length))| match address {
        IpAddr::V4(own) => {
            let is_near = Prefix::new(*own, *length).contains(router.into());
            (*interface == way.interface && is_near).then_some(*own)
        }
        IpAddr::V6(_) => None,
    })?;
    is_behind_nat(own).then_some(Place { router, own })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(gateway: Option<&str>, interface: u32, metric: u32) -> WayOut {
        WayOut { interface, gateway: gateway.map(|text| text.parse().unwrap()), metric }
    }

    fn found(ways: &[WayOut], local: &[(u32, &str, u8)]) -> Option<(String, String)> {
        let local = local
            .iter()
            .map(|(interface, address, length)| (*interface, (address.parse().unwrap(), *length)));
        let place = place(ways, &local.collect())?;
        Some((place.router.to_string(), place.own.to_string()))
    }

    #[test]
    fn the_router_of_the_best_way_is_asked_from_the_address_on_its_network() {
        let ways = [way(Some("10.0.0.1"), 3, 600), way(Some("192.168.1.1"), 2, 100)];
        let local =
            [(2, "172.16.0.9", 16), (2, "192.168.1.7", 24), (3, "10.0.0.7", 8), (2, "fd00::7", 64)];
        let wanted = ("192.168.1.1".to_owned(), "192.168.1.7".to_owned());
        assert_eq!(found(&ways, &local), Some(wanted));
    }

    #[test]
    fn nobody_is_asked_where_there_is_no_router_or_no_nat() {
        let at_home = [(2, "192.168.1.7", 24)];
        assert_eq!(found(&[], &at_home), None);
        assert_eq!(found(&[way(None, 2, 0)], &at_home), None, "a tunnel");
        let router = [way(Some("192.168.1.1"), 2, 0)];
        assert_eq!(found(&router, &[]), None);
        assert_eq!(found(&router, &[(5, "192.168.1.7", 24)]), None, "on another interface");
        assert_eq!(found(&[way(Some("fe80::1"), 2, 0)], &at_home), None, "over IPv6");
        let server = [way(Some("198.51.100.1"), 2, 0)];
        assert_eq!(found(&server, &[(2, "198.51.100.7", 24)]), None, "its address is public");
        let ways = [way(None, 4, 50), way(Some("192.168.1.1"), 2, 100)];
        assert_eq!(found(&ways, &at_home), None, "a tunnel takes everything");
        let carrier = [way(Some("100.64.0.1"), 2, 0)];
        assert!(found(&carrier, &[(2, "100.64.0.7", 24)]).is_some());
    }
}
