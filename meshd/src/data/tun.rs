use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use tun_rs::{DeviceBuilder, SyncDevice};

use super::Error;

/// The mesh interface, as the process sees it: whole IP packets, one per call.
pub struct Tun {
    device: SyncDevice,
    name: String,
}

impl Tun {
    /// Makes the interface, or takes the one that a former run left, with
    /// its addresses, its routes, and up if it was up.
    ///
    /// Bringing a new one up and giving it addresses is left to netlink.
    pub fn open(name: &str, mtu: u16) -> Result<Self, Error> {
        let interface = || name.to_owned();
        let device = DeviceBuilder::new()
            .name(name)
            .packet_information(false)
            .offload(false)
            .inherit_enable_state()
            .build_sync()
            .map_err(|source| Error::Tun { interface: interface(), source })?;
        let during = |action: &'static str| {
            move |source| Error::Interface { action, interface: name.to_owned(), source }
        };
        device.set_nonblocking(true).map_err(during("stop reads from waiting on"))?;
        device.set_mtu(mtu).map_err(during("set the MTU of"))?;
        device.persist().map_err(during("make persistent"))?;
        Ok(Self { device, name: interface() })
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Takes one packet that the host sends into the mesh; `WouldBlock` if
    /// there is none.
    pub fn recv(&self, into: &mut [u8]) -> io::Result<usize> {
        self.device.recv(into)
    }

    /// Gives the host one packet.
    pub fn send(&self, packet: &[u8]) -> io::Result<()> {
        self.device.send(packet).map(drop)
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}
