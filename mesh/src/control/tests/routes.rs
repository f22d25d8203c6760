//! Networks beyond members.

use super::*;
use crate::saved::{Accepted, Advertised};
use crate::shard::{Report, SubnetRoute};

fn block(text: &str) -> Prefix {
    text.parse().unwrap()
}

impl Scene {
    fn change(&mut self, change: RouteChange) -> Result<(), OperationError> {
        self.outputs.clear();
        let id = self.control.operate(Operation::ChangeRoutes(change), self.now);
        self.drain();
        let done = self.outputs.iter().find_map(|output| match output {
            Output::Done { operation, result } if *operation == id => Some(result),
            _ => None,
        });
        match done {
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) => Err(error.clone()),
            None => panic!("it is not done"),
        }
    }

    fn accept(&mut self, text: &str) -> Result<(), OperationError> {
        let accept = vec![Accepted { prefix: block(text), from: None }];
        self.change(RouteChange { accept, ..RouteChange::default() })
    }

    fn advertise(&mut self, text: &str) -> Result<(), OperationError> {
        let advertise = vec![Advertised { prefix: block(text), is_masqueraded: true }];
        self.change(RouteChange { advertise, ..RouteChange::default() })
    }

    /// A member that is linked and says that it leads somewhere.
    pub(super) fn router(&mut self, number: u8, routes: &[&str]) -> SecretKey {
        let member = key(number);
        let introduction = self.introduction(&member, &key(ADMIN));
        let credentials = self.credentials(&member, vec![introduction], Vec::new());
        self.admit_and_link(&member, &credentials);
        self.leads(&member, 1, routes);
        member
    }

    fn leads(&mut self, member: &SecretKey, sequence: u64, routes: &[&str]) {
        let record = self.record(member, 9, sequence);
        let mut record = (*record.verify(self.control.id, &Strict).unwrap()).clone();
        record.introductions = vec![self.introduction(member, &key(ADMIN))];
        record.routes = routes.iter().map(|text| block(text)).collect();
        let change = wire::encode(&Change::Record(self.sign(&record, member)));
        self.control.handle_gossip(member.node(), &change, self.now);
        self.drain();
    }

    /// What the data plane was told last.
    fn told(&self) -> Option<&Vec<SubnetRoute>> {
        self.outputs.iter().rev().find_map(|output| match output {
            Output::Shard(Command::SetSubnets(routes)) => Some(routes),
            _ => None,
        })
    }

    fn via(&self, prefix: &str) -> Option<NodeId> {
        let views = self.control.route_views();
        views.into_iter().find(|view| view.prefix == block(prefix)).and_then(|view| view.via)
    }
}

#[test]
fn nothing_counts_that_was_not_accepted_and_whoever_is_there_is_used() {
    let mut scene = Scene::founder(None);
    let one = scene.router(2, &["192.168.10.0/24", "0.0.0.0/0", "10.77.3.0/24"]);
    let other = scene.router(3, &["192.168.10.0/24"]);
    assert_eq!(scene.told(), None);
    scene.accept("192.168.0.0/16").unwrap();
    let told = scene.told().unwrap();
    assert_eq!(told.len(), 1, "no default route, and nothing of the mesh: {told:?}");
    assert_eq!(told[0].from.len(), 2);
    let first = scene.via("192.168.10.0/24").unwrap();
    let (gone, left) = if first == one.node() { (&one, &other) } else { (&other, &one) };
    // Whoever comes back is not preferred.
    scene.hang_up(gone.node());
    scene.pass(SECOND * 30);
    assert_eq!(scene.via("192.168.10.0/24"), Some(left.node()));
    scene.link(gone.node());
    scene.pass(SECOND * 2);
    assert_eq!(scene.via("192.168.10.0/24"), Some(left.node()));
    // Who does not lead there any more is not used.
    scene.leads(left, 2, &[]);
    assert_eq!(scene.via("192.168.10.0/24"), Some(gone.node()));
    scene.leads(gone, 2, &["10.77.3.0/24"]);
    assert_eq!(scene.told().unwrap().len(), 0);
}

#[test]
fn a_default_route_counts_through_the_chosen_exit_alone() {
    let mut scene = Scene::founder(None);
    let exit = scene.router(2, &["0.0.0.0/0", "::/0"]);
    let other = scene.router(3, &["192.168.10.0/24"]);
    for all in ["::/0", "0.0.0.0/0"] {
        scene.accept(all).unwrap();
    }
    assert_eq!(scene.told().unwrap().len(), 1, "all subnets, but no exit");
    let choose = |scene: &mut Scene, node: NodeId| {
        scene.change(RouteChange { exit: Some(Some(node)), ..RouteChange::default() })
    };
    assert!(matches!(choose(&mut scene, other.node()), Err(OperationError::NoExit(_))));
    let own = scene.control.own;
    assert_eq!(choose(&mut scene, own), Err(OperationError::OwnExit));
    choose(&mut scene, exit.node()).unwrap();
    assert_eq!(scene.told().unwrap().len(), 3);
    // An exit that is none any more leads nowhere: nothing leaves otherwise.
    scene.leads(&exit, 2, &[]);
    let told = scene.told().unwrap();
    let all = told.iter().filter(|route| route.prefix.is_everything());
    assert!(all.clone().count() == 2 && all.clone().all(|route| route.via.is_none()), "{told:?}");
}

#[test]
fn what_cannot_be_routed_is_refused_and_what_was_said_is_in_the_record() {
    let mut scene = Scene::founder(None);
    assert!(matches!(scene.advertise("10.77.3.0/24"), Err(OperationError::InsideMesh(_))));
    assert!(matches!(scene.advertise("10.0.0.0/8"), Err(OperationError::InsideMesh(_))));
    assert!(matches!(scene.advertise("169.254.0.0/16"), Err(OperationError::NotRoutable(_))));
    let withdraw = vec![block("192.168.10.0/24")];
    let withdraw = RouteChange { withdraw, ..RouteChange::default() };
    let result = scene.change(withdraw.clone());
    assert!(matches!(result, Err(OperationError::NotAdvertised(_))), "{result:?}");
    scene.advertise("192.168.10.0/24").unwrap();
    scene.pass(SECOND * 10);
    let said = |scene: &Scene| {
        let own = scene.control.members.get(scene.control.own).unwrap();
        own.record.routes.clone()
    };
    assert_eq!(said(&scene), [block("192.168.10.0/24")]);
    scene.change(withdraw).unwrap();
    scene.pass(SECOND * 10);
    assert!(said(&scene).is_empty());
    for number in 0..MAX_ROUTES {
        scene.advertise(&format!("192.168.{number}.0/24")).unwrap();
    }
    assert_eq!(scene.advertise("192.168.99.0/24"), Err(OperationError::TooManyRoutes));
}

#[test]
fn a_network_that_is_accepted_from_one_member_is_not_from_another_nor_is_a_part_of_it() {
    let mut scene = Scene::founder(None);
    let one = scene.router(2, &["192.168.10.0/24"]);
    let thief = scene.router(3, &["192.168.10.0/24", "192.168.10.0/25"]);
    let from = |node: &SecretKey| {
        let accept = vec![Accepted { prefix: block("192.168.10.0/24"), from: Some(node.node()) }];
        RouteChange { accept, ..RouteChange::default() }
    };
    scene.change(from(&one)).unwrap();
    let told = scene.told().unwrap();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].from, [one.node()]);
    scene.change(from(&thief)).unwrap();
    assert_eq!(scene.told().unwrap().len(), 2);
    let reject = vec![block("192.168.10.0/24")];
    scene.change(RouteChange { reject, ..RouteChange::default() }).unwrap();
    assert_eq!(scene.told().unwrap().len(), 0);
}

#[test]
fn two_changes_at_the_same_time_both_hold() {
    let mut scene = Scene::founder(None);
    for text in ["192.168.10.0/24", "192.168.11.0/24"] {
        let advertise = vec![Advertised { prefix: block(text), is_masqueraded: true }];
        let change = RouteChange { advertise, ..RouteChange::default() };
        scene.control.operate(Operation::ChangeRoutes(change), scene.now);
    }
    scene.drain();
    assert_eq!(scene.control.routing.advertised.len(), 2);
}

#[test]
fn whoever_is_silent_keeps_nobody_awake() {
    let mut scene = Scene::founder(None);
    let one = scene.router(2, &["192.168.10.0/24"]);
    scene.accept("192.168.10.0/24").unwrap();
    scene.control.handle_report(Report::Busy { node: one.node() }, scene.now);
    scene.drain();
    scene.pass(SECOND * 20);
    assert!(scene.control.routes.due(scene.now.instant).is_none_or(|due| due > scene.now.instant));
}
