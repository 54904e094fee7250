//! The record comes back: from a backup that is behind, and from what agents hold where there is none.

use std::{collections::BTreeMap, fs, path::PathBuf};

use kapok_lab::{
    fabric::{Kapok, Person, text},
    wait::until,
};
use serde_json::Value;

use crate::world::{SOON, World};

const PASSPHRASE: &str = "correct horse battery staple";

impl World {
    fn state(&self) -> PathBuf {
        self.fabric.folder().join("a")
    }

    /// A file of the test's own, as its path.
    fn path(&self, name: &str) -> String {
        self.fabric.folder().join(name).display().to_string()
    }

    /// The record of the controller, or a backup's, as objects by their keys.
    fn dump(&self, of: &[&str]) -> BTreeMap<String, Value> {
        let line = [&["db", "dump"], of].concat();
        let said = self.fabric.controller_command(&line).unwrap();
        let objects = said.lines().map(|line| {
            let object: Value = serde_json::from_str(line).unwrap();
            (text(&object, "key").to_owned(), object["value"].clone())
        });
        objects.collect()
    }

    fn names(&self, who: &Kapok) -> Vec<String> {
        let all = self.list(who, "instance ls");
        let mut names: Vec<_> = all.iter().map(|one| text(one, "name").to_owned()).collect();
        names.sort();
        names
    }

    fn settles(&self, who: &Kapok, names: &[&str]) {
        let mut last = Vec::new();
        let settled = until("the instances", SOON, || {
            last = self.names(who);
            Ok((last == names).then_some(()))
        });
        settled.unwrap_or_else(|error| panic!("{error}; last seen: {last:?}"));
    }

    fn image(&self, who: &Kapok) {
        let image = self.path("image.raw");
        fs::write(&image, "kapok".repeat(1 << 18)).unwrap();
        self.ok(who, &format!("image import {image} --name blank"));
    }

    fn create(&self, who: &Kapok, name: &str) {
        let create = format!("instance create {name} --image blank --memory 64MiB --wait");
        self.ok(who, &create);
    }

    /// Waits until all nodes answer, adopted or not.
    fn all_answer(&self, who: &Kapok, count: usize) {
        let answered = until("all nodes to answer", SOON, || {
            let answer = self.json(who, "node differences");
            let nodes = answer["nodes"].as_array().cloned().unwrap_or_default();
            let asked = nodes.iter().filter(|node| node["asked"] == true).count();
            Ok((asked == count).then_some(()))
        });
        answered.unwrap();
    }
}

/// What incarnations, claims and instances are, without what no agent holds.
fn told(objects: &BTreeMap<String, Value>) -> BTreeMap<String, Value> {
    let instances = objects
        .iter()
        .filter(|(key, _)| key.starts_with("instance/"));
    instances
        .map(|(key, value)| {
            let mut value = value.clone();
            let told = value.as_object_mut().unwrap();
            for unknown in [
                "image",
                "image_name",
                "created_at",
                "created_by",
                "operation",
                "flavor",
                "groups",
                "system",
                "tenant",
            ] {
                told.remove(unknown);
            }
            (key.clone(), value)
        })
        .collect()
}

/// FAULTS 37, for backups: kills anywhere lose neither the record nor the backup that was there. After
/// the restore nothing happens by itself; then what was deleted since stays deleted, what was created
/// since isn't foreign, and what was changed since counts.
#[test]
fn a_backup_comes_back_whatever_was_done_since() {
    let mut world = World::new(2);
    let operator = world.by(Person::SystemAdministrator);
    let (file, pass) = (world.path("backup"), world.path("passphrase"));
    fs::write(&pass, format!("{PASSPHRASE}\n")).unwrap();
    world.remember(PASSPHRASE, "passphrase");
    world.image(&operator);
    for name in ["kept", "changed", "deleted"] {
        world.create(&operator, name);
    }
    let backup = ["db", "backup", &file, "--passphrase-file", &pass];
    let said = world.fabric.controller_command(&backup).unwrap();
    assert!(said.starts_with("made"), "{said}");
    let check = ["db", "check", &file, "--passphrase-file", &pass];
    let sound = world.fabric.controller_command(&check).unwrap();
    assert!(sound.starts_with("sound"), "{sound}");
    let then = world.dump(&[&file]);

    world.ok(&operator, "instance stop changed --wait");
    world.ok(&operator, "instance rm deleted --yes --wait");
    world.create(&operator, "new");
    let before = world.dump(&[]);

    // Kills while the next backup is made.
    let draft = format!("{file}.new");
    for size in [0, 1000] {
        let killed = world.fabric.controller_killed(&backup, || {
            fs::metadata(&draft).is_ok_and(|about| about.len() >= size)
        });
        assert!(killed.unwrap(), "it was too quick");
        let still = world.fabric.controller_command(&check).unwrap();
        assert_eq!(still, sound, "the backup that was there stays");
    }
    assert_eq!(world.dump(&[]), before);

    // Kills while it is restored: either record is there, whole.
    world.fabric.kill_controller();
    let restore = [
        "db",
        "restore",
        &file,
        "--passphrase-file",
        &pass,
        "--replace",
    ];
    let state = world.state();
    for begun in ["", "trust/controller", "log.redb", "segments"] {
        let staging = state.join(".restoring").join(begun);
        let killed = world
            .fabric
            .controller_killed(&restore, || staging.exists());
        if killed.unwrap() {
            assert_eq!(told(&world.dump(&[])), told(&before), "killed at {begun:?}");
        }
        // What the next run begins with is nobody's.
        let _ = fs::remove_dir_all(state.join(".restoring"));
    }
    let said = world.fabric.controller_command(&restore).unwrap();
    assert!(said.contains("kapok node differences"), "{said}");
    assert_eq!(told(&world.dump(&[])), told(&then));

    world.fabric.start_controller().unwrap();
    world.all_answer(&operator, 2);
    let shown = world.ok(&operator, "node differences");
    for word in ["unknown", "missing", "ahead"] {
        assert!(shown.contains(word), "{shown}");
    }
    // Nothing happens by itself, and nobody's wish does either.
    let told_so = world.refused(
        &operator,
        "instance create other --image blank --memory 64MiB",
        4,
    );
    assert!(told_so.contains("kapok node adopt"), "{told_so}");
    world.refused(&operator, "instance start changed", 4);
    assert_eq!(world.names(&operator), ["changed", "deleted", "kept"]);

    world.ok(&operator, "node adopt --all --yes");
    world.settles(&operator, &["changed", "kept", "new"]);
    let now = world.dump(&[]);
    assert_eq!(told(&now), told(&before));
    // They follow the record again.
    world.ok(&operator, "instance start changed --wait");
    world.ok(&operator, "instance stop new --wait");
    world.create(&operator, "other");

    // Once more, from the same backup: nodes have seen higher epochs by now than a restore knows of.
    world.fabric.kill_controller();
    world.fabric.start_controller().unwrap();
    world.ok(&operator, "instance stop kept --wait");
    world.fabric.kill_controller();
    world.fabric.controller_command(&restore).unwrap();
    world.fabric.start_controller().unwrap();
    world.all_answer(&operator, 2);
    let log = world.fabric.controller_log();
    assert!(log.contains("leading above it"), "{log}");
    world.ok(&operator, "node adopt --all --yes");
    world.settles(&operator, &["changed", "kept", "new", "other"]);
    // It is told nowhere but here.
    fs::remove_file(pass).unwrap();
    world.end();
}

/// Record and backup are lost, the keys aren't: three nodes say what they hold.
#[test]
fn a_lost_record_is_rebuilt_from_what_agents_hold() {
    let mut world = World::new(3);
    let operator = world.by(Person::SystemAdministrator);
    world.image(&operator);
    for n in 1..=7 {
        world.create(&operator, &format!("web-{n}"));
    }
    world.ok(&operator, "instance stop web-2 --wait");
    world.ok(&operator, "instance restart web-3 --wait");
    world.ok(&operator, "instance resize web-4 --vcpus 2 --wait");
    let nodes = world.list(&operator, "node ls");
    let nodes: Vec<_> = nodes
        .iter()
        .map(|node| {
            let [name, id, address] = ["name", "id", "address"].map(|key| text(node, key));
            format!("{name}={id}@{address}")
        })
        .collect();
    let before = world.dump(&[]);
    world.fabric.kill_controller();
    let state = world.state();
    fs::remove_file(state.join("log.redb")).unwrap();

    let people = world.path("rebuilt");
    let mut line = vec!["db", "rebuild", "--credentials", &people];
    for node in &nodes {
        line.extend(["--node", node]);
    }
    let said = world.fabric.controller_command(&line).unwrap();
    assert!(said.contains("3 nodes, 7 instances"), "{said}");
    for lost in ["quotas", "people", "names"] {
        assert!(said.contains(lost), "{lost} isn't listed: {said}");
    }
    let after = world.dump(&[]);
    assert_eq!(told(&after), told(&before));

    // The people of before are nobody any more; the first ones have new credentials.
    let first = world.fabric.folder().join("credentials");
    fs::rename(&first, world.fabric.folder().join("credentials-before")).unwrap();
    fs::rename(&people, &first).unwrap();
    world.fabric.start_controller().unwrap();
    world.all_answer(&operator, 3);
    let same = world.ok(&operator, "node differences");
    assert_eq!(same.matches("same").count(), 3, "{same}");
    world.refused(&operator, "instance stop web-1", 4);
    world.ok(&operator, "node adopt --all --yes");
    world.ok(&operator, "instance stop web-1 --wait");
    world.ok(&operator, "instance rm web-5 --yes --wait");
    world.image(&operator);
    world.create(&operator, "web-8");

    // Adopting can be asked for, and finds nothing.
    world.fabric.stop_controller().unwrap();
    world.fabric.controller_command(&["db", "adopt"]).unwrap();
    world.fabric.start_controller().unwrap();
    world.all_answer(&operator, 3);
    let same = world.ok(&operator, "node differences");
    assert_eq!(same.matches("same").count(), 3, "{same}");
    world.fabric.stop().unwrap();
}
