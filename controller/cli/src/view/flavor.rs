//! Flavors.

use kapok_proto::fabric::v1 as wire;
use kapok_types::{Bytes, MemoryMib, Timestamp};
use serde::Serialize;

use super::{Time, View, equipment::Needs, time, when};
use crate::{
    human::{dash, or_dash, plain},
    output::pairs,
};

/// A named size.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Flavor {
    name: String,
    vcpus: u32,
    memory_mib: u64,
    /// Null where the image says it, or whoever creates an instance.
    root_disk_bytes: Option<u64>,
    description: String,
    /// "city" is everybody.
    visible_to: Vec<String>,
    etag: String,
    create_time: Option<Time>,
    created_by: String,
    needs: Needs,
}

impl From<wire::Flavor> for Flavor {
    fn from(flavor: wire::Flavor) -> Self {
        Self {
            name: flavor.name,
            vcpus: flavor.vcpus,
            memory_mib: flavor.memory_mib,
            root_disk_bytes: (flavor.root_disk_bytes != 0).then_some(flavor.root_disk_bytes),
            description: flavor.description,
            visible_to: flavor.visible_to,
            etag: flavor.etag,
            create_time: time(flavor.create_time),
            created_by: flavor.created_by,
            needs: flavor.needs.into(),
        }
    }
}

impl Flavor {
    fn disk(&self) -> String {
        self.root_disk_bytes
            .map_or_else(dash, |bytes| Bytes(bytes).to_string())
    }

    fn tenants(&self) -> String {
        or_dash(&self.visible_to.join(", "))
    }
}

impl View for Flavor {
    fn columns(wide: bool) -> Vec<&'static str> {
        let mut columns = vec!["NAME", "VCPUS", "MEMORY", "DISK", "DESCRIPTION"];
        if wide {
            columns.extend(["NEEDS", "FOR", "BY"]);
        }
        columns
    }

    fn row(&self, _: Timestamp, wide: bool) -> Vec<String> {
        let mut row = vec![
            plain(&self.name),
            self.vcpus.to_string(),
            MemoryMib(self.memory_mib).to_string(),
            self.disk(),
            or_dash(&self.description),
        ];
        if wide {
            let needs = or_dash(&self.needs.to_string());
            row.extend([needs, self.tenants(), or_dash(&self.created_by)]);
        }
        row
    }

    fn details(&self, now: Timestamp) -> String {
        pairs(&[
            ("Name", plain(&self.name)),
            ("Description", or_dash(&self.description)),
            ("vCPUs", self.vcpus.to_string()),
            ("Memory", MemoryMib(self.memory_mib).to_string()),
            ("Root disk", self.disk()),
            ("Needs", or_dash(&self.needs.to_string())),
            ("For", self.tenants()),
            ("Etag", plain(&self.etag)),
            ("Created", when(self.create_time, now)),
            ("By", or_dash(&self.created_by)),
        ])
    }
}
