//! Heads of the fabric's log that the node keeps.
//!
//! **Invariant:** the heads that are kept can't be flushed out at once, not even by a controller:
//! each is from a while after the one before, and none from the future.

use std::time::Duration;

use bytes::Bytes;
use kapok_proto::{MAX_MESSAGE_BYTES, agent::v1 as wire, refusal};
use kapok_trust::{Certificate, LogHead, Sealed};
use kapok_types::{Name, Timestamp, Violation};
use tonic::Status;

use super::{Services, status};
use crate::{instance::state::Refusal, trust::with_causes};

/// Longest sealed head, in bytes: its chain of certificates is most of it.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// What the heads of one answer may take, in bytes.
const MAX_ANSWER_BYTES: usize = MAX_MESSAGE_BYTES - 256 * 1024;
/// How long after the newest that is kept the next must have been sealed.
const APART: Duration = Duration::from_secs(30);
/// How far a controller's clock may be ahead of this node's.
const AHEAD: Duration = Duration::from_mins(5);

impl Services {
    /// Keeps a head, if a controller of this fabric has sealed it with a certificate that holds.
    pub(super) async fn take_head(
        &self,
        request: wire::KeepHeadRequest,
    ) -> Result<wire::KeepHeadResponse, Status> {
        let sealed_head = request.sealed_head;
        let bad = |reason: String| status::bad(&[Violation::new("sealed_head", reason)]);
        if sealed_head.len() > MAX_HEAD_BYTES {
            let bytes = sealed_head.len();
            return Err(bad(format!("has {bytes} bytes; at most {MAX_HEAD_BYTES}")));
        }
        let sealed = Sealed::from_bytes(&sealed_head).map_err(|error| bad(with_causes(&error)))?;
        let opened = self.trust.open(LogHead::PURPOSE, &sealed);
        let opened = opened.map_err(|error| bad(with_causes(&error)))?;
        let head = LogHead::read(&opened.payload).map_err(|error| bad(with_causes(&error)))?;
        if head.at > after(self.trust.now(), AHEAD) {
            return Err(bad(format!("was sealed at {}, which is to come", head.at)));
        }
        // A copy: the request's memory may be larger.
        let sealed_head = Bytes::copy_from_slice(&sealed_head);
        let fabric = self.trust.fabric();
        let may = |newest: &[u8]| {
            sealed_at(newest, fabric).is_none_or(|newest| head.at >= after(newest, APART))
        };
        let kept = self.local.keep_head(sealed_head, may).await;
        if kept.map_err(|error| status::refused(Refusal::Store(error)))? {
            return Ok(wire::KeepHeadResponse {});
        }
        let text = "a head that was sealed shortly before is kept already";
        Err(refusal::too_fast("HEAD_TOO_SOON", text, APART))
    }

    /// The heads that are kept: the newest that fit into one answer.
    pub(super) fn kept_heads(&self) -> wire::ListHeadsResponse {
        let heads = self.local.heads();
        wire::ListHeadsResponse {
            sealed_heads: newest(&heads).to_vec(),
        }
    }
}

/// When a head that is kept was sealed; none if it is another fabric's.
fn sealed_at(kept: &[u8], fabric: &Name) -> Option<Timestamp> {
    let sealed = Sealed::from_bytes(kept).ok()?;
    let by = Certificate::parse_der(sealed.chain.first()?).ok()?;
    let head = LogHead::read(&sealed.payload).ok()?;
    (by.identity.fabric == *fabric).then_some(head.at)
}

fn after(at: Timestamp, span: Duration) -> Timestamp {
    let span = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    Timestamp(at.get().saturating_add(span))
}

fn newest(heads: &[Bytes]) -> &[Bytes] {
    let mut bytes = 0;
    let fit = heads.iter().rev().take_while(|head| {
        // Its tag and length, too.
        bytes += head.len() + 8;
        bytes <= MAX_ANSWER_BYTES
    });
    &heads[heads.len() - fit.count()..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_holds_the_newest_that_fit() {
        let head = |n: usize| Bytes::from(vec![u8::try_from(n % 251).unwrap(); MAX_HEAD_BYTES]);
        let heads: Vec<Bytes> = (0..1440).map(head).collect();
        let fit = newest(&heads);
        assert!((200..256).contains(&fit.len()), "{}", fit.len());
        assert_eq!(fit.last(), heads.last());
        assert_eq!(newest(&heads[..3]).len(), 3);
        assert!(newest(&[]).is_empty());
    }
}
