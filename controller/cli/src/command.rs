//! What each command does. One file per noun; what changes have in common is here.

mod adoption;
mod audit;
mod auth;
mod ca;
mod capacity;
mod certificate;
mod console;
mod context;
mod controller;
mod events;
mod flavor;
mod group;
mod health;
mod image;
mod import;
mod instance;
mod login;
mod node;
mod op;
mod plan;
mod quota;
mod system;
mod tenant;
mod token;
mod usage;
mod user;

use std::io::{self, IsTerminal as _, Write as _};

use prost_types::FieldMask;
use tokio::time::Instant;

use crate::{
    args::Command,
    client::Client,
    error::Error,
    human::plain,
    output::Out,
    progress::Progress,
    settings::Settings,
    view::{View, operation::Operation},
    wait,
};

/// Does what was typed.
///
/// # Errors
///
/// Whatever went wrong, with its exit code.
pub(crate) async fn run(settings: &Settings, out: &mut Out, command: Command) -> Result<(), Error> {
    // What needs no connection as somebody.
    let command = match command {
        Command::Login(login) => return login::run(settings, out, login).await,
        Command::Logout => return context::logout(settings, out),
        Command::Context(command) => return context::run(settings, out, command),
        Command::Audit(crate::args::audit::Command::Verify { file: Some(file) }) => {
            return audit::verify_file(out, &file);
        }
        other => other,
    };
    let client = &Client::connect(settings, out).await?;
    match command {
        Command::Whoami => auth::who_am_i(client, out).await,
        Command::Node(command) => node::run(client, out, command).await,
        Command::Health(which) => health::run(client, out, which).await,
        Command::Image(command) => image::run(client, out, command).await,
        Command::Instance(command) => instance::run(client, out, command).await,
        Command::System(command) => system::run(client, out, command).await,
        Command::Group(command) => group::run(client, out, command).await,
        Command::Flavor(command) => flavor::run(client, out, command).await,
        Command::Capacity(what) => capacity::run(client, out, what).await,
        Command::Plan(command) => plan::run(client, out, command).await,
        Command::Op(command) => op::run(client, out, command).await,
        Command::Events(events) => events::run(client, out, events).await,
        Command::Tenant(command) => tenant::run(client, out, command).await,
        Command::Quota(command) => quota::run(client, out, command).await,
        Command::Usage(which) => usage::run(client, out, which).await,
        Command::Report(which) => usage::report(client, out, which).await,
        Command::User(command) => user::run(client, out, command).await,
        Command::Token(command) => token::run(client, out, command).await,
        Command::Certificate(command) => certificate::run(client, out, command).await,
        Command::Ca(command) => ca::run(client, out, command).await,
        Command::Controller(command) => controller::run(client, out, command).await,
        Command::Auth(command) => auth::run(client, out, command).await,
        Command::Audit(command) => audit::run(client, out, command).await,
        // Done above, or by `main`.
        Command::Login(_)
        | Command::Logout
        | Command::Context(_)
        | Command::Completion { .. }
        | Command::Manual(_) => Ok(()),
    }
}

/// Asks before something that can't be undone, when a person sits at the terminal. `question` is
/// asked with `[y/N]`.
fn confirm(yes: bool, question: &str) -> Result<(), Error> {
    if yes || !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Ok(());
    }
    let mut stderr = io::stderr();
    let asked = write!(stderr, "{} [y/N] ", plain(question)).and_then(|()| stderr.flush());
    let mut answer = String::new();
    let answered = asked.and_then(|()| io::stdin().read_line(&mut answer));
    match answered {
        Ok(_) if matches!(answer.trim(), "y" | "Y" | "yes") => Ok(()),
        Ok(_) => Err(Error::Declined),
        Err(error) => Err(Error::io("can't ask", &error)),
    }
}

/// The mask that names the fields which are meant.
fn mask(fields: &[(&str, bool)]) -> FieldMask {
    let meant = fields.iter().filter(|(_, meant)| *meant);
    FieldMask {
        paths: meant.map(|(field, _)| (*field).to_owned()).collect(),
    }
}

/// Says what became of a thing: a line for people, the thing for programs.
fn changed(
    client: &Client,
    out: &mut Out,
    thing: &impl View,
    name: &str,
    what: &str,
) -> Result<(), Error> {
    if out.format().is_for_people() {
        out.line(&format!("{}: {what}", plain(name)))
    } else {
        out.one(thing, client.now())
    }
}

/// Says that a thing is gone, to people.
fn gone(out: &mut Out, name: &str, what: &str) -> Result<(), Error> {
    if out.format().is_for_people() {
        out.line(&format!("{}: {what}", plain(name)))
    } else {
        Ok(())
    }
}

/// Says for people how an accepted operation stands.
fn announce(out: &mut Out, operation: &Operation) -> Result<(), Error> {
    if operation.has_ended() {
        out.line(&operation.ending())
    } else if out.is_quiet() {
        out.line(&operation.id_text())
    } else {
        let id = operation.id_text();
        let (kind, subject) = (&operation.kind, operation.subject());
        out.line(&format!("{subject}: {kind} accepted as operation {id}"))?;
        out.remark(&format!("watch it: kapok op watch {id}"));
        Ok(())
    }
}

/// What became of accepted operations: waits for their ends if wanted, in turn; the first ones
/// to end badly don't keep from waiting for the others.
async fn outcomes(
    client: &Client,
    out: &mut Out,
    accepted: Vec<Operation>,
    mut wait: bool,
) -> Result<(Vec<Operation>, Vec<Error>), Error> {
    let deadline = Instant::now() + client.wait();
    let (mut operations, mut errors) = (Vec::new(), Vec::new());
    for operation in accepted {
        let known = operation.clone();
        let operation = if wait {
            let progress = Progress::steps(out.is_quiet());
            wait::until_ended(client, operation, &progress, deadline, |_| Ok(())).await
        } else {
            Ok(operation)
        };
        match operation {
            Ok(operation) => {
                match wait::success(&operation) {
                    Err(error) if operation.has_ended() => errors.push(error),
                    _ if out.format().is_for_people() => announce(out, &operation)?,
                    _ => {}
                }
                operations.push(operation);
            }
            Err(error) => {
                let seen = match &error {
                    Error::StoppedWaiting { operation, .. } => {
                        // Whoever interrupts one wait means all of them.
                        wait = false;
                        (**operation).clone()
                    }
                    _ => known,
                };
                operations.push(seen);
                errors.push(error);
            }
        }
    }
    Ok((operations, errors))
}

/// Shows what became of one accepted operation.
async fn finish(
    client: &Client,
    out: &mut Out,
    accepted: Operation,
    wait: bool,
) -> Result<(), Error> {
    let (operations, errors) = outcomes(client, out, vec![accepted], wait).await?;
    if !out.format().is_for_people() {
        for operation in &operations {
            out.data(operation)?;
        }
    }
    Error::all(errors)
}
