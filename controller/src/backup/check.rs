//! Whether a backup, or the record as it comes from a store, is whole: chain, entries, fold.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use kapok_store::{Batch, Chain, Head, Segment, Span};
use kapok_types::{Epoch, Seq};

use super::format::{self, About, Frame};
use crate::{
    fabric::{
        Event, Fabric,
        checkpoint::{self, Key},
    },
    log::{self, Record},
};

/// What was checked.
#[derive(Debug)]
pub struct Checked {
    /// What it is of.
    pub about: About,
    /// The fold of all entries.
    pub fabric: Fabric,
    /// Every folded object by its key, as of the last entry.
    pub objects: BTreeMap<String, Bytes>,
    /// The highest epoch that it says, or says somebody led with.
    pub epoch: Epoch,
    /// Entries outside of segments.
    pub entries: u64,
    /// Segments.
    pub segments: u64,
    /// Whether the keys are there.
    pub has_keys: bool,
}

/// Why it isn't whole.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It can't be read.
    #[error(transparent)]
    Format(#[from] format::Error),
    /// The chain doesn't hold.
    #[error("the record isn't what it was")]
    Chain(#[from] kapok_store::Broken),
    /// An entry can't be read.
    #[error("entry {seq} can't be read")]
    Entry {
        /// Which.
        seq: Seq,
        /// Why.
        source: log::Error,
    },
    /// Folded objects can't be read.
    #[error("the folded objects can't be read")]
    Objects(#[from] checkpoint::Error),
    /// An object can't be written again.
    #[error("an object can't be written")]
    Object(#[from] serde_json::Error),
    /// A segment isn't one.
    #[error("segment {span} isn't what it was")]
    Segment {
        /// Which.
        span: Span,
        /// Why.
        source: kapok_store::segment::Error,
    },
    /// Parts don't fit together.
    #[error("the record doesn't fit together: {0}")]
    Unfit(&'static str),
}

/// Takes frames in their order and checks them. Holds the fabric, not the log.
#[derive(Debug, Default)]
pub struct Checker {
    about: Option<Box<About>>,
    objects: BTreeMap<String, Bytes>,
    /// From the first batch or the end of the objects on.
    folding: Option<Folding>,
    segments: u64,
    /// Where the segments end.
    sealed: Option<Head>,
    has_keys: bool,
    epoch: Epoch,
    stage: u8,
}

#[derive(Debug)]
struct Folding {
    fabric: Fabric,
    touched: BTreeSet<Key>,
    /// None before the first batch.
    chain: Option<Chain>,
    first: Seq,
    entries: u64,
}

impl Checker {
    /// Takes the next frame.
    ///
    /// # Errors
    /// [`Error`]; it is then of no use any more.
    pub fn take(&mut self, frame: &Frame) -> Result<(), Error> {
        let stage = match frame {
            Frame::About(_) => 1,
            Frame::Object(..) => 2,
            Frame::Batch(_) => 3,
            Frame::Segment(..) => 4,
            Frame::Keys(_) => 5,
            Frame::End(_) => 6,
        };
        let follows = match (self.stage, stage) {
            (0, 1) => true,
            (0, _) | (_, 1) | (5, 5) => false,
            (before, now) => before <= now && before < 6,
        };
        if !follows {
            return Err(Error::Unfit("its parts are in another order"));
        }
        self.stage = stage;
        match frame {
            Frame::About(about) => self.about = Some(about.clone()),
            Frame::Object(key, value) => {
                self.objects.insert(key.clone(), value.clone());
            }
            Frame::Batch(bytes) => self.batch(bytes)?,
            Frame::Segment(span, content) => self.segment(*span, content)?,
            Frame::Keys(_) => self.has_keys = true,
            Frame::End(_) => {}
        }
        Ok(())
    }

    /// Ends the check, after [`Frame::End`].
    ///
    /// # Errors
    /// [`Error::Unfit`]: something is missing.
    pub fn finish(mut self) -> Result<Checked, Error> {
        if self.stage != 6 {
            return Err(Error::Unfit("its end is missing"));
        }
        let mut folding = self.folding()?;
        let about = self.about.take().ok_or(Error::Unfit("it says nothing"))?;
        let end = folding.chain.map(|chain| chain.head());
        let head = Head {
            seq: about.head,
            hash: about.head_hash,
        };
        let ends = match end {
            Some(end) => end == head,
            // Nothing is outside of segments; or nothing at all.
            None => head.seq == about.checkpoint && head.hash == about.checkpoint_hash,
        };
        if !ends {
            return Err(Error::Unfit("it ends before or behind its head"));
        }
        if folding.chain.is_some() && folding.first != about.first {
            return Err(Error::Unfit("it begins at another entry"));
        }
        let sealed_to = self.sealed.map(|head| head.seq.next());
        if sealed_to.is_some_and(|next| next != about.first) {
            return Err(Error::Unfit(
                "entries between the segments and the rest are missing",
            ));
        }
        for key in std::mem::take(&mut folding.touched) {
            match checkpoint::object(&folding.fabric, &key)? {
                Some(value) => self.objects.insert(key.encode(), value.into()),
                None => self.objects.remove(&key.encode()),
            };
        }
        Ok(Checked {
            epoch: about.epoch.max(self.epoch),
            about: *about,
            fabric: folding.fabric,
            objects: self.objects,
            entries: folding.entries,
            segments: self.segments,
            has_keys: self.has_keys,
        })
    }

    /// The fold as of the objects, made once.
    fn folding(&mut self) -> Result<Folding, Error> {
        if let Some(folding) = self.folding.take() {
            return Ok(folding);
        }
        let objects = self.objects.iter();
        let fabric = checkpoint::load(objects.map(|(key, value)| (key.as_str(), &value[..])))?;
        Ok(Folding {
            fabric,
            touched: BTreeSet::new(),
            chain: None,
            first: Seq::ZERO,
            entries: 0,
        })
    }

    fn batch(&mut self, bytes: &Bytes) -> Result<(), Error> {
        let mut folding = self.folding()?;
        let about = self.about.as_deref();
        let about = about.ok_or(Error::Unfit("it says nothing"))?;
        let (folded, folded_hash) = (about.checkpoint, about.checkpoint_hash);
        let unreadable = |_| Error::Unfit("a batch can't be read");
        let batch = Batch::decode(Bytes::clone(bytes)).map_err(unreadable)?;
        if folding.chain.is_none() {
            folding.first = batch.after().seq.next();
        }
        let mut chain = folding.chain.unwrap_or(Chain::at(batch.after()));
        chain.advance(&batch)?;
        folding.chain = Some(chain);
        if folding.first > folded.next() {
            return Err(Error::Unfit("entries behind the objects are missing"));
        }
        for entry in batch.entries() {
            let seq = entry.seq;
            let record =
                Record::decode(&entry.payload).map_err(|source| Error::Entry { seq, source })?;
            folding.entries += 1;
            self.led(&record);
            if seq == folded && entry.hash != folded_hash {
                return Err(Error::Unfit("its objects are of another record"));
            }
            if seq > folded {
                fold(&mut folding, &record);
            }
        }
        self.folding = Some(folding);
        Ok(())
    }

    fn led(&mut self, record: &Record) {
        for event in &record.events {
            if let Event::LeaderElected { epoch } = event {
                self.epoch = self.epoch.max(*epoch);
            }
        }
    }

    fn segment(&mut self, span: Span, content: &Bytes) -> Result<(), Error> {
        let opened = Segment::open(content);
        let (segment, batches) = opened.map_err(|source| Error::Segment { span, source })?;
        let follows = self
            .sealed
            .is_none_or(|before| before.seq.next() == segment.first && before.hash == segment.prev);
        if segment.span() != span || !follows {
            return Err(Error::Unfit("a segment isn't at its place"));
        }
        for entry in batches.iter().flat_map(Batch::entries) {
            let seq = entry.seq;
            let record =
                Record::decode(&entry.payload).map_err(|source| Error::Entry { seq, source })?;
            self.led(&record);
        }
        self.sealed = Some(Head {
            seq: segment.last,
            hash: segment.hash,
        });
        self.segments += 1;
        Ok(())
    }
}

fn fold(folding: &mut Folding, record: &Record) {
    let Folding {
        fabric, touched, ..
    } = folding;
    fabric.begin_entry(record.at);
    for event in &record.events {
        checkpoint::touched(fabric, event, touched);
        fabric.apply(event);
    }
}
