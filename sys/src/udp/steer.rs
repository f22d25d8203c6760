use std::io;
use std::os::fd::{AsFd, AsRawFd};

use nix::libc;

/// Spreads what comes to a port over sockets that share it (`SO_REUSEPORT`): a
/// datagram that has `byte` at its place `at`, and at the place `choice` one of
/// `count` numbers from `first` on (modulo 256), goes to the socket that was bound so
/// many after the second; all others go to the one that was bound first. Called on
/// any, once all are bound. What the kernel joined goes where the first datagram of
/// it does.
pub fn steer(
    socket: &impl AsFd,
    (at, byte): (u32, u8),
    choice: u32,
    first: u8,
    count: u8,
) -> io::Result<()> {
    // Classic BPF (linux/bpf_common.h). A place beyond the datagram ends the
    // program with 0.
    let instruction = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut program = [
        instruction(0x30, 0, 0, at),               // A = byte at `at`
        instruction(0x15, 0, 5, u32::from(byte)),  // unless it is the one: to the end
        instruction(0x30, 0, 0, choice),           // A = byte at `choice`
        instruction(0x14, 0, 0, u32::from(first)), // A -= first
        instruction(0x54, 0, 0, 0xff),             // A &= 255
        instruction(0x35, 1, 0, u32::from(count)), // if A >= count: to the end
        instruction(0x05, 0, 0, 1),                // over it
        instruction(0x06, 0, 0, 0),                // return 0
        instruction(0x04, 0, 0, 1),                // A += 1
        instruction(0x16, 0, 0, 0),                // return A
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
