//! Tenants.

use kapok_proto::fabric::v1 as wire;
use kapok_types::Timestamp;
use serde::Serialize;

use super::{
    View,
    quota::{Amounts, Limits, Overcommitted, Usage, memory, number, of_limit, size},
    some, word,
};
use crate::{
    human::{dash, or_dash, plain},
    output::pairs,
};

/// A bureau, or a part of one.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Tenant {
    pub(crate) name: String,
    display_name: String,
    /// Null for the root.
    parent: Option<String>,
    contacts: Vec<String>,
    state: String,
    /// Null, as the next two, for who may not know how much it may have and has.
    quota: Option<Limits>,
    reserved: Option<Amounts>,
    usage: Option<Usage>,
    overcommitted: Vec<Overcommitted>,
    etag: Option<String>,
    /// Null when it has none of its own.
    isolation: Option<String>,
    /// Its own, or that of a tenant above it.
    isolation_in_force: Option<String>,
}

impl From<wire::Tenant> for Tenant {
    fn from(tenant: wire::Tenant) -> Self {
        Self {
            name: tenant.name,
            display_name: tenant.display_name,
            parent: some(tenant.parent),
            contacts: tenant.contacts,
            state: word!(wire::TenantState, "TENANT_STATE_", tenant.state),
            quota: tenant.quota.map(Limits::from),
            reserved: tenant.reserved.map(Amounts::from),
            usage: tenant.usage.map(Usage::from),
            overcommitted: tenant
                .overcommitted
                .into_iter()
                .map(Overcommitted::from)
                .collect(),
            etag: some(tenant.etag),
            isolation: some(tenant.isolation),
            isolation_in_force: some(tenant.isolation_in_force),
        }
    }
}

impl Tenant {
    /// By how much it has more than it may, in words.
    pub(crate) fn beyond(&self) -> Option<String> {
        let each = self.overcommitted.iter().map(ToString::to_string);
        some(each.collect::<Vec<_>>().join(", "))
    }

    fn parent(&self) -> String {
        or_dash(self.parent.as_deref().unwrap_or_default())
    }

    /// The isolation class in which its instances are placed, and whose it is.
    fn class(&self) -> String {
        match (&self.isolation, &self.isolation_in_force) {
            (_, None) => dash(),
            (Some(_), Some(class)) => plain(class),
            (None, Some(class)) => format!("{} (from above)", plain(class)),
        }
    }

    fn standing(&self) -> String {
        if self.overcommitted.is_empty() {
            self.state.clone()
        } else {
            format!("{},overcommitted", self.state)
        }
    }

    /// What counts against a limit and the limit, in one dimension.
    fn amount(
        &self,
        amount: fn(&Amounts) -> u64,
        limit: fn(&Limits) -> Option<u64>,
        show: fn(u64) -> String,
    ) -> String {
        match (&self.usage, &self.quota) {
            (Some(usage), Some(quota)) => of_limit(amount(&usage.held), limit(quota), show),
            _ => dash(),
        }
    }

    /// In each dimension.
    fn amounts(&self) -> [String; 7] {
        [
            self.amount(|has| has.vcpus, |may| may.vcpus, number),
            self.amount(|has| has.memory_mib, |may| may.memory_mib, memory),
            self.amount(|has| has.instances, |may| may.instances, number),
            self.amount(|has| has.volumes, |may| may.volumes, number),
            self.amount(|has| has.volume_bytes, |may| may.volume_bytes, size),
            self.amount(|has| has.addresses, |may| may.addresses, number),
            self.amount(|has| has.gpus, |may| may.gpus, number),
        ]
    }
}

impl View for Tenant {
    fn columns(wide: bool) -> Vec<&'static str> {
        let mut columns = vec![
            "NAME",
            "DISPLAY NAME",
            "PARENT",
            "STATE",
            "VCPUS",
            "MEMORY",
            "INSTANCES",
        ];
        if wide {
            columns.extend(["VOLUMES", "VOLUME SIZE", "ADDRESSES", "GPUS", "CONTACTS"]);
        }
        columns
    }

    fn row(&self, _: Timestamp, wide: bool) -> Vec<String> {
        let [
            vcpus,
            memory,
            instances,
            volumes,
            volume_size,
            addresses,
            gpus,
        ] = self.amounts();
        let mut row = vec![
            plain(&self.name),
            or_dash(&self.display_name),
            self.parent(),
            self.standing(),
            vcpus,
            memory,
            instances,
        ];
        if wide {
            let contacts = or_dash(&self.contacts.join(", "));
            row.extend([volumes, volume_size, addresses, gpus, contacts]);
        }
        row
    }

    fn details(&self, _: Timestamp) -> String {
        let [
            vcpus,
            memory,
            instances,
            volumes,
            volume_size,
            addresses,
            gpus,
        ] = self.amounts();
        pairs(&[
            ("Name", plain(&self.name)),
            ("Display name", or_dash(&self.display_name)),
            ("Parent", self.parent()),
            ("Contacts", or_dash(&self.contacts.join(", "))),
            ("State", self.standing()),
            ("vCPUs", vcpus),
            ("Memory", memory),
            ("Instances", instances),
            ("Volumes", volumes),
            ("Volume size", volume_size),
            ("Addresses", addresses),
            ("GPUs", gpus),
            ("Class", self.class()),
            ("Too much", self.beyond().unwrap_or_else(dash)),
            ("Etag", or_dash(self.etag.as_deref().unwrap_or_default())),
        ])
    }
}
