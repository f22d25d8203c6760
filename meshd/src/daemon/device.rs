//! Devices: adding, removing and showing them.

use std::net::{IpAddr, SocketAddr};

use epsilon_mesh::control::{DeviceView, MemberView, NewDevice, Operation, Outcome};
use epsilon_mesh::shard::{Path, PeerId};
use epsilon_proto::address::{Ipv6Range, is_public};
use epsilon_proto::api::{
    Device, DeviceAddRequest, DeviceAdded, DeviceConfig, DeviceList, DeviceRemoveRequest,
    DeviceRemoved, Problem, ProblemKind, Secret,
};
use epsilon_proto::device::WgQuick;
use epsilon_proto::id::{DeviceId, NodeId};
use epsilon_proto::key::AgreementKey;
use epsilon_proto::name::NodeName;
use epsilon_proto::record::{Endpoint, EndpointSource};
use epsilon_proto::token::HostPort;

use super::answer::{Asked, usage};
use super::{render, select};
use crate::network::Snapshot;

impl Asked {
    pub(super) fn devices(&self, snapshot: &Snapshot) -> DeviceList {
        let devices = snapshot.view.devices.iter().map(|one| device(one, snapshot)).collect();
        DeviceList { network: self.name.to_string(), devices }
    }

    pub(super) async fn add_device(
        &self,
        snapshot: &Snapshot,
        request: DeviceAddRequest,
    ) -> Result<DeviceAdded, Problem> {
        let name: NodeName = request.name.parse().map_err(usage)?;
        let key: Option<AgreementKey> =
            request.public_key.as_deref().map(str::parse).transpose().map_err(usage)?;
        let endpoint: Option<HostPort> =
            request.endpoint.as_deref().map(str::parse).transpose().map_err(usage)?;
        if let Some(inside) = endpoint.as_ref().and_then(HostPort::address)
            && is_inside(inside.ip(), snapshot)
        {
            return Err(usage(format!("{inside} is inside the mesh, where the device is not yet"))
                .hint("say an address or a name under which the node is reached from outside"));
        }
        let mut servers = vec![snapshot.view.own];
        for text in &request.fallbacks {
            let node = select::member(snapshot, text)?.node;
            if !servers.contains(&node) {
                servers.push(node);
            }
        }
        // Everything that can be wrong is, before the device is there.
        let endpoints = servers
            .iter()
            .map(|node| match &endpoint {
                Some(endpoint) if *node == snapshot.view.own => Ok(endpoint.clone()),
                _ => endpoint_of(*node, snapshot),
            })
            .collect::<Result<Vec<HostPort>, Problem>>()?;
        let fallbacks = servers[1..].to_vec();
        let new = match self.operate(Operation::AddDevice { name, key, fallbacks }).await? {
            Outcome::Device(new) => new,
            Outcome::Token(_) | Outcome::Done => {
                return Err(Problem::new(ProblemKind::Error, "no device was made"));
            }
        };
        let snapshot = self.snapshot().await?;
        let id = DeviceId::of(snapshot.view.own, new.device.key);
        let view = snapshot.view.devices.iter().find(|view| view.id == id);
        let view = view.ok_or_else(|| {
            Problem::new(ProblemKind::Error, "the device is not in force")
                .hint("a member joined that has its key; remove it and add it with another")
        })?;
        let configs = servers
            .iter()
            .zip(&endpoints)
            .map(|(server, endpoint)| self.config(&new, *server, endpoint, &snapshot))
            .collect::<Result<Vec<DeviceConfig>, Problem>>()?;
        Ok(DeviceAdded {
            network: self.name.to_string(),
            device: device(view, &snapshot),
            key_made: new.secret.is_some(),
            configs,
        })
    }

    fn config(
        &self,
        new: &NewDevice,
        server: NodeId,
        endpoint: &HostPort,
        snapshot: &Snapshot,
    ) -> Result<DeviceConfig, Problem> {
        let reference = render::node_ref(server, snapshot);
        let key = server.key().agreement().ok_or_else(|| usage("the node's key is weak"))?;
        let range6 = Ipv6Range::of(snapshot.view.id);
        let by = reference.name.clone().unwrap_or_else(|| server.short());
        let config = WgQuick {
            title: format!("{} in {}, by {by}", new.device.name, self.name),
            private_key: new.secret.as_deref(),
            ipv4: new.device.ipv4,
            ipv6: range6.device(DeviceId::of(snapshot.view.own, new.device.key)),
            server: key,
            endpoint,
            range: snapshot.view.network.range,
            range6,
        };
        Ok(DeviceConfig {
            server: reference,
            public: endpoint.address().is_none_or(|address| is_public(address.ip())),
            endpoint: endpoint.to_string(),
            config: Secret::from(config.to_text()),
        })
    }

    pub(super) async fn remove_device(
        &self,
        snapshot: &Snapshot,
        request: DeviceRemoveRequest,
    ) -> Result<DeviceRemoved, Problem> {
        let view = select::device(snapshot, &request.device)?;
        self.operate(Operation::RemoveDevice(view.id)).await?;
        Ok(DeviceRemoved {
            network: self.name.to_string(),
            given_name: view.given.to_string(),
            id: view.id.to_string(),
            revoked: view.owner != snapshot.view.own,
        })
    }
}

/// Where a device may reach a node: what its operator said, else the likeliest
/// of its addresses.
fn endpoint_of(node: NodeId, snapshot: &Snapshot) -> Result<HostPort, Problem> {
    if node == snapshot.view.own
        && let Some(advertised) = snapshot.settings.advertise.first()
    {
        return Ok(advertised.clone());
    }
    let member = snapshot.view.members.iter().find(|member| member.node == node);
    let best = member.and_then(likeliest);
    best.map(HostPort::from).ok_or_else(|| {
        let name = render_name(member, node);
        usage(format!("{name} has said no address where a device could reach it")).hint(
            "start its daemon and wait until it is up; for this node say --endpoint HOST:PORT",
        )
    })
}

fn render_name(member: Option<&MemberView>, node: NodeId) -> String {
    let name = member.and_then(|member| member.name.as_ref());
    name.map_or_else(|| node.short(), ToString::to_string)
}

/// Where most devices may reach a member.
fn likeliest(member: &MemberView) -> Option<SocketAddr> {
    let endpoints = member.endpoints.iter().filter(|one| one.source.takes_udp());
    endpoints.min_by_key(|one| rank(one)).map(|one| one.address)
}

/// As configured, then public addresses, a port of the router, other addresses of its own,
/// IPv4 first; a NAT lets nobody new in where a member was only observed.
fn rank(endpoint: &Endpoint) -> (u8, bool) {
    let is_public = is_public(endpoint.address.ip());
    let rank = match endpoint.source {
        EndpointSource::Configured if is_public => 0,
        EndpointSource::Configured => 1,
        EndpointSource::Local if is_public => 2,
        EndpointSource::Mapped | EndpointSource::MappedUdp if is_public => 3,
        EndpointSource::Local => 4,
        EndpointSource::Mapped | EndpointSource::MappedUdp | EndpointSource::MappedTcp => 5,
        EndpointSource::Observed if is_public => 6,
        EndpointSource::Observed => 7,
    };
    (rank, endpoint.address.is_ipv6())
}

fn is_inside(address: IpAddr, snapshot: &Snapshot) -> bool {
    match address {
        IpAddr::V4(ip) => snapshot.view.network.range.contains(ip),
        IpAddr::V6(ip) => Ipv6Range::of(snapshot.view.id).contains(ip),
    }
}

fn device(view: &DeviceView, snapshot: &Snapshot) -> Device {
    let served_here = view.server == snapshot.view.own;
    let stats = snapshot.stats.shard.peers.iter();
    let stats = stats.filter(|_| served_here).find(|stats| stats.id == PeerId::Device(view.key));
    Device {
        id: view.id.to_string(),
        given_name: view.given.to_string(),
        name: view.name.as_ref().map(ToString::to_string),
        key: view.key.to_string(),
        ipv4: view.ipv4,
        ipv6: view.ipv6,
        owner: render::node_ref(view.owner, snapshot),
        server: render::node_ref(view.server, snapshot),
        fallbacks: view.fallbacks.iter().map(|node| render::node_ref(*node, snapshot)).collect(),
        added_at: render::time(view.added),
        served_here,
        endpoint: stats.and_then(|stats| stats.path).map(Path::address),
        last_handshake: stats.and_then(|stats| stats.last_handshake).map(render::moment),
        rx_bytes: stats.map_or(0, |stats| stats.received.bytes),
        tx_bytes: stats.map_or(0, |stats| stats.sent.bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_given_what_reaches_a_member_from_afar() {
        use EndpointSource::{Configured, Local, Mapped, Observed};
        let ranked = [
            (Configured, "198.51.100.1:7755"),
            (Configured, "10.0.0.1:7755"),
            (Local, "198.51.100.2:7755"),
            (Local, "[2001:db8::2]:7755"),
            (Mapped, "203.0.113.9:7755"),
            (Local, "192.168.1.7:7755"),
            (Local, "[fd00::7]:7755"),
            (Mapped, "100.64.0.9:7755"),
            (Observed, "203.0.113.9:41000"),
        ];
        let ranks = ranked
            .map(|(source, address)| rank(&Endpoint { source, address: address.parse().unwrap() }));
        assert!(ranks.is_sorted(), "{ranks:?}");
    }
}
