//! Conversions between the wire and [`kapok_types`].
//!
//! Towards the wire they can't fail. From the wire they give a checked value or a [`Violation`].

use kapok_types::{
    Assignment, Bytes, Epoch, Generation, Intent, MemoryMib, Needs, Timestamp, Vcpus, Violation,
    instance::{Arch, Counters, DiskFormat, Power, RootDisk, RunPolicy, Spec},
    phase::{Ended, Phase, Size, Status},
};

use crate::{agent::v1 as agent, common::v1 as common};

mod equipment;

pub use equipment::labels;

/// Most violations that are collected before giving up.
type Checked<T> = Result<T, Vec<Violation>>;

macro_rules! enums {
    ($($ours:ident = $wire:path, $field:literal { $($variant:ident),* $(,)? })*) => {$(
        impl From<$ours> for $wire {
            fn from(value: $ours) -> Self {
                match value { $($ours::$variant => Self::$variant,)* }
            }
        }

        impl TryFrom<$wire> for $ours {
            type Error = Violation;

            fn try_from(value: $wire) -> Result<Self, Violation> {
                match value {
                    $(<$wire>::$variant => Ok(Self::$variant),)*
                    _ => Err(Violation::new($field, "must be stated, with a value that this version knows")),
                }
            }
        }
    )*};
}

enums! {
    DiskFormat = common::DiskFormat, "format" { Raw, Qcow2 }
    Power = common::Power, "power" { Running, Stopped }
    Phase = common::Phase, "phase" {
        Pending, Pulling, Creating, Starting, Running, Stopping, Stopped, Failing, Waiting, Unknown,
        Deleting, Gone,
    }
    Ended = common::Ended, "ended" { ByIntent, ByGuest, ByCrash, ByOutsider, ByHost }
    RunPolicy = common::RunPolicy, "run_policy" { RestartOnCrash, Always }
}

impl From<Arch> for common::Arch {
    fn from(arch: Arch) -> Self {
        match arch {
            Arch::X86_64 => Self::X8664,
            Arch::Aarch64 => Self::Aarch64,
        }
    }
}

impl TryFrom<common::Arch> for Arch {
    type Error = Violation;

    fn try_from(arch: common::Arch) -> Result<Self, Violation> {
        match arch {
            common::Arch::X8664 => Ok(Self::X86_64),
            common::Arch::Aarch64 => Ok(Self::Aarch64),
            common::Arch::Unspecified => Err(Violation::new("arch", "must be stated")),
        }
    }
}

/// A run policy from the wire; unspecified means the default.
///
/// # Errors
///
/// A value that this version doesn't know.
pub fn run_policy(value: i32) -> Result<RunPolicy, Violation> {
    match common::RunPolicy::try_from(value) {
        Ok(common::RunPolicy::Unspecified) => Ok(RunPolicy::default()),
        Ok(known) => known.try_into(),
        Err(_) => Err(Violation::new(
            "run_policy",
            format!("has the unknown value {value}"),
        )),
    }
}

/// A wire enum's number as one of our enums.
///
/// # Errors
///
/// Unspecified, or a value that this version doesn't know (FAULTS 64).
pub fn known<W, T>(value: i32, field: &str) -> Result<T, Violation>
where
    W: TryFrom<i32>,
    T: TryFrom<W, Error = Violation>,
{
    W::try_from(value)
        .map_err(|_| Violation::new(field, format!("has the unknown value {value}")))?
        .try_into()
        .map_err(|violation: Violation| Violation::new(field, violation.reason))
}

/// An id from the wire, its violation named after the field it stood in.
///
/// # Errors
///
/// Not an id's one spelling.
pub fn id<T: std::str::FromStr<Err = Violation>>(text: &str, field: &str) -> Result<T, Violation> {
    text.parse()
        .map_err(|violation: T::Err| Violation::new(field, violation.reason))
}

/// Most words that an agent may say about one thing, in bytes.
pub const MAX_WORDS: usize = 1024;
/// Most differences that a status names.
pub const MAX_DRIFT: usize = 16;

/// Text from the other side, cut at a character's border (FAULTS 18).
pub fn clipped(text: &str, most_bytes: usize) -> String {
    let end = (0..=most_bytes.min(text.len()))
        .rev()
        .find(|end| text.is_char_boundary(*end));
    text[..end.unwrap_or(0)].to_owned()
}

/// A time for the wire.
pub fn timestamp(time: Timestamp) -> prost_types::Timestamp {
    let seconds = i64::try_from(time.get() / 1000).unwrap_or(i64::MAX);
    let nanos = i32::try_from(time.get() % 1000).unwrap_or(0) * 1_000_000;
    prost_types::Timestamp { seconds, nanos }
}

/// A time from the wire; one before 1970 becomes 1970.
pub fn timestamp_from(time: &prost_types::Timestamp) -> Timestamp {
    let seconds = u64::try_from(time.seconds).unwrap_or(0);
    let millis = u64::try_from(time.nanos / 1_000_000).unwrap_or(0);
    Timestamp(seconds.saturating_mul(1000).saturating_add(millis))
}

impl From<Counters> for common::Counters {
    fn from(counters: Counters) -> Self {
        let Counters {
            starts,
            restarts,
            resets,
        } = counters;
        Self {
            starts,
            restarts,
            resets,
        }
    }
}

impl From<common::Counters> for Counters {
    fn from(counters: common::Counters) -> Self {
        let common::Counters {
            starts,
            restarts,
            resets,
        } = counters;
        Self {
            starts,
            restarts,
            resets,
        }
    }
}

impl From<&Spec> for common::InstanceSpec {
    fn from(spec: &Spec) -> Self {
        Self {
            arch: common::Arch::from(spec.arch).into(),
            vcpus: spec.vcpus.get(),
            memory_mib: spec.memory.get(),
            root: Some(common::RootDisk {
                image_digest: spec.root.image.to_string(),
                image_format: common::DiskFormat::from(spec.root.image_format).into(),
                image_bytes: spec.root.image_bytes.get(),
                size_bytes: spec.root.size.get(),
            }),
            run_policy: common::RunPolicy::from(spec.run_policy).into(),
            needs: (!spec.needs.is_none()).then(|| (&spec.needs).into()),
        }
    }
}

impl TryFrom<&common::InstanceSpec> for Spec {
    type Error = Vec<Violation>;

    fn try_from(wire: &common::InstanceSpec) -> Checked<Self> {
        let root = wire
            .root
            .as_ref()
            .ok_or_else(|| vec![Violation::new("root", "is missing")])?;
        let spec = (|| {
            Ok(Self {
                arch: known::<common::Arch, _>(wire.arch, "arch")?,
                vcpus: Vcpus(wire.vcpus),
                memory: MemoryMib(wire.memory_mib),
                root: RootDisk {
                    image: id(&root.image_digest, "root.image_digest")?,
                    image_format: known::<common::DiskFormat, _>(
                        root.image_format,
                        "root.image_format",
                    )?,
                    image_bytes: Bytes(root.image_bytes),
                    size: Bytes(root.size_bytes),
                },
                run_policy: run_policy(wire.run_policy)?,
                needs: match &wire.needs {
                    Some(needs) => needs
                        .try_into()
                        .map_err(|one: Violation| one.under("needs"))?,
                    None => Needs::default(),
                },
            })
        })()
        .map_err(|violation: Violation| vec![violation])?;
        spec.validate()?;
        Ok(spec)
    }
}

impl From<&Intent> for agent::ApplyInstanceRequest {
    fn from(intent: &Intent) -> Self {
        Self {
            incarnation_id: intent.incarnation.to_string(),
            instance_id: intent.instance.to_string(),
            node_id: intent.node.to_string(),
            name: intent.name.to_string(),
            spec: Some((&intent.spec).into()),
            power: common::Power::from(intent.power).into(),
            counters: Some(intent.counters.into()),
            generation: intent.generation.get(),
            epoch: intent.epoch.get(),
            operation_id: intent
                .operation
                .map(|id| id.to_string())
                .unwrap_or_default(),
            image_sources: Vec::new(),
            assignment: (!intent.assignment.is_none()).then(|| (&intent.assignment).into()),
        }
    }
}

impl TryFrom<&agent::ApplyInstanceRequest> for Intent {
    type Error = Vec<Violation>;

    fn try_from(wire: &agent::ApplyInstanceRequest) -> Checked<Self> {
        let spec = wire
            .spec
            .as_ref()
            .ok_or_else(|| vec![Violation::new("spec", "is missing")])?;
        let spec = Spec::try_from(spec).map_err(|all| {
            all.into_iter()
                .map(|one| one.under("spec"))
                .collect::<Vec<_>>()
        })?;
        (|| {
            let counted = |value, field: &str| match value {
                0 => Err(Violation::new(field, "is 0; counts from 1")),
                value => Ok(value),
            };
            Ok(Self {
                incarnation: id(&wire.incarnation_id, "incarnation_id")?,
                instance: id(&wire.instance_id, "instance_id")?,
                node: id(&wire.node_id, "node_id")?,
                name: id(&wire.name, "name")?,
                spec,
                power: known::<common::Power, _>(wire.power, "power")?,
                counters: wire.counters.unwrap_or_default().into(),
                generation: Generation(counted(wire.generation, "generation")?),
                epoch: Epoch(counted(wire.epoch, "epoch")?),
                operation: match wire.operation_id.as_str() {
                    "" => None,
                    text => Some(id(text, "operation_id")?),
                },
                assignment: match &wire.assignment {
                    Some(one) => one
                        .try_into()
                        .map_err(|one: Violation| one.under("assignment"))?,
                    None => Assignment::default(),
                },
            })
        })()
        .map_err(|violation: Violation| vec![violation])
    }
}

impl From<&Status> for common::InstanceStatus {
    fn from(status: &Status) -> Self {
        Self {
            incarnation_id: status.incarnation.to_string(),
            instance_id: status.instance.to_string(),
            generation: status.generation.get(),
            epoch: status.epoch.get(),
            phase: common::Phase::from(status.phase).into(),
            done: Some(status.done.into()),
            ended: status
                .ended
                .map_or(common::Ended::Unspecified, Into::into)
                .into(),
            progress_permille: status.progress_permille,
            guest_agent: status.guest_agent,
            drift: status.drift.clone(),
            detail: status.detail.clone(),
            vcpus: status.size.map_or(0, |size| size.vcpus.get()),
            memory_mib: status.size.map_or(0, |size| size.memory.get()),
            resize_pending: status.resize_pending,
            assignment: status.assignment.as_deref().map(Into::into),
        }
    }
}

impl TryFrom<&common::InstanceStatus> for Status {
    type Error = Violation;

    /// An unknown phase or ending from a newer agent becomes *unknown*: nothing is decided
    /// from it (FAULTS 64). Words are cut at their limits (FAULTS 18).
    fn try_from(wire: &common::InstanceStatus) -> Result<Self, Violation> {
        Ok(Self {
            incarnation: id(&wire.incarnation_id, "incarnation_id")?,
            instance: id(&wire.instance_id, "instance_id")?,
            generation: Generation(wire.generation),
            epoch: Epoch(wire.epoch),
            phase: known::<common::Phase, _>(wire.phase, "phase").unwrap_or(Phase::Unknown),
            done: wire.done.unwrap_or_default().into(),
            ended: known::<common::Ended, _>(wire.ended, "ended").ok(),
            progress_permille: wire.progress_permille,
            guest_agent: wire.guest_agent,
            drift: wire
                .drift
                .iter()
                .take(MAX_DRIFT)
                .map(|one| clipped(one, MAX_WORDS))
                .collect(),
            detail: clipped(&wire.detail, MAX_WORDS),
            size: (wire.vcpus != 0 && wire.memory_mib != 0).then_some(Size {
                vcpus: Vcpus(wire.vcpus),
                memory: MemoryMib(wire.memory_mib),
            }),
            resize_pending: wire.resize_pending,
            // One that can't be read is none: nothing is given back by it.
            assignment: (wire.assignment.as_ref())
                .and_then(|own| Assignment::try_from(own).ok())
                .map(Box::new),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire() -> agent::ApplyInstanceRequest {
        let id = "0190d6b4-6f5e-7c3a-8b1e-2f6d1c9a0b11";
        agent::ApplyInstanceRequest {
            incarnation_id: id.into(),
            instance_id: id.into(),
            node_id: id.into(),
            name: "web-1".into(),
            spec: Some(common::InstanceSpec {
                arch: common::Arch::X8664.into(),
                vcpus: 2,
                memory_mib: 512,
                root: Some(common::RootDisk {
                    image_digest: kapok_types::Digest::of(b"x").to_string(),
                    image_format: common::DiskFormat::Qcow2.into(),
                    image_bytes: 1000,
                    size_bytes: 1 << 30,
                }),
                run_policy: common::RunPolicy::Always.into(),
                needs: None,
            }),
            power: common::Power::Running.into(),
            counters: Some(common::Counters {
                starts: 1,
                restarts: 0,
                resets: 0,
            }),
            generation: 1,
            epoch: 3,
            operation_id: String::new(),
            image_sources: Vec::new(),
            assignment: None,
        }
    }

    #[test]
    fn an_intent_round_trips() {
        let intent = Intent::try_from(&wire()).unwrap();
        assert_eq!(agent::ApplyInstanceRequest::from(&intent), wire());
    }

    #[test]
    fn a_bad_field_is_named_with_its_path() {
        let refused = |change: fn(&mut agent::ApplyInstanceRequest)| {
            let mut wire = wire();
            change(&mut wire);
            Intent::try_from(&wire).unwrap_err().remove(0).field
        };
        assert_eq!(refused(|wire| wire.name = "a b".into()), "name");
        assert_eq!(refused(|wire| wire.epoch = 0), "epoch");
        assert_eq!(refused(|wire| wire.power = 77), "power");
        assert_eq!(refused(|wire| wire.spec = None), "spec");
        assert_eq!(
            refused(|wire| wire.spec.as_mut().unwrap().vcpus = 0),
            "spec.vcpus"
        );
    }

    /// FAULTS 64: a phase from a newer agent is *unknown*, not an error and not a guess.
    #[test]
    fn an_unknown_phase_decides_nothing() {
        let wire = common::InstanceStatus {
            incarnation_id: "0190d6b4-6f5e-7c3a-8b1e-2f6d1c9a0b11".into(),
            instance_id: "0190d6b4-6f5e-7c3a-8b1e-2f6d1c9a0b11".into(),
            phase: 99,
            ended: 99,
            ..Default::default()
        };
        let status = Status::try_from(&wire).unwrap();
        assert_eq!((status.phase, status.ended), (Phase::Unknown, None));
    }

    /// Claims are given back by it: what can't be read is nothing, and the rest counts.
    #[test]
    fn what_a_guest_has_for_itself_is_told_whole_or_not_at_all() {
        let share = |cell| common::CellShare {
            cell,
            vcpus: 2,
            threads: vec![4, 5],
            memory_mib: 256,
        };
        let told = |cell| {
            let wire = common::InstanceStatus {
                incarnation_id: "0190d6b4-6f5e-7c3a-8b1e-2f6d1c9a0b11".into(),
                instance_id: "0190d6b4-6f5e-7c3a-8b1e-2f6d1c9a0b11".into(),
                phase: common::Phase::Running.into(),
                assignment: Some(common::Assignment {
                    cells: vec![share(cell)],
                    ..Default::default()
                }),
                ..Default::default()
            };
            let status = Status::try_from(&wire).unwrap();
            let back = common::InstanceStatus::from(&status).assignment;
            assert!(back.is_none() || back == wire.assignment, "{back:?}");
            (status.phase, back.is_some())
        };
        assert_eq!(told(1), (Phase::Running, true));
        assert_eq!(told(u32::MAX), (Phase::Running, false));
    }

    /// FAULTS 18: what an agent says of one incarnation has a bound.
    #[test]
    fn words_from_an_agent_are_cut() {
        let wire = common::InstanceStatus {
            incarnation_id: "0190d6b4-6f5e-7c3a-8b1e-2f6d1c9a0b11".into(),
            instance_id: "0190d6b4-6f5e-7c3a-8b1e-2f6d1c9a0b11".into(),
            detail: "城".repeat(100_000),
            drift: vec!["x".repeat(5000); 100],
            ..Default::default()
        };
        let status = Status::try_from(&wire).unwrap();
        assert_eq!(status.detail.len(), 1023, "cut at a character's border");
        assert_eq!((status.drift.len(), status.drift[0].len()), (16, 1024));
    }

    /// FAULTS 4: no message has a field through which a caller could name a host's path, an
    /// emulator, its arguments, or raw XML.
    #[test]
    fn no_field_reaches_the_host() {
        use prost::Message as _;
        let set = prost_types::FileDescriptorSet::decode(crate::DESCRIPTORS).unwrap();
        let ours = set
            .file
            .iter()
            .filter(|file| file.package().starts_with("kapok."));
        // What is only ever answered may name a server's devices: an inventory does.
        let answered = |file: &&prost_types::FileDescriptorProto| {
            file.name() == "kapok/common/v1/inventory.proto"
        };
        let requests = ours.clone().flat_map(|file| &file.service);
        let requests = requests.flat_map(|service| &service.method);
        let requests: Vec<_> = requests
            .map(prost_types::MethodDescriptorProto::input_type)
            .collect();
        let asked = |message: &prost_types::DescriptorProto| {
            let name = format!(".{}", message.name());
            requests.iter().any(|request| request.ends_with(&name))
        };
        let inventory = |field: &&prost_types::FieldDescriptorProto| {
            field.type_name().starts_with(".kapok.common.v1.Inventory")
        };
        let messages = ours.clone().flat_map(|file| &file.message_type);
        let mut taken = messages.filter(|message| asked(message));
        let hands_it_in = taken.find(|message| message.field.iter().any(|field| inventory(&field)));
        assert_eq!(hands_it_in.map(prost_types::DescriptorProto::name), None);
        let fields: Vec<String> = ours
            .filter(|file| !answered(file))
            .flat_map(|file| &file.message_type)
            .flat_map(|message| message.field.iter().map(|field| field.name().to_owned()))
            .collect();
        assert!(fields.len() > 100, "the descriptors were read");
        for word in [
            "xml",
            "path",
            "emulator",
            "args",
            "argv",
            "command",
            "device",
            "kernel_image",
            "file",
        ] {
            let hit = fields
                .iter()
                .find(|field| field.split('_').any(|part| part == word));
            assert_eq!(hit, None, "a caller could supply {word}");
        }
    }
}
