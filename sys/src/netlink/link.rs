use std::os::fd::{AsRawFd, BorrowedFd};

use futures::TryStreamExt;
use nix::libc;
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkMessage};
use rtnetlink::{LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth};

use super::error::errno;
use super::{Error, Interface, Link, Netlink};

/// A pair of virtual interfaces: what one sends, the other receives.
#[derive(Debug, Clone, Copy)]
pub struct Veth<'a> {
    /// The end in the namespace of the [`Netlink`] that makes the pair.
    pub name: &'a str,
    /// The other end.
    pub peer: &'a str,
    /// The network namespace of the other end; `None` for the same.
    pub peer_namespace: Option<BorrowedFd<'a>>,
}

impl Netlink {
    /// Every interface.
    pub async fn links(&self) -> Result<Vec<Link>, Error> {
        self.handle
            .link()
            .get()
            .execute()
            .map_ok(Link::from_message)
            .try_collect()
            .await
            .map_err(|error| Error::during("list the network interfaces", &error))
    }

    /// One interface.
    pub async fn link(&self, interface: impl Into<Interface<'_>>) -> Result<Link, Error> {
        let interface = interface.into();
        let missing = || Error::NoSuchInterface { interface: interface.to_string() };
        let request = self.handle.link().get();
        let request = match interface {
            Interface::Name(name) => request.match_name(name),
            Interface::Index(index) => request.match_index(index),
        };
        let mut answers = std::pin::pin!(request.execute());
        match answers.try_next().await {
            Ok(Some(message)) => Ok(Link::from_message(message)),
            Ok(None) => Err(missing()),
            Err(error) if errno(&error) == Some(libc::ENODEV) => Err(missing()),
            Err(error) => Err(Error::during(format!("find {interface}"), &error)),
        }
    }

    /// The index of an interface, without a question where it is known.
    pub(super) async fn index(&self, interface: Interface<'_>) -> Result<u32, Error> {
        match interface {
            Interface::Index(index) => Ok(index),
            Interface::Name(_) => Ok(self.link(interface).await?.index),
        }
    }

    /// Switches an interface on.
    pub async fn set_up(&self, interface: impl Into<Interface<'_>>) -> Result<(), Error> {
        self.change(interface.into(), "switch on", LinkMessageBuilder::up).await
    }

    /// Switches an interface off. Its routes and IPv6 addresses are lost.
    pub async fn set_down(&self, interface: impl Into<Interface<'_>>) -> Result<(), Error> {
        self.change(interface.into(), "switch off", LinkMessageBuilder::down).await
    }

    /// Sets the largest packet in bytes.
    pub async fn set_mtu(
        &self,
        interface: impl Into<Interface<'_>>,
        mtu: u16,
    ) -> Result<(), Error> {
        self.change(interface.into(), &format!("set the MTU {mtu} on"), |builder| {
            builder.mtu(mtu.into())
        })
        .await
    }

    /// Sets the hardware address. A bridge that has been given one keeps it;
    /// otherwise it follows its ports', and neighbours lose it.
    pub async fn set_hardware_address(
        &self,
        interface: impl Into<Interface<'_>>,
        address: [u8; 6],
    ) -> Result<(), Error> {
        self.change(interface.into(), "set the hardware address of", |builder| {
            builder.address(address.to_vec())
        })
        .await
    }

    /// Renames an interface, which must be switched off on kernels before 6.2.
    pub async fn set_name(
        &self,
        interface: impl Into<Interface<'_>>,
        name: &str,
    ) -> Result<(), Error> {
        self.change(interface.into(), &format!("give the name {name} to"), |builder| {
            builder.name(name)
        })
        .await
    }

    /// Sets the free text that people see beside an interface.
    pub async fn set_alias(
        &self,
        interface: impl Into<Interface<'_>>,
        alias: &str,
    ) -> Result<(), Error> {
        self.change(interface.into(), &format!("set the alias {alias:?} on"), |builder| {
            builder.alias(alias)
        })
        .await
    }

    /// Makes an interface a port of a bridge.
    pub async fn attach(
        &self,
        interface: impl Into<Interface<'_>>,
        bridge: impl Into<Interface<'_>>,
    ) -> Result<(), Error> {
        let bridge = bridge.into();
        let controller = self.index(bridge).await?;
        self.change(interface.into(), &format!("attach to bridge {bridge} interface"), |builder| {
            builder.controller(controller)
        })
        .await
    }

    /// Moves an interface to another network namespace, where it is switched
    /// off and has lost its addresses.
    pub async fn move_to(
        &self,
        interface: impl Into<Interface<'_>>,
        namespace: BorrowedFd<'_>,
    ) -> Result<(), Error> {
        self.change(interface.into(), "move to another network namespace interface", |builder| {
            builder.setns_by_fd(namespace.as_raw_fd())
        })
        .await
    }

    /// Makes a bridge and switches it on; keeps one that is there.
    pub async fn add_bridge(&self, name: &str) -> Result<(), Error> {
        let message = LinkBridge::new(name).build();
        self.create(message, || format!("make bridge {name}")).await
    }

    /// Makes a pair of virtual interfaces, both switched off.
    ///
    /// Succeeds when an interface of that name is there already.
    pub async fn add_veth(&self, veth: Veth<'_>) -> Result<(), Error> {
        let mut peer = LinkUnspec::new_with_name(veth.peer);
        if let Some(namespace) = veth.peer_namespace {
            peer = peer.setns_by_fd(namespace.as_raw_fd());
        }
        let message = LinkVeth::new(veth.name, veth.peer)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer.build())))
            .build();
        self.create(message, || format!("make interface {} with its peer {}", veth.name, veth.peer))
            .await
    }

    /// Deletes an interface, and with a virtual one its peer. Succeeds when
    /// there is none.
    pub async fn delete_link(&self, interface: impl Into<Interface<'_>>) -> Result<(), Error> {
        let interface = interface.into();
        let index = match self.index(interface).await {
            Ok(index) => index,
            Err(Error::NoSuchInterface { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        match self.handle.link().del(index).execute().await {
            Err(error) if errno(&error) != Some(libc::ENODEV) => {
                Err(Error::during(format!("delete {interface}"), &error))
            }
            _ => Ok(()),
        }
    }

    async fn create(
        &self,
        message: LinkMessage,
        action: impl FnOnce() -> String,
    ) -> Result<(), Error> {
        match self.handle.link().add(message).execute().await {
            Err(error) if errno(&error) != Some(libc::EEXIST) => {
                Err(Error::during(action(), &error))
            }
            _ => Ok(()),
        }
    }

    async fn change(
        &self,
        interface: Interface<'_>,
        action: &str,
        edit: impl FnOnce(LinkMessageBuilder<LinkUnspec>) -> LinkMessageBuilder<LinkUnspec>,
    ) -> Result<(), Error> {
        let index = self.index(interface).await?;
        let message = edit(LinkUnspec::new_with_index(index)).build();
        match self.handle.link().set(message).execute().await {
            Ok(()) => Ok(()),
            Err(error) if errno(&error) == Some(libc::ENODEV) => {
                Err(Error::NoSuchInterface { interface: interface.to_string() })
            }
            Err(error) => Err(Error::during(format!("{action} {interface}"), &error)),
        }
    }
}
