//! Recorded demand: a CSV of requests for virtual machines.
//!
//! Columns, named in the first line: `arrival_s` (from the trace's start, never falling), `batch`
//! (what one tenant asked for together), `vcpus`, `memory_mib`, `lifetime_s` (empty: it still ran
//! at the end). A name that ends in `.gz` is read as gzip.

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    path::Path,
};

use flate2::read::MultiGzDecoder;
use kapok_types::{MemoryMib, Vcpus};

/// The first line.
const HEADER: &str = "arrival_s,batch,vcpus,memory_mib,lifetime_s";

/// One request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// When it came, in seconds from the trace's start.
    pub arrival_s: u64,
    /// What it was asked for together with.
    pub batch: u64,
    /// Virtual CPUs.
    pub vcpus: Vcpus,
    /// Memory in MiB, all that it takes of its node.
    pub memory: MemoryMib,
    /// How long it lived, in seconds; none if it outlived the trace.
    pub lifetime_s: Option<u64>,
}

/// A trace that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It can't be read.
    #[error("the trace can't be read")]
    Read(#[from] io::Error),
    /// Its columns are others.
    #[error("the trace begins with {found:?}; its first line must be {HEADER:?}")]
    Header {
        /// The first line.
        found: String,
    },
    /// A line is no request.
    #[error("line {line} of the trace {reason}")]
    Line {
        /// Which, from 1.
        line: usize,
        /// What is wrong.
        reason: &'static str,
    },
}

/// Reads a trace from a file.
///
/// # Errors
///
/// [`Error`].
pub fn open(path: &Path) -> Result<Vec<Request>, Error> {
    let file = File::open(path)?;
    if path.extension().is_some_and(|extension| extension == "gz") {
        read(BufReader::new(MultiGzDecoder::new(file)))
    } else {
        read(BufReader::new(file))
    }
}

/// Reads a trace.
///
/// # Errors
///
/// [`Error`].
pub fn read(from: impl BufRead) -> Result<Vec<Request>, Error> {
    let mut lines = from.lines();
    let header = lines.next().transpose()?.unwrap_or_default();
    if header.trim_end() != HEADER {
        return Err(Error::Header { found: header });
    }
    let mut requests: Vec<Request> = Vec::new();
    for (line, text) in (2..).zip(lines) {
        let refused = |reason| Error::Line { line, reason };
        let request = parse(text?.trim_end()).ok_or_else(|| refused("is no request"))?;
        if requests
            .last()
            .is_some_and(|last| last.arrival_s > request.arrival_s)
        {
            return Err(refused("comes before the line above it"));
        }
        requests.push(request);
    }
    Ok(requests)
}

fn parse(line: &str) -> Option<Request> {
    let mut fields = line.split(',');
    let mut next = || fields.next();
    let request = Request {
        arrival_s: next()?.parse().ok()?,
        batch: next()?.parse().ok()?,
        vcpus: Vcpus(next()?.parse().ok()?),
        memory: MemoryMib(next()?.parse().ok()?),
        lifetime_s: match next()? {
            "" => None,
            text => Some(text.parse().ok()?),
        },
    };
    next().is_none().then_some(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_read_whole_or_refused_with_the_line() {
        let text = format!("{HEADER}\n0,7,2,1792,600\n300,8,1,768,\n");
        let requests = read(text.as_bytes()).unwrap();
        assert_eq!(requests.len(), 2);
        assert_eq!((requests[0].batch, requests[0].lifetime_s), (7, Some(600)));
        assert_eq!(
            (requests[1].vcpus, requests[1].lifetime_s),
            (Vcpus(1), None)
        );

        let refused = |text: String| read(text.as_bytes()).unwrap_err().to_string();
        assert!(refused("a,b\n".into()).contains("its first line must be"));
        let wrong = format!("{HEADER}\n0,7,2,1792,600\n0,7,-2,1792,600\n");
        assert_eq!(refused(wrong), "line 3 of the trace is no request");
        let long = format!("{HEADER}\n0,7,2,1792,600,1\n");
        assert_eq!(refused(long), "line 2 of the trace is no request");
        let back = format!("{HEADER}\n9,7,2,1792,600\n8,7,2,1792,600\n");
        assert_eq!(
            refused(back),
            "line 3 of the trace comes before the line above it"
        );
    }
}
