//! The credential of whoever types: a file of [`kapok_trust::credential`]'s form.
//!
//! **Invariant:** written only readable by its owner, and refused when others can read it; the key
//! is never printed.

use std::{
    fmt, fs,
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use kapok_proto::fabric::v1 as wire;
use kapok_trust::{Certificate, Credentials, Key, Material};
use kapok_types::{Name, Timestamp, env::System};
use zeroize::Zeroizing;

use crate::{
    error::{Error, root_cause},
    settings::Addresses,
};

/// A longer file is none of ours.
const MAX_BYTES: u64 = 256 * 1024;

/// Who one is to a fabric. Its `Debug` keeps the key.
#[derive(Debug, Clone)]
pub(crate) struct Credential {
    /// The fabric.
    pub(crate) fabric: Name,
    /// Where commands go, if the file says so.
    pub(crate) controllers: Option<Addresses>,
    /// Where one logs in again, if the file says so.
    pub(crate) enroll: Option<Addresses>,
    /// Key, certificate, whom to trust.
    pub(crate) material: Material,
    /// What the certificate says.
    pub(crate) certificate: Certificate,
}

impl Credential {
    /// From what the fabric has issued to `key`.
    ///
    /// # Errors
    ///
    /// It isn't for us, or its parts don't fit together.
    pub(crate) fn issued(
        key: &Key,
        issued: wire::Credential,
        controllers: Option<Addresses>,
        enroll: Option<Addresses>,
    ) -> Result<Self, Error> {
        let bad = |why: &dyn fmt::Display| Error::Content {
            message: format!("the controller's certificate can't be used: {why}"),
            hint: "nothing was stored; compare the versions of kapok and the controller".to_owned(),
        };
        let material = Material {
            chain_pem: issued.chain_pem,
            key_pem: key.to_pem().to_string(),
            bundle_pem: issued.bundle_pem,
            crl_pem: issued.crl_pem,
        };
        let certificate = Certificate::parse_pem(&material.chain_pem).map_err(|why| bad(&why))?;
        // What can't be dialled with must not be kept.
        Credentials::new(material.clone(), System::new()).map_err(|why| bad(&root_cause(&why)))?;
        Ok(Self {
            fabric: certificate.identity.fabric.clone(),
            controllers,
            enroll,
            material,
            certificate,
        })
    }

    /// Itself, if it is of this fabric.
    ///
    /// # Errors
    ///
    /// It is another's: nobody asked for that.
    pub(crate) fn only_of(self, fabric: &Name) -> Result<Self, Error> {
        if self.fabric == *fabric {
            return Ok(self);
        }
        Err(Error::Content {
            message: format!("a certificate of {} came, not of {fabric}", self.fabric),
            hint: "nothing was stored; tell a security administrator".to_owned(),
        })
    }

    /// Reads one.
    ///
    /// # Errors
    ///
    /// It can't be read, others can read it, or it isn't whole.
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        let bad = |reason: String, hint: String| Error::Credential {
            path: path.to_owned(),
            reason,
            hint,
        };
        let metadata = fs::metadata(path)
            .map_err(|error| bad(format!("can't be read: {error}"), String::new()))?;
        let mode = metadata.permissions().mode() & 0o777;
        if metadata.is_file() && mode & 0o077 != 0 {
            return Err(bad(
                format!("can be read by others (its mode is {mode:04o}), and it holds a secret"),
                format!("chmod 600 {}", path.display()),
            ));
        }
        if metadata.len() > MAX_BYTES {
            return Err(bad("is far too long for one".to_owned(), String::new()));
        }
        let text = fs::read_to_string(path).map(Zeroizing::new);
        let text = text.map_err(|error| bad(format!("can't be read: {error}"), String::new()))?;
        Self::parse(&text).map_err(|reason| {
            bad(
                reason,
                "log in again, or fetch the file again from whoever made it".to_owned(),
            )
        })
    }

    /// Reads a file's text.
    ///
    /// # Errors
    ///
    /// In words, without any of the text.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let file = kapok_trust::Credential::parse(text).map_err(|error| root_cause(&error))?;
        let addresses = |key: &str, items: &[String]| {
            let wrong = |reason| format!("has a bad line \"# {key}:\": {reason}");
            match items {
                [] => Ok(None),
                _ => items.join(",").parse().map(Some).map_err(wrong),
            }
        };
        Ok(Self {
            fabric: file.fabric().clone(),
            controllers: addresses("controllers", &file.controllers)?,
            enroll: addresses("enroll", &file.enroll)?,
            material: file.material,
            certificate: file.certificate,
        })
    }

    /// The file's text.
    pub(crate) fn text(&self) -> Zeroizing<String> {
        let items = |addresses: &Option<Addresses>| {
            let items = addresses.iter().flat_map(Addresses::iter);
            items.map(str::to_owned).collect()
        };
        let file = kapok_trust::Credential {
            certificate: self.certificate.clone(),
            material: self.material.clone(),
            controllers: items(&self.controllers),
            enroll: items(&self.enroll),
        };
        file.text()
    }

    /// Writes it, whole or not at all, readable by its owner alone.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        write_private(path, self.text().as_bytes())
    }

    /// Whether it is about time to renew it.
    pub(crate) fn renewal_due(&self, now: Timestamp) -> bool {
        now >= self.certificate.renew_at()
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&self, now: Timestamp) -> bool {
        now > self.certificate.not_after
    }
}

/// Whether a file could be written there as [`write_private`] does; leaves nothing.
///
/// # Errors
///
/// The file system's.
pub(crate) fn probe_private(path: &Path) -> io::Result<()> {
    let (_, beside) = places(path);
    let probed = write_new(&beside, b"probe");
    let _ = fs::remove_file(&beside);
    probed
}

/// Writes a file that only its owner can read: whole or not at all, and there after a crash.
///
/// # Errors
///
/// The file system's.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let (folder, beside) = places(path);
    let written = write_new(&beside, content)
        .and_then(|()| fs::rename(&beside, path))
        .and_then(|()| fs::File::open(folder)?.sync_all());
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written
}

/// A file's folder, and where its content is before it is whole.
fn places(path: &Path) -> (&Path, PathBuf) {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = folder.join(format!(".{name}.{}", std::process::id()));
    (folder, beside)
}

fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    // Nothing is left of an earlier process of this number.
    let _ = fs::remove_file(path);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use kapok_trust::{Authority, Csr, Identity, Serial, authority::LIFE};
    use kapok_types::{Env as _, env::System};

    use super::*;

    /// A credential of a fabric of its own, for `life`.
    pub(crate) fn sample(subject: &str, life: Duration) -> Credential {
        let env = System::new();
        let fabric: Name = "city".parse().unwrap();
        let authority = Authority::create(&fabric, &*env, LIFE).unwrap();
        let key = Key::generate().unwrap();
        let csr = Csr::parse(&key.request().unwrap()).unwrap();
        let identity = Identity::new(fabric, subject.parse().unwrap());
        let serial = Serial::new(&*env);
        let chain = authority.issue(&csr, &identity, serial, life, env.now());
        let issued = wire::Credential {
            chain_pem: chain.unwrap(),
            bundle_pem: authority.certificate_pem().to_owned(),
            crl_pem: authority.crl(&[], env.now()).unwrap(),
            ..wire::Credential::default()
        };
        let at = |text: &str| Some(text.parse().unwrap());
        Credential::issued(&key, issued, at("a:7700,b:7700"), at("a:7780")).unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        let credential = sample("user/ada", Duration::from_hours(12));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.pem");
        credential.write(&path).unwrap();
        credential.write(&path).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let read = Credential::read(&path).unwrap();
        assert_eq!(read.material, credential.material);
        assert_eq!(read.controllers, credential.controllers);
        assert_eq!(read.enroll, credential.enroll);
        assert_eq!(read.certificate, credential.certificate);
        assert_eq!(read.certificate.life(), Duration::from_hours(12));
    }

    #[test]
    fn what_was_issued_must_fit() {
        let ours = sample("user/ada", Duration::from_hours(1));
        let issued = wire::Credential {
            chain_pem: ours.material.chain_pem.clone(),
            bundle_pem: ours.material.bundle_pem.clone(),
            ..wire::Credential::default()
        };
        let other = Key::generate().unwrap();
        let refused = Credential::issued(&other, issued, None, None).unwrap_err();
        let report = refused.report();
        assert!(report.message.contains("can't be used"), "{report:?}");
    }

    #[test]
    fn a_rotated_authority_is_told_from_the_cross_signed_one() {
        let env = System::new();
        let credential = sample("user/ada", Duration::from_hours(12));
        let fabric = &credential.fabric;
        let (old, new) = (
            Authority::create(fabric, &*env, LIFE).unwrap(),
            Authority::create(fabric, &*env, LIFE).unwrap(),
        );
        let cross = old.cross_sign(new.certificate_pem(), Serial::new(&*env), env.now());
        let mut rotated = credential;
        rotated.material.chain_pem.push_str(&cross.unwrap());
        rotated.material.bundle_pem = format!("{}{}", old.certificate_pem(), new.certificate_pem());
        let read = Credential::parse(&rotated.text()).unwrap();
        assert_eq!(read.material, rotated.material);
    }

    #[test]
    fn a_file_that_is_not_whole_or_not_private_is_refused_without_showing_it() {
        let credential = sample("user/ada", Duration::from_hours(12));
        let text = credential.text();
        let secret = credential.material.key_pem.lines().nth(1).unwrap();
        assert!(text.contains(secret) && !format!("{credential:?}").contains(secret));
        let without = |label: &str| {
            let begin = text.find(&format!("-----BEGIN {label}")).unwrap();
            let end = format!("-----END {label}-----\n");
            let end = text.rfind(&end).unwrap() + end.len();
            format!("{}{}", &text[..begin], &text[end..])
        };
        for (bad, reason) in [
            (String::new(), "no private key"),
            (without("PRIVATE KEY"), "no private key"),
            (without("CERTIFICATE"), "no certificate"),
            (text[..text.len() / 2].to_owned(), "cut off"),
            (
                text.replace("# fabric: city", "# fabric: town"),
                "another fabric",
            ),
            (text.replace("a:7700,", "http://a:1,"), "TLS only"),
            (format!("{}{}", *text, *text), "several private keys"),
        ] {
            let refused = Credential::parse(&bad).unwrap_err();
            assert!(refused.contains(reason), "{refused}");
            assert!(!refused.contains(secret), "{refused}");
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.pem");
        credential.write(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let report = Credential::read(&path).unwrap_err().report();
        assert!(report.message.contains("by others"), "{report:?}");
        assert!(report.hint.unwrap().starts_with("chmod 600 "));
    }
}
