//! `kapok tenant …`

use clap::{Args, Subcommand};
use kapok_types::Name;

use super::{OrNone, Request, or_none};

/// What to do with tenants.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a tenant below another one
    #[command(
        after_long_help = "Examples:\n  kapok tenant create water --display-name '水务局' --contact \
        'desk@water.example'\n  kapok tenant create water-lab --parent water"
    )]
    Create {
        /// Its name: a-z, 0-9 and hyphens, at most 63
        name: Name,
        /// Its name for people [default: the name]
        #[arg(
            long,
            value_name = "TEXT",
            default_value = "",
            hide_default_value = true
        )]
        display_name: String,
        /// The tenant above it [default: city, the root]
        #[arg(long, value_name = "TENANT")]
        parent: Option<Name>,
        /// Whom to ask about it (can be repeated)
        #[arg(long = "contact", value_name = "TEXT")]
        contacts: Vec<String>,
        /// How the change is named.
        #[command(flatten)]
        request: Request,
    },
    /// List tenants and what they have; vCPUs and memory as HELD/LIMIT, -o wide with volumes
    #[command(
        visible_alias = "list",
        after_long_help = "Examples:\n  kapok tenant ls\n  kapok tenant ls -o wide\n  kapok tenant ls \
        -o json | jq -r '.[] | select(.overcommitted != []) | .name'"
    )]
    Ls,
    /// Show one tenant
    #[command(after_long_help = "Example:\n  kapok tenant show water")]
    Show {
        /// Its name
        tenant: Name,
    },
    /// Change a tenant's name for people, whom to ask about it, or where its instances go
    #[command(
        after_long_help = "Examples:\n  kapok tenant update water --display-name '水务局'\n  kapok \
        tenant update water --contact 'desk@water.example' --contact '+86 …'\n  kapok tenant update police \
        --isolation secret"
    )]
    Update(Update),
    /// Keep a tenant from making or turning on anything; what runs there runs on
    ///
    /// Holds for all below it. Whoever governs the tenant above can do so.
    #[command(after_long_help = "Example:\n  kapok tenant suspend water")]
    Suspend(Which),
    /// Let a suspended or closing tenant make and turn on things again
    #[command(after_long_help = "Example:\n  kapok tenant resume water")]
    Resume(Which),
    /// Keep a tenant from making anything new, so that it can be emptied and removed
    ///
    /// Holds for all below it. Whoever governs the tenant above can do so.
    #[command(after_long_help = "Example:\n  kapok tenant close water && kapok tenant rm water")]
    Close(Which),
    /// Remove a tenant in which there is nothing and nobody
    #[command(after_long_help = "Example:\n  kapok tenant rm water --yes")]
    Rm {
        /// Its name
        tenant: Name,
        /// Don't ask
        #[arg(short, long)]
        yes: bool,
        /// How the change is named.
        #[command(flatten)]
        request: Request,
    },
}

/// One tenant.
#[derive(Debug, Args)]
pub(crate) struct Which {
    /// Its name
    pub(crate) tenant: Name,
    /// How the change is named.
    #[command(flatten)]
    pub(crate) request: Request,
}

/// What is to be otherwise.
#[derive(Debug, Args)]
#[group(id = "what", required = true, multiple = true, args = ["display_name", "contacts", "no_contacts", "isolation"])]
pub(crate) struct Update {
    /// Its name
    pub(crate) tenant: Name,
    /// Its name for people
    #[arg(long, value_name = "TEXT")]
    pub(crate) display_name: Option<String>,
    /// Whom to ask about it, instead of those before (can be repeated)
    #[arg(long = "contact", value_name = "TEXT")]
    pub(crate) contacts: Vec<String>,
    /// Nobody is to be asked
    #[arg(long, conflicts_with = "contacts")]
    pub(crate) no_contacts: bool,
    /// Place its new instances on nodes of this isolation class; or none: as the tenant above says
    ///
    /// Holds for all below it that have none of their own. What runs stays where it is. For system
    /// administrators.
    #[arg(long, value_name = "CLASS|none", value_parser = or_none)]
    pub(crate) isolation: Option<OrNone>,
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
