//! Lines for systemd's journal, with their fields.
//!
//! A line's text is what people read with `journalctl -u`: the message, its fields, and those of the
//! spans around it. Each field is one of the journal's as well, so that programs and people can ask
//! for it: `journalctl KAPOK_TRACE_ID=…`, `KAPOK_INCARNATION=…`, `KAPOK_NODE=…`.
//!
//! Source: systemd's "Native Journal Protocol", `systemd.exec(5)` for `JOURNAL_STREAM`,
//! `systemd.journal-fields(7)`.

use std::{
    fmt::{self, Write as _},
    fs::File,
    io::{self, Write as _},
    os::{
        fd::AsFd as _,
        unix::{fs::MetadataExt as _, net::UnixDatagram},
    },
    path::Path,
};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};
use tracing_subscriber::{
    Layer,
    layer::Context,
    registry::{LookupSpan, Scope},
};

/// Where the journal listens.
const SOCKET: &str = "/run/systemd/journal/socket";
/// Most of a field that is sent, in bytes; a datagram has to hold them all.
const MAX_VALUE_BYTES: usize = 8 * 1024;

/// Writes to the journal. What it doesn't take at once goes to the standard error, as without it.
pub(crate) struct Journal {
    socket: UnixDatagram,
    program: &'static str,
}

impl Journal {
    /// The journal, if the standard error is connected to it. `program` is what it calls the lines.
    pub(crate) fn of_stderr(program: &'static str) -> Option<Self> {
        let stream = std::env::var("JOURNAL_STREAM").ok()?;
        let stderr = File::from(io::stderr().as_fd().try_clone_to_owned().ok()?);
        let of = stderr.metadata().ok()?;
        (stream == format!("{}:{}", of.dev(), of.ino())).then_some(())?;
        Self::at(Path::new(SOCKET), program).ok()
    }

    fn at(socket: &Path, program: &'static str) -> io::Result<Self> {
        let sending = UnixDatagram::unbound()?;
        sending.connect(socket)?;
        // A journal that hangs must not hang whoever says something.
        sending.set_nonblocking(true)?;
        Ok(Self {
            socket: sending,
            program,
        })
    }
}

/// Names and values, as they were recorded.
#[derive(Default)]
struct Fields(Vec<(&'static str, String)>);

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.push((field.name(), value.to_owned()));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.push((field.name(), format!("{value:?}")));
    }
}

impl<S> Layer<S> for Journal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = Fields::default();
            attributes.record(&mut fields);
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let (text, datagram) = self.line(event, &fields, context.event_scope(event));
        if self.socket.send(&datagram).is_err() {
            // Nobody is left to hear that this fails, too.
            let _ = writeln!(io::stderr(), "{text}");
        }
    }
}

impl Journal {
    /// A line's text, and all of it as the journal takes it.
    fn line<S>(
        &self,
        event: &Event<'_>,
        fields: &Fields,
        spans: Option<Scope<'_, S>>,
    ) -> (String, Vec<u8>)
    where
        S: for<'a> LookupSpan<'a>,
    {
        let mut text = String::new();
        let mut datagram = Vec::new();
        // A field may have the name of what is said; that is recorded first.
        let said = fields.0.iter().position(|(name, _)| *name == "message");
        if let Some((_, value)) = said.and_then(|at| fields.0.get(at)) {
            text.push_str(value);
        }
        for (at, (name, value)) in fields.0.iter().enumerate() {
            if Some(at) != said {
                // To a text nothing fails.
                let _ = write!(text, " {name}={value}");
                put(&mut datagram, &key(name), value);
            }
        }
        for span in spans.into_iter().flat_map(Scope::from_root) {
            let _ = write!(text, " ({}", span.name());
            if let Some(fields) = span.extensions().get::<Fields>() {
                for (name, value) in &fields.0 {
                    let _ = write!(text, " {name}={value}");
                    put(&mut datagram, &key(name), value);
                }
            }
            text.push(')');
        }
        let metadata = event.metadata();
        put(&mut datagram, "MESSAGE", &text);
        put(&mut datagram, "PRIORITY", priority(*metadata.level()));
        put(&mut datagram, "SYSLOG_IDENTIFIER", self.program);
        put(&mut datagram, "KAPOK_TARGET", metadata.target());
        (text, datagram)
    }
}

/// The name of a field in the journal: capitals, digits and underscores.
fn key(name: &str) -> String {
    let legal = |char: char| {
        if char.is_ascii_alphanumeric() {
            char.to_ascii_uppercase()
        } else {
            '_'
        }
    };
    let mut key = "KAPOK_".to_owned();
    key.extend(name.chars().map(legal));
    // Longer names are refused, and the whole line with them.
    key.truncate(64);
    key
}

/// Always with the length in front: a line's end in a value begins no other field.
fn put(datagram: &mut Vec<u8>, key: &str, value: &str) {
    let value = &value[..value.floor_char_boundary(MAX_VALUE_BYTES)];
    let length = u64::try_from(value.len()).unwrap_or(u64::MAX);
    datagram.extend_from_slice(key.as_bytes());
    datagram.push(b'\n');
    datagram.extend_from_slice(&length.to_le_bytes());
    datagram.extend_from_slice(value.as_bytes());
    datagram.push(b'\n');
}

/// Source: `syslog(3)`: err, warning, info, debug.
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        Level::DEBUG | Level::TRACE => "7",
    }
}

#[cfg(test)]
mod tests {
    use kapok_types::env::Seeded;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;
    use crate::{join, traced};

    /// The fields of a datagram.
    fn parse(mut bytes: &[u8]) -> Vec<(String, String)> {
        let mut fields = Vec::new();
        while !bytes.is_empty() {
            let end = bytes.iter().position(|byte| *byte == b'\n').unwrap();
            let key = std::str::from_utf8(&bytes[..end]).unwrap().to_owned();
            let (length, rest) = bytes[end + 1..].split_first_chunk::<8>().unwrap();
            let length = usize::try_from(u64::from_le_bytes(*length)).unwrap();
            let value = std::str::from_utf8(&rest[..length]).unwrap().to_owned();
            assert_eq!(rest[length], b'\n');
            bytes = &rest[length + 1..];
            fields.push((key, value));
        }
        fields
    }

    /// What the journal hears of what is said.
    fn heard(say: impl FnOnce()) -> Vec<(String, String)> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let socket = UnixDatagram::bind(&path).unwrap();
        let journal = Journal::at(&path, "kapok-test").unwrap();
        let subscriber = tracing_subscriber::registry().with(journal);
        tracing::subscriber::with_default(subscriber, say);
        socket.set_nonblocking(true).unwrap();
        let mut bytes = vec![0; 1 << 18];
        let length = socket.recv(&mut bytes).unwrap();
        parse(&bytes[..length])
    }

    fn of<'a>(fields: &'a [(String, String)], key: &str) -> &'a str {
        let found = fields.iter().find(|(name, _)| name == key);
        &found.unwrap_or_else(|| panic!("{key} in {fields:?}")).1
    }

    #[test]
    fn a_line_has_its_fields_and_those_of_its_trace() {
        let env = Seeded::new(1);
        let mut trace = String::new();
        let fields = heard(|| {
            let span = traced!("push", call = "apply_instance", incarnation = %7);
            trace = join(&span, None, &*env).trace.to_string();
            span.in_scope(|| tracing::warn!(node = %"n-1", answer = ?Some(2), "is late"));
        });
        assert_eq!(of(&fields, "PRIORITY"), "4");
        assert_eq!(of(&fields, "SYSLOG_IDENTIFIER"), "kapok-test");
        assert_eq!(of(&fields, "KAPOK_NODE"), "n-1");
        assert_eq!(of(&fields, "KAPOK_INCARNATION"), "7");
        assert_eq!(of(&fields, "KAPOK_TRACE_ID"), trace);
        assert_eq!(of(&fields, "KAPOK_TARGET"), module_path!());
        let text = format!(
            "is late node=n-1 answer=Some(2) (push call=apply_instance incarnation=7 \
             trace_id={trace})"
        );
        assert_eq!(of(&fields, "MESSAGE"), text);
    }

    /// What others choose can't become a field of its own, nor too long a line.
    #[test]
    fn a_value_stays_a_value() {
        let hostile = format!("a\nPRIORITY=0\n{}", "ü".repeat(MAX_VALUE_BYTES));
        let fields = heard(|| tracing::info!(name = hostile, "said"));
        assert_eq!(of(&fields, "PRIORITY"), "6");
        assert!(of(&fields, "KAPOK_NAME").starts_with("a\nPRIORITY=0\nü"));
        assert!(of(&fields, "MESSAGE").len() <= MAX_VALUE_BYTES);
        let fields = heard(|| tracing::info!(message = "no", "refused"));
        assert_eq!(of(&fields, "MESSAGE"), "refused message=no");
        assert_eq!(key("a.b-c"), "KAPOK_A_B_C");
        assert_eq!(key(&"n".repeat(100)).len(), 64);
    }

    #[test]
    fn nobody_writes_to_a_journal_that_is_not_there() {
        assert!(Journal::at(Path::new("/nowhere/socket"), "kapok-test").is_err());
    }
}
