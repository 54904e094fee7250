//! The checks on servers that are made of files.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    time::Duration,
};

use Condition::{Degraded, Failing, Healthy, Unknown};
use kapok_trust::{Authority, Csr, Identity, Key, Material, Serial, Subject, files};
use kapok_types::{Env as _, env::Seeded};
use nix::unistd::{getegid, geteuid};

use super::*;
use crate::config::{Access, DeviceRule};

const HOUR: Duration = Duration::from_hours(1);

/// A server on which nothing is to be found.
struct Bench {
    root: tempfile::TempDir,
    config: Config,
    now: Timestamp,
}

impl Bench {
    fn new() -> Self {
        let env = Seeded::new(1);
        let bench = Self {
            root: tempfile::tempdir().unwrap(),
            config: Config::default(),
            now: env.now(),
        };
        let (uid, gid) = (geteuid(), getegid());
        bench
            .file(
                "etc/passwd",
                &format!("root:x:0:0::/:/bin/sh\nkapok:x:{uid}:{gid}:agent:/:/bin/false\n"),
            )
            .file(
                "etc/group",
                &format!("kapok:x:{gid}:\nlibvirt:x:999999:kapok\n"),
            )
            .file("etc/kapok/agent.toml", "")
            .file("run/libvirt/virtqemud-sock", "")
            .folder("var/lib/kapok/agent", 0o700)
            .file("proc/cmdline", "quiet")
            .file(
                "proc/meminfo",
                "MemTotal:       67108864 kB\nMemFree: 1 kB\n",
            )
            .file("proc/loadavg", "0.10 0.20 0.30 1/1234 5678")
            .file("proc/sys/fs/aio-max-nr", "1048576")
            .file("proc/sys/fs/aio-nr", "4096")
            .file("proc/sys/fs/file-nr", "2000\t0\t9000000")
            .file("proc/sys/kernel/pid_max", "4194304")
            .file("proc/sys/kernel/threads-max", "500000")
            .file("proc/sys/fs/inotify/max_user_instances", "1024")
            .file("proc/net/tcp", "  sl  local_address rem_address st\n")
            .file("sys/module/apparmor/parameters/enabled", "Y")
            .file("etc/apparmor.d/libvirt/TEMPLATE.qemu", "profile")
            .file("sys/kernel/iommu_groups/0/type", "DMA")
            .pages("2048", 1024, 512)
            .runs(1, "/usr/lib/systemd/systemd")
            .runs(7, "/usr/bin/qemu-system-x86_64")
            .link("br0", 1500, &["eth0", "vnet0"])
            .link("eth0", 1500, &[])
            .link("vnet0", 1500, &[])
    }

    fn file(self, path: &str, text: &str) -> Self {
        let path = self.root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
        self
    }

    fn mode(self, path: &str, mode: u32) -> Self {
        let path = self.root.path().join(path);
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        self
    }

    fn folder(self, path: &str, mode: u32) -> Self {
        fs::create_dir_all(self.root.path().join(path)).unwrap();
        self.mode(path, mode)
    }

    fn without(self, path: &str) -> Self {
        fs::remove_file(self.root.path().join(path)).unwrap();
        self
    }

    fn pages(self, size_kib: &str, all: u64, free: u64) -> Self {
        let folder = format!("sys/kernel/mm/hugepages/hugepages-{size_kib}kB");
        self.file(&format!("{folder}/nr_hugepages"), &all.to_string())
            .file(&format!("{folder}/free_hugepages"), &free.to_string())
    }

    fn link(self, name: &str, mtu: u32, ports: &[&str]) -> Self {
        let folder = format!("sys/class/net/{name}");
        let bench = self.file(&format!("{folder}/mtu"), &mtu.to_string());
        ports.iter().fold(bench, |bench, port| {
            bench.file(&format!("{folder}/brif/{port}/state"), "3")
        })
    }

    fn runs(self, process: u32, program: &str) -> Self {
        let bench = self.folder(&format!("proc/{process}"), 0o755);
        let path = bench.root.path().join(format!("proc/{process}/exe"));
        symlink(program, path).unwrap();
        bench
    }

    /// A listener, by the kernel's table.
    fn listens(self, port: u16, uid: u32) -> Self {
        let line = format!("   0: 00000000:{port:04X} 00000000:0000 0A 0:0 00:0 0 {uid} 0 1\n");
        self.file("proc/net/tcp", &line)
    }

    fn configured(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self
    }

    /// With a certificate that holds for so long, and so long ago.
    fn joined(mut self, life: Duration, ago: Duration) -> Self {
        let env = Seeded::new(1);
        let now = env.now();
        let fabric = "city".parse().unwrap();
        let authority = Authority::create(&fabric, env.as_ref(), 1000 * HOUR).unwrap();
        let key = Key::generate().unwrap();
        let csr = Csr::parse(&key.request().unwrap()).unwrap();
        let identity = Identity::new(fabric, Subject::Node(env.node_id()));
        let serial = Serial::new(env.as_ref());
        let material = Material {
            chain_pem: authority.issue(&csr, &identity, serial, life, now).unwrap(),
            key_pem: key.to_pem().to_string(),
            bundle_pem: authority.certificate_pem().to_owned(),
            crl_pem: String::new(),
        };
        let folder = self.root.path().join("var/lib/kapok/agent/trust");
        files::store(&folder, &material).unwrap();
        let millis = u64::try_from(ago.as_millis()).unwrap();
        self.now = Timestamp(now.get() + millis);
        self
    }

    async fn findings(&self) -> Vec<Finding> {
        let host = Host::new(self.root.path());
        let server = Server {
            host: &host,
            config: &self.config,
            file: Path::new("/etc/kapok/agent.toml"),
            now: self.now,
        };
        examine(&server).await
    }

    /// That of one check exactly this is found, with advice exactly if it isn't healthy.
    async fn finds(self, check: &str, condition: Condition, words: &str) {
        let findings = self.findings().await;
        let of = findings.iter().filter(|it| it.check == check);
        let like: Vec<&Finding> = of.filter(|it| it.found.contains(words)).collect();
        let [finding] = like[..] else {
            panic!("{check}: {words:?} in {findings:#?}");
        };
        assert_eq!(finding.condition, condition, "{finding:?}");
        for finding in &findings {
            let healthy = finding.condition == Healthy;
            assert_eq!(finding.advice.is_empty(), healthy, "{finding:?}");
        }
    }
}

/// Nothing is wrong with this one; the clock and the room are the machine's below.
#[tokio::test]
async fn a_server_that_is_fit() {
    for finding in Bench::new().joined(30 * HOUR, HOUR).findings().await {
        let below = ["clock", "space"].contains(&finding.check);
        assert!(finding.condition == Healthy || below, "{finding:?}");
    }
}

#[tokio::test]
async fn the_user_and_what_it_may() {
    let check = "permissions";
    let fine = "may what the agent does";
    Bench::new().finds(check, Healthy, fine).await;
    let bench = Bench::new().file("etc/passwd", "root:x:0:0::/:/bin/sh\n");
    bench.finds(check, Failing, "there is no user kapok").await;
    let bench = Bench::new().file("etc/group", "libvirt:x:999999:somebody,kapokx\n");
    bench
        .finds(check, Failing, "isn't in the group libvirt")
        .await;
    let bench = Bench::new().mode("var/lib/kapok/agent", 0o750);
    bench
        .finds(check, Failing, "open to others (mode 750)")
        .await;
    let bench = Bench::new().mode("etc/kapok/agent.toml", 0o000);
    bench
        .finds(check, Failing, "can't read /etc/kapok/agent.toml")
        .await;
    let bench = Bench::new().configured(|it| it.http.token_file = Some("/etc/token".into()));
    bench.finds(check, Failing, "/etc/token isn't there").await;
    let bench = Bench::new().without("run/libvirt/virtqemud-sock");
    bench.finds(check, Failing, "libvirt doesn't listen").await;
    let bench = Bench::new().mode("run/libvirt/virtqemud-sock", 0o555);
    bench
        .finds(check, Failing, "isn't for the user kapok")
        .await;
    // Another libvirt is the configuration's own affair.
    let bench = Bench::new()
        .without("run/libvirt/virtqemud-sock")
        .configured(|it| it.libvirt.uri = "qemu+unix:///system?socket=/x".into());
    bench.finds(check, Healthy, fine).await;
    let stranger = format!("kapok:x:{}:77::/:/bin/false\n", geteuid().as_raw() + 1);
    let bench = Bench::new().file("etc/passwd", &stranger);
    bench.finds(check, Failing, "belongs to uid").await;
}

#[tokio::test]
async fn devices_and_pages() {
    let gpu = |config: &mut Config| {
        config.devices.push(DeviceRule {
            class: "gpu".parse().unwrap(),
            vendor: 0x10de,
            product: 0x20b0,
        });
    };
    Bench::new()
        .finds("iommu", Healthy, "keeps 1 groups apart")
        .await;
    let bench = Bench::new();
    fs::remove_dir_all(bench.root.path().join("sys/kernel/iommu_groups")).unwrap();
    let bench = bench.configured(gpu);
    bench
        .finds("iommu", Failing, "none of the 1 [[devices]]")
        .await;
    let pages = "1024 of 2 MiB, 512 free";
    Bench::new().finds("huge-pages", Healthy, pages).await;
    let bench = Bench::new().pages("1048576", 63, 63);
    bench.finds("huge-pages", Failing, "next to nothing").await;
}

#[tokio::test]
async fn confinement() {
    let check = "confinement";
    Bench::new()
        .finds(check, Healthy, "AppArmor confines")
        .await;
    let off = || Bench::new().file("sys/module/apparmor/parameters/enabled", "N");
    off().finds(check, Degraded, "neither AppArmor").await;
    let bench = off().file("sys/fs/selinux/enforce", "1");
    bench.finds(check, Healthy, "SELinux confines").await;
    let bench = Bench::new().without("etc/apparmor.d/libvirt/TEMPLATE.qemu");
    bench.finds(check, Degraded, "no profile for guests").await;
    let config = "#security_driver = \"selinux\"\nsecurity_driver = \"none\"\n";
    let bench = Bench::new().file("etc/libvirt/qemu.conf", config);
    bench
        .finds(check, Degraded, "security_driver = \"none\"")
        .await;
}

#[tokio::test]
async fn limits() {
    let check = "limits";
    Bench::new().finds(check, Healthy, "far from reached").await;
    let aio = |used: &str| Bench::new().file("proc/sys/fs/aio-nr", used);
    aio("800000").finds(check, Degraded, "fs.aio-max-nr").await;
    aio("1048576").finds(check, Failing, "fs.aio-max-nr").await;
    let bench = Bench::new().file("proc/sys/kernel/pid_max", "32000");
    bench
        .finds(check, Degraded, "kernel.pid_max is 32000")
        .await;
    let bench = Bench::new().file("proc/loadavg", "0 0 0 1/490000 1");
    bench.finds(check, Failing, "of kernel.threads-max").await;
    let bench = Bench::new().file("proc/sys/fs/inotify/max_user_instances", "8");
    bench
        .finds(check, Degraded, "max_user_instances is 8")
        .await;
}

#[tokio::test]
async fn certificates() {
    let check = "certificate";
    Bench::new().finds(check, Degraded, "has not joined").await;
    let after = |ago| Bench::new().joined(30 * HOUR, ago);
    after(HOUR).finds(check, Healthy, "city holds until").await;
    after(25 * HOUR)
        .finds(check, Degraded, "isn't renewed")
        .await;
    after(31 * HOUR).finds(check, Failing, "ended at").await;
    let mut early = after(HOUR);
    early.now = Timestamp(0);
    early.finds(check, Failing, "is to come").await;
    let exposed = after(HOUR);
    let key = exposed.root.path();
    let key = key.join("var/lib/kapok/agent/trust/current/key.pem");
    fs::set_permissions(key, fs::Permissions::from_mode(0o644)).unwrap();
    exposed.finds(check, Failing, "may be read by others").await;
}

#[tokio::test]
async fn ports() {
    let check = "ports";
    let own = geteuid().as_raw();
    Bench::new()
        .finds(check, Healthy, "7701 (listen) is free")
        .await;
    let agent = Bench::new().listens(7781, own);
    agent
        .finds(check, Healthy, "7781 (http.listen) is the agent's")
        .await;
    let stranger = Bench::new().listens(7701, own + 33);
    stranger
        .finds(check, Failing, "taken by a program of uid")
        .await;
    let off = Bench::new().listens(7781, own + 33).configured(|it| {
        it.http.healthz = Access::Off;
        it.http.metrics = Access::Off;
    });
    let findings = off.findings().await;
    assert!(findings.iter().all(|it| !it.found.contains("7781")));
}

#[tokio::test]
async fn bridges() {
    let check = "mtu";
    Bench::new().finds(check, Healthy, "br0 1500").await;
    let jumbo = Bench::new().link("br0", 9000, &[]).link("vnet0", 9000, &[]);
    let narrow = "br0 takes 9000 bytes, and its port eth0 only 1500";
    jumbo.finds(check, Degraded, narrow).await;
}

#[tokio::test]
async fn what_was_upgraded_and_runs_on() {
    let check = "upgrades";
    Bench::new()
        .finds(check, Healthy, "is what is installed")
        .await;
    let bench = Bench::new()
        .runs(8, "/usr/bin/qemu-system-x86_64 (deleted)")
        .runs(9, "/usr/sbin/libvirtd (deleted)")
        .runs(10, "/usr/bin/vim (deleted)");
    let findings = bench.findings().await;
    assert!(!findings.iter().any(|it| it.found.contains("vim")));
    let degraded = { findings.iter() }.filter(|it| it.check == check && it.condition == Degraded);
    assert_eq!(degraded.count(), 2, "{findings:#?}");
    let bench = Bench::new().without("proc/1/exe");
    bench.finds(check, Unknown, "for root to see").await;
}

#[tokio::test]
async fn who_reads_smart_and_ipmi() {
    let check = "helper";
    Bench::new()
        .finds(check, Healthy, "neither smartctl nor")
        .await;
    let bench = Bench::new()
        .file("usr/sbin/smartctl", "")
        .file("dev/ipmi0", "");
    bench
        .finds(check, Degraded, "SMART and IPMI are unreadable")
        .await;
    let bench = Bench::new()
        .file("usr/sbin/smartctl", "")
        .folder("run/kapok", 0o755);
    let socket = bench.root.path().join("run/kapok/helper.sock");
    let _listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
    bench.finds(check, Healthy, "kapok-helper listens").await;
}

#[test]
fn a_configuration_that_is_wrong_is_a_finding() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agent.toml");
    let check = |condition, words: &str| {
        let (config, finding) = configuration(&file);
        assert_eq!(finding.condition, condition, "{finding:?}");
        assert!(finding.found.contains(words), "{finding:?}");
        config
    };
    assert_eq!(check(Degraded, "there is no"), Config::default());
    fs::write(&file, "reserved_memory_mib = 7").unwrap();
    assert_eq!(check(Healthy, "is fine").reserved_memory_mib, 7);
    fs::write(&file, "reserved_memory = 7").unwrap();
    assert_eq!(check(Failing, "agent.toml:1"), Config::default());
}

/// The words that programs read stay; and an unread server isn't fit.
#[test]
fn reports() {
    let findings = vec![
        Finding::healthy("clock", "it is kept right"),
        Finding::degraded("mtu", "br0 is narrow", "widen it"),
    ];
    let report = Report::of(findings.clone());
    assert!(report.is_fit());
    let text = "healthy   clock  it is kept right\n\
                degraded  mtu    br0 is narrow\n          \x20      → widen it\n\n\
                1 degraded, 1 healthy\n";
    assert_eq!(report.text(), text);
    let said = r#"{"condition":"degraded","findings":[{"check":"clock","condition":"healthy","found":"it is kept right"},{"check":"mtu","condition":"degraded","found":"br0 is narrow","advice":"widen it"}]}"#;
    assert_eq!(serde_json::to_string(&report).unwrap(), said);
    for bad in [
        Finding::unknown("kvm", "late", "look"),
        Finding::failing("kvm", "no", "look"),
    ] {
        let findings = [findings.clone(), vec![bad]].concat();
        assert!(!Report::of(findings).is_fit());
    }
    assert!(!Report::of(Vec::new()).is_fit());
}
