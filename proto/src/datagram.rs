//! What arrives on the data port, told apart by its first bytes.
//!
//! ```text
//! | 1 to 4 | 0 0 0   | …      WireGuard
//! | 0x80   | 0 0 0   | …      probe
//! | 0x82   | …                beacon
//! | 0xA0 … | channel | …      one of them, but a beacon, on its way over a relay
//! ```
//!
//! What goes over a relay is no longer than what goes straight: the relay knows it
//! by four bytes that say nothing otherwise. It passes them on as they are; the end
//! puts back what was there.

/// The first byte of a path probe or its answer.
pub const PROBE: u8 = 0x80;
/// The first byte of a beacon on the local network.
pub const BEACON: u8 = 0x82;
/// The first byte of WireGuard's data messages.
pub const DATA: u8 = 4;
/// The same of one that goes over a relay.
pub const RELAYED_DATA: u8 = RELAYED | DATA;

const RELAYED: u8 = 0xA0;
const RELAYED_PROBE: u8 = RELAYED | 0x08;

/// The kind of a datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A WireGuard message: initiation, response, cookie or data.
    WireGuard,
    /// A path probe or its answer.
    Probe,
    /// A sealed beacon on the local network.
    Beacon,
}

impl Kind {
    /// The kind of a datagram that came straight; `None` for what belongs to nobody
    /// and is dropped without an answer.
    pub fn of(datagram: &[u8]) -> Option<Self> {
        match *datagram.first()? {
            1..=4 => Some(Self::WireGuard),
            PROBE => Some(Self::Probe),
            BEACON => Some(Self::Beacon),
            _ => None,
        }
    }
}

/// A way through a relay, by the number that the relay gave it: 24 bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Channel(u32);

impl Channel {
    /// The channel of a number; what is beyond 24 bits is cut off.
    pub fn new(number: u32) -> Self {
        Self(number & 0x00ff_ffff)
    }

    /// Whether a datagram is a probe, straight or over a relay.
    pub fn carries_probe(datagram: &[u8]) -> bool {
        matches!(datagram.first(), Some(&(PROBE | RELAYED_PROBE)))
    }

    /// Its number.
    pub fn number(self) -> u32 {
        self.0
    }

    /// On which channel a datagram comes, and how it would begin had it come
    /// straight. `None` for what does not come over a relay.
    pub fn of(datagram: &[u8]) -> Option<(Self, u8)> {
        let [first, a, b, c] = *datagram.first_chunk()?;
        let kind = match first {
            RELAYED_PROBE => PROBE,
            0xA1..=RELAYED_DATA => first & !RELAYED,
            _ => return None,
        };
        Some((Self(u32::from_be_bytes([0, a, b, c])), kind))
    }

    /// Makes a datagram that would go straight one for this channel. Nothing for
    /// what no relay takes.
    pub fn mark(self, datagram: &mut [u8]) {
        let [_, a, b, c] = self.0.to_be_bytes();
        if let Some(start) = datagram.first_chunk_mut::<4>() {
            let kind = match start[0] {
                PROBE => RELAYED_PROBE,
                kind @ 1..=DATA => RELAYED | kind,
                _ => return,
            };
            *start = [kind, a, b, c];
        }
    }

    /// Makes what came over a relay what was sent.
    pub fn unmark(datagram: &mut [u8]) {
        if let Some((_, kind)) = Self::of(datagram)
            && let Some(start) = datagram.first_chunk_mut::<4>()
        {
            *start = [kind, 0, 0, 0];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_do_not_collide_and_the_rest_is_dropped() {
        let known: Vec<u8> = (0..=255).filter(|first| Kind::of(&[*first]).is_some()).collect();
        assert_eq!(known, [1, 2, 3, 4, PROBE, BEACON]);
        assert_eq!(Kind::of(&[]), None);
        let relayed: Vec<u8> =
            (0..=255).filter(|first| Channel::of(&[*first, 0, 0, 0]).is_some()).collect();
        assert_eq!(relayed, [0xA1, 0xA2, 0xA3, RELAYED_DATA, RELAYED_PROBE]);
        assert!(relayed.iter().all(|first| !known.contains(first)));
    }

    #[test]
    fn what_goes_over_a_relay_arrives_as_it_was_sent() {
        let channel = Channel::new(0xff12_3456);
        assert_eq!(channel.number(), 0x12_3456);
        for kind in [1, 2, 3, 4, PROBE] {
            let sent = [kind, 0, 0, 0, 9, 8, 7];
            let mut datagram = sent;
            channel.mark(&mut datagram);
            assert_eq!(Channel::of(&datagram), Some((channel, kind)));
            // Not over a second one.
            let once = datagram;
            Channel::new(7).mark(&mut datagram);
            assert_eq!(datagram, once);
            Channel::unmark(&mut datagram);
            assert_eq!(datagram, sent);
        }
        let mut beacon = [BEACON, 1, 2, 3];
        channel.mark(&mut beacon);
        Channel::unmark(&mut beacon);
        assert_eq!(beacon, [BEACON, 1, 2, 3]);
        assert_eq!(Channel::of(&[RELAYED_DATA, 0, 0]), None);
    }
}
