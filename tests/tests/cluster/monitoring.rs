//! What alerts and dashboards ask for is what the programs export.

use std::{collections::BTreeSet, fs};

use kapok_agent::metrics::names as agent;
use kapok_controller::https::metrics::names as controller;
use kapok_lab::places;

/// All words of a text that are names of Kapok's metrics.
fn names_in(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c| !is_part(c));
    words
        .filter(|word| word.starts_with("kapok_"))
        .map(str::to_owned)
        .collect()
}

fn exported() -> BTreeSet<String> {
    let all = agent::ALL.iter().chain(controller::ALL);
    all.flat_map(kapok_metrics::Name::exported).collect()
}

#[test]
fn alerts_and_dashboards_ask_for_what_is_exported() {
    let exported = exported();
    for file in ["prometheus/kapok.rules.yml", "grafana/kapok.json"] {
        let path = places::workspace().join("systemd").join(file);
        let asked = names_in(&fs::read_to_string(path).unwrap());
        assert!(asked.len() > 10, "{file} asks for {asked:?}");
        let missing: Vec<_> = asked.difference(&exported).collect();
        assert!(missing.is_empty(), "{file} asks for {missing:?}");
    }
}

/// A name has one meaning in both programs.
#[test]
fn names_are_told_apart() {
    let both = [agent::ALL, controller::ALL];
    for all in both {
        let names: BTreeSet<_> = all.iter().map(|it| it.name).collect();
        assert_eq!(names.len(), all.len());
    }
    for name in agent::ALL {
        let other = controller::ALL.iter().find(|it| it.name == name.name);
        assert!(
            other.is_none_or(|other| other.kind == name.kind),
            "{name:?}"
        );
    }
}
