//! `kapok usage …` and `kapok report …`

use clap::{Args, Subcommand, ValueEnum};
use kapok_types::Name;

use crate::size;

/// What systems held and used.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_long_help = "Months are UTC's. Figures are folds of the record; what nobody knows is listed \
        as unknown, in hours of instances, and is in no other figure.\n\nExamples:\n  kapok usage\n  \
        kapok usage --tenant water --month 2026-11 -o csv > water.csv\n  kapok usage --by tenant -o \
        json\n  kapok usage idle --days 30 --below 2"
)]
pub(crate) struct Usage {
    /// What else to ask.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    /// Only those of this tenant and below
    #[arg(long)]
    pub(crate) tenant: Option<Name>,
    /// The month, such as 2026-11 [default: the present one]
    #[arg(
        long,
        value_name = "MONTH",
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) month: String,
    /// What one line is about
    #[arg(long, value_enum, default_value_t = By::System)]
    pub(crate) by: By,
}

/// What one line of usage is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum By {
    /// A system
    System,
    /// A tenant: its own systems together, without those of tenants below it
    Tenant,
}

/// What else to ask about usage.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List instances that are hardly used
    ///
    /// Those whose processor time over the last whole days is below a share of their vCPUs' time.
    /// Time of which nobody knows counts as if all vCPUs had been used, so an instance that isn't
    /// known to be idle isn't listed; nor is one that is younger.
    #[command(
        after_long_help = "Examples:\n  kapok usage idle\n  kapok usage idle --tenant water --days 30 \
            --below 2 -o csv"
    )]
    Idle {
        /// Only those of this tenant and below
        #[arg(long)]
        tenant: Option<Name>,
        /// How many whole days (UTC) to look at
        #[arg(long, value_name = "DAYS", default_value_t = 14,
            value_parser = clap::value_parser!(u32).range(1..=31))]
        days: u32,
        /// Below which share, in percent
        #[arg(long, value_name = "PERCENT", default_value_t = 5,
            value_parser = clap::value_parser!(u32).range(1..=100))]
        below: u32,
    },
}

/// What to report on.
#[derive(Debug, Subcommand)]
pub(crate) enum Report {
    /// Show what pooling saves: nodes of each bureau alone against those of all together
    ///
    /// With the time from request to live and the availability of each system. All figures come from
    /// the record; how is printed with them. A csv has the bureaus' lines.
    #[command(
        after_long_help = "Examples:\n  kapok report pooling\n  kapok report pooling --from 2026-01 \
            --to 2026-12 -o json\n  kapok report pooling --node-vcpus 128 --node-memory 512GiB -o csv"
    )]
    Pooling {
        /// The first month, such as 2026-01 [default: the first that is known]
        #[arg(
            long,
            value_name = "MONTH",
            default_value = "",
            hide_default_value = true
        )]
        from: String,
        /// The last month [default: the present one]
        #[arg(
            long,
            value_name = "MONTH",
            default_value = "",
            hide_default_value = true
        )]
        to: String,
        /// vCPUs that a node carries [default: the fabric's most frequent size]
        #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
        node_vcpus: u32,
        /// Memory that a node has for instances, such as 512GiB
        #[arg(long, value_name = "SIZE", value_parser = size::memory)]
        node_memory: Option<kapok_types::MemoryMib>,
    },
}
