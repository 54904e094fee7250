//! What can't be read, what vanishes, and what is no more.

use super::*;

/// FAULTS 63, the judge's half: a source that hangs or prints garbage is *unknown* with the reason,
/// and so is all that it spoke of; what was proven before stays.
#[test]
fn what_can_t_be_read_is_unknown_with_the_reason_and_never_healthy() {
    let mut bench = Bench::new();
    let disk = component("disk/sda");
    let failing = Reading::flag(&disk, quantity::SMART_FAILING, true);
    let well = Reading::flag(&component("disk/sdb"), quantity::SMART_FAILING, false);
    let said = bench.take("smartctl", Ok(vec![failing, well]));
    assert_eq!(said.components[&component("disk/sdb")], Condition::Healthy);
    bench.monotonic += MINUTE;
    let reason = "smartctl didn't answer within 30s".to_owned();
    let hangs = Err(Failure::Unreadable(reason.clone()));
    let hung = bench.keep_taking("smartctl", &hangs);
    assert_eq!(codes(&hung), ["DISK_SMART_FAILING", "SOURCE_UNREADABLE"]);
    assert_eq!(hung.condition, Condition::Failing);
    assert_eq!(hung.components[&component("disk/sdb")], Condition::Unknown);
    assert_eq!(
        hung.components[&component("source/smartctl")],
        Condition::Unknown
    );
    assert_eq!(hung.verdicts[1].summary, reason);
    assert!(
        hung.readings
            .iter()
            .all(|it| it.reading.read == Read::Unreadable(reason.clone()))
    );
    // From the first time on.
    let mut bench = Bench::new();
    let garbage = Failure::Unreadable("smartctl's report is not JSON".to_owned());
    let hung = bench.keep_taking("smartctl", &Err(garbage));
    assert_eq!(codes(&hung), ["SOURCE_UNREADABLE"]);
    assert_eq!(
        hung.condition,
        Condition::Unknown,
        "disks are too much not to know"
    );
    let mut bench = Bench::new();
    let denied = Err(Failure::Unreadable("denied".to_owned()));
    let hung = bench.keep_taking("rapl", &denied);
    assert_eq!(
        hung.condition,
        Condition::Healthy,
        "who needs the energy used"
    );
    assert_eq!(
        hung.components[&component("source/rapl")],
        Condition::Unknown
    );
}

/// The part is unknown at once; that it is so is said, and counts, once it stays so.
#[test]
fn what_is_unknown_now_and_then_makes_no_verdict_flap() {
    let mut bench = Bench::new();
    let disk = component("disk/sda");
    let well = || Ok(vec![Reading::flag(&disk, quantity::SMART_FAILING, false)]);
    let part = || {
        let garbage = Reading::unreadable(&disk, quantity::SMART_FAILING, "garbage");
        Ok(vec![garbage])
    };
    let all = || Err(Failure::Unreadable("no answer".to_owned()));
    for round in 0..20 {
        bench.monotonic += 2 * MINUTE;
        let now_and_then = if round % 2 == 0 { part() } else { all() };
        let unknown = bench.take("smartctl", now_and_then);
        assert_eq!(unknown.components[&disk], Condition::Unknown);
        assert!(unknown.verdicts.is_empty());
        assert_eq!(unknown.condition, Condition::Healthy);
        bench.monotonic += 2 * MINUTE;
        bench.take("smartctl", well());
    }
    // Three minutes are not enough for a source that is asked once an hour, nor three rounds for
    // one that is asked every ten seconds.
    for (pace, rounds) in [(HOUR, 3), (10 * SECOND, 19)] {
        for unknown in [part(), all()] {
            let mut bench = Bench::new();
            bench.take("smartctl", well());
            let mut said = 0;
            loop {
                bench.monotonic += pace;
                said += 1;
                let it = bench.take("smartctl", unknown.clone());
                assert_eq!(it.components[&disk], Condition::Unknown);
                assert_eq!(it.verdicts.is_empty(), it.condition == Condition::Healthy);
                if it.condition == Condition::Unknown {
                    break;
                }
            }
            assert_eq!(said, rounds, "every {pace:?}");
            // And as slowly back.
            bench.monotonic += pace;
            assert_eq!(bench.take("smartctl", well()).condition, Condition::Unknown);
            bench.monotonic += 5 * MINUTE;
            let back = bench.take("smartctl", well());
            assert_eq!(
                (back.condition, back.verdicts.len()),
                (Condition::Healthy, 0)
            );
        }
    }
}

/// A driver answers "no data" for a value, and still has its limit.
#[test]
fn a_value_that_is_read_no_more_is_unknown_unless_the_source_calls_it_absent() {
    let inlet = component("sensor/inlet");
    let limit = || Reading::new(&inlet, quantity::TEMPERATURE_CRITICAL, 60.0);
    let hot = Reading::new(&inlet, quantity::TEMPERATURE, 61.0);
    let mut bench = Bench::new();
    let said = bench.take("ipmi", Ok(vec![hot.clone(), limit()]));
    assert_eq!(codes(&said), ["TEMPERATURE_CRITICAL"]);
    bench.monotonic += MINUTE;
    let gone = bench.take("ipmi", Ok(vec![limit()]));
    assert_eq!(
        gone.components[&inlet],
        Condition::Failing,
        "it is no cooler"
    );
    let mut bench = Bench::new();
    let cool = Reading::new(&inlet, quantity::TEMPERATURE, 20.0);
    bench.take("ipmi", Ok(vec![cool.clone(), limit()]));
    let gone = bench.keep_taking("ipmi", &Ok(vec![limit()]));
    assert_eq!(gone.components[&inlet], Condition::Unknown);
    assert_eq!(codes(&gone), ["SENSOR_VANISHED"]);
    assert!(gone.verdicts[0].summary.ends_with(": temperature"));
    let mut bench = Bench::new();
    bench.take("ipmi", Ok(vec![cool, limit()]));
    let absent = Reading::absent(&inlet, quantity::TEMPERATURE);
    bench.take("ipmi", Ok(vec![absent, limit()]));
    // And so it stays until it is read again.
    let left = bench.keep_taking("ipmi", &Ok(vec![limit()]));
    assert_eq!(left.components[&inlet], Condition::Healthy);
}

#[test]
fn a_source_that_nobody_asks_is_unknown() {
    let mut bench = Bench::new();
    for _ in 0..3 {
        bench.after(MINUTE, corrected(0.0));
    }
    let later = bench.monotonic + HOUR;
    assert_eq!(
        bench.judge.assess(bench.now(), later).condition,
        Condition::Healthy
    );
    let later = bench.monotonic + 3 * HOUR;
    let silent = bench.judge.assess(bench.now(), later);
    assert_eq!(codes(&silent), ["SOURCE_UNREADABLE"]);
    assert_eq!(silent.verdicts[0].summary, "it was not asked for 3 h");
    assert_eq!(silent.condition, Condition::Unknown, "all memory is");
}

#[test]
fn what_vanishes_is_unknown_until_it_is_back_or_forgotten() {
    let mut bench = Bench::new();
    let fan = |name| Reading::new(&component(name), quantity::SPEED, 4000.0);
    bench.take("ipmi", Ok(vec![fan("fan/FAN1"), fan("fan/FAN2")]));
    bench.monotonic += MINUTE;
    let gone = bench.take("ipmi", Ok(vec![fan("fan/FAN1")]));
    assert_eq!(gone.components[&component("fan/FAN2")], Condition::Unknown);
    let gone = bench.keep_taking("ipmi", &Ok(vec![fan("fan/FAN1")]));
    assert_eq!(codes(&gone), ["SENSOR_VANISHED"]);
    assert_eq!(gone.components[&component("fan/FAN2")], Condition::Unknown);
    assert_eq!(gone.components[&component("fan/FAN1")], Condition::Healthy);
    bench.monotonic += 25 * HOUR;
    let forgotten = bench.take("ipmi", Ok(vec![fan("fan/FAN1")]));
    assert!(forgotten.verdicts.is_empty());
    assert!(!forgotten.components.contains_key(&component("fan/FAN2")));
    // Guests come and go.
    let guest = component("instance/0190f3a1-0000-7000-8000-000000000001");
    bench.take(
        "guests",
        Ok(vec![Reading::flag(&guest, quantity::RESPONDS, true)]),
    );
    assert!(bench.take("guests", Ok(Vec::new())).verdicts.is_empty());
}

#[test]
fn what_a_part_has_no_more_is_absent_and_judged_no_longer() {
    let mut bench = Bench::new();
    let port = component("nic/eth0");
    let port = |quantity, value| Reading::new(&port, quantity, value);
    let up = |up, carrier: Option<f64>| {
        let of = component("nic/eth0");
        let carrier = Reading::tried_or_absent(&of, quantity::CARRIER, Ok::<_, String>(carrier));
        let rest = [
            carrier,
            port(quantity::ADMIN_UP, up),
            port(quantity::CARRIER_CHANGES, 3.0),
        ];
        Ok(rest.to_vec())
    };
    bench.take("nic", up(1.0, Some(0.0)));
    bench.monotonic += 2 * MINUTE;
    assert_eq!(
        codes(&bench.take("nic", up(1.0, Some(0.0)))),
        ["NIC_CARRIER_LOST"]
    );
    // Somebody switches it off: it has no carrier to lose.
    bench.take("nic", up(0.0, None));
    bench.monotonic += 6 * MINUTE;
    let off = bench.take("nic", up(0.0, None));
    assert!(off.verdicts.is_empty());
    assert_eq!(off.components[&component("nic/eth0")], Condition::Healthy);
}

#[test]
fn a_part_of_which_something_can_t_be_read_is_not_acquitted_of_the_rest() {
    let mut bench = Bench::new();
    let disk = component("disk/sda");
    let pending = Reading::new(&disk, quantity::PENDING_SECTORS, 3.0);
    bench.take("smartctl", Ok(vec![pending]));
    for _ in 0..3 {
        bench.monotonic += HOUR;
        let garbage = Reading::unreadable(&disk, quantity::SMART_FAILING, "garbage");
        let said = bench.keep_taking("smartctl", &Ok(vec![garbage]));
        assert_eq!(codes(&said), ["READING_UNREADABLE", "DISK_PENDING"]);
        assert_eq!(said.components[&disk], Condition::Unknown);
    }
}

/// Nothing is healthy that was never read.
#[test]
fn a_source_that_never_answered_makes_the_node_unknown_at_once() {
    let mut bench = Bench::new();
    let refused = || Err(Failure::Unreadable("permission denied".into()));
    assert_eq!(
        bench.take("smartctl", refused()).condition,
        Condition::Unknown
    );
}
