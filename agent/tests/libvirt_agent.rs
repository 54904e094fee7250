//! The real `kapok-agent`, unprivileged, on a lab host with 40 domains.
#![cfg(feature = "libvirt")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests, where a failed unwrap is a failed test"
)]
#![allow(clippy::print_stdout, reason = "measurements are shown")]

#[path = "common/fabric.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod fabric;
mod lab_bench;

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use fabric::Fabric;
use kapok_agent::config::VirtChoice;
use kapok_lab::{User, forward::Forward, places};
use kapok_proto::agent::v1::{
    GetNodeRequest, ListInstancesRequest, node_service_client::NodeServiceClient,
};
use kapok_trust::{Subject, connector, dns, files};
use kapok_types::instance::Power;
use lab_bench::{BOUND, bench};

const DOMAINS: u128 = 40;
const STATE: &str = "/var/lib/kapok/agent";

/// The agent that is tested: this build's, or the one that `KAPOK_AGENT` names (a release build,
/// whose size is the one that counts).
fn program() -> PathBuf {
    std::env::var_os("KAPOK_AGENT")
        .map_or_else(|| env!("CARGO_BIN_EXE_kapok-agent").into(), PathBuf::from)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agent_is_small_and_unprivileged() {
    let test = "the_agent_is_small_and_unprivileged";
    let Some(bench) = bench(test, VirtChoice::Qemu).await else {
        return;
    };
    let machine = bench.host().machine();
    for number in 0..DOMAINS {
        let mut record = bench.subject.record(number).await;
        record.intent.power = Power::Stopped;
        bench.driver().compute.define(&record).await.unwrap();
    }
    // The agent that takes over is the node whose domains these are.
    bench
        .host()
        .run("install", |command| {
            command.args(["-d", "-o", "kapok", "-g", "kapok", STATE])
        })
        .unwrap();
    let node = bench.subject.node;
    machine
        .write(format!("{STATE}/node-id"), &format!("{node}\n"))
        .unwrap();
    // Joined, as the state directory's owner leaves it.
    let fabric = Fabric::new("kapok");
    let hour = Duration::from_hours(1);
    let material = fabric.material(Subject::Node(node), fabric.env.now(), hour);
    files::store(&bench.host().path(format!("{STATE}/trust")), &material).unwrap();
    bench
        .host()
        .run("chown", |command| {
            command.args(["-R", "kapok:kapok", STATE])
        })
        .unwrap();
    let config = "reserved_memory_mib = 256\n[libvirt]\nvirt_type = \"qemu\"\n";
    machine.write("/etc/kapok/agent.toml", config).unwrap();
    let mut agent = bench
        .host()
        .spawn("kapok-agent", places::inside(&program()), |command| {
            command.user(User::Kapok)
        })
        .unwrap();
    agent.wait_for_log("ready", BOUND).unwrap();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 7701));
    let way = Forward::open(machine, 0, address).unwrap();
    let (way, dns) = (way.local().to_string(), dns::node(&fabric.name, node));
    let channel = connector::connect(&fabric.controller(), &way, &dns, |endpoint| endpoint).await;
    let mut client = NodeServiceClient::new(channel.unwrap());
    let listed = async {
        loop {
            let answer = client.list_instances(ListInstancesRequest {}).await;
            if let Ok(answer) = answer
                && answer.get_ref().instances.len() == usize::try_from(DOMAINS).unwrap()
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(BOUND, listed)
        .await
        .expect("the agent finds its domains");
    let facts = client
        .get_node(GetNodeRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(facts.node.unwrap().node_id, node.to_string());

    // Several rounds of looking at everything.
    tokio::time::sleep(Duration::from_secs(12)).await;
    let status = fs::read_to_string(
        Path::new("/proc")
            .join(agent.pid().to_string())
            .join("status"),
    );
    let status = status.unwrap();
    let field = |name: &str| {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap();
        line.split_whitespace()
            .next()
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    let (resident, threads) = (field("VmRSS:"), field("Threads:"));
    println!(
        "the agent with {DOMAINS} domains: {resident} KiB resident ({} KiB its own, {} KiB of \
         files), {threads} threads",
        field("RssAnon:"),
        field("RssFile:")
    );
    assert_ne!(field("Uid:"), 0, "it isn't root");
    assert!(threads <= 40, "{threads} threads");
    assert!(resident <= 60 * 1024, "{resident} KiB resident");

    let ended = agent.terminate(BOUND).unwrap();
    assert!(ended.success(), "{ended}");
    for number in 0..DOMAINS {
        let id = bench.subject.record(number).await.intent.incarnation;
        bench.driver().compute.undefine(id).await.unwrap();
    }
    drop(client);
    bench.end();
}
