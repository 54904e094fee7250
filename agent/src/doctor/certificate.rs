//! Whether this server has joined, and for how long its certificate holds.

use kapok_trust::{Certificate, files};
use kapok_types::Timestamp;

use super::{Finding, Server};
use crate::trust::FOLDER;

const CHECK: &str = "certificate";

/// What lies in the state directory.
pub(super) fn check(server: &Server<'_>) -> Finding {
    let folder = server.host.path(server.config.state_dir.join(FOLDER));
    let material = match files::load(&folder) {
        Ok(material) => material,
        Err(files::Error::Absent { .. }) => {
            let advice = "on a controller, `kapok node token create NODE`; here, `kapok-agent join \
                          --controller HOST:PORT --token-file FILE`";
            return Finding::degraded(CHECK, "this server has not joined a fabric yet", advice);
        }
        Err(error @ files::Error::Exposed { .. }) => {
            let advice =
                "chmod 600 it, and ask for a new one: `kapok node revoke`, then join again";
            return Finding::failing(CHECK, error.to_string(), advice);
        }
        Err(error @ files::Error::Io { .. }) => {
            return Finding::unknown(CHECK, error.to_string(), "run the doctor as root");
        }
        Err(error) => {
            let advice = "join again with a new token: guests run on";
            return Finding::failing(CHECK, error.to_string(), advice);
        }
    };
    match Certificate::parse_pem(&material.chain_pem) {
        Ok(certificate) => judge(&certificate, server.now),
        Err(error) => Finding::failing(CHECK, error.to_string(), "join again with a new token"),
    }
}

fn judge(certificate: &Certificate, now: Timestamp) -> Finding {
    let until = certificate.not_after;
    let fabric = &certificate.identity.fabric;
    if now > until {
        let found = format!("that of the fabric {fabric} ended at {until}; guests run on");
        let advice = "on a controller, `kapok node token create NODE`; here, `kapok-agent join` \
                      with that token";
        return Finding::failing(CHECK, found, advice);
    }
    if now < certificate.not_before {
        let from = certificate.not_before;
        let found = format!("that of the fabric {fabric} holds from {from} on, which is to come");
        return Finding::failing(
            CHECK,
            found,
            "set the clock right, here or at the controller",
        );
    }
    if now > certificate.renew_at() {
        let found = format!("that of the fabric {fabric} ends at {until}, and isn't renewed");
        let advice = "see whether controllers reach this node: `kapok node show`, `journalctl -u \
                      kapok-agent`";
        return Finding::degraded(CHECK, found, advice);
    }
    let found = format!("that of the fabric {fabric} holds until {until}");
    Finding::healthy(CHECK, found)
}
