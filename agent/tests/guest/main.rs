//! A server whose hardware fails, with the agent on it: a QEMU guest that runs the real
//! `kapok-agent` process with the real smartctl on a real kernel. The test asks that agent over gRPC
//! and mTLS, as a controller does. It has no libvirtd and says so; this is about all else.

#![cfg(feature = "libvirt")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests, which tell why they skip"
)]

#[allow(dead_code, reason = "each test binary uses its part")]
#[path = "../common/fabric.rs"]
mod fabric;
mod vm;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use fabric::Fabric;
use kapok_agent::trust;
use kapok_health::Host;
use kapok_lab::{
    run::has_program,
    wait::{pause, until},
};
use kapok_proto::{
    agent::v1::{GetHealthRequest, node_service_client::NodeServiceClient},
    common::v1::{Condition, NodeHealth, Verdict, reading::Read},
};
use kapok_trust::{Subject, connector, dns, files};
use kapok_types::NodeId;
use serde_json::json;
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};
use uuid::Uuid;
use vm::{PATIENCE, Vm};

/// The agent's port.
const PORT: u16 = 7701;
/// The disk that fails.
const DISK: &str = "disk/nvme0n1";
/// NVMe's bit for a medium that can no longer be trusted. Source: NVM Express base specification,
/// "Critical Warning".
const RELIABILITY: u8 = 1 << 2;
/// How often it is asked how it does.
const EVERY: Duration = Duration::from_millis(300);
/// How long the server sleeps: longer than clocks that are read one after another differ.
const SLEEP: Duration = Duration::from_secs(3);

/// A verdict follows within one cadence of what it is about. FAULTS 52: a server that slept says so.
#[test]
fn the_agent_s_verdicts_follow_its_hardware() {
    for program in ["qemu-system-x86_64", "smartctl", "ldd"] {
        if !has_program(program) {
            println!("SKIP: {program} is missing; `cargo xtask setup --dev` installs it");
            return;
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let fabric = Fabric::new("kapok");
    let node = NodeId(Uuid::from_u128(0xA0));
    let disk = disk(folder.path(), &fabric, node);
    let mut vm = Vm::start(folder.path(), &disk, PORT);
    vm.hear(kapok_lab::guest::USERLAND);
    vm.hear("kapok-address");
    vm.run("mkdir /h && mount -t ext4 /dev/vda /h");
    vm.run("(/h/ld --library-path /h /h/kapok-agent --config /h/agent.toml >/h/log 2>&1 &)");
    let agent = Agent::dial(&fabric, node, vm.forwarded());

    let asked = agent.until("the disk is judged", &mut vm, |health| {
        let disk = health.components.iter().find(|it| it.component == DISK)?;
        Some((disk.condition(), round(health)))
    });
    let (condition, mut before) = asked;
    assert_eq!(condition, Condition::Healthy);

    let mut monitor = vm.monitor();
    before = before.max(agent.ask().map_or(before, |health| round(&health)));
    monitor.warn(RELIABILITY);
    let mut rounds = BTreeSet::new();
    let warned = agent.until("the disk's warning is a verdict", &mut vm, |health| {
        if let Some(verdict) = verdict(health, "NVME_UNRELIABLE") {
            return Some(verdict.clone());
        }
        if round(health) > before {
            rounds.insert(round(health));
        }
        // One may have begun before the warning. The next is within one cadence, and must see it.
        assert!(rounds.len() <= 1, "a round passed without it: {health:#?}");
        None
    });
    assert_eq!(warned.component, DISK);
    assert_eq!(warned.condition(), Condition::Failing);
    assert_eq!(warned.evidence[0].read, Some(Read::Value(4.0)));

    // To memory and back, as its firmware does it: CLOCK_MONOTONIC stands still meanwhile.
    vm.say("echo mem >/sys/power/state; echo kapok-''awake");
    monitor.hear("SUSPEND");
    pause(SLEEP);
    monitor.order("system_wakeup", &json!({}));
    vm.hear("kapok-awake");
    let slept = agent.until("its sleep is a verdict", &mut vm, |health| {
        verdict(health, "HOST_SUSPENDED").cloned()
    });
    assert_eq!(slept.condition(), Condition::Degraded);
    let Some(Read::Value(seconds)) = slept.evidence[0].read else {
        panic!("{slept:#?}");
    };
    assert!((2.0..60.0).contains(&seconds), "{slept:#?}");
}

/// What the guest mounts: the agent, joined to this fabric as this node, and smartctl.
fn disk(folder: &Path, fabric: &Fabric, node: NodeId) -> PathBuf {
    let inside = folder.join("h");
    let state = inside.join("state");
    fs::create_dir_all(&state).unwrap();
    let smartctl = Host::new("/").tool("smartctl").unwrap();
    let agent = Path::new(env!("CARGO_BIN_EXE_kapok-agent"));
    vm::copy_programs(
        &[(agent, "kapok-agent"), (&smartctl, "smartctl.real")],
        &inside,
    );
    let start = "#!/bin/sh\nexec /h/ld --library-path /h /h/smartctl.real \"$@\"\n";
    put(&inside.join("smartctl"), start);
    let config = format!(
        "listen = \"0.0.0.0:{PORT}\"\nstate_dir = \"/h/state\"\n\
         [health]\nevery = {{ smartctl = \"5s\", suspend = \"2s\" }}\n\
         tools = {{ smartctl = \"/h/smartctl\" }}\n"
    );
    put(&inside.join("agent.toml"), &config);
    put(&state.join("node-id"), &format!("{node}\n"));
    let life = Duration::from_hours(1);
    let material = fabric.material(Subject::Node(node), fabric.env.now(), life);
    files::store(&state.join(trust::FOLDER), &material).unwrap();
    let disk = folder.join("disk");
    vm::make_disk(&inside, &disk);
    disk
}

/// Writes an executable, which does no harm to files that aren't run.
fn put(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// The agent in the guest, as a controller reaches it.
struct Agent {
    runtime: Runtime,
    client: NodeServiceClient<Channel>,
}

impl Agent {
    /// Dials until it answers.
    fn dial(fabric: &Fabric, node: NodeId, port: u16) -> Self {
        let runtime = Runtime::new().unwrap();
        let (who, address) = (fabric.controller(), format!("127.0.0.1:{port}"));
        let name = dns::node(&fabric.name, node);
        let dialled = until("the agent in the guest", PATIENCE * 2, || {
            let tune = |endpoint: Endpoint| endpoint.connect_timeout(PATIENCE);
            let channel = connector::connect(&who, &address, &name, tune);
            Ok(runtime.block_on(channel).ok())
        });
        let client = NodeServiceClient::new(dialled.unwrap());
        Self { runtime, client }
    }

    /// How its server does, once it was judged.
    fn ask(&self) -> Option<NodeHealth> {
        let mut client = self.client.clone();
        let asked = async move { client.get_health(GetHealthRequest { readings: true }).await };
        let answer = self.runtime.block_on(asked).ok()?;
        answer.into_inner().health
    }

    /// Asks until its server does as wanted; else shows what the agent said.
    fn until<T>(
        &self,
        what: &str,
        vm: &mut Vm,
        mut wanted: impl FnMut(&NodeHealth) -> Option<T>,
    ) -> T {
        let mut last = None;
        let found = until(what, PATIENCE, || {
            // The guest has better to do than to answer.
            pause(EVERY);
            last = self.ask();
            Ok(last.as_ref().and_then(&mut wanted))
        });
        found.unwrap_or_else(|error| {
            vm.say("tail -n 60 /h/log; echo kapok-''log");
            let log = vm.before("kapok-log");
            panic!("{error:#}\n{last:#?}\n{log}")
        })
    }
}

fn verdict<'a>(health: &'a NodeHealth, code: &str) -> Option<&'a Verdict> {
    health.verdicts.iter().find(|it| it.code == code)
}

/// When smartctl was last asked, to the nanosecond.
fn round(health: &NodeHealth) -> (i64, i32) {
    let source = health.sources.iter().find(|it| it.name == "smartctl");
    let read = source.and_then(|source| source.read_time);
    read.map_or((0, 0), |at| (at.seconds, at.nanos))
}
