//! `cargo xtask lab`: bare libvirt hosts to try things on.

use anyhow::Result;
use clap::Args;
use kapok_lab::{Lab, leftovers};

use crate::interrupt::Interrupt;
use crate::progress::Progress;

/// How large, how long.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How many hosts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=100))]
    hosts: u8,
    /// Take it away at once instead of waiting for Ctrl-C
    #[arg(long)]
    once: bool,
}

pub(crate) fn run(options: &Options, progress: &Progress, interrupt: &Interrupt) -> Result<()> {
    let image = kapok_lab::guest::build()?;
    progress.say(&format!("guest image: {}", image.disk.display()));
    let lab = Lab::raise(&kapok_lab::Options {
        hosts: options.hosts,
    })?;
    progress.say(&format!("{} hosts are up", options.hosts));
    println!(
        "\n  hub     {:<12} nsenter --target {} --all",
        lab.hub().address(),
        lab.hub().init_pid()
    );
    for host in lab.hosts() {
        let machine = host.machine();
        println!(
            "  {:<7} {:<12} nsenter --target {} --all   # then: virsh list --all",
            host.name(),
            host.address(),
            machine.init_pid()
        );
    }
    println!("\n  logs: {}/*/logs/\n", lab.folder().display());
    if !options.once {
        progress.say("Ctrl-C takes it away");
        interrupt.wait();
    }
    lab.close()?;
    progress.say("gone");
    for left in leftovers() {
        println!("left behind: {left}");
    }
    Ok(())
}
