//! LVM's groups and volumes: disks that are missing, volumes that miss them, pools that are full.

use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;

use crate::{Component, Failure, Host, Kind, Reading, Source, quantity};

/// How long one question may take.
const QUESTION: Duration = Duration::from_secs(20);

const GROUPS: &[&str] = &[
    "--reportformat",
    "json",
    "--units",
    "b",
    "--nosuffix",
    "-o",
    "vg_name,pv_count,vg_missing_pv_count",
];
const VOLUMES: &[&str] = &[
    "--reportformat",
    "json",
    "--units",
    "b",
    "--nosuffix",
    "-o",
    "vg_name,lv_name,lv_attr,lv_health_status,lv_size,data_percent,metadata_percent",
];

/// The source. It needs the right to read disks.
#[derive(Debug, Clone, Copy, Default)]
pub struct Lvm;

#[async_trait]
impl Source for Lvm {
    fn name(&self) -> &'static str {
        "lvm"
    }

    fn cadence(&self) -> Duration {
        Duration::from_mins(2)
    }

    fn deadline(&self) -> Duration {
        Duration::from_secs(45)
    }

    async fn read(&self, host: &Host) -> Result<Vec<Reading>, Failure> {
        if !is_used(host)? {
            return Err(Failure::Absent("no LVM volume is active".to_owned()));
        }
        let ask = async |tool: &str, question: &[&str]| {
            let output = host.run(tool, question, QUESTION).await?;
            if output.status == Some(0) {
                return Ok(output.text);
            }
            Err(Failure::Unreadable(format!("{tool} {}", output.end())))
        };
        let groups = ask("vgs", GROUPS).await?;
        let volumes = ask("lvs", VOLUMES).await?;
        let readings = || Ok([self::groups(&groups)?, self::volumes(&volumes)?].concat());
        readings().map_err(Failure::Unreadable)
    }
}

/// Whether a volume is active, by the kernel's word: the tools can't be asked without rights, and
/// are installed where nothing is theirs.
fn is_used(host: &Host) -> Result<bool, Failure> {
    for block in host.list("/sys/block")? {
        if !block.starts_with("dm-") {
            continue;
        }
        let uuid = host.text(format!("/sys/block/{block}/dm/uuid"))?;
        if uuid.is_some_and(|uuid| uuid.starts_with("LVM-")) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn rows(text: &str, of: &str) -> Result<Vec<Value>, String> {
    let wrong = |reason: String| format!("the report of {of}s: {reason}");
    let report: Value = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
    let rows = report
        .pointer(&format!("/report/0/{of}"))
        .and_then(Value::as_array);
    rows.cloned().ok_or_else(|| wrong("has no rows".to_owned()))
}

/// LVM writes numbers as texts, and nothing as "".
fn number(row: &Value, key: &str) -> Option<f64> {
    row[key].as_str()?.trim().parse().ok()
}

fn groups(text: &str) -> Result<Vec<Reading>, String> {
    let mut readings = Vec::new();
    for row in rows(text, "vg")? {
        let Some(name) = row["vg_name"].as_str() else {
            continue;
        };
        let of = Component::new(Kind::Array, name);
        let (all, missing) = (
            number(&row, "pv_count"),
            number(&row, "vg_missing_pv_count"),
        );
        if let (Some(all), Some(missing)) = (all, missing) {
            readings.extend([
                Reading::flag(&of, quantity::ARRAY_DEGRADED, missing > 0.0),
                Reading::new(&of, quantity::MEMBERS, all),
                Reading::new(&of, quantity::MEMBERS_ACTIVE, all - missing),
            ]);
        }
    }
    Ok(readings)
}

fn volumes(text: &str) -> Result<Vec<Reading>, String> {
    let mut readings = Vec::new();
    for row in rows(text, "lv")? {
        let (Some(group), Some(name)) = (row["vg_name"].as_str(), row["lv_name"].as_str()) else {
            continue;
        };
        let attributes = row["lv_attr"].as_str().unwrap_or_default();
        let health = row["lv_health_status"].as_str().unwrap_or_default();
        // Source: lvs(8), "lv_attr": the first letter is the volume's type.
        let redundant = attributes.starts_with(['r', 'R', 'm', 'M']);
        let thin_pool = attributes.starts_with('t');
        let failed = match health {
            "failed" | "out_of_data" => true,
            // Without a copy elsewhere, what is missing is gone.
            "partial" => !redundant,
            _ => false,
        };
        let of = Component::new(Kind::Array, format!("{group}/{name}"));
        readings.extend([
            Reading::flag(&of, quantity::ARRAY_DEGRADED, !health.is_empty()),
            Reading::flag(&of, quantity::ARRAY_FAILED, failed),
        ]);
        // A thin pool is full when its data or its metadata is.
        let used = [
            number(&row, "data_percent"),
            number(&row, "metadata_percent"),
        ];
        let fullest = used.into_iter().flatten().reduce(f64::max);
        if let (true, Some(size), Some(percent)) = (thin_pool, number(&row, "lv_size"), fullest) {
            let pool = Component::new(Kind::Pool, format!("{group}/{name}"));
            let available = size * (1.0 - percent / 100.0);
            readings.push(Reading::new(&pool, quantity::SIZE, size));
            readings.push(Reading::new(&pool, quantity::AVAILABLE, available.max(0.0)));
        }
    }
    Ok(readings)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const VGS: &str = include_str!("../../tests/tools/lvm/vgs.json");
    const LVS: &str = include_str!("../../tests/tools/lvm/lvs.json");

    #[test]
    fn groups_miss_disks_and_volumes_what_is_on_them() {
        let readings = [groups(VGS).unwrap(), volumes(LVS).unwrap()].concat();
        let found: BTreeMap<String, f64> = readings
            .into_iter()
            .filter_map(|it| {
                Some((
                    format!("{} {}", it.component, it.quantity.name),
                    it.value()?,
                ))
            })
            .collect();
        for (name, value) in [
            ("array/vg0 array_degraded", 1.0),
            ("array/vg0 members_active", 2.0),
            ("array/vg1 array_degraded", 0.0),
            ("array/vg0/root array_degraded", 0.0),
            ("array/vg0/mirror array_degraded", 1.0),
            ("array/vg0/mirror array_failed", 0.0),
            ("array/vg0/scratch array_failed", 1.0),
            ("pool/vg1/guests size", 1e12),
            ("pool/vg1/guests available", 5e10),
        ] {
            let near = |it: &f64| (it - value).abs() < 1.0;
            assert!(found.get(name).is_some_and(near), "{name} in {found:#?}");
        }
    }

    #[test]
    fn only_lvm_s_own_devices_count() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path());
        for (block, uuid) in [("dm-0", "CRYPT-LUKS2-ab\n"), ("sda", "")] {
            std::fs::create_dir_all(root.path().join(format!("sys/block/{block}/dm"))).unwrap();
            std::fs::write(root.path().join(format!("sys/block/{block}/dm/uuid")), uuid).unwrap();
        }
        assert_eq!(is_used(&host), Ok(false));
        std::fs::write(root.path().join("sys/block/dm-0/dm/uuid"), "LVM-abc\n").unwrap();
        assert_eq!(is_used(&host), Ok(true));
    }

    proptest! {
        /// FAULTS 63: a report that was cut is unreadable.
        #[test]
        fn garbage_and_cut_reports_are_unreadable(text in ".{0,200}", at in 0_usize..300) {
            let _ = (groups(&text), volumes(&text));
            prop_assert!(groups(&VGS[..at.min(VGS.trim_end().len() - 1)]).is_err());
            prop_assert!(volumes(&LVS[..at]).is_err());
        }
    }
}
