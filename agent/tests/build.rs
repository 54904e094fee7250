//! What the simulated build is made of, and that its binary runs.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, where a failed unwrap is a failed test"
)]

mod common;

use std::{
    fs,
    process::{Child, Command},
    sync::Arc,
    time::{Duration, Instant},
};

use common::{enroll::Door, fabric::Fabric};
use kapok_trust::{connector, dns};
use kapok_types::NodeId;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// The simulated build must not need libvirt.
#[test]
fn the_simulated_build_lacks_libvirt() {
    let tree = |extra: &[&str]| {
        let output = Command::new(env!("CARGO"))
            .args([
                "tree",
                "--offline",
                "-p",
                "kapok-agent",
                "-e",
                "normal",
                "--prefix",
                "none",
            ])
            .args(extra)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let simulated = tree(&["--no-default-features"]);
    assert!(simulated.contains("tonic"), "{simulated}");
    assert!(
        !simulated.contains("virt-sys"),
        "the simulated build links libvirt"
    );
    assert!(
        tree(&[]).contains("virt-sys"),
        "the test looks at the wrong thing"
    );
}

/// Kills its process also when the test fails.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn bounded<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_mins(1);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// 500 nodes in one process, small, each joined and on its port; a signal ends it.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn many_nodes_run_in_one_small_process() {
    let dir = tempfile::tempdir().unwrap();
    let (ready, tokens) = (dir.path().join("ready.json"), dir.path().join("tokens"));
    let fabric = Arc::new(Fabric::new("kapok"));
    let door = Door::open(&fabric).await;
    let token = door.token.reveal().to_string() + "\n";
    fs::write(&tokens, token.repeat(500)).unwrap();
    let run = |nodes: &str| {
        let child = Command::new(env!("CARGO_BIN_EXE_kapok-sim"))
            .args(["--nodes", nodes, "--listen-base", "127.0.0.1:0"])
            .args(["--controller", &door.address.to_string()])
            .arg("--tokens")
            .arg(&tokens)
            .arg("--ready-file")
            .arg(&ready)
            .env("RUST_LOG", "error")
            .spawn()
            .unwrap();
        Killed(child)
    };
    let mut sim = run("500");
    let text = bounded("the ready file", || fs::read_to_string(&ready).ok());
    let nodes: serde_json::Value = serde_json::from_str(&text).unwrap();
    let nodes = nodes.as_array().unwrap();
    assert_eq!(nodes.len(), 500);
    let id: NodeId = nodes[499]["node_id"].as_str().unwrap().parse().unwrap();
    let address = nodes[499]["address"].as_str().unwrap();
    let asked = door.asked();
    assert_eq!(asked[499].address, address);
    assert_eq!(asked[499].fingerprint["product_uuid"], id.to_string());
    let dns = dns::node(&fabric.name, id);
    connector::stream(&fabric.controller(), address, &dns)
        .await
        .unwrap();
    let resident = resident_kib(sim.0.id());
    assert!(resident < 500 * 512, "{resident} KiB for 500 nodes");
    kill(
        Pid::from_raw(sim.0.id().try_into().unwrap()),
        Signal::SIGTERM,
    )
    .unwrap();
    let status = bounded("the end", || sim.0.try_wait().unwrap());
    assert!(status.success(), "{status}");
}

/// Simulated nodes that keep their credentials come back as the same nodes, without a token.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn simulated_nodes_come_back_with_what_they_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (ready, tokens) = (dir.path().join("ready.json"), dir.path().join("tokens"));
    let fabric = Arc::new(Fabric::new("kapok"));
    let door = Door::open(&fabric).await;
    let mut ids = Vec::new();
    for lines in [door.token.reveal().to_string(), String::new()] {
        fs::write(&tokens, lines).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_kapok-sim"))
            .args(["--nodes", "1", "--listen-base", "127.0.0.1:0"])
            .args(["--controller", &door.address.to_string()])
            .arg("--tokens")
            .arg(&tokens)
            .arg("--state-dir")
            .arg(dir.path().join("state"))
            .arg("--ready-file")
            .arg(&ready)
            .env("RUST_LOG", "error")
            .spawn();
        let _sim = Killed(child.unwrap());
        let text = bounded("the ready file", || fs::read_to_string(&ready).ok());
        let nodes: serde_json::Value = serde_json::from_str(&text).unwrap();
        ids.push(nodes[0]["node_id"].as_str().unwrap().to_owned());
        fs::remove_file(&ready).unwrap();
    }
    assert_eq!(ids[0], ids[1]);
    assert_eq!(door.asked().len(), 1);
}
