//! The agent's two listeners, both TLS with the node's certificate, and the tasks that serve them.
//!
//! Controllers come to the first and must show a certificate at the handshake. Monitoring comes to
//! the second, with or without one. What either takes is bounded apart from the other.

use std::{io, net::SocketAddr};

use kapok_trust::{Acceptor, ClientAuth, Credentials, Limits, Refusals};
use tokio::net::TcpListener;
use tokio_util::{
    sync::CancellationToken,
    task::{AbortOnDropHandle, TaskTracker},
};

use crate::{
    agent::Agent,
    config,
    http::{self, Pages},
    metrics::Metrics,
    trust::Trust,
};

/// Both listeners, bound but not served yet.
#[derive(Debug)]
pub struct Sockets {
    grpc: TcpListener,
    https: TcpListener,
    access: config::Http,
    metrics: config::Metrics,
}

/// An address that can't be listened on.
#[derive(Debug, thiserror::Error)]
#[error("{address} can't be listened on")]
pub struct Error {
    address: SocketAddr,
    source: io::Error,
}

/// What serves; dropping it stops serving.
pub struct Serving {
    /// The gRPC server. It ends when the agent stops.
    pub grpc: AbortOnDropHandle<Result<(), tonic::transport::Error>>,
    /// Connections that controllers' listener has refused.
    pub refusals: Refusals,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Sockets {
    /// Binds both.
    ///
    /// # Errors
    ///
    /// Which address can't be listened on, and why.
    pub async fn bind(grpc: SocketAddr, access: config::Http) -> Result<Self, Error> {
        let bind = async |address| {
            let bound = TcpListener::bind(address).await;
            bound.map_err(|source| Error { address, source })
        };
        Ok(Self {
            grpc: bind(grpc).await?,
            https: bind(access.listen).await?,
            access,
            metrics: config::Metrics::default(),
        })
    }

    /// With metrics as configured.
    #[must_use]
    pub fn with_metrics(self, metrics: config::Metrics) -> Self {
        Self { metrics, ..self }
    }

    /// Where they really listen: gRPC, then HTTPS.
    ///
    /// # Errors
    ///
    /// What the system said.
    pub fn addresses(&self) -> io::Result<(SocketAddr, SocketAddr)> {
        Ok((self.grpc.local_addr()?, self.https.local_addr()?))
    }

    /// Serves an agent, and follows what becomes of its trust. `credentials` are those of `trust`.
    pub fn serve(self, agent: &Agent, trust: &Trust, credentials: &Credentials) -> Serving {
        let controllers =
            Acceptor::new(credentials.clone(), ClientAuth::Required, Limits::default());
        let monitoring = Acceptor::new(credentials.clone(), ClientAuth::Optional, http::limits());
        let refusals = controllers.refusals().clone();
        let counted = vec![refusals.clone(), monitoring.refusals().clone()];
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let (metrics, sampling) =
            Metrics::new(agent.metrics(), counted, &self.metrics, stop.clone());
        tasks.spawn(sampling);
        let pages = Pages {
            access: self.access,
            trust: trust.clone(),
            pulse: agent.pulse(),
            metrics,
        };
        let https = monitoring.incoming(self.https);
        tasks.spawn(http::serve(pages, https, stop.clone()));
        tasks.spawn(trust.clone().watch(stop.clone()));
        let grpc = tokio::spawn(agent.serve(controllers.incoming(self.grpc)));
        Serving {
            grpc: AbortOnDropHandle::new(grpc),
            refusals,
            stop,
            tasks,
        }
    }
}

impl Serving {
    /// Ends everything but the gRPC server, which ends with its agent.
    pub async fn end(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
