//! What arrives on the data port, told apart by its first byte.

/// Bytes that every outgoing segment keeps free in front, so that a relay
/// header can be put there without a copy: kind (1), reserved (3), channel
/// (8), counter (8), and room to grow to 32.
pub const HEADROOM: usize = 32;

/// The first byte of a path probe or its answer.
pub const PROBE: u8 = 0x80;
/// The first byte of a frame that a member relays.
pub const RELAY: u8 = 0x81;
/// The first byte of a beacon on the local network.
pub const BEACON: u8 = 0x82;
/// The first byte of one half of a packet too large for its path.
pub const SPLIT: u8 = 0x83;

/// The kind of a datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A WireGuard message: initiation, response, cookie or data.
    WireGuard,
    /// A path probe or its answer.
    Probe,
    /// A frame that a member relays.
    Relay,
    /// A sealed beacon on the local network.
    Beacon,
    /// One half of a packet too large for its path.
    Split,
}

impl Kind {
    /// The kind of a datagram; `None` for what belongs to nobody and is
    /// dropped without an answer.
    pub fn of(datagram: &[u8]) -> Option<Self> {
        match *datagram.first()? {
            1..=4 => Some(Self::WireGuard),
            PROBE => Some(Self::Probe),
            RELAY => Some(Self::Relay),
            BEACON => Some(Self::Beacon),
            SPLIT => Some(Self::Split),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_do_not_collide_and_the_rest_is_dropped() {
        let known: Vec<u8> = (0..=255).filter(|first| Kind::of(&[*first]).is_some()).collect();
        assert_eq!(known, [1, 2, 3, 4, PROBE, RELAY, BEACON, SPLIT]);
        assert_eq!(Kind::of(&[]), None);
    }
}
