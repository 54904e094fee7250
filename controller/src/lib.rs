//! The controller: one log, one ledger, everything else a fold of it.

// The functional core, and the one task that writes.
pub mod fabric;
pub mod ledger;
pub mod log;
pub mod report;

// What runs, and what follows from it.
pub mod link;
pub mod observed;
pub mod reconcile;

// Images and their blobs.
pub mod images;

// Who may speak, what they may do, and what is on record of it.
pub mod audit;
pub mod authz;
pub mod backup;
pub mod oidc;
pub mod trust;

// What people and peers reach, and what puts it all together.
pub mod api;
pub mod config;
pub mod controller;
pub mod controllers;
pub mod https;
pub mod join;
pub mod limits;
pub mod watchdog;
