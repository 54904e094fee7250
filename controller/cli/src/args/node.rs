//! `kapok node …`

use std::time::Duration;

use clap::{Args, Subcommand};
use kapok_types::Name;

use super::{OrNone, Request, life, or_none, token};
use crate::size;

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
    /// Show how a node's server does: each component, and what is wrong with it
    #[command(
        after_long_help = "Evidence and what to do stand under what isn't healthy. What can't be \
        read is unknown, never\nhealthy.\n\nExamples:\n  kapok node health rack1-a\n  kapok node \
        health rack1-a --readings\n  kapok node health rack1-a -o json | jq '.verdicts[].code'"
    )]
    Health {
        /// Its name or id
        node: String,
        /// Show every reading, too
        #[arg(long)]
        readings: bool,
    },
    /// Show what a node's server is made of, and what has changed; -o wide with PCI devices
    #[command(
        after_long_help = "Examples:\n  kapok node inventory rack1-a\n  kapok node inventory \
        rack1-a -o json | jq '.disks[].serial'"
    )]
    Inventory {
        /// Its name or id
        node: String,
    },
    /// Let a node take instances although its server isn't healthy, until a time
    ///
    /// A cordon holds all the same.
    #[command(
        after_long_help = "Examples:\n  kapok node release rack1-a --reason 'DIMM comes tomorrow' \
        --life 24h\n  kapok node release rack1-a --end"
    )]
    Release(Release),
    /// Show what nodes hold otherwise than a record that was restored or rebuilt
    #[command(
        after_long_help = "Nothing is created, changed or deleted on a node before it is adopted.\n\n\
        Examples:\n  kapok node differences\n  kapok node differences -o json | jq '.nodes[] | \
        select(.asked | not)'"
    )]
    Differences,
    /// Settle what a node holds otherwise: then it follows the fabric's record again
    ///
    /// What it has and the fabric doesn't know is taken up, what was changed there later counts, and what
    /// isn't there any more is deleted. Shows them first, and settles what was shown.
    #[command(
        after_long_help = "Examples:\n  kapok node adopt rack1-a\n  kapok node adopt --all --yes\n  \
        kapok node adopt rack1-b --tenant water"
    )]
    Adopt(Adopt),
    /// Let servers join, and lost nodes come back
    #[command(subcommand)]
    Token(TokenCommand),
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
    /// Change what an administrator decides about a node: where it stands, what it is for
    ///
    /// What runs there stays.
    #[command(
        alias = "set",
        after_long_help = "Examples:\n  kapok node update rack1-a --rack r7 --room a\n  kapok node \
        update rack1-a --label disk=nvme --label spare-\n  kapok node update rack1-a --isolation \
        secret\n  kapok node update rack1-a --overcommit 2.5 --address 10.0.0.9:7701"
    )]
    Update(Update),
    /// Take a node's present hardware for the node's, after a board or parts were swapped
    #[command(
        after_long_help = "kapok node show names what has changed, kapok node inventory which parts.\n\nExample:\n  kapok node rebind \
        rack1-a"
    )]
    Rebind(Confirmed),
    /// Believe nobody with this node's key any more, at once
    ///
    /// Its guests run on and its claims stay. A new token brings it back.
    #[command(after_long_help = "Example:\n  kapok node revoke rack1-a --reason 'disk stolen'")]
    Revoke {
        /// Which.
        #[command(flatten)]
        node: Confirmed,
        /// Why, for the others
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
    },
    /// Forget a node that carries nothing
    #[command(after_long_help = "Example:\n  kapok node rm rack1-a --yes")]
    Rm(Confirmed),
}

/// What to do with nodes' tokens.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token with which a server joins, or a lost node comes back; prints it once
    #[command(
        after_long_help = "On the server: kapok-agent join --controller HOST:7780 --token-file \
        FILE\n\nExample:\n  kapok node token create rack1-a --life 30m"
    )]
    Create {
        /// The node's name: a-z, 0-9 and hyphens, at most 63
        name: Name,
        /// How long it can be used, such as 30m
        #[arg(long, value_name = "TIME", value_parser = life, default_value = "1h")]
        life: Duration,
        /// How the change is named.
        #[command(flatten)]
        request: Request,
    },
    /// List tokens of nodes that can still be used
    #[command(
        visible_alias = "list",
        after_long_help = "Example:\n  kapok node token ls"
    )]
    Ls,
    /// Take a token back; certificates that were fetched with it end
    #[command(after_long_help = "Example:\n  kapok node token rm \
        0190d6b4-6f5e-7c3a-8b1e-2f6d1c9a0b11 --yes")]
    Rm(token::Rm),
}

/// What changes about a node.
#[derive(Debug, Args)]
#[group(
    required = true, multiple = true,
    args = ["rack", "room", "labels", "isolation", "overcommit", "address"]
)]
pub(crate) struct Update {
    /// Its name or id
    pub(crate) node: String,
    /// Its rack, or none
    #[arg(long, value_name = "NAME|none", value_parser = or_none)]
    pub(crate) rack: Option<OrNone>,
    /// Its room, or none
    #[arg(long, value_name = "NAME|none", value_parser = or_none)]
    pub(crate) room: Option<OrNone>,
    /// A label that it has, or with a hyphen one that it has no longer (can be repeated)
    #[arg(long = "label", value_name = "NAME=VALUE|NAME-", value_parser = label)]
    pub(crate) labels: Vec<Label>,
    /// Take only instances of tenants of this isolation class; or none: of those that have none
    #[arg(long, value_name = "CLASS|none", value_parser = or_none)]
    pub(crate) isolation: Option<OrNone>,
    /// How many vCPUs one thread may carry, 1 to 64, such as 2.5
    #[arg(long, value_name = "RATIO", value_parser = size::permille)]
    pub(crate) overcommit: Option<u32>,
    /// Where its agent listens, as controllers dial it
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) address: Option<String>,
    /// How the change is named.
    #[command(flatten)]
    pub(crate) request: Request,
}

/// One of a node's labels, and its value; none takes it away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Label {
    pub(crate) name: Name,
    pub(crate) value: Option<String>,
}

fn label(text: &str) -> Result<Label, String> {
    let (name, value) = match (text.split_once('='), text.strip_suffix('-')) {
        (Some((name, value)), _) => (name, Some(value.to_owned())),
        (None, Some(name)) => (name, None),
        (None, None) => return Err("must be NAME=VALUE, or NAME- to take it away".to_owned()),
    };
    let name: Result<Name, kapok_types::Violation> = name.parse();
    let name = name.map_err(|wrong| wrong.reason)?;
    Ok(Label { name, value })
}

/// Nodes that are to be adopted.
#[derive(Debug, Args)]
pub(crate) struct Adopt {
    /// Their names
    #[arg(required_unless_present = "all")]
    pub(crate) nodes: Vec<String>,
    /// All that can be compared
    #[arg(long, conflicts_with = "nodes")]
    pub(crate) all: bool,
    /// The tenant for instances whose own one nobody knows [default: city]
    #[arg(long, value_name = "TENANT")]
    pub(crate) tenant: Option<Name>,
    /// Don't ask
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// How the change is named.
    #[command(flatten)]
    pub(crate) request: Request,
}

/// A word before a node's verdicts.
#[derive(Debug, Args)]
pub(crate) struct Release {
    /// Its name or id
    pub(crate) node: String,
    /// Why, for the others
    #[arg(long, required_unless_present = "end")]
    pub(crate) reason: Option<String>,
    /// For how long, 1m to 30d
    #[arg(long, value_name = "TIME", value_parser = life, default_value = "24h")]
    pub(crate) life: Duration,
    /// End a release: the verdicts decide again
    #[arg(long, conflicts_with_all = ["reason", "life"])]
    pub(crate) end: bool,
    /// How the change is named.
    #[command(flatten)]
    pub(crate) request: Request,
}

/// Something to be asked about first.
#[derive(Debug, Args)]
pub(crate) struct Confirmed {
    /// Its name or id
    pub(crate) node: String,
    /// Don't ask
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// How the change is named.
    #[command(flatten)]
    pub(crate) request: Request,
}
