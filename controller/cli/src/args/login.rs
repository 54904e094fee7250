//! `kapok login`

use std::{path::PathBuf, time::Duration};

use clap::{ArgGroup, Args};
use kapok_trust::Fingerprint;
use kapok_types::Name;

use super::{Secret, life};
use crate::settings::Addresses;

/// How to log in.
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("proof").args(["token", "token_file", "oidc", "renew"]),
    after_long_help = "The private key is made here and never leaves this machine; what comes back \
    is a certificate\nfor some hours. Commands renew it by themselves past two thirds of its \
    life.\n\nThe credential goes into the context that --context names, or into one called like the \
    fabric. With\n--credential FILE and a token, --oidc or --renew it goes into that file; with \
    --credential FILE alone\na file that somebody gave you (kapok-controller init makes three) is \
    taken over into a context.\n\nExamples:\n  kapok login --controller ctl.example:7780 --token-file \
    token.txt\n  kapok login --controller ctl.example:7780 --oidc\n  kapok login --credential \
    system-administrator.pem\n  kapok login --renew --life 30d"
)]
pub(crate) struct Login {
    /// Where controllers let people in, their HTTPS port [default: as the context says]
    #[arg(long, value_name = "HOST:PORT,…")]
    pub(crate) controller: Option<Addresses>,
    /// Log in with this token (others on this machine can see it: rather use --token-file)
    #[arg(long, value_name = "TOKEN", value_parser = secret)]
    pub(crate) token: Option<Secret>,
    /// Log in with the token in this file; - is the standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Log in at the identity provider, with a browser
    #[arg(long)]
    pub(crate) oidc: bool,
    /// Renew the certificate while it lives
    #[arg(long, conflicts_with = "controller")]
    pub(crate) renew: bool,
    /// Only print the identity provider's address; open it with a browser on this machine
    #[arg(long, requires = "oidc")]
    pub(crate) no_browser: bool,
    /// With --oidc, for the first time: the fabric's name
    #[arg(long, requires = "ca_fingerprint", value_name = "NAME")]
    pub(crate) fabric: Option<Name>,
    /// With --oidc, for the first time: the authority to trust, as an administrator told you
    #[arg(long, requires_all = ["oidc", "fabric"], value_name = "HEX")]
    pub(crate) ca_fingerprint: Option<Fingerprint>,
    /// The wished life of the certificate, such as 12h or 30d [default: as the fabric has it]
    #[arg(long, value_name = "TIME", value_parser = life)]
    pub(crate) life: Option<Duration>,
}

/// Takes anything: what is wrong with a token is said elsewhere, without the token.
#[expect(clippy::unnecessary_wraps, reason = "the form of a value parser")]
fn secret(text: &str) -> Result<Secret, String> {
    Ok(Secret::from(text.to_owned()))
}
