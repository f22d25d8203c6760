//! Who opens a stream speaks TLS from the first byte on, with the gate's greeting in it.

use rustls::server::Acceptor;
use tokio::net::TcpStream;

use super::gate::GREETING;
use super::seats::Seat;

/// The longest first message of TLS that is read.
pub(super) const MAX_HELLO: usize = 1024;
/// What stands in front of a record (RFC 8446, section 5.1).
const HEADER: usize = 5;

/// A connection that opened the gate by a greeting in TLS's first message.
pub struct Knock {
    /// The connection.
    pub stream: TcpStream,
    /// From where.
    pub remote: std::net::SocketAddr,
    /// What was read of it so far: the whole first message.
    pub hello: Vec<u8>,
    /// Its place among those that are on their way in.
    pub seat: Seat,
}

/// How many bytes there are in the first message that begins so; `None` if it is none of
/// TLS: a handshake record of version 3.1. (A greeting that begins so comes to nothing;
/// the next try has other random bytes.)
pub(super) fn length(begin: &[u8]) -> Option<usize> {
    match begin.first_chunk::<HEADER>()? {
        [22, 3, 1, high, low] => Some(HEADER + usize::from(u16::from_be_bytes([*high, *low]))),
        _ => None,
    }
}

/// The greeting in TLS's first message.
pub(super) fn greeting(hello: &[u8]) -> Option<[u8; GREETING]> {
    let mut acceptor = Acceptor::default();
    let mut rest = hello;
    while !rest.is_empty() {
        if acceptor.read_tls(&mut rest).ok()? == 0 {
            return None;
        }
    }
    let accepted = acceptor.accept().ok()??;
    let mut names = accepted.client_hello().alpn()?;
    names.next()?.try_into().ok()
}
