//! How the cluster is, member by member, for people and metrics.

use std::{sync::Arc, time::Duration};

use etcd_client::{AlarmAction, AlarmType, Client, StatusResponse};
use tokio::{task::JoinSet, time::Instant};

use super::{
    EtcdOptions,
    calls::{Calls, within},
};
use crate::{
    Error,
    health::{Alarm, Health, Member, MemberStatus},
};

const ASKING: &str = "asking a member for its health";

struct Answer {
    endpoint: String,
    said: Result<(u64, MemberStatus), String>,
}

/// Asks every configured endpoint on a connection of its own, so that each answers for itself.
pub(super) async fn health(calls: &Calls, options: &Arc<EtcdOptions>) -> Health {
    let mut asking = JoinSet::new();
    for endpoint in &options.endpoints {
        asking.spawn(ask(endpoint.clone(), Arc::clone(options)));
    }
    let until = Instant::now() + options.attempt();
    let members = calls.read(ASKING, until, |client| async move {
        let mut client = client;
        client.member_list().await
    });
    let members = members.await.map(|list| list.members().to_vec());
    let members = members.unwrap_or_default();
    let alarms = calls.read(ASKING, until, |client| async move {
        let mut client = client;
        client.alarm(AlarmAction::Get, AlarmType::None, None).await
    });
    let alarms = alarms.await.map(|list| list.alarms().to_vec());
    let alarms = alarms.unwrap_or_default();

    let alarms_of = |id: u64| -> Vec<Alarm> {
        let of = alarms.iter().filter(|alarm| alarm.member_id() == id);
        of.filter_map(|alarm| match alarm.alarm() {
            AlarmType::None => None,
            AlarmType::Nospace => Some(Alarm::NoSpace),
            AlarmType::Corrupt => Some(Alarm::Corrupt),
        })
        .collect()
    };
    let mut found: Vec<(Option<u64>, Member)> = Vec::new();
    for Answer { endpoint, said } in asking.join_all().await {
        let id = match &said {
            Ok((id, _)) => Some(*id),
            // One that doesn't answer is known by the address that it told the others.
            Err(_) => members
                .iter()
                .find(|member| member.client_urls().iter().any(|url| same(url, &endpoint)))
                .map(etcd_client::Member::id),
        };
        let named = members.iter().find(|member| Some(member.id()) == id);
        let member = Member {
            name: named.map_or_else(String::new, |member| member.name().to_owned()),
            endpoint,
            status: said.map(|(_, status)| status),
            alarms: id.map(alarms_of).unwrap_or_default(),
        };
        found.push((id, member));
    }
    for member in &members {
        if found.iter().all(|(id, _)| *id != Some(member.id())) {
            let endpoint = member.client_urls().first().cloned().unwrap_or_default();
            let member = Member {
                name: member.name().to_owned(),
                endpoint,
                status: Err("none of the configured endpoints is this member's".to_owned()),
                alarms: alarms_of(member.id()),
            };
            found.push((None, member));
        }
    }
    let mut members: Vec<Member> = found.into_iter().map(|(_, member)| member).collect();
    let order = |member: &Member| {
        (
            member.name.is_empty(),
            member.name.clone(),
            member.endpoint.clone(),
        )
    };
    members.sort_by_key(order);
    Health { members }
}

async fn ask(endpoint: String, options: Arc<EtcdOptions>) -> Answer {
    let asking = async {
        // No leader is asked for: a member that is cut off has a status all the same.
        let connect = options.connect().with_require_leader(false);
        let mut client = Client::connect([&endpoint], Some(connect)).await?;
        let since = Instant::now();
        let status = client.status().await?;
        Ok((status, since.elapsed()))
    };
    let said = match within(ASKING, options.attempt(), asking).await {
        Ok((status, latency)) => {
            let id = status.header().map(etcd_client::ResponseHeader::member_id);
            Ok((id.unwrap_or_default(), member_status(&status, latency)))
        }
        Err(failure) => Err(words(&failure.into())),
    };
    Answer { endpoint, said }
}

fn member_status(status: &StatusResponse, latency: Duration) -> MemberStatus {
    let bytes = |size: i64| u64::try_from(size).unwrap_or_default();
    let id = status.header().map(etcd_client::ResponseHeader::member_id);
    MemberStatus {
        version: status.version().to_owned(),
        leads: Some(status.leader()) == id,
        database_bytes: bytes(status.db_size()),
        used_bytes: bytes(status.raft_used_db_size()),
        quota_bytes: Some(bytes(status.db_size_quota())).filter(|&quota| quota > 0),
        latency,
    }
}

/// An error and what is below it, on one line.
fn words(error: &Error) -> String {
    let source = std::error::Error::source(error);
    source.map_or_else(|| error.to_string(), ToString::to_string)
}

fn same(url: &str, endpoint: &str) -> bool {
    let bare = |address: &str| {
        let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
        rest.trim_end_matches('/').to_owned()
    };
    bare(url) == bare(endpoint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_compared_without_their_scheme() {
        assert!(same("https://10.0.0.1:2379/", "10.0.0.1:2379"));
        assert!(!same("http://10.0.0.1:2379", "http://10.0.0.1:2380"));
    }
}
