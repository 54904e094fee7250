//! Heads of the fabric's log, sealed: what the log held at one time, in the hands of others.
//!
//! Whoever keeps one can tell later that the log was cut or made anew, and nobody but a controller
//! can make one. The payload is `sequence u64 | hash 32 | milliseconds u64`, big-endian.

use kapok_types::{Digest, Seq, Timestamp};

use crate::{Bundle, Certificate, Sealed, Signer, seal::Error};

/// A head of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogHead {
    /// The last entry's place.
    pub sequence: Seq,
    /// The last entry's hash.
    pub hash: Digest,
    /// When it was sealed.
    pub at: Timestamp,
}

impl LogHead {
    /// What such a seal is for.
    pub const PURPOSE: &'static str = "kapok log head 1";

    /// Seals it.
    ///
    /// # Errors
    /// The key refuses.
    pub fn seal(&self, signer: &Signer) -> Result<Sealed, Error> {
        let payload = [
            &self.sequence.get().to_be_bytes()[..],
            &self.hash.0,
            &self.at.get().to_be_bytes(),
        ];
        signer.seal(Self::PURPOSE, &payload.concat())
    }

    /// Reads the payload of a seal that was opened for [`LogHead::PURPOSE`].
    ///
    /// # Errors
    /// It is no head.
    pub fn read(payload: &[u8]) -> Result<Self, Error> {
        let split = payload
            .split_first_chunk::<8>()
            .and_then(|(sequence, rest)| {
                let (hash, at) = rest.split_first_chunk::<32>()?;
                Some((sequence, hash, <[u8; 8]>::try_from(at).ok()?))
            });
        let (sequence, hash, at) = split.ok_or(Error::Malformed)?;
        Ok(Self {
            sequence: Seq(u64::from_be_bytes(*sequence)),
            hash: Digest(*hash),
            at: Timestamp(u64::from_be_bytes(at)),
        })
    }

    /// Opens one that was kept, and says who sealed it: a controller of the fabric, with a
    /// certificate that held at the time that it names.
    ///
    /// # Errors
    /// No controller of the fabric sealed it then.
    pub fn open_kept(sealed: &Sealed, bundle: &Bundle) -> Result<(Self, Certificate), Error> {
        let claimed = Self::read(&sealed.payload)?;
        let opened = sealed.open(Self::PURPOSE, bundle, claimed.at)?;
        Ok((claimed, opened.certificate))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use kapok_types::{Env as _, env::Seeded};

    use super::*;
    use crate::{Authority, Credentials, Csr, Identity, Key, Material, Serial, Subject};

    fn signer(subject: Subject) -> (Signer, Bundle, Timestamp) {
        let env = Seeded::new(1);
        let fabric = "city".parse().unwrap();
        let authority = Authority::create(&fabric, &*env, Duration::from_hours(48)).unwrap();
        let key = Key::generate().unwrap();
        let csr = Csr::parse(&key.request().unwrap()).unwrap();
        let identity = Identity::new(fabric, subject);
        let life = Duration::from_hours(1);
        let leaf = authority.issue(&csr, &identity, Serial::new(&*env), life, env.now());
        let material = Material {
            chain_pem: leaf.unwrap(),
            key_pem: key.to_pem().to_string(),
            bundle_pem: authority.certificate_pem().to_owned(),
            crl_pem: String::new(),
        };
        let credentials = Credentials::new(material, env.clone()).unwrap();
        let bundle = Bundle::parse_pem(authority.certificate_pem()).unwrap();
        (credentials.signer(), bundle, env.now())
    }

    #[test]
    fn a_kept_head_is_believed_years_later() {
        let (signer, bundle, at) = signer(Subject::Controller("a".parse().unwrap()));
        let head = LogHead {
            sequence: Seq(7),
            hash: Digest([3; 32]),
            at,
        };
        let sealed = head.seal(&signer).unwrap();
        let (read, by) = LogHead::open_kept(&sealed, &bundle).unwrap();
        assert_eq!(
            (read, by.identity.subject.to_string()),
            (head, "controller/a".into())
        );
        // Not with a time at which the certificate didn't hold, nor with another hash.
        let late = LogHead {
            at: Timestamp(at.get() + 7_200_000),
            ..head
        };
        let late = late.seal(&signer).unwrap();
        assert!(LogHead::open_kept(&late, &bundle).is_err());
        let mut forged = sealed;
        forged.payload[10] ^= 1;
        assert!(LogHead::open_kept(&forged, &bundle).is_err());
        forged.payload.pop();
        assert!(LogHead::open_kept(&forged, &bundle).is_err());
    }

    #[test]
    fn only_a_controller_seals_heads() {
        let (signer, bundle, at) = signer(Subject::User("eve".parse().unwrap()));
        let head = LogHead {
            sequence: Seq(7),
            hash: Digest([3; 32]),
            at,
        };
        let sealed = head.seal(&signer).unwrap();
        assert!(LogHead::open_kept(&sealed, &bundle).is_err());
    }
}
