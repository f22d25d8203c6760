//! `netcheck`: how this machine is connected, and what that means.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use epsilon_mesh::control::{MemberView, PeerState, ReachView};
use epsilon_mesh::shard::Path;
use epsilon_proto::address::{is_public, is_stream};
use epsilon_proto::api::{
    FamilyCheck, Filtering, HubCheck, Mapping, Netcheck, NodeRef, Problem, Udp,
};
use epsilon_proto::id::NodeId;
use futures::future::join_all;

use super::answer::{Asked, stopped};
use super::render;
use crate::network::Snapshot;

/// So many members are asked.
const ASKED: usize = 8;
/// How long one has for an answer.
const ANSWER: Duration = Duration::from_secs(2);
/// How long a member has that shall probe unasked, behind the request for it.
const UNASKED: Duration = Duration::from_millis(1500);
/// Older ones say nothing about now.
const FRESH: Duration = Duration::from_mins(10);

impl Asked {
    pub(super) async fn netcheck(&self, snapshot: &Snapshot) -> Result<Netcheck, Problem> {
        let began = tokio::time::Instant::now();
        self.client.look_whether_open().await.map_err(stopped)?;
        let candidates = candidates(snapshot);
        let asked = candidates.iter().map(|node| async {
            let pong = self.client.ping(*node, ANSWER).await;
            pong.ok().flatten().and_then(|pong| pong.rtt)
        });
        let answers: Vec<Option<Duration>> = join_all(asked).await;
        tokio::time::sleep_until(began + UNASKED).await;
        let now = self.snapshot().await?;
        let mut hubs: Vec<HubCheck> = candidates
            .iter()
            .zip(answers)
            .filter_map(|(node, rtt)| {
                let member = now.view.members.iter().find(|member| member.node == *node)?;
                let rtt_us = rtt.map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX));
                let path = render::path_to(member.path, member, &now);
                Some(HubCheck {
                    node: render::reference(member),
                    open: member.is_open,
                    path,
                    rtt_us,
                })
            })
            .collect();
        hubs.sort_by_key(|hub| (hub.rtt_us.is_none(), hub.rtt_us, hub.node.name.clone()));
        let node = |node: &NodeId| render::node_ref(*node, &now);
        let relays: Vec<NodeRef> = now.view.reach.relays.iter().map(node).collect();
        Ok(report(self.name.to_string(), &now, hubs, relays))
    }
}

/// Those that are asked: who is reached by everybody first, then who is linked.
fn candidates(snapshot: &Snapshot) -> Vec<NodeId> {
    let members = snapshot.view.members.iter();
    let mut all: Vec<&MemberView> = members
        .filter(|member| matches!(member.state, PeerState::Up | PeerState::Connecting))
        .filter(|member| member.is_open || member.link.is_some())
        .collect();
    all.sort_by_key(|member| (!member.is_open, member.link.is_none(), member.rtt, member.node));
    all.truncate(ASKED);
    all.iter().map(|member| member.node).collect()
}

fn report(
    network: String,
    snapshot: &Snapshot,
    hubs: Vec<HubCheck>,
    relays: Vec<NodeRef>,
) -> Netcheck {
    let reach = &snapshot.view.reach;
    let others = snapshot.view.members.iter().filter(|member| member.node != snapshot.view.own);
    let answers = |member: &MemberView| {
        let id = member.node.to_string();
        hubs.iter().any(|hub| hub.node.id == id && hub.rtt_us.is_some())
    };
    let is_far = |member: &MemberView| !reach.near.contains(&member.node);
    let is_direct =
        |member: &MemberView| matches!(member.path, Some(Path::Direct(at)) if !is_stream(at));
    let is_heard = |member: &MemberView| member.link.is_some() || answers(member);
    // Those on the own network say nothing of what leaves it.
    let udp = if others.clone().any(|one| is_far(one) && is_direct(one) && answers(one)) {
        Udp::Works
    } else if others.clone().any(|one| is_far(one) && is_heard(one)) {
        Udp::Blocked
    } else if others.clone().any(|one| is_direct(one) && answers(one)) {
        Udp::Works
    } else if others.clone().any(is_heard) {
        Udp::Blocked
    } else {
        Udp::Unknown
    };
    let mtu = others.filter(|member| answers(member)).map(|member| member.mtu).min();
    let (mapping, filtering) = (mapping(reach), filtering(reach));
    let port_mapping = snapshot.port_mapping.as_ref().map(render::port_mapping);
    let (meaning, advice) = verdict(&Facts {
        udp,
        mapping,
        filtering,
        open: reach.is_open,
        relays: relays.len(),
        is_mapped: port_mapping
            .as_ref()
            .is_some_and(|one| one.udp.is_some_and(|at| is_public(at.ip()))),
    });
    Netcheck {
        network,
        udp,
        ipv4: family(reach, true),
        ipv6: family(reach, false),
        mapping,
        filtering,
        port_mapping,
        open: reach.is_open,
        mtu,
        hubs,
        relays,
        meaning: meaning.to_owned(),
        advice: advice.map(str::to_owned),
    }
}

fn family(reach: &ReachView, is_v4: bool) -> FamilyCheck {
    let seen = reach.seen.iter().map(|(_, address)| *address);
    let seen: BTreeSet<SocketAddr> = seen.filter(|at| at.is_ipv4() == is_v4).collect();
    FamilyCheck {
        addresses: reach.local.iter().copied().filter(|ip| ip.is_ipv4() == is_v4).collect(),
        seen_as: seen.into_iter().collect(),
    }
}

/// What a NAT of IPv4 does, by what members elsewhere say.
fn mapping(reach: &ReachView) -> Mapping {
    let seen = reach.seen.iter().map(|(_, address)| *address).filter(SocketAddr::is_ipv4);
    // A host may have several addresses, and a NAT at one of them only.
    let (own, given): (Vec<SocketAddr>, Vec<SocketAddr>) =
        seen.partition(|at| reach.local.contains(&at.ip()));
    let different: BTreeSet<&SocketAddr> = given.iter().collect();
    match (given.len(), different.len()) {
        (0, _) if !own.is_empty() => Mapping::None,
        (0 | 1, _) => Mapping::Unknown,
        (_, 1) => Mapping::EndpointIndependent,
        _ => Mapping::EndpointDependent,
    }
}

fn filtering(reach: &ReachView) -> Filtering {
    match reach.looked {
        _ if reach.is_open || reach.was_probed => Filtering::EndpointIndependent,
        Some(ago) if ago < FRESH => Filtering::EndpointDependent,
        Some(_) | None => Filtering::Unknown,
    }
}

/// What decides about the sentence.
struct Facts {
    udp: Udp,
    mapping: Mapping,
    filtering: Filtering,
    open: bool,
    relays: usize,
    is_mapped: bool,
}

const OPEN_A_PORT: &str =
    "forward the UDP and TCP port of the mesh to this machine, or let the router do so by itself";

/// One sentence on what it means, and one on what would improve it.
fn verdict(facts: &Facts) -> (&'static str, Option<&'static str>) {
    let Facts { udp, mapping, filtering, open, relays, is_mapped } = facts;
    match (udp, mapping) {
        (Udp::Unknown, _) => (
            "No other member is reached, so nothing can be said.",
            Some("see what is wrong with: epsilon status"),
        ),
        (Udp::Blocked, _) => (
            "UDP does not get out: packets travel by TLS to a member that can be reached, and \
             through it to all others, more slowly.",
            Some("let UDP out of this network, to any port"),
        ),
        _ if *open => (
            "Every member reaches this one directly, and it can pass on for those that cannot.",
            None,
        ),
        _ if *is_mapped => (
            "The router passes a port on to this machine: members reach it directly there, though \
             it is behind a NAT.",
            None,
        ),
        (Udp::Works, Mapping::EndpointDependent) => (
            "A NAT gives this machine another port for everybody: members behind NATs reach it \
             through others where theirs minds ports.",
            Some(OPEN_A_PORT),
        ),
        (Udp::Works, Mapping::EndpointIndependent | Mapping::None)
            if *filtering == Filtering::EndpointIndependent =>
        {
            (
                "Whoever knows the address reaches this machine, as long as its NAT remembers it.",
                None,
            )
        }
        (Udp::Works, Mapping::None) if *filtering == Filtering::Unknown => (
            "There is no NAT; whether a firewall lets in what nobody asked for was not tried yet.",
            Some("ask again in a few minutes"),
        ),
        (Udp::Works, Mapping::None) => (
            "A firewall lets in only what was asked for: members that both sides can call reach \
             each other directly.",
            Some("let UDP and TCP in at the port of the mesh"),
        ),
        (Udp::Works, Mapping::EndpointIndependent) => (
            "A NAT keeps one port for this machine: it reaches all members directly but those \
             whose NAT gives them another port for everybody.",
            Some(OPEN_A_PORT),
        ),
        (Udp::Works, Mapping::Unknown) if *relays == 0 => (
            "UDP works; too few members elsewhere are reached directly to say what a NAT does.",
            None,
        ),
        (Udp::Works, Mapping::Unknown) => (
            "UDP works, and other members pass on what does not get through directly.",
            Some(OPEN_A_PORT),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(seen: &[&str]) -> ReachView {
        let seen = seen.iter().zip(1..).map(|(at, node)| (NodeId([node; 32]), at.parse().unwrap()));
        ReachView {
            is_open: false,
            was_probed: false,
            looked: None,
            near: Vec::new(),
            seen: seen.collect(),
            local: vec!["192.168.1.11".parse().unwrap()],
            relays: Vec::new(),
        }
    }

    #[test]
    fn a_nat_is_known_by_what_two_members_see() {
        for (seen, wanted) in [
            (&[][..], Mapping::Unknown),
            (&["192.168.1.11:7755"], Mapping::None),
            (&["192.168.1.11:7755", "192.168.1.11:7756"], Mapping::None),
            (&["192.168.1.11:7755", "198.51.100.7:7755"], Mapping::Unknown),
            (&["198.51.100.7:7755"], Mapping::Unknown),
            (&["198.51.100.7:7755", "198.51.100.7:7755"], Mapping::EndpointIndependent),
            (&["198.51.100.7:7755", "198.51.100.7:40001"], Mapping::EndpointDependent),
            (&["198.51.100.7:7755", "[2001:db8::7]:7755"], Mapping::Unknown),
        ] {
            assert_eq!(mapping(&reach(seen)), wanted, "{seen:?}");
        }
    }

    #[test]
    fn a_filter_is_known_where_somebody_could_come_unasked() {
        let looked = |looked, was_probed| ReachView { looked, was_probed, ..reach(&[]) };
        let just = Some(Duration::from_secs(2));
        assert_eq!(filtering(&looked(None, false)), Filtering::Unknown);
        assert_eq!(filtering(&looked(just, false)), Filtering::EndpointDependent);
        assert_eq!(filtering(&looked(just, true)), Filtering::EndpointIndependent);
        assert_eq!(filtering(&looked(Some(FRESH), false)), Filtering::Unknown);
    }

    #[test]
    fn every_case_has_a_sentence_and_what_can_be_improved_says_how() {
        for udp in [Udp::Works, Udp::Blocked, Udp::Unknown] {
            for mapping in [
                Mapping::None,
                Mapping::EndpointIndependent,
                Mapping::EndpointDependent,
                Mapping::Unknown,
            ] {
                for open in [false, true] {
                    let filtering = Filtering::Unknown;
                    let facts =
                        Facts { udp, mapping, filtering, open, relays: 1, is_mapped: false };
                    let (meaning, advice) = verdict(&facts);
                    assert!(meaning.ends_with('.'), "{meaning}");
                    assert_eq!(advice.is_none(), open && udp == Udp::Works, "{meaning}");
                }
            }
        }
    }
}
