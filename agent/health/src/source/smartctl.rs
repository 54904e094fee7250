//! Disks by their own word: SMART and NVMe health through smartctl.
//!
//! A disk that sleeps is left asleep: it is *asleep*, and nothing else is said of it in that round.
//! Disks without SMART (virtio, most USB sticks) are left out; a server that has no others has
//! nothing of the kind. Several disks are asked at once, each with a deadline of its own: one that
//! hangs leaves the others readable.

mod report;

use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use tokio::task::JoinSet;

use crate::{Component, Failure, Host, Kind, Reading, Source, quantity};

/// How long one disk may take.
const DISK_DEADLINE: Duration = Duration::from_secs(20);
/// Disks that are asked at once.
const AT_ONCE: usize = 4;
/// Most disks that are looked at.
const MAX_DISKS: usize = 512;

/// The source. It needs the right to send commands to disks.
#[derive(Debug, Clone, Copy, Default)]
pub struct Smartctl;

#[async_trait]
impl Source for Smartctl {
    fn name(&self) -> &'static str {
        "smartctl"
    }

    fn cadence(&self) -> Duration {
        Duration::from_mins(5)
    }

    fn deadline(&self) -> Duration {
        Duration::from_mins(3)
    }

    async fn read(&self, host: &Host) -> Result<Vec<Reading>, Failure> {
        let mut waiting = disks(host).await?.into_iter();
        let (mut asking, mut readings) = (JoinSet::new(), Vec::new());
        loop {
            while asking.len() < AT_ONCE
                && let Some(disk) = waiting.next()
            {
                let host = host.clone();
                asking.spawn(async move { disk.ask(&host).await });
            }
            match asking.join_next().await {
                Some(Ok(of_disk)) => readings.extend(of_disk),
                Some(Err(error)) => return Err(Failure::Unreadable(error.to_string())),
                None => break,
            }
        }
        if readings.is_empty() {
            return Err(Failure::Absent("no disk has SMART".to_owned()));
        }
        readings.sort_by(|a, b| a.component.cmp(&b.component));
        Ok(readings)
    }
}

/// A disk as smartctl is asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Disk {
    device: String,
    /// How to reach it behind a RAID controller; none where smartctl finds out by itself.
    way: Option<String>,
    component: Component,
}

/// The disks of the server. Only listed, not opened: that would wake some.
async fn disks(host: &Host) -> Result<Vec<Disk>, Failure> {
    let scan = ["--json=c", "--scan"];
    let output = host.run("smartctl", &scan, DISK_DEADLINE).await?;
    let blocks = host.list("/sys/block")?;
    let disks = parse_scan(&output.text, &blocks).map_err(Failure::Unreadable)?;
    if disks.is_empty() {
        return Err(Failure::Absent("smartctl finds no disk".to_owned()));
    }
    Ok(disks)
}

fn parse_scan(text: &str, blocks: &[String]) -> Result<Vec<Disk>, String> {
    let answer: Value = serde_json::from_str(text)
        .map_err(|error| format!("smartctl's list of disks is not JSON: {error}"))?;
    let devices = answer["devices"].as_array().map_or(&[][..], Vec::as_slice);
    let disk = |device: &Value| {
        let name = device["name"].as_str()?;
        let kind = device["type"].as_str().unwrap_or_default();
        // The list only guesses types: "scsi" may be SATA. Those with a number are no guess.
        let way = kind.contains(',').then(|| kind.to_owned());
        // An argument, never an option, whatever was printed.
        if !name.starts_with("/dev/") || kind.starts_with('-') {
            return None;
        }
        let component = component(name, way.as_deref(), blocks);
        let device = name.to_owned();
        Some(Disk {
            device,
            way,
            component,
        })
    };
    Ok(devices.iter().filter_map(disk).take(MAX_DISKS).collect())
}

/// What the kernel calls the disk. An NVMe controller is called after its first namespace, as
/// everything else on the server calls the disk.
fn component(device: &str, way: Option<&str>, blocks: &[String]) -> Component {
    let name = device.trim_start_matches("/dev/");
    let namespace = format!("{name}n");
    let block = blocks.iter().find(|block| {
        let rest = block.strip_prefix(&namespace);
        rest.is_some_and(|rest| rest.parse::<u32>().is_ok())
    });
    match (way, block) {
        (Some(way), _) => Component::new(Kind::Disk, format!("{name}/{way}")),
        (None, Some(block)) if name.starts_with("nvme") => Component::new(Kind::Disk, block),
        (None, _) => Component::new(Kind::Disk, name),
    }
}

impl Disk {
    async fn ask(&self, host: &Host) -> Vec<Reading> {
        let mut arguments = vec!["--json=c", "-n", "standby", "-a", "-l", "scttempsts"];
        if let Some(way) = &self.way {
            arguments.extend(["-d", way]);
        }
        arguments.push(&self.device);
        match host.run("smartctl", &arguments, DISK_DEADLINE).await {
            Ok(output) => report::readings(&self.component, &output.text, output.status),
            Err(failure) => vec![Reading::unreadable(
                &self.component,
                quantity::SMART_FAILING,
                failure,
            )],
        }
    }
}

#[cfg(test)]
mod tests;
