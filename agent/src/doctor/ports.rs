//! Whether the agent's ports are its own, or free for it.

use std::net::SocketAddr;

use kapok_health::{Failure, Host};

use super::{Finding, Server, users::Account};
use crate::config::Access;

const CHECK: &str = "ports";
/// The state of a socket that listens. Source: Linux, `include/net/tcp_states.h`.
const LISTENS: &str = "0A";

/// Both ports.
pub(super) fn check(server: &Server<'_>) -> Vec<Finding> {
    let config = server.config;
    let http = &config.http;
    let mut ports = vec![("listen", config.listen)];
    if http.healthz != Access::Off || http.metrics != Access::Off {
        ports.push(("http.listen", http.listen));
    }
    let agent = Account::of_agent(server.host).ok().flatten();
    let agent = agent.map(|account| account.uid);
    let judge = |(key, address)| {
        judge(server.host, key, address, agent)
            .unwrap_or_else(|failure| Finding::unread(CHECK, &failure))
    };
    ports.into_iter().map(judge).collect()
}

fn judge(
    host: &Host,
    key: &str,
    address: SocketAddr,
    agent: Option<u32>,
) -> Result<Finding, Failure> {
    let port = address.port();
    let mut listeners = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        listeners.extend(listeners_of(&host.text(table)?.unwrap_or_default(), port));
    }
    let stranger = listeners
        .iter()
        .find(|uid| Some(**uid) != agent && **uid != 0);
    Ok(match (listeners.first(), stranger) {
        (None, _) => Finding::healthy(CHECK, format!("{port} ({key}) is free")),
        (Some(_), None) if listeners.iter().any(|uid| Some(*uid) == agent) => {
            Finding::healthy(CHECK, format!("{port} ({key}) is the agent's"))
        }
        (Some(_), None) => Finding::degraded(
            CHECK,
            format!("{port} ({key}) is taken by a program of root's"),
            format!("ss -tlnp 'sport = {port}': is that an agent that runs as root?"),
        ),
        (Some(_), Some(uid)) => Finding::failing(
            CHECK,
            format!("{port} ({key}) is taken by a program of uid {uid}"),
            format!("ss -tlnp 'sport = {port}' names it; stop it, or change `{key}`"),
        ),
    })
}

/// The users of the sockets that listen on a port. A line is `N: ADDRESS:PORT PEER STATE QUEUES TIMER
/// RETRANSMIT UID …`. Source: Linux, `Documentation/networking/proc_net_tcp.rst`.
fn listeners_of(table: &str, port: u16) -> Vec<u32> {
    let listener = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, local) = fields.get(1)?.rsplit_once(':')?;
        let same = u16::from_str_radix(local, 16).ok()? == port;
        (same && *fields.get(3)? == LISTENS).then_some(())?;
        fields.get(7)?.parse().ok()
    };
    table.lines().filter_map(listener).collect()
}
