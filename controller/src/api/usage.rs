//! What systems held and used, and which instances are hardly used.

use std::collections::BTreeMap;

use kapok_proto::{
    convert,
    fabric::v1::{
        IdleInstance, ListIdleInstancesRequest, ListIdleInstancesResponse, ListUsageRequest,
        ListUsageResponse, UnknownUsage, UsageBy, UsageRecord, usage_service_server::UsageService,
    },
};
use kapok_types::{InstanceId, Name, Timestamp};
use tonic::{Request, Response, Status};

use super::{
    Api,
    caller::{Caller, absent, optional},
    page::{Page, place},
    status,
};
use crate::{
    authz::{Action, about},
    fabric::{
        Fabric, Instance,
        accounting::{Account, Month, Reason, Seen, Sums},
    },
};

/// Days that are looked at for idle instances, unless told otherwise, and at most.
const DAYS: u32 = 14;
const MAX_DAYS: u32 = 31;
/// Below which share an instance is idle unless told otherwise, in permille.
const BELOW_PERMILLE: u32 = 50;
const DAY_MS: u64 = 24 * 3600 * 1000;

#[tonic::async_trait]
impl UsageService for Api {
    async fn list_usage(
        &self,
        request: Request<ListUsageRequest>,
    ) -> Result<Response<ListUsageResponse>, Status> {
        let caller = self.caller(&request)?;
        let ListUsageRequest {
            tenant,
            month,
            by,
            page_size,
            page_token,
        } = request.into_inner();
        let below = optional::<Name>("tenant", &tenant)?;
        let now = self.env.now();
        let of = self::month("month", &month)?.unwrap_or_else(|| Month::of(now));
        let by_tenant = match UsageBy::try_from(by) {
            Ok(UsageBy::Unspecified | UsageBy::System) => false,
            Ok(UsageBy::Tenant) => true,
            Err(_) => {
                let reason = "has a value that this version doesn't know";
                return Err(status::bad_field("by", reason));
            }
        };
        let question = format!("usage {tenant} {month} {by_tenant}");
        let page = Page::new(question, page_size, &page_token)?;
        let snapshot = self.ledger.snapshot();
        let fabric = &snapshot.fabric;
        let may = self.may_see_usage(fabric, &caller, below.as_ref())?;
        let accounting = &fabric.accounting;
        let mut lines: BTreeMap<(Name, Option<Name>), UsageRecord> = BTreeMap::new();
        for called in accounting
            .accounts
            .keys()
            .filter(|(tenant, _)| may.contains(tenant))
        {
            let Some(account) = accounting.account(fabric, called, now) else {
                continue;
            };
            let line = record(fabric, called, &account, of, now);
            let (tenant, system) = called.clone();
            if !by_tenant {
                lines.insert((tenant, Some(system)), line);
            } else if let Some(sum) = lines.get_mut(&(tenant.clone(), None)) {
                add(sum, line);
            } else {
                let line = UsageRecord {
                    system: String::new(),
                    ..line
                };
                lines.insert((tenant, None), line);
            }
        }
        let key = |(tenant, system): &(Name, Option<Name>)| match system {
            Some(system) => place(&(tenant.clone(), system.clone())),
            None => tenant.to_string(),
        };
        let after = page.after.clone();
        let keyed = lines
            .into_iter()
            .map(|(called, line)| (key(&called), called, line));
        let rest = keyed.skip_while(|(_, called, _)| {
            // In the order of the names, which isn't that of the texts.
            after
                .as_deref()
                .is_some_and(|after| !is_behind(called, after))
        });
        let (usages, next_page_token) = page.take(rest.map(|(key, _, line)| (key, line)));
        Ok(Response::new(ListUsageResponse {
            usages,
            next_page_token,
            known_since: Some(convert::timestamp(accounting.since())),
        }))
    }

    async fn list_idle_instances(
        &self,
        request: Request<ListIdleInstancesRequest>,
    ) -> Result<Response<ListIdleInstancesResponse>, Status> {
        let caller = self.caller(&request)?;
        let ListIdleInstancesRequest {
            tenant,
            days,
            below_permille,
            page_size,
            page_token,
        } = request.into_inner();
        let below = optional::<Name>("tenant", &tenant)?;
        let days = within("days", days, DAYS, MAX_DAYS)?;
        let permille = within("below_permille", below_permille, BELOW_PERMILLE, 1000)?;
        let question = format!("idle {tenant} {days} {permille}");
        let page = Page::new(question, page_size, &page_token)?;
        let snapshot = self.ledger.snapshot();
        let fabric = &snapshot.fabric;
        let may = self.may_see_usage(fabric, &caller, below.as_ref())?;
        let after = page.after.as_deref().map(|place| {
            let (tenant, name) = place.split_once('/').unwrap_or_default();
            (tenant.to_owned(), name.to_owned())
        });
        let now = self.env.now();
        let instances = fabric.instance_names.iter().filter(|((tenant, name), _)| {
            let behind = after.as_ref().is_none_or(|(of, after)| {
                (tenant.as_str(), name.as_str()) > (of.as_str(), after.as_str())
            });
            behind && may.contains(tenant)
        });
        let idle = instances.filter_map(|(called, id)| {
            let one = idle(fabric, *id, days, permille, now)?;
            Some((place(called), one))
        });
        let (instances, next_page_token) = page.take(idle);
        Ok(Response::new(ListIdleInstancesResponse {
            instances,
            next_page_token,
        }))
    }
}

impl Api {
    /// The tenants whose usage a caller may see: those below one, or all; those that are gone with
    /// the nearest above them that isn't.
    fn may_see_usage(
        &self,
        fabric: &Fabric,
        caller: &Caller,
        below: Option<&Name>,
    ) -> Result<std::collections::BTreeSet<Name>, Status> {
        if let Some(below) = below {
            let which = below.as_str();
            if !fabric.tenants.contains_key(below) {
                return Err(absent("tenant", which));
            }
            self.authorize(caller, Action::UsageList, &about::tenant(below), which)?;
        }
        let mut seen = std::collections::BTreeSet::new();
        let mut last = None;
        for ((tenant, _), account) in &fabric.accounting.accounts {
            if last == Some(tenant) {
                continue;
            }
            last = Some(tenant);
            let path = || std::iter::once(tenant).chain(&account.above);
            let inside = below.is_none_or(|below| path().any(|one| one == below));
            let there = path().find(|one| fabric.tenants.contains_key(*one));
            let may = |there: &Name| self.may(caller, Action::UsageList, &about::tenant(there));
            if inside && there.is_some_and(may) {
                seen.insert(tenant.clone());
            }
        }
        Ok(seen)
    }
}

/// Reads a month; none if none is stated.
pub(super) fn month(field: &str, text: &str) -> Result<Option<Month>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    let month = text.parse::<Month>();
    month
        .map(Some)
        .map_err(|reason| status::bad_field(field, format!("is wrong: {reason}")))
}

fn within(field: &str, given: u32, usual: u32, most: u32) -> Result<u32, Status> {
    match given {
        0 => Ok(usual),
        given if given <= most => Ok(given),
        given => {
            let reason = format!("is {given}; must be 1 to {most}");
            Err(status::bad_field(field, reason))
        }
    }
}

fn is_behind((tenant, system): &(Name, Option<Name>), after: &str) -> bool {
    let (of, name) = after.split_once('/').unwrap_or((after, ""));
    let system = system.as_ref().map_or("", Name::as_str);
    (tenant.as_str(), system) > (of, name)
}

fn seconds(ms: u128) -> u64 {
    u64::try_from(ms / 1000).unwrap_or(u64::MAX)
}

fn record(
    fabric: &Fabric,
    called: &(Name, Name),
    account: &Account,
    month: Month,
    now: Timestamp,
) -> UsageRecord {
    let sums = account.months.get(&month).copied().unwrap_or_default();
    let Sums {
        instance_ms,
        vcpu_ms,
        memory_mib_ms,
        disk_byte_ms,
        used_ms,
        unknown_ms,
        up_ms,
        down_ms,
        unseen_ms,
    } = sums;
    let first = (
        called.0.clone(),
        called.1.clone(),
        InstanceId(uuid::Uuid::nil()),
    );
    let its = fabric.in_system.range(first..);
    let its = its.take_while(|(of, within, _)| (of, within) == (&called.0, &called.1));
    let unread = its
        .filter_map(|(.., id)| fabric.instances.get(id))
        .map(|instance| {
            let meter = fabric.accounting.meter(instance);
            u128::from(meter.unread_ms(now))
        });
    let (begins, ends) = (month.begins(), month.next().begins());
    let unknown = account.unknown.iter();
    let unknown = unknown.filter(|one| one.from < ends && one.to > begins);
    UsageRecord {
        tenant: called.0.to_string(),
        system: called.1.to_string(),
        month: month.to_string(),
        instance_seconds: seconds(instance_ms),
        vcpu_seconds: seconds(vcpu_ms),
        memory_mib_seconds: seconds(memory_mib_ms),
        disk_mib_seconds: seconds(disk_byte_ms / (1 << 20)),
        used_cpu_seconds: seconds(used_ms),
        unknown_seconds: seconds(unknown_ms),
        unread_seconds: seconds(unread.sum()),
        up_seconds: seconds(up_ms),
        down_seconds: seconds(down_ms),
        unseen_seconds: seconds(unseen_ms),
        unknown: unknown
            .map(|one| UnknownUsage {
                instance_id: one.instance.to_string(),
                instance: one.name.to_string(),
                from_time: Some(convert::timestamp(one.from)),
                to_time: Some(convert::timestamp(one.to)),
                reason: reason(one.reason).to_owned(),
            })
            .collect(),
        unknown_forgotten: account.unknown_forgotten,
    }
}

const fn reason(reason: Reason) -> &'static str {
    match reason {
        Reason::BeforeMetering => "before_metering",
        Reason::Ended => "ended",
        Reason::Restarted => "restarted",
        Reason::NodeBooted => "node_booted",
        Reason::CounterFell => "counter_fell",
    }
}

fn add(sum: &mut UsageRecord, other: UsageRecord) {
    sum.instance_seconds += other.instance_seconds;
    sum.vcpu_seconds += other.vcpu_seconds;
    sum.memory_mib_seconds += other.memory_mib_seconds;
    sum.disk_mib_seconds += other.disk_mib_seconds;
    sum.used_cpu_seconds += other.used_cpu_seconds;
    sum.unknown_seconds += other.unknown_seconds;
    sum.unread_seconds += other.unread_seconds;
    sum.up_seconds += other.up_seconds;
    sum.down_seconds += other.down_seconds;
    sum.unseen_seconds += other.unseen_seconds;
    sum.unknown.extend(other.unknown);
    sum.unknown_forgotten += other.unknown_forgotten;
}

/// An instance that used less than a share of its vCPUs in the whole days before this one. Time of
/// which nobody knows counts as if all had been used; who came later isn't judged.
fn idle(
    fabric: &Fabric,
    id: InstanceId,
    days: u32,
    below_permille: u32,
    now: Timestamp,
) -> Option<IdleInstance> {
    let instance: &Instance = fabric.instances.get(&id)?;
    let today = Timestamp(now.get() / DAY_MS * DAY_MS);
    let from = Timestamp(today.get().checked_sub(u64::from(days) * DAY_MS)?);
    if instance.created_at > from {
        return None;
    }
    let meter = fabric.accounting.meter(instance);
    let (used, known) = meter.used_since(from, now);
    let window = now.millis_since(from);
    let unknown = window.saturating_sub(known);
    let vcpus = u128::from(instance.spec.vcpus.get());
    let at_most = u128::from(used) + vcpus * u128::from(unknown);
    let share = (at_most * 1000).div_ceil((vcpus * u128::from(window)).max(1));
    if share >= u128::from(below_permille) {
        return None;
    }
    Some(IdleInstance {
        instance_id: id.to_string(),
        tenant: instance.tenant.to_string(),
        system: instance.system.to_string(),
        instance: instance.name.to_string(),
        vcpus: instance.spec.vcpus.get(),
        memory_mib: instance.spec.memory.get(),
        used_cpu_ms: used,
        unknown_ms: unknown,
        at_most_permille: u32::try_from(share).unwrap_or(u32::MAX),
        running: meter.seen == Seen::On,
    })
}
