//! `kapok-agent`: joins a fabric, or serves as a node of it.

mod doctor;
mod serve;

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use clap::{Args, CommandFactory as _, Parser, Subcommand};
use kapok_agent::{
    config::{self, Config},
    local,
    trust::{self, command},
};
use kapok_manual::Section;
use kapok_telemetry::{Guard, Logs, Telemetry};
use kapok_types::{Env, env::System};

/// Exit code for a configuration or an argument that can't be used (`EX_USAGE`).
const BAD_CONFIG: u8 = 64;
/// Exit code for a state directory that a person has to look at (`EX_CONFIG`).
const BAD_STORE: u8 = 78;

/// The node agent of Kapok: drives KVM through libvirt as a controller intends.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The configuration.
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        default_value = "/etc/kapok/agent.toml"
    )]
    config: PathBuf,
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: Run,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves; the default. Before this server was joined it waits for that.
    Run(Run),
    Join(command::Arguments),
    Doctor(doctor::Arguments),
    /// Writes the man pages and completions of this program, for packages.
    #[command(hide = true)]
    Manual(kapok_manual::Arguments),
}

#[derive(Debug, Clone, Copy, Args)]
struct Run {
    /// Only check the configuration.
    #[arg(long)]
    check_config: bool,
    /// Move a damaged local store aside before starting; the controller sends its intent again.
    #[arg(long)]
    reset_local_store: bool,
}

impl Run {
    /// What was asked for before or behind the word.
    fn or(self, before: Self) -> Self {
        Self {
            check_config: self.check_config || before.check_config,
            reset_local_store: self.reset_local_store || before.reset_local_store,
        }
    }
}

fn main() -> ExitCode {
    let _kib = kapok_libvirt::memory::release_linked();
    let arguments = Arguments::parse();
    let env: Arc<dyn Env> = System::new();
    let outcome = match arguments.command {
        Some(Command::Join(join)) => start_join(join, &arguments.config, &env),
        Some(Command::Doctor(asked)) => return doctor::run(&asked, &arguments.config, &env),
        Some(Command::Manual(manual)) => manual
            .write(Arguments::command(), Section::Administration)
            .map_err(anyhow::Error::from),
        Some(Command::Run(run)) => start(run.or(arguments.run), &arguments.config, env),
        None => start(arguments.run, &arguments.config, env),
    };
    let Err(error) = outcome else {
        return ExitCode::SUCCESS;
    };
    tracing::error!("{error:#}");
    ExitCode::from(code(&error))
}

/// The exit code of an error.
fn code(error: &anyhow::Error) -> u8 {
    let store = error.downcast_ref::<local::Error>();
    let stranger = matches!(error.downcast_ref(), Some(trust::Error::Stranger { .. }));
    let argument = error.downcast_ref::<command::Error>();
    if stranger || store.is_some_and(local::Error::needs_a_person) {
        BAD_STORE
    } else if error.is::<config::Error>() || argument.is_some_and(command::Error::is_misuse) {
        BAD_CONFIG
    } else {
        1
    }
}

/// Lines and spans, as the configuration says.
fn telemetry(telemetry: &Telemetry, env: &Arc<dyn Env>) -> Guard {
    let logs = Logs {
        variable: "RUST_LOG",
        usual: "info",
    };
    let export = telemetry.export();
    kapok_telemetry::init("kapok-agent", Some(logs), export.as_ref(), env)
}

fn start_join(join: command::Arguments, config: &Path, env: &Arc<dyn Env>) -> anyhow::Result<()> {
    let _telemetry = telemetry(&Telemetry::default(), env);
    let prepared = command::prepare(join, config, env)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let said = runtime.block_on(prepared.join(env))?;
    Ok(std::io::stdout().write_all(said.as_bytes())?)
}

fn start(run: Run, path: &Path, env: Arc<dyn Env>) -> anyhow::Result<()> {
    let file = path.display();
    let loaded = Config::load(path);
    let settings = loaded.as_ref().ok().filter(|_| !run.check_config);
    let settings = settings.map(|config| config.telemetry.clone());
    let _telemetry = telemetry(&settings.unwrap_or_default(), &env);
    let config = loaded?;
    if run.check_config {
        tracing::info!("{file} is fine");
        return Ok(());
    }
    // Calls to libvirt have threads of their own; these serve gRPC, timers and the local store.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(4)
        .thread_stack_size(1024 * 1024)
        .enable_all()
        .build()?;
    runtime.block_on(serve::serve(config, path, env, run.reset_local_store))
}
