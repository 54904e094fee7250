use kapok_types::env::Seeded;

use super::*;

fn user(name: &str) -> Actor {
    Actor(format!("user/{name}").into())
}

fn told(refusals: &Refusals) -> Vec<(String, String, u64)> {
    let taken = refusals.take(false).into_iter();
    taken
        .map(|refusal| (refusal.by.to_string(), refusal.object, refusal.count))
        .collect()
}

#[test]
fn refusals_alike_are_one() {
    let env = Seeded::new(1);
    let refusals = Refusals::new(env.clone());
    let start = env.now();
    for _ in 0..3 {
        refusals.note(
            &user("ann"),
            "10.0.0.1",
            "instance.create",
            "instance/web",
            "FORBIDDEN",
        );
        env.advance(Duration::from_secs(1));
    }
    refusals.note(
        &user("ann"),
        "10.0.0.1",
        "instance.create",
        "instance/db",
        "FORBIDDEN",
    );
    refusals.note(
        &user("bob"),
        "10.0.0.1",
        "instance.create",
        "instance/web",
        "FORBIDDEN",
    );
    refusals.note(
        &user("ann"),
        "10.0.0.2",
        "instance.create",
        "instance/web",
        "FORBIDDEN",
    );
    let taken = refusals.take(false);
    assert_eq!(taken.len(), 3);
    let first = &taken[0];
    assert_eq!((first.count, first.object.as_str()), (4, "instance"));
    assert_eq!((first.first, first.last.get() - start.get()), (start, 3000));
    assert_eq!(taken[1].object, "instance/web");
    assert_eq!(refusals.total(), 6);
    assert_eq!(refusals.take(false), []);
}

/// A million refusals, each of another kind, are a bounded number of rows, and each is counted.
#[test]
fn nobody_fills_the_store() {
    let env = Seeded::new(1);
    let refusals = Refusals::new(env.clone());
    let (mut rows, mut counted, mut entries) = (0, 0, 0_u64);
    let mut take = |whole| {
        let taken = refusals.take(whole);
        rows += taken.len();
        entries += u64::from(!taken.is_empty());
        counted += taken.iter().map(|refusal| refusal.count).sum::<u64>();
        assert!(taken.len() <= MAX_KINDS + 1);
        let bytes = serde_json::to_vec(&taken).unwrap().len();
        assert!(bytes < 1024 * 1024, "an entry of {bytes} bytes");
    };
    // A hundred seconds of ten thousand a second.
    for second in 0..100_u64 {
        for n in 0..10_000 {
            let name = format!("eve-{second}-{n}");
            refusals.note(
                &user(&name),
                "203.0.113.9",
                "instance.get",
                "instance/x",
                "FORBIDDEN",
            );
        }
        env.advance(Duration::from_secs(1));
        if second % 10 == 9 {
            take(false);
        }
    }
    take(true);
    assert_eq!(counted, 1_000_000);
    assert!(entries <= 11, "{entries} entries");
    assert!(rows <= 2_200, "{rows} rows");
    assert_eq!(refusals.total(), 1_000_000);
}

#[test]
fn a_quiet_time_brings_the_budget_back() {
    let env = Seeded::new(1);
    let refusals = Refusals::new(env.clone());
    let note = |many: u64| {
        for n in 0..many {
            refusals.note(&user(&format!("u{many}-{n}")), "", "a", "", "R");
        }
    };
    note(1000);
    assert_eq!(refusals.take(false).len(), 1000);
    note(1000);
    assert_eq!(refusals.take(false).len(), 0, "it waits in memory");
    env.advance(Duration::from_secs(10));
    assert_eq!(refusals.take(false).len(), 10);
    env.advance(Duration::from_hours(2));
    assert_eq!(refusals.take(false).len(), 990);
    note(30);
    assert_eq!(refusals.take(false).len(), 10, "what was not used is kept");
    env.advance(Duration::from_secs(5));
    assert_eq!(refusals.take(false).len(), 5);
}

#[test]
fn what_could_not_be_written_is_kept() {
    let refusals = Refusals::new(Seeded::new(1));
    for n in 0..MAX_KINDS + 7 {
        refusals.note(&user(&format!("u{n:04}")), "", "a", "o/1", "R");
    }
    let taken = refusals.take(false);
    assert_eq!(
        (taken[0].by.to_string(), taken[0].count),
        ("others".into(), 7)
    );
    refusals.note(&user("u0001"), "", "a", "o/2", "R");
    refusals.put_back(taken.clone());
    let again = refusals.take(true);
    let count = |refusals: &[Refusal]| refusals.iter().map(|refusal| refusal.count).sum::<u64>();
    // The one that the budget left behind, and the one that was noted since.
    assert_eq!(count(&again), count(&taken) + 2);
    assert_eq!(again.len(), MAX_KINDS + 1);
}

#[test]
fn texts_are_short_and_printable() {
    let refusals = Refusals::new(Seeded::new(1));
    let long = "城".repeat(100);
    refusals.note(&user("x\n\u{1b}[2J"), &long, "a\0b", &long, "R");
    let taken = refusals.take(false).remove(0);
    assert!(taken.from.len() <= MAX_TEXT_BYTES && taken.object.len() <= MAX_TEXT_BYTES);
    let text = format!("{}{}{}", taken.by, taken.action, taken.object);
    assert!(!text.chars().any(char::is_control), "{text:?}");
}

#[test]
fn an_object_without_a_name_stays() {
    let refusals = Refusals::new(Seeded::new(1));
    refusals.note(&user("ann"), "", "audit.read", "fabric", "FORBIDDEN");
    refusals.note(&user("ann"), "", "call", "", "DISABLED");
    let objects = told(&refusals);
    assert_eq!(objects[0].1, "fabric");
    assert_eq!(objects[1].1, "");
}

/// One who is refused in ever new ways doesn't keep others from being told apart.
#[test]
fn nobody_crowds_the_others_out() {
    let refusals = Refusals::new(Seeded::new(1));
    for n in 0..MAX_KINDS {
        refusals.note(&user("eve"), "10.0.0.1", &format!("a{n}"), "", "R");
    }
    refusals.note(&user("ann"), "10.0.0.2", "a", "", "R");
    let told = told(&refusals);
    assert_eq!(told.len(), MAX_KINDS_EACH + 2);
    let of = |name: &str| told.iter().filter(|(by, ..)| by == name).count();
    assert_eq!((of("user/ann"), of("user/eve")), (1, MAX_KINDS_EACH));
}

/// A refused handshake is on record with where it came from; those alike are one.
#[test]
fn refused_handshakes_carry_their_address() {
    let refusals = Refusals::new(Seeded::new(1));
    let refuse = refusals.handshakes("grpc");
    for port in [1, 2] {
        refuse(
            kapok_trust::Reason::Expired,
            SocketAddr::from(([192, 0, 2, 1], port)),
        );
    }
    let taken = refusals.take(false);
    let [one] = &taken[..] else {
        panic!("{taken:?}");
    };
    assert_eq!(
        (&*one.from, &*one.object, &*one.reason, one.count),
        ("192.0.2.1", "grpc", "expired", 2)
    );
}
