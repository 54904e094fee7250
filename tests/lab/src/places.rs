//! Where the lab keeps things: everything is below the build folder, so that `cargo clean`
//! removes it and a checkout stays as it was.

use std::path::{Path, PathBuf};

/// The root of the checkout.
pub fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}

/// Cargo's build folder.
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) if !folder.is_empty() => workspace().join(folder),
        _ => workspace().join("target"),
    }
}

/// What the lab keeps between runs: downloaded packages, the guest image, logs of failed runs.
pub fn cache() -> PathBuf {
    target().join("lab")
}

/// One folder per living lab. Empty when none is raised.
pub fn runs() -> PathBuf {
    cache().join("run")
}

/// Logs of labs that ended in a panic.
pub fn logs() -> PathBuf {
    cache().join("logs")
}

/// Where every machine of a lab sees the build folder. Its unprivileged users may be unable to
/// enter the folder where the checkout is, such as root's home.
pub const INSIDE: &str = "/run/target";

/// The path inside a machine of something in the build folder.
pub fn inside(path: &Path) -> PathBuf {
    path.strip_prefix(target())
        .map_or_else(|_| path.to_path_buf(), |rest| Path::new(INSIDE).join(rest))
}

/// A program of this workspace, as built by a plain `cargo build`.
pub fn program(name: &str) -> PathBuf {
    target().join("debug").join(name)
}
