//! Every call to etcd: its deadline, its attempts at other members, and what its failure means.
//!
//! All calls go to one member as long as it answers. One that fails is made again at the next member,
//! with more time, until the call's deadline; and the calls after it go there too. So a member that
//! died or froze costs one attempt, not one in three of all. Reads are repeated freely; writes only by
//! `change`, whose guards make a second landing impossible.

use std::{
    error::Error as _,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use etcd_client::{
    Client, Error as EtcdError, GetOptions, KvClient, Txn, TxnResponse, WatchOptions, WatchStream,
};
use kapok_types::Seq;
use tokio::{
    sync::OnceCell,
    time::{Instant, sleep, timeout},
};
use tonic::{Code, ConnectError, Status};

use super::{EtcdOptions, figures::Counted, keys::Keys, state::State};
use crate::Error;

/// The largest answer that is taken, in bytes: [`super::reads::PAGE`] values of any size.
pub(super) const MESSAGE_BYTES: usize = 16 * 1024 * 1024;

/// The first pause between two attempts; each next one is twice as long, up to [`MAX_PAUSE`].
const PAUSE: Duration = Duration::from_millis(10);
const MAX_PAUSE: Duration = Duration::from_millis(250);

/// Why an attempt failed, by what it means for what was asked.
#[derive(Debug)]
pub(super) enum Failure {
    /// etcd refused, and will again. Nothing landed.
    Refused(Error),
    /// It reached nobody who could do it. Nothing landed.
    Away(Error),
    /// The answer was lost: it may have landed, or still land.
    Doubtful(Error),
    /// The quota is reached. It landed or it didn't, but it won't any more.
    Full(Error),
    /// What was asked for is older than etcd's history.
    Compacted(Error),
    /// The answer is larger than [`MESSAGE_BYTES`].
    TooLarge(Error),
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(error)
            | Failure::Away(error)
            | Failure::Doubtful(error)
            | Failure::Full(error)
            | Failure::Compacted(error)
            | Failure::TooLarge(error) => error,
        }
    }
}

/// The pauses between attempts.
#[derive(Debug)]
pub(super) struct Pauses(Duration);

impl Pauses {
    pub(super) const fn new() -> Self {
        Self(PAUSE)
    }

    /// Waits a little, and longer each time.
    pub(super) async fn pause(&mut self) {
        sleep(self.0).await;
        self.0 = (self.0 * 2).min(MAX_PAUSE);
    }
}

/// The attempts of a call.
#[derive(Debug)]
pub(super) struct Attempts {
    until: Instant,
    time: Duration,
    pauses: Pauses,
}

impl Attempts {
    /// How long the next one may take: longer each time, as far as the deadline allows.
    fn time(&mut self) -> Duration {
        let left = self.until.saturating_duration_since(Instant::now());
        let time = self.time.min(left.max(PAUSE));
        self.time *= 2;
        time
    }

    /// Whether the deadline has passed.
    pub(super) fn are_over(&self) -> bool {
        Instant::now() >= self.until
    }

    /// Waits a little before the next one.
    pub(super) async fn pause(&mut self) {
        self.pauses.pause().await;
    }
}

/// The connections to a cluster and where in it the store is.
pub(super) struct Calls {
    options: Arc<EtcdOptions>,
    /// One for each endpoint, made when it is first used.
    members: Vec<OnceCell<Client>>,
    /// The one that answers.
    current: AtomicUsize,
    pub(super) keys: Keys,
    pub(super) reads: Counted,
    pub(super) writes: Counted,
}

impl Calls {
    /// Nothing is dialled yet.
    pub(super) fn new(options: Arc<EtcdOptions>) -> Result<Self, Error> {
        Ok(Self {
            keys: options.check()?,
            members: options.endpoints.iter().map(|_| OnceCell::new()).collect(),
            current: AtomicUsize::new(0),
            options,
            reads: Counted::default(),
            writes: Counted::default(),
        })
    }

    /// When a call that begins now must end.
    pub(super) fn until(&self) -> Instant {
        Instant::now() + self.options.call_deadline
    }

    /// How long a leader that is gone keeps others from leading.
    pub(super) fn lease_ttl(&self) -> Duration {
        self.options.lease_ttl
    }

    /// The attempts of a call that must end at `until`.
    pub(super) fn attempts(&self, until: Instant) -> Attempts {
        Attempts {
            until,
            time: self.options.attempt(),
            pauses: Pauses::new(),
        }
    }

    /// Makes one attempt, at the member that answers. If it doesn't, the next one is it from now on.
    pub(super) async fn attempt<T, Called>(
        &self,
        doing: &'static str,
        time: Duration,
        call: impl FnOnce(Client) -> Called,
    ) -> Result<T, Failure>
    where
        Called: Future<Output = Result<T, EtcdError>>,
    {
        let current = self.current.load(Ordering::Relaxed);
        let asked = async {
            // With a user, connecting is a call of its own.
            let connect = || {
                let endpoint = [&self.options.endpoints[current]];
                Client::connect(endpoint, Some(self.options.connect()))
            };
            let client = self.members[current].get_or_try_init(connect).await?;
            call(client.clone()).await
        };
        // Boxed: what connecting keeps would otherwise be part of every future up to the caller's.
        let answer = within(doing, time, Box::pin(asked)).await;
        if let Err(Failure::Away(_) | Failure::Doubtful(_)) = answer {
            let next = (current + 1) % self.members.len();
            let (set, get) = (Ordering::Relaxed, Ordering::Relaxed);
            // Unless another call was here before.
            let _ = self.current.compare_exchange(current, next, set, get);
        }
        answer
    }

    /// Asks until there is an answer that repeating won't change, or the deadline passes.
    pub(super) async fn read<T, F, Called>(
        &self,
        doing: &'static str,
        until: Instant,
        mut call: F,
    ) -> Result<T, Failure>
    where
        F: FnMut(Client) -> Called,
        Called: Future<Output = Result<T, EtcdError>>,
    {
        let mut attempts = self.attempts(until);
        // The one cause that a person must see to. Not every attempt says it: a member that closes the
        // connection may be quicker than its reason.
        let mut distrust = Vec::new();
        loop {
            let counting = self.reads.begin();
            let read = self.attempt(doing, attempts.time(), &mut call).await;
            counting.end(read.is_ok());
            let error = match read {
                Err(Failure::Away(error) | Failure::Doubtful(error)) => error,
                read => return read,
            };
            let sure = distrust.len() / 2 >= self.members.len();
            if sure || attempts.are_over() {
                return Err(Failure::Away(distrust.pop().unwrap_or(error)));
            }
            if matches!(error, Error::Untrusted { .. }) {
                distrust.push(error);
            }
            attempts.pause().await;
        }
    }

    /// Makes one attempt at a transaction that writes.
    pub(super) async fn transact(
        &self,
        doing: &'static str,
        attempts: &mut Attempts,
        transaction: Txn,
    ) -> Result<TxnResponse, Failure> {
        let counting = self.writes.begin();
        let writing = |client: Client| async move { kv(&client).txn(transaction).await };
        let written = self.attempt(doing, attempts.time(), writing).await;
        counting.end(written.is_ok());
        written
    }

    /// Makes one attempt at watching a key or a range.
    pub(super) async fn watch(
        &self,
        doing: &'static str,
        key: String,
        options: WatchOptions,
    ) -> Result<WatchStream, Failure> {
        let watching = |client: Client| async move {
            let client = client.watch_client();
            let mut client = client.max_decoding_message_size(MESSAGE_BYTES);
            client.watch(key, Some(options)).await
        };
        self.attempt(doing, self.options.attempt(), watching).await
    }

    /// The fixed values, all of one moment that is not before the call.
    pub(super) async fn state(&self, doing: &'static str, until: Instant) -> Result<State, Error> {
        let read = self.read(doing, until, |client| {
            let asked = Txn::new().and_then(State::gets(&self.keys));
            async move { kv(&client).txn(asked).await }
        });
        State::found(&read.await?)
    }

    /// Where the batch begins that holds `seq`, which is there, and the bytes appended before it;
    /// nothing if it was trimmed away meanwhile. As of `revision`, or of now.
    pub(super) async fn holder(
        &self,
        doing: &'static str,
        seq: Seq,
        revision: Option<i64>,
        until: Instant,
    ) -> Result<Option<(Seq, u64)>, Failure> {
        // Looks at one position, then back over twice as many each time: never at more keys than the
        // batch has entries.
        let mut end = seq.next();
        let mut width: u64 = 1;
        while end > Seq(1) {
            let begin = Seq(end.get().saturating_sub(width).max(1));
            let (from, to) = (self.keys.batches_from(begin), self.keys.batches_from(end));
            let read = self.read(doing, until, |client| {
                let range = GetOptions::new().with_range(to.clone()).with_keys_only();
                let options = revision.into_iter().fold(range, GetOptions::with_revision);
                let from = from.clone();
                async move { kv(&client).get(from, Some(options)).await }
            });
            if let Some(last) = read.await?.kvs().last() {
                let place = self.keys.place(last.key()).map_err(Failure::Refused)?;
                return Ok(Some(place));
            }
            end = begin;
            width = width.saturating_mul(2);
        }
        Ok(None)
    }
}

/// The client for keys and values.
pub(super) fn kv(client: &Client) -> KvClient {
    client.kv_client().max_decoding_message_size(MESSAGE_BYTES)
}

/// Gives `call` its time and says what its failure means.
pub(super) async fn within<T>(
    doing: &'static str,
    time: Duration,
    call: impl Future<Output = Result<T, EtcdError>>,
) -> Result<T, Failure> {
    match timeout(time, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(classify(doing, error)),
        Err(_) => Err(Failure::Doubtful(Error::Unavailable {
            doing,
            source: format!("no answer within {} ms", time.as_millis()).into(),
        })),
    }
}

fn classify(doing: &'static str, error: EtcdError) -> Failure {
    let status = match error {
        EtcdError::GRpcStatus(status) => status,
        // A stream that ended before it answered.
        EtcdError::WatchError(_) => {
            let source = error.into();
            return Failure::Doubtful(Error::Unavailable { doing, source });
        }
        EtcdError::TransportError(_) | EtcdError::InvalidUri(_) | EtcdError::InvalidArgs(_) => {
            let what = error.to_string();
            return Failure::Refused(Error::Options { what });
        }
        error => {
            let source = error.into();
            return Failure::Refused(Error::Io { doing, source });
        }
    };
    let (code, says) = (status.code(), status.message().to_owned());
    let says = |what: &str| says.contains(what);
    if code == Code::ResourceExhausted && says("database space exceeded") {
        let source = said(&status);
        return Failure::Full(Error::Quota { doing, source });
    }
    if code == Code::OutOfRange && says("has been compacted") {
        let source = said(&status);
        return Failure::Compacted(Error::Io { doing, source });
    }
    if code == Code::OutOfRange && says("message length too large") {
        let source = said(&status);
        return Failure::TooLarge(Error::Io { doing, source });
    }
    let distrust = untrusted(&status);
    let not_sent = says("etcdserver: no leader")
        || says("etcdserver: too many requests")
        || chain(&status).any(<dyn std::error::Error>::is::<ConnectError>);
    let source = said(&status);
    match code {
        _ if distrust => Failure::Away(Error::Untrusted { source }),
        _ if not_sent => Failure::Away(Error::Unavailable { doing, source }),
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented => Failure::Refused(Error::Refused { doing, source }),
        _ => Failure::Doubtful(Error::Unavailable { doing, source }),
    }
}

fn chain(status: &Status) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(status.source(), |error| (*error).source())
}

/// Whether one side doesn't take the other's certificate.
fn untrusted(status: &Status) -> bool {
    chain(status).any(|error| {
        let text = error.to_string();
        text.contains("invalid peer certificate") || text.contains("received fatal alert")
    })
}

/// What a person wants to read of a status: its message, and the deepest cause below it.
fn said(status: &Status) -> crate::error::Source {
    let mut text = status.message().to_owned();
    if let Some(cause) = chain(status).last().map(ToString::to_string)
        && !text.contains(&cause)
    {
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&cause);
    }
    text.into()
}
