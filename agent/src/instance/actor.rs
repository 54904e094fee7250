//! One incarnation's runner: feeds its machine, does what the machine says.
//!
//! A [`Handle`] puts messages into a bounded queue; the runner alone owns the [`Machine`]. Actions
//! are futures inside the runner, so they end with it; what they have started in the hypervisor
//! goes on by itself, and the next runner finds out by looking.

use std::{future::pending, pin::Pin, sync::Arc, time::Duration};

use futures::{StreamExt as _, stream::FuturesUnordered};
use kapok_telemetry::{join, traced};
use kapok_types::{
    Env, Generation, IncarnationId, InstanceId, Intent, TraceContext, instance::RootDisk,
    phase::Phase,
};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tracing::{Instrument as _, Span};

use super::state::{Action, Input, Machine, Now, Order, Outcome, Policy, Refusal, Slot};
use crate::{
    driver::{Driver, Error, equipment},
    images::{self, ImageCache},
    local::Tombstone,
    metrics::Actions,
    watch::{Hub, Item, Key},
};

/// Requests that may wait for one instance.
const QUEUE: usize = 16;

/// What [`Action::PullImage`] is called in the counts.
const PULL: &str = "pull image";

/// How long a runner with nothing behind it waits for a request.
const LINGER: Duration = Duration::from_secs(1);

/// What every actor of a node shares.
pub struct Context {
    /// The hypervisor.
    pub driver: Driver,
    /// The image cache; none when the pool is known to hold every image.
    pub images: Option<Arc<ImageCache>>,
    /// Clock and randomness.
    pub env: Arc<dyn Env>,
    /// Where status goes.
    pub hub: Arc<Hub>,
    /// Where ended actions are counted.
    pub actions: Actions,
    /// What is the same for every incarnation.
    pub policy: Policy,
}

impl Context {
    fn now(&self, machine: &Machine) -> Now {
        let jitter = 800 + self.env.random() % 401;
        let incarnation = machine.incarnation();
        let quarantined = || self.driver.compute.health().quarantined;
        Now {
            at: self.env.monotonic(),
            jitter_permille: u32::try_from(jitter).unwrap_or(1000),
            quarantined: machine.is_overdue() && quarantined().contains(&incarnation),
        }
    }
}

type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

#[derive(Debug)]
enum Message {
    Apply {
        intent: Box<Intent>,
        sources: Vec<images::Source>,
        trace: Option<TraceContext>,
        reply: Reply<Generation>,
    },
    MayDelete {
        instance: InstanceId,
        generation: Generation,
        reply: Reply<()>,
    },
    Delete(Tombstone, Option<TraceContext>),
    Intent(Reply<Option<Box<Intent>>>),
}

/// A way to reach an actor; cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    queue: mpsc::Sender<Message>,
    look: Arc<Notify>,
}

impl Handle {
    /// Hands over an intent and the trace of what changed it; gives the generation that is held now.
    ///
    /// # Errors
    ///
    /// The machine's refusal, or a full queue.
    pub async fn apply(
        &self,
        intent: Intent,
        sources: Vec<images::Source>,
        trace: Option<TraceContext>,
    ) -> Result<Generation, Refusal> {
        self.ask(|reply| Message::Apply {
            intent: Box::new(intent),
            sources,
            trace,
            reply,
        })
        .await
    }

    /// Whether a delete would be taken.
    ///
    /// # Errors
    ///
    /// The machine's refusal, or a full queue.
    pub async fn may_delete(
        &self,
        instance: InstanceId,
        generation: Generation,
    ) -> Result<(), Refusal> {
        self.ask(|reply| Message::MayDelete {
            instance,
            generation,
            reply,
        })
        .await
    }

    /// The intent that it holds, if it is known.
    ///
    /// # Errors
    ///
    /// A full queue, or a runner that has ended.
    pub async fn intent(&self) -> Result<Option<Box<Intent>>, Refusal> {
        self.ask(Message::Intent).await
    }

    /// Ends the incarnation. Legal once the tombstone is durable. Never waits: a full queue or a
    /// runner that is gone misses it, and [`dispatch`](crate::dispatch) says it again.
    pub fn delete(&self, tombstone: Tombstone, trace: Option<TraceContext>) {
        let message = Message::Delete(tombstone, trace);
        if self.queue.try_send(message).is_err() {
            tracing::warn!(incarnation = %tombstone.incarnation, "its runner can't be told of its delete yet");
        }
    }

    /// Something may have changed. Never waits; many of these are one.
    pub fn look(&self) {
        self.look.notify_one();
    }

    async fn ask<T>(&self, message: impl FnOnce(Reply<T>) -> Message) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.queue
            .try_send(message(reply))
            .map_err(|_| Refusal::Busy)?;
        answer.await.unwrap_or(Err(Refusal::Busy))
    }
}

/// Makes an actor: its handle and the future that runs it.
pub fn new(
    context: Arc<Context>,
    machine: Machine,
) -> (Handle, impl Future<Output = ()> + Send + 'static) {
    let (queue, inbox) = mpsc::channel(QUEUE);
    let look = Arc::new(Notify::new());
    let handle = Handle {
        queue,
        look: Arc::clone(&look),
    };
    let mut runner = Runner {
        incarnation: machine.incarnation(),
        context,
        machine,
        sources: Vec::new(),
        trace: None,
        running: FuturesUnordered::new(),
        pull: None,
        progress: None,
        published: None,
    };
    // Whoever asks for a snapshot next finds it there.
    runner.publish();
    (handle, runner.run(inbox, look))
}

type Running = Pin<Box<dyn Future<Output = Input> + Send>>;

struct Runner {
    incarnation: IncarnationId,
    context: Arc<Context>,
    machine: Machine,
    sources: Vec<images::Source>,
    /// The trace of the change that goes on.
    trace: Option<TraceContext>,
    running: FuturesUnordered<Running>,
    /// The pull stands alone because it can be abandoned.
    pull: Option<Running>,
    progress: Option<watch::Receiver<images::Progress>>,
    published: Option<kapok_types::phase::Status>,
}

impl Runner {
    async fn run(mut self, mut inbox: mpsc::Receiver<Message>, look: Arc<Notify>) {
        self.step(Input::Tick);
        loop {
            if self.machine.is_nothing() {
                // Whoever made this runner may be about to hand an intent over.
                match tokio::time::timeout(LINGER, inbox.recv()).await {
                    Ok(Some(message)) => {
                        if let Some(input) = self.receive(message) {
                            self.step(input);
                        }
                        continue;
                    }
                    _ => return,
                }
            }
            let wake = self.machine.wake();
            let env = Arc::clone(&self.context.env);
            let sleep = async move {
                match wake {
                    Some(at) => tokio::time::sleep(at.saturating_sub(env.monotonic())).await,
                    None => pending().await,
                }
            };
            let input = tokio::select! {
                biased;
                Some(input) = self.running.next() => input,
                input = pulled(&mut self.pull) => {
                    (self.pull, self.progress) = (None, None);
                    input
                }
                message = inbox.recv() => match message {
                    Some(message) => match self.receive(message) {
                        Some(input) => input,
                        None => continue,
                    },
                    None => return,
                },
                () = look.notified() => Input::Look,
                permille = advanced(&mut self.progress) => Input::Progress(permille),
                () = sleep => Input::Tick,
            };
            self.step(input);
        }
    }

    fn receive(&mut self, message: Message) -> Option<Input> {
        match message {
            Message::Apply {
                intent,
                sources,
                trace,
                reply,
            } => {
                let accepted = self.machine.accept(&intent);
                let accepted = accepted.and_then(|()| self.offers(&intent));
                let accepted = accepted.map(|()| intent.generation);
                let input = accepted.is_ok().then_some(Input::Apply(intent));
                if input.is_some() {
                    self.sources = sources;
                    self.trace = trace;
                }
                // A caller that went away has still handed its intent over.
                let _ = reply.send(accepted);
                input
            }
            Message::MayDelete {
                instance,
                generation,
                reply,
            } => {
                let _ = reply.send(self.machine.accept_delete(instance, generation));
                None
            }
            Message::Delete(tombstone, trace) => {
                self.trace = trace.or(self.trace);
                Some(Input::Delete(tombstone))
            }
            Message::Intent(reply) => {
                let _ = reply.send(Ok(self.machine.intent().cloned().map(Box::new)));
                None
            }
        }
    }

    /// Whether the node offers what the intent hands out. What it held before it keeps until its next
    /// start, whatever the node's configuration offers by now.
    fn offers(&self, intent: &Intent) -> Result<(), Refusal> {
        let plain = intent.spec.needs.is_none() && intent.assignment.is_none();
        if plain || self.machine.holds_equipment_of(intent) {
            return Ok(());
        }
        match self.context.hub.get(Key::Node).as_deref() {
            Some(Item::Node(facts)) => {
                equipment::check(&facts.driver.equipment, intent).map_err(Refusal::NotOffered)
            }
            _ => Err(Refusal::Starting { retry: LINGER }),
        }
    }

    fn step(&mut self, input: Input) {
        for order in self.machine.on(self.context.now(&self.machine), input) {
            match order {
                Order::Run(_, Action::PullImage(root)) => self.start_pull(root),
                Order::Run(slot, action) => {
                    let span = self.span(action.name());
                    let context = Arc::clone(&self.context);
                    let incarnation = self.incarnation;
                    let run = async move {
                        say(incarnation, &action);
                        let name = action.name();
                        let outcome = execute(&context, incarnation, action).await;
                        context.actions.ended(name, &outcome);
                        Input::Finished(
                            slot,
                            outcome.inspect_err(|error| failed(incarnation, error)),
                        )
                    };
                    self.running.push(Box::pin(run.instrument(span)));
                }
                Order::AbandonPull => (self.pull, self.progress) = (None, None),
                Order::AskGuestAgent => {
                    let compute = Arc::clone(&self.context.driver.compute);
                    let incarnation = self.incarnation;
                    self.running.push(Box::pin(async move {
                        let answers = compute.guest_agent(incarnation).await;
                        Input::GuestAgent(answers.unwrap_or(false))
                    }));
                }
            }
        }
        self.publish();
    }

    fn publish(&mut self) {
        if !self.machine.is_known() {
            return;
        }
        let status = self.machine.status();
        let settled = matches!(status.phase, Phase::Running | Phase::Stopped | Phase::Gone);
        if settled && self.running.is_empty() && self.pull.is_none() {
            // What comes next is no part of the change any more.
            self.trace = None;
        }
        if self.published.as_ref() != Some(&status) {
            let key = Key::Instance(self.incarnation);
            self.context.hub.put(key, Item::Instance(status.clone()));
            self.published = Some(status);
        }
    }

    fn start_pull(&mut self, root: RootDisk) {
        let Some(cache) = self.context.images.clone() else {
            let held = Input::Finished(Slot::Main, Ok(Outcome::Done));
            self.pull = Some(Box::pin(async { held }));
            return;
        };
        self.progress = Some(cache.progress(root.image));
        let sources = self.sources.clone();
        let (incarnation, span) = (self.incarnation, self.span("pull_image"));
        let actions = self.context.actions.clone();
        let pull = async move {
            let ended = cache.ensure(&root, &sources).await;
            let ended = ended
                .map(|()| Outcome::Done)
                .map_err(|error| Error::Failed {
                    call: "bringing the image",
                    reason: chain(&error),
                });
            actions.ended(PULL, &ended);
            Input::Finished(
                Slot::Main,
                ended.inspect_err(|error| failed(incarnation, error)),
            )
        };
        self.pull = Some(Box::pin(pull.instrument(span)));
    }

    /// The span of one step of the change that goes on; none if none does.
    fn span(&self, call: &'static str) -> Span {
        if self.trace.is_none() {
            return Span::none();
        }
        let span = traced!("action", call, incarnation = %self.incarnation);
        join(&span, self.trace, &*self.context.env);
        span
    }
}

/// Says what is done to the hypervisor; looks are only for whoever wants to know all.
fn say(incarnation: IncarnationId, action: &Action) {
    let name = action.name();
    if matches!(action, Action::Observe) {
        tracing::debug!(%incarnation, action = name, "runs");
    } else {
        tracing::info!(%incarnation, action = name, "runs");
    }
}

fn failed(incarnation: IncarnationId, error: &Error) {
    tracing::warn!(%incarnation, %error, "a call failed");
}

async fn execute(
    context: &Context,
    incarnation: IncarnationId,
    action: Action,
) -> Result<Outcome, Error> {
    let (compute, storage) = (&context.driver.compute, &context.driver.storage);
    match action {
        Action::Observe => {
            let seen = compute.observe(incarnation).await?;
            return Ok(Outcome::Seen(seen.map(Box::new)));
        }
        Action::Define(mut record) => {
            if record.machine.is_empty() {
                let facts = compute.facts().await?;
                (record.machine, record.virt_type) = (facts.machine, facts.virt_type);
            }
            compute.define(&record).await?;
            return Ok(Outcome::Defined(record));
        }
        // Runs in `start_pull`.
        Action::PullImage(_) => {}
        Action::CreateRoot(root) => storage.create_root(incarnation, &root).await?,
        Action::Start => compute.start(incarnation).await?,
        Action::Shutdown => compute.shutdown(incarnation).await?,
        Action::SetVcpus(vcpus) => compute.set_vcpus(incarnation, vcpus).await?,
        Action::Reset => compute.reset(incarnation).await?,
        Action::Destroy => compute.destroy(incarnation).await?,
        Action::RemoveRoot => storage.remove_root(incarnation).await?,
        Action::Undefine => compute.undefine(incarnation).await?,
    }
    Ok(Outcome::Done)
}

/// The pull's end; never without one.
async fn pulled(pull: &mut Option<Running>) -> Input {
    match pull {
        Some(running) => running.await,
        None => pending().await,
    }
}

/// The pull's next progress in permille; never without one.
async fn advanced(progress: &mut Option<watch::Receiver<images::Progress>>) -> u32 {
    if let Some(receiver) = progress {
        if receiver.changed().await.is_ok() {
            let now = *receiver.borrow_and_update();
            let permille = now.done.saturating_mul(1000).checked_div(now.total);
            return u32::try_from(permille.unwrap_or(0)).unwrap_or(1000);
        }
        *progress = None;
    }
    pending().await
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}
