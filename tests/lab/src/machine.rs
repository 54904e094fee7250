//! One machine of the lab: namespaces, an init that holds them, and a folder for what its
//! disks would keep.
//!
//! ```text
//!  raiser ──pipe──► init (pid 1 of its own pid namespace)
//!                     ├─ whatever was started inside: libvirtd, QEMU, dnsmasq, an agent
//!                     └─ orphans, which it reaps
//! ```
//!
//! The init reads a pipe whose only writing end is in the raiser. However the raiser ends, even
//! by SIGKILL, the pipe closes, the init ends, the kernel kills every process of its pid
//! namespace, and the other namespaces, mounts and interfaces go with them.
//!
//! `/etc`, `/var` and `/run` are the machine's own, everything else is shared with the raiser.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use uuid::Uuid;

use crate::command::Command;
use crate::namespaces::{Namespaces, within_new};
use crate::places;
use crate::process::Shared;
use crate::run::{run, system};
use crate::users;
use crate::wait::until;

/// What the init does. `$1` is the file that stands for the kernel's boot id.
///
/// The shell doesn't turn into `cat`: it waits, and so reaps the orphans of its namespace, which
/// libvirt needs to see that a QEMU has ended.
const INIT: &str = r#"
mount -t proc proc /proc || exit 1
mount --bind "$1" /proc/sys/kernel/random/boot_id || exit 1
echo ready
cat >/dev/null
exit 0
"#;

/// How long a machine may take to go.
const END: Duration = Duration::from_secs(15);

/// A running machine. Dropping it is a power cut.
#[derive(Debug)]
pub struct Machine {
    name: String,
    folder: PathBuf,
    address: Ipv4Addr,
    namespaces: Namespaces,
    pid: u32,
    init: Mutex<Child>,
    /// Processes that the raiser has spawned inside.
    children: Mutex<Vec<Shared>>,
}

impl Machine {
    /// Starts a machine. `folder` keeps its disks' content and may come from an earlier start;
    /// `boot` tells this start from others.
    pub(crate) fn start(name: &str, folder: &Path, address: Ipv4Addr, boot: Uuid) -> Result<Self> {
        let id = Uuid::new_v5(&Uuid::NAMESPACE_OID, folder.as_os_str().as_encoded_bytes());
        make_disks(name, folder, id)?;
        let boot_id = folder.join("boot_id");
        fs::write(&boot_id, format!("{boot}\n"))?;

        let mut child = within_new(|| {
            make_view(folder)?;
            fs::write("/proc/sys/kernel/hostname", name).context("can't set a host name")?;
            system("sh")
                .args(["-c", INIT, "kapok-lab-init"])
                .arg(&boot_id)
                .current_dir("/")
                .process_group(0)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .context("can't start a machine's init")
        })?;
        let pid = child.id();
        let mut answer = String::new();
        if let Some(output) = child.stdout.take() {
            BufReader::new(output).read_line(&mut answer)?;
        }
        if answer.trim() != "ready" {
            let _ended = child.kill().and_then(|()| child.wait());
            bail!("{name} didn't start: its /proc can't be mounted here (see above)");
        }
        // For the caretaker, which waits for it before it removes the folder.
        fs::write(folder.join("init.pid"), pid.to_string())?;
        let namespaces = Namespaces::of(pid)?;
        let machine = Self {
            name: name.to_owned(),
            folder: folder.to_path_buf(),
            address,
            namespaces,
            pid,
            init: Mutex::new(child),
            children: Mutex::new(Vec::new()),
        };
        machine.check_view()?;
        machine.network(&["link", "set", "lo", "up"])?;
        Ok(machine)
    }

    /// Makes sure that what is started inside sees the machine's own folders. From a chroot it
    /// wouldn't: joining a mount namespace leads out of it, to the folders of the real system.
    fn check_view(&self) -> Result<()> {
        let seen = self
            .namespaces
            .within(|| Ok(fs::read_to_string("/etc/hostname")?))?;
        if seen.trim() != self.name {
            bail!("a lab can't be raised from a chroot; use a container with a root of its own");
        }
        Ok(())
    }

    /// Its host name: `hub`, `node-1`, …
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address in the lab's network.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The process id of its init, as this process sees it: `nsenter --target PID --all` enters.
    pub fn init_pid(&self) -> u32 {
        self.pid
    }

    /// Where a file of this machine can be reached from outside, while the machine runs.
    pub fn path(&self, inside: impl AsRef<Path>) -> PathBuf {
        let inside = inside.as_ref();
        let relative = inside.strip_prefix("/").unwrap_or(inside);
        Path::new("/proc")
            .join(self.pid.to_string())
            .join("root")
            .join(relative)
    }

    /// A command inside this machine.
    pub fn command(&self, program: impl Into<OsString>) -> Command<'_> {
        Command::new(self, program.into())
    }

    /// Writes a file into this machine, readable by all and owned by `kapok`.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub fn write(&self, inside: impl AsRef<Path>, content: &str) -> Result<()> {
        let path = self.path(inside);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&path, content).with_context(|| format!("can't write {}", path.display()))?;
        let (uid, gid) = users::ids(&self.folder.join("etc"))?;
        std::os::unix::fs::chown(&path, Some(uid), Some(gid))?;
        Ok(())
    }

    /// Opens a TCP connection from inside this machine's network.
    ///
    /// # Errors
    ///
    /// When nobody answers within 5 s.
    pub fn connect(&self, to: SocketAddr) -> Result<TcpStream> {
        self.namespaces.within_network(|| {
            TcpStream::connect_timeout(&to, Duration::from_secs(5))
                .with_context(|| format!("can't connect from {} to {to}", self.name))
        })
    }

    /// Finds a process of this machine by the id that it has inside.
    ///
    /// # Errors
    ///
    /// When there is no such process.
    pub fn outer_pid(&self, inner: u32) -> Result<u32> {
        let own = fs::read_link(format!("/proc/{}/ns/pid", self.pid))?;
        for entry in fs::read_dir("/proc")? {
            let folder = entry?.path();
            let status = fs::read_to_string(folder.join("status")).unwrap_or_default();
            let is_it = status
                .lines()
                .find_map(|line| line.strip_prefix("NSpid:"))
                .and_then(|pids| pids.split_whitespace().last())
                .is_some_and(|last| last == inner.to_string());
            if is_it && fs::read_link(folder.join("ns/pid")).is_ok_and(|space| space == own) {
                let name = folder
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned();
                return Ok(name.parse()?);
            }
        }
        bail!("{} has no process {inner}", self.name)
    }

    /// Whether the machine still runs.
    pub fn is_alive(&self) -> bool {
        fs::metadata(format!("/proc/{}/exe", self.pid)).is_ok()
    }

    pub(crate) fn namespaces(&self) -> &Namespaces {
        &self.namespaces
    }

    pub(crate) fn log_folder(&self) -> PathBuf {
        self.folder.join("logs")
    }

    /// Runs `ip` in this machine's network, with the raiser's process ids.
    pub(crate) fn network(&self, arguments: &[&str]) -> Result<String> {
        self.namespaces
            .within_network(|| run(system("ip").args(arguments)))
            .with_context(|| format!("in the network of {}", self.name))
    }

    /// The power cut: every process of the machine is killed at once, and gone on return.
    ///
    /// # Errors
    ///
    /// When a process hangs inside the kernel.
    pub(crate) fn cut_power(&self) -> Result<()> {
        let mut init = lock(&self.init);
        if init.try_wait()?.is_none() {
            init.kill()?;
        }
        // The init's end is seen only when all others of its pid namespace are gone.
        until(&format!("the end of {}", self.name), END, || {
            for child in lock(&self.children).iter() {
                child.ended()?;
            }
            Ok(init.try_wait()?)
        })
        .map(|_| ())
    }

    /// Takes note of a process that the raiser has spawned inside.
    pub(crate) fn adopt(&self, child: Shared) {
        let mut children = lock(&self.children);
        children.retain(|child| matches!(child.ended(), Ok(None)));
        children.push(child);
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Err(error) = self.cut_power() {
            crate::note(&format!("{error:#}"));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    match mutex.lock() {
        Ok(guard) => guard,
        Err(poisoned) => poisoned.into_inner(),
    }
}

/// What the machine's disks hold before it starts for the first time.
fn make_disks(name: &str, folder: &Path, id: Uuid) -> Result<()> {
    let etc = folder.join("etc");
    if !etc.exists() {
        users::make_etc(&etc, name, &id.simple().to_string())?;
    }
    let var = folder.join("var");
    for inner in [
        "cache/libvirt",
        "lib/kapok",
        "lib/libvirt/images",
        "lib/misc",
        "log/libvirt",
        "tmp",
    ] {
        fs::create_dir_all(var.join(inner))?;
    }
    fs::set_permissions(var.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    users::own_folder(&etc, &var.join("lib/kapok"))?;
    for (link, to) in [("run", "/run"), ("lock", "/run/lock")] {
        if fs::symlink_metadata(var.join(link)).is_err() {
            std::os::unix::fs::symlink(to, var.join(link))?;
        }
    }
    Ok(())
}

/// Lays the machine's own folders over the raiser's, in the new mount namespace.
fn make_view(folder: &Path) -> Result<()> {
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .context("can't make the mounts private")?;
    for top in ["etc", "var"] {
        let own = folder.join(top);
        let over = Path::new("/").join(top);
        // The programs under test must stay visible, wherever the checkout is.
        for needed in [places::workspace(), places::target()] {
            if let Ok(relative) = needed.strip_prefix(&over) {
                let inside = own.join(relative);
                fs::create_dir_all(&inside)?;
                bind(&needed, &inside)?;
            }
        }
        bind(&own, &over)?;
    }
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("run"), "/run", Some("tmpfs"), quiet, Some("mode=755")).context("no /run")?;
    fs::create_dir("/run/lock")?;
    users::own_folder(Path::new("/etc"), Path::new("/run/kapok"))?;
    // Programs and images for users who can't enter the folder where the checkout is.
    fs::create_dir(places::INSIDE)?;
    if places::target().is_dir() {
        bind(&places::target(), Path::new(places::INSIDE))?;
    }
    // Of the new network namespace: libvirt looks for its bridges there.
    mount(
        Some("sysfs"),
        "/sys",
        Some("sysfs"),
        quiet | MsFlags::MS_NOEXEC,
        none,
    )
    .context("can't mount a /sys for a machine's own network")?;
    Ok(())
}

fn bind(from: &Path, to: &Path) -> Result<()> {
    let none: Option<&str> = None;
    mount(
        Some(from),
        to,
        none,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        none,
    )
    .with_context(|| format!("can't lay {} over {}", from.display(), to.display()))
}
