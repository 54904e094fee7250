//! What the demo shows once a controller and its nodes run: an image, instances, their end.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kapok_lab::fabric::{Kapok, text};
use serde_json::Value;

use super::cli::wait_for;
use crate::interrupt::Interrupt;
use crate::progress::Progress;

/// The image's name in the fabric.
const IMAGE: &str = "debian";

/// What is to be shown.
pub(super) struct Tour<'a> {
    pub(super) kapok: &'a Kapok,
    pub(super) nodes: usize,
    /// The disk to import.
    pub(super) image: &'a Path,
    /// How many instances to create.
    pub(super) instances: usize,
    /// Whether guests have an agent that answers.
    pub(super) guests_answer: bool,
    pub(super) progress: &'a Progress,
    pub(super) interrupt: &'a Interrupt,
}

/// Says how to use `kapok` in another terminal.
pub(super) fn how_to_use(kapok: &Kapok) {
    println!("Look around in another terminal:\n");
    println!("  export KAPOK_SERVER={}", kapok.server());
    println!("  export KAPOK_CREDENTIAL={}", kapok.credential().display());
    println!("  alias kapok={}", kapok.program().display());
    println!("  kapok node ls; kapok instance ls -o wide; kapok events");
}

impl Tour<'_> {
    /// Goes the whole way; gives the instances as they are at its end.
    pub(super) fn go(&self) -> Result<Vec<Value>> {
        self.wait_for_nodes()?;
        self.progress.say("importing an image");
        let image = self.image.to_string_lossy();
        self.kapok
            .run(&["image", "import", &image, "--name", IMAGE])?;
        self.create()?;
        let instances = self.wait_for_guests()?;
        self.check_spread(&instances)?;
        Ok(instances)
    }

    /// Prints what there is, and how to look around.
    pub(super) fn show(&self) -> Result<()> {
        println!("\n{}", self.kapok.run(&["node", "ls"])?.trim_end());
        println!("\n{}\n", self.kapok.run(&["instance", "ls"])?.trim_end());
        Ok(())
    }

    fn wait_for_nodes(&self) -> Result<()> {
        self.progress
            .say(&format!("waiting for {} nodes", self.nodes));
        // A node that isn't sure of KVM is degraded but works.
        let good = |node: &Value| matches!(text(node, "state"), "ready" | "degraded");
        let nodes = wait_for(
            self.kapok,
            "all nodes",
            &["node", "ls"],
            self.nodes,
            good,
            (Duration::from_mins(2), self.interrupt),
        )?;
        for node in nodes {
            self.progress.say(&format!(
                "  {} is {} ({}{})",
                text(&node, "name"),
                text(&node, "state"),
                text(&node, "virt_type"),
                match text(&node, "virt_reason") {
                    "" => String::new(),
                    reason => format!(": {reason}"),
                }
            ));
        }
        Ok(())
    }

    /// The scheduler fills a node before it takes the next one, and these guests are small. So
    /// each node that has its guest is cordoned until all are placed.
    fn create(&self) -> Result<()> {
        let mut cordoned = Vec::new();
        for number in 1..=self.instances {
            self.interrupt.check()?;
            let name = format!("guest-{number}");
            self.kapok.run(&[
                "instance", "create", &name, "--image", IMAGE, "--vcpus", "1", "--memory", "256MiB",
            ])?;
            let node = self.node_of(&name)?;
            let last = number == self.instances || cordoned.len() + 1 >= self.nodes;
            if last {
                self.progress.say(&format!("created {name} on {node}"));
            } else {
                self.progress
                    .say(&format!("created {name} on {node}, which is cordoned now"));
                let reason = "demo: the next guest goes elsewhere";
                self.kapok
                    .run(&["node", "cordon", &node, "--reason", reason])?;
                cordoned.push(node);
            }
        }
        for node in &cordoned {
            self.kapok.run(&["node", "uncordon", node])?;
        }
        if !cordoned.is_empty() {
            self.progress.say("all nodes take instances again");
        }
        Ok(())
    }

    /// Where an instance was placed, which its creation decides.
    fn node_of(&self, name: &str) -> Result<String> {
        let instances = self.kapok.list(&["instance", "ls"])?;
        let node = instances
            .iter()
            .find(|instance| text(instance, "name") == name)
            .map(|instance| text(instance, "node").to_owned());
        node.filter(|node| !node.is_empty())
            .with_context(|| format!("{name} was created and is on no node"))
    }

    fn wait_for_guests(&self) -> Result<Vec<Value>> {
        self.progress.say(if self.guests_answer {
            "waiting until every guest's agent answers"
        } else {
            "waiting until every instance runs"
        });
        let good = |instance: &Value| {
            let answers = instance.get("guest_agent").and_then(Value::as_bool);
            text(instance, "phase") == "running" && (!self.guests_answer || answers == Some(true))
        };
        wait_for(
            self.kapok,
            "running guests",
            &["instance", "ls"],
            self.instances,
            good,
            (Duration::from_mins(4), self.interrupt),
        )
    }

    fn check_spread(&self, instances: &[Value]) -> Result<()> {
        let mut by_node: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for instance in instances {
            by_node
                .entry(text(instance, "node"))
                .or_default()
                .push(text(instance, "name"));
        }
        for (node, names) in &by_node {
            self.progress
                .say(&format!("  {node} runs {}", names.join(", ")));
        }
        if self.nodes > 1 && by_node.len() < 2 {
            bail!("all instances are on one node");
        }
        Ok(())
    }
}
