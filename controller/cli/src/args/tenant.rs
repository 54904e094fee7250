//! `kapok tenant …`

use clap::Subcommand;
use kapok_types::Name;

use super::Request;

/// What to do with tenants.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a tenant below another one
    #[command(
        after_long_help = "Examples:\n  kapok tenant create water --display-name '水务局'\n  kapok \
        tenant create water-lab --parent water"
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
        /// How the change is named.
        #[command(flatten)]
        request: Request,
    },
    /// List tenants
    #[command(
        visible_alias = "list",
        after_long_help = "Examples:\n  kapok tenant ls\n  kapok tenant ls -o json"
    )]
    Ls,
    /// Show one tenant
    #[command(after_long_help = "Example:\n  kapok tenant show water")]
    Show {
        /// Its name
        tenant: Name,
    },
}
