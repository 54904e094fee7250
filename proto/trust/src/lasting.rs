//! A channel for clients that stay: it moves to a new connection long before a certificate ends.
//!
//! **Invariant:** [`crate::Connections`] ends a connection with its certificates. A call that is on
//! its way then would be cut although both ends hold new certificates by now; so new calls go to a
//! new connection from half of the time on that is surely left, and calls on the old one end in
//! peace.

use std::{
    fmt,
    future::{Future, poll_fn},
    pin::Pin,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use kapok_types::Env;
use tonic::{
    body::Body,
    codegen::http::{Request, Response},
    transport::{self, Channel, Endpoint},
};
use tower::Service;

use crate::{
    Credentials,
    connector::{Dial, Error, Source},
};

/// Oldest age of a connection whose ends hold certificates of long lives.
const OLDEST: Duration = Duration::from_mins(5);

/// Such a channel. Cheap to clone; clones share the connection.
#[derive(Clone)]
pub struct Lasting(Arc<Inner>);

enum Inner {
    /// Whoever made it says how long it lasts.
    Given(Channel),
    Renewed(Box<Renewed>),
}

struct Renewed {
    env: Arc<dyn Env>,
    dial: Dial,
    endpoint: Endpoint,
    current: Mutex<Current>,
}

struct Current {
    channel: Channel,
    until: Until,
}

/// When a connection is due to be replaced, on the monotonic clock; known once it is open.
#[derive(Debug, Clone, Default)]
pub(crate) struct Until(Arc<OnceLock<Duration>>);

impl Until {
    /// It is open, between certificates of these lives. Who renews in time, at two thirds of a
    /// life, opens it with a third of each left: half of that goes by, the rest is for the calls.
    pub(crate) fn opened(&self, now: Duration, lives: [Duration; 2]) {
        let age = OLDEST.min(lives[0] / 6).min(lives[1] / 6);
        // Only the first connection of its channel counts.
        let _ = self.0.set(now + age);
    }

    fn is_over(&self, now: Duration) -> bool {
        self.0.get().is_some_and(|until| now >= *until)
    }
}

impl Lasting {
    /// As [`crate::connector::channel`], for a client that stays.
    ///
    /// # Errors
    /// The address can't be one.
    pub fn new(
        credentials: &Credentials,
        address: &str,
        dns: &str,
        tune: impl FnOnce(Endpoint) -> Endpoint,
    ) -> Result<Self, Error> {
        let dial = Dial::new(Source::Credentials(credentials.clone()), address, dns)?;
        let endpoint = tune(dial.endpoint()?);
        let current = Mutex::new(Current::new(&endpoint, &dial));
        let env = credentials.env().clone();
        let renewed = Renewed {
            env,
            dial,
            endpoint,
            current,
        };
        Ok(Self(Arc::new(Inner::Renewed(Box::new(renewed)))))
    }

    /// The channel for a call that begins now.
    fn now(&self) -> Channel {
        match &*self.0 {
            Inner::Given(channel) => channel.clone(),
            Inner::Renewed(renewed) => renewed.now(),
        }
    }
}

impl Renewed {
    fn now(&self) -> Channel {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.until.is_over(self.env.monotonic()) {
            *current = Current::new(&self.endpoint, &self.dial);
        }
        current.channel.clone()
    }
}

impl Current {
    /// A channel that dials when it is first used.
    fn new(endpoint: &Endpoint, dial: &Dial) -> Self {
        let until = Until::default();
        let dial = dial.clone().noting(until.clone());
        let channel = endpoint.connect_with_connector_lazy(dial);
        Self { channel, until }
    }
}

impl From<Channel> for Lasting {
    fn from(channel: Channel) -> Self {
        Self(Arc::new(Inner::Given(channel)))
    }
}

impl Service<Request<Body>> for Lasting {
    type Response = Response<Body>;
    type Error = transport::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, transport::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), transport::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let mut channel = self.now();
        Box::pin(async move {
            poll_fn(|context| channel.poll_ready(context)).await?;
            channel.call(request).await
        })
    }
}

impl fmt::Debug for Lasting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lasting").finish_non_exhaustive()
    }
}
