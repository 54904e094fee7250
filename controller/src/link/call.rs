//! The calls that a session has under way on its agent, each within its deadline and in its trace.

use kapok_telemetry::{grpc, join, traced};
use kapok_types::{Env, IncarnationId, TraceContext};
use tokio::time::timeout;
use tonic::{Request, Status};
use tracing::{Instrument as _, Span};

use super::{
    Client,
    push::{Due, Held},
    session::CALL_DEADLINE,
    tend::{self, Tended},
};

/// A call that has ended.
pub(super) enum Call {
    Sent(IncarnationId, Held, Result<(), Status>),
    Acknowledged(usize, Result<(), Status>),
    /// Whether it was about the certificate, and how it went.
    Tended(bool, Result<Tended, tend::Error>),
}

/// The part of an operation's trace that tells the agent.
pub(super) struct Push {
    span: Span,
    context: TraceContext,
}

impl Push {
    pub(super) fn new(operation: TraceContext, due: &Due, env: &dyn Env) -> Self {
        let call = match due {
            Due::Apply(..) => "apply_instance",
            Due::Delete(..) => "delete_instance",
        };
        let span = traced!("push", call, incarnation = %due.incarnation());
        let context = join(&span, Some(operation), env);
        Self { span, context }
    }
}

pub(super) async fn send(mut client: Client, due: Due, push: Option<Push>) -> Call {
    let (span, context) = push.map_or((Span::none(), None), |push| (push.span, Some(push.context)));
    match due {
        Due::Apply(id, generation, _, request) => {
            let call = client.apply_instance(with(*request, context));
            let answer = answered(call).instrument(span).await;
            Call::Sent(id, Held::Intent(generation), answer)
        }
        Due::Delete(id, request) => {
            let call = client.delete_instance(with(request, context));
            let answer = answered(call).instrument(span).await;
            Call::Sent(id, Held::Deletion, answer)
        }
    }
}

fn with<T>(message: T, context: Option<TraceContext>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(context) = context {
        grpc::inject(request.metadata_mut(), context);
    }
    request
}

/// A call's answer within its deadline. One that comes later is not lost: the intent is sent
/// again, and the agent knows that it holds it.
pub(super) async fn answered<T>(
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<(), Status> {
    match timeout(CALL_DEADLINE, call).await {
        Ok(answer) => answer.map(|_| ()),
        Err(_) => Err(Status::deadline_exceeded(format!(
            "no answer within {CALL_DEADLINE:?}"
        ))),
    }
}
