//! Raw hardware access for an agent that has none.
//!
//! ```text
//!  kapok-agent (user kapok)                     kapok-helper (root, few capabilities)
//!  source ─▶ client ── one word ──▶ /run/kapok/helper.sock ─▶ server ─▶ question ─▶ tool
//!     ▲                                                         │  SO_PEERCRED   smartctl, ipmitool
//!     ╰──────────── answers, one a frame, and an end ───────────╯  one deadline
//! ```
//!
//! The same questions are asked in-process by an agent that runs as root: [`question::ask`] is all
//! that differs from [`client::ask`].
//!
//! **Invariants:**
//! - A request is one word of a closed set. No path, device, option or number comes from the caller:
//!   which disks there are the helper finds out by itself.
//! - Only the user kapok and root are answered, by the kernel's word on who has connected.
//! - Nothing here understands what a disk or a sensor says: the agent, which has no rights, does.
//! - Every request ends by its deadline, and leaves no tool behind: one that hangs makes an answer
//!   *unreadable* and holds up nobody else.
//!
//! **Absent on purpose:** whatever changes hardware; setting up networks, which will be another
//! process' set; other hosts' management controllers, which the network reaches without rights.

// What is asked, and by what.
pub mod ipmi;
pub mod question;
pub mod smart;
pub mod tool;

// By whom, and how it travels.
pub mod client;
pub mod server;
pub mod wire;

pub use question::{Answer, Request, Subject};
pub use tool::{Failure, Output, Tools};

/// Where the helper listens.
pub const SOCKET: &str = "/run/kapok/helper.sock";
/// Who may ask, beside root.
pub const USER: &str = "kapok";

/// A program that is still open for writing in some child of this process can't be started: tests
/// that make or start one go one at a time.
#[cfg(test)]
async fn alone() -> tokio::sync::MutexGuard<'static, ()> {
    static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    ALONE.lock().await
}
