//! Several controllers over one log in etcd: the loss of one is no event.

use std::{collections::BTreeSet, thread};

use kapok_lab::{
    fabric::{Kapok, Person, Settings, Store},
    wait::until,
};
use kapok_store::testing::EtcdCluster;
use serde_json::Value;

use crate::world::{SOON, World};

/// A fabric of three controllers, three members of etcd, and some nodes.
struct Three {
    etcd: EtcdCluster,
    settings: Settings,
    world: World,
}

impl Three {
    fn new(nodes: u16) -> Self {
        let etcd = EtcdCluster::start(3);
        let settings = Settings {
            store: Store {
                is_etcd: true,
                endpoints: etcd.endpoints(),
            },
            ..Settings::default()
        };
        let mut world = World::with(nodes, &settings);
        for name in ["b", "c"] {
            world.fabric.join_controller(name, &settings).unwrap();
        }
        let three = Self {
            etcd,
            settings,
            world,
        };
        three.all_follow();
        three
    }

    /// Whoever asks all of them.
    fn anyone(&self) -> Kapok {
        self.world.fabric.kapok_of_all()
    }

    /// The controllers as the one that leads knows them.
    fn known(&self) -> Vec<Value> {
        let listed = self.anyone().value(&["controller", "ls"]).unwrap();
        listed["controllers"].as_array().unwrap().clone()
    }

    /// Waits until somebody leads and every controller that was started follows it closely.
    fn all_follow(&self) {
        let kapok = self.anyone();
        until("all controllers to follow", SOON, || {
            let Ok(listed) = kapok.value(&["controller", "ls"]) else {
                return Ok(None);
            };
            let all = listed["controllers"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            let ready = |one: &&Value| one["missing_keys"] == 0 && one["behind"] == 0;
            Ok((all.iter().filter(ready).count() == 3).then_some(()))
        })
        .unwrap();
    }

    /// The place of the one that leads.
    fn leader(&mut self) -> usize {
        let known = self.known();
        let leads = known.iter().find(|one| one["role"] == "leads").unwrap();
        let name = leads["name"].as_str().unwrap().to_owned();
        let mut all = self.world.fabric.controllers().into_iter();
        all.position(|one| one.name() == name).unwrap()
    }

    /// Makes tenants, one after the other, until told to stop; gives the names of those that were
    /// acknowledged.
    fn load(&self, prefix: &str, stop: &Stop) -> thread::JoinHandle<Vec<String>> {
        let (kapok, prefix, stop) = (self.anyone(), prefix.to_owned(), stop.clone());
        thread::spawn(move || {
            let mut acknowledged = Vec::new();
            for number in 0..10_000 {
                if stop.is_set() {
                    break;
                }
                let name = format!("{prefix}-{number}");
                if kapok.run(&["tenant", "create", &name]).is_ok() {
                    acknowledged.push(name);
                }
            }
            acknowledged
        })
    }

    /// What every controller says there is: the same, and on a sound record.
    fn tenants(&mut self) -> Vec<String> {
        self.all_follow();
        let one = |kapok: &Kapok| -> Vec<String> {
            let listed = kapok.list(&["tenant", "ls"]).unwrap();
            let name = |tenant: &Value| tenant["name"].as_str().unwrap().to_owned();
            listed.iter().map(name).collect()
        };
        let auditor = self.anyone().by(Person::Auditor);
        let verdict = self.world.json(&auditor, "audit verify");
        assert_eq!(verdict["sound"], true, "{verdict}");
        let all: Vec<Vec<String>> = self
            .world
            .fabric
            .controllers()
            .into_iter()
            .map(|controller| one(controller.kapok()))
            .collect();
        assert!(all.iter().all(|names| *names == all[0]), "{all:?}");
        all[0].clone()
    }
}

/// Ends loads.
#[derive(Debug, Clone, Default)]
struct Stop(std::sync::Arc<std::sync::atomic::AtomicBool>);

impl Stop {
    fn set(&self) {
        self.0.store(true, std::sync::atomic::Ordering::SeqCst);
    }

    fn is_set(&self) -> bool {
        self.0.load(std::sync::atomic::Ordering::SeqCst)
    }
}

#[track_caller]
fn all_there_once(there: &[String], acknowledged: &[String]) {
    let known: BTreeSet<&String> = there.iter().collect();
    assert_eq!(known.len(), there.len(), "none twice");
    for name in acknowledged {
        assert!(
            known.contains(name),
            "{name} was acknowledged and isn't there"
        );
    }
}

/// How often the leader is killed: more often where somebody wants to know.
fn rounds() -> usize {
    let wanted = std::env::var("KAPOK_ROUNDS").ok();
    wanted.and_then(|text| text.parse().ok()).unwrap_or(3)
}

/// The one that leads is killed under load, again and again: what was acknowledged is there, nothing
/// is there twice, and the record is sound (FAULTS 37).
#[test]
fn killing_the_leader_loses_nothing() {
    let mut three = Three::new(2);
    let stop = Stop::default();
    let loads = [three.load("x", &stop), three.load("y", &stop)];
    let mut gaps = Vec::new();
    for _ in 0..rounds() {
        let leader = three.leader();
        three.world.fabric.controller(leader).kill();
        let since = std::time::Instant::now();
        let kapok = three.anyone();
        let name = format!("after-{}", gaps.len());
        until("a write", SOON, || {
            Ok(kapok.run(&["tenant", "create", &name]).ok())
        })
        .unwrap();
        gaps.push(since.elapsed());
        three.world.fabric.controller(leader).start().unwrap();
        three.all_follow();
    }
    stop.set();
    let acknowledged: Vec<String> = loads
        .into_iter()
        .flat_map(|load| load.join().unwrap())
        .collect();
    gaps.sort();
    println!(
        "{} tenants acknowledged, {} kills; time without writes: median {:?}, longest {:?}",
        acknowledged.len(),
        gaps.len(),
        gaps[gaps.len() / 2],
        gaps[gaps.len() - 1],
    );
    let there = three.tenants();
    all_there_once(&there, &acknowledged);
    // No node was counted lost by it, and each answers the one that leads now.
    let nodes = three.world.list(&three.anyone(), "node ls");
    assert!(
        nodes.iter().all(|node| node["state"] == "ready"),
        "{nodes:?}"
    );
    three.world.end();
}

/// One that leads and is frozen is fenced: another one leads meanwhile, and what the first wakes up
/// with is nobody's word any more (FAULTS 31 and 32).
#[test]
fn a_frozen_leader_is_fenced() {
    let mut three = Three::new(2);
    let operator = three.anyone();
    three.world.ok(&operator, "tenant create before");
    let leader = three.leader();
    three.world.fabric.controller(leader).freeze(true).unwrap();
    // Asked by way of the two that run.
    three.world.ok(&operator, "tenant create meanwhile");
    let next = three.leader();
    assert_ne!(next, leader);
    three.world.fabric.controller(leader).freeze(false).unwrap();
    // It hears that it leads no longer, ends, and would be started again by the service manager.
    assert!(!three.world.fabric.controller(leader).ended().unwrap());
    three.world.fabric.controller(leader).start().unwrap();
    let there = three.tenants();
    all_there_once(&there, &["before".into(), "meanwhile".into()]);
    assert_eq!(three.leader(), next);
    let nodes = three.world.list(&operator, "node ls");
    assert!(
        nodes.iter().all(|node| node["state"] == "ready"),
        "{nodes:?}"
    );
    three.world.end();
}

/// A follower answers what is a fold of the log, and passes everything else on; whoever leads gives the
/// leadership up when asked, and a new authority is held by all before it signs.
#[test]
fn followers_answer_and_take_over() {
    let mut three = Three::new(2);
    let leader = three.leader();
    let follower = (leader + 1) % 3;
    let asked = three.world.fabric.controller(follower).kapok().clone();
    // Written by way of a follower, and read there at once.
    three
        .world
        .ok(&asked, "tenant create water --display-name 水务局");
    let names = three.world.list(&asked, "tenant ls");
    assert!(
        names.iter().any(|tenant| tenant["name"] == "water"),
        "{names:?}"
    );
    // What only the one that leads knows: nodes are seen by it.
    let nodes = three.world.list(&asked, "node ls");
    assert!(
        nodes.iter().all(|node| node["state"] == "ready"),
        "{nodes:?}"
    );
    // Whoever may not is refused there, too, and it is on record.
    let auditor = asked.by(Person::Auditor);
    three.world.refused(&auditor, "tenant create parks", 9);

    let security = asked.by(Person::SecurityAdministrator);
    three.world.ok(&security, "ca rotate --yes");
    three.all_follow();
    three.world.ok(&asked, "controller step-down --yes");
    // As the service manager would.
    assert!(three.world.fabric.controller(leader).ended().unwrap());
    three.world.fabric.controller(leader).start().unwrap();
    three.all_follow();
    assert_ne!(three.leader(), leader);
    // The new one signs with the new authority's key.
    three.world.ok(&asked, "node token create node-9 --quiet");
    let there = three.tenants();
    all_there_once(&there, &["water".into()]);
    three.world.end();
}

/// A member of etcd that is gone is not noticed; without a majority reads go on, writes are refused and
/// guests run; with it again, all goes on by itself.
#[test]
fn etcd_may_lose_members() {
    let mut three = Three::new(2);
    let operator = three.anyone();
    three.world.ok(&operator, "tenant create before");
    three.etcd.stop_member(0);
    three.world.ok(&operator, "tenant create with-two");
    three.etcd.stop_member(1);
    let refused = three.world.run(&operator, "tenant create with-one");
    assert_ne!(refused.code, 0, "{refused:?}");
    for controller in three.world.fabric.controllers() {
        let listed = controller.kapok().list(&["tenant", "ls"]).unwrap();
        assert!(listed.iter().any(|tenant| tenant["name"] == "with-two"));
    }
    let nodes = three.world.list(&operator, "node ls");
    assert!(
        nodes.iter().all(|node| node["state"] == "ready"),
        "{nodes:?}"
    );
    three.etcd.start_member(0);
    three.etcd.start_member(1);
    until("a write", SOON, || {
        Ok(operator.run(&["tenant", "create", "again"]).ok())
    })
    .unwrap();
    let wanted = ["before", "with-two", "again"].map(str::to_owned);
    let there = three.tenants();
    all_there_once(&there, &wanted);
    let _settings = &three.settings;
    three.world.end();
}
