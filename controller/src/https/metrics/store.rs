//! The controllers, and the servers of the store.

use std::fmt;

use kapok_metrics::{Writer, label};
use kapok_store::health::Member;

use super::names;
use crate::{api::Api, ledger::Snapshot};

/// Who leads, and how far others are.
pub(super) fn controllers(writer: &mut Writer<'_>, api: &Api, snapshot: &Snapshot) -> fmt::Result {
    let authorities = api.trust.held();
    let known = api.controllers.known();
    let ready = known.iter().filter(|known| known.is_ready(&authorities));
    writer.single(&names::EPOCH, snapshot.epoch.get())?;
    writer.single(&names::LEADS, api.controllers.leads())?;
    writer.single(&names::FOLLOWERS, ready.count())?;
    writer.family(&names::BEHIND, |series| {
        known.iter().try_for_each(|known| {
            let name = known.report.follower.name.as_str();
            series.put(&[("controller", name)], known.behind)
        })
    })
}

/// How the store's servers are, and what they cost; nothing where there are none.
pub(super) fn servers(writer: &mut Writer<'_>, api: &Api) -> fmt::Result {
    if let Some(figures) = api.store.figures() {
        let kinds = [("read", figures.reads), ("write", figures.writes)];
        writer.family(&names::STORE_CALLS, |series| {
            (kinds.iter()).try_for_each(|(kind, of)| series.put(&[("kind", *kind)], of.count))
        })?;
        writer.family(&names::STORE_FAILED, |series| {
            (kinds.iter()).try_for_each(|(kind, of)| series.put(&[("kind", *kind)], of.failed))
        })?;
        writer.family(&names::STORE_SECONDS, |series| {
            (kinds.iter()).try_for_each(|(kind, of)| series.put(&[("kind", *kind)], of.took))
        })?;
    }
    let seen = api.store_health.borrow().clone();
    let Some(health) = seen else { return Ok(()) };
    let each = |member: &Member| -> String {
        let name = if member.name.is_empty() {
            &member.endpoint
        } else {
            &member.name
        };
        label(name).into_owned()
    };
    let members = &health.members;
    writer.family(&names::STORE_UP, |series| {
        members
            .iter()
            .try_for_each(|one| series.put(&[("member", each(one))], one.status.is_ok()))
    })?;
    writer.family(&names::STORE_ALARMS, |series| {
        members
            .iter()
            .try_for_each(|one| series.put(&[("member", each(one))], one.alarms.len()))
    })?;
    let answered = || {
        members
            .iter()
            .filter_map(|one| Some((each(one), one.status.as_ref().ok()?)))
    };
    writer.family(&names::STORE_DATABASE, |series| {
        answered().try_for_each(|(name, it)| series.put(&[("member", name)], it.database_bytes))
    })?;
    writer.family(&names::STORE_USED, |series| {
        answered().try_for_each(|(name, it)| series.put(&[("member", name)], it.used_bytes))
    })?;
    writer.family(&names::STORE_QUOTA, |series| {
        answered().try_for_each(|(name, it)| match it.quota_bytes {
            Some(quota) => series.put(&[("member", name)], quota),
            None => Ok(()),
        })
    })?;
    writer.family(&names::STORE_LATENCY, |series| {
        answered().try_for_each(|(name, it)| series.put(&[("member", name)], it.latency))
    })
}
