//! How a simulated fabric begins: an authority in memory, and nodes that join without TLS.
//!
//! The wires vouch for who speaks, so no certificate of a node is ever looked at; the log records
//! them all the same. The authority is made once a process: its key is the one thing that no seed
//! decides, and two runs must write the same log.

use std::sync::{Arc, OnceLock};

use kapok_controller::{
    config::Lives,
    fabric::{
        CertificateRecord, Command, HostFingerprint, Origin, TokenSubject, TokenUse,
        command::JoinNode,
    },
    ledger,
    trust::{
        Opened, Vault,
        init::{Founding, found_in_memory},
    },
};
use kapok_store::Redb;
use kapok_trust::{Authority, Credentials, Serial, Subject, TokenId, authority};
use kapok_types::{Digest, Env, Timestamp, env::Seeded};

use crate::{cluster::CONTROLLER, network::fabric, node::Node};

/// Who uses a simulated fabric unless it is said otherwise.
pub fn operator() -> Subject {
    "user/system-administrator".parse().unwrap()
}

/// The simulated controller.
pub fn controller() -> Subject {
    "controller/a".parse().unwrap()
}

/// The authority's certificate and key.
fn authority() -> Authority {
    static MADE: OnceLock<(String, String)> = OnceLock::new();
    let (certificate, key) = MADE.get_or_init(|| {
        let made = Authority::create(&fabric(), &*Seeded::new(0), authority::LIFE).unwrap();
        (
            made.certificate_pem().to_owned(),
            made.key_pem().to_string(),
        )
    });
    Authority::from_pem(certificate, key).unwrap()
}

/// Makes a fabric over an empty log.
pub async fn found(store: Redb, env: Arc<dyn Env>) -> Opened {
    let vault = Vault::memory();
    vault.put(authority()).await.unwrap();
    let founding = Founding {
        fabric: fabric(),
        controller: "a".parse().unwrap(),
        lives: Lives::default(),
        controllers: vec![CONTROLLER.into()],
        enroll: Vec::new(),
    };
    let made = found_in_memory(Arc::new(store), Arc::clone(&env), &founding, vault.clone())
        .await
        .unwrap();
    Opened::memory(Credentials::new(made.controller, env).unwrap(), vault)
}

/// What the controller's port for joining does: a token, and a node by it.
pub async fn join(ledger: &ledger::Handle, env: &dyn Env, node: &Node, overcommit_permille: u32) {
    let token = TokenUse {
        id: TokenId(env.uuid()),
        hash: Digest::of(node.name.as_str().as_bytes()),
    };
    let wanted = Command::CreateToken {
        subject: TokenSubject::Node(node.name.clone()),
        life_ms: 0,
        new: token,
    };
    submit(ledger, wanted).await;
    let authority = authority().fingerprint();
    let now = env.now();
    let life = u64::try_from(Lives::default().node.as_millis()).unwrap();
    let joining = Command::JoinNode(Box::new(JoinNode {
        token,
        id: node.id,
        address: node.address.clone(),
        host: HostFingerprint::default(),
        vcpu_overcommit_permille: overcommit_permille,
        certificate: CertificateRecord {
            serial: Serial::new(env),
            subject: Subject::Node(node.id),
            authority,
            issued_at: now,
            not_after: Timestamp(now.get() + life),
            token: Some(token.id),
            revoked: None,
        },
    }));
    submit(ledger, joining).await;
}

async fn submit(ledger: &ledger::Handle, command: Command) {
    ledger
        .submit(Origin::controller(), None, command)
        .await
        .unwrap();
}
