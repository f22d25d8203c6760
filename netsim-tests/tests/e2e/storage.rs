//! A state directory that takes no more: said, survived, and nothing that was
//! acknowledged is lost.

use epsilon_proto::api::{Health, StorageState, TokenFacts};

use crate::support::{Fleet, Node, holds, until};

const STATE: &str = "/var/lib/epsilon";

/// The id of the invite in a token.
async fn invite_of(node: &Node, token: &str) -> String {
    let facts = node.run(&format!("-o json token inspect {token}")).await.ok();
    serde_json::from_str::<TokenFacts>(&facts).unwrap().invite
}

/// Checks that the node says that it is degraded, and why.
async fn says(node: &Node, state: StorageState) {
    until("status says so", async || {
        let network = node.network().await?;
        let said = network.problems.iter().any(|problem| problem.message.contains(STATE));
        holds(network.health == Health::Degraded && network.storage.state == state && said, network)
    })
    .await;
    node.run("status").await.exits(5);
}

#[tokio::test]
async fn a_full_disk_is_said_and_costs_nothing_that_was_acknowledged() {
    let Some((mut fleet, _)) = Fleet::joined([2]).await else { return };
    let node = fleet.node("n1");
    let full = format!(
        "used=$(du -sk {STATE} | cut -f1) && mount -o remount,size=$((used + 64))k {STATE} \
         && ! dd if=/dev/zero of={STATE}/fill bs=4k 2>/dev/null"
    );
    node.shell(&full).await.ok();
    let mut acknowledged = Vec::new();
    let refused = until("an operation is refused", async || {
        let ran = node.run("token create").await;
        if ran.code == 0 {
            acknowledged.push(ran.stdout.trim().to_owned());
            return Err(format!("{} tokens were made", acknowledged.len()));
        }
        Ok(ran)
    })
    .await;
    let refused = refused.exits(5);
    assert!(refused.stderr.contains("No space left"), "{refused:?}");
    says(&node, StorageState::Full).await;
    // Something smaller may still fit; then it must last, too.
    let renamed = node.run("node rename n1 other").await;
    assert!([0, 5].contains(&renamed.code), "{renamed:?}");
    // Others come and go meanwhile.
    fleet.restart("n2").await;
    fleet.meets(&["n1", "n2"]).await;
    fleet.all_reach(&["n1", "n2"]).await;

    fleet.restart("n1").await;
    fleet.meets(&["n1", "n2"]).await;
    fleet.all_reach(&["n1", "n2"]).await;
    let listed = node.run("-o json token list").await.ok();
    for token in &acknowledged {
        assert!(listed.contains(&invite_of(&node, token).await), "an acknowledged token is lost");
    }
    if renamed.code == 0 {
        let name = node.network().await.unwrap().node.name;
        assert_eq!(name.as_deref(), Some("other"), "an acknowledged name is lost");
    }

    node.shell(&format!("rm {STATE}/fill && mount -o remount,size=64M {STATE}")).await.ok();
    until("it recovers", async || {
        node.run("token create").await.succeeded()?;
        node.is_well().await
    })
    .await;
    // Nor does a full disk keep anybody from leaving.
    node.shell(&full).await.ok();
    node.run("mesh leave").await.ok();
    node.run("status").await.exits(4);
    let files = node.shell(&format!("ls -A {STATE}")).await.ok();
    assert_eq!(files, "fill\nlock\n");
}

#[tokio::test]
async fn a_daemon_that_starts_on_a_read_only_directory_serves_what_is_there() {
    let Some((mut fleet, _)) = Fleet::joined([2]).await else { return };
    let node = fleet.node("n1");
    let token = node.run("token create").await.ok();
    let before = node.network().await.unwrap().node;
    // Killed: the store must be readable without being repaired first.
    fleet.kill("n1").await;
    node.shell(&format!("mount -o remount,ro {STATE}")).await.ok();
    fleet.start("n1").await;
    fleet.meets(&["n1", "n2"]).await;
    fleet.all_reach(&["n1", "n2"]).await;
    assert_eq!(node.network().await.unwrap().node, before);
    for refused in ["token create", "node rename n1 other", "node revoke n2", "mesh leave"] {
        let ran = node.run(refused).await.exits(5);
        assert!(ran.stderr.to_lowercase().contains("read-only"), "{ran:?}");
    }
    says(&node, StorageState::ReadOnly).await;
    fleet.all_reach(&["n1", "n2"]).await;

    node.shell(&format!("mount -o remount,rw {STATE}")).await.ok();
    until("it recovers", async || {
        node.run("token create").await.succeeded()?;
        node.is_well().await
    })
    .await;
    fleet.restart("n1").await;
    let listed = node.run("-o json token list").await.ok();
    assert!(listed.contains(&invite_of(&node, &token).await), "an acknowledged token is lost");
    fleet.meets(&["n1", "n2"]).await;
}

#[tokio::test]
async fn a_disk_that_turns_read_only_under_the_daemon_is_said_and_costs_nothing() {
    if let Err(error) = std::fs::File::options().read(true).write(true).open("/dev/loop-control") {
        eprintln!("not tested: a disk of its own needs loop devices: {error}");
        return;
    }
    let Some(mut fleet) = Fleet::up([2]).await else { return };
    let node = fleet.node("n1");
    let disk = format!(
        "truncate -s 32M /run/disk && mkfs.ext4 -q /run/disk && mount -o loop /run/disk {STATE}"
    );
    node.shell(&disk).await.ok();
    for name in ["n1", "n2"] {
        fleet.start(name).await;
    }
    let token = node.create("").await;
    fleet.node("n2").join(&token).await;
    fleet.meets(&["n1", "n2"]).await;
    let token = node.run("token create").await.ok();
    let before = node.network().await.unwrap().node;

    // As the kernel does it after an error of the disk.
    node.shell(&format!("mount -o remount,abort {STATE}; ! touch {STATE}/x")).await.ok();
    for refused in ["token create", "node rename n1 other", "node revoke n2"] {
        let ran = node.run(refused).await.exits(5);
        assert!(ran.stderr.to_lowercase().contains("read-only"), "{ran:?}");
    }
    says(&node, StorageState::ReadOnly).await;
    fleet.all_reach(&["n1", "n2"]).await;
    // Others come and go meanwhile.
    fleet.restart("n2").await;
    fleet.meets(&["n1", "n2"]).await;
    fleet.all_reach(&["n1", "n2"]).await;

    fleet.restart("n1").await;
    fleet.meets(&["n1", "n2"]).await;
    fleet.all_reach(&["n1", "n2"]).await;
    assert_eq!(node.network().await.unwrap().node, before);
    says(&node, StorageState::ReadOnly).await;

    // The operator repairs it.
    fleet.stop("n1").await;
    let repair =
        format!("umount {STATE} && fsck.ext4 -p /run/disk; mount -o loop /run/disk {STATE}");
    node.shell(&repair).await.ok();
    fleet.start("n1").await;
    fleet.meets(&["n1", "n2"]).await;
    until("it recovers", async || {
        node.run("token create").await.succeeded()?;
        node.is_well().await
    })
    .await;
    assert_eq!(node.network().await.unwrap().node, before);
    let listed = node.run("-o json token list").await.ok();
    assert!(listed.contains(&invite_of(&node, &token).await), "an acknowledged token is lost");
}

#[tokio::test]
async fn a_join_with_no_room_for_its_state_fails_and_leaves_nothing() {
    let Some((mut fleet, token)) = Fleet::joined([1]).await else { return };
    fleet.lab.add_host(1).await.unwrap();
    fleet.start("n2").await;
    let node = fleet.node("n2");
    node.shell(&format!("mount -o remount,size=64k {STATE}")).await.ok();
    node.refused(&token, 1, "No space left").await;
    assert_eq!(fleet.node("n1").is_well().await.unwrap().members.total, 1);
    node.shell(&format!("mount -o remount,size=64M {STATE}")).await.ok();
    node.join(&token).await;
    fleet.meets(&["n1", "n2"]).await;
}
