//! The demo with real hosts: libvirtd, QEMU and an unprivileged agent in each.

use std::time::Instant;

use anyhow::{Result, bail};
use kapok_lab::fabric::{self, Fabric, Kapok, Person, Settings, Virt, text};
use kapok_lab::guest::{self, Image};
use kapok_lab::{Lab, leftovers, packages, places};
use nix::unistd::Uid;
use serde_json::Value;

use super::Options;
use super::tour::{Tour, how_to_use};
use crate::interrupt::Interrupt;
use crate::progress::{Progress, human};
use crate::{setup, tool};

pub(super) fn run(options: &Options, progress: &Progress, interrupt: &Interrupt) -> Result<()> {
    let start = Instant::now();
    if !Uid::effective().is_root() {
        bail!("the demo makes namespaces and needs root; try `cargo xtask demo --simulated`");
    }
    let wanted = [packages::BUILD, packages::LAB, packages::GUEST].concat();
    setup::install(&wanted, progress)?;
    interrupt.check()?;
    progress.say("building the agent, the controller and the command");
    let mut build = tool::cargo();
    build.args([
        "build",
        "-p",
        "kapok-agent",
        "-p",
        "kapok-controller",
        "-p",
        "kapok",
        "--bins",
    ]);
    tool::show(&mut build, "the build")?;
    interrupt.check()?;
    progress.say("making the guest image from Debian packages");
    let image = guest::build()?;
    interrupt.check()?;
    progress.say(&format!("raising a lab of {} hosts", options.hosts));
    let lab = Lab::raise(&kapok_lab::Options {
        hosts: options.hosts,
    })?;
    let shown = show(&lab, &image, options, progress, interrupt);
    if let Err(error) = &shown
        && !interrupt.is_asked()
    {
        println!(
            "\nThat went wrong: {error:#}\n{}",
            fabric::last_words(&lab, 15)
        );
    }
    progress.say("taking everything away");
    lab.close()?;
    let left = leftovers();
    if !left.is_empty() {
        bail!("left behind: {}", left.join(", "));
    }
    shown?;
    progress.say(&format!(
        "nothing is left; all done in {}",
        human(start.elapsed())
    ));
    Ok(())
}

fn show(
    lab: &Lab,
    image: &Image,
    options: &Options,
    progress: &Progress,
    interrupt: &Interrupt,
) -> Result<()> {
    let settings = Settings {
        virt: Virt::Probed {
            kernel: places::inside(&image.probe_kernel),
            initrd: places::inside(&image.probe_initrd),
        },
        ..Settings::default()
    };
    let fabric = Fabric::start(lab, settings)?;
    let kapok = fabric.kapok();
    progress.say("an agent runs on every host, as an unprivileged user");
    progress.say(&format!(
        "the controller runs; {} leads to it",
        kapok.server()
    ));

    let tour = Tour {
        kapok,
        nodes: lab.hosts().len(),
        image: &image.disk,
        instances: lab.hosts().len().max(2),
        guests_answer: true,
        progress,
        interrupt,
    };
    let instances = tour.go()?;
    compare_with_virsh(lab, &instances)?;
    progress.say("virsh on every host agrees with `kapok instance ls`");
    tour.show()?;
    if !options.once {
        how_to_look_around(lab, kapok);
        interrupt.wait();
    }
    fabric.end()
}

/// The same instances, asked on every host without Kapok.
fn compare_with_virsh(lab: &Lab, instances: &[Value]) -> Result<()> {
    for host in lab.hosts() {
        let here = instances
            .iter()
            .filter(|instance| text(instance, "node") == host.name());
        let (expected, seen) = (here.count(), host.running_domains()?.len());
        if expected != seen {
            bail!(
                "kapok says {expected} instances on {}, virsh says {seen}",
                host.name()
            );
        }
    }
    Ok(())
}

fn how_to_look_around(lab: &Lab, kapok: &Kapok) {
    how_to_use(kapok);
    println!("  kapok instance console guest-1      # a shell; Ctrl-] leaves");
    println!("  kapok instance explain guest-1\n");
    let auditor = kapok.by(Person::Auditor).credential();
    println!("  kapok --credential {} audit verify\n", auditor.display());
    for host in lab.hosts() {
        let machine = host.machine();
        let pid = machine.init_pid();
        println!(
            "  nsenter --target {pid} --all virsh list   # {}",
            host.name()
        );
    }
    println!(
        "\n  logs: {}/*/logs/\n\nCtrl-C takes everything away.",
        lab.folder().display()
    );
}
