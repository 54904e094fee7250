//! Disks by their own word: SMART and NVMe health through smartctl.
//!
//! How disks are found and asked is [`kapok_helper::smart`]'s; this reads what they say. A disk that
//! sleeps is left asleep: it is *asleep*, and nothing else is said of it in that round. Disks without
//! SMART (virtio, most USB sticks) are left out; a server that has no others has nothing of the kind.

mod report;

use std::time::Duration;

use async_trait::async_trait;
use kapok_helper::{Answer, Request, Subject};

use crate::{Component, Failure, Host, Kind, Reading, Source, quantity};

/// The source. Sending commands to disks needs rights, which it has or the helper.
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
        let blocks = host.list("/sys/block")?;
        let mut readings = Vec::new();
        let take = |answer: Answer| readings.extend(of_disk(answer, &blocks));
        host.ask(Request::Smart, take).await?;
        if readings.is_empty() {
            return Err(Failure::Absent("no disk has SMART".to_owned()));
        }
        readings.sort_by(|a, b| a.component.cmp(&b.component));
        Ok(readings)
    }
}

/// What an answer says of its disk.
fn of_disk(answer: Answer, blocks: &[String]) -> Vec<Reading> {
    let Subject::Disk(disk) = answer.of else {
        return Vec::new();
    };
    let component = component(&disk.device, disk.way.as_deref(), blocks);
    match answer.outcome {
        Ok(output) => report::readings(&component, &output.text, output.status),
        Err(reason) => {
            let unreadable = Reading::unreadable(&component, quantity::SMART_FAILING, reason);
            vec![unreadable]
        }
    }
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

#[cfg(test)]
mod tests;
