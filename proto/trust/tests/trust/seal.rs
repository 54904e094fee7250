//! What a controller has sealed, and nobody else.

use std::time::Duration;

use kapok_trust::{Bundle, Sealed, seal::Error};
use kapok_types::{Env as _, Timestamp};

use crate::support::{City, DAY, NODE};

#[test]
fn a_seal_says_who_and_what() {
    let city = City::new(1);
    let controller = city.credentials("controller/a");
    let sealed = controller.signer().seal("ticket", b"node-07").unwrap();
    let sealed = Sealed::from_bytes(&sealed.to_bytes()).unwrap();
    let opened = sealed
        .open("ticket", &controller.bundle(), city.env.now())
        .unwrap();
    assert_eq!(opened.payload, b"node-07");
    assert_eq!(opened.certificate, *controller.certificate());
    let node = city.credentials(NODE);
    assert_eq!(node.open("ticket", &sealed).unwrap(), opened);
}

#[test]
fn what_was_changed_or_moved_is_not_believed() {
    let city = City::new(2);
    let controller = city.credentials("controller/a");
    let (bundle, now) = (controller.bundle(), city.env.now());
    let sealed = controller.signer().seal("ticket", b"node-07").unwrap();
    let refused = |sealed: &Sealed, purpose| sealed.open(purpose, &bundle, now).unwrap_err();
    assert!(matches!(refused(&sealed, "head"), Error::Signature));
    // The border between purpose and payload is signed, too.
    let mut moved = sealed.clone();
    moved.payload = b"etnode-07".to_vec();
    assert!(matches!(refused(&moved, "tick"), Error::Signature));
    let mut changed = sealed.clone();
    changed.payload[0] ^= 1;
    assert!(matches!(refused(&changed, "ticket"), Error::Signature));
    let mut resigned = sealed.clone();
    resigned.signature[10] ^= 1;
    assert!(matches!(refused(&resigned, "ticket"), Error::Signature));
    // Another controller's certificate under this one's signature.
    let mut other = sealed.clone();
    other.chain = city
        .credentials("controller/b")
        .signer()
        .seal("ticket", b"")
        .unwrap()
        .chain;
    assert!(matches!(refused(&other, "ticket"), Error::Signature));
    let mut nobody = sealed.clone();
    nobody.chain.clear();
    assert!(matches!(refused(&nobody, "ticket"), Error::Malformed));
}

#[test]
fn only_a_controller_of_the_fabric_may() {
    let city = City::new(3);
    let (bundle, now) = (city.credentials("controller/a").bundle(), city.env.now());
    for subject in [NODE, "user/alice", "machine/ci"] {
        let sealed = city
            .credentials(subject)
            .signer()
            .seal("ticket", b"x")
            .unwrap();
        let refused = sealed.open("ticket", &bundle, now).unwrap_err();
        assert!(matches!(refused, Error::Signer(_)), "{subject}: {refused}");
    }
    // The same name, another authority.
    let stranger = City::new(30).credentials("controller/a");
    let sealed = stranger.signer().seal("ticket", b"x").unwrap();
    assert!(matches!(
        sealed.open("ticket", &bundle, now),
        Err(Error::Chain(_))
    ));
}

#[test]
fn the_certificate_must_have_held_at_the_time() {
    let city = City::new(4);
    let hour = Duration::from_hours(1);
    let then = city.env.now();
    let controller = city.take(city.material_from("controller/a", then, hour));
    let sealed = controller.signer().seal("head", b"7").unwrap();
    city.env.advance(2 * hour);
    assert!(
        sealed.open("head", &controller.bundle(), then).is_ok(),
        "history stays true"
    );
    for wrong in [city.env.now(), Timestamp(then.get() - 3_600_000)] {
        let refused = sealed.open("head", &controller.bundle(), wrong);
        assert!(matches!(refused, Err(Error::Chain(_))));
    }
    assert!(matches!(
        controller.open("head", &sealed),
        Err(Error::Chain(_))
    ));
}

/// A head that was sealed before a rollover is checked against the authority of its day, and one
/// sealed after it by whoever knows only the older authority.
#[test]
fn seals_outlive_a_rollover() {
    let older = City::new(5);
    let newer = older.newer();
    let now = older.env.now();
    let cross = older
        .authority
        .cross_sign(newer.authority.certificate_pem(), older.serial(), now);
    let mut material = newer.material("controller/a");
    material.chain_pem += &cross.unwrap();
    let sealed = newer.take(material).signer().seal("head", b"8").unwrap();
    for city in [&older, &newer] {
        let bundle = Bundle::parse_pem(city.authority.certificate_pem()).unwrap();
        assert_eq!(sealed.open("head", &bundle, now).unwrap().payload, b"8");
    }
}

#[test]
fn a_revoked_controller_gives_no_tickets() {
    let city = City::new(6);
    let controller = city.credentials("controller/a");
    let sealed = controller.signer().seal("ticket", b"x").unwrap();
    let mut material = city.material(NODE);
    material.crl_pem = city.crl(&[controller.certificate().serial]);
    let node = city.take(material);
    assert!(matches!(node.open("ticket", &sealed), Err(Error::Revoked)));
}

#[test]
fn garbage_is_refused() {
    let city = City::new(7);
    let signer = city
        .take(city.material_from("controller/a", city.env.now(), DAY))
        .signer();
    let bytes = signer.seal("ticket", b"payload").unwrap().to_bytes();
    for cut in [0, 1, 3, 9, bytes.len() - 1] {
        assert!(Sealed::from_bytes(&bytes[..cut]).is_err(), "{cut}");
    }
    let mut version = bytes.clone();
    version[0] = 2;
    assert!(Sealed::from_bytes(&version).is_err());
    assert!(Sealed::from_bytes(&[&[1][..], &[0xff; 40]].concat()).is_err());
    assert!(matches!(
        signer.seal("ticket", &vec![0; 70_000]),
        Err(Error::TooLong(_))
    ));
}
