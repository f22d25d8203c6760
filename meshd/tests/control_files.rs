//! The control plane when the process runs out of file descriptors.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod control_support;

use std::fs::File;
use std::io::{Read, Seek};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use control_support::Node;
use meshd::control::Event;

/// Processor time of this process so far, in ticks of 10 ms, by a file that is open already.
fn ticks(stat: &mut File) -> u64 {
    let mut text = String::new();
    stat.rewind().unwrap();
    stat.read_to_string(&mut text).unwrap();
    let fields = text.rsplit(')').next().unwrap();
    let fields = fields.split_whitespace().skip(11).take(2);
    fields.map(|field| field.parse::<u64>().unwrap()).sum()
}

#[test]
fn a_daemon_without_free_descriptors_says_so_waits_and_recovers() {
    let child = Command::new("sh")
        .args(["-c", "ulimit -n 64 && exec \"$0\" --exact --ignored few_files"])
        .arg(std::env::current_exe().unwrap())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success(), "{said}");
    assert!(said.contains("1 passed"), "{said}");
}

/// Run by the test above, in a process with a low limit.
#[tokio::test]
#[ignore = "needs a process of its own with few descriptors"]
async fn few_files() {
    let mut listener = Node::new(1).await;
    let mut member = Node::new(2).await;
    let mut stat = File::open("/proc/self/stat").unwrap();
    let mut taken = Vec::new();
    while let Ok(stream) = TcpStream::connect(listener.address) {
        taken.push(stream);
    }
    assert!(taken.len() > 30, "the limit is a low one, not none");
    // Every descriptor is ours by now, and one connection at least waits.
    let reason = listener
        .until(|event| match event {
            Event::ListenFailed { reason, .. } => Some(reason.clone()),
            _ => None,
        })
        .await;
    assert!(reason.contains("too many open files"), "{reason}");
    let before = ticks(&mut stat);
    let repeated = listener.events_for(Duration::from_secs(1)).await;
    assert!(repeated.is_empty(), "said once: {repeated:?}");
    assert!(ticks(&mut stat) - before < 20, "it does not spin");
    drop(taken);
    let address = listener.address;
    member.dial(Some(listener.key), address).await.unwrap();
}
