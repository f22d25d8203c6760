//! Asks a router, by the protocols that routers know.
//!
//! Everything goes to the router of the default route itself, which is on a network of this
//! host: never through a mesh.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::num::NonZeroU16;
use std::time::Duration;

use crab_nat::{
    InternetProtocol, PortMapping, PortMappingOptions, PortMappingType, TimeoutConfig, natpmp, pcp,
};
use igd_next::aio::Gateway;
use igd_next::aio::tokio::{Tokio, search_gateway};
use igd_next::{AddPortError, PortMappingProtocol, SearchOptions};

use super::plan::{Granted, LIFETIME, Place, Protocol, Refusal, Request, Transport};

/// For an answer by UDP: three datagrams, for 1.75 s together.
const PATIENCE: TimeoutConfig = TimeoutConfig {
    initial_timeout: Duration::from_millis(250),
    max_retries: 2,
    max_retry_timeout: None,
};
/// Devices of UPnP may take three seconds to say that they are there (`MX` of the search).
const SEARCH: Duration = Duration::from_secs(4);
/// For whatever is asked once.
const MOST: Duration = Duration::from_secs(12);
/// What people read in the router's list.
const DESCRIPTION: &str = "epsilon";
/// A mapping of UPnP that does not end by itself.
const FOR_EVER: u32 = 0;

/// The router, and what was found out of it.
#[derive(Default)]
pub(super) struct Router {
    device: Option<(Place, Gateway<Tokio>)>,
}

impl Router {
    /// Asks for a mapping.
    pub(super) async fn map(&mut self, request: &Request) -> Result<Granted, Refusal> {
        let asked = async {
            match request.protocol {
                Protocol::Pcp => map_by_pcp(request).await.map_err(Refusal::Failed),
                Protocol::NatPmp => map_by_nat_pmp(request).await.map_err(Refusal::Failed),
                Protocol::Upnp => self.map_by_upnp(request).await,
            }
        };
        let late = |_| Err(Refusal::Failed("no answer in time".to_owned()));
        tokio::time::timeout(MOST, asked).await.unwrap_or_else(late)
    }

    /// Removes a mapping.
    pub(super) async fn remove(&self, request: &Request) -> Result<(), String> {
        let Request { place, protocol, transport, outer, nonce, .. } = *request;
        let (router, own) = (IpAddr::V4(place.router).into(), IpAddr::V4(place.own));
        let internal_port = port(request.port)?;
        match protocol {
            Protocol::Pcp => {
                let range = pcp::DropMappingRange::Single {
                    internal_port,
                    protocol: internet_protocol(transport),
                };
                let removed = pcp::try_drop_mapping(router, own, nonce, range, Some(PATIENCE));
                removed.await.map_err(text)
            }
            Protocol::NatPmp => {
                let transport = internet_protocol(transport);
                let port = Some(internal_port);
                let removed = natpmp::try_drop_mapping(router, transport, port, Some(PATIENCE));
                removed.await.map_err(text)
            }
            Protocol::Upnp => match &self.device {
                Some((at, device)) if *at == place => {
                    device.remove_port(port_mapping_protocol(transport), outer).await.map_err(text)
                }
                _ => Err("the device was not found".to_owned()),
            },
        }
    }

    async fn map_by_upnp(&mut self, request: &Request) -> Result<Granted, Refusal> {
        let Request { place, .. } = *request;
        if let Some((_, device)) = self.device.as_ref().filter(|(at, _)| *at == place) {
            let mapped = map_at(device, request).await;
            if !matches!(mapped, Err(Refusal::Failed(_))) {
                return mapped;
            }
            // Started again it may be found at another port.
        }
        let device = find_device(place).await.map_err(Refusal::Failed)?;
        let (_, device) = self.device.insert((place, device));
        map_at(device, request).await
    }
}

async fn map_by_pcp(request: &Request) -> Result<Granted, String> {
    let Place { router, own } = request.place;
    let base = pcp::BaseMapRequest::new(
        IpAddr::V4(router).into(),
        own.into(),
        internet_protocol(request.transport),
        port(request.port)?,
    );
    let mapping = pcp::port_mapping(base, Some(request.nonce), None, options(request)?);
    let mapping = mapping.await.map_err(text)?;
    match mapping.mapping_type() {
        PortMappingType::Pcp { external_ip: IpAddr::V4(outside), .. } => {
            Ok(granted(&mapping, outside))
        }
        _ => Err("the router gives no address of IPv4".to_owned()),
    }
}

async fn map_by_nat_pmp(request: &Request) -> Result<Granted, String> {
    let router = IpAddr::V4(request.place.router).into();
    let outside = natpmp::external_address(router, Some(PATIENCE)).await.map_err(text)?;
    let transport = internet_protocol(request.transport);
    let port = port(request.port)?;
    let mapping = natpmp::port_mapping(router, transport, port, options(request)?);
    Ok(granted(&mapping.await.map_err(text)?, outside))
}

fn granted(mapping: &PortMapping, outside: Ipv4Addr) -> Granted {
    Granted {
        outside: SocketAddrV4::new(outside, mapping.external_port().get()),
        lifetime: Duration::from_secs(mapping.lifetime().into()),
        epoch: Some(mapping.gateway_epoch()),
    }
}

fn options(request: &Request) -> Result<PortMappingOptions, String> {
    Ok(PortMappingOptions {
        external_port: Some(port(request.outer)?),
        lifetime_seconds: Some(seconds(LIFETIME)),
        timeout_config: Some(PATIENCE),
    })
}

/// The router's own device of UPnP. Others may say that they are one, and answer first: an
/// access point, or somebody who wants to see the traffic.
async fn find_device(place: Place) -> Result<Gateway<Tokio>, String> {
    let mut options = SearchOptions::default();
    // By which also the interface is chosen.
    options.bind_addr = (place.own, 0).into();
    options.timeout = Some(SEARCH);
    let found = search_gateway(options).await;
    let is_router = |device: &Gateway<Tokio>| device.addr.ip() == IpAddr::V4(place.router);
    let reason = match found {
        Ok(device) if is_router(&device) => return Ok(device),
        Ok(device) => format!("{} answers, which is not the router", device.addr.ip()),
        Err(error) => return Err(text(error)),
    };
    let mut options = SearchOptions::default();
    options.bind_addr = (place.own, 0).into();
    options.broadcast_address.set_ip(place.router.into());
    options.timeout = Some(SEARCH);
    search_gateway(options).await.ok().filter(is_router).ok_or(reason)
}

async fn map_at(device: &Gateway<Tokio>, request: &Request) -> Result<Granted, Refusal> {
    let Request { place, transport, port, outer, .. } = *request;
    let transport = port_mapping_protocol(transport);
    let own = SocketAddr::from((place.own, port));
    let failed = |reason: String| Refusal::Failed(reason);
    let outside = match device.get_external_ip().await.map_err(text).map_err(failed)? {
        IpAddr::V4(outside) => outside,
        IpAddr::V6(outside) => {
            return Err(failed(format!("the router gives {outside}, which is not of IPv4")));
        }
    };
    let (mut outer, mut lifetime) = (outer, seconds(LIFETIME));
    // At most once more for each thing that it cannot.
    for _ in 0..3 {
        match device.add_port(transport, outer, own, lifetime, DESCRIPTION).await {
            Ok(()) => {
                let outside = SocketAddrV4::new(outside, outer);
                return Ok(Granted { outside, lifetime: LIFETIME, epoch: None });
            }
            Err(AddPortError::OnlyPermanentLeasesSupported) if lifetime != FOR_EVER => {
                lifetime = FOR_EVER;
            }
            Err(AddPortError::SamePortValuesRequired) if outer != port => outer = port,
            // Then no other can be had.
            Err(AddPortError::PortInUse) if outer == request.outer => return Err(Refusal::Taken),
            Err(error) => return Err(failed(text(error))),
        }
    }
    Err(failed("the router wants another port or lease again and again".to_owned()))
}

fn internet_protocol(transport: Transport) -> InternetProtocol {
    match transport {
        Transport::Udp => InternetProtocol::Udp,
        Transport::Tcp => InternetProtocol::Tcp,
    }
}

fn port_mapping_protocol(transport: Transport) -> PortMappingProtocol {
    match transport {
        Transport::Udp => PortMappingProtocol::UDP,
        Transport::Tcp => PortMappingProtocol::TCP,
    }
}

fn port(port: u16) -> Result<NonZeroU16, String> {
    NonZeroU16::new(port).ok_or_else(|| "0 is no port".to_owned())
}

fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}

/// The most that a router's words may take of a message.
const MOST_WORDS: usize = 200;

/// What went wrong, on one line: a router may say what it likes.
fn text(error: impl std::fmt::Display) -> String {
    let said = error.to_string();
    said.chars().map(|one| if one.is_control() { ' ' } else { one }).take(MOST_WORDS).collect()
}
