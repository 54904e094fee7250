//! `kapok quota …`

use clap::{Args, Subcommand};
use kapok_proto::fabric::v1 as wire;
use kapok_types::Name;

use super::Request;
use crate::size;

/// What to do with quotas.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show how much a tenant may have and has
    #[command(
        after_long_help = "USED is by its instances and by those of all tenants below it. HELD is what \
        counts against the limit:\nwith what is reserved below it and not used yet.\n\nExamples:\n  \
        kapok quota show water\n  kapok quota show water -o json | jq .quota.vcpus"
    )]
    Show {
        /// The tenant's name
        tenant: Name,
    },
    /// Say how much a tenant may have, and what is kept for it
    ///
    /// Set from above: whoever governs the tenant above can do so, nobody inside it. Limits hold along
    /// the whole way to the root. A lower limit stops nothing that is there; it keeps out what is new.
    /// A reservation is taken from what the tenant above may have, from now on, used or not.
    #[command(
        after_long_help = "Examples:\n  kapok quota set water --vcpus 64 --memory 256GiB --instances \
        100 --volume-size 4TiB\n  kapok quota set water --reserve-vcpus 16 --reserve-memory 64GiB\n  \
        kapok quota set water --gpus 4 --reserve-gpus 1\n  kapok quota set water --vcpus none \
        --reserve-vcpus 0"
    )]
    Set(Box<Set>),
}

/// How much a tenant may have. What isn't named stays as it is.
#[derive(Debug, Args)]
#[group(
    id = "what",
    required = true,
    multiple = true,
    args = [
        "vcpus", "memory", "instances", "volumes", "volume_size", "addresses", "gpus",
        "reserve_vcpus", "reserve_memory", "reserve_instances", "reserve_volumes",
        "reserve_volume_size", "reserve_addresses", "reserve_gpus",
    ]
)]
pub(crate) struct Set {
    /// The tenant's name
    pub(crate) tenant: Name,
    /// vCPUs at most, or none for no limit
    #[arg(long, value_name = "N|none", value_parser = limit(size::count), allow_hyphen_values = true)]
    vcpus: Option<Limit>,
    /// Memory at most, such as 256GiB, or none
    #[arg(long, value_name = "SIZE|none", value_parser = limit(size::mib), allow_hyphen_values = true)]
    memory: Option<Limit>,
    /// Instances at most, or none
    #[arg(long, value_name = "N|none", value_parser = limit(size::count), allow_hyphen_values = true)]
    instances: Option<Limit>,
    /// Volumes at most, or none; a root disk is one
    #[arg(long, value_name = "N|none", value_parser = limit(size::count), allow_hyphen_values = true)]
    volumes: Option<Limit>,
    /// Size of all volumes at most, such as 4TiB, or none
    #[arg(long, value_name = "SIZE|none", value_parser = limit(size::whole), allow_hyphen_values = true)]
    volume_size: Option<Limit>,
    /// Network addresses at most, or none; an instance has one
    #[arg(long, value_name = "N|none", value_parser = limit(size::count), allow_hyphen_values = true)]
    addresses: Option<Limit>,
    /// GPUs at most, or none: devices whose class is gpu or begins with gpu-
    #[arg(long, value_name = "N|none", value_parser = limit(size::count), allow_hyphen_values = true)]
    gpus: Option<Limit>,
    /// vCPUs kept for it
    #[arg(long, value_name = "N", value_parser = size::count, allow_hyphen_values = true)]
    reserve_vcpus: Option<u64>,
    /// Memory kept for it, such as 64GiB
    #[arg(long, value_name = "SIZE", value_parser = size::mib, allow_hyphen_values = true)]
    reserve_memory: Option<u64>,
    /// Instances kept for it
    #[arg(long, value_name = "N", value_parser = size::count, allow_hyphen_values = true)]
    reserve_instances: Option<u64>,
    /// Volumes kept for it
    #[arg(long, value_name = "N", value_parser = size::count, allow_hyphen_values = true)]
    reserve_volumes: Option<u64>,
    /// Size of volumes kept for it, such as 1TiB
    #[arg(long, value_name = "SIZE", value_parser = size::whole, allow_hyphen_values = true)]
    reserve_volume_size: Option<u64>,
    /// Network addresses kept for it
    #[arg(long, value_name = "N", value_parser = size::count, allow_hyphen_values = true)]
    reserve_addresses: Option<u64>,
    /// GPUs kept for it
    #[arg(long, value_name = "N", value_parser = size::count, allow_hyphen_values = true)]
    reserve_gpus: Option<u64>,
    /// Only if the tenant still has this etag
    #[arg(
        long,
        value_name = "ETAG",
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) etag: String,
    /// How the change is named.
    #[command(flatten)]
    pub(crate) request: Request,
}

/// A limit, or that there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit(Option<u64>);

impl Set {
    /// The fields that were named, as the API calls them.
    pub(crate) fn fields(&self) -> [(&'static str, bool); 14] {
        [
            ("quota.vcpus", self.vcpus.is_some()),
            ("quota.memory_mib", self.memory.is_some()),
            ("quota.instances", self.instances.is_some()),
            ("quota.volumes", self.volumes.is_some()),
            ("quota.volume_bytes", self.volume_size.is_some()),
            ("quota.addresses", self.addresses.is_some()),
            ("quota.gpus", self.gpus.is_some()),
            ("reserved.vcpus", self.reserve_vcpus.is_some()),
            ("reserved.memory_mib", self.reserve_memory.is_some()),
            ("reserved.instances", self.reserve_instances.is_some()),
            ("reserved.volumes", self.reserve_volumes.is_some()),
            ("reserved.volume_bytes", self.reserve_volume_size.is_some()),
            ("reserved.addresses", self.reserve_addresses.is_some()),
            ("reserved.gpus", self.reserve_gpus.is_some()),
        ]
    }

    /// The limits that were named.
    pub(crate) fn quota(&self) -> wire::Quota {
        let limit = |named: Option<Limit>| named.and_then(|Limit(limit)| limit);
        wire::Quota {
            vcpus: limit(self.vcpus),
            memory_mib: limit(self.memory),
            instances: limit(self.instances),
            volumes: limit(self.volumes),
            volume_bytes: limit(self.volume_size),
            addresses: limit(self.addresses),
            gpus: limit(self.gpus),
        }
    }

    /// The reservations that were named.
    pub(crate) fn reserved(&self) -> wire::Amounts {
        wire::Amounts {
            vcpus: self.reserve_vcpus.unwrap_or_default(),
            memory_mib: self.reserve_memory.unwrap_or_default(),
            instances: self.reserve_instances.unwrap_or_default(),
            volumes: self.reserve_volumes.unwrap_or_default(),
            volume_bytes: self.reserve_volume_size.unwrap_or_default(),
            addresses: self.reserve_addresses.unwrap_or_default(),
            gpus: self.reserve_gpus.unwrap_or_default(),
        }
    }
}

/// Reads an amount, or `none`.
fn limit(
    amount: fn(&str) -> Result<u64, String>,
) -> impl Fn(&str) -> Result<Limit, String> + Clone + Send + Sync + 'static {
    move |text| match text {
        "none" => Ok(Limit(None)),
        text => amount(text)
            .map(|amount| Limit(Some(amount)))
            .map_err(|reason| format!("{reason}; or none, for no limit")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_limit_is_not_the_limit_zero() {
        let read = limit(size::mib);
        assert_eq!(read("none"), Ok(Limit(None)));
        assert_eq!(read("0"), Ok(Limit(Some(0))));
        assert_eq!(read("2GiB"), Ok(Limit(Some(2048))));
        assert!(read("-1GiB").unwrap_err().contains("negative"));
    }
}
