//! Golden answers: what people and programs see of fixed values from the wire.
//!
//! Long because it is a list: one golden a view, with its value above it, and nothing else. They share
//! the clock, and their snapshots are called after this module.

use kapok_proto::{
    common::v1 as common,
    fabric::v1::{self as wire, IncarnationRole, NodeState, OperationKind, OperationState},
};
use kapok_types::Timestamp;
use serde::Serialize;

use super::{
    View,
    access::Access,
    audit,
    capacity::Capacity,
    certificate,
    controller::Leadership,
    event::Event,
    explain::Explanation,
    flavor::Flavor,
    group::Group,
    health::{FabricHealth, NodeHealth},
    image::Image,
    instance::Instance,
    inventory::Inventory,
    node::Node,
    operation::Operation,
    plan::Plan,
    quota::TenantQuota,
    system::System,
    tenant::Tenant,
    token::Token,
    user::User,
};
use crate::output::table;

const NOW: Timestamp = Timestamp(1_790_000_000_000);
const ID: &str = "0190d6b4-6f5e-7c3a-8b1e-2f6d1c9a0b11";
const SERIAL: &str = "4f0c22d1a3b44e5f8d6a7b8c9d0e1f20";
const NODE_ID: &str = "0190d6b4-0000-7c3a-8b1e-2f6d1c9a0b22";

#[expect(clippy::unnecessary_wraps, reason = "the wire's fields are optional")]
fn ago(seconds: u64) -> Option<prost_types::Timestamp> {
    Some(kapok_proto::convert::timestamp(Timestamp(
        NOW.get() - seconds * 1000,
    )))
}

#[expect(clippy::unnecessary_wraps, reason = "the wire's fields are optional")]
fn later(seconds: u64) -> Option<prost_types::Timestamp> {
    Some(kapok_proto::convert::timestamp(Timestamp(
        NOW.get() + seconds * 1000,
    )))
}

/// A table, a wide table, the details and JSON of one kind, in one golden file; YAML has the same
/// keys.
fn golden<V: View>(name: &str, items: &[V]) {
    let json = serde_json::to_string_pretty(items).unwrap();
    let yaml: serde_json::Value =
        serde_norway::from_str(&serde_norway::to_string(items).unwrap()).unwrap();
    assert_eq!(yaml, serde_json::to_value(items).unwrap());
    for wide in [false, true] {
        assert_eq!(V::columns(wide).len(), items[0].row(NOW, wide).len());
    }
    let text = format!(
        "{}\n{}\n{}\n{json}\n",
        table(items, NOW, false),
        table(items, NOW, true),
        items[0].details(NOW)
    );
    insta::assert_snapshot!(name, text);
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap()
}

#[test]
fn nodes() {
    let usage = |capacity, claimed| {
        Some(wire::Usage {
            capacity,
            claimed,
            free: capacity - claimed,
        })
    };
    let ready = wire::Node {
        id: NODE_ID.into(),
        name: "rack1-a".into(),
        address: "10.0.0.1:7701".into(),
        state: NodeState::Ready.into(),
        cordoned: true,
        cordon_reason: "new disks".into(),
        arch: common::Arch::X8664.into(),
        vcpus: usage(64, 3),
        memory_mib: usage(131_072, 4396),
        vcpu_overcommit_permille: 4000,
        instances: 2,
        foreign_domains: 1,
        virt_type: "kvm".into(),
        virt_reason: "a Linux guest reached userland".into(),
        versions: [
            ("libvirt".into(), "9.0.0".into()),
            ("qemu".into(), "7.2.0".into()),
        ]
        .into(),
        heartbeat_age_ms: Some(800),
        enroll_time: ago(1_036_800),
        fingerprint: [
            ("board_serial".into(), "B1".into()),
            ("product_uuid".into(), "4c4c4544".into()),
        ]
        .into(),
        fingerprint_changes: [("board_serial".into(), "B1, now B2".into())].into(),
        certificate_serial: SERIAL.into(),
        certificate_expire_time: later(864_000),
        condition: common::Condition::Degraded.into(),
        verdicts: vec!["MEMORY_CE_STORM memory/mc0".into()],
        quarantine: quarantine(false),
        release: release(),
        equipment: Some(equipment()),
        equipment_use: Some(wire::EquipmentUse {
            cells: vec![wire::CellUse {
                cell: 0,
                threads: vec![4, 20],
                pages: vec![pages("1GiB", 2)],
            }],
            devices: vec!["0000:65:00.0".into()],
        }),
        rack: "r7".into(),
        room: "a".into(),
        labels: [("disk".into(), "nvme".into())].into(),
        isolation: "secret".into(),
        ..wire::Node::default()
    };
    let pending = wire::Node {
        name: "rack1-b".into(),
        address: "10.0.0.2:7701".into(),
        state: NodeState::Pending.into(),
        detail: "connection refused".into(),
        condition: common::Condition::Failing.into(),
        quarantine: quarantine(true),
        drain_request_time: ago(30),
        ..wire::Node::default()
    };
    let revoked = wire::Node {
        name: "rack1-c".into(),
        state: NodeState::Revoked.into(),
        revoke_time: ago(42),
        overcommitted: vec![wire::NodeOvercommitted {
            dimension: "memory_mib".into(),
            amount: 1536,
        }],
        ..wire::Node::default()
    };
    golden("nodes", &[ready, pending, revoked].map(Node::from));
}

fn pages(size: &str, count: u64) -> common::CellPages {
    let size = size.into();
    common::CellPages { size, count }
}

fn equipment() -> common::Equipment {
    common::Equipment {
        cells: vec![
            common::Cell {
                id: 0,
                dedicated: vec![4, 20, 5, 21],
                pages: vec![pages("1GiB", 16)],
            },
            common::Cell {
                id: 1,
                dedicated: Vec::new(),
                pages: vec![pages("2MiB", 512)],
            },
        ],
        cpu_features: vec!["avx".into(), "avx2".into()],
        devices: vec![
            common::Device {
                address: "0000:65:00.0".into(),
                class: "gpu-a100".into(),
                cell: Some(0),
            },
            common::Device {
                address: "0000:b3:02.1".into(),
                class: "vf".into(),
                cell: None,
            },
        ],
        pools: vec!["kapok".into()],
        networks: vec!["default".into(), "dmz".into()],
    }
}

fn needs() -> common::Needs {
    common::Needs {
        dedicated_cpus: true,
        huge_pages: "1GiB".into(),
        cells: 2,
        cpu_features: vec!["avx2".into()],
        devices: [("gpu-a100".to_owned(), 1)].into(),
        pool: String::new(),
        network: "dmz".into(),
        labels: [("room".to_owned(), "a".to_owned())].into(),
    }
}

fn own() -> common::Assignment {
    common::Assignment {
        cells: vec![common::CellShare {
            cell: 0,
            vcpus: 2,
            threads: vec![4, 20],
            memory_mib: 2048,
        }],
        devices: vec!["0000:65:00.0".into()],
        huge_pages: "1GiB".into(),
    }
}

#[expect(clippy::unnecessary_wraps, reason = "the wire's fields are optional")]
fn quarantine(held: bool) -> Option<wire::Quarantine> {
    Some(wire::Quarantine {
        since_time: ago(7200),
        reason: "MEMORY_CE_STORM memory/mc0".into(),
        held,
    })
}

#[expect(clippy::unnecessary_wraps, reason = "the wire's fields are optional")]
fn release() -> Option<wire::Release> {
    Some(wire::Release {
        by: "user/ada".into(),
        reason: "the module comes tomorrow".into(),
        until_time: later(36_000),
    })
}

fn reading(quantity: &str, unit: &str, read: common::reading::Read) -> common::Reading {
    common::Reading {
        component: "memory/mc0".into(),
        quantity: quantity.into(),
        unit: unit.into(),
        read: Some(read),
        source: "edac".into(),
        read_time: ago(5),
    }
}

/// A server with a bad module and a tool that hangs.
fn unwell() -> common::NodeHealth {
    use common::{Condition, reading::Read, source_health::Outcome};
    let storm = common::Verdict {
        code: "MEMORY_CE_STORM".into(),
        condition: Condition::Degraded.into(),
        component: "memory/mc0".into(),
        summary: "1200 corrected errors in an hour; at most 100 are usual".into(),
        evidence: vec![
            reading("correctable_errors", "", Read::Value(1200.0)),
            common::Reading {
                component: "memory/mc0/row3".into(),
                ..reading("temperature", "celsius", Read::Value(71.5))
            },
        ],
        first_seen_time: ago(7200),
        last_seen_time: ago(5),
        remedy: "replace the module in DIMM_A2".into(),
    };
    let unread = common::Verdict {
        code: "SOURCE_UNREADABLE".into(),
        condition: Condition::Unknown.into(),
        component: "source/ipmi".into(),
        summary: "ipmitool has not answered for 3 min\u{1b}[2J".into(),
        evidence: vec![reading(
            "power",
            "watts",
            Read::Unreadable("no answer within 10 s".into()),
        )],
        ..common::Verdict::default()
    };
    let component = |component: &str, condition: Condition| common::ComponentHealth {
        component: component.into(),
        condition: condition.into(),
    };
    let source = |name: &str, outcome| common::SourceHealth {
        name: name.into(),
        outcome: Some(outcome),
        read_time: ago(5),
        cadence_ms: 60_000,
    };
    common::NodeHealth {
        condition: Condition::Degraded.into(),
        verdicts: vec![storm, unread],
        components: vec![
            component("disk/nvme0n1", Condition::Healthy),
            component("memory/mc0", Condition::Degraded),
            component("nic/eth0", Condition::Healthy),
        ],
        sources: vec![
            source("edac", Outcome::Readings(4)),
            source("ipmi", Outcome::Unreadable("no answer within 10 s".into())),
            source("zfs", Outcome::Absent("no pools here".into())),
        ],
        readings: Vec::new(),
        judge_time: ago(2),
    }
}

#[test]
fn healths() {
    let node = wire::Node {
        name: "rack1-a".into(),
        quarantine: quarantine(false),
        ..wire::Node::default()
    };
    let answer = |readings| wire::GetNodeHealthResponse {
        node: Some(node.clone()),
        health: Some(common::NodeHealth {
            readings,
            ..unwell()
        }),
    };
    let plain = NodeHealth::from(answer(Vec::new()));
    let with = NodeHealth::from(answer(vec![
        reading(
            "correctable_errors",
            "",
            common::reading::Read::Value(1200.0),
        ),
        reading(
            "temperature",
            "celsius",
            common::reading::Read::Absent(true),
        ),
    ]));
    let text = format!(
        "{}\n---\n{}\n{}\n",
        plain.text(NOW),
        with.text(NOW),
        json(&with)
    );
    insta::assert_snapshot!("health", text);

    let summary = |node: &str, health, quarantine, release| wire::NodeHealthSummary {
        node: node.into(),
        health: Some(health),
        quarantine,
        release,
    };
    let healthy = common::NodeHealth {
        condition: common::Condition::Healthy.into(),
        ..common::NodeHealth::default()
    };
    let counts = [
        ("healthy", 46),
        ("degraded", 3),
        ("failing", 0),
        ("unknown", 1),
    ];
    let counts = counts.map(|(word, count)| (word.to_owned(), count));
    let nodes = vec![
        summary("rack1-c", common::NodeHealth::default(), None, None),
        summary("rack1-a", unwell(), quarantine(false), None),
        summary("rack1-b", unwell(), quarantine(true), None),
        summary("rack1-d", unwell(), quarantine(false), release()),
        summary("rack1-e", healthy, quarantine(false), None),
    ];
    let all = FabricHealth::new(counts.into(), nodes);
    let well = FabricHealth::new([("healthy".to_owned(), 1)].into(), Vec::new());
    let text = format!(
        "{}\n---\n{}\n{}\n",
        all.text(NOW),
        well.text(NOW),
        json(&all)
    );
    insta::assert_snapshot!("fabric_health", text);
}

#[test]
fn inventories() {
    let inventory = common::Inventory {
        system: Some(common::System {
            vendor: "Dell Inc.".into(),
            model: "PowerEdge R650".into(),
            serial: "7X2".into(),
            bios_vendor: "Dell Inc.".into(),
            bios_version: "1.9.2".into(),
            tpm_version: "2.0".into(),
            ..common::System::default()
        }),
        processors: vec![common::Processor {
            model: "Xeon Gold 6338".into(),
            cores: 32,
            threads: 64,
            max_mhz: 3200,
            microcode: "0xd0003b9".into(),
            flags: vec!["avx2".into(), "vmx".into()],
            ..common::Processor::default()
        }],
        numa_cells: vec![common::NumaCell {
            cell: 0,
            memory_mib: 131_072,
            cpus: "0-31,64-95".into(),
            distances: vec![10, 20],
            huge_pages: vec![common::HugePages {
                size_kib: 2048,
                total: 512,
                free: 500,
            }],
        }],
        memory_modules: vec![
            common::MemoryModule {
                slot: "DIMM_A1".into(),
                size_mib: 32_768,
                kind: "DDR4".into(),
                speed_mts: 3200,
                serial: "0A1B".into(),
                ..common::MemoryModule::default()
            },
            common::MemoryModule {
                slot: "DIMM_A2".into(),
                ..common::MemoryModule::default()
            },
        ],
        disks: vec![common::Disk {
            name: "nvme0n1".into(),
            model: "PM9A3".into(),
            serial: "S3Z9NB0K".into(),
            firmware: "GDC5".into(),
            size_bytes: 1 << 40,
            transport: "nvme".into(),
            ..common::Disk::default()
        }],
        nics: vec![common::Nic {
            name: "eth0".into(),
            mac: "02:00:00:00:00:01".into(),
            driver: "ice".into(),
            speed_mbps: 25_000,
            max_vfs: 64,
            bond: "bond0".into(),
            ..common::Nic::default()
        }],
        pci_devices: vec![common::PciDevice {
            address: "0000:3b:00.0".into(),
            vendor_id: "8086".into(),
            device_id: "1593".into(),
            vendor: "Intel".into(),
            class: "Ethernet controller".into(),
            driver: "ice".into(),
            iommu_group: Some(41),
            ..common::PciDevice::default()
        }],
        software: Some(common::Software {
            kernel: "6.1.0-18-amd64".into(),
            os: "Debian 12".into(),
            vulnerabilities: [("spectre_v2".into(), "Mitigation: IBRS".into())].into(),
            ..common::Software::default()
        }),
        virtualization: Some(common::Virtualization {
            virt_type: "kvm".into(),
            machine_types: (0..10).map(|n| format!("pc-q35-{n}")).collect(),
            iommu: true,
            ..common::Virtualization::default()
        }),
        unreadable: [("bmc".into(), "ipmitool isn't there".into())].into(),
        read_time: ago(60),
        changes: vec![common::PartChange {
            part: "memory/DIMM_A2".into(),
            before: "32 GiB DDR4".into(),
            after: String::new(),
        }],
        ..common::Inventory::default()
    };
    let inventory = Inventory::from(inventory);
    let (text, wide) = (inventory.text(NOW, false), inventory.text(NOW, true));
    assert!(!text.contains("0000:3b:00.0") && wide.contains("0000:3b:00.0"));
    insta::assert_snapshot!("inventory", format!("{wide}\n{}\n", json(&inventory)));
}

#[test]
fn images() {
    let image = wire::Image {
        id: ID.into(),
        name: "debian-12".into(),
        digest: format!("sha256:{}", "0123456789abcdef".repeat(4)),
        format: common::DiskFormat::Qcow2.into(),
        size_bytes: 13 << 20,
        virtual_size_bytes: 2 << 30,
        arch: common::Arch::X8664.into(),
        create_time: ago(303),
        created_by: "user/ada".into(),
        tenant: "water".into(),
    };
    golden("images", &[Image::from(image)]);
}

#[test]
fn users() {
    let grant = |role: wire::Role, tenant: &str| wire::Grant {
        role: role.into(),
        tenant: tenant.into(),
    };
    let ada = wire::User {
        subject: "user/ada".into(),
        display_name: "陈".into(),
        grants: vec![
            grant(wire::Role::Auditor, ""),
            grant(wire::Role::TenantAdministrator, "water"),
        ],
        external: Some(wire::ExternalIdentity {
            issuer: "https://id.example".into(),
            subject: "8f2c".into(),
        }),
        disabled: false,
        create_time: ago(303),
        created_by: "user/root".into(),
    };
    let machine = wire::User {
        subject: "machine/ci".into(),
        disabled: true,
        ..wire::User::default()
    };
    golden("users", &[ada, machine].map(User::from));
}

#[test]
fn tokens() {
    let token = wire::Token {
        id: ID.into(),
        subject: "node/rack1-a".into(),
        one_use: true,
        expire_time: later(1800),
        create_time: ago(42),
        created_by: "user/root".into(),
        ..wire::Token::default()
    };
    let used = wire::Token {
        one_use: false,
        use_time: ago(10),
        expire_time: ago(1),
        ..token.clone()
    };
    golden("tokens", &[token, used].map(Token::from));
}

#[test]
fn certificates() {
    let certificate = wire::Certificate {
        serial: SERIAL.into(),
        subject: "user/ada".into(),
        authority: "ab".repeat(32),
        issue_time: ago(303),
        expire_time: later(42_000),
        ..wire::Certificate::default()
    };
    let revoked = wire::Certificate {
        revoke_time: ago(42),
        revoke_reason: "laptop lost".into(),
        ..certificate.clone()
    };
    golden(
        "certificates",
        &[certificate, revoked].map(certificate::Certificate::from),
    );
    let authority = wire::Authority {
        fingerprint: "ab".repeat(32),
        state: wire::AuthorityState::Retiring.into(),
        certificate_pem: "-----BEGIN CERTIFICATE-----\n".into(),
        state_time: ago(303),
        certificates: 17,
    };
    golden("authorities", &[certificate::Authority::from(authority)]);
}

#[test]
fn tenants() {
    let city = wire::Tenant {
        name: "city".into(),
        display_name: "city".into(),
        state: wire::TenantState::Active.into(),
        ..wire::Tenant::default()
    };
    let water = wire::Tenant {
        isolation_in_force: "secret".into(),
        name: "water".into(),
        display_name: "水务局".into(),
        parent: "city".into(),
        contacts: vec!["desk@water.example".into()],
        state: wire::TenantState::Suspended.into(),
        quota: Some(wire::Quota {
            vcpus: Some(64),
            memory_mib: Some(256 << 10),
            volume_bytes: Some(4 << 40),
            gpus: Some(4),
            ..wire::Quota::default()
        }),
        reserved: Some(wire::Amounts {
            vcpus: 16,
            ..wire::Amounts::default()
        }),
        usage: Some(wire::TenantUsage {
            own: Some(amounts(30)),
            used: Some(amounts(60)),
            held: Some(amounts(72)),
        }),
        overcommitted: vec![wire::Overcommitted {
            dimension: wire::Dimension::Vcpus.into(),
            amount: 8,
        }],
        etag: "1f6d".into(),
        ..wire::Tenant::default()
    };
    golden("tenants", &[water.clone(), city].map(Tenant::from));
    let quota = TenantQuota::of(water).unwrap();
    let json = serde_json::to_string_pretty(&quota).unwrap();
    insta::assert_snapshot!("quota", format!("{}\n{json}\n", quota.table()));
}

fn amounts(vcpus: u64) -> wire::Amounts {
    wire::Amounts {
        vcpus,
        memory_mib: vcpus << 11,
        instances: vcpus / 2,
        volumes: vcpus / 2,
        volume_bytes: vcpus << 34,
        addresses: vcpus / 2,
        gpus: vcpus / 16,
    }
}

#[test]
fn audits() {
    let done = wire::AuditEntry {
        sequence: 41,
        time: ago(0),
        actor: "user/ada".into(),
        source: "10.0.0.7:51234".into(),
        kinds: vec!["instance.created".into(), "claim.made".into()],
        objects: vec!["instance/web".into()],
        outcome: "done".into(),
        messages: vec!["web was created on rack1-a".into()],
        operation_id: ID.into(),
        request_id: "r-1".into(),
        refused_count: 0,
        hash: "00".repeat(32),
    };
    let refused = wire::AuditEntry {
        outcome: "refused".into(),
        refused_count: 1200,
        operation_id: String::new(),
        ..done.clone()
    };
    golden("audit", &[done, refused].map(audit::Entry::from));
    let verdict = audit::Verdict::from(wire::VerifyAuditResponse {
        sound: false,
        entries: 120,
        first_sequence: 1,
        last_sequence: 120,
        heads: 3,
        unasked_nodes: vec!["rack1-b".into()],
        faults: vec![wire::AuditFault {
            sequence: 77,
            kind: "edited".into(),
            message: "its content isn't what its hash says".into(),
        }],
    });
    insta::assert_snapshot!(
        "verdict",
        format!("{}\n{}\n", verdict.text(), json(&verdict))
    );
}

#[test]
fn access() {
    let answer = Access::from(wire::ExplainAccessResponse {
        allowed: false,
        policies: vec![wire::DecidingPolicy {
            id: "auditors-change-nothing".into(),
            forbids: true,
            source: "built-in".into(),
            text: "forbid (principal, action, resource);".into(),
        }],
        summary: "user/ada may not delete instance/web".into(),
    });
    insta::assert_snapshot!(
        "access",
        format!("{}\n{}\n", answer.text(true), json(&answer))
    );
}

fn instance() -> wire::Instance {
    wire::Instance {
        id: ID.into(),
        name: "web".into(),
        tenant: "water".into(),
        system: "billing".into(),
        groups: vec!["near".into(), "web".into()],
        flavor: "small".into(),
        spec: Some(common::InstanceSpec {
            arch: common::Arch::X8664.into(),
            vcpus: 2,
            memory_mib: 2048,
            root: Some(common::RootDisk {
                image_digest: format!("sha256:{}", "ab".repeat(32)),
                image_format: common::DiskFormat::Qcow2.into(),
                image_bytes: 13 << 20,
                size_bytes: 20 << 30,
            }),
            run_policy: common::RunPolicy::RestartOnCrash.into(),
            needs: Some(needs()),
        }),
        power: common::Power::Running.into(),
        generation: 3,
        etag: "e3".into(),
        image_name: "debian-12".into(),
        phase: common::Phase::Running.into(),
        incarnations: vec![wire::Incarnation {
            id: "0190d6b4-1111-7c3a-8b1e-2f6d1c9a0b33".into(),
            node_id: NODE_ID.into(),
            node_name: "rack1-a".into(),
            role: IncarnationRole::Active.into(),
            claim_vcpus: 2,
            claim_memory_mib: 2200,
            status: Some(common::InstanceStatus {
                phase: common::Phase::Running.into(),
                generation: 3,
                epoch: 7,
                guest_agent: true,
                drift: vec!["memory was changed from outside".into()],
                vcpus: 2,
                memory_mib: 1024,
                resize_pending: true,
                ..common::InstanceStatus::default()
            }),
            assignment: Some(own()),
            surplus: Some(common::Assignment {
                cells: vec![common::CellShare {
                    cell: 1,
                    vcpus: 1,
                    threads: vec![9],
                    memory_mib: 0,
                }],
                ..common::Assignment::default()
            }),
        }],
        guest_agent: true,
        create_time: ago(15_120),
        created_by: "user/ada".into(),
        counters: Some(common::Counters {
            starts: 1,
            restarts: 1,
            resets: 0,
        }),
        counters_done: Some(common::Counters {
            starts: 1,
            restarts: 1,
            resets: 0,
        }),
        ..wire::Instance::default()
    }
}

#[test]
fn instances() {
    let stopped = wire::Instance {
        name: "db".into(),
        power: common::Power::Stopped.into(),
        phase: common::Phase::Stopped.into(),
        flavor: String::new(),
        ended: common::Ended::ByGuest.into(),
        incarnations: Vec::new(),
        spec: instance().spec.map(|spec| common::InstanceSpec {
            needs: None,
            ..spec
        }),
        guest_agent: false,
        ..instance()
    };
    golden(
        "instances",
        &[Instance::from(instance()), Instance::from(stopped)],
    );
}

#[test]
fn flavors() {
    let small = wire::Flavor {
        name: "small".into(),
        vcpus: 2,
        memory_mib: 4096,
        visible_to: vec!["city".into()],
        etag: "e1".into(),
        create_time: ago(86_400),
        created_by: "user/li".into(),
        ..wire::Flavor::default()
    };
    let gis = wire::Flavor {
        name: "gis".into(),
        vcpus: 32,
        memory_mib: 262_144,
        root_disk_bytes: 500 << 30,
        description: "地图服务".into(),
        visible_to: vec!["land".into(), "water".into()],
        needs: Some(needs()),
        ..small.clone()
    };
    golden("flavors", &[small, gis].map(Flavor::from));
}

#[test]
fn groups() {
    let place = |node: &str, rack: &str| wire::GroupPlace {
        node: node.into(),
        rack: rack.into(),
        room: String::new(),
    };
    let member = |instance: &str, places: Vec<wire::GroupPlace>| wire::GroupMember {
        instance: instance.into(),
        places,
    };
    let web = wire::Group {
        tenant: "water".into(),
        name: "web".into(),
        kind: wire::GroupKind::Apart.into(),
        domain: wire::GroupDomain::Rack.into(),
        size: 3,
        members: vec![
            member("web-1", vec![place("rack1-a", "r1")]),
            member("web-2", vec![place("rack2-a", "r2"), place("rack3-a", "")]),
            member("web-3", Vec::new()),
        ],
        create_time: ago(3600),
        created_by: "user/ada".into(),
        ..wire::Group::default()
    };
    let near = wire::Group {
        name: "near".into(),
        kind: wire::GroupKind::Together.into(),
        domain: wire::GroupDomain::Node.into(),
        soft: true,
        kept: true,
        size: 0,
        members: Vec::new(),
        ..web.clone()
    };
    golden("groups", &[web, near].map(Group::from));
}

#[test]
fn systems() {
    let day = 86_400;
    let billing = wire::System {
        tenant: "water".into(),
        name: "billing".into(),
        display_name: "收费系统".into(),
        owner: "水务局 王处长".into(),
        contacts: vec!["12345".into(), "billing@water.example".into()],
        availability_class: wire::AvailabilityClass::Restart.into(),
        request_time: ago(100 * day),
        live_time: ago(90 * day),
        end_time: later(6 * day),
        end_warning_days: Some(7),
        instances: 3,
        vcpus: 12,
        memory_mib: 49_152,
        etag: "e1".into(),
        create_time: ago(99 * day),
        created_by: "user/ada".into(),
    };
    let fresh = wire::System {
        name: "default".into(),
        display_name: "default".into(),
        owner: String::new(),
        contacts: Vec::new(),
        availability_class: wire::AvailabilityClass::None.into(),
        live_time: None,
        end_time: None,
        end_warning_days: None,
        ..billing.clone()
    };
    let over = wire::System {
        end_time: ago(day),
        end_warning_days: Some(1),
        ..billing.clone()
    };
    golden("systems", &[billing, fresh, over].map(System::from));
}

#[test]
fn operations() {
    let running = wire::Operation {
        id: ID.into(),
        kind: OperationKind::Create.into(),
        state: OperationState::Running.into(),
        instance_id: ID.into(),
        instance_name: "web".into(),
        requested_by: "user/ada".into(),
        create_time: ago(42),
        deadline: ago(0),
        progress_permille: Some(420),
        detail: "pulling the image".into(),
        generation: 1,
        trace_id: "0af7651916cd43dd8448eb211c80319c".into(),
        ..wire::Operation::default()
    };
    let ended = wire::Operation {
        state: OperationState::Failed.into(),
        end_time: ago(40),
        progress_permille: None,
        detail: "the disk is full".into(),
        ..running.clone()
    };
    let ended = Operation::from(ended);
    assert_eq!(
        ended.ending(),
        "web: create failed after 2.0s: the disk is full"
    );
    golden("operations", &[Operation::from(running), ended]);
}

#[test]
fn plans() {
    let figures = |nodes_in_use, largest_free_vcpus, highest_permille| {
        Some(wire::PlanFigures {
            nodes_in_use,
            largest_free_vcpus,
            largest_free_memory_mib: 1024 * u64::from(largest_free_vcpus),
            highest_permille,
        })
    };
    let plan = wire::Plan {
        kind: wire::PlanKind::Consolidate.into(),
        moves: vec![wire::PlannedMove {
            instance_id: ID.into(),
            tenant: "water".into(),
            instance_name: "billing".into(),
            incarnation_id: ID.into(),
            from_node: "rack1-a".into(),
            to_node: "rack1-b".into(),
            vcpus: 4,
            memory_mib: 8400,
            reason: "its node is emptied by this move".into(),
        }],
        stays: vec![wire::PlannedStay {
            incarnation_id: ID.into(),
            node: "rack1-c".into(),
            reason: "nothing is known of it but its claim".into(),
            ..wire::PlannedStay::default()
        }],
        method: wire::PlanMethod::Solver.into(),
        before: figures(3, 60, 812),
        after: figures(1, 64, 900),
        freed_nodes: [(212, true), (150, false)]
            .map(|(watts, measured)| wire::FreedNode {
                node: "rack1-a".into(),
                watts,
                measured,
            })
            .into(),
        freed_kwh_per_year: 3171,
        moved_memory_mib: 8400,
        compute_time: ago(2),
        sequence: 4711,
    };
    let plan = Plan::from(plan);
    insta::assert_snapshot!("plan", format!("{}\n{}\n", plan.text(NOW), json(&plan)));
}

#[test]
fn capacities() {
    let small = wire::CapacityFits {
        flavor: "small".into(),
        vcpus: 2,
        memory_mib: 4096,
        arch: common::Arch::X8664.into(),
        count: 3,
        bound: wire::CapacityBound::Quota.into(),
        bound_tenant: "water".into(),
        bound_dimensions: vec![wire::Dimension::Vcpus.into()],
        quota: Some(3),
        nodes: Some(40),
        with_node_spare: Some(31),
        with_rack_spare: Some(20),
    };
    let large = wire::CapacityFits {
        flavor: String::new(),
        vcpus: 64,
        count: 0,
        bound: wire::CapacityBound::Headroom.into(),
        bound_tenant: String::new(),
        bound_dimensions: Vec::new(),
        quota: None,
        nodes: Some(1),
        with_node_spare: Some(0),
        with_rack_spare: Some(0),
        ..small.clone()
    };
    let free = |nodes| {
        Some(wire::FreeCapacity {
            nodes,
            vcpus: 16 * nodes,
            memory_mib: 2048 * nodes,
        })
    };
    let spare = |outcome: wire::SpareOutcome, lost: &[&str], undecided: &[&str]| {
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        Some(wire::SpareAudit {
            outcome: outcome.into(),
            audited: 12,
            lost: names(lost),
            undecided: names(undecided),
        })
    };
    let fabric = wire::FabricCapacity {
        free: free(12),
        stranded: free(2),
        node_spare: spare(wire::SpareOutcome::Undecided, &[], &["rack1-a"]),
        rack_spare: spare(wire::SpareOutcome::Fails, &["east/r1", "east/r2"], &[]),
        headroom: "node".into(),
        overcommitted_nodes: vec![wire::OvercommittedNode {
            node: "rack1-c".into(),
            overcommitted: [("vcpus", 2), ("memory_mib", 1536), ("devices", 1)]
                .map(|(dimension, amount)| wire::NodeOvercommitted {
                    dimension: dimension.into(),
                    amount,
                })
                .into(),
        }],
    };
    let all = Capacity::from(wire::Capacity {
        tenant: String::new(),
        fits: vec![small.clone(), large],
        fabric: Some(fabric),
    });
    // Whoever doesn't run nodes, and doesn't reach the tenant whose quota is full.
    let own = Capacity::from(wire::Capacity {
        tenant: "pumps".into(),
        fits: vec![wire::CapacityFits {
            bound_tenant: String::new(),
            nodes: None,
            with_node_spare: None,
            with_rack_spare: None,
            ..small
        }],
        fabric: None,
    });
    let text = format!(
        "{}\n{}\n{}\n{}\n",
        all.text(),
        own.text(),
        json(&all),
        json(&own)
    );
    insta::assert_snapshot!("capacity", text);
}

#[test]
fn explanations() {
    let answer = wire::ExplainInstanceResponse {
        node_name: "rack1-a".into(),
        summary: "rack1-a has the most free memory".into(),
        claim_vcpus: 2,
        claim_memory: Some(wire::MemoryClaim {
            guest_mib: 2048,
            tables_mib: 8,
            vcpus_mib: 16,
            fixed_mib: 128,
            total_mib: 2200,
        }),
        nodes: vec![
            wire::NodeAnswer {
                node_id: NODE_ID.into(),
                node_name: "rack1-a".into(),
                fits: true,
                reason: "score 0.87".into(),
                ..wire::NodeAnswer::default()
            },
            wire::NodeAnswer {
                node_name: "rack1-b".into(),
                filter: "memory".into(),
                reason: "needs 2200 MiB, 512 MiB are free".into(),
                ..wire::NodeAnswer::default()
            },
        ],
        counts: vec![wire::FilterCount {
            filter: "memory".into(),
            nodes: 1,
        }],
        assignment: Some(own()),
    };
    let answer = Explanation::from(answer);
    insta::assert_snapshot!(
        "explanation",
        format!("{}\n{}\n", answer.text(), json(&answer))
    );
}

fn controller(name: &str, role: wire::ControllerRole, behind: u64) -> wire::Controller {
    wire::Controller {
        name: name.into(),
        address: format!("{name}.city.example:7700"),
        role: role.into(),
        version: "1.2.3".into(),
        seq: 4711 - behind,
        behind,
        age: Some(prost_types::Duration {
            seconds: i64::try_from(behind).unwrap(),
            nanos: 250_000_000,
        }),
        missing_keys: u32::from(behind > 100),
    }
}

#[test]
fn controllers() {
    use wire::ControllerRole::{Follows, Leads};
    let mut leader = controller("a", Leads, 0);
    leader.age = None;
    let member = |name: &str, leads: bool| wire::StoreMember {
        name: name.into(),
        endpoint: format!("https://{name}.city.example:2379"),
        version: "3.5.16".into(),
        leads,
        database_bytes: 48 << 20,
        used_bytes: 31 << 20,
        quota_bytes: 2 << 30,
        latency: Some(prost_types::Duration {
            seconds: 0,
            nanos: 1_250_000,
        }),
        ..wire::StoreMember::default()
    };
    let full = wire::StoreMember {
        database_bytes: 2 << 30,
        alarms: vec!["no_space".into()],
        ..member("etcd-b", false)
    };
    let gone = wire::StoreMember {
        endpoint: "https://etcd-c.city.example:2379".into(),
        failure: "connection refused".into(),
        ..wire::StoreMember::default()
    };
    let answer = Leadership::from(wire::ListControllersResponse {
        controllers: vec![
            leader,
            controller("b", Follows, 0),
            controller("c", Follows, 312),
        ],
        epoch: 7,
        seq: 4711,
        members: vec![member("etcd-a", true), full, gone],
    });
    assert_eq!(answer.leader().unwrap().name, "a");
    let (table, wide) = (answer.text(false), answer.text(true));
    insta::assert_snapshot!(
        "controllers",
        format!("{table}\n{wide}\n{}\n", json(&answer))
    );
}

#[test]
fn events() {
    let event = Event::from(wire::Event {
        sequence: 41,
        time: ago(0),
        kind: "instance.created".into(),
        actor: "user/ada".into(),
        subject_id: ID.into(),
        subject_name: "web".into(),
        operation_id: String::new(),
        message: "web was created on rack1-a".into(),
        hash: "00".repeat(32),
    });
    let lines: Vec<_> = [false, true]
        .into_iter()
        .map(|wide| format!("{}\n{}\n", Event::header(wide), event.line(wide)))
        .collect();
    insta::assert_snapshot!("event", format!("{}\n{}\n", lines.join("\n"), json(&event)));
}

/// FAULTS 64: what a newer controller says is shown as it is, and nothing is made of it.
#[test]
fn unknown_words_are_shown_as_such() {
    let newer = wire::Instance {
        phase: 99,
        ended: 98,
        power: 97,
        ..instance()
    };
    let seen = serde_json::to_value(Instance::from(newer)).unwrap();
    assert_eq!(seen["phase"], "unrecognized-99");
    assert_eq!(seen["ended"], "unrecognized-98");
    assert_eq!(seen["power"], "unrecognized-97");
    let newer = wire::Operation {
        state: 99,
        kind: 99,
        ..wire::Operation::default()
    };
    let seen = Operation::from(newer);
    assert_eq!(seen.state, "unrecognized-99");
    assert!(!seen.has_ended(), "its end isn't known");
}
