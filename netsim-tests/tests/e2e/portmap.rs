//! Members behind a router that gives ports to whoever asks: the real miniupnpd.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use epsilon_cli::lab::Lab;
use epsilon_proto::api::{PathKind, PortMapping, PortMappingProtocol};
use epsilon_sys::namespace::Child;
use epsilon_sys::process::Signal;

use crate::support::{Fleet, holds, until, until_within};

/// The public address of the router: miniupnpd gives ports of no other kind.
const OUTSIDE: &str = "11.22.33.44";
/// The site behind the router; `n2` stands there.
const SITE: u8 = 2;

/// Rules that miniupnpd fills, beside those of the lab.
const TABLE: &str = "
table inet miniupnpd {
  chain forward { type filter hook forward priority filter; jump miniupnpd; }
  chain prerouting { type nat hook prerouting priority dstnat; jump prerouting_miniupnpd; }
  chain postrouting { type nat hook postrouting priority srcnat; jump postrouting_miniupnpd; }
  chain miniupnpd { }
  chain prerouting_miniupnpd { }
  chain postrouting_miniupnpd { }
}
";

/// PCP and NAT-PMP share a port, and the version comes first: what a router does that knows
/// NAT-PMP alone, as far as clients see it.
const NO_PCP: &str = "
table inet no-pcp {
  chain input { type filter hook input priority filter; udp dport 5351 @th,64,8 2 drop; }
}
";

/// A line of shell on a gateway.
async fn shell(lab: &Lab, site: u8, line: &str) -> String {
    let mut command = lab.gateway_command(site, "sh").unwrap();
    command.args(["-c", line]);
    let output = command.output().await.unwrap();
    assert!(output.status.success(), "gw{site}: {line}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// miniupnpd on the gateway of [`SITE`].
struct Router(Child);

impl Router {
    /// Starts it as new, without any port given.
    async fn start(lab: &Lab, knows: PortMappingProtocol) -> Self {
        let answer = |is: bool| if is { "yes" } else { "no" };
        let is_upnp = knows == PortMappingProtocol::Upnp;
        let rules = if knows == PortMappingProtocol::NatPmp { NO_PCP } else { "" };
        let config = format!(
            "ext_ifname=wan\next_ip={OUTSIDE}\nlistening_ip=lan\nhttp_port=0\n\
             enable_upnp={}\nenable_natpmp={}\nsecure_mode=yes\n\
             upnp_table_name=miniupnpd\nupnp_nat_table_name=miniupnpd\n\
             uuid=4e9f0000-0000-4000-8000-000000000001\n",
            answer(is_upnp),
            answer(!is_upnp),
        );
        let set_up = format!(
            "nft delete table inet miniupnpd 2>/dev/null; nft delete table inet no-pcp 2>/dev/null\n\
             nft -f - <<'END' && cat > /run/miniupnpd.conf <<'FIN'\n{TABLE}{rules}END\n{config}FIN\n"
        );
        shell(lab, SITE, &set_up).await;
        let mut command = lab.gateway_command(SITE, "miniupnpd").unwrap();
        command.args(["-d", "-f", "/run/miniupnpd.conf", "-P", "/run/miniupnpd.pid"]);
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let router = Self(command.spawn().unwrap());
        until("the router answers", async || {
            let port = if is_upnp { ":1900 " } else { ":5351 " };
            let sockets = shell(lab, SITE, "ss -lun").await;
            holds(sockets.contains(port), sockets)
        })
        .await;
        router
    }

    async fn kill(self) {
        self.0.process.signal(Signal::SIGKILL).unwrap();
        self.0.process.wait().await.unwrap();
    }
}

/// What the router passes on.
async fn given(lab: &Lab) -> String {
    shell(lab, SITE, "nft list chain inet miniupnpd prerouting_miniupnpd").await
}

async fn gives_nothing(lab: &Lab) -> Result<(), String> {
    let given = given(lab).await;
    holds(!given.contains("dnat"), given)
}

/// A lab with a member that all reach, and further ones behind NATs that give everybody
/// another port: `n2` behind the router, `n3` behind one that knows no protocol.
async fn up(knows: PortMappingProtocol) -> Option<(Fleet, Router)> {
    let fleet = Fleet::up_behind([1], &["symmetric", "symmetric"]).await?;
    shell(&fleet.lab, SITE, &format!("ip address add {OUTSIDE}/32 dev wan")).await;
    for other in [1, 3] {
        let route = format!("ip route add {OUTSIDE}/32 via 198.18.0.{SITE} dev wan");
        shell(&fleet.lab, other, &route).await;
    }
    let router = Router::start(&fleet.lab, knows).await;
    Some((fleet, router))
}

/// What the router gave a host, once that has both ports.
async fn mapped(fleet: &Fleet, host: &str) -> (PortMapping, SocketAddr) {
    until(&format!("{host} has ports of the router"), async || {
        let network = fleet.node(host).network().await?;
        let mapping = network.port_mapping.ok_or("it asks for none")?;
        let (udp, tcp) = mapping.udp.zip(mapping.tcp).ok_or(format!("{mapping:?}"))?;
        let is_said = [udp, tcp].iter().all(|one| network.endpoints.contains(one));
        holds(is_said, (&mapping, &network.endpoints))?;
        Ok((mapping, udp))
    })
    .await
}

/// Waits until a host reaches another at one of these addresses.
async fn is_direct(fleet: &Fleet, from: &str, to: &str, at: SocketAddr) {
    fleet.reaches(from, to).await;
    until(&format!("{from} reaches {to} at {at}"), async || {
        let peers = fleet.node(from).network().await?.peers;
        let peer = peers.into_iter().find(|peer| peer.name.as_deref() == Some(to));
        let path = peer.ok_or(format!("{from} does not know {to}"))?.path;
        holds(path.kind == PathKind::Direct && path.endpoint == Some(at), path)
    })
    .await;
}

async fn a_pair_that_needs_a_relay_otherwise_is_direct(knows: PortMappingProtocol) {
    let Some((mut fleet, _router)) = up(knows).await else { return };
    // A second one that wants the same port of the router.
    let n4 = fleet.lab.add_host(SITE).await.unwrap().name().to_owned();
    let begin = Instant::now();
    fleet.start_and_join().await;
    println!("{knows:?}: joined after {:?}", begin.elapsed());
    let (first, first_at) = mapped(&fleet, "n2").await;
    let (second, second_at) = mapped(&fleet, &n4).await;
    println!("{knows:?}: ports after {:?}: {first:?}, {second:?}", begin.elapsed());
    for mapping in [&first, &second] {
        assert_eq!((mapping.protocol, &mapping.problem), (Some(knows), &None));
        assert_eq!(mapping.router.unwrap().to_string(), "192.168.1.1");
        assert!(mapping.udp.unwrap().ip().to_string() == OUTSIDE, "{mapping:?}");
    }
    assert_ne!(first_at, second_at);
    is_direct(&fleet, "n3", "n2", first_at).await;
    is_direct(&fleet, "n3", &n4, second_at).await;
    println!("{knows:?}: both are reached after {:?}", begin.elapsed());
    let status = fleet.node("n2").run("status").await.stdout;
    assert!(status.contains("router") && status.contains(OUTSIDE), "{status}");
    // The other one is behind a router that knows none.
    let other = fleet.node("n3").network().await.unwrap().port_mapping.unwrap();
    assert!(other.protocol.is_none() && other.udp.is_none(), "{other:?}");
}

#[tokio::test]
async fn a_pair_that_needs_a_relay_otherwise_is_direct_by_pcp() {
    a_pair_that_needs_a_relay_otherwise_is_direct(PortMappingProtocol::Pcp).await;
}

#[tokio::test]
async fn a_pair_that_needs_a_relay_otherwise_is_direct_by_nat_pmp() {
    a_pair_that_needs_a_relay_otherwise_is_direct(PortMappingProtocol::NatPmp).await;
}

#[tokio::test]
async fn a_pair_that_needs_a_relay_otherwise_is_direct_by_upnp() {
    a_pair_that_needs_a_relay_otherwise_is_direct(PortMappingProtocol::Upnp).await;
}

#[tokio::test]
async fn ports_are_given_back_at_the_end_and_kept_by_the_next_run_after_a_crash() {
    use PortMappingProtocol::{NatPmp, Pcp, Upnp};
    let Some((mut fleet, mut router)) = up(Pcp).await else { return };
    fleet.start_and_join().await;
    for (place, knows) in [Pcp, NatPmp, Upnp].into_iter().enumerate() {
        if place > 0 {
            router.kill().await;
            router = Router::start(&fleet.lab, knows).await;
            fleet.start("n2").await;
        }
        let (_, at) = mapped(&fleet, "n2").await;
        fleet.restart("n2").await;
        let (again, again_at) = mapped(&fleet, "n2").await;
        assert_eq!((again.protocol, again_at), (Some(knows), at), "{knows:?}: {again:?}");
        let there = given(&fleet.lab).await;
        assert_eq!(there.matches("dnat").count(), 2, "{knows:?}: {there}");
        fleet.stop("n2").await;
        // The router need not have done it when it is told.
        until("nothing is passed on", async || gives_nothing(&fleet.lab).await).await;
    }
    // A router that says nothing holds nobody up.
    fleet.start("n2").await;
    mapped(&fleet, "n2").await;
    router.0.process.signal(Signal::SIGSTOP).unwrap();
    let begin = Instant::now();
    fleet.stop("n2").await;
    println!("a silent router: {:?}", begin.elapsed());
    assert!(begin.elapsed() < Duration::from_secs(4));
    // Who is told not to ask does not.
    router.kill().await;
    let _router = Router::start(&fleet.lab, Upnp).await;
    let config = "printf '[port_mapping]\\nenabled = false\\n' > /etc/epsilon/meshd.toml";
    fleet.node("n2").shell(config).await.ok();
    fleet.start("n2").await;
    fleet.reaches("n3", "n2").await;
    assert_eq!(fleet.node("n2").network().await.unwrap().port_mapping, None);
    gives_nothing(&fleet.lab).await.unwrap();
}

#[tokio::test]
async fn a_router_that_forgot_all_while_it_was_started_again_is_asked_again() {
    for knows in [PortMappingProtocol::Pcp, PortMappingProtocol::Upnp] {
        let Some((mut fleet, router)) = up(knows).await else { return };
        fleet.start_and_join().await;
        let (_, at) = mapped(&fleet, "n2").await;
        is_direct(&fleet, "n3", "n2", at).await;
        // Without power its sockets are as dead as what is plugged in there.
        router.kill().await;
        fleet.lab.unplug("n2").await.unwrap();
        let _router = Router::start(&fleet.lab, knows).await;
        fleet.lab.restart_gateway(SITE).await.unwrap();
        gives_nothing(&fleet.lab).await.unwrap();
        fleet.lab.plug("n2").await.unwrap();
        let begin = Instant::now();
        until_within(Duration::from_secs(30), "the router passes both on again", async || {
            let given = given(&fleet.lab).await;
            holds(given.matches("dnat").count() == 2, given)
        })
        .await;
        println!("{knows:?}: after {:?}", begin.elapsed());
        let (_, again_at) = mapped(&fleet, "n2").await;
        assert_eq!(again_at, at);
        is_direct(&fleet, "n3", "n2", at).await;
    }
}

#[tokio::test]
async fn a_member_that_moves_behind_another_router_has_no_port_of_the_first_any_more() {
    let Some((mut fleet, _router)) = up(PortMappingProtocol::Pcp).await else { return };
    fleet.start_and_join().await;
    let (_, at) = mapped(&fleet, "n2").await;
    fleet.lab.move_host("n2", 3).await.unwrap();
    until("its port is forgotten by all", async || {
        let network = fleet.node("n2").network().await?;
        holds(!network.endpoints.contains(&at), &network.endpoints)?;
        let said = fleet.node("n1").run("-o json whois n2").await.ok();
        holds(said.contains("endpoints") && !said.contains(OUTSIDE), said)
    })
    .await;
    fleet.lab.move_host("n2", SITE).await.unwrap();
    let (_, again_at) = mapped(&fleet, "n2").await;
    assert_eq!(again_at, at);
}

#[tokio::test]
#[ignore = "it takes a minute: make soak"]
async fn a_router_that_forgot_all_unnoticed_is_asked_again_once_others_see_another_address() {
    let Some((mut fleet, router)) = up(PortMappingProtocol::Upnp).await else { return };
    fleet.start_and_join().await;
    let (_, at) = mapped(&fleet, "n2").await;
    is_direct(&fleet, "n3", "n2", at).await;
    router.kill().await;
    let _router = Router::start(&fleet.lab, PortMappingProtocol::Upnp).await;
    fleet.lab.restart_gateway(SITE).await.unwrap();
    let begin = Instant::now();
    until_within(Duration::from_mins(2), "the router passes both on again", async || {
        let given = given(&fleet.lab).await;
        holds(given.matches("dnat").count() == 2, given)
    })
    .await;
    println!("after {:?}", begin.elapsed());
}
