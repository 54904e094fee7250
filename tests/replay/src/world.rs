//! A fabric to measure on: a real ledger over redb on a disk, with nodes that no agent stands
//! behind.
//!
//! Everything in it got there by commands, as in a fabric of a city.

use std::{fmt, num::ParseIntError, path::Path, str::FromStr, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use futures::future::join_all;
use kapok_controller::{
    fabric::{
        Actor, Capacity, CertificateRecord, Command, HostFingerprint, Instance, Origin, Outcome,
        TokenSubject, TokenUse,
        command::{JoinNode, NewAuthority},
        decide::Rules,
    },
    ledger::{self, Done, Handle, Ledger, Snapshot},
};
use kapok_store::{LeaderToken, Redb};
use kapok_trust::{Fingerprint, Serial, Subject, TokenId};
use kapok_types::{
    Bytes, Digest, Env, Epoch, MemoryMib, Name, NodeId, Timestamp, Vcpus,
    instance::{Arch, DiskFormat, MemoryClaim},
};
use tokio::task::JoinHandle;

/// Commands that are handed in at once: no more than the ledger lets wait.
pub const AT_ONCE: usize = 1024;

/// How long what a ledger left running may take to end.
const LAST: Duration = Duration::from_secs(30);

/// The image that all instances are made from.
pub const IMAGE: &str = "image";

/// What a node has, "VCPUS/GIB".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Physical threads; none carries more than one vCPU.
    pub vcpus: Vcpus,
    /// Memory for instances.
    pub memory: MemoryMib,
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || format!("{text:?} is no shape; write VCPUS/GIB, as in 16/112");
        let (vcpus, gib) = text.split_once('/').ok_or_else(refused)?;
        let wrong = |_: ParseIntError| refused();
        let gib: u32 = gib.parse().map_err(wrong)?;
        let shape = Self {
            vcpus: Vcpus(vcpus.parse().map_err(wrong)?),
            memory: MemoryMib(u64::from(gib) * 1024),
        };
        (shape.vcpus.get() > 0 && gib > 0)
            .then_some(shape)
            .ok_or_else(refused)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} vCPU, {} GiB", self.vcpus, self.memory.get() / 1024)
    }
}

/// The fabric, its ledger running.
#[derive(Debug)]
pub struct World {
    store: Arc<Redb>,
    token: LeaderToken,
    handle: Handle,
    task: JoinHandle<Result<(), ledger::Fatal>>,
}

impl World {
    /// Makes a fabric in `folder`, with so many nodes of a shape and one image.
    ///
    /// # Errors
    ///
    /// The store can't be made, or a command was refused.
    pub async fn open(folder: &Path, env: Arc<dyn Env>, nodes: u32, shape: Shape) -> Result<Self> {
        let store = Arc::new(Redb::open(folder.join("log.redb")).await?);
        let (handle, ledger) =
            Ledger::start(store.clone(), env, "replay", Epoch::ZERO, Rules::default()).await?;
        let leads = ledger.token();
        let task = tokio::spawn(ledger.run());
        let world = Self {
            store,
            token: leads,
            handle,
            task,
        };
        let authority = NewAuthority {
            fingerprint: AUTHORITY,
            certificate_pem: "none".into(),
            cross_pem: Vec::new(),
        };
        world
            .all([Command::RotateAuthority { new: authority }])
            .await?;
        let numbers: Vec<u32> = (0..nodes).collect();
        for numbers in numbers.chunks(AT_ONCE) {
            let numbers = || numbers.iter().copied();
            world.all(numbers().map(token)).await?;
            world.all(numbers().map(join)).await?;
            world
                .all(numbers().map(|number| report(number, shape)))
                .await?;
        }
        let image = Command::RegisterImage {
            tenant: None,
            name: IMAGE.parse()?,
            digest: Digest::of(IMAGE.as_bytes()),
            format: DiskFormat::Raw,
            size: Bytes(1 << 20),
            virtual_size: Bytes(1 << 20),
            arch: Arch::X86_64,
        };
        world.all([image]).await?;
        Ok(world)
    }

    /// The log's home.
    pub fn store(&self) -> &Arc<Redb> {
        &self.store
    }

    /// The leadership under which it is written.
    pub fn token(&self) -> LeaderToken {
        self.token
    }

    /// The ledger.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// The intent as it is now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.handle.snapshot()
    }

    /// Hands a command in, as a person or as the controller itself.
    ///
    /// # Errors
    ///
    /// Why it was refused.
    pub async fn submit(
        &self,
        request_id: Option<String>,
        command: Command,
    ) -> Result<Done, ledger::Error> {
        let mut origin = Origin::controller();
        if request_id.is_some() {
            origin.by = Actor::user("replay");
            origin.from = "127.0.0.1".into();
        }
        self.handle.submit(origin, request_id, command).await
    }

    /// Hands commands in together; all must be taken. At most [`AT_ONCE`].
    ///
    /// # Errors
    ///
    /// Why one was refused.
    pub async fn all(&self, commands: impl IntoIterator<Item = Command>) -> Result<()> {
        let commands = commands
            .into_iter()
            .map(|command| self.submit(None, command));
        for done in join_all(commands).await {
            done.context("a command was refused")?;
        }
        Ok(())
    }

    /// Ends the ledger, and gives the store's file back.
    ///
    /// # Errors
    ///
    /// It failed before.
    pub async fn close(self) -> Result<()> {
        let Self {
            store,
            handle,
            task,
            token: _,
        } = self;
        drop(handle);
        task.await??;
        // What it left running beside it, a checkpoint, ends with its next turn.
        let left = async {
            while Arc::strong_count(&store) > 1 {
                tokio::task::yield_now().await;
            }
        };
        let ended = tokio::time::timeout(LAST, left).await;
        ended.context("something still holds the store")
    }
}

/// The instance that a create has made.
pub fn created(done: &Done) -> Option<&Instance> {
    let Outcome::Operation(operation) = done.outcome else {
        return None;
    };
    let fabric = &done.snapshot.fabric;
    fabric
        .instances
        .get(&fabric.operations.get(&operation)?.instance)
}

/// The guest's memory of an instance that takes `whole` of its node, QEMU's overhead included.
pub fn guest_memory(whole: MemoryMib, vcpus: Vcpus) -> MemoryMib {
    // What comes beside the guest grows with it, so this starts too low.
    let beside = MemoryClaim::of(whole, vcpus).overhead();
    let mut guest = whole.saturating_sub(beside);
    while MemoryClaim::of(MemoryMib(guest.get() + 1), vcpus).total() <= whole {
        guest = MemoryMib(guest.get() + 1);
    }
    guest
}

const AUTHORITY: Fingerprint = Fingerprint([1; 32]);

/// Far away from every trace's end.
const NOT_AFTER: Timestamp = Timestamp(4_000_000_000_000);

fn node_name(number: u32) -> Name {
    #[expect(clippy::expect_used, reason = "a word and a number are a name")]
    format!("node-{number:06}").parse().expect("a name")
}

fn node_id(number: u32) -> NodeId {
    NodeId(uuid::Uuid::from_u128(u128::from(number) + 1))
}

fn shown(number: u32) -> TokenUse {
    TokenUse {
        id: TokenId(uuid::Uuid::from_u128(u128::from(number) + 1)),
        hash: Digest::of(&number.to_be_bytes()),
    }
}

fn token(number: u32) -> Command {
    Command::CreateToken {
        subject: TokenSubject::Node(node_name(number)),
        life_ms: 0,
        new: shown(number),
    }
}

fn join(number: u32) -> Command {
    let mut serial = [0; 16];
    serial[0] = 0x40;
    serial[12..].copy_from_slice(&number.to_be_bytes());
    #[expect(clippy::expect_used, reason = "its first bits are a serial number's")]
    let serial = Serial::from_bytes(&serial).expect("a serial number");
    Command::JoinNode(Box::new(JoinNode {
        token: shown(number),
        id: node_id(number),
        address: format!("{}:7701", node_name(number)),
        host: HostFingerprint::default(),
        vcpu_overcommit_permille: 1000,
        certificate: CertificateRecord {
            serial,
            subject: Subject::Node(node_id(number)),
            authority: AUTHORITY,
            issued_at: Timestamp(0),
            not_after: NOT_AFTER,
            token: None,
            revoked: None,
        },
    }))
}

fn report(number: u32, shape: Shape) -> Command {
    Command::ReportNode {
        node: node_name(number),
        id: node_id(number),
        capacity: Capacity {
            arch: Arch::X86_64,
            cpus: shape.vcpus.get(),
            memory: shape.memory,
            foreign_vcpus: Vcpus(0),
            foreign_memory: MemoryMib(0),
        },
        equipment: Arc::default(),
        host: HostFingerprint::default(),
        resyncing: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_is_what_the_guest_and_its_overhead_take() {
        for (whole, vcpus) in [(768, 1), (1792, 1), (57_344, 8), (114_688, 16)] {
            let guest = guest_memory(MemoryMib(whole), Vcpus(vcpus));
            let total = MemoryClaim::of(guest, Vcpus(vcpus)).total().get();
            // A step of what comes beside may be jumped over.
            assert!((whole - 1..=whole).contains(&total), "{total} of {whole}");
        }
    }

    #[test]
    fn a_shape_is_two_numbers() {
        let shape: Shape = "16/112".parse().unwrap();
        assert_eq!(
            (shape.vcpus, shape.memory),
            (Vcpus(16), MemoryMib(112 * 1024))
        );
        assert_eq!(shape.to_string(), "16 vCPU, 112 GiB");
        for wrong in ["16", "0/1", "1/0", "a/1", "-1/1", ""] {
            assert!(
                wrong.parse::<Shape>().unwrap_err().contains("no shape"),
                "{wrong}"
            );
        }
    }
}
