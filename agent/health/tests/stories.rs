//! Hardware stories: a server to which something happens, the real sources that read it, and what
//! the judge makes of it.
//!
//! `stories/NAME/story.toml` is a sequence of steps. Each changes files of the server, or what its
//! tools print, lets time pass and asks all sources; `golden.txt` beside it is what was then said.
//! What only the agent itself can read (lanes to libvirt, its certificate, the inventory) and what
//! no fixture can hold (how full a file system is) a step says in a source's name.
//!
//! `KAPOK_BLESS=1 cargo test -p kapok-health --test stories` writes the goldens anew.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod bmc;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use kapok_health::{
    Failure, Host, Judge, Reading, Rules, Source, Sweep,
    config::{Config, Span},
    quantity,
    rules::Overrides,
    source,
};
use kapok_types::Timestamp;
use serde::Deserialize;

use crate::bmc::Bmc;

/// The wall clock when a story begins: 2026-09-21T13:06:40Z.
const START_MS: u64 = 1_790_000_000_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Story {
    /// What is shown, in a sentence.
    about: String,
    #[serde(default)]
    config: Config,
    #[serde(default)]
    rules: Overrides,
    step: Vec<Step>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    /// What happens.
    about: String,
    /// How much time passes before the sources are asked.
    #[serde(default = "cadence")]
    after: Span,
    /// How long a source is really waited for, instead of its deadline.
    patience: Option<Span>,
    /// How often that is repeated.
    #[serde(default = "once")]
    times: u32,
    /// Files that are written; they stay.
    #[serde(default)]
    files: BTreeMap<String, String>,
    /// The same, and they can be run.
    #[serde(default)]
    programs: BTreeMap<String, String>,
    /// Symbolic links that are made; they stay.
    #[serde(default)]
    links: BTreeMap<String, String>,
    /// Files and folders that are taken away.
    #[serde(default)]
    gone: Vec<String>,
    /// What a tool prints from now on, by its name.
    #[serde(default)]
    tools: BTreeMap<String, Vec<Answer>>,
    /// What the management controller says from now on, by resource.
    #[serde(default)]
    redfish: BTreeMap<String, String>,
    /// What else is said from now on, by source: "COMPONENT QUANTITY VALUE".
    #[serde(default)]
    said: BTreeMap<String, Vec<String>>,
}

/// What a tool prints.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    /// If this is among its arguments; the first answer that fits is given.
    #[serde(default)]
    to: String,
    #[serde(default)]
    says: String,
    /// The same, from a file beside the story.
    file: Option<PathBuf>,
    #[serde(default)]
    status: u8,
    #[serde(default)]
    hangs: bool,
}

fn cadence() -> Span {
    Span(Duration::from_mins(1))
}

const fn once() -> u32 {
    1
}

/// A server on which a story happens.
struct Stage {
    story: PathBuf,
    root: tempfile::TempDir,
    host: Host,
    bmc: Option<Bmc>,
    sources: Vec<Arc<dyn Source>>,
    judge: Judge,
    monotonic: Duration,
    said: BTreeMap<String, Vec<Reading>>,
}

impl Stage {
    async fn new(story: &Path, told: &Story) -> Self {
        let root = tempfile::tempdir().unwrap();
        let mut config = told.config.clone();
        let has_bmc = told.step.iter().any(|step| !step.redfish.is_empty());
        let mut bmc = None;
        if has_bmc {
            let bmc = bmc.insert(Bmc::start().await);
            config.redfish = Some(bmc.settings());
        }
        config.check().unwrap();
        Self {
            story: story.to_owned(),
            host: Host::new(root.path().join("server")),
            root,
            bmc,
            sources: source::all(&config),
            judge: Judge::new(Rules::with(&told.rules).unwrap()),
            monotonic: Duration::from_mins(10),
            said: BTreeMap::new(),
        }
    }

    fn prepare(&mut self, step: &Step) {
        for path in &step.gone {
            let path = self.host.path(path);
            if path.is_dir() {
                fs::remove_dir_all(path).unwrap();
            } else {
                fs::remove_file(path).unwrap();
            }
        }
        for (path, text) in &step.files {
            let path = self.place(path);
            fs::write(path, format!("{text}\n")).unwrap();
        }
        for (path, text) in &step.programs {
            let path = self.place(path);
            fs::write(&path, text).unwrap();
            runnable(&path);
        }
        for (path, target) in &step.links {
            symlink(target, self.place(path)).unwrap();
        }
        for (tool, answers) in &step.tools {
            self.tool(tool, answers);
        }
        if let Some(bmc) = &self.bmc {
            bmc.say(&step.redfish);
        }
        for (source, lines) in &step.said {
            let readings = lines.iter().map(|line| reading(line)).collect();
            self.said.insert(source.clone(), readings);
        }
    }

    fn place(&self, path: &str) -> PathBuf {
        let path = self.host.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    /// A program that prints what was recorded.
    fn tool(&mut self, tool: &str, answers: &[Answer]) {
        let folder = self.root.path().join("tools").join(tool);
        fs::create_dir_all(&folder).unwrap();
        let mut script = "#!/bin/sh\n".to_owned();
        for (number, answer) in answers.iter().enumerate() {
            let says = match &answer.file {
                Some(file) => fs::read_to_string(self.story.join(file)).unwrap(),
                None => answer.says.clone(),
            };
            let file = folder.join(format!("answer{number}"));
            fs::write(&file, says).unwrap();
            let end = if answer.hangs {
                "exec sleep 3600".to_owned()
            } else {
                format!("exit {}", answer.status)
            };
            let (to, file) = (&answer.to, file.display());
            writeln!(
                script,
                "case \" $* \" in *'{to}'*) cat '{file}'; {end};; esac"
            )
            .unwrap();
        }
        script.push_str("echo \"asked for what was not recorded: $*\" >&2\nexit 127\n");
        let program = folder.join("program");
        fs::write(&program, script).unwrap();
        runnable(&program);
        self.host = self.host.clone().with_tool(tool, program);
    }

    /// Asks all sources, as the agent does: whoever takes too long is given up.
    async fn look(&mut self, patience: Option<Span>) {
        for source in &self.sources {
            let deadline = patience.map_or_else(|| source.deadline(), |it| it.0);
            let read = tokio::time::timeout(deadline, source.read(&self.host)).await;
            let late = format!("no answer within {deadline:?}");
            let outcome = read.unwrap_or(Err(Failure::Unreadable(late)));
            let name = source.name();
            take(&mut self.judge, name, self.monotonic, outcome);
        }
        for (source, readings) in &self.said {
            let outcome = Ok(readings.clone());
            take(&mut self.judge, source, self.monotonic, outcome);
        }
    }

    /// What is said now. How each source does is left out, and sources that do well: there are
    /// many, and those that don't have a verdict.
    fn assess(&self) -> String {
        let assessment = self.judge.assess(at(self.monotonic), self.monotonic);
        let text = assessment.to_string();
        let lines = text.lines().take_while(|line| *line != "sources:");
        let shown = lines.filter(|line| !line.starts_with("  healthy  source/"));
        shown.fold(String::new(), |text, line| text + line + "\n")
    }
}

fn runnable(program: &Path) {
    fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
}

fn take(
    judge: &mut Judge,
    source: &str,
    monotonic: Duration,
    outcome: Result<Vec<Reading>, Failure>,
) {
    judge.take(&Sweep {
        source: source.into(),
        at: at(monotonic),
        monotonic,
        outcome,
    });
}

fn at(monotonic: Duration) -> Timestamp {
    Timestamp(START_MS + u64::try_from(monotonic.as_millis()).unwrap())
}

fn reading(line: &str) -> Reading {
    let mut words = line.rsplitn(3, ' ');
    let (value, name) = (words.next().unwrap(), words.next().unwrap());
    let component = words.next().unwrap().parse().unwrap();
    let quantity = quantity::ALL.iter().find(|it| it.name == name);
    let quantity = quantity.unwrap_or_else(|| panic!("{name} is no quantity"));
    Reading::new(&component, quantity.clone(), value.parse().unwrap())
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stories")
}

fn stories() -> Vec<PathBuf> {
    let entries = fs::read_dir(folder()).unwrap();
    let mut stories: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    stories.sort();
    stories
}

async fn tell(path: &Path) -> String {
    let text = fs::read_to_string(path.join("story.toml")).unwrap();
    let story: Story =
        toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut stage = Stage::new(path, &story).await;
    let mut golden = format!("{}\n", story.about);
    for step in &story.step {
        stage.prepare(step);
        for _ in 0..step.times {
            stage.monotonic += step.after.0;
            stage.look(step.patience).await;
        }
        write!(golden, "\n== {}\n{}", step.about, stage.assess()).unwrap();
    }
    golden
}

/// Where two texts part, with the lines around it.
fn difference(expected: &str, found: &str) -> String {
    let same = expected.lines().zip(found.lines());
    let line = same
        .take_while(|(expected, found)| expected == found)
        .count();
    let around = |text: &str| {
        let lines = text.lines().skip(line.saturating_sub(2)).take(6);
        lines.fold(String::new(), |text, line| text + "    " + line + "\n")
    };
    format!(
        "line {}:\n  expected\n{}  found\n{}",
        line + 1,
        around(expected),
        around(found)
    )
}

/// FAULTS 63, its tools: of those that hang or print garbage two stories tell.
#[tokio::test]
async fn every_story_ends_as_it_is_told() {
    let bless = std::env::var_os("KAPOK_BLESS").is_some();
    let mut wrong = String::new();
    for path in stories() {
        let (found, golden) = (tell(&path).await, path.join("golden.txt"));
        if bless {
            fs::write(golden, found).unwrap();
            continue;
        }
        let expected = fs::read_to_string(golden).unwrap_or_default();
        if expected != found {
            let name = path.file_name().unwrap().display();
            writeln!(wrong, "{name}, {}", difference(&expected, &found)).unwrap();
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn every_rule_is_in_a_story() {
    let stories = stories();
    assert!(stories.len() >= 30, "there are only {}", stories.len());
    let goldens = stories.iter().map(|path| path.join("golden.txt"));
    let goldens: String = goldens
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    let said: BTreeSet<&str> = goldens.split_whitespace().collect();
    let rules = Rules::default();
    let codes = rules.table().iter().map(|rule| rule.code);
    // What takes twenty thousand readings the judge's own tests show.
    let told = |code: &&str| said.contains(code) || *code == "SOURCE_SAYS_TOO_MUCH";
    let missing: Vec<&str> = codes.filter(|code| !told(code)).collect();
    assert!(missing.is_empty(), "no story tells of {missing:?}");
}
