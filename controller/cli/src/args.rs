//! What people type. One file per noun; values are checked here as far as that needs no server.

pub(crate) mod events;
pub(crate) mod image;
pub(crate) mod instance;
pub(crate) mod node;
pub(crate) mod op;

use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use tonic::transport::Uri;

use crate::{exit, output::Format, settings};

/// Run virtual machines on a city's pooled servers
///
/// Talks to a kapok-controller. A change is accepted as an operation and goes on without you;
/// --wait stays until it has ended.
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
    /// The controller's URL.
    #[arg(help = "The controller's URL [env: KAPOK_SERVER] [default: http://127.0.0.1:7700]")]
    #[arg(long, global = true, value_name = "URL", value_parser = settings::server)]
    pub(crate) server: Option<Uri>,
    /// How to print answers.
    #[arg(help = "How to print answers [env: KAPOK_OUTPUT] [default: table]")]
    #[arg(short, long, global = true, value_enum, value_name = "FORMAT")]
    pub(crate) output: Option<Format>,
    /// Print the answer alone: no progress, no remarks
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
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
    /// Look at nodes, and keep new instances off them
    #[command(subcommand)]
    Node(node::Command),
    /// Import, look at and remove images
    #[command(subcommand)]
    Image(image::Command),
    /// Create, run and look at instances
    #[command(subcommand)]
    Instance(instance::Command),
    /// Look at, wait for and cancel operations
    #[command(subcommand)]
    Op(op::Command),
    /// Show what happened, and what happens
    Events(events::Events),
    /// Print a script that completes kapok's commands in a shell
    #[command(after_long_help = "Example:\n  kapok completion bash > \
        /etc/bash_completion.d/kapok")]
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// How a change is named.
#[derive(Debug, Clone, Args)]
pub(crate) struct Request {
    /// Name the request: the same one again has no second effect (one is made up otherwise)
    #[arg(long, value_name = "ID", value_parser = request_id)]
    pub(crate) request_id: Option<String>,
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
                for next in command.get_subcommands() {
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
            ("--server localhost:1 node ls", "http://HOST:PORT"),
            ("instance explain", "required"),
            ("instance explain web --image i", "cannot be used"),
        ] {
            let words = ["kapok"].into_iter().chain(line.split(' '));
            let refused = Cli::try_parse_from(words).unwrap_err();
            assert_eq!(refused.exit_code(), i32::from(exit::USAGE), "{line}");
            assert!(refused.to_string().contains(reason), "{line}: {refused}");
        }
    }
}
