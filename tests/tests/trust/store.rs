//! The record in etcd: a fabric moves there and back, and goes on as if nothing had been.

use kapok_lab::fabric::{Person, Settings, Store};
use kapok_store::testing::EtcdCluster;
use serde_json::Value;

use crate::world::World;

impl World {
    /// Stops the controller, moves the log, and starts it on the other store.
    #[track_caller]
    fn move_log(&mut self, from: &str, to: &str, settings: &Settings) -> String {
        let migrate = ["store", "migrate", "--from", from, "--to", to];
        let refused = self.fabric.controller_command(&migrate).unwrap_err();
        assert!(
            format!("{refused:#}").contains("stop it first"),
            "{refused:#}"
        );
        self.fabric.stop_controller().unwrap();
        let said = self.fabric.controller_command(&migrate).unwrap();
        self.fabric.configure(settings).unwrap();
        self.fabric.start_controller().unwrap();
        said
    }

    /// The names of all tenants, and whether the record up to now is sound.
    #[track_caller]
    fn tenants_on_a_sound_record(&self) -> Vec<String> {
        let verdict = self.json(&self.by(Person::Auditor), "audit verify");
        assert_eq!(verdict["sound"], true, "{verdict}");
        let tenants = self.list(&self.by(Person::SystemAdministrator), "tenant ls");
        let name = |tenant: &Value| tenant["name"].as_str().unwrap().to_owned();
        tenants.iter().map(name).collect()
    }
}

/// The same log in both stores, one after the other; in etcd it outlives a member and a kill of the
/// controller.
#[test]
fn a_log_moves_to_etcd_and_back() {
    let mut etcd = EtcdCluster::start(3);
    let settings = |is_etcd| Settings {
        store: Store {
            is_etcd,
            endpoints: etcd.endpoints(),
        },
        ..Settings::default()
    };
    let (in_file, in_etcd) = (settings(false), settings(true));
    let mut world = World::with(2, &in_file);
    let operator = world.by(Person::SystemAdministrator);
    let create = |world: &World, name: &str| {
        let tenant = format!("tenant create {name} --display-name 水务局");
        world.ok(&operator, &tenant);
    };
    create(&world, "before");
    let said = world.move_log("redb", "etcd", &in_etcd);
    assert!(said.contains("store.backend = \"etcd\""), "{said}");

    create(&world, "in-etcd");
    etcd.stop_member(0);
    create(&world, "with-two-members");
    world.fabric.kill_controller();
    world.fabric.start_controller().unwrap();
    create(&world, "after-a-kill");
    let names = world.tenants_on_a_sound_record();
    for name in ["before", "in-etcd", "with-two-members", "after-a-kill"] {
        assert!(names.iter().any(|there| there == name), "{name}: {names:?}");
    }

    // What is in the file is the beginning of what is in etcd by now.
    let said = world.move_log("etcd", "redb", &in_file);
    assert!(said.contains("from an earlier try"), "{said}");
    create(&world, "back");
    let back = world.tenants_on_a_sound_record();
    assert_eq!(back.len(), names.len() + 1, "{back:?}");
    let nodes = world.list(&operator, "node ls");
    assert_eq!(nodes.len(), 2, "{nodes:?}");
    world.end();
}
