//! The connection to the controllers: deadlines, retries, pages.
//!
//! A change carries a `request_id`, so sending it again after a lost answer has no second effect.
//! Reads are repeated as freely. Nothing else here knows what is being asked, but for one thing:
//! a credential past two thirds of its life is renewed on the way.

use std::{
    fs::{OpenOptions, TryLockError},
    sync::Arc,
    time::Duration,
};

use kapok_proto::{
    fabric::v1::{RenewCertificateRequest, certificate_service_client::CertificateServiceClient},
    refusal,
};
use kapok_trust::{Credentials, Key, dns};
use kapok_types::{Env as _, Timestamp, env::System};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::{Response, Status};

use crate::{
    contexts::{self, Source},
    controllers::{self, Controllers},
    credential::Credential,
    error::{Doing, Error, is_transient, root_cause},
    line::Line,
    output::Out,
    settings::Settings,
};

/// How long an answer may take unless `--timeout` says otherwise.
pub(crate) const ANSWER: Duration = Duration::from_secs(30);
/// How long `--wait` waits unless `--timeout` says otherwise.
const WAIT: Duration = Duration::from_mins(10);
/// How long a renewal on the way may hold up what was asked for.
const RENEW: Duration = Duration::from_secs(3);
/// How often a call is sent at most; one that waits for a leader, as often as its time allows.
const ATTEMPTS: u32 = 5;
/// Entries asked for in one page.
pub(crate) const PAGE: u32 = 200;

/// A connection to the controllers, as somebody.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    controllers: Arc<Controllers>,
    env: Arc<System>,
    timeout: Option<Duration>,
    credential: Arc<Credential>,
    source: Source,
}

/// Waits that grow: doubled each time, spread, up to a bound.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    most: Duration,
}

impl Client {
    /// Connects to the first controller that answers, and renews the credential if it is time.
    ///
    /// # Errors
    ///
    /// There is no credential, or it isn't accepted; nobody answers.
    pub(crate) async fn connect(settings: &Settings, out: &Out) -> Result<Self, Error> {
        let client = Self::connect_only(settings).await?;
        if client.credential.renewal_due(client.now()) {
            // Best effort: as long as the old one lives, nothing is lost.
            let failed = match timeout(RENEW, client.renew_alone()).await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.report().message),
                Err(_) => Some(format!("no answer within {}s", RENEW.as_secs())),
            };
            if let Some(reason) = failed {
                out.remark(&format!(
                    "the certificate couldn't be renewed ({reason}); it holds until {}",
                    client.credential.certificate.not_after
                ));
            }
        }
        Ok(client)
    }

    /// Renews the credential unless another process does, or has done so.
    async fn renew_alone(&self) -> Result<(), Error> {
        let path = self.source.path();
        let failed = |error: std::io::Error| Error::io("can't store the credential", &error);
        // For writing, because a lock over NFS wants that.
        let file = OpenOptions::new().read(true).write(true).open(path);
        let file = file.map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        // Whoever had the lock before may have put a new one there.
        let present = self.source.present()?;
        let serial = self.credential.certificate.serial;
        if present.is_none_or(|present| present.certificate.serial != serial) {
            return Ok(());
        }
        self.source.prepare(&self.credential.fabric)?;
        self.renew(None).await.map(drop)
    }

    /// Connects to the first controller that answers.
    ///
    /// # Errors
    ///
    /// As [`Client::connect`].
    pub(crate) async fn connect_only(settings: &Settings) -> Result<Self, Error> {
        let env = System::new();
        let (credential, source) = contexts::credential(settings)?;
        let not_accepted = |reason: String| Error::NotLoggedIn {
            reason,
            enroll: credential.enroll.clone(),
        };
        let now = env.now();
        if credential.has_ended(now) {
            let ended = crate::human::span(now.millis_since(credential.certificate.not_after));
            let subject = credential.certificate.subject();
            return Err(not_accepted(format!(
                "the certificate of {subject} ended {ended} ago"
            )));
        }
        let servers = settings.servers.clone();
        let servers = servers
            .or_else(|| credential.controllers.clone())
            .ok_or_else(|| Error::Usage {
                message: "the credential doesn't say where the controllers are".to_owned(),
                hint: "say it with --server HOST:PORT, or KAPOK_SERVER".to_owned(),
            })?;
        let credentials = Credentials::new(credential.material.clone(), env.clone());
        let credentials = credentials.map_err(|error| Error::Credential {
            path: source.path().to_owned(),
            reason: format!("can't be used: {}", root_cause(&error)),
            hint: "log in again".to_owned(),
        })?;
        let name = dns::controller(&credential.fabric);
        let controllers = Controllers::connect(credentials, name, &servers, settings.trace).await;
        let controllers = controllers.map_err(|error| match error {
            controllers::Error::Refused { at, refusal } => {
                not_accepted(format!("the controller at {at}: {refusal}"))
            }
            controllers::Error::Unreachable(reasons) => Error::Unreachable { reasons },
        })?;
        Ok(Self {
            controllers: Arc::new(controllers),
            env,
            timeout: settings.timeout,
            credential: Arc::new(credential),
            source,
        })
    }

    /// Who this is.
    pub(crate) fn credential(&self) -> &Credential {
        &self.credential
    }

    /// Where the credential came from.
    pub(crate) fn source(&self) -> &Source {
        &self.source
    }

    /// Fetches a new certificate for the same subject, with a new key, and puts it where the old
    /// one was. This connection goes on with the old one. Asked once: each answer is another
    /// certificate.
    ///
    /// # Errors
    ///
    /// Refused, or the file can't be written.
    pub(crate) async fn renew(&self, life: Option<Duration>) -> Result<Credential, Error> {
        let doing = Doing::new("renew the certificate", "kapok whoami");
        let key = Key::generate().map_err(|error| unmade(&error))?;
        let request = RenewCertificateRequest {
            csr_pem: key.request().map_err(|error| unmade(&error))?,
            life_seconds: life
                .unwrap_or_else(|| self.credential.certificate.life())
                .as_secs(),
        };
        let mut client = CertificateServiceClient::new(self.channel());
        let after = self.timeout.unwrap_or(ANSWER);
        let issued = match timeout(after, client.renew_certificate(request)).await {
            Ok(Ok(issued)) => issued.into_inner(),
            Ok(Err(status)) => return Err(call_failed(&doing, status, None)),
            Err(_) => {
                return Err(Error::TimedOut {
                    doing,
                    after,
                    change: None,
                });
            }
        };
        let old = &self.credential;
        let (controllers, enroll) = (old.controllers.clone(), old.enroll.clone());
        let new = Credential::issued(&key, issued, controllers, enroll)?;
        if new.certificate.identity != old.certificate.identity {
            return Err(Error::Content {
                message: format!("a certificate for {} came", new.certificate.identity),
                hint: "nothing was stored; tell a security administrator".to_owned(),
            });
        }
        self.source.store(&new)?;
        Ok(new)
    }

    /// The way to the controller that answered last, for calls that stream.
    pub(crate) fn channel(&self) -> Line {
        self.controllers.line()
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

    /// Sleeps for the next wait of `backoff`, then turns to the next controller that answers: what
    /// broke may be the present one's end. That none answers shows when it is spoken with.
    pub(crate) async fn pause_and_turn(&self, backoff: &mut Backoff) {
        let _ = self.turn(backoff).await;
    }

    async fn turn(&self, backoff: &mut Backoff) -> Result<(), controllers::Error> {
        self.pause(backoff).await;
        self.controllers.turn().await
    }

    /// Reads, with a few attempts.
    ///
    /// # Errors
    ///
    /// Refused, broken or out of time.
    pub(crate) async fn read<T>(
        &self,
        doing: &Doing,
        send: impl AsyncFnMut(Line) -> Result<Response<T>, Status>,
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
        send: impl AsyncFnMut(Line) -> Result<Response<T>, Status>,
    ) -> Result<T, Error> {
        self.call(doing, Some(request_id), send).await
    }

    async fn call<T>(
        &self,
        doing: &Doing,
        request_id: Option<&str>,
        mut send: impl AsyncFnMut(Line) -> Result<Response<T>, Status>,
    ) -> Result<T, Error> {
        let after = self.timeout.unwrap_or(ANSWER);
        let deadline = Instant::now() + after;
        let change = request_id.map(str::to_owned);
        let mut backoff = Self::backoff(Duration::from_millis(200), Duration::from_secs(2));
        let mut attempt = 1;
        // Where nobody answered, if nobody did.
        let mut tried = Vec::new();
        loop {
            let Ok(answer) = timeout_at(deadline, send(self.channel())).await else {
                return Err(Error::TimedOut {
                    doing: doing.clone(),
                    after,
                    change,
                });
            };
            let status = match answer {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(status) => status,
            };
            let mut turned = None;
            if is_transient(&status) && (attempt < ATTEMPTS || waits_for_a_leader(&status)) {
                attempt += 1;
                turned = timeout_at(deadline, self.turn(&mut backoff)).await.ok();
            }
            match turned {
                Some(Ok(())) => tried.clear(),
                Some(Err(controllers::Error::Unreachable(reasons))) => tried = reasons,
                Some(Err(controllers::Error::Refused { at, refusal })) => {
                    tried = vec![(at, refusal.to_string())];
                }
                None => {
                    return Err(Error::Call {
                        doing: doing.clone(),
                        status: Box::new(status),
                        change,
                        tried,
                    });
                }
            }
        }
    }
}

/// Whether the call comes to something as soon as a controller leads again.
fn waits_for_a_leader(status: &Status) -> bool {
    refusal::reason(status).as_deref() == Some("NO_LEADER")
}

/// A key that couldn't be made.
pub(crate) fn unmade(error: &kapok_trust::key::Error) -> Error {
    Error::io(
        "can't make a key",
        &std::io::Error::other(root_cause(error)),
    )
}

/// A call's failure as an error.
pub(crate) fn call_failed(doing: &Doing, status: Status, change: Option<String>) -> Error {
    Error::Call {
        doing: doing.clone(),
        status: Box::new(status),
        change,
        tried: Vec::new(),
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
