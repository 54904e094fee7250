//! `kapok ca …`

use clap::Subcommand;

use super::Request;

/// What to do with the fabric's authorities.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the authorities: which one signs, which are trusted
    #[command(
        visible_alias = "list",
        after_long_help = "Examples:\n  kapok ca ls\n  kapok ca ls -o json | jq -r \
        '.[].certificate_pem'"
    )]
    Ls,
    /// Make a new authority that signs from now on
    ///
    /// Nodes are renewed at once, without a restart. The old one is trusted as long as a
    /// certificate of it lives.
    #[command(after_long_help = "Example:\n  kapok ca rotate --yes")]
    Rotate {
        /// Don't ask
        #[arg(short, long)]
        yes: bool,
        /// How the change is named.
        #[command(flatten)]
        request: Request,
    },
}
