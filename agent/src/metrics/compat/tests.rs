//! Golden pages of the other exporters' names.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use kapok_health::{Component, Condition, Held, Reading};
use kapok_metrics::{Cap, Format};
use kapok_types::Timestamp;
use prometheus_client::{collector::Collector, encoding::DescriptorEncoder, registry::Registry};
use uuid::Uuid;

use super::*;
use crate::{
    driver::{
        Health,
        statistics::{Answer, Glance, Memory, Requests, Traffic},
    },
    metrics::{
        domains,
        roll::Roll,
        sample::{Heard, Samples},
    },
};

/// What a test writes.
pub(super) struct Page<F>(pub(super) F);

impl<F> fmt::Debug for Page<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Page")
    }
}

impl<F: Fn(&mut Writer<'_>) -> fmt::Result + Send + Sync + 'static> Collector for Page<F> {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        (self.0)(&mut Writer::new(encoder))
    }
}

/// Compares a page with its golden file; `UPDATE_GOLDEN=1` writes it.
fn check(name: &str, write: impl Fn(&mut Writer<'_>) -> fmt::Result + Send + Sync + 'static) {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Page(write)));
    let page = Format::Classic.write(&registry).unwrap();
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/metrics/compat/golden")
        .join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&file, &page).unwrap();
    }
    assert_eq!(page, fs::read_to_string(&file).unwrap(), "{name}");
}

#[test]
fn libvirts_names() {
    let samples = Samples::default();
    let uuid = Uuid::from_u128(1);
    let traffic = |bytes| Traffic {
        bytes,
        packets: 2,
        errors: 1,
        drops: 3,
    };
    let nic = Nic {
        name: "vnet0".into(),
        bridge: "virbr0".into(),
        receive: traffic(100),
        transmit: traffic(200),
    };
    let running = Glance {
        domain: uuid,
        name: "web \"1\"".into(),
        state: State::Running,
        nics: Box::new([nic]),
    };
    let off = Glance {
        domain: Uuid::from_u128(2),
        name: "off".into(),
        state: State::Off,
        nics: Box::default(),
    };
    samples.glanced(vec![running, off], Duration::from_secs(1));
    let requests = |bytes| Requests {
        requests: 7,
        bytes,
        time_ns: 9,
    };
    let answer = Answer {
        run: None,
        cpu_time_ns: Some(1_500_000_000),
        vcpus: Some(2),
        memory: Memory {
            maximum_kib: Some(2048),
            current_kib: Some(1024),
            ..Memory::default()
        },
        disks: Box::new([Disk {
            name: "vda".into(),
            path: Some("/pool/a.qcow2".into()),
            read: requests(512),
            write: requests(1024),
            ..Disk::default()
        }]),
    };
    samples.answered(uuid, Heard::Answer(answer), Duration::from_secs(1));
    check("libvirt.txt", move |writer| {
        let all = samples.lock();
        let mut budget = Cap::new(1000).budget();
        let now = Duration::from_secs(2);
        let shown = domains::shown(&all, &Roll::default(), &Health::default(), &mut budget, now);
        libvirt(writer, true, &shown)
    });
}

fn assessment(source: &str, readings: Vec<Reading>) -> Assessment {
    let held = |reading| Held {
        reading,
        source: source.into(),
        at: Timestamp(0),
    };
    Assessment {
        at: Timestamp(0),
        condition: Condition::Healthy,
        verdicts: Vec::new(),
        components: BTreeMap::new(),
        sources: Vec::new(),
        readings: readings.into_iter().map(held).collect(),
    }
}

#[test]
fn smartctls_names() {
    let disk = Component::new(Kind::Disk, "nvme0n1");
    let readings = vec![
        Reading::flag(&disk, quantity::SMART_FAILING, false),
        Reading::new(&disk, quantity::TEMPERATURE, 41.0),
        Reading::new(&disk, quantity::WEAR, 0.25),
        Reading::new(&disk, quantity::AVAILABLE_SPARE, 0.5),
        Reading::new(&disk, quantity::CRITICAL_WARNING, 1.0),
        Reading::new(&disk, quantity::PENDING_SECTORS, 3.0),
        Reading::unreadable(&disk, quantity::MEDIA_ERRORS, "garbage"),
    ];
    let assessment = assessment("smartctl", readings);
    check("smartctl.txt", move |writer| smartctl(writer, &assessment));
}

#[test]
fn ipmis_names() {
    let fan = Component::new(Kind::Fan, "FAN1");
    let inlet = Component::new(Kind::Sensor, "Inlet Temp");
    let readings = vec![
        Reading::new(&fan, quantity::SPEED, 4200.0),
        Reading::new(&inlet, quantity::TEMPERATURE, 47.0),
        Reading::flag(&inlet, quantity::SENSOR_WARNING, true),
        Reading::flag(&inlet, quantity::SENSOR_CRITICAL, false),
    ];
    let assessment = assessment("ipmi", readings);
    check("ipmi.txt", move |writer| ipmi(writer, &assessment));
}

#[test]
fn nodes_names() {
    let root = tempfile::tempdir().unwrap();
    let put = |path: &str, text: &str| {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    put("proc/loadavg", "0.50 0.25 0.10 1/100 42\n");
    put(
        "proc/meminfo",
        "MemTotal:  16 kB\nMemFree: 4 kB\nHugePages_Total: 0\n",
    );
    put(
        "proc/pressure/cpu",
        "some avg10=0.00 avg60=0.00 avg300=0.00 total=1500000\n",
    );
    put(
        "proc/pressure/io",
        "some avg10=0.00 avg60=0.00 avg300=0.00 total=2000000\n\
         full avg10=0.00 avg60=0.00 avg300=0.00 total=1000000\n",
    );
    put(
        "proc/net/dev",
        "Inter-|   Receive\n face |bytes\n  eth0: 1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0\n",
    );
    let mc = "sys/devices/system/edac/mc/mc0";
    put(&format!("{mc}/ce_count"), "3\n");
    put(&format!("{mc}/ue_count"), "0\n");
    put(&format!("{mc}/csrow1/ce_count"), "3\n");
    put(&format!("{mc}/csrow1/ue_count"), "0\n");
    put("sys/class/thermal/thermal_zone0/type", "x86_pkg_temp\n");
    put("sys/class/thermal/thermal_zone0/temp", "51500\n");
    let cpu = "sys/devices/system/cpu/cpu0";
    put(&format!("{cpu}/topology/physical_package_id"), "0\n");
    put(&format!("{cpu}/topology/core_id"), "0\n");
    put(
        &format!("{cpu}/thermal_throttle/core_throttle_count"),
        "5\n",
    );
    put(
        &format!("{cpu}/thermal_throttle/package_throttle_count"),
        "6\n",
    );
    put("sys/class/net/bonding_masters", "bond0\n");
    put("sys/class/net/bond0/bonding/slaves", "eth0 eth1\n");
    put("sys/class/net/eth0/bonding_slave/mii_status", "up\n");
    put("sys/class/net/eth1/bonding_slave/mii_status", "down\n");
    put("sys/class/hwmon/hwmon0/name", "core temp\n");
    put("sys/class/hwmon/hwmon0/temp1_input", "48000\n");
    put("sys/class/hwmon/hwmon0/temp1_crit", "100000\n");
    put("sys/class/hwmon/hwmon0/fan2_input", "0\n");
    put("sys/class/hwmon/hwmon0/in0_input", "garbage\n");
    let tree = tree::Tree::read(root.path());
    check("node.txt", move |writer| tree.write(writer));
}
