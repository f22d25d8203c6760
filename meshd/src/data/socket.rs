use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use epsilon_sys::udp::Receiver;
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use super::Error;

/// What the kernel may hold per socket and direction, in bytes: a burst that
/// arrives while the thread is not scheduled.
const BUFFER: usize = 8 << 20;

/// How often another port is tried when any will do and the one that the
/// kernel chose is taken in the other family.
const ATTEMPTS: usize = 16;

/// The sockets of the data port: one for IPv4, and one for IPv6 where the
/// host has it, with the same port.
#[derive(Debug)]
pub struct Sockets {
    v4: UdpSocket,
    v6: Option<UdpSocket>,
    port: u16,
}

impl Sockets {
    /// Binds the port on every address; 0 takes any that is free.
    pub fn open(port: u16) -> Result<Self, Error> {
        let mut attempts = if port == 0 { ATTEMPTS } else { 1 };
        loop {
            attempts -= 1;
            match Self::try_open(port) {
                Err(Error::Port { source, .. })
                    if attempts > 0 && source.raw_os_error() == Some(libc::EADDRINUSE) => {}
                result => return result,
            }
        }
    }

    fn try_open(port: u16) -> Result<Self, Error> {
        let failed = |family| move |source| Error::Port { port, family, source };
        let v4 = bind((Ipv4Addr::UNSPECIFIED, port).into()).map_err(failed("IPv4"))?;
        let bound = v4.local_addr().map_err(failed("IPv4"))?.port();
        let v6 = match bind((Ipv6Addr::UNSPECIFIED, bound).into()) {
            Ok(socket) => Some(socket),
            Err(source)
                if matches!(
                    source.raw_os_error(),
                    Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)
                ) =>
            {
                None
            }
            Err(source) => return Err(Error::Port { port: bound, family: "IPv6", source }),
        };
        Ok(Self { v4, v6, port: bound })
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The IPv4 socket.
    pub fn v4(&self) -> &UdpSocket {
        &self.v4
    }

    /// The IPv6 socket, if the host has IPv6.
    pub fn v6(&self) -> Option<&UdpSocket> {
        self.v6.as_ref()
    }

    /// The same sockets for another owner, which may join groups on them and
    /// send, but leaves receiving to the data thread.
    pub fn try_clone(&self) -> io::Result<Self> {
        let v6 = self.v6.as_ref().map(UdpSocket::try_clone).transpose()?;
        Ok(Self { v4: self.v4.try_clone()?, v6, port: self.port })
    }

    /// Sends one datagram by the socket of the target's family.
    pub fn send_to(&self, datagram: &[u8], to: SocketAddr) -> io::Result<()> {
        let socket = match (to, &self.v6) {
            (SocketAddr::V4(_), _) => &self.v4,
            (SocketAddr::V6(_), Some(v6)) => v6,
            (SocketAddr::V6(_), None) => {
                return Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT));
            }
        };
        socket.send_to(datagram, to).map(drop)
    }
}

fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    // Beyond the limit for everyone needs CAP_NET_ADMIN. Less is slower and
    // no reason to refuse.
    if setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).is_err() {
        socket.set_recv_buffer_size(BUFFER)?;
    }
    if setsockopt(&socket, sockopt::SndBufForce, &BUFFER).is_err() {
        socket.set_send_buffer_size(BUFFER)?;
    }
    socket.bind(&address.into())?;
    Receiver::prepare(&socket, address.is_ipv4());
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_have_the_same_port_and_a_busy_one_is_named() {
        let sockets = Sockets::open(0).unwrap();
        let port = sockets.port();
        assert_eq!(sockets.v4().local_addr().unwrap().port(), port);
        if let Some(v6) = sockets.v6() {
            assert_eq!(v6.local_addr().unwrap().port(), port);
        }
        let error = Sockets::open(port).unwrap_err().to_string();
        assert!(error.contains(&format!("UDP port {port}")), "{error}");
        assert!(error.contains("choose another port with --port"), "{error}");
    }

    #[test]
    fn a_clone_sends_from_the_same_port() {
        let sockets = Sockets::open(0).unwrap();
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = receiver.local_addr().unwrap();
        sockets.try_clone().unwrap().send_to(b"hello", to).unwrap();
        let mut datagram = [0; 16];
        let (length, from) = receiver.recv_from(&mut datagram).unwrap();
        assert_eq!((&datagram[..length], from.port()), (&b"hello"[..], sockets.port()));
    }
}
