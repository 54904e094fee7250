//! Who one is to a fabric, as one file: where it is, the private key, the certificate, whom to
//! trust. `kapok-controller init` writes it, `kapok` reads and writes it.
//!
//! ```text
//! # fabric: NAME
//! # controllers: HOST:PORT,…      where commands go
//! # enroll: HOST:PORT,…           where one logs in again, if known
//! PRIVATE KEY
//! CERTIFICATE                     the leaf, then cross-signed authorities
//! CERTIFICATE                     the trusted authorities, each signed by itself
//! X509 CRL                        any number
//! ```
//!
//! One file, so that a rename switches all of it at once. Where it lies, and who may read it, is
//! for those who write it to say.

use kapok_types::Name;
use zeroize::Zeroizing;

use crate::{Certificate, Material, Root, certificate};

/// Who one is to a fabric. Its `Debug` keeps the key.
#[derive(Debug, Clone)]
pub struct Credential {
    /// What the certificate says; the fabric's name is in there.
    pub certificate: Certificate,
    /// Key, certificate, whom to trust.
    pub material: Material,
    /// Where commands go: "HOST:PORT", the best first; empty if the file doesn't say.
    pub controllers: Vec<String>,
    /// Where one logs in again: "HOST:PORT"; empty if the file doesn't say.
    pub enroll: Vec<String>,
}

/// Why a text is no credential. Nothing of the text is in it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A block has no end.
    #[error("is cut off")]
    Cut,
    /// There are two keys.
    #[error("holds several private keys")]
    Keys,
    /// A block of another kind.
    #[error("holds {label:?}, which doesn't belong there")]
    Alien {
        /// What the block calls itself.
        label: String,
    },
    /// A block is missing.
    #[error("holds no {what}")]
    Missing {
        /// Which.
        what: &'static str,
    },
    /// The certificate can't be read.
    #[error("holds a bad certificate")]
    Certificate(#[from] certificate::Error),
    /// The comment and the certificate disagree.
    #[error("names another fabric than its certificate")]
    OtherFabric,
}

impl Credential {
    /// From what the fabric has issued.
    ///
    /// # Errors
    ///
    /// [`Error::Certificate`]: it isn't one of ours.
    pub fn new(
        material: Material,
        controllers: Vec<String>,
        enroll: Vec<String>,
    ) -> Result<Self, Error> {
        Ok(Self {
            certificate: Certificate::parse_pem(&material.chain_pem)?,
            material,
            controllers,
            enroll,
        })
    }

    /// Reads a file's text.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut material = Material::default();
        let mut fabric: Option<&str> = None;
        let (mut controllers, mut enroll) = (Vec::new(), Vec::new());
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            if let Some(label) = label(line) {
                let block = block(label, line, &mut lines)?;
                let place = match label {
                    "PRIVATE KEY" if material.key_pem.is_empty() => &mut material.key_pem,
                    "PRIVATE KEY" => return Err(Error::Keys),
                    "CERTIFICATE" if Root::parse_pem(&block).is_ok() => &mut material.bundle_pem,
                    "CERTIFICATE" => &mut material.chain_pem,
                    "X509 CRL" => &mut material.crl_pem,
                    other => {
                        let label = other.chars().take(32).collect();
                        return Err(Error::Alien { label });
                    }
                };
                place.push_str(&block);
            } else if let Some((key, value)) = comment(line) {
                match key {
                    "fabric" => fabric = Some(value),
                    "controllers" => controllers = list(value),
                    "enroll" => enroll = list(value),
                    _ => {}
                }
            }
        }
        for (what, part) in [
            ("private key", &material.key_pem),
            ("certificate", &material.chain_pem),
            ("authority", &material.bundle_pem),
        ] {
            if part.is_empty() {
                return Err(Error::Missing { what });
            }
        }
        let this = Self::new(material, controllers, enroll)?;
        if fabric.is_some_and(|fabric| fabric != this.fabric().as_str()) {
            return Err(Error::OtherFabric);
        }
        Ok(this)
    }

    /// The file's text.
    pub fn text(&self) -> Zeroizing<String> {
        let addresses = |key: &str, addresses: &[String]| match addresses {
            [] => String::new(),
            _ => format!("# {key}: {}\n", addresses.join(",")),
        };
        let Material {
            chain_pem,
            key_pem,
            bundle_pem,
            crl_pem,
        } = &self.material;
        Zeroizing::new(format!(
            "# A credential of Kapok: whoever reads it is {} there.\n# fabric: {}\n{}{}{key_pem}\
             {chain_pem}{bundle_pem}{crl_pem}",
            self.certificate.subject(),
            self.fabric(),
            addresses("controllers", &self.controllers),
            addresses("enroll", &self.enroll),
        ))
    }

    /// The fabric's name.
    pub const fn fabric(&self) -> &Name {
        &self.certificate.identity.fabric
    }
}

/// What a line begins, as in `-----BEGIN LABEL-----`.
fn label(line: &str) -> Option<&str> {
    line.trim_end()
        .strip_prefix("-----BEGIN ")?
        .strip_suffix("-----")
}

/// The block that `line` begins.
fn block<'a>(
    label: &str,
    line: &str,
    lines: &mut impl Iterator<Item = &'a str>,
) -> Result<Zeroizing<String>, Error> {
    let end = format!("-----END {label}-----");
    let mut block = Zeroizing::new(format!("{line}\n"));
    for line in lines {
        block.push_str(line);
        block.push('\n');
        if line.trim_end() == end {
            return Ok(block);
        }
    }
    Err(Error::Cut)
}

fn comment(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.strip_prefix('#')?.split_once(':')?;
    Some((key.trim(), value.trim()))
}

fn list(value: &str) -> Vec<String> {
    let items = value.split(',').map(str::trim);
    items
        .filter(|item| !item.is_empty())
        .map(str::to_owned)
        .collect()
}
