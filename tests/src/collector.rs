//! A collector of spans on loopback: OTLP's own service, which keeps what it was sent.

use std::{
    fmt::Write as _,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::any_value::Value,
};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

/// A span as it came; ids in hex, no parent as an empty text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The process that it is of.
    pub service: String,
    /// What it is called.
    pub name: String,
    /// Its trace.
    pub trace: String,
    /// Its own id.
    pub id: String,
    /// Its parent's.
    pub parent: String,
}

/// The collector. Dropping it ends it.
#[derive(Debug)]
pub struct Collector {
    address: SocketAddr,
    spans: watch::Receiver<Vec<Span>>,
    serving: JoinHandle<()>,
}

struct Service(Arc<Mutex<watch::Sender<Vec<Span>>>>);

impl Collector {
    /// Serves on a free port of loopback. Needs a tokio runtime around it.
    pub async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, spans) = watch::channel(Vec::new());
        let service = TraceServiceServer::new(Service(Arc::new(Mutex::new(sender))));
        let serving = tokio::spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            let server = Server::builder().add_service(service);
            server.serve_with_incoming(incoming).await.unwrap();
        });
        Self {
            address,
            spans,
            serving,
        }
    }

    /// Where it is, as an exporter wants it said.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What came, once that is as `enough` says; panics when that takes too long.
    pub async fn until(
        &self,
        bound: Duration,
        enough: impl FnMut(&Vec<Span>) -> bool,
    ) -> Vec<Span> {
        let mut spans = self.spans.clone();
        let found = tokio::time::timeout(bound, spans.wait_for(enough)).await;
        let Ok(found) = found else {
            panic!("not enough spans: {:#?}", *self.spans.borrow())
        };
        found.unwrap().clone()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut came = Vec::new();
        for resource in request.into_inner().resource_spans {
            let attributes = resource.resource.unwrap_or_default().attributes;
            let named = attributes.iter().find(|one| one.key == "service.name");
            let value = named.and_then(|one| one.value.as_ref()?.value.clone());
            let Some(Value::StringValue(service)) = value else {
                return Err(Status::invalid_argument("no service.name"));
            };
            let spans = resource.scope_spans.into_iter().flat_map(|one| one.spans);
            came.extend(spans.map(|span| Span {
                service: service.clone(),
                name: span.name,
                trace: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
            }));
        }
        let sender = self.0.lock().unwrap();
        sender.send_modify(|all| all.append(&mut came));
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}
