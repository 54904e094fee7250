//! Adopting nodes after a restore: what is different, what it leads to, and what waits for it.

use kapok_types::{Intent, OperationId};

use super::*;
use crate::fabric::{
    adoption::{self, Cause, Difference, Held, Kind},
    command::{AdoptNode, ResizeInstance},
    fixture::{join, node_id, token},
};

/// A fabric with two nodes, a backup of it, and what happened since.
struct Restored {
    /// As the nodes have it.
    lost: World,
    /// As the backup has it.
    world: World,
}

impl Restored {
    /// Instances "kept", "changed" and "deleted" at the time of the backup; since then "changed" was
    /// stopped, "deleted" is no more, and "new" was created.
    fn new() -> Self {
        let mut lost = World::with_nodes(1);
        for name in ["kept", "changed", "deleted"] {
            lost.must(Command::CreateInstance(create(name)));
        }
        let mut world = World::with_nodes(1);
        world.fabric = lost.fabric.clone();
        lost.must(Command::StopInstance {
            instance: "changed".into(),
        });
        lost.must(Command::DeleteInstance {
            instance: "deleted".into(),
            etag: String::new(),
        });
        lost.gone("deleted");
        lost.must(Command::CreateInstance(create("new")));
        world.must(Command::BeginAdoption {
            cause: Cause::Restored,
            backup_at: None,
        });
        Self { lost, world }
    }

    /// What node 1 holds.
    fn held(&self) -> Vec<Held> {
        held_on(&self.lost.fabric, 1)
    }

    fn differences(&self) -> Vec<Difference> {
        adoption::compare(&self.world.fabric, node_id(1), &self.held())
    }

    fn adopt(&mut self, etag: &str) -> Result<Outcome, Denied> {
        let wish = adopt(&self.world, &self.held(), etag);
        self.world.submit(None, wish)
    }
}

/// Every intent that a node holds, as it was sent.
fn held_on(fabric: &Fabric, n: u8) -> Vec<Held> {
    let there = fabric.on_node.get(&node_id(n)).into_iter().flatten();
    there
        .map(|(id, _)| {
            let (instance, incarnation) = fabric.incarnation(*id).unwrap();
            Held {
                intent: Fabric::intent(instance, incarnation),
                size: None,
            }
        })
        .collect()
}

fn adopt(world: &World, held: &[Held], etag: &str) -> Command {
    let fresh = |_| world.ask(origin("li"), None, Command::Expire).fresh;
    Command::AdoptNode(Box::new(AdoptNode {
        node: "node-1".into(),
        etag: etag.into(),
        tenant: None,
        held: held.to_vec(),
        certificate: None,
        fresh: (0..held.len() + 8).map(fresh).collect(),
    }))
}

fn kinds(differences: &[Difference]) -> Vec<(&str, Kind)> {
    let mut kinds: Vec<_> = differences
        .iter()
        .map(|one| (one.name.as_str(), one.kind))
        .collect();
    kinds.sort_unstable();
    kinds
}

#[test]
fn what_differs_is_named_and_what_doesnt_isnt() {
    let restored = Restored::new();
    assert_eq!(
        kinds(&restored.differences()),
        [
            ("changed", Kind::Ahead),
            ("deleted", Kind::Missing),
            ("new", Kind::Unknown),
        ]
    );
    // The other way round: a node that missed what the record says.
    let behind = held_on(&restored.world.fabric, 1);
    let differences = adoption::compare(&restored.lost.fabric, node_id(1), &behind);
    assert_eq!(
        kinds(&differences),
        [
            ("changed", Kind::Behind),
            ("deleted", Kind::Unknown),
            ("new", Kind::Missing),
        ]
    );
}

/// DESIGN's rule 10: until a node is adopted nothing is created, changed or deleted there, by people or
/// by its agent's word.
#[test]
fn nothing_changes_on_a_node_that_is_to_be_adopted() {
    let mut world = Restored::new().world;
    let before = world.fabric.clone();
    let which = || "kept".to_owned();
    let Incarnation { id, node, .. } = world.instance("kept").incarnations[0].clone();
    for refused in [
        Command::CreateInstance(create("web")),
        Command::StartInstance { instance: which() },
        Command::StopInstance { instance: which() },
        Command::RestartInstance { instance: which() },
        Command::ResizeInstance(ResizeInstance {
            instance: which(),
            flavor: None,
            vcpus: Vcpus(2),
            memory: MemoryMib(0),
            etag: String::new(),
        }),
        Command::DeleteInstance {
            instance: which(),
            etag: String::new(),
        },
        Command::CancelOperation {
            operation: world.instance("kept").operation,
        },
        Command::DeleteImage {
            image: "debian".into(),
        },
        Command::DeleteNode {
            node: "node-1".into(),
        },
    ] {
        let refused = world.submit(None, refused.clone()).expect_err("is refused");
        assert!(
            matches!(refused, Denied::Adopting { nodes: 1, .. }),
            "{refused}"
        );
    }
    for unheard in [
        Command::GuestStopped {
            node,
            incarnation: id,
            generation: Generation(1),
        },
        Command::IncarnationGone {
            node,
            incarnation: id,
        },
    ] {
        assert_eq!(world.must(unheard), Outcome::Done);
    }
    assert_eq!(world.fabric.instances, before.instances);
    assert!(!world.fabric.fleet.node(node).unwrap().node().is_open());
}

/// What was deleted since the backup isn't recreated, what was created since isn't foreign, and what
/// was changed since is as it was changed.
#[test]
fn adopting_settles_what_was_shown() {
    let mut restored = Restored::new();
    let etag = adoption::etag(&restored.differences());
    restored.adopt(&etag).unwrap();
    let Restored { lost, mut world } = restored;
    assert_eq!(world.fabric.adoption, None);
    assert_eq!(world.instance("changed").power, Power::Stopped);
    assert_eq!(
        world.instance("changed").generation,
        lost.instance("changed").generation
    );
    let (new, theirs) = (world.instance("new"), lost.instance("new"));
    assert_eq!((new.id, &new.spec), (theirs.id, &theirs.spec));
    assert_eq!(new.incarnations, theirs.incarnations);
    // Its end is proven as ever.
    assert!(world.instance("deleted").deleting);
    world.gone("deleted");
    assert!(world.fabric.instance("deleted", &city()).is_none());
    for name in ["kept", "changed", "new"] {
        assert_eq!(
            world.instance(name).incarnations,
            lost.instance(name).incarnations
        );
    }
    let claims = |world: &World| {
        let view = world.fabric.fleet.node(node_id(1)).unwrap();
        (view.claimed_vcpus(), view.claimed_memory())
    };
    assert_eq!(claims(&world), claims(&lost));
    let held = held_on(&lost.fabric, 1);
    assert_eq!(adoption::compare(&world.fabric, node_id(1), &held), []);
    // From now on people change things again.
    world.must(Command::StartInstance {
        instance: "changed".into(),
    });
}

#[test]
fn other_differences_than_were_shown_are_not_settled() {
    let mut restored = Restored::new();
    let etag = adoption::etag(&restored.differences());
    restored.lost.must(Command::StopInstance {
        instance: "new".into(),
    });
    let refused = restored.adopt(&etag).expect_err("the list is old");
    assert!(matches!(refused, Denied::StaleEtag { .. }), "{refused}");
    assert!(restored.world.fabric.adoption.is_some());
    let etag = adoption::etag(&restored.differences());
    restored.adopt(&etag).unwrap();
    let refused = restored.adopt(&etag).expect_err("it is done");
    assert!(matches!(refused, Denied::NotAdopting { .. }), "{refused}");
}

/// Names are a tenant's, and nobody knows the tenant of what is taken up.
#[test]
fn a_name_that_is_taken_is_told_apart() {
    let mut restored = Restored::new();
    let mut held = restored.held();
    let other: Intent = {
        let new = held.iter().find(|held| held.intent.name.as_str() == "new");
        let new = &new.unwrap().intent;
        let env = &restored.lost.env;
        Intent {
            instance: env.instance_id(),
            incarnation: env.incarnation_id(),
            operation: Some(OperationId(env.uuid())),
            name: "kept".parse().unwrap(),
            ..new.clone()
        }
    };
    let id = other.instance;
    held.push(Held {
        intent: other,
        size: None,
    });
    let differences = adoption::compare(&restored.world.fabric, node_id(1), &held);
    let wish = adopt(&restored.world, &held, &adoption::etag(&differences));
    restored.world.must(wish);
    let taken = restored.world.fabric.instances.get(&id).unwrap();
    assert!(taken.name.as_str().starts_with("kept-"), "{}", taken.name);
    assert_ne!(restored.world.instance("kept").id, id);
}

/// An image that was imported since the backup is registered by what is known of it.
#[test]
fn what_started_from_an_unknown_image_keeps_it() {
    let mut restored = Restored::new();
    restored.lost.must(image("later", b"later"));
    restored.lost.must(Command::CreateInstance(CreateInstance {
        image: "later".into(),
        ..create("of-later")
    }));
    let etag = adoption::etag(&restored.differences());
    restored.adopt(&etag).unwrap();
    let fabric = &restored.world.fabric;
    let instance = fabric.instance("of-later", &city()).unwrap();
    let image = fabric.images.get(&instance.image).unwrap();
    assert_eq!(image.digest, Digest::of(b"later"));
    assert!(
        image.name.as_str().starts_with("unknown-"),
        "{}",
        image.name
    );
}

/// A token that may have been used since the backup opens nothing, and a server that comes while others
/// are adopted is adopted as well.
#[test]
fn tokens_of_the_backup_end_and_who_joins_is_adopted_too() {
    let mut world = World::with_nodes(1);
    world.must(token(40, "node/old"));
    world.must(Command::BeginAdoption {
        cause: Cause::Restored,
        backup_at: None,
    });
    let refused = world.submit(None, join(40, node_id(40), "127.0.0.1:40", &[]));
    assert_eq!(refused, Err(Denied::TokenRefused));
    for command in new_node(2, "node-2", "127.0.0.1:2") {
        world.must(command);
    }
    let adoption = world.fabric.adoption.as_ref().unwrap();
    let nodes: Vec<_> = adoption.nodes.iter().map(Name::as_str).collect();
    assert_eq!(nodes, ["node-1", "node-2"]);
    assert_eq!(adoption.cause, Cause::Restored);
}

/// What the checkpoint keeps is what the log says, and nothing of it is left once it is over.
#[test]
fn adoption_survives_a_checkpoint_and_a_removed_node_ends_it() {
    use crate::fabric::checkpoint::{self, Key};
    let mut world = Restored::new().world;
    let value = checkpoint::object(&world.fabric, &Key::Adoption).unwrap();
    let value = value.expect("is written while it lasts");
    let loaded = checkpoint::load([("adoption/", &value[..])].into_iter()).unwrap();
    assert_eq!(loaded.adoption, world.fabric.adoption);
    let gone = Event::NodeRemoved {
        node: "node-1".parse().unwrap(),
        id: node_id(1),
    };
    let mut keys = std::collections::BTreeSet::new();
    checkpoint::touched(&world.fabric, &gone, &mut keys);
    assert!(keys.contains(&Key::Adoption));
    world.fabric.apply(&gone);
    assert_eq!(world.fabric.adoption, None);
    assert_eq!(
        checkpoint::object(&world.fabric, &Key::Adoption).unwrap(),
        None
    );
}
