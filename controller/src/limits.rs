//! What one connection and one identity may take, so that none can starve the others (FAULTS 19).
//!
//! ```text
//!   connection ─▶ streams, resets, header size, keepalive      tonic's server
//!      request ─▶ rate of its identity ─▶ deadline             the layer in this file
//! ```
//!
//! Handshakes and open connections are bounded before, by the acceptor; messages by each service;
//! a slow reader by HTTP/2's own windows and by the streams' bounded queues.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use http_body_util::{BodyExt as _, Limited};
use kapok_trust::{Peer, Subject};
use kapok_types::Env;
use tonic::{
    Code, Status,
    codegen::{Body, StdError, http},
    transport::Server,
};
use tower::{
    Layer, Service,
    layer::util::{Identity, Stack},
};

use crate::{audit, config, controllers::Forward, fabric::Actor};

/// Requests of one connection that are answered at a time; streams count until they began.
const REQUESTS_PER_CONNECTION: usize = 256;
/// Streams of one connection.
const STREAMS_PER_CONNECTION: u32 = 1024;
/// Streams that a peer may have reset before they were looked at; then the connection ends.
const PENDING_RESETS: usize = 20;
/// Streams that the server may have reset for the peer's mistakes; then the connection ends.
const OWN_RESETS: usize = 128;
/// Largest head of a request, in bytes.
const MAX_HEADER_BYTES: u32 = 16 * 1024;
/// What may be on its way to the server unread: of one stream, and of one connection.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// How often a silent connection is asked whether it lives, and how long it may take to answer.
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// How much an identity that was quiet may ask for at once: so many seconds' worth.
const BURST: Duration = Duration::from_secs(5);
/// What is read of a refused request, in bytes.
const REFUSED_BYTES: usize = 64 * 1024;
/// Identities that are kept account of; beyond that, those that have been quiet are forgotten.
const IDENTITIES: usize = 20_000;

/// The one answer that comes long after its request: an upload, which has a pace of its own.
/// Streams of answers are bounded until they began.
const UNBOUNDED: &str = "/kapok.fabric.v1.ImageService/ImportImage";

/// The limits of one controller. Cheap to clone; the account of identities is shared.
#[derive(Debug, Clone)]
pub struct Gate {
    rates: Rates<Subject>,
    deadline: Duration,
    refusals: audit::Refusals,
}

impl Gate {
    /// Limits as configured; refusals are noted for the audit.
    pub fn new(limits: &config::Limits, env: Arc<dyn Env>, refusals: audit::Refusals) -> Self {
        let per_second = limits.requests_per_second;
        Self {
            rates: Rates::new(env, Duration::from_secs(1) / per_second.max(1), BURST),
            deadline: limits.request_deadline,
            refusals,
        }
    }

    /// A server with these limits, behind the choice of who answers.
    pub fn server(&self, forward: Forward) -> Server<Stack<GateLayer, Stack<Forward, Identity>>> {
        Server::builder()
            .concurrency_limit_per_connection(REQUESTS_PER_CONNECTION)
            .max_concurrent_streams(STREAMS_PER_CONNECTION)
            .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS))
            .http2_max_local_error_reset_streams(Some(OWN_RESETS))
            .http2_max_header_list_size(MAX_HEADER_BYTES)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .layer(forward)
            .layer(GateLayer(self.clone()))
    }

    /// Whether an identity may ask now; else why not.
    fn admit(&self, peer: Option<&Peer>, path: &str) -> Result<(), Status> {
        let Some(subject) = peer.and_then(Peer::subject) else {
            return Ok(());
        };
        self.rates.take(subject.clone()).map_err(|retry| {
            let by = Actor::from(subject);
            let from = peer.and_then(Peer::address);
            let from = from.map(|at| at.ip().to_string()).unwrap_or_default();
            let method = path.rsplit('/').next().unwrap_or_default();
            let object = format!("method/{method}");
            self.refusals.note(&by, &from, "request", &object, TOO_FAST);
            too_fast(retry)
        })
    }
}

/// The reason of a refusal for asking too often.
pub(crate) const TOO_FAST: &str = "TOO_FAST";

/// A refusal for asking too often.
pub(crate) fn too_fast(retry: Duration) -> Status {
    kapok_proto::refusal::too_fast(
        TOO_FAST,
        "too many requests; ask again after the stated time",
        retry,
    )
}

/// How often somebody may do something: an account for each, bounded in number.
///
/// Each account is one time: when it will be even again. Taking moves it by `every`; it may lie
/// `burst` in the future.
#[derive(Debug)]
pub struct Rates<K>(Arc<RatesInner<K>>);

#[derive(Debug)]
struct RatesInner<K> {
    env: Arc<dyn Env>,
    every: Duration,
    burst: Duration,
    even_at: Mutex<BTreeMap<K, Duration>>,
}

impl<K> Clone for Rates<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: Ord> Rates<K> {
    /// One every so long, and a burst worth of them at once after a quiet time.
    pub fn new(env: Arc<dyn Env>, every: Duration, burst: Duration) -> Self {
        Self(Arc::new(RatesInner {
            env,
            every,
            burst: burst.max(every),
            even_at: Mutex::default(),
        }))
    }

    /// Takes one.
    ///
    /// # Errors
    ///
    /// How long to wait for the next one; nothing was taken.
    pub fn take(&self, who: K) -> Result<(), Duration> {
        let RatesInner {
            env,
            every,
            burst,
            even_at,
        } = &*self.0;
        let now = env.monotonic();
        let mut accounts = even_at.lock().unwrap_or_else(PoisonError::into_inner);
        if accounts.len() >= IDENTITIES && !accounts.contains_key(&who) {
            accounts.retain(|_, even| *even > now);
            if accounts.len() >= IDENTITIES {
                return Err(*every);
            }
        }
        let even = accounts.entry(who).or_insert(now);
        let after = (*even).max(now) + *every;
        let latest = now + *burst;
        if after > latest {
            return Err(after.saturating_sub(latest));
        }
        *even = after;
        Ok(())
    }

    /// Gives one back that turned out not to count.
    pub fn give_back(&self, who: &K) {
        let mut accounts = self
            .0
            .even_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(even) = accounts.get_mut(who) {
            *even = even.saturating_sub(self.0.every);
        }
    }
}

/// Puts the [`Gate`]'s checks in front of every service of a server.
#[derive(Debug, Clone)]
pub struct GateLayer(Gate);

/// A service behind the [`Gate`].
#[derive(Debug, Clone)]
pub struct Gated<S> {
    gate: Gate,
    inner: S,
}

impl<S> Layer<S> for GateLayer {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        Gated {
            gate: self.0.clone(),
            inner,
        }
    }
}

impl<S, B, R> Service<http::Request<B>> for Gated<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    B: Body<Data: Send, Error: Into<StdError>> + Send + Unpin + 'static,
    R: Default + Send + 'static,
{
    type Response = http::Response<R>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let path = request.uri().path();
        let deadline = self.gate.deadline;
        if let Err(status) = self.gate.admit(request.extensions().get::<Peer>(), path) {
            return Box::pin(async move {
                let _ends_all_the_same = tokio::time::timeout(deadline, read(request)).await;
                Ok(status.into_http())
            });
        }
        let bounded = path != UNBOUNDED;
        let answer = self.inner.call(request);
        Box::pin(async move {
            if !bounded {
                return answer.await;
            }
            match tokio::time::timeout(deadline, answer).await {
                Ok(answer) => answer,
                Err(_) => Ok(late(deadline).into_http()),
            }
        })
    }
}

/// Takes what a refused request still sends. An answer ends its stream, and what comes to a stream
/// that has ended counts against the whole connection, which then ends, too.
async fn read<B: Body<Error: Into<StdError>> + Unpin>(request: http::Request<B>) {
    let mut body = Limited::new(request.into_body(), REFUSED_BYTES);
    while let Some(Ok(_)) = body.frame().await {}
}

fn late(deadline: Duration) -> Status {
    kapok_proto::refusal::status(
        Code::DeadlineExceeded,
        "TOO_SLOW",
        format!("no answer within {deadline:?}; the change may go on: look before asking again"),
        BTreeMap::new(),
    )
}

#[cfg(test)]
mod tests {
    use kapok_types::env::Seeded;

    use super::*;

    #[test]
    fn a_burst_then_a_pace() {
        let env = Seeded::new(1);
        let rates = Rates::new(
            env.clone(),
            Duration::from_millis(100),
            Duration::from_secs(1),
        );
        for _ in 0..10 {
            rates.take("li").unwrap();
        }
        assert_eq!(rates.take("li"), Err(Duration::from_millis(100)));
        // Nobody pays for another one.
        rates.take("wang").unwrap();
        env.advance(Duration::from_millis(250));
        rates.take("li").unwrap();
        rates.take("li").unwrap();
        assert_eq!(rates.take("li"), Err(Duration::from_millis(50)));
        rates.give_back(&"li");
        rates.take("li").unwrap();
        // Quiet does not save up more than a burst.
        env.advance(Duration::from_hours(1));
        assert_eq!((0..100).filter(|_| rates.take("li").is_ok()).count(), 10);
    }

    #[test]
    fn accounts_are_bounded() {
        let env = Seeded::new(1);
        let rates = Rates::new(env.clone(), Duration::from_secs(1), Duration::from_secs(5));
        for one in 0..IDENTITIES {
            rates.take(one).unwrap();
        }
        assert!(rates.take(IDENTITIES).is_err());
        env.advance(Duration::from_secs(2));
        rates.take(IDENTITIES).unwrap();
    }
}
