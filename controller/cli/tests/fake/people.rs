//! The fake's answers about people: users, tokens, certificates, rights, the audit.

use std::time::Duration;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
use kapok_proto::fabric::v1::{
    audit_service_server::AuditService, auth_service_server::AuthService,
    certificate_service_server::CertificateService, enroll_service_server::EnrollService,
    tenant_service_server::TenantService, token_service_server::TokenService,
    user_service_server::UserService, *,
};
use kapok_proto::refusal;
use kapok_store::Chain;
use kapok_trust::{Csr, Peer};
use tonic::{Code, Request, Response, Status};

use super::{Answer, Answers, Fake, stream, unscripted};

/// What the new token's text is.
pub const SECRET: &str = "kapok1.city.c2VjcmV0LW9mLXRoZS1uZXctdG9rZW4";

fn csr(pem: &str) -> Result<Csr, Status> {
    Csr::parse(pem).map_err(|error| Status::invalid_argument(error.to_string()))
}

fn subject<T>(request: &Request<T>) -> Result<String, Status> {
    let peer = request.extensions().get::<Peer>().and_then(Peer::subject);
    peer.map(ToString::to_string)
        .ok_or_else(|| Status::unauthenticated("nobody"))
}

#[tonic::async_trait]
impl EnrollService for Fake {
    async fn join_controller(
        &self,
        _: Request<JoinControllerRequest>,
    ) -> Answer<JoinControllerResponse> {
        unscripted()
    }

    async fn get_fabric(&self, _: Request<GetFabricRequest>) -> Answer<GetFabricResponse> {
        Ok(Response::new(GetFabricResponse {
            fabric: "city".into(),
            oidc_issuer: self.1.issuer.lock().unwrap().clone(),
            oidc_client_id: "kapok".into(),
            oidc_scopes: vec!["openid".into(), "profile".into()],
        }))
    }

    async fn join_node(&self, _: Request<JoinNodeRequest>) -> Answer<JoinNodeResponse> {
        unscripted()
    }

    /// The token works once; of an ID token only its nonce is looked at: what it is worth is
    /// tested where it is verified.
    async fn login(&self, request: Request<LoginRequest>) -> Answer<LoginResponse> {
        use login_request::Proof;
        let request = request.into_inner();
        let csr = csr(&request.csr_pem)?;
        let refused = |why: &str| refusal::status(Code::Unauthenticated, why, why, [].into());
        let mut seen = self.seen();
        let subject = match request.proof.as_ref().unwrap() {
            Proof::Token(text) => {
                if *text != *self.1.token.reveal() || !seen.logins.is_empty() {
                    return Err(refused("TOKEN_REFUSED"));
                }
                "user/eve".to_owned()
            }
            Proof::OidcIdToken(token) => {
                let payload = token.split('.').nth(1).unwrap();
                let payload = BASE64.decode(payload).unwrap();
                let payload: serde_json::Value = serde_json::from_slice(&payload).unwrap();
                if payload["nonce"] != request.oidc_nonce.as_str() {
                    return Err(refused("LOGIN_REFUSED"));
                }
                format!("user/{}", payload["sub"].as_str().unwrap())
            }
        };
        seen.logins.push(request);
        let life = Duration::from_hours(12);
        Ok(Response::new(LoginResponse {
            credential: Some(self.1.issue(&csr, &subject, life, Duration::ZERO)),
            controllers: vec![self.1.address.lock().unwrap().clone()],
        }))
    }
}

#[tonic::async_trait]
impl AuthService for Fake {
    async fn who_am_i(&self, request: Request<WhoAmIRequest>) -> Answer<WhoAmIResponse> {
        let peer = request.extensions().get::<Peer>().unwrap();
        let certificate = peer.certificate().unwrap();
        let grant = Grant {
            role: Role::TenantMember.into(),
            tenant: "water".into(),
        };
        Ok(Response::new(WhoAmIResponse {
            subject: certificate.subject().to_string(),
            serial: certificate.serial.to_string(),
            expire_time: Some(kapok_proto::convert::timestamp(certificate.not_after)),
            grants: vec![grant],
            home_tenant: "water".into(),
            fabric: certificate.identity.fabric.to_string(),
            renewal_due: true,
        }))
    }

    async fn explain_access(
        &self,
        request: Request<ExplainAccessRequest>,
    ) -> Answer<ExplainAccessResponse> {
        let request = request.into_inner();
        Ok(Response::new(ExplainAccessResponse {
            allowed: false,
            policies: vec![DecidingPolicy {
                id: "auditors-change-nothing".into(),
                forbids: true,
                source: "built-in".into(),
                text: "forbid (principal, action, resource);".into(),
            }],
            summary: format!(
                "{:?} may not {} {}",
                request.principal, request.action, request.object
            ),
        }))
    }
}

#[tonic::async_trait]
impl TokenService for Fake {
    /// For "user/unlucky", the answer with the secret got lost.
    async fn create_token(
        &self,
        request: Request<CreateTokenRequest>,
    ) -> Answer<CreateTokenResponse> {
        let request = request.into_inner();
        let lost = request.subject == "user/unlucky";
        let token = Token {
            id: "0190d6b4-6f5e-7c3a-8b1e-2f6d1c9a0b11".into(),
            subject: request.subject.clone(),
            one_use: true,
            ..Token::default()
        };
        self.seen().tokens.push(request);
        Ok(Response::new(CreateTokenResponse {
            token: Some(token),
            text: if lost { String::new() } else { SECRET.into() },
        }))
    }

    async fn list_tokens(&self, _: Request<ListTokensRequest>) -> Answer<ListTokensResponse> {
        unscripted()
    }

    async fn delete_token(
        &self,
        request: Request<DeleteTokenRequest>,
    ) -> Answer<DeleteTokenResponse> {
        self.changed(&request.into_inner());
        Ok(Response::new(DeleteTokenResponse {}))
    }
}

#[tonic::async_trait]
impl CertificateService for Fake {
    async fn renew_certificate(
        &self,
        request: Request<RenewCertificateRequest>,
    ) -> Answer<Credential> {
        let subject = subject(&request)?;
        let request = request.into_inner();
        let csr = csr(&request.csr_pem)?;
        self.seen().renewals += 1;
        let life = Duration::from_secs(request.life_seconds);
        Ok(Response::new(self.1.issue(
            &csr,
            &subject,
            life,
            Duration::ZERO,
        )))
    }

    async fn list_certificates(
        &self,
        _: Request<ListCertificatesRequest>,
    ) -> Answer<ListCertificatesResponse> {
        unscripted()
    }

    async fn revoke_certificate(
        &self,
        request: Request<RevokeCertificateRequest>,
    ) -> Answer<Certificate> {
        let request = request.into_inner();
        self.changed(&request);
        Ok(Response::new(Certificate {
            serial: request.serial,
            subject: "user/eve".into(),
            ..Certificate::default()
        }))
    }

    async fn list_authorities(
        &self,
        _: Request<ListAuthoritiesRequest>,
    ) -> Answer<ListAuthoritiesResponse> {
        Ok(Response::new(ListAuthoritiesResponse {
            authorities: vec![Authority {
                fingerprint: self.1.authority.fingerprint().to_string(),
                state: AuthorityState::Active.into(),
                ..Authority::default()
            }],
        }))
    }

    async fn rotate_authority(&self, _: Request<RotateAuthorityRequest>) -> Answer<Authority> {
        unscripted()
    }
}

#[tonic::async_trait]
impl UserService for Fake {
    async fn create_user(&self, request: Request<CreateUserRequest>) -> Answer<User> {
        let request = request.into_inner();
        self.changed(&request);
        Ok(Response::new(User {
            subject: request.subject,
            grants: request.grants,
            ..User::default()
        }))
    }

    async fn get_user(&self, _: Request<GetUserRequest>) -> Answer<User> {
        unscripted()
    }

    async fn list_users(&self, _: Request<ListUsersRequest>) -> Answer<ListUsersResponse> {
        let message = "user/ada may not user.list";
        Err(refusal::status(
            Code::PermissionDenied,
            "FORBIDDEN",
            message,
            [].into(),
        ))
    }

    async fn update_user(&self, request: Request<UpdateUserRequest>) -> Answer<User> {
        let request = request.into_inner();
        self.changed(&request);
        Ok(Response::new(User {
            subject: request.user,
            grants: request.grant,
            disabled: request.disabled.unwrap_or_default(),
            ..User::default()
        }))
    }

    async fn delete_user(&self, request: Request<DeleteUserRequest>) -> Answer<DeleteUserResponse> {
        self.changed(&request.into_inner());
        Ok(Response::new(DeleteUserResponse {}))
    }
}

#[tonic::async_trait]
impl TenantService for Fake {
    async fn create_tenant(&self, request: Request<CreateTenantRequest>) -> Answer<Tenant> {
        let request = request.into_inner();
        self.changed(&request);
        Ok(Response::new(Tenant {
            name: request.name,
            display_name: request.display_name,
            parent: "city".into(),
            ..Tenant::default()
        }))
    }

    /// Somebody below it sees no numbers; somebody in it does.
    async fn get_tenant(&self, request: Request<GetTenantRequest>) -> Answer<Tenant> {
        let name = request.into_inner().tenant;
        if name == "city" {
            return Ok(Response::new(Tenant {
                name,
                ..Tenant::default()
            }));
        }
        Ok(Response::new(Tenant {
            name,
            quota: Some(Quota {
                vcpus: Some(64),
                ..Quota::default()
            }),
            reserved: Some(Amounts::default()),
            usage: Some(TenantUsage::default()),
            ..Tenant::default()
        }))
    }

    /// Its quota is lower than what it has.
    async fn update_tenant(&self, request: Request<UpdateTenantRequest>) -> Answer<Tenant> {
        let request = request.into_inner();
        self.changed(&request);
        let lowered = request.quota.and_then(|quota| quota.vcpus);
        let over = lowered.map(|_| Overcommitted {
            dimension: Dimension::Vcpus.into(),
            amount: 2,
        });
        Ok(Response::new(Tenant {
            name: request.tenant,
            overcommitted: over.into_iter().collect(),
            ..Tenant::default()
        }))
    }

    async fn delete_tenant(
        &self,
        request: Request<DeleteTenantRequest>,
    ) -> Answer<DeleteTenantResponse> {
        self.changed(&request.into_inner());
        Ok(Response::new(DeleteTenantResponse {}))
    }

    async fn list_tenants(&self, _: Request<ListTenantsRequest>) -> Answer<ListTenantsResponse> {
        unscripted()
    }
}

#[tonic::async_trait]
impl AuditService for Fake {
    type ExportAuditStream = Answers<ExportAuditResponse>;

    /// As many entries as asked for, downwards.
    async fn list_audit(&self, request: Request<ListAuditRequest>) -> Answer<ListAuditResponse> {
        let request = request.into_inner();
        let begin: u64 = request.page_token.parse().unwrap_or(1000);
        let end = begin - u64::from(request.page_size);
        let entry = |sequence| AuditEntry {
            sequence,
            actor: "user/ada".into(),
            outcome: "refused".into(),
            refused_count: 3,
            ..AuditEntry::default()
        };
        Ok(Response::new(ListAuditResponse {
            entries: (end..begin).rev().map(entry).collect(),
            next_page_token: end.to_string(),
        }))
    }

    /// A real chain of nine entries, in pieces; the connection breaks after four.
    async fn export_audit(
        &self,
        request: Request<ExportAuditRequest>,
    ) -> Answer<Answers<ExportAuditResponse>> {
        let after = request.into_inner().after_sequence;
        let payloads = (1..=9).map(|n| format!("{{\"version\":1,\"n\":{n}}}").into());
        let entries = Chain::default().seal(payloads.collect());
        let raw = |entry: &kapok_store::Entry| RawEntry {
            sequence: entry.seq.get(),
            previous_hash: entry.prev.to_string(),
            hash: entry.hash.to_string(),
            payload: entry.payload.clone(),
        };
        let entries: Vec<_> = entries.into_iter().collect();
        let wanted = entries.iter().filter(|entry| entry.seq.get() > after);
        let wanted: Vec<_> = wanted.map(raw).collect();
        let pieces = wanted.chunks(2).map(|piece| {
            Ok(ExportAuditResponse {
                entries: piece.to_vec(),
            })
        });
        let mut pieces: Vec<_> = pieces.collect();
        if after == 0 {
            pieces.truncate(2);
            pieces.push(Err(Status::unavailable("going down")));
        }
        Ok(stream(pieces))
    }

    async fn verify_audit(&self, _: Request<VerifyAuditRequest>) -> Answer<VerifyAuditResponse> {
        Ok(Response::new(VerifyAuditResponse {
            sound: false,
            entries: 120,
            first_sequence: 1,
            last_sequence: 120,
            heads: 3,
            unasked_nodes: vec!["rack1-b".into()],
            faults: vec![AuditFault {
                sequence: 77,
                kind: "edited".into(),
                message: "its content isn't what its hash says".into(),
            }],
        }))
    }
}
