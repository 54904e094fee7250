//! From the configuration to the options of the parts. Decides nothing.

use std::{fs, io, sync::Arc};

use kapok_types::Env;

use crate::{
    agent::{ImageSource, Settings},
    config::Config,
    driver::libvirt,
    local::Local,
    probe::{self, Probe},
    watch::facts::Host,
};

/// What the libvirt driver is set up with.
pub fn driver(config: &Config, env: &Arc<dyn Env>, local: &Local, host: &Host) -> libvirt::Options {
    libvirt::Options {
        uri: config.libvirt.uri.clone(),
        pool: config.libvirt.pool.clone(),
        pool_shared: config.libvirt.pool_shared,
        network: config.libvirt.network.clone(),
        fabric: config.fabric.clone(),
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

/// Deadlines, intervals and decisions.
pub fn settings(config: &Config) -> Settings {
    Settings {
        reserved_memory: config.reserved_memory(),
        call_deadline: config.timing.call_deadline,
        shutdown_grace: config.timing.shutdown_grace,
        observe_every: config.timing.observe_every,
        site_power_loss_start: config.site_power_loss_start,
    }
}

/// This host, as its kernel tells.
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
    })
}
