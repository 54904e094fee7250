//! Export of spans over OTLP: a queue with a bound, and one thread that empties it.
//!
//! ```text
//!  span ends ─▶ queue, bounded ─▶ thread "telemetry": batch ─▶ collector, with a deadline
//!                  │ full: dropped and counted      │ fails: dropped and counted
//! ```
//!
//! The thread has a runtime of its own, so neither a collector that hangs nor one that floods is
//! felt elsewhere, and the end of the process can wait for it from wherever that comes about.

use std::{
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc as blocking,
    },
    thread,
    time::Duration,
};

use kapok_types::{
    Env, TraceContext,
    trace::{SpanId, TraceId},
};
use opentelemetry::{
    Context, InstrumentationScope, KeyValue,
    trace::{
        self as otel, SpanContext, SpanKind, TraceContextExt as _, TraceFlags, TraceState,
        TracerProvider as _,
    },
};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{
        IdGenerator, Sampler, SdkTracer, SdkTracerProvider, Span, SpanData, SpanExporter as _,
        SpanProcessor,
    },
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until, timeout},
};
use tracing::Subscriber;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::{Layer, filter::Targets, registry::LookupSpan};

use crate::{Export, TARGET};

/// Spans that may wait.
const QUEUE: usize = 2048;
/// Spans that are sent at once.
const BATCH: usize = 512;
/// How long a span waits for others to be sent with.
const LINGER: Duration = Duration::from_secs(1);
/// How long sending may take.
const SEND: Duration = Duration::from_secs(5);
/// How long the process' end waits for what is left.
const FLUSH: Duration = Duration::from_secs(2);
/// How often losses are said, at most.
const SAID_EVERY: Duration = Duration::from_mins(1);

/// Why nothing can be exported.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The exporter can't be made.
    #[error("the OTLP exporter can't be made: {0}")]
    Exporter(#[from] ExporterBuildError),
    /// The system gives no thread, or no runtime for it.
    #[error("no thread for the export: {0}")]
    Thread(#[from] std::io::Error),
    /// The thread ended before it began.
    #[error("the export's thread ended at once")]
    Ended,
}

/// The export. Ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Exporter {
    tracer: SdkTracer,
    stop: Option<oneshot::Sender<blocking::Sender<()>>>,
}

impl Exporter {
    /// What turns spans of traces into exported ones.
    pub(crate) fn layer<S>(&self) -> impl Layer<S> + Send + Sync + use<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    {
        tracing_opentelemetry::layer()
            .with_tracer(self.tracer.clone())
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_target(false)
            .with_filter(Targets::new().with_target(TARGET, tracing::Level::ERROR))
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        let (done, ended) = blocking::channel();
        if let Some(stop) = self.stop.take()
            && stop.send(done).is_ok()
        {
            // In time or not: the process ends.
            let _ = ended.recv_timeout(FLUSH);
        }
    }
}

/// Starts the thread.
pub(crate) fn start(
    program: &'static str,
    export: &Export,
    env: &Arc<dyn Env>,
) -> Result<Exporter, Error> {
    let (queue, spans) = mpsc::channel(QUEUE);
    let (stop, stopped) = oneshot::channel();
    let lost = Arc::new(AtomicU64::new(0));
    let resource = Resource::builder_empty()
        .with_attribute(KeyValue::new("service.name", program))
        .build();
    let worker = Worker {
        spans,
        lost: Arc::clone(&lost),
        said: None,
    };
    let (endpoint, theirs) = (export.endpoint.clone(), resource.clone());
    let (ready, started) = blocking::channel();
    thread::Builder::new()
        .name("telemetry".into())
        .stack_size(512 * 1024)
        .spawn(move || {
            let begun = begin(endpoint, &theirs);
            let (answer, parts) = match begun {
                Ok(parts) => (Ok(()), Some(parts)),
                Err(error) => (Err(error), None),
            };
            if ready.send(answer).is_ok()
                && let Some((runtime, exporter)) = parts
            {
                runtime.block_on(worker.run(&exporter, stopped));
            }
        })?;
    started.recv().map_err(|_| Error::Ended)??;
    let ratio = export.ratio.get();
    let provider = SdkTracerProvider::builder()
        .with_resource(resource)
        .with_id_generator(Ids(Arc::clone(env)))
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(
            ratio,
        ))))
        .with_span_processor(Queue { queue, lost })
        .build();
    let scope = InstrumentationScope::builder("kapok").build();
    Ok(Exporter {
        tracer: provider.tracer_with_scope(scope),
        stop: Some(stop),
    })
}

fn begin(
    endpoint: String,
    resource: &Resource,
) -> Result<(tokio::runtime::Runtime, SpanExporter), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let entered = runtime.enter();
    let mut exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .with_timeout(SEND)
        .build()?;
    exporter.set_resource(resource);
    drop(entered);
    Ok((runtime, exporter))
}

/// Lets an exported span continue a trace, or begin one; none if spans aren't exported.
///
/// A parent that nobody exports is left out: the span is the first that is seen of its trace.
pub(crate) fn join(
    span: &tracing::Span,
    parent: Option<TraceContext>,
    trace: TraceId,
) -> Option<TraceContext> {
    let remote = match parent.filter(|parent| parent.sampled) {
        Some(parent) => Context::new().with_remote_span_context(SpanContext::new(
            otel::TraceId::from_bytes(parent.trace.to_bytes()),
            otel::SpanId::from_bytes(parent.span.to_bytes()),
            TraceFlags::SAMPLED,
            true,
            TraceState::NONE,
        )),
        None => Context::new(),
    };
    span.set_parent(remote).ok()?;
    // Asking for the context starts the span, here and now.
    NEXT.set(Some(trace));
    let context = span.context();
    NEXT.set(None);
    let own = context.span().span_context().clone();
    Some(TraceContext {
        trace: TraceId::from_bytes(own.trace_id().to_bytes())?,
        span: SpanId::from_bytes(own.span_id().to_bytes())?,
        sampled: own.is_sampled(),
    })
}

thread_local! {
    /// The trace of the span that begins next on this thread.
    static NEXT: Cell<Option<TraceId>> = const { Cell::new(None) };
}

/// Ids from the process' own source.
#[derive(Debug)]
struct Ids(Arc<dyn Env>);

impl IdGenerator for Ids {
    fn new_trace_id(&self) -> otel::TraceId {
        let trace = NEXT.get().unwrap_or_else(|| TraceId::new(&*self.0));
        otel::TraceId::from_bytes(trace.to_bytes())
    }

    fn new_span_id(&self) -> otel::SpanId {
        otel::SpanId::from_bytes(SpanId::new(&*self.0).to_bytes())
    }
}

/// The way into the queue.
#[derive(Debug)]
struct Queue {
    queue: mpsc::Sender<SpanData>,
    lost: Arc<AtomicU64>,
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, mut span: SpanData) {
        name(&mut span);
        if self.queue.try_send(span).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// Calls a span by what it calls, and says which side of it this is.
fn name(span: &mut SpanData) {
    span.span_kind = match &*span.name {
        "request" => SpanKind::Server,
        "command" | "push" | "libvirt" => SpanKind::Client,
        _ => SpanKind::Internal,
    };
    // Every span has it by itself.
    span.attributes
        .retain(|attribute| attribute.key.as_str() != "trace_id");
    let call = |attribute: &&KeyValue| attribute.key.as_str() == "call";
    if let Some(call) = span.attributes.iter().find(call) {
        let called = match &*span.name {
            "request" => call.value.to_string().trim_start_matches('/').to_owned(),
            kind => format!("{kind} {}", call.value),
        };
        span.name = called.into();
    }
}

struct Worker {
    spans: mpsc::Receiver<SpanData>,
    lost: Arc<AtomicU64>,
    /// When losses were last said.
    said: Option<Instant>,
}

impl Worker {
    async fn run(
        mut self,
        exporter: &SpanExporter,
        mut stopped: oneshot::Receiver<blocking::Sender<()>>,
    ) {
        let mut batch = Vec::new();
        let mut send_at = Instant::now();
        let done = loop {
            if batch.is_empty() {
                send_at = Instant::now() + LINGER;
            }
            let room = BATCH - batch.len();
            tokio::select! {
                biased;
                done = &mut stopped => break done,
                () = sleep_until(send_at), if !batch.is_empty() => {}
                received = self.spans.recv_many(&mut batch, room), if room > 0 => {
                    if received > 0 && batch.len() < BATCH {
                        continue;
                    }
                }
            }
            self.send(exporter, &mut batch).await;
        };
        self.spans.close();
        loop {
            while batch.len() < BATCH
                && let Ok(span) = self.spans.try_recv()
            {
                batch.push(span);
            }
            if batch.is_empty() {
                break;
            }
            self.send(exporter, &mut batch).await;
        }
        self.say(None);
        if let Ok(done) = done {
            let _ = done.send(());
        }
    }

    async fn send(&mut self, exporter: &SpanExporter, batch: &mut Vec<SpanData>) {
        let spans = std::mem::take(batch);
        let count = u64::try_from(spans.len()).unwrap_or(u64::MAX);
        let failed = match timeout(SEND, exporter.export(spans)).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("no answer within {SEND:?}")),
        };
        if failed.is_some() {
            self.lost.fetch_add(count, Ordering::Relaxed);
        }
        let quiet = |said: Instant| said.elapsed() < SAID_EVERY;
        if !self.said.is_some_and(quiet) {
            self.say(failed);
        }
    }

    /// Says what was lost since the last time, if anything was.
    fn say(&mut self, reason: Option<String>) {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let reason = reason.unwrap_or_default();
            tracing::warn!(lost, reason, "spans could not be exported");
            self.said = Some(Instant::now());
        }
    }
}
