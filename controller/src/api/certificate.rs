//! Certificates that the fabric has issued, and the authorities behind them.

use std::ops::Bound;

use kapok_proto::{
    convert::timestamp,
    fabric::v1::{
        self as wire, Authority, Certificate, Credential, ListAuthoritiesRequest,
        ListAuthoritiesResponse, ListCertificatesRequest, ListCertificatesResponse,
        RenewCertificateRequest, RevokeCertificateRequest, RotateAuthorityRequest,
        certificate_service_server::CertificateService,
    },
    refusal,
};
use kapok_trust::Serial;
use kapok_types::Timestamp;
use tonic::{Request, Response, Status};

use super::{
    Api,
    caller::{Caller, absent, optional_key, parsed, request_id},
    enroll::{csr, wished_life},
    page::Page,
    status,
};
use crate::{
    authz::{Action, Object},
    fabric::{
        AuthorityRecord, AuthorityState, CertificateRecord, Command, Fabric, command::Grounds,
    },
    ledger, trust,
};

#[tonic::async_trait]
impl CertificateService for Api {
    async fn renew_certificate(
        &self,
        request: Request<RenewCertificateRequest>,
    ) -> Result<Response<Credential>, Status> {
        let caller = self.caller(&request)?;
        self.authorize(&caller, Action::CertificateRenew, &Object::Fabric, "")?;
        let RenewCertificateRequest {
            csr_pem,
            life_seconds,
        } = request.into_inner();
        let csr = csr(&csr_pem)?;
        let wished = wished_life(life_seconds)?;
        let snapshot = self.ledger.snapshot();
        let present = caller
            .serial
            .and_then(|serial| snapshot.fabric.certificates.get(&serial))
            .ok_or_else(|| absent("certificate", "of the caller"))?;
        // A program's certificates end with the token that they go back to.
        let token = present.token.filter(|_| !is_person(&present.subject));
        let ends = token
            .and_then(|token| snapshot.fabric.tokens.get(&token))
            .map(|token| token.expires_at);
        let life = self.life(&present.subject, wished, ends);
        let issued = self
            .trust
            .issue(&snapshot.fabric, &csr, present.subject.clone(), life)
            .map_err(|error| status::trust(&error))?;
        let command = Command::RecordCertificate {
            certificate: issued.record().clone(),
            grounds: Grounds::Renewal(present.serial),
        };
        let done = self.submit(caller, None, command).await?;
        let given = self
            .trust
            .release(issued, &done.snapshot)
            .map_err(|error| status::trust(&error))?;
        Ok(Response::new(given.into()))
    }

    async fn list_certificates(
        &self,
        request: Request<ListCertificatesRequest>,
    ) -> Result<Response<ListCertificatesResponse>, Status> {
        let caller = self.caller(&request)?;
        self.authorize(&caller, Action::CertificateList, &Object::Fabric, "")?;
        let ListCertificatesRequest {
            subject_prefix,
            page_size,
            page_token,
        } = request.into_inner();
        let prefix = optional_key("subject_prefix", subject_prefix)?;
        let page = Page::new(format!("certificates {prefix}"), page_size, &page_token)?;
        let from = match &page.after {
            Some(last) => Bound::Excluded(parsed::<Serial>("page_token", last)?),
            None => Bound::Unbounded,
        };
        let now = self.env.now();
        let snapshot = self.ledger.snapshot();
        let shown = snapshot
            .fabric
            .certificates
            .range((from, Bound::Unbounded))
            .filter(|(_, record)| now < record.not_after)
            .filter(|(_, record)| record.subject.to_string().starts_with(&prefix));
        let (certificates, next_page_token) =
            page.take(shown.map(|(serial, record)| (serial.to_string(), certificate(record))));
        Ok(Response::new(ListCertificatesResponse {
            certificates,
            next_page_token,
        }))
    }

    async fn revoke_certificate(
        &self,
        request: Request<RevokeCertificateRequest>,
    ) -> Result<Response<Certificate>, Status> {
        let caller = self.caller(&request)?;
        self.authorize(&caller, Action::CertificateRevoke, &Object::Fabric, "")?;
        let RevokeCertificateRequest {
            serial,
            reason,
            request_id: id,
        } = request.into_inner();
        let id = request_id(&id)?;
        let serial: Serial = parsed("serial", &serial)?;
        let command = Command::RevokeCertificate { serial, reason };
        let done = self.submit(caller, id, command).await?;
        let record = done.snapshot.fabric.certificates.get(&serial);
        let record = record.ok_or_else(|| absent("certificate", &serial.to_string()))?;
        Ok(Response::new(certificate(record)))
    }

    async fn list_authorities(
        &self,
        request: Request<ListAuthoritiesRequest>,
    ) -> Result<Response<ListAuthoritiesResponse>, Status> {
        let caller = self.caller(&request)?;
        self.authorize(&caller, Action::AuthorityList, &Object::Fabric, "")?;
        let snapshot = self.ledger.snapshot();
        let fabric = &snapshot.fabric;
        let now = self.env.now();
        let mut records: Vec<_> = fabric.authorities.values().collect();
        records.sort_by_key(|record| {
            let age = std::cmp::Reverse(record.since);
            (record.state != AuthorityState::Active, age)
        });
        let authorities = records
            .into_iter()
            .map(|record| authority(fabric, record, now))
            .collect();
        Ok(Response::new(ListAuthoritiesResponse { authorities }))
    }

    async fn rotate_authority(
        &self,
        request: Request<RotateAuthorityRequest>,
    ) -> Result<Response<Authority>, Status> {
        let caller = self.caller(&request)?;
        self.authorize(&caller, Action::AuthorityRotate, &Object::Fabric, "")?;
        let id = request_id(&request.into_inner().request_id)?;
        let (trust, ledger) = (self.trust.clone(), self.ledger.clone());
        let controllers = self.controllers.clone();
        let origin = caller.origin();
        // To the end, also when the caller leaves: half of it is a key that signs nothing.
        let rotated = self
            .tasks
            .spawn(async move { trust.rotate(&ledger, &controllers, origin, id).await })
            .await;
        let (fingerprint, snapshot) = match rotated {
            Ok(Ok(rotated)) => rotated,
            Ok(Err(error)) => return Err(self.not_rotated(&caller, &error)),
            Err(_) => return Err(Self::stopping()),
        };
        let record = snapshot.fabric.authorities.get(&fingerprint);
        let record = record.ok_or_else(|| absent("authority", &fingerprint.to_string()))?;
        let now = self.env.now();
        Ok(Response::new(authority(&snapshot.fabric, record, now)))
    }
}

impl Api {
    /// What is said of a rotation that did not happen; a refusal is noted for the audit.
    fn not_rotated(&self, caller: &Caller, error: &trust::Error) -> Status {
        let told = status::trust(error);
        if let trust::Error::Ledger(ledger::Error::Denied(_)) = error {
            let reason = refusal::reason(&told).unwrap_or_default();
            let action = Action::AuthorityRotate.as_str();
            let refusals = &self.audit.refusals;
            refusals.note(&caller.by, &caller.from, action, "authority", &reason);
        }
        told
    }
}

fn is_person(subject: &kapok_trust::Subject) -> bool {
    matches!(subject, kapok_trust::Subject::User(_))
}

fn certificate(record: &CertificateRecord) -> Certificate {
    let revoked = record.revoked.as_ref();
    Certificate {
        serial: record.serial.to_string(),
        subject: record.subject.to_string(),
        authority: record.authority.to_string(),
        issue_time: Some(timestamp(record.issued_at)),
        expire_time: Some(timestamp(record.not_after)),
        revoke_time: revoked.map(|revocation| timestamp(revocation.at)),
        revoke_reason: revoked
            .map(|revocation| revocation.reason.clone())
            .unwrap_or_default(),
    }
}

fn authority(fabric: &Fabric, record: &AuthorityRecord, now: Timestamp) -> Authority {
    let state = match record.state {
        AuthorityState::Active => wire::AuthorityState::Active,
        AuthorityState::Retiring => wire::AuthorityState::Retiring,
        AuthorityState::Retired => wire::AuthorityState::Retired,
    };
    let live = fabric.live_certificates(record.fingerprint, now).count();
    Authority {
        fingerprint: record.fingerprint.to_string(),
        state: state.into(),
        certificate_pem: record.certificate_pem.clone(),
        state_time: Some(timestamp(record.since)),
        certificates: u32::try_from(live).unwrap_or(u32::MAX),
    }
}
