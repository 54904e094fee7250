//! How a store's servers are, and what its calls cost: for people and for metrics. A store that
//! is part of this process has none.

use std::time::Duration;

/// What is known of the cluster's members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// By name, those without one last.
    pub members: Vec<Member>,
}

/// A member of the cluster, or a configured endpoint that none answers at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name; empty while nobody can say.
    pub name: String,
    /// Where it was asked.
    pub endpoint: String,
    /// What it said, or why it said nothing.
    pub status: Result<MemberStatus, String>,
    /// The alarms that it has raised and nobody disarmed.
    pub alarms: Vec<Alarm>,
}

/// A member's own word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberStatus {
    /// Its version of etcd.
    pub version: String,
    /// Whether it leads the cluster's members. It has nothing to do with who leads the fabric.
    pub leads: bool,
    /// The size of its database, in bytes. The quota is on this.
    pub database_bytes: u64,
    /// What of it is in use, in bytes; the rest is free for what comes.
    pub used_bytes: u64,
    /// The size at which it takes no more writes, where it says so: etcd does from 3.6 on.
    pub quota_bytes: Option<u64>,
    /// How long its answer took.
    pub latency: Duration,
}

/// What a member may raise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alarm {
    /// Its quota is reached: the cluster takes no writes.
    NoSpace,
    /// Its data is not what the others have.
    Corrupt,
}

/// What the calls of this process have cost since the store was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Figures {
    /// Reads, each attempt on its own.
    pub reads: CallFigures,
    /// Transactions that write, each attempt on its own.
    pub writes: CallFigures,
}

/// Calls of one kind since the store was opened, each attempt on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CallFigures {
    /// How many ended.
    pub count: u64,
    /// How many of them without an answer that could be used.
    pub failed: u64,
    /// How long all of them took together.
    pub took: Duration,
}
