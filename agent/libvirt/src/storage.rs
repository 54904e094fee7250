//! Pools and volumes: the only way to disks.
//!
//! ```text
//! Pool ── volumes ──> Volume ──┬── upload, download   (one stream each)
//!                              └── disk_source        (what a domain is given)
//! ```
//!
//! A volume's layout always comes from the caller's record. libvirt's own idea of it is what the
//! bytes looked like when it last looked, and a guest can write any bytes (FAULTS 10).

mod pool;
mod transfer;
mod volume;

pub use pool::{Pool, PoolInfo, PoolState};
pub use transfer::TransferError;
pub use volume::{Volume, VolumeInfo};
