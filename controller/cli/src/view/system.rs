//! Systems.

use kapok_proto::fabric::v1::{self as wire, AvailabilityClass};
use kapok_types::{MemoryMib, Timestamp};
use serde::Serialize;

use super::{Time, View, age, left, time, when, word};
use crate::{
    human::{dash, or_dash, plain, span},
    output::pairs,
};

/// A business system of a tenant.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct System {
    tenant: String,
    name: String,
    display_name: String,
    owner: String,
    contacts: Vec<String>,
    availability_class: String,
    request_time: Option<Time>,
    /// Null while it isn't live.
    live_time: Option<Time>,
    /// Null when it isn't known.
    end_time: Option<Time>,
    /// The last warning of its end: so many days before it.
    end_warning_days: Option<u32>,
    instances: u32,
    vcpus: u64,
    memory_mib: u64,
    etag: String,
    create_time: Option<Time>,
    created_by: String,
}

impl From<wire::System> for System {
    fn from(system: wire::System) -> Self {
        Self {
            tenant: system.tenant,
            name: system.name,
            display_name: system.display_name,
            owner: system.owner,
            contacts: system.contacts,
            availability_class: word!(
                AvailabilityClass,
                "AVAILABILITY_CLASS_",
                system.availability_class
            ),
            request_time: time(system.request_time),
            live_time: time(system.live_time),
            end_time: time(system.end_time),
            end_warning_days: system.end_warning_days,
            instances: system.instances,
            vcpus: system.vcpus,
            memory_mib: system.memory_mib,
            etag: system.etag,
            create_time: time(system.create_time),
            created_by: system.created_by,
        }
    }
}

impl System {
    /// How long it is until its end; one that was warned of is marked.
    fn ends_in(&self, now: Timestamp) -> String {
        let left = left(self.end_time, now);
        match self.end_warning_days {
            Some(_) if left != "ended" => left + ", soon",
            _ => left,
        }
    }

    /// From the request to going live.
    fn deployed_in(&self) -> String {
        let times = self.request_time.zip(self.live_time);
        times.map_or_else(dash, |(Time(requested), Time(live))| {
            span(live.millis_since(requested))
        })
    }
}

impl View for System {
    fn columns(wide: bool) -> Vec<&'static str> {
        let mut columns = vec![
            "NAME",
            "TENANT",
            "DISPLAY NAME",
            "INSTANCES",
            "VCPUS",
            "MEMORY",
            "LIVE",
            "ENDS IN",
        ];
        if wide {
            columns.extend(["OWNER", "CLASS", "REQUESTED", "DEPLOYED IN"]);
        }
        columns
    }

    fn row(&self, now: Timestamp, wide: bool) -> Vec<String> {
        let mut row = vec![
            plain(&self.name),
            plain(&self.tenant),
            or_dash(&self.display_name),
            self.instances.to_string(),
            self.vcpus.to_string(),
            MemoryMib(self.memory_mib).to_string(),
            age(self.live_time, now),
            self.ends_in(now),
        ];
        if wide {
            row.extend([
                or_dash(&self.owner),
                self.availability_class.clone(),
                age(self.request_time, now),
                self.deployed_in(),
            ]);
        }
        row
    }

    fn details(&self, now: Timestamp) -> String {
        let end = self
            .end_time
            .map_or_else(dash, |Time(end)| format!("{end} ({})", self.ends_in(now)));
        pairs(&[
            ("Name", plain(&self.name)),
            ("Tenant", plain(&self.tenant)),
            ("Display name", or_dash(&self.display_name)),
            ("Owner", or_dash(&self.owner)),
            ("Contacts", or_dash(&self.contacts.join(", "))),
            ("Class", self.availability_class.clone()),
            ("Instances", self.instances.to_string()),
            ("vCPUs", self.vcpus.to_string()),
            ("Memory", MemoryMib(self.memory_mib).to_string()),
            ("Requested", when(self.request_time, now)),
            ("Live", when(self.live_time, now)),
            ("Deployed in", self.deployed_in()),
            ("Ends", end),
            ("Etag", plain(&self.etag)),
            ("Created", when(self.create_time, now)),
            ("By", or_dash(&self.created_by)),
        ])
    }
}
