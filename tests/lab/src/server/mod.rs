//! A whole Debian server under QEMU, emulated, with an init of its own: for what no namespace can
//! show, such as packages, units and a service manager.
//!
//! It has systemd, apt and libvirt, no network but its loopback, and a second disk with the files
//! that it was given, mounted at [`SHELF`]. It does what its guest agent is told.
//!
//! **Invariant:** it ends with the thread that booted it, even if that is killed. Its disk is a layer
//! over the [`image`](Image) and goes with it; after a kill, with the next lab or server.
//!
//! Absent on purpose: KVM. The server has none either, so that its own guests are emulated in an
//! emulation: slow, and the same everywhere.

mod agent;
mod image;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use self::agent::Agent;
pub use self::agent::Answer;
pub use self::image::{Image, build};
use crate::leftovers;
use crate::places;
use crate::process::tail;
use crate::run::{run, system};
use crate::wait::until;

/// Where the server sees the files that it was given.
pub const SHELF: &str = "/srv/shelf";

/// How long it may take until its guest agent answers.
const BOOT: Duration = Duration::from_mins(5);

/// How it is built.
const MEMORY_MIB: u32 = 3072;
const CPUS: u32 = 2;

/// A server that runs. Dropping it cuts its power.
#[derive(Debug)]
pub struct Server {
    qemu: Child,
    agent: Agent,
    folder: TempDir,
}

impl Server {
    /// Boots a fresh one, with these files on its shelf, and waits until it takes commands.
    ///
    /// # Errors
    ///
    /// When QEMU can't be started, or the server doesn't come up; the error holds its console's end.
    pub fn boot(image: &Image, shelf: &[PathBuf]) -> Result<Self> {
        let runs = places::runs();
        fs::create_dir_all(&runs)?;
        leftovers::sweep(&runs);
        let folder = tempfile::Builder::new()
            .prefix(&format!("{}server-", leftovers::PREFIX))
            .tempdir_in(&runs)?;
        let own = folder.path();
        leftovers::own(own)?;
        let disk = own.join("disk.qcow2");
        run(system("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
            .arg(&image.disk)
            .arg(&disk))?;
        let files = make_shelf(own, shelf)?;
        let console = own.join("console");
        let socket = own.join("agent");
        let log = File::create(own.join("qemu.log"))?;
        let mut qemu = system("setpriv");
        qemu.args(["--pdeathsig", "KILL", "qemu-system-x86_64"])
            .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-nodefaults"])
            .args(["-smp", &CPUS.to_string(), "-m", &MEMORY_MIB.to_string()])
            .args(["-nographic", "-no-reboot"])
            .arg("-kernel")
            .arg(&image.kernel)
            .arg("-initrd")
            .arg(&image.initrd)
            .args(["-append", KERNEL])
            .args(["-drive", &drive(&disk, "qcow2", false)])
            .args(["-drive", &drive(&files, "raw", true)])
            .args(["-serial", &format!("file:{}", console.display())])
            .args(["-device", "virtio-rng-pci", "-device", "virtio-serial-pci"])
            .arg("-chardev")
            .arg(format!(
                "socket,id=agent,server=on,wait=off,path={}",
                socket.display()
            ))
            .args([
                "-device",
                "virtserialport,chardev=agent,name=org.qemu.guest_agent.0",
            ])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let qemu = qemu.spawn().context("can't start QEMU")?;
        let mut server = Self {
            qemu,
            agent: Agent::new(socket),
            folder,
        };
        server.come_up()?;
        Ok(server)
    }

    fn come_up(&mut self) -> Result<()> {
        let up = until("the server's guest agent", BOOT, || {
            if let Some(status) = self.qemu.try_wait()? {
                let log = fs::read_to_string(self.folder.path().join("qemu.log"));
                bail!("QEMU ended ({status}): {}", log.unwrap_or_default());
            }
            Ok(self.agent.answers().then_some(()))
        });
        up.with_context(|| format!("its console:\n{}", tail(&self.console())))?;
        self.run(&format!("mkdir -p {SHELF} && mount -o ro /dev/vdb {SHELF}"))
            .map(drop)
    }

    /// What its console has shown.
    pub fn console(&self) -> String {
        let console = fs::read(self.folder.path().join("console")).unwrap_or_default();
        String::from_utf8_lossy(&console).into_owned()
    }

    /// Runs a line of shell as root and gives what it printed.
    ///
    /// # Errors
    ///
    /// When it ends with anything but 0 (the error holds what it said), or not within ten minutes.
    pub fn run(&self, line: &str) -> Result<String> {
        let answer = self.ask(line)?;
        ensure!(
            answer.code == 0,
            "{line:?} ended with {} on the server: {}",
            answer.code,
            tail(&format!("{}{}", answer.output, answer.errors))
        );
        Ok(answer.output)
    }

    /// Runs a line of shell as root to its end, whatever it answers.
    ///
    /// # Errors
    ///
    /// When the server doesn't answer, or it doesn't end within ten minutes.
    pub fn ask(&self, line: &str) -> Result<Answer> {
        self.agent.shell(line)
    }

    /// Writes a file.
    ///
    /// # Errors
    ///
    /// When the server can't.
    pub fn write(&self, path: &str, content: &str) -> Result<()> {
        // No word of the content can end it.
        let line = format!("cat >{path} <<'end of {path}'\n{content}\nend of {path}\n");
        self.run(&line).map(drop)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let ended = self.qemu.kill().and_then(|()| self.qemu.wait());
        if let Err(error) = ended {
            crate::note(&format!("can't end the server's QEMU: {error}"));
        }
    }
}

/// What emulation needs to be calm about time, and what makes it quicker.
const KERNEL: &str = "root=/dev/vda rw console=ttyS0 no_timer_check tsc=reliable mitigations=off \
                      nokaslr systemd.show_status=no";

fn drive(file: &Path, format: &str, is_fixed: bool) -> String {
    let fixed = if is_fixed { ",readonly=on" } else { "" };
    format!(
        "file={},format={format},if=virtio,cache=unsafe{fixed}",
        file.display()
    )
}

/// A disk with these files, made without mounting it.
fn make_shelf(folder: &Path, files: &[PathBuf]) -> Result<PathBuf> {
    let staged = folder.join("shelf");
    fs::create_dir(&staged)?;
    let mut bytes = 0;
    for file in files {
        let name = file.file_name().context("a file without a name")?;
        let copied = fs::copy(file, staged.join(name));
        bytes += copied.with_context(|| format!("can't copy {}", file.display()))?;
    }
    let disk = folder.join("shelf.raw");
    image::file_system(&staged, &disk, bytes.div_ceil(1024 * 1024) + 32)?;
    fs::remove_dir_all(&staged)?;
    Ok(disk)
}
