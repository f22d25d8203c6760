//! A member that floods, and a relay that changes what it passes on.

use epsilon_proto::datagram::Channel;

use super::*;

#[test]
fn a_flood_of_probes_gets_no_more_than_it_brings_and_few_of_them_are_reported() {
    let mut fleet = Fleet::of(2);
    fleet.give_probe_keys();
    let node = fleet.id(1);
    for transaction in 0..2_000 {
        let to = Path::Direct(address(1));
        let command = Command::SendProbe { node, to, size: None, transaction };
        let sent = fleet.with_output(0, |shard, now, out| {
            shard.handle_command(command, now, out);
        });
        // From another address each time.
        let from = SocketAddr::from(([198, 51, 100, 1], 1_000 + transaction as u16));
        let answers = fleet.deliver(&Wire { from, ..sent[0].clone() });
        assert_eq!(answers.len(), 1);
        assert_eq!((answers[0].to, answers[0].bytes.len()), (from, sent[0].bytes.len()));
        // It comes from where it did not go: so it counts for nothing.
        fleet.deliver(&answers[0]);
        fleet.now = fleet.now + Duration::from_millis(1);
    }
    let reports = fleet.reports(1).len();
    assert!((8..=17).contains(&reports), "{reports} in two seconds");
    assert!(fleet.reports(0).is_empty());
}

#[test]
fn a_relay_that_changes_what_it_passes_on_is_silent_to_both() {
    let mut fleet = Fleet::of(3);
    let (one, relay, other) = (0, 1, 2);
    let way = Path::Relayed(address(relay), Channel::new(7));
    for (from, to) in [(one, other), (other, one)] {
        let node = fleet.id(to);
        fleet.command(from, Command::SetPath { node, path: Some(way), mtu: DEFAULT_MTU });
    }
    fleet.give_probe_keys_to(one, other);
    let node = fleet.id(other);
    // By the relay as it should be, and with a bit of it changed.
    for flipped in [None, Some(4), Some(20), Some(60)] {
        fleet.all_reports(one);
        let mut wires = fleet.with_output(one, |shard, now, out| {
            let command = Command::SendProbe { node, to: way, size: None, transaction: 1 };
            shard.handle_command(command, now, out);
            shard.handle_packet(&packet(V4[one], V4[other], b"hello"), now, out);
        });
        while !wires.is_empty() {
            let passed = wires.drain(..).map(|mut wire| {
                assert_eq!(wire.to, address(relay));
                let to = if wire.from == address(one) { address(other) } else { address(one) };
                if let Some(place) = flipped {
                    wire.bytes[place] ^= 1;
                }
                Wire { from: address(relay), to, ..wire }
            });
            let passed: Vec<Wire> = passed.collect();
            wires = passed.iter().flat_map(|wire| fleet.deliver(wire)).collect();
        }
        let is_whole = flipped.is_none();
        assert_eq!(fleet.received(other).len(), usize::from(is_whole), "{flipped:?}");
        let answered = |report: &Report| matches!(report, Report::ProbeAnswered { .. });
        assert_eq!(fleet.all_reports(one).iter().any(answered), is_whole, "{flipped:?}");
        if !is_whole {
            fleet.cut = true;
            fleet.pass(Duration::from_secs(1));
            fleet.cut = false;
            let unanswered = |report: &Report| matches!(report, Report::Unanswered { .. });
            assert!(fleet.all_reports(one).iter().any(unanswered), "{flipped:?}");
        }
    }
}
