//! `kapok node …`

use clap::Subcommand;

use super::Request;

/// What to do with nodes.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List nodes
    #[command(
        visible_alias = "list",
        after_long_help = "Examples:\n  kapok node ls\n  kapok node ls -o wide\n  \
            kapok node ls -o json | jq -r '.[] | select(.state != \"ready\") | .name'"
    )]
    Ls,
    /// Show one node
    #[command(after_long_help = "Example:\n  kapok node show rack1-a")]
    Show {
        /// Its name or id
        node: String,
    },
    /// Keep new instances off a node; those that run there stay
    #[command(after_long_help = "Example:\n  kapok node cordon rack1-a --reason 'new disks'")]
    Cordon {
        /// Its name or id
        node: String,
        /// Why, for the others
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
        /// How the change is named.
        #[command(flatten)]
        request: Request,
    },
    /// Let a node take instances again
    #[command(after_long_help = "Example:\n  kapok node uncordon rack1-a")]
    Uncordon {
        /// Its name or id
        node: String,
        /// How the change is named.
        #[command(flatten)]
        request: Request,
    },
}
