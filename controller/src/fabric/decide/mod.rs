//! Decisions: pure, from the fabric, the command and the time to facts or a refusal.

use kapok_scheduler::Policy;
use kapok_types::{Name, Timestamp, Violation};

use super::{Actor, Answered, Ask, Command, Denied, Event, Fabric, Outcome, Revocation, Scope};

mod accounting;
mod adoption;
mod audit;
mod batch;
mod certificate;
pub mod expire;
mod flavor;
mod group;
mod health;
mod image;
mod instance;
mod node;
mod operation;
mod quota;
mod resize;
mod system;
mod tenant;
mod token;
mod user;

pub use batch::MAX_BATCH;
pub use health::is_due as review_is_due;
pub use instance::{pending_start, request as placement_request, spec as new_spec};
pub use system::warning_is_due;

/// Longest text of people's for people: reasons, display names; in bytes.
const MAX_TEXT_BYTES: usize = 256;

/// What the configuration says of decisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// How long an operation is waited for, in milliseconds.
    pub operation_deadline_ms: u64,
    /// Which of the nodes that fit is preferred, and what is kept free.
    pub placement: Policy,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            operation_deadline_ms: 600_000,
            placement: Policy::default(),
        }
    }
}

/// What a decision may lean on besides the fabric.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// Intent, including what was decided before in the same batch.
    pub fabric: &'a Fabric,
    /// What is asked.
    pub ask: &'a Ask,
    /// The time, for the record.
    pub now: Timestamp,
    /// What the configuration says.
    pub rules: Rules,
}

impl<'a> Context<'a> {
    fn by(&self) -> &'a Actor {
        &self.ask.origin.by
    }

    fn home(&self) -> &'a Name {
        &self.ask.origin.home
    }

    fn scope(&self) -> &'a Scope {
        &self.ask.origin.scope
    }

    /// Whether a tenant's things may be spoken of.
    fn covers(&self, tenant: &Name) -> bool {
        self.scope().covers(self.fabric, tenant)
    }

    /// Refuses whoever doesn't reach the whole fabric.
    fn whole_fabric(&self) -> Result<(), Denied> {
        match self.scope() {
            Scope::Everything => Ok(()),
            Scope::Tenants(_) => Err(Denied::Forbidden {
                reason: "this is the whole fabric's, and the caller reaches some tenants only",
            }),
        }
    }

    fn revocation(&self, reason: &str) -> Revocation {
        Revocation {
            at: self.now,
            reason: reason.to_owned(),
            by: self.by().clone(),
        }
    }
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
    let content = ask.content;
    let request = ask
        .request_id
        .as_ref()
        .map(|id| (context.by().clone(), id.clone()));
    if let Some(request) = &request
        && let Some(answered) = fabric.requests.get(request)
    {
        if answered.content != content {
            return Err(Denied::RequestIdReused {
                request_id: request.1.clone(),
            });
        }
        return Ok(Decision {
            events: Vec::new(),
            outcome: answered.outcome.clone(),
        });
    }
    let mut decision = dispatch(context)?;
    if let Some((by, request_id)) = request {
        let answered = Answered {
            content,
            outcome: decision.outcome.clone(),
            at: now,
        };
        decision.events.push(Event::RequestAnswered {
            by,
            request_id,
            answered,
        });
    }
    Ok(decision)
}

fn dispatch(context: Context<'_>) -> Result<Decision, Denied> {
    if let Some(decided) = adoption::guard(context) {
        return decided;
    }
    match &context.ask.command {
        Command::CreateInstance(create) => instance::create(context, create),
        Command::CreateInstances { instances, fresh } => batch::create(context, instances, fresh),
        Command::StartInstance { instance } => instance::start(context, instance),
        Command::StopInstance { instance } => instance::stop(context, instance),
        Command::RestartInstance { instance } => instance::restart(context, instance),
        Command::ChangeInstanceSystem {
            instance,
            system,
            etag,
        } => instance::change_system(context, instance, system, etag),
        Command::ResizeInstance(wish) => resize::resize(context, wish),
        Command::DeleteInstance { instance, etag } => instance::delete(context, instance, etag),
        Command::GrantConsole { instance } => instance::grant_console(context, instance),
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
        Command::SettleClaim {
            node,
            incarnation,
            generation,
            size,
            assignment,
        } => Ok(resize::settle(
            context,
            *node,
            *incarnation,
            *generation,
            *size,
            assignment.as_deref(),
        )),
        Command::CancelOperation { operation } => operation::cancel(context, *operation),
        Command::EndOperation {
            operation,
            outcome,
            detail,
        } => Ok(operation::end(context, *operation, *outcome, detail)),
        Command::RegisterImage { .. } => image::register(context),
        Command::DeleteImage { image } => image::delete(context, image),

        Command::CreateFlavor(create) => flavor::create(context, create),
        Command::UpdateFlavor {
            flavor,
            changes,
            etag,
        } => flavor::update(context, flavor, changes, etag),
        Command::DeleteFlavor { flavor, etag } => flavor::delete(context, flavor, etag),

        Command::CreateSystem(create) => system::create(context, create),
        Command::UpdateSystem {
            system,
            changes,
            etag,
        } => system::update(context, system, changes, etag),
        Command::DeleteSystem { system, etag } => system::delete(context, system, etag),
        Command::ReviewSystems => Ok(system::review(context)),

        Command::CreateGroup(create) => group::create(context, create),
        Command::DeleteGroup { group } => group::delete(context, group),

        Command::JoinNode(join) => node::join(context, join),
        Command::UpdateNode {
            node,
            vcpu_overcommit_permille,
            address,
            site,
        } => node::update(
            context,
            node,
            *vcpu_overcommit_permille,
            address.as_deref(),
            site,
        ),
        Command::CordonNode { node, reason } => node::cordon(context, node, reason),
        Command::UncordonNode { node } => node::uncordon(context, node),
        Command::RebindNode { node, parts_differ } => node::rebind(context, node, *parts_differ),
        Command::RevokeNode { node, reason } => node::revoke(context, node, reason),
        Command::BeginAdoption { cause, backup_at } => {
            Ok(adoption::begin(context, *cause, *backup_at))
        }
        Command::AdoptNode(wish) => adoption::adopt(context, wish),
        Command::DeleteNode { node } => node::delete(context, node),
        Command::ReportNode {
            node,
            id,
            capacity,
            equipment,
            host,
            resyncing,
        } => {
            let says = node::Report {
                capacity: *capacity,
                equipment,
                host,
                resyncing: *resyncing,
            };
            node::report(context, node, *id, says)
        }
        Command::ReleaseNode {
            node,
            reason,
            life_ms,
        } => health::release(context, node, reason, *life_ms),
        Command::EndNodeRelease { node, policy } => health::end_release(context, node, policy),
        Command::JudgeNode {
            node,
            id,
            judgement,
            policy,
        } => health::judge(context, node, *id, judgement, policy),
        Command::ReviewQuarantines { policy } => Ok(health::review(context, policy)),
        Command::ReportParts { node, id, parts } => health::parts(context, node, *id, parts),
        Command::PartsAccepted { node } => Ok(health::parts_accepted(context, node)),
        Command::LoseNode { node, reason } => Ok(node::lose(context, node, reason)),

        Command::CreateTenant {
            name,
            display,
            parent,
            contacts,
        } => tenant::create(context, name, display, parent.as_ref(), contacts),
        Command::UpdateTenant {
            tenant,
            changes,
            etag,
        } => tenant::update(context, tenant, changes, etag),
        Command::DeleteTenant { tenant, etag } => tenant::delete(context, tenant, etag),
        Command::CreateUser {
            subject,
            display,
            grants,
            external,
        } => user::create(context, subject, display, grants, external.as_ref()),
        Command::UpdateUser {
            user,
            grant,
            revoke,
            disabled,
        } => user::update(context, user, grant, revoke, *disabled),
        Command::DeleteUser { user } => user::delete(context, user),

        Command::CreateToken {
            subject,
            life_ms,
            new,
        } => token::create(context, subject, *life_ms, new),
        Command::DeleteToken { token } => token::delete(context, *token),
        Command::RecordCertificate {
            certificate,
            grounds,
        } => certificate::record(context, certificate, grounds),
        Command::RevokeCertificate { serial, reason } => {
            certificate::revoke(context, *serial, reason)
        }
        Command::RotateAuthority { new } => certificate::rotate(context, new),

        Command::RecordUsage {
            node,
            id,
            boot,
            readings,
        } => accounting::usage(context, node, *id, boot, readings),
        Command::RecordAvailability {
            node,
            id,
            sightings,
        } => accounting::availability(context, node, *id, sightings),

        Command::RecordRefusals { refusals } => Ok(audit::refusals(refusals)),
        Command::RecordSegment { segment, newest } => audit::segment(context, segment, *newest),
        Command::DeleteSegment { first, at } => Ok(audit::delete_segment(context, *first, *at)),
        Command::Expire => Ok(expire::expire(context)),
    }
}

/// Refuses whoever's picture of something is old. Who states no etag takes it as it is.
fn fresh(kind: &'static str, present: &str, given: &str) -> Result<(), Denied> {
    if given.is_empty() || given == present {
        return Ok(());
    }
    Err(Denied::StaleEtag {
        kind,
        given: given.to_owned(),
        present: present.to_owned(),
    })
}

/// A name for people: the name itself where none is stated.
fn or_name(display: &str, name: &Name) -> String {
    if display.is_empty() {
        name.to_string()
    } else {
        display.to_owned()
    }
}

/// Refuses a text of people's that is too long or can't be printed.
fn printable(field: &str, text: &str) -> Result<(), Denied> {
    let reason = if text.len() > MAX_TEXT_BYTES {
        format!(
            "has {} bytes; at most {MAX_TEXT_BYTES} are allowed",
            text.len()
        )
    } else if text.chars().any(char::is_control) {
        "has control characters".to_owned()
    } else {
        return Ok(());
    };
    Err(Denied::Invalid(vec![Violation::new(field, reason)]))
}

#[cfg(test)]
mod tests;
