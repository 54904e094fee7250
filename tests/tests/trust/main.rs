//! Trust end to end: the programs that people install, with real certificates on real sockets, and
//! `kapok` as people use it. What one crate can show alone is shown there.
//!
//! Each test has a fabric of its own, and at its end makes sure that nothing secret was told; see
//! [`world`].

#![allow(clippy::unwrap_used, reason = "tests")]

// A fabric, and an ear for what must not be told.
mod world;

// Who gets in, how far, and until when.
mod nodes;
mod people;
mod tenants;

// What is on record, what changes under load, where the record is, and how it comes back.
mod audit;
mod backup;
mod controllers;
mod rotation;
mod store;

// What follows from a command.
mod trace;
