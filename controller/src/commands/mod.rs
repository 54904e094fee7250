//! What the program does: make a fabric, or serve one.

use std::{os::unix::fs::DirBuilderExt as _, path::Path};

use anyhow::Context as _;
use kapok_store::Redb;

pub(crate) mod init;
pub(crate) mod serve;

/// Makes the state directory and opens the log in it. Its lock makes this process the owner of
/// everything there.
async fn open(state: &Path) -> anyhow::Result<Redb> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(state)
        .with_context(|| format!("making {}; state_dir must be writable", state.display()))?;
    Redb::open(state.join("log.redb"))
        .await
        .context("opening the log")
}
