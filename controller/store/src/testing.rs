//! A real etcd cluster on loopback, for tests: Debian's `etcd` in processes of its own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failure of a test is a panic"
)]

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// How long a cluster may take until it can decide.
const MOMENT: Duration = Duration::from_mins(1);

/// How often other ports are tried when somebody took one in between.
const TRIES: usize = 5;

/// What members are started with.
#[derive(Debug, Clone, Default)]
pub struct ClusterOptions {
    /// The size of the database at which no more is taken; etcd's own default without it.
    pub quota_bytes: Option<u64>,
    /// Certificates for the client's side; in the clear without them.
    pub tls: Option<ServerTls>,
}

/// Files of certificates, in PEM.
#[derive(Debug, Clone)]
pub struct ServerTls {
    /// Whose certificates clients must show.
    pub ca: PathBuf,
    /// What the members show.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// A cluster. Dropping it kills its members and removes what they wrote; so does the end of this
/// process, however it comes.
#[derive(Debug)]
pub struct EtcdCluster {
    members: Vec<Member>,
    options: ClusterOptions,
    folder: TempDir,
}

#[derive(Debug)]
struct Member {
    name: String,
    client: SocketAddr,
    peer: SocketAddr,
    metrics: SocketAddr,
    running: Option<Running>,
}

/// A member's process.
#[derive(Debug)]
struct Running {
    child: Child,
    /// Reads from a pipe that only this process holds, and kills the member when it closes.
    guard: Child,
}

impl EtcdCluster {
    /// Starts a cluster of so many members, and waits until it can decide.
    ///
    /// # Panics
    /// When it can't, with the last words of the members.
    pub fn start(members: usize) -> Self {
        Self::start_with(members, &ClusterOptions::default())
    }

    /// [`EtcdCluster::start`] with options.
    ///
    /// # Panics
    /// As there.
    pub fn start_with(members: usize, options: &ClusterOptions) -> Self {
        let mut said = String::new();
        for _ in 0..TRIES {
            match Self::try_start(members, options.clone()) {
                Ok(cluster) => return cluster,
                Err(words) if words.contains("address already in use") => said = words,
                Err(words) => panic!("{words}"),
            }
        }
        panic!("{said}");
    }

    fn try_start(members: usize, options: ClusterOptions) -> Result<Self, String> {
        let folder = tempfile::Builder::new()
            .prefix("kapok-etcd-")
            .tempdir()
            .unwrap();
        let mut ports = free_ports(members * 3).into_iter();
        let mut port = || ports.next().unwrap();
        let member = |index: usize| Member {
            name: format!("m{}", index + 1),
            client: port(),
            peer: port(),
            metrics: port(),
            running: None,
        };
        let mut cluster = Self {
            members: (0..members).map(member).collect(),
            options,
            folder,
        };
        for index in 0..members {
            cluster.spawn(index);
        }
        for index in 0..members {
            cluster.wait_for(index)?;
        }
        Ok(cluster)
    }

    /// Each member's client address, in order.
    pub fn endpoints(&self) -> Vec<String> {
        let scheme = self.scheme();
        let members = self.members.iter();
        members
            .map(|member| format!("{scheme}://{}", member.client))
            .collect()
    }

    /// Kills a member, as a power cut would. Its data stays.
    pub fn stop_member(&mut self, index: usize) {
        self.members[index].running = None;
    }

    /// Starts a member that was stopped. It serves once most of the members run.
    ///
    /// # Panics
    /// When it can't be started.
    pub fn start_member(&mut self, index: usize) {
        if self.members[index].running.is_none() {
            self.spawn(index);
        }
    }

    /// Freezes a member: its connections stay, and nobody answers on them.
    ///
    /// # Panics
    /// When it doesn't run.
    pub fn pause(&self, index: usize) {
        self.signal(index, "-STOP");
    }

    /// Ends [`EtcdCluster::pause`].
    ///
    /// # Panics
    /// When it doesn't run.
    pub fn resume(&self, index: usize) {
        self.signal(index, "-CONT");
    }

    /// The quota of members that are started from now on.
    pub fn set_quota(&mut self, bytes: u64) {
        self.options.quota_bytes = Some(bytes);
    }

    /// Waits until the members that run can decide.
    ///
    /// # Panics
    /// When they can't.
    pub fn wait(&mut self) {
        for index in 0..self.members.len() {
            if self.members[index].running.is_some() {
                self.wait_for(index)
                    .unwrap_or_else(|words| panic!("{words}"));
            }
        }
    }

    fn scheme(&self) -> &'static str {
        if self.options.tls.is_some() {
            "https"
        } else {
            "http"
        }
    }

    fn home(&self, index: usize) -> PathBuf {
        self.folder.path().join(&self.members[index].name)
    }

    fn signal(&self, index: usize, signal: &str) {
        let running = self.members[index].running.as_ref().expect("it runs");
        let pid = running.child.id().to_string();
        let sent = Command::new("kill").args([signal, &pid]).status().unwrap();
        assert!(sent.success(), "kill {signal}: {sent}");
    }

    fn spawn(&mut self, index: usize) {
        let home = self.home(index);
        fs::create_dir_all(&home).unwrap();
        let log = home.join("log");
        let log = File::options().create(true).append(true).open(log).unwrap();
        let peers = self.members.iter();
        let peers: Vec<String> = peers
            .map(|member| format!("{}=http://{}", member.name, member.peer))
            .collect();
        let member = &self.members[index];
        let client = format!("{}://{}", self.scheme(), member.client);
        let mut command = Command::new("etcd");
        command
            .args(["--name", &member.name, "--data-dir"])
            .arg(home.join("data"))
            .args([
                "--listen-client-urls",
                &client,
                "--advertise-client-urls",
                &client,
            ])
            .args(["--listen-peer-urls", &format!("http://{}", member.peer)])
            .args([
                "--initial-advertise-peer-urls",
                &format!("http://{}", member.peer),
            ])
            .args([
                "--initial-cluster",
                &peers.join(","),
                "--initial-cluster-state",
                "new",
            ])
            .args(["--initial-cluster-token", "kapok-tests"])
            .args([
                "--listen-metrics-urls",
                &format!("http://{}", member.metrics),
            ])
            .args([
                "--logger",
                "zap",
                "--log-level",
                "warn",
                "--log-outputs",
                "stderr",
            ]);
        if let Some(quota) = self.options.quota_bytes {
            command.args(["--quota-backend-bytes", &quota.to_string()]);
        }
        if let Some(tls) = &self.options.tls {
            command
                .arg("--client-cert-auth")
                .arg("--trusted-ca-file")
                .arg(&tls.ca)
                .arg("--cert-file")
                .arg(&tls.certificate)
                .arg("--key-file")
                .arg(&tls.key);
        }
        let spawned = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .process_group(0)
            .spawn();
        let child = spawned.unwrap_or_else(|error| {
            panic!("can't start etcd ({error}); it is Debian's etcd-server: cargo xtask setup")
        });
        let guard = guard(&child, &home);
        self.members[index].running = Some(Running { child, guard });
    }

    fn wait_for(&mut self, index: usize) -> Result<(), String> {
        let began = Instant::now();
        loop {
            let member = &mut self.members[index];
            let running = member.running.as_mut().expect("it runs");
            let ended = running.child.try_wait().unwrap();
            if ended.is_none() && is_healthy(member.metrics) {
                return Ok(());
            }
            if ended.is_some() || began.elapsed() > MOMENT {
                let log = fs::read_to_string(self.home(index).join("log")).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let last = lines[lines.len().saturating_sub(10)..].join("\n");
                return Err(format!("etcd can't decide ({ended:?}):\n{last}"));
            }
            pause();
        }
    }
}

/// Between two looks at a process.
#[expect(
    clippy::disallowed_methods,
    reason = "the one wait of these, with a bound around it"
)]
fn pause() {
    std::thread::sleep(Duration::from_millis(20));
}

/// Whoever is killed runs no clean-up of its own.
fn guard(child: &Child, home: &Path) -> Child {
    let script = "read -r _; kill -KILL \"$0\"; rm -rf \"$1\"; rmdir \"${1%/*}\" 2>/dev/null";
    Command::new("sh")
        .args(["-c", script])
        .arg(child.id().to_string())
        .arg(home)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("can't start sh")
}

impl Drop for Running {
    fn drop(&mut self) {
        // The guard first: by its end the member's id could be another's.
        let _ended_already = self.guard.kill().and_then(|()| self.guard.wait());
        let _ended_already = self.child.kill().and_then(|()| self.child.wait());
    }
}

/// Ports of loopback that are free now, all at once so that they differ.
fn free_ports(count: usize) -> Vec<SocketAddr> {
    let bind = |_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let listeners: Vec<TcpListener> = (0..count).map(bind).collect();
    let listeners = listeners.iter();
    listeners
        .map(|listener| listener.local_addr().unwrap())
        .collect()
}

/// Whether a member knows a leader and takes proposals.
fn is_healthy(metrics: SocketAddr) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(metrics)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET /health HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.contains("\"health\":\"true\""))
}
