/// The length of [`Header`], in bytes.
pub const HEADER_LENGTH: usize = 10;

const NEEDS_CHECKSUM: u8 = 1;
const NONE: u8 = 0;
const TCP_V4: u8 = 1;
const TCP_V6: u8 = 4;
const UDP_L4: u8 = 5;
/// Beside TCP: the first segment has CWR.
const ECN: u8 = 0x80;

/// What comes before every packet between the host and an interface with
/// offload: `virtio_net_hdr` (virtio 1.2, section 5.1.6; linux/virtio_net.h),
/// in native byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Header {
    /// How what follows becomes packets.
    pub segments: Segments,
    /// Where the checksum begins that is still to be computed, and how far
    /// behind it stands.
    pub checksum: Option<(u16, u16)>,
    /// How long the headers are; a hint.
    pub header_length: u16,
}

/// How a packet stands for many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Segments {
    /// It stands for itself.
    #[default]
    One,
    /// TCP segments with at most so many bytes of payload each.
    Tcp(u16),
    /// UDP datagrams, likewise.
    Udp(u16),
}

impl Header {
    /// Reads one; `None` for a kind that nobody asked the host for.
    pub fn read(bytes: &[u8; HEADER_LENGTH]) -> Option<Self> {
        let number = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        let size = number(4);
        let segments = match bytes[1] & !ECN {
            NONE => Segments::One,
            TCP_V4 | TCP_V6 => Segments::Tcp(size),
            UDP_L4 => Segments::Udp(size),
            _ => return None,
        };
        let checksum = (bytes[0] & NEEDS_CHECKSUM != 0).then(|| (number(6), number(8)));
        Some(Self { segments, checksum, header_length: number(2) })
    }

    /// Writes it; `is_v6` is whether the packet is one of IPv6.
    pub fn bytes(&self, is_v6: bool) -> [u8; HEADER_LENGTH] {
        let (kind, size) = match self.segments {
            Segments::One => (NONE, 0),
            Segments::Tcp(size) => (if is_v6 { TCP_V6 } else { TCP_V4 }, size),
            Segments::Udp(size) => (UDP_L4, size),
        };
        let (start, offset) = self.checksum.unwrap_or_default();
        let mut bytes = [0; HEADER_LENGTH];
        bytes[0] = if self.checksum.is_some() { NEEDS_CHECKSUM } else { 0 };
        bytes[1] = kind;
        for (at, number) in [(2, self.header_length), (4, size), (6, start), (8, offset)] {
            bytes[at..at + 2].copy_from_slice(&number.to_ne_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        for segments in [Segments::One, Segments::Tcp(1380), Segments::Udp(1200)] {
            for checksum in [None, Some((20, 16))] {
                let header = Header { segments, checksum, header_length: 52 };
                for is_v6 in [false, true] {
                    assert_eq!(Header::read(&header.bytes(is_v6)), Some(header));
                }
            }
        }
        assert_eq!(Header::default().bytes(false), [0; HEADER_LENGTH]);
    }

    #[test]
    fn congestion_is_no_kind_of_its_own_and_fragments_are_not_taken() {
        let mut bytes = Header { segments: Segments::Tcp(9), ..Header::default() }.bytes(false);
        bytes[1] |= ECN;
        assert_eq!(Header::read(&bytes).unwrap().segments, Segments::Tcp(9));
        // UFO, which was never switched on.
        bytes[1] = 3;
        assert_eq!(Header::read(&bytes), None);
    }
}
