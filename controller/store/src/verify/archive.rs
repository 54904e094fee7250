//! The check of a whole log: its segments, then what the store holds.

use kapok_types::{Digest, Seq};

use super::{Expected, FaultKind, Report, Verifier};
use crate::{
    Archive, Entry, Error, Hash, Head, Segment, Store, Stored,
    log::Claimed,
    segment::{Remains, Span},
};

/// How much is read of the store at a time, in batches.
const READ_BATCHES: usize = 64;

/// Checks everything that `archive` holds against `recorded`, what the log says of segments that
/// are not deleted, in order; against the heads in `expected`; and against itself.
///
/// # Errors
/// When the store or the home fails. What is wrong with their content is in the report.
pub async fn archive<S: Store>(
    archive: &Archive<S>,
    recorded: &[Segment],
    expected: Vec<Expected>,
) -> Result<Report, Error> {
    let mut verifier = Verifier::new(expected);
    for segment in recorded {
        let before = Head {
            seq: Seq(segment.first.get().saturating_sub(1)),
            hash: segment.prev,
        };
        match verifier.next_place() {
            None => verifier.begin(before),
            Some(next) if next < segment.first => {
                verifier.missing(
                    before,
                    format!("no segment holds it; the next is {}", segment.span()),
                );
            }
            Some(_) => {}
        }
        one(archive, segment, &mut verifier).await?;
        // Hashing is work: others on this thread go on.
        tokio::task::yield_now().await;
    }
    stored(archive, &mut verifier).await?;
    Ok(verifier.finish())
}

async fn one<S: Store>(
    archive: &Archive<S>,
    segment: &Segment,
    verifier: &mut Verifier,
) -> Result<(), Error> {
    let span: Span = segment.span();
    let end = Head {
        seq: segment.last,
        hash: segment.hash,
    };
    let Some(content) = archive.segments().get(span).await? else {
        // Until it is trimmed, the store has it.
        if archive.store().extent().await?.first > segment.first {
            verifier.missing(end, format!("segment {span} is missing"));
        }
        return Ok(());
    };
    let intact = Digest::of(&content) == segment.digest;
    let remains = Remains::of(&content);
    let found = verifier.found();
    for batch in &remains.batches {
        match batch {
            Ok(claimed) => batch_of(claimed, verifier),
            Err(error) => verifier.unreadable(0, format!("in segment {span}: {error}")),
        }
    }
    if remains.torn {
        verifier.unreadable(0, format!("segment {span} can't be read from here on"));
    }
    let reached = verifier.at.unwrap_or_default();
    if reached.seq < end.seq {
        verifier.missing(end, format!("segment {span} ends before it"));
    } else if verifier.found() == found && reached != end {
        // Whole in itself; the log remembers another end of it.
        let from = verifier.agreed.next().max(segment.first);
        let message = format!("segment {span} ends with another entry than was sealed");
        verifier.fault(from, FaultKind::Recomputed, message);
    } else if verifier.found() == found && !intact {
        let message = format!("the file of segment {span} is not the one that was sealed");
        verifier.fault(segment.first, FaultKind::Edited, message);
    }
    verifier.begin(end);
    Ok(())
}

async fn stored<S: Store>(archive: &Archive<S>, verifier: &mut Verifier) -> Result<(), Error> {
    let store = archive.store();
    let mut from = store.extent().await?.first;
    // What a segment holds already is in the store only until it is trimmed.
    let sealed = verifier.next_place().unwrap_or_default();
    loop {
        let values = store.stored(from, READ_BATCHES).await?;
        let Some(last) = values.last() else {
            return Ok(());
        };
        from = last.first.next();
        for Stored { first, value } in values.iter().cloned() {
            let claimed = match Claimed::decode(value) {
                Ok(claimed) => claimed,
                Err(error) => {
                    if verifier.next_place().is_none() {
                        verifier.begin(Head {
                            seq: Seq(first.get().saturating_sub(1)),
                            ..Head::default()
                        });
                    }
                    verifier.unreadable(0, format!("in the store: {error}"));
                    continue;
                }
            };
            let end = claimed.entries.last().map_or(first, |entry| entry.seq);
            if end >= sealed {
                batch_of(&claimed, verifier);
            }
        }
        tokio::task::yield_now().await;
    }
}

fn batch_of(claimed: &Claimed, verifier: &mut Verifier) {
    let Some(first) = claimed.entries.first() else {
        return;
    };
    // Numbers follow from the batch's own: where that was changed, it is one fault.
    let moved = verifier.at.filter(|at| {
        let place = at.seq.next();
        first.seq != place && Hash::link(at.hash, place, &first.payload) == first.hash
    });
    let Some(at) = moved else {
        claimed
            .entries
            .iter()
            .for_each(|entry| verifier.entry(entry));
        return;
    };
    let message = format!("its batch is numbered from {}", first.seq);
    verifier.fault(at.seq.next(), FaultKind::Edited, message);
    for (place, entry) in (at.seq.next().get()..).map(Seq).zip(&claimed.entries) {
        verifier.entry(&Entry {
            seq: place,
            ..entry.clone()
        });
    }
}
