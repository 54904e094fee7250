//! The server under trial, what is asked of it, and the guest that must notice nothing.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kapok_lab::server::{SHELF, Server};
use kapok_lab::wait::{pause, until};
use serde_json::Value;

/// How long anything may take that is waited for: everything is emulated, the guest twice.
pub(super) const SOON: Duration = Duration::from_mins(10);

/// The administrator's credential, as `kapok-controller init` left it.
const CREDENTIAL: &str = "/var/lib/kapok/controller/credentials/system-administrator.pem";

/// Says what the one guest is, through its own agent and past Kapok: the id of its kernel's run, its
/// counter, the process of its QEMU.
const READ: &str = r#"
domain=$(virsh -q list --name)
ask() { virsh -q qemu-agent-command --timeout 20 "$domain" "$1"; }
read_file() {
    handle=$(ask '{"execute":"guest-file-open","arguments":{"path":"'$1'","mode":"r"}}' | tr -dc 0-9)
    [ -n "$handle" ] || return 1
    ask '{"execute":"guest-file-read","arguments":{"handle":'$handle',"count":100}}' |
        sed 's/.*"buf-b64":"\([^"]*\)".*/\1/' | base64 -d
    ask '{"execute":"guest-file-close","arguments":{"handle":'$handle'}}' >/dev/null
}
boot=$(read_file /proc/sys/kernel/random/boot_id) && ticks=$(read_file /run/ticks) &&
    echo "$boot $ticks $(cat "/run/libvirt/qemu/$domain.pid")"
"#;

/// Where that is on the server.
const READER: &str = "/root/read-guest";

/// How long a guest may take to boot in an emulation within an emulation.
const BOOT: Duration = Duration::from_mins(20);

/// What such a guest gets between two questions to it.
const BREATH: Duration = Duration::from_secs(3);

/// One reading of the guest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Life {
    /// Of its kernel's present run.
    boot: String,
    /// Its counter, which starts at 1.
    ticks: u64,
    /// The process of its QEMU.
    qemu: u32,
}

impl Life {
    /// Whether it is the same life, later.
    fn goes_on_from(&self, before: &Self) -> bool {
        self.boot == before.boot && self.qemu == before.qemu && self.ticks >= before.ticks
    }
}

impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "counter at {}, QEMU {}", self.ticks, self.qemu)
    }
}

/// The server and what is known of its guest.
pub(super) struct World {
    pub(super) server: Server,
    /// The version that is installed first, and the one that it is upgraded to.
    pub(super) older: String,
    pub(super) newer: String,
    life: Option<Life>,
    /// The guest's counter after the step before the last one.
    before: Option<u64>,
}

impl World {
    pub(super) fn new(server: Server, older: String, newer: String) -> Self {
        Self {
            server,
            older,
            newer,
            life: None,
            before: None,
        }
    }

    /// Runs a line of shell on the server as root.
    pub(super) fn sh(&self, line: &str) -> Result<String> {
        Ok(self.server.run(line)?.trim().to_owned())
    }

    /// Runs `kapok` there as the system administrator.
    pub(super) fn kapok(&self, line: &str) -> Result<String> {
        self.sh(&format!("KAPOK_CREDENTIAL={CREDENTIAL} kapok {line}"))
    }

    /// Installs packages as apt does, without a question.
    pub(super) fn apt(&self, what: &str) -> Result<()> {
        self.sh(&format!(
            "apt-get -q -y -o Dpkg::Options::=--force-confold {what}"
        ))
        .map(drop)
    }

    /// All packages of one version, for apt.
    pub(super) fn all(version: &str) -> String {
        crate::package::NAMES
            .map(|name| format!("{name}={version}"))
            .join(" ")
    }

    /// A property of a unit.
    pub(super) fn unit(&self, name: &str, property: &str) -> Result<String> {
        self.sh(&format!("systemctl show --value -p {property} {name}"))
    }

    /// Waits until a unit is active in another process than `before`, and gives its id.
    pub(super) fn another_process(&self, name: &str, before: &str) -> Result<String> {
        until(&format!("{name} in a new process"), SOON, || {
            let pid = self.unit(name, "MainPID")?;
            let is_up = self.unit(name, "ActiveState")? == "active";
            Ok((is_up && pid != "0" && pid != before).then_some(pid))
        })
    }

    /// Makes sure that the guest is the one that it was, and that its counter has gone on.
    pub(super) fn guest_runs_on(&mut self) -> Result<()> {
        let now = self.read_life(SOON)?;
        let before = self.life.as_ref().context("no guest yet")?;
        ensure!(
            now.goes_on_from(before),
            "the guest was {before:?}, and is {now:?}"
        );
        let last = now.ticks;
        let later = until("the guest's next tick", SOON, || {
            let later = self.read_life(SOON)?;
            Ok((later.ticks > last).then_some(later))
        })?;
        self.before = Some(before.ticks);
        self.life = Some(later);
        Ok(())
    }

    /// Takes note of the guest's first life.
    pub(super) fn meet_guest(&mut self) -> Result<()> {
        self.server.write(READER, READ)?;
        self.life = Some(self.read_life(BOOT)?);
        Ok(())
    }

    /// Waits until the controller says that the guest runs.
    pub(super) fn controller_sees_it(&self) -> Result<()> {
        until("the instance to be seen running", SOON, || {
            let Ok(said) = self.kapok("instance show web -o json") else {
                return Ok(None);
            };
            let instance: Value = serde_json::from_str(&said)?;
            let is_known = self.kapok("node show server -o json")?;
            let is_ready = serde_json::from_str::<Value>(&is_known)?["state"] == "ready";
            Ok((is_ready && instance["phase"] == "running").then_some(()))
        })
    }

    /// The guest's last reading, in words.
    pub(super) fn life(&self) -> String {
        self.life.clone().unwrap_or_default().to_string()
    }

    /// What the last step did to the guest's counter; empty before there is one.
    pub(super) fn told(&mut self) -> String {
        let now = self.life.as_ref().map(|life| life.ticks);
        let Some((before, now)) = self.before.take().zip(now) else {
            return String::new();
        };
        format!(": the guest counted from {before} to {now}")
    }

    /// Everything, for a person who has to find out what went wrong.
    pub(super) fn picture(&self) -> String {
        let line = "systemctl --no-pager --failed; virsh list --all; \
                    journalctl --no-pager -o short-monotonic | grep -v qemu-ga | tail -n 60";
        let said = self.server.ask(line);
        said.map_or_else(
            |error| format!("{error:#}\n{}", self.server.console()),
            |answer| answer.output + &answer.errors,
        )
    }

    /// Its agent may be busy with Kapok's own question for a moment.
    fn read_life(&self, bound: Duration) -> Result<Life> {
        until("what the guest says", bound, || {
            let answer = self.server.ask(&format!("sh {READER}"))?;
            let words: Vec<&str> = answer.output.split_whitespace().collect();
            if let [boot, ticks, qemu] = words[..] {
                return Ok(Some(Life {
                    boot: boot.to_owned(),
                    ticks: ticks.parse()?,
                    qemu: qemu.parse()?,
                }));
            }
            pause(BREATH);
            Ok(None)
        })
    }

    /// Where apt finds the packages.
    pub(super) fn index_packages(&self) -> Result<()> {
        // What dpkg-scanpackages would write, by what every Debian has.
        let scan = format!(
            "cd {SHELF} && for deb in *.deb; do dpkg-deb -f $deb | grep .; echo Filename: ./$deb; \
             echo Size: $(stat -c %s $deb); echo SHA256: $(sha256sum $deb | cut -d' ' -f1); echo; \
             done"
        );
        self.sh(&format!(
            "mkdir -p /srv/packages && cd /srv/packages && ln -sf {SHELF}/*.deb . && ({scan}) \
             >Packages && echo 'deb [trusted=yes] file:/srv/packages ./' \
             >/etc/apt/sources.list && apt-get -q update"
        ))
        .map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_was_restarted_is_another_one() {
        let before = Life {
            boot: "a".into(),
            ticks: 7,
            qemu: 1039,
        };
        let later = Life {
            ticks: 9,
            ..before.clone()
        };
        assert!(later.goes_on_from(&before));
        for other in [
            Life {
                boot: "b".into(),
                ..later.clone()
            },
            Life {
                qemu: 1040,
                ..later.clone()
            },
            Life {
                ticks: 6,
                ..later.clone()
            },
        ] {
            assert!(!other.goes_on_from(&before), "{other:?}");
        }
    }
}
