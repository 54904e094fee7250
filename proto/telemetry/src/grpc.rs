//! Trace context in and out of gRPC metadata.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use http::HeaderMap;
use kapok_types::{Env, TraceContext, trace::TRACEPARENT};
use tonic::{
    metadata::{AsciiMetadataValue, MetadataMap},
    service::Interceptor,
};
use tower::{Layer, Service};
use tracing::instrument::{Instrument as _, Instrumented};

use crate::{join, traced};

/// Longest call that is named on lines, in bytes: whoever is at the other end chose it.
const MAX_CALL_BYTES: usize = 128;

/// The layer of a server: each request runs in a span of the trace that it came with, or of a new
/// one, and has the [`TraceContext`] of what it leads to among its extensions.
#[derive(Debug, Clone)]
pub struct Server {
    env: Arc<dyn Env>,
}

/// A service under [`Server`].
#[derive(Debug, Clone)]
pub struct Traced<S> {
    inner: S,
    env: Arc<dyn Env>,
}

/// The interceptor of a client: each request carries this context, if there is one.
#[derive(Debug, Clone, Copy)]
pub struct Client(pub Option<TraceContext>);

impl Server {
    /// A layer whose new traces get their ids from `env`.
    pub fn new(env: Arc<dyn Env>) -> Self {
        Self { env }
    }
}

impl<S> Layer<S> for Server {
    type Service = Traced<S>;

    fn layer(&self, inner: S) -> Traced<S> {
        Traced {
            inner,
            env: Arc::clone(&self.env),
        }
    }
}

impl<S, B> Service<http::Request<B>> for Traced<S>
where
    S: Service<http::Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Instrumented<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        let path = request.uri().path();
        let call = if path.len() <= MAX_CALL_BYTES {
            path
        } else {
            "(a long path)"
        };
        let span = traced!("request", call);
        let context = join(&span, extract(request.headers()), &*self.env);
        request.extensions_mut().insert(context);
        let answer = span.in_scope(|| self.inner.call(request));
        answer.instrument(span)
    }
}

impl Interceptor for Client {
    fn call(
        &mut self,
        mut request: tonic::Request<()>,
    ) -> Result<tonic::Request<()>, tonic::Status> {
        if let Some(context) = self.0 {
            inject(request.metadata_mut(), context);
        }
        Ok(request)
    }
}

/// Puts a context into a request's metadata.
pub fn inject(metadata: &mut MetadataMap, context: TraceContext) {
    // Digits and hyphens are legal there.
    if let Ok(value) = AsciiMetadataValue::try_from(context.to_string()) {
        metadata.insert(TRACEPARENT, value);
    }
}

/// The context of a request that came in, if it has exactly one that can be read.
fn extract(headers: &HeaderMap) -> Option<TraceContext> {
    let mut given = headers.get_all(TRACEPARENT).iter();
    let (first, second) = (given.next()?, given.next());
    second
        .is_none()
        .then(|| TraceContext::read(first.as_bytes()))?
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, future::ready};

    use kapok_types::env::Seeded;
    use tower::service_fn;

    use super::*;

    const GIVEN: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    /// What a service under the layer finds among the extensions.
    async fn found(values: &[&[u8]]) -> Option<TraceContext> {
        let mut request = http::Request::new(());
        for value in values {
            let value = http::HeaderValue::from_bytes(value).unwrap();
            request.headers_mut().append(TRACEPARENT, value);
        }
        let inner = service_fn(|request: http::Request<()>| {
            ready(Ok::<_, Infallible>(request.extensions().get().copied()))
        });
        let mut service = Server::new(Seeded::new(3)).layer(inner);
        service.call(request).await.unwrap()
    }

    #[tokio::test]
    async fn a_context_comes_in_as_it_went_out() {
        let given: TraceContext = GIVEN.parse().unwrap();
        let request = Client(Some(given)).call(tonic::Request::new(())).unwrap();
        let sent = request.metadata().get(TRACEPARENT).unwrap();
        assert_eq!(sent, GIVEN);
        assert_eq!(found(&[sent.as_bytes()]).await, Some(given));
    }

    #[tokio::test]
    async fn what_is_no_context_begins_a_new_trace() {
        let fresh = found(&[]).await;
        assert!(fresh.is_some());
        let long = "a".repeat(10_240);
        let hostile: [&[&[u8]]; 4] = [
            &[b"garbage"],
            &[long.as_bytes()],
            &[&[0xff; 55]],
            // Two parents are none.
            &[GIVEN.as_bytes(), GIVEN.as_bytes()],
        ];
        for bad in hostile {
            assert_eq!(found(bad).await, fresh);
        }
    }
}
