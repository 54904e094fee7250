//! Backups of the record and of the fabric's keys: made while the controller runs, checked, restored.
//!
//! ```text
//!   store + segments ──send──▶ (socket below state_dir) ──▶ checked ──▶ FILE.new ──▶ FILE
//!   trust/ ──────────────────────locked by a passphrase──────────────────┘
//!
//!   FILE ──▶ checked ──▶ .restoring/ ──rename──▶ restored-N/ ──renames──▶ state_dir
//! ```
//!
//! The running controller sends the record over a socket that only its own user and root can reach
//! (one process holds the store's file, so nobody else can read it); the keys never pass there: who
//! makes the backup reads them itself. A backup is checked as it is written and once more when it is
//! whole: the chain, every entry, the fold. [`place`] is what makes a restore harmless at every kill.
//!
//! **Invariants:**
//! - A file is a whole, checked backup or it isn't there under its name.
//! - What a newer version wrote is refused and left as it is.
//! - A restored record begins with the adoption of its nodes, above every epoch that was seen.
//!
//! Absent on purpose: images' blobs (their digests are in the record; import the same content again)
//! and the configuration.

pub mod check;
pub mod format;
pub mod keys;
pub mod local;
pub mod place;
pub mod rebuild;
pub mod restore;
pub mod send;
pub mod take;
#[cfg(test)]
mod tests;

pub use check::{Checked, Checker};
pub use format::{About, Frame, Reader, Writer};
