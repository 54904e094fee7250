//! Serial consoles: bytes between a person and the agent of the instance's node.
//!
//! No task of its own: the agent's call pulls the person's input, and the person's reader pulls
//! the guest's output, so a slow side slows only this console.

use std::time::Duration;

use futures::{Stream, StreamExt as _, stream};
use kapok_proto::{
    agent::v1::{ConsoleRequest, ConsoleResponse},
    fabric::v1::{OpenConsoleRequest, OpenConsoleResponse},
};
use tonic::{Code, Status, Streaming};

use super::{Answers, Api, answers, caller::key, instance::instance, status, view::View};

/// How long the first message, and the agent's answer to it, may take.
const OPENING_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest piece of input, in bytes.
const MAX_INPUT_BYTES: usize = 64 * 1024;

pub(super) async fn open(
    api: &Api,
    mut input: Streaming<OpenConsoleRequest>,
) -> Result<Answers<OpenConsoleResponse>, Status> {
    let silent = || {
        let message = format!(
            "no first message came within {} s; name the instance in it",
            OPENING_TIMEOUT.as_secs()
        );
        status::status(Code::DeadlineExceeded, "CONSOLE_IDLE", &message, &[])
    };
    let first = api.within(OPENING_TIMEOUT, silent, input.message()).await?;
    let first = first.map_err(status::too_large)?;
    let first = first.ok_or_else(|| status::bad_field("instance", "must be stated first"))?;
    let which = key("instance", first.instance.clone())?;
    let (mut agent, incarnation, node) = {
        let snapshot = api.ledger.snapshot();
        let instance = instance(&snapshot.fabric, &which)?;
        let active = instance.active().ok_or_else(|| {
            let message = format!("instance {} runs on no node", instance.name);
            status::status(Code::FailedPrecondition, "NOT_RUNNING", &message, &[])
        })?;
        let view = View {
            fabric: &snapshot.fabric,
            observed: &api.observed,
        };
        let node = view.node_name(active.node);
        let agent = api.links.client(active.node);
        let agent = agent.ok_or_else(|| unreachable(&node))?;
        (agent, active.id, node)
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
    let (mut output, stop) = (output.into_inner(), api.stop.clone());
    Ok(answers(async_stream::stream! {
        loop {
            let next = tokio::select! {
                biased;
                () = stop.cancelled() => Some(Err(Api::stopping())),
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

fn unreachable(node: &str) -> Status {
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
