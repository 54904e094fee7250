//! The node's id: made once, kept in the store and in a plain file beside it.
//!
//! A lost store keeps the id through the file; a lost file is written again from the store; both
//! lost is a new node.

use std::{fs, io, io::Write as _, path::Path, sync::Arc};

use kapok_types::{Env, NodeId};

use super::Error;

const FILE: &str = "node-id";

/// The id of the node whose state directory `dir` is.
pub(super) fn node_id(
    dir: &Path,
    stored: Option<NodeId>,
    env: &Arc<dyn Env>,
) -> Result<NodeId, Error> {
    let path = dir.join(FILE);
    let io = |error: io::Error| Error::Io {
        file: path.clone(),
        reason: error.to_string(),
    };
    let damaged = |reason: String| Error::Damaged {
        file: path.clone(),
        reason,
    };
    match (written(dir)?, stored) {
        (Some(written), Some(stored)) if written != stored => Err(damaged(format!(
            "it says {written}, the store says {stored}"
        ))),
        (Some(id), _) => Ok(id),
        (None, stored) => {
            let id = stored.unwrap_or_else(|| env.node_id());
            write(dir, &path, id).map_err(io)?;
            Ok(id)
        }
    }
}

/// What the plain file says; none without one.
pub(super) fn written(dir: &Path) -> Result<Option<NodeId>, Error> {
    let file = dir.join(FILE);
    let damaged = |file, reason| Error::Damaged { file, reason };
    match fs::read_to_string(&file) {
        Ok(text) => match text.trim().parse() {
            Ok(id) => Ok(Some(id)),
            Err(violation) => {
                let violation: kapok_types::Violation = violation;
                Err(damaged(file, violation.to_string()))
            }
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(damaged(file, "it isn't text".into()))
        }
        Err(error) => Err(Error::Io {
            file,
            reason: error.to_string(),
        }),
    }
}

fn write(dir: &Path, path: &Path, id: NodeId) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = fs::File::create(&fresh)?;
    writeln!(file, "{id}")?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    fs::File::open(dir)?.sync_all()
}
