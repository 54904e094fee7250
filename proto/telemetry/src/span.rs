//! Spans that belong to a trace.

use kapok_types::{Env, TraceContext, trace::TraceId};
use tracing::{Span, field::display};

/// The target of all spans that belong to a trace, and of nothing else.
pub const TARGET: &str = "kapok_trace";

/// A span that is to [`join`] a trace, by its name and fields. It has no parent in this process.
///
/// Its level is the highest, so that the trace's id is on every line that is written inside.
#[macro_export]
macro_rules! traced {
    ($name:literal $(, $($fields:tt)*)?) => {
        $crate::private::tracing::error_span!(
            target: $crate::TARGET,
            parent: None,
            $name,
            trace_id = $crate::private::tracing::field::Empty,
            $($($fields)*)?
        )
    };
}

/// A part of what the current span does. Nothing where there is no trace: what no command led to
/// would only be noise.
#[macro_export]
macro_rules! part {
    ($name:literal $(, $($fields:tt)*)?) => {
        if $crate::is_traced() {
            $crate::private::tracing::error_span!(target: $crate::TARGET, $name $(, $($fields)*)?)
        } else {
            $crate::private::tracing::Span::none()
        }
    };
}

/// Lets a new span of [`traced!`] continue a trace, or begin one. Gives the context for what it
/// leads to. Legal before the span is entered.
///
/// Where spans aren't exported, what follows has the same parent: the tree has no holes.
pub fn join(span: &Span, parent: Option<TraceContext>, env: &dyn Env) -> TraceContext {
    let trace = parent.map_or_else(|| TraceId::new(env), |parent| parent.trace);
    let context = exported(span, parent, trace).unwrap_or_else(|| {
        parent.unwrap_or_else(|| TraceContext {
            trace,
            ..TraceContext::new(env)
        })
    });
    span.record("trace_id", display(context.trace));
    context
}

/// Whether the current span belongs to a trace.
pub fn is_traced() -> bool {
    Span::current()
        .metadata()
        .is_some_and(|metadata| metadata.target() == TARGET)
}

#[cfg(feature = "otlp")]
fn exported(span: &Span, parent: Option<TraceContext>, trace: TraceId) -> Option<TraceContext> {
    crate::export::join(span, parent, trace)
}

#[cfg(not(feature = "otlp"))]
fn exported(_: &Span, _: Option<TraceContext>, _: TraceId) -> Option<TraceContext> {
    None
}

#[cfg(test)]
mod tests {
    use kapok_types::env::Seeded;

    use super::*;

    #[test]
    fn without_export_what_follows_has_the_same_parent() {
        let env = Seeded::new(1);
        let first = join(&traced!("request"), None, &*env);
        assert!(!first.sampled);
        assert_eq!(join(&traced!("push", node = 1), Some(first), &*env), first);
        assert_ne!(join(&traced!("request"), None, &*env).trace, first.trace);
        assert!(!is_traced());
    }
}
