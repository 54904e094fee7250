//! The configuration files that are written for a fabric in a lab or a demo. The files of an
//! installation are in `systemd/`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What the administrator of this fabric decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Which build of the programs runs.
    pub build: Build,
    /// How guests are run.
    pub virt: Virt,
    /// The agents' deadline of one call to libvirt.
    pub call_deadline: Duration,
    /// How long the agents let a guest shut down.
    pub shutdown_grace: Duration,
    /// How often the agents look without a hint.
    pub observe_every: Duration,
    /// How often the controller wants a life sign.
    pub heartbeat: Duration,
    /// The silence after which a node is unreachable to the controller.
    pub lost_after: Duration,
    /// vCPUs that the controller puts on one thread of a node.
    pub vcpu_overcommit: u8,
    /// How long the certificates of nodes and controllers live.
    pub certificate_life: Duration,
    /// Where spans of traces are sent, if anywhere.
    pub otlp_endpoint: Option<String>,
    /// Where the controller keeps its log.
    pub store: Store,
}

/// Where the controller keeps its log: in a file unless told otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Store {
    /// Whether it is in etcd.
    pub is_etcd: bool,
    /// The members of etcd, if there are some, in use or to be moved to.
    pub endpoints: Vec<String>,
}

impl Default for Settings {
    /// The programs' own defaults, but for the way guests are run: emulation, unprobed.
    fn default() -> Self {
        Self {
            build: Build::Debug,
            virt: Virt::Emulated,
            call_deadline: Duration::from_secs(10),
            shutdown_grace: Duration::from_mins(1),
            observe_every: Duration::from_secs(5),
            heartbeat: Duration::from_secs(1),
            lost_after: Duration::from_secs(10),
            vcpu_overcommit: 4,
            certificate_life: Duration::from_hours(30 * 24),
            otlp_endpoint: None,
            store: Store::default(),
        }
    }
}

/// A build of the programs, made before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Build {
    /// `cargo build`
    Debug,
    /// `cargo build --release`
    Release,
}

impl Build {
    /// The name of its folder.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Release => "release",
        }
    }
}

/// How guests are run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Virt {
    /// Emulation.
    Emulated,
    /// KVM if this guest reaches userland under it.
    Probed {
        /// Its kernel, as the hosts see it.
        kernel: PathBuf,
        /// Its initramfs, as the hosts see it.
        initrd: PathBuf,
    },
}

/// Where a program listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listen {
    /// For gRPC.
    pub grpc: SocketAddr,
    /// For HTTPS: the pages, and joining.
    pub https: SocketAddr,
}

/// Rules on what tests let hang and go on: nobody waits as long as in the field for their end.
const UNDONE: [&str; 2] = ["HYPERVISOR_STUCK", "POOL_STUCK"];

/// Rules on what all hosts of a lab share: the machine beneath them, which others load.
const BENEATH: [&str; 12] = [
    "CLOCK_OFF",
    "CLOCK_UNSYNCHRONIZED",
    "CPU_THROTTLED",
    "DISK_SLOW",
    "DISK_STUCK",
    "FILESYSTEM_FILLING",
    "FILESYSTEM_FULL",
    "HOST_SUSPENDED",
    "KERNEL_LOCKUPS",
    "OOM_KILLED",
    "PRESSURE_STALLED",
    "PRESSURE_WAITING",
];

/// `agent.toml` of one host.
pub fn agent(listen: Listen, state: &Path, settings: &Settings) -> String {
    let Listen { grpc, https } = listen;
    let mut text = format!(
        r#"listen = "{grpc}"
state_dir = "{}"
reserved_memory_mib = 256

[http]
listen = "{https}"

[timing]
call_deadline = "{}ms"
shutdown_grace = "{}ms"
observe_every = "{}ms"

[libvirt]
"#,
        state.display(),
        settings.call_deadline.as_millis(),
        settings.shutdown_grace.as_millis(),
        settings.observe_every.as_millis(),
    );
    let virt = match &settings.virt {
        Virt::Emulated => "virt_type = \"qemu\"\n".to_owned(),
        Virt::Probed { kernel, initrd } => format!(
            "virt_type = \"auto\"\nprobe_kernel = \"{}\"\nprobe_initrd = \"{}\"\nprobe_seconds = 10\n",
            kernel.display(),
            initrd.display()
        ),
    };
    text.push_str(&virt);
    let off = BENEATH.map(|rule| (rule, "enabled = false"));
    let quick = UNDONE.map(|rule| (rule, "clear_after = \"5s\""));
    for (rule, word) in off.into_iter().chain(quick) {
        for part in ["\n[health.rules.", rule, "]\n", word, "\n"] {
            text.push_str(part);
        }
    }
    text + &telemetry(settings)
}

/// `controller.toml`.
pub fn controller(listen: Listen, state: &Path, settings: &Settings) -> String {
    let Listen { grpc, https } = listen;
    let life = settings.certificate_life.as_secs();
    let text = format!(
        r#"listen = "{grpc}"
state_dir = "{}"
default_vcpu_overcommit = {}.0

[https]
listen = "{https}"

[timing]
heartbeat = "{}ms"
lost_after = "{}ms"

[health]
quiet = "2s"

[trust]
node_life = "{life}s"
controller_life = "{life}s"
"#,
        state.display(),
        settings.vcpu_overcommit,
        settings.heartbeat.as_millis(),
        settings.lost_after.as_millis()
    );
    text + &store(&settings.store) + &telemetry(settings)
}

fn store(Store { is_etcd, endpoints }: &Store) -> String {
    let backend = if *is_etcd { "etcd" } else { "redb" };
    let etcd = if endpoints.is_empty() {
        String::new()
    } else {
        // TOML's lists of plain text are written as Rust's are.
        format!("\n[store.etcd]\nendpoints = {endpoints:?}\n")
    };
    format!("\n[store]\nbackend = \"{backend}\"\n{etcd}")
}

fn telemetry(settings: &Settings) -> String {
    let endpoint = settings.otlp_endpoint.as_ref();
    endpoint.map_or_else(String::new, |endpoint| {
        format!("\n[telemetry]\notlp_endpoint = \"{endpoint}\"\n")
    })
}
