//! All that a member of the fabric needs to speak, as text.

use std::fmt;

use zeroize::Zeroize as _;

/// Certificate, private key, trusted authorities and revocations: they change together.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Material {
    /// The leaf, then the cross certificates that lead from its authority to older ones.
    pub chain_pem: String,
    /// The leaf's private key (PKCS #8).
    pub key_pem: String,
    /// The trusted authorities.
    pub bundle_pem: String,
    /// The authorities' revocation lists, one after another; may be empty.
    pub crl_pem: String,
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Material")
            .field("chain_pem", &self.chain_pem)
            .field("bundle_pem", &self.bundle_pem)
            .field("crl_pem", &self.crl_pem)
            .finish_non_exhaustive()
    }
}

impl Drop for Material {
    fn drop(&mut self) {
        self.key_pem.zeroize();
    }
}
