//! What the host does for networks behind it: it passes packets on, and where that is asked
//! for it puts its own address in place of the mesh's.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

use epsilon_mesh::saved::Advertised;
use epsilon_sys::process::{self, RunError};

const FORWARD_V4: &str = "/proc/sys/net/ipv4/ip_forward";
const FORWARD_V6: &str = "/proc/sys/net/ipv6/conf/all/forwarding";
const INTERFACES_V6: &str = "/proc/sys/net/ipv6/conf";

/// Switches forwarding on for the families of some networks; it is never switched off, as
/// others may count on it.
pub(super) fn forward(behind: &[Advertised]) -> Result<(), String> {
    let has = |is_v4: bool| behind.iter().any(|one| one.prefix.address().is_ipv4() == is_v4);
    if has(true) {
        switch_on(FORWARD_V4)?;
    }
    if has(false) && read(FORWARD_V6)? != "1" {
        // Routers do not listen to routers unless told: the host would lose its way out.
        let interfaces = fs::read_dir(INTERFACES_V6).map_err(failed("read", INTERFACES_V6))?;
        for interface in interfaces.flatten() {
            let accept = interface.path().join("accept_ra");
            if fs::read_to_string(&accept).is_ok_and(|value| value.trim() == "1") {
                let path = accept.to_string_lossy().into_owned();
                fs::write(&accept, "2").map_err(failed("write", &path))?;
            }
        }
        switch_on(FORWARD_V6)?;
    }
    Ok(())
}

fn switch_on(path: &str) -> Result<(), String> {
    if read(path)? == "1" {
        return Ok(());
    }
    fs::write(path, "1").map_err(failed("write", path))?;
    tracing::info!(path, "switched forwarding on, for networks behind this node");
    Ok(())
}

fn read(path: &str) -> Result<String, String> {
    let text = fs::read_to_string(path).map_err(failed("read", path))?;
    Ok(text.trim().to_owned())
}

fn failed<'a>(action: &'a str, path: &'a str) -> impl Fn(io::Error) -> String + 'a {
    move |error| {
        let setting = Path::new(path).strip_prefix("/proc/sys").unwrap_or(Path::new(path));
        format!(
            "cannot {action} {path}: {error}; set {} yourself",
            setting.to_string_lossy().replace('/', ".")
        )
    }
}

/// Masquerades what goes from the mesh to some networks, and nothing else; fails where there
/// is something to masquerade and no nft.
pub(super) fn masquerade(interface: &str, behind: &[Advertised]) -> Result<(), String> {
    let rules = rules(interface, behind);
    let is_needed = behind.iter().any(|one| one.is_masqueraded);
    match process::run("nft", &["-f", "-"], &rules) {
        Ok(()) => Ok(()),
        Err(RunError::Missing(_)) if !is_needed => Ok(()),
        Err(RunError::Missing(_)) => Err("there is no nft, by which addresses are masqueraded; \
             install nftables, or advertise with --no-masquerade and give the hosts there a \
             route to the mesh"
            .to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// What hosts behind an exit are known by: they do not have public addresses themselves.
const PRIVATE_V4: &str = "{ 10.0.0.0/8, 100.64.0.0/10, 172.16.0.0/12, 192.168.0.0/16 }";
const PRIVATE_V6: &str = "fc00::/7";

/// A table of our own, in place of the one that was there: it masquerades what goes from the
/// mesh to some networks, and lets nobody there call members, who take what comes from there
/// for answers.
fn rules(interface: &str, behind: &[Advertised]) -> String {
    let table = format!("table inet epsilon-{interface}");
    let mut text = format!("{table}\ndelete {table}\n");
    let (mut masquerade, mut refuse) = (Vec::new(), Vec::new());
    for one in behind.iter().filter(|one| one.is_masqueraded) {
        let (prefix, is_v4) = (one.prefix, one.prefix.address().is_ipv4());
        let (family, private) = if is_v4 { ("ip", PRIVATE_V4) } else { ("ip6", PRIVATE_V6) };
        let (there, from) = if prefix.is_everything() {
            let protocol = if is_v4 { "ipv4" } else { "ipv6" };
            (format!("meta nfproto {protocol}"), format!("{family} saddr != {private}"))
        } else {
            (format!("{family} daddr {prefix}"), format!("{family} saddr {prefix}"))
        };
        masquerade
            .push(format!("iifname \"{interface}\" oifname != \"{interface}\" {there} masquerade"));
        refuse.push(format!(
            "iifname != \"{interface}\" oifname \"{interface}\" {from} ct state new drop"
        ));
    }
    if !masquerade.is_empty() {
        let (masquerade, refuse) = (masquerade.join("\n"), refuse.join("\n"));
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "{table} {{\nchain postrouting {{\n\
             type nat hook postrouting priority srcnat; policy accept;\n{masquerade}\n}}\n\
             chain forward {{\n\
             type filter hook forward priority filter; policy accept;\n{refuse}\n}}\n}}\n"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_to_be_masqueraded_is() {
        let behind = |prefix: &str, is_masqueraded| Advertised {
            prefix: prefix.parse().unwrap(),
            is_masqueraded,
        };
        assert_eq!(
            rules("eps0", &[behind("10.42.0.0/24", false)]),
            "table inet epsilon-eps0\ndelete table inet epsilon-eps0\n"
        );
        let all =
            [behind("192.168.10.0/24", true), behind("::/0", true), behind("fd12::/64", true)];
        let text = rules("eps0", &all);
        for line in [
            "iifname \"eps0\" oifname != \"eps0\" ip daddr 192.168.10.0/24 masquerade",
            "iifname \"eps0\" oifname != \"eps0\" meta nfproto ipv6 masquerade",
            "iifname \"eps0\" oifname != \"eps0\" ip6 daddr fd12::/64 masquerade",
            "iifname != \"eps0\" oifname \"eps0\" ip saddr 192.168.10.0/24 ct state new drop",
            "iifname != \"eps0\" oifname \"eps0\" ip6 saddr != fc00::/7 ct state new drop",
        ] {
            assert!(text.lines().any(|known| known == line), "{text}");
        }
    }
}
