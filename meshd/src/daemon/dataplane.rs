//! The data plane's counters for people and scripts.

use epsilon_proto::api::{Batches, Dataplane, Drops};
use epsilon_sys::udp::Carried;

use crate::data::DataStats;
use crate::network::Snapshot;

fn batches(carried: Carried) -> Batches {
    let Carried { calls, messages, packets } = carried;
    Batches { calls, messages, packets }
}

pub(super) fn of(snapshot: &Snapshot, network: String) -> Dataplane {
    let stats = &snapshot.stats;
    Dataplane {
        network,
        interface: snapshot.settings.interface.clone(),
        threads: stats.threads as u32,
        interface_offload: stats.interface_offload,
        udp_segmentation: stats.udp_segmentation,
        network_in: batches(stats.network_in),
        network_out: batches(stats.network_out),
        host_in: batches(stats.host_in),
        host_out: batches(stats.host_out),
        dropped: dropped(stats),
    }
}

fn dropped(stats: &DataStats) -> Vec<Drops> {
    let shard = &stats.shard.dropped;
    let peers = |count: fn(&epsilon_mesh::shard::PeerDropped) -> u64| {
        stats.shard.peers.iter().map(|peer| count(&peer.dropped)).sum()
    };
    let reasons: [(&str, &str, u64); 23] = [
        ("kernel", "by the kernel: not for this node, or too many at once", stats.kernel),
        ("unknown", "datagrams of no kind, of no session, or by nobody known", shard.unknown),
        ("unopened", "forged, repeated, or of a session that is gone", peers(|peer| peer.unopened)),
        ("source", "from an address that is not the peer's", peers(|peer| peer.source)),
        ("destination", "not for an address of this node", peers(|peer| peer.destination)),
        ("hops", "to be forwarded, at the end of their hop limit", peers(|peer| peer.hops)),
        ("filtered", "refused by the filter", peers(|peer| peer.filtered)),
        (
            "congestion",
            "marked on the way, for ends that know no marks",
            peers(|peer| peer.congestion),
        ),
        ("waiting", "waited too long for a session or a path", peers(|peer| peer.waiting)),
        (
            "too_large",
            "too large for the path, which their sender was told",
            peers(|peer| peer.too_large),
        ),
        ("no_room", "the batch was full", peers(|peer| peer.no_room)),
        (
            "incomplete",
            "parts of packets of which others never came, or that are none",
            peers(|peer| peer.incomplete),
        ),
        ("stream", "by a stream that is too slow, or gone", stats.streams),
        ("relayed", "to be passed on, but more than was agreed", shard.relayed),
        ("passed", "for another thread, which does not keep up", shard.passed),
        ("unsendable", "of this host: no IP, to a group, or to itself", shard.unsendable),
        ("unroutable", "of this host: to an address of no member", shard.unroutable),
        ("share", "of this host: beyond its peer's share, too many at once", stats.beyond_share),
        ("malformed", "of this host: not what their header says", stats.malformed),
        ("network_refused", "not taken by the kernel for the network", stats.network.count),
        ("host_refused", "not taken by the host", stats.host.count),
        ("beacons", "beacons beyond the rate", shard.beacons),
        ("reports", "reports that the daemon did not take in time", shard.reports + stats.reports),
    ];
    reasons
        .into_iter()
        .filter(|(.., packets)| *packets > 0)
        .map(|(reason, meaning, packets)| Drops {
            reason: reason.to_owned(),
            meaning: meaning.to_owned(),
            packets,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use epsilon_mesh::shard::{Dropped, PeerDropped, PeerId, PeerStats, Traffic};
    use epsilon_proto::key::AgreementKey;

    use super::*;

    #[test]
    fn only_reasons_that_occurred_are_listed() {
        let mut stats = DataStats::default();
        assert_eq!(dropped(&stats), []);
        stats.shard.dropped.unknown = 3;
        stats.network.count = 2;
        stats.shard.dropped.reports = 4;
        stats.reports = 5;
        let listed: Vec<_> =
            dropped(&stats).into_iter().map(|drops| (drops.reason, drops.packets)).collect();
        let expected = [("unknown", 3), ("network_refused", 2), ("reports", 9)];
        assert_eq!(listed, expected.map(|(reason, packets)| (reason.to_owned(), packets)));
    }

    #[test]
    fn whatever_is_counted_is_listed() {
        let mut bit = 0;
        let mut next = || {
            bit += 1;
            1_u64 << bit
        };
        // All fields by name: a new one does not compile until it is here, too.
        let peer = PeerDropped {
            waiting: next(),
            unopened: next(),
            source: next(),
            destination: next(),
            hops: next(),
            filtered: next(),
            congestion: next(),
            too_large: next(),
            incomplete: next(),
            no_room: next(),
        };
        let shard = Dropped {
            unknown: next(),
            unsendable: next(),
            unroutable: next(),
            beacons: next(),
            relayed: next(),
            passed: next(),
            reports: next(),
        };
        let mut stats = DataStats::default();
        stats.shard.dropped = shard;
        stats.shard.peers = vec![PeerStats {
            id: PeerId::Device(AgreementKey([1; 32])),
            path: None,
            ready: false,
            received: Traffic::default(),
            sent: Traffic::default(),
            last_received: None,
            last_handshake: None,
            dropped: peer,
        }];
        let listed: u64 = dropped(&stats).iter().map(|drops| drops.packets).sum();
        assert_eq!(listed, (2 << bit) - 2);
    }
}
