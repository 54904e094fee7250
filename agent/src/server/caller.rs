//! Who may call: controllers of the node's own fabric, and nobody else.
//!
//! TLS has shown who calls; this decides. It stands in front of every service of the listener,
//! health and reflection included, so a new one is closed until somebody opens it.

use std::collections::BTreeMap;

use kapok_proto::refusal;
use kapok_trust::{Peer, Subject};
use kapok_types::Name;
use tonic::{Code, Request, Status};

/// Lets a request through if a controller of this fabric makes it.
pub(super) fn admit(fabric: &Name, request: Request<()>) -> Result<Request<()>, Status> {
    let identity = request.extensions().get::<Peer>().and_then(Peer::identity);
    match identity {
        Some(caller)
            if caller.fabric == *fabric && matches!(caller.subject, Subject::Controller(_)) =>
        {
            Ok(request)
        }
        Some(caller) => {
            tracing::warn!(%caller, "a call was refused: agents take commands from controllers only");
            Err(forbidden(&format!("{caller} is no controller of {fabric}")))
        }
        None => Err(forbidden("the caller has no identity")),
    }
}

fn forbidden(reason: &str) -> Status {
    let message = format!("agents take commands from controllers only: {reason}");
    refusal::status(
        Code::PermissionDenied,
        "FORBIDDEN",
        message,
        BTreeMap::new(),
    )
}
