//! OpenSSL's client, which knows nothing of us but the certificates (FAULTS 20).

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::PathBuf,
    process::{Command, Output, Stdio},
    time::Duration,
};

use kapok_lab::loopback::Loopback;
use kapok_tests::real;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// How HTTP/2 begins, with empty settings.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// The type of a settings frame, and where a frame's type stands.
const SETTINGS: u8 = 4;
const TYPE_AT: usize = 3;

/// What a client has to show and to trust, as files.
struct Files {
    chain: PathBuf,
    key: PathBuf,
    bundle: PathBuf,
    name: String,
}

fn files(fabric: &Loopback) -> Files {
    let credentials = real::person(&fabric.kapok().credential()).unwrap();
    let material = credentials.material();
    let file = |name: &str, text: &str| {
        let path = fabric.folder().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let domain = &credentials.certificate().identity.fabric;
    Files {
        chain: file("openssl-chain.pem", &material.chain_pem),
        key: file("openssl-key.pem", &material.key_pem),
        bundle: file("openssl-bundle.pem", &material.bundle_pem),
        name: kapok_trust::dns::controller(domain),
    }
}

/// Sends the beginning of HTTP/2 through `openssl s_client`; gives what came back.
fn talk(fabric: &Loopback, files: &Files, with_certificate: bool, more: &[&str]) -> Output {
    let mut command = Command::new("timeout");
    command
        .args(["20", "openssl", "s_client", "-quiet", "-alpn", "h2"])
        .args(["-connect", fabric.kapok().server()])
        .args(["-servername", &files.name, "-verify_hostname", &files.name])
        .args(["-verify_return_error", "-CAfile"])
        .arg(&files.bundle)
        .args(more)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if with_certificate {
        command.arg("-cert").arg(&files.chain);
        command.arg("-key").arg(&files.key);
    }
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    // A server that has hung up already is an answer, too.
    let _hung_up = input.write_all(PREFACE);
    let mut first = [0; TYPE_AT + 1];
    let mut output = child.stdout.take().unwrap();
    let got = output.read_exact(&mut first).is_ok();
    drop(input);
    if got {
        // It would go on for as long as the server does. `timeout` passes the signal on.
        let pid = Pid::from_raw(child.id().try_into().unwrap());
        kill(pid, Signal::SIGTERM).unwrap();
    }
    let mut answer = child.wait_with_output().unwrap();
    if got {
        answer.stdout = first.to_vec();
    }
    answer
}

#[test]
fn openssl_needs_a_certificate() {
    if Command::new("openssl").arg("version").output().is_err() {
        println!("SKIP OpenSSL's client: openssl is missing; `cargo xtask setup --dev` brings it");
        return;
    }
    let fabric = crate::processes();
    let files = files(&fabric);
    let welcome = talk(&fabric, &files, true, &[]);
    let said = String::from_utf8_lossy(&welcome.stderr).into_owned();
    assert_eq!(welcome.stdout.get(TYPE_AT), Some(&SETTINGS), "{said}");

    let stranger = talk(&fabric, &files, false, &[]);
    let said = String::from_utf8_lossy(&stranger.stderr).into_owned();
    assert!(stranger.stdout.is_empty(), "{:?} {said}", stranger.stdout);
    assert!(said.contains("certificate required"), "{said}");

    let old = talk(&fabric, &files, true, &["-tls1_2"]);
    let said = String::from_utf8_lossy(&old.stderr).into_owned();
    assert!(old.stdout.is_empty(), "{:?} {said}", old.stdout);
    assert!(said.contains("protocol version"), "{said}");
}

#[test]
fn plain_text_gets_no_answer() {
    let fabric = crate::processes();
    let mut stream = TcpStream::connect(fabric.kapok().server()).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    stream.write_all(PREFACE).unwrap();
    let mut answer = Vec::new();
    let _reset = stream.read_to_end(&mut answer);
    // At most TLS's own alert: no frame of HTTP/2.
    assert_ne!(answer.get(TYPE_AT), Some(&SETTINGS), "{answer:?}");
    assert!(answer.len() <= 7, "{answer:?}");
}
