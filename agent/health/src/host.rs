//! The server as sources see it: a root directory, and tools.
//!
//! Tests hand sources a fixture tree and recorded tools; production has "/" and the tools of the
//! configuration. Everything that is read is bounded: a file, and a tool's output and time.
//!
//! What needs rights is asked of `kapok-helper`, if there is one; else with this process' own.

use std::{
    fs, io,
    io::Read as _,
    path::{Path, PathBuf},
    time::Duration,
};

pub use kapok_helper::Output;
use kapok_helper::{Answer, Request, Tools, client, question};
use tokio::sync::mpsc;

use crate::Failure;

/// Largest file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;
/// Most entries of a directory that are looked at.
const MAX_ENTRIES: usize = 100_000;
/// A server. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Host {
    tools: Tools,
    helper: Option<PathBuf>,
}

impl Host {
    /// The server whose file system begins at `root`. Tools are looked for under it, where
    /// distributions put them.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            tools: Tools::new(root),
            helper: None,
        }
    }

    /// With this program in the place of a tool.
    pub fn with_tool(mut self, tool: &str, program: impl Into<PathBuf>) -> Self {
        self.tools = self.tools.with(tool, program);
        self
    }

    /// With a helper that asks the hardware, if there is a socket at this path when it is asked.
    pub fn with_helper(mut self, socket: impl Into<PathBuf>) -> Self {
        self.helper = Some(socket.into());
        self
    }

    /// Where a path of the server is.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.tools.path(path)
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
        self.tools.find(tool)
    }

    /// The tools.
    pub const fn tools(&self) -> &Tools {
        &self.tools
    }

    /// Runs a tool, see [`Tools::run`]. Any exit status is an answer: some tools' is a bitmask.
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
        self.tools.run(tool, arguments, deadline).await
    }

    /// Asks the hardware: through the helper where there is one, and else with this process' own
    /// rights. A tool that was named in the place of the usual one is this process' own affair.
    ///
    /// # Errors
    ///
    /// Nothing of the kind is here, or nothing of it could be read. Answers that were taken before
    /// are good.
    pub async fn ask(
        &self,
        request: Request,
        take: impl FnMut(Answer) + Send,
    ) -> Result<(), Failure> {
        match self.helper(request) {
            Some(socket) => client::ask(socket, request, take).await,
            None => {
                each(
                    async |to| question::ask(request, &self.tools, &to).await,
                    take,
                )
                .await
            }
        }
    }

    fn helper(&self, request: Request) -> Option<&Path> {
        let helper = self.helper.as_deref()?;
        let own = request.tools().iter().any(|it| self.tools.is_named(it));
        (!own && helper.exists()).then_some(helper)
    }
}

/// Gives all that `ask` finds to `take`.
pub(crate) async fn each(
    ask: impl AsyncFnOnce(mpsc::Sender<Answer>) -> Result<(), Failure>,
    mut take: impl FnMut(Answer),
) -> Result<(), Failure> {
    let (to, mut answers) = mpsc::channel(1);
    let taking = async {
        while let Some(answer) = answers.recv().await {
            take(answer);
        }
    };
    tokio::join!(ask(to), taking).0
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
