//! Those who come from outside: another language's client, the command, the linter of our
//! `.proto` files. Against real processes on loopback.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod command;
mod openssl;
mod python;
mod repository;

use kapok_lab::{
    fabric::Settings,
    loopback::{Loopback, Nodes},
};
use kapok_tests::real;

/// A fabric of four simulated nodes in processes of its own.
fn processes() -> Loopback {
    real::processes(Nodes::default(), &Settings::default())
}
