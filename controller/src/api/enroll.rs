//! How one gets a certificate: with a token, or by the identity provider's word. Served on the
//! HTTPS port, to whoever connects.
//!
//! A controller's certificate opens the authorities' keys. So nobody gets one that names the
//! controller which leads: it would end that one's own.
//!
//! Every refusal of a proof looks the same from outside. Each refusal, whatever it is for, is noted
//! with its reason for the audit in one place, and counts against the address that it came from.

use std::{net::IpAddr, time::Duration};

use kapok_proto::{
    fabric::v1::{
        GetFabricRequest, GetFabricResponse, JoinControllerRequest, JoinControllerResponse,
        JoinNodeRequest, JoinNodeResponse, LoginRequest, LoginResponse,
        enroll_service_server::EnrollService, login_request::Proof,
    },
    refusal,
};
use kapok_trust::{Csr, Peer, Subject, Token, TokenId};
use kapok_types::{NodeId, Timestamp};
use tonic::{Request, Response, Status};

use super::{Api, caller::parsed, status};
use crate::{
    fabric::{
        Actor, Command, Denied, External, Fabric, HostFingerprint, Origin, Outcome, Scope,
        TokenSubject, TokenUse, city,
        command::{Grounds, JoinNode},
    },
    ledger,
    limits::too_fast,
    oidc,
};

/// The longest life that anybody is given: 90 days.
const LONGEST_LIFE: Duration = Duration::from_hours(90 * 24);
/// The shortest that one may wish for.
const SHORTEST_LIFE: Duration = Duration::from_secs(10);
/// Longest request for a certificate, in bytes.
const MAX_CSR_BYTES: usize = 8 * 1024;

/// Who did something before they have shown who they are.
const NOBODY: &str = "anonymous";

/// Somebody who is not let in: what they are told, and what the audit is.
#[derive(Debug)]
struct Refused {
    status: Status,
    object: String,
    reason: String,
}

#[tonic::async_trait]
impl EnrollService for Api {
    async fn get_fabric(
        &self,
        _: Request<GetFabricRequest>,
    ) -> Result<Response<GetFabricResponse>, Status> {
        let provider = self.oidc.as_ref().map(|provider| provider.config());
        let provider = provider.cloned();
        Ok(Response::new(GetFabricResponse {
            fabric: self.trust.fabric().to_string(),
            oidc_issuer: provider
                .as_ref()
                .map(|it| it.issuer.clone())
                .unwrap_or_default(),
            oidc_client_id: provider
                .as_ref()
                .map(|it| it.client_id.clone())
                .unwrap_or_default(),
            oidc_scopes: provider.map(|it| it.scopes).unwrap_or_default(),
        }))
    }

    async fn join_node(
        &self,
        request: Request<JoinNodeRequest>,
    ) -> Result<Response<JoinNodeResponse>, Status> {
        let from = address(&request);
        let joined = self.join(from, request.into_inner()).await;
        joined.map_err(|refused| self.refuse(from, "node.join", refused))
    }

    async fn join_controller(
        &self,
        request: Request<JoinControllerRequest>,
    ) -> Result<Response<JoinControllerResponse>, Status> {
        let from = address(&request);
        let joined = self.take_in(from, request.into_inner()).await;
        joined.map_err(|refused| self.refuse(from, "controller.join", refused))
    }

    async fn login(
        &self,
        request: Request<LoginRequest>,
    ) -> Result<Response<LoginResponse>, Status> {
        let from = address(&request);
        let logged_in = self.log_in(from, request.into_inner()).await;
        logged_in.map_err(|refused| self.refuse(from, "login", refused))
    }
}

impl Api {
    async fn join(
        &self,
        from: Option<IpAddr>,
        request: JoinNodeRequest,
    ) -> Result<Response<JoinNodeResponse>, Refused> {
        let JoinNodeRequest {
            token,
            csr_pem,
            node_id,
            address,
            fingerprint,
        } = request;
        let attempt = self.attempts.begin(from).map_err(too_fast)?;
        let token = self.token(&token)?;
        let snapshot = self.ledger.snapshot();
        let known = self.good(&snapshot.fabric, token)?;
        let known = known.subject.clone();
        let TokenSubject::Node(named) = &known else {
            return Err(Refused::token(Some(token.id), of_another(&known)));
        };
        let id: NodeId = parsed("node_id", &node_id)?;
        let csr = csr(&csr_pem)?;
        let address = reached_at(&address, from)?;
        let host = HostFingerprint::new(fingerprint)
            .map_err(|violation| status::bad_fields(&[violation]))?;
        let issued = self
            .trust
            .issue(
                &snapshot.fabric,
                &csr,
                Subject::Node(id),
                self.trust.lives().node,
            )
            .map_err(|error| status::trust(&error))?;
        let command = Command::JoinNode(Box::new(JoinNode {
            token,
            id,
            address,
            host,
            vcpu_overcommit_permille: self.default_vcpu_overcommit_permille,
            certificate: issued.record().clone(),
        }));
        let by = Actor::from(&Subject::Node(id));
        let done = self.submit_enrolled(by, from, token.id, command).await?;
        attempt.succeeded();
        let fabric = &done.snapshot.fabric;
        let name = fabric.node_by_id(id).map(|node| node.name.to_string());
        let name = name.unwrap_or_else(|| named.to_string());
        if let Outcome::HostChanged(_) = done.outcome {
            let mut refused = Refused::from(status::fingerprint_changed(&name));
            refused.object = format!("node/{name}");
            return Err(refused);
        }
        let given = self
            .trust
            .release(issued, &done.snapshot)
            .map_err(|error| status::trust(&error))?;
        Ok(Response::new(JoinNodeResponse {
            credential: Some(given.into()),
            name,
            controllers: self.controllers.addresses(),
        }))
    }

    /// A server becomes the controller that its token names.
    async fn take_in(
        &self,
        from: Option<IpAddr>,
        request: JoinControllerRequest,
    ) -> Result<Response<JoinControllerResponse>, Refused> {
        let JoinControllerRequest { token, csr_pem } = request;
        let attempt = self.attempts.begin(from).map_err(too_fast)?;
        let token = self.token(&token)?;
        let snapshot = self.ledger.snapshot();
        let known = &self.good(&snapshot.fabric, token)?.subject;
        let (TokenSubject::Controller(name), Some(subject)) = (known, known.named()) else {
            return Err(Refused::token(Some(token.id), of_another(known)));
        };
        if self.is_own(&subject) {
            let reason = format!("is for {subject}, which leads; make one with another name");
            return Err(status::bad_field("token", reason).into());
        }
        let csr = csr(&csr_pem)?;
        let life = self.trust.lives().controller;
        let issued = self
            .trust
            .issue(&snapshot.fabric, &csr, subject.clone(), life)
            .map_err(|error| status::trust(&error))?;
        let command = Command::RecordCertificate {
            certificate: issued.record().clone(),
            grounds: Grounds::Token(token),
        };
        // By its name: it isn't the controller that speaks for the fabric.
        let by = Actor(subject.to_string().into());
        let done = self.submit_enrolled(by, from, token.id, command).await?;
        attempt.succeeded();
        let given = self
            .trust
            .release(issued, &done.snapshot)
            .map_err(|error| status::trust(&error))?;
        let leader = self.trust.credentials().certificate();
        let leader = match leader.subject() {
            Subject::Controller(name) => name.to_string(),
            _ => String::new(),
        };
        Ok(Response::new(JoinControllerResponse {
            credential: Some(given.into()),
            name: name.to_string(),
            leader_address: self.advertise.clone(),
            leader_name: leader,
        }))
    }

    /// Whether this is the controller that answers, which leads.
    pub(super) fn is_own(&self, subject: &Subject) -> bool {
        self.trust.credentials().certificate().subject() == subject
    }

    async fn log_in(
        &self,
        from: Option<IpAddr>,
        request: LoginRequest,
    ) -> Result<Response<LoginResponse>, Refused> {
        let LoginRequest {
            csr_pem,
            proof,
            oidc_nonce,
            life_seconds,
        } = request;
        let attempt = self.attempts.begin(from).map_err(too_fast)?;
        let csr = csr(&csr_pem)?;
        let wished = wished_life(life_seconds)?;
        let (subject, grounds, ends, token) = match proof {
            Some(Proof::Token(text)) => {
                let token = self.token(&text)?;
                let fabric = &self.ledger.snapshot().fabric;
                let known = self.good(fabric, token)?;
                let Some(subject) = known.subject.person() else {
                    let reason = of_another(&known.subject);
                    return Err(Refused::token(Some(token.id), reason));
                };
                let machine = matches!(subject, Subject::Machine(_));
                let ends = machine.then_some(known.expires_at);
                (subject, Grounds::Token(token), ends, Some(token.id))
            }
            Some(Proof::OidcIdToken(text)) => {
                let (subject, external) = self.vouched(&text, &oidc_nonce, &csr).await?;
                (subject, Grounds::External(external), None, None)
            }
            None => return Err(status::bad_field("proof", "must be stated").into()),
        };
        let life = self.life(&subject, wished, ends);
        let snapshot = self.ledger.snapshot();
        let issued = self
            .trust
            .issue(&snapshot.fabric, &csr, subject.clone(), life)
            .map_err(|error| status::trust(&error))?;
        let command = Command::RecordCertificate {
            certificate: issued.record().clone(),
            grounds,
        };
        let by = Actor::from(&subject);
        let done = if let Some(token) = token {
            self.submit_enrolled(by, from, token, command).await?
        } else {
            let done = self.ledger.submit(origin(by, from), None, command).await;
            done.map_err(|error| status::ledger(&error))?
        };
        attempt.succeeded();
        let given = self
            .trust
            .release(issued, &done.snapshot)
            .map_err(|error| status::trust(&error))?;
        Ok(Response::new(LoginResponse {
            credential: Some(given.into()),
            controllers: self.controllers.addresses(),
        }))
    }

    /// The life that somebody's certificate is given: their wish or the default, within the limit
    /// and the end of the token that it goes back to.
    pub(super) fn life(
        &self,
        subject: &Subject,
        wished: Option<Duration>,
        ends: Option<Timestamp>,
    ) -> Duration {
        let lives = self.trust.lives();
        let default = match subject {
            Subject::Machine(_) => lives.machine,
            _ => lives.person,
        };
        let life = wished.unwrap_or(default).min(LONGEST_LIFE);
        let left = ends.map(|end| Duration::from_millis(end.millis_since(self.env.now())));
        left.map_or(life, |left| life.min(left))
    }

    /// The token that a text holds, if it is one of this fabric.
    fn token(&self, text: &str) -> Result<TokenUse, Refused> {
        let token: Option<Token> = text.parse().ok();
        let Some(token) = token.filter(|token| token.fabric() == self.trust.fabric()) else {
            return Err(Refused::token(None, "NO_TOKEN"));
        };
        Ok(TokenUse {
            id: token.id(),
            hash: token.secret_hash(),
        })
    }

    /// The record of a token that is good now. The ledger looks again: of two at once one wins.
    fn good<'f>(
        &self,
        fabric: &'f Fabric,
        token: TokenUse,
    ) -> Result<&'f crate::fabric::EnrollToken, Refused> {
        let now = self.env.now();
        fabric
            .token(&token, now)
            .map_err(|_| Refused::token(Some(token.id), why(fabric, &token, now)))
    }

    /// Whom the identity provider's word names, if it was given for this key and the fabric knows
    /// them.
    async fn vouched(
        &self,
        id_token: &str,
        nonce: &str,
        csr: &Csr,
    ) -> Result<(Subject, External), Refused> {
        let Some(provider) = &self.oidc else {
            return Err(status::status(
                tonic::Code::FailedPrecondition,
                "NO_OIDC",
                "this fabric has no identity provider; log in with a token",
                &[],
            )
            .into());
        };
        // Whoever has seen somebody's ID token has not their key.
        if nonce != csr.nonce() {
            let told = status::login_refused();
            return Err(Refused::oidc(told, "NONCE_OF_ANOTHER_KEY"));
        }
        let verified = match provider.verify(id_token, nonce).await {
            Ok(verified) => verified,
            Err(error) => {
                let told = status::oidc(&error);
                return Err(match error {
                    oidc::Error::Refused { .. } => Refused::oidc(told, "ID_TOKEN_REFUSED"),
                    _ => told.into(),
                });
            }
        };
        let external = External {
            issuer: verified.issuer,
            subject: verified.subject,
        };
        let snapshot = self.ledger.snapshot();
        let Some(user) = snapshot.fabric.user_by_external(&external) else {
            return Err(Refused::oidc(status::login_refused(), "UNKNOWN_USER"));
        };
        Ok((user.subject.clone(), external))
    }

    async fn submit_enrolled(
        &self,
        by: Actor,
        from: Option<IpAddr>,
        token: TokenId,
        command: Command,
    ) -> Result<ledger::Done, Refused> {
        let done = self.ledger.submit(origin(by, from), None, command).await;
        done.map_err(|error| match error {
            ledger::Error::Denied(Denied::TokenRefused) => Refused::token(Some(token), "USED_UP"),
            error => Refused {
                object: format!("token/{token}"),
                ..status::ledger(&error).into()
            },
        })
    }

    /// Notes a refusal, and tells it. Whoever is refused has not shown who they are.
    fn refuse(&self, from: Option<IpAddr>, action: &str, refused: Refused) -> Status {
        let Refused {
            status,
            object,
            reason,
        } = refused;
        let nobody = Actor(NOBODY.into());
        let refusals = &self.audit.refusals;
        refusals.note(&nobody, &text(from), action, &object, &reason);
        status
    }
}

impl Refused {
    /// Of a token, in the one way that is seen outside.
    fn token(token: Option<TokenId>, reason: &str) -> Self {
        Self {
            status: status::denied(&Denied::TokenRefused),
            object: token.map_or_else(|| "token".to_owned(), |token| format!("token/{token}")),
            reason: reason.to_owned(),
        }
    }

    /// Of the identity provider's word.
    fn oidc(status: Status, reason: &str) -> Self {
        Self {
            status,
            object: "oidc".to_owned(),
            reason: reason.to_owned(),
        }
    }
}

impl From<Status> for Refused {
    /// For the reason that is told.
    fn from(status: Status) -> Self {
        let reason = refusal::reason(&status).unwrap_or_else(|| status.code().to_string());
        Self {
            status,
            object: String::new(),
            reason,
        }
    }
}

/// Why a token isn't good: for the audit alone.
fn why(fabric: &Fabric, shown: &TokenUse, now: Timestamp) -> &'static str {
    match fabric.tokens.get(&shown.id) {
        None => "UNKNOWN_TOKEN",
        Some(token) if token.hash != shown.hash => "WRONG_SECRET",
        Some(token) if now >= token.expires_at => "ENDED",
        Some(_) => "USED_UP",
    }
}

/// Why a token of another kind isn't good: for the audit alone.
fn of_another(subject: &TokenSubject) -> &'static str {
    match subject {
        TokenSubject::Node(_) => "TOKEN_OF_A_NODE",
        TokenSubject::User(_) => "TOKEN_OF_A_PERSON",
        TokenSubject::Machine(_) => "TOKEN_OF_A_MACHINE",
        TokenSubject::Controller(_) => "TOKEN_OF_A_CONTROLLER",
    }
}

/// The life that was wished for; 0 means the default.
pub(super) fn wished_life(seconds: u64) -> Result<Option<Duration>, Status> {
    let wished = Duration::from_secs(seconds);
    if seconds == 0 {
        return Ok(None);
    }
    if wished < SHORTEST_LIFE {
        return Err(status::bad_field(
            "life_seconds",
            format!("is {seconds}; must be at least {}", SHORTEST_LIFE.as_secs()),
        ));
    }
    Ok(Some(wished))
}

/// A request for a certificate, of which the key is taken and nothing else.
pub(super) fn csr(pem: &str) -> Result<Csr, Status> {
    if pem.len() > MAX_CSR_BYTES {
        let reason = format!(
            "has {} bytes; at most {MAX_CSR_BYTES} are allowed",
            pem.len()
        );
        return Err(status::bad_field("csr_pem", reason));
    }
    Csr::parse(pem).map_err(|error| status::bad_field("csr_pem", error.to_string()))
}

/// Where a request came from, without the port, which is another one each time.
pub(super) fn address<T>(request: &Request<T>) -> Option<IpAddr> {
    let peer = request.extensions().get::<Peer>()?;
    Some(peer.address()?.ip().to_canonical())
}

/// The same as the log has it.
pub(super) fn text(from: Option<IpAddr>) -> String {
    from.map(|address| address.to_string()).unwrap_or_default()
}

fn origin(by: Actor, from: Option<IpAddr>) -> Origin {
    Origin {
        by,
        from: text(from),
        home: city(),
        scope: Scope::Everything,
        trace: None,
    }
}

/// Where a node's agent is reached: as it says, or at the address that it came from.
fn reached_at(stated: &str, from: Option<IpAddr>) -> Result<String, Status> {
    let Some(port) = stated.strip_prefix(':') else {
        return Ok(stated.to_owned());
    };
    match from {
        Some(IpAddr::V4(ip)) => Ok(format!("{ip}:{port}")),
        Some(IpAddr::V6(ip)) => Ok(format!("[{ip}]:{port}")),
        None => Err(status::bad_field("address", "must have the form HOST:PORT")),
    }
}
