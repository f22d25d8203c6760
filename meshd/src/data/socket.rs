use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use epsilon_proto::datagram::{DATA, RELAYED_DATA};
use epsilon_sys::udp::{Receiver, Steering, steer};
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::Error;
use crate::mark::mark;

/// What the kernel may hold per socket and direction, in bytes: a burst that
/// arrives while the thread is not scheduled.
const BUFFER: usize = 8 << 20;

/// The same for what is no data: handshakes, probes, beacons.
const ASIDE: usize = 256 << 10;

/// How often another port is tried when any will do and the one that the
/// kernel chose is taken in the other family.
const ATTEMPTS: usize = 16;

/// The sockets of the data port for one lane: one for IPv4, and one for IPv6
/// where the host has it, with the same port. The first lane has those for what is
/// no data, and for what is relayed, too.
#[derive(Debug)]
pub struct Sockets {
    v4: UdpSocket,
    v6: Option<UdpSocket>,
    asides: Vec<UdpSocket>,
    transits: Vec<UdpSocket>,
    port: u16,
}

/// What comes to a socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Use {
    /// Data of peers.
    Data,
    /// Handshakes, probes, beacons, data from where none came before, and junk.
    Aside,
    /// What is relayed, by this node or to it.
    Transit,
}

impl Sockets {
    /// Binds the port on every address for so many lanes; 0 takes any that is
    /// free.
    pub fn open(port: u16, lanes: u8) -> Result<Vec<Self>, Error> {
        let mut attempts = if port == 0 { ATTEMPTS } else { 1 };
        loop {
            attempts -= 1;
            match Self::try_open(port, lanes.max(1)) {
                Err(Error::Port { source, .. })
                    if attempts > 0 && source.raw_os_error() == Some(libc::EADDRINUSE) => {}
                result => return result,
            }
        }
    }

    fn try_open(port: u16, lanes: u8) -> Result<Vec<Self>, Error> {
        let failed = |family| move |source| Error::Port { port, family, source };
        let v4 = bind((Ipv4Addr::UNSPECIFIED, port).into(), lanes).map_err(failed("IPv4"))?;
        let bound = v4.aside.local_addr().map_err(failed("IPv4"))?.port();
        let (mut asides, mut transits) = (vec![v4.aside], vec![v4.transit]);
        let v6s = match bind((Ipv6Addr::UNSPECIFIED, bound).into(), lanes) {
            Ok(v6) => {
                asides.push(v6.aside);
                transits.push(v6.transit);
                v6.lanes
            }
            Err(source)
                if matches!(
                    source.raw_os_error(),
                    Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)
                ) =>
            {
                Vec::new()
            }
            Err(source) => return Err(Error::Port { port: bound, family: "IPv6", source }),
        };
        let mut v6s = v6s.into_iter();
        let sockets = v4.lanes.into_iter().map(|v4| Self {
            v4,
            v6: v6s.next(),
            asides: std::mem::take(&mut asides),
            transits: std::mem::take(&mut transits),
            port: bound,
        });
        Ok(sockets.collect())
    }

    /// One after the other, and what comes to it.
    pub(super) fn nth(&self, index: usize) -> Option<(&UdpSocket, Use)> {
        let families = 1 + usize::from(self.v6.is_some());
        let uses = [Use::Data, Use::Aside, Use::Transit];
        Some((self.all().nth(index)?, *uses.get(index / families)?))
    }

    /// From now on data from these addresses comes to the sockets of the lane that it is
    /// for, by the highest byte of the index in it, which counts up from `first` with the
    /// lanes; relayed data comes to sockets of its own, so that one lane knows how much
    /// this node passes on, and so does all the rest, so that a flood of either displaces
    /// no data.
    pub(super) fn keep_data_apart(
        &self,
        first: u8,
        lanes: u8,
        sources: &[IpAddr],
    ) -> io::Result<()> {
        let (near, far) = (DATA, RELAYED_DATA);
        let steering = Steering { near, far, at: 7, first, count: lanes, sources };
        steer(&self.v4, true, steering)?;
        self.v6.iter().try_for_each(|v6| steer(v6, false, steering))
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

    /// By which socket of a family to send what may be fragmented on its way, or what
    /// may not, which is nothing but probes: those for the rest, of the first lane.
    pub(super) fn sending(&self, is_v4: bool, whole: bool) -> Option<&UdpSocket> {
        match (is_v4, whole) {
            (true, false) => Some(&self.v4),
            (false, false) => self.v6.as_ref(),
            // Another lane has none; what it passes on has to leave all the same.
            (true, true) => self.groups_v4().or(Some(&self.v4)),
            (false, true) => self.groups_v6().or(self.v6.as_ref()),
        }
    }

    /// Of the first lane: the IPv4 socket on which groups are joined.
    pub fn groups_v4(&self) -> Option<&UdpSocket> {
        self.asides.first()
    }

    /// The same for IPv6.
    pub fn groups_v6(&self) -> Option<&UdpSocket> {
        self.asides.get(1)
    }

    /// All of them, those for data first.
    pub(super) fn all(&self) -> impl Iterator<Item = &UdpSocket> {
        let data = [Some(&self.v4), self.v6.as_ref()].into_iter().flatten();
        data.chain(&self.asides).chain(&self.transits)
    }

    /// The same sockets for another owner, which may join groups on them and
    /// send, but leaves receiving to the data thread.
    pub fn try_clone(&self) -> io::Result<Self> {
        let v6 = self.v6.as_ref().map(UdpSocket::try_clone).transpose()?;
        let all = |sockets: &[UdpSocket]| sockets.iter().map(UdpSocket::try_clone).collect();
        let (asides, transits) = (all(&self.asides), all(&self.transits));
        let (asides, transits): (io::Result<_>, io::Result<_>) = (asides, transits);
        let v4 = self.v4.try_clone()?;
        Ok(Self { v4, v6, asides: asides?, transits: transits?, port: self.port })
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

/// The sockets of one family.
struct Bound {
    /// For the data of each lane.
    lanes: Vec<UdpSocket>,
    aside: UdpSocket,
    transit: UdpSocket,
}

fn bind(address: SocketAddr, lanes: u8) -> io::Result<Bound> {
    // Sockets that share a port say nothing when others have it.
    let alone = open(address, BUFFER)?;
    alone.bind(&address.into())?;
    let mut address = address;
    if let Some(bound) = alone.local_addr()?.as_socket() {
        address.set_port(bound.port());
    }
    drop(alone);
    let bind = |buffer, is_aside| {
        let socket = open(address, buffer)?;
        socket.set_reuse_port(true)?;
        socket.bind(&address.into())?;
        Receiver::prepare(&socket, address.is_ipv4());
        Receiver::forbid_fragments(&socket, address.is_ipv4(), is_aside);
        if is_aside {
            Receiver::tell_own(&socket, address.is_ipv4());
        }
        io::Result::Ok(UdpSocket::from(socket))
    };
    // In this order, which the program that spreads datagrams goes by.
    let aside = bind(ASIDE, true)?;
    let lanes: Vec<UdpSocket> =
        (0..lanes).map(|_| bind(BUFFER, false)).collect::<io::Result<_>>()?;
    let transit = bind(BUFFER, false)?;
    // What goes to a group comes to every socket of the port unless told
    // otherwise; groups are joined on the one for the rest. Where the kernel knows
    // no such option (IPv6 before Linux 4.20) beacons are heard several times.
    for deaf in lanes.iter().chain([&transit]) {
        let deaf = SockRef::from(deaf);
        let _ = if address.is_ipv4() {
            deaf.set_multicast_all_v4(false)
        } else {
            deaf.set_multicast_all_v6(false)
        };
    }
    Ok(Bound { lanes, aside, transit })
}

fn open(address: SocketAddr, buffer: usize) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    mark(&SockRef::from(&socket));
    // Beyond the limit for everyone needs CAP_NET_ADMIN. Less is slower and
    // no reason to refuse.
    if setsockopt(&socket, sockopt::RcvBufForce, &buffer).is_err() {
        socket.set_recv_buffer_size(buffer)?;
    }
    if setsockopt(&socket, sockopt::SndBufForce, &buffer).is_err() {
        socket.set_send_buffer_size(buffer)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use epsilon_sys::udp::MOST_SOURCES;

    use super::*;

    #[test]
    fn both_families_have_the_same_port_and_a_busy_one_is_named() {
        let sockets = &Sockets::open(0, 2).unwrap()[1];
        let port = sockets.port();
        assert_eq!(sockets.v4().local_addr().unwrap().port(), port);
        if let Some(v6) = sockets.v6() {
            assert_eq!(v6.local_addr().unwrap().port(), port);
        }
        let error = Sockets::open(port, 1).unwrap_err().to_string();
        assert!(error.contains(&format!("UDP port {port}")), "{error}");
        assert!(error.contains("choose another port with --port"), "{error}");
    }

    #[test]
    fn only_what_can_be_data_for_this_node_comes_to_the_data_sockets() {
        let others: Vec<IpAddr> = (0..100)
            .flat_map(|number| {
                [[203, 0, 113, number].into(), [0x2001, 0xdb8, 0, 0, 0, 0, 0, number.into()].into()]
            })
            .collect();
        let hosts = ["127.0.0.1", "::1"].map(|host| host.parse().unwrap());
        let most = [&hosts[..], &others[..MOST_SOURCES - 2]].concat();
        let too_many = [&others[..], &others[..1]].concat();
        is_data_apart(&[], false);
        is_data_apart(&hosts, true);
        is_data_apart(&others, false);
        is_data_apart(&most, true);
        // Then from anywhere.
        is_data_apart(&too_many, true);
    }

    /// What becomes of data that comes from the host itself, where it may come from these
    /// addresses.
    fn is_data_apart(sources: &[IpAddr], is_taken: bool) {
        let lanes = Sockets::open(0, 3).unwrap();
        // The numbers go around.
        lanes[0].keep_data_apart(0xfe, 3, sources).unwrap();
        let data = |tag| [4, 0, 0, 0, 1, 2, 3, tag, 0, 0, 0, 0];
        for (family, host) in ["127.0.0.1", "::1"].into_iter().enumerate() {
            let families = lanes[0].all().count() / 3;
            if family == families {
                break;
            }
            let of = |place| lanes[0].nth(place * families + family).unwrap();
            let [(_, data_use), (aside, aside_use), (transit, transit_use)] = [of(0), of(1), of(2)];
            let uses = [data_use, aside_use, transit_use];
            assert_eq!(uses, [Use::Data, Use::Aside, Use::Transit]);
            let sender = UdpSocket::bind((host, 0)).unwrap();
            sender.connect((host, lanes[0].port())).unwrap();
            let junk = [&data(0xfd)[..], &data(1), &[1; 148], &[4], &[0x80; 64], &[]];
            let relayed = |tag| [RELAYED_DATA, 7, 7, 7, 1, 2, 3, tag, 0, 0, 0, 0];
            let far = [relayed(0xfd), relayed(0xff), relayed(2)];
            let tagged = [0xfe, 0xff, 0xff, 0, 0, 0].map(data).into_iter();
            let tagged: Vec<_> = tagged.chain(far).collect();
            for datagram in tagged.iter().map(|data| &data[..]).chain(junk) {
                sender.send(datagram).unwrap();
            }
            let taken = |socket: &UdpSocket| {
                let mut buffer = [0; 200];
                std::iter::from_fn(|| socket.recv(&mut buffer).ok()).count()
            };
            // Loopback delivers before the sender returns.
            let with_data: Vec<usize> =
                lanes.iter().map(|lane| taken(lane.nth(family).unwrap().0)).collect();
            let expected = if is_taken { (vec![1, 2, 3], 6) } else { (vec![0; 3], 12) };
            assert_eq!((with_data, taken(aside)), expected, "{host} {}", sources.len());
            assert_eq!(taken(transit), 3, "{host}");
        }
    }

    #[test]
    fn a_clone_sends_from_the_same_port() {
        let sockets = Sockets::open(0, 1).unwrap().remove(0);
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = receiver.local_addr().unwrap();
        sockets.try_clone().unwrap().send_to(b"hello", to).unwrap();
        let mut datagram = [0; 16];
        let (length, from) = receiver.recv_from(&mut datagram).unwrap();
        assert_eq!((&datagram[..length], from.port()), (&b"hello"[..], sockets.port()));
    }
}
