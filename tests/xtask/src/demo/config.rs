//! The configuration files that the demo writes. The files of an installation are in `systemd/`.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

/// A node as the controller is told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) address: SocketAddr,
}

/// `agent.toml` of one host.
pub(super) fn agent(listen: SocketAddr, state: &Path, probe: (&Path, &Path)) -> String {
    format!(
        r#"listen = "{listen}"
# The lab's network ends at the lab.
insecure_listen = true
state_dir = "{}"
reserved_memory_mib = 256

[libvirt]
virt_type = "auto"
probe_kernel = "{}"
probe_initrd = "{}"
probe_seconds = 10
"#,
        state.display(),
        probe.0.display(),
        probe.1.display()
    )
}

/// `controller.toml`. Agents pull images from where it listens.
pub(super) fn controller(listen: SocketAddr, state: &Path, nodes: &[Node]) -> String {
    let mut text = format!(
        "listen = \"{listen}\"\nstate_dir = \"{}\"\n",
        state.display()
    );
    if !listen.ip().is_loopback() {
        text.push_str("# The lab's network ends at the lab.\ninsecure_listen = true\n");
    }
    for node in nodes {
        let _never_fails = write!(
            text,
            "\n[[nodes]]\nname = \"{}\"\naddress = \"{}\"\n",
            node.name, node.address
        );
    }
    text
}
