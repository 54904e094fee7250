//! `kapok plan …`

use std::time::Duration;

use clap::{Args, Subcommand};

use crate::size;

/// What a plan is to come to.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Plan moves that relieve the most pressed nodes
    ///
    /// Nodes whose servers aren't well come first, then the fullest. No node becomes fuller than the
    /// fullest one is. Nothing is moved.
    #[command(
        after_long_help = "Examples:\n  kapok plan rebalance\n  kapok plan rebalance --max-moves 5 \
        --cool-down 12h"
    )]
    Rebalance(Limits),
    /// Plan moves that empty as many nodes as possible
    ///
    /// Shows the nodes and the energy that this would free. Nothing is moved.
    #[command(
        after_long_help = "Examples:\n  kapok plan consolidate --max-moves 50\n  kapok plan \
        consolidate --idle-watts 220 -o json | jq .freed_kwh_per_year"
    )]
    Consolidate(Limits),
    /// Plan moves that empty one node, and say why what stays does
    ///
    /// Nothing is moved, and the node isn't cordoned.
    #[command(
        after_long_help = "Examples:\n  kapok plan drain node-7\n  kapok plan drain node-7 \
        --cool-down 0s -o json | jq '.stays[].reason'"
    )]
    Drain {
        /// Its name or id
        node: String,
        /// How far the plan goes.
        #[command(flatten)]
        limits: Limits,
    },
}

/// How far a plan goes.
#[derive(Debug, Args)]
pub(crate) struct Limits {
    /// Moves at most, 1 to 1000
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) max_moves: u32,
    /// Memory that all of them may move, such as 512GiB [default: no limit]
    #[arg(long, value_name = "SIZE", value_parser = size::mib, allow_hyphen_values = true)]
    pub(crate) max_memory: Option<u64>,
    /// Leave what came to its node less than this long ago, up to 30d
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = cool_down)]
    pub(crate) cool_down: Duration,
    /// Watts that a node without instances is taken to need, if it reports no power
    #[arg(long, value_name = "W", default_value_t = 150, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) idle_watts: u32,
}

/// Reads a cool-down: `0s` for none, up to `30d`.
fn cool_down(text: &str) -> Result<Duration, String> {
    let most = Duration::from_hours(30 * 24);
    match humantime::parse_duration(text) {
        Ok(time) if time > most => Err("must be at most 30d".to_owned()),
        Ok(time) => Ok(time),
        Err(error) => Err(format!("must be a time such as 1h or 0s: {error}")),
    }
}
