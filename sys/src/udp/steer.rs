use std::io;
use std::os::fd::{AsFd, AsRawFd};

use nix::libc;

/// Spreads what comes to a port over two sockets that share it (`SO_REUSEPORT`):
/// datagrams with these bytes at these places to the one that was bound second,
/// all others to the first. Called on either, once both are bound. What the
/// kernel joined goes where the first datagram of it does.
pub fn steer(socket: &impl AsFd, bytes: &[(u32, u8)]) -> io::Result<()> {
    // Classic BPF (linux/bpf_common.h): for each place load the byte, and
    // leave for the end unless it is the one; return 1; return 0. A place beyond
    // the datagram ends it with 0.
    let instruction = |code, jf, k| libc::sock_filter { code, jt: 0, jf, k };
    let mut program = Vec::new();
    for (index, (place, byte)) in bytes.iter().enumerate() {
        let left = bytes.len() - index - 1;
        program.push(instruction(0x30, 0, *place));
        program.push(instruction(0x15, 2 * left as u8 + 1, u32::from(*byte)));
    }
    program.push(instruction(0x06, 0, 1));
    program.push(instruction(0x06, 0, 0));
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
