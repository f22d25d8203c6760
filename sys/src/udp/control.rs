//! Control messages: the ECN bits, the host's own address, and the size of segments.

use std::mem::{offset_of, size_of};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::libc;

use super::ECN;

/// How many bytes the control messages of one message take at most.
const ROOM: usize = 96;

/// Room for them.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(super) struct Control(pub(super) [u8; ROOM]);

impl Default for Control {
    fn default() -> Self {
        Self([0; ROOM])
    }
}

/// Puts control messages one behind the other.
pub(super) struct ControlWriter<'a> {
    pub(super) bytes: &'a mut [u8; ROOM],
    pub(super) used: usize,
}

impl ControlWriter<'_> {
    pub(super) fn push(&mut self, level: i32, kind: i32, data: &[u8]) {
        // SAFETY: these compute lengths only.
        let (space, length) = unsafe {
            (libc::CMSG_SPACE(data.len() as _) as usize, libc::CMSG_LEN(data.len() as _))
        };
        let Some(into) = self.bytes.get_mut(self.used..self.used + space) else { return };
        #[allow(clippy::cast_ptr_alignment, reason = "Control is aligned, and so are its parts")]
        let header = into.as_mut_ptr().cast::<libc::cmsghdr>();
        // SAFETY: `into` has room for the header and the data, and begins at a
        // multiple of eight in memory that is aligned to eight.
        unsafe {
            (*header).cmsg_level = level;
            (*header).cmsg_type = kind;
            (*header).cmsg_len = length as _;
            libc::CMSG_DATA(header).copy_from_nonoverlapping(data.as_ptr(), data.len());
        }
        self.used += space;
    }
}

impl ControlWriter<'_> {
    /// From which address of the host a message shall come (ip(7), RFC 3542 section 6).
    pub(super) fn push_own(&mut self, own: IpAddr) {
        match own {
            IpAddr::V4(own) => {
                let mut info = [0; size_of::<libc::in_pktinfo>()];
                let at = offset_of!(libc::in_pktinfo, ipi_spec_dst);
                info[at..at + 4].copy_from_slice(&own.octets());
                self.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
            }
            IpAddr::V6(own) => {
                let mut info = [0; size_of::<libc::in6_pktinfo>()];
                let at = offset_of!(libc::in6_pktinfo, ipi6_addr);
                info[at..at + 16].copy_from_slice(&own.octets());
                self.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
            }
        }
    }
}

/// What the control messages of a received message say.
pub(super) struct Said {
    pub(super) ecn: u8,
    /// The address of the host that it came to.
    pub(super) own: Option<IpAddr>,
    /// The length of each of its datagrams but the last, if it has several.
    pub(super) size: Option<usize>,
}

/// # Safety
/// The header must be one that the kernel filled in.
pub(super) unsafe fn read_controls(header: &libc::msghdr) -> Said {
    let mut said = Said { ecn: 0, own: None, size: None };
    // SAFETY: the promise of the caller.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !next.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR give whole messages only; their
        // data need not be aligned.
        unsafe {
            let data = libc::CMSG_DATA(next);
            match ((*next).cmsg_level, (*next).cmsg_type) {
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    let size = data.cast::<i32>().read_unaligned();
                    said.size = usize::try_from(size).ok();
                }
                (libc::IPPROTO_IP, libc::IP_TOS) => said.ecn = data.read() & ECN,
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                    let class = data.cast::<i32>().read_unaligned() & i32::from(ECN);
                    said.ecn = u8::try_from(class).unwrap_or_default();
                }
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info = data.cast::<libc::in_pktinfo>().read_unaligned();
                    let own = info.ipi_spec_dst.s_addr.to_ne_bytes();
                    said.own = Some(Ipv4Addr::from(own).into());
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info = data.cast::<libc::in6_pktinfo>().read_unaligned();
                    let own = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                    said.own = (!own.is_multicast()).then_some(own.into());
                }
                _ => {}
            }
            next = libc::CMSG_NXTHDR(header, next);
        }
    }
    said
}
