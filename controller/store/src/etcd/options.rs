//! How an etcd cluster is reached.

use std::{fmt, time::Duration};

use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};

use super::keys::Keys;
use crate::Error;

/// Pings of a connection with streams on it. etcd ends connections that ping more often than every
/// 5 s, or without streams.
///
/// Source: etcd's `--grpc-keepalive-min-time`.
const PING: Duration = Duration::from_secs(6);
/// How long a ping may go unanswered before its connection counts as dead.
const PONG: Duration = Duration::from_secs(2);

/// The most that a first attempt waits: long for a cluster that works, short for who waits behind one
/// member that froze.
const FIRST_ATTEMPT: Duration = Duration::from_secs(1);

/// Where the cluster is, where in it the store lives, and how long its answers may take.
#[derive(Debug, Clone)]
pub struct EtcdOptions {
    /// Each member's client address: `host:port`, or with `http://` or `https://` before it.
    pub endpoints: Vec<String>,
    /// Where the store's keys are, with a slash at its end: `/kapok/<fabric>/`. At most 96 bytes.
    pub prefix: String,
    /// What TLS needs; without it connections are in the clear.
    pub tls: Option<EtcdTls>,
    /// A user of etcd's own, where its authentication is on.
    pub user: Option<EtcdUser>,
    /// How long a leader that is gone keeps others from leading, in whole seconds. etcd makes it
    /// 2 s at least.
    pub lease_ttl: Duration,
    /// How long a call may take before its outcome is an error. At least 100 ms.
    pub call_deadline: Duration,
}

/// Certificates for the connection to etcd, all in PEM.
#[derive(Clone)]
pub struct EtcdTls {
    /// Whose certificates the members show.
    pub ca: Vec<u8>,
    /// The certificate that this client shows, with its chain.
    pub certificate: Vec<u8>,
    /// Its key.
    pub key: Vec<u8>,
}

/// A name and password of etcd's own.
#[derive(Clone)]
pub struct EtcdUser {
    /// The name.
    pub name: String,
    /// The password.
    pub password: String,
}

impl fmt::Debug for EtcdTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdTls").finish_non_exhaustive()
    }
}

impl fmt::Debug for EtcdUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdUser")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl EtcdOptions {
    /// The cluster at `endpoints` in the clear, a lease of 3 s, 5 s for each call.
    pub fn new(endpoints: Vec<String>, prefix: impl Into<String>) -> Self {
        Self {
            endpoints,
            prefix: prefix.into(),
            tls: None,
            user: None,
            lease_ttl: Duration::from_secs(3),
            call_deadline: Duration::from_secs(5),
        }
    }

    pub(super) fn check(&self) -> Result<Keys, Error> {
        let refused = |what: &str| Error::Options { what: what.into() };
        if self.endpoints.is_empty() {
            return Err(refused("no endpoint of etcd is named"));
        }
        if self.lease_ttl < Duration::from_secs(1) {
            return Err(refused("the lease must last a second at least"));
        }
        if self.call_deadline < Duration::from_millis(100) {
            return Err(refused("a call must have 100 ms at least"));
        }
        Keys::below(&self.prefix)
    }

    /// How long the first attempt of a call waits, so that other members can be asked in time.
    pub(super) fn attempt(&self) -> Duration {
        (self.call_deadline / 5).min(FIRST_ATTEMPT)
    }

    pub(super) fn connect(&self) -> ConnectOptions {
        let mut options = ConnectOptions::new()
            .with_keep_alive(PING, PONG)
            .with_keep_alive_while_idle(false)
            .with_connect_timeout(self.attempt())
            // A member that is cut off says so at once, and ends its streams.
            .with_require_leader(true);
        if let Some(tls) = &self.tls {
            let tls = TlsOptions::new()
                .ca_certificate(Certificate::from_pem(&tls.ca))
                .identity(Identity::from_pem(&tls.certificate, &tls.key));
            options = options.with_tls(tls);
        }
        if let Some(user) = &self.user {
            options = options
                .with_user(&user.name, &user.password)
                .with_auto_token_refresh(true);
        }
        options
    }
}
