//! libvirt and QEMU: whether they are there, new enough, have what the configuration names, and run
//! a Linux guest under KVM.

use std::{sync::Arc, time::Duration};

use kapok_types::{Env, Name};
use tokio::time::{Instant, sleep, timeout};

use super::Finding;
use crate::{
    config::{Config, VirtChoice},
    driver::{
        Error,
        libvirt::{
            self,
            examine::{Examined, examine},
        },
    },
    local::{Local, Memory},
    setup,
    watch::facts::Host,
};

/// How long libvirt may take for a question.
const PATIENCE: Duration = Duration::from_secs(15);
/// What booting and ending the probe's guest may take beside its own time.
const MARGIN: Duration = Duration::from_mins(1);
/// Between two looks whether the driver has connected.
const LOOK: Duration = Duration::from_millis(100);

/// The oldest that this agent is tested with.
const LIBVIRT: (u32, u32) = (9, 0);
const QEMU: (u32, u32) = (7, 2);

/// A pool with less than this left takes no guest of a usual size; in percent.
const LEAST_FREE_PERCENT: u64 = 5;

/// Asks libvirt, and boots a guest under KVM if `boot` says so: at least as long as that takes.
pub async fn check(config: &Config, boot: bool, env: &Arc<dyn Env>) -> Vec<Finding> {
    let libvirt = &config.libvirt;
    let further = libvirt.networks.iter().map(ToString::to_string);
    let networks: Vec<String> = [libvirt.network.clone()]
        .into_iter()
        .chain(further)
        .collect();
    let examined = examine(&libvirt.uri, &libvirt.pool, networks, PATIENCE).await;
    let reached = examined.is_ok();
    let mut findings = judge(config, &examined);
    if reached && boot {
        findings.push(judge_kvm(config, &guest(config, env).await));
    }
    findings
}

fn judge(config: &Config, examined: &Result<Examined, String>) -> Vec<Finding> {
    const CHECK: &str = "libvirt";
    let Examined {
        libvirt,
        hypervisor,
        pool,
        networks,
    } = match examined {
        Ok(examined) => examined,
        Err(reason) => {
            let found = format!("{} can't be reached: {reason}", config.libvirt.uri);
            let advice = "systemctl status libvirtd virtqemud; virsh -c qemu:///system version";
            return vec![Finding::failing(CHECK, found, advice)];
        }
    };
    let mut findings = vec![versions(libvirt, hypervisor)];
    let name = &config.libvirt.pool;
    findings.push(match pool {
        Ok((size, free)) => room(name, *size, *free),
        Err(reason) => {
            let found = format!("the pool {name}, for guests' disks, can't be used: {reason}");
            let advice = format!(
                "virsh pool-define-as {name} dir --target /var/lib/libvirt/images/{name} && virsh \
                 pool-build {name} && virsh pool-start {name} && virsh pool-autostart {name}"
            );
            Finding::failing("pool", found, advice)
        }
    });
    for (name, usable) in networks {
        findings.push(match usable {
            Ok(()) => Finding::healthy("network", format!("{name} is active")),
            Err(reason) => {
                let found = format!("the network {name} can't be used: {reason}");
                let advice = format!(
                    "virsh net-define it, if `virsh net-list --all` lacks it; virsh net-start {name} && \
                     virsh net-autostart {name}"
                );
                Finding::failing("network", found, advice)
            }
        });
    }
    findings
}

fn versions(libvirt: &str, qemu: &str) -> Finding {
    const CHECK: &str = "libvirt";
    let found = format!("libvirt {libvirt}, QEMU {qemu}");
    let older = |version: &str, (major, minor): (u32, u32)| {
        let mut numbers = version.split('.').map(str::parse::<u32>);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(has)), Some(Ok(then))) => (has, then) < (major, minor),
            _ => true,
        }
    };
    if older(libvirt, LIBVIRT) || older(qemu, QEMU) {
        let found = format!("{found}: older than any that is tested");
        let advice = "upgrade to libvirt 9.0 and QEMU 7.2 or later";
        return Finding::degraded(CHECK, found, advice);
    }
    Finding::healthy(CHECK, found)
}

fn room(name: &str, size: u64, free: u64) -> Finding {
    const CHECK: &str = "pool";
    let gib = |bytes: u64| bytes / (1024 * 1024 * 1024);
    let found = format!("{name} has {} of {} GiB left", gib(free), gib(size));
    if free.saturating_mul(100) / size.max(1) < LEAST_FREE_PERCENT {
        let advice = "make room on its file system, or enlarge it: guests that write stop when it \
                      is full";
        return Finding::failing(CHECK, found, advice);
    }
    Finding::healthy(CHECK, found)
}

/// What came of a guest under KVM.
#[derive(Debug)]
struct Ran {
    /// Whether it reached userland.
    kvm: bool,
    reason: String,
}

/// What the driver finds out, as the agent would; under KVM whatever the configuration says, for
/// that is what is asked.
async fn guest(config: &Config, env: &Arc<dyn Env>) -> Result<Ran, String> {
    let mut asked = config.clone();
    asked.libvirt.virt_type = VirtChoice::Auto;
    let within = asked.libvirt.probe_seconds + MARGIN;
    let local = Local::in_memory(&Memory::new(env.node_id()), Arc::clone(env));
    // It owns nothing, and makes nothing that has to be told from others'.
    let fabric: Name = "doctor".parse().map_err(|_| "no name".to_owned())?;
    let host = setup::host().unwrap_or_else(|_| Host::default());
    let options = setup::driver(&asked, env, &local, &host, &fabric);
    let driver = libvirt::open(options).map_err(|error| error.to_string())?;
    let ask = async {
        let since = Instant::now();
        loop {
            match driver.compute.facts().await {
                // It connects in the background.
                Err(Error::Unavailable { .. }) if since.elapsed() < PATIENCE => sleep(LOOK).await,
                Ok(facts) => {
                    return Ok(Ran {
                        kvm: facts.virt_type == "kvm",
                        reason: facts.virt_reason,
                    });
                }
                Err(error) => return Err(error.to_string()),
            }
        }
    };
    let late = || Err(format!("no answer within {} s", within.as_secs()));
    timeout(within, ask).await.unwrap_or_else(|_| late())
}

fn judge_kvm(config: &Config, ran: &Result<Ran, String>) -> Finding {
    const CHECK: &str = "kvm";
    let libvirt = &config.libvirt;
    let advice = "see whether /dev/kvm is there: VT-x or AMD-V in the firmware, or in the hypervisor \
                  around this server (nested)";
    let (kvm, reason) = match ran {
        Ok(Ran { kvm, reason }) => (*kvm, reason),
        Err(reason) => return Finding::unknown(CHECK, reason, advice),
    };
    let unproven = libvirt.probe_kernel.is_none();
    match (kvm, libvirt.virt_type) {
        (true, VirtChoice::Qemu) => {
            let found = format!("{reason}, but virt_type = \"qemu\" makes guests run by emulation");
            Finding::degraded(CHECK, found, "set libvirt.virt_type = \"auto\"")
        }
        (true, _) => Finding::healthy(CHECK, reason),
        (false, VirtChoice::Qemu) => {
            Finding::healthy(CHECK, "guests run by emulation, as virt_type says")
        }
        (false, choice) if unproven && reason.starts_with("KVM is unproven") => {
            let advice = "name a Linux kernel and an initramfs that says the probe's word in \
                          libvirt.probe_kernel and libvirt.probe_initrd";
            if choice == VirtChoice::Kvm {
                Finding::unknown(CHECK, reason, advice)
            } else {
                let found = format!("guests run by emulation, many times slower: {reason}");
                Finding::degraded(CHECK, found, advice)
            }
        }
        (false, VirtChoice::Kvm) => {
            let found =
                format!("{reason}; and virt_type = \"kvm\" starts guests under it all the same");
            Finding::failing(CHECK, found, advice)
        }
        (false, _) => {
            let found = format!("guests run by emulation, many times slower: {reason}");
            Finding::degraded(CHECK, found, advice)
        }
    }
}

#[cfg(test)]
mod tests {
    use kapok_health::Condition;

    use super::*;

    fn examined() -> Examined {
        Examined {
            libvirt: "9.0.0".into(),
            hypervisor: "7.2.15".into(),
            pool: Ok((100 << 30, 40 << 30)),
            networks: vec![("kapok".into(), Ok(()))],
        }
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut Examined), check: &str, condition: Condition) {
        let mut examined = examined();
        change(&mut examined);
        let findings = judge(&Config::default(), &Ok(examined));
        for finding in findings {
            let expected = if finding.check == check {
                condition
            } else {
                Condition::Healthy
            };
            assert_eq!(finding.condition, expected, "{finding:?}");
            assert_eq!(finding.advice.is_empty(), expected == Condition::Healthy);
        }
    }

    #[test]
    fn what_libvirt_has() {
        check(|_| {}, "", Condition::Healthy);
        check(
            |it| it.libvirt = "8.5.0".into(),
            "libvirt",
            Condition::Degraded,
        );
        check(|it| it.libvirt = "10.0.0".into(), "", Condition::Healthy);
        check(
            |it| it.hypervisor = "7.1.9".into(),
            "libvirt",
            Condition::Degraded,
        );
        check(
            |it| it.pool = Ok((100 << 30, 1 << 30)),
            "pool",
            Condition::Failing,
        );
        check(
            |it| it.pool = Err("no such pool".into()),
            "pool",
            Condition::Failing,
        );
        let inactive = Err("it isn't active".to_owned());
        check(
            |it| it.networks[0].1 = inactive,
            "network",
            Condition::Failing,
        );
        let away = judge(&Config::default(), &Err("no such socket".into()));
        assert_eq!(away[0].condition, Condition::Failing);
    }

    #[test]
    fn kvm_is_believed_only_when_a_guest_ran() {
        let ran = |kvm, reason: &str| {
            let reason = reason.to_owned();
            Ok(Ran { kvm, reason })
        };
        let (auto, kvm, qemu) = (VirtChoice::Auto, VirtChoice::Kvm, VirtChoice::Qemu);
        for (ran, choice, condition) in [
            (ran(true, "it ran"), auto, Condition::Healthy),
            (ran(true, "it ran"), qemu, Condition::Degraded),
            (ran(false, "it hung"), auto, Condition::Degraded),
            (ran(false, "it hung"), kvm, Condition::Failing),
            (ran(false, "it hung"), qemu, Condition::Healthy),
            (ran(false, "KVM is unproven"), auto, Condition::Degraded),
            (ran(false, "KVM is unproven"), kvm, Condition::Unknown),
            (Err("late".into()), auto, Condition::Unknown),
        ] {
            let mut config = Config::default();
            config.libvirt.virt_type = choice;
            let found = judge_kvm(&config, &ran);
            assert_eq!(found.condition, condition, "{found:?}");
            assert_eq!(found.advice.is_empty(), condition == Condition::Healthy);
        }
    }
}
