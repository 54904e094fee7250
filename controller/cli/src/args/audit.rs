//! `kapok audit …`

use std::path::PathBuf;

use clap::{Args, Subcommand};
use kapok_types::Timestamp;

use super::time;

/// What to do with the record of every change and refusal.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show entries, the newest first
    #[command(visible_alias = "list")]
    Ls(Ls),
    /// Check that nothing in the record was edited, moved, cut or recomputed
    ///
    /// The controller checks its store, its sealed segments and the heads that nodes keep. With
    /// --file, an exported file is checked here, without any controller.
    #[command(
        after_long_help = "Exits with 1 when something is wrong, and says where.\n\nExamples:\n  \
        kapok audit verify\n  kapok audit verify --file audit.jsonl"
    )]
    Verify {
        /// An exported file; - is the standard input
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Print the record as JSON lines, which can be verified on their own
    #[command(
        after_long_help = "Examples:\n  kapok audit export > audit.jsonl\n  kapok audit export \
        --after 120000 --until 130000"
    )]
    Export {
        /// Start after this place in the log [default: with the first entry kept]
        #[arg(
            long,
            value_name = "SEQUENCE",
            default_value_t = 0,
            hide_default_value = true
        )]
        after: u64,
        /// End with this place in the log [default: the last one]
        #[arg(
            long,
            value_name = "SEQUENCE",
            default_value_t = 0,
            hide_default_value = true
        )]
        until: u64,
    },
}

/// Which entries to show.
#[derive(Debug, Args)]
#[command(
    after_long_help = "Times are days such as 2026-03-01, or RFC 3339, such as 2026-03-01T08:00:00Z.\n\nExamples:\n  kapok audit \
    ls --limit 20\n  kapok audit ls --refused --actor user/ada\n  kapok audit ls --object \
    instance/web --oldest-first -o json"
)]
pub(crate) struct Ls {
    /// Only what this one did, such as user/ada
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) actor: String,
    /// Only what names an object that begins so, such as instance/web
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) object: String,
    /// Only refusals
    #[arg(long)]
    pub(crate) refused: bool,
    /// Only entries at or after this time
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) since: Option<Timestamp>,
    /// Only entries before this time
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) until: Option<Timestamp>,
    /// At most this many
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) limit: usize,
    /// The oldest first
    #[arg(long)]
    pub(crate) oldest_first: bool,
}
