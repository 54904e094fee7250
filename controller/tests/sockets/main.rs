//! The controller on real sockets with real certificates: who gets in, who doesn't, and what those
//! who get in can't do to the others.
//!
//! Everything listens on loopback. Nothing here waits for a time to pass: each test waits for a
//! condition, and a bound on the whole keeps a failure from hanging.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that can't go on says where"
)]

mod controllers;
mod enroll;
mod nodes;
mod raw;
mod refused;
mod rotation;
mod starving;
mod world;
