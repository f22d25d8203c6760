//! Packets for the host, in as few writes as it takes.

use std::io::{self, IoSlice};

use epsilon_mesh::shard::HostBatch;
use epsilon_mesh::shard::offload::{
    Coalescer, HEADER_LENGTH, Header, MOST_PIECES, Segments, split,
};
use epsilon_sys::udp::Carried;
use nix::libc;

use super::Failures;

/// How packets reach the host.
#[derive(Default)]
pub(super) struct Delivery {
    /// What the host did not take.
    pub(super) failures: Failures,
    /// What it took.
    pub(super) delivered: Carried,
    coalescer: Coalescer,
    /// For many that the host does not take as one.
    whole: Vec<u8>,
}

impl Delivery {
    /// Gives the host the packets of a batch by calls of `write`.
    pub(super) fn deliver(
        &mut self,
        batch: &HostBatch,
        mut write: impl FnMut(&[IoSlice<'_>]) -> io::Result<()>,
    ) {
        self.delivered.calls += 1;
        for ((), packet) in batch.iter() {
            let taken = write(&[IoSlice::new(packet)]);
            count(&mut self.delivered, &mut self.failures, &taken, 1);
        }
    }

    /// The same where packets have a header and may stand for many. Gives the
    /// kind of which the host refused many as one: from now on they come one by
    /// one.
    pub(super) fn deliver_joined(
        &mut self,
        batch: &mut HostBatch,
        mut write: impl FnMut(&[IoSlice<'_>]) -> io::Result<()>,
    ) -> Option<Segments> {
        self.delivered.calls += 1;
        let (delivered, failures) = (&mut self.delivered, &mut self.failures);
        let mut refused = None;
        let mut slices = [IoSlice::new(&[]); MOST_PIECES];
        for packet in self.coalescer.coalesce(batch) {
            let mut pieces = 0;
            for (slice, piece) in slices.iter_mut().zip(packet.pieces()) {
                *slice = IoSlice::new(piece);
                pieces += 1;
            }
            // All but the first are packets.
            let packets = pieces - 1;
            let taken = write(&slices[..pieces]);
            let header = Header::read(packet.header()).filter(|_| packets > 1);
            let (Err(error), Some(header)) = (&taken, header) else {
                count(delivered, failures, &taken, packets);
                continue;
            };
            if error.raw_os_error() != Some(libc::EINVAL) {
                count(delivered, failures, &taken, packets);
                continue;
            }
            self.whole.clear();
            packet.pieces().skip(1).for_each(|piece| self.whole.extend_from_slice(piece));
            // It was made of whole packets.
            let _ = split(header, &mut self.whole, |one| {
                let taken = write(&[IoSlice::new(&[0; HEADER_LENGTH]), IoSlice::new(one)]);
                if taken.is_ok() {
                    refused = Some(header.segments);
                }
                count(delivered, failures, &taken, 1);
            });
        }
        if let Some(kind) = refused {
            self.coalescer.leave_apart(kind);
        }
        refused
    }

    /// Leaves packets of a kind apart from the beginning.
    pub(super) fn leave_apart(&mut self, kind: Segments) {
        self.coalescer.leave_apart(kind);
    }
}

fn count(delivered: &mut Carried, failures: &mut Failures, taken: &io::Result<()>, packets: usize) {
    match taken {
        Ok(()) => {
            delivered.messages += 1;
            delivered.packets += packets as u64;
        }
        Err(error) => failures.count(error, packets),
    }
}

#[cfg(test)]
mod tests {
    use epsilon_mesh::shard::Output;

    use super::*;

    /// Datagrams of one flow: IPv4 with UDP and no checksum to be seen as wrong.
    fn datagram(number: u8) -> Vec<u8> {
        let mut packet = vec![0; 40 + 8 + 100];
        packet[..8].copy_from_slice(&[0x60, 0, 0, 0, 0, 108, 17, 64]);
        packet[8..40].fill(1);
        packet[44..46].copy_from_slice(&[0, 108]);
        packet[48..].fill(number);
        let words =
            packet[8..].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
        let mut sum: u32 = words.sum::<u32>() + 17 + 108;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        packet[46..48].copy_from_slice(&(!(sum as u16)).to_be_bytes());
        packet
    }

    /// What a write gave the host.
    fn whole(pieces: &[IoSlice<'_>]) -> Vec<u8> {
        pieces.iter().flat_map(|piece| piece.to_vec()).collect()
    }

    #[test]
    fn many_that_the_host_does_not_take_as_one_come_one_by_one_from_then_on() {
        let packets: Vec<Vec<u8>> = (0..5).map(datagram).collect();
        let mut delivery = Delivery::default();
        let (mut got, mut refusals) = (Vec::new(), 0);
        // A double of Linux before 6.2, whose virtio_net_hdr_to_skb() knows no
        // VIRTIO_NET_HDR_GSO_UDP_L4.
        let mut host = |pieces: &[IoSlice<'_>]| {
            let bytes = whole(pieces);
            if bytes[1] == 5 {
                refusals += 1;
                return Err(io::Error::from_raw_os_error(libc::EINVAL));
            }
            got.push(bytes[HEADER_LENGTH..].to_vec());
            Ok(())
        };
        let mut batch = Output::new().host;
        for round in 0..3 {
            for packet in &packets {
                assert!(batch.push((), packet.len(), |into| {
                    into.copy_from_slice(packet);
                    packet.len()
                }));
            }
            let refused = delivery.deliver_joined(&mut batch, &mut host);
            assert_eq!(refused, (round == 0).then_some(Segments::Udp(100)));
            batch.clear();
        }
        assert_eq!(refusals, 1);
        assert_eq!(got, [&packets[..]; 3].concat());
        assert_eq!((delivery.delivered.packets, delivery.failures.count), (15, 0));
    }

    #[test]
    fn what_the_host_does_not_take_at_all_is_counted() {
        let mut delivery = Delivery::default();
        let mut batch = Output::new().host;
        for number in 0..5 {
            batch.push((), 148, |into| {
                into.copy_from_slice(&datagram(number));
                148
            });
        }
        let down = |_: &[IoSlice<'_>]| Err(io::Error::from_raw_os_error(libc::EIO));
        assert_eq!(delivery.deliver_joined(&mut batch, down), None);
        let wrong = |_: &[IoSlice<'_>]| Err(io::Error::from_raw_os_error(libc::EINVAL));
        assert_eq!(delivery.deliver_joined(&mut batch, wrong), None);
        assert_eq!((delivery.delivered.packets, delivery.failures.count), (0, 10));
        assert_eq!(delivery.failures.last_errno, Some(libc::EINVAL));
    }
}
