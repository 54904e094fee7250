//! Tokens: how somebody without a certificate gets the first one.
//!
//! ```text
//! kapok1.FABRIC.base64url(authority's fingerprint 32 B ‖ token's id 16 B ‖ secret 16 B)
//! ```
//!
//! A token pins the authority, so whoever joins knows whom it trusts before it has said a word.
//! The controller stores the secret's hash only, and the text is shown once.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use kapok_types::{Digest, Env, Name, Violation};
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use zeroize::{Zeroize as _, Zeroizing};

use crate::{Fingerprint, Pin};

/// What every token begins with; another layout gets another number.
const PREFIX: &str = "kapok1";

/// Names a token without showing it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TokenId(pub Uuid);

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenId({self})")
    }
}

impl FromStr for TokenId {
    type Err = Violation;

    fn from_str(text: &str) -> Result<Self, Violation> {
        Uuid::try_parse(text)
            .ok()
            .filter(|id| id.hyphenated().to_string() == text)
            .map(Self)
            .ok_or_else(|| {
                Violation::new("token_id", "must be a UUID in hyphenated lower-case form")
            })
    }
}

/// A token. Shown by [`Token::reveal`] alone: it has no `Display`, and its `Debug` keeps the
/// secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    fabric: Name,
    authority: Fingerprint,
    id: TokenId,
    secret: [u8; 16],
}

impl Token {
    /// A new token for `fabric`, whose holder will trust `authority`.
    pub fn new(fabric: Name, authority: Fingerprint, env: &dyn Env) -> Self {
        let mut secret = [0; 16];
        secret[..8].copy_from_slice(&env.random().to_be_bytes());
        secret[8..].copy_from_slice(&env.random().to_be_bytes());
        Self {
            fabric,
            authority,
            id: TokenId(env.uuid()),
            secret,
        }
    }

    /// The fabric it lets in to.
    pub const fn fabric(&self) -> &Name {
        &self.fabric
    }

    /// The authority that its holder trusts.
    pub const fn authority(&self) -> Fingerprint {
        self.authority
    }

    /// Its name.
    pub const fn id(&self) -> TokenId {
        self.id
    }

    /// What the controller stores, and compares with.
    pub fn secret_hash(&self) -> Digest {
        Digest::of(&self.secret)
    }

    /// Whom its holder trusts before having a certificate.
    pub fn pin(&self) -> Pin {
        Pin {
            fabric: self.fabric.clone(),
            authority: self.authority,
        }
    }

    /// The token's text, secret and all; wiped when dropped.
    pub fn reveal(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(64));
        bytes.extend(self.authority.0);
        bytes.extend(self.id.0.as_bytes());
        bytes.extend(self.secret);
        let secret = Zeroizing::new(URL_SAFE_NO_PAD.encode(&*bytes));
        Zeroizing::new(format!("{PREFIX}.{}.{}", self.fabric, *secret))
    }
}

impl FromStr for Token {
    type Err = Violation;

    /// Never repeats what it was given.
    fn from_str(text: &str) -> Result<Self, Violation> {
        let refused = || Violation::new("token", "must be a whole token: kapok1.FABRIC.…");
        let mut parts = text.split('.');
        let (Some(PREFIX), Some(fabric), Some(rest), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(refused());
        };
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(rest).map_err(|_| refused())?);
        let bytes: Zeroizing<[u8; 64]> =
            Zeroizing::new(bytes.as_slice().try_into().map_err(|_| refused())?);
        let (authority, rest) = bytes.split_at(32);
        let (id, secret) = rest.split_at(16);
        Ok(Self {
            fabric: fabric.parse().map_err(|_| refused())?,
            authority: Fingerprint::from_bytes(authority).ok_or_else(refused)?,
            id: TokenId(Uuid::from_slice(id).map_err(|_| refused())?),
            secret: secret.try_into().map_err(|_| refused())?,
        })
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("fabric", &self.fabric)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use kapok_types::env::Seeded;

    use super::*;

    #[test]
    fn a_token_survives_its_text_and_nothing_else_shows_its_secret() {
        let env = Seeded::new(1);
        let token = Token::new("city".parse().unwrap(), Fingerprint::of(b"ca"), &*env);
        let text = token.reveal();
        let again: Token = text.parse().unwrap();
        assert_eq!(again, token);
        assert_eq!(again.secret_hash(), token.secret_hash());
        assert_eq!(again.pin().authority, Fingerprint::of(b"ca"));
        let secret = text.rsplit('.').next().unwrap();
        let debug = format!("{token:?}");
        assert!(debug.contains(&token.id().to_string()));
        assert!(!debug.contains(secret) && !debug.contains(&format!("{:?}", token.secret)));
        assert_ne!(
            Token::new("city".parse().unwrap(), Fingerprint::of(b"ca"), &*env).secret_hash(),
            token.secret_hash()
        );
    }

    #[test]
    fn what_is_no_token_is_refused_and_not_repeated() {
        let env = Seeded::new(2);
        let token = Token::new("city".parse().unwrap(), Fingerprint::of(b"ca"), &*env);
        let text = token.reveal();
        for wrong in [
            String::new(),
            text.replace("kapok1", "kapok2"),
            text.replace("city", "CITY"),
            format!("{}.x", *text),
            text[..text.len() - 2].to_owned(),
            format!("{}AA", *text),
        ] {
            let refused = wrong.parse::<Token>().unwrap_err();
            assert_eq!(refused.field, "token");
            assert!(wrong.is_empty() || !refused.to_string().contains(&wrong));
        }
    }
}
