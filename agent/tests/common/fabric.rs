//! A fabric's authority for tests: real certificates for whomever a test needs.

use std::{sync::Arc, time::Duration};

use kapok_trust::{Authority, Credentials, Csr, Identity, Key, Material, Revoked, Serial, Subject};
use kapok_types::{Env, Name, NodeId, Timestamp, env::System};

const HOUR: Duration = Duration::from_hours(1);

/// An authority, and what it says of others.
pub(crate) struct Fabric {
    pub(crate) name: Name,
    pub(crate) authority: Authority,
    pub(crate) env: Arc<dyn Env>,
}

impl Fabric {
    pub(crate) fn new(name: &str) -> Self {
        let env: Arc<dyn Env> = System::new();
        let name: Name = name.parse().unwrap();
        let life = Duration::from_hours(24 * 365);
        Self {
            authority: Authority::create(&name, env.as_ref(), life).unwrap(),
            name,
            env,
        }
    }

    /// Another authority of the same fabric, as after a rollover.
    pub(crate) fn successor(&self) -> Self {
        Self::new(self.name.as_str())
    }

    pub(crate) fn identity(&self, subject: Subject) -> Identity {
        Identity::new(self.name.clone(), subject)
    }

    /// A leaf for the key of this request, from `from` on.
    pub(crate) fn certify(
        &self,
        csr: &str,
        subject: Subject,
        from: Timestamp,
        life: Duration,
    ) -> (String, Serial) {
        let serial = Serial::new(self.env.as_ref());
        let csr = Csr::parse(csr).unwrap();
        let identity = self.identity(subject);
        let leaf = self.authority.issue(&csr, &identity, serial, life, from);
        (leaf.unwrap(), serial)
    }

    /// A key, its certificate, and this authority alone as whom to trust.
    pub(crate) fn material(&self, subject: Subject, from: Timestamp, life: Duration) -> Material {
        let key = Key::generate().unwrap();
        let (chain, _) = self.certify(&key.request().unwrap(), subject, from, life);
        Material {
            chain_pem: chain,
            key_pem: key.to_pem().to_string(),
            bundle_pem: self.bundle(),
            crl_pem: String::new(),
        }
    }

    /// Somebody of this fabric, for an hour from now on.
    pub(crate) fn somebody(&self, subject: Subject) -> Credentials {
        self.credentials(self.material(subject, self.env.now(), HOUR))
    }

    pub(crate) fn credentials(&self, material: Material) -> Credentials {
        Credentials::new(material, Arc::clone(&self.env)).unwrap()
    }

    pub(crate) fn controller(&self) -> Credentials {
        self.somebody(controller())
    }

    pub(crate) fn node(&self, node: NodeId) -> Credentials {
        self.somebody(Subject::Node(node))
    }

    pub(crate) fn bundle(&self) -> String {
        self.authority.certificate_pem().to_owned()
    }

    /// The revocation list that names these.
    pub(crate) fn revoked(&self, serials: &[Serial]) -> String {
        let now = self.env.now();
        let revoked = |serial: &Serial| Revoked {
            serial: *serial,
            at: now,
        };
        let revoked: Vec<_> = serials.iter().map(revoked).collect();
        self.authority.crl(&revoked, now).unwrap()
    }
}

pub(crate) fn controller() -> Subject {
    Subject::Controller("a".parse().unwrap())
}

pub(crate) fn user(name: &str) -> Subject {
    Subject::User(name.parse().unwrap())
}
