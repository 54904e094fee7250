//! Who somebody is: a subject within a fabric.
//!
//! **Invariant:** one subject has one spelling. The text is the URI name of the certificate, the
//! actor in the log and the principal of the policies.

use std::{fmt, str::FromStr};

use kapok_types::{Name, NodeId, Violation};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// What a URI name of a Kapok certificate begins with.
const SCHEME: &str = "spiffe://";

/// Who acts: a server, a controller, a person, a machine that stands for people.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// A server's agent.
    Node(NodeId),
    /// A controller process.
    Controller(Name),
    /// A person.
    User(Name),
    /// A program of people's, such as a pipeline.
    Machine(Name),
}

impl Subject {
    /// The subject's kind as its text begins: `node`, `controller`, `user` or `machine`.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Node(_) => "node",
            Self::Controller(_) => "controller",
            Self::User(_) => "user",
            Self::Machine(_) => "machine",
        }
    }

    /// The node's id, if it is one.
    pub const fn node(&self) -> Option<NodeId> {
        match self {
            Self::Node(id) => Some(*id),
            Self::Controller(_) | Self::User(_) | Self::Machine(_) => None,
        }
    }

    /// Whether it is a controller.
    pub const fn is_controller(&self) -> bool {
        matches!(self, Self::Controller(_))
    }

    /// The name of a user or a machine: those whom policies give roles.
    pub const fn person(&self) -> Option<&Name> {
        match self {
            Self::User(name) | Self::Machine(name) => Some(name),
            Self::Node(_) | Self::Controller(_) => None,
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(id) => write!(f, "node/{id}"),
            Self::Controller(name) => write!(f, "controller/{name}"),
            Self::User(name) => write!(f, "user/{name}"),
            Self::Machine(name) => write!(f, "machine/{name}"),
        }
    }
}

impl FromStr for Subject {
    type Err = Violation;

    fn from_str(text: &str) -> Result<Self, Violation> {
        let refused = |reason: String| Violation::new("subject", reason);
        let (kind, name) = text.split_once('/').ok_or_else(|| {
            refused("must be node/ID, controller/NAME, user/NAME or machine/NAME".into())
        })?;
        let named = || Name::from_str(name).map_err(|wrong| refused(wrong.reason));
        match kind {
            "node" => NodeId::from_str(name)
                .map(Self::Node)
                .map_err(|wrong| refused(wrong.reason)),
            "controller" => named().map(Self::Controller),
            "user" => named().map(Self::User),
            "machine" => named().map(Self::Machine),
            _ => Err(refused(format!(
                "has the kind {kind:?}; there are node, controller, user and machine"
            ))),
        }
    }
}

/// A subject of a fabric, as a certificate names it: `spiffe://FABRIC/SUBJECT`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// The fabric that knows the subject.
    pub fabric: Name,
    /// Who it is there.
    pub subject: Subject,
}

impl Identity {
    /// `subject` of `fabric`.
    pub const fn new(fabric: Name, subject: Subject) -> Self {
        Self { fabric, subject }
    }

    /// The URI name that a certificate carries.
    pub fn uri(&self) -> String {
        self.to_string()
    }

    /// The DNS names by which others dial it; people have none.
    pub fn dns_names(&self) -> Vec<String> {
        match &self.subject {
            Subject::Node(id) => vec![dns::node(&self.fabric, *id)],
            Subject::Controller(name) => vec![
                dns::one_controller(&self.fabric, name),
                dns::controller(&self.fabric),
            ],
            Subject::User(_) | Subject::Machine(_) => Vec::new(),
        }
    }

    /// Whether it listens somewhere: its certificate must serve as a server's, too.
    pub(crate) const fn serves(&self) -> bool {
        matches!(self.subject, Subject::Node(_) | Subject::Controller(_))
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}", self.fabric, self.subject)
    }
}

impl FromStr for Identity {
    type Err = Violation;

    fn from_str(text: &str) -> Result<Self, Violation> {
        let refused = |reason: String| Violation::new("identity", reason);
        let (fabric, subject) = text
            .strip_prefix(SCHEME)
            .and_then(|rest| rest.split_once('/'))
            .ok_or_else(|| refused(format!("must be {SCHEME}FABRIC/SUBJECT")))?;
        Ok(Self {
            fabric: fabric
                .parse()
                .map_err(|wrong: Violation| refused(wrong.reason))?,
            subject: subject
                .parse()
                .map_err(|wrong: Violation| refused(wrong.reason))?,
        })
    }
}

/// The URI name of a fabric's authority.
pub(crate) fn fabric_uri(fabric: &Name) -> String {
    format!("{SCHEME}{fabric}")
}

/// The fabric in an authority's URI name.
pub(crate) fn fabric_of_uri(uri: &str) -> Option<Name> {
    uri.strip_prefix(SCHEME)?.parse().ok()
}

macro_rules! text_forms {
    ($($name:ident)*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }
    )*};
}

text_forms!(Subject Identity);

/// The names by which members of a fabric dial each other. No name server knows them: they are
/// what the certificate must say, whatever the address was.
pub mod dns {
    use kapok_types::{Name, NodeId};

    /// A node's name.
    pub fn node(fabric: &Name, id: NodeId) -> String {
        format!("{id}.node.{fabric}.kapok.internal")
    }

    /// The name that every controller of the fabric answers to.
    pub fn controller(fabric: &Name) -> String {
        format!("controller.{fabric}.kapok.internal")
    }

    /// The name of one controller.
    pub fn one_controller(fabric: &Name, name: &Name) -> String {
        format!("{name}.controller.{fabric}.kapok.internal")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_subject_has_one_spelling() {
        for text in [
            "node/0190d6b4-6f5e-7c3a-8b1e-2f6d1c9a0b11",
            "controller/a",
            "user/alice",
            "machine/ci-runner",
        ] {
            let subject: Subject = text.parse().unwrap();
            assert_eq!(subject.to_string(), text);
            assert_eq!(
                serde_json::to_string(&subject).unwrap(),
                format!("\"{text}\"")
            );
            let identity = Identity::new("city".parse().unwrap(), subject);
            assert_eq!(identity.uri(), format!("spiffe://city/{text}"));
            assert_eq!(identity.uri().parse::<Identity>().unwrap(), identity);
        }
        for wrong in [
            "",
            "alice",
            "user/",
            "user/Alice",
            "user/a/b",
            "root/alice",
            "node/alice",
            "node/0190D6B4-6F5E-7C3A-8B1E-2F6D1C9A0B11",
            "user/0190d6b4-6f5e-7c3a-8b1e-2f6d1c9a0b11",
        ] {
            assert_eq!(wrong.parse::<Subject>().unwrap_err().field, "subject");
            assert!(
                format!("spiffe://city/{wrong}")
                    .parse::<Identity>()
                    .is_err()
            );
        }
        for wrong in ["spiffe://city", "http://city/user/a", "spiffe:///user/a"] {
            assert!(wrong.parse::<Identity>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_those_who_listen_are_dialled() {
        let of = |text: &str| Identity::new("city".parse().unwrap(), text.parse().unwrap());
        assert_eq!(
            of("controller/a").dns_names(),
            [
                "a.controller.city.kapok.internal",
                "controller.city.kapok.internal"
            ]
        );
        assert_eq!(
            of("node/0190d6b4-6f5e-7c3a-8b1e-2f6d1c9a0b11").dns_names(),
            ["0190d6b4-6f5e-7c3a-8b1e-2f6d1c9a0b11.node.city.kapok.internal"]
        );
        assert!(of("user/alice").dns_names().is_empty());
    }
}
