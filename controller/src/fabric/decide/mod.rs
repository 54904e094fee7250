//! Decisions: pure, from the fabric, the command and the time to facts or a refusal.

use kapok_types::Timestamp;

use super::{Answered, Ask, Command, Denied, Event, Fabric, Outcome};

pub mod expire;
mod image;
mod instance;
mod node;
mod operation;

pub use instance::{pending_start, request as placement_request, spec as new_spec};

/// What a decision may lean on besides the fabric.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// Intent, including what was decided before in the same batch.
    pub fabric: &'a Fabric,
    /// What is asked.
    pub ask: &'a Ask,
    /// The time, for the record.
    pub now: Timestamp,
    /// How long an operation is waited for, in milliseconds.
    pub operation_deadline_ms: u64,
}

/// What follows from a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Facts, in order; none when nothing changes.
    pub events: Vec<Event>,
    /// What the caller is told.
    pub outcome: Outcome,
}

impl Decision {
    fn done(events: Vec<Event>) -> Self {
        Self {
            events,
            outcome: Outcome::Done,
        }
    }
}

/// Decides a command.
///
/// The same request id with the same content gets its first answer again and changes nothing
/// (FAULTS 33).
///
/// # Errors
///
/// Why it is refused; then nothing changes.
pub fn decide(context: Context<'_>) -> Result<Decision, Denied> {
    let Context {
        fabric, ask, now, ..
    } = context;
    let content = ask.command.content();
    if let Some(request_id) = &ask.request_id
        && let Some(answered) = fabric.requests.get(request_id)
    {
        if answered.content != content {
            return Err(Denied::RequestIdReused {
                request_id: request_id.clone(),
            });
        }
        return Ok(Decision {
            events: Vec::new(),
            outcome: answered.outcome.clone(),
        });
    }
    let mut decision = match &ask.command {
        Command::CreateInstance(create) => instance::create(context, create),
        Command::StartInstance { instance } => instance::start(context, instance),
        Command::StopInstance { instance } => instance::stop(context, instance),
        Command::RestartInstance { instance } => instance::restart(context, instance),
        Command::DeleteInstance { instance, etag } => instance::delete(context, instance, etag),
        Command::GuestStopped {
            node,
            incarnation,
            generation,
        } => Ok(instance::guest_stopped(
            context,
            *node,
            *incarnation,
            *generation,
        )),
        Command::IncarnationGone { node, incarnation } => {
            Ok(instance::gone(context, *node, *incarnation))
        }
        Command::CancelOperation { operation } => operation::cancel(context, *operation),
        Command::EndOperation {
            operation,
            outcome,
            detail,
        } => Ok(operation::end(context, *operation, *outcome, detail)),
        Command::CordonNode { node, reason } => node::cordon(context, node, reason),
        Command::UncordonNode { node } => node::uncordon(context, node),
        Command::ConfigureNodes { nodes } => Ok(node::configure(context, nodes)),
        Command::UnconfigureNodes { nodes } => Ok(node::unconfigure(context, nodes)),
        Command::ReportNode {
            node,
            id,
            capacity,
            resyncing,
        } => node::report(context, node, *id, *capacity, *resyncing),
        Command::LoseNode { node, reason } => Ok(node::lose(context, node, reason)),
        Command::RegisterImage { .. } => image::register(context),
        Command::DeleteImage { image } => image::delete(context, image),
        Command::Expire => Ok(expire::expire(context)),
    }?;
    if let Some(request_id) = &ask.request_id {
        let answered = Answered {
            content,
            outcome: decision.outcome.clone(),
            at: now,
        };
        decision.events.push(Event::RequestAnswered {
            request_id: request_id.clone(),
            answered,
        });
    }
    Ok(decision)
}

#[cfg(test)]
mod tests;
