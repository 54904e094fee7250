//! What agents say, and what is made of it.

use super::*;

fn verdict(code: &str, component: &str, condition: Condition) -> Verdict {
    Verdict {
        code: code.into(),
        component: component.into(),
        condition,
        summary: "as it is".into(),
    }
}

#[test]
fn a_judgement_is_the_same_in_any_order_and_with_any_numbers() {
    let (a, b) = (
        verdict("FAN_STOPPED", "fan/2", Condition::Degraded),
        verdict("DISK_FAILING", "disk/sda", Condition::Failing),
    );
    let one = Judgement::new(Condition::Failing, vec![a.clone(), b.clone()]);
    let known = one.since(None, Timestamp(7));
    let mut louder = a.clone();
    louder.summary = "0 rpm".into();
    let other = Judgement::new(Condition::Failing, vec![b.clone(), louder, a]);
    assert!(other.is_known(Some(&known)));
    assert_eq!(known.verdicts[0], b, "the worst comes first");
    assert!(!Judgement::new(Condition::Failing, vec![b]).is_known(Some(&known)));
    assert!(!one.is_known(None));
    assert_eq!(one.since(Some(&known), Timestamp(9)).since, Timestamp(7));
}

/// An agent that calls itself healthy with a failing disk isn't believed that.
#[test]
fn nothing_is_better_than_its_verdicts() {
    let failing = verdict("DISK_FAILING", "disk/sda", Condition::Failing);
    let said = Judgement::new(Condition::Healthy, vec![failing]);
    assert_eq!(said.condition, Condition::Failing);
    let unread = verdict("SOURCE_UNREADABLE", "source/ipmi", Condition::Unknown);
    let said = Judgement::new(Condition::Healthy, vec![unread]);
    assert_eq!(said.condition, Condition::Healthy, "the rules decide that");
}

#[test]
fn what_is_left_out_is_the_least() {
    let many = (0..100).map(|n| verdict("FAN_SLOW", &format!("fan/{n}"), Condition::Degraded));
    let failing = verdict("PSU_LOST", "psu/1", Condition::Failing);
    let said = Judgement::new(Condition::Failing, many.chain([failing.clone()]).collect());
    assert_eq!(said.verdicts.len(), MAX_VERDICTS);
    assert_eq!(said.verdicts[0], failing);
    let health = said.since(None, Timestamp(0));
    assert_eq!(
        Policy::default().calls_for(&health).unwrap(),
        "PSU_LOST psu/1, FAN_SLOW fan/0, FAN_SLOW fan/1, FAN_SLOW fan/10 and 28 more"
    );
}

#[test]
fn unknown_proves_nothing_and_hides_nothing() {
    let unread = verdict("SOURCE_UNREADABLE", "source/edac", Condition::Unknown);
    let policy = Policy::default();
    let unknown = Judgement::new(Condition::Unknown, vec![unread.clone()]);
    let unknown = unknown.since(None, Timestamp(0));
    assert_eq!(policy.calls_for(&unknown), None);
    let fan = verdict("FAN_STOPPED", "fan/2", Condition::Degraded);
    let both = Judgement::new(Condition::Unknown, vec![unread, fan]);
    let both = both.since(None, Timestamp(0));
    assert_eq!(both.condition, Condition::Unknown);
    assert_eq!(policy.calls_for(&both).unwrap(), "FAN_STOPPED fan/2");
}

#[test]
fn one_node_is_always_allowed() {
    let policy = |brake_percent| Policy {
        brake_percent,
        ..Policy::default()
    };
    let most = |percent, nodes| policy(percent).most(nodes);
    assert_eq!((most(20, 50), most(20, 4), most(20, 1)), (10, 1, 1));
    assert_eq!((most(100, 7), most(1, 0), most(1, 99)), (7, 1, 1));
}

#[test]
fn changes_of_parts_are_told() {
    let parts = |all: &[(&str, &str)]| -> Parts {
        let owned = |(part, is): &(&str, &str)| ((*part).to_owned(), (*is).to_owned());
        all.iter().map(owned).collect()
    };
    let before = parts(&[
        ("memory/A1", "32 GiB"),
        ("memory/A2", "32 GiB"),
        ("nic/a", "x"),
    ]);
    let after = parts(&[("memory/A1", "16 GiB"), ("disk/S1", "1 TB"), ("nic/a", "x")]);
    let told: Vec<_> = PartChange::between(&before, &after)
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        told,
        [
            "disk/S1 is new (1 TB)",
            "memory/A1 is 16 GiB (was 32 GiB)",
            "memory/A2 is gone (was 32 GiB)"
        ]
    );
    assert_eq!(PartChange::between(&after, &after), []);
}

/// One guest's QEMU that hangs, or a tenant's load, is wrong with no server: it is shown, and
/// neither the agent's word for it nor the verdict itself decides anything.
#[test]
fn what_guests_do_counts_for_nothing() {
    for (code, component, does) in [
        ("INSTANCE_STUCK", "instance/0190", false),
        ("PRESSURE_STALLED", "pressure/memory", false),
        ("PRESSURE_WAITING", "pressure", false),
        ("DISK_SLOW", "disk/sda", false),
        ("DISK_STUCK", "disk/sda", true),
        ("PROBE", "site/instance/x", true),
        ("FAN_STOPPED", "instances/1", true),
        ("SOURCE_UNREADABLE", "source/pressure", true),
        ("HOT", "", true),
    ] {
        assert_eq!(counts(code, component), does, "{code} {component}");
    }
    let drain = Policy {
        drain: Threshold::Degraded,
        ..Policy::default()
    };
    let aside = [
        verdict("DISK_SLOW", "disk/sda", Condition::Degraded),
        verdict("INSTANCE_STUCK", "instance/0190", Condition::Failing),
        verdict("PRESSURE_STALLED", "pressure/io", Condition::Degraded),
    ];
    for said in [Condition::Healthy, Condition::Degraded, Condition::Failing] {
        let health = Judgement::new(said, aside.to_vec()).since(None, Timestamp(0));
        assert_eq!(health.condition, Condition::Healthy, "said {said}");
        assert_eq!(health.verdicts.len(), 3, "they are shown");
        assert_eq!(drain.calls_for(&health), None);
        assert!(!drain.drain.is_met(health.proven()));
        // As a version before this one wrote it.
        let health = Health {
            condition: said,
            ..health
        };
        assert_eq!(
            (health.proven(), drain.calls_for(&health)),
            (Condition::Healthy, None)
        );
    }
    // They hide nothing, however many they are.
    let stuck = |n| {
        verdict(
            "INSTANCE_STUCK",
            &format!("instance/{n}"),
            Condition::Failing,
        )
    };
    let mut many: Vec<_> = (0..100).map(stuck).collect();
    many.push(verdict(
        "MEMORY_CE_STORM",
        "memory/mc0",
        Condition::Degraded,
    ));
    let health = Judgement::new(Condition::Degraded, many).since(None, Timestamp(0));
    assert_eq!(health.condition, Condition::Degraded);
    assert_eq!(
        drain.calls_for(&health).unwrap(),
        "MEMORY_CE_STORM memory/mc0"
    );
    // What the agent's word has beyond them counts, and what it can't read stays unread.
    let pressed = &aside[2..];
    let of = |said| Judgement::new(said, pressed.to_vec()).condition;
    assert_eq!(of(Condition::Failing), Condition::Failing);
    assert_eq!(of(Condition::Unknown), Condition::Unknown);
    assert_eq!(
        Judgement::new(Condition::Unknown, aside.to_vec()).condition,
        Condition::Unknown
    );
}

#[test]
fn worse_is_what_proves_more() {
    let disk = |n| verdict("DISK_FAILING", &format!("disk/{n}"), Condition::Failing);
    let fan = verdict("FAN_STOPPED", "fan/2", Condition::Degraded);
    let stuck = verdict("INSTANCE_STUCK", "instance/0190", Condition::Failing);
    let health =
        |condition, verdicts| Judgement::new(condition, verdicts).since(None, Timestamp(0));
    let worse = |verdicts, health: Option<&Health>| {
        Judgement::new(Condition::Healthy, verdicts).is_worse(health)
    };
    let well = health(Condition::Healthy, vec![]);
    assert!(worse(vec![fan.clone()], None) && worse(vec![fan.clone()], Some(&well)));
    assert!(!worse(vec![], None) && !worse(vec![stuck.clone()], Some(&well)));
    assert!(!Judgement::new(Condition::Unknown, vec![]).is_worse(Some(&well)));
    let failing = health(Condition::Healthy, vec![disk(1), fan.clone()]);
    assert!(worse(vec![disk(1), disk(2)], Some(&failing)));
    assert!(!worse(vec![disk(1), stuck], Some(&failing)));
    assert!(!worse(vec![fan], Some(&failing)));
}
