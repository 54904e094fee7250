//! The shape of libvirt's domain document, element by element.
//!
//! Only what Kapok writes; every value in it is typed or was checked when it was taken.

use kapok_types::instance::Arch;
use serde::Serialize;

use super::{
    Addressed, Amount, Modelled, Networked, Offset, Ordered, Period, Typed,
    domain::{DiskSource, DomainConfig, domain_name},
    metadata,
    placement::{Cpu, CpuTune, HostDevice, MemoryBacking, NumaTune},
};

#[derive(Serialize)]
pub(super) struct Document<'a> {
    #[serde(rename = "@type")]
    virt_type: &'static str,
    name: String,
    uuid: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<&'a str>,
    metadata: MetadataElement<'a>,
    memory: Amount,
    #[serde(rename = "memoryBacking", skip_serializing_if = "Option::is_none")]
    backing: Option<MemoryBacking>,
    vcpu: Vcpu,
    #[serde(skip_serializing_if = "Option::is_none")]
    cputune: Option<CpuTune>,
    #[serde(skip_serializing_if = "Option::is_none")]
    numatune: Option<NumaTune>,
    os: Os<'a>,
    features: Features,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu: Option<Cpu<'a>>,
    clock: Offset<&'static str>,
    on_poweroff: &'static str,
    on_reboot: &'static str,
    on_crash: &'static str,
    devices: Devices<'a>,
}

#[derive(Serialize)]
struct Vcpu {
    #[serde(rename = "@cpuset", skip_serializing_if = "Option::is_none")]
    cpuset: Option<String>,
    #[serde(rename = "@current", skip_serializing_if = "Option::is_none")]
    current: Option<u32>,
    #[serde(rename = "$text")]
    most: u32,
}

#[derive(Serialize)]
struct MetadataElement<'a> {
    #[serde(rename = "kapok:instance")]
    instance: InstanceElement<'a>,
}

#[derive(Serialize)]
struct InstanceElement<'a> {
    #[serde(rename = "@xmlns:kapok")]
    namespace: &'static str,
    #[serde(rename = "$text")]
    content: &'a str,
}

#[derive(Serialize)]
pub(super) struct Os<'a> {
    #[serde(rename = "@firmware", skip_serializing_if = "Option::is_none")]
    pub(super) firmware: Option<&'static str>,
    #[serde(rename = "type")]
    pub(super) machine: OsType<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) kernel: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) initrd: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cmdline: Option<&'a str>,
}

#[derive(Serialize)]
pub(super) struct OsType<'a> {
    #[serde(rename = "@arch")]
    pub(super) arch: &'static str,
    #[serde(rename = "@machine")]
    pub(super) machine: &'a str,
    #[serde(rename = "$text")]
    pub(super) kind: &'static str,
}

#[derive(Serialize)]
pub(super) struct Features {
    acpi: (),
    #[serde(skip_serializing_if = "Option::is_none")]
    apic: Option<()>,
}

impl Features {
    pub(super) fn of(arch: Arch) -> Self {
        Self {
            acpi: (),
            apic: (arch == Arch::X86_64).then_some(()),
        }
    }
}

#[derive(Serialize)]
struct Devices<'a> {
    disk: Disk<'a>,
    controller: Controller,
    #[serde(skip_serializing_if = "Option::is_none")]
    interface: Option<Interface<'a>>,
    hostdev: Vec<HostDevice>,
    serial: Typed<&'static str>,
    console: Console,
    channel: Channel,
    memballoon: Balloon,
    rng: Rng,
    #[serde(skip_serializing_if = "Option::is_none")]
    panic: Option<Modelled<&'static str>>,
}

#[derive(Serialize)]
struct Disk<'a> {
    #[serde(rename = "@type")]
    kind: &'static str,
    #[serde(rename = "@device")]
    device: &'static str,
    driver: Driver,
    source: Source<'a>,
    target: Target,
    boot: Ordered<u32>,
}

#[derive(Serialize)]
struct Driver {
    #[serde(rename = "@name")]
    name: &'static str,
    #[serde(rename = "@type")]
    format: &'static str,
    #[serde(rename = "@cache")]
    cache: &'static str,
    #[serde(rename = "@discard")]
    discard: &'static str,
}

#[derive(Serialize)]
struct Source<'a> {
    #[serde(rename = "@file", skip_serializing_if = "Option::is_none")]
    file: Option<&'a str>,
    #[serde(rename = "@dev", skip_serializing_if = "Option::is_none")]
    dev: Option<&'a str>,
}

#[derive(Serialize)]
struct Target {
    #[serde(rename = "@dev")]
    dev: &'static str,
    #[serde(rename = "@bus")]
    bus: &'static str,
}

#[derive(Serialize)]
pub(super) struct Controller {
    #[serde(rename = "@type")]
    kind: &'static str,
    #[serde(rename = "@model")]
    model: &'static str,
}

impl Controller {
    /// Servers need no USB, and its polling costs every idle guest some of the host.
    pub(super) const NO_USB: Self = Self {
        kind: "usb",
        model: "none",
    };
}

#[derive(Serialize)]
struct Interface<'a> {
    #[serde(rename = "@type")]
    kind: &'static str,
    mac: Addressed,
    source: Networked<&'a str>,
    model: Typed<&'static str>,
}

#[derive(Serialize)]
pub(super) struct Console {
    #[serde(rename = "@type")]
    kind: &'static str,
    target: Port,
}

impl Console {
    /// The first serial port, seen as a console.
    pub(super) const SERIAL: Self = Self {
        kind: "pty",
        target: Port {
            kind: "serial",
            port: 0,
        },
    };
}

#[derive(Serialize)]
struct Port {
    #[serde(rename = "@type")]
    kind: &'static str,
    #[serde(rename = "@port")]
    port: u32,
}

#[derive(Serialize)]
struct Channel {
    #[serde(rename = "@type")]
    kind: &'static str,
    target: ChannelTarget,
}

#[derive(Serialize)]
struct ChannelTarget {
    #[serde(rename = "@type")]
    kind: &'static str,
    #[serde(rename = "@name")]
    name: &'static str,
}

#[derive(Serialize)]
struct Balloon {
    #[serde(rename = "@model")]
    model: &'static str,
    stats: Period<u32>,
}

#[derive(Serialize)]
struct Rng {
    #[serde(rename = "@model")]
    model: &'static str,
    backend: Backend,
}

#[derive(Serialize)]
struct Backend {
    #[serde(rename = "@model")]
    model: &'static str,
    #[serde(rename = "$text")]
    device: &'static str,
}

/// Seconds between the balloon's reports of guest memory.
const BALLOON_PERIOD_S: u32 = 10;

impl<'a> Document<'a> {
    pub(super) fn of(config: &'a DomainConfig) -> Self {
        Self {
            virt_type: config.virt_type.as_str(),
            name: domain_name(config.incarnation),
            uuid: config.incarnation.to_string(),
            title: config.title.as_deref(),
            metadata: MetadataElement {
                instance: InstanceElement {
                    namespace: metadata::NAMESPACE,
                    content: config.metadata.as_str(),
                },
            },
            memory: Amount::mib(config.memory.get()),
            backing: config.placement.backing(),
            vcpu: Vcpu {
                cpuset: config.placement.cpuset(),
                current: (config.vcpus < config.most_vcpus).then(|| config.vcpus.get()),
                most: config.most_vcpus.get(),
            },
            cputune: config.placement.tune_cpu(),
            numatune: config.placement.tune_numa(),
            os: Os {
                firmware: (config.arch == Arch::Aarch64).then_some("efi"),
                machine: OsType {
                    arch: config.arch.as_str(),
                    machine: &config.machine,
                    kind: "hvm",
                },
                kernel: None,
                initrd: None,
                cmdline: None,
            },
            features: Features::of(config.arch),
            cpu: config.placement.cpu(config.cpu.as_str()),
            clock: "utc".into(),
            on_poweroff: "destroy",
            on_reboot: "restart",
            on_crash: "destroy",
            devices: Devices::of(config),
        }
    }
}

impl<'a> Devices<'a> {
    fn of(config: &'a DomainConfig) -> Self {
        let (kind, source) = match &config.root.source {
            DiskSource::File(path) => (
                "file",
                Source {
                    file: Some(path),
                    dev: None,
                },
            ),
            DiskSource::Block(path) => (
                "block",
                Source {
                    file: None,
                    dev: Some(path),
                },
            ),
        };
        Self {
            disk: Disk {
                kind,
                device: "disk",
                driver: Driver {
                    name: "qemu",
                    format: config.root.format.as_str(),
                    cache: config.root.cache.as_str(),
                    discard: "unmap",
                },
                source,
                target: Target {
                    dev: "vda",
                    bus: "virtio",
                },
                boot: 1.into(),
            },
            controller: Controller::NO_USB,
            interface: config.nic.as_ref().map(|nic| Interface {
                kind: "network",
                mac: nic.mac.to_string().into(),
                source: nic.network.as_str().into(),
                model: "virtio".into(),
            }),
            hostdev: config.placement.host_devices(),
            serial: "pty".into(),
            console: Console::SERIAL,
            channel: Channel {
                kind: "unix",
                target: ChannelTarget {
                    kind: "virtio",
                    name: "org.qemu.guest_agent.0",
                },
            },
            memballoon: Balloon {
                model: "virtio",
                stats: BALLOON_PERIOD_S.into(),
            },
            rng: Rng {
                model: "virtio",
                backend: Backend {
                    model: "random",
                    device: "/dev/urandom",
                },
            },
            // QEMU has this one on x86 only.
            panic: (config.arch == Arch::X86_64).then(|| "isa".into()),
        }
    }
}
