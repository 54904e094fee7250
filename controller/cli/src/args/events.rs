//! `kapok events`

use clap::Args;

/// Which events to show.
#[derive(Debug, Args)]
#[command(
    after_long_help = "With -o json, prints one JSON object a line. When the connection \
    breaks, --follow resumes after the\nlast event.\n\nExamples:\n  kapok events\n  kapok events \
    --follow --new\n  kapok events --follow --after 1200 -o json"
)]
pub(crate) struct Events {
    /// Go on with new events as they happen
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Start after this sequence number [default: with the first event kept]
    #[arg(long, value_name = "SEQUENCE", conflicts_with = "new")]
    pub(crate) after: Option<u64>,
    /// Leave out what already happened
    #[arg(long, requires = "follow")]
    pub(crate) new: bool,
}
