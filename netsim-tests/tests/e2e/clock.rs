//! Machines whose clocks are wrong, by a preloaded libfaketime: the daemon
//! under test is the real one.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::support::Fleet;

/// What the issue of a wrong clock may cost at most.
const LIMIT: Duration = Duration::from_secs(3);

/// The library that shows a process another time.
fn libfaketime() -> String {
    let found = std::fs::read_dir("/usr/lib")
        .unwrap()
        .filter_map(|entry| Some(entry.ok()?.path().join("faketime/libfaketime.so.1")))
        .chain([PathBuf::from("/usr/lib/faketime/libfaketime.so.1")])
        .find(|path| path.exists());
    found.expect("libfaketime is missing; run: apt-get install faketime").display().to_string()
}

/// The environment in which the wall clock shows `time`, as libfaketime reads
/// it, while the clock that never goes back is left alone.
fn showing(time: &str) -> Vec<(&'static str, String)> {
    vec![
        ("LD_PRELOAD", libfaketime()),
        ("FAKETIME", time.to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ("FAKETIME_DONT_RESET", "1".to_owned()),
    ]
}

#[tokio::test]
async fn a_machine_whose_clock_stands_at_1970_joins_within_three_seconds() {
    let Some(mut fleet) = Fleet::up([3]).await else { return };
    fleet.start("n1").await;
    fleet.start("n2").await;
    let token = fleet.node("n1").create("").await;
    fleet.node("n2").join(&token).await;
    fleet.launch_with("n3", &showing("@1970-01-01 00:00:10"));
    fleet.answers("n3").await;
    let said = fleet.node("n3").status().await.unwrap().daemon.now;
    assert!(said.unix_ms() < 86_400_000, "the clock of n3 was not set back: {said}");

    let start = Instant::now();
    fleet.node("n3").join(&token).await;
    fleet.reaches("n3", "n1").await;
    let took = start.elapsed();
    assert!(took <= LIMIT, "it took {took:?}");
    fleet.all_reach(&["n1", "n2", "n3"]).await;
}

#[tokio::test]
async fn a_clock_set_back_by_years_across_a_restart_costs_no_more_than_three_seconds() {
    let Some((mut fleet, _)) = Fleet::joined([3]).await else { return };
    fleet.all_reach(&["n1", "n2", "n3"]).await;
    let before = fleet.node("n3").network().await.unwrap().node;
    fleet.kill("n3").await;
    fleet.launch_with("n3", &showing("-5y"));
    fleet.answers("n3").await;

    let start = Instant::now();
    fleet.reaches("n1", "n3").await;
    fleet.reaches("n3", "n2").await;
    let took = start.elapsed();
    assert!(took <= LIMIT, "it took {took:?}");
    let after = fleet.node("n3").network().await.unwrap().node;
    assert_eq!((before.ipv4, before.name), (after.ipv4, after.name));
}
