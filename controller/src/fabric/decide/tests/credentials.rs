//! Tokens, certificates and authorities.

use std::time::Duration;

use kapok_trust::Subject;

use super::*;
use crate::fabric::{
    command::Grounds,
    fixture::{authority_id, certificate, serial, shown, token, user},
};

/// A fabric with an authority, a person and a program.
fn world() -> World {
    let mut world = World::new();
    world.must(authority(1));
    world.must(user("user/li", &["auditor"]));
    world.must(user("machine/ci", &["auditor"]));
    world
}

fn record(n: u32, whom: &str, grounds: Grounds, life: Duration, world: &World) -> Command {
    let end = world.env.now().get() + u64::try_from(life.as_millis()).unwrap();
    Command::RecordCertificate {
        certificate: CertificateRecord {
            not_after: Timestamp(end),
            ..certificate(n, whom.parse().unwrap())
        },
        grounds,
    }
}

const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

#[test]
fn a_persons_token_works_once_a_programs_until_its_end() {
    let mut world = world();
    world.must(token(1, "user/li"));
    world.must(token(2, "machine/ci"));
    let mut login = |n, whom: &str, token| {
        let command = record(n, whom, Grounds::Token(shown(token)), HOUR, &world);
        world.submit(None, command)
    };
    login(1, "user/li", 1).unwrap();
    assert_eq!(login(2, "user/li", 1), Err(Denied::TokenRefused));
    login(3, "machine/ci", 2).unwrap();
    login(4, "machine/ci", 2).unwrap();
    // Nobody gets somebody else's certificate for it.
    assert_eq!(login(5, "user/li", 2), Err(Denied::TokenRefused));
    world.env.advance(30 * DAY);
    let late = record(6, "machine/ci", Grounds::Token(shown(2)), HOUR, &world);
    assert_eq!(world.submit(None, late), Err(Denied::TokenRefused));
}

/// A program's certificate never outlives its token, renewed or not; a token that is taken back
/// ends all that goes back to it.
#[test]
fn what_a_programs_token_gave_ends_with_it() {
    let mut world = world();
    world.must(token(1, "machine/ci"));
    let shown = Grounds::Token(shown(1));
    let long = record(1, "machine/ci", shown.clone(), 31 * DAY, &world);
    assert!(matches!(world.submit(None, long), Err(Denied::Invalid(_))));
    let first = record(1, "machine/ci", shown, DAY, &world);
    world.must(first);
    let long = record(
        2,
        "machine/ci",
        Grounds::Renewal(serial(1)),
        31 * DAY,
        &world,
    );
    assert!(matches!(world.submit(None, long), Err(Denied::Invalid(_))));
    let renewal = record(2, "machine/ci", Grounds::Renewal(serial(1)), DAY, &world);
    world.must(renewal);
    let other = record(3, "machine/ci", Grounds::Own, DAY, &world);
    world.submit_as(Origin::controller(), None, other).unwrap();
    world.must(Command::DeleteToken {
        token: fixture::shown(1).id,
    });
    let now = world.env.now();
    let live = |n| world.fabric.certificates[&serial(n)].is_live(now);
    assert_eq!((live(1), live(2), live(3)), (false, false, true));
    let renewal = record(4, "machine/ci", Grounds::Renewal(serial(2)), HOUR, &world);
    assert!(matches!(
        world.submit(None, renewal),
        Err(Denied::Revoked { .. })
    ));
}

/// A controller's token works once, within its hour, and names it. Coming back ends what whoever had
/// the key before holds; no other kind of token makes a controller, nor this one anybody else.
#[test]
fn a_controllers_token_makes_that_one_controller_once() {
    let mut world = world();
    let join = |n, whom: &str, token, world: &World| {
        record(n, whom, Grounds::Token(shown(token)), HOUR, world)
    };
    for (n, subject) in [(1, "controller/b"), (2, "node/b"), (3, "user/li")] {
        world.must(token(n, subject));
    }
    for (whom, shown) in [
        ("controller/c", 1),
        ("user/li", 1),
        ("controller/b", 2),
        ("controller/b", 3),
        ("controller/b", 4),
    ] {
        let other = join(1, whom, shown, &world);
        assert_eq!(world.submit(None, other), Err(Denied::TokenRefused));
    }
    world.must(join(1, "controller/b", 1, &world));
    let again = join(2, "controller/b", 1, &world);
    assert_eq!(world.submit(None, again), Err(Denied::TokenRefused));
    assert!(world.fabric.tokens[&shown(1).id].is_used_up());

    world.must(token(5, "controller/b"));
    world.env.advance(HOUR);
    let late = join(2, "controller/b", 5, &world);
    assert_eq!(world.submit(None, late), Err(Denied::TokenRefused));
    world.must(token(6, "controller/b"));
    let other = record(3, "controller/c", Grounds::Own, DAY, &world);
    world.submit_as(Origin::controller(), None, other).unwrap();
    let first = record(4, "controller/b", Grounds::Own, DAY, &world);
    world.submit_as(Origin::controller(), None, first).unwrap();
    world.must(join(5, "controller/b", 6, &world));
    let now = world.env.now();
    let live = |world: &World, n| world.fabric.certificates[&serial(n)].is_live(now);
    assert!(!live(&world, 4) && live(&world, 3) && live(&world, 5));
    world.must(Command::DeleteToken { token: shown(6).id });
    assert!(!live(&world, 5) && live(&world, 3));
}

#[test]
fn a_renewal_needs_a_certificate_that_lives_and_is_ones_own() {
    let mut world = world();
    let first = record(1, "user/li", Grounds::Own, HOUR, &world);
    world.submit_as(Origin::controller(), None, first).unwrap();
    let renew = |n, whom: &str, of, world: &World| {
        record(n, whom, Grounds::Renewal(serial(of)), HOUR, world)
    };
    let foreign = renew(2, "machine/ci", 1, &world);
    assert!(matches!(
        world.submit(None, foreign),
        Err(Denied::Absent { .. })
    ));
    let same = renew(1, "user/li", 1, &world);
    assert!(matches!(
        world.submit(None, same),
        Err(Denied::Exists { .. })
    ));
    world.env.advance(HOUR);
    let late = renew(2, "user/li", 1, &world);
    assert!(matches!(
        world.submit(None, late),
        Err(Denied::Absent { .. })
    ));
    let own = record(2, "user/li", Grounds::Own, HOUR, &world);
    let refused = world.submit(None, own);
    assert!(
        matches!(refused, Err(Denied::Forbidden { .. })),
        "only the controller's"
    );
}

#[test]
fn a_tokens_life_has_limits() {
    let mut world = world();
    let create = |n, subject: &str, life: Duration| Command::CreateToken {
        subject: subject.parse().unwrap(),
        life_ms: u64::try_from(life.as_millis()).unwrap(),
        new: shown(n),
    };
    for (subject, life, taken) in [
        ("node/node-1", Duration::from_secs(59), false),
        ("node/node-1", DAY, true),
        ("node/node-1", DAY + Duration::from_millis(1), false),
        ("user/li", 2 * DAY, false),
        ("controller/b", DAY, true),
        ("controller/b", 2 * DAY, false),
        ("machine/ci", 365 * DAY, true),
        ("machine/ci", 366 * DAY, false),
    ] {
        let n = u32::try_from(world.fabric.tokens.len()).unwrap();
        let answer = world.submit(None, create(n, subject, life));
        assert_eq!(answer.is_ok(), taken, "{subject} {life:?}: {answer:?}");
    }
}

/// The secret of a token and the key of an authority are new in each call: the same request still
/// has one effect and one answer.
#[test]
fn what_is_made_anew_is_no_part_of_a_requests_content() {
    let mut world = world();
    let first = world.submit(Some("r1"), token(1, "user/li")).unwrap();
    assert_eq!(first, Outcome::Token(shown(1).id));
    assert_eq!(world.submit(Some("r1"), token(2, "user/li")), Ok(first));
    assert_eq!(world.fabric.tokens.len(), 1);
    let first = world.submit(Some("r2"), authority(2)).unwrap();
    assert_eq!(first, Outcome::Authority(authority_id(2)));
    assert_eq!(world.submit(Some("r2"), authority(3)), Ok(first));
    assert_eq!(world.fabric.authorities.len(), 2);
}

#[test]
fn an_authority_is_trusted_while_something_of_it_lives() {
    let mut world = world();
    let own = |n, life, world: &mut World| {
        let command = record(n, "user/li", Grounds::Own, life, world);
        world
            .submit_as(Origin::controller(), None, command)
            .unwrap();
    };
    own(1, HOUR, &mut world);
    own(2, DAY, &mut world);
    world.must(authority(2));
    let state = |n, world: &World| world.fabric.authorities[&authority_id(n)].state;
    assert_eq!(
        (state(1, &world), state(2, &world)),
        (AuthorityState::Retiring, AuthorityState::Active)
    );
    world.env.advance(HOUR);
    assert!(
        !expire::is_due(&world.fabric, world.env.now()),
        "the second lives"
    );
    world.must(Command::RevokeCertificate {
        serial: serial(2),
        reason: "lost".into(),
    });
    world.must(Command::Expire);
    assert_eq!(state(1, &world), AuthorityState::Retired);
    assert_eq!(
        world.fabric.active_authority().unwrap().fingerprint,
        authority_id(2)
    );
    // Nothing of it is issued any more, and it doesn't come back.
    let late = record(3, "user/li", Grounds::Own, HOUR, &world);
    let refused = world.submit_as(Origin::controller(), None, late);
    assert!(matches!(refused, Err(Denied::NoAuthority { .. })));
    assert!(matches!(
        world.submit(None, authority(1)),
        Err(Denied::Exists { .. })
    ));
}

/// A chain with a cross certificate of each trusted authority stays within what is taken.
#[test]
fn so_many_authorities_are_trusted_at_a_time() {
    let mut world = world();
    let own = record(1, "user/li", Grounds::Own, HOUR, &world);
    world.submit_as(Origin::controller(), None, own).unwrap();
    world.must(token(1, "node/node-1"));
    let most = u8::try_from(certificate::MAX_AUTHORITIES).unwrap();
    for n in 2..=most {
        world.must(authority(n));
    }
    let refused = world.submit(None, authority(most + 1));
    assert!(
        matches!(refused, Err(Denied::TooMany { .. })),
        "{refused:?}"
    );
    world.env.advance(HOUR);
    world.must(Command::Expire);
    world.must(authority(most + 1));
}

/// Nobody hoards: as many as may live are revoked in one entry.
#[test]
fn so_many_certificates_of_one_person_live_at_a_time() {
    let mut world = world();
    let issue = |n, whom: &str, world: &mut World| {
        let own = record(n, whom, Grounds::Own, HOUR, world);
        world.submit_as(Origin::controller(), None, own)
    };
    let most = u32::try_from(certificate::MAX_CERTIFICATES).unwrap();
    for n in 1..=most {
        issue(n, "user/li", &mut world).unwrap();
    }
    let refused = issue(most + 1, "user/li", &mut world);
    assert!(
        matches!(refused, Err(Denied::TooMany { .. })),
        "{refused:?}"
    );
    // Nobody else is held up, and one that has ended doesn't count.
    issue(most + 1, "machine/ci", &mut world).unwrap();
    world.must(Command::RevokeCertificate {
        serial: serial(1),
        reason: String::new(),
    });
    issue(most + 2, "user/li", &mut world).unwrap();
}

#[test]
fn credentials_are_forgotten_a_day_after_their_end() {
    let mut world = world();
    world.must(token(1, "user/li"));
    let login = record(1, "user/li", Grounds::Token(shown(1)), 2 * HOUR, &world);
    world.must(login);
    world.must(Command::RevokeCertificate {
        serial: serial(1),
        reason: String::new(),
    });
    let now = |world: &World| world.env.now();
    assert_eq!(
        world
            .fabric
            .revoked_by(authority_id(1), now(&world))
            .count(),
        1
    );
    world.env.advance(DAY + HOUR);
    assert!(!expire::is_due(&world.fabric, now(&world)));
    assert_eq!(
        world
            .fabric
            .revoked_by(authority_id(1), now(&world))
            .count(),
        0,
        "it has ended"
    );
    world.env.advance(Duration::from_millis(1));
    world.must(Command::Expire);
    assert_eq!(
        (world.fabric.tokens.len(), world.fabric.certificates.len()),
        (0, 1)
    );
    world.env.advance(HOUR);
    world.must(Command::Expire);
    let fabric = &world.fabric;
    assert!(fabric.certificates.is_empty() && fabric.revoked.is_empty());
    assert!(fabric.certificates_by_subject.is_empty() && fabric.certificates_by_end.is_empty());
}

/// A secret is in no fact: of a token its hash is kept, and that not where people read.
#[test]
fn a_join_tells_the_log_no_secret() {
    let mut world = World::with_nodes(1);
    let text = serde_json::to_string(&world.events).unwrap();
    assert!(
        text.contains(&Digest::of(&1_u32.to_be_bytes()).to_string()),
        "the hash"
    );
    world.must(Command::RevokeNode {
        node: "node-1".into(),
        reason: "lost".into(),
    });
    let subject = Subject::Node(node_id(1));
    let certificate = world.fabric.certificates_of(&subject).next().unwrap();
    assert_eq!(certificate.revoked.as_ref().unwrap().reason, "lost");
}
