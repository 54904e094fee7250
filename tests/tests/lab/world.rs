//! The world of a scenario: a fabric in a lab, asked as a person would ask.

use std::{fmt::Write as _, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use kapok_lab::{
    Host, Lab,
    fabric::{AGENT_STATE, Fabric, Kapok, text},
    guest,
    wait::until,
};
use kapok_trust::dns;
use kapok_types::NodeId;
use serde_json::Value;

/// How long a guest may take from nothing to an agent that answers, on a busy machine.
pub(crate) const GUEST: Duration = Duration::from_secs(90);

/// How long anything may take that needs no guest.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// The fabric's name.
pub(crate) const FABRIC: &str = "lab";

/// The bootable image in the fabric.
pub(crate) const GUEST_IMAGE: &str = "guest";

/// An image that boots nothing: for instances that only have to exist.
pub(crate) const BLANK_IMAGE: &str = "blank";

/// The fabric and what scenarios need of it.
pub(crate) struct World<'lab> {
    pub(crate) fabric: Fabric<'lab>,
    folder: PathBuf,
}

impl<'lab> World<'lab> {
    /// Waits until all nodes are ready and imports the images.
    pub(crate) fn new(fabric: Fabric<'lab>, image: &guest::Image) -> Result<Self> {
        let folder = fabric.lab().shared_folder()?;
        let world = Self { fabric, folder };
        world.nodes_become("ready", SOON)?;
        let disk = image.disk.to_string_lossy();
        world
            .kapok()
            .run(&["image", "import", &disk, "--name", GUEST_IMAGE])?;
        let blank = world.make_file("blank.raw", &vec![0; 1 << 20])?;
        world.import_raw(&blank, BLANK_IMAGE)?;
        Ok(world)
    }

    /// Ends the programs in order.
    pub(crate) fn end(self) -> Result<()> {
        self.fabric.end()
    }

    /// The lab.
    pub(crate) fn lab(&self) -> &'lab Lab {
        self.fabric.lab()
    }

    /// One host.
    pub(crate) fn host(&self, index: usize) -> &'lab Host {
        self.lab().host(index)
    }

    /// The command.
    pub(crate) fn kapok(&self) -> &Kapok {
        self.fabric.kapok()
    }

    /// Writes a file that the lab takes away.
    pub(crate) fn make_file(&self, name: &str, content: &[u8]) -> Result<PathBuf> {
        let path = self.folder.join(name);
        std::fs::write(&path, content)?;
        Ok(path)
    }

    /// Imports a raw file.
    pub(crate) fn import_raw(&self, file: &std::path::Path, name: &str) -> Result<()> {
        let file = file.to_string_lossy();
        let raw = ["image", "import", &file, "--name", name, "--format", "raw"];
        self.kapok().run(&raw).map(drop)
    }

    // What people see.

    /// All instances.
    pub(crate) fn instances(&self) -> Result<Vec<Value>> {
        self.kapok().list(&["instance", "ls"])
    }

    /// All nodes.
    pub(crate) fn nodes(&self) -> Result<Vec<Value>> {
        self.kapok().list(&["node", "ls"])
    }

    /// One instance.
    pub(crate) fn instance(&self, name: &str) -> Result<Value> {
        self.kapok().value(&["instance", "show", name])
    }

    /// One node.
    pub(crate) fn node(&self, index: usize) -> Result<Value> {
        self.kapok()
            .value(&["node", "show", self.host(index).name()])
    }

    /// A node's page of metrics, read on its host with the node's own certificate.
    pub(crate) fn metrics(&self, index: usize) -> Result<String> {
        let host = self.host(index);
        let id: NodeId = text(&self.node(index)?, "id").parse()?;
        let name = dns::node(&FABRIC.parse()?, id);
        let file = |name: &str| format!("{AGENT_STATE}/trust/current/{name}");
        host.run("/usr/bin/curl", |command| {
            command
                .args(["--silent", "--show-error", "--fail", "--cacert"])
                .args([file("bundle.pem"), "--cert".into(), file("chain.pem")])
                .args(["--key".into(), file("key.pem"), "--resolve".into()])
                .arg(format!("{name}:7781:{}", host.address()))
                .arg(format!("https://{name}:7781/metrics"))
        })
    }

    /// Where an instance is: the host's place in the lab and the domain's name there.
    pub(crate) fn place(&self, name: &str) -> Result<(usize, String)> {
        let instance = self.instance(name)?;
        let node = text(&instance, "node");
        let index = self
            .lab()
            .hosts()
            .iter()
            .position(|host| host.name() == node)
            .with_context(|| format!("{name} is on no host: {instance}"))?;
        let incarnation = text(&instance["incarnations"][0], "id");
        ensure!(!incarnation.is_empty(), "{name} has no incarnation");
        Ok((index, format!("kapok-{incarnation}")))
    }

    /// The process of an instance's QEMU.
    pub(crate) fn qemu(&self, name: &str) -> Result<u32> {
        let (host, domain) = self.place(name)?;
        let pids = self.host(host).qemu_pids()?;
        let found = pids.iter().find(|(name, _)| *name == domain);
        found
            .map(|(_, pid)| *pid)
            .with_context(|| format!("no QEMU of {name}"))
    }

    /// Everything, for a person who has to find out what went wrong.
    pub(crate) fn picture(&self) -> String {
        let mut picture = String::new();
        for ask in [
            &["node", "ls", "-o", "wide"][..],
            &["instance", "ls", "-o", "wide"],
            &["op", "ls"],
        ] {
            let answer = self
                .kapok()
                .run(ask)
                .unwrap_or_else(|error| format!("{error:#}"));
            let _never_fails = writeln!(picture, "$ kapok {}\n{answer}", ask.join(" "));
        }
        for host in self.lab().hosts() {
            let answer = host
                .virsh(&["list", "--all"])
                .unwrap_or_else(|error| format!("{error:#}"));
            let _never_fails = writeln!(picture, "{}$ virsh list --all\n{answer}", host.name());
        }
        picture
    }

    // What people do.

    /// Does something while only one node takes new instances.
    pub(crate) fn on(&self, index: usize, act: impl FnOnce() -> Result<()>) -> Result<()> {
        let others = || {
            self.lab()
                .hosts()
                .iter()
                .enumerate()
                .filter(move |(at, _)| *at != index)
        };
        for (_, other) in others() {
            self.kapok().run(&["node", "cordon", other.name()])?;
        }
        act()?;
        for (_, other) in others() {
            self.kapok().run(&["node", "uncordon", other.name()])?;
        }
        Ok(())
    }

    /// Creates an instance that boots; doesn't wait.
    pub(crate) fn create_guest(&self, name: &str, more: &[&str]) -> Result<()> {
        let words = [
            "instance",
            "create",
            name,
            "--image",
            GUEST_IMAGE,
            "--memory",
            "256MiB",
        ];
        self.kapok().run(&[&words, more].concat()).map(drop)
    }

    /// Creates an instance that only has to exist; doesn't wait.
    pub(crate) fn create_blank(&self, name: &str, more: &[&str]) -> Result<()> {
        let words = [
            "instance",
            "create",
            name,
            "--image",
            BLANK_IMAGE,
            "--memory",
            "16MiB",
        ];
        self.kapok().run(&[&words, more].concat()).map(drop)
    }

    /// Creates an instance of any image; doesn't wait.
    pub(crate) fn create_named(&self, name: &str, image: &str, memory: &str) -> Result<()> {
        let words = [
            "instance", "create", name, "--image", image, "--memory", memory,
        ];
        self.kapok().run(&words).map(drop)
    }

    /// Removes instances and waits for that.
    pub(crate) fn remove(&self, names: &[&str]) -> Result<()> {
        let words = ["instance", "rm", "--yes", "--wait"];
        self.kapok().run(&[&words, names].concat()).map(drop)
    }

    // Waiting.

    /// Waits until an instance is as `good` says; gives it.
    pub(crate) fn instance_becomes(
        &self,
        name: &str,
        what: &str,
        bound: Duration,
        good: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let mut last = String::new();
        let waited = until(&format!("{name} to be {what}"), bound, || {
            // The controller may be starting.
            match self.instance(name) {
                Ok(instance) if good(&instance) => return Ok(Some(instance)),
                Ok(instance) => last = instance.to_string(),
                Err(error) => last = format!("{error:#}"),
            }
            Ok(None)
        });
        waited.with_context(|| format!("last seen: {last}"))
    }

    /// Waits until an instance is in a phase; gives it.
    pub(crate) fn phase_becomes(&self, name: &str, phase: &str, bound: Duration) -> Result<Value> {
        self.instance_becomes(name, phase, bound, |it| text(it, "phase") == phase)
    }

    /// Waits until an instance's guest answers; gives it.
    pub(crate) fn guest_answers(&self, name: &str) -> Result<Value> {
        self.instance_becomes(name, "answering", GUEST, |it| {
            text(it, "phase") == "running" && it["guest_agent"] == true
        })
    }

    /// Waits until an instance is no more.
    pub(crate) fn instance_goes(&self, name: &str, bound: Duration) -> Result<()> {
        until(&format!("the end of {name}"), bound, || {
            let Ok(instances) = self.instances() else {
                return Ok(None);
            };
            let stays = instances
                .iter()
                .any(|instance| text(instance, "name") == name);
            Ok((!stays).then_some(()))
        })
    }

    /// Waits until all nodes are in a state.
    pub(crate) fn nodes_become(&self, state: &str, bound: Duration) -> Result<()> {
        for index in 0..self.lab().hosts().len() {
            self.node_becomes(index, state, bound, |node| text(node, "state") == state)?;
        }
        Ok(())
    }

    /// Waits until a node is as `good` says; gives it.
    pub(crate) fn node_becomes(
        &self,
        index: usize,
        what: &str,
        bound: Duration,
        good: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let mut last = String::new();
        let name = self.host(index).name();
        let waited = until(&format!("{name} to be {what}"), bound, || {
            match self.node(index) {
                Ok(node) if good(&node) => return Ok(Some(node)),
                Ok(node) => last = node.to_string(),
                Err(error) => last = format!("{error:#}"),
            }
            Ok(None)
        });
        waited.with_context(|| format!("last seen: {last}"))
    }
}

/// Runs a program of this machine and gives what it printed.
pub(crate) fn tool(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {}: {said}", arguments.join(" "));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
