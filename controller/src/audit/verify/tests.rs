use std::time::Duration;

use kapok_trust::{Authority, Credentials, Csr, Identity, Key, Material, Serial, Signer, Subject};
use kapok_types::{Digest, Env as _, Timestamp, env::Seeded};

use super::*;
use crate::{
    audit::SegmentRecord,
    fabric::{Actor, AuthorityRecord, AuthorityState, CertificateRecord, Revocation},
};

/// A fabric with one authority, in this state, and somebody's signer under it.
fn trusted(state: AuthorityState, subject: &str) -> (Fabric, Signer, Timestamp) {
    let env = Seeded::new(1);
    let city: Name = "city".parse().unwrap();
    let authority = Authority::create(&city, &*env, Duration::from_hours(48)).unwrap();
    let key = Key::generate().unwrap();
    let csr = Csr::parse(&key.request().unwrap()).unwrap();
    let subject: Subject = subject.parse().unwrap();
    let identity = Identity::new(city, subject.clone());
    let (serial, life) = (Serial::new(&*env), Duration::from_hours(1));
    let material = Material {
        chain_pem: authority
            .issue(&csr, &identity, serial, life, env.now())
            .unwrap(),
        key_pem: key.to_pem().to_string(),
        bundle_pem: authority.certificate_pem().to_owned(),
        crl_pem: String::new(),
    };
    let mut fabric = Fabric::default();
    let fingerprint = authority.fingerprint();
    fabric.authorities.insert(
        fingerprint,
        AuthorityRecord {
            fingerprint,
            certificate_pem: authority.certificate_pem().to_owned(),
            cross_pem: Vec::new(),
            state,
            since: env.now(),
        },
    );
    fabric.certificates.insert(
        serial,
        CertificateRecord {
            serial,
            subject,
            authority: fingerprint,
            issued_at: env.now(),
            not_after: Timestamp(env.now().get() + 3_600_000),
            token: None,
            revoked: None,
        },
    );
    let credentials = Credentials::new(material, env.clone()).unwrap();
    (fabric, credentials.signer(), env.now())
}

fn sealed(signer: &Signer, seq: u64, at: Timestamp) -> Kept {
    let head = LogHead {
        sequence: Seq(seq),
        hash: Digest([7; 32]),
        at,
    };
    Kept {
        sealed: head.seal(signer).unwrap().to_bytes().into(),
        by: "node-1".parse().unwrap(),
    }
}

#[test]
fn a_controllers_seal_counts_also_under_a_retired_authority() {
    for state in [AuthorityState::Active, AuthorityState::Retired] {
        let (fabric, signer, now) = trusted(state, "controller/a");
        let (expected, bad) = open(&fabric, vec![sealed(&signer, 5, now)]);
        assert_eq!(bad, []);
        let head = Head {
            seq: Seq(5),
            hash: Hash([7; 32]),
        };
        let by = "node-1".to_owned();
        assert_eq!(expected, [Expected { head, by }]);
    }
}

#[test]
fn other_seals_are_named_once_a_node() {
    let (mut fabric, signer, now) = trusted(AuthorityState::Active, "controller/a");
    let (_, user, _) = trusted(AuthorityState::Active, "user/eve");
    let (_, foreign, _) = trusted(AuthorityState::Active, "controller/a");
    let garbage = || Kept {
        sealed: Bytes::from_static(b"garbage"),
        by: "node-2".parse().unwrap(),
    };
    let kept = vec![
        sealed(&foreign, 9, now),
        sealed(&user, 10, now),
        garbage(),
        garbage(),
        sealed(&signer, 11, now),
    ];
    let (expected, bad) = open(&fabric, kept);
    assert_eq!((expected.len(), bad.len()), (1, 2));
    assert_eq!((bad[0].seq, bad[0].kind), (Seq(9), FaultKind::BadSeal));
    assert!(
        bad[1].message.starts_with("node-2 keeps a head"),
        "{}",
        bad[1].message
    );
    // Once its certificate is revoked, a controller's earlier seals count, later ones don't.
    let serial = signer.certificate().serial;
    let mut record = fabric.certificates[&serial].clone();
    record.revoked = Some(Revocation {
        at: Timestamp(now.get() + 10),
        reason: "stolen".into(),
        by: Actor::controller(),
    });
    fabric.certificates.insert(serial, record);
    let at = |ms| Timestamp(now.get() + ms);
    let kept = vec![sealed(&signer, 1, at(9)), sealed(&signer, 2, at(10))];
    let (expected, bad) = open(&fabric, kept);
    assert_eq!((expected.len(), bad[0].seq), (1, Seq(2)));
}

fn fabric_of(records: &[(u64, u64, Option<u64>)]) -> Fabric {
    let mut fabric = Fabric::default();
    for &(first, last, deleted_after_days) in records {
        let record = SegmentRecord {
            segment: Segment {
                first: Seq(first),
                last: Seq(last),
                prev: Hash::ZERO,
                hash: Hash::ZERO,
                bytes: 0,
                digest: Digest([0; 32]),
            },
            newest: Timestamp(0),
            deleted: deleted_after_days.map(|days| Timestamp(days * 24 * 3_600_000)),
        };
        fabric.segments.insert(Seq(first), record);
    }
    fabric
}

/// What was deleted in its time is not missed; a record that is gone, or a deletion before its
/// time, is.
#[test]
fn records_tell_what_may_be_missing() {
    let found = |records: &[(u64, u64, Option<u64>)]| {
        let (kept, begins, faults) = segments(&fabric_of(records));
        let faults: Vec<u64> = faults.iter().map(|fault| fault.seq.get()).collect();
        (kept.len(), begins.get(), faults)
    };
    assert_eq!(found(&[]), (0, 1, vec![]));
    assert_eq!(found(&[(1, 9, None), (10, 19, None)]), (2, 1, vec![]));
    assert_eq!(found(&[(1, 9, Some(180)), (10, 19, None)]), (1, 10, vec![]));
    assert_eq!(
        found(&[(1, 9, Some(181)), (10, 19, Some(200))]),
        (0, 20, vec![])
    );
    assert_eq!(
        found(&[(1, 9, Some(179)), (10, 19, None)]),
        (1, 10, vec![1])
    );
    assert_eq!(
        found(&[(1, 9, None), (10, 19, Some(200))]),
        (1, 1, vec![10])
    );
    assert_eq!(found(&[(10, 19, None)]), (1, 1, vec![1]));
    assert_eq!(found(&[(1, 9, None), (20, 29, None)]), (2, 1, vec![10]));
}
