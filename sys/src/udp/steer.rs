use std::io;
use std::os::fd::{AsFd, AsRawFd};

use nix::libc;

/// Which datagrams go to which of the sockets that share a port:
///
/// | first byte | byte at `at` | socket |
/// |---|---|---|
/// | `near` | `first` and the next, modulo 256 | the second, and the next |
/// | `far` | | the one after those |
/// | another | | the one that was bound first |
#[derive(Debug, Clone, Copy)]
pub struct Steering {
    /// The first byte of what is for one of several.
    pub near: u8,
    /// The same of what is for the one after those.
    pub far: u8,
    /// The place of the byte that says for which.
    pub at: u32,
    /// That of the first.
    pub first: u8,
    /// How many there are.
    pub count: u8,
}

/// Spreads what comes to a port over sockets that share it (`SO_REUSEPORT`).
/// Called on any, once all are bound. What the kernel joined goes where the first
/// datagram of it does.
pub fn steer(socket: &impl AsFd, steering: Steering) -> io::Result<()> {
    let Steering { near, far, at, first, count } = steering;
    // Classic BPF (linux/bpf_common.h). A place beyond the datagram ends the
    // program with 0.
    let instruction = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut program = [
        instruction(0x30, 0, 0, 0),                    // A = the first byte
        instruction(0x15, 0, 1, u32::from(far)),       // unless far: over the next
        instruction(0x06, 0, 0, u32::from(count) + 1), // return count + 1
        instruction(0x15, 0, 6, u32::from(near)),      // unless near: to "return 0"
        instruction(0x30, 0, 0, at),                   // A = byte at `at`
        instruction(0x14, 0, 0, u32::from(first)),     // A -= first
        instruction(0x54, 0, 0, 0xff),                 // A &= 255
        instruction(0x35, 2, 0, u32::from(count)),     // if A >= count: to "return 0"
        instruction(0x04, 0, 0, 1),                    // A += 1
        instruction(0x16, 0, 0, 0),                    // return A
        instruction(0x06, 0, 0, 0),                    // return 0
    ];
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the kernel reads the program, which lives during the call, and as
    // many instructions as its length says.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            size_of_val(&program) as _,
        )
    };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
