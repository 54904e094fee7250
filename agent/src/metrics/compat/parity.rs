//! prometheus-node-exporter itself, on the same files: its names, labels, types and values are ours.

use std::{collections::BTreeMap, fs, os::unix::fs::symlink, path::Path};

use kapok_lab::exporter::{NodeExporter, series};
use kapok_metrics::{Format, Writer};
use prometheus_client::registry::Registry;

use super::{
    tests::Page,
    tree::{self, Tree},
};

#[path = "../../../health/tests/server/mod.rs"]
mod server;

/// Collectors that read the files that the tree is read from.
const COLLECTORS: &[&str] = &[
    "bonding",
    "cpu",
    "edac",
    "hwmon",
    "loadavg",
    "meminfo",
    "netdev",
    "pressure",
    "thermal_zone",
];

#[test]
fn node_exporter_says_the_same() {
    if let Some(missing) = NodeExporter::obstacle() {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{missing}");
        println!("SKIP node_exporter_says_the_same: {missing}");
        return;
    }
    let server = server::sound();
    put_more(server.path());
    let exporter = NodeExporter::start(server.path(), COLLECTORS).unwrap();
    let (ours, theirs) = (page(server.path()), exporter.page().unwrap());
    let (our_types, their_types) = (types(&ours), types(&theirs));
    for name in tree::ALL.iter().flat_map(kapok_metrics::Name::exported) {
        let [our, their] = [&our_types, &their_types].map(|types| types.get(name.as_str()));
        assert!(our.is_some(), "the server has no {name}");
        assert_eq!(our, their, "{name}");
    }
    let theirs = series(&theirs).into_iter();
    // What of theirs has a name of ours, whole.
    let theirs = theirs.filter(|(series, _)| our_types.contains_key(family(series)));
    let theirs: BTreeMap<_, _> = theirs.collect();
    let ours = series(&ours);
    assert_eq!(
        ours.keys().collect::<Vec<_>>(),
        theirs.keys().collect::<Vec<_>>()
    );
    for (series, ours) in ours {
        let theirs = theirs[&series];
        let same = (ours - theirs).abs() <= 1e-9 * ours.abs().max(1.0);
        assert!(same, "{series} is {ours} here and {theirs} there");
    }
}

/// What no source of health reads, and what chips of other kinds look like.
fn put_more(root: &Path) {
    let put = |path: &str, text: &str| {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    put("proc/loadavg", "0.52 0.25 0.11 1/523 4242\n");
    put(
        "proc/meminfo",
        "MemTotal:       65842356 kB\nMemFree:         1234 kB\nMemAvailable:   60000000 kB\n\
         Buffers:            4 kB\nCached:          5678 kB\nSwapCached:         0 kB\n\
         SwapTotal:       1024 kB\nSwapFree:         512 kB\nHugePages_Total:       3\n",
    );
    let link = |at: &str, to: &str| symlink(to, root.join(at)).unwrap();
    // On a PCI bus: colons stay, dots don't.
    let device = "sys/devices/pci0000:00/0000:00:18.3";
    put(&format!("{device}/vendor"), "0x1022\n");
    put("sys/class/hwmon/hwmon7/name", "k10temp\n");
    put("sys/class/hwmon/hwmon7/temp1_input", "38125\n");
    link(
        "sys/class/hwmon/hwmon7/device",
        "../../../devices/pci0000:00/0000:00:18.3",
    );
    // A driver of old, whose files are at the device.
    put("sys/devices/platform/Old.Chip/fan3_input", "901\n");
    fs::create_dir_all(root.join("sys/class/hwmon/hwmon8")).unwrap();
    link(
        "sys/class/hwmon/hwmon8/device",
        "../../../devices/platform/Old.Chip",
    );
    // No device, and a name that is no word.
    put("sys/class/hwmon/hwmon9/name", "--ACPI Fan--\n");
    put("sys/class/hwmon/hwmon9/fan1_input", "garbage\n");
    put("sys/class/hwmon/hwmon9/fan2_input", "1200\n");
}

fn page(root: &Path) -> String {
    let tree = Tree::read(root);
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Page(move |writer: &mut Writer<'_>| {
        tree.write(writer)
    })));
    Format::Classic.write(&registry).unwrap()
}

fn family(series: &str) -> &str {
    series.split('{').next().unwrap_or_default()
}

fn types(page: &str) -> BTreeMap<&str, &str> {
    let lines = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    lines.filter_map(|line| line.split_once(' ')).collect()
}
