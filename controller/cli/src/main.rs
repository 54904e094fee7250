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

// How the controller is spoken to.
mod client;
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

use std::{env, io, process::ExitCode};

use clap::{CommandFactory as _, Parser as _};

use crate::{
    args::{Cli, Command},
    error::Error,
    output::Out,
    settings::Settings,
};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match start(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let report = error.report();
            report.write(&mut io::stderr());
            ExitCode::from(report.exit)
        }
    }
}

fn start(cli: Cli) -> Result<(), Error> {
    let settings = Settings::resolve(&cli.global, |name| env::var_os(name))?;
    if let Command::Completion { shell } = cli.command {
        return complete(shell);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::io("can't start", &error))?;
    let outcome = runtime.block_on(async {
        let mut out = Out::stdout(settings.format, settings.quiet);
        command::run(&settings, &mut out, cli.command).await
    });
    // A read of the terminal that nobody waits for must not keep the process alive.
    runtime.shutdown_background();
    outcome
}

fn complete(shell: clap_complete::Shell) -> Result<(), Error> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "kapok", &mut script);
    Out::stdout(output::Format::Table, false).raw(&script)
}
