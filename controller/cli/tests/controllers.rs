//! Several controllers: one that is dead or hangs is passed over, and what was asked of one that
//! ends is asked of another, once.

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

use std::{net::TcpListener, process::Stdio, sync::mpsc, time::Duration};

use serde_json::Value;
use tokio::{io::copy_bidirectional, net::TcpStream, runtime::Runtime, sync::watch};

use crate::{
    fake::{Serving, serve},
    typed::{finish, kapok, run, spawned},
};

/// Where nobody listens.
fn dead() -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().to_string()
}

/// Accepts connections and says nothing on them, as a controller that was stopped.
fn hanging() -> (TcpListener, String) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

/// Stands before a controller, and can freeze what goes through as a stopped machine does:
/// connections stay, and nothing comes.
struct Before {
    address: String,
    frozen: watch::Sender<()>,
    runtime: Option<Runtime>,
}

impl Before {
    fn new(controller: String) -> Self {
        let runtime = Runtime::new().unwrap();
        let (frozen, froze) = watch::channel(());
        let bound = tokio::net::TcpListener::bind(("127.0.0.1", 0));
        let listener = runtime.block_on(bound).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        runtime.spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let (controller, mut froze) = (controller.clone(), froze.clone());
                tokio::spawn(async move {
                    let mut far = TcpStream::connect(controller).await.unwrap();
                    let freeze = async {
                        froze.changed().await.unwrap();
                    };
                    tokio::select! {
                        _ = copy_bidirectional(&mut near, &mut far) => {}
                        () = freeze => std::future::pending().await,
                    }
                });
            }
        });
        Self {
            address,
            frozen,
            runtime: Some(runtime),
        }
    }
}

impl Drop for Before {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn at(server: &Serving, servers: &[&str], line: &str) -> std::process::Command {
    kapok(server, &format!("--server {} {line}", servers.join(",")))
}

#[test]
fn one_that_is_dead_and_one_that_hangs_are_passed_over() {
    let server = serve();
    let (_hangs, hanging) = hanging();
    let (dead, live) = (dead(), server.address.as_str());
    for servers in [
        &[dead.as_str(), live][..],
        &[&hanging, live],
        &[&dead, &hanging, live],
        &[&hanging, live, &dead],
    ] {
        let (exit, stdout, stderr) = spawned(at(&server, servers, "node ls -o json"));
        assert_eq!((exit, stderr.as_str()), (0, ""), "{servers:?}");
        assert!(stdout.contains("node-5"), "{stdout}");
    }
    // Nor does one that isn't there keep anybody from logging in.
    let token = server.fake.1.token.reveal().to_string();
    let enroll = &server.enroll;
    let login = format!("login --controller {hanging},{dead},{enroll} --token {token}");
    let (exit, _, stderr) = spawned(typed::anonymous(&server, &login));
    assert_eq!(exit, 0, "{stderr}");
}

#[test]
fn when_none_answers_each_is_named_with_its_reason() {
    let server = serve();
    let (_hangs, hanging) = hanging();
    let (dead, stranger) = (dead(), serve());
    let servers = [dead.as_str(), &hanging, &stranger.address];
    let (exit, stdout, stderr) = spawned(at(&server, &servers, "node ls"));
    assert_eq!((exit, stdout.as_str()), (6, ""), "{stderr}");
    let lines: Vec<_> = stderr.lines().collect();
    assert_eq!(lines[0], "error: can't reach any controller");
    assert!(lines[1].contains(&dead) && lines[1].contains("refused"));
    assert!(lines[2].contains(&hanging) && lines[2].contains("no answer within 5s"));
    assert!(lines[3].contains(&stranger.address), "{stderr}");
    assert!(lines[4].starts_with("hint: ") && lines[4].contains("--server"));
}

/// The one that leads is killed with a change half-way (what FAULTS 37 is to a person). It is asked for
/// again under the same request id, first where nobody leads yet; and whoever watches it has what
/// they did, whichever controller answers.
#[test]
fn a_change_outlives_the_controller_that_it_was_asked_of() {
    let first = serve();
    let (second, third) = (first.beside(), first.beside());
    second.fake.0.lock().unwrap().leaderless = true;
    let (told, stuck) = mpsc::channel();
    first.fake.0.lock().unwrap().stuck = Some(told);
    let servers = [
        first.address.as_str(),
        second.address.as_str(),
        third.address.as_str(),
    ];
    let line = "instance create web --image i --memory 2GiB --wait";
    let mut command = at(&first, &servers, line);
    let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = piped.spawn().unwrap();
    stuck.recv_timeout(Duration::from_secs(30)).unwrap();
    let asked = first.fake.0.clone();
    first.kill();
    let (exit, stdout, stderr) = finish(child);
    assert_eq!(
        (exit, stdout.as_str()),
        (0, "web: create succeeded: as scripted\n"),
        "{stderr}"
    );
    let seen = [asked, second.fake.0.clone(), third.fake.0.clone()];
    let seen = seen.each_ref().map(|seen| seen.lock().unwrap());
    let mut creates = seen.iter().flat_map(|seen| &seen.creates);
    let request = creates.next().unwrap();
    assert!(creates.all(|again| again == request));
    for seen in &seen {
        assert!(!seen.creates.is_empty(), "each was asked");
    }
    let mut watches = seen.iter().flat_map(|seen| &seen.min_seqs);
    assert!(watches.all(|seq| seq.as_deref() == Some("4711")));
}

/// Nothing says that it is gone, so a sign of life is asked for; then it counts as gone.
#[test]
fn a_change_outlives_a_controller_that_freezes() {
    let first = serve();
    let second = first.beside();
    let before = Before::new(first.address.clone());
    let (told, stuck) = mpsc::channel();
    first.fake.0.lock().unwrap().stuck = Some(told);
    let servers = [before.address.as_str(), &second.address];
    let line = "instance create web --image i --memory 2GiB";
    let mut command = at(&first, &servers, line);
    let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = piped.spawn().unwrap();
    stuck.recv_timeout(Duration::from_secs(30)).unwrap();
    before.frozen.send_replace(());
    let (exit, _, stderr) = finish(child);
    assert_eq!(exit, 0, "{stderr}");
    let (asked, again) = (first.fake.0.lock().unwrap(), second.fake.0.lock().unwrap());
    assert_eq!(asked.creates[0].request_id, again.creates[0].request_id);
}

#[test]
fn a_change_whose_controllers_all_ended_says_where_nobody_answers() {
    let first = serve();
    let (told, stuck) = mpsc::channel();
    first.fake.0.lock().unwrap().stuck = Some(told);
    let dead = dead();
    let servers = [first.address.as_str(), &dead];
    let line = "instance create web --image i --memory 2GiB";
    let mut command = at(&first, &servers, line);
    let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = piped.spawn().unwrap();
    stuck.recv_timeout(Duration::from_secs(30)).unwrap();
    let address = first.address.clone();
    first.kill();
    let (exit, _, stderr) = finish(child);
    assert_eq!(exit, 7, "{stderr}");
    assert!(stderr.contains(&format!("  {dead}: ")), "{stderr}");
    assert!(stderr.contains(&format!("  {address}: ")), "{stderr}");
    assert!(stderr.contains("--request-id"), "{stderr}");
}

#[test]
fn a_controllers_token_says_what_to_do_with_it() {
    let server = serve();
    let (exit, stdout, stderr) = run(&server, "token create controller/b");
    assert_eq!((exit, stdout.trim()), (0, fake::people::SECRET), "{stderr}");
    assert!(stderr.contains("kapok-controller join"), "{stderr}");
    let seen = server.fake.0.lock().unwrap();
    assert_eq!(seen.tokens[0].subject, "controller/b");
}

#[test]
fn the_controllers_are_shown() {
    let server = serve();
    let (exit, stdout, stderr) = run(&server, "controller ls");
    assert_eq!((exit, stderr.as_str()), (0, ""));
    assert_eq!(
        stdout,
        "NAME   ROLE      ADDRESS   VERSION   BEHIND   HEARD    MISSING KEYS\n\
         a      leads     a:7700    1.2.3     -        -        0\n\
         b      follows   b:7700    1.2.3     0        0s ago   0\n"
    );
    let (exit, stdout, _) = run(&server, "controller ls -o yaml");
    assert_eq!(exit, 0);
    assert!(stdout.starts_with("epoch: 7\n"), "{stdout}");
}

#[test]
fn another_controller_leads_when_asked_for() {
    let server = serve();
    let (exit, stdout, stderr) = run(&server, "controller step-down --yes");
    assert_eq!(exit, 0, "{stderr}");
    assert_eq!(
        stdout,
        "a: gave the leadership up to b\nb: leads from now on\n"
    );
    assert_eq!(server.fake.0.lock().unwrap().steps_down, 1);

    let server = serve();
    let (exit, stdout, _) = run(&server, "controller step-down --no-wait -o json");
    assert_eq!(exit, 0);
    let done: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(done["successors"][0], "b");
    assert_eq!(done["leader"], Value::Null);

    let server = serve();
    server.fake.0.lock().unwrap().leaderless = true;
    let (exit, stdout, stderr) = run(&server, "controller step-down");
    assert_eq!((exit, stdout.as_str()), (4, ""));
    assert!(stderr.contains("kapok controller ls"), "{stderr}");
}
