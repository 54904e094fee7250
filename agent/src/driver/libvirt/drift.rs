//! What somebody changed behind Kapok's back: the record against what libvirt shows. Pure.

use kapok_libvirt::xml::{domain_view::DomainView, metadata::Metadata, placement::Placement};
use kapok_types::{Vcpus, quantity::MIB};

use super::record::{Hardware, Ours};
use crate::driver::Record;

mod placement;

/// Most differences that are told.
const MOST: usize = 16;

/// What libvirt shows of a domain of ours.
pub(super) struct Shown<'a> {
    /// The definition used at the next start.
    pub(super) config: &'a DomainView,
    /// The running guest's description.
    pub(super) live: Option<&'a DomainView>,
    /// Whether a definition exists at all.
    pub(super) persistent: bool,
    /// Whether libvirtd starts it by itself.
    pub(super) autostart: bool,
    /// Where it is to be on the host, when the host's cells are known.
    pub(super) placement: Option<&'a Placement>,
    /// The network that it is to be plugged into.
    pub(super) network: &'a str,
    /// Where its root disk must be, when the pool's folder is known.
    pub(super) root_path: Option<&'a str>,
}

/// Whether the running guest's record isn't the definition's.
pub(super) fn live_lags(live: &DomainView, config: &DomainView) -> bool {
    let text = |view: &DomainView| {
        view.metadata
            .as_ref()
            .map(Metadata::as_str)
            .map(str::to_owned)
    };
    text(live) != text(config)
}

/// The differences, in words.
pub(super) fn find(ours: &Ours, shown: &Shown<'_>) -> Vec<String> {
    let record = &ours.record;
    let next = Hardware::of(&record.intent);
    let mut found = Vec::new();
    if !shown.persistent {
        found.push("the definition was removed while the domain runs".into());
    }
    if shown.autostart {
        found.push("autostart was turned on".into());
    }
    hardware(&next, shown.config, "the definition", &mut found);
    compare(record, shown, shown.config, "the definition", &mut found);
    if let Some(wanted) = shown.placement {
        let place = &shown.config.placement;
        placement::features(wanted, place, "the definition", &mut found);
        placement::compare(wanted, place, "the definition", &mut found);
    }
    if let Some(live) = shown.live {
        // A guest keeps what it was started with, whatever the record asks for by now. How many
        // vCPUs it could be given is nobody's concern: older definitions left no room.
        let runs = ours.hardware(Vcpus(live.vcpus));
        hardware(&runs, live, "the running domain", &mut found);
        compare(record, shown, live, "the running domain", &mut found);
        // One that was started with other hardware is where that was.
        if let Some(wanted) = shown.placement.filter(|_| ours.started.is_none()) {
            placement::compare(wanted, &live.placement, "the running domain", &mut found);
        }
        if live_lags(live, shown.config) {
            found.push("the running domain's record isn't the definition's".into());
        }
    }
    found.dedup();
    found.truncate(MOST);
    found
}

fn hardware(wanted: &Hardware, view: &DomainView, place: &str, found: &mut Vec<String>) {
    if view.vcpus != wanted.vcpus.get() {
        found.push(format!(
            "{place} has {} vCPUs instead of {}",
            view.vcpus, wanted.vcpus
        ));
    }
    if Some(view.memory_bytes) != wanted.memory.to_bytes().map(kapok_types::Bytes::get) {
        found.push(format!(
            "{place} has {} MiB of memory instead of {}",
            view.memory_bytes / MIB,
            wanted.memory.get()
        ));
    }
}

fn compare(
    record: &Record,
    shown: &Shown<'_>,
    view: &DomainView,
    place: &str,
    found: &mut Vec<String>,
) {
    if view.virt_type != record.virt_type {
        found.push(format!(
            "{place} has the type {:?} instead of {:?}",
            cut(&view.virt_type),
            record.virt_type
        ));
    }
    if let Some(machine) = view
        .machine
        .as_ref()
        .filter(|found| **found != record.machine)
    {
        found.push(format!(
            "{place} has the machine type {:?} instead of {:?}",
            cut(machine),
            record.machine
        ));
    }
    disks(shown, view, place, found);
    let networks = view.nics.iter().filter_map(|nic| nic.network.as_deref());
    for network in networks.filter(|network| *network != shown.network) {
        found.push(format!(
            "{place} is plugged into the network {:?} instead of {:?}",
            cut(network),
            shown.network
        ));
    }
}

fn disks(shown: &Shown<'_>, view: &DomainView, place: &str, found: &mut Vec<String>) {
    let is_root = |source: &Option<String>| {
        shown
            .root_path
            .is_none_or(|wanted| source.as_deref() == Some(wanted))
    };
    match view.disks.iter().find(|disk| is_root(&disk.source)) {
        None => found.push(format!("{place} lacks the root disk")),
        Some(disk)
            if disk
                .format
                .as_deref()
                .is_some_and(|format| format != "qcow2") =>
        {
            found.push(format!(
                "{place} reads the root disk as {:?} instead of \"qcow2\"",
                cut(disk.format.as_deref().unwrap_or_default())
            ));
        }
        Some(_) => {}
    }
    let extra = view.disks.len().saturating_sub(1);
    if extra > 0 {
        found.push(format!("{place} has {extra} disks more than the root disk"));
    }
}

/// Foreign text in messages stays short.
fn cut(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use kapok_libvirt::xml::{
        domain_view::{DiskView, NicView},
        placement::PlacementView,
    };

    use super::*;
    use crate::driver::libvirt::record::{self, tests::record};

    const ROOT: &str = "/pool/root.qcow2";

    fn view() -> DomainView {
        DomainView {
            uuid: record().intent.incarnation.0,
            name: "kapok-x".into(),
            title: None,
            virt_type: "qemu".into(),
            arch: Some("x86_64".into()),
            machine: Some("pc-q35-7.2".into()),
            memory_bytes: 256 * MIB,
            vcpus: 2,
            most_vcpus: 2,
            placement: PlacementView::default(),
            disks: vec![DiskView {
                target: "vda".into(),
                source: Some(ROOT.into()),
                format: Some("qcow2".into()),
            }],
            nics: vec![NicView {
                mac: None,
                network: Some("kapok".into()),
                tap: None,
                bridge: None,
            }],
            metadata: record::write(&"kapok".parse().unwrap(), &record(), None).ok(),
        }
    }

    fn ours(started: Option<Hardware>) -> Ours {
        Ours {
            record: record(),
            started,
        }
    }

    fn check(
        change: impl Fn(&mut DomainView, &mut DomainView),
        autostart: bool,
        expected: &[&str],
    ) {
        let (mut config, mut live) = (view(), view());
        change(&mut config, &mut live);
        let shown = Shown {
            config: &config,
            live: Some(&live),
            persistent: true,
            autostart,
            placement: Some(&Placement::default()),
            network: "kapok",
            root_path: Some(ROOT),
        };
        assert_eq!(find(&ours(None), &shown), expected);
    }

    #[test]
    fn every_difference_is_told_once() {
        check(|_, _| {}, false, &[]);
        // A definition from before there was room for vCPUs, with a guest that has some, is none.
        check(|_, live| live.most_vcpus = 8, false, &[]);
        check(|_, _| {}, true, &["autostart was turned on"]);
        check(
            |config, _| config.vcpus = 4,
            false,
            &["the definition has 4 vCPUs instead of 2"],
        );
        check(
            |_, live| live.memory_bytes = 512 * MIB,
            false,
            &["the running domain has 512 MiB of memory instead of 256"],
        );
        check(
            |config, _| config.disks[0].source = Some("/etc/shadow".into()),
            false,
            &["the definition lacks the root disk"],
        );
        check(
            |config, _| config.disks[0].format = Some("raw".into()),
            false,
            &["the definition reads the root disk as \"raw\" instead of \"qcow2\""],
        );
        check(
            |_, live| live.disks.push(live.disks[0].clone()),
            false,
            &["the running domain has 1 disks more than the root disk"],
        );
        check(
            |_, live| live.metadata = None,
            false,
            &["the running domain's record isn't the definition's"],
        );
        check(
            |_, live| live.nics[0].network = Some("default".into()),
            false,
            &["the running domain is plugged into the network \"default\" instead of \"kapok\""],
        );
        check(
            |config, _| config.machine = Some("pc-q35-6.2".into()),
            false,
            &["the definition has the machine type \"pc-q35-6.2\" instead of \"pc-q35-7.2\""],
        );
    }

    /// A change of hardware that waits for the next start is no drift; one behind Kapok's back is.
    #[test]
    fn what_runs_is_compared_with_what_was_started() {
        let started = Hardware {
            vcpus: Vcpus(1),
            ..Hardware::of(&record().intent)
        };
        let (config, mut live) = (view(), view());
        live.vcpus = 1;
        let found = |live: &DomainView| {
            let shown = Shown {
                config: &config,
                live: Some(live),
                persistent: true,
                autostart: false,
                placement: Some(&Placement::default()),
                network: "kapok",
                root_path: Some(ROOT),
            };
            find(&ours(Some(started.clone())), &shown)
        };
        assert_eq!(found(&live), Vec::<String>::new());
        // It was given what the record asks for.
        live.vcpus = 2;
        assert_eq!(found(&live), Vec::<String>::new());
        live.vcpus = 3;
        assert_eq!(
            found(&live),
            ["the running domain has 3 vCPUs instead of 1"]
        );
    }

    #[test]
    fn a_removed_definition_is_told() {
        let view = view();
        let shown = Shown {
            config: &view,
            live: None,
            persistent: false,
            autostart: false,
            placement: None,
            network: "kapok",
            root_path: None,
        };
        assert_eq!(
            find(&ours(None), &shown),
            ["the definition was removed while the domain runs"]
        );
    }
}
