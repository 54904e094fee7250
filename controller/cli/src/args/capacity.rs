//! `kapok capacity`

use clap::Args;
use kapok_types::{MemoryMib, Name};

use crate::size;

/// What still fits.
#[derive(Debug, Args)]
#[command(
    after_long_help = "FITS is how many can be created now, were nothing else created, and BOUND what \
    keeps the next one\nout. QUOTA is what quotas alone leave, NODES what the nodes alone have room for; \
    with a spare NODE\n(or RACK) so many that whatever any one of them carries can be restarted on the \
    others.\nWhoever doesn't run nodes sees what their tenant may still have.\n\nExamples:\n  kapok \
    capacity\n  kapok capacity --tenant water\n  kapok capacity --vcpus 8 --memory 64GiB\n  kapok \
    capacity -o json | jq '.fabric.stranded'"
)]
pub(crate) struct Capacity {
    /// Count for this tenant: its quotas, and its isolation class [default: the fabric, or your own
    /// tenant]
    #[arg(long, value_name = "TENANT")]
    pub(crate) tenant: Option<Name>,
    /// Count instances of so many virtual CPUs instead of flavors
    #[arg(long, value_name = "N", requires = "memory", value_parser = size::vcpus, allow_hyphen_values = true)]
    pub(crate) vcpus: Option<u32>,
    /// And of so much memory, such as 4GiB
    #[arg(long, value_name = "SIZE", requires = "vcpus", value_parser = size::memory, allow_hyphen_values = true)]
    pub(crate) memory: Option<MemoryMib>,
}
