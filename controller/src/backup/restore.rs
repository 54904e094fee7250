//! Bringing a backup back.

use std::{
    fs::File,
    io::BufReader,
    path::{Path, PathBuf},
    sync::Arc,
};

use kapok_store::{
    AppendError, Archive, Batch, Checkpoint, Head, LeaderToken, Redb, Segments as _, Store, Use,
    WriteError, segments::Directory,
};
use kapok_types::{Env, Epoch, Seq, Timestamp};

use super::{
    check::Checked,
    format::{Frame, Reader},
    keys, local,
    place::{self, LOG, SEGMENTS, TRUST},
    send::{self, Sender},
    take::{self, Content},
};
use crate::{
    fabric::{Command, Origin, adoption::Cause, decide::Rules},
    ledger::{self, Ledger},
    trust::vault,
};

/// What the restorer calls itself in the store and the record.
const CANDIDATE: &str = "db";

/// How far the epochs of a restored record are above those of its backup: further than any controller
/// has come meanwhile, each start of which takes one. What nodes have seen counts besides.
pub const EPOCHS_APART: u64 = 1_000_000;

/// What was restored.
#[derive(Debug)]
pub struct Restored {
    /// What the backup held.
    pub checked: Checked,
    /// Where what was there before is, if anything was.
    pub replaced: Option<PathBuf>,
}

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The backup can't be used.
    #[error(transparent)]
    Backup(#[from] take::Error),
    /// There is something already.
    #[error(
        "{} holds a record already; --replace puts it aside (nothing of it is removed)",
        state.display()
    )]
    Occupied {
        /// Where.
        state: PathBuf,
    },
    /// The new store can't be written.
    #[error("the restored record can't be written")]
    Store(#[from] kapok_store::Error),
    /// The same.
    #[error("the restored record can't be written")]
    Append(#[from] AppendError),
    /// The same.
    #[error("the restored record can't be written")]
    Write(#[from] WriteError),
    /// The same, of segments.
    #[error("the restored segments can't be written")]
    Segments(#[from] kapok_store::segments::Error),
    /// The keys can't be written.
    #[error(transparent)]
    Keys(#[from] keys::Error),
    /// It can't be put in place.
    #[error(transparent)]
    Place(#[from] vault::Error),
    /// The restored record can't be led.
    #[error("the restored record can't be led")]
    Fatal(#[from] ledger::Fatal),
    /// The restored record refuses its first entry.
    #[error("the restored record can't be written")]
    Ledger(#[from] ledger::Error),
    /// It can't be read back.
    #[error("the restored record can't be read back")]
    Send(#[from] send::Error),
    /// What was written reads back as something else.
    #[error("the restored record differs from the backup; is the disk failing?")]
    Differs,
}

/// Restores a backup into a state directory that belongs to this process. A kill at any time leaves
/// what was there, or all of what is restored; [`place::finish`] ends it.
///
/// # Errors
/// [`Error`]; what was there before is as it was.
pub async fn restore(
    file: &Path,
    passphrase: &[u8],
    state: &Path,
    replace: bool,
    env: &Arc<dyn Env>,
) -> Result<Restored, Error> {
    if place::is_occupied(state) && !replace {
        return Err(Error::Occupied {
            state: state.to_owned(),
        });
    }
    let Content { checked, keys } = take::read(file, Some(passphrase))?;
    let keys = keys.ok_or(take::Error::NoKeys)?;
    let staging = place::stage(state)?;
    keys::unpack(&keys, &staging.join(TRUST))?;
    write(file, &checked, &staging, env).await?;
    place::commit(state, env.now().get())?;
    let replaced = place::finish(state)?;
    Ok(Restored { checked, replaced })
}

/// Writes the record below a directory, reads it back, and begins its adoption.
async fn write(
    file: &Path,
    checked: &Checked,
    staging: &Path,
    env: &Arc<dyn Env>,
) -> Result<(), Error> {
    let about = &checked.about;
    let floor = Epoch(checked.epoch.get().saturating_add(EPOCHS_APART));
    let store = Arc::new(Redb::open(staging.join(LOG)).await?);
    let segments = Directory::open(staging.join(SEGMENTS))?;
    let leadership = store.campaign_moving(CANDIDATE, floor).await?;
    let token = leadership.token;
    // Whoever opens half of it can't lead it.
    let run = Use::Moving { run: token.epoch };
    store.put_use(&token, run).await?;
    let end = copy(file, &store, &token, &segments).await?;
    let head = Head {
        seq: about.head,
        hash: about.head_hash,
    };
    if end.is_some_and(|end| end != head) {
        return Err(Error::Differs);
    }
    if end.is_none() {
        store.begin(&token, head).await?;
    }
    if head.seq > Seq::ZERO {
        let puts = checked.objects.iter();
        let checkpoint = Checkpoint {
            seq: head.seq,
            hash: head.hash,
            puts: puts
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
            deletes: Vec::new(),
        };
        store.checkpoint(&token, checkpoint).await?;
    }
    compare(checked, &store, segments, env).await?;
    store.put_use(&token, Use::Open).await?;
    drop(leadership);
    begin(store, env, floor, Cause::Restored, Some(about.taken_at)).await
}

/// Copies batches and segments; says where the log ends, if it has any batch.
async fn copy(
    file: &Path,
    store: &Redb,
    token: &LeaderToken,
    segments: &Directory,
) -> Result<Option<Head>, Error> {
    let failed = |source| take::Error::Io {
        path: file.to_owned(),
        doing: "read",
        source,
    };
    let opened = File::open(file).map_err(failed)?;
    let mut reader = Reader::new(BufReader::new(opened)).map_err(take::Error::from)?;
    let mut end: Option<Head> = None;
    loop {
        match reader.read().map_err(take::Error::from)? {
            Frame::Batch(bytes) => {
                let batch = Batch::decode(bytes).map_err(|_| Error::Differs)?;
                let after = if let Some(end) = end {
                    end
                } else {
                    store.begin(token, batch.after()).await?;
                    batch.after()
                };
                store.append(token, after.seq, &batch).await?;
                end = Some(batch.head());
            }
            Frame::Segment(span, content) => segments.put(span, content).await?,
            Frame::End(_) => return Ok(end),
            Frame::About(_) | Frame::Object(..) | Frame::Keys(_) => {}
        }
    }
}

/// Reads what was written as a backup is read, and compares.
async fn compare(
    checked: &Checked,
    store: &Arc<Redb>,
    segments: Directory,
    env: &Arc<dyn Env>,
) -> Result<(), Error> {
    let archive = Archive::new(Arc::clone(store), Arc::new(segments));
    let sender = Sender {
        fabric: checked.about.fabric.clone(),
        now: env.now(),
        epoch: checked.about.epoch,
    };
    let read = local::through(&archive, &sender, |from| {
        take::read_from(BufReader::new(from), None, |_| Ok(()))
    });
    let there = read.await??.checked;
    let same = there.objects == checked.objects
        && (there.about.head, there.about.head_hash)
            == (checked.about.head, checked.about.head_hash)
        && (there.entries, there.segments) == (checked.entries, checked.segments);
    if same { Ok(()) } else { Err(Error::Differs) }
}

/// Leads a record for the one entry that says what happened to it.
pub(super) async fn begin<S: Store>(
    store: Arc<S>,
    env: &Arc<dyn Env>,
    floor: Epoch,
    cause: Cause,
    backup_at: Option<Timestamp>,
) -> Result<(), Error> {
    let rules = Rules::default();
    let started = Ledger::start(store, Arc::clone(env), CANDIDATE, floor, rules);
    let (handle, ledger) = started.await?;
    let task = tokio::spawn(ledger.run());
    let command = Command::BeginAdoption { cause, backup_at };
    let begun = handle.submit(Origin::controller(), None, command).await;
    drop(handle);
    if let Ok(ended) = task.await {
        ended?;
    }
    begun?;
    Ok(())
}
