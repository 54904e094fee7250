//! `kapok op …`

use clap::Subcommand;

use super::Request;

/// What to do with operations.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List operations, newest first
    #[command(
        visible_alias = "list",
        after_long_help = "Examples:\n  kapok op ls --running\n  kapok op ls --instance web"
    )]
    Ls {
        /// Only those of this instance (name, TENANT/NAME, or id)
        #[arg(long)]
        instance: Option<String>,
        /// Only those that go on
        #[arg(long)]
        running: bool,
    },
    /// Show one operation
    #[command(after_long_help = "Example:\n  kapok op show 0190d6b4-6f5e-7c3a-8b1e-2f6d1c9a0b11")]
    Show {
        /// Its id
        id: String,
    },
    /// Stay until an operation has ended, and exit by how it ended
    ///
    /// With -o json, prints the operation at each change, one JSON object a line.
    #[command(after_long_help = "Example:\n  kapok op watch 0190d6b4-6f5e-7c3a-8b1e-2f6d1c9a0b11")]
    Watch {
        /// Its id
        id: String,
    },
    /// Ask an operation to end early
    ///
    /// A create that is cancelled before its instance ran is deleted again; what already happened
    /// stays.
    #[command(after_long_help = "Example:\n  kapok op cancel 0190d6b4-6f5e-7c3a-8b1e-2f6d1c9a0b11")]
    Cancel {
        /// Its id
        id: String,
        /// Stay until it has ended
        #[arg(long)]
        wait: bool,
        /// How the change is named.
        #[command(flatten)]
        request: Request,
    },
}
