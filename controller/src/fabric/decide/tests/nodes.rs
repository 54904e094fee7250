//! Nodes: how they join, what is believed of them, how they leave.

use kapok_trust::Subject;

use super::*;
use crate::fabric::fixture::{join, serial, token};

const HOST: &[(&str, &str)] = &[("product_uuid", "a"), ("macs", "02:00:00:00:00:01")];
const OTHER: &[(&str, &str)] = &[("product_uuid", "b"), ("macs", "02:00:00:00:00:02")];

/// A fabric with one node, number 1, on a known server.
fn with_host() -> World {
    let mut world = World::new();
    world.must(authority(1));
    world.must(token(1, "node/node-1"));
    world.must(join(1, node_id(1), "127.0.0.1:1", HOST));
    world.must(report(1, 4096));
    world.must(image("debian", b"debian"));
    world
}

fn host(components: &[(&str, &str)]) -> HostFingerprint {
    HostFingerprint::new(
        components
            .iter()
            .map(|(component, value)| ((*component).to_owned(), (*value).to_owned())),
    )
    .unwrap()
}

fn report_on(n: u8, components: &[(&str, &str)]) -> Command {
    let Command::ReportNode {
        node,
        id,
        capacity,
        resyncing,
        ..
    } = report(n, 4096)
    else {
        panic!("a report")
    };
    Command::ReportNode {
        node,
        id,
        capacity,
        equipment: Arc::default(),
        host: host(components),
        resyncing,
    }
}

fn named(command: fn(String) -> Command) -> Command {
    command("node-1".into())
}

fn rebind() -> Command {
    named(|node| Command::RebindNode {
        node,
        parts_differ: false,
    })
}

fn revoke() -> Command {
    named(|node| Command::RevokeNode {
        node,
        reason: "stolen".into(),
    })
}

fn node(world: &World) -> &Node {
    world.fabric.node("node-1").unwrap()
}

#[test]
fn a_token_makes_one_node_and_no_second() {
    let mut world = with_host();
    assert_eq!(node(&world).id, node_id(1));
    assert!(world.fabric.certificates[&serial(1)].is_live(world.env.now()));
    let again = world.submit(None, join(1, node_id(2), "127.0.0.1:2", &[]));
    assert_eq!(again, Err(Denied::TokenRefused));
    assert_eq!(world.fabric.nodes.len(), 1);
}

/// Unknown, of another secret, ended, for a person: the refusal doesn't say which.
#[test]
fn a_bad_token_is_refused_without_a_reason() {
    let mut world = World::new();
    world.must(authority(1));
    world.must(fixture::user("user/li", &["auditor"]));
    world.must(token(1, "node/node-1"));
    world.must(token(2, "user/li"));
    let mut guess = |change: fn(&mut TokenUse)| {
        let Command::JoinNode(mut join) = join(1, node_id(1), "h:1", &[]) else {
            panic!("a join")
        };
        change(&mut join.token);
        assert_eq!(
            world.submit(None, Command::JoinNode(join)),
            Err(Denied::TokenRefused)
        );
    };
    guess(|token| token.hash = Digest::of(b"guess"));
    guess(|token| token.id = fixture::shown(9).id);
    guess(|token| *token = fixture::shown(2));
    world.env.advance(std::time::Duration::from_hours(1));
    let late = world.submit(None, join(1, node_id(1), "h:1", &[]));
    assert_eq!(late, Err(Denied::TokenRefused));
    assert!(world.fabric.nodes.is_empty());
}

#[test]
fn a_node_that_comes_back_keeps_what_it_carries() {
    let mut world = with_host();
    world.must(Command::CreateInstance(create("web")));
    world.must(token(2, "node/node-1"));
    world.must(join(2, node_id(1), "127.0.0.1:9", HOST));
    assert_eq!(node(&world).address, "127.0.0.1:9");
    assert_eq!(world.instance("web").incarnations[0].node, node_id(1));
    let view = world.fabric.fleet.node(node_id(1)).unwrap();
    assert_eq!(view.claimed_vcpus(), Vcpus(1));
    // What proved it before proves nothing any more; what it was given now does.
    let live = |n| world.fabric.certificates[&serial(n)].is_live(world.env.now());
    assert_eq!((live(1), live(2)), (false, true));
}

/// Whoever says nothing of the server doesn't get round the comparison.
#[test]
fn a_known_server_says_what_it_is_when_it_joins_again() {
    let mut world = with_host();
    world.must(token(2, "node/node-1"));
    let silent = world.submit(None, join(2, node_id(1), "127.0.0.1:9", &[]));
    assert!(matches!(silent, Err(Denied::Invalid(_))), "{silent:?}");
    world.must(join(2, node_id(1), "127.0.0.1:9", HOST));
}

#[test]
fn a_name_and_an_identity_belong_together() {
    let mut world = with_host();
    world.must(token(2, "node/node-1"));
    world.must(token(3, "node/node-3"));
    for (token, id) in [(2, node_id(2)), (3, node_id(1))] {
        let refused = world.submit(None, join(token, id, "h:1", &[]));
        assert!(
            matches!(refused, Err(Denied::WrongNode { .. })),
            "{refused:?}"
        );
    }
    // Refused, they are as good as before.
    world.must(join(3, node_id(3), "h:1", &[]));
}

/// FAULTS 22: a node that answers with another identity gets nothing: neither one node's intent
/// for another, nor a word about it.
#[test]
fn another_identity_at_a_nodes_address_is_refused() {
    let mut world = World::with_nodes(2);
    let before = world.events.len();
    let Command::ReportNode { capacity, .. } = report(1, 4096) else {
        panic!("a report")
    };
    for (name, id) in [("node-1", node_id(9)), ("node-2", node_id(1))] {
        let imposter = Command::ReportNode {
            node: name.parse().unwrap(),
            id,
            capacity,
            equipment: Arc::default(),
            host: HostFingerprint::default(),
            resyncing: false,
        };
        assert!(matches!(
            world.submit(None, imposter),
            Err(Denied::WrongNode { .. })
        ));
    }
    assert_eq!(world.events.len(), before);
}

#[test]
fn a_changed_server_takes_nothing_new_until_it_is_rebound() {
    let mut world = with_host();
    assert!(matches!(
        world.submit(None, rebind()),
        Err(Denied::FingerprintUnchanged { .. })
    ));
    world.must(report_on(1, OTHER));
    assert_eq!(node(&world).found, Some(host(OTHER)));
    let events = world.events.len();
    world.must(report_on(1, OTHER));
    world.must(report(1, 4096));
    assert_eq!(world.events.len(), events, "said once");
    let Err(Denied::NoCapacity(no_fit)) =
        world.submit(None, Command::CreateInstance(create("web")))
    else {
        panic!("it takes nothing new")
    };
    assert!(
        no_fit
            .rejections()
            .lines()
            .any(|line| line.contains("its server has changed; rebind it")),
        "{no_fit}"
    );
    world.must(rebind());
    assert_eq!(
        (&node(&world).host, &node(&world).found),
        (&host(OTHER), &None)
    );
    world.must(Command::CreateInstance(create("web")));
    // The old server is the strange one now, and by itself the new one is none any more.
    world.must(report_on(1, HOST));
    assert!(node(&world).found.is_some());
    world.must(report_on(1, OTHER));
    assert!(node(&world).found.is_none());
}

/// A rejoin on other hardware is recorded so that it can be rebound; its token stays good.
#[test]
fn a_swapped_server_joins_after_a_rebind() {
    let mut world = with_host();
    world.must(token(2, "node/node-1"));
    let swapped = || join(2, node_id(1), "127.0.0.1:1", OTHER);
    assert_eq!(world.must(swapped()), Outcome::HostChanged(node_id(1)));
    assert!(!world.fabric.certificates.contains_key(&serial(2)));
    assert_eq!(world.must(swapped()), Outcome::HostChanged(node_id(1)));
    world.must(rebind());
    assert_eq!(world.must(swapped()), Outcome::Done);
    assert!(world.fabric.certificates.contains_key(&serial(2)));
}

#[test]
fn a_node_that_knew_nothing_of_its_server_is_bound_to_the_first_one() {
    let mut world = World::with_nodes(1);
    world.must(report_on(1, HOST));
    assert_eq!(
        (&node(&world).host, &node(&world).found),
        (&host(HOST), &None)
    );
    world.must(report_on(1, OTHER));
    assert!(node(&world).found.is_some());
}

#[test]
fn a_revoked_node_is_not_believed_until_a_newer_token_brings_it_back() {
    let mut world = with_host();
    world.must(Command::CreateInstance(create("web")));
    world.must(token(2, "node/node-1"));
    world.must(revoke());
    let now = world.env.now();
    assert!(!world.fabric.certificates[&serial(1)].is_live(now));
    assert_eq!(
        world
            .fabric
            .revoked_by(fixture::authority_id(1), now)
            .count(),
        1
    );
    assert!(matches!(
        world.submit(None, report(1, 4096)),
        Err(Denied::Revoked { .. })
    ));
    assert!(matches!(
        world.submit(None, Command::CreateInstance(create("db"))),
        Err(Denied::NoCapacity(_))
    ));
    let renewal = Command::RecordCertificate {
        certificate: fixture::certificate(7, Subject::Node(node_id(1))),
        grounds: command::Grounds::Renewal(serial(1)),
    };
    assert!(matches!(
        world.submit(None, renewal),
        Err(Denied::Revoked { .. })
    ));
    // A token from before is of no use, even within its life.
    let rejoin = |n| join(n, node_id(1), "127.0.0.1:1", HOST);
    assert_eq!(world.submit(None, rejoin(2)), Err(Denied::TokenRefused));
    world.must(token(3, "node/node-1"));
    world.must(rejoin(3));
    world.must(report(1, 4096));
    assert_eq!(world.instance("web").incarnations[0].node, node_id(1));
    world.must(Command::CreateInstance(create("db")));
    // What was revoked stays so.
    assert!(!world.fabric.certificates[&serial(1)].is_live(now));
}

#[test]
fn a_node_is_forgotten_when_it_carries_nothing() {
    let mut world = with_host();
    let delete = || named(|node| Command::DeleteNode { node });
    world.must(Command::CreateInstance(create("web")));
    world.must(Command::DeleteInstance {
        instance: "web".into(),
        etag: String::new(),
    });
    assert_eq!(
        world.submit(None, delete()),
        Err(Denied::NodeInUse {
            node: "node-1".into(),
            incarnations: 1
        }),
        "the claim counts until its end is proven"
    );
    world.gone("web");
    world.must(delete());
    assert!(world.fabric.nodes.is_empty() && world.fabric.fleet.is_empty());
    assert!(!world.fabric.certificates[&serial(1)].is_live(world.env.now()));
    // The same server may join under another name.
    world.must(token(2, "node/node-2"));
    world.must(join(2, node_id(1), "h:1", HOST));
}

#[test]
fn what_an_administrator_decides_of_a_node_has_limits() {
    let mut world = with_host();
    let update = |permille: Option<u32>, address: Option<&str>| Command::UpdateNode {
        site: Vec::new(),
        node: "node-1".into(),
        vcpu_overcommit_permille: permille,
        address: address.map(Into::into),
    };
    world.must(update(Some(4000), Some("[::1]:7701")));
    let view = world.fabric.fleet.node(node_id(1)).unwrap();
    assert_eq!(view.vcpu_limit(), Vcpus(16));
    assert_eq!(node(&world).address, "[::1]:7701");
    for wrong in [
        update(Some(999), None),
        update(Some(64_001), None),
        update(None, Some("host")),
        update(None, Some("host:0")),
        update(None, Some("http://host:1")),
        update(None, Some(":1")),
        update(None, Some("a b:1")),
    ] {
        assert!(matches!(world.submit(None, wrong), Err(Denied::Invalid(_))));
    }
}

/// Nodes are the whole fabric's, whatever a site's policies say.
#[test]
fn a_tenants_people_change_no_node() {
    let mut world = World::with_nodes(1);
    world.must(fixture::tenant("finance", None));
    let commands = [
        rebind(),
        revoke(),
        named(|node| Command::DeleteNode { node }),
        named(|node| Command::UncordonNode { node }),
        token(9, "node/node-9"),
        authority(2),
    ];
    for command in commands {
        let refused = world.submit_as(member("wang", "finance"), None, command);
        assert!(
            matches!(refused, Err(Denied::Forbidden { .. })),
            "{refused:?}"
        );
    }
}
