//! The authorities that a member of the fabric trusts: one, or several while one takes over from
//! another.

use kapok_types::{Name, Timestamp};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};

use crate::{
    Fingerprint,
    certificate::{parse, timestamp, uri_name},
    identity::fabric_of_uri,
};

/// Most authorities a bundle may hold. A rollover needs two.
const MAX_ROOTS: usize = 16;

/// Why a text is no bundle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It isn't PEM, or one of its certificates is none.
    #[error("not a list of certificates in PEM form")]
    Malformed,
    /// A certificate in it is no authority of a fabric.
    #[error("a certificate is not that of an authority of Kapok")]
    NotAuthority,
    /// There is nobody to trust.
    #[error("there is no authority in it")]
    Empty,
    /// More than a fabric ever has.
    #[error("more than {MAX_ROOTS} authorities")]
    TooMany,
    /// Two fabrics in one bundle would trust each other.
    #[error("its authorities are of two fabrics, {0} and {1}")]
    TwoFabrics(Name, Name),
}

/// An authority's own, self-signed certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// The fabric whose authority it is.
    pub fabric: Name,
    /// SHA-256 of its public key: what tokens pin and leaves point to.
    pub fingerprint: Fingerprint,
    /// From when on it holds.
    pub not_before: Timestamp,
    /// Until when it holds.
    pub not_after: Timestamp,
    der: CertificateDer<'static>,
}

impl Root {
    /// Reads an authority's self-signed certificate.
    ///
    /// # Errors
    /// The text is none.
    pub fn parse_pem(pem: &str) -> Result<Self, Error> {
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| Error::Malformed)?;
        Self::parse_der(der)
    }

    pub(crate) fn parse_der(der: CertificateDer<'static>) -> Result<Self, Error> {
        let parsed = parse(&der).map_err(|_| Error::Malformed)?;
        let fabric = uri_name(&parsed).and_then(fabric_of_uri);
        let fabric = fabric
            .filter(|_| parsed.is_ca() && parsed.verify_signature(None).is_ok())
            .ok_or(Error::NotAuthority)?;
        Ok(Self {
            fabric,
            fingerprint: Fingerprint::of(parsed.public_key().raw),
            not_before: timestamp(parsed.validity().not_before),
            not_after: timestamp(parsed.validity().not_after),
            der,
        })
    }

    /// Its certificate in PEM form.
    pub fn pem(&self) -> String {
        pem("CERTIFICATE", &self.der)
    }

    pub(crate) const fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }
}

/// At least one authority, all of one fabric, in the order of their fingerprints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle(Vec<Root>);

impl Bundle {
    /// Trusts these.
    ///
    /// # Errors
    /// There is none, or they are of two fabrics.
    pub fn new(roots: impl IntoIterator<Item = Root>) -> Result<Self, Error> {
        let mut roots: Vec<_> = roots.into_iter().take(MAX_ROOTS + 1).collect();
        if roots.len() > MAX_ROOTS {
            return Err(Error::TooMany);
        }
        roots.sort_by_key(|root| root.fingerprint);
        roots.dedup_by_key(|root| root.fingerprint);
        let fabric = &roots.first().ok_or(Error::Empty)?.fabric;
        if let Some(other) = roots.iter().find(|root| root.fabric != *fabric) {
            return Err(Error::TwoFabrics(fabric.clone(), other.fabric.clone()));
        }
        Ok(Self(roots))
    }

    /// Reads certificates in PEM form.
    ///
    /// # Errors
    /// One of them is no authority's, or they are of two fabrics.
    pub fn parse_pem(pem: &str) -> Result<Self, Error> {
        let ders = CertificateDer::pem_slice_iter(pem.as_bytes())
            .take(MAX_ROOTS + 1)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| Error::Malformed)?;
        let roots = ders.into_iter().map(Root::parse_der);
        Self::new(roots.collect::<Result<Vec<_>, _>>()?)
    }

    /// The certificates in PEM form.
    pub fn to_pem(&self) -> String {
        self.0.iter().map(Root::pem).collect()
    }

    /// The fabric whose authorities these are.
    pub fn fabric(&self) -> &Name {
        &self.0[0].fabric
    }

    /// The authorities.
    pub fn roots(&self) -> &[Root] {
        &self.0
    }

    /// Whether this authority is trusted.
    pub fn contains(&self, authority: &Fingerprint) -> bool {
        self.get(authority).is_some()
    }

    /// The authority of this fingerprint.
    pub fn get(&self, authority: &Fingerprint) -> Option<&Root> {
        self.0.iter().find(|root| root.fingerprint == *authority)
    }

    /// As rustls wants it.
    pub(crate) fn store(&self) -> RootCertStore {
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(self.0.iter().map(|root| root.der.clone()));
        store
    }
}

/// Writes one block of PEM.
pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let text = STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        out.extend(line.iter().copied().map(char::from));
        out.push('\n');
    }
    out + &format!("-----END {label}-----\n")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use kapok_types::env::Seeded;

    use super::*;
    use crate::{Authority, Csr, Key, Serial};

    fn authority(fabric: &str) -> Authority {
        let life = Duration::from_hours(1);
        Authority::create(&fabric.parse().unwrap(), &*Seeded::new(7), life).unwrap()
    }

    #[test]
    fn a_bundle_is_the_same_in_any_order() {
        let (one, two) = (authority("city"), authority("city"));
        let texts = [
            one.certificate_pem().to_owned() + two.certificate_pem(),
            two.certificate_pem().to_owned() + one.certificate_pem() + two.certificate_pem(),
        ];
        let bundles = texts.map(|text| Bundle::parse_pem(&text).unwrap());
        assert_eq!(bundles[0], bundles[1]);
        assert_eq!(bundles[0].roots().len(), 2);
        assert!(bundles[0].contains(&two.fingerprint()));
        let again = Bundle::parse_pem(&bundles[0].to_pem()).unwrap();
        assert_eq!(again, bundles[0]);
        assert_ne!(again, Bundle::new([one.root().clone()]).unwrap());
    }

    #[test]
    fn only_authorities_of_one_fabric_are_trusted() {
        let env = Seeded::new(8);
        let (city, town) = (authority("city"), authority("town"));
        let mixed = city.certificate_pem().to_owned() + town.certificate_pem();
        assert!(matches!(
            Bundle::parse_pem(&mixed),
            Err(Error::TwoFabrics(..))
        ));
        assert_eq!(Bundle::parse_pem(""), Err(Error::Empty));
        assert_eq!(
            Bundle::parse_pem("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
            Err(Error::Malformed)
        );
        let csr = Csr::parse(&Key::generate().unwrap().request().unwrap()).unwrap();
        let who = "spiffe://city/controller/a".parse().unwrap();
        let now = kapok_types::Env::now(&*env);
        let leaf = city
            .issue(&csr, &who, Serial::new(&*env), Duration::from_mins(1), now)
            .unwrap();
        assert_eq!(Bundle::parse_pem(&leaf), Err(Error::NotAuthority));
        // A cross certificate is a bridge, not a root: it isn't signed by its own key.
        let newer = authority("city");
        let cross = city
            .cross_sign(newer.certificate_pem(), Serial::new(&*env), now)
            .unwrap();
        assert_eq!(Bundle::parse_pem(&cross), Err(Error::NotAuthority));
    }
}
