//! `kapok context …`

use clap::Subcommand;
use kapok_types::Name;

/// What to do with contexts.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List contexts
    #[command(
        visible_alias = "list",
        after_long_help = "Examples:\n  kapok context ls\n  kapok context ls -o json"
    )]
    Ls,
    /// Make a context the current one
    #[command(after_long_help = "Example:\n  kapok context use city")]
    Use {
        /// Its name
        name: Name,
    },
    /// Show a context
    #[command(after_long_help = "Examples:\n  kapok context show\n  kapok context show city")]
    Show {
        /// Its name [default: the current one]
        name: Option<Name>,
    },
}
