//! The connection to the controller: deadlines, retries, pages.
//!
//! A change carries a `request_id`, so sending it again after a lost answer has no second effect.
//! Reads are repeated as freely. Nothing else here knows what is being asked.

use std::{sync::Arc, time::Duration};

use kapok_types::{Env as _, Timestamp, env::System};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::{
    Response, Status,
    transport::{Channel, Endpoint},
};

use crate::{
    error::{Doing, Error, is_transient, root_cause},
    human,
    settings::Settings,
};

/// How long an answer may take unless `--timeout` says otherwise.
const ANSWER: Duration = Duration::from_secs(30);
/// How long `--wait` waits unless `--timeout` says otherwise.
const WAIT: Duration = Duration::from_mins(10);
/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(5);
/// A silent connection is asked for a sign of life this often.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// How often a call is sent at most.
const ATTEMPTS: u32 = 5;
/// Entries asked for in one page.
pub(crate) const PAGE: u32 = 200;

/// A connection to one controller.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    channel: Channel,
    env: Arc<System>,
    timeout: Option<Duration>,
}

/// Waits that grow: doubled each time, spread, up to a bound.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    most: Duration,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    ///
    /// Nobody answers at that address.
    pub(crate) async fn connect(settings: &Settings) -> Result<Self, Error> {
        let server = human::url(&settings.server);
        let unreachable = |reason: String| Error::Unreachable {
            server: server.clone(),
            reason,
        };
        let endpoint = Endpoint::from(settings.server.clone())
            .user_agent(concat!("kapok/", env!("CARGO_PKG_VERSION")))
            .map_err(|error| unreachable(root_cause(&error)))?
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .keep_alive_while_idle(true);
        // The handshake too: something that accepts and stays silent is no controller.
        let channel = match timeout(CONNECT, endpoint.connect()).await {
            Ok(connected) => connected.map_err(|error| unreachable(root_cause(&error)))?,
            Err(_) => {
                return Err(unreachable(format!(
                    "no answer within {}s",
                    CONNECT.as_secs()
                )));
            }
        };
        Ok(Self {
            channel,
            env: System::new(),
            timeout: settings.timeout,
        })
    }

    /// The channel, for calls that stream.
    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Now, for ages.
    pub(crate) fn now(&self) -> Timestamp {
        self.env.now()
    }

    /// The person's own `request_id`, or a new one.
    pub(crate) fn request_id(&self, given: Option<String>) -> String {
        given.unwrap_or_else(|| self.env.uuid().to_string())
    }

    /// What the person said with `--timeout`.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// How long `--wait` waits.
    pub(crate) fn wait(&self) -> Duration {
        self.timeout.unwrap_or(WAIT)
    }

    /// Waits that start at `first` and grow to `most`.
    pub(crate) fn backoff(first: Duration, most: Duration) -> Backoff {
        Backoff { next: first, most }
    }

    /// Sleeps for the next wait of `backoff`.
    pub(crate) async fn pause(&self, backoff: &mut Backoff) {
        sleep(self.env.jittered(backoff.next)).await;
        backoff.next = (backoff.next * 2).min(backoff.most);
    }

    /// Reads, with a few attempts.
    ///
    /// # Errors
    ///
    /// Refused, broken or out of time.
    pub(crate) async fn read<T>(
        &self,
        doing: &Doing,
        send: impl AsyncFnMut(Channel) -> Result<Response<T>, Status>,
    ) -> Result<T, Error> {
        self.call(doing, None, send).await
    }

    /// Changes something, with a few attempts under one `request_id`, which `send` must carry.
    ///
    /// # Errors
    ///
    /// Refused, broken or out of time; the last two leave the outcome open and say so.
    pub(crate) async fn change<T>(
        &self,
        doing: &Doing,
        request_id: &str,
        send: impl AsyncFnMut(Channel) -> Result<Response<T>, Status>,
    ) -> Result<T, Error> {
        self.call(doing, Some(request_id), send).await
    }

    async fn call<T>(
        &self,
        doing: &Doing,
        request_id: Option<&str>,
        mut send: impl AsyncFnMut(Channel) -> Result<Response<T>, Status>,
    ) -> Result<T, Error> {
        let after = self.timeout.unwrap_or(ANSWER);
        let deadline = Instant::now() + after;
        let change = request_id.map(str::to_owned);
        let mut backoff = Self::backoff(Duration::from_millis(200), Duration::from_secs(2));
        let mut attempt = 1;
        loop {
            let Ok(answer) = timeout_at(deadline, send(self.channel())).await else {
                return Err(Error::TimedOut {
                    doing: doing.clone(),
                    after,
                    change,
                });
            };
            match answer {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(status) if is_transient(&status) && attempt < ATTEMPTS => {
                    attempt += 1;
                    if timeout_at(deadline, self.pause(&mut backoff))
                        .await
                        .is_err()
                    {
                        return Err(call_failed(doing, status, change));
                    }
                }
                Err(status) => return Err(call_failed(doing, status, change)),
            }
        }
    }
}

/// A call's failure as an error.
pub(crate) fn call_failed(doing: &Doing, status: Status, change: Option<String>) -> Error {
    Error::Call {
        doing: doing.clone(),
        status: Box::new(status),
        change,
    }
}

/// Follows page tokens to the end. `fetch` takes a token and gives entries and the next token.
///
/// # Errors
///
/// Those of `fetch`, or a token that leads back to itself.
pub(crate) async fn pages<T>(
    doing: &Doing,
    mut fetch: impl AsyncFnMut(String) -> Result<(Vec<T>, String), Error>,
) -> Result<Vec<T>, Error> {
    let (mut all, mut token) = (Vec::new(), String::new());
    loop {
        let (entries, next) = fetch(token.clone()).await?;
        all.extend(entries);
        if next.is_empty() {
            return Ok(all);
        }
        if next == token {
            let status = Status::internal("the controller's page token leads back to itself");
            return Err(call_failed(doing, status, None));
        }
        token = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn pages_are_followed_to_the_end_and_never_for_ever() {
        let doing = Doing::new("list", "");
        let all = pages(&doing, async |token: String| {
            Ok(match token.as_str() {
                "" => (vec![1, 2], "a".to_owned()),
                "a" => (Vec::new(), "b".to_owned()),
                _ => (vec![3], String::new()),
            })
        })
        .await
        .unwrap();
        assert_eq!(all, [1, 2, 3]);
        let mut asked = 0;
        let endless = pages(&doing, async |_| {
            asked += 1;
            assert!(asked < 5, "the same page again and again");
            Ok((vec![1], "a".to_owned()))
        })
        .await;
        assert!(
            endless
                .unwrap_err()
                .report()
                .message
                .contains("leads back to itself")
        );
    }
}
