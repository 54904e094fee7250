//! Which trace something belongs to: W3C trace context, from process to process.
//!
//! A command's trace begins at whoever sends it first and goes on in all that follows from it. The
//! context is a value: carried in gRPC metadata as `traceparent`, kept with an operation, printed
//! in logs. It decides nothing, so one that can't be read is as good as none.
//!
//! Source: W3C Trace Context, version 00.

use std::{
    fmt,
    num::{NonZeroU64, NonZeroU128},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use crate::{Env, Violation};

/// The name of the metadata that carries a context, and, in capitals, of the environment variable.
pub const TRACEPARENT: &str = "traceparent";

/// Bytes of a context's text: version, trace, span and flags with three hyphens.
const TEXT_BYTES: usize = 2 + 1 + 32 + 1 + 16 + 1 + 2;

/// One trace: all that follows from one command.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TraceId(NonZeroU128);

/// One span of a trace: one process' part, or one call of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpanId(NonZeroU64);

/// A trace, and the span in it that what comes next is a child of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct TraceContext {
    /// The trace.
    pub trace: TraceId,
    /// The parent of what comes next.
    pub span: SpanId,
    /// Whether the parent is exported. Only says what others do; nothing depends on it.
    pub sampled: bool,
}

impl TraceId {
    /// A new one.
    pub fn new(env: &dyn Env) -> Self {
        loop {
            let (high, low) = (u128::from(env.random()), u128::from(env.random()));
            if let Some(id) = NonZeroU128::new((high << 64) | low) {
                return Self(id);
            }
        }
    }

    /// Its 16 bytes, most significant first.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.get().to_be_bytes()
    }

    /// From 16 bytes; none for zeros, which stand for no trace.
    pub fn from_bytes(bytes: [u8; 16]) -> Option<Self> {
        NonZeroU128::new(u128::from_be_bytes(bytes)).map(Self)
    }
}

impl SpanId {
    /// A new one.
    pub fn new(env: &dyn Env) -> Self {
        loop {
            if let Some(id) = NonZeroU64::new(env.random()) {
                return Self(id);
            }
        }
    }

    /// Its 8 bytes, most significant first.
    pub fn to_bytes(self) -> [u8; 8] {
        self.0.get().to_be_bytes()
    }

    /// From 8 bytes; none for zeros, which stand for no span.
    pub fn from_bytes(bytes: [u8; 8]) -> Option<Self> {
        NonZeroU64::new(u64::from_be_bytes(bytes)).map(Self)
    }
}

impl TraceContext {
    /// A new trace with its first span, which nobody exports.
    pub fn new(env: &dyn Env) -> Self {
        Self {
            trace: TraceId::new(env),
            span: SpanId::new(env),
            sampled: false,
        }
    }

    /// The next span of this trace.
    pub fn child(self, env: &dyn Env) -> Self {
        Self {
            span: SpanId::new(env),
            ..self
        }
    }

    /// What a person or another process handed over, if it can be read.
    pub fn read(text: &[u8]) -> Option<Self> {
        std::str::from_utf8(text).ok()?.parse().ok()
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TraceId({self})")
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpanId({self})")
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = u8::from(self.sampled);
        write!(f, "00-{}-{}-{flags:02x}", self.trace, self.span)
    }
}

impl FromStr for TraceContext {
    type Err = Violation;

    /// Takes version 00 alone, in lower case. Flags besides *sampled* are dropped, as the standard
    /// wants it.
    fn from_str(text: &str) -> Result<Self, Violation> {
        parse(text).ok_or_else(|| {
            let reason = "must be a W3C trace context of version 00, \
                          00-(32 hex digits)-(16 hex digits)-(2 hex digits), in lower case";
            Violation::new(TRACEPARENT, reason)
        })
    }
}

impl From<TraceContext> for String {
    fn from(context: TraceContext) -> Self {
        context.to_string()
    }
}

impl TryFrom<String> for TraceContext {
    type Error = Violation;

    fn try_from(text: String) -> Result<Self, Violation> {
        text.parse()
    }
}

fn parse(text: &str) -> Option<TraceContext> {
    let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-');
    if text.len() != TEXT_BYTES || !text.bytes().all(hex) {
        return None;
    }
    let mut parts = text.split('-');
    let mut part = |digits: usize| parts.next().filter(|part| part.len() == digits);
    let (version, trace, span, flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
    if version != "00" {
        return None;
    }
    Some(TraceContext {
        trace: TraceId(NonZeroU128::new(u128::from_str_radix(trace, 16).ok()?)?),
        span: SpanId(NonZeroU64::new(u64::from_str_radix(span, 16).ok()?)?),
        sampled: u8::from_str_radix(flags, 16).ok()? & 1 == 1,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::env::Seeded;

    const GIVEN: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_context_is_read_as_it_was_written() {
        let context: TraceContext = GIVEN.parse().unwrap();
        assert_eq!(
            context.trace.to_string(),
            "0af7651916cd43dd8448eb211c80319c"
        );
        assert_eq!(context.span.to_string(), "b7ad6b7169203331");
        assert!(context.sampled);
        assert_eq!(context.to_string(), GIVEN);
        let json = serde_json::to_string(&context).unwrap();
        assert_eq!(json, format!("{GIVEN:?}"));
        assert_eq!(
            serde_json::from_str::<TraceContext>(&json).unwrap(),
            context
        );
        // Flags of a later standard are none of ours.
        let flags = GIVEN.replace("-01", "-03").parse::<TraceContext>();
        assert_eq!(flags.unwrap(), context);
    }

    #[test]
    fn what_is_no_context_is_refused() {
        let long = "0".repeat(10_240);
        for bad in [
            "",
            "garbage",
            &long,
            &GIVEN[..54],
            &format!("{GIVEN}0"),
            &format!("{GIVEN}-what-the-future-will-be"),
            &GIVEN.to_uppercase(),
            &GIVEN.replacen("00-", "01-", 1),
            &GIVEN.replacen("00-", "ff-", 1),
            &GIVEN.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            &GIVEN.replace("b7ad6b7169203331", &"0".repeat(16)),
            &GIVEN.replace('-', "_"),
            "00-0af7651916cd43dd8448eb211c80319-cb7ad6b7169203331-01",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-\u{e9}",
        ] {
            let shown: String = bad.chars().take(80).collect();
            assert!(bad.parse::<TraceContext>().is_err(), "{shown:?} was taken");
            assert_eq!(TraceContext::read(bad.as_bytes()), None, "{shown:?}");
        }
        assert_eq!(TraceContext::read(&[0xff; 55]), None);
    }

    #[test]
    fn a_child_is_another_span_of_the_same_trace() {
        let env = Seeded::new(7);
        let first = TraceContext::new(&*env);
        let child = first.child(&*env);
        assert_eq!(child.trace, first.trace);
        assert_ne!(child.span, first.span);
        assert_ne!(TraceContext::new(&*env).trace, first.trace);
        assert_eq!(TraceContext::new(&*Seeded::new(7)), first);
        assert_eq!(
            TraceId::from_bytes(first.trace.to_bytes()),
            Some(first.trace)
        );
        assert_eq!(SpanId::from_bytes([0; 8]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Some(context) = TraceContext::read(&bytes) {
                prop_assert_eq!(TraceContext::read(context.to_string().as_bytes()), Some(context));
            }
        }
    }
}
