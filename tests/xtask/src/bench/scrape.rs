//! `cargo xtask bench scrape`: the agent's `/metrics` with many domains, against
//! prometheus-libvirt-exporter, in turn in one run.
//!
//! Both are read by curl over a connection that stays, the agent over mTLS with gzip as Prometheus
//! does, the exporter in plain text. Processor time is that of a minute with a scrape every five
//! seconds; while the exporter has its minute the agent is stopped, so that libvirtd works for one
//! of them at a time. Then one QEMU is stopped: the others stay fresh, and that one is flagged.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use kapok_lab::fabric::{Fabric, text};
use kapok_lab::wait::{pause, until};
use kapok_lab::{Host, Lab, Proc, places};
use nix::sys::signal::Signal;

use super::{BOUND, Resident, create_only, mib};
use crate::interrupt::Interrupt;
use crate::progress::Progress;

/// The most that a scrape of the agent may take, of 99 in a hundred.
const SCRAPE_GOAL: Duration = Duration::from_millis(5);

/// The oldest that a sample may be.
const AGE_GOAL: f64 = 5.0;

/// The most memory that an agent may hold.
const AGENT_GOAL_KIB: u64 = 30 * 1024;

/// Turns, and scrapes in each: of the agent, of the exporter.
const TURNS: usize = 5;
const SCRAPES: [usize; 2] = [100, 10];

/// How often both are read while their processor time is measured, and for how long.
const EVERY: Duration = Duration::from_secs(5);
const MINUTE: Duration = Duration::from_mins(1);

/// Where the exporter listens, inside its host.
const EXPORTER: &str = "http://127.0.0.1:9177/metrics";

/// What is read and how.
struct Reader<'lab> {
    host: &'lab Host,
    /// curl's words for the agent.
    agent: Vec<String>,
}

/// Measures all of it.
pub(super) fn run(
    lab: &Lab,
    fabric: &Fabric<'_>,
    domains: u32,
    progress: &Progress,
    interrupt: &Interrupt,
) -> Result<()> {
    progress.say(&format!("starting {domains} domains on one node"));
    for number in 1..=domains {
        interrupt.check()?;
        create_only(fabric, &format!("domain-{number}"))?;
    }
    let host = lab.host(0);
    let wanted = usize::try_from(domains)?;
    until("all domains", BOUND * 3, || {
        interrupt.check()?;
        Ok((host.running_domains()?.len() == wanted).then_some(()))
    })?;
    let reader = Reader::new(lab, fabric)?;
    until("a page with all of them", BOUND, || {
        let ages = ages(&reader.page()?);
        Ok((ages.len() == wanted).then_some(()))
    })?;
    progress.say("leaving it alone for a while");
    pause(super::REST);
    let mut exporter = host.spawn(
        "prometheus-libvirt-exporter",
        "/usr/bin/prometheus-libvirt-exporter",
        |command| command.arg("--web.listen-address=127.0.0.1:9177"),
    )?;
    let measured = measure(&reader, fabric, &exporter, progress, interrupt);
    exporter.kill()?;
    let missed = measured?;
    if !missed.is_empty() {
        bail!("over the goal: {}", missed.join(", "));
    }
    Ok(())
}

fn measure(
    reader: &Reader<'_>,
    fabric: &Fabric<'_>,
    exporter: &Proc,
    progress: &Progress,
    interrupt: &Interrupt,
) -> Result<Vec<String>> {
    until("the exporter", BOUND, || Ok(reader.exporter(1).ok()))?;
    progress.say("reading both in turn");
    let (mut ours, mut theirs, mut oldest) = (Vec::new(), Vec::new(), 0.0_f64);
    for _ in 0..TURNS {
        interrupt.check()?;
        ours.extend(reader.agent(SCRAPES[0])?);
        theirs.extend(reader.exporter(SCRAPES[1])?);
        oldest = oldest.max(worst(&ages(&reader.page()?)));
    }
    let page = reader.page()?;
    println!("\n{:<34} {:>9} {:>9} {:>9}", "", "median", "p99", "worst");
    let agent = print("kapok-agent, /metrics", &mut ours);
    print("prometheus-libvirt-exporter", &mut theirs);
    println!(
        "the agent's page: {} series of {} KiB; oldest sample {oldest:.1} s",
        page.lines().filter(|line| !line.starts_with('#')).count(),
        page.len() / 1024
    );

    progress.say("a minute of each, a scrape every 5 s");
    let libvirtd = reader.host.libvirtd_pid().context("no libvirtd")?;
    let pid = fabric.agent_pid(0).context("no agent")?;
    let spent = minute(&[pid, libvirtd], interrupt, || reader.agent(1).map(drop))?;
    println!(
        "processor time in a minute: agent {:.2} s + libvirtd {:.2} s = {:.2} s",
        spent[0],
        spent[1],
        spent[0] + spent[1]
    );
    fabric.signal_agent(0, Signal::SIGSTOP)?;
    let pids = [exporter.pid(), libvirtd];
    let spent = minute(&pids, interrupt, || reader.exporter(1).map(drop));
    fabric.signal_agent(0, Signal::SIGCONT)?;
    let spent = spent?;
    println!(
        "                            exporter {:.2} s + libvirtd {:.2} s = {:.2} s",
        spent[0],
        spent[1],
        spent[0] + spent[1]
    );
    let resident = Resident::of(pid)?;
    println!(
        "agent resident {}, goal {} (its own {}, programs and libraries {}); exporter {}",
        mib(resident.kib),
        mib(AGENT_GOAL_KIB),
        mib(resident.own_kib),
        mib(resident.files_kib),
        mib(Resident::of(exporter.pid())?.kib)
    );
    let stuck = one_stuck(reader, progress, interrupt)?;
    let goals = [
        ("p99 of a scrape", agent > SCRAPE_GOAL.as_secs_f64()),
        ("age of samples", oldest > AGE_GOAL),
        ("age of the others' samples", stuck > AGE_GOAL),
        ("resident memory", resident.kib > AGENT_GOAL_KIB),
    ];
    let missed = goals.into_iter().filter(|(_, missed)| *missed);
    Ok(missed.map(|(what, _)| what.to_owned()).collect())
}

/// Stops one QEMU; gives the oldest age of all others meanwhile.
fn one_stuck(reader: &Reader<'_>, progress: &Progress, interrupt: &Interrupt) -> Result<f64> {
    until("fresh samples", BOUND, || {
        Ok((worst(&ages(&reader.page()?)) < AGE_GOAL).then_some(()))
    })?;
    let domains = reader.host.running_domains()?;
    let stopped = domains.first().context("no domain")?;
    let uuid = stopped.strip_prefix("kapok-").context("a foreign domain")?;
    progress.say(&format!("stopping the QEMU of {stopped}"));
    reader.host.signal_qemu(stopped, Signal::SIGSTOP)?;
    let watched = watch(reader, uuid, interrupt);
    reader.host.signal_qemu(stopped, Signal::SIGCONT)?;
    let (flagged, age, others) = watched?;
    println!(
        "one QEMU stopped for {} s: flagged after {flagged:.1} s, its sample {age:.1} s old; the \
         oldest of the others {others:.1} s",
        STOPPED.as_secs()
    );
    until("the stopped one's samples", BOUND, || {
        Ok((ages(&reader.page()?)[uuid] < AGE_GOAL).then_some(()))
    })?;
    Ok(others)
}

/// How long one QEMU is stopped.
const STOPPED: Duration = Duration::from_secs(25);

fn watch(reader: &Reader<'_>, uuid: &str, interrupt: &Interrupt) -> Result<(f64, f64, f64)> {
    let begin = Instant::now();
    let (mut flagged, mut age, mut others) = (None, 0.0, 0.0_f64);
    while begin.elapsed() < STOPPED {
        interrupt.check()?;
        let page = reader.page()?;
        let mut ages = ages(&page);
        age = ages.remove(uuid).context("the stopped one isn't shown")?;
        others = others.max(worst(&ages));
        let line = format!("kapok_domain_stuck{{uuid=\"{uuid}\"");
        let said = page.lines().find(|it| it.starts_with(&line));
        if flagged.is_none() && said.is_some_and(|said| said.ends_with(" 1")) {
            flagged = Some(begin.elapsed().as_secs_f64());
        }
        pause(Duration::from_millis(500));
    }
    ensure!(
        age > AGE_GOAL,
        "the stopped one's sample is only {age:.1} s old"
    );
    Ok((
        flagged.context("the stopped one was never flagged")?,
        age,
        others,
    ))
}

impl<'lab> Reader<'lab> {
    fn new(lab: &'lab Lab, fabric: &Fabric<'_>) -> Result<Self> {
        let host = lab.host(0);
        let node = fabric.kapok().value(&["node", "show", host.name()])?;
        let trust = places::inside(&fabric.share_controller_trust()?).join("current");
        let file = |name: &str| trust.join(name).display().to_string();
        let name = format!("{}.node.lab.kapok.internal", text(&node, "id"));
        let words = [
            "--cacert",
            &file("bundle.pem"),
            "--cert",
            &file("chain.pem"),
            "--key",
            &file("key.pem"),
        ]
        .map(str::to_owned);
        let mut agent = words.to_vec();
        agent.push("--resolve".into());
        agent.push(format!("{name}:7781:{}", host.address()));
        agent.push("--compressed".into());
        agent.push(format!("https://{name}:7781/metrics"));
        Ok(Self { host, agent })
    }

    /// The agent's page.
    fn page(&self) -> Result<String> {
        self.curl(&self.agent, "", &[])
    }

    /// Seconds that so many scrapes of the agent took, each.
    fn agent(&self, scrapes: usize) -> Result<Vec<f64>> {
        self.times(&self.agent, scrapes)
    }

    /// The same of the exporter.
    fn exporter(&self, scrapes: usize) -> Result<Vec<f64>> {
        self.times(&[EXPORTER.to_owned()], scrapes)
    }

    /// The first of a connection makes it, and doesn't count.
    fn times(&self, words: &[String], scrapes: usize) -> Result<Vec<f64>> {
        let more = ["--output", "/dev/null", "--write-out", "%{time_total}\\n"];
        let said = self.curl(words, &format!("?[0-{scrapes}]"), &more)?;
        let times: Vec<f64> = said
            .lines()
            .skip(1)
            .filter_map(|line| line.parse().ok())
            .collect();
        ensure!(times.len() == scrapes, "curl said {said}");
        Ok(times)
    }

    fn curl(&self, words: &[String], query: &str, more: &[&str]) -> Result<String> {
        let (url, words) = words.split_last().context("no address")?;
        self.host.run("/usr/bin/curl", |command| {
            command
                .args(["--silent", "--show-error", "--fail"])
                .args(words.iter().map(String::as_str))
                .args(more.iter().copied())
                .arg(format!("{url}{query}"))
                .bound(BOUND)
        })
    }
}

/// Ages of all domains' samples, in seconds, by UUID.
fn ages(page: &str) -> BTreeMap<String, f64> {
    let lines = page.lines().filter_map(|line| {
        let rest = line.strip_prefix("kapok_domain_sample_age_seconds{uuid=\"")?;
        let uuid = rest.split('"').next()?;
        Some((uuid.to_owned(), line.rsplit(' ').next()?.parse().ok()?))
    });
    lines.collect()
}

fn worst(ages: &BTreeMap<String, f64>) -> f64 {
    ages.values().copied().fold(0.0, f64::max)
}

/// Processor time of these processes in a minute of scrapes, in seconds.
fn minute(
    pids: &[u32],
    interrupt: &Interrupt,
    scrape: impl Fn() -> Result<()>,
) -> Result<Vec<f64>> {
    let before = pids
        .iter()
        .map(|pid| processor_time(*pid))
        .collect::<Result<Vec<_>>>()?;
    let begin = Instant::now();
    while begin.elapsed() < MINUTE {
        interrupt.check()?;
        scrape()?;
        pause(EVERY);
    }
    let took = begin.elapsed().as_secs_f64() / MINUTE.as_secs_f64();
    let spent = pids.iter().zip(before);
    spent
        .map(|(pid, before)| Ok((processor_time(*pid)? - before) / took))
        .collect()
}

/// Seconds in user and kernel mode, from the clock ticks of `/proc`.
fn processor_time(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"))?;
    let (_, rest) = stat.rsplit_once(')').context("a strange stat")?;
    let words: Vec<_> = rest.split_whitespace().collect();
    let ticks = |at: usize| -> Result<f64> { Ok(words.get(at).context("a short stat")?.parse()?) };
    Ok((ticks(11)? + ticks(12)?) / 100.0)
}

/// Prints times; gives the p99.
fn print(what: &str, times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    let last = times.len().saturating_sub(1);
    let at = |percent: usize| times.get(last * percent / 100).copied().unwrap_or(f64::NAN);
    let millis = |seconds: f64| format!("{:.2} ms", seconds * 1000.0);
    println!(
        "{what:<34} {:>9} {:>9} {:>9}",
        millis(at(50)),
        millis(at(99)),
        millis(at(100))
    );
    at(99)
}
