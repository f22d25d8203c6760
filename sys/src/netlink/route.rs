use std::net::IpAddr;

use futures::TryStreamExt;
use nix::libc;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{RouteMessage, RouteScope};

use super::error::errno;
use super::{Error, Interface, Netlink, Prefix, Route};

impl Netlink {
    /// Every route of the main table, of both families.
    ///
    /// A route with several next hops appears once for each of them.
    pub async fn routes(&self) -> Result<Vec<Route>, Error> {
        let all = self.all_routes().await?;
        Ok(all.iter().flat_map(Route::from_message).collect())
    }

    /// Every route of every table.
    pub(super) async fn all_routes(&self) -> Result<Vec<RouteMessage>, Error> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut question = RouteMessage::default();
            question.header.address_family = family;
            let answers: Vec<RouteMessage> = self
                .handle
                .route()
                .get(question)
                .execute()
                .try_collect()
                .await
                .map_err(|error| Error::during("list the routes", &error))?;
            routes.extend(answers);
        }
        Ok(routes)
    }

    /// Routes `destination` through an interface, by `gateway` or, without
    /// one, directly on the link; keeps the same route if it is there.
    ///
    /// A route of somebody else to the same destination is never replaced but
    /// named in [`Error::RouteTaken`].
    pub async fn add_route(
        &self,
        interface: impl Into<Interface<'_>>,
        destination: Prefix,
        gateway: Option<IpAddr>,
    ) -> Result<(), Error> {
        let interface = interface.into();
        let index = self.index(interface).await?;
        let action = || format!("add {}", describe(interface, destination, gateway));
        let message = message(index, destination, gateway);
        let error = match self.handle.route().add(message).execute().await {
            Ok(()) => return Ok(()),
            Err(error) if errno(&error) == Some(libc::EEXIST) => error,
            Err(error) => return Err(Error::during(action(), &error)),
        };
        let network = destination.network();
        let mut existing = self.routes().await?;
        existing.retain(|route| route.destination == network);
        if existing.iter().any(|route| route.interface == Some(index) && route.gateway == gateway) {
            return Ok(());
        }
        match existing.first() {
            Some(route) => Err(Error::RouteTaken { action: action(), existing: route.to_string() }),
            None => Err(Error::during(action(), &error)),
        }
    }

    /// Removes a route as given to [`Netlink::add_route`]; succeeds when there
    /// is none.
    pub async fn remove_route(
        &self,
        interface: impl Into<Interface<'_>>,
        destination: Prefix,
        gateway: Option<IpAddr>,
    ) -> Result<(), Error> {
        let interface = interface.into();
        let index = self.index(interface).await?;
        let message = message(index, destination, gateway);
        match self.handle.route().del(message).execute().await {
            Err(error) if errno(&error) != Some(libc::ESRCH) => Err(Error::during(
                format!("remove {}", describe(interface, destination, gateway)),
                &error,
            )),
            _ => Ok(()),
        }
    }
}

fn describe(interface: Interface<'_>, destination: Prefix, gateway: Option<IpAddr>) -> String {
    match gateway {
        Some(gateway) => format!("route {destination} via {gateway} on {interface}"),
        None => format!("route {destination} on {interface}"),
    }
}

fn message(index: u32, destination: Prefix, gateway: Option<IpAddr>) -> RouteMessage {
    // The kernel refuses a destination with host bits set.
    let destination = destination.network();
    // IPv4 takes a next hop for granted unless the scope says that there is
    // none; IPv6 knows no scopes.
    let scope = match (destination.address, gateway) {
        (IpAddr::V4(_), None) => RouteScope::Link,
        _ => RouteScope::Universe,
    };
    match destination.address {
        IpAddr::V4(address) => {
            let builder = RouteMessageBuilder::<std::net::Ipv4Addr>::new()
                .destination_prefix(address, destination.length)
                .output_interface(index)
                .scope(scope);
            match gateway {
                Some(IpAddr::V4(gateway)) => builder.gateway(gateway).build(),
                Some(IpAddr::V6(gateway)) => builder.via(gateway).build(),
                None => builder.build(),
            }
        }
        IpAddr::V6(address) => {
            let mut builder = RouteMessageBuilder::<std::net::Ipv6Addr>::new()
                .destination_prefix(address, destination.length)
                .output_interface(index)
                .scope(scope);
            if let Some(gateway) = gateway {
                // An IPv4 next hop cannot carry IPv6: the kernel says so.
                let gateway = match gateway {
                    IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                    IpAddr::V6(v6) => v6,
                };
                builder = builder.gateway(gateway);
            }
            builder.build()
        }
    }
}
