use std::io;
use std::mem::zeroed;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::libc;

use super::address::write_address;
use super::control::{Control, ControlWriter};
use super::{Carried, Datagram, ECN};

/// The most datagrams in one message (`UDP_MAX_SEGMENTS` of Linux before 6.9).
const MOST_SEGMENTS: usize = 64;
/// The longest message: what an IPv4 packet holds beside its own and the UDP
/// header.
const LONGEST_MESSAGE: usize = 65_507;
/// The most messages in one call.
const MESSAGES: usize = 64;
/// The most datagrams in one call.
const PIECES: usize = 512;

/// So many targets to which joined datagrams were too long are known at once.
const MOST_APART: usize = 16;
/// After so many datagrams that went one by one it is tried again to join them: routes
/// change.
const APART: u32 = 16_384;

/// A target to which messages of datagrams of this size, or longer ones, are refused.
#[derive(Clone, Copy)]
struct Apart {
    address: SocketAddr,
    size: usize,
    /// For so many more datagrams.
    left: u32,
}

/// Sends datagrams, many at once.
pub struct Sender {
    headers: Box<[libc::mmsghdr]>,
    addresses: Box<[libc::sockaddr_storage]>,
    controls: Box<[Control]>,
    pieces: Box<[libc::iovec]>,
    plans: Vec<Plan>,
    segmentation: bool,
    apart: Vec<Apart>,
    /// Why the kernel is not asked any more, for a target or at all.
    refusal: Option<i32>,
    /// To whom was sent from an address that the host does not have.
    strange: Vec<SocketAddr>,
    carried: Carried,
}

// SAFETY: the pointers in headers and pieces are written and read within one
// call of `send`, and lead nowhere in between.
unsafe impl Send for Sender {}

/// One message: which of the pieces it is made of, and to whom it goes.
#[derive(Clone, Copy)]
struct Plan {
    first: usize,
    count: usize,
    address: SocketAddr,
    own: Option<IpAddr>,
    ecn: u8,
    whole: bool,
    /// The length of each piece but the last.
    size: usize,
    length: usize,
    /// Whether another piece fits.
    open: bool,
}

/// Whether it may say that the host does not have the address from which was sent, or that
/// no route leads from there. What is full or forbidden says nothing of that.
fn is_strange(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    matches!(code, Some(libc::EINVAL | libc::EADDRNOTAVAIL | libc::ENETUNREACH))
}

impl Default for Sender {
    fn default() -> Self {
        // SAFETY: all of these are plain data for which zero is a value.
        let (header, address, piece) = unsafe { (zeroed(), zeroed(), zeroed()) };
        Self {
            headers: vec![header; MESSAGES].into_boxed_slice(),
            addresses: vec![address; MESSAGES].into_boxed_slice(),
            controls: vec![Control::default(); MESSAGES].into_boxed_slice(),
            pieces: vec![piece; PIECES].into_boxed_slice(),
            plans: Vec::with_capacity(MESSAGES),
            segmentation: true,
            apart: Vec::with_capacity(MOST_APART),
            refusal: None,
            strange: Vec::new(),
            carried: Carried::default(),
        }
    }
}

impl Sender {
    /// Whether the kernel is asked to cut messages up.
    pub fn segments(&self) -> bool {
        self.segmentation
    }

    /// The error with which it refused last.
    pub fn refusal(&self) -> Option<i32> {
        self.refusal
    }

    /// Those to whom it was sent from another address than was wanted, since this was asked
    /// last: the host does not have that one any more.
    pub fn take_strange(&mut self) -> Vec<SocketAddr> {
        std::mem::take(&mut self.strange)
    }

    /// What was sent so far.
    pub fn carried(&self) -> Carried {
        self.carried
    }

    /// Sends datagrams in their order, by sockets of either family, and those that are
    /// not to be fragmented by others; none of them waits. `failed` hears of every message
    /// that the kernel refused, and how many datagrams it had.
    pub fn send<'a>(
        &mut self,
        socket_for: impl Fn(&SocketAddr, bool) -> Option<BorrowedFd<'a>>,
        datagrams: impl Iterator<Item = Datagram<'a>>,
        mut failed: impl FnMut(&io::Error, usize),
    ) {
        self.plans.clear();
        let mut used = 0;
        for datagram in datagrams {
            if used == PIECES || (!self.joins(&datagram) && self.plans.len() == MESSAGES) {
                self.flush(&socket_for, &mut failed);
                used = 0;
            }
            self.pieces[used] = libc::iovec {
                iov_base: datagram.bytes.as_ptr().cast_mut().cast(),
                iov_len: datagram.bytes.len(),
            };
            self.plan(&datagram, used);
            used += 1;
        }
        self.flush(&socket_for, &mut failed);
    }

    /// Whether a datagram may go in the last message.
    fn joins(&self, datagram: &Datagram<'_>) -> bool {
        let length = datagram.bytes.len();
        // A refusal of what is sent to find out what fits would say nothing.
        self.segmentation
            && !datagram.whole
            && self.plans.last().is_some_and(|last| {
                last.open
                    && (last.address, last.own, last.ecn, last.whole)
                        == (datagram.address, datagram.own, datagram.ecn, false)
                    && length <= last.size
                    && length > 0
                    && last.length + length <= LONGEST_MESSAGE
                    && last.count < MOST_SEGMENTS
                    && !self.is_apart(last.address, last.size)
            })
    }

    fn is_apart(&self, address: SocketAddr, size: usize) -> bool {
        self.apart.iter().any(|apart| apart.address == address && apart.size <= size)
    }

    /// A datagram goes to a target: those that are to go one by one are fewer now.
    fn spend_apart(&mut self, address: SocketAddr) {
        self.apart.retain_mut(|apart| {
            apart.left -= u32::from(apart.address == address);
            apart.left > 0
        });
    }

    /// Messages of datagrams of a size are too long for the route to a target.
    fn keep_apart(&mut self, address: SocketAddr, size: usize) {
        self.apart.retain(|apart| apart.address != address);
        if self.apart.len() == MOST_APART {
            self.apart.remove(0);
        }
        self.apart.push(Apart { address, size, left: APART });
    }

    fn plan(&mut self, datagram: &Datagram<'_>, piece: usize) {
        let length = datagram.bytes.len();
        if !self.apart.is_empty() {
            self.spend_apart(datagram.address);
        }
        if self.joins(datagram) {
            if let Some(last) = self.plans.last_mut() {
                last.count += 1;
                last.length += length;
                // Only the last may be shorter.
                last.open = length == last.size;
            }
            return;
        }
        self.plans.push(Plan {
            first: piece,
            count: 1,
            address: datagram.address,
            own: datagram.own,
            ecn: datagram.ecn & ECN,
            whole: datagram.whole,
            size: length,
            length,
            open: true,
        });
    }

    /// Sends what is planned.
    fn flush<'a>(
        &mut self,
        socket_for: &impl Fn(&SocketAddr, bool) -> Option<BorrowedFd<'a>>,
        failed: &mut impl FnMut(&io::Error, usize),
    ) {
        let mut next = 0;
        while let Some(plan) = self.plans.get(next).copied() {
            let Some(socket) = socket_for(&plan.address, plan.whole) else {
                failed(&io::Error::from_raw_os_error(libc::EAFNOSUPPORT), plan.count);
                next += 1;
                continue;
            };
            // Those that the same socket sends.
            let by_it = |one: &Plan| {
                (one.address.is_ipv4(), one.whole) == (plan.address.is_ipv4(), plan.whole)
            };
            let run = self.plans[next..].iter().take_while(|one| by_it(one)).count();
            for index in next..next + run {
                self.describe(index);
            }
            match self.call(socket, next, run) {
                Ok(sent) => {
                    self.count(next, sent);
                    next += sent.max(1);
                }
                // Of several it may say that they are too long: they go one by one.
                Err(error) if plan.own.is_some() && plan.count == 1 && is_strange(&error) => {
                    self.leave_own(next);
                }
                Err(error) => {
                    self.refused(socket, plan, &error, failed);
                    next += 1;
                }
            }
        }
        self.plans.clear();
    }

    /// A planned message goes from the address that the kernel prefers.
    fn leave_own(&mut self, index: usize) {
        let plan = &mut self.plans[index];
        plan.own = None;
        if !self.strange.contains(&plan.address) {
            self.strange.push(plan.address);
        }
    }

    fn count(&mut self, first: usize, sent: usize) {
        let plans = &self.plans[first..first + sent];
        self.carried.calls += 1;
        self.carried.messages += sent as u64;
        self.carried.packets += plans.iter().map(|plan| plan.count as u64).sum::<u64>();
    }

    /// A message was refused: its datagrams go one by one, if that may help.
    fn refused(
        &mut self,
        socket: BorrowedFd<'_>,
        plan: Plan,
        error: &io::Error,
        failed: &mut impl FnMut(&io::Error, usize),
    ) {
        let code = error.raw_os_error();
        let may_be_too_long = matches!(code, Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE));
        let may_help = may_be_too_long || (plan.own.is_some() && is_strange(error));
        if plan.count == 1 || !may_help {
            return failed(error, plan.count);
        }
        if may_be_too_long {
            self.refusal = code;
        }
        if code == Some(libc::EIO) {
            // The card computes no checksums.
            self.segmentation = false;
        } else if may_be_too_long {
            // Too long for the route, which says nothing of others; Linux before 6.14 calls
            // that EINVAL.
            self.keep_apart(plan.address, plan.size);
        }
        let kept = std::mem::take(&mut self.plans);
        for piece in plan.first..plan.first + plan.count {
            let length = self.pieces[piece].iov_len;
            let single = Plan { first: piece, count: 1, size: length, length, ..plan };
            self.plans.clear();
            self.plans.push(single);
            self.describe(0);
            let mut outcome = self.call(socket, 0, 1);
            if single.own.is_some() && outcome.as_ref().is_err_and(is_strange) {
                self.leave_own(0);
                self.describe(0);
                outcome = self.call(socket, 0, 1);
            }
            match outcome {
                Ok(sent) => self.count(0, sent),
                Err(error) => failed(&error, 1),
            }
        }
        self.plans = kept;
    }

    /// Writes the header of a planned message.
    fn describe(&mut self, index: usize) {
        let plan = self.plans[index];
        let name_length = write_address(plan.address, &mut self.addresses[index]);
        let is_v4 = plan.address.is_ipv4();
        let control_length = {
            let mut control = ControlWriter { bytes: &mut self.controls[index].0, used: 0 };
            if plan.ecn != 0 {
                let (level, kind) = if is_v4 {
                    (libc::IPPROTO_IP, libc::IP_TOS)
                } else {
                    (libc::IPPROTO_IPV6, libc::IPV6_TCLASS)
                };
                control.push(level, kind, &i32::from(plan.ecn).to_ne_bytes());
            }
            if let Some(own) = plan.own {
                control.push_own(own);
            }
            if plan.count > 1 {
                let size = (plan.size as u16).to_ne_bytes();
                control.push(libc::SOL_UDP, libc::UDP_SEGMENT, &size);
            }
            control.used
        };
        let header = &mut self.headers[index].msg_hdr;
        header.msg_name = (&raw mut self.addresses[index]).cast();
        header.msg_namelen = name_length;
        header.msg_iov = &raw mut self.pieces[plan.first];
        header.msg_iovlen = plan.count as _;
        header.msg_control = if control_length == 0 {
            std::ptr::null_mut()
        } else {
            (&raw mut self.controls[index].0).cast()
        };
        header.msg_controllen = control_length as _;
        header.msg_flags = 0;
    }

    /// How many of the messages were taken, beginning with `first`.
    fn call(&mut self, socket: BorrowedFd<'_>, first: usize, count: usize) -> io::Result<usize> {
        let headers = self.headers[first..first + count].as_mut_ptr();
        loop {
            // SAFETY: the headers were described just now; what they lead to,
            // addresses, control messages and pieces, belongs to self or is
            // borrowed by the caller of `send`, and is not moved meanwhile.
            let sent = unsafe {
                libc::sendmmsg(socket.as_raw_fd(), headers, count as _, libc::MSG_DONTWAIT)
            };
            match usize::try_from(sent) {
                Ok(sent) => return Ok(sent),
                Err(_) => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::Interrupted => {}
                    error => return Err(error),
                },
            }
        }
    }
}
