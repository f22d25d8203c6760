//! Who counts as being there.

use super::*;
use crate::shard::Report;

impl Scene {
    fn state(&mut self, node: NodeId) -> PeerState {
        self.control.member_view(node, self.now).unwrap().state
    }

    /// The peer answers a probe where it is reached.
    fn answers(&mut self, node: NodeId) {
        self.control.prefer_path(node, remote());
        // What answered long ago is asked first.
        assert_eq!(self.control.ping(node, self.now), None);
        let sent = std::iter::from_fn(|| self.control.poll_output());
        let probe = sent.filter_map(|output| match output {
            Output::Shard(Command::SendProbe { node: to, to: way, transaction, .. }) => {
                (to == node).then_some((transaction, way))
            }
            _ => None,
        });
        let (transaction, to) = { probe }.next().unwrap();
        let observed = remote();
        let report = Report::ProbeAnswered { node, transaction, to, observed, rtt: SECOND / 100 };
        self.control.handle_report(report, self.now);
        assert!(self.control.ping(node, self.now).is_some());
        self.drain();
    }
}

#[test]
fn who_was_linked_and_answers_without_a_link_is_there_and_who_just_ends_is_not() {
    let mut scene = Scene::founder(None);
    let member = scene.router(2, &[]);
    scene.pass(SECOND * 10);
    assert_eq!(scene.state(member.node()), PeerState::Up);
    scene.hang_up(member.node());
    // The daemon ends, and has not ended yet.
    scene.answers(member.node());
    scene.pass(SECOND * 10);
    assert_eq!(scene.state(member.node()), PeerState::Down);
    scene.answers(member.node());
    assert_eq!(scene.state(member.node()), PeerState::Up);
}
