//! A fabric of real processes, and an ear for what must not be told.
//!
//! Every secret that a test comes by is remembered: tokens, tickets, and the private keys of all
//! files. [`World::end`] looks for each of them in everything that the programs have said or
//! stored: logs, audit, events, errors, the store itself.

use std::{cell::RefCell, collections::BTreeMap, fs, path::Path, thread, time::Duration};

use kapok_agent::trust::join::{self, Joined};
use kapok_lab::{
    fabric::{Kapok, Person, Settings},
    loopback::{Loopback, Nodes},
    wait::until,
};
use kapok_tests::real;
use kapok_types::{Env, NodeId, env::System};
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

/// How long anything may take on a busy machine.
pub(crate) const SOON: Duration = Duration::from_mins(1);

/// The line behind this one is the beginning of a private key.
const KEY: &str = "-----BEGIN PRIVATE KEY-----";

/// A fabric of real processes.
pub(crate) struct World {
    pub(crate) fabric: Loopback,
    runtime: Runtime,
    /// What must not be told, and what it is.
    secrets: RefCell<BTreeMap<String, String>>,
    /// What the command has said.
    said: RefCell<String>,
}

/// What the command answers.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl World {
    /// A fabric of so many simulated nodes, all ready.
    pub(crate) fn new(nodes: u16) -> Self {
        Self::with(nodes, &Settings::default())
    }

    /// The same with settings.
    pub(crate) fn with(nodes: u16, settings: &Settings) -> Self {
        let nodes = Nodes {
            count: nodes,
            ..Nodes::default()
        };
        Self {
            fabric: real::processes(nodes, settings),
            runtime: Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .unwrap(),
            secrets: RefCell::default(),
            said: RefCell::default(),
        }
    }

    /// The command, used by one of the first three.
    pub(crate) fn by(&self, person: Person) -> Kapok {
        self.fabric.kapok().by(person)
    }

    /// Waits for a call.
    pub(crate) fn wait<T>(&self, call: impl Future<Output = T>) -> T {
        self.runtime
            .block_on(async { tokio::time::timeout(SOON, call).await })
            .unwrap()
    }

    /// Runs a line of the command to its end, whatever it answers.
    pub(crate) fn run(&self, who: &Kapok, line: &str) -> Answer {
        let answer = run(who, line);
        let mut said = self.said.borrow_mut();
        for part in ["$ kapok ", line, "\n", &answer.out, &answer.err] {
            said.push_str(part);
        }
        drop(said);
        answer
    }

    /// Runs a line that must succeed; gives what it printed.
    #[track_caller]
    pub(crate) fn ok(&self, who: &Kapok, line: &str) -> String {
        let answer = self.run(who, line);
        assert_eq!(answer.code, 0, "{line}: {answer:?}");
        answer.out
    }

    /// Runs a line that must be refused with this exit code; gives the error.
    #[track_caller]
    pub(crate) fn refused(&self, who: &Kapok, line: &str, code: i32) -> String {
        let answer = self.run(who, line);
        assert_eq!(answer.code, code, "{line}: {answer:?}");
        answer.err
    }

    /// Runs a line with `-o json`; gives the value.
    #[track_caller]
    pub(crate) fn json(&self, who: &Kapok, line: &str) -> Value {
        serde_json::from_str(&self.ok(who, &format!("{line} -o json"))).unwrap()
    }

    /// Runs a line with `-o json`; gives the list.
    #[track_caller]
    pub(crate) fn list(&self, who: &Kapok, line: &str) -> Vec<Value> {
        match self.json(who, line) {
            Value::Array(items) => items,
            other => panic!("{line}: {other} is no list"),
        }
    }

    /// Makes a token with a line of the command; gives its text.
    #[track_caller]
    pub(crate) fn token(&self, who: &Kapok, line: &str) -> String {
        let answer = run(who, &format!("{line} --quiet"));
        assert_eq!(answer.code, 0, "{line}: {answer:?}");
        let text = answer.out.trim().to_owned();
        // Its last 16 bytes are the secret, and stand for themselves in base64.
        self.remember(&text[text.len() - 22..], &format!("secret of `{line}`"));
        text
    }

    /// Somebody logs in by a token; gives the command as they use it then.
    #[track_caller]
    pub(crate) fn log_in(&self, name: &str, token: &str, more: &str) -> Kapok {
        let (who, answer) = self.try_log_in(name, token, more);
        assert_eq!(answer.code, 0, "{answer:?}");
        who
    }

    /// The same, whatever the answer is.
    pub(crate) fn try_log_in(&self, name: &str, token: &str, more: &str) -> (Kapok, Answer) {
        let people = self.fabric.folder().join("people");
        fs::create_dir_all(&people).unwrap();
        let file = people.join(format!("{name}.token"));
        fs::write(&file, token).unwrap();
        let who = self.fabric.kapok().with(people.join(format!("{name}.pem")));
        let line = format!(
            "login --controller {} --token-file {}{more}",
            self.fabric.listen().https,
            file.display()
        );
        let answer = self.run(&who, &line);
        fs::remove_file(file).unwrap();
        (who, answer)
    }

    /// A user, made by the security administrator, who logs in by a token.
    #[track_caller]
    pub(crate) fn user(&self, name: &str, grant: &str) -> Kapok {
        let security = self.by(Person::SecurityAdministrator);
        self.ok(&security, &format!("user create {name} --grant {grant}"));
        let token = self.token(&security, &format!("user token {name}"));
        self.log_in(name, &token, "")
    }

    /// A server that nobody listens on joins by a token.
    pub(crate) fn join(&self, token: &str) -> Result<(NodeId, Joined), join::Error> {
        let env: std::sync::Arc<dyn Env> = System::new();
        let node = env.node_id();
        let options = join::Options {
            controller: self.fabric.listen().https.to_string(),
            token: token.parse().unwrap(),
            node,
            address: "127.0.0.1:1".into(),
            fingerprint: BTreeMap::from([("product_uuid".into(), node.to_string())]),
        };
        let joined = self.wait(join::join(options, &env))?;
        self.remember_keys(&joined.material.key_pem, "a node's key");
        Ok((node, joined))
    }

    /// Something that must not be told.
    pub(crate) fn remember(&self, secret: &str, what: &str) {
        assert!(secret.len() >= 20, "{what} is too short to be looked for");
        let (secret, what) = (secret.to_owned(), what.to_owned());
        self.secrets.borrow_mut().insert(secret, what);
    }

    fn remember_keys(&self, text: &str, what: &str) {
        for key in text.split(KEY).skip(1) {
            // The first line holds the beginning of the secret number, and no more.
            let begin = key.trim_start().lines().next().unwrap();
            self.remember(begin, what);
        }
    }

    /// Waits until an entry of the audit is as `good` says.
    #[track_caller]
    pub(crate) fn recorded(&self, line: &str, what: &str, good: impl Fn(&Value) -> bool) {
        let auditor = self.by(Person::Auditor);
        let mut last = Vec::new();
        let found = until(&format!("{what} on record"), SOON, || {
            last = self.list(&auditor, line);
            Ok(last.iter().any(&good).then_some(()))
        });
        found.unwrap_or_else(|error| panic!("{error}; last seen: {}", Value::Array(last)));
    }

    /// Ends the programs, and makes sure that nothing secret was told.
    #[track_caller]
    pub(crate) fn end(mut self) {
        // Refusals are written after a moment.
        self.fabric.start_controller().unwrap();
        let auditor = self.by(Person::Auditor);
        let mut told = BTreeMap::from([
            ("audit export".into(), self.ok(&auditor, "audit export")),
            (
                "audit ls".into(),
                self.ok(&auditor, "audit ls --limit 9999 -o json"),
            ),
            ("events".into(), self.ok(&auditor, "events -o json")),
            ("controller's log".into(), self.fabric.controller_log()),
            ("simulator's log".into(), self.fabric.simulator_log()),
        ]);
        self.fabric.stop().unwrap();
        told.insert("the command".into(), self.said.take());
        for (name, text) in &told {
            assert!(text.len() > 100, "{name} says nothing: {text}");
        }
        self.look_around(self.fabric.folder(), &mut told);
        let secrets = self.secrets.take();
        assert!(secrets.len() >= 5, "{secrets:?}");
        for (secret, what) in &secrets {
            for (name, text) in &told {
                assert!(!text.contains(secret.as_str()), "{name} tells a {what}");
            }
        }
    }

    /// Remembers the keys in the files of a folder; the other files of the controller are among
    /// what was told.
    fn look_around(&self, folder: &Path, told: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_symlink() {
                continue;
            }
            if path.is_dir() {
                self.look_around(&path, told);
                continue;
            }
            let bytes = fs::read(&path).unwrap();
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let name = path.display().to_string();
            if text.contains(KEY) {
                self.remember_keys(&text, &format!("key of {name}"));
            } else {
                told.insert(name, text);
            }
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if thread::panicking() {
            tell(&self.fabric.last_words());
        }
    }
}

/// For whoever has to find out what went wrong.
#[allow(clippy::print_stdout, reason = "a test's output")]
fn tell(words: &str) {
    println!("{words}");
}

fn run(who: &Kapok, line: &str) -> Answer {
    let words: Vec<&str> = line.split(' ').collect();
    let output = who.output(&words).unwrap();
    Answer {
        code: output.status.code().unwrap(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
