//! What happens to a running lab by command.

use std::net::UdpSocket;
use std::process::Command;

use epsilon_cli::lab::{Lab, Program, Site, Spec};
use serde_json::{Value, json};

use crate::{Down, EPSILON, SOON, assert_does_not_reach, assert_reaches, on, possible};

/// A lab for one test, and the command for it.
pub(crate) struct Told(Down);

/// How a command ended.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Told {
    pub(crate) async fn up(name: &str, hosts: u16, sites: u16) -> Self {
        let name = format!("{name}-{}", std::process::id());
        let down = Down(name.clone());
        Lab::up(Spec::new(&name, hosts, sites, EPSILON)).await.unwrap();
        Self(down)
    }

    /// The name of the lab.
    pub(crate) fn name(&self) -> &str {
        &self.0.0
    }

    /// The lab, for a look at it.
    pub(crate) fn lab(&self) -> Lab {
        Lab::open(self.name()).unwrap()
    }

    /// Runs `epsilon lab` with these arguments, parted by blanks.
    fn run(&self, arguments: &str) -> Ended {
        let mut command = Command::new(EPSILON);
        command.arg("lab").args(arguments.split_ascii_whitespace()).env("EPSILON_LAB", self.name());
        let output = command.output().unwrap();
        Ended {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// What a command says that succeeds.
    pub(crate) fn says(&self, arguments: &str) -> String {
        let ended = self.run(arguments);
        assert_eq!(ended.code, Some(0), "{arguments}: {ended:?}");
        ended.out
    }
}

#[tokio::test]
async fn what_was_cut_one_by_one_is_found_and_healed_at_once() {
    if !possible() {
        return;
    }
    let told = Told::up("cuts", 4, 3).await;
    let lab = told.lab();
    let [one, two, three, four] = lab.hosts() else { panic!("four hosts") };
    assert_eq!(told.says("cut n1"), "n1 is cut off.\n");
    assert_does_not_reach(one, two);
    assert_reaches(two, three);
    assert_eq!(told.says("cut site3 site2"), "Nothing passes between site3 and site2.\n");
    assert_does_not_reach(three, four);
    assert_reaches(two, four);
    assert_eq!(told.says("cut site2"), "site2 is cut off.\n");
    assert_does_not_reach(two, three);
    assert_eq!(told.says("heal n1"), "Healed: n1.\n");
    assert_reaches(one, two);
    told.says("cut n2");
    assert_eq!(told.says("heal"), "Healed: n2, site2, site2 and site3.\n");
    assert_reaches(one, two);
    assert_reaches(two, three);
    assert_reaches(three, four);
    assert_eq!(told.says("heal"), "Nothing is cut.\n");

    let document = |text: String| serde_json::from_str::<Value>(&text).unwrap();
    let cut = document(told.says("cut site1 site2 -o json"));
    assert_eq!(cut, json!({"schema": "epsilon/v1", "cut": ["site1", "site2"]}));
    let healed = document(told.says("heal -o json"));
    assert_eq!(healed, json!({"schema": "epsilon/v1", "healed": [["site1", "site2"]]}));
}

#[tokio::test]
async fn a_host_is_carried_to_another_site_with_what_runs_on_it() {
    if !possible() {
        return;
    }
    let told = Told::up("moves", 3, 2).await;
    let mut lab = told.lab();
    let sleeper = Program::new("sleeper", "/bin/sleep").arg("1000");
    let daemon = lab.host("n1").unwrap().start(sleeper).unwrap();
    told.says("cut n1");
    assert_eq!(told.says("move n1 site2"), "n1 is at site2 now, with the address 10.2.0.12.\n");
    lab = told.lab();
    assert!(daemon.is_running());
    assert_reaches(lab.host("n1").unwrap(), lab.host("n2").unwrap());
    assert_reaches(lab.host("n3").unwrap(), lab.host("n1").unwrap());
}

#[tokio::test]
async fn a_gateway_that_was_restarted_has_other_ports() {
    if !possible() {
        return;
    }
    let name = format!("gateway-{}", std::process::id());
    let told = Told(Down(name.clone()));
    let mut spec = Spec::new(&name, 1, 1, EPSILON);
    let gateway = "port-restricted".parse().unwrap();
    spec.sites.push(Site { hosts: vec!["n2".to_owned()], gateway });
    Lab::up(spec).await.unwrap();
    let lab = told.lab();
    let [outside, inside] = lab.hosts() else { panic!("two hosts") };
    let bind = |host, port| on(host, || UdpSocket::bind(("0.0.0.0", port)).unwrap());
    let (outside, inside, target) = (bind(outside, 9), bind(inside, 7755), (outside.ipv4(), 9));
    outside.set_read_timeout(Some(SOON)).unwrap();
    let seen_from = || {
        inside.send_to(b"hello", target).unwrap();
        outside.recv_from(&mut [0; 8]).unwrap().1
    };
    let before = seen_from();
    assert_eq!(seen_from(), before);
    told.says("restart-gateway site2");
    assert_ne!(seen_from(), before);
}

#[tokio::test]
async fn what_cannot_be_meant_says_what_could() {
    if !possible() {
        return;
    }
    let told = Told::up("nonsense", 2, 2).await;
    for (arguments, code, text) in [
        ("cut n9", 2, "it has n1, n2"),
        ("cut site7", 2, "site1 to site2"),
        ("cut n1 site2", 2, "n1 is no site"),
        ("cut site1 site1", 2, "name two"),
        ("cut", 2, "<CABLE>"),
        ("move n1 n2", 2, "name a site"),
        ("move n1 site1", 2, "n1 is at site1 already"),
        ("move n3 site1", 2, "it has n1, n2"),
        ("restart-gateway n1", 2, "n1 is no site"),
        ("link n1", 2, "<LINK>"),
        ("link n9 loss=1%", 2, "it has n1, n2"),
        ("link n1 loss=1", 2, "such as 0.5%"),
        ("up --link site9=loss=1%", 2, "none of the hosts and sites"),
        ("up --link site1", 2, "site1=delay=40ms"),
        ("kill n1", 1, "lab start n1"),
        ("start n5", 2, "it has n1, n2"),
    ] {
        let ended = told.run(arguments);
        assert_eq!(ended.code, Some(code), "{arguments}: {ended:?}");
        assert!(ended.err.contains(text), "{arguments}: {ended:?}");
        assert_eq!(ended.out, "");
    }
}
