//! Who may speak to whom: identities, certificates, TLS on every socket, seals and tokens.
//!
//! ```text
//!  Authority ── issue ──> Certificate + Key + Bundle (+ CRLs) = Material
//!                                             │
//!                              files ──> Credentials (hot) ──> Acceptor ──> Connection, Peer
//!                                             │          └──> connector ──> Connection, Channel
//!                                             └──> Signer ──> Sealed
//!  Token ── Pin ──> pinned ──> Bundle (how the first certificate is fetched)
//! ```
//!
//! TLS 1.3 alone, one provider (aws-lc-rs), and rustls' stock verifiers: DNS names say who was
//! dialled, a URI name says who somebody *is*. There is no verifier of our own that accepts
//! anything, no session resumption (a resumed session would skip the check of the certificate),
//! and no process-wide default of any kind.
//!
//! **Absent on purpose:** what an identity may *do*. This crate says who; the controller's
//! policies and the agent's services say what.

// Who somebody is, and what shows it.
pub mod certificate;
pub mod identity;
pub mod serial;

// How certificates come to be.
pub mod authority;
pub mod bundle;
pub mod key;

// What a process holds, on disk and in memory.
pub mod credential;
pub mod credentials;
pub mod files;
pub mod material;

// Sockets: both ends, and what becomes of their connections.
pub mod acceptor;
mod admission;
mod connection;
pub mod connections;
pub mod connector;
pub mod failure;
pub mod lasting;
pub mod peer;
pub mod refusals;
mod tls;

// Words that outlive a connection, and the way in.
pub mod head;
pub mod locked;
pub mod pinned;
pub mod seal;
pub mod token;

pub use acceptor::{Acceptor, Limits};
pub use authority::{Authority, Revoked};
pub use bundle::{Bundle, Root};
pub use certificate::Certificate;
pub use connection::Connection;
pub use connections::Connections;
pub use credential::Credential;
pub use credentials::{ClientAuth, Credentials};
pub use failure::{Alert, TlsFailure};
pub use head::LogHead;
pub use identity::{Identity, Subject, dns};
pub use key::{Csr, Key};
pub use lasting::Lasting;
pub use material::Material;
pub use peer::Peer;
pub use pinned::Pin;
pub use refusals::{Reason, Refusals};
pub use seal::{Opened, Sealed, Signer};
pub use serial::{Fingerprint, Serial};
pub use token::{Token, TokenId};
