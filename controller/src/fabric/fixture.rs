//! Nodes, people and their proofs for tests, made by commands as the controller makes them.

use std::collections::BTreeSet;

use kapok_scheduler::Domain;
use kapok_trust::{Fingerprint, Serial, Subject, TokenId};
use kapok_types::{Digest, MemoryMib, NodeId, Timestamp, Vcpus};

use super::{
    CertificateRecord, Command, Grant, HostFingerprint, SiteChange, TenantChange, TokenSubject,
    TokenUse,
    command::{CreateFlavor, CreateGroup, CreateSystem, JoinNode, NewAuthority},
    group::Kind,
    people::Role,
};

/// The end of certificates made here, far away.
pub(crate) const NOT_AFTER: Timestamp = Timestamp(4_000_000_000_000);

/// The id of a numbered node.
pub(crate) fn node_id(n: u8) -> NodeId {
    format!("00000000-0000-7000-8000-0000000000{n:02x}")
        .parse()
        .unwrap()
}

/// The fingerprint of a numbered authority.
pub(crate) fn authority_id(n: u8) -> Fingerprint {
    Fingerprint([n; 32])
}

/// A numbered authority signs from now on.
pub(crate) fn authority(n: u8) -> Command {
    Command::RotateAuthority {
        new: NewAuthority {
            fingerprint: authority_id(n),
            certificate_pem: format!("certificate {n}"),
            cross_pem: Vec::new(),
        },
    }
}

/// A numbered serial number.
pub(crate) fn serial(n: u32) -> Serial {
    let mut bytes = [0; 16];
    bytes[0] = 0x40;
    bytes[12..].copy_from_slice(&n.to_be_bytes());
    Serial::from_bytes(&bytes).unwrap()
}

/// A numbered certificate of authority 1.
pub(crate) fn certificate(n: u32, subject: Subject) -> CertificateRecord {
    CertificateRecord {
        serial: serial(n),
        subject,
        authority: authority_id(1),
        issued_at: Timestamp(0),
        not_after: NOT_AFTER,
        token: None,
        revoked: None,
    }
}

/// A numbered token, as it is shown.
pub(crate) fn shown(n: u32) -> TokenUse {
    TokenUse {
        id: TokenId(uuid::Uuid::from_u128(u128::from(n) + 1)),
        hash: Digest::of(&n.to_be_bytes()),
    }
}

/// Makes a numbered token for "node/NAME", "user/NAME" or "machine/NAME".
pub(crate) fn token(n: u32, subject: &str) -> Command {
    Command::CreateToken {
        subject: subject.parse::<TokenSubject>().unwrap(),
        life_ms: 0,
        new: shown(n),
    }
}

/// A node shows a numbered token and gets the certificate of that number.
pub(crate) fn join(n: u32, id: NodeId, address: &str, host: &[(&str, &str)]) -> Command {
    let host = host
        .iter()
        .map(|(component, value)| ((*component).to_owned(), (*value).to_owned()));
    Command::JoinNode(Box::new(JoinNode {
        token: shown(n),
        id,
        address: address.into(),
        host: HostFingerprint::new(host).unwrap(),
        vcpu_overcommit_permille: 1000,
        certificate: certificate(n, Subject::Node(id)),
    }))
}

/// What makes a node of this name and number part of a fabric that has authority 1.
pub(crate) fn new_node(n: u8, name: &str, address: &str) -> [Command; 2] {
    [
        token(n.into(), &format!("node/{name}")),
        join(n.into(), node_id(n), address, &[]),
    ]
}

/// Roles: `auditor`, or `tenant_member in finance`.
pub(crate) fn grants(texts: &[&str]) -> BTreeSet<Grant> {
    let grant = |text: &&str| {
        let (role, tenant) = match text.split_once(" in ") {
            Some((role, tenant)) => (role, Some(tenant.parse().unwrap())),
            None => (*text, None),
        };
        Grant {
            role: role.parse::<Role>().unwrap(),
            tenant,
        }
    };
    texts.iter().map(grant).collect()
}

/// Makes a user with roles.
pub(crate) fn user(subject: &str, roles: &[&str]) -> Command {
    Command::CreateUser {
        subject: subject.parse().unwrap(),
        display: String::new(),
        grants: grants(roles),
        external: None,
    }
}

/// Makes a flavor of 2 vCPUs and 1 GiB for everybody, or for tenants.
pub(crate) fn flavor(name: &str, visible_to: &[&str]) -> Command {
    Command::CreateFlavor(CreateFlavor {
        name: name.parse().unwrap(),
        vcpus: Vcpus(2),
        memory: MemoryMib(1024),
        root_disk: None,
        description: String::new(),
        visible_to: visible_to
            .iter()
            .map(|name| name.parse().unwrap())
            .collect(),
        needs: kapok_types::Needs::default(),
    })
}

/// Makes a group of a tenant that must be kept.
pub(crate) fn group(tenant: &str, name: &str, kind: Kind, domain: Domain) -> Command {
    Command::CreateGroup(CreateGroup {
        tenant: Some(tenant.parse().unwrap()),
        name: name.parse().unwrap(),
        kind,
        domain,
        strict: true,
    })
}

/// Says where a node stands and what it is for.
pub(crate) fn site(node: &str, changes: &[SiteChange]) -> Command {
    Command::UpdateNode {
        node: node.into(),
        vcpu_overcommit_permille: None,
        address: None,
        site: changes.to_vec(),
    }
}

/// Makes a system of a tenant of which nothing else is known.
pub(crate) fn system(tenant: &str, name: &str) -> Command {
    Command::CreateSystem(CreateSystem {
        tenant: Some(tenant.parse().unwrap()),
        name: name.parse().unwrap(),
        facts: Vec::new(),
    })
}

/// Makes a tenant below the root, or below another one.
pub(crate) fn tenant(name: &str, parent: Option<&str>) -> Command {
    Command::CreateTenant {
        name: name.parse().unwrap(),
        display: String::new(),
        parent: parent.map(|parent| parent.parse().unwrap()),
        contacts: Vec::new(),
    }
}

/// Makes a tenant another one.
pub(crate) fn change_tenant(name: &str, changes: &[TenantChange]) -> Command {
    Command::UpdateTenant {
        tenant: name.parse().unwrap(),
        changes: changes.to_vec(),
        etag: String::new(),
    }
}
