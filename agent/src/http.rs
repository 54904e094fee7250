//! What people's monitoring reads: `/healthz` and `/metrics`, over TLS.
//!
//! A client needs no certificate to connect, but each page has its own [`Access`]. Nothing else is
//! served here, and nothing here changes anything.
//!
//! **Invariant:** nobody holds a connection without asking: one on which no request comes at once
//! ends, and none gets old.

use std::{future::pending, path::PathBuf, sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, Response, StatusCode, header},
    middleware::{Next, from_fn_with_state},
    routing::get,
};
use futures::{Stream, StreamExt as _};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use kapok_trust::{Connection, Limits, Peer, Subject};
use kapok_types::Digest;
use serde::Serialize;
use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    config::{self, Access},
    heartbeat::Pulse,
    metrics::Metrics,
    trust::Trust,
};

/// How long the dispatch loop may take for a life sign.
const LIFE_SIGN: Duration = Duration::from_secs(2);
/// How long a request's head may take, and the first request after the handshake.
const HEAD: Duration = Duration::from_secs(10);
/// How old a connection gets.
const AGE: Duration = Duration::from_mins(5);
/// A silent HTTP/2 connection is asked for a sign of life this often, and has as long to give it.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// Streams that a connection may have open.
const STREAMS: u32 = 16;
/// Longest token file that is read, in bytes: a token, and a few blanks around it.
const MAX_TOKEN_BYTES: u64 = 4096;

/// Bounds of the listener: monitoring is few, and must not take what controllers need.
pub fn limits() -> Limits {
    Limits {
        connections: 256,
        connections_per_peer: 32,
        handshakes: 64,
        handshakes_per_peer: 16,
        ..Limits::default()
    }
}

/// What the pages are made of.
pub struct Pages {
    /// Who may read which.
    pub access: config::Http,
    /// The node's certificate.
    pub trust: Trust,
    /// How to ask whether the agent is alive.
    pub pulse: Pulse,
    /// What `/metrics` shows.
    pub metrics: Metrics,
}

/// Serves the pages until `stop`.
pub async fn serve<E: Send>(
    pages: Pages,
    incoming: impl Stream<Item = Result<Connection, E>> + Send,
    stop: CancellationToken,
) {
    let router = Router::new()
        .route("/healthz", get(healthz))
        .route("/metrics", get(metrics))
        .with_state(Arc::new(pages));
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .max_concurrent_streams(STREAMS);
    let connections = TaskTracker::new();
    let mut incoming = std::pin::pin!(incoming.take_until(stop.cancelled()));
    while let Some(connection) = incoming.next().await {
        let Ok(connection) = connection else { continue };
        let asked = CancellationToken::new();
        let service = router
            .clone()
            .layer(Extension(connection.peer().clone()))
            .layer(from_fn_with_state(asked.clone(), note));
        let (builder, stop) = (builder.clone(), stop.clone());
        connections.spawn(async move {
            let io = TokioIo::new(connection);
            let service = TowerToHyperService::new(service);
            let serving = timeout(AGE, builder.serve_connection(io, service));
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = silence(asked) => {}
                // Whoever read has gone, broke the protocol or stayed too long; there is nobody to
                // tell.
                _ended = serving => {}
            }
        });
    }
    connections.close();
    connections.wait().await;
}

/// Says that a request has come.
async fn note(
    State(asked): State<CancellationToken>,
    request: Request,
    next: Next,
) -> Response<Body> {
    asked.cancel();
    next.run(request).await
}

/// Ends when no request has come for too long.
async fn silence(asked: CancellationToken) {
    if timeout(HEAD, asked.cancelled()).await.is_ok() {
        pending::<()>().await;
    }
}

/// What `/healthz` says.
#[derive(Debug, Serialize)]
struct Health {
    /// Always: before that there is no certificate to serve with.
    joined: bool,
    /// Whether the agent's loop answers.
    alive: bool,
    /// Whether the hypervisor answers.
    hypervisor_up: bool,
    /// When the node's certificate ends.
    certificate_end: Option<String>,
    /// Whether it has ended: then no controller can reach the node.
    certificate_expired: bool,
}

async fn healthz(
    State(pages): State<Arc<Pages>>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
) -> Response<Body> {
    if let Err(refused) = pages.admit(pages.access.healthz, &peer, &headers).await {
        return answer(refused, "text/plain", String::new());
    }
    let sign = timeout(LIFE_SIGN, pages.pulse.next()).await.ok().flatten();
    let health = Health {
        joined: true,
        alive: sign.is_some(),
        hypervisor_up: sign.is_some_and(|sign| sign.hypervisor_up),
        certificate_end: pages
            .trust
            .certificate()
            .map(|certificate| certificate.not_after.to_string()),
        certificate_expired: pages.trust.has_expired(),
    };
    let sound = health.alive && health.hypervisor_up && !health.certificate_expired;
    let status = if sound {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let text = serde_json::to_string(&health).unwrap_or_default();
    answer(status, "application/json", text + "\n")
}

async fn metrics(
    State(pages): State<Arc<Pages>>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
) -> Response<Body> {
    if let Err(refused) = pages.admit(pages.access.metrics, &peer, &headers).await {
        return answer(refused, "text/plain", String::new());
    }
    match pages.metrics.respond(&headers) {
        Ok(page) => page.map(Body::from),
        Err(error) => {
            tracing::error!(%error, "the metrics can't be written");
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            answer(status, "text/plain", String::new())
        }
    }
}

impl Pages {
    /// Whether whoever asks may read a page with this access.
    async fn admit(
        &self,
        access: Access,
        peer: &Peer,
        headers: &HeaderMap,
    ) -> Result<(), StatusCode> {
        let known = match peer.subject() {
            Some(Subject::Controller(_) | Subject::Machine(_)) => true,
            Some(subject @ Subject::Node(_)) => *subject == self.trust.identity().subject,
            Some(Subject::User(_)) | None => false,
        };
        match access {
            Access::Off => Err(StatusCode::NOT_FOUND),
            Access::Open => Ok(()),
            Access::Mtls | Access::Token if known => Ok(()),
            Access::Mtls if peer.subject().is_some() => Err(StatusCode::FORBIDDEN),
            Access::Mtls => Err(StatusCode::UNAUTHORIZED),
            // Who brings no token doesn't make the agent read its own.
            Access::Token => match bearer(headers) {
                Some(sent) if self.token().await == Some(sent) => Ok(()),
                _ => Err(StatusCode::UNAUTHORIZED),
            },
        }
    }

    /// The digest of the token that is wanted; none if there is no sound one.
    async fn token(&self) -> Option<Digest> {
        let file: PathBuf = self.access.token_file.clone()?;
        let read = async {
            if tokio::fs::metadata(&file).await?.len() > MAX_TOKEN_BYTES {
                return Err(std::io::Error::other("it is too long to be a token"));
            }
            tokio::fs::read_to_string(&file).await
        };
        match read.await {
            Ok(text) => {
                let digest = digest(&text);
                if digest.is_none() {
                    tracing::warn!(
                        file = %file.display(),
                        "the token file must hold one line of 16 to 1024 printable characters"
                    );
                }
                digest
            }
            Err(error) => {
                tracing::warn!(file = %file.display(), %error, "the token file can't be read");
                None
            }
        }
    }
}

/// The digest of the token that came along.
fn bearer(headers: &HeaderMap) -> Option<Digest> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    digest(value.strip_prefix("Bearer ")?)
}

/// The digest of a token; none if the text can't be one. Digests are compared, so the time that
/// takes says nothing of the token.
fn digest(text: &str) -> Option<Digest> {
    let token = text.trim();
    let sound =
        (16..=1024).contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_graphic());
    sound.then(|| Digest::of(token.as_bytes()))
}

fn answer(status: StatusCode, content_type: &'static str, text: String) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    let content_type = header::HeaderValue::from_static(content_type);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, content_type);
    response
}
