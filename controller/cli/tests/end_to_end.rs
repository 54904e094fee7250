//! The command as people run it, against a small controller on loopback.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::wildcard_imports,
    unreachable_pub,
    dead_code,
    missing_docs,
    reason = "a test program"
)]

mod fake;
mod typed;

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpListener,
    os::fd::OwnedFd,
    process::Stdio,
};

use kapok_types::Digest;
use nix::{
    pty::{OpenptyResult, Winsize, openpty},
    sys::{
        signal::{Signal, kill},
        termios::{LocalFlags, tcgetattr},
    },
    unistd::Pid,
};
use serde_json::Value;

use crate::{
    fake::serve,
    typed::{Bound, finish, kapok, run},
};

fn terminal() -> (File, OwnedFd) {
    let size = Winsize {
        ws_row: 24,
        ws_col: 100,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let OpenptyResult { master, slave } = openpty(&size, None).unwrap();
    (File::from(master), slave)
}

/// Everything that was written to a terminal whose other ends are closed.
fn screen(mut terminal: File) -> String {
    let mut seen = Vec::new();
    // Linux ends a terminal without writers with an error.
    let _ = terminal.read_to_end(&mut seen);
    String::from_utf8_lossy(&seen).into_owned()
}

#[test]
fn a_create_is_asked_for_once_and_followed_to_its_end() {
    let server = serve();
    let (terminal, stderr) = terminal();
    let mut command = kapok(
        &server,
        "instance create web --image i --memory 2GiB --wait",
    );
    let child = command
        .stdout(Stdio::piped())
        .stderr(stderr)
        .spawn()
        .unwrap();
    let bound = Bound::on(&child);
    // The command holds the terminal's other end too; it must go for the screen to end.
    drop(command);
    let screen = screen(terminal);
    let (exit, stdout, _) = finish(child);
    drop(bound);
    assert_eq!(exit, 0, "{screen}");
    assert_eq!(stdout, "web: create succeeded: as scripted\n");
    for shown in [
        "pulling the image",
        " 25%",
        "trying again",
        "starting",
        " 80%",
    ] {
        assert!(screen.contains(shown), "{shown} isn't in {screen}");
    }
    let seen = server.fake.0.lock().unwrap();
    assert_eq!(seen.watched, 2, "the watch was taken up again");
    let [first, second] = seen.creates.as_slice() else {
        panic!("{:?}", seen.creates)
    };
    assert_eq!(
        first, second,
        "a lost answer is asked for with the same request"
    );
    assert_eq!(first.request_id.len(), 36);
    assert_eq!(
        (first.memory_mib, first.vcpus, first.root_disk_bytes),
        (2048, 1, 0)
    );
}

#[test]
fn without_a_terminal_there_is_no_progress_and_json_is_one_object() {
    let server = serve();
    let line = "instance create web --image i --memory 2GiB --wait -o json --request-id r-1";
    let (exit, stdout, stderr) = run(&server, line);
    assert_eq!((exit, stderr.as_str()), (0, ""));
    let operation: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(operation["state"], "succeeded");
    assert_eq!(server.fake.0.lock().unwrap().creates[1].request_id, "r-1");
}

#[test]
fn the_end_of_the_operation_decides_the_exit_code() {
    let server = serve();
    for (name, code) in [
        ("failed", 1),
        ("detached", 7),
        ("cancelled", 8),
        ("superseded", 8),
    ] {
        let line = format!("instance create {name} --image i --memory 2GiB --wait");
        let (exit, stdout, stderr) = run(&server, &line);
        assert_eq!((exit, stdout.as_str()), (code, ""), "{stderr}");
        assert!(
            stderr.starts_with("error: ") && stderr.contains("as scripted"),
            "{stderr}"
        );
        assert!(stderr.contains("hint: "), "{stderr}");
    }
    let (exit, _, stderr) = run(&server, "instance create a --image absent --memory 2GiB");
    assert_eq!(exit, 3);
    assert!(stderr.contains("image absent doesn't exist") && stderr.contains("kapok image ls"));
}

#[test]
fn a_timeout_cancels_nothing_and_says_how_to_go_on() {
    let server = serve();
    let line = "instance create slow --image i --memory 2GiB --wait --timeout 700ms";
    let (exit, _, stderr) = run(&server, line);
    assert_eq!(exit, 7);
    assert!(stderr.contains("kapok op watch op-slow"), "{stderr}");
}

#[test]
fn one_missing_name_does_not_keep_the_others_from_being_deleted() {
    let server = serve();
    let (exit, stdout, stderr) = run(&server, "instance rm a missing b -o json");
    assert_eq!(exit, 3, "{stderr}");
    assert_eq!(server.fake.0.lock().unwrap().deletes, ["a", "b"]);
    let operations: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(operations.as_array().unwrap().len(), 2);
    let (exit, _, stderr) = run(&server, "instance rm a b --request-id r");
    assert_eq!(exit, 2);
    assert!(stderr.contains("one NAME"), "{stderr}");
}

fn image(folder: &tempfile::TempDir, name: &str) -> (String, Digest) {
    // More than two pieces, and no round number of them.
    let mut content = b"QFI\xfb".to_vec();
    content.extend((0..600_001_u32).map(|number| u8::try_from(number % 251).unwrap()));
    let path = folder.path().join(name);
    fs::write(&path, &content).unwrap();
    (path.to_str().unwrap().to_owned(), Digest::of(&content))
}

/// FAULTS 9 and 16 from this side: the layout is stated, and what was stored is what was hashed.
#[test]
fn an_import_is_hashed_while_it_is_sent() {
    let server = serve();
    let folder = tempfile::tempdir().unwrap();
    let (path, digest) = image(&folder, "debian-12.qcow2");
    let (exit, stdout, stderr) = run(&server, &format!("image import {path}"));
    assert_eq!(exit, 0, "{stderr}");
    assert_eq!(stdout, "debian-12: imported, qcow2, 585.9 KiB\n");
    assert_eq!(stderr, format!("digest {digest}\n"));
    let good = format!(
        "image import {path} --sha256 {} --name b --format raw -o json",
        digest.hex()
    );
    let (exit, stdout, stderr) = run(&server, &good);
    assert_eq!((exit, stderr.as_str()), (0, ""));
    assert_eq!(
        serde_json::from_str::<Value>(&stdout).unwrap()["digest"],
        digest.to_string()
    );
    let seen = server.fake.0.lock().unwrap();
    let [(first, stored), (second, _)] = seen.imports.as_slice() else {
        panic!("{seen:?}")
    };
    assert_eq!(*stored, digest);
    assert_eq!(
        (first.format, first.arch, first.size_bytes),
        (2, 1, 600_005)
    );
    assert_eq!(
        (first.expected_digest.as_str(), first.name.as_str()),
        ("", "debian-12")
    );
    assert_eq!(
        (second.format, &second.expected_digest),
        (1, &digest.to_string())
    );
}

#[test]
fn an_import_that_is_not_what_was_meant_fails() {
    let server = serve();
    let folder = tempfile::tempdir().unwrap();
    let (path, _) = image(&folder, "liar.qcow2");
    let (exit, stdout, stderr) = run(&server, &format!("image import {path}"));
    assert_eq!((exit, stdout.as_str()), (1, ""));
    assert!(
        stderr.contains("the controller stored") && stderr.contains("image rm liar"),
        "{stderr}"
    );
    server.fake.0.lock().unwrap().imports.clear();

    let other = Digest::of(b"other").hex();
    let (exit, _, stderr) = run(
        &server,
        &format!("image import {path} --name a --sha256 {other}"),
    );
    assert_eq!(exit, 1);
    assert!(stderr.contains("nothing was imported"), "{stderr}");
    assert!(
        server.fake.0.lock().unwrap().imports.is_empty(),
        "the last piece was never sent"
    );

    let (exit, _, stderr) = run(&server, &format!("image import {path} --name refused"));
    assert_eq!(exit, 2);
    assert!(
        stderr.contains("  format: has a backing file\n"),
        "{stderr}"
    );

    let (bad_name, _) = image(&folder, "Debian_12.qcow2");
    let empty = folder.path().join("empty.img");
    fs::write(&empty, b"").unwrap();
    for (path, why) in [
        (bad_name.as_str(), "give one with --name"),
        (empty.to_str().unwrap(), "no file with content"),
        ("/dev/null", "no file with content"),
        ("/nonexistent", "can't read"),
    ] {
        let (exit, _, stderr) = run(&server, &format!("image import {path}"));
        assert_eq!(exit, 2, "{stderr}");
        assert!(stderr.contains(why), "{stderr}");
    }
}

#[test]
fn lists_follow_pages_to_the_end() {
    let server = serve();
    let (exit, stdout, stderr) = run(&server, "node ls -o json");
    assert_eq!((exit, stderr.as_str()), (0, ""));
    let nodes: Value = serde_json::from_str(&stdout).unwrap();
    let names: Vec<_> = nodes
        .as_array()
        .unwrap()
        .iter()
        .map(|node| &node["name"])
        .collect();
    assert_eq!(
        names,
        ["node-0", "node-1", "node-2", "node-3", "node-4", "node-5"]
    );
}

#[test]
fn followed_events_resume_behind_the_last_one_seen() {
    let server = serve();
    let (exit, stdout, stderr) = run(&server, "events --follow --after 2 -o json");
    // The script ends with a trimmed log, so that the test ends.
    assert_eq!(exit, 4, "{stderr}");
    assert!(
        stderr.contains("the log starts at 100") && stderr.contains("--after 0"),
        "{stderr}"
    );
    let sequence = |line| {
        serde_json::from_str::<Value>(line).unwrap()["sequence"]
            .as_u64()
            .unwrap()
    };
    let sequences: Vec<_> = stdout.lines().map(sequence).collect();
    assert_eq!(sequences, [3, 4, 5, 6]);
    assert_eq!(
        server.fake.0.lock().unwrap().after,
        [Some(2), Some(4), Some(6)]
    );
}

#[test]
fn a_reader_that_goes_away_ends_it_without_a_word() {
    let server = serve();
    let mut command = kapok(&server, "events");
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _bound = Bound::on(&child);
    let mut first = String::new();
    // Dropping the reader closes the pipe, as `head -1` does.
    BufReader::with_capacity(16, child.stdout.take().unwrap())
        .read_line(&mut first)
        .unwrap();
    assert!(first.starts_with("SEQUENCE"));
    let (exit, _, stderr) = finish(child);
    assert_eq!((exit, stderr.as_str()), (0, ""));
}

#[test]
fn a_console_works_with_pipes() {
    let server = serve();
    let mut command = kapok(&server, "instance console web --quiet");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let _bound = Bound::on(&child);
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = || {
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        line
    };
    assert_eq!(line(), "console of web\n");
    // Ctrl-] is a byte like any other here.
    stdin.write_all(b"a\x1db\n").unwrap();
    assert_eq!(line(), "a\x1db\n");
    stdin.write_all(b"bye").unwrap();
    assert_eq!(line(), "");
    assert_eq!(child.wait().unwrap().code(), Some(0));

    // The end of the input isn't the end of the session; its time is.
    let (exit, stdout, stderr) = run(&server, "instance console web --timeout 700ms");
    assert_eq!((exit, stdout.as_str()), (7, "console of web\n"), "{stderr}");
    // FAULTS 29 from this side.
    assert!(!stderr.contains("ticket"), "{stderr}");
}

#[test]
fn a_console_gives_the_terminal_back() {
    let server = serve();
    for leave in ["keys", "signal", "closed"] {
        let (mut terminal, slave) = terminal();
        let ours = slave.try_clone().unwrap();
        let before = tcgetattr(&ours).unwrap();
        let mut command = kapok(&server, "instance console web");
        command
            .stdin(slave.try_clone().unwrap())
            .stdout(slave.try_clone().unwrap())
            .stderr(slave);
        let mut child = command.spawn().unwrap();
        let _bound = Bound::on(&child);
        drop(command);
        let mut seen = String::new();
        let mut until = |wanted: &str| {
            let mut buffer = [0; 256];
            while !seen.contains(wanted) {
                let length = terminal.read(&mut buffer).unwrap();
                seen.push_str(&String::from_utf8_lossy(&buffer[..length]));
            }
        };
        until("console of web");
        let raw = tcgetattr(&ours).unwrap();
        assert!(
            !raw.local_flags
                .intersects(LocalFlags::ECHO | LocalFlags::ISIG),
            "it is raw"
        );
        // Ctrl-C goes to the guest.
        terminal.write_all(b"x\x03y").unwrap();
        let mut buffer = [0; 3];
        terminal.read_exact(&mut buffer).unwrap();
        assert_eq!(&buffer, b"x\x03y", "only the guest echoes");
        let exit = match leave {
            "keys" => {
                terminal.write_all(b"\x1d").unwrap();
                0
            }
            "closed" => {
                terminal.write_all(b"bye").unwrap();
                0
            }
            _ => {
                let pid = Pid::from_raw(child.id().try_into().unwrap());
                kill(pid, Signal::SIGTERM).unwrap();
                8
            }
        };
        assert_eq!(child.wait().unwrap().code(), Some(exit), "{leave}");
        assert_eq!(tcgetattr(&ours).unwrap(), before, "{leave}");
    }
}

#[test]
fn nobody_there_and_bad_settings_have_their_own_exit_codes() {
    let server = serve();
    // A port that was free a moment ago.
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let (exit, _, stderr) = run(&server, &format!("--server {free} node ls"));
    assert_eq!(exit, 6);
    assert!(
        stderr.contains(&format!("can't reach the controller at {free}: ")),
        "{stderr}"
    );
    assert!(
        stderr.to_lowercase().contains("connection refused"),
        "{stderr}"
    );
    assert!(stderr.contains("KAPOK_SERVER"), "{stderr}");
    let output = kapok(&server, "node ls")
        .env("KAPOK_OUTPUT", "xml")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(64));
    let (exit, stdout, _) = run(&server, "completion bash");
    assert_eq!(exit, 0);
    assert!(stdout.contains("_kapok()"));
}

#[test]
fn the_health_of_nodes_is_shown_with_its_evidence() {
    let server = serve();
    let (exit, stdout, _) = run(&server, "health");
    assert_eq!(exit, 0);
    assert!(
        stdout.starts_with("2 nodes: 1 degraded, 1 healthy\n"),
        "{stdout}"
    );
    assert!(
        stdout.contains("rack1-a: degraded") && !stdout.contains("rack1-b"),
        "{stdout}"
    );
    let (_, stdout, _) = run(&server, "health --all");
    assert!(stdout.contains("rack1-b: healthy"), "{stdout}");
    let (_, stdout, _) = run(&server, "health -o json");
    let all: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(all["counts"]["degraded"], 1);
    assert_eq!(all["nodes"][0]["verdicts"][0]["code"], "MEMORY_CE_STORM");

    let (exit, stdout, _) = run(&server, "node health rack1-a");
    assert_eq!(exit, 0);
    for shown in [
        "Condition:  degraded",
        "memory/mc0",
        "MEMORY_CE_STORM: 1200 corrected errors in an hour",
        "correctable_errors 1200",
        "to do: replace the module",
    ] {
        assert!(stdout.contains(shown), "{shown} isn't in {stdout}");
    }
    assert!(!stdout.contains("QUANTITY"));
    let (_, stdout, _) = run(&server, "node health rack1-a --readings");
    assert!(stdout.contains("QUANTITY"), "{stdout}");
    let (_, stdout, _) = run(&server, "node inventory rack1-a");
    assert!(
        stdout.contains("S3Z9") && stdout.contains("1 TiB"),
        "{stdout}"
    );
}

#[test]
fn a_release_has_a_reason_and_an_end() {
    let server = serve();
    let (exit, _, stderr) = run(&server, "node release rack1-a");
    assert_eq!(exit, 2, "{stderr}");
    assert!(stderr.contains("--reason"), "{stderr}");
    let (exit, stdout, _) = run(&server, "node release rack1-a --reason tomorrow --life 2h");
    assert_eq!(exit, 0);
    assert!(stdout.starts_with("rack1-a: released"), "{stdout}");
    let (exit, _, stderr) = run(&server, "node release rack1-a --end --reason x");
    assert_eq!(exit, 2, "{stderr}");
    let (exit, _, stderr) = run(&server, "node release rack1-a --end");
    assert_eq!(exit, 4, "{stderr}");
    assert!(stderr.contains("hint: nobody's word"), "{stderr}");
    let seen = server.fake.0.lock().unwrap();
    let [released, ended] = seen.changes.as_slice() else {
        panic!("{:?}", seen.changes)
    };
    assert!(
        released.contains("reason: \"tomorrow\"") && released.contains("seconds: 7200"),
        "{released}"
    );
    assert!(ended.starts_with("EndNodeReleaseRequest"), "{ended}");
}

/// What is settled is what was shown: the list's etag goes along.
#[test]
fn nodes_are_adopted_as_they_were_shown() {
    let server = serve();
    let (exit, stdout, _) = run(&server, "node differences");
    assert_eq!(exit, 0);
    assert!(
        stdout.contains("rack1-a") && stdout.contains("city/web"),
        "{stdout}"
    );
    let (exit, stdout, _) = run(&server, "node differences -o json");
    assert_eq!(exit, 0);
    assert!(stdout.contains("\"kind\": \"unknown\""), "{stdout}");
    let (exit, stdout, _) = run(&server, "node adopt rack1-a --tenant water --yes");
    assert_eq!(exit, 0);
    assert!(stdout.contains("rack1-a: adopted"), "{stdout}");
    let (exit, _, stderr) = run(&server, "node adopt");
    assert_eq!(exit, 2, "{stderr}");
    let seen = server.fake.0.lock().unwrap();
    let [adopted] = seen.changes.as_slice() else {
        panic!("{:?}", seen.changes)
    };
    let sent = adopted.contains("etag: \"e1\"") && adopted.contains("tenant: \"water\"");
    assert!(sent, "{adopted}");
}

/// What is asked is what was typed, and the answer is shown whatever little is in it.
#[test]
fn plans_and_capacity_are_asked_as_typed() {
    let server = serve();
    for (line, said, sent) in [
        (
            "plan drain node-7 --max-moves 5 --max-memory 1GiB --cool-down 0s",
            "no moves\n",
            "kind: Drain, node: \"node-7\", max_moves: 5, max_memory_mib: 1024, cool_down: \
             Some(Duration { seconds: 0, nanos: 0 }), idle_watts: 150",
        ),
        (
            "plan consolidate --idle-watts 200",
            "no moves\n",
            "kind: Consolidate, node: \"\", max_moves: 20, max_memory_mib: 0, cool_down: \
             Some(Duration { seconds: 3600, nanos: 0 }), idle_watts: 200",
        ),
        (
            "plan rebalance -o json",
            "\"kind\": \"rebalance\"",
            "kind: Rebalance",
        ),
        (
            "capacity --tenant water --vcpus 2 --memory 4GiB",
            "no flavors",
            "tenant: \"water\", shapes: [CapacityShape { vcpus: 2, memory_mib: 4096",
        ),
        (
            "capacity -o yaml",
            "fabric: null",
            "tenant: \"\", shapes: []",
        ),
    ] {
        let (exit, out, errors) = run(&server, line);
        assert_eq!((exit, &*errors), (0, ""), "{line}");
        assert!(out.contains(said), "{line}: {out}");
        let seen = server.fake.0.lock().unwrap();
        let last = seen.changes.last().unwrap();
        assert!(last.contains(sent), "{line}: {last}");
    }
}

/// Numbers or a flavor, and at least one of them.
#[test]
fn a_resize_goes_out_as_typed() {
    let server = serve();
    for (line, sent) in [
        (
            "instance resize web --vcpus 4",
            "flavor: \"\", vcpus: 4, memory_mib: 0, etag: \"\"",
        ),
        (
            "instance resize web --memory 8GiB --etag e3",
            "flavor: \"\", vcpus: 0, memory_mib: 8192, etag: \"e3\"",
        ),
        (
            "instance resize web --flavor large --dry-run",
            "flavor: \"large\", vcpus: 0, memory_mib: 0, etag: \"\"",
        ),
    ] {
        let (exit, _, errors) = run(&server, line);
        assert_eq!(exit, 0, "{line}: {errors}");
        let seen = server.fake.0.lock().unwrap();
        let last = seen.changes.last().unwrap();
        assert!(last.contains(sent), "{line}: {last}");
        let dry = format!("validate_only: {}", line.contains("--dry-run"));
        assert!(last.contains(&dry), "{line}: {last}");
    }
    for line in [
        "instance resize web",
        "instance resize web --flavor large --vcpus 4",
        "instance resize web --vcpus 0",
        "instance resize web --vcpus -1",
        "instance resize web --vcpus 2 --dry-run --wait",
    ] {
        let (exit, _, errors) = run(&server, line);
        assert_eq!(exit, 2, "{line}: {errors}");
    }
    assert_eq!(server.fake.0.lock().unwrap().changes.len(), 3);
}

/// What is typed goes out, and nothing else is named as changed.
#[test]
fn changes_of_flavors_and_systems_go_out_as_typed() {
    let server = serve();
    for (line, said, sent) in [
        (
            "flavor create gis --vcpus 32 --memory 256GiB --for land --for water",
            "gis: created\n",
            "memory_mib: 262144, root_disk_bytes: 0, description: \"\", visible_to: [\"land\", \
             \"water\"]",
        ),
        (
            "flavor update gis --memory 8GiB --etag e1",
            "gis: changed\n",
            "FieldMask { paths: [\"memory_mib\"] }), etag: \"e1\"",
        ),
        (
            "flavor update gis --no-disk --for city",
            "gis: changed\n",
            "FieldMask { paths: [\"root_disk_bytes\", \"visible_to\"] }",
        ),
        (
            "flavor update gis --dedicated-cpus --device gpu=2",
            "gis: changed\n",
            "FieldMask { paths: [\"needs\"] }",
        ),
        (
            "flavor update gis --no-needs",
            "gis: changed\n",
            "FieldMask { paths: [\"needs\"] }",
        ),
        ("flavor rm gis", "gis: removed\n", "flavor: \"gis\""),
        (
            "system create billing --tenant water --class restart --ends 2027-06-30",
            "billing: created\n",
            "availability_class: Restart, request_time: None, live_time: None, end_time: \
             Some(Timestamp { seconds: 1814313600, nanos: 0 })",
        ),
        (
            "system update water/billing --owner li --no-live --no-contacts",
            "water/billing: changed\n",
            "FieldMask { paths: [\"owner\", \"contacts\", \"live_time\"] }",
        ),
        (
            "system rm water/billing",
            "water/billing: removed\n",
            "system: \"water/billing\"",
        ),
    ] {
        let (exit, stdout, stderr) = run(&server, line);
        assert_eq!((exit, stdout.as_str()), (0, said), "{line}: {stderr}");
        let change = server.fake.0.lock().unwrap().changes.pop().unwrap();
        assert!(change.contains(sent), "{line}: {change}");
    }
    let line = "instance create web --image i --flavor small --system billing --dry-run \
                --huge-pages 2MiB --device gpu=1";
    let (exit, stdout, stderr) = run(&server, line);
    assert_eq!(exit, 0, "{stderr}");
    assert!(stdout.contains("it would go to rack1-a"), "{stdout}");
    assert!(stderr.contains("a dry run"), "{stderr}");
    let seen = server.fake.0.lock().unwrap();
    let wish = seen.creates.last().unwrap();
    assert_eq!((&*wish.flavor, &*wish.system), ("small", "billing"));
    assert_eq!((wish.vcpus, wish.memory_mib), (0, 0));
    assert!(wish.validate_only);
    let needs = wish.needs.as_ref().unwrap();
    assert_eq!((&*needs.huge_pages, needs.devices["gpu"]), ("2MiB", 1));
}

#[test]
fn several_are_created_by_one_request() {
    let server = serve();
    let line = "instance create web --image i --memory 2GiB --count 2 --group near --group far";
    let (exit, stdout, stderr) = run(&server, line);
    assert_eq!(exit, 0, "{stderr}");
    for name in ["web-1", "web-2"] {
        assert!(stdout.contains(name), "{stdout}");
    }
    let change = server.fake.0.lock().unwrap().changes.pop().unwrap();
    assert!(change.starts_with("CreateInstancesRequest"), "{change}");
    assert_eq!(change.matches("groups: [\"near\", \"far\"]").count(), 2);
    let (exit, stdout, stderr) = run(&server, &format!("{line} --dry-run"));
    assert_eq!(exit, 0, "{stderr}");
    assert!(stdout.contains("placed with near and far"), "{stdout}");
    assert!(stderr.contains("nothing was created"), "{stderr}");
    let change = server.fake.0.lock().unwrap().changes.pop().unwrap();
    assert!(change.ends_with("validate_only: true }"), "{change}");
}

#[test]
fn usage_and_the_pooling_report_come_in_every_format() {
    let server = serve();
    for (line, said) in [
        (
            "usage --month 2026-11",
            "TENANT   SYSTEM    MONTH     VCPU H   MEMORY GIB H   DISK GIB H   USED CPU H   UNKNOWN H\n\
             water    billing   2026-11   1.5      1.0            0.0          0.0          0.0\n",
        ),
        (
            "usage idle --below 2 -o csv",
            "instance_id,tenant,system,instance,vcpus,memory_mib,used_cpu_ms,unknown_ms,\
             at_most_permille,running\r\n,water,,web,0,0,0,0,19,false\r\n",
        ),
    ] {
        let (exit, stdout, stderr) = run(&server, line);
        assert_eq!((exit, stdout.as_str()), (0, said), "{line}: {stderr}");
    }
    let (exit, stdout, stderr) = run(&server, "usage --by tenant -o json");
    assert_eq!(exit, 0, "{stderr}");
    let lines: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(lines[0]["system"], "");
    assert_eq!(lines[0]["vcpu_hours"], 1.5);
    let (exit, stdout, stderr) = run(
        &server,
        "report pooling --from 2026-01 --node-memory 512GiB -o json",
    );
    assert_eq!(exit, 0, "{stderr}");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(report["from_month"], "2026-01");
    assert_eq!(report["node_memory_mib"], 512 * 1024);
    assert_eq!(report["bureaus"][2]["bureau"], "*");
    let (_, stdout, _) = run(&server, "report pooling");
    for part in [
        "28.5 %",
        "7, N+1 for each bureau",
        "parks",
        "Method: counted by hand",
    ] {
        assert!(stdout.contains(part), "{stdout}");
    }
    let (_, stdout, _) = run(&server, "report pooling -o csv");
    let first: Vec<_> = stdout
        .lines()
        .map(|line| line.split(',').next().unwrap())
        .collect();
    assert_eq!(first, ["bureau", "parks", "water", "*"]);
}
