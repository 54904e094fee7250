//! How restored things take the place of those that were there: by renames alone.
//!
//! ```text
//!   .restoring/{log.redb, segments, trust}    being written; a kill leaves all else as it was
//!        │ one rename: from here on it is restored
//!        ▼
//!   restored-N/…    each to its place; what was there goes to replaced-N/ first
//! ```
//!
//! Whoever takes the state directory next [`finish`]es what a kill left. Nothing that was there is
//! ever removed. Blocks.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, lchown},
    path::{Path, PathBuf},
};

use crate::trust::vault::{self, failed};

/// Where a restore writes.
const STAGING: &str = ".restoring";
/// What a restore that was written begins with, and what its predecessor's place does.
const RESTORED: &str = "restored-";
const REPLACED: &str = "replaced-";

/// The log's file.
pub const LOG: &str = "log.redb";
/// The directory of segments.
pub const SEGMENTS: &str = "segments";
/// The directory of trust.
pub const TRUST: &str = "trust";
const THINGS: [&str; 3] = [LOG, SEGMENTS, TRUST];

/// Why it can't be put in place.
pub type Error = vault::Error;

/// Whether anything is there that a restore would replace.
pub fn is_occupied(state: &Path) -> bool {
    THINGS.iter().any(|thing| state.join(thing).exists())
}

/// An empty directory to write into. What an earlier restore left unfinished is removed.
///
/// # Errors
/// What the system says.
pub fn stage(state: &Path) -> Result<PathBuf, Error> {
    let staging = state.join(STAGING);
    match fs::remove_dir_all(&staging) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed(&staging, "removed")(error));
        }
        _ => {}
    }
    vault::make_dir(&staging)?;
    Ok(staging)
}

/// Gives a file, or a directory with all below it, to whoever owns the state directory: root may have
/// made it, and the controller's user is to read it. Anybody else's is theirs already.
///
/// # Errors
/// What the system says.
pub fn give(path: &Path, state: &Path) -> Result<(), Error> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let owner = fs::metadata(state).map_err(failed(state, "read"))?;
    let about = fs::symlink_metadata(path).map_err(failed(path, "read"))?;
    lchown(path, Some(owner.uid()), Some(owner.gid())).map_err(failed(path, "given"))?;
    if about.is_dir() {
        for entry in fs::read_dir(path).map_err(failed(path, "read"))? {
            give(&entry.map_err(failed(path, "read"))?.path(), state)?;
        }
    }
    Ok(())
}

/// What was staged is restored from now on, also after a kill. `number` tells restores apart.
///
/// # Errors
/// What the system says; then nothing is restored.
pub fn commit(state: &Path, number: u64) -> Result<(), Error> {
    let staging = state.join(STAGING);
    give(&staging, state)?;
    vault::flush(&staging)?;
    let restored = state.join(format!("{RESTORED}{number}"));
    fs::rename(&staging, &restored).map_err(failed(&restored, "made"))?;
    vault::flush(state)
}

/// Finishes a restore that was committed; says where what was there before is.
///
/// # Errors
/// What the system says. Safe to repeat.
pub fn finish(state: &Path) -> Result<Option<PathBuf>, Error> {
    finish_by(state, &mut |from, to| fs::rename(from, to))
}

/// [`finish`], renaming by `rename`.
fn finish_by(
    state: &Path,
    rename: &mut dyn FnMut(&Path, &Path) -> io::Result<()>,
) -> Result<Option<PathBuf>, Error> {
    let mut replaced = None;
    for number in committed(state)? {
        let restored = state.join(format!("{RESTORED}{number}"));
        let aside = state.join(format!("{REPLACED}{number}"));
        for thing in THINGS {
            let (new, place) = (restored.join(thing), state.join(thing));
            if !new.exists() {
                // It is at its place already.
                continue;
            }
            if place.exists() {
                vault::make_dir(&aside)?;
                give(&aside, state)?;
                let old = aside.join(thing);
                rename(&place, &old).map_err(failed(&old, "made"))?;
                vault::flush(&aside)?;
                vault::flush(state)?;
            }
            rename(&new, &place).map_err(failed(&place, "made"))?;
            vault::flush(&restored)?;
            vault::flush(state)?;
        }
        fs::remove_dir_all(&restored).map_err(failed(&restored, "removed"))?;
        vault::flush(state)?;
        replaced = Some(aside).filter(|aside| aside.exists());
    }
    Ok(replaced)
}

/// Restores that were committed, the earliest first.
fn committed(state: &Path) -> Result<Vec<u64>, Error> {
    let entries = match fs::read_dir(state) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed(state, "read"))?,
    };
    let mut numbers = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed(state, "read"))?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(RESTORED));
        numbers.extend(number.and_then(|number| number.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(dir: &Path, word: &str) {
        for thing in THINGS {
            fs::create_dir_all(dir.join(thing)).unwrap();
            fs::write(dir.join(thing).join("is"), word).unwrap();
        }
    }

    fn is(dir: &Path) -> Vec<String> {
        let read = |thing| fs::read_to_string(dir.join(thing).join("is"));
        THINGS.iter().map(|thing| read(thing).unwrap()).collect()
    }

    #[test]
    fn a_kill_before_the_commit_leaves_everything_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path();
        put(state, "old");
        let staging = stage(state).unwrap();
        fs::write(staging.join(LOG), "half").unwrap();
        assert_eq!(finish(state).unwrap(), None);
        assert_eq!(is(state), ["old"; 3]);
        // The next one begins anew.
        assert_eq!(fs::read_dir(stage(state).unwrap()).unwrap().count(), 0);
    }

    /// A kill at every rename, and at every one of the runs that come after it.
    #[test]
    fn a_kill_at_any_rename_loses_neither_the_new_nor_the_old() {
        for first in 0..=6 {
            for second in 0..=6 {
                let folder = tempfile::tempdir().unwrap();
                let state = folder.path();
                put(state, "old");
                put(&stage(state).unwrap(), "new");
                commit(state, 7).unwrap();
                for mut left in [first, second] {
                    let _killed = finish_by(state, &mut |from, to| {
                        if left == 0 {
                            return Err(io::Error::other("killed"));
                        }
                        left -= 1;
                        fs::rename(from, to)
                    });
                }
                let replaced = finish(state).unwrap();
                assert_eq!(is(state), ["new"; 3], "{first}, {second}");
                let aside = state.join("replaced-7");
                assert_eq!(is(&aside), ["old"; 3], "{first}, {second}");
                assert!(replaced.is_none_or(|path| path == aside));
                assert!(!state.join("restored-7").exists());
            }
        }
    }

    /// Root restores what the controller's user is to read.
    #[test]
    #[allow(clippy::print_stdout, reason = "a test that says why it skips")]
    fn what_root_restored_is_the_states_owners() {
        if !nix::unistd::geteuid().is_root() {
            println!("SKIP what_root_restored_is_the_states_owners: needs root");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path();
        put(state, "old");
        lchown(state, Some(12_345), Some(12_346)).unwrap();
        put(&stage(state).unwrap(), "new");
        commit(state, 7).unwrap();
        let aside = finish(state).unwrap().unwrap();
        for path in [state.join(TRUST), state.join(TRUST).join("is"), aside] {
            let about = fs::metadata(&path).unwrap();
            assert_eq!((about.uid(), about.gid()), (12_345, 12_346), "{path:?}");
        }
    }

    #[test]
    fn a_blank_place_is_filled_and_nothing_is_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        put(&stage(folder.path()).unwrap(), "new");
        assert!(!is_occupied(folder.path()));
        commit(folder.path(), 1).unwrap();
        assert_eq!(finish(folder.path()).unwrap(), None);
        assert_eq!(is(folder.path()), ["new"; 3]);
        assert!(is_occupied(folder.path()));
    }
}
