//! What people type. One file per noun; values are checked here as far as that needs no server.

pub(crate) mod audit;
pub(crate) mod auth;
pub(crate) mod ca;
pub(crate) mod capacity;
pub(crate) mod certificate;
pub(crate) mod context;
pub(crate) mod controller;
pub(crate) mod events;
pub(crate) mod flavor;
pub(crate) mod group;
pub(crate) mod health;
pub(crate) mod image;
pub(crate) mod instance;
pub(crate) mod login;
pub(crate) mod needs;
pub(crate) mod node;
pub(crate) mod op;
pub(crate) mod plan;
pub(crate) mod quota;
pub(crate) mod system;
pub(crate) mod tenant;
pub(crate) mod token;
pub(crate) mod usage;
pub(crate) mod user;

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};
use kapok_types::{Name, Timestamp};

use crate::{
    exit,
    output::Format,
    settings::{self, Addresses},
};

/// Run virtual machines on a city's pooled servers
///
/// Talks to a kapok-controller, as whoever you are logged in. A change is accepted as an operation
/// and goes on without you; --wait stays until it has ended.
#[derive(Debug, Parser)]
#[command(
    name = "kapok",
    version,
    propagate_version = true,
    arg_required_else_help = true,
    disable_help_subcommand = false,
    after_help = exit::help()
)]
pub(crate) struct Cli {
    /// What holds for every command.
    #[command(flatten)]
    pub(crate) global: Global,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What holds for every command.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Where controllers listen.
    #[arg(
        help = "Where controllers listen, tried in this order [env: KAPOK_SERVER] [default: as the \
                credential says]"
    )]
    #[arg(long, global = true, value_name = "HOST:PORT,…")]
    pub(crate) server: Option<Addresses>,
    /// The credential's file.
    #[arg(help = "Use the credential in this file, no context [env: KAPOK_CREDENTIAL]")]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) credential: Option<PathBuf>,
    /// The context.
    #[arg(help = "Use this context [env: KAPOK_CONTEXT] [default: the current one]")]
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) context: Option<Name>,
    /// How to print answers.
    #[arg(help = "How to print answers [env: KAPOK_OUTPUT] [default: table]")]
    #[arg(short, long, global = true, value_enum, value_name = "FORMAT")]
    pub(crate) output: Option<Format>,
    /// Print the answer alone: no progress, no remarks
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// Print the trace's id, which the logs of all that serve this command carry
    ///
    /// The trace goes on from TRACEPARENT if that is set. Its beginning is exported where
    /// OTEL_EXPORTER_OTLP_ENDPOINT says, if it does.
    #[allow(clippy::doc_markdown, reason = "help is no markdown")]
    #[arg(long, global = true)]
    pub(crate) trace: bool,
    /// Longest wait, such as 30s or 5m; when it is over, nothing is cancelled
    ///
    /// Without --wait it bounds the wait for the answer (30s unless given), with --wait the wait
    /// for the change's end (10m unless given). Imports, consoles and followed events end by it
    /// only if it is given.
    #[arg(long, global = true, value_name = "TIME", value_parser = settings::timeout)]
    pub(crate) timeout: Option<Duration>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Get a certificate, or renew it, and remember it in a context
    Login(login::Login),
    /// Forget the credential of a context
    #[command(after_long_help = "Examples:\n  kapok logout\n  kapok logout --context city")]
    Logout,
    /// Say who you are to the fabric, and what you may do
    #[command(
        after_long_help = "Examples:\n  kapok whoami\n  kapok whoami -o json | jq -r \
        .expire_time"
    )]
    Whoami,
    /// List, choose and show contexts: who you are where
    #[command(subcommand)]
    Context(context::Command),
    /// Look at nodes, let servers join, keep instances off them
    #[command(subcommand)]
    Node(node::Command),
    /// Show how the nodes' servers do, and what is wrong with which part
    Health(health::Health),
    /// Import, look at and remove images
    #[command(subcommand)]
    Image(image::Command),
    /// Create, run and look at instances
    #[command(subcommand)]
    Instance(instance::Command),
    /// Manage systems: what a tenant's instances are for
    #[command(subcommand)]
    System(system::Command),
    /// Manage groups: instances that are to be apart from each other, or together
    #[command(subcommand)]
    Group(group::Command),
    /// Manage flavors: named sizes for instances
    #[command(subcommand)]
    Flavor(flavor::Command),
    /// Show what still fits, and whether the loss of a node could be borne
    Capacity(capacity::Capacity),
    /// Plan moves of instances: rebalance, consolidate, drain
    #[command(subcommand)]
    Plan(plan::Command),
    /// Look at, wait for and cancel operations
    #[command(subcommand)]
    Op(op::Command),
    /// Show what happened, and what happens
    Events(events::Events),
    /// Manage tenants: the bureaus
    #[command(subcommand)]
    Tenant(tenant::Command),
    /// Show and set how much a tenant may have
    #[command(subcommand)]
    Quota(quota::Command),
    /// Show what systems held and used, month by month
    Usage(usage::Usage),
    /// Report on the fabric as a whole
    #[command(subcommand)]
    Report(usage::Report),
    /// Manage users and what they may do
    #[command(subcommand)]
    User(user::Command),
    /// Manage tokens: the right to fetch a certificate
    #[command(subcommand)]
    Token(token::Command),
    /// Look at certificates, and end them
    #[command(subcommand)]
    Certificate(certificate::Command),
    /// Look at the fabric's authorities, and rotate them
    #[command(subcommand)]
    Ca(ca::Command),
    /// Look at the controllers and their store, let another one lead
    #[command(subcommand)]
    Controller(controller::Command),
    /// Ask who may do what, and why
    #[command(subcommand)]
    Auth(auth::Command),
    /// Read, check and export the record of every change and refusal
    #[command(subcommand)]
    Audit(audit::Command),
    /// Print a script that completes kapok's commands in a shell
    #[command(after_long_help = "Example:\n  kapok completion bash > \
        /etc/bash_completion.d/kapok")]
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the man pages and completions of this program, for packages
    #[command(hide = true)]
    Manual(kapok_manual::Arguments),
}

/// How a change is named.
#[derive(Debug, Clone, Args)]
pub(crate) struct Request {
    /// Name the request: the same one again has no second effect (one is made up otherwise)
    #[arg(long, value_name = "ID", value_parser = request_id)]
    pub(crate) request_id: Option<String>,
}

/// A name that was typed, or `none`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OrNone(Option<Name>);

impl OrNone {
    /// As the wire has it: none is the empty text.
    pub(crate) fn wire(self) -> String {
        self.0.map(|name| name.to_string()).unwrap_or_default()
    }
}

/// Reads a name, or `none`.
fn or_none(text: &str) -> Result<OrNone, String> {
    if text == "none" {
        return Ok(OrNone(None));
    }
    let name: Result<Name, kapok_types::Violation> = text.parse();
    name.map(|name| OrNone(Some(name)))
        .map_err(|wrong| format!("{}; or none", wrong.reason))
}

/// A secret that was typed. Nothing prints it: not `Debug`, not an error.
#[derive(Clone)]
pub(crate) struct Secret(zeroize::Zeroizing<String>);

impl Secret {
    /// The secret itself.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

/// Reads a life such as `12h` or `30d`, in whole seconds.
fn life(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(life) if life.as_secs() == 0 => Err("must be a second at least".to_owned()),
        Ok(life) => Ok(life),
        Err(error) => Err(format!("must be a life such as 12h or 30d: {error}")),
    }
}

/// Reads a time: a day in UTC such as `2026-03-01`, or RFC 3339.
fn time(text: &str) -> Result<Timestamp, String> {
    let whole = if text.len() == "2026-03-01".len() {
        format!("{text}T00:00:00Z")
    } else {
        text.to_owned()
    };
    let time = humantime::parse_rfc3339_weak(&whole)
        .map_err(|error| format!("must be 2026-03-01, or 2026-03-01T00:00:00Z: {error}"))?;
    let since = time.duration_since(std::time::UNIX_EPOCH);
    since
        .ok()
        .and_then(|since| u64::try_from(since.as_millis()).ok())
        .map(Timestamp)
        .ok_or_else(|| "must be after 1970".to_owned())
}

/// Reads who is meant: `user/NAME` or `machine/NAME`; a bare NAME is a person.
fn person(text: &str) -> Result<String, String> {
    let named = |kind: &str, name: &str| {
        let name: Name = name
            .parse()
            .map_err(|wrong: kapok_types::Violation| wrong.reason)?;
        Ok(format!("{kind}/{name}"))
    };
    match text.split_once('/') {
        None => named("user", text),
        Some((kind @ ("user" | "machine"), name)) => named(kind, name),
        Some(_) => Err("must be user/NAME or machine/NAME".to_owned()),
    }
}

/// Reads who a token is for: as [`person`] does, or `controller/NAME`.
fn token_subject(text: &str) -> Result<String, String> {
    match text.split_once('/') {
        Some(("controller", name)) => {
            let name: Result<Name, kapok_types::Violation> = name.parse();
            name.map(|name| format!("controller/{name}"))
                .map_err(|wrong| wrong.reason)
        }
        Some(("node", _)) => Err("a node's: kapok node token create".to_owned()),
        _ => person(text).map_err(|reason| format!("{reason}, or controller/NAME")),
    }
}

/// Reads a request's name, within the limit that the API states.
fn request_id(text: &str) -> Result<String, String> {
    if (1..=128).contains(&text.len()) {
        Ok(text.to_owned())
    } else {
        Err(format!("has {} bytes; must have 1 to 128", text.len()))
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_tree_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_top_help_is_as_documented() {
        let help = Cli::command()
            .term_width(100)
            .render_long_help()
            .to_string();
        insta::assert_snapshot!("help", help);
    }

    /// Every command has a line about it, and every leaf an example.
    #[test]
    fn every_command_explains_itself() {
        fn check(command: &clap::Command, path: &str) {
            assert!(
                command.get_about().is_some(),
                "{path} says nothing about itself"
            );
            for argument in command.get_arguments() {
                let name = argument.get_id();
                assert!(
                    argument.get_help().is_some(),
                    "{path} {name} says nothing about itself"
                );
            }
            if command.has_subcommands() {
                // Those for packagers are no command of people.
                for next in command.get_subcommands().filter(|next| !next.is_hide_set()) {
                    check(next, &format!("{path} {}", next.get_name()));
                }
            } else {
                let help = command.get_after_long_help().map(ToString::to_string);
                let example = help.is_some_and(|help| help.contains("kapok "));
                assert!(example, "{path} has no example");
            }
        }
        check(&Cli::command(), "kapok");
    }

    #[test]
    fn times_are_days_or_exact() {
        let day = time("2026-03-01").unwrap();
        assert_eq!(time("2026-03-01T00:00:00Z"), Ok(day));
        assert_eq!(day.to_string(), "2026-03-01T00:00:00.000Z");
        for bad in ["", "tomorrow", "2026-13-01", "01.03.2026", "2026-3-1"] {
            assert!(time(bad).is_err(), "{bad}");
        }
    }

    /// A token on the command line is in no error and no debug output.
    #[test]
    fn secrets_are_not_repeated() {
        let line = "kapok login --controller a:1 --token kapok1.city.c2VjcmV0";
        let cli = Cli::try_parse_from(line.split(' ')).unwrap();
        assert!(!format!("{cli:?}").contains("c2VjcmV0"));
        let twice = format!("{line} --token kapok1.city.c2VjcmV0 --oidc");
        let refused = Cli::try_parse_from(twice.split(' ')).unwrap_err();
        assert!(!refused.to_string().contains("c2VjcmV0"), "{refused}");
    }

    #[test]
    fn bad_values_are_usage_errors_that_name_the_reason() {
        for (line, reason) in [
            ("instance create web --image i --memory 512", "needs a unit"),
            (
                "instance create web --image i --memory -1GiB",
                "must not be negative",
            ),
            (
                "instance create web --image i --memory 0GiB",
                "must be 16 MiB",
            ),
            (
                "instance create web --image i --memory 17179869186GiB",
                "too large",
            ),
            (
                "instance create web --image i --memory 1G --disk 65TiB",
                "64 TiB",
            ),
            (
                "instance create web --image i --memory 1G --vcpus 0",
                "1 to 512",
            ),
            (
                "instance create web --image i --memory 1G --vcpus -1",
                "1 to 512",
            ),
            (
                "instance create ../etc --image i --memory 1G",
                "contains '.'",
            ),
            (
                "instance create web --image i --memory 1G --timeout 0s",
                "longer than zero",
            ),
            ("--server localhost node ls", "HOST:PORT"),
            ("--server http://localhost:1 node ls", "TLS only"),
            ("user create root/x", "user/NAME or machine/NAME"),
            ("user grant ada owner", "system-administrator"),
            ("user grant ada tenant-member", "tenant-member:TENANT"),
            ("user grant ada auditor:x", "no tenant"),
            ("node token create Rack", "a-z"),
            ("node update n", "required"),
            ("node set n --overcommit 0.5", "1 to 64"),
            ("node update n --label a", "NAME=VALUE"),
            ("node update n --rack R7", "or none"),
            ("group create web", "required"),
            (
                "group create web --apart rack --together node",
                "cannot be used",
            ),
            ("group create web --apart cell", "possible values"),
            (
                "instance create web --image i --memory 1G --count 65",
                "1 to 64",
            ),
            ("instance update web", "required"),
            ("token create node/a", "kapok node token create"),
            ("token create root/a", "controller/NAME"),
            ("token create controller/A", "a-z"),
            ("login --token a --oidc", "cannot be used"),
            ("instance create web --image i", "required"),
            (
                "instance create web --image i --flavor small --vcpus 2",
                "cannot be used",
            ),
            (
                "instance create web --image i --flavor small --memory 1G",
                "cannot be used",
            ),
            ("instance explain --image i", "required"),
            ("flavor create small --memory 1G", "required"),
            (
                "flavor create small --vcpus 1 --memory 1G --for Water",
                "a-z",
            ),
            ("flavor update small", "required"),
            ("system update billing", "required"),
            (
                "system update billing --ends 2027-01-01 --no-end",
                "cannot be used",
            ),
            ("system create billing --ends tomorrow", "2026-03-01"),
            ("system create billing --class always", "recreate"),
            ("flavor update small --disk 1G --no-disk", "cannot be used"),
            ("tenant update water", "required"),
            (
                "tenant update water --contact a --no-contacts",
                "cannot be used",
            ),
            ("quota set water", "required"),
            (
                "quota set water --vcpus -1",
                "0 to 9223372036854775807; or none",
            ),
            ("quota set water --memory 64", "needs a unit"),
            ("quota set water --reserve-vcpus none", "whole number"),
            ("instance explain", "required"),
            ("plan drain", "required"),
            ("plan rebalance --max-moves 0", "1..=1000"),
            ("plan rebalance --cool-down 31d", "at most 30d"),
            ("plan rebalance --max-memory 5", "needs a unit"),
            ("capacity --vcpus 2", "--memory"),
            ("instance explain web --image i", "cannot be used"),
        ] {
            let words = ["kapok"].into_iter().chain(line.split(' '));
            let refused = Cli::try_parse_from(words).unwrap_err();
            assert_eq!(refused.exit_code(), i32::from(exit::USAGE), "{line}");
            assert!(refused.to_string().contains(reason), "{line}: {refused}");
        }
    }
}
