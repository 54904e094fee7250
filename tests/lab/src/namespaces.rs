//! Making namespaces, and running a piece of work inside them.
//!
//! A namespace belongs to a thread here, not to the process: work runs on a short-lived
//! thread that joins first, so nothing else in this process ever changes its view.
//!
//! **Invariant:** namespaces have no names in the file system. They end with their last
//! process, so a killed lab leaves none.

use std::fs::File;
use std::thread;

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns, unshare};

/// What a machine of the lab has of its own.
const OWN: &[(&str, CloneFlags)] = &[
    ("net", CloneFlags::CLONE_NEWNET),
    ("uts", CloneFlags::CLONE_NEWUTS),
    ("ipc", CloneFlags::CLONE_NEWIPC),
    // For children only: a thread stays where it is.
    ("pid", CloneFlags::CLONE_NEWPID),
    ("mnt", CloneFlags::CLONE_NEWNS),
];

/// Open handles on a machine's namespaces.
#[derive(Debug)]
pub(crate) struct Namespaces {
    handles: Vec<(CloneFlags, File)>,
}

impl Namespaces {
    /// Opens those of a running process.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let open = |(name, flag): &(&str, CloneFlags)| -> Result<(CloneFlags, File)> {
            let path = format!("/proc/{pid}/ns/{name}");
            Ok((
                *flag,
                File::open(&path).with_context(|| format!("can't open {path}"))?,
            ))
        };
        Ok(Self {
            handles: OWN.iter().map(open).collect::<Result<_>>()?,
        })
    }

    /// Does some work inside all of them. What it spawns is inside too.
    pub(crate) fn within<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.join(CloneFlags::all(), work)
    }

    /// Does some work with only the network changed: files and process ids are the raiser's.
    pub(crate) fn within_network<T: Send>(
        &self,
        work: impl FnOnce() -> Result<T> + Send,
    ) -> Result<T> {
        self.join(CloneFlags::CLONE_NEWNET, work)
    }

    fn join<T: Send>(
        &self,
        which: CloneFlags,
        work: impl FnOnce() -> Result<T> + Send,
    ) -> Result<T> {
        on_own_thread(|| {
            // The kernel lets only a thread with a private root and working folder change its
            // mount namespace.
            unshare(CloneFlags::CLONE_FS).context("can't separate a thread's file view")?;
            for (flag, handle) in &self.handles {
                if which.contains(*flag) {
                    setns(handle, *flag).context("can't join the namespaces of a lab machine")?;
                }
            }
            work()
        })
    }
}

/// Does some work inside new namespaces. The first process that it spawns is their init.
pub(crate) fn within_new<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    on_own_thread(|| {
        let all = OWN
            .iter()
            .fold(CloneFlags::CLONE_FS, |flags, (_, flag)| flags | *flag);
        unshare(all).context("can't make namespaces: the lab needs root")?;
        work()
    })
}

fn on_own_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        scope
            .spawn(work)
            .join()
            .map_err(|_| anyhow!("work inside a lab machine panicked"))?
    })
}
