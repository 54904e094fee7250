//! The record as it is kept in a domain's metadata, and whose a domain is.
//!
//! ```json
//! {"version": 1, "fabric": "kapok", "record": {…},
//!  "started": {"vcpus": 2, "memory": 1024, "assignment": {…}}}
//! ```
//!
//! `started` is the hardware of the guest that runs while the record already asks for other
//! hardware; it is absent otherwise.

use kapok_libvirt::xml::metadata::Metadata;
use kapok_types::{Assignment, Intent, MemoryMib, Name, NodeId, Vcpus};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::driver::{Error, Record};

/// The hardware that a guest was started with: it keeps it until it ends, but for vCPUs that it is
/// given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hardware {
    pub(super) vcpus: Vcpus,
    pub(super) memory: MemoryMib,
    /// What is its own on the node, if it is bound to cells: else that never changes. Agents before
    /// this one don't say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) assignment: Option<Box<Assignment>>,
}

impl Hardware {
    /// What an intent asks for.
    pub(super) fn of(intent: &Intent) -> Self {
        let own = &intent.assignment;
        Self {
            vcpus: intent.spec.vcpus,
            memory: intent.spec.memory,
            assignment: (!own.cells.is_empty()).then(|| Box::new(own.clone())),
        }
    }
}

/// A record that was read, with what the guest was started with if that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ours {
    pub(super) record: Record,
    pub(super) started: Option<Hardware>,
}

impl Ours {
    /// What the guest that runs must have, where one with this many vCPUs does: what it was started
    /// with, and vCPUs that it was given since because the record asks for them.
    pub(super) fn hardware(&self, vcpus: Vcpus) -> Hardware {
        let wanted = Hardware::of(&self.record.intent);
        let started = self.started.clone().unwrap_or_else(|| wanted.clone());
        Hardware {
            vcpus: if vcpus == wanted.vcpus {
                vcpus
            } else {
                started.vcpus
            },
            ..started
        }
    }

    /// What is the guest's own on the node, if it is known.
    pub(super) fn assignment(&self, is_on: bool) -> Option<Assignment> {
        let next = &self.record.intent.assignment;
        match self.started.as_ref().filter(|_| is_on) {
            Some(started) if !next.cells.is_empty() => started.assignment.as_deref().cloned(),
            _ => Some(next.clone()),
        }
    }
}

#[derive(Serialize)]
struct Kept<'a> {
    version: u32,
    fabric: &'a Name,
    record: &'a Record,
    #[serde(skip_serializing_if = "Option::is_none")]
    started: Option<Hardware>,
}

/// Read first: a newer version may have changed all the rest.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

#[derive(Deserialize)]
struct Found {
    fabric: Name,
    record: Record,
    #[serde(default)]
    started: Option<Hardware>,
}

/// Writes a record for a domain's metadata; `started` is what runs, if anything does.
///
/// # Errors
///
/// If it doesn't fit (64 KiB).
pub(super) fn write(
    fabric: &Name,
    record: &Record,
    started: Option<Hardware>,
) -> Result<Metadata, Error> {
    let failed = |reason: String| Error::Failed {
        call: "writing the record",
        reason,
    };
    let text = serde_json::to_string(&Kept {
        version: Record::VERSION,
        fabric,
        record,
        started: started.filter(|started| *started != Hardware::of(&record.intent)),
    })
    .map_err(|error| failed(error.to_string()))?;
    Metadata::new(text).map_err(|error| failed(error.to_string()))
}

/// The record of a domain that is ours, or why it is foreign.
///
/// # Errors
///
/// The reason, for people.
pub(super) fn read(
    metadata: Option<&Metadata>,
    domain: Uuid,
    fabric: &Name,
    node: NodeId,
) -> Result<Ours, String> {
    let Some(metadata) = metadata else {
        return Err("it has no record of Kapok's".into());
    };
    let Version { version } = serde_json::from_str(metadata.as_str())
        .map_err(|error| format!("its record is damaged: {error}"))?;
    if version > Record::VERSION {
        return Err(format!(
            "its record has version {version}, this agent knows {}",
            Record::VERSION
        ));
    }
    let found: Found = serde_json::from_str(metadata.as_str())
        .map_err(|error| format!("its record is damaged: {error}"))?;
    let intent = &found.record.intent;
    if found.fabric != *fabric {
        return Err(format!("its record is of the fabric {}", found.fabric));
    }
    if intent.node != node {
        return Err(format!("its record is of the node {}", intent.node));
    }
    if intent.incarnation.0 != domain {
        return Err(format!(
            "its record is of the incarnation {}: the domain is a copy",
            intent.incarnation
        ));
    }
    Ok(Ours {
        record: found.record,
        started: found.started,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use kapok_types::{
        Bytes, Digest, Epoch, Generation, Intent, MemoryMib, Vcpus,
        equipment::{CellShare, MAX_FEATURES, MAX_LABELS, PageSize},
        instance::{Arch, Counters, DiskFormat, Power, RootDisk, RunPolicy, Spec},
    };

    use super::*;

    pub(in crate::driver::libvirt) const ID: &str = "0190d6b4-6f5e-7c3a-8b1e-2f6d1c9a0b11";

    pub(in crate::driver::libvirt) fn record() -> Record {
        Record {
            version: Record::VERSION,
            intent: Intent {
                incarnation: ID.parse().unwrap(),
                instance: ID.parse().unwrap(),
                node: ID.parse().unwrap(),
                name: "web-1".parse().unwrap(),
                spec: Spec {
                    arch: Arch::X86_64,
                    vcpus: Vcpus(2),
                    memory: MemoryMib(256),
                    root: RootDisk {
                        image: Digest::of(b"image"),
                        image_format: DiskFormat::Qcow2,
                        image_bytes: Bytes(5),
                        size: Bytes(1 << 30),
                    },
                    run_policy: RunPolicy::Always,
                    needs: kapok_types::Needs::default(),
                },
                power: Power::Running,
                counters: Counters {
                    starts: 1,
                    restarts: 0,
                    resets: 0,
                },
                generation: Generation(3),
                epoch: Epoch(2),
                operation: None,
                assignment: Assignment::default(),
            },
            done: Counters::default(),
            started_boot: None,
            ended_by_guest: None,
            starting: false,
            moved: None,
            machine: "pc-q35-7.2".into(),
            virt_type: "qemu".into(),
        }
    }

    fn fabric(name: &str) -> Name {
        name.parse().unwrap()
    }

    #[test]
    fn what_is_written_is_read_back() {
        let record = record();
        let kept = write(&fabric("kapok"), &record, None).unwrap();
        let domain = record.intent.incarnation.0;
        let found = read(Some(&kept), domain, &fabric("kapok"), record.intent.node);
        let expected = Ours {
            record: record.clone(),
            started: None,
        };
        assert_eq!(found, Ok(expected));

        // What runs is told only while it is other hardware.
        let runs = Hardware {
            vcpus: Vcpus(1),
            ..Hardware::of(&record.intent)
        };
        let read_back = |started| {
            let kept = write(&fabric("kapok"), &record, Some(started)).unwrap();
            read(Some(&kept), domain, &fabric("kapok"), record.intent.node).unwrap()
        };
        assert_eq!(read_back(runs.clone()).hardware(Vcpus(1)), runs);
        assert_eq!(read_back(runs.clone()).hardware(Vcpus(9)), runs);
        // The guest was given since what the record asks for.
        let grown = Hardware::of(&record.intent);
        assert_eq!(read_back(runs).hardware(grown.vcpus), grown);
        assert_eq!(read_back(Hardware::of(&record.intent)).started, None);
    }

    /// What is a guest's own is what it was started with, where the record says it.
    #[test]
    fn a_bound_guest_keeps_what_it_was_started_with() {
        let mut record = record();
        let share = |threads: &[u16]| CellShare {
            cell: 0,
            vcpus: Vcpus(2),
            threads: threads.to_vec(),
            memory: MemoryMib(256),
        };
        record.intent.assignment.cells = vec![share(&[4, 5])];
        let was = record.intent.clone();
        record.intent.assignment.cells = vec![share(&[2, 3])];
        let read_back = |started: Option<Hardware>| {
            let (fabric, intent) = (fabric("kapok"), &record.intent);
            let kept = write(&fabric, &record, started).unwrap();
            read(Some(&kept), intent.incarnation.0, &fabric, intent.node).unwrap()
        };
        let runs = read_back(Some(Hardware::of(&was)));
        assert_eq!(runs.assignment(true), Some(was.assignment.clone()));
        assert_eq!(runs.hardware(Vcpus(2)), Hardware::of(&was));
        let next = Some(record.intent.assignment.clone());
        assert_eq!(runs.assignment(false), next);
        assert_eq!(read_back(None).assignment(true), next);
        // An agent before this one said nothing of it.
        let old = Hardware {
            assignment: None,
            ..Hardware::of(&was)
        };
        assert_eq!(read_back(Some(old)).assignment(true), None);
    }

    /// FAULTS 44's ground: a copied, foreign, damaged or newer record never makes a domain ours.
    #[test]
    fn others_are_foreign() {
        let record = record();
        let kept = write(&fabric("kapok"), &record, None).unwrap();
        let (domain, node) = (record.intent.incarnation.0, record.intent.node);
        let refused = |kept: Option<&Metadata>, domain, name, node| {
            read(kept, domain, &fabric(name), node).unwrap_err()
        };
        let other = Uuid::from_u128(7);
        assert!(refused(None, domain, "kapok", node).contains("no record"));
        assert!(refused(Some(&kept), other, "kapok", node).contains("copy"));
        assert!(refused(Some(&kept), domain, "other", node).contains("fabric kapok"));
        assert!(refused(Some(&kept), domain, "kapok", NodeId(other)).contains("node"));
        let text = kept.as_str().replacen("\"version\":1", "\"version\":2", 1);
        let newer = Metadata::new(text).unwrap();
        assert!(refused(Some(&newer), domain, "kapok", node).contains("version 2"));
        let damaged = Metadata::new("{\"version\":1,").unwrap();
        assert!(refused(Some(&damaged), domain, "kapok", node).contains("damaged"));
    }

    /// FAULTS 2's ground: the record's text is safe in XML whatever is in it.
    #[test]
    fn a_record_fits_its_place() {
        let mut record = record();
        record.machine = "]]>\0\u{1b}\r\n".into();
        let kept = write(&fabric("kapok"), &record, None).unwrap();
        let domain = record.intent.incarnation.0;
        let node = record.intent.node;
        let found = read(Some(&kept), domain, &fabric("kapok"), node).unwrap();
        assert_eq!(found.record.machine, record.machine);
        record.machine = "x".repeat(70_000);
        assert!(matches!(
            write(&fabric("kapok"), &record, None),
            Err(Error::Failed { .. })
        ));
    }
    /// The most that can be assigned and needed leaves room in its place (64 KiB).
    #[test]
    fn the_largest_assignment_fits() {
        let mut record = record();
        let share = |cell: u16| CellShare {
            cell,
            vcpus: Vcpus(64),
            threads: (0..64).map(|thread| 64_000 - 64 * cell + thread).collect(),
            memory: MemoryMib(2 << 20),
        };
        let intent = &mut record.intent;
        intent.assignment.cells = (0..8).map(share).collect();
        intent.assignment.huge_pages = Some(PageSize::Gib1);
        let device = |slot: u8| format!("ffff:ff:{slot:02x}.7").parse().unwrap();
        intent.assignment.devices = (0..16).map(device).collect();
        let needs = &mut intent.spec.needs;
        let feature = |number: usize| format!("{number:0>32}").parse().unwrap();
        needs.cpu_features = (0..MAX_FEATURES).map(feature).collect();
        let label = |number: usize| (format!("l-{number}").parse().unwrap(), "\"".repeat(63));
        needs.labels = (0..MAX_LABELS).map(label).collect();
        let class = |number: usize| (format!("{}-{number}", "c".repeat(60)).parse().unwrap(), 1);
        needs.devices = (0..16).map(class).collect();
        let kept = write(&fabric("kapok"), &record, None).unwrap();
        assert!(kept.as_str().len() < 16 * 1024, "{}", kept.as_str().len());
        let domain = record.intent.incarnation.0;
        let found = read(Some(&kept), domain, &fabric("kapok"), record.intent.node);
        assert_eq!(found.unwrap().record, record);
    }
}
