//! Secrets that lie outside of their machine, under a passphrase: what a backup holds of keys.
//!
//! AES-256-GCM; its key is made from the passphrase by PBKDF2 with HMAC-SHA-256. Salt and nonce are
//! new each time. What is around the secret is bound to it, so that whoever opens it knows that both
//! belong together.
//!
//! ```text
//!  version 1 | iterations 4, big-endian | salt 16 | nonce 12 | ciphertext, tag 16
//! ```

use std::num::NonZeroU32;

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    pbkdf2::{self, PBKDF2_HMAC_SHA256},
    rand,
};
use zeroize::Zeroizing;

/// Shortest passphrase, in bytes.
pub const MIN_PASSPHRASE_BYTES: usize = 12;

/// The layout that this version writes, and the newest that it reads.
const VERSION: u8 = 1;
/// Rounds that a passphrase is put through. OWASP's figure for this function.
const ITERATIONS: u32 = 600_000;
/// Most rounds that are believed of what is opened.
const MAX_ITERATIONS: u32 = 10_000_000;
const KEY_BYTES: usize = 32;
const SALT_BYTES: usize = 16;
const NONCE_BYTES: usize = 12;

/// Why a secret can't be locked or opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The passphrase is too short.
    #[error("the passphrase has less than {MIN_PASSPHRASE_BYTES} bytes; choose a longer one")]
    Short,
    /// A newer version locked it.
    #[error("locked in form {found}, this version reads up to {VERSION}")]
    Newer {
        /// The form's version.
        found: u8,
    },
    /// These bytes are nothing that was locked.
    #[error("not a locked secret")]
    Malformed,
    /// The passphrase is another one, or something was changed: which of both can't be told.
    #[error("the passphrase is not the one that it was locked with, or it was changed since")]
    Wrong,
    /// The system's random numbers or the cipher failed.
    #[error("the cipher failed")]
    Failed,
}

/// Locks a secret. `around` is what it belongs to.
///
/// # Errors
/// [`Error::Short`], [`Error::Failed`].
pub fn lock(passphrase: &[u8], around: &[u8], secret: &[u8]) -> Result<Vec<u8>, Error> {
    if passphrase.len() < MIN_PASSPHRASE_BYTES {
        return Err(Error::Short);
    }
    let (mut salt, mut nonce) = ([0; SALT_BYTES], [0; NONCE_BYTES]);
    rand::fill(&mut salt).map_err(|_| Error::Failed)?;
    rand::fill(&mut nonce).map_err(|_| Error::Failed)?;
    let mut sealed = Zeroizing::new(secret.to_vec());
    key(passphrase, ITERATIONS, &salt)?
        .seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(around),
            &mut *sealed,
        )
        .map_err(|_| Error::Failed)?;
    let mut out = vec![VERSION];
    out.extend(ITERATIONS.to_be_bytes());
    out.extend(salt);
    out.extend(nonce);
    out.extend(&*sealed);
    Ok(out)
}

/// Opens what [`lock`] gave. It is then known that `around` is what it was locked with.
///
/// # Errors
/// [`Error::Newer`], [`Error::Malformed`], [`Error::Wrong`].
pub fn open(passphrase: &[u8], around: &[u8], locked: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
    let (&version, rest) = locked.split_first().ok_or(Error::Malformed)?;
    if version > VERSION {
        return Err(Error::Newer { found: version });
    }
    let (iterations, rest) = rest.split_first_chunk().ok_or(Error::Malformed)?;
    let (salt, rest) = rest
        .split_first_chunk::<SALT_BYTES>()
        .ok_or(Error::Malformed)?;
    let (nonce, sealed) = rest
        .split_first_chunk::<NONCE_BYTES>()
        .ok_or(Error::Malformed)?;
    let iterations = u32::from_be_bytes(*iterations);
    if !(1..=MAX_ITERATIONS).contains(&iterations) {
        return Err(Error::Malformed);
    }
    let mut secret = Zeroizing::new(sealed.to_vec());
    let length = key(passphrase, iterations, salt)?
        .open_in_place(
            Nonce::assume_unique_for_key(*nonce),
            Aad::from(around),
            &mut secret,
        )
        .map_err(|_| Error::Wrong)?
        .len();
    secret.truncate(length);
    Ok(secret)
}

fn key(passphrase: &[u8], iterations: u32, salt: &[u8]) -> Result<LessSafeKey, Error> {
    let mut bytes = Zeroizing::new([0; KEY_BYTES]);
    let iterations = NonZeroU32::new(iterations).ok_or(Error::Malformed)?;
    pbkdf2::derive(
        PBKDF2_HMAC_SHA256,
        iterations,
        salt,
        passphrase,
        &mut *bytes,
    );
    let key = UnboundKey::new(&AES_256_GCM, &*bytes).map_err(|_| Error::Failed)?;
    Ok(LessSafeKey::new(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSPHRASE: &[u8] = b"correct horse battery";

    #[test]
    fn only_the_same_passphrase_and_the_same_surroundings_open_it() {
        let locked = lock(PASSPHRASE, b"around", b"a key").unwrap();
        assert_eq!(&**open(PASSPHRASE, b"around", &locked).unwrap(), b"a key");
        assert!(!locked.windows(5).any(|part| part == b"a key"));
        let other = b"correct horse batterz";
        assert_eq!(open(other, b"around", &locked), Err(Error::Wrong));
        assert_eq!(open(PASSPHRASE, b"Around", &locked), Err(Error::Wrong));
        // Twice the same is never the same.
        assert_ne!(lock(PASSPHRASE, b"around", b"a key").unwrap(), locked);
    }

    #[test]
    fn changed_cut_and_newer_bytes_are_refused() {
        let locked = lock(PASSPHRASE, b"", b"a key").unwrap();
        let mut changed = locked.clone();
        *changed.last_mut().unwrap() ^= 1;
        assert_eq!(open(PASSPHRASE, b"", &changed), Err(Error::Wrong));
        assert_eq!(open(PASSPHRASE, b"", &locked[..20]), Err(Error::Malformed));
        assert_eq!(open(PASSPHRASE, b"", &[]), Err(Error::Malformed));
        let mut newer = locked.clone();
        newer[0] = 2;
        assert_eq!(
            open(PASSPHRASE, b"", &newer),
            Err(Error::Newer { found: 2 })
        );
        // A number of rounds that would keep a reader busy for hours.
        let mut endless = locked;
        endless[1..5].copy_from_slice(&u32::MAX.to_be_bytes());
        assert_eq!(open(PASSPHRASE, b"", &endless), Err(Error::Malformed));
    }

    #[test]
    fn a_short_passphrase_is_refused() {
        assert_eq!(lock(b"short", b"", b"a key"), Err(Error::Short));
    }
}
