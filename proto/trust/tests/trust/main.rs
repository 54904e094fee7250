//! Real certificates on real loopback sockets: who gets in, who doesn't, and what becomes of a
//! connection when certificates change under it.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests, where a failed unwrap is a failed test"
)]

mod ending;
mod handshake;
mod limits;
mod pinned;
mod rotation;
mod seal;
mod service;
mod support;
