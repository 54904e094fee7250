//! `kapok-controller`: arguments, tracing, configuration, and what was asked for.

use std::{io::Write as _, path::PathBuf, process::ExitCode, sync::Arc};

use clap::{CommandFactory as _, Parser, Subcommand};
use kapok_controller::config::{self, Config};
use kapok_manual::Section;
use kapok_telemetry::Logs;
use kapok_types::{Env, Epoch, env::System};
use tracing::error;

mod commands;

/// What a process ends with that was started wrongly, or on a store that isn't in use.
const BAD_CONFIG: u8 = 64;

/// The controller of a Kapok fabric. Without a command it serves.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = config::DEFAULT_PATH, global = true)]
    config: PathBuf,
    /// Checks the configuration file and ends.
    #[arg(long)]
    check_config: bool,
    /// After the store was restored from a backup: leads above this epoch, the highest that a
    /// node says it has seen.
    #[arg(long, value_name = "EPOCH", default_value_t = 0)]
    epoch_floor: u64,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes a fabric: its authority, this controller's certificate, and the credentials of the
    /// first system administrator, security administrator and auditor.
    Init(commands::init::Arguments),
    /// Makes this server one more controller of a fabric whose log is in etcd, or brings a known
    /// one back. Run again with the same token, it goes on where it ended.
    Join(commands::join::Arguments),
    /// What concerns the store of the log.
    #[command(subcommand)]
    Store(StoreCommand),
    /// What concerns the record: checks, backups, and bringing it back.
    #[command(subcommand)]
    Db(commands::db::Command),
    /// Writes the man pages and completions of this program, for packages.
    #[command(hide = true)]
    Manual(kapok_manual::Arguments),
}

#[derive(Debug, Subcommand)]
enum StoreCommand {
    /// Copies the log into a store of another kind, and compares. No controller may run meanwhile.
    Migrate(commands::migrate::Arguments),
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() {
                ExitCode::from(BAD_CONFIG)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    let usual = if arguments.command.is_some() {
        "warn"
    } else {
        "info"
    };
    let logs = Logs {
        variable: "KAPOK_LOG",
        usual,
    };
    let loaded = Config::load(&arguments.config);
    let serves = loaded
        .as_ref()
        .ok()
        .filter(|_| !arguments.check_config && arguments.command.is_none());
    let export = serves.and_then(|config| config.telemetry.export());
    let env: Arc<dyn Env> = System::new();
    let _telemetry = kapok_telemetry::init("kapok-controller", Some(logs), export.as_ref(), &env);
    let config = match loaded {
        Ok(config) => config,
        Err(error) => {
            error!("{:#}", anyhow::Error::from(error));
            return ExitCode::from(BAD_CONFIG);
        }
    };
    if arguments.check_config {
        let _ = writeln!(std::io::stdout(), "{}: sound", arguments.config.display());
        return ExitCode::SUCCESS;
    }
    let done = match arguments.command {
        Some(Command::Manual(manual)) => manual
            .write(Arguments::command(), Section::Administration)
            .map_err(anyhow::Error::from),
        Some(Command::Db(db)) => commands::db::run(&config, db).await,
        Some(Command::Init(init)) => commands::init::run(&config, init).await,
        Some(Command::Join(join)) => commands::join::run(&config, &arguments.config, join).await,
        Some(Command::Store(StoreCommand::Migrate(migrate))) => {
            commands::migrate::run(&config, &migrate).await
        }
        None => Box::pin(commands::serve::run(config, Epoch(arguments.epoch_floor))).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error:#}");
            let is_elsewhere = error.chain().any(|cause| {
                let cause = cause.downcast_ref::<kapok_store::Error>();
                cause.is_some_and(kapok_store::Error::is_elsewhere)
            });
            // Another start would end the same way.
            if is_elsewhere {
                ExitCode::from(BAD_CONFIG)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}
