//! A libvirt host of the lab: a machine with libvirtd, a pool, a network and guests.

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use uuid::Uuid;

use crate::command::Command;
use crate::libvirt;
use crate::machine::Machine;
use crate::process::Proc;

/// What of a host changes while the lab runs.
#[derive(Debug)]
struct State {
    machine: Arc<Machine>,
    libvirtd: Option<Proc>,
    boots: u32,
}

/// One host. Its methods take `&self`, so that a test can share it between threads.
#[derive(Debug)]
pub struct Host {
    number: u8,
    name: String,
    folder: PathBuf,
    id: Uuid,
    hub: Arc<Machine>,
    state: Mutex<State>,
}

impl Host {
    /// Starts the host's machine and its libvirtd, without waiting for the latter.
    pub(crate) fn start(number: u8, lab: &std::path::Path, hub: &Arc<Machine>) -> Result<Self> {
        let name = format!("node-{number}");
        let folder = lab.join(&name);
        let id = Uuid::new_v5(&Uuid::NAMESPACE_DNS, folder.as_os_str().as_encoded_bytes());
        let (machine, libvirtd) = power_on(number, &name, &folder, id, hub, 1)?;
        let state = State {
            machine,
            libvirtd: Some(libvirtd),
            boots: 1,
        };
        Ok(Self {
            number,
            name,
            folder,
            id,
            hub: Arc::clone(hub),
            state: Mutex::new(state),
        })
    }

    /// Waits for libvirtd and gives the host its pool and network.
    pub(crate) fn furnish(&self) -> Result<()> {
        self.await_libvirtd()?;
        libvirt::furnish(&self.machine())
    }

    /// Its host name: `node-1`, `node-2`, …
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address in the lab's network.
    pub fn address(&self) -> Ipv4Addr {
        address(self.number)
    }

    /// The host UUID that its libvirt reports.
    pub fn uuid(&self) -> Uuid {
        self.id
    }

    /// The machine, as it runs now; another one after [`Host::power_on`].
    pub fn machine(&self) -> Arc<Machine> {
        Arc::clone(&self.state().machine)
    }

    /// Where a file of this host can be reached from outside, while the host runs.
    pub fn path(&self, inside: impl AsRef<std::path::Path>) -> PathBuf {
        self.machine().path(inside)
    }

    /// Runs a command inside the host to its end and gives what it printed.
    ///
    /// # Errors
    ///
    /// When it can't be started or fails; the error holds what it said.
    pub fn run(
        &self,
        program: &str,
        build: impl FnOnce(Command<'_>) -> Command<'_>,
    ) -> Result<String> {
        let machine = self.machine();
        build(machine.command(program)).text()
    }

    /// Starts a command inside the host and lets it run. `name` is for messages and its log.
    ///
    /// # Errors
    ///
    /// When it can't be started.
    pub fn spawn(
        &self,
        name: &str,
        program: impl Into<std::ffi::OsString>,
        build: impl FnOnce(Command<'_>) -> Command<'_>,
    ) -> Result<Proc> {
        let machine = self.machine();
        build(machine.command(program)).spawn(name)
    }

    /// Runs virsh as root and gives what it printed.
    ///
    /// # Errors
    ///
    /// When virsh fails; the error holds what it said.
    pub fn virsh(&self, arguments: &[&str]) -> Result<String> {
        libvirt::virsh(&self.machine(), arguments)
    }

    /// The names of the running domains, sorted.
    ///
    /// # Errors
    ///
    /// When virsh fails.
    pub fn running_domains(&self) -> Result<Vec<String>> {
        let text = self.virsh(&["list", "--name"])?;
        let mut names: Vec<String> = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .map(str::to_owned)
            .collect();
        names.sort();
        Ok(names)
    }

    /// Kills libvirtd with SIGKILL. Guests run on.
    ///
    /// # Errors
    ///
    /// When it hangs inside the kernel.
    pub fn kill_libvirtd(&self) -> Result<()> {
        if let Some(mut daemon) = self.state().libvirtd.take() {
            daemon.kill()?;
        }
        Ok(())
    }

    /// Starts libvirtd after [`Host::kill_libvirtd`] and waits until it answers.
    ///
    /// # Errors
    ///
    /// When it doesn't answer; the error holds the end of its log.
    pub fn start_libvirtd(&self) -> Result<()> {
        {
            let mut state = self.state();
            if state.libvirtd.is_none() {
                state.libvirtd = Some(libvirt::spawn(&state.machine)?);
            }
        }
        self.await_libvirtd()
    }

    /// Kills libvirtd and starts it again.
    ///
    /// # Errors
    ///
    /// When it doesn't answer in time.
    pub fn restart_libvirtd(&self) -> Result<()> {
        self.kill_libvirtd()?;
        self.start_libvirtd()
    }

    /// Sends libvirtd a signal, such as SIGSTOP and SIGCONT.
    ///
    /// # Errors
    ///
    /// When it doesn't run.
    pub fn signal_libvirtd(&self, signal: Signal) -> Result<()> {
        let mut state = self.state();
        state
            .libvirtd
            .as_mut()
            .context("libvirtd doesn't run")?
            .signal(signal)
    }

    /// The process id of libvirtd as this process sees it, if it runs.
    pub fn libvirtd_pid(&self) -> Option<u32> {
        self.state().libvirtd.as_ref().map(Proc::pid)
    }

    /// What libvirtd has logged since the lab was raised.
    pub fn libvirtd_log(&self) -> String {
        fs::read_to_string(self.folder.join("logs/libvirtd.log")).unwrap_or_default()
    }

    /// The running QEMUs by domain name, with their ids as this process sees them. Read from
    /// libvirt's pid files, never by a process's name.
    ///
    /// # Errors
    ///
    /// When a file can't be read.
    pub fn qemu_pids(&self) -> Result<Vec<(String, u32)>> {
        let machine = self.machine();
        let mut found = Vec::new();
        let Ok(entries) = fs::read_dir(machine.path("/run/libvirt/qemu")) else {
            return Ok(found);
        };
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "pid") {
                continue;
            }
            let domain = path
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            // A file without its process is one that libvirt is about to remove.
            let text = fs::read_to_string(&path).unwrap_or_default();
            if let Ok(inner) = text.trim().parse::<u32>()
                && domain != "driver"
                && let Ok(outer) = machine.outer_pid(inner)
            {
                found.push((domain, outer));
            }
        }
        found.sort();
        Ok(found)
    }

    /// Sends the QEMU of a running domain a signal.
    ///
    /// # Errors
    ///
    /// When the domain doesn't run here.
    pub fn signal_qemu(&self, domain: &str, signal: Signal) -> Result<()> {
        let pids = self.qemu_pids()?;
        let (_, pid) = pids
            .iter()
            .find(|(name, _)| name == domain)
            .with_context(|| format!("{} runs no domain {domain}", self.name))?;
        Ok(kill(Pid::from_raw(i32::try_from(*pid)?), signal)?)
    }

    /// The power cut: every process of the host ends at once. Its disks keep what they have.
    ///
    /// # Errors
    ///
    /// When a process hangs inside the kernel.
    pub fn cut_power(&self) -> Result<()> {
        self.machine().cut_power()?;
        // Our handles keep the network namespace, which would still answer for the host.
        let _absent = self.hub.network(&["link", "delete", &cable(self.number)]);
        Ok(())
    }

    /// Starts the host after [`Host::cut_power`], with another boot id, and waits for libvirtd.
    /// Processes that tests had started inside stay gone.
    ///
    /// # Errors
    ///
    /// When the host or its libvirtd doesn't come up.
    pub fn power_on(&self) -> Result<()> {
        self.cut_power()?;
        {
            let mut state = self.state();
            state.libvirtd = None;
            let boots = state.boots + 1;
            let (machine, libvirtd) = power_on(
                self.number,
                &self.name,
                &self.folder,
                self.id,
                &self.hub,
                boots,
            )?;
            *state = State {
                machine,
                libvirtd: Some(libvirtd),
                boots,
            };
        }
        // Its network card is a new one, of which the hub can't know yet.
        let address = self.address().to_string();
        let flush = ["neigh", "flush", "to", &address];
        self.hub.command("ip").args(flush).text()?;
        self.await_libvirtd()
    }

    /// Pulls the host's network cable.
    ///
    /// # Errors
    ///
    /// When the host is off.
    pub fn unplug(&self) -> Result<()> {
        self.hub
            .network(&["link", "set", &cable(self.number), "down"])
            .map(|_| ())
    }

    /// Puts the cable back.
    ///
    /// # Errors
    ///
    /// When the host is off.
    pub fn plug(&self) -> Result<()> {
        self.hub
            .network(&["link", "set", &cable(self.number), "up"])
            .map(|_| ())
    }

    fn await_libvirtd(&self) -> Result<()> {
        let mut state = self.state();
        let State {
            machine, libvirtd, ..
        } = &mut *state;
        let daemon = libvirtd.as_mut().context("libvirtd doesn't run")?;
        libvirt::ready(machine, daemon)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        match self.state.lock() {
            Ok(state) => state,
            Err(poisoned) => poisoned.into_inner(),
        }
    }
}

/// The address of a host in the lab's network. Labs don't see each other, so all use the same.
fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, 10 + number)
}

/// The hub's end of a host's cable.
fn cable(number: u8) -> String {
    format!("kapok-port-{number}")
}

fn power_on(
    number: u8,
    name: &str,
    folder: &std::path::Path,
    id: Uuid,
    hub: &Machine,
    boots: u32,
) -> Result<(Arc<Machine>, Proc)> {
    let boot = Uuid::new_v5(&id, boots.to_string().as_bytes());
    let machine = Machine::start(name, folder, address(number), boot)?;
    libvirt::configure(&folder.join("etc"), id)?;
    let port = cable(number);
    let init = machine.init_pid().to_string();
    hub.network(&[
        "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &init,
    ])?;
    hub.network(&["link", "set", &port, "master", crate::lab::BRIDGE, "up"])?;
    machine.network(&[
        "address",
        "add",
        &format!("{}/24", address(number)),
        "dev",
        "eth0",
    ])?;
    machine.network(&["link", "set", "eth0", "up"])?;
    let libvirtd = libvirt::spawn(&machine)?;
    Ok((Arc::new(machine), libvirtd))
}
