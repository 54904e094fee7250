//! Serial consoles: bytes between a person and the agent of the instance's node.
//!
//! No task of its own: the agent's call pulls the person's input, and the person's reader pulls
//! the guest's output, so a slow side slows only this console.

use futures::{Stream, StreamExt as _, stream};
use kapok_proto::{
    agent::v1::{ConsoleRequest, ConsoleResponse},
    fabric::v1::{OpenConsoleRequest, OpenConsoleResponse},
};
use tonic::{Code, Status, Streaming};

use super::{Answers, Api, answers, caller::key, instance::instance, status, view::View};

/// Largest piece of input, in bytes.
const MAX_INPUT_BYTES: usize = 64 * 1024;

pub(super) async fn open(
    api: &Api,
    mut input: Streaming<OpenConsoleRequest>,
) -> Result<Answers<OpenConsoleResponse>, Status> {
    let first = input.message().await.map_err(status::too_large)?;
    let first = first.ok_or_else(|| status::bad_field("instance", "must be stated first"))?;
    let which = key("instance", first.instance.clone())?;
    let (mut agent, incarnation) = {
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
        let agent = api.links.client(active.node).ok_or_else(|| {
            let message = format!(
                "node {} doesn't answer at present",
                view.node_name(active.node)
            );
            status::unavailable("NODE_UNREACHABLE", &message)
        })?;
        (agent, active.id)
    };
    let opening = ConsoleRequest {
        incarnation_id: incarnation.to_string(),
        force: first.force,
        input: checked(first)?.input,
    };
    let output = agent
        .console(stream::iter([opening]).chain(keys(input)))
        .await
        .map_err(|status| passed(&status))?;
    let (mut output, stop) = (output.into_inner(), api.stop.clone());
    Ok(answers(async_stream::stream! {
        loop {
            let next = tokio::select! {
                biased;
                () = stop.cancelled() => Some(Err(Api::stopping())),
                next = output.next() => next.map(|piece| piece.map_err(|status| passed(&status))),
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

/// An agent's refusal, passed on as it is, without its metadata.
fn passed(agent: &Status) -> Status {
    Status::with_details(
        agent.code(),
        agent.message(),
        agent.details().to_vec().into(),
    )
}
