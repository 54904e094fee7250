//! Who one is: logging in, renewing, being refused; and what only administrators type.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    clippy::wildcard_imports,
    unreachable_pub,
    dead_code,
    missing_docs,
    reason = "a test program"
)]

mod fake;
#[path = "../../tests/oidc/mod.rs"]
mod provider;
mod typed;

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Stdio,
    thread,
    time::Duration,
};

use kapok_trust::Certificate;
use serde_json::Value;

use crate::{
    fake::{Serving, people::SECRET, serve},
    provider::{Options, Site},
    typed::{Bound, anonymous, finish, run, run_as, spawned},
};

const HOUR: Duration = Duration::from_hours(1);

fn serial(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    Certificate::parse_pem(&text).unwrap().serial.to_string()
}

fn context(server: &Serving, name: &str) -> std::path::PathBuf {
    let contexts = server.home.path().join(".config/kapok/contexts");
    contexts.join(format!("{name}.pem"))
}

#[test]
fn a_token_lets_one_in_once_and_is_said_nowhere() {
    let server = serve();
    let token = server.fake.1.token.reveal().to_string();
    let file = server.home.path().join("eve.token");
    fs::write(&file, format!("{token}\n")).unwrap();
    let enroll = &server.enroll;
    let login = format!(
        "login --controller {enroll} --token-file {}",
        file.display()
    );
    let (exit, stdout, stderr) = spawned(anonymous(&server, &login));
    assert_eq!(exit, 0, "{stderr}");
    assert!(
        stdout.starts_with("logged in to city as user/eve (context city)"),
        "{stdout}"
    );
    let path = context(&server, "city");
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // From now on nothing needs to be said.
    let (exit, stdout, stderr) = spawned(anonymous(&server, "whoami -o json"));
    assert_eq!(exit, 0, "{stderr}");
    let answer: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(answer["subject"], "user/eve");
    assert_eq!(answer["serial"], serial(&path));
    assert_eq!(answer["grants"][0]["role"], "tenant-member");
    assert!(stderr.contains("kapok login --renew"), "{stderr}");
    let (exit, stdout, _) = spawned(anonymous(&server, "context ls"));
    assert_eq!(exit, 0);
    assert!(
        stdout.contains("city   yes       city     user/eve"),
        "{stdout}"
    );

    // Renewed on request, with a new key.
    let before = fs::read_to_string(&path).unwrap();
    let (exit, _, stderr) = spawned(anonymous(&server, "login --renew"));
    assert_eq!(exit, 0, "{stderr}");
    let after = fs::read_to_string(&path).unwrap();
    assert_ne!(before.lines().nth(5), after.lines().nth(5));
    assert!(after.contains(&format!("# enroll: {enroll}")));

    // The same token again.
    let (exit, stdout, stderr) = spawned(anonymous(&server, &login));
    assert_eq!((exit, stdout.as_str()), (9, ""), "{stderr}");
    assert!(stderr.contains("ask for a new one"), "{stderr}");
    assert!(!stderr.contains(&token), "{stderr}");
    let (exit, stdout, _) = spawned(anonymous(&server, "logout"));
    assert_eq!((exit, stdout.as_str()), (0, "city: forgotten\n"));
    assert!(!path.exists());
    let (exit, _, stderr) = spawned(anonymous(&server, "node ls"));
    assert_eq!(exit, 9, "{stderr}");
    assert!(
        stderr.contains("not logged in: there is no credential"),
        "{stderr}"
    );
    // A part of a token is not repeated either.
    let part = &token[..token.len() - 4];
    let broken = format!("login --controller {enroll} --token {part}");
    let (exit, _, stderr) = spawned(anonymous(&server, &broken));
    assert_eq!(exit, 2, "{stderr}");
    assert!(!stderr.contains(&part[20..]), "{stderr}");
}

/// Whoever answers must have the authority that the token names, and the token is not said before
/// that is known.
#[test]
fn a_token_is_shown_to_no_stranger() {
    let (ours, stranger) = (serve(), serve());
    let token = ours.fake.1.token.reveal().to_string();
    let login = format!("login --controller {} --token {token}", stranger.enroll);
    let (exit, _, stderr) = spawned(anonymous(&ours, &login));
    assert_eq!(exit, 6, "{stderr}");
    assert!(
        stderr.contains("isn't a controller of city with the authority"),
        "{stderr}"
    );
    assert!(stranger.fake.0.lock().unwrap().logins.is_empty());
    assert!(!context(&ours, "city").exists());
    // The next address is tried.
    let both = format!("{},{}", stranger.enroll, ours.enroll);
    let login = format!("login --controller {both} --token {token}");
    let (exit, _, stderr) = spawned(anonymous(&ours, &login));
    assert_eq!(exit, 0, "{stderr}");
}

#[test]
fn a_credential_is_renewed_on_the_way() {
    let server = serve();
    let path = server.credential("user/old", HOUR, Duration::from_mins(50));
    let before = serial(&path);
    let (exit, _, stderr) = run_as(&server, &path, "node ls");
    assert_eq!((exit, stderr.as_str()), (0, ""));
    assert_eq!(server.fake.0.lock().unwrap().renewals, 1);
    assert_ne!(before, serial(&path));
    let text = fs::read_to_string(&path).unwrap();
    let life = Certificate::parse_pem(&text).unwrap();
    assert_eq!(
        life.not_after.millis_since(life.not_before),
        65 * 60 * 1000,
        "the same life, with five minutes before"
    );
    assert!(text.contains("# controllers: "));
    let (exit, _, stderr) = run_as(&server, &path, "node ls");
    assert_eq!((exit, stderr.as_str()), (0, ""));
    assert_eq!(server.fake.0.lock().unwrap().renewals, 1);
}

/// Commands that find a credential due at the same time fetch one certificate, not one each.
#[test]
fn commands_at_once_renew_once() {
    let server = serve();
    let path = server.credential("user/old", HOUR, Duration::from_mins(50));
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let (exit, _, stderr) = run_as(&server, &path, "node ls");
                assert_eq!((exit, stderr.as_str()), (0, ""));
            });
        }
    });
    assert_eq!(server.fake.0.lock().unwrap().renewals, 1);
}

/// What is there already is looked at before the token is used up.
#[test]
fn a_login_replaces_nothing_else_and_keeps_the_token() {
    let server = serve();
    let token = server.fake.1.token.reveal().to_string();
    let file = server.home.path().join("notes");
    fs::write(&file, "notes").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let enroll = &server.enroll;
    let login = |file: &Path| {
        format!(
            "login --controller {enroll} --token {token} --credential {}",
            file.display()
        )
    };
    let (exit, _, stderr) = spawned(anonymous(&server, &login(&file)));
    assert_ne!(exit, 0, "{stderr}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "notes");
    let nowhere = server.home.path().join("no/such/folder");
    let (exit, _, stderr) = spawned(anonymous(&server, &login(&nowhere)));
    assert_ne!(exit, 0, "{stderr}");
    assert!(server.fake.0.lock().unwrap().logins.is_empty());
    let fresh = server.home.path().join("eve.pem");
    let (exit, _, stderr) = spawned(anonymous(&server, &login(&fresh)));
    assert_eq!(exit, 0, "{stderr}");
    Certificate::parse_pem(&fs::read_to_string(&fresh).unwrap()).unwrap();
}

/// FAULTS 20 and 21 from this side: a certificate's trouble is named as such, with the next step.
#[test]
fn what_is_wrong_with_a_certificate_is_said() {
    let server = serve();
    let ended = server.credential("user/ended", HOUR, Duration::from_hours(3));
    let (exit, _, stderr) = run_as(&server, &ended, "node ls");
    assert_eq!(exit, 9, "{stderr}");
    assert!(stderr.contains("user/ended ended 2h ago"), "{stderr}");
    assert!(stderr.contains("hint: kapok login"), "{stderr}");

    let lost = server.credential("user/lost", HOUR, Duration::ZERO);
    let (exit, _, stderr) = run_as(&server, &lost, "node ls");
    assert_eq!(exit, 0, "{stderr}");
    server.revoke(&lost);
    let (exit, _, stderr) = run_as(&server, &lost, "node ls");
    assert_eq!(exit, 9, "{stderr}");
    assert!(stderr.contains("our certificate was revoked"), "{stderr}");

    // A stranger at our controller's address, and we at a stranger's.
    let stranger = serve();
    let at = format!("--server {} node ls", stranger.address);
    let (exit, _, stderr) = run(&server, &at);
    assert_eq!(exit, 6, "{stderr}");
    assert!(
        stderr.contains("not signed by an authority of this fabric"),
        "{stderr}"
    );

    // Somebody who doesn't speak TLS.
    let plain = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = plain.local_addr().unwrap();
    let speaking = thread::spawn(move || {
        let (mut socket, _) = plain.accept().unwrap();
        let _ = socket.write_all(b"SSH-2.0-OpenSSH_9.2\r\n");
    });
    let (exit, _, stderr) = run(&server, &format!("--server {address} node ls"));
    speaking.join().unwrap();
    assert_eq!(exit, 6, "{stderr}");
    assert!(stderr.contains("doesn't speak TLS"), "{stderr}");
    let (exit, _, stderr) = run(&server, "--server http://127.0.0.1:1 node ls");
    assert_eq!(exit, 2);
    assert!(stderr.contains("TLS only"), "{stderr}");

    fs::set_permissions(&lost, fs::Permissions::from_mode(0o644)).unwrap();
    let (exit, _, stderr) = run_as(&server, &lost, "node ls");
    assert_eq!(exit, 64, "{stderr}");
    assert!(stderr.contains("hint: chmod 600"), "{stderr}");
}

#[test]
fn the_first_controller_that_answers_is_taken() {
    let server = serve();
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let free = free.local_addr().unwrap();
    let both = format!("--server {free},https://{} node ls", server.address);
    let (exit, _, stderr) = run(&server, &both);
    assert_eq!((exit, stderr.as_str()), (0, ""));
}

#[test]
fn a_file_is_taken_over_into_a_context_of_its_own() {
    let server = serve();
    let file = server.credential("user/root", HOUR, Duration::ZERO);
    let import = format!("login --credential {}", file.display());
    let (exit, _, stderr) = spawned(anonymous(&server, &import));
    assert_eq!(exit, 0, "{stderr}");
    assert!(stderr.contains("remove it"), "{stderr}");
    let other = server.credential("user/auditor", HOUR, Duration::ZERO);
    let import = format!("login --credential {}", other.display());
    let (exit, _, stderr) = spawned(anonymous(&server, &import));
    assert_eq!(exit, 2, "{stderr}");
    assert!(stderr.contains("belongs to user/root"), "{stderr}");
    let named = format!("{import} --context audit");
    let (exit, _, stderr) = spawned(anonymous(&server, &named));
    assert_eq!(exit, 0, "{stderr}");
    let who = |line: &str| {
        let (exit, stdout, stderr) = spawned(anonymous(&server, line));
        assert_eq!(exit, 0, "{stderr}");
        let answer: Value = serde_json::from_str(&stdout).unwrap();
        answer["subject"].as_str().unwrap().to_owned()
    };
    assert_eq!(who("whoami -o json"), "user/auditor");
    assert_eq!(who("whoami -o json --context city"), "user/root");
    let (exit, stdout, _) = spawned(anonymous(&server, "context use city"));
    assert_eq!((exit, stdout.as_str()), (0, "city: used from now on\n"));
    assert_eq!(who("context show -o json"), "user/root");
}

/// A new token's secret is on standard output once, alone, and nowhere else.
#[test]
fn a_new_token_is_printed_once() {
    let server = serve();
    let (exit, stdout, stderr) = run(&server, "node token create rack1-a --life 30m");
    assert_eq!(exit, 0, "{stderr}");
    assert_eq!(stdout, format!("{SECRET}\n"));
    assert!(stderr.contains("kapok-agent join --controller"), "{stderr}");
    assert!(!stderr.contains(SECRET), "{stderr}");
    let (exit, stdout, _) = run(&server, "token create machine/ci -o json");
    assert_eq!(exit, 0);
    let token: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(
        (&token["text"], &token["one_use"]),
        (&SECRET.into(), &true.into())
    );
    let (exit, stdout, stderr) = run(&server, "user token unlucky");
    assert_eq!((exit, stdout.as_str()), (1, ""));
    assert!(stderr.contains("hint: kapok token rm 0190d6b4"), "{stderr}");
    let seen = server.fake.0.lock().unwrap();
    let asked = seen.tokens.iter();
    let asked: Vec<_> = asked.map(|one| (&*one.subject, one.life_seconds)).collect();
    assert_eq!(
        asked,
        [
            ("node/rack1-a", 1800),
            ("machine/ci", 0),
            ("user/unlucky", 0)
        ]
    );
}

#[test]
fn administrators_changes_go_out_as_typed() {
    let server = serve();
    for (line, said, sent) in [
        (
            "node set rack1-a --overcommit 2.5",
            "rack1-a: changed\n",
            "vcpu_overcommit_permille: Some(2500), address: None",
        ),
        (
            "node update rack1-a --rack r7 --room none --label disk=nvme --label spare-",
            "rack1-a: changed\n",
            "FieldMask { paths: [\"rack\", \"room\", \"labels.disk\", \"labels.spare\"] }), rack: \
             \"r7\", room: \"\", labels: {\"disk\": \"nvme\"}",
        ),
        (
            "tenant update police --isolation secret",
            "police: changed\n",
            "isolation: \"secret\"",
        ),
        (
            "group create web --tenant water --apart rack --soft",
            "web: created\n",
            "kind: Apart, domain: Rack, soft: true",
        ),
        ("group rm web", "web: removed\n", "group: \"web\""),
        (
            "instance update web --system billing",
            "web: belongs to system billing\n",
            "FieldMask { paths: [\"system\"] }",
        ),
        (
            "node revoke rack1-a --reason stolen",
            "rack1-a: revoked; its guests run on, a new token brings it back\n",
            "reason: \"stolen\"",
        ),
        (
            "node rm rack1-a",
            "rack1-a: removed\n",
            "DeleteNodeRequest { node: \"rack1-a\"",
        ),
        (
            "user create eve --grant auditor --grant tenant-member:water",
            "user/eve: created\n",
            "subject: \"user/eve\"",
        ),
        (
            "user grant machine/ci tenant-administrator:water",
            "machine/ci: has tenant-administrator:water\n",
            "role: TenantAdministrator, tenant: \"water\"",
        ),
        (
            "user disable eve --yes",
            "user/eve: disabled\n",
            "disabled: Some(true)",
        ),
        (
            "user enable eve",
            "user/eve: can log in again\n",
            "disabled: Some(false)",
        ),
        ("user rm eve", "user/eve: removed\n", "user: \"user/eve\""),
        (
            "tenant create water-lab --parent water --display-name 水",
            "water-lab: created\n",
            "display_name: \"水\", parent: \"water\"",
        ),
        (
            "tenant update water --contact desk --contact phone",
            "water: changed\n",
            "contacts: [\"desk\", \"phone\"]",
        ),
        (
            "tenant update water --no-contacts",
            "water: changed\n",
            "FieldMask { paths: [\"contacts\"] }",
        ),
        (
            "tenant suspend water",
            "water: suspended; what runs there runs on\n",
            "state: Suspended",
        ),
        (
            "tenant resume water",
            "water: active again\n",
            "state: Active",
        ),
        (
            "tenant close water",
            "water: closing; what runs there runs on\n",
            "state: Closing",
        ),
        (
            "tenant rm water --yes",
            "water: removed\n",
            "tenant: \"water\"",
        ),
        (
            "quota set water --memory none --reserve-memory 64GiB",
            "water: quota set\n",
            "FieldMask { paths: [\"quota.memory_mib\", \"reserved.memory_mib\"] }",
        ),
        ("token rm t1", "t1: taken back\n", "token: \"t1\""),
        (
            "certificate revoke 4f00 --reason lost",
            "4f00: revoked; it was user/eve's\n",
            "serial: \"4f00\", reason: \"lost\"",
        ),
    ] {
        let (exit, stdout, stderr) = run(&server, line);
        assert_eq!((exit, stdout.as_str()), (0, said), "{line}: {stderr}");
        let change = server.fake.0.lock().unwrap().changes.pop().unwrap();
        assert!(change.contains(sent), "{line}: {change}");
    }
    let (exit, stdout, stderr) = run(&server, "quota set water --vcpus 2");
    assert_eq!((exit, stdout.as_str()), (0, "water: quota set\n"));
    assert!(stderr.contains("more than that (2 vCPUs)"), "{stderr}");
    let (exit, stdout, _) = run(&server, "quota show water");
    assert_eq!(exit, 0);
    assert!(stdout.contains("vCPUs         0"), "{stdout}");
    let (exit, _, stderr) = run(&server, "quota show city");
    assert_eq!(exit, 1);
    assert!(stderr.contains("isn't for you to see"), "{stderr}");
    let (exit, _, stderr) = run(&server, "node rebind rack1-a");
    assert_eq!(exit, 4);
    assert!(stderr.contains("nothing to rebind"), "{stderr}");
    let (exit, _, stderr) = run(&server, "user ls");
    assert_eq!(exit, 9);
    assert!(stderr.contains("kapok auth why"), "{stderr}");
    let (exit, stdout, _) = run(&server, "auth why me instance.delete instance/web");
    assert_eq!(exit, 0);
    assert!(
        stdout.contains("\"\" may not instance.delete instance/web"),
        "{stdout}"
    );
    assert!(
        stdout.contains("auditors-change-nothing   forbids   built-in"),
        "{stdout}"
    );
}

#[test]
fn the_audit_is_exported_once_and_verified_without_a_controller() {
    let server = serve();
    let (exit, stdout, stderr) = run(&server, "audit export");
    assert_eq!((exit, stderr.as_str()), (0, ""));
    assert_eq!(stdout.lines().count(), 9, "each entry once: {stdout}");
    let file = server.home.path().join("audit.jsonl");
    fs::write(&file, &stdout).unwrap();
    let verify = format!("audit verify --file {}", file.display());
    // Nobody needs to be anybody for this.
    let (exit, verdict, stderr) = spawned(anonymous(&server, &verify));
    assert_eq!((exit, stderr.as_str()), (0, ""), "{verdict}");
    assert!(verdict.contains("9, from 1 to 9"), "{verdict}");
    fs::write(&file, stdout.replace("\"n\":7", "\"n\":8")).unwrap();
    let (exit, verdict, stderr) = spawned(anonymous(&server, &verify));
    assert_eq!(exit, 1, "{verdict}");
    assert!(stderr.contains("entry 7: "), "{stderr}");
    assert!(verdict.contains("7          edited"), "{verdict}");

    let (exit, verdict, stderr) = run(&server, "audit verify -o json");
    assert_eq!(exit, 1);
    assert!(stderr.contains("entry 77: "), "{stderr}");
    let verdict: Value = serde_json::from_str(&verdict).unwrap();
    assert_eq!(
        (&verdict["sound"], &verdict["heads"]),
        (&false.into(), &3.into())
    );
    let (exit, stdout, _) = run(&server, "audit ls --limit 250 -o json");
    assert_eq!(exit, 0);
    let entries: Value = serde_json::from_str(&stdout).unwrap();
    let entries = entries.as_array().unwrap();
    assert_eq!(entries.len(), 250);
    assert_eq!(entries[249]["sequence"], 750);
}

/// With a real provider and a browser that fills in its forms.
#[test]
fn one_logs_in_at_the_identity_provider() {
    let Some(site) = Site::new() else { return };
    let real = site.start(Options::default());
    let server = serve();
    let first = "login --oidc --no-browser --fabric city --ca-fingerprint";
    let authority = server.fake.1.authority.fingerprint();
    let line = format!("{first} {authority} --controller {}", server.enroll);
    let (exit, _, stderr) = spawned(anonymous(&server, &line));
    assert_eq!(exit, 2, "{stderr}");
    assert!(stderr.contains("no identity provider"), "{stderr}");
    server
        .fake
        .1
        .issuer
        .lock()
        .unwrap()
        .clone_from(&real.issuer);

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    // The second time, the context knows where and whom to trust.
    for line in [line.as_str(), "login --oidc --no-browser --quiet"] {
        let mut command = anonymous(&server, line);
        command.env("SSL_CERT_FILE", site.authority());
        let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().unwrap();
        let bound = Bound::on(&child);
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        let url = loop {
            said.clear();
            assert!(stderr.read_line(&mut said).unwrap() > 0, "no address");
            if let Ok(url) = said.trim().parse::<openidconnect::url::Url>()
                && url.scheme() == "https"
            {
                break url;
            }
        };
        let browser = provider::http(&site.authority());
        let page = runtime.block_on(async {
            let back = provider::log_in(&browser, url, "grace").await;
            assert_eq!(back.host_str(), Some("127.0.0.1"));
            // Somebody else who finds the port gets nothing.
            let mut other = back.clone();
            other.set_query(Some("code=stolen&state=guessed"));
            let sent_away = browser.get(other).send().await.unwrap();
            assert_eq!(sent_away.status(), reqwest::StatusCode::NOT_FOUND);
            browser.get(back).send().await.unwrap().text().await
        });
        assert!(page.unwrap().contains("go back to the terminal"));
        child.stderr = Some(stderr.into_inner());
        let (exit, stdout, stderr) = finish(child);
        drop(bound);
        assert_eq!(exit, 0, "{stderr}");
        assert!(stdout.contains("as user/grace (context city)"), "{stdout}");
    }
    assert_eq!(server.fake.0.lock().unwrap().logins.len(), 2);
}
