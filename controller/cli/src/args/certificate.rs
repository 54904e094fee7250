//! `kapok certificate …`

use clap::Subcommand;

use super::Request;

/// What to do with certificates.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List certificates that have not ended
    #[command(
        visible_alias = "list",
        after_long_help = "Examples:\n  kapok certificate ls\n  kapok certificate ls --subject node/"
    )]
    Ls {
        /// Only those of subjects that begin so, such as node/ or user/ada
        #[arg(
            long,
            default_value = "",
            hide_default_value = true,
            value_name = "TEXT"
        )]
        subject: String,
    },
    /// End a certificate, also on open connections
    #[command(
        after_long_help = "Example:\n  kapok certificate revoke 4f0c22d1a3b44e5f8d6a7b8c9d0e1f20 \
        --reason 'laptop lost'"
    )]
    Revoke {
        /// Its serial number
        serial: String,
        /// Why, for the others
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
        /// Don't ask
        #[arg(short, long)]
        yes: bool,
        /// How the change is named.
        #[command(flatten)]
        request: Request,
    },
}
