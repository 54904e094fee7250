//! The conformance suite on the redb backend: in a file, and in memory.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{path::PathBuf, time::Duration};

use kapok_store::{
    Error, Redb,
    conformance::{Backend, bounded},
    redb::MemoryDisk,
};
use tempfile::TempDir;

struct Folder {
    folder: TempDir,
}

impl Folder {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("log.redb")
    }
}

impl Backend for Folder {
    type Store = Redb;

    async fn open(&self) -> Redb {
        // A call of the dropped store may still be on its way out.
        let opening = async {
            loop {
                match Redb::open(self.path()).await {
                    Err(Error::Locked { .. }) => {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    opened => return opened.unwrap(),
                }
            }
        };
        bounded(opening).await
    }
}

struct Memory(MemoryDisk);

impl Backend for Memory {
    type Store = Redb;

    async fn open(&self) -> Redb {
        Redb::on_disk(&self.0).unwrap()
    }
}

mod file {
    kapok_store::conformance_suite!(super::Folder::new());
}

mod memory {
    kapok_store::conformance_suite!(super::Memory(super::MemoryDisk::recording()));
}
