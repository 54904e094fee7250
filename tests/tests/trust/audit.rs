//! The record, over kills of who writes it.

use std::{fs, thread};

use kapok_lab::fabric::{Person, text};

use crate::world::World;

/// Kills of the controller between changes: nothing that was answered is missing, and the chain is
/// sound.
#[test]
fn the_record_is_sound_after_kills() {
    let mut world = World::new(2);
    let operator = world.by(Person::SystemAdministrator);
    let auditor = world.by(Person::Auditor);
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        let kapok = operator.clone();
        let hand = thread::spawn(move || {
            let made = (0_u32..).map(|number| format!("bureau-{round}-{number}"));
            // Until the controller is away.
            made.take_while(|name| {
                let words = ["tenant", "create", name, "--timeout", "5s"];
                kapok.output(&words).unwrap().status.success()
            })
            .collect::<Vec<_>>()
        });
        let first = format!("bureau-{round}-2");
        world.recorded("audit ls --limit 10", &first, |entry| {
            entry.to_string().contains(&first)
        });
        world.fabric.kill_controller();
        acknowledged.extend(hand.join().unwrap());
        world.fabric.start_controller().unwrap();
    }
    assert!(acknowledged.len() >= 9, "{acknowledged:?}");
    let verdict = world.json(&auditor, "audit verify");
    assert_eq!(verdict["sound"], true, "{verdict}");
    let record = world.ok(&auditor, "audit export");
    for name in &acknowledged {
        assert!(record.contains(name.as_str()), "{name} isn't on record");
    }

    // The exported file stands on its own, and one other byte in it is found.
    let file = world.fabric.folder().join("audit.jsonl");
    let verify = format!("audit verify --file {}", file.display());
    fs::write(&file, &record).unwrap();
    let verdict = world.json(&auditor, &verify);
    assert_eq!(verdict["sound"], true, "{verdict}");
    let name = &acknowledged[4];
    let place = record.lines().position(|line| line.contains(name.as_str()));
    fs::write(
        &file,
        record.replacen(name.as_str(), &name.to_uppercase(), 1),
    )
    .unwrap();
    let found = world.refused(&auditor, &verify, 1);
    let sequence = place.unwrap() + 1;
    assert!(found.contains(&sequence.to_string()), "{sequence}: {found}");

    // Who was refused, from where, what, and why.
    world.refused(&operator, "audit verify", 9);
    world.recorded("audit ls --refused", "the refusal", |entry| {
        text(entry, "actor") == "user/system-administrator"
            && text(entry, "outcome") == "refused"
            && entry.to_string().contains("audit.verify")
    });
    world.end();
}
