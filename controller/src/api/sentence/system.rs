//! Facts about systems, and about the flavors of their instances.

use kapok_types::Name;

use super::Sentence;
use crate::fabric::{Event, Flavor};

/// The sentence for such a fact; none for others.
pub(super) fn of(event: &Event) -> Option<Sentence> {
    let (name, text) = system(event).or_else(|| flavor(event))?;
    Some(Sentence {
        subject_name: name.to_string(),
        text,
        ..Sentence::default()
    })
}

fn system(event: &Event) -> Option<(&Name, String)> {
    Some(match event {
        Event::SystemCreated { system } => {
            let (tenant, name) = (&system.tenant, &system.name);
            (name, format!("system {tenant}/{name} was created"))
        }
        Event::SystemChanged { system } => {
            let (tenant, name) = (&system.tenant, &system.name);
            let end = system.ends_at;
            let end = end.map_or_else(String::new, |at| format!("; it is to end at {at}"));
            let text = format!("the record of system {tenant}/{name} was changed{end}");
            (name, text)
        }
        Event::SystemLive { tenant, name, .. } => {
            let text = format!("system {tenant}/{name} is live: its first instance was created");
            (name, text)
        }
        Event::SystemEnding {
            tenant,
            name,
            ends_at,
            days,
        } => {
            let before = match days {
                1 => "1 day before".to_owned(),
                days => format!("{days} days before"),
            };
            let text = format!(
                "system {tenant}/{name} is to end at {ends_at} (warning of {before}); nothing is \
                 stopped then"
            );
            (name, text)
        }
        Event::SystemRemoved { tenant, name } => {
            (name, format!("system {tenant}/{name} was removed"))
        }
        _ => return None,
    })
}

fn flavor(event: &Event) -> Option<(&Name, String)> {
    Some(match event {
        Event::FlavorCreated { flavor } => {
            let text = format!("flavor {} was created: {}", flavor.name, numbers(flavor));
            (&flavor.name, text)
        }
        Event::FlavorChanged { flavor } => {
            let text = format!(
                "flavor {} is {} from now on; instances keep what they have",
                flavor.name,
                numbers(flavor)
            );
            (&flavor.name, text)
        }
        Event::FlavorRemoved { flavor, .. } => {
            let text = format!("flavor {flavor} was removed; instances keep what they have");
            (flavor, text)
        }
        _ => return None,
    })
}

/// Who may use it isn't said: whoever reads this may not know the others.
fn numbers(flavor: &Flavor) -> String {
    let disk = flavor.root_disk;
    let disk = disk.map_or_else(String::new, |size| format!(", a root disk of {size}"));
    format!("{} vCPUs, {}{disk}", flavor.vcpus, flavor.memory)
}
