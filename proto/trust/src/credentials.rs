//! What a process is known by and whom it knows, replaceable while it runs.
//!
//! ```text
//!  Material ──check──> State (certificate, key, bundle, revocations, TLS configs) ── swap ──> all
//!                                                                     new connections
//! ```
//!
//! **Invariants:** a material that doesn't fit together changes nothing; the subject never
//! changes; every new connection takes the state of its moment; open connections go on unless
//! their peer's certificate was revoked or its authority is trusted no more.
//!
//! An *expired* certificate is taken: its holder must be able to start, to say so and to keep its
//! guests. Nobody else will speak to it.

use std::{
    collections::BTreeSet,
    fmt,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use kapok_types::{Env, Name, Timestamp};
use rustls::{
    ClientConfig, ServerConfig,
    pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, pem::PemObject as _},
    server::VerifierBuilderError,
    sign::CertifiedKey,
};
use tokio::sync::watch;
use x509_parser::{prelude::FromDer as _, revocation_list::CertificateRevocationList};

use crate::{
    Bundle, Certificate, Connections, Identity, Material, Opened, Reason, Sealed, Serial, Signer,
    bundle,
    certificate::{self, Shown},
    files, seal,
    tls::{self, Parts},
};

/// Most certificates a chain may have: a leaf, and a bridge to each older authority.
pub(crate) const MAX_CHAIN: usize = 16;

/// Why a material can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It couldn't be read from its directory.
    #[error("could not read the certificate and its key")]
    Files(#[from] files::Error),
    /// The chain is none, or too long.
    #[error("not a certificate chain in PEM form")]
    Chain,
    /// The leaf is no certificate of a fabric.
    #[error("could not use the certificate")]
    Certificate(#[from] certificate::Error),
    /// The key is none, or belongs to another certificate.
    #[error("the private key is not the certificate's")]
    Key(#[source] rustls::Error),
    /// The trusted authorities can't be read.
    #[error("could not use the bundle of authorities")]
    Bundle(#[from] bundle::Error),
    /// No authority of the bundle has signed the certificate.
    #[error("the certificate of {0} is not signed by an authority of the bundle")]
    Untrusted(Identity),
    /// A list of revocations can't be read, or its authority didn't sign it.
    #[error("a revocation list can't be read or is not signed by its authority")]
    Crl,
    /// The new material is somebody else's.
    #[error("the certificate is for {theirs}, but this is {ours}")]
    OtherSubject {
        /// Who this process is.
        ours: Identity,
        /// Whom the material names.
        theirs: Identity,
    },
    /// The verifiers refuse the bundle or the lists.
    #[error("could not set up verification")]
    Verifier(#[source] VerifierBuilderError),
    /// The provider refuses.
    #[error("could not set up TLS")]
    Tls(#[source] rustls::Error),
}

/// Whether those who connect must show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    /// Refused at the handshake without one.
    Required,
    /// Verified if shown; a wrong one is refused, none is [`crate::Peer::anonymous`].
    Optional,
}

/// Cheap to clone; all clones change together.
#[derive(Clone)]
pub struct Credentials(Arc<Inner>);

struct Inner {
    env: Arc<dyn Env>,
    state: ArcSwap<State>,
    replacing: Mutex<()>,
    changed: watch::Sender<u64>,
    connections: Connections,
}

/// All that follows from one material.
struct State {
    material: Arc<Material>,
    certificate: Arc<Certificate>,
    key: Arc<CertifiedKey>,
    bundle: Arc<Bundle>,
    revoked: BTreeSet<Serial>,
    required: Arc<ServerConfig>,
    optional: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Credentials {
    /// Takes `material` into use.
    ///
    /// # Errors
    /// Its parts don't fit together.
    pub fn new(material: Material, env: Arc<dyn Env>) -> Result<Self, Error> {
        let state = State::build(material, &env)?;
        Ok(Self(Arc::new(Inner {
            connections: Connections::new(env.clone()),
            env,
            state: ArcSwap::from_pointee(state),
            replacing: Mutex::new(()),
            changed: watch::Sender::new(0),
        })))
    }

    /// Reads what [`Credentials::store`] wrote. Blocks.
    ///
    /// # Errors
    /// There is none ([`files::Error::Absent`]), it can't be read, or its parts don't fit.
    pub fn load(dir: &Path, env: Arc<dyn Env>) -> Result<Self, Error> {
        Self::new(files::load(dir)?, env)
    }

    /// Writes `material` to `dir` so that a reader sees all of it or none: see [`files`]. Blocks.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn store(dir: &Path, material: &Material) -> Result<(), Error> {
        Ok(files::store(dir, material)?)
    }

    /// Takes another material into use, for all connections from now on, and ends the open ones
    /// whose certificates it doesn't hold good any more.
    ///
    /// # Errors
    /// Its parts don't fit together or it is somebody else's: nothing has changed.
    pub fn replace(&self, material: Material) -> Result<(), Error> {
        let state = State::build(material, &self.0.env)?;
        let one_at_a_time = self.0.replacing.lock();
        let _one_at_a_time = one_at_a_time.unwrap_or_else(PoisonError::into_inner);
        let ours = &self.0.state.load().certificate.identity;
        if *ours != state.certificate.identity {
            return Err(Error::OtherSubject {
                ours: ours.clone(),
                theirs: state.certificate.identity.clone(),
            });
        }
        let state = Arc::new(state);
        self.0.state.store(state.clone());
        let now = self.0.env.now();
        let wrong = |shown: &Shown| state.fault(shown, now).is_some();
        let ended = self.0.connections.close_shown(wrong);
        if ended > 0 {
            tracing::info!(ended, "connections ended: their certificates hold no more");
        }
        self.0.changed.send_modify(|version| *version += 1);
        Ok(())
    }

    /// The material in use.
    pub fn material(&self) -> Arc<Material> {
        self.0.state.load().material.clone()
    }

    /// The certificate in use.
    pub fn certificate(&self) -> Arc<Certificate> {
        self.0.state.load().certificate.clone()
    }

    /// The authorities trusted now.
    pub fn bundle(&self) -> Arc<Bundle> {
        self.0.state.load().bundle.clone()
    }

    /// Counts replacements; wakes whoever waits for one.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    /// Open connections whose other end showed a certificate, accepted and dialled ones.
    pub fn connections(&self) -> &Connections {
        &self.0.connections
    }

    /// Clock and randomness.
    pub fn env(&self) -> &Arc<dyn Env> {
        &self.0.env
    }

    /// Whether a certificate of this number was revoked.
    pub fn is_revoked(&self, serial: &Serial) -> bool {
        self.0.state.load().revoked.contains(serial)
    }

    /// What is in use now, to be compared with later.
    pub(crate) fn moment(&self) -> Moment {
        Moment(self.0.state.load_full())
    }

    /// What is wrong with a certificate that was verified with the state of `then`, and wasn't
    /// wrong then. Asked once the connection is registered: a replacement that comes later finds
    /// it there, one that came earlier is noticed here.
    pub(crate) fn fault_since(&self, then: &Moment, shown: &Shown) -> Option<Reason> {
        let state = self.0.state.load_full();
        if Arc::ptr_eq(&state, &then.0) {
            return None;
        }
        state.fault(shown, self.0.env.now())
    }

    /// The listening end's settings of this moment. [`crate::Acceptor`] takes them for every
    /// connection anew.
    pub fn server_config(&self, auth: ClientAuth) -> Arc<ServerConfig> {
        self.moment().server_config(auth)
    }

    /// The dialling end's settings of this moment. [`crate::connector`] takes them for every
    /// connection anew.
    pub fn client_config(&self) -> Arc<ClientConfig> {
        self.moment().client_config()
    }

    /// Signs with the key of this moment.
    pub fn signer(&self) -> Signer {
        let state = self.0.state.load();
        Signer::new(state.certificate.clone(), state.key.clone())
    }

    /// Opens what a controller sealed a short while ago, as for a ticket: its certificate must
    /// hold *now*.
    ///
    /// # Errors
    /// It was sealed by nobody who may, for something else, or changed since.
    pub fn open(&self, purpose: &str, sealed: &Sealed) -> Result<Opened, seal::Error> {
        let opened = sealed.open(purpose, &self.bundle(), self.0.env.now())?;
        if self.is_revoked(&opened.certificate.serial) {
            return Err(seal::Error::Revoked);
        }
        Ok(opened)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("certificate", &self.certificate())
            .finish_non_exhaustive()
    }
}

/// The state that a handshake was made with.
pub(crate) struct Moment(Arc<State>);

impl Moment {
    pub(crate) fn server_config(&self, auth: ClientAuth) -> Arc<ServerConfig> {
        match auth {
            ClientAuth::Required => self.0.required.clone(),
            ClientAuth::Optional => self.0.optional.clone(),
        }
    }

    pub(crate) fn client_config(&self) -> Arc<ClientConfig> {
        self.0.client.clone()
    }

    pub(crate) fn fabric(&self) -> &Name {
        self.0.bundle.fabric()
    }
}

impl State {
    /// What is wrong by now with a certificate that was verified once.
    fn fault(&self, shown: &Shown, now: Timestamp) -> Option<Reason> {
        if self.revoked.contains(&shown.certificate.serial) {
            return Some(Reason::Revoked);
        }
        match seal::verify_chain(&shown.chain, &self.bundle, now) {
            Ok(()) => None,
            Err(_) if !shown.certificate.is_valid_at(now) => Some(Reason::Expired),
            Err(_) => Some(Reason::UnknownIssuer),
        }
    }

    fn build(material: Material, env: &Arc<dyn Env>) -> Result<Self, Error> {
        let chain = CertificateDer::pem_slice_iter(material.chain_pem.as_bytes())
            .take(MAX_CHAIN + 1)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| Error::Chain)?;
        let leaf = chain.first().filter(|_| chain.len() <= MAX_CHAIN);
        let certificate = Certificate::parse_der(leaf.ok_or(Error::Chain)?)?;
        let bundle = Bundle::parse_pem(&material.bundle_pem)?;
        if *bundle.fabric() != certificate.identity.fabric {
            return Err(Error::Untrusted(certificate.identity));
        }
        // The end of its life is no reason to distrust what a certificate says.
        let at = env
            .now()
            .clamp(certificate.not_before, certificate.not_after);
        seal::verify_chain(&chain, &bundle, at)
            .map_err(|_| Error::Untrusted(certificate.identity.clone()))?;

        let key = PrivateKeyDer::from_pem_slice(material.key_pem.as_bytes())
            .map_err(|_| Error::Key(rustls::Error::General("not a private key".into())))?;
        let certified = |chain: &[CertificateDer<'static>]| {
            CertifiedKey::from_der(chain.to_vec(), key.clone_key(), &tls::provider())
                .map(Arc::new)
                .map_err(Error::Key)
        };
        let shown = certified(&chain)?;
        // Whoever comes with a token pins an authority, and looks for it here.
        let mut with_roots = chain.clone();
        with_roots.extend(bundle.roots().iter().map(|root| root.der().clone()));

        let (crls, revoked) = revocations(&material.crl_pem, &bundle)?;
        let parts = Parts {
            env: env.clone(),
            roots: Arc::new(bundle.store()),
            crls,
            shown: Some(shown.clone()),
        };
        Ok(Self {
            required: parts.server(shown.clone(), ClientAuth::Required)?,
            optional: parts.server(certified(&with_roots)?, ClientAuth::Optional)?,
            client: parts.client()?,
            material: Arc::new(material),
            certificate: Arc::new(certificate),
            key: shown,
            bundle: Arc::new(bundle),
            revoked,
        })
    }
}

type Revocations = (Vec<CertificateRevocationListDer<'static>>, BTreeSet<Serial>);

/// Reads the lists of the bundle's authorities. Each must be signed by its own: the verifiers
/// would refuse everybody over one that isn't.
fn revocations(pem: &str, bundle: &Bundle) -> Result<Revocations, Error> {
    let lists = CertificateRevocationListDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| Error::Crl)?;
    let mut revoked = BTreeSet::new();
    let mut crls = Vec::with_capacity(lists.len());
    for der in lists {
        let (_, list) = CertificateRevocationList::from_der(&der).map_err(|_| Error::Crl)?;
        let mut ours = false;
        for root in bundle.roots() {
            let parsed = certificate::parse(root.der())?;
            if parsed.subject().as_raw() != list.issuer().as_raw() {
                continue;
            }
            list.verify_signature(parsed.public_key())
                .map_err(|_| Error::Crl)?;
            ours = true;
        }
        if ours {
            let serials = list.iter_revoked_certificates();
            revoked.extend(serials.filter_map(|it| Serial::from_bytes(it.raw_serial())));
            crls.push(der.clone());
        }
    }
    Ok((crls, revoked))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use kapok_types::env::Seeded;

    use super::*;
    use crate::{Authority, Csr, Key, Revoked};

    /// A revocation that arrives between a handshake and the connection's registration.
    #[test]
    fn a_replacement_in_the_middle_of_a_handshake_is_noticed() {
        let env = Seeded::new(1);
        let life = Duration::from_hours(1);
        let authority = Authority::create(&"city".parse().unwrap(), &*env, 2 * life).unwrap();
        let material = |identity: &str| {
            let key = Key::generate().unwrap();
            let csr = Csr::parse(&key.request().unwrap()).unwrap();
            let (identity, serial) = (identity.parse().unwrap(), Serial::new(&*env));
            let issued = authority.issue(&csr, &identity, serial, life, env.now());
            Material {
                chain_pem: issued.unwrap(),
                key_pem: key.to_pem().to_string(),
                bundle_pem: authority.certificate_pem().to_owned(),
                crl_pem: String::new(),
            }
        };
        let mut ours = material("spiffe://city/controller/a");
        let theirs = material("spiffe://city/user/alice");
        let credentials = Credentials::new(ours.clone(), env.clone()).unwrap();
        let chain = CertificateDer::from_pem_slice(theirs.chain_pem.as_bytes()).unwrap();
        let shown = Shown::read(&[chain]).unwrap();

        let then = credentials.moment();
        assert_eq!(credentials.fault_since(&then, &shown), None);
        let (serial, at) = (shown.certificate.serial, env.now());
        ours.crl_pem = authority.crl(&[Revoked { serial, at }], at).unwrap();
        credentials.replace(ours).unwrap();
        let fault = credentials.fault_since(&then, &shown);
        assert_eq!(fault, Some(Reason::Revoked));
    }
}
