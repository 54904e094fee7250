//! A lab: a hub with a bridge, where the controller runs, and hosts plugged into it.
//!
//! ```text
//!   hub (10.77.0.1) ── bridge ──┬── node-1 (10.77.0.11): libvirtd, agent, guests
//!                               ├── node-2 (10.77.0.12)
//!                               └── …
//!   caretaker: removes the lab's folder when the raiser is gone
//! ```

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::unistd::Uid;
use uuid::Uuid;

use crate::host::Host;
use crate::leftovers;
use crate::machine::Machine;
use crate::places;
use crate::run::{has_program, system};
use crate::users;
use crate::wait::until;

/// The bridge inside the hub.
pub(crate) const BRIDGE: &str = "kapok-lab";

/// The hub's address, which is the controller's.
pub const HUB: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// How many hosts a lab can have.
pub const MAX_HOSTS: u8 = 100;

/// How long the caretaker may take.
const END: Duration = Duration::from_secs(30);

/// What the caretaker does: waits for its pipe to close, which is the end of the raiser or of
/// the lab, then for the machines, then removes the folder (`$1`).
///
/// A zombie has no `exe`: an init that nobody waits for counts as gone.
const CARETAKER: &str = r#"
cat >/dev/null
for round in $(seq 100); do
    alive=
    for file in "$1"/*/init.pid; do
        [ -f "$file" ] && [ -e "/proc/$(cat "$file")/exe" ] && alive=yes
    done
    [ -z "$alive" ] && break
    sleep 0.1
done
rm -rf --one-file-system "$1"
"#;

/// What kind of lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// How many hosts, 0 to [`MAX_HOSTS`].
    pub hosts: u8,
}

impl Default for Options {
    fn default() -> Self {
        Self { hosts: 3 }
    }
}

/// A raised lab. Dropping it takes everything away; [`Lab::close`] also tells whether that worked.
#[derive(Debug)]
pub struct Lab {
    // In the order in which they go.
    hosts: Vec<Host>,
    hub: Arc<Machine>,
    caretaker: Child,
    folder: PathBuf,
}

impl Lab {
    /// Says why no lab can be raised here, if so: the reason to print for a skipped test.
    pub fn obstacle() -> Option<String> {
        if !Uid::effective().is_root() {
            return Some("a lab needs root (network and mount namespaces)".to_owned());
        }
        let needed = [
            "libvirtd",
            "virsh",
            "qemu-system-x86_64",
            "qemu-img",
            "ip",
            "dnsmasq",
        ];
        let missing: Vec<&str> = needed
            .into_iter()
            .filter(|name| !has_program(name))
            .collect();
        if missing.is_empty() {
            return None;
        }
        Some(format!(
            "{} missing here; `cargo xtask setup` installs them",
            missing.join(", ")
        ))
    }

    /// Raises a lab and waits until every host's libvirtd answers.
    ///
    /// # Errors
    ///
    /// When something is missing or refused; what was raised until then is gone again.
    pub fn raise(options: &Options) -> Result<Self> {
        if let Some(obstacle) = Self::obstacle() {
            bail!(obstacle);
        }
        if options.hosts > MAX_HOSTS {
            bail!("a lab has at most {MAX_HOSTS} hosts, not {}", options.hosts);
        }
        let runs = places::runs();
        fs::create_dir_all(&runs)?;
        leftovers::sweep(&runs);
        let folder = tempfile::Builder::new()
            .prefix(leftovers::PREFIX)
            .tempdir_in(&runs)?
            .keep();
        leftovers::own(&folder)?;
        let caretaker = match take_care(&folder) {
            Ok(caretaker) => caretaker,
            Err(error) => {
                fs::remove_dir_all(&folder)?;
                return Err(error);
            }
        };
        let boot = Uuid::new_v5(&Uuid::NAMESPACE_OID, folder.as_os_str().as_encoded_bytes());
        let hub = Machine::start("hub", &folder.join("hub"), HUB, boot);
        let hub = match hub {
            Ok(hub) => Arc::new(hub),
            Err(error) => {
                end_care(caretaker, &folder)?;
                return Err(error);
            }
        };
        // From here on dropping it cleans up.
        let mut lab = Self {
            hosts: Vec::new(),
            hub,
            caretaker,
            folder,
        };
        lab.hub
            .network(&["link", "add", BRIDGE, "type", "bridge"])?;
        lab.hub
            .network(&["address", "add", &format!("{HUB}/24"), "dev", BRIDGE])?;
        lab.hub.network(&["link", "set", BRIDGE, "up"])?;
        for number in 1..=options.hosts {
            lab.hosts.push(Host::start(number, &lab.folder, &lab.hub)?);
        }
        for host in &lab.hosts {
            host.furnish()
                .with_context(|| format!("{} isn't ready", host.name()))?;
        }
        Ok(lab)
    }

    /// A host by its place, from 0.
    ///
    /// # Panics
    ///
    /// When the lab has fewer hosts.
    pub fn host(&self, index: usize) -> &Host {
        &self.hosts[index]
    }

    /// All hosts.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The machine where the controller runs; it has no libvirtd.
    pub fn hub(&self) -> &Arc<Machine> {
        &self.hub
    }

    /// The lab's folder: logs are in `MACHINE/logs/*.log`. It ends with the lab.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A folder on disk that root and `kapok` of every machine see under the same path, and
    /// that ends with the lab: for what a test hands from one machine to another.
    ///
    /// # Errors
    ///
    /// When it can't be made.
    pub fn shared_folder(&self) -> Result<PathBuf> {
        let folder = self.folder.join("shared");
        users::own_folder(&self.folder.join("hub/etc"), &folder)?;
        Ok(folder)
    }

    /// Takes everything away and says what is left, which should be nothing.
    ///
    /// # Errors
    ///
    /// When something is left.
    pub fn close(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        self.keep_logs_of_a_panic();
        for host in self.hosts.drain(..) {
            host.cut_power()?;
        }
        self.hub.cut_power()?;
        drop(self.caretaker.stdin.take());
        let caretaker = &mut self.caretaker;
        until("the lab's caretaker", END, || Ok(caretaker.try_wait()?))?;
        let left = leftovers::of(&self.folder);
        if !left.is_empty() {
            bail!("the lab left something behind:\n{}", left.join("\n"));
        }
        Ok(())
    }

    /// A failed test's logs would be gone with the lab.
    fn keep_logs_of_a_panic(&self) {
        if self.hosts.is_empty() || !std::thread::panicking() {
            return;
        }
        let to = places::logs().join(self.folder.file_name().unwrap_or_default());
        let machines = self.hosts.iter().map(Host::name).chain([self.hub.name()]);
        for machine in machines {
            let from = self.folder.join(machine).join("logs");
            for entry in fs::read_dir(from)
                .into_iter()
                .flatten()
                .filter_map(Result::ok)
            {
                let name = format!("{machine}-{}", entry.file_name().to_string_lossy());
                let _best_effort =
                    fs::create_dir_all(&to).and_then(|()| fs::copy(entry.path(), to.join(name)));
            }
        }
        crate::note(&format!("logs are kept in {}", to.display()));
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.caretaker.stdin.is_none() {
            return; // closed before
        }
        if let Err(error) = self.end() {
            crate::note(&format!("{error:#}"));
        }
    }
}

fn take_care(folder: &Path) -> Result<Child> {
    system("sh")
        .args(["-c", CARETAKER, "kapok-lab-caretaker"])
        .arg(folder)
        .current_dir("/")
        // Its own group: a Ctrl-C at the terminal must not end it before its work.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .context("can't start the lab's caretaker")
}

fn end_care(mut caretaker: Child, folder: &Path) -> Result<()> {
    drop(caretaker.stdin.take());
    until("the lab's caretaker", END, || Ok(caretaker.try_wait()?))
        .with_context(|| format!("{} may be left", folder.display()))
        .map(|_| ())
}
