use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};

use nix::libc;
use nix::sys::uio::writev;
use tun_rs::{DeviceBuilder, SyncDevice};

use super::Error;

/// How many packets of the host wait for the data thread: as many as at an
/// Ethernet interface. The newest is dropped when there are more.
pub(super) const QUEUE: u32 = 1000;

/// A queue of the mesh interface, as the process sees it: one IP packet per call, which
/// with offload comes after a header ([`epsilon_mesh::shard::offload::Header`])
/// and may stand for many.
pub struct Tun {
    device: SyncDevice,
    name: String,
    offload: bool,
}

impl Tun {
    /// Makes the interface, or takes the one that a former run left, with
    /// its addresses, its routes, and up if it was up. Gives as many queues of
    /// it as asked for; one where it has only one.
    ///
    /// Bringing a new one up and giving it addresses is left to netlink.
    pub fn open(name: &str, mtu: u16, queues: u8) -> Result<Vec<Self>, Error> {
        let interface = || name.to_owned();
        let refused = |source| Error::Tun { interface: interface(), source };
        let open = |offload, several| {
            DeviceBuilder::new()
                .name(name)
                .packet_information(false)
                .offload(offload)
                .multi_queue(several)
                .inherit_enable_state()
                .build_sync()
        };
        // One that is there already has several queues, or only one, for good.
        let either = |offload| match open(offload, queues > 1) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                match open(offload, queues <= 1) {
                    Ok(device) => Ok((device, queues <= 1)),
                    Err(other) if other.raw_os_error() == Some(libc::EBUSY) => Err(other),
                    Err(_) => Err(error),
                }
            }
            device => device.map(|device| (device, queues > 1)),
        };
        let ((device, several), offload) = match either(true) {
            Ok(opened) => (opened, true),
            Err(error) => {
                // What is wrong with any interface is wrong without, too.
                let opened = either(false).map_err(refused)?;
                tracing::warn!(interface = name, %error, "no offload; packets go one by one");
                (opened, false)
            }
        };
        let during = |action: &'static str| {
            move |source| Error::Interface { action, interface: name.to_owned(), source }
        };
        device.set_nonblocking(true).map_err(during("stop reads from waiting on"))?;
        device.set_mtu(mtu).map_err(during("set the MTU of"))?;
        device.set_tx_queue_len(QUEUE).map_err(during("set the queue length of"))?;
        device.persist().map_err(during("make persistent"))?;
        let more = if several { queues.saturating_sub(1) } else { 0 };
        let mut devices: Vec<SyncDevice> =
            (0..more).map(|_| device.try_clone()).collect::<Result<_, _>>().map_err(refused)?;
        for device in &devices {
            device.set_nonblocking(true).map_err(during("stop reads from waiting on"))?;
        }
        devices.insert(0, device);
        let queue = |device| Self { device, name: interface(), offload };
        Ok(devices.into_iter().map(queue).collect())
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether packets come with a header, and may stand for many.
    pub fn has_offload(&self) -> bool {
        self.offload
    }

    /// Whether the kernel takes many datagrams as one: Linux since 6.2.
    pub fn takes_joined_datagrams(&self) -> bool {
        self.device.udp_gso()
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
