//! What the two processes take of the machine: the controller, and all agents together.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use kapok_lab::loopback::Loopback;
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

/// A look at both.
#[derive(Debug)]
pub(crate) struct Shares {
    at: Instant,
    controller: Taken,
    agents: Taken,
}

/// What a process has taken.
#[derive(Debug, Clone, Copy)]
struct Taken {
    processor: Duration,
    resident: u64,
}

impl Shares {
    /// A look now.
    ///
    /// # Errors
    ///
    /// One of them has ended.
    pub(crate) fn look(fabric: &Loopback) -> Result<Self> {
        let taken = |pid: Option<u32>| taken(pid.context("it doesn't run")?);
        Ok(Self {
            at: Instant::now(),
            controller: taken(fabric.controller_pid()).context("the controller")?,
            agents: taken(fabric.simulator_pid()).context("the simulated nodes")?,
        })
    }

    /// Prints what both take now, and which share of a core each took since an earlier look.
    pub(crate) fn print(&self, what: &str, since: Option<&Self>) {
        let share = |of: fn(&Self) -> Taken| {
            let Some(since) = since else {
                return String::new();
            };
            let took = of(self).processor.saturating_sub(of(since).processor);
            let wall = self.at.duration_since(since.at).as_secs_f64();
            format!(", {:.1} % of a core", took.as_secs_f64() / wall * 100.0)
        };
        println!(
            "  {what:<30} controller {}{}; agents {}{}",
            mib(self.controller.resident),
            share(|shares| shares.controller),
            mib(self.agents.resident),
            share(|shares| shares.agents)
        );
    }
}

fn taken(pid: u32) -> Result<Taken> {
    let pid = Pid::from_u32(pid);
    let mut system = System::new()?;
    let what = ProcessRefreshKind::nothing().with_cpu().with_memory();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), true, what);
    let process = system.process(pid).context("it has ended")?;
    Ok(Taken {
        processor: Duration::from_millis(process.accumulated_cpu_time()),
        resident: process.memory(),
    })
}

fn mib(bytes: u64) -> String {
    let tenths = bytes * 10 / (1 << 20);
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}
