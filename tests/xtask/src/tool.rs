//! Programs that xtask runs for people: cargo and what it has built.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use kapok_lab::places;

/// The cargo that runs us, in the root of the checkout.
pub(crate) fn cargo() -> Command {
    let program = std::env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from);
    let mut command = Command::new(program);
    command.current_dir(places::workspace());
    // Set by the cargo that runs us; it would make the inner one rebuild what depends on it.
    for name in ["CARGO_MANIFEST_DIR", "CARGO_PKG_NAME", "CARGO_PKG_VERSION"] {
        command.env_remove(name);
    }
    command
}

/// Runs a command whose output the person sees, and fails if it does.
pub(crate) fn show(command: &mut Command, what: &str) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("can't start: {what}"))?;
    if !status.success() {
        bail!("{what} failed ({status})");
    }
    Ok(())
}
