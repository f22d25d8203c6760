use super::checksum::{complement, fold, pseudo, sum};
use super::header::{HEADER_LENGTH, Header, Segments};
use super::{ACK, PSH, TCP, UDP};
use crate::shard::batch::HostBatch;
use crate::shard::inner::{V4_HEADER, V6_HEADER};

/// How many flows are remembered at once. Two that share a place only spoil
/// each other's coalescing.
const FLOWS: usize = 512;
/// The longest IP packet that headers can describe.
const LONGEST: usize = 65_535;
/// The most UDP datagrams that the kernel takes as one (`UDP_MAX_SEGMENTS` of
/// Linux before 6.9).
const MOST_DATAGRAMS: u16 = 64;
/// The most TCP segments.
const MOST_SEGMENTS: u16 = 128;
/// Of how many pieces a packet for the host consists at most.
pub const MOST_PIECES: usize = MOST_SEGMENTS as usize + 1;
/// What comes after the last packet of a group.
const END: u32 = u32::MAX;

/// Makes few packets for the host out of many; reused from batch to batch.
pub struct Coalescer {
    groups: Vec<Group>,
    /// The packet that follows each one in its group.
    next: Vec<u32>,
    /// The newest group of each flow, and the batch in which it was.
    newest: Box<[(u64, u32)]>,
    batch: u64,
    /// Groups before this one take no more.
    barrier: u32,
    /// Whether the host takes many as one: TCP, UDP.
    joins: [bool; 2],
}

/// Packets of one flow that become one.
struct Group {
    first: u32,
    last: u32,
    count: u16,
    /// `None` where it is one packet and stays so.
    shape: Option<Shape>,
    /// Whether another packet may follow.
    open: bool,
    /// The payload of each but the last, in bytes.
    size: usize,
    /// With headers, in bytes.
    total: usize,
    sequence: u32,
    identification: Counting,
    pushed: bool,
    header: [u8; HEADER_LENGTH],
}

/// What IPv4's identification does from packet to packet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Counting {
    Unknown,
    Still,
    Up,
}

/// The layout of a packet that is plainly TCP or UDP.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    v6: bool,
    tcp: bool,
    /// How long all headers are.
    length: usize,
}

/// What a packet is to the coalescer.
pub(super) enum Seen {
    /// It may be one of many.
    Whole(Shape),
    /// It belongs to a flow, and stands for itself.
    Single(Shape),
    /// It belongs to no flow that others could belong to.
    Alone,
    /// Nobody knows to which flow it belongs.
    Any,
}

/// One packet for the host, which may stand for many.
pub struct SuperPacket<'a> {
    header: &'a [u8; HEADER_LENGTH],
    batch: &'a HostBatch,
    next: &'a [u32],
    first: u32,
    headers: usize,
}

fn number(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn long(bytes: &[u8], at: usize) -> u32 {
    u32::from(number(bytes, at)) << 16 | u32::from(number(bytes, at + 2))
}

impl Shape {
    /// Where the transport header begins.
    fn transport(self) -> usize {
        if self.v6 { V6_HEADER } else { V4_HEADER }
    }

    /// Where the checksum stands in the transport header.
    fn checksum(self) -> usize {
        if self.tcp { 16 } else { 6 }
    }

    fn protocol(self) -> u8 {
        if self.tcp { TCP } else { UDP }
    }

    fn addresses(self, packet: &[u8]) -> &[u8] {
        if self.v6 { &packet[8..40] } else { &packet[12..20] }
    }

    fn ports(self, packet: &[u8]) -> &[u8] {
        &packet[self.transport()..self.transport() + 4]
    }

    fn is_same_flow(self, packet: &[u8], other: Self, of: &[u8]) -> bool {
        (self.v6, self.tcp) == (other.v6, other.tcp)
            && self.ports(packet) == other.ports(of)
            && self.addresses(packet) == other.addresses(of)
    }

    fn place(self, packet: &[u8]) -> usize {
        let key = sum(sum(0, self.addresses(packet)), self.ports(packet));
        let mixed = (key ^ u64::from(self.protocol())).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 48) as usize % FLOWS
    }
}

impl Seen {
    /// Looks at a packet, which has passed for a whole IP packet.
    pub(super) fn of(packet: &[u8]) -> Self {
        let (v6, protocol) = match packet.first().map(|first| first >> 4) {
            Some(4) if packet.len() >= V4_HEADER => {
                let is_plain = packet[0] == 0x45 && number(packet, 6) & 0xbfff == 0;
                let is_whole = usize::from(number(packet, 2)) == packet.len();
                // A checksum of all ones is another way to write zero, which
                // would come out.
                let holds =
                    fold(sum(0, &packet[..V4_HEADER])) == 0xffff && number(packet, 10) != 0xffff;
                if !is_plain || !is_whole || !holds {
                    return Self::Any;
                }
                (false, packet[9])
            }
            Some(6) if packet.len() >= V6_HEADER => {
                if usize::from(number(packet, 4)) + V6_HEADER != packet.len() {
                    return Self::Any;
                }
                (true, packet[6])
            }
            _ => return Self::Any,
        };
        let transport = if v6 { V6_HEADER } else { V4_HEADER };
        let segment = &packet[transport..];
        match protocol {
            TCP if segment.len() >= 20 => {
                let words = usize::from(segment[12] >> 4);
                let shape = Shape { v6, tcp: true, length: transport + words * 4 };
                let is_data = words >= 5
                    && shape.length < packet.len()
                    && segment[13] & !PSH == ACK
                    && segment[12].trailing_zeros() >= 4;
                if is_data && shape.holds(packet) {
                    Self::Whole(shape)
                } else {
                    Self::Single(shape)
                }
            }
            UDP if segment.len() >= 8 => {
                let shape = Shape { v6, tcp: false, length: transport + 8 };
                let is_data = segment.len() > 8
                    && usize::from(number(segment, 4)) == segment.len()
                    && number(segment, 6) != 0;
                if is_data && shape.holds(packet) {
                    Self::Whole(shape)
                } else {
                    Self::Single(shape)
                }
            }
            TCP | UDP => Self::Any,
            // ICMP and what else has no ports; for IPv6 it may be an extension
            // with anything behind it.
            _ if v6 && protocol != 58 => Self::Any,
            _ => Self::Alone,
        }
    }
}

impl Shape {
    /// Whether the checksum of the segment holds, and is written as it would be
    /// here: for TCP zero may be all ones.
    fn holds(self, packet: &[u8]) -> bool {
        let segment = &packet[self.transport()..];
        if self.tcp && number(segment, self.checksum()) == 0xffff {
            return false;
        }
        let pseudo = pseudo(self.addresses(packet), self.protocol(), segment.len());
        fold(sum(pseudo, segment)) == 0xffff
    }
}

impl Group {
    fn new(index: u32, packet: &[u8], shape: Option<Shape>, open: bool) -> Self {
        let payload = shape.map_or(0, |shape| packet.len().saturating_sub(shape.length));
        let tcp = shape.filter(|shape| open && shape.tcp);
        let sequence =
            tcp.map_or(0, |shape| long(packet, shape.transport() + 4).wrapping_add(payload as u32));
        let pushed = tcp.is_some_and(|shape| packet[shape.transport() + 13] & PSH != 0);
        Self {
            first: index,
            last: index,
            count: 1,
            shape,
            open: open && !pushed,
            size: payload,
            total: packet.len(),
            sequence,
            identification: Counting::Unknown,
            pushed,
            header: [0; HEADER_LENGTH],
        }
    }

    /// Whether a packet continues the group, and how its identification
    /// counts, if it does.
    fn continues(
        &self,
        shape: Shape,
        packet: &[u8],
        first: &[u8],
        last: &[u8],
    ) -> Option<Counting> {
        let payload = packet.len() - shape.length;
        let most = if shape.tcp { MOST_SEGMENTS } else { MOST_DATAGRAMS };
        let fits = self.open
            && self.shape == Some(shape)
            && payload <= self.size
            && self.total + payload <= LONGEST
            && self.count < most;
        if !fits {
            return None;
        }
        let at = shape.transport();
        if shape.tcp {
            let follows = long(packet, at + 4) == self.sequence
                // Acknowledgment; window; urgent pointer and options.
                && packet[at + 8..at + 12] == first[at + 8..at + 12]
                && packet[at + 14..at + 16] == first[at + 14..at + 16]
                && packet[at + 18..shape.length] == first[at + 18..shape.length];
            if !follows {
                return None;
            }
        }
        if shape.v6 {
            // Version, class and flow label; hop limit.
            let same = packet[..4] == first[..4] && packet[7] == first[7];
            return same.then_some(Counting::Unknown);
        }
        // Type of service with ECN; fragmentation; time to live.
        if packet[1] != first[1] || packet[6..8] != first[6..8] || packet[8] != first[8] {
            return None;
        }
        let must_not_be_fragmented = packet[6] & 0x40 != 0;
        let counting = match number(packet, 4).wrapping_sub(number(last, 4)) {
            1 => Counting::Up,
            0 if must_not_be_fragmented => Counting::Still,
            _ => return None,
        };
        (self.identification == Counting::Unknown || self.identification == counting)
            .then_some(counting)
    }

    /// Makes the headers of the first packet those of all of them.
    fn describe(&mut self, shape: Shape, packet: &mut [u8]) {
        let at = shape.transport();
        let covered = self.total - at;
        if shape.v6 {
            packet[4..6].copy_from_slice(&(covered as u16).to_be_bytes());
        } else {
            packet[2..4].copy_from_slice(&(self.total as u16).to_be_bytes());
            packet[10..12].fill(0);
            let checksum = complement(sum(0, &packet[..V4_HEADER]));
            packet[10..12].copy_from_slice(&checksum);
        }
        if shape.tcp {
            packet[at + 13] |= if self.pushed { PSH } else { 0 };
        } else {
            packet[at + 4..at + 6].copy_from_slice(&(covered as u16).to_be_bytes());
        }
        // The host computes the rest.
        let pseudo = fold(pseudo(shape.addresses(packet), shape.protocol(), covered));
        let field = at + shape.checksum();
        packet[field..field + 2].copy_from_slice(&pseudo.to_ne_bytes());
        let size = self.size as u16;
        let header = Header {
            segments: if shape.tcp { Segments::Tcp(size) } else { Segments::Udp(size) },
            checksum: Some((at as u16, shape.checksum() as u16)),
            header_length: shape.length as u16,
        };
        self.header = header.bytes(shape.v6);
    }
}

impl Default for Coalescer {
    fn default() -> Self {
        Self {
            groups: Vec::new(),
            next: Vec::new(),
            newest: vec![(0, 0); FLOWS].into_boxed_slice(),
            batch: 0,
            barrier: 0,
            joins: [true; 2],
        }
    }
}

impl Coalescer {
    /// Leaves packets of such a kind apart from now on: the host does not take
    /// them as one. Linux before 6.2 takes no UDP, for one.
    pub fn leave_apart(&mut self, kind: Segments) {
        match kind {
            Segments::One => {}
            Segments::Tcp(_) => self.joins[0] = false,
            Segments::Udp(_) => self.joins[1] = false,
        }
    }

    /// Makes as few packets of those in a batch as it can, and gives them in
    /// an order that keeps that of each flow.
    pub fn coalesce<'a>(
        &'a mut self,
        batch: &'a mut HostBatch,
    ) -> impl Iterator<Item = SuperPacket<'a>> {
        self.groups.clear();
        self.next.clear();
        self.batch += 1;
        self.barrier = 0;
        for index in 0..batch.len() as u32 {
            self.next.push(END);
            self.add(index, batch);
        }
        for group in self.groups.iter_mut().filter(|group| group.count > 1) {
            if let Some(shape) = group.shape {
                group.describe(shape, batch.segment_mut(group.first as usize));
            }
        }
        let (batch, next) = (&*batch, &*self.next);
        self.groups.iter().map(move |group| SuperPacket {
            header: &group.header,
            batch,
            next,
            first: group.first,
            headers: group.shape.map_or(0, |shape| shape.length),
        })
    }

    fn add(&mut self, index: u32, batch: &HostBatch) {
        let packet = batch.segment(index as usize);
        let (shape, is_whole) = match Seen::of(packet) {
            Seen::Whole(shape) => (shape, self.joins[usize::from(!shape.tcp)]),
            Seen::Single(shape) => (shape, false),
            Seen::Alone => return self.groups.push(Group::new(index, packet, None, false)),
            Seen::Any => {
                self.groups.push(Group::new(index, packet, None, false));
                self.barrier = self.groups.len() as u32;
                return;
            }
        };
        let place = shape.place(packet);
        let (at, newest) = self.newest[place];
        if is_whole
            && at == self.batch
            && newest >= self.barrier
            && let Some(group) = self.groups.get_mut(newest as usize)
            && let Some(known) = group.shape
        {
            let (first, last) =
                (batch.segment(group.first as usize), batch.segment(group.last as usize));
            if shape.is_same_flow(packet, known, first)
                && let Some(counting) = group.continues(shape, packet, first, last)
            {
                let payload = packet.len() - shape.length;
                self.next[group.last as usize] = index;
                group.last = index;
                group.count += 1;
                group.total += payload;
                group.sequence = group.sequence.wrapping_add(payload as u32);
                group.identification = counting;
                group.pushed = shape.tcp && packet[shape.transport() + 13] & PSH != 0;
                group.open = payload == group.size && !group.pushed;
                return;
            }
        }
        self.newest[place] = (self.batch, self.groups.len() as u32);
        self.groups.push(Group::new(index, packet, Some(shape), is_whole));
    }
}

impl<'a> SuperPacket<'a> {
    /// What [`SuperPacket::pieces`] begins with.
    pub fn header(&self) -> &'a [u8; HEADER_LENGTH] {
        self.header
    }

    /// What the host takes in one call: [`Header`], the packet's headers with
    /// the first payload, and the other payloads.
    pub fn pieces(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let (batch, next, headers) = (self.batch, self.next, self.headers);
        let first = batch.segment(self.first as usize);
        let others =
            std::iter::successors(Some(self.first), |index| next.get(*index as usize).copied())
                .skip(1)
                .take_while(|index| *index != END)
                .map(move |index| batch.segment(index as usize).get(headers..).unwrap_or_default());
        [&self.header[..], first].into_iter().chain(others)
    }
}
