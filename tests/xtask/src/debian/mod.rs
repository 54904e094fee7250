//! `cargo xtask debian`: the packages on a whole Debian server, from apt's installation to the
//! purge, with a guest that must notice nothing.
//!
//! The server is emulated ([`kapok_lab::server`]) and has a systemd of its own. Controller and node
//! are the same server; its one guest counts seconds. After each thing that is done to Kapok the
//! guest must be the one that it was: the same kernel's run, the same QEMU, and a counter that has
//! gone on. The upgrade is the same programs as another version of the packages.

mod steps;
mod world;

use anyhow::{Context, Result};
use clap::Args;
use kapok_lab::server::{self, Server};
use kapok_lab::{guest, packages};

use self::world::World;
use crate::interrupt::Interrupt;
use crate::package::{self, Programs};
use crate::progress::Progress;
use crate::setup;

/// What is tried.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The build of the programs
    #[arg(long, default_value = "dev")]
    profile: String,
}

pub(crate) fn run(options: &Options, progress: &Progress, interrupt: &Interrupt) -> Result<()> {
    setup::install(&[packages::SERVER, packages::GUEST].concat(), progress)?;
    let programs = Programs::build(&options.profile, progress)?;
    let older = package::version();
    // Debian's word for an upload of the same sources.
    let newer = format!("{older}+b1");
    let mut shelf = programs.pack(&older, progress)?;
    shelf.extend(programs.pack(&newer, progress)?);
    shelf.push(guest::build()?.disk);
    interrupt.check()?;
    progress.say("making the server's disk, unless it is there");
    let image = server::build()?;
    interrupt.check()?;
    progress.say("booting the server");
    let mut world = World::new(Server::boot(&image, &shelf)?, older, newer);
    for (name, step) in steps::ALL {
        interrupt.check()?;
        step(&mut world).with_context(|| format!("{name}\n{}", world.picture()))?;
        progress.say(&format!("{name}{}", world.told()));
    }
    println!("\nThe guest ran through all of it: {}.", world.life());
    Ok(())
}
