//! `kapok controller …`

use clap::Subcommand;

/// What to do with controllers.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the controllers, which one leads, how far the others follow, and how the store is
    #[command(
        visible_alias = "list",
        after_long_help = "Examples:\n  kapok controller ls\n  kapok controller ls -o json | jq -r \
        '.controllers[] | select(.role == \"leads\").name'"
    )]
    Ls,
    /// Let another controller lead, such as before work on the one that does
    ///
    /// Changes wait until another one leads, a few seconds; instances run on.
    #[command(
        after_long_help = "Examples:\n  kapok controller step-down\n  kapok controller step-down \
        --yes --no-wait"
    )]
    StepDown {
        /// Don't ask
        #[arg(short, long)]
        yes: bool,
        /// Don't wait until another one leads (a minute at most, or --timeout)
        #[arg(long)]
        no_wait: bool,
    },
}
