//! A writer of `newc` archives, the form of an initramfs.
//!
//! Written here because it makes device nodes without root, gives the same bytes for the
//! same input, and needs no scratch tree. Source: the kernel's
//! `Documentation/driver-api/early-userspace/buffer-format.rst`.

use std::io::{self, Write};

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Folder,
    File,
    Link,
    CharacterDevice,
}

impl Kind {
    /// The file type as `st_mode` has it.
    fn bits(self) -> u32 {
        match self {
            Self::Folder => 0o040_000,
            Self::File => 0o100_000,
            Self::Link => 0o120_000,
            Self::CharacterDevice => 0o020_000,
        }
    }
}

/// An archive under construction. Paths have no leading slash; folders come before what
/// they hold.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    /// Adds a folder with mode 0755.
    ///
    /// # Errors
    ///
    /// When the path is too long for the format.
    pub(super) fn folder(&mut self, path: &str) -> io::Result<()> {
        self.entry(path, Kind::Folder, 0o755, (0, 0), &[])
    }

    /// Adds a file with these permission bits.
    ///
    /// # Errors
    ///
    /// When the content is over 4 GiB.
    pub(super) fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        self.entry(path, Kind::File, mode, (0, 0), content)
    }

    /// Adds a symbolic link.
    ///
    /// # Errors
    ///
    /// When the path is too long for the format.
    pub(super) fn link(&mut self, path: &str, to: &str) -> io::Result<()> {
        self.entry(path, Kind::Link, 0o777, (0, 0), to.as_bytes())
    }

    /// Adds a character device with mode 0600.
    ///
    /// # Errors
    ///
    /// When the path is too long for the format.
    pub(super) fn character_device(
        &mut self,
        path: &str,
        major: u32,
        minor: u32,
    ) -> io::Result<()> {
        self.entry(path, Kind::CharacterDevice, 0o600, (major, minor), &[])
    }

    /// Ends the archive and gives its bytes.
    ///
    /// # Errors
    ///
    /// Never in practice: memory is written.
    pub(super) fn finish(mut self) -> io::Result<Vec<u8>> {
        self.inode = 0;
        self.entry("TRAILER!!!", Kind::File, 0, (0, 0), &[])?;
        Ok(self.bytes)
    }

    fn entry(
        &mut self,
        path: &str,
        kind: Kind,
        mode: u32,
        device: (u32, u32),
        content: &[u8],
    ) -> io::Result<()> {
        let size = u32::try_from(content.len()).map_err(io::Error::other)?;
        let name = u32::try_from(path.len() + 1).map_err(io::Error::other)?;
        self.inode += 1;
        let links = if kind == Kind::Folder { 2 } else { 1 };
        write!(
            self.bytes,
            "070701{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{size:08x}{:08x}{:08x}{:08x}{:08x}{name:08x}{:08x}",
            self.inode,
            kind.bits() | mode,
            0, // owner
            0, // group
            links,
            0, // time: the same input gives the same bytes
            0,
            0,
            device.0,
            device.1,
            0, // checksum: unused in this form
        )?;
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
        Ok(())
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_starts_on_four_bytes_and_the_trailer_ends_it() {
        let mut archive = Archive::default();
        archive.folder("dev").unwrap();
        archive.character_device("dev/console", 5, 1).unwrap();
        archive.file("init", 0o755, b"#!/bin/sh\n").unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let starts: Vec<usize> = bytes
            .windows(6)
            .enumerate()
            .filter(|(_, w)| w == b"070701")
            .map(|(i, _)| i)
            .collect();
        assert_eq!(starts.len(), 4);
        assert!(starts.iter().all(|start| start % 4 == 0), "{starts:?}");
        assert!(bytes.windows(10).any(|w| w == b"TRAILER!!!"));
    }
}
