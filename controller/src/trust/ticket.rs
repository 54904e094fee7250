//! Tickets: a controller's word that one agent may fetch one blob, for a while.
//!
//! Sealed by the controller's own key, so that whoever serves the blob needs nothing but the
//! fabric's authorities to check it. A ticket names who may use it: stolen, it is worth nothing
//! without that node's key.

use std::time::Duration;

use kapok_trust::{Sealed, Subject};
use kapok_types::{Digest, Epoch, NodeId, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Error, Trust};

/// What the seal is made for: it counts for nothing else.
const PURPOSE: &str = "kapok peer ticket 1";
/// How long a ticket is good.
const LIFE: Duration = Duration::from_hours(1);

/// The word itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ticket {
    /// Who serves the blob.
    pub source: Subject,
    /// Who may fetch it.
    pub target: NodeId,
    /// What for; "blob".
    pub purpose: String,
    /// Which blob.
    pub digest: Digest,
    /// When it ends.
    pub expires_at: Timestamp,
    /// The leadership that gave it.
    pub epoch: Epoch,
}

/// A sealed ticket, and when another one should take its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedTicket {
    /// The seal.
    pub bytes: Vec<u8>,
    /// At half of its life.
    pub refresh_at: Timestamp,
}

/// Why a ticket doesn't count. The reasons are for the audit; outside they are one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TicketRefused {
    /// No controller of this fabric sealed it, or it was changed.
    #[error("no controller of this fabric sealed it")]
    Seal,
    /// It is for another caller, another blob, or another source.
    #[error("it was given for something else")]
    Other,
    /// It is over.
    #[error("it has ended")]
    Ended,
}

impl TicketRefused {
    /// A stable code.
    pub fn code(self) -> &'static str {
        match self {
            Self::Seal => "TICKET_FORGED",
            Self::Other => "TICKET_OF_ANOTHER",
            Self::Ended => "TICKET_ENDED",
        }
    }
}

impl Trust {
    /// The right of one node to fetch one blob from this controller.
    ///
    /// # Errors
    ///
    /// [`Error::Seal`].
    pub fn ticket(
        &self,
        target: NodeId,
        digest: Digest,
        epoch: Epoch,
    ) -> Result<SealedTicket, Error> {
        let signer = self.credentials().signer();
        let now = self.0.env.now();
        let life = u64::try_from(LIFE.as_millis()).unwrap_or(0);
        // A seal is worth nothing once the certificate behind it has ended.
        let expires_at = Timestamp(now.get() + life).min(signer.certificate().not_after);
        let ticket = Ticket {
            source: self.0.own.clone(),
            target,
            purpose: "blob".into(),
            digest,
            expires_at,
            epoch,
        };
        // Plain data: it can't fail.
        let payload = serde_json::to_vec(&ticket).unwrap_or_default();
        Ok(SealedTicket {
            bytes: signer.seal(PURPOSE, &payload)?.to_bytes(),
            refresh_at: Timestamp(now.get() + expires_at.millis_since(now) / 2),
        })
    }

    /// Whether a ticket lets a node fetch a blob from this controller, now.
    ///
    /// # Errors
    ///
    /// [`TicketRefused`].
    pub fn check_ticket(
        &self,
        bytes: &[u8],
        caller: NodeId,
        digest: Digest,
    ) -> Result<(), TicketRefused> {
        let sealed = Sealed::from_bytes(bytes).map_err(|_| TicketRefused::Seal)?;
        let opened = self.credentials().open(PURPOSE, &sealed);
        let payload = opened.map_err(|_| TicketRefused::Seal)?.payload;
        let ticket: Ticket = serde_json::from_slice(&payload).map_err(|_| TicketRefused::Seal)?;
        let fits = ticket.source.is_controller()
            && ticket.target == caller
            && ticket.purpose == "blob"
            && ticket.digest == digest;
        if !fits {
            return Err(TicketRefused::Other);
        }
        if self.0.env.now() >= ticket.expires_at {
            return Err(TicketRefused::Ended);
        }
        Ok(())
    }
}
