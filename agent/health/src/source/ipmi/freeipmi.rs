//! freeipmi's answers, read. Source: ipmi-sensors(8) and ipmi-sel(8), comma separated output.

use super::{
    Log,
    sensor::{self, Limits, Part, Said, Sensor, State, Unit},
};

/// The sensors. A line is `ID,NAME,TYPE,STATE,READING,UNITS,LOWER NR,C,NC,UPPER NC,C,NR,'EVENTS'`.
pub(super) fn sensors(list: &str) -> Vec<Sensor> {
    list.lines().filter_map(sensor).collect()
}

fn sensor(line: &str) -> Option<Sensor> {
    let words: Vec<&str> = line.splitn(13, ',').map(str::trim).collect();
    let [
        _,
        name,
        kind,
        state,
        value,
        unit,
        lower_worst,
        lower,
        lower_nc,
        upper_nc,
        upper,
        upper_worst,
        events,
    ] = words[..]
    else {
        return None;
    };
    let name = Some(name).filter(|name| !name.is_empty())?.to_owned();
    let part = match kind {
        "Power Supply" => Part::Psu,
        "Fan" => Part::Fan,
        _ => Part::Other,
    };
    let number = |word: &str| word.parse::<f64>().ok();
    let said = match (number(value), Unit::named(unit)) {
        (Some(value), Some(unit)) => Said::Value {
            value,
            unit,
            state: match state {
                "Nominal" => State::Nominal,
                "Warning" => State::Warning,
                "Critical" => State::Critical,
                _ => return None,
            },
            limits: Limits {
                lower_critical: number(lower).or_else(|| number(lower_worst)),
                lower_warning: number(lower_nc),
                upper_warning: number(upper_nc),
                upper_critical: number(upper).or_else(|| number(upper_worst)),
            },
        },
        (None, _) if value == "N/A" => {
            let quiet = ["'OK'", "N/A"].contains(&events);
            Said::Events(if quiet {
                String::new()
            } else {
                events.replace('\'', "")
            })
        }
        _ => return None,
    };
    Some(Sensor { name, part, said })
}

/// The entries. A line is `ID,DATE,TIME,NAME,TYPE,STATE,EVENT`.
pub(super) fn log(list: &str) -> Log {
    let mut log = Log::default();
    for line in list.lines() {
        let words: Vec<&str> = line.splitn(7, ',').map(str::trim).collect();
        let [id, _, _, _, _, state, event] = words[..] else {
            continue;
        };
        if id.parse::<u32>().is_ok() {
            log.count(state == "Critical" || sensor::is_critical(event));
        }
    }
    log
}
