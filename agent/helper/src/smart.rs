//! Every disk's own word, through smartctl.
//!
//! Disks are listed by smartctl and not opened for it: that would wake some. One that sleeps is left
//! asleep. Several are asked at once, each with a deadline of its own: one that hangs leaves the
//! others readable.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::{sync::mpsc::Sender, task::JoinSet};

use crate::{Answer, Failure, Subject, Tools};

/// The tool.
pub const TOOL: &str = "smartctl";

/// How long one disk may take.
const DISK_DEADLINE: Duration = Duration::from_secs(20);
/// Disks that are asked at once.
const AT_ONCE: usize = 4;
/// Most disks that are looked at.
pub const MAX_DISKS: usize = 512;

/// A disk as smartctl is asked for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Its device: "/dev/sda".
    pub device: String,
    /// How to reach it behind a RAID controller; none where smartctl finds out by itself.
    pub way: Option<String>,
}

/// Asks every disk.
///
/// # Errors
///
/// There is no smartctl, it finds no disk, or its list can't be read.
pub async fn ask(tools: &Tools, answers: &Sender<Answer>) -> Result<(), Failure> {
    let mut waiting = disks(tools).await?.into_iter();
    let mut asking = JoinSet::new();
    loop {
        while asking.len() < AT_ONCE
            && let Some(disk) = waiting.next()
        {
            let tools = tools.clone();
            asking.spawn(async move { disk.ask(&tools).await });
        }
        match asking.join_next().await {
            // Whoever asked may have gone; then the caller ends this.
            Some(Ok(answer)) => drop(answers.send(answer).await),
            Some(Err(error)) => return Err(Failure::Unreadable(error.to_string())),
            None => return Ok(()),
        }
    }
}

async fn disks(tools: &Tools) -> Result<Vec<Disk>, Failure> {
    let scan = ["--json=c", "--scan"];
    let output = tools.run(TOOL, &scan, DISK_DEADLINE).await?;
    let disks = parse(&output.text).map_err(Failure::Unreadable)?;
    if disks.is_empty() {
        return Err(Failure::Absent("smartctl finds no disk".to_owned()));
    }
    Ok(disks)
}

/// The list of disks, as smartctl prints it.
///
/// # Errors
///
/// It isn't JSON.
pub fn parse(text: &str) -> Result<Vec<Disk>, String> {
    let list: List = serde_json::from_str(text)
        .map_err(|error| format!("smartctl's list of disks is not JSON: {error}"))?;
    let disk = |Device { name, kind }| {
        // Arguments, never options, whatever was printed.
        if !is_device(&name) || kind.starts_with('-') || kind.contains(char::is_control) {
            return None;
        }
        // The list only guesses types: "scsi" may be SATA. Those with a number are no guess.
        let way = kind.contains(',').then_some(kind);
        Some(Disk { device: name, way })
    };
    let disks = list.devices.into_iter().filter_map(disk);
    Ok(disks.take(MAX_DISKS).collect())
}

#[derive(Deserialize)]
struct List {
    #[serde(default)]
    devices: Vec<Device>,
}

#[derive(Deserialize)]
struct Device {
    #[serde(default)]
    name: String,
    #[serde(default, rename = "type")]
    kind: String,
}

/// A path below /dev that leads nowhere else.
fn is_device(path: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/_-.:,".contains(c);
    path.starts_with("/dev/") && path.chars().all(plain) && !path.contains("..")
}

impl Disk {
    async fn ask(self, tools: &Tools) -> Answer {
        let mut arguments = vec!["--json=c", "-n", "standby", "-a", "-l", "scttempsts"];
        if let Some(way) = &self.way {
            arguments.extend(["-d", way]);
        }
        arguments.push(&self.device);
        let outcome = tools.run(TOOL, &arguments, DISK_DEADLINE).await;
        Answer {
            outcome: outcome.map_err(|failure| failure.to_string()),
            of: Subject::Disk(self),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn disk(device: &str, way: Option<&str>) -> Disk {
        Disk {
            device: device.into(),
            way: way.map(str::to_owned),
        }
    }

    #[test]
    fn disks_are_those_that_are_listed() {
        let list = r#"{"devices": [
            {"name": "/dev/sda", "info_name": "/dev/sda", "type": "scsi", "protocol": "SCSI"},
            {"name": "/dev/nvme0", "type": "nvme"},
            {"name": "/dev/bus/0", "type": "megaraid,8"}
        ]}"#;
        let expected = [
            disk("/dev/sda", None),
            disk("/dev/nvme0", None),
            disk("/dev/bus/0", Some("megaraid,8")),
        ];
        assert_eq!(parse(list).unwrap(), expected);
        assert_eq!(parse("{}").unwrap(), []);
        assert!(parse("smartctl: not found").is_err());
    }

    /// Whatever is listed, smartctl gets paths below /dev and no option.
    #[test]
    fn what_is_listed_never_becomes_an_option_or_another_path() {
        for (name, kind) in [
            ("--smart=off", "scsi"),
            ("/etc/shadow", "scsi"),
            ("/dev/../etc/shadow", "scsi"),
            ("/dev/sda\n-s", "scsi"),
            ("/dev/sda -s off", "scsi"),
            ("/dev/sda", "--set=x,1"),
            ("/dev/sda", "megaraid,\n8"),
        ] {
            let list = serde_json::json!({"devices": [{"name": name, "type": kind}]});
            assert_eq!(parse(&list.to_string()).unwrap(), [], "{name} {kind}");
        }
    }

    proptest! {
        /// FAULTS 63.
        #[test]
        fn garbage_breaks_nothing(text in ".{0,200}", names in prop::collection::vec(".{0,20}", 0..8)) {
            let _ = parse(&text);
            let devices: Vec<_> = names
                .iter()
                .map(|name| serde_json::json!({"name": format!("/dev/{name}"), "type": name}))
                .collect();
            let list = serde_json::json!({ "devices": devices }).to_string();
            for disk in parse(&list).unwrap() {
                prop_assert!(disk.device.starts_with("/dev/") && !disk.device.contains(".."));
                prop_assert!(!disk.way.unwrap_or_default().starts_with('-'));
            }
        }
    }
}
