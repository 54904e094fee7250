//! Images.

use kapok_proto::{
    common::v1::{Arch, DiskFormat},
    fabric::v1 as wire,
};
use kapok_types::{Bytes, Timestamp};
use serde::Serialize;

use super::{Time, View, age, time, when, word};
use crate::{
    human::{or_dash, plain},
    output::pairs,
};

/// An image that instances start from.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Image {
    id: String,
    pub(crate) name: String,
    pub(crate) digest: String,
    format: String,
    pub(crate) size_bytes: u64,
    virtual_size_bytes: u64,
    arch: String,
    create_time: Option<Time>,
    created_by: String,
    tenant: String,
}

impl From<wire::Image> for Image {
    fn from(image: wire::Image) -> Self {
        Self {
            id: image.id,
            name: image.name,
            digest: image.digest,
            format: word!(DiskFormat, "DISK_FORMAT_", image.format),
            size_bytes: image.size_bytes,
            virtual_size_bytes: image.virtual_size_bytes,
            arch: word!(Arch, "ARCH_", image.arch),
            create_time: time(image.create_time),
            created_by: image.created_by,
            tenant: image.tenant,
        }
    }
}

impl View for Image {
    fn columns(wide: bool) -> Vec<&'static str> {
        let mut columns = vec!["NAME", "FORMAT", "ARCH", "SIZE", "DISK", "DIGEST", "AGE"];
        if wide {
            columns.extend(["ID", "TENANT", "BY"]);
        }
        columns
    }

    fn row(&self, now: Timestamp, wide: bool) -> Vec<String> {
        // Twelve hex digits tell images apart; programs read the whole digest.
        let digest = if wide {
            plain(&self.digest)
        } else {
            plain(
                &self
                    .digest
                    .chars()
                    .take("sha256:".len() + 12)
                    .collect::<String>(),
            )
        };
        let mut row = vec![
            plain(&self.name),
            self.format.clone(),
            self.arch.clone(),
            Bytes(self.size_bytes).to_string(),
            Bytes(self.virtual_size_bytes).to_string(),
            digest,
            age(self.create_time, now),
        ];
        if wide {
            row.extend([
                plain(&self.id),
                or_dash(&self.tenant),
                or_dash(&self.created_by),
            ]);
        }
        row
    }

    fn details(&self, now: Timestamp) -> String {
        let size = |bytes: u64| format!("{} ({bytes} bytes)", Bytes(bytes));
        pairs(&[
            ("Name", plain(&self.name)),
            ("ID", plain(&self.id)),
            ("Tenant", or_dash(&self.tenant)),
            ("Digest", plain(&self.digest)),
            ("Format", self.format.clone()),
            ("Architecture", self.arch.clone()),
            ("Size", size(self.size_bytes)),
            ("Disk", size(self.virtual_size_bytes)),
            ("Imported", when(self.create_time, now)),
            ("By", or_dash(&self.created_by)),
        ])
    }
}
