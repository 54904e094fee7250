//! The way to one controller: every request on it carries the command's trace and the last entry of
//! the log that was seen, and every answer is looked at for a later one.
//!
//! So people read their own changes, whichever controller answers them (see
//! `kapok/fabric/v1/controller.proto`).

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use kapok_telemetry::grpc;
use kapok_types::TraceContext;
use tonic::{
    body::Body,
    codegen::{
        Service,
        http::{HeaderMap, HeaderValue, Request, Response},
    },
    service::interceptor::InterceptedService,
    transport::Channel,
};

/// The metadata of an answer: the entry of the log that it holds at least.
const SEQ: &str = "kapok-seq";
/// The metadata of a call: the entry that its answer must hold.
const MIN_SEQ: &str = "kapok-min-seq";

/// The last entry of the log that this process has seen in an answer; 0 before the first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen(Arc<AtomicU64>);

impl Seen {
    fn note(&self, headers: &HeaderMap) {
        let text = headers.get(SEQ).and_then(|value| value.to_str().ok());
        if let Some(seq) = text.and_then(|text| text.parse().ok()) {
            self.0.fetch_max(seq, Ordering::Relaxed);
        }
    }

    fn tell(&self, headers: &mut HeaderMap) {
        let seq = self.0.load(Ordering::Relaxed);
        if seq > 0 {
            headers.insert(MIN_SEQ, HeaderValue::from(seq));
        }
    }
}

/// The way to one controller.
#[derive(Clone)]
pub(crate) struct Line<S = InterceptedService<Channel, grpc::Client>> {
    inner: S,
    seen: Seen,
}

impl Line {
    /// Over `channel`, as a part of `trace`.
    pub(crate) fn new(channel: Channel, trace: Option<TraceContext>, seen: Seen) -> Self {
        let inner = InterceptedService::new(channel, grpc::Client(trace));
        Self { inner, seen }
    }
}

impl<S> fmt::Debug for Line<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = f.debug_struct("Line");
        line.field("seen", &self.seen).finish_non_exhaustive()
    }
}

impl<S, B> Service<Request<Body>> for Line<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<B>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        self.seen.tell(request.headers_mut());
        let seen = self.seen.clone();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            seen.note(answer.headers());
            Ok(answer)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        future::{Ready, ready},
        sync::Mutex,
    };

    use super::*;

    /// Answers with each of these in turn, and keeps what it was told.
    #[derive(Clone, Default)]
    struct Controller {
        answers: Arc<Mutex<Vec<&'static str>>>,
        told: Arc<Mutex<Vec<Option<String>>>>,
    }

    impl Service<Request<Body>> for Controller {
        type Response = Response<()>;
        type Error = Infallible;
        type Future = Ready<Result<Response<()>, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: Request<Body>) -> Self::Future {
            let told = request.headers().get(MIN_SEQ);
            let told = told.map(|value| value.to_str().unwrap().to_owned());
            self.told.lock().unwrap().push(told);
            let mut answer = Response::new(());
            let seq = self.answers.lock().unwrap().remove(0);
            answer.headers_mut().insert(SEQ, seq.parse().unwrap());
            ready(Ok(answer))
        }
    }

    #[tokio::test]
    async fn the_last_entry_that_was_seen_is_asked_for_and_never_an_earlier_one() {
        let controller = Controller::default();
        let answers = ["7", "5", "none", "-1", "18446744073709551615"];
        *controller.answers.lock().unwrap() = answers.to_vec();
        let seen = Seen::default();
        for _ in answers {
            // Another line of the same process each time.
            let mut line = Line {
                inner: controller.clone(),
                seen: seen.clone(),
            };
            line.call(Request::new(Body::empty())).await.unwrap();
        }
        let told = controller.told.lock().unwrap();
        let told: Vec<_> = told.iter().map(Option::as_deref).collect();
        assert_eq!(told, [None, Some("7"), Some("7"), Some("7"), Some("7")]);
    }
}
