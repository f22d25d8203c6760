//! `epsilon` against a real daemon: exit codes, where tokens come from,
//! configuration.

use std::time::Duration;

use epsilon_sys::process::Signal;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::ChildStdout;

use crate::support::{Fleet, SOON, holds, possible, program, until};

#[tokio::test]
async fn every_state_of_the_daemon_has_its_exit_code() {
    let Some(mut fleet) = Fleet::up([2]).await else { return };
    let node = fleet.node("n1");
    for command in ["status", "peers", "mesh leave", "token list", "node list", "ip", "events"] {
        node.run(command).await.exits(3).says("meshd is not running");
    }
    for name in ["n1", "n2"] {
        fleet.start(name).await;
    }
    for command in ["status", "peers", "mesh leave", "token list", "node list", "ip"] {
        node.run(command).await.exits(4).says("epsilon mesh");
    }
    node.run("wait --timeout 300ms").await.exits(6).says("waited 300 ms");
    let token = node.create("").await;
    fleet.node("n2").join(&token).await;
    fleet.meets(&["n1", "n2"]).await;
    node.run("wait n2").await.ok();
    node.run("wait --for peers=1").await.ok();
    node.run("wait --for peers=2 --timeout 300ms").await.exits(6);
    node.run("status").await.ok();
    node.run("ping n2 -c 1").await.ok();
    node.run("ping nobody -c 1").await.exits(1).says("nobody");
    node.run("ping n1 -c 1").await.exits(2);
    node.run("mesh join nonsense").await.exits(2);
    node.run("token create --expires soon").await.exits(2);
    fleet.node("n2").run("node revoke n1").await.exits(9);

    fleet.kill("n2").await;
    node.run("ping n2 -c 1 --timeout 300ms").await.exits(7);
    until("n1 is degraded", async || {
        let ran = node.run("status").await;
        holds(ran.code == 5, ran)
    })
    .await;
}

#[tokio::test]
async fn what_the_operator_says_of_a_network_and_a_node_is_shown_everywhere() {
    let Some(mut fleet) = Fleet::up([2]).await else { return };
    for name in ["n1", "n2"] {
        fleet.start(name).await;
    }
    let (first, second) = (fleet.node("n1"), fleet.node("n2"));
    first.create("--name home --domain home.example").await;
    let token = first.run("token create --role worker --role server").await.ok();
    let join = "--name web --site berlin --label rack=7 --label tier=front --role worker";
    second.run(&format!("mesh join {} {join}", token.trim())).await.ok();
    fleet.meets(&["n1", "n2"]).await;
    assert_eq!(first.network().await.unwrap().domain, "home.example");
    let own = second.network().await.unwrap().node;
    let ipv4 = own.ipv4.unwrap().to_string();
    for of in ["web", &ipv4, &own.ipv6.unwrap().to_string(), &own.id] {
        let shown = first.run(&format!("whois {of}")).await.ok();
        for fact in ["web", "berlin", "rack=7", "tier=front", "worker", &ipv4] {
            assert!(shown.contains(fact), "{fact} is not in {shown}");
        }
    }
    first.run("whois 10.77.0.0").await.exits(1);
    assert_eq!(second.run("ip -4").await.ok().trim(), ipv4);
    assert_eq!(first.run("ip web -4").await.ok().trim(), ipv4);
    let yaml = first.run("-o yaml status").await.ok();
    assert!(yaml.contains("schema: epsilon/v1") && yaml.contains("network: home"), "{yaml}");
    // Documents are shown where they were asked for, tables are not when quiet.
    assert!(first.run("-q -o json status").await.ok().contains("epsilon/v1"));
    assert_eq!(first.run("-q status").await.ok(), "");
    first.run("admin add web").await.ok();
    for node in [&first, &second] {
        until("the admins are listed", async || {
            let listed = node.run("admin list").await.ok();
            holds(listed.contains("n1") && listed.contains("web"), listed)
        })
        .await;
    }
}

#[tokio::test]
async fn events_are_followed_as_they_happen_until_the_daemon_ends() {
    let Some((mut fleet, token)) = Fleet::joined([1]).await else { return };
    let node = fleet.node("n1");
    let mut command = node.host.command("epsilon").unwrap();
    command.args(["-o", "json", "events", "--follow"]);
    let mut follower = command.spawn().unwrap();
    let stdout = ChildStdout::from_std(follower.stdout.take().unwrap()).unwrap();
    let mut lines = BufReader::new(stdout).lines();
    let mut hears = async |text: &str| {
        let heard = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                let event: serde_json::Value = serde_json::from_str(&line).unwrap();
                assert_eq!(event["schema"], "epsilon/v1", "{line}");
                if event["message"].as_str().unwrap().contains(text) {
                    return;
                }
            }
            panic!("the events ended before {text:?}");
        };
        tokio::time::timeout(SOON, heard).await.expect(text);
    };
    // What was before comes first.
    hears("mesh").await;
    fleet.lab.add_host(1).await.unwrap();
    fleet.start("n2").await;
    fleet.node("n2").join(&token).await;
    hears("n2 is a member").await;
    node.run("node revoke n2").await.ok();
    hears("revoked").await;
    fleet.stop("n1").await;
    let ended = follower.process.wait().await.unwrap();
    assert_eq!(ended.code(), Some(3), "{ended:?}");
}

#[tokio::test]
async fn on_a_terminal_long_work_shows_that_it_goes_on_and_nothing_of_it_stays() {
    let Some((fleet, _)) = Fleet::joined([1]).await else { return };
    let node = fleet.node("n1");
    let wait = "epsilon wait --for peers=1 --timeout 2s";
    let shown = node.shell(&format!("script -qec '{wait}' /dev/null")).await.exits(6).stdout;
    let progress = shown.matches("waiting for 1 peer to be up (").count();
    assert!(progress >= 3, "{shown:?}");
    let end = shown.rsplit("\r\u{1b}[K").next().unwrap();
    assert!(!end.contains("waiting for") && end.contains("waited 2 s for 1 peer"), "{shown:?}");
    // Neither where it is read by programs, nor where it is not wanted.
    let ran = node.shell(wait).await.exits(6);
    assert!(!ran.stderr.contains('\u{1b}') && !ran.stderr.contains("waiting for"), "{ran:?}");
    let quiet = node.shell(&format!("script -qec '{wait} -q' /dev/null")).await.exits(6).stdout;
    assert!(!quiet.contains("waiting for"), "{quiet:?}");
}

#[tokio::test]
async fn who_may_not_use_the_socket_is_told_so() {
    let Some((fleet, _)) = Fleet::joined([1]).await else { return };
    let node = fleet.node("n1");
    let as_nobody = "setpriv --reuid 65534 --regid 65534 --clear-groups epsilon status";
    let ran = node.shell(as_nobody).await.exits(9);
    assert!(ran.stderr.contains("root") || ran.stderr.contains("group"), "{ran:?}");
}

#[tokio::test]
async fn create_prints_the_token_alone_and_join_takes_it_from_everywhere() {
    let Some(mut fleet) = Fleet::up([5]).await else { return };
    for name in fleet.names() {
        fleet.start(&name).await;
    }
    let ran = fleet.node("n1").shell("TOKEN=$(epsilon mesh create) && printf %s \"$TOKEN\"").await;
    let token = ran.ok();
    assert!(token.starts_with("epsilon1_") && !token.contains(char::is_whitespace), "{token}");
    for (name, line) in [
        ("n2", format!("echo {token} | epsilon mesh join -")),
        ("n3", format!("echo {token} > /run/token && epsilon mesh join @/run/token")),
        ("n4", format!("EPSILON_TOKEN={token} epsilon mesh join")),
        (
            "n5",
            format!("echo {token} > /run/token && EPSILON_TOKEN_FILE=/run/token epsilon mesh join"),
        ),
    ] {
        fleet.node(name).shell(&line).await.ok();
    }
    fleet.meets(&["n1", "n2", "n3", "n4", "n5"]).await;
    fleet.node("n1").run("mesh join").await.exits(2).says("no token given");
}

#[tokio::test]
async fn the_daemon_reads_its_configuration_again_and_refuses_what_it_does_not_know() {
    let Some(mut fleet) = Fleet::up([1]).await else { return };
    let node = fleet.node("n1");
    let configure = |text: &str| format!("printf '{text}' > /etc/epsilon/meshd.toml");
    node.shell(&configure("[log]\\nlevle = \"debug\"\\n")).await.ok();
    fleet.launch("n1");
    let ended = fleet.daemon("n1").wait().await.unwrap();
    assert!(ended.is_some_and(|status| !status.success()), "{ended:?}");
    let log = fleet.daemon("n1").log().unwrap();
    assert!(log.contains("levle") && log.contains("meshd.toml"), "{log}");

    node.shell("rm /etc/epsilon/meshd.toml").await.ok();
    fleet.start("n1").await;
    node.create("").await;
    let fine = || fleet.daemon("n1").log().unwrap().contains("DEBUG");
    assert!(!fine());
    node.shell(&configure("[log]\\nlevel = \"debug\"\\n")).await.ok();
    fleet.daemon("n1").signal(Signal::SIGHUP).unwrap();
    until("the daemon says more", async || {
        node.run("mesh create --name second --range 10.79.0.0/16").await;
        holds(fine(), "no line of level DEBUG")
    })
    .await;
    // What is wrong is said, and what was in force stays.
    node.shell(&configure("port = 0\\n")).await.ok();
    fleet.daemon("n1").signal(Signal::SIGHUP).unwrap();
    until("the daemon complains", async || {
        let log = fleet.daemon("n1").log().unwrap();
        holds(log.contains("port: 0 is not a port"), "nothing about the port")
    })
    .await;
    node.run("status").await.ok();
    let ended = fleet.daemon("n1").term(Duration::from_secs(2)).await.unwrap();
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
}

#[tokio::test]
async fn lab_up_shows_a_fleet_that_works_and_lab_down_leaves_nothing_of_it() {
    // On a host of its own, so that it meets no other lab.
    let Some(fleet) = Fleet::up([1]).await else { return };
    let node = fleet.node("n1");
    let processes = async || node.shell("echo /proc/[0-9]*").await.ok().split_whitespace().count();
    let links = async || node.host.netlink().unwrap().links().await.unwrap().len();
    let before = (processes().await, links().await);
    let ran = node.run("lab up --nodes 2 --sites 2").await.exits(0);
    for shown in ["n1", "n2", "IPv4", "IPv6"] {
        assert!(ran.stdout.contains(shown), "{shown} is not in {ran:?}");
    }
    assert!(ran.stderr.contains("lab exec n1 -- epsilon ping n2"), "{ran:?}");
    node.run("lab up").await.exits(1).says("exists already");
    let ran = node.run("lab exec n2 -- epsilon ping n1 -c 1").await.exits(0);
    assert!(ran.stdout.contains("1 answered, 0% loss"), "{ran:?}");
    let ran = node.run("lab exec n2 -- false").await.exits(1);
    assert!(ran.stdout.is_empty(), "{ran:?}");
    node.run("lab status").await.exits(0);
    node.run("lab down").await.exits(0);
    assert_eq!((processes().await, links().await), before);
    node.run("lab exec n1 -- true").await.exits(1).says("no lab");
    node.run("lab down").await.exits(0);
}

/// A lab of the command line, taken down even if its test failed.
struct CommandLine(String);

impl CommandLine {
    /// Runs `epsilon lab` with these arguments, parted by blanks.
    fn run(&self, arguments: &str) -> (Option<i32>, String) {
        let mut command = std::process::Command::new(program("epsilon"));
        command.arg("lab").args(arguments.split_ascii_whitespace()).env("EPSILON_LAB", &self.0);
        let output = command.output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&text).into_owned())
    }

    fn says(&self, arguments: &str, text: &str) {
        let (code, said) = self.run(arguments);
        assert!(code == Some(0) && said.contains(text), "{arguments}: {code:?} {said}");
    }
}

impl Drop for CommandLine {
    fn drop(&mut self) {
        let down = self.run("down");
        assert!(down.0 == Some(0) || std::thread::panicking(), "{down:?}");
    }
}

#[tokio::test]
async fn a_daemon_of_a_lab_is_killed_and_started_by_command() {
    if !possible() {
        return;
    }
    let lab = CommandLine(format!("command-{}", std::process::id()));
    lab.says("up --nodes 2 --sites 2", "Try next");
    lab.says("kill n2", "lab start n2");
    assert_eq!(lab.run("kill n2").0, Some(1));
    until("n1 misses it", async || {
        let ran = lab.run("exec n1 -- epsilon status");
        holds(ran.0 == Some(5), ran)
    })
    .await;
    lab.says("start n2 -o json", "\"running\": true");
    assert_eq!(lab.run("start n2").0, Some(1));
    lab.says("move n2 site1", "n2 is at site1 now");
    until("all is well", async || {
        let ran = lab.run("status");
        holds(ran.0 == Some(0), ran)
    })
    .await;
}
