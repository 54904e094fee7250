//! Whatever sources say and clocks do.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn any_reading() -> impl Strategy<Value = Reading> {
    let parts = prop::sample::select(vec![
        "memory/mc0",
        "memory/mc0/csrow1",
        "disk/sda",
        "disk/sdb",
        "nic/eth0",
        "clock",
        "kernel",
        "fan/FAN1",
        "instance/a",
        "certificate",
        "filesystem/state",
        "bond/bond0",
        "site/x",
    ]);
    let quantities = prop::sample::select(quantity::ALL.to_vec());
    let value = prop_oneof![
        4 => (0.0..200.0_f64).prop_map(f64::floor),
        2 => 0.0..1.0_f64,
        1 => any::<f64>(),
    ];
    let read = prop_oneof![
        8 => value.prop_map(Read::Value),
        1 => ".*".prop_map(Read::Unreadable),
        1 => Just(Read::Absent),
    ];
    (parts, quantities, read).prop_map(|(part, quantity, read)| Reading {
        component: component(part),
        quantity,
        read,
        note: None,
    })
}

fn any_outcome() -> impl Strategy<Value = Result<Vec<Reading>, Failure>> {
    prop_oneof![
        8 => prop::collection::vec(any_reading(), 0..40).prop_map(Ok),
        1 => ".*".prop_map(|reason| Err(Failure::Unreadable(reason))),
        1 => ".*".prop_map(|reason| Err(Failure::Absent(reason))),
    ]
}

/// Source, seconds passed, how far the wall clock jumps meanwhile, and what is said.
type Step = (&'static str, u64, i64, Result<Vec<Reading>, Failure>);

fn any_steps() -> impl Strategy<Value = Vec<Step>> {
    let source = prop::sample::select(vec!["edac", "smartctl", "ipmi"]);
    let step = (source, 0..100_000_u64, -3600..3600_i64, any_outcome());
    prop::collection::vec(step, 1..30)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever sources say, the judge doesn't fall over, and nothing that its source could not
    /// read, or left out, is healthy.
    #[test]
    fn nothing_unreadable_is_healthy(steps in any_steps()) {
        let mut bench = Bench::new();
        let mut last: BTreeMap<(&str, Component, String), bool> = BTreeMap::new();
        for (source, seconds, _, outcome) in steps {
            bench.monotonic += Duration::from_secs(seconds);
            match &outcome {
                Ok(readings) => {
                    last.retain(|(of, ..), _| *of != source);
                    for reading in readings {
                        let name = reading.quantity.name.to_string();
                        let is_value = reading.value().is_some_and(f64::is_finite);
                        let known = is_value || reading.read == Read::Absent;
                        last.insert((source, reading.component.clone(), name), known);
                    }
                }
                Err(Failure::Unreadable(_)) => {
                    let of_source = last.iter_mut().filter(|((of, ..), _)| *of == source);
                    of_source.for_each(|(_, known)| *known = false);
                }
                Err(Failure::Absent(_)) => last.retain(|(of, ..), _| *of != source),
            }
            let assessment = bench.take(source, outcome);
            for ((_, component, quantity), known) in &last {
                let condition = assessment.components.get(component);
                prop_assert!(
                    *known || condition >= Some(&Condition::Unknown),
                    "{component} {quantity} is {condition:?}"
                );
            }
            prop_assert!(bench.judge.series <= 3 * 13 * quantity::ALL.len());
            for verdict in &assessment.verdicts {
                prop_assert!(verdict.evidence.len() <= crate::verdict::MAX_EVIDENCE);
                let filled = !verdict.summary.contains('{');
                prop_assert!(filled || verdict.condition == Condition::Unknown);
                prop_assert!(!verdict.evidence.is_empty());
                prop_assert!(verdict.condition != Condition::Healthy);
                prop_assert!(assessment.components[&verdict.component] >= verdict.condition);
            }
            let worst_first = assessment.verdicts.is_sorted_by(|a, b| a.condition >= b.condition);
            prop_assert!(worst_first);
        }
    }

    /// FAULTS 51, the judge's half: the wall clock may jump as it likes.
    #[test]
    fn the_wall_clock_decides_nothing(steps in any_steps()) {
        let (mut still, mut jumps) = (Bench::new(), Bench::new());
        for (source, seconds, jump, outcome) in steps {
            for bench in [&mut still, &mut jumps] {
                bench.monotonic += Duration::from_secs(seconds);
            }
            jumps.wall = jumps.wall.saturating_add_signed(jump * 1000);
            let (still, jumps) = (still.take(source, outcome.clone()), jumps.take(source, outcome));
            let essence = |it: &Assessment| {
                let verdicts = it.verdicts.iter();
                let verdicts: Vec<_> = verdicts
                    .map(|it| (it.code.clone(), it.component.clone(), it.summary.clone()))
                    .collect();
                (it.condition, verdicts, it.components.clone())
            };
            prop_assert_eq!(essence(&still), essence(&jumps));
        }
    }

    /// Between two changes of mind lies at least the time that the rule states.
    #[test]
    fn hysteresis_never_flips_faster_than_its_windows(
        steps in prop::collection::vec((1..400_u64, any::<bool>()), 1..200),
    ) {
        let rule = Rules::default();
        let rule = rule.table().iter().find(|rule| rule.code == "CLOCK_OFF").unwrap();
        let mut bench = Bench::new();
        let (mut raised, mut bad_since, mut good_since) = (false, None, None);
        for (seconds, off) in steps {
            let it = bench.after(Duration::from_secs(seconds), offset(if off { 1.0 } else { 0.0 }));
            let now = bench.monotonic;
            if off {
                bad_since.get_or_insert(now);
                good_since = None;
            } else {
                good_since.get_or_insert(now);
                bad_since = None;
            }
            let since = |it: Option<Duration>| now.saturating_sub(it.unwrap());
            let is = !it.verdicts.is_empty();
            match (raised, is) {
                (false, true) => prop_assert!(since(bad_since) >= rule.raise_after),
                (true, false) => prop_assert!(since(good_since) >= rule.clear_after),
                (true, true) => prop_assert!(good_since.is_none() || since(good_since) < rule.clear_after),
                (false, false) => prop_assert!(bad_since.is_none() || since(bad_since) < rule.raise_after),
            }
            raised = is;
        }
    }
}
