//! `kapok system …`

use clap::{Args, Subcommand, ValueEnum};
use kapok_proto::fabric::v1::AvailabilityClass;
use kapok_types::{Name, Timestamp};

use super::{Request, time};

/// What to do with systems.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a system: a named group of a tenant's instances
    ///
    /// Every instance belongs to one; those that name none belong to their tenant's "default".
    #[command(
        after_long_help = "Times are days such as 2026-03-01, or RFC 3339.\n\nExamples:\n  kapok system \
        create billing --display-name '收费系统' --owner '水务局 王处长'\n  kapok system create gis \
        --tenant land --requested 2026-01-12 --ends 2028-12-31 \\\n      --contact 'gis@land.example' \
        --class restart"
    )]
    Create(Create),
    /// List systems with what their instances add up to
    #[command(
        visible_alias = "list",
        after_long_help = "Examples:\n  kapok system ls\n  kapok system ls --tenant water -o \
        wide\n  kapok system ls -o json | jq -r '.[] | select(.end_time != null) | .name'"
    )]
    Ls {
        /// Only those of this tenant and below
        #[arg(long)]
        tenant: Option<Name>,
    },
    /// Show one system
    #[command(
        after_long_help = "Examples:\n  kapok system show billing\n  kapok instance ls \
        --system billing"
    )]
    Show {
        /// Its name, or TENANT/NAME
        system: String,
    },
    /// Change what is recorded of a system
    #[command(
        after_long_help = "Times are days such as 2026-03-01, or RFC 3339.\n\nExamples:\n  kapok system \
        update billing --ends 2027-06-30\n  kapok system update land/gis --owner '李' --contact \
        12345 --contact gis@land.example"
    )]
    Update(Box<Update>),
    /// Remove a system that has no instances
    #[command(after_long_help = "Example:\n  kapok system rm billing")]
    Rm {
        /// Its name, or TENANT/NAME
        system: String,
        /// How the change is named.
        #[command(flatten)]
        request: Request,
    },
}

/// What a system is to be.
#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Its name: a-z, 0-9 and hyphens, at most 63
    pub(crate) name: Name,
    /// The tenant that it is to belong to [default: your home tenant]
    #[arg(long)]
    pub(crate) tenant: Option<Name>,
    /// What is known of it.
    #[command(flatten)]
    pub(crate) facts: Facts,
    /// How the change is named.
    #[command(flatten)]
    pub(crate) request: Request,
}

/// What is to be otherwise.
#[derive(Debug, Args)]
#[group(
    id = "what", required = true, multiple = true,
    args = ["display_name", "owner", "contacts", "no_contacts", "class", "requested", "live",
        "no_live", "ends", "no_end"]
)]
pub(crate) struct Update {
    /// Its name, or TENANT/NAME
    pub(crate) system: String,
    /// What is known of it.
    #[command(flatten)]
    pub(crate) facts: Facts,
    /// Nobody is to be called
    #[arg(long, conflicts_with = "contacts")]
    pub(crate) no_contacts: bool,
    /// It isn't live yet: the fabric finds out when it is
    #[arg(long, conflicts_with = "live")]
    pub(crate) no_live: bool,
    /// It isn't known when it is to end
    #[arg(long, conflicts_with = "ends")]
    pub(crate) no_end: bool,
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

/// What is recorded of a system.
#[derive(Debug, Clone, Args)]
pub(crate) struct Facts {
    /// Its name for people [default: the name]
    #[arg(long, value_name = "TEXT")]
    pub(crate) display_name: Option<String>,
    /// Who answers for it
    #[arg(long, value_name = "TEXT")]
    pub(crate) owner: Option<String>,
    /// Whom to call and how, instead of those before (can be repeated)
    #[arg(long = "contact", value_name = "TEXT")]
    pub(crate) contacts: Vec<String>,
    /// What a lost node means for its instances; kept, and not acted on yet [default: none]
    #[arg(long, value_enum)]
    pub(crate) class: Option<Class>,
    /// When it was asked for [default: now]
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) requested: Option<Timestamp>,
    /// When it went live [default: when the first creation of one of its instances succeeds]
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) live: Option<Timestamp>,
    /// When it is to end: an event warns 30, 7 and 1 days before, and nothing is stopped
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) ends: Option<Timestamp>,
}

/// An availability class, as people type it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Class {
    /// They are gone until the node is back
    None,
    /// They are started elsewhere with the same disks
    Restart,
    /// They are made anew from their images
    Recreate,
}

impl From<Class> for AvailabilityClass {
    fn from(class: Class) -> Self {
        match class {
            Class::None => Self::None,
            Class::Restart => Self::Restart,
            Class::Recreate => Self::Recreate,
        }
    }
}
