//! FAULTS 61: guests and others that flood a node cost it rings; what was too much is counted, and
//! nobody else waits.

use std::{
    io::{Read as _, Write as _},
    process::{Child, ChildStdout},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use kapok_lab::{Host, wait::until};

use crate::world::{SOON, World};

/// How long a person's console stays open at most.
const OPEN: Duration = Duration::from_mins(2);
/// More than a pipe and a terminal hold.
const UNREAD_BYTES: f64 = 300_000.0;
/// What the guest writes, over and over.
const FLOOD: &str = "yes kapok-flood-kapok-flood-kapok-flood";
/// Changes that somebody makes as fast as libvirt takes them.
const CHANGES: u32 = 600;

pub(crate) fn a_flood_is_bounded_and_counted(world: &World<'_>) -> Result<()> {
    world.create_guest("reed", &["--wait"])?;
    world.guest_answers("reed")?;
    let (index, reed) = world.place("reed")?;
    world.on(index, || world.create_blank("rush", &["--wait"]))?;
    let (_, rush) = world.place("rush")?;
    let host = world.host(index);
    let counter = |name: &str| Ok::<_, anyhow::Error>(sum(&world.metrics(index)?, name));

    // Somebody opens the guest's console, starts a flood, and doesn't read on.
    let before = counter("kapok_agent_console_bytes_total")?;
    let mut console = world
        .kapok()
        .start(&["instance", "console", "reed"], OPEN)?;
    let output = shell_answers(&mut console)?;
    type_in(&mut console, &format!("{FLOOD}\n"))?;
    // On the way are windows of some MiB, and a guest writes slowly: that the agent's own ring drops
    // what doesn't fit any more is shown beside the driver.
    until("output that nobody reads", OPEN, || {
        let unread = counter("kapok_agent_console_bytes_total")? - before;
        Ok((unread > UNREAD_BYTES).then_some(()))
    })?;
    // News of it and of others come as ever.
    for (name, domain) in [("rush", &rush), ("reed", &reed)] {
        host.virsh(&["suspend", domain])?;
        world.phase_becomes(name, "failing", SOON)?;
        host.virsh(&["resume", domain])?;
        world.phase_becomes(name, "running", SOON)?;
    }
    let received = counter("kapok_agent_console_bytes_total")?;
    let dropped = counter("kapok_agent_console_dropped_bytes_total")?;
    println!("          {dropped} bytes dropped of {received}");
    ensure!(dropped < received, "{dropped} of {received}");
    end_flood(&mut console, output)?;

    // Events, one for each change: the domain is looked at far less often, and what the last one
    // tells is seen.
    let [events, looks] = [EVENTS, LOOKS].map(counter);
    let (events, looks) = (events?, looks?);
    change_often(host, &rush)?;
    host.virsh(&["suspend", &rush])?;
    world.phase_becomes("rush", "failing", SOON)?;
    let [more, seen] = [EVENTS, LOOKS].map(counter);
    let (events, looks) = (more? - events, seen? - looks);
    println!("          {events} events, {looks} looks");
    ensure!(events >= f64::from(CHANGES), "{events} events");
    ensure!(looks < events / 2.0, "{looks} looks for {events} events");
    host.virsh(&["resume", &rush])?;
    world.phase_becomes("rush", "running", SOON)?;
    world.remove(&["reed", "rush"])
}

const EVENTS: &str = "kapok_hypervisor_events_total";
const LOOKS: &str = "kapok_agent_actions_total{action=\"observe\"";

fn type_in(console: &mut Child, text: &str) -> Result<()> {
    let input = console.stdin.as_mut().context("no input")?;
    input.write_all(text.as_bytes())?;
    Ok(input.flush()?)
}

/// Waits until the guest's shell does what is typed; what comes before it listens is lost. Gives the
/// console's output, read up to there.
fn shell_answers(console: &mut Child) -> Result<ChildStdout> {
    let mut output = console.stdout.take().context("no output")?;
    let reader = thread::spawn(move || read_until(&mut output, "shell-here").map(|()| output));
    until("a shell that answers", SOON, || {
        // In two pieces, lest the echo of what is typed be taken for the answer.
        type_in(console, "\necho shell-''here\n")?;
        Ok(reader.is_finished().then_some(()))
    })?;
    reader.join().expect("the reader ends")
}

/// Reads until a word has come.
fn read_until(output: &mut ChildStdout, word: &str) -> Result<()> {
    let (mut piece, mut tail) = (vec![0; 1 << 16], String::new());
    while !tail.contains(word) {
        let length = output.read(&mut piece)?;
        ensure!(length > 0, "the console ended: {tail:?}");
        let begin = tail.len().saturating_sub(32);
        let kept = tail.get(begin..).unwrap_or_default().to_owned();
        tail = kept + &String::from_utf8_lossy(&piece[..length]);
    }
    Ok(())
}

/// Reads on, ends the flood with Ctrl-C, and sees that the newest output was kept.
fn end_flood(console: &mut Child, mut output: ChildStdout) -> Result<()> {
    // In two pieces, lest the echo of what is typed be taken for the answer.
    type_in(console, "\u{3}\necho flood-''over\n")?;
    read_until(&mut output, "flood-over")?;
    drop((output, console.stdin.take()));
    // It ends with its output, or at its bound.
    console.wait()?;
    Ok(())
}

/// Changes a domain's metadata, not Kapok's, again and again.
fn change_often(host: &Host, domain: &str) -> Result<()> {
    let change = |number| {
        format!("metadata {domain} urn:flood --key flood --set '<flood n=\"{number}\"/>' --live\n")
    };
    let changes: String = (0..CHANGES).map(change).collect();
    host.machine().write("/run/flood", &changes)?;
    host.run("/bin/sh", |command| {
        command.args([
            "-c",
            "virsh --quiet </run/flood >/dev/null && rm /run/flood",
        ])
    })?;
    host.virsh(&[
        "metadata",
        domain,
        "urn:flood",
        "--key",
        "flood",
        "--remove",
        "--live",
    ])
    .map(drop)
}

/// The sum of a page's series whose line begins so.
fn sum(page: &str, begin: &str) -> f64 {
    let of = page.lines().filter(|line| {
        let rest = line.strip_prefix(begin);
        rest.is_some_and(|rest| rest.starts_with([' ', '{', ',']))
    });
    let values = of.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    values.sum()
}
