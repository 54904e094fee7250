//! Why an instance is where it is, or why each node would refuse it.
//!
//! The same functions answer that decide: `new_spec` checks the wish, `placement_request` makes
//! the question, and the scheduler's `explain` ranks nodes as its `place` does. Who may not list
//! nodes is told the answer without each node's own.

use kapok_proto::fabric::v1::{
    ExplainInstanceRequest, ExplainInstanceResponse, MemoryClaim, NodeAnswer,
    explain_instance_request::Question,
};
use kapok_scheduler::{
    Answer, Delta, Explanation, Filter, Fleet, Policy, Rejection, Request,
    explain as ask_every_node,
};
use tonic::Status;

use super::{
    Api,
    caller::{Caller, key},
    instance::create,
    status,
    view::View,
};
use crate::{
    authz::{Action, Object},
    fabric::{Command, Denied, Fabric, decide},
};

pub(super) fn answer(
    api: &Api,
    caller: Caller,
    request: ExplainInstanceRequest,
) -> Result<ExplainInstanceResponse, Status> {
    let snapshot = api.ledger.snapshot();
    let fabric = &snapshot.fabric;
    let nodes_are_shown = api.may(&caller, Action::NodeList, &Object::Fabric);
    let mut response = match request.question {
        None => Err(status::bad_field(
            "question",
            "must be stated: instance or create",
        )),
        Some(Question::Create(wish)) => {
            let wish = create(wish)?;
            let caller = api.may_create(caller, &wish)?;
            let refused = |denied: &Denied| status::denied(denied);
            let tenant = wish.tenant.as_ref().unwrap_or(&caller.home);
            let spec = decide::new_spec(fabric, tenant, &wish);
            let (spec, _) = spec.map_err(|denied| refused(&denied))?;
            let considered = api
                .ledger
                .consider(caller.origin(), Command::CreateInstance(wish));
            let stands_in_the_way = match considered {
                Ok(_) | Err(Denied::NoCapacity(_)) => None,
                // No node would be asked; what each would say is shown all the same.
                Err(
                    denied @ (Denied::OverQuota { .. }
                    | Denied::OverQuotaAbove { .. }
                    | Denied::TenantState { .. }),
                ) => Some(denied.to_string()),
                Err(denied) => return Err(refused(&denied)),
            };
            let question = decide::placement_request(&spec);
            let (explanation, mut response) = every_node(fabric, &fabric.fleet, &question);
            if let Some(reason) = stands_in_the_way {
                response.summary = reason;
            } else if let Some(chosen) = explanation.chosen() {
                response.node_name = chosen.name.to_string();
                response.summary = format!("it would go to {}", chosen.name);
                if let Answer::Fits(score) = &chosen.answer {
                    response.summary = format!("{}, which {score}", response.summary);
                }
            } else {
                response.summary = explanation.rejections().to_string();
            }
            Ok(response)
        }
        Some(Question::Instance(which)) => {
            let which = key("instance", which)?;
            let instance = api.instance(fabric, &caller, Action::InstanceExplain, &which)?;
            let own = instance.incarnations.iter().map(|one| Delta::Released {
                node: one.node,
                incarnation: one.id,
            });
            let question = decide::placement_request(&instance.spec);
            let (explanation, mut response) =
                every_node(fabric, &fabric.fleet.with(own), &question);
            let view = View {
                fabric,
                observed: &api.observed,
            };
            let here = instance.active().or_else(|| instance.incarnations.first());
            response.node_name = here.map(|one| view.node_name(one.node)).unwrap_or_default();
            response.summary = summary(fabric, instance, &response.node_name, &explanation);
            Ok(response)
        }
    }?;
    if !nodes_are_shown {
        // How full each node is, is for those who run them.
        response.nodes.clear();
    }
    Ok(response)
}

/// Where an instance is, and where it would go as of now if it were placed anew.
fn summary(
    fabric: &Fabric,
    instance: &crate::fabric::Instance,
    here: &str,
    explanation: &Explanation,
) -> String {
    let name = &instance.name;
    let where_it_is = if here.is_empty() {
        format!("{name} has no node")
    } else {
        format!("{name} is on {here}, chosen when it was created")
    };
    let fitting = explanation.per_node.len() - explanation.rejections().per_node.len();
    let anew = match explanation.chosen() {
        Some(chosen) if chosen.name.as_str() == here => {
            format!(
                "placed anew it would stay there ({fitting} of {} nodes fit)",
                fabric.fleet.len()
            )
        }
        Some(chosen) => format!(
            "placed anew it would go to {} ({fitting} of {} nodes fit)",
            chosen.name,
            fabric.fleet.len()
        ),
        None => format!("placed anew, {}", explanation.rejections()),
    };
    format!("{where_it_is}; {anew}")
}

fn every_node(
    fabric: &Fabric,
    fleet: &Fleet,
    question: &Request,
) -> (Explanation, ExplainInstanceResponse) {
    let explanation = ask_every_node(fleet, question, &Policy::default());
    let memory = question.memory;
    let response = ExplainInstanceResponse {
        node_name: String::new(),
        summary: String::new(),
        claim_vcpus: question.vcpus.get(),
        claim_memory: Some(MemoryClaim {
            guest_mib: memory.guest.get(),
            tables_mib: memory.tables.get(),
            vcpus_mib: memory.vcpus.get(),
            fixed_mib: memory.fixed.get(),
            total_mib: memory.total().get(),
        }),
        nodes: explanation
            .per_node
            .iter()
            .map(|one| node_answer(fabric, one))
            .collect(),
    };
    (explanation, response)
}

fn node_answer(fabric: &Fabric, one: &kapok_scheduler::NodeAnswer) -> NodeAnswer {
    let quarantine = fabric
        .nodes
        .get(&one.name)
        .and_then(|node| node.quarantine.as_ref());
    let (fits, filter, reason) = match &one.answer {
        Answer::Fits(score) => (true, "", score.to_string()),
        Answer::Rejected(rejection) => (
            false,
            filter_word(rejection.filter()),
            match (rejection, quarantine) {
                (Rejection::Quarantined, Some(quarantine)) => {
                    format!("{rejection:#}: {}", quarantine.reason)
                }
                _ => format!("{rejection:#}"),
            },
        ),
    };
    NodeAnswer {
        node_id: one.node.to_string(),
        node_name: one.name.to_string(),
        fits,
        filter: filter.to_owned(),
        reason,
    }
}

/// The words that the API promises.
fn filter_word(filter: Filter) -> &'static str {
    match filter {
        Filter::Reachable => "reachable",
        Filter::Resync => "resync",
        Filter::Trusted => "trusted",
        Filter::Cordoned => "cordoned",
        Filter::Quarantined => "quarantined",
        Filter::Architecture => "architecture",
        Filter::Labels => "labels",
        Filter::Vcpus => "vcpus",
        Filter::Memory => "memory",
        Filter::Avoided => "avoided",
        Filter::Apart => "apart",
        Filter::Together => "together",
        Filter::Headroom => "headroom",
    }
}
