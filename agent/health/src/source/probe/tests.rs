use proptest::prelude::*;

use super::*;
use crate::Read;

const GOOD: &str = r#"{
    "readings": [
        { "component": "sensor/door", "quantity": "door_open", "unit": "count", "value": 1 },
        { "component": "sensor/rack", "quantity": "temperature", "unit": "celsius", "value": 31.5 }
    ],
    "verdicts": [
        { "code": "UPS_ON_BATTERY", "component": "ups1", "condition": "degraded",
          "summary": "UPS 1 runs on its battery", "remedy": "see the site's runbook 7" },
        { "code": "UPS_ON_BATTERY", "component": "ups2", "condition": "healthy" }
    ]
}"#;

#[test]
fn an_answer_becomes_readings() {
    let readings = answer::readings("ups", GOOD).unwrap();
    let shown: Vec<String> = readings
        .iter()
        .map(|it| {
            format!(
                "{} {} {:?}",
                it.component,
                it.quantity.name,
                it.value().unwrap()
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            "sensor/door door_open 1.0",
            "sensor/rack temperature 31.5",
            "site/ups/UPS_ON_BATTERY/ups1 site_condition 1.0",
            "site/ups/UPS_ON_BATTERY/ups2 site_condition 0.0",
        ]
    );
    assert_eq!(readings[1].quantity, quantity::TEMPERATURE);
}

#[test]
fn a_probe_s_words_are_carried_and_cut() {
    let readings = answer::readings("ups", GOOD).unwrap();
    let expected = "UPS 1 runs on its battery\nsee the site's runbook 7";
    assert_eq!(readings[2].note.as_deref(), Some(expected));
    assert_eq!(readings[3].note, None);
    let long = GOOD.replace("UPS 1", &"é\\n".repeat(4000));
    let note = answer::readings("ups", &long).unwrap()[2].note.clone();
    let note = note.unwrap();
    assert!(note.len() < 512 && note.ends_with("\nsee the site's runbook 7"));
}

/// A probe is asked every minute, and people read the log.
#[test]
fn only_what_a_probe_judges_otherwise_is_logged() {
    let probes = Probes::new(Settings::default());
    let mut round = |text: &str| {
        probes
            .changed(&answer::readings("ups", text).unwrap())
            .len()
    };
    let well = GOOD.replace("degraded", "healthy");
    let words = GOOD.replace("UPS 1", "UPS 1 at 40 %");
    let logged = [&well, GOOD, GOOD, &words, &well, &well].map(&mut round);
    assert_eq!(logged, [0, 1, 0, 0, 1, 0]);
}

#[test]
fn what_breaks_the_contract_is_refused_whole() {
    let said = |of: &str, quantity: &str, unit: &str| {
        format!(
            r#"{{"readings":[{{"component":"{of}","quantity":"{quantity}","unit":"{unit}","value":1}}]}}"#
        )
    };
    let judged = |code: &str, condition: &str| {
        format!(
            r#"{{"verdicts":[{{"code":"{code}","component":"x","condition":"{condition}","summary":""}}]}}"#
        )
    };
    let many = format!(
        r#"{{"verdicts":[{}]}}"#,
        vec![r#"{"code":"A","component":"x","condition":"healthy"}"#; 33].join(",")
    );
    for bad in [
        "",
        "[]",
        r#"{"reading":[]}"#,
        &said("door", "open", "count"),
        &said("sensor/door", "Open", "count"),
        &said("sensor/door", "open", "furlongs"),
        &said("sensor/rack", "temperature", "volts"),
        &judged("lower", "degraded"),
        &judged("UPS", "unknown"),
        &many,
    ] {
        assert!(answer::readings("ups", bad).is_err(), "{bad}");
    }
    assert_eq!(answer::readings("ups", "{}"), Ok(Vec::new()));
}

proptest! {
    /// FAULTS 63: an answer that was cut is refused; garbage does no harm.
    #[test]
    fn garbage_and_cut_answers_are_refused(text in ".{0,200}", at in 0_usize..GOOD.len()) {
        let _ = answer::readings("ups", &text);
        prop_assert!(answer::readings("ups", &GOOD[..at]).is_err());
        for reading in answer::readings("ups", GOOD).unwrap() {
            prop_assert!(!matches!(reading.read, Read::Absent));
        }
    }
}
