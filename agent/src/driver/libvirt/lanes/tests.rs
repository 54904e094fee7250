//! Lanes with fake calls: gates instead of libvirt, a clock that the test moves.

use std::sync::atomic::{AtomicUsize, Ordering};

use kapok_types::env::Seeded;
use tokio::task::JoinHandle;
use tracing::Instrument as _;

use super::*;

/// A fake connection; its number tells connections apart.
struct Fake(usize);

impl Session for Fake {
    fn alive(&self) -> bool {
        self.0 != usize::MAX
    }
}

/// A door that calls wait at.
#[derive(Default)]
struct Gate {
    open: Mutex<bool>,
    moved: Condvar,
    waiting: AtomicUsize,
}

impl Gate {
    fn pass(&self) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let mut open = self.open.lock().unwrap();
        while !*open {
            open = self.moved.wait(open).unwrap();
        }
    }

    fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.moved.notify_all();
    }

    fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }
}

struct Bench {
    lanes: Arc<Lanes<Fake>>,
    env: Arc<Seeded>,
    opened: Arc<AtomicUsize>,
}

fn bench() -> Bench {
    bench_with(Limits::new(Duration::from_secs(10)))
}

fn bench_with(limits: Limits) -> Bench {
    let env = Seeded::new(1);
    let opened = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&opened);
    let connect = move || Ok(Fake(count.fetch_add(1, Ordering::SeqCst)));
    let clock: Arc<dyn Env> = env.clone();
    let lanes = Lanes::new(limits, clock, connect);
    Bench {
        lanes: Arc::new(lanes),
        env,
        opened,
    }
}

impl Bench {
    /// Begins a call that waits at the gate and then tells its connection's number.
    fn gated(&self, call: Call, gate: &Arc<Gate>) -> JoinHandle<Result<usize, Error>> {
        let (lanes, gate) = (Arc::clone(&self.lanes), Arc::clone(gate));
        tokio::spawn(async move {
            lanes
                .run(call, move |fake| {
                    gate.pass();
                    Ok(fake.0)
                })
                .await
        })
    }

    async fn quick(&self, call: Call) -> Result<usize, Error> {
        let quick = self.lanes.run(call, |fake| Ok(fake.0));
        tokio::time::timeout(Duration::from_secs(10), quick)
            .await
            .expect("the lane serves")
    }

    fn pass_time(&self, seconds: u64) {
        self.env.advance(Duration::from_secs(seconds));
        self.lanes.check();
    }

    fn depth(&self, lane: LaneName) -> u32 {
        self.lanes.lanes()[lane.index()].depth
    }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..2000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never came: {what}");
}

fn domain(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

/// FAULTS 41, 42 in small: a stuck call quarantines its domain, its worker is replaced by one
/// with another connection, destruction gets through, and the end of the call ends it all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stuck_call_is_fenced_off_and_replaced() {
    let bench = bench();
    let gate = Arc::new(Gate::default());
    let workers = bench.lanes.shared.limits.lanes[LaneName::Monitor.index()].workers;
    let mut stuck = Vec::new();
    for number in 0..workers {
        let number = u128::try_from(number).unwrap();
        stuck.push(bench.gated(Call::of(LaneName::Monitor, domain(number)), &gate));
    }
    until("all workers are taken", || gate.waiting() == workers).await;

    // Before their time is over nobody is blamed, and the lane is simply full.
    bench.pass_time(9);
    assert!(bench.lanes.quarantined().is_empty());
    bench.pass_time(1);
    assert_eq!(bench.lanes.quarantined().len(), workers);

    let fresh = bench
        .quick(Call::of(LaneName::Monitor, domain(99)))
        .await
        .unwrap();
    assert!(fresh >= workers, "a connection of its own");
    for lane in [LaneName::Query, LaneName::Monitor, LaneName::Change] {
        let refused = bench.quick(Call::of(lane, domain(0))).await;
        assert_eq!(refused, Err(Error::Quarantined), "{lane:?}");
    }
    bench
        .quick(Call::of(LaneName::Destroy, domain(0)))
        .await
        .unwrap();
    assert_eq!(bench.lanes.lanes()[LaneName::Monitor.index()].stuck_ms, 0);

    gate.open();
    for call in stuck {
        // The late result still arrives: the wait was never cut short by the lanes.
        call.await.unwrap().unwrap();
    }
    assert!(bench.lanes.quarantined().is_empty());
    bench
        .quick(Call::of(LaneName::Monitor, domain(0)))
        .await
        .unwrap();
    until("spare workers leave", || {
        bench.lanes.shared.table().workers(LaneName::Monitor) <= workers
    })
    .await;
}

/// FAULTS 41 with 30 stuck QEMUs: the cap holds, and no other lane notices.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_stuck_domains_take_one_lane_at_most() {
    let bench = bench();
    let gate = Arc::new(Gate::default());
    let Bounds { cap, workers, .. } = bench.lanes.shared.limits.lanes[LaneName::Monitor.index()];
    // As a poll does: whatever isn't quarantined is asked again.
    let mut calls: Vec<JoinHandle<_>> = Vec::new();
    for _ in 0..10 {
        let all = cap.min(bench.lanes.quarantined().len() + workers);
        for number in (0..30).filter(|&number| !bench.lanes.is_quarantined(domain(number))) {
            calls.push(bench.gated(Call::of(LaneName::Monitor, domain(number)), &gate));
        }
        until("the next ones are made", || gate.waiting() >= all).await;
        until("all others wait or are refused", || {
            let open = calls.iter().filter(|call| !call.is_finished()).count();
            u32::try_from(open) == Ok(bench.depth(LaneName::Monitor))
        })
        .await;
        bench.pass_time(10);
    }
    until("the cap is reached", || gate.waiting() == cap).await;
    assert_eq!(bench.lanes.shared.table().workers(LaneName::Monitor), cap);
    assert_eq!(bench.lanes.quarantined().len(), cap);
    for lane in [
        LaneName::Query,
        LaneName::Change,
        LaneName::Storage,
        LaneName::Destroy,
    ] {
        bench.quick(Call::of(lane, domain(77))).await.unwrap();
    }
    for number in 0..30 {
        bench
            .quick(Call::of(LaneName::Destroy, domain(number)))
            .await
            .unwrap();
    }
    // What waits is refused without having been made, so that is no unknown outcome.
    bench.pass_time(20);
    gate.open();
    let (mut made, mut refused) = (0, 0);
    for call in calls {
        match call.await.unwrap() {
            Ok(_) => made += 1,
            Err(Error::Busy { lane: "monitor" } | Error::Quarantined) => refused += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!((made, gate.waiting()), (cap, cap));
    assert!(refused >= 30 - cap);
}

/// Polls of 30 hung QEMUs take no worker from those who ask a healthy guest to shut down: else it
/// would be turned off hard without ever having been asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn polls_leave_room_for_requests() {
    let bench = bench();
    let gate = Arc::new(Gate::default());
    let Bounds { workers, cap, .. } = bench.lanes.shared.limits.lanes[LaneName::Poll.index()];
    let mut polls = Vec::new();
    for number in 0..30 {
        let poll = crate::driver::libvirt::compute::guest_agent_call(domain(number));
        polls.push(bench.gated(poll, &gate));
    }
    for made in [workers, cap] {
        until("polls are made", || gate.waiting() == made).await;
        bench.pass_time(10);
    }
    let healthy = Call::of(LaneName::Monitor, domain(77));
    bench.quick(healthy).await.unwrap();
    assert_eq!(bench.lanes.shared.table().workers(LaneName::Monitor), 1);
    gate.open();
    for poll in polls {
        drop(poll.await.unwrap());
    }
}

/// A lane whose workers are all stuck says so, though nobody waits in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_lane_is_not_idle() {
    let bench = bench();
    let gate = Arc::new(Gate::default());
    let stuck_ms = |lane: LaneName| bench.lanes.lanes()[lane.index()].stuck_ms;
    let cap = bench.lanes.shared.limits.lanes[LaneName::Poll.index()].cap;
    let mut calls = Vec::new();
    for number in 1..=cap {
        let domain = domain(u128::try_from(number).unwrap());
        calls.push(bench.gated(Call::of(LaneName::Poll, domain), &gate));
        until("it is made", || gate.waiting() == number).await;
        assert_eq!(stuck_ms(LaneName::Poll), 0, "others would be served");
        bench.pass_time(10);
    }
    assert_eq!(
        stuck_ms(LaneName::Poll),
        u64::try_from(cap).unwrap() * 10_000
    );

    // Of a stuck pool one call tells enough, and of what no domain is to blame for.
    for call in [
        Call::of(LaneName::Storage, domain(1000)),
        Call::on(LaneName::Query),
    ] {
        let made = gate.waiting();
        calls.push(bench.gated(call, &gate));
        until("it is made", || gate.waiting() > made).await;
        bench.pass_time(12);
        assert_eq!(stuck_ms(call.lane), 12_000);
    }
    assert_eq!(stuck_ms(LaneName::Change), 0);
    gate.open();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(stuck_ms(LaneName::Poll), 0);
}

/// FAULTS 41: QEMUs that hang while they are asked for their numbers take all workers that there
/// are for that; the look at all domains, which needs no QEMU, still has one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stuck_numbers_leave_the_look_at_all() {
    let bench = bench();
    let gate = Arc::new(Gate::default());
    let cap = bench.lanes.shared.limits.lanes[LaneName::Stats.index()].cap;
    let mut asks = Vec::new();
    for number in 1..=cap {
        let domain = domain(u128::try_from(number).unwrap());
        asks.push(bench.gated(Call::of(LaneName::Stats, domain), &gate));
        until("it is made", || gate.waiting() == number).await;
        bench.pass_time(10);
    }
    assert_eq!(bench.lanes.quarantined().len(), cap);
    bench.quick(Call::on(LaneName::Query)).await.unwrap();
    gate.open();
    for ask in asks {
        ask.await.unwrap().unwrap();
    }
}

/// An image that takes long is no lane that is stuck, nor is a call that waits for it; one beyond
/// its own patience is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_call_is_no_stuck_one() {
    let bench = bench();
    let gate = Arc::new(Gate::default());
    let lane = LaneName::Transfer;
    let stuck_ms = || bench.lanes.lanes()[lane.index()].stuck_ms;
    let workers = bench.lanes.shared.limits.lanes[lane.index()].workers;
    let long = Call::on(lane).patient(Duration::from_mins(5));
    let mut calls: Vec<_> = (0..workers).map(|_| bench.gated(long, &gate)).collect();
    until("all workers are taken", || gate.waiting() == workers).await;
    bench.pass_time(60);
    assert_eq!(stuck_ms(), 0, "nobody waits");
    calls.push(bench.gated(long, &gate));
    until("one waits", || bench.depth(lane) == 3).await;
    bench.pass_time(200);
    assert_eq!(stuck_ms(), 0, "what it waits for may take that long");
    bench.pass_time(40);
    assert_eq!(stuck_ms(), 300_000);
    gate.open();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(stuck_ms(), 0);
}

/// Two calls on one domain never run at once, and a free domain's call overtakes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_call_a_domain_at_a_time() {
    let bench = bench();
    let (gate, second) = (Arc::new(Gate::default()), Arc::new(Gate::default()));
    let first = bench.gated(Call::of(LaneName::Monitor, domain(1)), &gate);
    until("the first runs", || gate.waiting() == 1).await;
    let other = bench.gated(Call::of(LaneName::Change, domain(1)), &second);
    until("the second waits", || bench.depth(LaneName::Change) == 1).await;
    bench
        .quick(Call::of(LaneName::Change, domain(2)))
        .await
        .unwrap();
    // Looks and hard stops don't wait for it.
    bench
        .quick(Call::of(LaneName::Query, domain(1)))
        .await
        .unwrap();
    bench
        .quick(Call::of(LaneName::Destroy, domain(1)))
        .await
        .unwrap();
    assert_eq!(second.waiting(), 0);
    gate.open();
    first.await.unwrap().unwrap();
    until("the second runs", || second.waiting() == 1).await;
    second.open();
    other.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_is_an_error_of_its_own() {
    let mut limits = Limits::new(Duration::from_secs(10));
    limits.lanes[LaneName::Change.index()] = Bounds {
        workers: 1,
        cap: 1,
        queue: 2,
    };
    let bench = bench_with(limits);
    let gate = Arc::new(Gate::default());
    let mut calls = vec![bench.gated(Call::on(LaneName::Change), &gate)];
    until("the worker is taken", || gate.waiting() == 1).await;
    for _ in 0..2 {
        calls.push(bench.gated(Call::on(LaneName::Change), &gate));
    }
    until("the queue is full", || bench.depth(LaneName::Change) == 3).await;
    let refused = bench.quick(Call::on(LaneName::Change)).await;
    assert_eq!(refused, Err(Error::Busy { lane: "change" }));
    assert!(bench.lanes.lanes()[LaneName::Change.index()].stuck_ms == 0);
    bench.env.advance(Duration::from_secs(3));
    assert_eq!(bench.lanes.lanes()[LaneName::Change.index()].stuck_ms, 3000);
    gate.open();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(bench.lanes.lanes()[LaneName::Change.index()].stuck_ms, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_given_up_before_it_began_is_never_made() {
    let mut limits = Limits::new(Duration::from_secs(10));
    limits.lanes[LaneName::Change.index()].workers = 1;
    let bench = bench_with(limits);
    let (gate, never) = (Arc::new(Gate::default()), Arc::new(Gate::default()));
    let first = bench.gated(Call::on(LaneName::Change), &gate);
    until("the worker is taken", || gate.waiting() == 1).await;
    let dropped = bench.gated(Call::on(LaneName::Change), &never);
    until("it waits", || bench.depth(LaneName::Change) == 2).await;
    dropped.abort();
    let _ = dropped.await;
    gate.open();
    first.await.unwrap().unwrap();
    bench.quick(Call::on(LaneName::Change)).await.unwrap();
    assert_eq!(never.waiting(), 0);
}

/// A panic in a call and a dead connection cost one call, not the lane.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_survive_what_calls_do() {
    let bench = bench();
    let broken = bench
        .lanes
        .run(
            Call::of(LaneName::Change, domain(1)),
            |_| -> Result<(), Error> { panic!("a call that panics (this message is expected)") },
        )
        .await;
    assert!(matches!(broken, Err(Error::Failed { .. })));
    bench
        .quick(Call::of(LaneName::Change, domain(1)))
        .await
        .unwrap();
    assert_eq!(bench.opened.load(Ordering::SeqCst), 2);

    let env: Arc<dyn Env> = Seeded::new(2);
    let down: Lanes<Fake> = Lanes::new(Limits::new(Duration::from_secs(10)), env, || {
        Err(Error::Unavailable {
            reason: "down".into(),
        })
    });
    let refused = down.run(Call::on(LaneName::Query), |_| Ok(())).await;
    assert!(matches!(refused, Err(Error::Unavailable { .. })));
}

/// Dropping the lanes refuses what waits and never joins what is stuck.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_waits_for_nobody() {
    let mut limits = Limits::new(Duration::from_secs(10));
    limits.lanes[LaneName::Change.index()].workers = 1;
    let bench = bench_with(limits);
    bench.lanes.watch().unwrap();
    let gate = Arc::new(Gate::default());
    let lanes = Arc::clone(&bench.lanes);
    let shared = Arc::clone(&lanes.shared);
    let (reply, outcome) = oneshot::channel();
    let stuck = Arc::clone(&gate);
    let job = move |_: &Fake| {
        stuck.pass();
        Ok(())
    };
    let call = Call::on(LaneName::Change);
    lanes
        .submit(Job::new(call, &limits, Duration::ZERO, job, reply))
        .unwrap();
    until("it runs", || gate.waiting() == 1).await;
    let (reply, refused) = oneshot::channel();
    lanes
        .submit(Job::new(call, &limits, Duration::ZERO, |_| Ok(()), reply))
        .unwrap();
    drop(lanes);
    drop(bench);
    assert!(matches!(
        refused.await.unwrap(),
        Err(Error::Unavailable { .. })
    ));
    gate.open();
    outcome.await.unwrap().unwrap();
    until("every thread is gone", || Arc::strong_count(&shared) == 1).await;
}

/// What a command led to is a part of its trace on whichever thread it is done, and nothing else is.
#[tokio::test]
async fn a_call_belongs_to_the_trace_of_whoever_asked_for_it() {
    let bench = bench();
    let env: Arc<dyn Env> = bench.env.clone();
    let logs = kapok_telemetry::Logs {
        variable: "KAPOK_TEST_LOG",
        usual: "off",
    };
    let _guard = kapok_telemetry::init("lanes", Some(logs), None, &env);
    let call = Call::of(LaneName::Change, Uuid::from_u128(1)).named("start");
    let ask = || {
        bench.lanes.run(call, |_| {
            let span = Span::current();
            Ok(span
                .metadata()
                .map(|metadata| (metadata.name(), metadata.target())))
        })
    };
    let action = kapok_telemetry::traced!("action", call = "start");
    let inside = ask().instrument(action).await;
    assert_eq!(inside, Ok(Some(("libvirt", kapok_telemetry::TARGET))));
    assert_eq!(ask().await, Ok(None));
}
