//! ipmitool's answers, read.

use std::collections::BTreeMap;

use super::{
    Log,
    sensor::{self, Limits, Part, Said, Sensor, State, Unit},
};
use crate::{Component, Kind, Reading, quantity};

/// The sensors of `-c sdr elist all`, with the limits that `sensor` tells.
///
/// A line is `NAME,VALUE,UNIT,STATE` or `NAME,NUMBERh,STATE,ENTITY,EVENTS`; sensors without a
/// reading ("ns") are left out.
pub(super) fn sensors(list: &str, limits: &str) -> Vec<Sensor> {
    let limits: BTreeMap<&str, Limits> = limits.lines().filter_map(limits_of).collect();
    list.lines()
        .filter_map(|line| {
            let words: Vec<&str> = line.splitn(5, ',').map(str::trim).collect();
            let name = (*words.first()?).to_owned();
            match words[..] {
                ["", ..] => None,
                [_, number, state, entity, events] if is_number(number) => {
                    let part = part(entity);
                    let said = Said::Events(events.to_owned());
                    (state != "ns").then_some(Sensor { name, part, said })
                }
                [_, value, unit, state] => {
                    let said = Said::Value {
                        value: value.parse().ok()?,
                        unit: Unit::named(unit)?,
                        state: self::state(state)?,
                        limits: limits.get(&*name).copied().unwrap_or_default(),
                    };
                    let part = Part::Other;
                    Some(Sensor { name, part, said })
                }
                _ => None,
            }
        })
        .collect()
}

fn is_number(word: &str) -> bool {
    let digits = word.strip_suffix('h').unwrap_or_default();
    !digits.is_empty() && digits.chars().all(|c| c.is_ascii_hexdigit())
}

/// The part by an entity's number. Source: IPMI 2.0, table 43-13.
fn part(entity: &str) -> Part {
    match entity.split('.').next() {
        Some("10" | "19") => Part::Psu,
        Some("29" | "30") => Part::Fan,
        _ => Part::Other,
    }
}

/// "lcr" is "lower critical", and so on; "ns" is "no reading".
fn state(word: &str) -> Option<State> {
    match word {
        "ok" => Some(State::Nominal),
        "nc" | "lnc" | "unc" => Some(State::Warning),
        "cr" | "lcr" | "ucr" | "nr" | "lnr" | "unr" => Some(State::Critical),
        _ => None,
    }
}

/// A line of `sensor`: name, value, unit, state, then the lower limits from the worst up, and the
/// upper ones from the mildest up.
fn limits_of(line: &str) -> Option<(&str, Limits)> {
    let words: Vec<&str> = line.split('|').map(str::trim).collect();
    let [
        name,
        _,
        _,
        _,
        lower_worst,
        lower_critical,
        lower_warning,
        upper_warning,
        upper_critical,
        upper_worst,
    ] = words[..]
    else {
        return None;
    };
    let number = |word: &str| word.parse::<f64>().ok();
    let limits = Limits {
        lower_critical: number(lower_critical).or_else(|| number(lower_worst)),
        lower_warning: number(lower_warning),
        upper_warning: number(upper_warning),
        upper_critical: number(upper_critical).or_else(|| number(upper_worst)),
    };
    Some((name, limits))
}

/// The faults of `chassis status`: the chassis' own word on power, drives and cooling.
pub(super) fn chassis(status: &str) -> Vec<Reading> {
    const FAULTS: &[(&str, &str)] = &[
        ("Power Overload", "power overload"),
        ("Main Power Fault", "power"),
        ("Power Control Fault", "power control"),
        ("Drive Fault", "drives"),
        ("Cooling/Fan Fault", "cooling"),
    ];
    status
        .lines()
        .filter_map(|line| {
            let (field, value) = line.split_once(':')?;
            let (_, name) = FAULTS.iter().find(|(word, _)| *word == field.trim())?;
            let failed = match value.trim() {
                "true" => true,
                "false" => false,
                _ => return None,
            };
            let of = Component::new(Kind::Chassis, name);
            Some(Reading::flag(&of, quantity::FAILED, failed))
        })
        .collect()
}

/// The entries of `sel elist`: number, date, time, sensor, event, and whether it began or ended.
pub(super) fn log(list: &str) -> Log {
    let mut log = Log::default();
    for line in list.lines() {
        let words: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, _, _, _, event, rest @ ..] = &words[..] else {
            continue;
        };
        let asserted = rest.first().is_none_or(|word| *word == "Asserted");
        log.count(asserted && sensor::is_critical(event));
    }
    log
}
