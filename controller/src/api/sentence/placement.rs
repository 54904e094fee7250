//! Facts about where instances may go, in one sentence each: sites of nodes, groups, classes.

use kapok_types::Name;

use super::Sentence;
use crate::fabric::{Event, Fabric, Group, Site, group::Kind};

pub(super) fn of(event: &Event, fabric: &Fabric) -> Option<Sentence> {
    let (subject_id, subject_name, text) = match event {
        Event::NodeSited { node, site } => {
            let id = fabric.nodes.get(node).map(|node| node.id.to_string());
            (id.unwrap_or_default(), node, sited(node, site))
        }
        Event::GroupCreated { group } => (String::new(), &group.name, made(group)),
        Event::GroupRemoved { tenant, name } => {
            let text = format!("group {name} of tenant {tenant} was removed");
            (String::new(), name, text)
        }
        Event::TenantIsolationSet { tenant, isolation } => {
            let text = match isolation {
                Some(class) => format!(
                    "new instances of tenant {tenant} go to nodes of the isolation class {class}"
                ),
                None => format!("tenant {tenant} has no isolation class of its own"),
            };
            (String::new(), tenant, text)
        }
        Event::InstanceSystemChanged {
            instance, system, ..
        } => {
            let known = fabric.instances.get(instance);
            let called = known.map_or_else(|| instance.to_string(), |one| one.name.to_string());
            return Some(Sentence {
                subject_id: instance.to_string(),
                subject_name: known.map(|one| one.name.to_string()).unwrap_or_default(),
                text: format!("instance {called} belongs to system {system} now"),
                ..Sentence::default()
            });
        }
        _ => return None,
    };
    Some(Sentence {
        subject_id,
        subject_name: subject_name.to_string(),
        text,
        ..Sentence::default()
    })
}

fn sited(node: &Name, site: &Site) -> String {
    let named = |name: &Option<Name>| {
        name.as_ref()
            .map_or_else(|| "not named".to_owned(), ToString::to_string)
    };
    let labels: Vec<_> = site
        .labels
        .iter()
        .map(|(label, value)| format!("{label}={value}"))
        .collect();
    let labels = if labels.is_empty() {
        "none".to_owned()
    } else {
        labels.join(" ")
    };
    let class = site.isolation.as_ref();
    let class = class.map_or("none", Name::as_str);
    format!(
        "node {node} is sited: room {}, rack {}, labels {labels}, isolation class {class}",
        named(&site.room),
        named(&site.rack),
    )
}

fn made(group: &Group) -> String {
    let Group {
        name,
        tenant,
        domain,
        ..
    } = group;
    let domain = domain.as_str();
    let (how, bound) = match (group.kind, group.strict) {
        (Kind::Apart, true) => ("no two of its members share a", ""),
        (Kind::Apart, false) => ("no two of its members share a", ", where there is room"),
        (Kind::Together, true) => ("its members share one", ""),
        (Kind::Together, false) => ("its members share one", ", where there is room"),
    };
    format!("group {name} of tenant {tenant} was made: {how} {domain}{bound}")
}
