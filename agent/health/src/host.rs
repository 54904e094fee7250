//! The server as sources see it: a root directory, and tools.
//!
//! Tests hand sources a fixture tree and recorded tools; production has "/" and the tools of the
//! configuration. Everything that is read is bounded: a file, and a tool's output and time.

use std::{
    collections::BTreeMap,
    fs, io,
    io::Read as _,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    io::AsyncReadExt as _,
    process::{Child, Command},
    time::{sleep, timeout},
};

use crate::Failure;

/// Largest file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;
/// Most that a tool may say, in bytes.
const MAX_OUTPUT_BYTES: u64 = 8 * 1024 * 1024;
/// Most entries of a directory that are looked at.
const MAX_ENTRIES: usize = 100_000;
/// How often a tool that was killed is looked for, and how many times, before it counts as hanging.
const REAP_EVERY: Duration = Duration::from_millis(20);
const REAP_TIMES: u32 = 50;

/// A server. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Host {
    root: PathBuf,
    tools: BTreeMap<String, PathBuf>,
    killed: Killed,
}

/// Tools that were killed and haven't ended: one that waits for a disk or a driver (state D) ends
/// when that answers. While one is left its like is not started, or they would pile up. Shared by
/// all clones of a host.
#[derive(Debug, Clone, Default)]
struct Killed(Arc<Mutex<BTreeMap<Call, Child>>>);

/// A tool and its arguments.
type Call = (String, Vec<String>);

/// What a tool left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// What it said, as text; bytes that are none are replaced.
    pub text: String,
    /// Its complaints, cut at 1 KiB.
    pub complaint: String,
    /// Its exit status; none if a signal ended it.
    pub status: Option<i32>,
}

impl Host {
    /// The server whose file system begins at `root`. Tools are looked for under it, where
    /// distributions put them.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            tools: BTreeMap::new(),
            killed: Killed::default(),
        }
    }

    /// With this program in the place of a tool.
    pub fn with_tool(mut self, tool: &str, program: impl Into<PathBuf>) -> Self {
        self.tools.insert(tool.to_owned(), program.into());
        self
    }

    /// Where a path of the server is.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// A file's text without the blanks around it; none if there is no such file. Sysfs answers
    /// "no such device" and "no data" for what a device doesn't have: that is none, too.
    ///
    /// # Errors
    ///
    /// It is there and can't be read.
    pub fn text(&self, path: impl AsRef<Path>) -> Result<Option<String>, Failure> {
        let path = path.as_ref();
        let read = || {
            let mut bytes = Vec::new();
            let file = fs::File::open(self.path(path))?;
            file.take(MAX_FILE_BYTES).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
        };
        match read() {
            Ok(text) => Ok(Some(text)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(unreadable(path, &error)),
        }
    }

    /// A file that holds one number, or begins with one.
    ///
    /// # Errors
    ///
    /// It is there and can't be read, or holds something else.
    pub fn number(&self, path: impl AsRef<Path>) -> Result<Option<f64>, Failure> {
        let path = path.as_ref();
        let Some(text) = self.text(path)? else {
            return Ok(None);
        };
        let word = text.split_whitespace().next().unwrap_or_default();
        let number = word.strip_prefix("0x").map_or_else(
            || word.parse::<f64>().ok(),
            |hex| u32::from_str_radix(hex, 16).ok().map(f64::from),
        );
        let number = number.filter(|number| number.is_finite());
        let shown: String = word.chars().take(32).collect();
        let wrong = || Failure::Unreadable(format!("{} holds {shown:?}", path.display()));
        number.map(Some).ok_or_else(wrong)
    }

    /// Names in a directory, sorted; none where there is no such directory.
    ///
    /// # Errors
    ///
    /// It is there and can't be read.
    pub fn list(&self, path: impl AsRef<Path>) -> Result<Vec<String>, Failure> {
        let path = path.as_ref();
        let entries = match fs::read_dir(self.path(path)) {
            Ok(entries) => entries,
            Err(error) if is_absent(&error) => return Ok(Vec::new()),
            Err(error) => return Err(unreadable(path, &error)),
        };
        let names = entries.take(MAX_ENTRIES).map(|entry| {
            let name = entry.map_err(|error| unreadable(path, &error))?.file_name();
            Ok(name.to_string_lossy().into_owned())
        });
        let mut names = names.collect::<Result<Vec<_>, Failure>>()?;
        names.sort();
        Ok(names)
    }

    /// The last part of what a symbolic link points to; none if there is no such link.
    pub fn link(&self, path: impl AsRef<Path>) -> Option<String> {
        let target = fs::read_link(self.path(path)).ok()?;
        Some(target.file_name()?.to_string_lossy().into_owned())
    }

    /// Whether there is such a file or directory.
    pub fn exists(&self, path: impl AsRef<Path>) -> bool {
        self.path(path).exists()
    }

    /// Where a tool is.
    ///
    /// # Errors
    ///
    /// [`Failure::Absent`]: it isn't installed.
    pub fn tool(&self, tool: &str) -> Result<PathBuf, Failure> {
        if let Some(program) = self.tools.get(tool) {
            return Ok(program.clone());
        }
        [
            "/usr/sbin",
            "/usr/bin",
            "/sbin",
            "/bin",
            "/usr/local/sbin",
            "/usr/local/bin",
        ]
        .into_iter()
        .map(|folder| self.path(folder).join(tool))
        .find(|program| program.is_file())
        .ok_or_else(|| Failure::Absent(format!("{tool} isn't installed")))
    }

    /// Runs a tool without a shell, with an empty environment but for the locale. It is killed when
    /// it takes too long, with all that it has started. Any exit status is an answer: some tools' is a bitmask.
    ///
    /// # Errors
    ///
    /// It isn't installed, can't be started, took too long or said too much; or it was killed
    /// earlier and has not ended yet.
    pub async fn run(
        &self,
        tool: &str,
        arguments: &[&str],
        deadline: Duration,
    ) -> Result<Output, Failure> {
        let program = self.tool(tool)?;
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

/// Whether an error says that the thing isn't there. Source: sysfs drivers answer ENODEV, ENXIO,
/// ENODATA or EOPNOTSUPP for an attribute that their device lacks.
fn is_absent(error: &io::Error) -> bool {
    const ENXIO: i32 = 6;
    const ENODEV: i32 = 19;
    const ENODATA: i32 = 61;
    const EOPNOTSUPP: i32 = 95;
    error.kind() == io::ErrorKind::NotFound
        || error.kind() == io::ErrorKind::NotADirectory
        || matches!(
            error.raw_os_error(),
            Some(ENXIO | ENODEV | ENODATA | EOPNOTSUPP)
        )
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    Failure::Unreadable(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(host: &Host) -> usize {
        host.killed.0.lock().unwrap().len()
    }

    /// One that can't be killed at all (state D) no test can have: a child that nobody has killed
    /// stands for it.
    #[tokio::test]
    async fn while_a_tool_hangs_its_like_is_not_started() {
        let host = Host::new("/");
        let child = Command::new("sleep")
            .arg("3600")
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap());
        host.killed.keep(("echo".into(), vec!["a".into()]), child);
        let run = async |arguments: &[&str]| {
            let clone = host.clone();
            clone.run("echo", arguments, Duration::from_secs(30)).await
        };
        let hangs = Failure::Unreadable("echo still hangs since its last call".to_owned());
        assert_eq!(run(&["a"]).await, Err(hangs));
        assert_eq!(run(&["b"]).await.unwrap().status, Some(0));
        nix::sys::signal::kill(pid, Signal::SIGKILL).unwrap();
        assert_eq!(run(&["a"]).await.unwrap().text, "a\n");
        assert_eq!(left(&host), 0);
    }

    #[tokio::test]
    async fn a_tool_that_was_given_up_is_reaped_before_the_next() {
        let host = Host::new("/");
        for _ in 0..3 {
            let late = host
                .run("sleep", &["3600"], Duration::from_millis(20))
                .await;
            let late = late.unwrap_err().to_string();
            assert_eq!(late, "sleep didn't answer within 20ms");
            assert_eq!(left(&host), 1);
        }
        // The caller's patience ends earlier.
        let run = host.run("sleep", &["3600"], Duration::from_secs(30));
        assert!(timeout(Duration::from_millis(20), run).await.is_err());
        let ended = host
            .run("sleep", &["0"], Duration::from_secs(30))
            .await
            .unwrap();
        assert_eq!(ended.end(), "ended with 0");
    }
}
