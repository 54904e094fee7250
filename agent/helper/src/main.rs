//! `kapok-helper`: reads SMART and IPMI for an agent that may not.

use std::{
    convert::Infallible,
    fs,
    future::pending,
    io,
    os::unix::{
        self,
        fs::{FileTypeExt as _, PermissionsExt as _},
        net,
    },
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser, Subcommand};
use kapok_helper::{SOCKET, Tools, USER, server::Server};
use kapok_manual::Section;
use kapok_telemetry::Logs;
use kapok_types::{Env, env::System};
use listenfd::ListenFd;
use nix::unistd::{Uid, User};
use sd_notify::NotifyState;
use tokio::{
    net::UnixListener,
    signal::unix::{SignalKind, signal},
    time::interval,
};

/// Reads SMART and IPMI for Kapok's agent, which runs without rights.
///
/// It answers root and one user, on a unix socket, a closed set of questions. It is started by
/// systemd when the agent asks first; nobody else needs it.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The user that may ask, beside root.
    #[arg(long, value_name = "NAME", default_value = USER)]
    user: String,
    /// Where to listen, unless the service manager has passed a socket.
    #[arg(long, value_name = "PATH", default_value = SOCKET)]
    socket: PathBuf,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Writes the man page and completions of this program, for packages.
    #[command(hide = true)]
    Manual(kapok_manual::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let env: Arc<dyn Env> = System::new();
    let logs = Logs {
        variable: "RUST_LOG",
        usual: "info",
    };
    let _telemetry = kapok_telemetry::init("kapok-helper", Some(logs), None, &env);
    let outcome = match &arguments.command {
        Some(Command::Manual(manual)) => manual
            .write(Arguments::command(), Section::Administration)
            .map_err(anyhow::Error::from),
        None => start(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(arguments: &Arguments) -> anyhow::Result<()> {
    let name = &arguments.user;
    let user = User::from_name(name)?;
    let user = user.with_context(|| format!("there is no user {name}; --user names another"))?;
    let listener = match ListenFd::from_env().take_unix_listener(0)? {
        Some(passed) => passed,
        None => bind(&arguments.socket, &user)
            .with_context(|| format!("the socket {}", arguments.socket.display()))?,
    };
    listener.set_nonblocking(true)?;
    let server = Server::new(Tools::new("/").guarded(), [Uid::from_raw(0), user.uid]);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = UnixListener::from_std(listener)?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tracing::info!(user = name, "ready");
        sd_notify::notify(&[NotifyState::Ready])?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = server.serve(&listener) => {}
            never = ping() => match never {}
        }
        Ok(sd_notify::notify(&[NotifyState::Stopping])?)
    })
}

/// A socket for the user's group. Who connects is looked at in any case.
fn bind(socket: &Path, user: &User) -> io::Result<net::UnixListener> {
    // One that was left behind; what isn't a socket stays, and is in the way.
    if fs::symlink_metadata(socket).is_ok_and(|it| it.file_type().is_socket()) {
        fs::remove_file(socket)?;
    }
    let listener = net::UnixListener::bind(socket)?;
    fs::set_permissions(socket, fs::Permissions::from_mode(0o660))?;
    unix::fs::chown(socket, None, Some(user.gid.as_raw()))?;
    Ok(listener)
}

/// Proves to the service manager's watchdog that tasks run. A tool that hangs keeps no ping away.
async fn ping() -> Infallible {
    let Some(every) = sd_notify::watchdog_enabled().map(|within| within / 3) else {
        return pending().await;
    };
    let mut ticks = interval(every);
    loop {
        ticks.tick().await;
        if let Err(error) = sd_notify::notify(&[NotifyState::Watchdog]) {
            tracing::warn!(%error, "the service manager's watchdog can't be pinged");
        }
    }
}
