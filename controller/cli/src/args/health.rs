//! `kapok health`

use clap::Args;

/// How all nodes' servers do.
#[derive(Debug, Args)]
#[command(
    after_long_help = "Nodes are healthy, degraded, failing or unknown: too much of an unknown one \
    can't be read.\nVerdicts may keep new instances off a node (quarantined), unless too many nodes \
    are in\nquarantine already (held), or somebody's word goes before them (released).\n\nExamples:\n  \
    kapok health\n  kapok health --all\n  kapok health -o json | jq .counts"
)]
pub(crate) struct Health {
    /// Show healthy nodes, too
    #[arg(long)]
    pub(crate) all: bool,
}
