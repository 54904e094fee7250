//! Segments in memory: for stores that need not last, and for tests of what homes do.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use futures::future::{BoxFuture, ready};

use super::{Error, Segments, Span};

/// Segments in memory. Clones are the same home.
#[derive(Debug, Clone, Default)]
pub struct MemorySegments {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<Span, Bytes>,
    /// Changes that pass before all that follow fail; and whether the first of those has its
    /// effect all the same.
    fail: Option<(u64, bool)>,
}

impl MemorySegments {
    /// An empty home.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets `after_changes` more changes pass and then fails, until [`MemorySegments::heal`]. If
    /// `unheard`, the first that fails has its effect.
    pub fn fail(&self, after_changes: u64, unheard: bool) {
        self.state().fail = Some((after_changes, unheard));
    }

    /// Ends the fault.
    pub fn heal(&self) {
        self.state().fail = None;
    }

    /// Puts `content` there as nobody's segment should be: for tests of damage.
    pub fn damage(&self, span: Span, content: Option<Bytes>) {
        match content {
            Some(content) => self.state().files.insert(span, content),
            None => self.state().files.remove(&span),
        };
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<Span, Bytes>)) -> Result<(), Error> {
        let mut state = self.state();
        let unheard = match &mut state.fail {
            None => false,
            Some((0, first)) => {
                if !std::mem::take(first) {
                    return Err(failed());
                }
                true
            }
            Some((passes, _)) => {
                *passes -= 1;
                false
            }
        };
        change(&mut state.files);
        if unheard { Err(failed()) } else { Ok(()) }
    }
}

fn failed() -> Error {
    Error::Io {
        doing: "changing segments",
        place: "memory".to_owned(),
        source: io::Error::other("it was told to fail"),
    }
}

impl Segments for MemorySegments {
    fn put(&self, span: Span, content: Bytes) -> BoxFuture<'_, Result<(), Error>> {
        let put = self.change(|files| drop(files.insert(span, content)));
        Box::pin(ready(put))
    }

    fn get(&self, span: Span) -> BoxFuture<'_, Result<Option<Bytes>, Error>> {
        Box::pin(ready(Ok(self.state().files.get(&span).cloned())))
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<Span>, Error>> {
        Box::pin(ready(Ok(self.state().files.keys().copied().collect())))
    }

    fn remove(&self, span: Span) -> BoxFuture<'_, Result<(), Error>> {
        let removed = self.change(|files| drop(files.remove(&span)));
        Box::pin(ready(removed))
    }
}
