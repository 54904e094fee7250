//! The tiny domain of the boot probe: a kernel, an initramfs, a serial line, and no disk.

use kapok_types::{MemoryMib, instance::Arch};
use serde::Serialize;
use uuid::Uuid;

use super::{
    Amount, Error, Modelled, Typed,
    document::{Console, Controller, Features, Os, OsType},
    domain::{VirtType, machine_type},
    line,
};

/// What the probe's domain is made from. All of it is the operator's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProbeDomain<'a> {
    pub(crate) uuid: Uuid,
    pub(crate) kernel: &'a str,
    pub(crate) initrd: &'a str,
    pub(crate) virt_type: VirtType,
    pub(crate) arch: Arch,
    pub(crate) machine: &'a str,
    pub(crate) memory: MemoryMib,
}

#[derive(Serialize)]
struct Document<'a> {
    #[serde(rename = "@type")]
    virt_type: &'static str,
    name: String,
    uuid: String,
    memory: Amount,
    vcpu: u32,
    os: Os<'a>,
    features: Features,
    on_poweroff: &'static str,
    on_reboot: &'static str,
    on_crash: &'static str,
    devices: Devices,
}

#[derive(Serialize)]
struct Devices {
    controller: Controller,
    serial: Typed<&'static str>,
    console: Console,
    memballoon: Modelled<&'static str>,
}

impl ProbeDomain<'_> {
    pub(crate) fn to_xml(&self) -> Result<String, Error> {
        machine_type(self.machine)?;
        for (field, path) in [("kernel", self.kernel), ("initrd", self.initrd)] {
            line(field, path, 4096)?;
            if !path.starts_with('/') {
                return Err(Error::field(field, "is not an absolute path"));
            }
        }
        let cmdline = match self.arch {
            Arch::X86_64 => "console=ttyS0 panic=-1",
            Arch::Aarch64 => "console=ttyAMA0 panic=-1",
        };
        super::write(
            "domain",
            &Document {
                virt_type: self.virt_type.as_str(),
                name: format!("kapok-probe-{}", self.uuid.hyphenated()),
                uuid: self.uuid.hyphenated().to_string(),
                memory: Amount::mib(self.memory.get()),
                vcpu: 1,
                os: Os {
                    firmware: None,
                    machine: OsType {
                        arch: self.arch.as_str(),
                        machine: self.machine,
                        kind: "hvm",
                    },
                    kernel: Some(self.kernel),
                    initrd: Some(self.initrd),
                    cmdline: Some(cmdline),
                },
                features: Features::of(self.arch),
                on_poweroff: "destroy",
                on_reboot: "destroy",
                on_crash: "destroy",
                devices: Devices {
                    controller: Controller::NO_USB,
                    serial: "pty".into(),
                    console: Console::SERIAL,
                    memballoon: "none".into(),
                },
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe() -> ProbeDomain<'static> {
        ProbeDomain {
            uuid: Uuid::nil(),
            kernel: "/usr/lib/kapok/probe/vmlinuz",
            initrd: "/usr/lib/kapok/probe/initrd",
            virt_type: VirtType::Kvm,
            arch: Arch::X86_64,
            machine: "pc-q35-7.2",
            memory: MemoryMib(128),
        }
    }

    #[test]
    fn the_probe_has_no_disk_and_ends_for_good() {
        insta::assert_snapshot!(probe().to_xml().unwrap().replace("><", ">\n<"));
    }

    #[test]
    fn relative_paths_are_refused() {
        let wrong = ProbeDomain {
            initrd: "initrd",
            ..probe()
        };
        assert!(matches!(
            wrong.to_xml(),
            Err(Error::Field {
                field: "initrd",
                ..
            })
        ));
    }
}
