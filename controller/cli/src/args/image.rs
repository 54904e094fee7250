//! `kapok image …`

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use kapok_types::{
    Digest, Name,
    instance::{Arch, DiskFormat},
};

use super::Request;

/// What to do with images.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Bring an image file into the fabric
    #[command(
        after_long_help = "The layout is always stated to the controller, which checks the \
        content against it. The file is\nhashed while it is read, and the answer's digest must be \
        the same.\n\nExamples:\n  kapok image import debian-12.qcow2\n  kapok image import \
        disk.img --name web-base --format raw\n  kapok image import x.qcow2 --sha256 \
        $(cut -d' ' -f1 x.qcow2.sha256)"
    )]
    Import(Import),
    /// List images
    #[command(
        visible_alias = "list",
        after_long_help = "Examples:\n  kapok image ls\n  kapok image ls -o json"
    )]
    Ls,
    /// Show one image
    #[command(after_long_help = "Example:\n  kapok image show debian-12")]
    Show {
        /// Its name, TENANT/NAME, id or digest
        image: String,
    },
    /// Remove an image that no instance was made from
    #[command(after_long_help = "Example:\n  kapok image rm debian-12")]
    Rm {
        /// Its name, TENANT/NAME, id or digest
        image: String,
        /// How the change is named.
        #[command(flatten)]
        request: Request,
    },
}

/// What to import.
#[derive(Debug, Args)]
pub(crate) struct Import {
    /// The image file: raw, or qcow2 without a backing file
    pub(crate) file: PathBuf,
    /// Its name in the fabric [default: the file's name without its extension]
    #[arg(long)]
    pub(crate) name: Option<Name>,
    /// Its layout [default: as the file begins]
    #[arg(long, value_enum)]
    pub(crate) format: Option<Layout>,
    /// The architecture it was built for
    #[arg(long, value_enum, default_value_t = Machine::X86_64)]
    pub(crate) arch: Machine,
    /// The tenant that it is to belong to: it and those below may use it [default: your home
    /// tenant]
    #[arg(long)]
    pub(crate) tenant: Option<Name>,
    /// The SHA-256 it must have, as 64 hex digits
    #[arg(long, value_name = "HEX", value_parser = sha256)]
    pub(crate) sha256: Option<Digest>,
    /// How the change is named.
    #[command(flatten)]
    pub(crate) request: Request,
}

/// A layout, as people type it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Layout {
    /// The bytes are the disk
    Raw,
    /// QEMU's copy-on-write format
    Qcow2,
}

impl From<Layout> for DiskFormat {
    fn from(layout: Layout) -> Self {
        match layout {
            Layout::Raw => Self::Raw,
            Layout::Qcow2 => Self::Qcow2,
        }
    }
}

/// An architecture, as people type it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Machine {
    /// 64-bit x86
    #[value(name = "x86_64")]
    X86_64,
    /// 64-bit Arm
    Aarch64,
}

impl From<Machine> for Arch {
    fn from(machine: Machine) -> Self {
        match machine {
            Machine::X86_64 => Self::X86_64,
            Machine::Aarch64 => Self::Aarch64,
        }
    }
}

fn sha256(text: &str) -> Result<Digest, String> {
    let hex = text.strip_prefix("sha256:").unwrap_or(text).to_lowercase();
    format!("sha256:{hex}")
        .parse()
        .map_err(|_| "must be 64 hex digits".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_taken_as_tools_print_them() {
        let digest = Digest::of(b"kapok");
        for text in [
            digest.to_string(),
            digest.hex(),
            digest.hex().to_uppercase(),
        ] {
            assert_eq!(sha256(&text), Ok(digest));
        }
        for bad in ["", "00", &"g".repeat(64)] {
            assert!(sha256(bad).is_err(), "{bad}");
        }
    }
}
