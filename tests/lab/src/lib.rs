//! Several real libvirt hosts on one machine, in namespaces that it makes and takes away.
//!
//! [`Lab::raise`] gives hosts that differ from real ones in three ways: they share a kernel,
//! their guests run under TCG if KVM can't be trusted, and they live as long as the process
//! that raised them. Each has its own host name, network, process ids, `/etc`, `/var` and
//! `/run`, its own libvirtd with a host UUID, a storage pool and a network, and an
//! unprivileged user `kapok` in the group `libvirt`.
//!
//! | module | holds |
//! | --- | --- |
//! | [`lab`], [`host`], [`machine`] | the lab, its hosts, and what a host and the hub have in common |
//! | [`command`], [`process`] | running something inside |
//! | [`guest`] | the bootable image for instances |
//! | [`fabric`] | Kapok's own programs at work in a lab |
//! | [`server`] | a whole Debian server under QEMU, for packages and their services |
//! | [`loopback`] | the same programs on loopback, with simulated nodes and without a lab |
//! | [`forward`] | a way in for programs outside |
//! | [`leftovers`](leftovers()) | looking for what should be gone |
//! | [`exporter`] | the field's exporter, to be compared with |
//! | [`kernel`] | huge pages, and where threads may run |
//! | [`packages`] | what the machine must have installed |
//!
//! **Invariant:** everything ends with the raiser, even if that is killed. Nothing is
//! installed, named or mounted in the raiser's own namespaces; files are below the build folder.
//!
//! Absent on purpose: libvirt's library and Kapok's own crates. The lab drives programs, so it
//! builds on a machine that has none of them yet.

// The lab.
pub mod host;
pub mod lab;
pub mod machine;

// Working inside it.
pub mod command;
pub mod forward;
pub mod process;

// What runs inside the hosts.
pub mod fabric;
pub mod guest;
pub mod libvirt;
pub mod loopback;
pub mod server;
pub mod users;

// What others read of the same machine, and what its kernel gives and says.
pub mod exporter;
pub mod kernel;

// What the machine must have, and what must be gone.
mod leftovers;
pub mod packages;

// Tools that the rest stands on.
mod namespaces;
pub mod places;
pub mod run;
pub mod wait;

pub use command::User;
pub use host::Host;
pub use lab::{Lab, Options};
pub use leftovers::leftovers;
pub use machine::Machine;
pub use process::Proc;

/// Tells the person who runs this something that no return value can carry.
#[allow(clippy::print_stderr, reason = "the harness speaks to whoever runs it")]
pub(crate) fn note(text: &str) {
    eprintln!("kapok-lab: {text}");
}
