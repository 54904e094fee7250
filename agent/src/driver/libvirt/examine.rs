//! What the doctor asks libvirt, on a connection of its own: a look that a running agent doesn't
//! notice. It changes nothing.

use std::{thread, time::Duration};

use kapok_libvirt::Connection;
use tokio::{sync::oneshot, time::timeout};

/// What libvirt told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examined {
    /// libvirtd's version.
    pub libvirt: String,
    /// QEMU's.
    pub hypervisor: String,
    /// The pool: its size and what is left of it, in bytes; or why there is none to use.
    pub pool: Result<(u64, u64), String>,
    /// The networks that were asked for, and why one can't be used.
    pub networks: Vec<(String, Result<(), String>)>,
}

/// Asks. A libvirtd that hangs keeps a thread of its own.
///
/// # Errors
///
/// It can't be reached, or doesn't answer within the bound: in words.
pub async fn examine(
    uri: &str,
    pool: &str,
    networks: Vec<String>,
    bound: Duration,
) -> Result<Examined, String> {
    let (reply, answer) = oneshot::channel();
    let (uri, pool) = (uri.to_owned(), pool.to_owned());
    let ask = move || {
        // Whoever asked may have gone.
        let _ = reply.send(ask(&uri, &pool, networks).map_err(|error| error.to_string()));
    };
    let thread = thread::Builder::new().name("examine".to_owned());
    thread.spawn(ask).map_err(|error| error.to_string())?;
    match timeout(bound, answer).await {
        Ok(answer) => answer.unwrap_or_else(|_| Err("its reader broke".to_owned())),
        Err(_) => Err(format!("it didn't answer within {} s", bound.as_secs())),
    }
}

fn ask(uri: &str, pool: &str, networks: Vec<String>) -> Result<Examined, kapok_libvirt::Error> {
    let connection = Connection::open(uri)?;
    let versions = connection.versions()?;
    let networks = { networks.into_iter() }
        .map(|name| {
            let usable = usable(&connection, &name);
            (name, usable)
        })
        .collect();
    Ok(Examined {
        libvirt: versions.libvirt.to_string(),
        hypervisor: versions.hypervisor.to_string(),
        pool: room(&connection, pool),
        networks,
    })
}

fn room(connection: &Connection, name: &str) -> Result<(u64, u64), String> {
    let failed = |error: kapok_libvirt::Error| error.to_string();
    let pool = connection.pool(name).map_err(failed)?;
    if !pool.is_active().map_err(failed)? {
        return Err("it isn't active".to_owned());
    }
    let info = pool.info().map_err(failed)?;
    Ok((info.capacity_bytes, info.available_bytes))
}

fn usable(connection: &Connection, name: &str) -> Result<(), String> {
    let failed = |error: kapok_libvirt::Error| error.to_string();
    let network = connection.network(name).map_err(failed)?;
    if network.is_active().map_err(failed)? {
        return Ok(());
    }
    Err("it isn't active".to_owned())
}
