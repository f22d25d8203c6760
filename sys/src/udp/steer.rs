use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

use nix::libc;

/// So many addresses a program can tell from others.
pub const MOST_SOURCES: usize = 200;

/// Which datagrams go to which of the sockets that share a port:
///
/// | first byte | byte at `at` | from | socket |
/// |---|---|---|---|
/// | `near` | `first` and the next, modulo 256 | `sources` | the second, and the next |
/// | `far` | | | the one after those |
/// | another | | | the one that was bound first |
#[derive(Debug, Clone, Copy)]
pub struct Steering<'a> {
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
    /// The addresses from which it has to come, of the socket's family; anywhere where
    /// there are too many of them. (Of IPv6 addresses the four words are told apart by what
    /// they add up to, without carrying.)
    pub sources: &'a [IpAddr],
}

/// What tells an address from others.
fn mark(source: &IpAddr) -> u32 {
    match source {
        IpAddr::V4(source) => source.to_bits(),
        IpAddr::V6(source) => {
            let words = source.to_bits();
            (0..4).map(|word| (words >> (32 * word)) as u32).fold(0, |all, word| all ^ word)
        }
    }
}

/// Spreads what comes to a port over sockets that share it (`SO_REUSEPORT`), of IPv4 or of
/// IPv6. Called on any, once all are bound, and whenever something changes. What the kernel
/// joined goes where the first datagram of it does.
pub fn steer(socket: &impl AsFd, is_v4: bool, steering: Steering<'_>) -> io::Result<()> {
    /// Where the IP header begins, for the addresses of a program (linux/filter.h).
    const NETWORK: u32 = (-0x10_0000_i32).cast_unsigned();
    let Steering { near, far, at, first, count, sources } = steering;
    let sources = if sources.len() > MOST_SOURCES { &[] } else { sources };
    let from_anywhere = steering.sources.len() > MOST_SOURCES;
    // Classic BPF (linux/bpf_common.h). A place beyond the datagram ends the
    // program with 0.
    let instruction = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut program = vec![
        instruction(0x30, 0, 0, 0),                    // A = the first byte
        instruction(0x15, 0, 1, u32::from(far)),       // unless far: over the next
        instruction(0x06, 0, 0, u32::from(count) + 1), // return count + 1
        instruction(0x15, 1, 0, u32::from(near)),      // if near: over the next
        instruction(0x06, 0, 0, 0),                    // return 0
        instruction(0x30, 0, 0, at),                   // A = byte at `at`
        instruction(0x14, 0, 0, u32::from(first)),     // A -= first
        instruction(0x54, 0, 0, 0xff),                 // A &= 255
        instruction(0x35, 0, 1, u32::from(count)),     // unless A >= count: over the next
        instruction(0x06, 0, 0, 0),                    // return 0
        instruction(0x04, 0, 0, 1),                    // A += 1
        instruction(0x02, 0, 0, 0),                    // M[0] = A
    ];
    if !from_anywhere {
        let words: &[u32] = if is_v4 { &[12] } else { &[8, 12, 16, 20] };
        program.push(instruction(0x00, 0, 0, 0)); // A = 0
        for word in words {
            program.push(instruction(0x07, 0, 0, 0)); // X = A
            program.push(instruction(0x20, 0, 0, NETWORK.wrapping_add(*word))); // A = source
            program.push(instruction(0xac, 0, 0, 0)); // A ^= X
        }
        let known = sources.iter().filter(|source| source.is_ipv4() == is_v4);
        let known: Vec<u32> = known.map(mark).collect();
        for (place, source) in known.iter().enumerate() {
            // If it is this one: behind "return 0".
            let over = (known.len() - place) as u8;
            program.push(instruction(0x15, over, 0, *source));
        }
        program.push(instruction(0x06, 0, 0, 0)); // return 0
    }
    program.push(instruction(0x60, 0, 0, 0)); // A = M[0]
    program.push(instruction(0x16, 0, 0, 0)); // return A
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
