//! How much processor time incarnations used, from what the sampler has.

use kapok_proto::agent::v1::{GetUsageResponse, IncarnationUsage};

use super::Services;
use crate::watch::{Item, Key};

impl Services {
    /// What was read last, of Kapok's own domains. One whose run isn't known isn't named: its
    /// counter could be another one's.
    pub(super) fn usage(&self) -> GetUsageResponse {
        let boot_id = match self.hub.get(Key::Node).as_deref() {
            Some(Item::Node(facts)) => facts.host.boot.to_string(),
            // Before the node is seen there is nothing to tell.
            _ => return GetUsageResponse::default(),
        };
        let now = self.env.monotonic();
        let usages = self.samples.used(now).into_iter();
        let usages = usages.filter(|used| self.roll.has(used.domain));
        GetUsageResponse {
            boot_id,
            usages: usages
                .map(|used| IncarnationUsage {
                    incarnation_id: used.domain.to_string(),
                    run: used.run.to_string(),
                    cpu_time_ms: used.cpu_time_ns / 1_000_000,
                    age_ms: u64::try_from(used.age.as_millis()).unwrap_or(u64::MAX),
                })
                .collect(),
        }
    }
}
