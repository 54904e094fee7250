//! What a node and its hypervisors offer, read from libvirt's documents.

use std::collections::BTreeMap;

use serde::Deserialize;
use uuid::Uuid;

use super::{
    Error,
    cpu_model::CpuModel,
    topology::{HostCell, RawTopology},
};
use crate::xml::domain::VirtType;

/// What the node offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities {
    /// The host's UUID as libvirtd knows it. Hosts may share one; never an identity.
    pub host_uuid: Option<Uuid>,
    /// The host's architecture by the kernel's name.
    pub arch: String,
    /// The nearest named processor model.
    pub cpu_model: Option<String>,
    /// Its vendor.
    pub cpu_vendor: Option<String>,
    /// Its NUMA cells, by number.
    pub cells: Vec<HostCell>,
    /// What guests can be, one entry an architecture.
    pub guests: Vec<GuestArch>,
}

/// Guests of one architecture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestArch {
    /// The architecture by the kernel's name.
    pub arch: String,
    /// libvirt's words for how they may run (`qemu`, `kvm`).
    pub virt_types: Vec<String>,
    /// Machine types: each name, alias or not, to its canonical name.
    pub machines: BTreeMap<String, String>,
}

impl Capabilities {
    /// Reads libvirt's document.
    ///
    /// # Errors
    ///
    /// Whatever the document's guard refuses, or a document without a host architecture.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let raw: RawCapabilities = super::read(text)?;
        let guests = raw.guest.into_iter().filter(|guest| guest.os_type == "hvm");
        Ok(Self {
            host_uuid: raw
                .host
                .uuid
                .and_then(|uuid| Uuid::try_parse(uuid.trim()).ok()),
            arch: raw.host.cpu.arch,
            cpu_model: raw.host.cpu.model,
            cpu_vendor: raw.host.cpu.vendor,
            cells: raw.host.topology.cells(),
            guests: guests.map(|guest| GuestArch::from(guest.arch)).collect(),
        })
    }

    /// What guests of `arch` can be.
    pub fn guest(&self, arch: &str) -> Option<&GuestArch> {
        self.guests.iter().find(|guest| guest.arch == arch)
    }
}

impl GuestArch {
    /// The versioned name behind `machine`, which may be an alias such as `q35`.
    pub fn canonical(&self, machine: &str) -> Option<&str> {
        self.machines.get(machine).map(String::as_str)
    }

    /// Whether guests may run so. For KVM this only says that `/dev/kvm` opens: see
    /// [`crate::probe`] for whether it works.
    pub fn offers(&self, virt_type: VirtType) -> bool {
        self.virt_types
            .iter()
            .any(|offered| offered == virt_type.as_str())
    }
}

/// What one machine type of one hypervisor offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainCapabilities {
    /// libvirt's word for how the guest runs.
    pub virt_type: String,
    /// The canonical machine type.
    pub machine: Option<String>,
    /// The architecture.
    pub arch: String,
    /// Most virtual CPUs.
    pub max_vcpus: Option<u32>,
    /// Processor modes that work, for example `host-model` and `maximum`.
    pub cpu_modes: Vec<String>,
    /// Named processor models that this host can give a guest, sorted. Such a guest can be
    /// migrated to any host that has the same model here.
    pub cpu_models: Vec<String>,
    /// The host's nearest model; see [`Connection::cpu_features`](crate::Connection::cpu_features).
    pub(crate) host_model: Option<CpuModel>,
}

impl DomainCapabilities {
    /// Reads libvirt's document.
    ///
    /// # Errors
    ///
    /// Whatever the document's guard refuses.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let raw: RawDomainCapabilities = super::read(text)?;
        let modes = raw.cpu.map(|cpu| cpu.mode).unwrap_or_default();
        let custom = modes.iter().filter(|mode| mode.name == "custom");
        let models = custom.flat_map(|mode| &mode.model);
        let usable = models.filter(|model| model.usable.as_deref() == Some("yes"));
        let mut cpu_models: Vec<String> = usable.map(|model| model.name.clone()).collect();
        cpu_models.sort();
        let host_model = modes.iter().find(|mode| mode.name == "host-model");
        let host_model = host_model.and_then(RawMode::cpu_model);
        let modes = modes.into_iter();
        Ok(Self {
            host_model,
            virt_type: raw.domain,
            machine: raw.machine,
            arch: raw.arch,
            max_vcpus: raw.vcpu.map(|vcpu| vcpu.max),
            cpu_modes: modes
                .filter(|mode| mode.supported == "yes")
                .map(|mode| mode.name)
                .collect(),
            cpu_models,
        })
    }
}

#[derive(Deserialize)]
struct RawCapabilities {
    host: RawHost,
    #[serde(default)]
    guest: Vec<RawGuest>,
}

#[derive(Deserialize)]
struct RawHost {
    uuid: Option<String>,
    cpu: RawHostCpu,
    #[serde(default)]
    topology: RawTopology,
}

#[derive(Deserialize)]
struct RawHostCpu {
    arch: String,
    model: Option<String>,
    vendor: Option<String>,
}

#[derive(Deserialize)]
struct RawGuest {
    os_type: String,
    arch: RawArch,
}

#[derive(Deserialize)]
struct RawArch {
    #[serde(rename = "@name")]
    name: String,
    #[serde(default)]
    machine: Vec<RawMachine>,
    #[serde(default)]
    domain: Vec<RawType>,
}

#[derive(Deserialize)]
struct RawMachine {
    #[serde(rename = "@canonical")]
    canonical: Option<String>,
    #[serde(rename = "$text")]
    name: String,
}

#[derive(Deserialize)]
struct RawType {
    #[serde(rename = "@type")]
    kind: String,
}

#[derive(Deserialize)]
struct RawDomainCapabilities {
    domain: String,
    machine: Option<String>,
    arch: String,
    vcpu: Option<RawMaxVcpus>,
    cpu: Option<RawCpu>,
}

#[derive(Deserialize)]
struct RawMaxVcpus {
    #[serde(rename = "@max")]
    max: u32,
}

#[derive(Deserialize)]
struct RawCpu {
    #[serde(default)]
    mode: Vec<RawMode>,
}

#[derive(Deserialize)]
struct RawMode {
    #[serde(rename = "@name")]
    name: String,
    #[serde(rename = "@supported")]
    supported: String,
    #[serde(default)]
    model: Vec<RawModel>,
    vendor: Option<String>,
    #[serde(default)]
    feature: Vec<RawFeature>,
}

#[derive(Deserialize)]
struct RawFeature {
    #[serde(rename = "@policy")]
    policy: String,
    #[serde(rename = "@name")]
    name: String,
}

impl RawMode {
    fn cpu_model(&self) -> Option<CpuModel> {
        let name = self.model.first()?.name.clone();
        let features = self.feature.iter();
        let features = features.map(|feature| (feature.policy.clone(), feature.name.clone()));
        Some(CpuModel::new(name, self.vendor.clone(), features))
    }
}

#[derive(Deserialize)]
struct RawModel {
    #[serde(rename = "@usable")]
    usable: Option<String>,
    #[serde(rename = "$text")]
    name: String,
}

impl From<RawArch> for GuestArch {
    fn from(raw: RawArch) -> Self {
        let machines = raw.machine.into_iter().map(|machine| {
            let canonical = machine.canonical.unwrap_or_else(|| machine.name.clone());
            (machine.name, canonical)
        });
        Self {
            arch: raw.name,
            virt_types: raw.domain.into_iter().map(|domain| domain.kind).collect(),
            machines: machines.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_lead_to_versions() {
        let text = "<capabilities><host><uuid>6695eb01-f6a4-8304-79aa-97f2502e193f</uuid>\
            <cpu><arch>x86_64</arch><model>EPYC</model><vendor>AMD</vendor><topology sockets='1'/>\
            <feature name='a'/><feature name='b'/></cpu><topology><cells num='2'>\
            <cell id='1'><cpus num='1'><cpu id='9'/></cpus></cell>\
            <cell id='0'><memory unit='KiB'>9</memory><pages unit='KiB' size='4'>6171021</pages>\
            <pages unit='KiB' size='2048'>64</pages><distances><sibling id='0' value='10'/></distances>\
            <cpus num='4'><cpu id='0' socket_id='0' die_id='0' core_id='0' siblings='0,2'/>\
            <cpu id='1' socket_id='0' die_id='0' core_id='1' siblings='1,3'/>\
            <cpu id='2' socket_id='0' die_id='0' core_id='0' siblings='0,2'/>\
            <cpu id='3' socket_id='0' die_id='0' core_id='1' siblings='1,3'/></cpus></cell>\
            </cells></topology></host>\
            <guest><os_type>hvm</os_type><arch name='x86_64'><wordsize>64</wordsize>\
            <emulator>/usr/bin/qemu-system-x86_64</emulator><machine maxCpus='255'>pc-i440fx-7.2</machine>\
            <machine canonical='pc-i440fx-7.2' maxCpus='255'>pc</machine>\
            <machine canonical='pc-q35-7.2' maxCpus='288'>q35</machine>\
            <machine maxCpus='288'>pc-q35-7.2</machine><domain type='qemu'/><domain type='kvm'/>\
            </arch><features><acpi/></features></guest></capabilities>";
        let capabilities = Capabilities::parse(text).unwrap();
        let guest = capabilities.guest("x86_64").unwrap();
        assert_eq!(guest.canonical("q35"), Some("pc-q35-7.2"));
        assert_eq!(guest.canonical("pc-i440fx-7.2"), Some("pc-i440fx-7.2"));
        assert_eq!(guest.canonical("isapc"), None);
        assert!(guest.offers(VirtType::Kvm) && !guest.offers(VirtType::Test));
        assert_eq!(capabilities.cpu_model.as_deref(), Some("EPYC"));
        // Siblings stand together, and one that is offline isn't there.
        let [first, second] = &capabilities.cells[..] else {
            panic!("{capabilities:?}");
        };
        assert_eq!((first.id, &first.threads[..]), (0, &[0, 2, 1, 3][..]));
        assert_eq!(first.pages.get(&(2 << 20)), Some(&64));
        assert_eq!((second.id, &second.threads[..]), (1, &[][..]));
    }

    #[test]
    fn a_machine_tells_its_modes() {
        let text = "<domainCapabilities><path>/usr/bin/qemu-system-x86_64</path><domain>qemu</domain>\
            <machine>pc-q35-7.2</machine><arch>x86_64</arch><vcpu max='288'/><iothreads supported='yes'/>\
            <cpu><mode name='host-passthrough' supported='no'/><mode name='maximum' supported='yes'>\
            <enum name='maximumMigratable'><value>on</value></enum></mode>\
            <mode name='host-model' supported='yes'><model fallback='forbid'>EPYC</model>\
            <vendor>AMD</vendor><feature policy='require' name='aes'/>\
            <feature policy='disable' name='vme'/></mode>\
            <mode name='custom' supported='yes'><model usable='yes' vendor='AMD'>Opteron_G3</model>\
            <model usable='no' deprecated='no'>Icelake-Server</model>\
            <model usable='unknown'>486</model><model usable='yes'>EPYC</model></mode></cpu>\
            </domainCapabilities>";
        let capabilities = DomainCapabilities::parse(text).unwrap();
        assert_eq!(capabilities.cpu_modes, ["maximum", "host-model", "custom"]);
        assert_eq!(capabilities.cpu_models, ["EPYC", "Opteron_G3"]);
        assert_eq!(capabilities.max_vcpus, Some(288));
        let model = capabilities.host_model.unwrap();
        assert_eq!(CpuModel::parse(&model.to_xml().unwrap()), Ok(model.clone()));
        assert_eq!(model.features(), ["aes".to_owned()].into());
    }
}
