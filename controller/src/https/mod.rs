//! The HTTPS port: joining and logging in, `/healthz`, `/metrics` and where agents have theirs. A client needs no
//! certificate to connect; one that it shows must be good.
//!
//! ```text
//!   /kapok.fabric.v1.EnrollService/…   gRPC: a token or an ID token for a certificate
//!   /healthz  /metrics                 HTTP: open, by certificate, or by bearer token
//!   /discovery/prometheus              HTTP: where agents' metrics are; as /metrics
//! ```
//!
//! **Invariant:** nothing else of the fabric can be reached here. Whoever has a certificate goes
//! to the other port with it.

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{
        HeaderMap, StatusCode,
        header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE},
    },
    response::{IntoResponse, Response},
    routing::get,
};
use futures::Stream;
use kapok_proto::fabric::v1::enroll_service_server::EnrollServiceServer;
use kapok_trust::Peer;
use subtle::ConstantTimeEq as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::{service::Routes, transport::server::Connected};
use zeroize::Zeroizing;

use crate::{
    api::Api,
    config::{self, Access},
    controllers::Port,
    fabric::Actor,
};

mod attempts;
mod discovery;
pub mod metrics;

pub use attempts::Attempts;
pub use metrics::Metrics;

/// Largest message of somebody who has not shown who they are, in bytes.
const MAX_MESSAGE_BYTES: usize = 64 * 1024;
/// When a connection is asked to end, so that nobody holds one for ever; and how long it may take.
const MAX_AGE: Duration = Duration::from_mins(5);
const MAX_AGE_GRACE: Duration = Duration::from_secs(30);

/// What the HTTPS port serves. Cheap to clone.
#[derive(Clone)]
pub struct Https {
    api: Api,
    pages: Arc<Pages>,
}

/// The two pages, and who may read them.
struct Pages {
    healthz: Access,
    metrics: Access,
    token_file: Option<PathBuf>,
    token: RwLock<Option<Zeroizing<String>>>,
    source: Metrics,
}

/// Why the token of the metrics can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It can't be read.
    #[error("{}: the token of the metrics can't be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is no token.
    #[error(
        "{}: must hold one line of 16 to 1024 printable characters, the token of the metrics",
        path.display()
    )]
    Malformed {
        /// The file.
        path: PathBuf,
    },
}

impl fmt::Debug for Https {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Https").finish_non_exhaustive()
    }
}

impl Https {
    /// What is served as configured. Reads the token of the metrics; blocks for it.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub fn new(api: Api, config: &config::Https, source: Metrics) -> Result<Self, Error> {
        let https = Self {
            api,
            pages: Arc::new(Pages {
                healthz: config.healthz,
                metrics: config.metrics,
                token_file: config.metrics_token_file.clone(),
                token: RwLock::default(),
                source,
            }),
        };
        https.reload()?;
        Ok(https)
    }

    /// Reads the token of the metrics again. Blocks.
    ///
    /// # Errors
    ///
    /// [`Error`]; the one before stays.
    pub fn reload(&self) -> Result<(), Error> {
        let Some(path) = &self.pages.token_file else {
            return Ok(());
        };
        let text = std::fs::read_to_string(path).map_err(|source| Error::Unreadable {
            path: path.clone(),
            source,
        })?;
        let text = Zeroizing::new(text);
        let token = text.trim();
        if !(16..=1024).contains(&token.len()) || !token.bytes().all(|byte| byte.is_ascii_graphic())
        {
            return Err(Error::Malformed { path: path.clone() });
        }
        let mut present = self
            .pages
            .token
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *present = Some(Zeroizing::new(token.to_owned()));
        Ok(())
    }

    /// Serves connections until the controller stops.
    ///
    /// # Errors
    ///
    /// The listener failed.
    pub async fn serve<IO, E>(
        self,
        incoming: impl Stream<Item = Result<IO, E>> + Send + 'static,
    ) -> Result<(), tonic::transport::Error>
    where
        IO: AsyncRead + AsyncWrite + Connected<ConnectInfo = Peer> + Unpin + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
    {
        let Self { api, pages } = self;
        let stop = api.stop.clone();
        let router = Router::new()
            .route("/healthz", get(healthz))
            .route("/metrics", get(metrics_page))
            .route("/discovery/prometheus", get(discovered))
            .with_state((api.clone(), pages));
        let enroll = enroll(api.clone());
        api.gate
            .server(api.forward(Port::Https))
            .accept_http1(true)
            .max_connection_age(MAX_AGE)
            .max_connection_age_grace(MAX_AGE_GRACE)
            .add_routes(Routes::from(router).add_service(enroll))
            .serve_with_incoming_shutdown(incoming, stop.cancelled_owned())
            .await
    }
}

/// Joining and logging in: for this port, and for what another controller's passes on.
pub(crate) fn enroll(api: Api) -> EnrollServiceServer<Api> {
    EnrollServiceServer::new(api)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

type Shared = State<(Api, Arc<Pages>)>;

async fn healthz(State((api, pages)): Shared, request: Request) -> Response {
    if let Err(refused) = pages.admit(&api, pages.healthz, &request) {
        return refused;
    }
    if api.stop.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "stopping\n").into_response();
    }
    (StatusCode::OK, "ok\n").into_response()
}

async fn metrics_page(State((api, pages)): Shared, request: Request) -> Response {
    if let Err(refused) = pages.admit(&api, pages.metrics, &request) {
        return refused;
    }
    match pages.source.respond(&api, request.headers()) {
        Ok(page) => page.map(Body::from),
        Err(error) => {
            tracing::error!(%error, "the metrics can't be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn discovered(State((api, pages)): Shared, request: Request) -> Response {
    if let Err(refused) = pages.admit(&api, pages.metrics, &request) {
        return refused;
    }
    let Some(target) = discovery::Target::asked(request.uri().query()) else {
        let words = "the query is target=address or target=name\n";
        return (StatusCode::BAD_REQUEST, words).into_response();
    };
    match serde_json::to_string(&discovery::targets(&api, target)) {
        Ok(text) => ([(CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "the targets can't be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

impl Pages {
    #[expect(clippy::result_large_err, reason = "the refusal is the answer itself")]
    fn admit(&self, api: &Api, access: Access, request: &Request) -> Result<(), Response> {
        let peer = request.extensions().get::<Peer>();
        let known = peer.and_then(Peer::subject).is_some();
        if known || access == Access::Open {
            return Ok(());
        }
        if access == Access::Token && self.is_token(request.headers()) {
            return Ok(());
        }
        let note = |reason| {
            let page = request.uri().path().trim_start_matches('/');
            let from = peer.and_then(Peer::address);
            let from = from.map(|at| at.ip().to_canonical().to_string());
            let from = from.unwrap_or_default();
            let refusals = &api.audit.refusals;
            refusals.note(&Actor("anonymous".into()), &from, "page.read", page, reason);
        };
        if access == Access::Token {
            // A client may well ask first whether it needs one.
            if request.headers().contains_key(AUTHORIZATION) {
                note("WRONG_TOKEN");
            }
            let ask = [(WWW_AUTHENTICATE, "Bearer realm=\"kapok\"")];
            return Err((StatusCode::UNAUTHORIZED, ask, "a token is needed\n").into_response());
        }
        note("NO_CERTIFICATE");
        let words = "a certificate of this fabric is needed\n";
        Err((StatusCode::FORBIDDEN, words).into_response())
    }

    /// Whether the bearer token is the one; tells nothing by the time it takes.
    fn is_token(&self, headers: &HeaderMap) -> bool {
        let shown = headers
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "));
        let token = self.token.read().unwrap_or_else(PoisonError::into_inner);
        match (shown, token.as_deref()) {
            (Some(shown), Some(token)) => {
                bool::from(shown.trim().as_bytes().ct_eq(token.as_bytes()))
            }
            _ => false,
        }
    }
}
