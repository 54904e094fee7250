//! Properties of random histories.

use std::collections::BTreeSet;

use kapok_trust::Subject;
use proptest::prelude::*;

use super::*;
use crate::fabric::{
    fixture::{certificate, join, site, token, user},
    health::Policy,
};

/// A step of a random history.
#[derive(Debug, Clone)]
enum Step {
    Create(u8),
    Start(u8),
    Stop(u8),
    Restart(u8),
    Resize(u8, u32, u64),
    Settle(u8, u32, u64),
    Flavor(u8, u8),
    System(u8, u8),
    Group(u8, u8),
    Site(u8, u8),
    Done(u8),
    Delete(u8),
    Gone(u8),
    GuestStopped(u8),
    Shrink(u8, u64),
    Lose(u8),
    Cordon(u8),
    Judge(u8, u8),
    Release(u8),
    EndRelease(u8),
    Review(u64),
    Parts(u8, u8),
    Cancel(u8),
    Token(u8),
    Join(u8, bool),
    Rebind(u8),
    Revoke(u8),
    Forget(u8),
    Rotate,
    User(u8, bool),
    Login(u8),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let name = 0..6_u8;
    let node = 1..=3_u8;
    prop_oneof![
        4 => name.clone().prop_map(Step::Create),
        1 => name.clone().prop_map(Step::Start),
        1 => name.clone().prop_map(Step::Stop),
        1 => name.clone().prop_map(Step::Restart),
        2 => (name.clone(), 0..5_u32, 0..3_u64)
            .prop_map(|(n, vcpus, blocks)| Step::Resize(n, vcpus, 512 * blocks)),
        2 => (name.clone(), 1..5_u32, 1..3_u64)
            .prop_map(|(n, vcpus, blocks)| Step::Settle(n, vcpus, 512 * blocks)),
        2 => name.clone().prop_map(Step::Delete),
        2 => name.clone().prop_map(Step::Gone),
        1 => name.clone().prop_map(Step::GuestStopped),
        1 => (0..2_u8, 0..4_u8).prop_map(|(n, how)| Step::Flavor(n, how)),
        2 => (0..2_u8, 0..5_u8).prop_map(|(n, how)| Step::System(n, how)),
        2 => (0..2_u8, 0..3_u8).prop_map(|(n, how)| Step::Group(n, how)),
        1 => (node.clone(), 0..3_u8).prop_map(|(n, rack)| Step::Site(n, rack)),
        1 => name.clone().prop_map(Step::Done),
        1 => (node.clone(), 100..5000_u64).prop_map(|(n, memory)| Step::Shrink(n, memory)),
        1 => node.clone().prop_map(Step::Lose),
        1 => node.clone().prop_map(Step::Cordon),
        3 => (node.clone(), 0..4_u8).prop_map(|(n, how)| Step::Judge(n, how)),
        1 => node.clone().prop_map(Step::Release),
        1 => node.clone().prop_map(Step::EndRelease),
        2 => (0..20_u64).prop_map(Step::Review),
        1 => (node.clone(), 0..4_u8).prop_map(|(n, parts)| Step::Parts(n, parts)),
        1 => node.clone().prop_map(Step::Token),
        1 => (node.clone(), any::<bool>()).prop_map(|(n, other)| Step::Join(n, other)),
        1 => node.clone().prop_map(Step::Rebind),
        1 => node.clone().prop_map(Step::Revoke),
        1 => node.prop_map(Step::Forget),
        1 => Just(Step::Rotate),
        1 => (0..3_u8, any::<bool>()).prop_map(|(n, disabled)| Step::User(n, disabled)),
        1 => (0..3_u8).prop_map(Step::Login),
        1 => name.prop_map(Step::Cancel),
        1 => (0..30_u64).prop_map(Step::Wait),
    ]
}

fn play(world: &mut World, step: &Step) {
    let named = |n: &u8| format!("web-{n}");
    let command = match step {
        Step::Create(n) => Command::CreateInstance(match world.fabric.flavors.get_min() {
            // Half of them by a flavor, if there is one.
            Some((name, _)) if n % 2 == 0 => flavors::of(name.as_str(), &named(n)),
            _ => CreateInstance {
                needs: Needs {
                    dedicated_cpus: n % 3 == 1,
                    ..Needs::default()
                },
                system: systems::some(world, *n),
                groups: groups::some(world, *n),
                ..create(&named(n))
            },
        }),
        Step::Flavor(n, how) => flavors::step(&format!("flavor-{n}"), *how),
        Step::System(n, how) => systems::step(world, &format!("system-{n}"), *how),
        Step::Group(n, how) => groups::step(&format!("group-{n}"), *how),
        Step::Site(n, rack) => {
            let room = Some(format!("room-{rack}").parse().unwrap());
            site(&format!("node-{n}"), &[SiteChange::Room(room)])
        }
        Step::Done(n) => {
            let Some(instance) = world.fabric.instance(&named(n), &city()) else {
                return;
            };
            Command::EndOperation {
                operation: instance.operation,
                outcome: OperationOutcome::Succeeded,
                detail: String::new(),
            }
        }
        Step::Start(n) => Command::StartInstance { instance: named(n) },
        Step::Stop(n) => Command::StopInstance { instance: named(n) },
        Step::Restart(n) => Command::RestartInstance { instance: named(n) },
        Step::Resize(n, vcpus, memory) => resize::resize(&named(n), *vcpus, *memory),
        Step::Settle(n, vcpus, memory) => {
            if world.fabric.instance(&named(n), &city()).is_none() {
                return;
            }
            resize::seen(world, &named(n), *vcpus, *memory)
        }
        Step::Delete(n) => Command::DeleteInstance {
            instance: named(n),
            etag: String::new(),
        },
        Step::Gone(n) | Step::GuestStopped(n) => {
            let Some(instance) = world.fabric.instance(&named(n), &city()) else {
                return;
            };
            let (incarnation, node) = (instance.incarnations[0].id, instance.incarnations[0].node);
            let generation = instance.generation;
            match step {
                Step::Gone(_) => Command::IncarnationGone { node, incarnation },
                _ => Command::GuestStopped {
                    node,
                    incarnation,
                    generation,
                },
            }
        }
        // Now and then the first node has threads to dedicate, and then other ones.
        Step::Shrink(1, memory) if memory % 2 == 0 => {
            let first = u16::from(memory % 4 == 0);
            resize::threads(&[first, 2, 3, 4])
        }
        Step::Shrink(n, memory) => report(*n, *memory),
        Step::Lose(n) => Command::LoseNode {
            node: format!("node-{n}").parse().unwrap(),
            reason: "silence".into(),
        },
        Step::Cordon(n) => Command::CordonNode {
            node: format!("node-{n}"),
            reason: "test".into(),
        },
        Step::Cancel(n) => {
            let Some(instance) = world.fabric.instance(&named(n), &city()) else {
                return;
            };
            Command::CancelOperation {
                operation: instance.operation,
            }
        }
        Step::Token(n) => token(made(world), &format!("node/node-{n}")),
        Step::Join(n, other) => {
            // Whichever token of the name is good; none is as good as a wrong one.
            let name = format!("node/node-{n}");
            let mut good = world.fabric.tokens.values();
            let good = good.find(|token| token.subject.to_string() == name);
            let board = if *other { "b" } else { "a" };
            let Command::JoinNode(mut join) =
                join(made(world), node_id(*n), "h:1", &[("board_serial", board)])
            else {
                return;
            };
            if let Some(good) = good {
                join.token = TokenUse {
                    id: good.id,
                    hash: good.hash,
                };
            }
            join.certificate = signed(world, join.certificate);
            Command::JoinNode(join)
        }
        Step::Judge(n, how) => health::judge(*n, health::HOW[usize::from(*how)]),
        Step::Release(n) => Command::ReleaseNode {
            node: format!("node-{n}"),
            reason: "test".into(),
            life_ms: 0,
        },
        Step::EndRelease(n) => Command::EndNodeRelease {
            node: format!("node-{n}"),
            policy: Policy::default(),
        },
        Step::Review(minutes) => {
            world
                .env
                .advance(std::time::Duration::from_secs(minutes * 60));
            Command::ReviewQuarantines {
                policy: Policy::default(),
            }
        }
        Step::Parts(n, parts) => Command::ReportParts {
            node: format!("node-{n}").parse().unwrap(),
            id: node_id(*n),
            parts: (0..*parts)
                .map(|part| (format!("disk/{part}"), format!("of {parts}")))
                .collect(),
        },
        Step::Rebind(n) => Command::RebindNode {
            node: format!("node-{n}"),
            parts_differ: true,
        },
        Step::Revoke(n) => Command::RevokeNode {
            node: format!("node-{n}"),
            reason: "test".into(),
        },
        Step::Forget(n) => Command::DeleteNode {
            node: format!("node-{n}"),
        },
        Step::Rotate => authority(u8::try_from(world.fabric.authorities.len() + 1).unwrap()),
        Step::User(n, disabled) => {
            let name = format!("machine/m-{n}");
            let subject = name.parse().unwrap();
            if !world.fabric.users.contains_key(&subject) {
                user(&name, &["tenant_member in city"])
            } else if *disabled {
                Command::UpdateUser {
                    user: subject,
                    grant: BTreeSet::default(),
                    revoke: BTreeSet::default(),
                    disabled: Some(*disabled),
                }
            } else {
                Command::DeleteUser { user: subject }
            }
        }
        Step::Login(n) => {
            let subject = format!("machine/m-{n}").parse().unwrap();
            let record = certificate(made(world), subject);
            Command::RecordCertificate {
                certificate: signed(world, record),
                grounds: command::Grounds::Own,
            }
        }
        Step::Wait(days) => {
            world
                .env
                .advance(std::time::Duration::from_secs(days * 24 * 3600));
            Command::Expire
        }
    };
    let _ = world.submit_as(Origin::controller(), None, command);
}

/// A number that no token and no certificate has had.
fn made(world: &World) -> u32 {
    100 + u32::try_from(world.events.len()).unwrap()
}

/// A certificate of the authority that signs now, for ten days.
fn signed(world: &World, certificate: CertificateRecord) -> CertificateRecord {
    let authority = world.fabric.active_authority().unwrap().fingerprint;
    let not_after = Timestamp(world.env.now().get() + 10 * 24 * 3_600_000);
    CertificateRecord {
        authority,
        not_after,
        ..certificate
    }
}

/// Every index agrees with the instances, and claims agree with incarnations.
fn check_indexes(fabric: &Fabric) {
    let mut incarnations = 0;
    for instance in fabric.instances.values() {
        assert_eq!(
            fabric
                .instance_names
                .get(&(instance.tenant.clone(), instance.name.clone())),
            Some(&instance.id)
        );
        assert!(
            instance.incarnations.len() <= 1,
            "an instance runs on at most one node"
        );
        for one in &instance.incarnations {
            incarnations += 1;
            assert_eq!(fabric.incarnations.get(&one.id), Some(&instance.id));
            assert!(fabric.on_node[&one.node].contains_key(&one.id));
            assert_eq!(fabric.fleet.claim_of(one.node, one.id), Some(&one.claim));
        }
    }
    assert_eq!(fabric.instance_names.len(), fabric.instances.len());
    assert_eq!(fabric.incarnations.len(), incarnations);
    assert_eq!(
        fabric.on_node.values().map(OrdMap::len).sum::<usize>(),
        incarnations
    );
    for node in fabric.nodes.values() {
        assert_eq!(fabric.node_names.get(&node.id), Some(&node.name));
    }
    assert_eq!(fabric.node_names.len(), fabric.nodes.len());
    health::check_indexes(fabric);
    systems::check_indexes(fabric);
    groups::check_indexes(fabric);
    check_credentials(fabric);
    let claims: usize = fabric.fleet.nodes().map(|view| view.claims().len()).sum();
    assert_eq!(claims, incarnations);
    for (id, instance) in &fabric.running {
        let operation = &fabric.operations[id];
        assert!(operation.is_running());
        assert!(
            fabric.instances.contains_key(instance),
            "an operation outlived its instance"
        );
    }
}

/// Every index agrees with the certificates, and no more than one authority signs.
fn check_credentials(fabric: &Fabric) {
    let mut revoked = 0;
    for (serial, certificate) in &fabric.certificates {
        assert!(fabric.certificates_by_subject[&certificate.subject].contains(serial));
        assert!(
            fabric
                .certificates_by_end
                .contains(&(certificate.not_after, *serial))
        );
        assert_eq!(
            fabric.revoked.contains(serial),
            certificate.revoked.is_some()
        );
        revoked += usize::from(certificate.revoked.is_some());
    }
    let by_subject: usize = fabric
        .certificates_by_subject
        .values()
        .map(OrdSet::len)
        .sum();
    assert_eq!(by_subject, fabric.certificates.len());
    assert_eq!(fabric.certificates_by_end.len(), fabric.certificates.len());
    assert_eq!(fabric.revoked.len(), revoked);
    let signing = fabric
        .authorities
        .values()
        .filter(|authority| authority.state == AuthorityState::Active);
    assert_eq!(signing.count(), 1);
}

/// Whoever is revoked, disabled or not there has nothing that proves them.
fn check_proofs(fabric: &Fabric, now: Timestamp) {
    for certificate in fabric.certificates.values().filter(|one| one.is_live(now)) {
        match &certificate.subject {
            Subject::Node(id) => assert!(fabric.node_by_id(*id).unwrap().revoked.is_none()),
            subject => assert!(!fabric.users[subject].disabled),
        }
        let authority = &fabric.authorities[&certificate.authority];
        assert_ne!(authority.state, AuthorityState::Retired);
    }
}

proptest! {
    /// DESIGN's invariants hold after every step of every history: no decision raises claims
    /// above capacity, indexes agree, and a checkpoint of the end gives the same fabric.
    #[test]
    fn histories_keep_the_invariants(steps in proptest::collection::vec(step(), 1..60)) {
        let mut world = World::with_nodes(3);
        for step in &steps {
            let before: std::collections::BTreeMap<_, _> = world
                .fabric
                .fleet
                .nodes()
                .map(|view| (view.node().id, view.claimed_memory()))
                .collect();
            let quarantined = world.fabric.quarantined.len();
            play(&mut world, step);
            let most = Policy::default().most(world.fabric.nodes.len());
            prop_assert!(world.fabric.quarantined.len() <= most.max(quarantined));
            check_indexes(&world.fabric);
            check_proofs(&world.fabric, world.env.now());
            for view in world.fabric.fleet.nodes() {
                let before = before.get(&view.node().id).copied().unwrap_or(MemoryMib(0));
                if view.claimed_memory() > before {
                    prop_assert!(view.claimed_memory() <= view.memory_limit());
                    prop_assert!(view.claimed_vcpus() <= view.vcpu_limit());
                }
            }
        }
        // Folding the same facts gives the same fabric; so does loading the objects.
        let mut folded = Fabric::default();
        let mut keys = BTreeSet::new();
        for event in &world.events {
            checkpoint::touched(&folded, event, &mut keys);
            folded.apply(event);
        }
        prop_assert_eq!(format!("{:?}", &folded), format!("{:?}", &world.fabric));
        let objects: Vec<(String, Vec<u8>)> = keys
            .iter()
            .filter_map(|key| Some((key.encode(), checkpoint::object(&folded, key).unwrap()?)))
            .collect();
        let loaded = checkpoint::load(
            objects.iter().map(|(key, value)| (key.as_str(), value.as_slice())),
        ).unwrap();
        check_indexes(&loaded);
        prop_assert_eq!(loaded.instances, folded.instances);
        prop_assert_eq!(loaded.nodes, folded.nodes);
        prop_assert_eq!(loaded.operations, folded.operations);
        prop_assert_eq!(loaded.running, folded.running);
        prop_assert_eq!(loaded.requests, folded.requests);
        prop_assert_eq!(loaded.requests_by_age, folded.requests_by_age);
        prop_assert_eq!(loaded.images, folded.images);
        prop_assert_eq!(loaded.image_names, folded.image_names);
        prop_assert_eq!(loaded.node_names, folded.node_names);
        prop_assert_eq!(loaded.flavors, folded.flavors);
        prop_assert_eq!(loaded.systems, folded.systems);
        prop_assert_eq!(loaded.in_system, folded.in_system);
        prop_assert_eq!(loaded.groups, folded.groups);
        prop_assert_eq!(loaded.in_group, folded.in_group);
        prop_assert_eq!(loaded.system_ends, folded.system_ends);
        prop_assert_eq!(loaded.users, folded.users);
        prop_assert_eq!(loaded.tokens, folded.tokens);
        prop_assert_eq!(loaded.certificates, folded.certificates);
        prop_assert_eq!(loaded.certificates_by_subject, folded.certificates_by_subject);
        prop_assert_eq!(loaded.authorities, folded.authorities);
        prop_assert_eq!(loaded.tenants, folded.tenants);
        prop_assert_eq!(loaded.usage, folded.usage);
        prop_assert_eq!(loaded.quarantined, folded.quarantined);
        prop_assert_eq!(loaded.unsettled, folded.unsettled);
        prop_assert_eq!(loaded.fleet, folded.fleet);
    }
}
