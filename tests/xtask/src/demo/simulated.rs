//! The demo without root or libvirt: the same controller, with simulated nodes.

use std::fs::File;
use std::time::Instant;

use anyhow::Result;
use kapok_lab::fabric::{Build, Settings};
use kapok_lab::loopback::{self, Loopback, Nodes};

use super::Options;
use super::tour::{Tour, how_to_use};
use crate::interrupt::Interrupt;
use crate::progress::{Progress, human};
use crate::tool;

/// Size of the made-up image, in bytes.
const IMAGE_BYTES: u64 = 4 * 1024 * 1024;

pub(super) fn run(options: &Options, progress: &Progress, interrupt: &Interrupt) -> Result<()> {
    let start = Instant::now();
    progress.say("building the simulated agents, the controller and the command");
    for build in loopback::builds(Build::Debug) {
        tool::show(tool::cargo().args(build), "the build")?;
    }
    interrupt.check()?;

    let nodes = Nodes {
        count: options.hosts.into(),
        ..Nodes::default()
    };
    let fabric = Loopback::start(nodes, &Settings::default())?;
    let shown = show(&fabric, options, progress, interrupt);
    if shown.is_err() && !interrupt.is_asked() {
        println!("{}", fabric.last_words());
    }
    fabric.end()?;
    shown?;
    progress.say(&format!(
        "nothing is left; all done in {}",
        human(start.elapsed())
    ));
    Ok(())
}

fn show(
    fabric: &Loopback,
    options: &Options,
    progress: &Progress,
    interrupt: &Interrupt,
) -> Result<()> {
    let count = usize::from(options.hosts);
    progress.say(&format!(
        "{count} simulated nodes have joined the controller at {}",
        fabric.kapok().server()
    ));
    let image = fabric.folder().join("image.raw");
    File::create(&image)?.set_len(IMAGE_BYTES)?;
    let tour = Tour {
        kapok: fabric.kapok(),
        nodes: count,
        image: &image,
        instances: count.max(2),
        guests_answer: false,
        progress,
        interrupt,
    };
    tour.go()?;
    tour.show()?;
    if !options.once {
        how_to_use(fabric.kapok());
        println!("\nCtrl-C ends it.");
        interrupt.wait();
    }
    Ok(())
}
