//! The controllers that a command can speak with, and the one that it speaks with.
//!
//! Any of them will do: whoever doesn't lead passes on what it can't answer. They are tried in the
//! order in which they were named, later beginning with the one behind that which failed.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use kapok_telemetry::TraceContext;
use kapok_trust::{Alert, Credentials, TlsFailure, connector};
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};

use crate::{
    error::root_cause,
    line::{Line, Seen},
    race,
    settings::Addresses,
};

/// How long a connection to one controller may take to come about.
const CONNECT: Duration = Duration::from_secs(5);
/// A silent connection is asked for a sign of life this often, and ends without one after as long.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// How every connection to a controller is kept.
pub(crate) fn tuned(endpoint: Endpoint) -> Endpoint {
    endpoint
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true)
}

/// Why no controller can be spoken with.
#[derive(Debug)]
pub(crate) enum Error {
    /// One doesn't accept the credential, and no other one does.
    Refused {
        /// Which one.
        at: String,
        /// How it says so.
        refusal: TlsFailure,
    },
    /// None answers: each address with its reason.
    Unreachable(Vec<(String, String)>),
}

/// Why one of them can't be spoken with.
enum Failed {
    Refused(TlsFailure),
    Unreachable(String),
}

/// The controllers of one fabric.
#[derive(Debug)]
pub(crate) struct Controllers {
    credentials: Credentials,
    /// The name that each of them must show.
    name: String,
    addresses: Vec<String>,
    trace: Option<TraceContext>,
    seen: Seen,
    /// The one that answered last: its place, and the way to it.
    present: Mutex<(usize, Line)>,
}

impl Controllers {
    /// Connects to the first one that answers.
    ///
    /// # Errors
    ///
    /// There is none.
    pub(crate) async fn connect(
        credentials: Credentials,
        name: String,
        addresses: &Addresses,
        trace: Option<TraceContext>,
    ) -> Result<Self, Error> {
        let addresses: Vec<_> = addresses.iter().map(str::to_owned).collect();
        let seen = Seen::default();
        let (place, channel) = dial(&credentials, &name, &addresses, 0).await?;
        let line = Line::new(channel, trace, seen.clone());
        Ok(Self {
            credentials,
            name,
            addresses,
            trace,
            seen,
            present: Mutex::new((place, line)),
        })
    }

    /// The way to the one that answered last.
    pub(crate) fn line(&self) -> Line {
        self.present().1.clone()
    }

    /// Turns to the next one that answers, after the present one failed. If none does, all stays
    /// as it is. The only one there is connects by itself again.
    ///
    /// # Errors
    ///
    /// None answers.
    pub(crate) async fn turn(&self) -> Result<(), Error> {
        if self.addresses.len() < 2 {
            return Ok(());
        }
        let behind = self.present().0 + 1;
        let (place, channel) = dial(&self.credentials, &self.name, &self.addresses, behind).await?;
        *self.present() = (place, Line::new(channel, self.trace, self.seen.clone()));
        Ok(())
    }

    fn present(&self) -> std::sync::MutexGuard<'_, (usize, Line)> {
        // Nothing panics while it is held.
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Dials them, beginning with the one in place `begin`.
async fn dial(
    credentials: &Credentials,
    name: &str,
    addresses: &[String],
    begin: usize,
) -> Result<(usize, Channel), Error> {
    let order: Vec<usize> = (0..addresses.len())
        .map(|step| (begin + step) % addresses.len())
        .collect();
    let tries = order.iter().filter_map(|&place| {
        let address = addresses.get(place)?.clone();
        let (credentials, name) = (credentials.clone(), name.to_owned());
        Some(async move {
            let channel = one(&credentials, &name, &address).await;
            channel
                .map(|channel| (place, channel))
                .map_err(|failed| (address, failed))
        })
    });
    let failed = match race::first(tries).await {
        Ok(found) => return Ok(found),
        Err(failed) => failed,
    };
    let mut reasons = Vec::new();
    for (at, failed) in failed {
        match failed {
            Failed::Refused(refusal) => return Err(Error::Refused { at, refusal }),
            Failed::Unreachable(reason) => reasons.push((at, reason)),
        }
    }
    Err(Error::Unreachable(reasons))
}

async fn one(credentials: &Credentials, name: &str, address: &str) -> Result<Channel, Failed> {
    let connect = connector::connect(credentials, address, name, tuned);
    // The handshake too: something that accepts and stays silent is no controller.
    let Ok(connected) = timeout(CONNECT, connect).await else {
        let reason = format!("no answer within {}s", CONNECT.as_secs());
        return Err(Failed::Unreachable(reason));
    };
    connected.map_err(|error| match connector::failure(&error) {
        Some(TlsFailure::PeerRefusedUs(
            alert @ (Alert::Expired
            | Alert::Revoked
            | Alert::UnknownIssuer
            | Alert::NoCertificate
            | Alert::BadCertificate
            | Alert::WrongPurpose),
        )) => Failed::Refused(TlsFailure::PeerRefusedUs(alert)),
        Some(failure) => Failed::Unreachable(failure.to_string()),
        None => Failed::Unreachable(root_cause(&error)),
    })
}
