//! What a guest tells of itself, through its own agent and past Kapok: whether it is the same
//! guest as before, and for how long it has run.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kapok_lab::{Host, wait::until};
use serde_json::{Value, json};

use crate::world::{SOON, World};

/// One reading of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Life {
    /// Of its kernel's present run.
    pub(crate) boot: String,
    /// Its counter, which starts at 1.
    pub(crate) ticks: u64,
    /// The process of its QEMU.
    pub(crate) qemu: u32,
}

/// Reads a guest. Its agent may be busy with Kapok's own question for a moment.
pub(crate) fn life(world: &World<'_>, name: &str) -> Result<Life> {
    let (host, domain) = world.place(name)?;
    life_of(world.host(host), &domain)
}

/// Reads the guest of a domain; needs neither controller nor agent.
pub(crate) fn life_of(host: &Host, domain: &str) -> Result<Life> {
    let mut last = None;
    let read = until(&format!("what the guest of {domain} says"), SOON, || {
        match read(host, domain) {
            Ok(life) => return Ok(Some(life)),
            Err(error) => last = Some(error),
        }
        Ok(None)
    });
    read.with_context(|| format!("last error: {last:?}"))
}

/// Makes sure that a guest is the one it was and runs on: its counter has grown since.
pub(crate) fn lives_on(host: &Host, domain: &str, before: &Life) -> Result<()> {
    let now = life_of(host, domain)?;
    ensure!(
        now.boot == before.boot,
        "{domain} was restarted: {before:?}, now {now:?}"
    );
    ensure!(
        now.qemu == before.qemu,
        "{domain} has another QEMU: {before:?}, now {now:?}"
    );
    ensure!(
        now.ticks >= before.ticks,
        "{domain}'s counter fell: {before:?}, now {now:?}"
    );
    until(
        &format!("{domain}'s next tick"),
        Duration::from_secs(20),
        || Ok((life_of(host, domain)?.ticks > before.ticks).then_some(())),
    )
}

/// A small file of a guest. Its agent may be busy with Kapok's own question for a moment.
pub(crate) fn file_of(host: &Host, domain: &str, path: &str) -> Result<String> {
    let mut last = None;
    let read = until(&format!("{path} of {domain}"), SOON, || {
        match read_file(host, domain, path) {
            Ok(text) => return Ok(Some(text)),
            Err(error) => last = Some(error),
        }
        Ok(None)
    });
    read.with_context(|| format!("last error: {last:?}"))
}

fn read(host: &Host, domain: &str) -> Result<Life> {
    let pids = host.qemu_pids()?;
    let qemu = pids
        .iter()
        .find(|(name, _)| name == domain)
        .context("no QEMU")?
        .1;
    Ok(Life {
        boot: read_file(host, domain, "/proc/sys/kernel/random/boot_id")?
            .trim()
            .to_owned(),
        ticks: read_file(host, domain, "/run/ticks")?.trim().parse()?,
        qemu,
    })
}

fn read_file(host: &Host, domain: &str, path: &str) -> Result<String> {
    let open = ask(
        host,
        domain,
        "guest-file-open",
        &json!({"path": path, "mode": "r"}),
    )?;
    let read = ask(
        host,
        domain,
        "guest-file-read",
        &json!({"handle": open, "count": 100}),
    );
    let _closed = ask(host, domain, "guest-file-close", &json!({"handle": open}));
    let text = read?["buf-b64"]
        .as_str()
        .map(base64)
        .context("no content")?;
    Ok(String::from_utf8(text)?)
}

fn ask(host: &Host, domain: &str, command: &str, arguments: &Value) -> Result<Value> {
    let question = json!({"execute": command, "arguments": arguments}).to_string();
    let answer = host.virsh(&["qemu-agent-command", "--timeout", "5", domain, &question])?;
    let mut answer: Value = serde_json::from_str(&answer)?;
    Ok(answer["return"].take())
}

/// Base64 back to bytes; what isn't of its alphabet is skipped.
fn base64(text: &str) -> Vec<u8> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bits, mut held, mut bytes) = (0_u32, 0_u32, Vec::new());
    for letter in text.bytes() {
        let Some(value) = ALPHABET.iter().position(|&known| known == letter) else {
            continue;
        };
        bits = (bits << 6) | u32::try_from(value).unwrap();
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push(u8::try_from((bits >> held) & 0xff).unwrap());
        }
    }
    bytes
}
