//! The wire: generated code from the `.proto` files, and conversions to and from [`kapok_types`].
//!
//! No logic lives here. A conversion from the wire either gives a checked value or a
//! [`Violation`](kapok_types::Violation) that names the field.

/// Words that both APIs share.
pub mod common {
    /// Version 1.
    #[allow(
        clippy::all,
        clippy::as_conversions,
        clippy::pedantic,
        missing_docs,
        unused_qualifications
    )]
    pub mod v1 {
        tonic::include_proto!("kapok.common.v1");
    }
}

/// What agents serve: to controllers (`NodeService`) and to each other (`PeerService`).
pub mod agent {
    /// Version 1.
    #[allow(
        clippy::all,
        clippy::as_conversions,
        clippy::pedantic,
        missing_docs,
        unused_qualifications
    )]
    pub mod v1 {
        tonic::include_proto!("kapok.agent.v1");
    }
}

/// What the controller serves to people.
pub mod fabric {
    /// Version 1.
    #[allow(
        clippy::all,
        clippy::as_conversions,
        clippy::pedantic,
        missing_docs,
        unused_qualifications
    )]
    pub mod v1 {
        tonic::include_proto!("kapok.fabric.v1");
    }
}

pub mod convert;
pub mod refusal;

/// All descriptors with their comments, encoded, for the controller's reflection service.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kapok.bin"));

/// Descriptors of what agents serve, encoded, for their reflection service.
pub const AGENT_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/agent.bin"));

/// Largest message that a server of ours takes or gives, in bytes (FAULTS 18).
pub const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;

/// Largest piece of a blob in one message, in bytes.
pub const BLOB_PIECE_BYTES: usize = 256 * 1024;
