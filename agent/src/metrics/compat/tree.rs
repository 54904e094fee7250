//! `node_exporter`'s series, read from the same files as it does.

use std::{
    collections::BTreeMap,
    fmt, fs,
    path::{Path, PathBuf},
};

use kapok_metrics::{Name, Writer, label};

/// A series: its labels and its value.
type Line = (Vec<(&'static str, String)>, f64);

/// What was read, by name.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Tree(BTreeMap<&'static str, (Name, Vec<Line>)>);

macro_rules! names {
    ($($name:ident = $kind:ident $text:literal, $help:literal;)*) => {
        $(const $name: Name = Name::$kind($text, $help);)*

        /// All of them.
        #[cfg(test)]
        pub(super) const ALL: &[Name] = &[$($name,)*];
    };
}

names! {
    LOAD1 = gauge "node_load1", "1m load average";
    LOAD5 = gauge "node_load5", "5m load average";
    LOAD15 = gauge "node_load15", "15m load average";
    MEM_TOTAL = gauge "node_memory_MemTotal_bytes", "Memory information field MemTotal_bytes";
    MEM_FREE = gauge "node_memory_MemFree_bytes", "Memory information field MemFree_bytes";
    MEM_AVAILABLE = gauge "node_memory_MemAvailable_bytes", "Memory information field MemAvailable_bytes";
    BUFFERS = gauge "node_memory_Buffers_bytes", "Memory information field Buffers_bytes";
    CACHED = gauge "node_memory_Cached_bytes", "Memory information field Cached_bytes";
    SWAP_TOTAL = gauge "node_memory_SwapTotal_bytes", "Memory information field SwapTotal_bytes";
    SWAP_FREE = gauge "node_memory_SwapFree_bytes", "Memory information field SwapFree_bytes";
    PRESSURE_CPU = counter "node_pressure_cpu_waiting_seconds", "Total time in seconds that processes have waited for CPU time";
    PRESSURE_IO = counter "node_pressure_io_waiting_seconds", "Total time in seconds that processes have waited due to IO congestion";
    PRESSURE_IO_ALL = counter "node_pressure_io_stalled_seconds", "Total time in seconds no process could make progress due to IO congestion";
    PRESSURE_MEM = counter "node_pressure_memory_waiting_seconds", "Total time in seconds that processes have waited for memory";
    PRESSURE_MEM_ALL = counter "node_pressure_memory_stalled_seconds", "Total time in seconds no process could make progress due to memory congestion";
    RX_BYTES = counter "node_network_receive_bytes", "Network device statistic receive_bytes";
    RX_PACKETS = counter "node_network_receive_packets", "Network device statistic receive_packets";
    RX_ERRS = counter "node_network_receive_errs", "Network device statistic receive_errs";
    RX_DROP = counter "node_network_receive_drop", "Network device statistic receive_drop";
    TX_BYTES = counter "node_network_transmit_bytes", "Network device statistic transmit_bytes";
    TX_PACKETS = counter "node_network_transmit_packets", "Network device statistic transmit_packets";
    TX_ERRS = counter "node_network_transmit_errs", "Network device statistic transmit_errs";
    TX_DROP = counter "node_network_transmit_drop", "Network device statistic transmit_drop";
    CE = counter "node_edac_correctable_errors", "Total correctable memory errors";
    UE = counter "node_edac_uncorrectable_errors", "Total uncorrectable memory errors";
    CSROW_CE = counter "node_edac_csrow_correctable_errors", "Total correctable memory errors for this csrow";
    CSROW_UE = counter "node_edac_csrow_uncorrectable_errors", "Total uncorrectable memory errors for this csrow";
    THERMAL = gauge "node_thermal_zone_temp", "Zone temperature in Celsius";
    CORE_THROTTLES = counter "node_cpu_core_throttles", "Number of times this CPU core has been throttled";
    PACKAGE_THROTTLES = counter "node_cpu_package_throttles", "Number of times this CPU package has been throttled";
    BOND_SLAVES = gauge "node_bonding_slaves", "Number of configured slaves per bonding interface";
    BOND_ACTIVE = gauge "node_bonding_active", "Number of active slaves per bonding interface";
    HWMON_TEMP = gauge "node_hwmon_temp_celsius", "Hardware monitor for temperature (input)";
    HWMON_CRIT = gauge "node_hwmon_temp_crit_celsius", "Hardware monitor for temperature (crit)";
    HWMON_FAN = gauge "node_hwmon_fan_rpm", "Hardware monitor for fan revolutions per minute (input)";
    HWMON_IN = gauge "node_hwmon_in_volts", "Hardware monitor for voltage (input)";
    HWMON_POWER = gauge "node_hwmon_power_average_watt", "Hardware monitor for power usage in watts (average)";
}

impl Tree {
    /// Reads what is there below this root. Blocks, for as long as devices take to answer.
    pub(crate) fn read(root: &Path) -> Self {
        let mut tree = Self::default();
        let (proc, sys) = (root.join("proc"), root.join("sys"));
        tree.load(&proc);
        tree.memory(&proc);
        tree.pressure(&proc.join("pressure"));
        tree.network(&proc);
        tree.edac(&sys.join("devices/system/edac/mc"));
        tree.thermal(&sys.join("class/thermal"));
        tree.throttles(&sys.join("devices/system/cpu"));
        tree.bonds(&sys.join("class/net"));
        tree.hwmon(&sys.join("class/hwmon"));
        tree
    }

    /// Writes it.
    pub(crate) fn write(&self, writer: &mut Writer<'_>) -> fmt::Result {
        for (name, lines) in self.0.values() {
            writer.family(name, |series| {
                lines.iter().try_for_each(|(labels, value)| {
                    let labels: Vec<_> = labels.iter().map(|(key, of)| (*key, label(of))).collect();
                    series.put(&labels, *value)
                })
            })?;
        }
        Ok(())
    }

    fn put(&mut self, name: Name, labels: &[(&'static str, &str)], value: Option<f64>) {
        if let Some(value) = value {
            let labels = labels.iter().map(|(key, of)| (*key, (*of).to_owned()));
            let (_, lines) = self
                .0
                .entry(name.name)
                .or_insert_with(|| (name, Vec::new()));
            lines.push((labels.collect(), value));
        }
    }

    fn load(&mut self, proc: &Path) {
        let text = text(&proc.join("loadavg")).unwrap_or_default();
        for (name, word) in [LOAD1, LOAD5, LOAD15]
            .into_iter()
            .zip(text.split_whitespace())
        {
            self.put(name, &[], word.parse().ok());
        }
    }

    fn memory(&mut self, proc: &Path) {
        let text = text(&proc.join("meminfo")).unwrap_or_default();
        for line in text.lines() {
            let Some((key, rest)) = line.split_once(':') else {
                continue;
            };
            let name = match key {
                "MemTotal" => MEM_TOTAL,
                "MemFree" => MEM_FREE,
                "MemAvailable" => MEM_AVAILABLE,
                "Buffers" => BUFFERS,
                "Cached" => CACHED,
                "SwapTotal" => SWAP_TOTAL,
                "SwapFree" => SWAP_FREE,
                _ => continue,
            };
            let kib = rest
                .split_whitespace()
                .next()
                .and_then(|word| word.parse().ok());
            self.put(name, &[], kib.map(|kib: f64| kib * 1024.0));
        }
    }

    fn pressure(&mut self, folder: &Path) {
        for (file, some, full) in [
            ("cpu", PRESSURE_CPU, None),
            ("io", PRESSURE_IO, Some(PRESSURE_IO_ALL)),
            ("memory", PRESSURE_MEM, Some(PRESSURE_MEM_ALL)),
        ] {
            for line in text(&folder.join(file)).unwrap_or_default().lines() {
                let micros = line
                    .rsplit_once("total=")
                    .and_then(|(_, it)| it.parse().ok());
                let seconds = micros.map(|micros: f64| micros / 1e6);
                if line.starts_with("some ") {
                    self.put(some, &[], seconds);
                } else if let Some(full) = full {
                    self.put(full, &[], seconds);
                }
            }
        }
    }

    fn network(&mut self, proc: &Path) {
        const COLUMNS: [(Name, usize); 8] = [
            (RX_BYTES, 0),
            (RX_PACKETS, 1),
            (RX_ERRS, 2),
            (RX_DROP, 3),
            (TX_BYTES, 8),
            (TX_PACKETS, 9),
            (TX_ERRS, 10),
            (TX_DROP, 11),
        ];
        // Through the caller's own namespace: /proc/net is a link to /proc/self/net.
        let text = text(&proc.join("net/dev")).unwrap_or_default();
        for line in text.lines().skip(2) {
            let Some((device, rest)) = line.split_once(':') else {
                continue;
            };
            let numbers: Vec<_> = rest.split_whitespace().collect();
            for (name, column) in COLUMNS {
                let value = numbers.get(column).and_then(|word| word.parse().ok());
                self.put(name, &[("device", device.trim())], value);
            }
        }
    }

    fn edac(&mut self, folder: &Path) {
        for mc in folders(folder, "mc") {
            let controller = number_of(&mc, "mc");
            let labels = [("controller", controller.as_str())];
            self.put(CE, &labels, number(&mc.join("ce_count")));
            self.put(UE, &labels, number(&mc.join("ue_count")));
            let mut row = |csrow: &str, ce: &Path, ue: &Path| {
                let labels = [("controller", controller.as_str()), ("csrow", csrow)];
                self.put(CSROW_CE, &labels, number(ce));
                self.put(CSROW_UE, &labels, number(ue));
            };
            // Its name for errors of no row in particular.
            row(
                "unknown",
                &mc.join("ce_noinfo_count"),
                &mc.join("ue_noinfo_count"),
            );
            for folder in folders(&mc, "csrow") {
                let csrow = number_of(&folder, "csrow");
                row(&csrow, &folder.join("ce_count"), &folder.join("ue_count"));
            }
        }
    }

    fn thermal(&mut self, folder: &Path) {
        for zone in folders(folder, "thermal_zone") {
            let kind = text(&zone.join("type")).unwrap_or_default();
            let labels = [
                ("zone", &*number_of(&zone, "thermal_zone")),
                ("type", kind.trim()),
            ];
            self.put(
                THERMAL,
                &labels,
                number(&zone.join("temp")).map(|it| it / 1000.0),
            );
        }
    }

    fn throttles(&mut self, folder: &Path) {
        let mut seen = std::collections::BTreeSet::new();
        for cpu in folders(folder, "cpu") {
            let topology = |file| text(&cpu.join("topology").join(file));
            let (Some(package), Some(core)) =
                (topology("physical_package_id"), topology("core_id"))
            else {
                continue;
            };
            let (package, core) = (package.trim(), core.trim());
            let throttle = cpu.join("thermal_throttle");
            if seen.insert((package.to_owned(), Some(core.to_owned()))) {
                let labels = [("package", package), ("core", core)];
                let count = number(&throttle.join("core_throttle_count"));
                self.put(CORE_THROTTLES, &labels, count);
            }
            if seen.insert((package.to_owned(), None)) {
                let count = number(&throttle.join("package_throttle_count"));
                self.put(PACKAGE_THROTTLES, &[("package", package)], count);
            }
        }
    }

    fn bonds(&mut self, net: &Path) {
        let masters = text(&net.join("bonding_masters")).unwrap_or_default();
        for master in masters.split_whitespace() {
            let slaves = text(&net.join(master).join("bonding/slaves")).unwrap_or_default();
            let (mut all, mut active) = (0.0, 0.0);
            for slave in slaves.split_whitespace() {
                let of = net.join(master).join(format!("lower_{slave}"));
                let state = text(&of.join("bonding_slave/mii_status"))
                    .or_else(|| text(&net.join(slave).join("bonding_slave/mii_status")));
                all += 1.0;
                if state.is_some_and(|state| state.trim() == "up") {
                    active += 1.0;
                }
            }
            self.put(BOND_SLAVES, &[("master", master)], Some(all));
            self.put(BOND_ACTIVE, &[("master", master)], Some(active));
        }
    }

    fn hwmon(&mut self, folder: &Path) {
        for device in folders(folder, "hwmon") {
            let chip = chip(&device);
            // Drivers of old have the files at the device.
            let both = [device.clone(), device.join("device")];
            let files = both.iter().flat_map(|folder| entries(folder));
            let files: BTreeMap<_, _> = files.map(|file| (name_of(&file), file)).collect();
            for (prefix, suffix, name, scale) in [
                ("temp", "_input", HWMON_TEMP, 1000.0),
                ("temp", "_crit", HWMON_CRIT, 1000.0),
                ("fan", "_input", HWMON_FAN, 1.0),
                ("in", "_input", HWMON_IN, 1000.0),
                ("power", "_average", HWMON_POWER, 1e6),
            ] {
                for (called, file) in &files {
                    let Some(sensor) = called.strip_suffix(suffix) else {
                        continue;
                    };
                    let digits = sensor.strip_prefix(prefix).unwrap_or_default();
                    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                        continue;
                    }
                    let labels = [("chip", chip.as_str()), ("sensor", sensor)];
                    self.put(name, &labels, number(file).map(|it| it / scale));
                }
            }
        }
    }
}

/// A chip's name as the original makes it: its device's bus and name, or its own name.
fn chip(device: &Path) -> String {
    let clean = |text: &str| -> String {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == ':';
        let text = text.to_lowercase();
        let text: String = text
            .chars()
            .map(|c| if fits(c) { c } else { '_' })
            .collect();
        text.trim_matches('_').to_owned()
    };
    let behind = fs::canonicalize(device.join("device")).ok();
    let by_device = behind.map(|behind| {
        let bus = behind.parent().map(name_of).unwrap_or_default();
        format!("{}_{}", clean(&bus), clean(&name_of(&behind)))
    });
    let by_name = || Some(clean(&text(&device.join("name"))?)).filter(|name| !name.is_empty());
    by_device
        .or_else(by_name)
        .unwrap_or_else(|| clean(&name_of(device)))
}

fn text(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok()
}

fn number(path: &Path) -> Option<f64> {
    text(path)?.trim().parse().ok()
}

fn name_of(path: &Path) -> String {
    path.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// What stands behind a prefix of a folder's name.
fn number_of(path: &Path, prefix: &str) -> String {
    name_of(path).trim_start_matches(prefix).to_owned()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut paths: Vec<_> = entries.filter_map(|it| Some(it.ok()?.path())).collect();
    paths.sort();
    paths
}

/// Folders that are called so and a number.
fn folders(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let mut all = entries(folder);
    all.retain(|path| {
        let name = name_of(path);
        let digits = name.strip_prefix(prefix).unwrap_or_default();
        !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
    });
    all
}
