//! Whether KVM is to be believed: `virt_type = "auto"`.
//!
//! `/dev/kvm` can open, and even run code, where Linux guests hang. So KVM is used only after a
//! Linux guest reached userland under it in time, through the hypervisor and with the machine
//! type in use. The answer is kept per boot, kernel, hypervisor and machine type: a node doesn't
//! change its mind under running guests, and *no* never turns into *yes* later in the same boot.
//!
//! This module decides and remembers; booting the guest is the driver's work.

use std::{future::Future, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{config::VirtChoice, driver::Error, local::Local};

/// What the guest's userland prints on its console.
pub const TOKEN: &str = "kapok-userland";

/// How to decide.
#[derive(Debug, Clone)]
pub struct Probe {
    options: Arc<Options>,
}

/// What a probe is set up with.
#[derive(Debug, Clone)]
pub struct Options {
    /// What the configuration says.
    pub choice: VirtChoice,
    /// The guest to boot, if one is configured.
    pub guest: Option<Guest>,
    /// The host's boot.
    pub boot: Uuid,
    /// The host's kernel release.
    pub kernel: String,
    /// Where the answer is kept.
    pub local: Local,
}

/// The guest to boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    /// Path of a Linux kernel.
    pub kernel: String,
    /// Path of an initramfs whose `init` prints [`TOKEN`] on the serial console.
    pub initrd: String,
    /// How long it may take.
    pub timeout: Duration,
}

/// What the answer is about, beside the host's boot and kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// The machine type in use.
    pub machine: String,
    /// The hypervisor's version.
    pub hypervisor: String,
    /// Whether the hypervisor offers KVM at all.
    pub kvm_offered: bool,
}

/// What came of booting the guest under KVM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It reached userland.
    Userland {
        /// How long that took.
        after: Duration,
    },
    /// It didn't, in the time given.
    NoUserland {
        /// The last that it printed.
        tail: String,
    },
    /// It couldn't even be started.
    NotStarted {
        /// What the hypervisor said.
        reason: String,
    },
}

/// The decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// KVM, else emulation.
    pub kvm: bool,
    /// Why, for people.
    pub reason: String,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Key {
    boot: Uuid,
    kernel: String,
    machine: String,
    hypervisor: String,
    guest: (String, String),
}

#[derive(Serialize, Deserialize)]
struct Kept {
    key: Key,
    kvm: bool,
    reason: String,
}

impl Probe {
    /// A probe with these options.
    pub fn new(options: Options) -> Self {
        Self {
            options: Arc::new(options),
        }
    }

    /// Decides, booting the guest at most once a boot of the host.
    ///
    /// # Errors
    ///
    /// Only those of `boot`: then nothing is decided, and nothing kept.
    pub async fn decide<F>(
        &self,
        subject: &Subject,
        boot: impl FnOnce(Guest) -> F + Send,
    ) -> Result<Verdict, Error>
    where
        F: Future<Output = Result<Answer, Error>> + Send,
    {
        let verdict = |kvm, reason: &str| Verdict {
            kvm,
            reason: reason.to_owned(),
        };
        match self.options.choice {
            VirtChoice::Kvm => return Ok(verdict(true, "configured")),
            VirtChoice::Qemu => return Ok(verdict(false, "configured")),
            VirtChoice::Auto => {}
        }
        if !subject.kvm_offered {
            return Ok(verdict(
                false,
                "the hypervisor offers no KVM (is /dev/kvm there?)",
            ));
        }
        let Some(guest) = self.options.guest.clone() else {
            let reason = "KVM is unproven: no probe_kernel and probe_initrd are configured";
            return Ok(verdict(false, reason));
        };
        let key = self.key(subject, &guest);
        if let Some(kept) = self.kept(&key) {
            return Ok(kept);
        }
        let within = guest.timeout;
        let verdict = judge(&boot(guest).await?, within);
        tracing::info!(kvm = verdict.kvm, reason = verdict.reason, "KVM was probed");
        self.keep(key, &verdict).await;
        Ok(verdict)
    }

    fn key(&self, subject: &Subject, guest: &Guest) -> Key {
        Key {
            boot: self.options.boot,
            kernel: self.options.kernel.clone(),
            machine: subject.machine.clone(),
            hypervisor: subject.hypervisor.clone(),
            guest: (guest.kernel.clone(), guest.initrd.clone()),
        }
    }

    fn kept(&self, key: &Key) -> Option<Verdict> {
        let text = self.options.local.probe()?;
        let kept: Kept = serde_json::from_str(&text).ok()?;
        (kept.key == *key).then_some(Verdict {
            kvm: kept.kvm,
            reason: kept.reason,
        })
    }

    async fn keep(&self, key: Key, verdict: &Verdict) {
        let kept = Kept {
            key,
            kvm: verdict.kvm,
            reason: verdict.reason.clone(),
        };
        let Ok(text) = serde_json::to_string(&kept) else {
            return;
        };
        if let Err(error) = self.options.local.set_probe(text).await {
            // The driver remembers it for as long as it runs; after that it is probed again.
            tracing::warn!(%error, "the probe's answer isn't kept");
        }
    }
}

fn judge(answer: &Answer, within: Duration) -> Verdict {
    match answer {
        Answer::Userland { after } => Verdict {
            kvm: true,
            reason: format!(
                "a Linux guest reached userland under KVM in {} ms",
                after.as_millis()
            ),
        },
        Answer::NoUserland { tail } => {
            let last = tail
                .lines()
                .rev()
                .map(str::trim)
                .find(|line| !line.is_empty());
            let last: String = last.unwrap_or("nothing").chars().take(160).collect();
            Verdict {
                kvm: false,
                reason: format!(
                    "under KVM a Linux guest did not reach userland within {} s; its last line: {last}",
                    within.as_secs()
                ),
            }
        }
        Answer::NotStarted { reason } => Verdict {
            kvm: false,
            reason: format!("under KVM a guest could not be started: {reason}"),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use kapok_types::{Env as _, env::Seeded};

    use super::*;
    use crate::local::Memory;

    fn subject() -> Subject {
        Subject {
            machine: "pc-q35-7.2".into(),
            hypervisor: "7.2.0".into(),
            kvm_offered: true,
        }
    }

    struct Bench {
        probe: Probe,
        boots: AtomicUsize,
    }

    impl Bench {
        fn new(change: impl FnOnce(&mut Options)) -> Self {
            let env = Seeded::new(1);
            let memory = Memory::new(env.node_id());
            let mut options = Options {
                choice: VirtChoice::Auto,
                guest: Some(Guest {
                    kernel: "/k".into(),
                    initrd: "/i".into(),
                    timeout: Duration::from_secs(20),
                }),
                boot: Uuid::from_u128(1),
                kernel: "6.1".into(),
                local: Local::in_memory(&memory, env),
            };
            change(&mut options);
            Self {
                probe: Probe::new(options),
                boots: AtomicUsize::new(0),
            }
        }

        async fn decide(
            &self,
            subject: &Subject,
            answer: Result<Answer, Error>,
        ) -> Result<Verdict, Error> {
            self.probe
                .decide(subject, |_| {
                    self.boots.fetch_add(1, Ordering::SeqCst);
                    std::future::ready(answer)
                })
                .await
        }

        fn boots(&self) -> usize {
            self.boots.load(Ordering::SeqCst)
        }
    }

    fn userland() -> Answer {
        Answer::Userland {
            after: Duration::from_millis(700),
        }
    }

    #[tokio::test]
    async fn an_answer_holds_for_boot_kernel_and_hypervisor() {
        let bench = Bench::new(|_| {});
        let hung = Ok(Answer::NoUserland {
            tail: "Booting\r\nsmpboot: x\r\n\r\n".into(),
        });
        let no = bench.decide(&subject(), hung).await.unwrap();
        assert!(!no.kvm && no.reason.contains("smpboot: x"), "{}", no.reason);
        // Never a late switch: the guest that would work now isn't even booted.
        assert_eq!(bench.decide(&subject(), Ok(userland())).await.unwrap(), no);
        assert_eq!(bench.boots(), 1);
        let mut newer = subject();
        newer.hypervisor = "8.0.0".into();
        assert!(bench.decide(&newer, Ok(userland())).await.unwrap().kvm);
        assert_eq!(bench.boots(), 2);
    }

    #[tokio::test]
    async fn what_could_not_be_asked_is_not_kept() {
        let bench = Bench::new(|_| {});
        let down = Err(Error::Unavailable {
            reason: "down".into(),
        });
        bench.decide(&subject(), down).await.unwrap_err();
        assert!(bench.decide(&subject(), Ok(userland())).await.unwrap().kvm);
        assert_eq!(bench.boots(), 2);
    }

    #[tokio::test]
    async fn unproven_or_forced_needs_no_boot() {
        let no_guest = Bench::new(|options| options.guest = None);
        assert!(
            !no_guest
                .decide(&subject(), Ok(userland()))
                .await
                .unwrap()
                .kvm
        );
        let forced = Bench::new(|options| options.choice = VirtChoice::Kvm);
        assert!(forced.decide(&subject(), Ok(userland())).await.unwrap().kvm);
        let emulated = Bench::new(|options| options.choice = VirtChoice::Qemu);
        assert!(
            !emulated
                .decide(&subject(), Ok(userland()))
                .await
                .unwrap()
                .kvm
        );
        let mut without = subject();
        without.kvm_offered = false;
        let bench = Bench::new(|_| {});
        assert!(!bench.decide(&without, Ok(userland())).await.unwrap().kvm);
        for bench in [no_guest, forced, emulated, bench] {
            assert_eq!(bench.boots(), 0);
        }
    }
}
