//! Facts about tenants and what they may have.

use super::Sentence;
use crate::fabric::{Amounts, Dimension, Event, Quota, tenant::State};

/// The sentence for such a fact; none for others.
pub(super) fn of(event: &Event) -> Option<Sentence> {
    let (name, text) = match event {
        Event::TenantCreated { tenant } => {
            let name = &tenant.name;
            let parent = tenant.parent.as_ref();
            let below = parent.map_or_else(String::new, |parent| format!(" below {parent}"));
            (name, format!("tenant {name} was created{below}"))
        }
        Event::TenantUpdated {
            tenant: name,
            display,
            contacts,
        } => {
            let contacts = listed(contacts, "nobody");
            let text = format!("tenant {name} is called {display:?}; to ask: {contacts}");
            (name, text)
        }
        Event::TenantStateChanged {
            tenant: name,
            state,
        } => (name, format!("tenant {name} {}", became(*state))),
        Event::TenantQuotaSet {
            tenant: name,
            quota,
            reserved,
        } => (name, quota_set(name.as_str(), quota, reserved)),
        Event::TenantDeleted {
            tenant: name,
            parent,
        } => (name, format!("tenant {name} below {parent} was removed")),
        _ => return None,
    };
    Some(Sentence {
        subject_name: name.to_string(),
        text,
        ..Sentence::default()
    })
}

const fn became(state: State) -> &'static str {
    match state {
        State::Active => "is active: it may make new things and turn them on",
        State::Suspended => {
            "is suspended: what runs there runs on, nothing new is made or turned on"
        }
        State::Closing => "is closing: what runs there runs on, nothing new is made",
    }
}

fn quota_set(name: &str, quota: &Quota, reserved: &Amounts) -> String {
    let amount = |one: Dimension, amount: u64| format!("{} {}", one.noun(), one.amount(amount));
    let limits = Dimension::ALL
        .iter()
        .filter_map(|one| Some(amount(*one, quota.get(*one)?)))
        .collect::<Vec<_>>();
    let kept = Dimension::ALL.iter().filter_map(|one| {
        let kept = reserved.get(*one);
        (kept > 0).then(|| amount(*one, kept))
    });
    let kept = kept.collect::<Vec<_>>();
    format!(
        "tenant {name} may have {}; kept for it: {}",
        listed(&limits, "as much as those above it"),
        listed(&kept, "nothing"),
    )
}

fn listed(all: &[String], none: &str) -> String {
    if all.is_empty() {
        none.to_owned()
    } else {
        all.join(", ")
    }
}
