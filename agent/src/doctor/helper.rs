//! Whether somebody reads SMART and IPMI for an agent that may not.

use kapok_health::Host;
use tokio::net::UnixStream;

use super::{Finding, Server};

const CHECK: &str = "helper";
/// The devices by which the kernel speaks with a management controller.
const IPMI: [&str; 2] = ["/dev/ipmi0", "/dev/ipmi/0"];

/// Whether the helper listens, where there is something to ask it.
pub(super) async fn check(server: &Server<'_>) -> Finding {
    let socket = &server.config.health.helper.0;
    let shown = socket.display();
    match UnixStream::connect(server.host.path(socket)).await {
        Ok(_) => Finding::healthy(CHECK, format!("kapok-helper listens at {shown}")),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            let found = format!("kapok-helper is there, and not for this user: {error}");
            Finding::unknown(CHECK, found, "run the doctor as root")
        }
        Err(error) => absent(server.host, &format!("{shown}: {error}")),
    }
}

fn absent(host: &Host, reason: &str) -> Finding {
    let smart = host.tool("smartctl").is_ok();
    let ipmi = IPMI.iter().any(|device| host.exists(device));
    let what = match (smart, ipmi) {
        (false, false) => {
            let found = "there is no kapok-helper, and neither smartctl nor an IPMI device to ask";
            return Finding::healthy(CHECK, found);
        }
        (true, false) => "SMART is",
        (false, true) => "IPMI is",
        (true, true) => "SMART and IPMI are",
    };
    let found = format!("{what} unreadable to an agent that isn't root ({reason})");
    let advice = "install kapok-helper, and systemctl enable --now kapok-helper.socket";
    Finding::degraded(CHECK, found, advice)
}
