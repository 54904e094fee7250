//! Prometheus, as Debian has it, reads the fabric through its service discovery with a machine's
//! certificate, and rings when a node is lost.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    io::{Read as _, Write as _},
    net::SocketAddr,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use kapok_agent::metrics::names as agent;
use kapok_controller::https::metrics::names as controller;
use kapok_lab::{
    User,
    fabric::{Person, text},
    places,
    process::Proc,
    wait::until,
};
use kapok_trust::dns;
use kapok_types::{Name, NodeId};
use serde_json::Value;

use crate::world::{SOON, World};

/// Where the machine's credential lies in the hub: one file with everything that Prometheus wants.
const CREDENTIAL: &str = "/var/lib/kapok/prometheus.pem";
/// Where Prometheus' own files lie there.
const FOLDER: &str = "/var/lib/kapok/prometheus";
/// The controller's port of pages.
const HTTPS: u16 = 7780;

/// Prometheus finds every agent, all pages are sound, and the loss of a node rings.
pub(crate) fn prometheus_reads_the_fabric_and_rings(world: &World<'_>) -> Result<()> {
    if Command::new("promtool").arg("--version").output().is_err() {
        println!("SKIP prometheus_reads_the_fabric_and_rings: prometheus isn't installed");
        return Ok(());
    }
    let fabric: Name = "lab".parse()?;
    let hub = world.lab().hub();
    let mut hosts = String::from("127.0.0.1 localhost\n");
    let center = dns::controller(&fabric);
    writeln!(hosts, "{} {center}", hub.address())?;
    for (index, host) in world.lab().hosts().iter().enumerate() {
        let id: NodeId = text(&world.node(index)?, "id").parse()?;
        writeln!(hosts, "{} {}", host.address(), dns::node(&fabric, id))?;
    }
    hub.write("/etc/hosts", &hosts)?;
    log_in(world)?;
    pages_are_sound(world, &center)?;

    let mut prometheus = start(world, &center)?;
    let rang = rings(world);
    if rang.is_err() {
        println!("{}", prometheus.log());
    }
    prometheus.terminate(SOON)?;
    rang
}

/// A machine's certificate, by a token.
fn log_in(world: &World<'_>) -> Result<()> {
    let security = world.kapok().by(Person::SecurityAdministrator);
    security.run(&[
        "user",
        "create",
        "machine/prometheus",
        "--grant",
        "tenant-member:city",
    ])?;
    let token = security.run(&["token", "create", "machine/prometheus", "--quiet"])?;
    let hub = world.lab().hub();
    hub.write("/etc/kapok/prometheus.token", token.trim())?;
    hub.command(places::inside(world.kapok().program()))
        .user(User::Kapok)
        .env("HOME", "/var/lib/kapok")
        .args(["login", "--credential", CREDENTIAL])
        .args(["--token-file", "/etc/kapok/prometheus.token"])
        .args([
            "--controller".to_owned(),
            format!("{}:{HTTPS}", hub.address()),
        ])
        .text()
        .map(drop)
}

/// promtool finds nothing to say of either page, and both hold what their tables of names say and
/// nothing else of Kapok's.
fn pages_are_sound(world: &World<'_>, center: &str) -> Result<()> {
    let fabric: Name = "lab".parse()?;
    let id: NodeId = text(&world.node(0)?, "id").parse()?;
    let node = format!("{}:7781", dns::node(&fabric, id));
    for (address, names) in [
        (format!("{center}:{HTTPS}"), controller::ALL),
        (node, agent::ALL),
    ] {
        let page = world
            .lab()
            .hub()
            .command("curl")
            .user(User::Kapok)
            .args(["--silent", "--fail", "--show-error", "--compressed"])
            .args([
                "--cacert", CREDENTIAL, "--cert", CREDENTIAL, "--key", CREDENTIAL,
            ])
            .arg(format!("https://{address}/metrics"))
            .text()?;
        let mut promtool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut input = promtool.stdin.take().context("no input")?;
        input.write_all(page.as_bytes())?;
        drop(input);
        let said = promtool.wait_with_output()?;
        let words = [said.stdout, said.stderr].concat();
        let words = String::from_utf8_lossy(&words).into_owned();
        ensure!(
            said.status.success() && words.is_empty(),
            "{address}: {words}\n{page}"
        );
        let known: BTreeSet<_> = names
            .iter()
            .flat_map(kapok_metrics::Name::exported)
            .collect();
        let shown = page.lines().filter(|line| !line.starts_with('#'));
        let shown: BTreeSet<_> = shown
            .filter_map(|line| line.split(['{', ' ']).next())
            .map(str::to_owned)
            .collect();
        let strange: Vec<_> = shown.difference(&known).collect();
        ensure!(strange.is_empty(), "{address} shows {strange:?}");
        println!("{address}: {} names, {} bytes", shown.len(), page.len());
    }
    Ok(())
}

/// Prometheus with the shipped alerts, which don't wait here.
fn start(world: &World<'_>, center: &str) -> Result<Proc> {
    let shipped = places::workspace().join("systemd/prometheus");
    let rules = std::fs::read_to_string(shipped.join("kapok.rules.yml"))?;
    let waits = |line: &&str| line.trim_start().starts_with("for: ");
    let rules: Vec<_> = rules.lines().filter(|line| !waits(line)).collect();
    let config = std::fs::read_to_string(shipped.join("prometheus.yml"))?
        .replace(
            "scrape_interval: 15s",
            "scrape_interval: 1s\n  evaluation_interval: 1s",
        )
        .replace(
            "http_sd_configs:\n      - url",
            "http_sd_configs:\n      - refresh_interval: 1s\n        url",
        )
        .replace("/etc/prometheus/kapok.pem", CREDENTIAL)
        .replace("controller.example.org", center);
    let hub = world.lab().hub();
    hub.write(
        format!("{FOLDER}/kapok.rules.yml"),
        &(rules.join("\n") + "\n"),
    )?;
    hub.write(format!("{FOLDER}/prometheus.yml"), &config)?;
    hub.command("/usr/bin/prometheus")
        .user(User::Kapok)
        .arg(format!("--config.file={FOLDER}/prometheus.yml"))
        .arg("--storage.tsdb.path=/var/lib/kapok/tsdb")
        .arg("--web.listen-address=127.0.0.1:9090")
        .spawn("prometheus")
}

fn rings(world: &World<'_>) -> Result<()> {
    let wanted = 1 + world.lab().hosts().len();
    until("Prometheus to read everybody", SOON, || {
        let Ok(targets) = ask(world, "/api/v1/targets?state=active") else {
            return Ok(None);
        };
        let targets = targets["data"]["activeTargets"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let up = targets
            .iter()
            .filter(|it| text(it, "health") == "up")
            .count();
        Ok((up == wanted).then_some(()))
    })?;
    let lost = world.lab().hosts().len() - 1;
    let name = world.host(lost).name();
    ensure!(
        !is_ringing(world, "KapokNodeUnreachable", name)?,
        "it rings already"
    );
    world.fabric.kill_agent(lost)?;
    until("the alert", Duration::from_mins(1), || {
        Ok(is_ringing(world, "KapokNodeUnreachable", name)?.then_some(()))
    })?;
    world.fabric.start_agent(lost)?;
    world.nodes_become("ready", SOON)?;
    until("the end of the alert", Duration::from_mins(1), || {
        Ok((!is_ringing(world, "KapokNodeUnreachable", name)?).then_some(()))
    })
}

fn is_ringing(world: &World<'_>, alert: &str, node: &str) -> Result<bool> {
    let alerts = ask(world, "/api/v1/alerts")?;
    let alerts = alerts["data"]["alerts"].as_array().context("no alerts")?;
    Ok(alerts.iter().any(|it| {
        text(it, "state") == "firing"
            && text(&it["labels"], "alertname") == alert
            && text(&it["labels"], "node") == node
    }))
}

/// Asks Prometheus, inside the hub.
fn ask(world: &World<'_>, path: &str) -> Result<Value> {
    let address = SocketAddr::from(([127, 0, 0, 1], 9090));
    let mut stream = world.lab().hub().connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: prometheus\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let Some((_, body)) = answer.split_once("\r\n\r\n") else {
        bail!("no answer to {path}");
    };
    Ok(serde_json::from_str(body)?)
}
