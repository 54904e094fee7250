//! Facts about tokens, certificates and authorities.

use kapok_trust::Serial;

use crate::fabric::{AuthorityState, CertificateRecord, Event, Fabric};

impl Fabric {
    /// Takes in a fact about a token, a certificate or an authority; others change nothing.
    pub(super) fn apply_credential(&mut self, event: &Event) {
        match event {
            Event::TokenCreated { token } => {
                self.tokens.insert(token.id, token.clone());
            }
            Event::TokenUsed { token, at } => {
                if let Some(token) = self.tokens.get_mut(token) {
                    token.used_at = Some(*at);
                }
            }
            Event::TokenDeleted { token } => {
                self.tokens.remove(token);
            }
            Event::TokensExpired { tokens } => {
                for token in tokens {
                    self.tokens.remove(token);
                }
            }
            Event::CertificateIssued { certificate } => self.put_certificate(certificate),
            Event::CertificateRevoked { serial, revocation } => {
                if let Some(certificate) = self.certificates.get_mut(serial) {
                    certificate.revoked = Some(revocation.clone());
                    self.revoked.insert(*serial);
                }
            }
            Event::CertificatesExpired { before } => {
                while let Some((not_after, serial)) = self.certificates_by_end.get_min().copied() {
                    if not_after >= *before {
                        break;
                    }
                    self.certificates_by_end.remove(&(not_after, serial));
                    self.forget_certificate(serial);
                }
            }
            Event::AuthorityAdded { authority } => {
                self.authorities
                    .insert(authority.fingerprint, authority.clone());
            }
            Event::AuthorityActivated { authority, at } => {
                if let Some(before) = self.active_authority().map(|before| before.fingerprint)
                    && let Some(before) = self.authorities.get_mut(&before)
                {
                    before.state = AuthorityState::Retiring;
                    before.since = *at;
                }
                if let Some(authority) = self.authorities.get_mut(authority) {
                    authority.state = AuthorityState::Active;
                    authority.since = *at;
                }
            }
            Event::AuthorityRetired { authority, at } => {
                if let Some(authority) = self.authorities.get_mut(authority) {
                    authority.state = AuthorityState::Retired;
                    authority.since = *at;
                }
            }
            _ => {}
        }
    }

    /// Puts a certificate in.
    pub(in crate::fabric) fn put_certificate(&mut self, certificate: &CertificateRecord) {
        let serial = certificate.serial;
        self.certificates_by_subject
            .entry(certificate.subject.clone())
            .or_default()
            .insert(serial);
        self.certificates_by_end
            .insert((certificate.not_after, serial));
        if certificate.revoked.is_some() {
            self.revoked.insert(serial);
        }
        self.certificates.insert(serial, certificate.clone());
    }

    fn forget_certificate(&mut self, serial: Serial) {
        let Some(certificate) = self.certificates.remove(&serial) else {
            return;
        };
        self.revoked.remove(&serial);
        if let Some(serials) = self.certificates_by_subject.get_mut(&certificate.subject) {
            serials.remove(&serial);
            if serials.is_empty() {
                self.certificates_by_subject.remove(&certificate.subject);
            }
        }
    }
}
