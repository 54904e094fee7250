//! `kapok instance …`

use clap::{Args, Subcommand, ValueEnum};
use kapok_types::{Bytes, MemoryMib, Name, instance};

use super::{Request, needs::Needs};
use crate::size;

/// What to do with instances.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create an instance from an image
    #[command(
        after_long_help = "Examples:\n  kapok instance create web --image debian-12 \
        --memory 2GiB --wait\n  kapok instance create db --image debian-12 --vcpus 4 --memory \
        16GiB --disk 200GiB \\\n      --run-policy always --wait --timeout 5m\n  kapok instance \
        create web --image debian-12 --flavor small --dry-run\n  kapok instance create gis --image \
        debian-12 --vcpus 16 --memory 64GiB --dedicated-cpus --huge-pages 1GiB \\\n      --cpu-level \
        x86-64-v3 --device gpu-a100=1\n  kapok instance create web --count 3 --group web --image \
        debian-12 --memory 2GiB"
    )]
    Create(Create),
    /// List instances
    #[command(
        visible_alias = "list",
        after_long_help = "Examples:\n  kapok instance ls\n  kapok instance ls --node rack1-a -o \
            wide\n  kapok instance ls --tenant water\n  kapok instance ls --system billing\n  kapok instance ls -o json | jq -r '.[] | select(.phase == \"failing\") | .name'"
    )]
    Ls {
        /// Only those on this node (name or id)
        #[arg(long)]
        node: Option<String>,
        /// Only those of this tenant and below
        #[arg(long)]
        tenant: Option<Name>,
        /// Only those of this system (name or TENANT/NAME)
        #[arg(long)]
        system: Option<String>,
    },
    /// Show one instance with its lives on nodes
    #[command(after_long_help = "Example:\n  kapok instance show web")]
    Show {
        /// Its name, TENANT/NAME, or id
        instance: String,
    },
    /// Change to which system of its tenant an instance belongs; nothing that runs notices
    #[command(after_long_help = "Example:\n  kapok instance update web --system billing")]
    Update {
        /// Its name, TENANT/NAME, or id
        instance: String,
        /// The system
        #[arg(long, value_name = "NAME")]
        system: Name,
        /// Only if it still has this etag
        #[arg(
            long,
            value_name = "ETAG",
            default_value = "",
            hide_default_value = true
        )]
        etag: String,
        /// How the change is named.
        #[command(flatten)]
        request: Request,
    },
    /// Turn instances on
    #[command(after_long_help = "Example:\n  kapok instance start web db --wait")]
    Start(Several),
    /// Shut instances down; after the grace period they are turned off hard
    #[command(after_long_help = "Example:\n  kapok instance stop web --wait")]
    Stop(Several),
    /// Shut instances down and start them again
    #[command(after_long_help = "Example:\n  kapok instance restart web --wait")]
    Restart(Several),
    /// Make an instance larger or smaller where it is
    ///
    /// More vCPUs come while it runs, up to four times those that it was started with. Fewer vCPUs
    /// and other memory come with its next start: kapok instance restart brings them at once. So does
    /// all of an instance with dedicated CPUs or huge pages, whose old ones stay its own until then.
    /// Its node must have room; its disk stays as it is.
    #[command(
        after_long_help = "Examples:\n  kapok instance resize web --vcpus 4 --wait\n  kapok instance \
        resize web --vcpus 4 --memory 8GiB --wait && kapok instance restart web --wait\n  kapok \
        instance resize web --flavor large --dry-run"
    )]
    Resize(Resize),
    /// Delete instances with their root disks
    ///
    /// Asks first when a person sits at a terminal, unless --yes is given.
    #[command(
        after_long_help = "Examples:\n  kapok instance rm web\n  kapok instance rm a b c \
        --yes --wait"
    )]
    Rm {
        /// Which, and how
        #[command(flatten)]
        several: Several,
        /// Don't ask
        #[arg(short, long)]
        yes: bool,
    },
    /// Connect to an instance's serial console; Ctrl-] leaves
    ///
    /// At a terminal every key goes to the guest, except Ctrl-]. With piped input, the input goes
    /// to the guest, and the output goes on after it has ended, until the guest's console closes,
    /// --timeout is over or kapok is interrupted.
    #[command(
        after_long_help = "Examples:\n  kapok instance console web\n  kapok instance \
        console web --force\n  kapok instance console web < /dev/null | tee web.log"
    )]
    Console {
        /// Its name, TENANT/NAME, or id
        instance: String,
        /// Take the console from whoever has it
        #[arg(long)]
        force: bool,
    },
    /// Say why an instance is where it is, or where a new one would go
    #[command(
        after_long_help = "Examples:\n  kapok instance explain web\n  kapok instance \
        explain --image debian-12 --vcpus 64 --memory 256GiB\n  kapok instance explain --image \
        debian-12 --memory 16GiB --device gpu-a100=1"
    )]
    Explain(Explain),
}

/// What an instance is to be.
#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Its name: a-z, 0-9 and hyphens, at most 63
    pub(crate) name: Name,
    /// The image it starts from: name, TENANT/NAME, id or digest
    #[arg(long)]
    pub(crate) image: String,
    /// The tenant that it is to belong to [default: your home tenant]
    #[arg(long)]
    pub(crate) tenant: Option<Name>,
    /// The tenant's system that it is to belong to [default: "default"]
    #[arg(long)]
    pub(crate) system: Option<Name>,
    /// A group of its tenant that it is to be in (can be repeated)
    #[arg(long = "group", value_name = "NAME")]
    pub(crate) groups: Vec<Name>,
    /// Create this many, 1 to 64, named NAME-1 and on: all of them, or none
    #[arg(long, value_name = "N", value_parser = count)]
    pub(crate) count: Option<u32>,
    /// Its numbers.
    #[command(flatten)]
    pub(crate) size: Size,
    /// Its memory, such as 512MiB or 2GiB
    #[arg(
        long, value_name = "SIZE", value_parser = size::memory, allow_hyphen_values = true,
        required_unless_present = "flavor", conflicts_with = "flavor"
    )]
    pub(crate) memory: Option<MemoryMib>,
    /// What it needs of its node.
    #[command(flatten)]
    pub(crate) needs: Needs,
    /// What the guest's own end means
    #[arg(long, value_enum, default_value_t = RunPolicy::RestartOnCrash)]
    pub(crate) run_policy: RunPolicy,
    /// Leave it off after creation
    #[arg(long)]
    pub(crate) stopped: bool,
    /// Check and place it without creating it, and say what each node answers
    #[arg(long, conflicts_with = "wait")]
    pub(crate) dry_run: bool,
    /// Stay until it has ended, and exit by how it ended
    #[arg(long)]
    pub(crate) wait: bool,
    /// How the change is named.
    #[command(flatten)]
    pub(crate) request: Request,
}

/// Instances that one command creates at most.
const MOST: u32 = 64;

fn count(text: &str) -> Result<u32, String> {
    let count = text.parse().ok();
    let count = count.filter(|count| (1..=MOST).contains(count));
    count.ok_or_else(|| format!("must be a whole number, 1 to {MOST}"))
}

/// Numbers, or the flavor that has them.
#[derive(Debug, Args)]
pub(crate) struct Size {
    /// The flavor that has its numbers, instead of stating them
    #[arg(long, value_name = "NAME")]
    pub(crate) flavor: Option<Name>,
    /// Its virtual CPUs, 1 to 512 [default: 1]
    #[arg(
        long, value_name = "N", value_parser = size::vcpus, allow_hyphen_values = true,
        conflicts_with = "flavor"
    )]
    pub(crate) vcpus: Option<u32>,
    /// Its root disk, such as 20GiB [default: the flavor's, or the image's own size]
    #[arg(long, value_name = "SIZE", value_parser = size::disk, allow_hyphen_values = true)]
    pub(crate) disk: Option<Bytes>,
}

impl Size {
    /// The vCPUs: a flavor's are its own to say.
    pub(crate) fn vcpus(&self) -> u32 {
        match &self.flavor {
            Some(_) => 0,
            None => self.vcpus.unwrap_or(1),
        }
    }
}

/// How large an instance is to be.
#[derive(Debug, Args)]
pub(crate) struct Resize {
    /// Its name, TENANT/NAME, or id
    pub(crate) instance: String,
    /// The flavor that its numbers are to come from, instead of stating them
    #[arg(long, value_name = "NAME", required_unless_present_any = ["vcpus", "memory"])]
    pub(crate) flavor: Option<Name>,
    /// Its virtual CPUs, 1 to 512 [default: as many as now]
    #[arg(
        long, value_name = "N", value_parser = size::vcpus, allow_hyphen_values = true,
        conflicts_with = "flavor"
    )]
    pub(crate) vcpus: Option<u32>,
    /// Its memory, such as 512MiB or 2GiB [default: as much as now]
    #[arg(
        long, value_name = "SIZE", value_parser = size::memory, allow_hyphen_values = true,
        conflicts_with = "flavor"
    )]
    pub(crate) memory: Option<MemoryMib>,
    /// Only if it still has this etag
    #[arg(
        long,
        value_name = "ETAG",
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) etag: String,
    /// Check without changing anything
    #[arg(long, conflicts_with = "wait")]
    pub(crate) dry_run: bool,
    /// Stay until the new size is in effect, or waits for nothing but the next start
    #[arg(long)]
    pub(crate) wait: bool,
    /// How the change is named.
    #[command(flatten)]
    pub(crate) request: Request,
}

/// Which instances to change, and how.
#[derive(Debug, Args)]
pub(crate) struct Several {
    /// Their names, TENANT/NAMEs, or ids
    #[arg(required = true, value_name = "NAME")]
    pub(crate) instances: Vec<String>,
    /// Stay until all have ended, and exit by how they ended
    #[arg(long)]
    pub(crate) wait: bool,
    /// Name the request (with one NAME only): the same one again has no second effect
    #[arg(long, value_name = "ID", value_parser = super::request_id)]
    pub(crate) request_id: Option<String>,
}

/// Which question to answer.
#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// The instance's name, TENANT/NAME, or id
    #[arg(required_unless_present = "image", conflicts_with_all = ["image", "memory", "flavor", "tenant", "Needs"])]
    pub(crate) instance: Option<String>,
    /// Ask about a new instance from this image: name, TENANT/NAME, id or digest
    #[arg(long)]
    pub(crate) image: Option<String>,
    /// The tenant that it would belong to [default: your home tenant]
    #[arg(long, requires = "image")]
    pub(crate) tenant: Option<Name>,
    /// Its numbers.
    #[command(flatten)]
    pub(crate) size: Size,
    /// Its memory, such as 512MiB or 2GiB
    #[arg(
        long, value_name = "SIZE", value_parser = size::memory, allow_hyphen_values = true,
        required_unless_present_any = ["instance", "flavor"], conflicts_with = "flavor"
    )]
    pub(crate) memory: Option<MemoryMib>,
    /// What it would need of its node.
    #[command(flatten)]
    pub(crate) needs: Needs,
}

/// A run policy, as people type it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RunPolicy {
    /// A shutdown from inside leaves it off; a crash restarts it
    RestartOnCrash,
    /// Whatever ended it, it is started again
    Always,
}

impl From<RunPolicy> for instance::RunPolicy {
    fn from(policy: RunPolicy) -> Self {
        match policy {
            RunPolicy::RestartOnCrash => Self::RestartOnCrash,
            RunPolicy::Always => Self::Always,
        }
    }
}
