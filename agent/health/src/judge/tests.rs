mod properties;
mod unknown;

use super::*;
use crate::{Assessment, Condition, Read, Verdict, quantity, rules::Overrides};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);

/// A judge with both clocks.
struct Bench {
    judge: Judge,
    monotonic: Duration,
    /// What the wall clock shows more than the other.
    wall: u64,
}

impl Bench {
    fn new() -> Self {
        Self {
            judge: Judge::new(Rules::default()),
            monotonic: HOUR,
            wall: 1_790_000_000_000,
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp(self.wall + u64::try_from(self.monotonic.as_millis()).unwrap())
    }

    fn take(&mut self, source: &str, outcome: Result<Vec<Reading>, Failure>) -> Assessment {
        self.judge.take(&Sweep {
            source: source.into(),
            at: self.now(),
            monotonic: self.monotonic,
            outcome,
        });
        self.judge.assess(self.now(), self.monotonic)
    }

    /// A source says the same for as long as it takes until what is unknown is said.
    fn keep_taking(&mut self, source: &str, outcome: &Result<Vec<Reading>, Failure>) -> Assessment {
        for _ in 0..3 {
            self.take(source, outcome.clone());
            self.monotonic += MINUTE;
        }
        self.take(source, outcome.clone())
    }

    /// After some time a source says one thing.
    fn after(&mut self, span: Duration, reading: Reading) -> Assessment {
        self.monotonic += span;
        self.take("test", Ok(vec![reading]))
    }
}

fn component(text: &str) -> Component {
    text.parse().unwrap()
}

fn codes(assessment: &Assessment) -> Vec<&str> {
    let verdicts = assessment.verdicts.iter();
    verdicts.map(|verdict| verdict.code.as_str()).collect()
}

fn corrected(value: f64) -> Reading {
    let row = component("memory/mc0/csrow0");
    Reading::new(&row, quantity::CORRECTABLE_ERRORS, value)
}

fn offset(value: f64) -> Reading {
    Reading::new(&component("clock"), quantity::CLOCK_OFFSET, value)
}

#[test]
fn a_storm_is_raised_with_its_numbers_and_cleared_after_a_quiet_time() {
    let mut bench = Bench::new();
    assert_eq!(
        bench.after(MINUTE, corrected(1000.0)).condition,
        Condition::Healthy
    );
    let stormy = bench.after(MINUTE, corrected(1200.0));
    assert_eq!(codes(&stormy), ["MEMORY_CE_STORM"]);
    assert_eq!(stormy.condition, Condition::Degraded);
    let verdict = &stormy.verdicts[0];
    assert_eq!(
        verdict.summary,
        "corrected memory errors within 60 s: 200 (from 100 on)"
    );
    assert_eq!(verdict.evidence[0].reading, corrected(1200.0));
    assert_eq!(&*verdict.evidence[0].source, "test");
    // Out of the window after an hour, and said for an hour more.
    let mut last = stormy;
    let mut minutes = 0;
    while !last.verdicts.is_empty() {
        minutes += 1;
        last = bench.after(MINUTE, corrected(1200.0));
        assert!(minutes < 200);
    }
    assert!((119..=122).contains(&minutes), "{minutes}");
}

#[test]
fn what_does_not_hold_long_enough_is_never_raised() {
    let mut bench = Bench::new();
    for _ in 0..20 {
        assert!(codes(&bench.after(2 * MINUTE, offset(3.0))).is_empty());
        assert!(codes(&bench.after(2 * MINUTE, offset(3.0))).is_empty());
        assert!(codes(&bench.after(MINUTE, offset(0.0))).is_empty());
    }
    bench.after(MINUTE, offset(3.0));
    let raised = bench.after(5 * MINUTE, offset(3.0));
    assert_eq!(codes(&raised), ["CLOCK_OFF"]);
    let first = raised.verdicts[0].first_seen;
    // A value that flaps stays raised.
    for _ in 0..20 {
        bench.after(4 * MINUTE, offset(0.0));
        let it = bench.after(30 * SECOND, offset(2.0));
        assert_eq!(codes(&it), ["CLOCK_OFF"]);
        assert_eq!(it.verdicts[0].first_seen, first);
    }
}

#[test]
fn a_device_s_own_limit_goes_before_ours() {
    let disk = component("disk/sda");
    let hot = |value, limit: Option<f64>| {
        let warning = limit.map(|it| Reading::new(&disk, quantity::TEMPERATURE_WARNING, it));
        let own = Reading::new(&disk, quantity::TEMPERATURE, value);
        let readings: Vec<_> = warning.into_iter().chain([own]).collect();
        let mut bench = Bench::new();
        bench.take("test", Ok(readings.clone()));
        bench.monotonic += 2 * MINUTE;
        codes(&bench.take("test", Ok(readings))) == ["DISK_HOT"]
    };
    assert!(hot(71.0, None) && !hot(69.0, None));
    assert!(!hot(71.0, Some(85.0)) && hot(61.0, Some(60.0)));
    assert!(!hot(61.0, Some(0.0)), "a limit of nothing is none");
}

/// A board's chip has inputs that nothing is wired to, and limits that nobody set.
#[test]
fn of_a_chip_on_the_board_only_a_change_is_believed() {
    let mut bench = Bench::new();
    let alarm = |so| {
        let input = component("sensor/nct6775/in1");
        vec![Reading::flag(&input, quantity::SENSOR_WARNING, so)]
    };
    let mut later = |so| {
        bench.monotonic += 2 * MINUTE;
        codes(&bench.take("hwmon", Ok(alarm(so)))).len()
    };
    assert_eq!([later(true), later(true), later(true)], [0, 0, 0]);
    assert_eq!([later(false), later(true), later(true)], [0, 0, 1]);
}

/// The agent is restarted while a processor is too hot: nothing was ever seen to be fine.
#[test]
fn heat_by_the_chip_s_own_critical_limit_is_believed_at_once_where_it_can_be_so() {
    let codes_at = |source, celsius, critical| {
        let input = component("sensor/coretemp/temp1");
        let readings = vec![
            Reading::new(&input, quantity::TEMPERATURE, celsius),
            Reading::new(&input, quantity::TEMPERATURE_CRITICAL, critical),
        ];
        codes(&Bench::new().take(source, Ok(readings))).len()
    };
    assert_eq!(codes_at("hwmon", 101.0, 100.0), 1);
    // Nothing is wired to it; nobody set the limit.
    assert_eq!(codes_at("hwmon", 127.5, 100.0), 0);
    assert_eq!(codes_at("hwmon", 45.0, 5.0), 0);
    assert_eq!(codes_at("ipmi", 45.0, 5.0), 1);
}

#[test]
fn with_what_is_forgotten_its_verdict_goes() {
    let mut bench = Bench::new();
    let array = component("array/md0");
    let flag = |quantity, so| Reading::flag(&array, quantity, so);
    let degraded = flag(quantity::ARRAY_DEGRADED, true);
    bench.take(
        "md",
        Ok(vec![degraded, flag(quantity::ARRAY_FAILED, false)]),
    );
    assert_eq!(bench.judge.series, 2);
    let mut last = Vec::new();
    for _ in 0..26 {
        bench.monotonic += HOUR;
        let said = bench.take("md", Ok(vec![flag(quantity::ARRAY_FAILED, false)]));
        last = codes(&said).into_iter().map(str::to_owned).collect();
    }
    assert!(last.is_empty(), "{last:?}");
    assert_eq!(bench.judge.series, 1);
}

#[test]
fn a_disk_that_sleeps_has_lost_nothing() {
    let mut bench = Bench::new();
    let disk = component("disk/sda");
    let asleep = |so| Reading::flag(&disk, quantity::ASLEEP, so);
    let pending = Reading::new(&disk, quantity::PENDING_SECTORS, 3.0);
    bench.take("smartctl", Ok(vec![asleep(false), pending.clone()]));
    for _ in 0..30 {
        bench.monotonic += HOUR;
        let sleeps = bench.take("smartctl", Ok(vec![asleep(true)]));
        assert_eq!(codes(&sleeps), ["DISK_PENDING"], "what was proven stands");
    }
    // The same, when the source names what it could not ask for.
    let mut absent = pending;
    absent.read = Read::Absent;
    for _ in 0..3 {
        bench.monotonic += HOUR;
        let sleeps = bench.take("smartctl", Ok(vec![asleep(true), absent.clone()]));
        assert_eq!(codes(&sleeps), ["DISK_PENDING"]);
    }
    assert_eq!(bench.judge.series, 2);
}

/// FAULTS 41, the judge's half: it is flagged, and the node can still be used.
#[test]
fn a_guest_that_is_stuck_is_said_and_not_held_against_the_node() {
    let mut bench = Bench::new();
    let guest = component("instance/0190f3a1-0000-7000-8000-000000000001");
    let stuck = bench.take(
        "guests",
        Ok(vec![Reading::flag(&guest, quantity::RESPONDS, false)]),
    );
    assert_eq!(codes(&stuck), ["INSTANCE_STUCK"]);
    assert_eq!(stuck.components[&guest], Condition::Degraded);
    assert_eq!(stuck.condition, Condition::Healthy);
}

/// What a tenant brings about by load is said, and takes no server out of use.
#[test]
fn pressure_and_a_slow_disk_are_not_held_against_the_node() {
    let mut bench = Bench::new();
    let (disk, memory) = (component("disk/sda"), component("pressure/memory"));
    let mut last = None;
    for round in 0..20 {
        bench.monotonic += MINUTE;
        let requests = f64::from(round) * 100.0;
        last = Some(bench.take(
            "test",
            Ok(vec![
                Reading::new(&memory, quantity::STALLED, 0.9),
                Reading::new(&disk, quantity::IO_REQUESTS, requests),
                Reading::new(&disk, quantity::IO_TIME, requests * 1.5),
            ]),
        ));
    }
    let last = last.unwrap();
    assert_eq!(codes(&last), ["DISK_SLOW", "PRESSURE_STALLED"]);
    assert!(!last.verdicts.iter().any(Verdict::counts));
    assert_eq!(last.components[&memory], Condition::Degraded);
    assert_eq!(last.condition, Condition::Healthy);
    let row = Reading::new(
        &component("memory/mc0"),
        quantity::UNCORRECTABLE_ERRORS,
        1.0,
    );
    let lost = bench.take("edac", Ok(vec![row]));
    assert!(lost.verdicts[0].counts());
    assert_eq!(lost.condition, Condition::Failing);
}

/// FAULTS 40 and 43, the judge's half: what doesn't answer is degraded, never dead.
#[test]
fn libvirt_and_a_pool_that_hang_degrade_the_node() {
    for (part, code) in [
        ("hypervisor/monitor", "HYPERVISOR_SILENT"),
        ("pool/kapok", "POOL_STUCK"),
    ] {
        let mut bench = Bench::new();
        let silent = || Reading::flag(&component(part), quantity::RESPONDS, false);
        bench.take("libvirt", Ok(vec![silent()]));
        // A libvirtd that is restarted is back by then.
        bench.monotonic += MINUTE;
        let hangs = bench.take("libvirt", Ok(vec![silent()]));
        assert_eq!(codes(&hangs), [code]);
        assert_eq!(hangs.condition, Condition::Degraded);
    }
}

/// FAULTS 52: a host that slept is noticed by the time that it was suspended.
#[test]
fn a_suspended_host_is_noticed() {
    let mut bench = Bench::new();
    let slept = |seconds| Reading::new(&component("kernel"), quantity::SUSPENDED, seconds);
    // It slept long ago, before the agent was there.
    assert!(bench.after(MINUTE, slept(5000.0)).verdicts.is_empty());
    let resumed = bench.after(MINUTE, slept(5090.0));
    assert_eq!(codes(&resumed), ["HOST_SUSPENDED"]);
    assert_eq!(
        resumed.verdicts[0].summary,
        "the host was suspended for 90 s within 60 s"
    );
    assert!(bench.after(62 * MINUTE, slept(5090.0)).verdicts.is_empty());
}

#[test]
fn of_a_part_and_its_parts_the_narrowest_speaks() {
    let mut bench = Bench::new();
    let lost = |part| Reading::new(&component(part), quantity::UNCORRECTABLE_ERRORS, 1.0);
    let parts = ["memory/mc0", "memory/mc0/csrow2", "memory/mc01"];
    let said = bench.take("edac", Ok(parts.map(lost).to_vec()));
    let of: Vec<_> = said
        .verdicts
        .iter()
        .map(|it| it.component.to_string())
        .collect();
    assert_eq!(of, ["memory/mc0/csrow2", "memory/mc01"]);
    let all = Bench::new().take("edac", Ok(["memory", "memory/DIMM_A1"].map(lost).to_vec()));
    assert_eq!(all.verdicts.len(), 1);
    assert_eq!(all.verdicts[0].component, component("memory/DIMM_A1"));
    // Two sources that say the same are one verdict.
    let twice = bench.take("rasdaemon", Ok(vec![lost("memory/mc01")]));
    assert_eq!(twice.verdicts.len(), 2);
    assert_eq!(&*twice.verdicts[1].evidence[0].source, "edac");
}

#[test]
fn a_wear_that_grows_is_forecast_and_one_that_stands_is_not() {
    let day = 24 * HOUR;
    let disk = component("disk/nvme0n1");
    let worn = |wear, days: f64| {
        vec![
            Reading::new(&disk, quantity::WEAR, wear),
            Reading::new(&disk, quantity::POWER_ON, days * 86_400.0),
        ]
    };
    // By its whole life: 60 % in 90 days.
    let mut bench = Bench::new();
    let soon = bench.take("smartctl", Ok(worn(0.6, 90.0)));
    assert_eq!(codes(&soon), ["DISK_WEARS_OUT"]);
    assert!(
        soon.verdicts[0]
            .summary
            .starts_with("its life ends in 60 days")
    );
    assert!(
        Bench::new()
            .take("smartctl", Ok(worn(0.6, 900.0)))
            .verdicts
            .is_empty()
    );
    assert!(
        Bench::new()
            .take("smartctl", Ok(worn(0.02, 1.0)))
            .verdicts
            .is_empty()
    );
    // By what was seen: slow for years, then a point a day.
    let mut bench = Bench::new();
    let mut wear = 0.5;
    let mut raised = Vec::new();
    for days in 0..6_u32 {
        let said = bench.take("smartctl", Ok(worn(wear, 2000.0 + f64::from(days))));
        raised.push(!said.verdicts.is_empty());
        bench.monotonic += day;
        wear += 0.01;
    }
    assert_eq!(raised, [false, false, false, true, true, true]);
}

#[test]
fn what_is_said_without_end_is_left_out_and_the_source_is_told() {
    let mut bench = Bench::new();
    let many = |from: usize| {
        let parts = (from..from + MAX_SERIES).map(|n| Component::new(Kind::Sensor, n.to_string()));
        let readings = parts.map(|part| Reading::new(&part, quantity::TEMPERATURE, 20.0));
        Ok(readings.collect())
    };
    assert!(bench.take("test", many(0)).verdicts.is_empty());
    let too_much = bench.take("other", many(10));
    assert_eq!(codes(&too_much), ["SOURCE_SAYS_TOO_MUCH"]);
    assert_eq!(bench.judge.series, MAX_SERIES);
}

#[test]
fn an_overridden_rule_judges_by_its_new_number() {
    let overrides: Overrides =
        toml::from_str("[CLOCK_OFF]\nat_least = 5\nraise_after = \"0s\"").unwrap();
    let mut bench = Bench::new();
    bench.judge = Judge::new(Rules::with(&overrides).unwrap());
    assert!(bench.after(MINUTE, offset(4.9)).verdicts.is_empty());
    assert_eq!(codes(&bench.after(MINUTE, offset(5.0))), ["CLOCK_OFF"]);
}

#[test]
fn an_assessment_is_read_as_it_is_written() {
    let mut bench = Bench::new();
    let disk = component("disk/sda");
    let worn = Reading::new(&disk, quantity::WEAR, 0.97).with_note("words", "what to do");
    let unread = Reading::unreadable(&disk, quantity::SMART_FAILING, "why");
    let said = bench.keep_taking("smartctl", &Ok(vec![worn, unread]));
    assert_eq!(codes(&said), ["READING_UNREADABLE", "DISK_WORN"]);
    let json = serde_json::to_string(&said).unwrap();
    assert_eq!(
        serde_json::from_str::<Assessment>(&json).unwrap(),
        said,
        "{json}"
    );
}
