//! What an instance needs of its node besides amounts.

use std::{collections::BTreeMap, str::FromStr};

use clap::Args;
use kapok_proto::common::v1 as common;
use kapok_types::{
    Name, Needs as Type,
    cpu_level::CpuLevel,
    equipment::{Feature, MAX_CELLS, MAX_DEVICES, PageSize},
};

/// Needs, as people type them.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Needs")]
pub(crate) struct Needs {
    /// Give each vCPU a host thread of its own
    #[arg(long)]
    dedicated_cpus: bool,
    /// Carry all of its memory with huge pages of this size
    #[arg(long, value_name = "2MiB|1GiB", value_parser = read::<PageSize>)]
    huge_pages: Option<PageSize>,
    /// Split it evenly over up to this many NUMA cells, 1 to 8, if one is too small
    #[arg(long, value_name = "N", value_parser = cells, allow_hyphen_values = true)]
    cells: Option<u8>,
    /// A processor feature that it must find, by libvirt's name, such as avx2 (can be repeated)
    #[arg(long, value_name = "FEATURE", value_parser = read::<Feature>)]
    cpu_feature: Vec<Feature>,
    /// All features of x86-64-v2, x86-64-v3 or x86-64-v4
    #[arg(long, value_name = "LEVEL", value_parser = read::<CpuLevel>)]
    cpu_level: Option<CpuLevel>,
    /// Devices of a class, such as gpu-a100=1 (can be repeated)
    #[arg(long, value_name = "CLASS=N", value_parser = device)]
    device: Vec<(Name, u32)>,
    /// The storage pool for its disks [default: the node's own]
    #[arg(long, value_name = "NAME")]
    pool: Option<Name>,
    /// The network for its network card [default: the node's own]
    #[arg(long, value_name = "NAME")]
    network: Option<Name>,
    /// A label that its node must have, such as room=a (can be repeated)
    #[arg(long, value_name = "LABEL=VALUE", value_parser = label)]
    label: Vec<(Name, String)>,
}

impl Needs {
    /// As the wire has them; nothing if none was named.
    pub(crate) fn wire(&self) -> Option<common::Needs> {
        let level = self.cpu_level.map(CpuLevel::features);
        let mut devices = BTreeMap::new();
        for (class, count) in &self.device {
            let sum: &mut u32 = devices.entry(class.clone()).or_default();
            *sum = sum.saturating_add(*count);
        }
        let needs = Type {
            dedicated_cpus: self.dedicated_cpus,
            huge_pages: self.huge_pages,
            cells: self.cells.unwrap_or_default(),
            cpu_features: level
                .into_iter()
                .flatten()
                .chain(self.cpu_feature.iter().cloned())
                .collect(),
            devices,
            pool: self.pool.clone(),
            network: self.network.clone(),
            labels: self.label.iter().cloned().collect(),
        };
        (!needs.is_none()).then(|| (&needs).into())
    }
}

/// Reads one of our words; its refusal without the field's name.
fn read<T: FromStr<Err = kapok_types::Violation>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|violation: T::Err| violation.reason)
}

fn cells(text: &str) -> Result<u8, String> {
    let read = text.parse().ok();
    read.filter(|cells| (1..=MAX_CELLS).contains(cells))
        .ok_or_else(|| format!("must be a whole number, 1 to {MAX_CELLS}"))
}

fn device(text: &str) -> Result<(Name, u32), String> {
    let (class, count) = text
        .split_once('=')
        .ok_or("must be a class and how many, such as gpu-a100=1")?;
    let count = count.parse().ok();
    let count = count.filter(|count| (1..=MAX_DEVICES).contains(count));
    let count = count.ok_or_else(|| {
        format!("must say how many in whole numbers, 1 to {MAX_DEVICES}: gpu-a100=1")
    })?;
    Ok((read(class)?, count))
}

fn label(text: &str) -> Result<(Name, String), String> {
    let (label, value) = text
        .split_once('=')
        .ok_or("must be a label and its value, such as room=a")?;
    Ok((read(label)?, value.to_owned()))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Typed {
        #[command(flatten)]
        needs: Needs,
    }

    fn typed(words: &str) -> Result<Option<common::Needs>, String> {
        let typed = Typed::try_parse_from(std::iter::once("kapok").chain(words.split_whitespace()));
        typed
            .map(|typed| typed.needs.wire())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_typed_is_what_is_asked() {
        assert_eq!(typed(""), Ok(None));
        let needs = typed(
            "--dedicated-cpus --huge-pages 1GiB --cells 2 --cpu-level x86-64-v2 --cpu-feature avx2 \
             --device gpu-a100=1 --device gpu-a100=2 --pool fast --network dmz --label room=a",
        )
        .unwrap()
        .unwrap();
        assert!(needs.dedicated_cpus);
        assert_eq!((&*needs.huge_pages, needs.cells), ("1GiB", 2));
        assert_eq!(needs.cpu_features.len(), 8);
        assert_eq!(needs.devices, [("gpu-a100".to_owned(), 3)].into());
        assert_eq!((&*needs.pool, &*needs.network), ("fast", "dmz"));
        assert_eq!(needs.labels, [("room".to_owned(), "a".to_owned())].into());
    }

    /// FAULTS 28: negative, overflowing and zero numbers are refused before they are sent.
    #[test]
    fn what_is_no_need_is_refused_with_its_limit() {
        for (words, told) in [
            ("--cells 0", "1 to 8"),
            ("--cells -1", "1 to 8"),
            ("--cells 300", "1 to 8"),
            ("--device gpu=0", "1 to 16"),
            ("--device gpu=-1", "1 to 16"),
            ("--device gpu=4294967296", "1 to 16"),
            ("--device gpu", "how many"),
            ("--device GPU=1", "a-z"),
            ("--huge-pages 4MiB", "2MiB or 1GiB"),
            ("--cpu-level x86-64-v5", "x86-64-v4"),
            ("--cpu-feature AVX2", "a-z"),
            ("--label room", "such as room=a"),
        ] {
            let refused = typed(words).unwrap_err();
            assert!(refused.contains(told), "{words}: {refused}");
        }
    }
}
