//! Serial consoles: bytes between a person and the agent of the instance's node.
//!
//! Opened with a ticket, which was asked for just before by the same person and goes on record;
//! see [`ticket`]. No task of its own: the agent's call pulls the person's input, and the person's
//! reader pulls the guest's output, so a slow side slows only this console. An open console ends
//! as soon as its person could not open it any more.

mod ticket;

use std::time::Duration;

use futures::{Stream, StreamExt as _, stream};
use kapok_proto::{
    agent::v1::{ConsoleRequest, ConsoleResponse},
    fabric::v1::{CreateConsoleTicketResponse, OpenConsoleRequest, OpenConsoleResponse},
};
use tonic::{Code, Status, Streaming};

pub(super) use self::ticket::Opens;
pub use self::ticket::Tickets;
use super::{
    Answers, Api, answers,
    caller::{Caller, absent},
    status,
    view::View,
};
use crate::{
    authz::{Action, about},
    fabric::{Command, Fabric, Instance},
};

/// How long the first message, and the agent's answer to it, may take.
const OPENING_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest piece of input, in bytes.
const MAX_INPUT_BYTES: usize = 64 * 1024;

/// Gives a ticket for an instance's console, once it is on record.
pub(super) async fn grant(
    api: &Api,
    mut caller: Caller,
    which: &str,
) -> Result<CreateConsoleTicketResponse, Status> {
    let id = {
        let snapshot = api.ledger.snapshot();
        let instance = api.instance(&snapshot.fabric, &caller, Action::InstanceConsole, which)?;
        running(instance)?;
        caller.reach(&instance.tenant);
        instance.id
    };
    let subject = caller.subject.clone();
    let instance = id.to_string();
    let done = api
        .submit(caller, None, Command::GrantConsole { instance })
        .await?;
    let instance = done.snapshot.fabric.instances.get(&id);
    let opens = running(instance.ok_or_else(|| absent("instance", which))?)?;
    let ticket = api.tickets.give(opens, &subject).ok_or_else(|| {
        let message = "too many consoles are being opened; try again in a moment";
        status::unavailable("TOO_MANY_TICKETS", message)
    })?;
    Ok(CreateConsoleTicketResponse {
        ticket: ticket.reveal(),
    })
}

/// Opens the console that a ticket is for.
pub(super) async fn open(
    api: &Api,
    caller: Caller,
    mut input: Streaming<OpenConsoleRequest>,
) -> Result<Answers<OpenConsoleResponse>, Status> {
    let silent = || {
        let message = format!(
            "no first message came within {} s; show the ticket in it",
            OPENING_TIMEOUT.as_secs()
        );
        status::status(Code::DeadlineExceeded, "CONSOLE_IDLE", &message, &[])
    };
    let first = api.within(OPENING_TIMEOUT, silent, input.message()).await?;
    let first = first.map_err(status::too_large)?;
    let first = first.ok_or_else(|| status::bad_field("ticket", "must be shown first"))?;
    let opens = api.tickets.take(&first.ticket, &caller.subject);
    let opens = opens.ok_or_else(|| refused(api, &caller))?;
    // From before the access is checked: no change is missed.
    let mut changes = api.ledger.changes();
    let mut seen = changes.borrow_and_update().clone();
    let (mut agent, incarnation, node, object, which) = {
        let snapshot = api.ledger.snapshot();
        let instance = snapshot.fabric.instances.get(&opens.instance);
        let instance = instance.ok_or_else(|| refused(api, &caller))?;
        // A role that was taken since counts, and so does another life of the instance.
        let object = about::instance(instance);
        let which = instance.name.as_str();
        api.authorize(&caller, Action::InstanceConsole, &object, which)?;
        let active = instance.active().filter(|one| one.id == opens.incarnation);
        let active = active.ok_or_else(|| refused(api, &caller))?;
        let view = View {
            fabric: &snapshot.fabric,
            observed: &api.observed,
        };
        let node = view.node_name(active.node);
        let agent = api.links.client(active.node);
        let agent = agent.ok_or_else(|| unreachable(&node))?;
        (agent, active.id, node, object, instance.name.clone())
    };
    let opening = ConsoleRequest {
        incarnation_id: incarnation.to_string(),
        force: first.force,
        input: checked(first)?.input,
    };
    let output = agent.console(stream::iter([opening]).chain(keys(input)));
    let output = api
        .within(OPENING_TIMEOUT, || unreachable(&node), output)
        .await?;
    let output = output.map_err(|status| passed(&status, &node))?;
    let (mut output, api) = (output.into_inner(), api.clone());
    Ok(answers(async_stream::stream! {
        loop {
            let next = tokio::select! {
                biased;
                () = api.stop.cancelled() => Some(Err(Api::stopping())),
                Ok(()) = changes.changed() => {
                    let now = changes.borrow_and_update().clone();
                    let refused = is_about_access(&seen.fabric, &now.fabric)
                        .then(|| api.still(&caller).and_then(|()| {
                            let action = Action::InstanceConsole;
                            api.authorize(&caller, action, &object, which.as_str())
                        }))
                        .and_then(Result::err);
                    seen = now;
                    let Some(refused) = refused else { continue };
                    Some(Err(refused))
                }
                next = output.next() => next.map(|piece| piece.map_err(|status| passed(&status, &node))),
            };
            let Some(next) = next else { return };
            let ends = next.is_err();
            yield next.map(|ConsoleResponse { output, dropped_bytes }| {
                OpenConsoleResponse { output, dropped_bytes }
            });
            if ends {
                return;
            }
        }
    }))
}

/// Whether somebody's access may have changed between two states of the fabric.
fn is_about_access(before: &Fabric, now: &Fabric) -> bool {
    !(before.users.ptr_eq(&now.users)
        && before.tenants.ptr_eq(&now.tenants)
        && before.revoked.ptr_eq(&now.revoked))
}

/// The person's further input. Ends with the person's stream, or with what is too large.
fn keys(input: Streaming<OpenConsoleRequest>) -> impl Stream<Item = ConsoleRequest> + Send {
    input
        .map(|message| message.and_then(checked).ok())
        .take_while(|message| std::future::ready(message.is_some()))
        .filter_map(std::future::ready)
        .map(|message| ConsoleRequest {
            input: message.input,
            ..ConsoleRequest::default()
        })
}

fn checked(message: OpenConsoleRequest) -> Result<OpenConsoleRequest, Status> {
    let bytes = message.input.as_ref().map_or(0, |input| input.data.len());
    if bytes > MAX_INPUT_BYTES {
        let reason = format!("has {bytes} bytes; at most {MAX_INPUT_BYTES} are allowed");
        return Err(status::bad_field("input.data", reason));
    }
    Ok(message)
}

/// The life of an instance whose console there is.
fn running(instance: &Instance) -> Result<Opens, Status> {
    let active = instance.active().ok_or_else(|| {
        let message = format!("instance {} runs on no node", instance.name);
        status::status(Code::FailedPrecondition, "NOT_RUNNING", &message, &[])
    })?;
    Ok(Opens {
        instance: instance.id,
        incarnation: active.id,
    })
}

/// A ticket that opens nothing. Which of the reasons holds isn't said.
fn refused(api: &Api, caller: &Caller) -> Status {
    let (action, reason) = (Action::InstanceConsole.as_str(), "TICKET_REFUSED");
    api.audit
        .refusals
        .note(&caller.by, &caller.from, action, "console", reason);
    let message = "the ticket is unknown, used, ended, or somebody else's; ask for a new one";
    status::status(Code::Unauthenticated, reason, message, &[])
}

pub(super) fn unreachable(node: &str) -> Status {
    let message = format!("node {node} doesn't answer at present; try again in a moment");
    status::unavailable("NODE_UNREACHABLE", &message)
}

/// An agent's refusal, passed on as it is, without its metadata. One without a reason is not the
/// agent's own: the way to it broke.
fn passed(agent: &Status, node: &str) -> Status {
    if agent.code() == Code::Unavailable && agent.details().is_empty() {
        return unreachable(node);
    }
    Status::with_details(
        agent.code(),
        agent.message(),
        agent.details().to_vec().into(),
    )
}
