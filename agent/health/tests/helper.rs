//! An agent without rights reads SMART and IPMI, through a helper that has them.
//!
//! The rights are root's to a file that nobody else can read: what is on the disk, for a smartctl
//! that only root gets anything from. The agent is this program again, as another user.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

use std::{
    env, fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
};

use kapok_health::{
    Failure, Host, Read, Reading, Source as _,
    source::{ipmi::Ipmi, smartctl::Smartctl},
};
use kapok_helper::{Tools, server::Server};
use nix::unistd::{Gid, Uid};
use tokio::net::UnixListener;

/// Nobody on any system.
const AGENT: u32 = 64_990;
/// Where the helper's socket is, for the agent.
const SOCKET: &str = "KAPOK_TEST_HELPER";
/// The server's root, for the agent.
const ROOT: &str = "KAPOK_TEST_ROOT";

/// A server with a disk and a management controller that only root can ask.
struct Bench {
    folder: tempfile::TempDir,
}

/// A program that is still open for writing in some child of this process can't be started: one
/// test at a time.
static ALONE: Mutex<()> = Mutex::new(());

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        open(folder.path(), 0o755);
        let bench = Self { folder };
        let recorded = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools");
        for (kept, from) in [
            ("scan", "smartctl/scan.json"),
            ("disk", "smartctl/nvme.json"),
            ("sdr", "ipmi/healthy-sdr.csv"),
            ("sensor", "ipmi/healthy-sensor.txt"),
            ("chassis", "ipmi/healthy-chassis.txt"),
            ("sel", "ipmi/healthy-sel.txt"),
        ] {
            fs::copy(recorded.join(from), bench.path(kept)).unwrap();
            open(&bench.path(kept), 0o600);
        }
        open(&bench.path("scan"), 0o644);
        for folder in ["dev", "usr/sbin", "sys/block/nvme0n1"] {
            fs::create_dir_all(bench.path(folder)).unwrap();
        }
        fs::write(bench.path("dev/ipmi0"), "").unwrap();
        let here = bench.folder.path().display();
        bench.tool(
            "smartctl",
            &format!(
                "case \"$*\" in\n*--scan) exec cat {here}/scan;;\n\
                 */dev/nvme0) exec cat {here}/disk;;\n*) exit 2;;\nesac"
            ),
        );
        bench.tool(
            "ipmitool",
            &format!(
                "case \"$*\" in\n*sdr*) exec cat {here}/sdr;;\nsensor) exec cat {here}/sensor;;\n\
                 chassis*) exec cat {here}/chassis;;\nsel*) exec cat {here}/sel;;\nesac"
            ),
        );
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn tool(&self, name: &str, script: &str) {
        let path = self.path("usr/sbin").join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        open(&path, 0o755);
    }

    /// What the agent says, as this user.
    fn agent(&self, program: &Path, user: u32) -> String {
        let output = Command::new(program)
            .args(["--exact", "agent", "--ignored", "--nocapture"])
            .env(SOCKET, self.path("socket"))
            .env(ROOT, self.folder.path())
            .current_dir("/")
            .uid(user)
            .gid(user)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}");
        said
    }
}

fn open(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn an_agent_without_rights_reads_through_the_helper() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    if !Uid::effective().is_root() {
        println!("SKIP helper: only root has rights that another user lacks");
        return;
    }
    let bench = Bench::new();
    let program = bench.path("agent");
    fs::copy(env::current_exe().unwrap(), &program).unwrap();
    open(&program, 0o755);

    // Without a helper it tries, and says what it couldn't read.
    let said = bench.agent(&program, AGENT);
    assert!(
        said.contains("smartctl disk/nvme0n1 smart_failing unreadable"),
        "{said}"
    );
    assert!(said.contains("ipmi: unreadable"), "{said}");

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let tools = Tools::new(bench.folder.path()).guarded();
    let server = Server::new(tools, [Uid::from_raw(0), Uid::from_raw(AGENT)]);
    let listener = runtime.block_on(async { UnixListener::bind(bench.path("socket")) });
    let listener = listener.unwrap();
    // More than the helper gives: its own look is what is tried here.
    open(&bench.path("socket"), 0o666);
    runtime.spawn(async move { server.serve(&listener).await });

    let said = bench.agent(&program, AGENT);
    for read in [
        "smartctl disk/nvme0n1 smart_failing 0",
        "smartctl disk/nvme0n1 temperature 36",
        "ipmi sensor/Inlet Temp temperature 24",
        "ipmi fan/FAN1 speed 7200",
    ] {
        assert!(said.lines().any(|line| line == read), "{read} in\n{said}");
    }
    // Somebody else doesn't, although the socket is open to all.
    let said = bench.agent(&program, AGENT + 1);
    for source in ["smartctl", "ipmi"] {
        let refused = format!("{source}: kapok-helper: uid {} may not ask", AGENT + 1);
        assert!(said.lines().any(|line| line == refused), "{said}");
    }
    runtime.shutdown_background();
}

/// Where a helper listens, nothing else is tried if it doesn't answer; but a tool that somebody has
/// named in the configuration is no helper's.
#[test]
fn a_helper_that_is_dead_is_said_and_a_named_tool_needs_none() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let bench = Bench::new();
    drop(std::os::unix::net::UnixListener::bind(bench.path("socket")).unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let read = |host: &Host| runtime.block_on(Smartctl.read(host));
    let host = Host::new(bench.folder.path()).with_helper(bench.path("socket"));
    let dead = read(&host).unwrap_err().to_string();
    assert!(dead.starts_with("kapok-helper: "), "{dead}");
    let named = host.with_tool("smartctl", bench.path("usr/sbin/smartctl"));
    assert!(read(&named).unwrap().len() > 10);
    // Without a socket there is no helper to wait for.
    let absent = Host::new(bench.folder.path()).with_helper(bench.path("nowhere"));
    assert!(read(&absent).unwrap().len() > 10);
}

/// Not a test of its own: what the other user runs.
#[test]
#[ignore = "the other test starts it"]
fn agent() {
    let (Some(socket), Some(root)) = (env::var_os(SOCKET), env::var_os(ROOT)) else {
        println!("SKIP agent: it is the other test's");
        return;
    };
    assert!(!Uid::effective().is_root() && Gid::effective().as_raw() >= AGENT);
    let host = Host::new(root).with_helper(socket);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    println!();
    show("smartctl", runtime.block_on(Smartctl.read(&host)));
    show("ipmi", runtime.block_on(Ipmi::default().read(&host)));
}

fn show(source: &str, outcome: Result<Vec<Reading>, Failure>) {
    match outcome {
        Ok(readings) => {
            for it in readings {
                let read = match it.read {
                    Read::Value(value) => value.to_string(),
                    Read::Unreadable(_) => "unreadable".to_owned(),
                    Read::Absent => "absent".to_owned(),
                };
                println!("{source} {} {} {read}", it.component, it.quantity.name);
            }
        }
        Err(Failure::Unreadable(reason)) if reason.starts_with("kapok-helper") => {
            println!("{source}: {reason}");
        }
        Err(failure) => println!("{source}: unreadable, {failure}"),
    }
}
