//! Real processes, and clients of them over TLS with real certificates.

use std::{fs, path::Path, process::Command, sync::OnceLock};

use anyhow::{Context as _, Result};
use kapok_lab::{
    fabric::{Build, Kapok, Settings},
    loopback::{self, Loopback, Nodes},
    places,
};
use kapok_trust::{Credential, Credentials, Lasting, connector, dns};
use kapok_types::{NodeId, env::System};
use tonic::transport::Channel;

/// A fabric of real processes on loopback. The programs are built first, once a run, so that what
/// is tested is what is there.
pub fn processes(nodes: Nodes, settings: &Settings) -> Loopback {
    build();
    Loopback::start(nodes, settings).unwrap()
}

/// Builds the programs that such a fabric starts, once a run.
pub fn build() {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| {
        for build in loopback::builds(Build::Debug) {
            let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let output = Command::new(cargo)
                .args(build)
                .args(["--quiet", "--offline"])
                .current_dir(places::workspace())
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{said}");
        }
    });
}

/// A channel to the controller that `kapok` speaks to, with the same credential.
///
/// # Errors
///
/// The credential can't be used.
pub fn channel(kapok: &Kapok) -> Result<Channel> {
    to_controller(&person(&kapok.credential())?, kapok.server())
}

/// A channel to the controller at "HOST:PORT" with these credentials, as they are at each time.
///
/// # Errors
///
/// The address can't be used.
pub fn to_controller(credentials: &Credentials, address: &str) -> Result<Channel> {
    let name = dns::controller(&credentials.certificate().identity.fabric);
    Ok(connector::channel(
        credentials,
        address,
        &name,
        |endpoint| endpoint,
    )?)
}

/// As [`to_controller`], for a client that stays.
///
/// # Errors
///
/// The address can't be used.
pub fn lasting(credentials: &Credentials, address: &str) -> Result<Lasting> {
    let name = dns::controller(&credentials.certificate().identity.fabric);
    Ok(Lasting::new(credentials, address, &name, |endpoint| {
        endpoint
    })?)
}

/// A channel to an agent, as its controller has one. `trust` is the controller's own folder.
///
/// # Errors
///
/// The controller's credentials can't be read.
pub fn agent(trust: &Path, address: &str, node: NodeId) -> Result<Channel> {
    let credentials = Credentials::load(trust, System::new())?;
    let fabric = credentials.certificate().identity.fabric.clone();
    let name = dns::node(&fabric, node);
    Ok(connector::channel(
        &credentials,
        address,
        &name,
        |endpoint| endpoint,
    )?)
}

/// The credentials in a file that `kapok-controller init` wrote.
///
/// # Errors
///
/// It can't be read.
pub fn person(file: &Path) -> Result<Credentials> {
    let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let credential = Credential::parse(&text)?;
    Ok(Credentials::new(credential.material, System::new())?)
}
