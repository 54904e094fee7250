use std::{
    fmt::Write as _,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use nix::unistd::geteuid;
use proptest::prelude::*;
use tokio::{
    io::{AsyncWriteExt as _, duplex},
    task::JoinHandle,
};

use super::*;
use crate::{Answer, Output, Subject, alone, client};

/// How long anything here may take.
const BOUND: Duration = Duration::from_mins(1);

/// A server on a socket, and a folder that is its server's root.
struct Bench {
    folder: tempfile::TempDir,
    server: Server,
    _task: Ended,
}

struct Ended(JoinHandle<()>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Bench {
    fn new() -> Self {
        Self::for_user(geteuid())
    }

    fn for_user(user: Uid) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::new(Tools::new(folder.path()).guarded(), [user]);
        let listener = UnixListener::bind(folder.path().join("socket")).unwrap();
        let serving = server.clone();
        let task = tokio::spawn(async move { serving.serve(&listener).await });
        Self {
            folder,
            server,
            _task: Ended(task),
        }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn tool(&self, name: &str, script: &str) {
        let path = self.file("usr/sbin").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// smartctl with these disks: what it does when it is asked for each.
    fn smartctl(&self, disks: &[(&str, &str)]) {
        let devices: Vec<_> = disks
            .iter()
            .map(|(name, _)| serde_json::json!({"name": name, "type": "scsi"}))
            .collect();
        let list = serde_json::json!({ "devices": devices });
        let mut script = format!("case \"$*\" in\n*--scan) echo '{list}';;\n");
        for (name, does) in disks {
            writeln!(script, "*{name}) {does};;").unwrap();
        }
        self.tool("smartctl", &(script + "esac"));
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(self.socket()).await.unwrap()
    }

    async fn ask(&self, request: Request) -> (Vec<String>, Result<(), Failure>) {
        let mut heard = Vec::new();
        let socket = self.socket();
        let asked = client::ask(&socket, request, |it| heard.push(shown(&it)));
        let asked = timeout(BOUND, asked).await.unwrap();
        heard.sort();
        (heard, asked)
    }
}

fn shown(answer: &Answer) -> String {
    let of = match &answer.of {
        Subject::Disk(disk) => disk.device.clone(),
        Subject::Ipmi(question) => format!("{question:?}"),
    };
    match &answer.outcome {
        Ok(Output { text, status, .. }) => format!("{of}: {:?} {status:?}", text.trim()),
        Err(reason) => format!("{of}: {reason}"),
    }
}

/// The id that a script has left in a file.
async fn id(file: &Path) -> u32 {
    let found = async {
        loop {
            let text = fs::read_to_string(file).unwrap_or_default();
            if text.ends_with('\n') {
                return text.trim().parse().unwrap();
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(BOUND, found).await.unwrap()
}

/// Waits until a process has ended.
async fn ended(id: u32) {
    let gone = async {
        loop {
            let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
            let state = stat.rsplit(')').next().unwrap_or_default().trim_start();
            if state.is_empty() || state.starts_with(['Z', 'X']) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(BOUND, gone).await.unwrap();
}

#[tokio::test]
async fn disks_are_listed_and_each_answers() {
    let _alone = alone().await;
    let bench = Bench::new();
    bench.smartctl(&[("/dev/sda", "echo A"), ("/dev/sdb", "echo B; exit 4")]);
    let (heard, end) = bench.ask(Request::Smart).await;
    let expected = [
        "/dev/sda: \"A\" Some(0)".to_owned(),
        "/dev/sdb: \"B\" Some(4)".to_owned(),
    ];
    assert_eq!((&heard[..], end), (&expected[..], Ok(())));
}

#[tokio::test]
async fn the_management_controller_answers_every_question() {
    let _alone = alone().await;
    let bench = Bench::new();
    let (heard, end) = bench.ask(Request::Ipmi).await;
    let nothing = Failure::Absent("there is no IPMI device".into());
    assert_eq!((heard, end), (vec![], Err(nothing)));

    fs::create_dir_all(bench.file("dev")).unwrap();
    fs::write(bench.file("dev/ipmi0"), "").unwrap();
    bench.tool("ipmitool", "[ $1 = sel ] && exit 1; echo \"$*\"");
    let (heard, end) = bench.ask(Request::Ipmi).await;
    let expected = [
        "Chassis: \"chassis status\" Some(0)",
        "Limits: \"sensor\" Some(0)",
        "Log: ipmitool ended with 1",
        "Sensors: \"-c sdr elist all\" Some(0)",
    ];
    assert_eq!((heard, end), (expected.map(str::to_owned).into(), Ok(())));
    let (_, end) = bench.ask(Request::Freeipmi).await;
    let missing = Failure::Absent("ipmi-sensors isn't installed".into());
    assert_eq!(end, Err(missing));
}

/// The kernel says who asks. Of a stranger nothing is read, and no tool is started for it.
#[tokio::test]
async fn a_foreign_uid_is_refused() {
    let _alone = alone().await;
    let own = geteuid();
    let bench = Bench::for_user(Uid::from_raw(own.as_raw() + 1));
    bench.tool(
        "smartctl",
        &format!("touch {}", bench.file("ran").display()),
    );
    let (heard, end) = bench.ask(Request::Smart).await;
    let refused = format!("kapok-helper: uid {own} may not ask");
    assert_eq!((heard, end), (vec![], Err(Failure::Unreadable(refused))));
    assert!(!bench.file("ran").exists());
}

/// FAULTS 63: a disk whose smartctl hangs is unreadable by its deadline, the others are read, the
/// next question is answered, and what hung is gone.
#[tokio::test]
async fn a_smartctl_that_hangs_harms_nobody() {
    let _alone = alone().await;
    let bench = Bench::new();
    let left = bench.file("id");
    let hangs = format!("echo $$ >{}; exec sleep 1000", left.display());
    bench.smartctl(&[("/dev/sda", &hangs), ("/dev/sdb", "echo B")]);
    let mut stream = bench.connect().await;
    wire::write(&mut stream, &Request::Smart).await.unwrap();
    let mut next = async || {
        let reply = timeout(BOUND, wire::read_reply(&mut stream)).await;
        match reply.unwrap().unwrap() {
            Reply::Answer(answer) => shown(&answer),
            other => format!("{other:?}"),
        }
    };
    assert_eq!(next().await, "/dev/sdb: \"B\" Some(0)");
    let id = id(&left).await;
    // From here on only deadlines are left.
    tokio::time::pause();
    assert_eq!(next().await, "/dev/sda: smartctl didn't answer within 20s");
    assert_eq!(next().await, "Done");
    tokio::time::resume();
    ended(id).await;

    bench.smartctl(&[("/dev/sda", "echo A"), ("/dev/sdb", "echo B")]);
    let (heard, end) = bench.ask(Request::Smart).await;
    assert_eq!((heard.len(), end), (2, Ok(())));
}

/// Tools that all hang, one after the other, are ended by the request's own deadline.
#[tokio::test]
async fn a_request_ends_by_its_deadline() {
    let _alone = alone().await;
    let bench = Bench::new();
    // Asked four at a time, 20 s each: 200 s.
    let left = bench.file("id");
    let hangs = format!("echo $$ >{}; exec sleep 1000", left.display());
    let names: Vec<String> = (0..40).map(|n| format!("/dev/disk{n}-")).collect();
    let disks: Vec<_> = names.iter().map(|it| (&**it, &*hangs)).collect();
    bench.smartctl(&disks);
    let mut stream = bench.connect().await;
    wire::write(&mut stream, &Request::Smart).await.unwrap();
    id(&left).await;
    // From here on only deadlines are left.
    tokio::time::pause();
    let mut answers = 0;
    let end = loop {
        match wire::read_reply(&mut stream).await.unwrap() {
            Reply::Answer(_) => answers += 1,
            end => break end,
        }
    };
    let Reply::Failed(Failure::Unreadable(reason)) = end else {
        panic!("{answers} answers, then {end:?}");
    };
    assert_eq!(reason, "not all was answered within 170s");
    assert!(answers < 40, "{answers}");
}

/// Nobody waits for what a caller who is gone has asked for.
#[tokio::test]
async fn a_caller_s_end_ends_its_tools() {
    let _alone = alone().await;
    let bench = Bench::new();
    let left = bench.file("id");
    let hangs = format!("echo $$ >{}; exec sleep 1000", left.display());
    bench.smartctl(&[("/dev/sda", &hangs)]);
    let mut stream = bench.connect().await;
    wire::write(&mut stream, &Request::Smart).await.unwrap();
    let id = id(&left).await;
    drop(stream);
    // Sooner than by a disk's own deadline, which would end it as well.
    let soon = Duration::from_secs(10);
    timeout(soon, ended(id)).await.unwrap();
    // Its turn is over, too.
    let turn = timeout(soon, bench.server.disks.lock());
    drop(turn.await.unwrap());
}

/// Callers that say nothing keep nobody else away until they are too many, and not for long.
#[tokio::test]
async fn silent_callers_are_bounded() {
    let _alone = alone().await;
    let bench = Bench::new();
    bench.smartctl(&[("/dev/sda", "echo A")]);
    let mut silent = Vec::new();
    for _ in 1..MAX_CALLERS {
        silent.push(bench.connect().await);
    }
    let (heard, _) = bench.ask(Request::Smart).await;
    assert_eq!(heard.len(), 1);
    silent.push(bench.connect().await);
    let (_, end) = bench.ask(Request::Smart).await;
    let refused = "kapok-helper: 8 callers are answered already";
    assert_eq!(end, Err(Failure::Unreadable(refused.into())));
    tokio::time::pause();
    let reply = timeout(BOUND, wire::read_reply(&mut silent[0])).await;
    let reply = reply.unwrap().unwrap();
    assert_eq!(reply, Reply::Refused("no request within 5s".into()));
}

/// What has rights runs nothing that others could have written.
#[tokio::test]
async fn a_tool_that_others_can_change_is_not_run() {
    let _alone = alone().await;
    let bench = Bench::new();
    bench.smartctl(&[("/dev/sda", "echo A")]);
    let (tool, folder) = (bench.file("usr/sbin/smartctl"), bench.file("usr/sbin"));
    for (loose, path) in [(0o775, &tool), (0o757, &tool), (0o777, &folder)] {
        fs::set_permissions(path, fs::Permissions::from_mode(loose)).unwrap();
        let (_, end) = bench.ask(Request::Smart).await;
        let reason = end.unwrap_err().to_string();
        assert!(
            reason.contains("others than root can change it"),
            "{reason}"
        );
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    assert_eq!(bench.ask(Request::Smart).await.1, Ok(()));
}

#[tokio::test]
async fn what_is_no_helper_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let ask = async || client::ask(&socket, Request::Smart, |_| {}).await;
    let absent = ask().await.unwrap_err().to_string();
    assert!(absent.contains("socket can't be reached"), "{absent}");
    let listener = UnixListener::bind(&socket).unwrap();
    let says = |reply: Option<Reply>| {
        let listener = &listener;
        async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            wire::read_request(&mut stream).await.unwrap();
            if let Some(reply) = reply {
                wire::write(&mut stream, &reply).await.unwrap();
            }
        }
    };
    let foreign = Reply::answer(Answer {
        of: Subject::Ipmi(crate::ipmi::Question::Log),
        outcome: Err(String::new()),
    });
    for (reply, expected) in [
        (Some(foreign), "it answers what wasn't asked"),
        (Some(Reply::Refused("no".into())), "no"),
        (None, "the connection broke"),
    ] {
        let (asked, ()) = tokio::join!(ask(), says(reply));
        let reason = asked.unwrap_err().to_string();
        let expected = format!("kapok-helper: {expected}");
        assert!(reason.starts_with(&expected), "{reason}");
    }
    let (asked, ()) = tokio::join!(ask(), says(Some(Reply::Done)));
    assert_eq!(asked, Ok(()));
}

proptest! {
    /// Whatever a caller sends, it is answered with a refusal, or with nothing if it broke off; and
    /// with an answer only if it was one of the words.
    #[test]
    fn any_bytes_are_refused_or_understood(
        bytes in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..100),
            // A length that fits, and anything.
            prop::collection::vec(any::<u8>(), 0..64).prop_map(|body| {
                let length = u8::try_from(body.len()).unwrap();
                [&[0, 0, 0, length][..], &body].concat()
            }),
            // One of the words, and more behind it.
            (prop::sample::select(&Request::ALL[..]), prop::collection::vec(any::<u8>(), 0..4))
                .prop_map(|(word, rest)| [wire::encode(&word).unwrap(), rest].concat()),
        ],
    ) {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::new(Tools::new(folder.path()), []);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let heard = runtime.block_on(async {
            let (mut here, mut there) = duplex(1024);
            here.write_all(&bytes).await.unwrap();
            let conversation = async {
                let _ = server.converse(&mut there).await;
                drop(there);
            };
            let heard = async {
                if bytes.len() < 4 || wire::read_request(&mut &bytes[..]).await.is_err() {
                    here.shutdown().await.unwrap();
                }
                let mut heard = Vec::new();
                here.read_to_end(&mut heard).await.unwrap();
                heard
            };
            tokio::join!(conversation, heard).1
        });
        let understood = runtime.block_on(wire::read_request(&mut &bytes[..]));
        if heard.is_empty() {
            // Broken off: a frame that isn't whole, or more behind it.
            prop_assert!(understood.is_ok() || matches!(understood, Err(wire::Error::Broken(_))));
            return Ok(());
        }
        match runtime.block_on(wire::read_reply(&mut &heard[..])).unwrap() {
            Reply::Refused(_) => prop_assert!(understood.is_err()),
            Reply::Failed(Failure::Absent(_)) => prop_assert!(understood.is_ok()),
            other => prop_assert!(false, "{other:?}"),
        }
    }

    /// Whatever a helper sends, the agent goes on.
    #[test]
    fn any_bytes_of_a_helper_s_are_taken(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let asked = runtime.block_on(async {
            let listener = UnixListener::bind(&socket).unwrap();
            let says = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.write_all(&bytes).await.unwrap();
            };
            tokio::join!(client::ask(&socket, Request::Smart, |_| {}), says).0
        });
        let reason = asked.unwrap_err().to_string();
        prop_assert!(reason.starts_with("kapok-helper: "), "{}", reason);
    }
}
