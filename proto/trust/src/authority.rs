//! A fabric's certificate authority: the only thing that makes certificates.
//!
//! **Invariant:** what a certificate says comes from the caller's [`Identity`] and the profile
//! below, never from a request. One key signs leaves, cross certificates and its own revocation
//! list, so a fabric needs nobody else.
//!
//! Each authority has a name of its own (its key's fingerprint is in it): a revocation list is
//! found by its issuer's name, and two authorities of one name would hide each other's.

use std::{fmt, time::Duration};

use kapok_types::{Env, Name, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    PublicKeyData as _, RevokedCertParams, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::{
    Csr, Fingerprint, Identity, Key, Root, Serial, bundle, certificate::parse,
    identity::fabric_uri, key,
};

/// How long an authority lives unless told otherwise: 10 years.
pub const LIFE: Duration = Duration::from_hours(3650 * 24);

/// How far certificates are dated back, so that a clock that is a little slow still takes them.
pub const BACKDATED: Duration = Duration::from_mins(5);

/// When a revocation list asks to be looked for again. Nobody refuses an older one: a late list
/// must not lock a fabric out.
const CRL_LIFE: Duration = Duration::from_hours(7 * 24);

/// Why an authority couldn't be made, read or used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The private key is none, or couldn't be made.
    #[error("could not use the authority's private key")]
    Key(#[from] key::Error),
    /// The certificate is no authority's.
    #[error("could not use the authority's certificate")]
    Certificate(#[from] bundle::Error),
    /// Certificate and key are not of one authority.
    #[error("the authority's certificate and private key don't belong together")]
    Mismatch,
    /// It was to sign for another fabric.
    #[error("this is the authority of fabric {ours}, which can't sign for {theirs}")]
    OtherFabric {
        /// The fabric it signs for.
        ours: Name,
        /// The fabric it was asked to sign for.
        theirs: Name,
    },
    /// It has ended, or the life asked for is none.
    #[error("the certificate would have ended before it began")]
    NoLife,
    /// A date or a name can't be written into a certificate, or the provider couldn't sign.
    #[error("could not sign")]
    Sign(#[source] rcgen::Error),
    /// A date lies outside of what certificates can say.
    #[error("a date lies outside of what a certificate can say")]
    Date,
}

/// A revoked certificate, as a revocation list names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revoked {
    /// The certificate's number.
    pub serial: Serial,
    /// When it was revoked.
    pub at: Timestamp,
}

/// A fabric's authority: its certificate and its private key.
pub struct Authority {
    root: Root,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes a new authority for `fabric`, self-signed, good for `life`.
    ///
    /// # Errors
    /// The system has no randomness to give, or the life is none.
    pub fn create(fabric: &Name, env: &dyn Env, life: Duration) -> Result<Self, Error> {
        let key = Key::generate()?.0;
        let spki = key.subject_public_key_info();
        let now = env.now();
        let mut params = authority_params(fabric, &spki, Serial::new(env));
        (params.not_before, params.not_after) = dates(now, after(now, life))?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).map_err(Error::Sign)?.pem();
        let root = Root::parse_pem(&pem)?;
        let issuer = Issuer::new(params, key);
        Ok(Self { root, pem, issuer })
    }

    /// Reads an authority back.
    ///
    /// # Errors
    /// One of the two texts is none, or they don't belong together.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, Error> {
        let root = Root::parse_pem(certificate)?;
        let key = Key::from_pem(key)?.0;
        if Fingerprint::of(&key.subject_public_key_info()) != root.fingerprint {
            return Err(Error::Mismatch);
        }
        let issuer = Issuer::from_ca_cert_der(root.der(), key).map_err(Error::Sign)?;
        Ok(Self {
            pem: root.pem(),
            root,
            issuer,
        })
    }

    /// Its certificate in PEM form.
    pub fn certificate_pem(&self) -> &str {
        &self.pem
    }

    /// Its private key in PKCS #8 PEM form; wiped when dropped.
    pub fn key_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.issuer.key().serialize_pem())
    }

    /// The fabric it signs for.
    pub const fn fabric(&self) -> &Name {
        &self.root.fabric
    }

    /// SHA-256 of its public key.
    pub const fn fingerprint(&self) -> Fingerprint {
        self.root.fingerprint
    }

    /// When it ends.
    pub const fn not_after(&self) -> Timestamp {
        self.root.not_after
    }

    /// Its certificate, read.
    pub const fn root(&self) -> &Root {
        &self.root
    }

    /// Signs a certificate in PEM form for `identity`, from [`BACKDATED`] before `now` until
    /// `life` after it, or until the authority's own end if that comes first.
    ///
    /// # Errors
    /// The identity is of another fabric, or the authority has ended.
    pub fn issue(
        &self,
        csr: &Csr,
        identity: &Identity,
        serial: Serial,
        life: Duration,
        now: Timestamp,
    ) -> Result<String, Error> {
        self.signs_for(&identity.fabric)?;
        let mut params = CertificateParams::default();
        (params.not_before, params.not_after) =
            dates(now, after(now, life).min(self.root.not_after))?;
        params.serial_number = Some(number(serial));
        params.distinguished_name = name(&identity.fabric, common_name(identity));
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if identity.serves() {
            params
                .extended_key_usages
                .push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        params.subject_alt_names.push(uri(identity.uri())?);
        for dns in identity.dns_names() {
            let dns = dns.try_into().map_err(Error::Sign)?;
            params.subject_alt_names.push(SanType::DnsName(dns));
        }
        let signed = params.signed_by(&csr.0, &self.issuer);
        Ok(signed.map_err(Error::Sign)?.pem())
    }

    /// Signs the certificate of another authority of the same fabric, so that whoever knows only
    /// this one can verify what the other has signed: a rollover can't lock anybody out.
    ///
    /// # Errors
    /// The other is none, is of another fabric, or one of the two has ended.
    pub fn cross_sign(
        &self,
        other_certificate_pem: &str,
        serial: Serial,
        now: Timestamp,
    ) -> Result<String, Error> {
        let other = Root::parse_pem(other_certificate_pem)?;
        self.signs_for(&other.fabric)?;
        let parsed = parse(other.der()).map_err(|_| bundle::Error::Malformed)?;
        let spki = parsed.public_key().raw;
        let mut params = authority_params(&other.fabric, spki, serial);
        (params.not_before, params.not_after) =
            dates(now, other.not_after.min(self.root.not_after))?;
        params.use_authority_key_identifier_extension = true;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let key = SubjectPublicKeyInfo::from_der(spki).map_err(Error::Sign)?;
        let signed = params.signed_by(&key, &self.issuer).map_err(Error::Sign)?;
        // The bridge holds only if both certificates call the authority the same.
        match parse(signed.der()) {
            Ok(cross) if cross.subject().as_raw() == parsed.subject().as_raw() => Ok(signed.pem()),
            _ => Err(bundle::Error::NotAuthority.into()),
        }
    }

    /// Signs the list of this authority's revoked certificates, in PEM form. Lists of several
    /// authorities are put one after another.
    ///
    /// # Errors
    /// A date can't be written, or the provider couldn't sign.
    pub fn crl(&self, revoked: &[Revoked], now: Timestamp) -> Result<String, Error> {
        let revoked_certs = revoked.iter().map(|revoked| {
            Ok(RevokedCertParams {
                serial_number: number(revoked.serial),
                revocation_time: date(revoked.at)?,
                reason_code: None,
                invalidity_date: None,
            })
        });
        let params = CertificateRevocationListParams {
            this_update: date(now)?,
            next_update: date(after(now, CRL_LIFE))?,
            crl_number: SerialNumber::from(now.get()),
            issuing_distribution_point: None,
            revoked_certs: revoked_certs.collect::<Result<_, Error>>()?,
            key_identifier_method: key_id(&self.root.fingerprint),
        };
        let signed = params.signed_by(&self.issuer).map_err(Error::Sign)?;
        signed.pem().map_err(Error::Sign)
    }

    fn signs_for(&self, fabric: &Name) -> Result<(), Error> {
        if *fabric == self.root.fabric {
            return Ok(());
        }
        Err(Error::OtherFabric {
            ours: self.root.fabric.clone(),
            theirs: fabric.clone(),
        })
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("fabric", &self.root.fabric)
            .field("fingerprint", &self.root.fingerprint)
            .finish_non_exhaustive()
    }
}

/// What the self-signed and the cross certificate of one authority have in common.
fn authority_params(fabric: &Name, spki: &[u8], serial: Serial) -> CertificateParams {
    let fingerprint = Fingerprint::of(spki);
    let short: String = fingerprint.to_string().chars().take(16).collect();
    let mut params = CertificateParams::default();
    params.serial_number = Some(number(serial));
    params.distinguished_name = name(fabric, format!("Kapok authority {short}"));
    params.key_identifier_method = key_id(&fingerprint);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    // A URI of a fabric is ASCII; the type only wants to hear it.
    params
        .subject_alt_names
        .extend(uri(fabric_uri(fabric)).ok());
    params
}

fn common_name(identity: &Identity) -> String {
    use crate::Subject::{Controller, Machine, Node, User};
    match &identity.subject {
        Node(id) => id.to_string(),
        Controller(name) | User(name) | Machine(name) => name.to_string(),
    }
}

fn name(fabric: &Name, common: String) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, fabric.as_str());
    name.push(DnType::CommonName, common);
    name
}

fn uri(text: String) -> Result<SanType, Error> {
    text.try_into().map(SanType::URI).map_err(Error::Sign)
}

fn number(serial: Serial) -> SerialNumber {
    SerialNumber::from_slice(serial.as_bytes())
}

fn key_id(fingerprint: &Fingerprint) -> KeyIdMethod {
    KeyIdMethod::PreSpecified(fingerprint.0.to_vec())
}

fn after(now: Timestamp, life: Duration) -> Timestamp {
    let life = u64::try_from(life.as_millis()).unwrap_or(u64::MAX);
    Timestamp(now.get().saturating_add(life))
}

/// The dates of a certificate made `now`, in whole seconds.
fn dates(now: Timestamp, end: Timestamp) -> Result<(OffsetDateTime, OffsetDateTime), Error> {
    if end.get() / 1000 <= now.get() / 1000 {
        return Err(Error::NoLife);
    }
    let back = u64::try_from(BACKDATED.as_millis()).unwrap_or(0);
    let begin = Timestamp(now.get().saturating_sub(back));
    Ok((date(begin)?, date(end)?))
}

fn date(at: Timestamp) -> Result<OffsetDateTime, Error> {
    let seconds = i64::try_from(at.get() / 1000).map_err(|_| Error::Date)?;
    OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| Error::Date)
}

#[cfg(test)]
mod tests {
    use kapok_types::env::Seeded;

    use super::*;
    use crate::Certificate;

    fn city() -> Name {
        "city".parse().unwrap()
    }

    #[test]
    fn a_leaf_says_what_the_authority_was_told() {
        let env = Seeded::new(1);
        let authority = Authority::create(&city(), &*env, LIFE).unwrap();
        let again = Authority::from_pem(authority.certificate_pem(), &authority.key_pem()).unwrap();
        let csr = Csr::parse(&Key::generate().unwrap().request().unwrap()).unwrap();
        let identity = Identity::new(city(), "user/alice".parse().unwrap());
        let serial = Serial::new(&*env);
        let now = env.now();
        let life = Duration::from_hours(1);
        for authority in [&authority, &again] {
            let pem = authority.issue(&csr, &identity, serial, life, now).unwrap();
            let leaf = Certificate::parse_pem(&pem).unwrap();
            assert_eq!(leaf.identity, identity);
            assert_eq!(leaf.serial, serial);
            assert_eq!(leaf.authority, authority.fingerprint());
            assert_eq!(leaf.not_before.get(), now.get() - 300_000);
            assert_eq!(leaf.not_after.get(), now.get() + 3_600_000);
            assert_eq!(leaf.life(), life);
            assert_eq!(leaf.renew_at().get(), now.get() + 2_400_000);
        }
    }

    #[test]
    fn an_authority_signs_for_its_fabric_and_its_life() {
        let env = Seeded::new(2);
        let minute = Duration::from_mins(1);
        let authority = Authority::create(&city(), &*env, minute).unwrap();
        let csr = Csr::parse(&Key::generate().unwrap().request().unwrap()).unwrap();
        let sign = |identity: &str, now| {
            let identity = identity.parse().unwrap();
            authority.issue(&csr, &identity, Serial::new(&*env), LIFE, now)
        };
        let leaf = sign("spiffe://city/user/alice", env.now()).unwrap();
        let leaf = Certificate::parse_pem(&leaf).unwrap();
        assert_eq!(leaf.not_after, authority.not_after());
        assert!(matches!(
            sign("spiffe://town/user/alice", env.now()),
            Err(Error::OtherFabric { .. })
        ));
        let later = after(env.now(), minute);
        assert!(matches!(
            sign("spiffe://city/user/alice", later),
            Err(Error::NoLife)
        ));
        let other = Authority::create(&city(), &*env, minute).unwrap();
        assert!(matches!(
            Authority::from_pem(authority.certificate_pem(), &other.key_pem()),
            Err(Error::Mismatch)
        ));
        let town = Authority::create(&"town".parse().unwrap(), &*env, minute).unwrap();
        assert!(matches!(
            authority.cross_sign(town.certificate_pem(), Serial::new(&*env), env.now()),
            Err(Error::OtherFabric { .. })
        ));
        assert!(!format!("{authority:?}").contains("PRIVATE"));
    }
}
