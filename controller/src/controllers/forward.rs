//! Which controller answers a request, and on whose behalf.
//!
//! ```text
//!   passed on to us? ─▶ its caller is whoever the other controller says
//!        │
//!        ├─ we lead ──────────────────────▶ served here
//!        ├─ a fold of the log answers it ─▶ served here, once it holds what the caller has seen
//!        └─ else ─────────────────────────▶ passed on to the one that leads, its answer passed back
//! ```
//!
//! In front of everything else of a server, so that limits, deadlines and refusals are those of
//! whoever asks. A body passes through in pieces, both ways, as it comes.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use kapok_trust::{Peer, Subject};
use kapok_types::Seq;
use tokio::time::timeout;
use tonic::{
    Code, Status,
    body::Body,
    codegen::{
        StdError,
        http::{HeaderValue, Request, Response},
    },
    transport::Channel,
};
use tower::{Layer, Service, ServiceExt as _};
use tracing::debug;

use super::{Candidate, Controllers, Role, Way, no_leader, unavailable};
use crate::{
    audit,
    fabric::{Actor, Fabric},
    ledger,
};

/// For whom a controller asks another: [`Peer::told`].
const PEER: &str = "kapok-peer";
/// The last entry of the log that an answer holds.
const SEQ: &str = "kapok-seq";
/// The entry that an answer must hold.
const MIN_SEQ: &str = "kapok-min-seq";
/// How long an entry is waited for before the one that leads is asked instead.
const CATCH_UP: Duration = Duration::from_secs(2);

/// Our services; the rest is gRPC's own, or pages.
const OURS: [&str; 2] = ["/kapok.fabric.v1.", "/kapok.agent.v1."];
/// What controllers ask of one another, and not of the one that leads.
const BETWEEN: &str = "FollowerService/";
/// What the HTTPS port serves, and the other one only for a controller that passes it on.
const ENROLL: &str = "EnrollService/";
/// What is answered by a fold of the log, and by nothing else: any controller can.
const FOLDED: [&str; 23] = [
    "AuthService/ExplainAccess",
    "AuthService/WhoAmI",
    "CapacityService/GetCapacity",
    "CertificateService/ListAuthorities",
    "CertificateService/ListCertificates",
    "EnrollService/GetFabric",
    "EventService/WatchEvents",
    "FlavorService/GetFlavor",
    "FlavorService/ListFlavors",
    "GroupService/GetGroup",
    "GroupService/ListGroups",
    "ImageService/GetImage",
    "ImageService/ListImages",
    "ReportService/GetPoolingReport",
    "SystemService/GetSystem",
    "SystemService/ListSystems",
    "TenantService/GetTenant",
    "TenantService/ListTenants",
    "TokenService/ListTokens",
    "UsageService/ListIdleInstances",
    "UsageService/ListUsage",
    "UserService/GetUser",
    "UserService/ListUsers",
];

/// Puts the choice in front of a server's services.
#[derive(Debug, Clone)]
pub struct Forward {
    /// Who leads, and the way there.
    pub controllers: Controllers,
    /// What is folded here.
    pub ledger: ledger::Handle,
    /// Who pretends to ask for others.
    pub refusals: audit::Refusals,
    /// At which port it stands.
    pub port: Port,
}

/// A port of the controller's. What isn't a port's is passed on by it no more than it is served there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// For people, nodes and controllers, with a certificate.
    Main,
    /// For those who don't have one yet.
    Https,
}

/// A service behind the choice.
#[derive(Debug, Clone)]
pub struct Forwarding<S> {
    forward: Forward,
    inner: S,
}

impl Port {
    /// Whether a method, such as "TenantService/GetTenant", is one that is served or passed on here: at the
    /// main port joining and logging in are, if another controller passes them on.
    fn serves(self, method: &str, passed_on: bool) -> bool {
        match self {
            Self::Https => method.starts_with(ENROLL),
            Self::Main if method.starts_with(ENROLL) => passed_on,
            Self::Main => !method.starts_with(BETWEEN),
        }
    }
}

impl<S> Layer<S> for Forward {
    type Service = Forwarding<S>;

    fn layer(&self, inner: S) -> Forwarding<S> {
        Forwarding {
            forward: self.clone(),
            inner,
        }
    }
}

impl<S> Service<Request<Body>> for Forwarding<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<StdError> + Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        // The one that is ready; the clone may not be.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let forward = self.forward.clone();
        let passed_on = match forward.on_behalf(&mut request) {
            Ok(passed_on) => passed_on,
            Err(refused) => return Box::pin(async move { Ok(refused.into_http()) }),
        };
        let path = request.uri().path();
        let method = OURS.iter().find_map(|ours| path.strip_prefix(ours));
        let enrolls = method.is_some_and(|method| method.starts_with(ENROLL));
        let Some(method) = method.filter(|method| forward.port.serves(method, passed_on)) else {
            if enrolls && forward.port == Port::Main {
                let refused = Status::unimplemented("joining and logging in is the HTTPS port's");
                return Box::pin(async move { Ok(refused.into_http()) });
            }
            return Box::pin(inner.call(request));
        };
        let folded = FOLDED.contains(&method);
        let least = match least(&request) {
            Ok(least) => least,
            Err(refused) => return Box::pin(async move { Ok(refused.into_http()) }),
        };
        Box::pin(async move {
            let served = match forward.serves_here(least, passed_on, folded).await {
                Ok(served) => served,
                Err(refused) => return Ok(refused.into_http()),
            };
            if !served {
                match forward.controllers.way().await {
                    Ok(Way::There(leader, channel)) => {
                        return Ok(forward.pass_on(request, leader, channel).await);
                    }
                    // It was elected while somebody waited for whoever would be.
                    Ok(Way::Here) => {}
                    Err(refused) => return Ok(refused.into_http()),
                }
            }
            let mut answer = inner.call(request).await?;
            let seq = forward.ledger.snapshot().head.seq.get();
            answer.headers_mut().insert(SEQ, HeaderValue::from(seq));
            Ok(answer)
        })
    }
}

impl Forward {
    /// Makes whoever a controller asks for the request's peer, and says whether it does. Nobody else
    /// is believed.
    fn on_behalf(&self, request: &mut Request<Body>) -> Result<bool, Status> {
        let Some(told) = request.headers_mut().remove(PEER) else {
            return Ok(false);
        };
        let peer = request.extensions().get::<Peer>();
        let snapshot = self.ledger.snapshot();
        if !peer.is_some_and(|peer| is_controller(&snapshot.fabric, peer)) {
            let subject = peer.and_then(Peer::subject);
            let by = subject.map_or_else(|| Actor("anonymous".into()), Actor::from);
            let from = peer.and_then(Peer::address);
            let from = from.map(|at| at.ip().to_string()).unwrap_or_default();
            self.refusals
                .note(&by, &from, "call", "", "NOT_A_CONTROLLER");
            return Err(kapok_proto::refusal::status(
                Code::PermissionDenied,
                "NOT_A_CONTROLLER",
                "only a controller asks for others",
                std::collections::BTreeMap::new(),
            ));
        }
        let told = told.to_str().ok().and_then(Peer::passed_on);
        // A controller speaks for itself.
        let told = told.filter(|told| !matches!(told.subject(), Some(Subject::Controller(_))));
        let told = told.ok_or_else(|| Status::invalid_argument("kapok-peer: names no peer"))?;
        // Its certificate must be the one that the log knows by that number.
        let shown = told.serial().and_then(|serial| {
            let record = snapshot.fabric.certificates.get(&serial);
            record.map(|record| Some(&record.subject) == told.subject())
        });
        if shown == Some(false) {
            return Err(Status::invalid_argument(
                "kapok-peer: the certificate is another one's",
            ));
        }
        request.extensions_mut().insert(told);
        Ok(true)
    }

    /// Whether this controller answers, once it holds what the caller has seen.
    async fn serves_here(
        &self,
        least: Option<Seq>,
        passed_on: bool,
        folded: bool,
    ) -> Result<bool, Status> {
        let leads = self.leads(passed_on).await;
        if !leads && !folded {
            if passed_on {
                // Who passed it on thinks that this one leads.
                return Err(no_leader(
                    "this controller doesn't lead any more; ask again",
                ));
            }
            return Ok(false);
        }
        let Some(least) = least else {
            return Ok(true);
        };
        if timeout(CATCH_UP, self.holds(least)).await.is_ok() {
            return Ok(true);
        }
        if !leads && !passed_on {
            return Ok(false);
        }
        Err(unavailable(
            "BEHIND",
            "the log doesn't hold that entry here yet; ask again",
        ))
    }

    /// Waits until an entry is folded here.
    async fn holds(&self, seq: Seq) {
        let mut changes = self.ledger.changes();
        let holds = changes.wait_for(|snapshot| snapshot.head.seq >= seq);
        let gone = holds.await.is_err();
        if gone {
            std::future::pending::<()>().await;
        }
    }

    /// Whether this one leads. One that is asked as the leader may have been elected a moment ago.
    async fn leads(&self, passed_on: bool) -> bool {
        if !passed_on {
            return self.controllers.leads();
        }
        let mut role = self.controllers.role();
        let leads = role.wait_for(|role| *role == Role::Leads);
        timeout(CATCH_UP, leads).await.is_ok_and(|led| led.is_ok())
    }

    /// Asks the one that leads, and gives back what it answers.
    async fn pass_on(
        &self,
        mut request: Request<Body>,
        leader: Candidate,
        channel: Channel,
    ) -> Response<Body> {
        let nobody = Peer::anonymous(None);
        let peer = request.extensions().get::<Peer>().unwrap_or(&nobody);
        let Ok(told) = HeaderValue::from_str(&peer.told()) else {
            return Status::internal("the peer can't be told").into_http();
        };
        request.headers_mut().insert(PEER, told);
        let mut role = self.controllers.role();
        let leads_no_more =
            role.wait_for(|role| !matches!(role, Role::Follows(it) if *it == leader));
        let answer = tokio::select! {
            biased;
            answer = channel.oneshot(request) => answer.map_err(|error| {
                debug!(%leader, %error, "a request that was passed on came to nothing");
            }),
            _ = leads_no_more => Err(()),
        };
        if let Ok(answer) = answer {
            // Who is answered here may ask here next, and is to find what they did.
            let seq = answer.headers().get(SEQ).and_then(seq);
            if let Some(seq) = seq {
                let _in_time = timeout(CATCH_UP, self.holds(seq)).await;
            }
            return answer;
        }
        self.controllers.lost(&leader).await;
        lost().into_http()
    }
}

/// Whether a peer is a controller that the fabric trusts.
pub(crate) fn is_controller(fabric: &Fabric, peer: &Peer) -> bool {
    let is_one = matches!(peer.subject(), Some(Subject::Controller(_)));
    let trusted =
        |serial| fabric.certificates.contains_key(&serial) && !fabric.revoked.contains(&serial);
    // Without a number, the transport itself knows.
    is_one && peer.serial().is_none_or(trusted)
}

/// The entry that the answer must hold.
fn least(request: &Request<Body>) -> Result<Option<Seq>, Status> {
    let Some(least) = request.headers().get(MIN_SEQ) else {
        return Ok(None);
    };
    let least = seq(least);
    let least = least.ok_or_else(|| Status::invalid_argument("kapok-min-seq: is no number"))?;
    Ok(Some(least))
}

fn seq(value: &HeaderValue) -> Option<Seq> {
    value.to_str().ok()?.parse().ok().map(Seq)
}

/// What somebody is told whose request was under way when the leader went.
fn lost() -> Status {
    unavailable(
        "LEADER_LOST",
        "the controller that leads went away while it was asked; what was asked may have happened: ask \
         again with the same request id",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nothing is reached by way of a follower's port that isn't served there by the one that leads.
    #[test]
    fn a_port_passes_on_what_is_its_own() {
        let tenants = "TenantService/GetTenant";
        let login = "EnrollService/Login";
        let report = "FollowerService/Report";
        for (port, method, passed_on, expected) in [
            (Port::Https, login, false, true),
            (Port::Https, tenants, false, false),
            (Port::Https, report, false, false),
            (Port::Main, tenants, false, true),
            (Port::Main, tenants, true, true),
            (Port::Main, login, false, false),
            (Port::Main, login, true, true),
            (Port::Main, report, false, false),
        ] {
            let serves = port.serves(method, passed_on);
            assert_eq!(serves, expected, "{port:?} {method} {passed_on}");
        }
    }
}
