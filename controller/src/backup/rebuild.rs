//! Making the record anew from what agents hold, where record and backup are both lost.
//!
//! ```text
//!   authority's key ─▶ a new fabric of its name ─▶ each node: certificate, epoch, intents
//!                                                   └─▶ joined, its incarnations taken up ─▶ to be adopted
//! ```
//!
//! **Invariant:** nothing is made up. What no agent holds is named in [`UNKNOWN`], and people say it
//! again. What is rebuilt is written beside and put in place as a restore is.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use futures::{FutureExt as _, StreamExt as _, stream};
use kapok_proto::agent::v1::{GetNodeRequest, HeartbeatRequest, ListInstancesRequest};
use kapok_store::{Redb, Store, segments::Directory};
use kapok_trust::{Certificate, Credentials, TokenId};
use kapok_types::{Digest, Env, Epoch, InstanceId, Name, NodeId, phase};
use serde::Serialize;
use tokio::time::timeout;

use super::{
    keys,
    place::{self, LOG, SEGMENTS, TRUST},
    restore,
};
use crate::{
    config::Lives,
    fabric::{
        CertificateRecord, Command, HostFingerprint, Origin, TokenSubject, TokenUse,
        adoption::{self, Cause, Held},
        command::{AdoptNode, JoinNode},
        decide::Rules,
    },
    ledger::{self, Ledger},
    link::{self, CALL_DEADLINE, Dialer as _, Tls},
    trust::{
        Opened, Vault,
        init::{self, Founding, Places, found},
        vault,
    },
};

/// What the rebuilder calls itself in the store.
const CANDIDATE: &str = "db rebuild";
/// Nodes that are asked at the same time.
const AT_ONCE: usize = 32;

/// What no agent holds.
pub const UNKNOWN: [&str; 8] = [
    "tenants, their quotas and reservations: every instance is the root's",
    "people, machines, their roles and tokens: there are new first credentials, and no others",
    "systems, groups, flavors, and which of them instances belonged to",
    "names of images: those in use are called unknown-…; their blobs stay where they are",
    "racks, rooms, labels, isolation classes, overcommit ratios, cordons and releases of nodes",
    "who asked for what and when: the audit and the events begin anew, and so do operations",
    "what was held and used before: accounting begins anew",
    "nodes that weren't named here or could not be asked: they come back with a token",
];

/// A node that is to be asked: "NAME=ID@HOST:PORT".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// What it is to be called.
    pub name: Name,
    /// Its id.
    pub id: NodeId,
    /// Where its agent listens.
    pub address: String,
}

/// What is to be rebuilt, and from what.
#[derive(Debug)]
pub struct Wish<'a> {
    /// The state directory, which belongs to this process.
    pub state: &'a Path,
    /// This controller's name.
    pub controller: Name,
    /// Where the first credentials are written.
    pub credentials: PathBuf,
    /// How long certificates live.
    pub lives: Lives,
    /// Where people reach controllers: "HOST:PORT".
    pub controllers: Vec<String>,
    /// Where they log in: "HOST:PORT".
    pub enroll: Vec<String>,
    /// vCPUs that one thread of a node may carry, in permille.
    pub vcpu_overcommit_permille: u32,
    /// Whether a record that is there is put aside.
    pub replace: bool,
    /// Whom to ask.
    pub nodes: &'a [Named],
}

/// What was rebuilt.
#[derive(Debug, Serialize)]
pub struct Rebuilt {
    /// Nodes by name.
    pub nodes: Vec<Name>,
    /// Instances by name, with their ids.
    pub instances: BTreeMap<InstanceId, Name>,
    /// Nodes that could not be asked, and why.
    pub unasked: BTreeMap<Name, String>,
    /// What nobody knows any more.
    pub unknown: Vec<String>,
    /// The first credentials: whose, and where.
    pub credentials: BTreeMap<String, PathBuf>,
    /// Where what was there before is, if anything was.
    pub replaced: Option<PathBuf>,
}

/// Why nothing was rebuilt.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is a record.
    #[error(
        "{} holds a record: check it with kapok-controller db check; --replace puts it aside (nothing \
         of it is removed)",
        state.display()
    )]
    Occupied {
        /// Where.
        state: PathBuf,
    },
    /// Credentials of the old record lie where those of the new one would.
    #[error(
        "{} is there already: the credentials in it are of no use to the new record; choose another \
         place with --credentials",
        dir.display()
    )]
    InTheWay {
        /// Where.
        dir: PathBuf,
    },
    /// No key of an authority is there, or several are and nothing says which one signs.
    #[error(
        "{} holds {found} keys of authorities, and one is needed that the nodes trust; if all are lost, \
         make the fabric anew with kapok-controller init and let every server join again",
        dir.display()
    )]
    NoKey {
        /// Where.
        dir: PathBuf,
        /// How many there are.
        found: usize,
    },
    /// Nobody could be asked.
    #[error("none of the nodes could be asked: {first}")]
    Nobody {
        /// The first of them, and why.
        first: String,
    },
    /// Keys can't be read or written.
    #[error(transparent)]
    Vault(#[from] vault::Error),
    /// The same.
    #[error(transparent)]
    Keys(#[from] keys::Error),
    /// The fabric can't be made.
    #[error(transparent)]
    Founding(#[from] init::Error),
    /// Its trust can't be taken up.
    #[error(transparent)]
    Trust(#[from] crate::trust::Error),
    /// The new store can't be made.
    #[error("the record can't be written")]
    Store(#[from] kapok_store::Error),
    /// The same, of segments.
    #[error("the record can't be written")]
    Segments(#[from] kapok_store::segments::Error),
    /// The record can't be led.
    #[error("the record can't be led")]
    Fatal(#[from] ledger::Fatal),
    /// The record refuses what a node holds.
    #[error("the record can't be written")]
    Ledger(#[from] ledger::Error),
    /// It can't be adopted.
    #[error(transparent)]
    Begin(#[from] restore::Error),
}

impl FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = "must be NAME=ID@HOST:PORT";
        let (name, rest) = text.split_once('=').ok_or(form)?;
        let (id, address) = rest.split_once('@').ok_or(form)?;
        let wrong = |wrong: kapok_types::Violation| wrong.reason;
        Ok(Self {
            name: name.parse().map_err(wrong)?,
            id: id.parse().map_err(|_| form.to_owned())?,
            address: address.to_owned(),
        })
    }
}

/// What a node's agent says.
struct Said {
    epoch: Epoch,
    certificate: Arc<Certificate>,
    host: HostFingerprint,
    held: Vec<Held>,
}

/// Makes the record anew.
///
/// # Errors
/// [`Error`]; what was there is as it was.
pub async fn rebuild(wish: &Wish<'_>, env: &Arc<dyn Env>) -> Result<Rebuilt, Error> {
    let state = wish.state;
    if state.join(LOG).exists() && !wish.replace {
        return Err(Error::Occupied {
            state: state.to_owned(),
        });
    }
    if wish.credentials.exists() {
        return Err(Error::InTheWay {
            dir: wish.credentials.clone(),
        });
    }
    let trust = state.join(TRUST);
    let staging = place::stage(state)?;
    let authority = authority(&trust, env)?;
    let fabric = authority.fabric().clone();
    let places = Places {
        trust: staging.join(TRUST),
        credentials: wish.credentials.clone(),
    };
    Vault::open(&places.trust)?
        .put(
            kapok_trust::Authority::from_pem(authority.certificate_pem(), &authority.key_pem())
                .map_err(crate::trust::Error::from)?,
        )
        .await?;
    Directory::open(staging.join(SEGMENTS))?;
    let founding = Founding {
        fabric,
        controller: wish.controller.clone(),
        lives: wish.lives,
        controllers: wish.controllers.clone(),
        enroll: wish.enroll.clone(),
    };
    let store = Arc::new(Redb::open(staging.join(LOG)).await?);
    let founded = found(Arc::clone(&store), Arc::clone(env), &founding, &places).await?;
    let opened = Opened::load(&places.trust, Arc::clone(env)).await?;
    let asked = ask_all(&Tls(opened.credentials().clone()), wish.nodes).await;
    let mut rebuilt = take_up(&store, env, wish, asked).await?;
    let credentials = founded.people.into_iter();
    rebuilt.credentials = credentials
        .map(|(subject, path)| (subject.to_string(), path))
        .collect();
    drop(store);
    place::commit(state, env.now().get())?;
    rebuilt.replaced = place::finish(state)?;
    Ok(rebuilt)
}

/// Has all nodes of a record adopted.
///
/// # Errors
/// The record can't be led.
pub async fn adopt<S: Store>(store: Arc<S>, env: &Arc<dyn Env>) -> Result<(), Error> {
    restore::begin(store, env, Epoch::ZERO, Cause::Rebuilt, None).await?;
    Ok(())
}

/// The authority that the nodes trust: the only one, or the one that signed the controller's own
/// certificate.
fn authority(trust: &Path, env: &Arc<dyn Env>) -> Result<Arc<kapok_trust::Authority>, Error> {
    let vault = Vault::open(trust)?;
    let all = vault.all();
    let signed = Credentials::load(&trust.join("controller"), Arc::clone(env));
    let signed = signed.ok().map(|own| own.certificate().authority);
    let found = match (all.as_slice(), signed) {
        ([only], _) => Some(Arc::clone(only)),
        (_, Some(authority)) => vault.get(authority),
        _ => None,
    };
    found.ok_or_else(|| Error::NoKey {
        dir: trust.to_owned(),
        found: all.len(),
    })
}

async fn ask_all(dialer: &Tls, nodes: &[Named]) -> Vec<(Named, Result<Said, String>)> {
    let asking: Vec<_> = nodes
        .iter()
        .cloned()
        .map(|node| {
            let dialer = dialer.clone();
            async move {
                let said = timeout(CALL_DEADLINE * 3, ask(&dialer, &node)).await;
                let said = said.unwrap_or_else(|_| Err("it gave no answer in time".to_owned()));
                (node, said)
            }
            .boxed()
        })
        .collect();
    stream::iter(asking).buffered(AT_ONCE).collect().await
}

/// What one node's agent holds.
async fn ask(dialer: &Tls, node: &Named) -> Result<Said, String> {
    let told = |status: tonic::Status| status.message().to_owned();
    let channel = dialer.dial(&node.address, node.id).await;
    let channel = channel.map_err(|error| crate::controller::chain(&error))?;
    let shown = dialer.certificate(&node.address, node.id).await;
    let certificate = shown.ok_or("it shows no certificate")?;
    let mut client = link::client(channel);
    let heartbeat = HeartbeatRequest { interval_ms: 0 };
    let mut signs = client
        .heartbeat(heartbeat)
        .await
        .map_err(told)?
        .into_inner();
    let sign = signs.message().await.map_err(told)?;
    let sign = sign.ok_or("it gives no life sign")?;
    if sign.node_id != node.id.to_string() {
        return Err(format!("it says that it is {}", sign.node_id));
    }
    let facts = client.get_node(GetNodeRequest {}).await.map_err(told)?;
    let facts = facts.into_inner().node.unwrap_or_default();
    let host = HostFingerprint::new(facts.fingerprint).map_err(|wrong| wrong.to_string())?;
    let intents = link::held_intents(&mut client, node.id).await?;
    let statuses = client.list_instances(ListInstancesRequest {}).await;
    let statuses = statuses.map_err(told)?.into_inner().instances;
    let sizes: BTreeMap<_, _> = statuses
        .iter()
        .filter_map(|wire| phase::Status::try_from(wire).ok())
        .map(|status| (status.incarnation, status.size))
        .collect();
    let held = intents.into_iter().map(|intent| Held {
        size: sizes.get(&intent.incarnation).copied().flatten(),
        intent,
    });
    Ok(Said {
        epoch: Epoch(sign.epoch),
        certificate,
        host,
        held: held.collect(),
    })
}

/// Puts on record what was said.
async fn take_up(
    store: &Arc<Redb>,
    env: &Arc<dyn Env>,
    wish: &Wish<'_>,
    asked: Vec<(Named, Result<Said, String>)>,
) -> Result<Rebuilt, Error> {
    let (mut said, mut unasked) = (Vec::new(), BTreeMap::new());
    for (node, answer) in asked {
        match answer {
            Ok(answer) => said.push((node, answer)),
            Err(why) => drop(unasked.insert(node.name, why)),
        }
    }
    if said.is_empty() {
        let first = unasked.into_iter().next();
        let first = first.map(|(node, why)| format!("{node}: {why}"));
        return Err(Error::Nobody {
            first: first.unwrap_or_default(),
        });
    }
    let seen = said.iter().map(|(_, said)| said.epoch).max();
    let floor = seen.unwrap_or_default();
    let rules = Rules::default();
    let started = Ledger::start(Arc::clone(store), Arc::clone(env), CANDIDATE, floor, rules);
    let (handle, ledger) = started.await?;
    let task = tokio::spawn(ledger.run());
    let written = write(&handle, &**env, wish, &said).await;
    let snapshot = handle.snapshot();
    drop(handle);
    if let Ok(ended) = task.await {
        ended?;
    }
    written?;
    let instances = snapshot.fabric.instances.values();
    Ok(Rebuilt {
        nodes: snapshot.fabric.nodes.keys().cloned().collect(),
        instances: instances.map(|one| (one.id, one.name.clone())).collect(),
        unasked,
        unknown: UNKNOWN.map(str::to_owned).into(),
        credentials: BTreeMap::new(),
        replaced: None,
    })
}

async fn write(
    ledger: &ledger::Handle,
    env: &dyn Env,
    wish: &Wish<'_>,
    said: &[(Named, Said)],
) -> Result<(), ledger::Error> {
    let submit = async |command| {
        let submitted = ledger.submit(Origin::controller(), None, command);
        submitted.await.map(drop)
    };
    for (node, said) in said {
        let token = TokenUse {
            id: TokenId(env.uuid()),
            hash: Digest::of(env.uuid().as_bytes()),
        };
        submit(Command::CreateToken {
            subject: TokenSubject::Node(node.name.clone()),
            life_ms: 0,
            new: token,
        })
        .await?;
        let Certificate {
            serial,
            authority,
            not_before,
            not_after,
            ..
        } = *said.certificate;
        submit(Command::JoinNode(Box::new(JoinNode {
            token,
            id: node.id,
            address: node.address.clone(),
            host: said.host.clone(),
            vcpu_overcommit_permille: wish.vcpu_overcommit_permille,
            certificate: CertificateRecord {
                serial,
                subject: said.certificate.subject().clone(),
                authority,
                issued_at: not_before,
                not_after,
                token: Some(token.id),
                revoked: None,
            },
        })))
        .await?;
    }
    let begin = || Command::BeginAdoption {
        cause: Cause::Rebuilt,
        backup_at: None,
    };
    submit(begin()).await?;
    for (node, said) in said {
        let snapshot = ledger.snapshot();
        let differences = adoption::compare(&snapshot.fabric, node.id, &said.held);
        let fresh = differences.iter().map(|_| ledger.fresh());
        submit(Command::AdoptNode(Box::new(AdoptNode {
            node: node.name.to_string(),
            etag: adoption::etag(&differences),
            tenant: None,
            held: said.held.clone(),
            certificate: None,
            fresh: fresh.collect(),
        })))
        .await?;
    }
    // People look before the nodes follow it.
    submit(begin()).await
}
