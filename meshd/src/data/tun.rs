use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::uio::writev;
use tun_rs::{DeviceBuilder, SyncDevice};

use super::Error;

/// How many packets of the host wait for the data thread: as many as at an
/// Ethernet interface. The newest is dropped when there are more.
const QUEUE: u32 = 1000;

/// The mesh interface, as the process sees it: one IP packet per call, which
/// with offload comes after a header ([`epsilon_mesh::shard::offload::Header`])
/// and may stand for many.
pub struct Tun {
    device: SyncDevice,
    name: String,
    offload: bool,
}

impl Tun {
    /// Makes the interface, or takes the one that a former run left, with
    /// its addresses, its routes, and up if it was up.
    ///
    /// Bringing a new one up and giving it addresses is left to netlink.
    pub fn open(name: &str, mtu: u16) -> Result<Self, Error> {
        Self::open_with(name, mtu, true)
    }

    pub(super) fn open_with(name: &str, mtu: u16, offload: bool) -> Result<Self, Error> {
        let interface = || name.to_owned();
        let open = |offload| {
            DeviceBuilder::new()
                .name(name)
                .packet_information(false)
                .offload(offload)
                .inherit_enable_state()
                .build_sync()
        };
        let (device, offload) = match open(offload) {
            Ok(device) => (device, offload),
            Err(refused) => {
                // What is wrong with any interface is wrong without, too.
                let device =
                    open(false).map_err(|source| Error::Tun { interface: interface(), source })?;
                tracing::warn!(interface = name, error = %refused, "no offload; packets go one by one");
                (device, false)
            }
        };
        let during = |action: &'static str| {
            move |source| Error::Interface { action, interface: name.to_owned(), source }
        };
        device.set_nonblocking(true).map_err(during("stop reads from waiting on"))?;
        device.set_mtu(mtu).map_err(during("set the MTU of"))?;
        device.set_tx_queue_len(QUEUE).map_err(during("set the queue length of"))?;
        device.persist().map_err(during("make persistent"))?;
        Ok(Self { device, name: interface(), offload })
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether packets come with a header, and may stand for many.
    pub fn has_offload(&self) -> bool {
        self.offload
    }

    /// Takes one packet that the host sends into the mesh; `WouldBlock` if
    /// there is none.
    pub fn recv(&self, into: &mut [u8]) -> io::Result<usize> {
        self.device.recv(into)
    }

    /// Gives the host one packet, in pieces.
    pub fn send(&self, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        Ok(writev(&self.device, pieces).map(drop)?)
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}
