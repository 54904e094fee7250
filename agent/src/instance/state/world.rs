//! A small model of a hypervisor for the machine's tests: no IO, every order under control.

use std::time::Duration;

use kapok_types::{
    Assignment, Bytes, Digest, Epoch, Generation, IncarnationId, InstanceId, Intent, MemoryMib,
    NodeId, Vcpus,
    equipment::CellShare,
    instance::{Arch, Counters, DiskFormat, Power, RootDisk, RunPolicy, Spec},
    phase::{Phase, Size},
};
use uuid::Uuid;

use super::{Action, Input, Machine, Now, Order, Outcome, Policy, Slot};
use crate::{
    driver::{Error, Off, Record, Run, Seen},
    local::Tombstone,
};

pub(super) const GRACE: Duration = Duration::from_mins(1);

pub(super) fn policy() -> Policy {
    Policy {
        boot: Uuid::from_u128(1),
        call_deadline: Duration::from_secs(10),
        shutdown_grace: GRACE,
        ask_again: Duration::from_secs(10),
        observe_every: Duration::from_secs(5),
        pool_shared: false,
        power_loss_start: false,
    }
}

pub(super) fn intent() -> Intent {
    Intent {
        incarnation: IncarnationId(Uuid::from_u128(10)),
        instance: InstanceId(Uuid::from_u128(11)),
        node: NodeId(Uuid::from_u128(12)),
        name: "web-1".parse().unwrap(),
        spec: Spec {
            arch: Arch::X86_64,
            vcpus: Vcpus(1),
            memory: MemoryMib(256),
            root: RootDisk {
                image: Digest::of(b"image"),
                image_format: DiskFormat::Qcow2,
                image_bytes: Bytes(1000),
                size: Bytes(1 << 30),
            },
            run_policy: RunPolicy::RestartOnCrash,
            needs: kapok_types::Needs::default(),
        },
        power: Power::Running,
        counters: Counters {
            starts: 1,
            ..Counters::default()
        },
        generation: Generation(1),
        epoch: Epoch(1),
        operation: None,
        assignment: Assignment::default(),
    }
}

/// As large as that, and bound to a cell with as many threads.
pub(super) fn bind(intent: &mut Intent, vcpus: u16, memory: u64) {
    (intent.spec.vcpus, intent.spec.memory) = (Vcpus(vcpus.into()), MemoryMib(memory));
    intent.spec.needs.dedicated_cpus = true;
    intent.assignment.cells = vec![CellShare {
        cell: 0,
        vcpus: intent.spec.vcpus,
        threads: (0..vcpus).collect(),
        memory: intent.spec.memory,
    }];
}

#[derive(Debug, Clone)]
pub(super) struct Domain {
    pub(super) record: Record,
    pub(super) on: bool,
    pub(super) off: Off,
    pub(super) paused: bool,
    /// What runs, or ran last.
    pub(super) size: Size,
    pub(super) assignment: Assignment,
    /// vCPUs that what runs can have.
    pub(super) most_vcpus: Vcpus,
}

impl Domain {
    fn size(&self) -> Size {
        if self.on {
            self.size
        } else {
            Size::of(&self.record.intent.spec)
        }
    }

    fn assignment(&self) -> Assignment {
        if self.on {
            self.assignment.clone()
        } else {
            self.record.intent.assignment.clone()
        }
    }
}

/// The host, what the controller wants, and one agent's machine over it.
#[derive(Debug)]
pub(super) struct World {
    pub(super) policy: Policy,
    pub(super) now: Duration,
    pub(super) domain: Option<Domain>,
    pub(super) disk: bool,
    pub(super) disks_made: u32,
    pub(super) tombstone: Option<Tombstone>,
    pub(super) wanted: Option<Intent>,
    pub(super) machine: Option<Machine>,
    pub(super) flights: Vec<(Slot, Action)>,
    pub(super) asks: bool,
    /// Everything ordered so far, by name.
    pub(super) ordered: Vec<&'static str>,
    pub(super) starts: u64,
    pub(super) resets: u64,
    /// Whether the guest ended its latest run by itself.
    pub(super) guest_ended: bool,
    /// Whether the guest takes vCPUs while it runs.
    pub(super) takes_vcpus: bool,
    /// How often it was given some.
    pub(super) gifts: u64,
    /// Whether the driver says that a call on this domain is stuck.
    pub(super) quarantined: bool,
    /// A listing that a survey has taken but not acted on yet.
    pub(super) listed: Option<Record>,
    /// Whether the controller has recorded the end: it says nothing of it any more.
    pub(super) released: bool,
}

impl World {
    pub(super) fn new() -> Self {
        Self {
            policy: policy(),
            now: Duration::from_secs(1000),
            domain: None,
            disk: false,
            disks_made: 0,
            tombstone: None,
            wanted: None,
            machine: None,
            flights: Vec::new(),
            asks: false,
            ordered: Vec::new(),
            starts: 0,
            resets: 0,
            guest_ended: false,
            takes_vcpus: true,
            gifts: 0,
            quarantined: false,
            listed: None,
            released: false,
        }
    }

    pub(super) fn machine(&self) -> &Machine {
        self.machine.as_ref().unwrap()
    }

    pub(super) fn phase(&self) -> Phase {
        self.machine().status().phase
    }

    pub(super) fn feed(&mut self, input: Input) {
        let now = Now {
            at: self.now,
            jitter_permille: 1000,
            quarantined: self.quarantined,
        };
        let Some(machine) = &mut self.machine else {
            return;
        };
        for order in machine.on(now, input) {
            match order {
                Order::Run(slot, action) => {
                    self.check(&action);
                    assert!(
                        self.flights.iter().all(|(used, _)| *used != slot),
                        "two actions in the slot {slot:?}"
                    );
                    if slot == Slot::Forced {
                        assert_eq!(action, Action::Destroy);
                    }
                    self.ordered.push(action.name());
                    self.flights.push((slot, action));
                }
                Order::AbandonPull => self
                    .flights
                    .retain(|(_, action)| !matches!(action, Action::PullImage(_))),
                Order::AskGuestAgent => self.asks = true,
            }
        }
    }

    /// What no order may break.
    fn check(&self, action: &Action) {
        match action {
            Action::Start
            | Action::CreateRoot(_)
            | Action::PullImage(_)
            | Action::SetVcpus(_)
            | Action::Reset => {
                assert!(self.tombstone.is_none(), "{action:?} after the delete");
            }
            Action::RemoveRoot | Action::Undefine => {
                assert!(
                    self.tombstone.is_some(),
                    "{action:?} without a durable tombstone"
                );
            }
            _ => {}
        }
        // An outsider may have removed it since it was seen; then the call fails.
        let Some(domain) = &self.domain else {
            return;
        };
        if *action == Action::Start {
            let wanted = self.wanted.as_ref().unwrap();
            assert!(domain.record.starting, "the start isn't noted");
            let moved = domain.record.moved;
            assert!(
                moved.is_none_or(|under| under < wanted.generation),
                "a start of what runs elsewhere"
            );
            assert_eq!(domain.record.started_boot, Some(self.policy.boot));
            // An intent that the crashed agent had taken but not written may be lost.
            assert!(
                domain.record.intent.power == Power::Running || wanted.power == Power::Running,
                "a start that nobody wants"
            );
        }
        if matches!(action, Action::CreateRoot(_)) {
            assert_eq!(
                domain.record.done.starts, 0,
                "a new disk for a started instance"
            );
        }
    }

    pub(super) fn apply(&mut self, change: impl FnOnce(&mut Intent)) {
        if self.released {
            return;
        }
        let mut next = self.wanted.clone().unwrap_or_else(intent);
        if self.wanted.is_some() {
            next.generation.0 += 1;
        }
        change(&mut next);
        self.wanted = Some(next.clone());
        self.send(next);
    }

    /// Sends the wanted intent (again), as the controller does until it is held.
    pub(super) fn resend(&mut self) {
        if self.released {
            return;
        }
        if let Some(wanted) = self.wanted.clone() {
            self.send(wanted);
        }
    }

    fn send(&mut self, intent: Intent) {
        if self.machine.is_none() && self.tombstone.is_none() {
            self.machine = Some(Machine::unknown(self.policy.clone(), intent.incarnation));
        }
        let accepted = self.machine.as_ref().map(|machine| machine.accept(&intent));
        if let Some(Ok(())) = accepted {
            self.feed(Input::Apply(Box::new(intent)));
        }
    }

    pub(super) fn delete(&mut self) {
        if self.released {
            return;
        }
        let wanted = self.wanted.clone().unwrap_or_else(intent);
        let tombstone = Tombstone {
            incarnation: wanted.incarnation,
            instance: wanted.instance,
            generation: wanted.generation,
            epoch: wanted.epoch,
        };
        let tombstone = *self.tombstone.get_or_insert(tombstone);
        if self.machine.is_none() {
            self.machine = Some(Machine::buried(self.policy.clone(), tombstone));
        }
        self.feed(Input::Delete(tombstone));
    }

    /// The controller has recorded the end: tombstone and actor go.
    pub(super) fn acknowledge(&mut self) {
        if self.machine.as_ref().is_some_and(Machine::is_gone) {
            (self.machine, self.tombstone) = (None, None);
            self.flights.clear();
            self.released = true;
        }
    }

    /// A survey lists the domain; what comes of it follows later.
    pub(super) fn list(&mut self) {
        self.listed = self.domain.as_ref().map(|domain| domain.record.clone());
    }

    /// The survey's listing arrives, however old it is by now.
    pub(super) fn take_listing(&mut self) {
        let Some(record) = self.listed.take() else {
            return;
        };
        if self.machine.is_none() {
            self.machine = Some(Machine::found(self.policy.clone(), &record));
            self.feed(Input::Tick);
        }
    }

    /// kill -9, and a new agent over what is left. `landed` says which flights had their effect.
    pub(super) fn crash(&mut self, landed: bool) {
        for (_, action) in std::mem::take(&mut self.flights) {
            if landed {
                let _ = self.effect(&action);
            }
        }
        self.machine = match (self.tombstone, &self.domain) {
            (Some(tombstone), _) => Some(Machine::buried(self.policy.clone(), tombstone)),
            (None, Some(domain)) => Some(Machine::found(self.policy.clone(), &domain.record)),
            (None, None) => None,
        };
        self.feed(Input::Tick);
    }

    pub(super) fn reboot(&mut self) {
        self.policy.boot = Uuid::from_u128(self.policy.boot.as_u128() + 1);
        if let Some(domain) = &mut self.domain {
            if domain.on {
                self.guest_ended = false;
            }
            (domain.on, domain.off) = (false, Off::Unknown);
        }
        self.crash(false);
    }

    pub(super) fn end_guest(&mut self, how: Off) {
        if let Some(domain) = self.domain.as_mut().filter(|domain| domain.on) {
            (domain.on, domain.off) = (false, how);
            self.guest_ended = how == Off::Shutdown;
        }
    }

    pub(super) fn outsider_undefines(&mut self) {
        if self.domain.as_ref().is_some_and(|domain| !domain.on) {
            self.domain = None;
        }
    }

    /// Ends the flight in a slot: it takes effect and succeeds, or fails without effect.
    pub(super) fn finish(&mut self, slot: Slot, fails: Option<Error>) -> bool {
        let Some(at) = self.flights.iter().position(|(used, _)| *used == slot) else {
            return false;
        };
        let (_, action) = self.flights.remove(at);
        let result = match fails {
            Some(error) => Err(error),
            None => self.effect(&action),
        };
        self.feed(Input::Finished(slot, result));
        true
    }

    pub(super) fn effect(&mut self, action: &Action) -> Result<Outcome, Error> {
        let refused = |reason: &str| Error::Failed {
            call: "the call",
            reason: reason.into(),
        };
        let absent = || Error::Absent { what: "it".into() };
        match action {
            Action::Observe => {
                let seen = self.domain.as_ref().map(|domain| {
                    Box::new(Seen {
                        record: domain.record.clone(),
                        run: match (domain.on, domain.paused) {
                            (true, true) => Run::Paused,
                            (true, false) => Run::On,
                            _ => Run::Off,
                        },
                        off: domain.off,
                        size: domain.size(),
                        assignment: Some(domain.assignment()),
                        most_vcpus: domain.most_vcpus,
                        persistent: true,
                        drift: Vec::new(),
                        note: String::new(),
                    })
                });
                return Ok(Outcome::Seen(seen));
            }
            Action::Define(record) => {
                let mut record = record.clone();
                if record.machine.is_empty() {
                    (record.machine, record.virt_type) = ("model".into(), "qemu".into());
                }
                match &mut self.domain {
                    Some(domain) => domain.record = *record.clone(),
                    None => {
                        self.domain = Some(Domain {
                            record: *record.clone(),
                            on: false,
                            off: Off::Unknown,
                            paused: false,
                            size: Size::of(&record.intent.spec),
                            assignment: record.intent.assignment.clone(),
                            most_vcpus: record.intent.spec.vcpus,
                        });
                    }
                }
                return Ok(Outcome::Defined(record));
            }
            Action::PullImage(_) => {}
            Action::CreateRoot(_) => {
                self.disks_made += u32::from(!self.disk);
                self.disk = true;
            }
            Action::Start => {
                let disk = self.disk;
                let domain = self.domain.as_mut().ok_or_else(absent)?;
                if domain.on || !disk {
                    return Err(refused("it is on, or has no disk"));
                }
                domain.on = true;
                let intent = &domain.record.intent;
                domain.size = Size::of(&intent.spec);
                domain.assignment = intent.assignment.clone();
                let times = if domain.assignment.cells.is_empty() {
                    4
                } else {
                    1
                };
                domain.most_vcpus = Vcpus(times * domain.size.vcpus.get());
                self.starts += 1;
                self.guest_ended = false;
            }
            Action::Shutdown => {
                let domain = self.domain.as_mut().ok_or_else(absent)?;
                if !domain.on {
                    return Err(refused("it is off"));
                }
                // The model's guest obeys at once.
                (domain.on, domain.off) = (false, Off::Shutdown);
                self.guest_ended = false;
            }
            Action::SetVcpus(vcpus) => {
                let domain = self.domain.as_mut().ok_or_else(absent)?;
                self.gifts += 1;
                if !domain.on || *vcpus < domain.size.vcpus || *vcpus > domain.most_vcpus {
                    return Err(refused("it is off, or can't have so many"));
                }
                if self.takes_vcpus {
                    domain.size.vcpus = *vcpus;
                }
            }
            Action::Reset => {
                let domain = self.domain.as_mut().ok_or_else(absent)?;
                if !domain.on {
                    return Err(refused("it is off"));
                }
                self.resets += 1;
            }
            Action::Destroy => {
                if let Some(domain) = self.domain.as_mut().filter(|domain| domain.on) {
                    (domain.on, domain.off) = (false, Off::Destroyed);
                    self.guest_ended = false;
                }
            }
            Action::RemoveRoot => self.disk = false,
            Action::Undefine => {
                if self.domain.as_ref().is_some_and(|domain| domain.on) {
                    return Err(refused("it is on"));
                }
                self.domain = None;
            }
        }
        Ok(Outcome::Done)
    }

    /// Lets everything succeed and time pass until nothing happens any more.
    pub(super) fn settle(&mut self) {
        let end = self.now + Duration::from_secs(2000);
        let mut budget = 5000;
        while self.now < end {
            budget -= 1;
            assert!(budget > 0, "it never comes to rest: {:?}", self.machine);
            if self.finish(Slot::Forced, None) || self.finish(Slot::Main, None) {
                continue;
            }
            if std::mem::take(&mut self.asks) {
                self.feed(Input::GuestAgent(true));
                continue;
            }
            let Some(wake) = self.machine.as_ref().and_then(Machine::wake) else {
                return;
            };
            self.now = wake;
            self.feed(Input::Tick);
        }
    }

    /// Completes flights, without letting time pass.
    pub(super) fn flow(&mut self) {
        while self.finish(Slot::Forced, None) || self.finish(Slot::Main, None) {}
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now += time;
        self.feed(Input::Tick);
    }
}
