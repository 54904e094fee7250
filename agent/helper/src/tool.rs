//! Tools: programs that read hardware, and are bounded in all that they do.
//!
//! A tool is run without a shell and with next to no environment. What it says is bounded; when it
//! takes too long it is killed with all that it has started.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::{Pid, geteuid},
};
use serde::{Deserialize, Serialize};
use tokio::{
    io::AsyncReadExt as _,
    process::{Child, Command},
    time::{sleep, timeout},
};

/// Where distributions put tools.
const FOLDERS: [&str; 6] = [
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
    "/usr/local/sbin",
    "/usr/local/bin",
];
/// Most that a tool may say, in bytes.
const MAX_OUTPUT_BYTES: u64 = 8 * 1024 * 1024;
/// How often a tool that was killed is looked for, and how many times, before it counts as hanging.
const REAP_EVERY: Duration = Duration::from_millis(20);
const REAP_TIMES: u32 = 50;
/// Writable by the group or by others.
const LOOSE: u32 = 0o022;

/// Why nothing was read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// The server has nothing of the kind, or the tool isn't installed: nothing is wrong.
    #[error("not on this server: {0}")]
    Absent(String),
    /// It should be there and could not be read.
    #[error("{0}")]
    Unreadable(String),
}

/// The tools of a server. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tools {
    root: PathBuf,
    named: BTreeMap<String, PathBuf>,
    guarded: bool,
    killed: Killed,
}

/// Tools that were killed and haven't ended: one that waits for a disk or a driver (state D) ends
/// when that answers. While one is left its like is not started, or they would pile up. Shared by
/// all clones of [`Tools`].
#[derive(Debug, Clone, Default)]
struct Killed(Arc<Mutex<BTreeMap<Call, Child>>>);

/// A tool and its arguments.
type Call = (String, Vec<String>);

/// What a tool left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// What it said, as text; bytes that are none are replaced.
    pub text: String,
    /// Its complaints, cut at 1 KiB.
    pub complaint: String,
    /// Its exit status; none if a signal ended it.
    pub status: Option<i32>,
}

impl Tools {
    /// The tools of the server whose file system begins at `root`, where distributions put them.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            named: BTreeMap::new(),
            guarded: false,
            killed: Killed::default(),
        }
    }

    /// With this program in the place of a tool.
    pub fn with(mut self, tool: &str, program: impl Into<PathBuf>) -> Self {
        self.named.insert(tool.to_owned(), program.into());
        self
    }

    /// Without those that somebody else than root and this process' user could change: what has
    /// rights runs nothing that others wrote.
    pub fn guarded(mut self) -> Self {
        self.guarded = true;
        self
    }

    /// Whether [`Tools::with`] has said where this tool is.
    pub fn is_named(&self, tool: &str) -> bool {
        self.named.contains_key(tool)
    }

    /// Where a path of the server is.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Where a tool is.
    ///
    /// # Errors
    ///
    /// [`Failure::Absent`]: it isn't installed. Else others could change it, and nobody else may.
    pub fn find(&self, tool: &str) -> Result<PathBuf, Failure> {
        if let Some(program) = self.named.get(tool) {
            return Ok(program.clone());
        }
        let places = FOLDERS.iter().map(|folder| self.path(folder).join(tool));
        let program = { places }.find(|program| program.is_file());
        let absent = || Failure::Absent(format!("{tool} isn't installed"));
        let program = program.ok_or_else(absent)?;
        if self.guarded && is_loose(&program) {
            let shown = program.display();
            let loose = format!("{shown} isn't run: others than root can change it or its folder");
            return Err(Failure::Unreadable(loose));
        }
        Ok(program)
    }

    /// Runs a tool without a shell, with an empty environment but for the locale. It is killed when
    /// it takes too long, with all that it has started. Any exit status is an answer: some tools' is a bitmask.
    ///
    /// # Errors
    ///
    /// It isn't installed, can't be started, took too long or said too much; or it was killed
    /// earlier and has not ended yet.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it kills the tool.
    pub async fn run(
        &self,
        tool: &str,
        arguments: &[&str],
        deadline: Duration,
    ) -> Result<Output, Failure> {
        let program = self.find(tool)?;
        let owned = arguments.iter().map(|argument| (*argument).to_owned());
        let call = (tool.to_owned(), owned.collect());
        self.killed.wait(&call).await?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .env("LC_ALL", "C.UTF-8")
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let failed = |error: io::Error| Failure::Unreadable(format!("{tool}: {error}"));
        let mut child = command.spawn().map_err(failed)?;
        let (said, complained) = (child.stdout.take(), child.stderr.take());
        let mut running = Running {
            child: Some(child),
            call,
            killed: self.killed.clone(),
        };
        let work = async {
            let (mut text, mut complaint) = (Vec::new(), Vec::new());
            // Both at once: a tool that fills one waits for its reader.
            let hear = async {
                if let Some(said) = said {
                    said.take(MAX_OUTPUT_BYTES).read_to_end(&mut text).await?;
                }
                Ok::<(), io::Error>(())
            };
            let hear_complaints = async {
                if let Some(mut complained) = complained {
                    (&mut complained)
                        .take(1024)
                        .read_to_end(&mut complaint)
                        .await?;
                    // Or it would wait for a reader for ever.
                    tokio::io::copy(&mut complained, &mut tokio::io::sink()).await?;
                }
                Ok(())
            };
            tokio::try_join!(hear, hear_complaints)?;
            let status = match &mut running.child {
                Some(child) => child.wait().await?.code(),
                None => None,
            };
            running.child = None;
            Ok((text, complaint, status))
        };
        let late = || Failure::Unreadable(format!("{tool} didn't answer within {deadline:?}"));
        let (text, complaint, status) = timeout(deadline, work)
            .await
            .map_err(|_| late())?
            .map_err(failed)?;
        if u64::try_from(text.len()).unwrap_or(u64::MAX) >= MAX_OUTPUT_BYTES {
            return Err(Failure::Unreadable(format!("{tool} said too much")));
        }
        Ok(Output {
            text: String::from_utf8_lossy(&text).into_owned(),
            complaint: String::from_utf8_lossy(&complaint).trim().to_owned(),
            status,
        })
    }
}

impl Output {
    /// How it ended, and its complaint if it has one.
    pub fn end(&self) -> String {
        let status = self.status.map_or_else(
            || "was ended by a signal".to_owned(),
            |status| format!("ended with {status}"),
        );
        match self.complaint.as_str() {
            "" => status,
            complaint => format!("{status}: {complaint}"),
        }
    }
}

impl Killed {
    /// Waits a moment for a tool that was killed to end.
    ///
    /// # Errors
    ///
    /// It does not.
    async fn wait(&self, call: &Call) -> Result<(), Failure> {
        for _ in 0..REAP_TIMES {
            if !self.is_left(call) {
                return Ok(());
            }
            sleep(REAP_EVERY).await;
        }
        let (tool, _) = call;
        let hangs = format!("{tool} still hangs since its last call");
        Err(Failure::Unreadable(hangs))
    }

    /// Reaps all that have ended, and says whether this one is left.
    fn is_left(&self, call: &Call) -> bool {
        let mut killed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        killed.retain(|_, child| matches!(child.try_wait(), Ok(None)));
        killed.contains_key(call)
    }

    fn keep(&self, call: Call, child: Child) {
        let mut killed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        killed.insert(call, child);
    }
}

/// A tool that was started: unless it has ended by itself, it is killed with all that it has
/// started, and kept until it has ended.
struct Running {
    child: Option<Child>,
    call: Call,
    killed: Killed,
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(child) = self.child.take() else {
            return;
        };
        // While it isn't waited for, its id is its own.
        if let Some(group) = child.id().and_then(|id| i32::try_from(id).ok()) {
            // It may have ended meanwhile: then nothing is left to kill.
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
        self.killed.keep(std::mem::take(&mut self.call), child);
    }
}

/// Whether a program, or the folder that it is in, could be changed by others.
fn is_loose(program: &Path) -> bool {
    let own = geteuid().as_raw();
    let tight = |path: &Path| {
        let is = fs::metadata(path);
        is.is_ok_and(|is| [0, own].contains(&is.uid()) && is.mode() & LOOSE == 0)
    };
    // Behind links: Debian's alternatives are some.
    let real = fs::canonicalize(program).unwrap_or_else(|_| program.to_owned());
    !tight(&real) || !real.parent().is_some_and(tight)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(tools: &Tools) -> usize {
        tools.killed.0.lock().unwrap().len()
    }

    /// One that can't be killed at all (state D) no test can have: a child that nobody has killed
    /// stands for it.
    #[tokio::test]
    async fn while_a_tool_hangs_its_like_is_not_started() {
        let _alone = crate::alone().await;
        let tools = Tools::new("/");
        let child = Command::new("sleep")
            .arg("3600")
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap());
        tools.killed.keep(("echo".into(), vec!["a".into()]), child);
        let run = async |arguments: &[&str]| {
            let clone = tools.clone();
            clone.run("echo", arguments, Duration::from_secs(30)).await
        };
        let hangs = Failure::Unreadable("echo still hangs since its last call".to_owned());
        assert_eq!(run(&["a"]).await, Err(hangs));
        assert_eq!(run(&["b"]).await.unwrap().status, Some(0));
        nix::sys::signal::kill(pid, Signal::SIGKILL).unwrap();
        assert_eq!(run(&["a"]).await.unwrap().text, "a\n");
        assert_eq!(left(&tools), 0);
    }

    #[tokio::test]
    async fn a_tool_that_was_given_up_is_reaped_before_the_next() {
        let _alone = crate::alone().await;
        let tools = Tools::new("/");
        for _ in 0..3 {
            let late = tools
                .run("sleep", &["3600"], Duration::from_millis(20))
                .await;
            let late = late.unwrap_err().to_string();
            assert_eq!(late, "sleep didn't answer within 20ms");
            assert_eq!(left(&tools), 1);
        }
        // The caller's patience ends earlier.
        let run = tools.run("sleep", &["3600"], Duration::from_secs(30));
        assert!(timeout(Duration::from_millis(20), run).await.is_err());
        let ended = tools
            .run("sleep", &["0"], Duration::from_secs(30))
            .await
            .unwrap();
        assert_eq!(ended.end(), "ended with 0");
    }
}
