//! `kapok`: what people type.
//!
//! A thin client of the controller's people's API (`kapok.fabric.v1`). It decides nothing about the
//! fabric, and the only thing it keeps is who one is: a private key with its certificate, which it
//! fetches and renews. It owns how a change is asked for once (`request_id`), how answers look to
//! people and to programs, and which exit code an outcome has.
//!
//! **Invariant:** every connection to a controller is TLS with rustls' stock verifier; a secret is
//! printed at most once, to standard output, and never in an error.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "printing is what this program is for"
)]

// What people type and set.
mod args;
mod settings;
mod size;

// Who one is.
mod browser;
mod contexts;
mod credential;
mod enroll;

// How the controllers are spoken to.
mod client;
mod controllers;
mod line;
mod race;
mod wait;

// How outcomes are shown.
mod error;
mod exit;
mod human;
mod output;
mod progress;
mod terminal;
mod view;

// What is done.
mod command;

use std::{env, io, process::ExitCode, sync::Arc};

use clap::{ArgMatches, CommandFactory as _, FromArgMatches as _};
use kapok_telemetry::{join, traced};
use kapok_types::{Env, env::System, trace::TraceId};
use tracing::Instrument as _;

use crate::{
    args::{Cli, Command},
    error::Error,
    output::Out,
    settings::Settings,
};

fn main() -> ExitCode {
    let matches = Cli::command().get_matches();
    let call = called(&matches);
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    match start(cli, &call) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { error, trace }) => {
            let report = error.report();
            report.write(&mut io::stderr());
            if let Some(trace) = trace.filter(|_| error.was_asked()) {
                eprintln!("trace: {trace}");
            }
            ExitCode::from(report.exit)
        }
    }
}

/// What went wrong, and in which trace if that wasn't said before.
struct Failure {
    error: Box<Error>,
    trace: Option<TraceId>,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let error = Box::new(error);
        Self { error, trace: None }
    }
}

/// The words of a command without what was said to them.
fn called(matches: &ArgMatches) -> String {
    let mut words = Vec::new();
    let mut at = matches;
    while let Some((word, below)) = at.subcommand() {
        words.push(word);
        at = below;
    }
    words.join(" ")
}

fn start(cli: Cli, call: &str) -> Result<(), Failure> {
    if let Command::Manual(manual) = cli.command {
        let written = manual.write(Cli::command(), kapok_manual::Section::Commands);
        return Ok(written.map_err(|error| Error::io("can't write the manual", &error))?);
    }
    let mut settings = Settings::resolve(&cli.global, |name| env::var_os(name))?;
    if let Command::Completion { shell } = cli.command {
        return Ok(complete(shell)?);
    }
    let source: Arc<dyn Env> = System::new();
    let _telemetry = kapok_telemetry::init("kapok", None, settings.export.as_ref(), &source);
    let span = traced!("command", call);
    let trace = join(&span, settings.trace, &*source);
    settings.trace = Some(trace);
    if settings.show_trace {
        eprintln!("trace: {}", trace.trace);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::io("can't start", &error))?;
    let outcome = runtime.block_on(async {
        let mut out = Out::stdout(settings.format, settings.quiet);
        let run = command::run(&settings, &mut out, cli.command);
        run.instrument(span).await
    });
    // A read of the terminal that nobody waits for must not keep the process alive.
    runtime.shutdown_background();
    outcome.map_err(|error| Failure {
        error: Box::new(error),
        trace: (!settings.show_trace).then_some(trace.trace),
    })
}

fn complete(shell: clap_complete::Shell) -> Result<(), Error> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "kapok", &mut script);
    Out::stdout(output::Format::Table, false).raw(&script)
}
