//! Who asks, what they may do, and what every change carries.
//!
//! Who somebody is comes from their connection's certificate and from nowhere else; nothing in a
//! request's metadata counts. Whoever is refused here is noted for the audit.

use std::collections::BTreeSet;

use kapok_authz::Principal;
use kapok_trust::{Peer, Serial, Subject};
use kapok_types::{Name, NodeId, TraceContext, Violation};
use tonic::{Code, Request, Status};

use crate::{
    api::{Api, status},
    authz::{Action, Object, about},
    fabric::{Actor, Denied, Fabric, Origin, Scope, User},
};

/// Longest request id, and longest name, id, digest or etag that is looked up; in bytes.
const MAX_REQUEST_ID_BYTES: usize = 128;
const MAX_KEY_BYTES: usize = 256;

/// Who asks, from where, and how far they reach.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub(super) who: Principal,
    pub(super) subject: Subject,
    pub(super) serial: Option<Serial>,
    pub(super) by: Actor,
    pub(super) from: String,
    pub(super) home: Name,
    pub(super) scope: Scope,
    pub(super) trace: Option<TraceContext>,
}

impl Caller {
    /// What a command says of who asks.
    pub(super) fn origin(&self) -> Origin {
        Origin {
            by: self.by.clone(),
            from: self.from.clone(),
            home: self.home.clone(),
            scope: self.scope.clone(),
            trace: self.trace,
        }
    }

    /// Lets a command reach a tenant in which a policy permitted it: the site's may permit more
    /// than the caller's roles do.
    pub(super) fn reach(&mut self, tenant: &Name) {
        if let Scope::Tenants(named) = &mut self.scope {
            named.insert(tenant.clone());
        }
    }
}

/// The tenants of somebody's roles; everything for whoever has one of the fabric's.
fn scope(user: &User) -> Scope {
    if user.grants.iter().any(|grant| !grant.role.is_tenants()) {
        return Scope::Everything;
    }
    let named: BTreeSet<Name> = user
        .grants
        .iter()
        .filter_map(|grant| grant.tenant.clone())
        .collect();
    Scope::Tenants(named)
}

/// Whoever showed no certificate.
fn anonymous() -> Actor {
    Actor("anonymous".into())
}

/// Where a peer's connection comes from: without the port, which is another one each time.
fn address(peer: Option<&Peer>) -> String {
    let address = peer.and_then(Peer::address);
    address.map(|at| at.ip().to_string()).unwrap_or_default()
}

impl Api {
    /// Who asks. People and machines alone: a node's certificate opens nothing of theirs
    /// (FAULTS 22 and 23).
    pub(super) fn caller<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        let (who, peer) = self.person(request)?;
        let snapshot = self.ledger.snapshot();
        let subject = subject(&who);
        let by = Actor::from(&subject);
        let from = address(Some(peer));
        let user = match known(&snapshot.fabric, &subject, peer.serial()) {
            Ok(user) => user,
            Err(refused) => {
                self.audit
                    .refusals
                    .note(&by, &from, "call", "", refused.reason());
                return Err(refused.status(&subject));
            }
        };
        Ok(Caller {
            who,
            serial: peer.serial(),
            by,
            from,
            home: user.home(),
            scope: scope(user),
            trace: request.extensions().get().copied(),
            subject,
        })
    }

    /// The person or machine at the other end, whether the fabric still knows them or not.
    pub(super) fn person<'r, T>(
        &self,
        request: &'r Request<T>,
    ) -> Result<(Principal, &'r Peer), Status> {
        let peer = request.extensions().get::<Peer>();
        let refuse = |by: &Actor, code, reason, message| {
            self.audit
                .refusals
                .note(by, &address(peer), "call", "", reason);
            Err(status::status(code, reason, message, &[]))
        };
        let Some((peer, identity)) = peer.and_then(|peer| Some((peer, peer.identity()?))) else {
            return refuse(
                &anonymous(),
                Code::Unauthenticated,
                "NO_CERTIFICATE",
                "a certificate of this fabric is needed; log in first",
            );
        };
        let by = Actor::from(&identity.subject);
        if identity.fabric != *self.trust.fabric() {
            return refuse(
                &by,
                Code::Unauthenticated,
                "OTHER_FABRIC",
                "the certificate is another fabric's; log in to this one",
            );
        }
        match about::principal(&identity.subject) {
            Some(who) => Ok((who, peer)),
            None => refuse(
                &by,
                Code::PermissionDenied,
                "NOT_A_PERSON",
                "this service is for people and machines; the certificate is a node's or a \
                 controller's",
            ),
        }
    }

    /// The node that asks. Whoever isn't one is refused, and so is one that was revoked.
    pub(super) fn node_caller<T>(&self, request: &Request<T>) -> Result<NodeId, Status> {
        let peer = request.extensions().get::<Peer>();
        let identity = peer.and_then(Peer::identity);
        let refuse = |code, reason, message| {
            let by = identity.map_or_else(anonymous, |one| Actor::from(&one.subject));
            self.audit
                .refusals
                .note(&by, &address(peer), "call", "", reason);
            Err(status::status(code, reason, message, &[]))
        };
        let node = identity.filter(|one| one.fabric == *self.trust.fabric());
        let Some(id) = node.and_then(|one| one.subject.node()) else {
            return refuse(
                Code::PermissionDenied,
                "NOT_A_NODE",
                "this service is for nodes; the certificate isn't a node's",
            );
        };
        let snapshot = self.ledger.snapshot();
        let fabric = &snapshot.fabric;
        let serial = peer.and_then(Peer::serial);
        let trusted = fabric
            .node_by_id(id)
            .is_some_and(|node| node.revoked.is_none())
            && !serial.is_some_and(|serial| fabric.revoked.contains(&serial));
        if serial.is_some_and(|serial| !fabric.certificates.contains_key(&serial)) {
            return refuse(
                Code::PermissionDenied,
                "UNKNOWN_CERTIFICATE",
                "the fabric doesn't know the certificate; join again with a new token",
            );
        }
        if !trusted {
            return refuse(
                Code::PermissionDenied,
                "REVOKED",
                "the fabric trusts this node no longer; join again with a new token",
            );
        }
        Ok(id)
    }

    /// Refuses a caller who was let in before, if they would not be now.
    pub(super) fn still(&self, caller: &Caller) -> Result<(), Status> {
        let snapshot = self.ledger.snapshot();
        let Caller {
            subject,
            serial,
            by,
            from,
            ..
        } = caller;
        known(&snapshot.fabric, subject, *serial)
            .map(drop)
            .map_err(|refused| {
                let audit = &self.audit.refusals;
                audit.note(by, from, "call", "", refused.reason());
                refused.status(subject)
            })
    }

    /// Whether a caller may do something. Notes nothing: for lists, which show what may be seen.
    pub(super) fn may(&self, caller: &Caller, action: Action, object: &Object) -> bool {
        let snapshot = self.ledger.snapshot();
        let decision = self
            .access
            .decide(&snapshot.fabric, &caller.who, action, object);
        decision.allowed
    }

    /// Refuses a caller who may not do something. `which` is how they named the object, empty for
    /// the fabric: what they may not even see is refused exactly as what isn't there (FAULTS 25).
    pub(super) fn authorize(
        &self,
        caller: &Caller,
        action: Action,
        object: &Object,
        which: &str,
    ) -> Result<(), Status> {
        if self.may(caller, action, object) {
            return Ok(());
        }
        let told = object.to_string();
        self.audit.refusals.note(
            &caller.by,
            &caller.from,
            action.as_str(),
            &told,
            "FORBIDDEN",
        );
        // A role for somebody is seen by whoever may see that somebody.
        let seen = match object {
            Object::Grant { user, .. } => &Object::User(user.clone()),
            object => object,
        };
        let seen = seen
            .seen_by()
            .is_none_or(|seeing| self.may(caller, seeing, seen));
        Err(if seen {
            forbidden(action, object, which)
        } else {
            absent(about::kind(object), which)
        })
    }

    /// The same for something named that isn't there. Whoever could do it in their tenants goes
    /// on to the ledger, which answers a repeated request as before, and says that it is absent
    /// otherwise. `example` is such an object in a tenant.
    pub(super) fn authorize_absent(
        &self,
        caller: &Caller,
        action: Action,
        example: impl Fn(&Name) -> Object,
        which: &str,
    ) -> Result<(), Status> {
        let city = crate::fabric::city();
        let reached: Vec<&Name> = match &caller.scope {
            Scope::Everything => vec![&city],
            Scope::Tenants(named) => named.iter().collect(),
        };
        let could = |tenant: &&Name| self.may(caller, action, &example(tenant));
        if reached.iter().any(could) {
            return Ok(());
        }
        let kind = about::kind(&example(&city));
        let told = format!("{kind}/{which}");
        self.audit.refusals.note(
            &caller.by,
            &caller.from,
            action.as_str(),
            &told,
            "FORBIDDEN",
        );
        Err(absent(kind, which))
    }
}

/// Why somebody with a good certificate is refused all the same.
enum Refused {
    Unknown,
    Unrecorded,
    Disabled,
    Revoked,
}

impl Refused {
    const fn reason(&self) -> &'static str {
        match self {
            Self::Unknown => "UNKNOWN_USER",
            Self::Unrecorded => "UNKNOWN_CERTIFICATE",
            Self::Disabled => "DISABLED",
            Self::Revoked => "REVOKED",
        }
    }

    fn status(&self, subject: &Subject) -> Status {
        let (code, message) = match self {
            Self::Unknown => (
                Code::Unauthenticated,
                format!("the fabric knows no {subject} any more; ask a security administrator"),
            ),
            Self::Unrecorded => (
                Code::Unauthenticated,
                "the fabric doesn't know the certificate; log in again".to_owned(),
            ),
            Self::Disabled => (
                Code::PermissionDenied,
                format!("{subject} is disabled; ask a security administrator"),
            ),
            Self::Revoked => (
                Code::Unauthenticated,
                "the certificate was revoked; log in again".to_owned(),
            ),
        };
        status::status(code, self.reason(), &message, &[])
    }
}

/// A user who may speak. Revocation holds from the moment it is published, whatever the
/// connection still thinks; a certificate that isn't in the log was never given out by this fabric.
fn known<'f>(
    fabric: &'f Fabric,
    subject: &Subject,
    serial: Option<Serial>,
) -> Result<&'f User, Refused> {
    if serial.is_some_and(|serial| fabric.revoked.contains(&serial)) {
        return Err(Refused::Revoked);
    }
    if serial.is_some_and(|serial| !fabric.certificates.contains_key(&serial)) {
        return Err(Refused::Unrecorded);
    }
    match fabric.users.get(subject) {
        None => Err(Refused::Unknown),
        Some(user) if user.disabled => Err(Refused::Disabled),
        Some(user) => Ok(user),
    }
}

/// A principal's subject.
pub(super) fn subject(who: &Principal) -> Subject {
    match who {
        Principal::User(name) => Subject::User(name.clone()),
        Principal::Machine(name) => Subject::Machine(name.clone()),
    }
}

/// What isn't there, or may as well not be.
pub(super) fn absent(kind: &'static str, which: &str) -> Status {
    status::denied(&Denied::Absent {
        kind,
        which: which.to_owned(),
    })
}

fn forbidden(action: Action, object: &Object, which: &str) -> Status {
    let kind = about::kind(object);
    let object = if which.is_empty() {
        "the fabric".to_owned()
    } else {
        format!("{kind} {which}")
    };
    let message = format!("{action} on {object} is not permitted to you; see: kapok auth why");
    status::status(
        Code::PermissionDenied,
        "FORBIDDEN",
        &message,
        &[("action", action.as_str())],
    )
}

/// The request id that came. Without one, nobody can ask again: there is nothing to remember.
pub(super) fn request_id(given: &str) -> Result<Option<String>, Status> {
    if given.is_empty() {
        return Ok(None);
    }
    if given.len() > MAX_REQUEST_ID_BYTES || given.chars().any(char::is_control) {
        return Err(status::bad_field(
            "request_id",
            format!(
                "has {} bytes; must have 1 to {MAX_REQUEST_ID_BYTES}, all printable",
                given.len()
            ),
        ));
    }
    Ok(Some(given.to_owned()))
}

/// A name, id or digest that something is looked up by.
pub(super) fn key(field: &str, given: String) -> Result<String, Status> {
    if given.is_empty() {
        return Err(status::bad_field(field, "must be stated"));
    }
    optional_key(field, given)
}

/// The same where it may be left out.
pub(super) fn optional_key(field: &str, given: String) -> Result<String, Status> {
    if given.len() > MAX_KEY_BYTES {
        let reason = format!(
            "has {} bytes; at most {MAX_KEY_BYTES} are allowed",
            given.len()
        );
        return Err(status::bad_field(field, reason));
    }
    Ok(given)
}

/// A checked value, its violation named after the field that it stood in.
pub(super) fn parsed<T>(field: &str, text: &str) -> Result<T, Status>
where
    T: std::str::FromStr<Err = Violation>,
{
    text.parse()
        .map_err(|violation: Violation| status::bad_field(field, violation.reason))
}

/// The same where it may be left out.
pub(super) fn optional<T>(field: &str, text: &str) -> Result<Option<T>, Status>
where
    T: std::str::FromStr<Err = Violation>,
{
    if text.is_empty() {
        return Ok(None);
    }
    parsed(field, text).map(Some)
}
