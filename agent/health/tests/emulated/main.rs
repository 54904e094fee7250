//! Hardware that is emulated by the field's own emulators, read by the real sources through the
//! real tools, and judged: a management controller over IPMI (`ipmi_sim`) and one over Redfish
//! (`sushy-tools`). An NVMe disk that fails is with the agent's tests, where the agent runs.
//!
//! What an emulator needs and isn't there, its test says and skips; `cargo xtask setup --dev`
//! installs all of it. Traffic is on loopback alone.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "tests, which tell why they skip"
)]

mod ipmi;
mod redfish;

use std::{
    fs::{self, File},
    net::{TcpListener, UdpSocket},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use kapok_health::{Assessment, Failure, Host, Judge, Reading, Rules, Source, Sweep};
use kapok_types::Timestamp;
use tokio::time::timeout;

/// How long an emulator may take to say what it was told to say.
const PATIENCE: Duration = Duration::from_secs(30);

/// A program of a test; it ends with it.
struct Running(Child);

impl Running {
    /// Starts it with its words in `log`.
    fn start(command: &mut Command, log: &Path) -> Self {
        let log = File::create(log).unwrap();
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        Self(command.spawn().unwrap())
    }

    fn stop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A source's rounds and what is made of them. Time is the test's own.
struct Watch {
    host: Host,
    judge: Judge,
    seconds: u64,
}

impl Watch {
    fn new(host: Host) -> Self {
        let judge = Judge::new(Rules::default());
        Self {
            host,
            judge,
            seconds: 0,
        }
    }

    /// Asks the source once, after so many seconds.
    async fn round(&mut self, source: &dyn Source, after_seconds: u64) -> Assessment {
        let outcome = source.read(&self.host).await;
        self.take(source.name(), outcome, after_seconds)
    }

    /// What was said, after so many seconds.
    fn take(
        &mut self,
        source: &str,
        outcome: Result<Vec<Reading>, Failure>,
        after_seconds: u64,
    ) -> Assessment {
        self.seconds += after_seconds;
        let monotonic = Duration::from_secs(self.seconds);
        let at = Timestamp(1_790_000_000_000 + self.seconds * 1000);
        let source = Arc::from(source);
        self.judge.take(&Sweep {
            source,
            at,
            monotonic,
            outcome,
        });
        self.judge.assess(at, monotonic)
    }
}

/// The verdicts, each as "CODE COMPONENT".
fn verdicts(assessment: &Assessment) -> Vec<String> {
    let show = |it: &kapok_health::Verdict| format!("{} {}", it.code, it.component);
    assessment.verdicts.iter().map(show).collect()
}

#[track_caller]
fn has(assessment: &Assessment, wanted: &str) {
    let found = verdicts(assessment);
    assert!(
        found.iter().any(|it| it == wanted),
        "{wanted} is not in {found:#?}\n{assessment}"
    );
}

#[track_caller]
fn lacks(assessment: &Assessment, unwanted: &str) {
    let found = verdicts(assessment);
    assert!(
        !found.iter().any(|it| it == unwanted),
        "{unwanted} is in {found:#?}"
    );
}

/// Reads until the readings are as wanted: emulators take a moment.
async fn until(
    host: &Host,
    source: &dyn Source,
    wanted: impl Fn(&[Reading]) -> bool,
) -> Vec<Reading> {
    let mut last = Err(Failure::Absent("never asked".to_owned()));
    let said = timeout(PATIENCE, async {
        loop {
            last = source.read(host).await;
            if let Ok(readings) = &last
                && wanted(readings)
            {
                return readings.clone();
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let said = said.await.ok();
    said.unwrap_or_else(|| {
        let show = |it: &Reading| format!("{} {} {:?}", it.component, it.quantity.name, it.read);
        let last = last.map(|it| it.iter().map(show).collect::<Vec<_>>());
        panic!("{} never said what was wanted: {last:#?}", source.name())
    })
}

fn value(readings: &[Reading], component: &str, quantity: &str) -> Option<f64> {
    let is = |it: &&Reading| it.component.to_string() == component && it.quantity.name == quantity;
    readings.iter().find(is)?.value()
}

fn free_udp_port() -> u16 {
    let socket = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
    socket.local_addr().unwrap().port()
}

fn free_tcp_port() -> u16 {
    let socket = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    socket.local_addr().unwrap().port()
}

fn write(path: &Path, text: impl AsRef<str>) {
    fs::write(path, text.as_ref()).unwrap();
}
