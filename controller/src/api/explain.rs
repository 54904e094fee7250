//! Why an instance is where it is, or why each node would refuse it.
//!
//! The same functions answer that decide: `new_spec` checks the wish, `placement_request` makes
//! the question, and the scheduler's `explain` ranks nodes as its `place` does. Who may not list
//! nodes is told the answer without each node's own.

use kapok_proto::fabric::v1::{
    ExplainInstanceRequest, ExplainInstanceResponse, FilterCount, MemoryClaim, NodeAnswer,
    explain_instance_request::Question,
};
use kapok_scheduler::{
    Answer, Delta, Explanation, Filter, Fleet, Rejection, Request, explain as ask_every_node,
};
use tonic::Status;

use super::{
    Api,
    caller::{Caller, key},
    instance::create,
    status,
    view::{View, assignment},
};
use crate::{
    authz::{Action, Object},
    fabric::{Command, Denied, Event, Fabric, Incarnation, decide},
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
            let tenant = wish.tenant.clone().unwrap_or_else(|| caller.home.clone());
            let spec = decide::new_spec(fabric, &tenant, &wish);
            let groups = wish.groups.clone();
            let (spec, _) = spec.map_err(|denied| refused(&denied))?;
            let considered = api
                .ledger
                .consider(caller.origin(), Command::CreateInstance(wish));
            let mut own = None;
            let stands_in_the_way = match considered {
                Ok(events) => {
                    own = events.iter().find_map(placed).and_then(assignment);
                    None
                }
                Err(Denied::NoCapacity(_)) => None,
                // No node would be asked; what each would say is shown all the same.
                Err(
                    denied @ (Denied::OverQuota { .. }
                    | Denied::OverQuotaAbove { .. }
                    | Denied::TenantState { .. }),
                ) => Some(denied.to_string()),
                Err(denied) => return Err(refused(&denied)),
            };
            let question = decide::placement_request(fabric, &tenant, &spec);
            let question = fabric.with_groups(question, &tenant, &groups, None);
            let (explanation, mut response) = every_node(api, fabric, &fabric.fleet, &question);
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
            response.assignment = own;
            Ok(response)
        }
        Some(Question::Instance(which)) => {
            let which = key("instance", which)?;
            let instance = api.instance(fabric, &caller, Action::InstanceExplain, &which)?;
            let own = instance.incarnations.iter().map(|one| Delta::Released {
                node: one.node,
                incarnation: one.id,
            });
            let question = decide::placement_request(fabric, &instance.tenant, &instance.spec);
            let (tenant, groups) = (&instance.tenant, &instance.groups);
            let question = fabric.with_groups(question, tenant, groups, Some(instance.id));
            let (explanation, mut response) =
                every_node(api, fabric, &fabric.fleet.with(own), &question);
            let view = View {
                fabric,
                observed: &api.observed,
            };
            let here = instance.active().or_else(|| instance.incarnations.first());
            response.node_name = here.map(|one| view.node_name(one.node)).unwrap_or_default();
            response.assignment = here.and_then(assignment);
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
    api: &Api,
    fabric: &Fabric,
    fleet: &Fleet,
    question: &Request,
) -> (Explanation, ExplainInstanceResponse) {
    let explanation = ask_every_node(fleet, question, &api.ledger.rules().placement);
    let memory = question.memory;
    let mut counts: Vec<_> = explanation.rejections().counts.into_iter().collect();
    counts.sort_by_key(|(filter, nodes)| (std::cmp::Reverse(*nodes), *filter));
    let counts = counts.into_iter().map(|(filter, nodes)| FilterCount {
        filter: filter_word(filter).to_owned(),
        nodes: u32::try_from(nodes).unwrap_or(u32::MAX),
    });
    let response = ExplainInstanceResponse {
        counts: counts.collect(),
        assignment: None,
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

/// Where a considered instance would live.
fn placed(event: &Event) -> Option<&Incarnation> {
    match event {
        Event::IncarnationPlaced { incarnation, .. } => Some(incarnation),
        _ => None,
    }
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
pub(crate) fn filter_word(filter: Filter) -> &'static str {
    match filter {
        Filter::Reachable => "reachable",
        Filter::Resync => "resync",
        Filter::Trusted => "trusted",
        Filter::Cordoned => "cordoned",
        Filter::Quarantined => "quarantined",
        Filter::Architecture => "architecture",
        Filter::Labels => "labels",
        Filter::Isolation => "isolation",
        Filter::CpuFeatures => "cpu_features",
        Filter::Pool => "pool",
        Filter::Network => "network",
        Filter::Vcpus => "vcpus",
        Filter::Memory => "memory",
        Filter::DedicatedCpus => "dedicated_cpus",
        Filter::HugePages => "huge_pages",
        Filter::Cells => "cells",
        Filter::Devices => "devices",
        Filter::Avoided => "avoided",
        Filter::Apart => "apart",
        Filter::Together => "together",
        Filter::Headroom => "headroom",
    }
}
