//! What each command does. One file per noun; what changes have in common is here.

mod console;
mod events;
mod image;
mod import;
mod instance;
mod node;
mod op;

use tokio::time::Instant;

use crate::{
    args::Command, client::Client, error::Error, output::Out, progress::Progress,
    view::operation::Operation, wait,
};

/// Does what was typed.
///
/// # Errors
///
/// Whatever went wrong, with its exit code.
pub(crate) async fn run(client: &Client, out: &mut Out, command: Command) -> Result<(), Error> {
    match command {
        Command::Node(command) => node::run(client, out, command).await,
        Command::Image(command) => image::run(client, out, command).await,
        Command::Instance(command) => instance::run(client, out, command).await,
        Command::Op(command) => op::run(client, out, command).await,
        Command::Events(events) => events::run(client, out, events).await,
        // Needs no controller, so `main` has done it.
        Command::Completion { .. } => Ok(()),
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
