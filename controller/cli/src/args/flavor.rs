//! `kapok flavor …`

use clap::{Args, Subcommand};
use kapok_types::{Bytes, MemoryMib, Name};

use super::{Request, needs::Needs};
use crate::size;

/// What to do with flavors.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a flavor: a named size for instances
    #[command(
        after_long_help = "Examples:\n  kapok flavor create small --vcpus 2 --memory 4GiB\n  kapok \
        flavor create gis --vcpus 32 --memory 256GiB --disk 500GiB --for land --for \
        water \\\n      --description '地图服务'\n  kapok flavor create cad --vcpus 8 --memory 64GiB \
        --dedicated-cpus --device gpu-a100=1"
    )]
    Create(Create),
    /// List the flavors that you may use
    #[command(
        visible_alias = "list",
        after_long_help = "Examples:\n  kapok flavor ls\n  kapok flavor ls -o json"
    )]
    Ls,
    /// Show one flavor
    #[command(after_long_help = "Example:\n  kapok flavor show small")]
    Show {
        /// Its name
        flavor: Name,
    },
    /// Change a flavor for instances to come; those that there are keep their numbers
    ///
    /// Needs that are named here take the place of all that it had.
    #[command(
        after_long_help = "Examples:\n  kapok flavor update small --memory 8GiB\n  kapok flavor \
        update gis --for land\n  kapok flavor update gis --for city --no-disk"
    )]
    Update(Update),
    /// Remove a flavor; instances keep their numbers
    #[command(after_long_help = "Example:\n  kapok flavor rm small")]
    Rm {
        /// Its name
        flavor: Name,
        /// How the change is named.
        #[command(flatten)]
        request: Request,
    },
}

/// What a flavor is to be.
#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Its name: a-z, 0-9 and hyphens, at most 63
    pub(crate) name: Name,
    /// Its virtual CPUs, 1 to 512
    #[arg(long, value_name = "N", value_parser = size::vcpus, allow_hyphen_values = true)]
    pub(crate) vcpus: u32,
    /// Its memory, such as 512MiB or 2GiB
    #[arg(long, value_name = "SIZE", value_parser = size::memory, allow_hyphen_values = true)]
    pub(crate) memory: MemoryMib,
    /// Its root disk, such as 20GiB [default: the image's own size, or what is asked for]
    #[arg(long, value_name = "SIZE", value_parser = size::disk, allow_hyphen_values = true)]
    pub(crate) disk: Option<Bytes>,
    /// What its instances need of their node.
    #[command(flatten)]
    pub(crate) needs: Needs,
    /// What it is meant for
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) description: String,
    /// A tenant that may use it, with all below it (can be repeated) [default: everybody]
    #[arg(long = "for", value_name = "TENANT")]
    pub(crate) tenants: Vec<Name>,
    /// How the change is named.
    #[command(flatten)]
    pub(crate) request: Request,
}

/// What is to be otherwise.
#[derive(Debug, Args)]
#[group(
    id = "what",
    required = true,
    multiple = true,
    args = [
        "vcpus", "memory", "disk", "no_disk", "description", "tenants", "dedicated_cpus", "huge_pages",
        "cells", "cpu_feature", "cpu_level", "device", "pool", "network", "label", "no_needs",
    ]
)]
pub(crate) struct Update {
    /// Its name
    pub(crate) flavor: Name,
    /// Its virtual CPUs, 1 to 512
    #[arg(long, value_name = "N", value_parser = size::vcpus, allow_hyphen_values = true)]
    pub(crate) vcpus: Option<u32>,
    /// Its memory, such as 512MiB or 2GiB
    #[arg(long, value_name = "SIZE", value_parser = size::memory, allow_hyphen_values = true)]
    pub(crate) memory: Option<MemoryMib>,
    /// Its root disk, such as 20GiB
    #[arg(long, value_name = "SIZE", value_parser = size::disk, allow_hyphen_values = true)]
    pub(crate) disk: Option<Bytes>,
    /// Leave the root disk to the image, or to whoever creates an instance
    #[arg(long, conflicts_with = "disk")]
    pub(crate) no_disk: bool,
    /// What its instances need of their node: all of it, in place of what they did.
    #[command(flatten)]
    pub(crate) needs: Needs,
    /// Let its instances need nothing of their node besides amounts
    #[arg(long, conflicts_with = "Needs")]
    pub(crate) no_needs: bool,
    /// What it is meant for
    #[arg(long, value_name = "TEXT")]
    pub(crate) description: Option<String>,
    /// A tenant that may use it, with all below it (can be repeated); nobody else may from now on
    #[arg(long = "for", value_name = "TENANT")]
    pub(crate) tenants: Vec<Name>,
    /// Only if it still has this etag
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
