use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use kapok_types::{
    Digest, Env as _, Epoch, ImageId, IncarnationId, MemoryMib, Vcpus, env::Seeded,
    instance::RunPolicy,
};
use proptest::prelude::*;

use super::*;
use crate::{
    fabric::{
        Actor, Ask, Command, Fresh, Origin,
        checkpoint::{self, Key as Object},
        city,
        command::{CreateInstance, CreateSystem, ResizeInstance, Sighting},
        decide::{Context, Rules, decide},
        fixture,
    },
    reconcile::fixture::World,
};

const HOUR: Duration = Duration::from_hours(1);
const HOUR_MS: u128 = 3_600_000;

/// A fabric with its log and its checkpoint, as the ledger keeps them.
struct Log {
    env: Arc<Seeded>,
    fabric: Fabric,
    entries: Vec<(Timestamp, Vec<Event>)>,
    dirty: BTreeSet<Object>,
    objects: BTreeMap<String, Vec<u8>>,
}

impl Log {
    /// Two nodes, an image, two bureaus and two systems; nothing is accounted yet.
    fn new() -> Self {
        let world = World::new(2);
        let mut log = Self {
            env: world.env,
            fabric: world.fabric,
            entries: Vec::new(),
            dirty: BTreeSet::new(),
            objects: BTreeMap::new(),
        };
        log.write(vec![Event::LeaderElected { epoch: Epoch(1) }]);
        log.must(fixture::tenant("water", None));
        log.must(fixture::tenant("parks", None));
        for system in ["billing", "mail"] {
            log.must(Command::CreateSystem(CreateSystem {
                tenant: Some("water".parse().unwrap()),
                name: system.parse().unwrap(),
                facts: Vec::new(),
            }));
        }
        log
    }

    /// Takes an entry in.
    fn write(&mut self, events: Vec<Event>) {
        let at = self.env.now();
        self.fabric.begin_entry(at);
        for event in &events {
            checkpoint::touched(&self.fabric, event, &mut self.dirty);
            self.fabric.apply(event);
        }
        self.entries.push((at, events));
    }

    /// Whether a command was taken.
    fn tell(&mut self, command: Command) -> bool {
        let ask = Ask {
            origin: Origin {
                by: Actor::user("li"),
                ..Origin::controller()
            },
            request_id: None,
            content: Digest::of(b""),
            command,
            fresh: Fresh {
                instance: self.env.instance_id(),
                incarnation: self.env.incarnation_id(),
                operation: self.env.operation_id(),
                image: ImageId(self.env.uuid()),
            },
        };
        let decision = decide(Context {
            fabric: &self.fabric,
            ask: &ask,
            now: self.env.now(),
            rules: Rules::default(),
        });
        match decision {
            Ok(decision) => {
                if !decision.events.is_empty() {
                    self.write(decision.events);
                }
                true
            }
            Err(_) => false,
        }
    }

    fn must(&mut self, command: Command) {
        let shown = format!("{command:?}");
        assert!(self.tell(command), "{shown}");
    }

    fn checkpoint(&mut self) {
        for key in std::mem::take(&mut self.dirty) {
            match checkpoint::object(&self.fabric, &key).unwrap() {
                Some(value) => self.objects.insert(key.encode(), value),
                None => self.objects.remove(&key.encode()),
            };
        }
    }

    fn create(&mut self, name: &str, system: &str, vcpus: u32) -> bool {
        self.tell(Command::CreateInstance(CreateInstance {
            tenant: Some("water".parse().unwrap()),
            name: name.parse().unwrap(),
            image: "city/debian".into(),
            system: Some(system.parse().unwrap()),
            flavor: None,
            groups: BTreeSet::new(),
            vcpus: Vcpus(vcpus),
            memory: MemoryMib(1024),
            root_disk: None,
            run_policy: RunPolicy::default(),
            power: Power::Running,
            needs: kapok_types::Needs::default(),
        }))
    }

    fn instance(&self, name: &str) -> Option<&Instance> {
        self.fabric.instance(&format!("water/{name}"), &city())
    }

    fn incarnation(&self, name: &str) -> Option<(IncarnationId, Name, NodeId)> {
        let its = self.instance(name)?.incarnations.first()?;
        let node = self.fabric.node_by_id(its.node)?;
        Some((its.id, node.name.clone(), node.id))
    }

    fn read(&mut self, name: &str, boot: &str, run: &str, cpu_ms: u64) {
        let Some((incarnation, node, id)) = self.incarnation(name) else {
            return;
        };
        let reading = Reading {
            incarnation,
            run: run.into(),
            cpu_ms,
            at: self.env.now(),
        };
        self.tell(Command::RecordUsage {
            node,
            id,
            boot: boot.into(),
            readings: vec![reading],
        });
    }

    fn see(&mut self, name: &str, up: bool) {
        let Some((incarnation, node, id)) = self.incarnation(name) else {
            return;
        };
        let sighting = Sighting {
            incarnation,
            up,
            at: self.env.now(),
            why: String::new(),
        };
        self.tell(Command::RecordAvailability {
            node,
            id,
            sightings: vec![sighting],
        });
    }

    fn remove(&mut self, name: &str) {
        let called = format!("water/{name}");
        let at = self.incarnation(name);
        self.tell(Command::DeleteInstance {
            instance: called,
            etag: String::new(),
        });
        if let Some((incarnation, _, node)) = at {
            self.tell(Command::IncarnationGone { node, incarnation });
        }
    }

    fn account(&self, system: &str) -> Account {
        let called = ("water".parse().unwrap(), system.parse().unwrap());
        let now = self.env.now();
        let account = self.fabric.accounting.account(&self.fabric, &called, now);
        account.unwrap_or_default()
    }

    fn total(&self, system: &str) -> Sums {
        let account = self.account(system);
        account.months.values().fold(Sums::default(), Sums::plus)
    }

    fn hours(&self, hours: u32) {
        self.env.advance(HOUR * hours);
    }
}

fn reasons(account: &Account) -> Vec<(Reason, u64)> {
    let hours = |one: &Unknown| one.to.millis_since(one.from) / 3_600_000;
    account
        .unknown
        .iter()
        .map(|one| (one.reason, hours(one)))
        .collect()
}

#[test]
fn what_is_held_counts_from_creation_to_removal() {
    let mut log = Log::new();
    log.create("web", "billing", 2);
    log.hours(3);
    log.must(Command::ResizeInstance(ResizeInstance {
        instance: "water/web".into(),
        flavor: None,
        vcpus: Vcpus(4),
        memory: MemoryMib(2048),
        etag: String::new(),
    }));
    log.hours(2);
    log.must(Command::ChangeInstanceSystem {
        instance: "water/web".into(),
        system: "mail".parse().unwrap(),
        etag: String::new(),
    });
    log.hours(1);
    log.remove("web");
    log.hours(100);
    let (billing, mail) = (log.total("billing"), log.total("mail"));
    assert_eq!(billing.instance_ms, 5 * HOUR_MS);
    assert_eq!(billing.vcpu_ms, (3 * 2 + 2 * 4) * HOUR_MS);
    assert_eq!(billing.memory_mib_ms, (3 * 1024 + 2 * 2048) * HOUR_MS);
    assert_eq!(billing.disk_byte_ms, (5 * HOUR_MS) << 20);
    assert_eq!((mail.instance_ms, mail.vcpu_ms), (HOUR_MS, 4 * HOUR_MS));
    // Its bureau's peak, and all together's, is that of the larger size.
    let accounting = &log.fabric.accounting;
    for peaks in [
        &accounting.bureaus[&"water".parse::<Name>().unwrap()],
        &accounting.pool,
    ] {
        let peak = peaks.months.values().next().unwrap();
        assert_eq!(peak.vcpus.vcpus, 4);
        assert!(peaks.now.shapes.is_empty());
    }
    assert_eq!(accounting.nodes, 0);
    let now = log.env.now();
    let months = Month::of(accounting.since())..=Month::of(now);
    assert_eq!(accounting.most_nodes(months, now), 1);
}

#[test]
fn use_is_the_differences_of_one_run_and_the_rest_is_unknown() {
    let mut log = Log::new();
    log.create("web", "billing", 2);
    log.see("web", true);
    log.hours(1);
    log.read("web", "boot-1", "1", 600);
    log.hours(1);
    log.read("web", "boot-1", "1", 1000);
    // Two days without a word: the same run says what it used meanwhile.
    log.hours(48);
    log.read("web", "boot-1", "1", 5000);
    assert_eq!(log.total("billing").used_ms, 5000);
    assert_eq!(log.total("billing").unknown_ms, 0);
    // Another run: what the first one used after its last reading is unknown.
    log.hours(1);
    log.read("web", "boot-1", "2", 70);
    log.hours(2);
    log.read("web", "boot-2", "1", 10);
    log.hours(1);
    log.read("web", "boot-2", "1", 3);
    assert_eq!(log.total("billing").used_ms, 5080);
    log.hours(3);
    log.see("web", false);
    log.hours(5);
    log.see("web", true);
    log.hours(1);
    log.read("web", "boot-2", "2", 40);
    assert_eq!(log.total("billing").used_ms, 5120);
    let account = log.account("billing");
    assert_eq!(
        reasons(&account),
        [
            (Reason::Restarted, 1),
            (Reason::NodeBooted, 2),
            (Reason::CounterFell, 1),
            (Reason::Ended, 3)
        ]
    );
    assert_eq!(log.total("billing").unknown_ms, 7 * HOUR_MS);
    // A late word of the run that ended counts once.
    log.see("web", false);
    log.read("web", "boot-2", "2", 41);
    assert_eq!(log.total("billing").used_ms, 5121);
}

#[test]
fn a_difference_counts_in_the_month_of_its_later_reading() {
    let mut log = Log::new();
    log.create("web", "billing", 1);
    log.see("web", true);
    log.read("web", "b", "1", 10);
    let first = Month::of(log.env.now());
    let border = first.next().begins().millis_since(log.env.now());
    log.env.advance(Duration::from_millis(border) + HOUR);
    log.read("web", "b", "1", 1010);
    let account = log.account("billing");
    assert_eq!(account.months[&first].used_ms, 10);
    assert_eq!(account.months[&first.next()].used_ms, 1000);
    // What is a matter of time is split where the months meet.
    assert_eq!(account.months[&first].up_ms, u128::from(border));
    assert_eq!(account.months[&first.next()].up_ms, HOUR_MS);
}

#[test]
fn only_what_is_meant_to_run_is_down_and_unreachable_is_neither() {
    let mut log = Log::new();
    log.create("web", "billing", 1);
    // Its deployment is no outage.
    log.hours(1);
    log.see("web", true);
    log.hours(10);
    log.see("web", false);
    log.hours(2);
    log.see("web", true);
    log.hours(1);
    let (_, node, _) = log.incarnation("web").unwrap();
    log.must(Command::LoseNode {
        node,
        reason: "silence".into(),
    });
    log.hours(5);
    log.see("web", true);
    log.hours(1);
    // Without a controller nobody looks: from the last entry on.
    log.write(vec![Event::LeaderElected { epoch: Epoch(2) }]);
    log.hours(3);
    log.see("web", true);
    log.hours(1);
    log.must(Command::StopInstance {
        instance: "water/web".into(),
    });
    log.see("web", false);
    log.hours(50);
    let sums = log.total("billing");
    let hours = [sums.up_ms, sums.down_ms, sums.unseen_ms].map(|ms| ms / HOUR_MS);
    assert_eq!(hours, [12, 2, 9]);
}

#[test]
fn an_old_log_folds_and_says_since_when_it_knows() {
    let mut world = World::new(1);
    world.create("web");
    let objects = |fabric: &Fabric| -> Vec<(String, Vec<u8>)> {
        let mut keys = BTreeSet::new();
        let instance = fabric.instances.values().next().unwrap();
        keys.insert(Object::Instance(instance.id));
        keys.extend(fabric.nodes.keys().cloned().map(Object::Node));
        keys.extend(fabric.tenants.keys().cloned().map(Object::Tenant));
        let value = |key: &Object| checkpoint::object(fabric, key).unwrap().unwrap();
        keys.iter().map(|key| (key.encode(), value(key))).collect()
    };
    // A checkpoint from before there was any accounting.
    let old = objects(&world.fabric);
    let objects = old.iter().map(|(key, value)| (key.as_str(), &value[..]));
    let mut fabric = checkpoint::load(objects).unwrap();
    let at = world.env.now();
    fabric.begin_entry(at);
    fabric.apply(&Event::LeaderElected { epoch: Epoch(2) });
    let called = (city(), "default".parse().unwrap());
    world.env.advance(HOUR);
    let now = world.env.now();
    let instance = fabric.instances.values().next().unwrap().clone();
    fabric.begin_entry(now);
    fabric.apply(&Event::UsageMeasured {
        node: "node-1".parse().unwrap(),
        boot: "b".into(),
        readings: vec![Reading {
            incarnation: instance.incarnations[0].id,
            run: "7".into(),
            cpu_ms: 1_000_000,
            at: now,
        }],
    });
    assert_eq!(fabric.accounting.since(), at);
    let account = fabric.accounting.account(&fabric, &called, now).unwrap();
    let sums = account.months.values().fold(Sums::default(), Sums::plus);
    assert_eq!((sums.instance_ms, sums.used_ms), (HOUR_MS, 0));
    assert_eq!(reasons(&account), [(Reason::BeforeMetering, 1)]);
}

#[test]
fn old_months_go_and_so_does_what_has_nothing_else() {
    let mut log = Log::new();
    log.create("web", "billing", 1);
    log.hours(1);
    log.remove("web");
    log.must(Command::DeleteSystem {
        system: "water/billing".into(),
        etag: String::new(),
    });
    let first = Month::of(log.env.now());
    assert!(log.account("billing").months.contains_key(&first));
    log.hours(24 * 31 * KEPT_MONTHS);
    log.must(fixture::tenant("later", None));
    let accounts = &log.fabric.accounting.accounts;
    let left: Vec<_> = accounts.keys().map(|(_, system)| system.as_str()).collect();
    assert_eq!(left, ["mail"], "a system that is there keeps its account");
    assert!(log.fabric.accounting.bureaus.is_empty());
}

#[derive(Debug, Clone)]
enum Step {
    Create(u8, bool, u32),
    Remove(u8),
    Resize(u8, u32),
    Move(u8, bool),
    Power(u8, bool),
    Read(u8, u8, u64),
    See(u8, bool),
    Lose(u8),
    Reach(u8),
    Elect,
    Wait(u32),
    Checkpoint,
}

fn step() -> impl Strategy<Value = Step> {
    let one = 0_u8..4;
    prop_oneof![
        4 => (one.clone(), any::<bool>(), 1_u32..5).prop_map(|(n, s, v)| Step::Create(n, s, v)),
        2 => one.clone().prop_map(Step::Remove),
        2 => (one.clone(), 1_u32..9).prop_map(|(n, v)| Step::Resize(n, v)),
        1 => (one.clone(), any::<bool>()).prop_map(|(n, s)| Step::Move(n, s)),
        2 => (one.clone(), any::<bool>()).prop_map(|(n, on)| Step::Power(n, on)),
        5 => (one.clone(), 0_u8..3, 0_u64..10_000).prop_map(|(n, r, c)| Step::Read(n, r, c)),
        4 => (one, any::<bool>()).prop_map(|(n, up)| Step::See(n, up)),
        1 => (1_u8..3).prop_map(Step::Lose),
        1 => (1_u8..3).prop_map(Step::Reach),
        1 => Just(Step::Elect),
        4 => (1_u32..400).prop_map(Step::Wait),
        1 => Just(Step::Checkpoint),
    ]
}

fn take(log: &mut Log, step: &Step) {
    let named = |n: &u8| format!("vm-{n}");
    let full = |n: &u8| format!("water/vm-{n}");
    let system = |mail: bool| if mail { "mail" } else { "billing" };
    match step {
        Step::Create(n, mail, vcpus) => drop(log.create(&named(n), system(*mail), *vcpus)),
        Step::Remove(n) => log.remove(&named(n)),
        Step::Resize(n, vcpus) => drop(log.tell(Command::ResizeInstance(ResizeInstance {
            instance: full(n),
            flavor: None,
            vcpus: Vcpus(*vcpus),
            memory: MemoryMib(0),
            etag: String::new(),
        }))),
        Step::Move(n, mail) => drop(log.tell(Command::ChangeInstanceSystem {
            instance: full(n),
            system: system(*mail).parse().unwrap(),
            etag: String::new(),
        })),
        Step::Power(n, true) => drop(log.tell(Command::StartInstance { instance: full(n) })),
        Step::Power(n, false) => drop(log.tell(Command::StopInstance { instance: full(n) })),
        Step::Read(n, run, cpu) => log.read(&named(n), "boot", &run.to_string(), *cpu),
        Step::See(n, up) => log.see(&named(n), *up),
        Step::Lose(n) => drop(log.tell(Command::LoseNode {
            node: format!("node-{n}").parse().unwrap(),
            reason: "silence".into(),
        })),
        Step::Reach(n) => log.write(vec![Event::NodeReached {
            node: format!("node-{n}").parse().unwrap(),
        }]),
        Step::Elect => log.write(vec![Event::LeaderElected { epoch: Epoch(9) }]),
        Step::Wait(hours) => log.hours(*hours),
        Step::Checkpoint => log.checkpoint(),
    }
}

/// vCPU-, memory- and disk-time of each system and month.
type Counted = BTreeMap<(String, Month), [u128; 3]>;

/// What was held, counted again from nothing but the entries: at each one everything anew.
fn recount(log: &Log) -> (Counted, BTreeMap<Month, u64>) {
    let mut held: BTreeMap<InstanceId, (String, u128, u128)> = BTreeMap::new();
    let (mut sums, mut peaks) = (BTreeMap::new(), BTreeMap::new());
    let ends = log.entries.iter().skip(1).map(|(at, _)| *at);
    let ends = ends.chain([log.env.now()]);
    for ((at, events), until) in log.entries.iter().zip(ends) {
        for event in events {
            match event {
                Event::InstanceCreated { instance } => {
                    let vcpus = u128::from(instance.spec.vcpus.get());
                    let memory = u128::from(instance.spec.memory.get());
                    held.insert(instance.id, (instance.system.to_string(), vcpus, memory));
                }
                Event::InstanceResized {
                    instance,
                    vcpus,
                    memory,
                    ..
                } => {
                    let one = held.get_mut(instance).unwrap();
                    (one.1, one.2) = (vcpus.get().into(), memory.get().into());
                }
                Event::InstanceSystemChanged {
                    instance, system, ..
                } => held.get_mut(instance).unwrap().0 = system.to_string(),
                Event::InstanceRemoved { instance, .. } => drop(held.remove(instance)),
                _ => {}
            }
            let vcpus: u128 = held.values().map(|one| one.1).sum();
            let peak = peaks.entry(Month::of(*at)).or_insert(0);
            *peak = u64::try_from(vcpus).unwrap().max(*peak);
        }
        for (month, ms) in month::split(*at, until) {
            let ms = u128::from(ms);
            for (system, vcpus, memory) in held.values() {
                let sum: &mut [u128; 3] = sums.entry((system.clone(), month)).or_default();
                *sum = [sum[0] + ms, sum[1] + vcpus * ms, sum[2] + memory * ms];
            }
            let vcpus: u128 = held.values().map(|one| one.1).sum();
            let peak = peaks.entry(month).or_insert(0);
            *peak = u64::try_from(vcpus).unwrap().max(*peak);
        }
    }
    (sums, peaks)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn figures_are_those_of_the_entries(steps in prop::collection::vec(step(), 1..60)) {
        let mut log = Log::new();
        for step in &steps {
            take(&mut log, step);
        }
        let now = log.env.now();
        let (sums, peaks) = recount(&log);
        let mut counted = BTreeMap::new();
        for system in ["billing", "mail"] {
            for (month, sum) in &log.account(system).months {
                let held = [sum.instance_ms, sum.vcpu_ms, sum.memory_mib_ms];
                if held != [0; 3] {
                    counted.insert((system.to_owned(), *month), held);
                }
                // Nobody is up, down and unseen at the same time, nor without being there.
                prop_assert!(sum.up_ms + sum.down_ms + sum.unseen_ms <= sum.instance_ms);
            }
        }
        // Of one that moved, the system in which that is found out has what isn't known.
        let both = log.total("billing").plus(&log.total("mail"));
        prop_assert!(both.unknown_ms <= both.instance_ms);
        prop_assert_eq!(counted, sums);
        let since = log.fabric.accounting.since();
        let kept = log.fabric.accounting.pool.within(since, now, Month::of(since)..=Month::of(now));
        let kept: Vec<_> = kept.iter().map(|peak| peak.vcpus.vcpus).collect();
        let most: Vec<_> = peaks.values().copied().collect();
        if !most.iter().all(|most| *most == 0) {
            prop_assert_eq!(kept, most);
        }
        for account in log.fabric.accounting.accounts.values() {
            for (n, one) in account.unknown.iter().enumerate() {
                prop_assert!(one.from < one.to && one.to <= now);
                for other in account.unknown.iter().skip(n + 1) {
                    let apart = one.instance != other.instance
                        || one.to <= other.from
                        || other.to <= one.from;
                    prop_assert!(apart, "{:?} {:?}", one, other);
                }
            }
        }
    }

    #[test]
    fn a_checkpoint_and_its_tail_are_the_whole_log(
        before in prop::collection::vec(step(), 1..40),
        after in prop::collection::vec(step(), 0..40),
    ) {
        let mut log = Log::new();
        // Everything that the world came with.
        let fabric = &log.fabric;
        let mut all: BTreeSet<Object> = fabric.nodes.keys().cloned().map(Object::Node).collect();
        all.extend(fabric.images.keys().copied().map(Object::Image));
        all.extend(fabric.authorities.keys().copied().map(Object::Authority));
        all.extend(fabric.certificates.keys().copied().map(Object::Certificate));
        all.extend(fabric.tokens.keys().copied().map(Object::Token));
        log.dirty.extend(all);
        for step in &before {
            take(&mut log, step);
        }
        log.checkpoint();
        let written = log.entries.len();
        let objects = log.objects.clone();
        for step in &after {
            if !matches!(step, Step::Checkpoint) {
                take(&mut log, step);
            }
        }
        let objects = objects.iter().map(|(key, value)| (key.as_str(), &value[..]));
        let mut folded = checkpoint::load(objects).unwrap();
        for (at, events) in &log.entries[written..] {
            folded.begin_entry(*at);
            for event in events {
                folded.apply(event);
            }
        }
        prop_assert_eq!(&folded.accounting, &log.fabric.accounting);
    }
}
