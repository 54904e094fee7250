//! `kapok token …`

use std::time::Duration;

use clap::{Args, Subcommand};

use super::{Request, life, token_subject};

/// What to do with tokens.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a token for a person, a machine or one more controller; prints it once
    ///
    /// A person's works once, a machine's until it ends: each use fetches a short certificate. A
    /// controller's works once: whoever shows it gets the keys of the fabric's authorities.
    #[command(
        after_long_help = "Examples:\n  kapok token create machine/ci --life 90d > ci.token\n  \
        kapok token create user/ada\n  kapok token create controller/b > b.token"
    )]
    Create {
        /// user/NAME, machine/NAME, controller/NAME, or the NAME of a person
        #[arg(value_parser = token_subject)]
        subject: String,
        /// How long it can be used, such as 90d [default: 30d for machines, 1h otherwise]
        #[arg(long, value_name = "TIME", value_parser = life)]
        life: Option<Duration>,
        /// How the change is named.
        #[command(flatten)]
        request: Request,
    },
    /// List tokens that can still be used
    #[command(
        visible_alias = "list",
        after_long_help = "Examples:\n  kapok token ls\n  kapok token ls --subject machine/"
    )]
    Ls {
        /// Only those for subjects that begin so, such as machine/
        #[arg(
            long,
            default_value = "",
            hide_default_value = true,
            value_name = "TEXT"
        )]
        subject: String,
    },
    /// Take a token back; certificates that were fetched with it end
    #[command(after_long_help = "Example:\n  kapok token rm \
        0190d6b4-6f5e-7c3a-8b1e-2f6d1c9a0b11 --yes")]
    Rm(Rm),
}

/// Which token to take back.
#[derive(Debug, Args)]
pub(crate) struct Rm {
    /// Its id
    pub(crate) id: String,
    /// Don't ask
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// How the change is named.
    #[command(flatten)]
    pub(crate) request: Request,
}
