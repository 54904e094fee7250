//! From the configuration to the options of the parts. Decides nothing.

use std::{fs, io, path::Path, sync::Arc};

use kapok_health::{Rules, rules, source};
use kapok_types::{Env, Name};
use sd_notify::NotifyState;

use crate::{
    agent::{ImageSource, Settings},
    config::{Access, Config},
    driver::libvirt,
    fingerprint,
    health::{self, Accepted},
    local::Local,
    probe::{self, Probe},
    watch::facts::Host,
};

/// What the libvirt driver is set up with.
pub fn driver(
    config: &Config,
    env: &Arc<dyn Env>,
    local: &Local,
    host: &Host,
    fabric: &Name,
) -> libvirt::Options {
    libvirt::Options {
        uri: config.libvirt.uri.clone(),
        pool: config.libvirt.pool.clone(),
        pool_shared: config.libvirt.pool_shared,
        network: config.libvirt.network.clone(),
        offering: config.offering(),
        fabric: fabric.clone(),
        node: local.node_id(),
        call_deadline: config.timing.call_deadline,
        probe: Probe::new(probe::Options {
            choice: config.libvirt.virt_type,
            guest: config.probe_guest(),
            boot: host.boot,
            kernel: host.kernel.clone(),
            local: local.clone(),
        }),
        env: Arc::clone(env),
    }
}

/// Where images come from.
pub fn images(config: &Config) -> ImageSource {
    ImageSource::Cached {
        spool: config.state_dir.join("spool"),
    }
}

/// How the server is watched. Blocks; call it at start.
///
/// # Errors
///
/// A rule that makes no sense; a checked configuration has none.
pub fn health(config: &Config) -> Result<health::Options, rules::Error> {
    let mut watched = config.health.clone();
    let state = watched.filesystems.entry("state".into());
    state.or_insert_with(|| config.state_dir.clone());
    Ok(health::Options {
        host: watched.host(),
        sources: source::all(&watched),
        rules: Rules::with(&watched.rules)?,
        inventory: true,
        pool: config.libvirt.pool.clone(),
        accepted: Accepted::open(&config.state_dir),
    })
}

/// Deadlines, intervals and decisions.
pub fn settings(config: &Config) -> Settings {
    Settings {
        reserved_memory: config.reserved_memory(),
        call_deadline: config.timing.call_deadline,
        shutdown_grace: config.timing.shutdown_grace,
        observe_every: config.timing.observe_every,
        site_power_loss_start: config.site_power_loss_start,
        http_port: match config.http.metrics {
            Access::Off => 0,
            Access::Open | Access::Mtls | Access::Token => config.http.listen.port(),
        },
    }
}

/// Says that this server has to be joined, and how. The agent serves as soon as it is.
pub fn ask_to_join() {
    tracing::warn!(
        "this server has not joined a fabric yet. On a controller, `kapok node token create NODE`; \
         here, `kapok-agent join --controller HOST:PORT --token-file FILE`. This agent then serves by \
         itself"
    );
    let waiting = NotifyState::Status("waits for `kapok-agent join`");
    if let Err(error) = sd_notify::notify(&[NotifyState::Ready, waiting]) {
        tracing::warn!(%error, "the service manager can't be told");
    }
}

/// This host, as its kernel and its firmware tell.
///
/// # Errors
///
/// If `/proc` can't be read.
pub fn host() -> io::Result<Host> {
    let read = |name: &str| {
        fs::read_to_string(format!("/proc/sys/kernel/{name}")).map(|text| text.trim().to_owned())
    };
    Ok(Host {
        name: read("hostname")?,
        boot: read("random/boot_id")?.parse().map_err(io::Error::other)?,
        kernel: read("osrelease")?,
        fingerprint: fingerprint::read(Path::new("/")),
    })
}
