//! A node's networks as libvirt reports them.

use serde::Deserialize;
use uuid::Uuid;

use super::Error;

/// A network as libvirt reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkView {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: Option<Uuid>,
    /// The bridge that guests are plugged into.
    pub bridge: Option<String>,
    /// How it reaches the outside, for example `nat` or `bridge`; absent when it doesn't.
    pub forward: Option<String>,
}

impl NetworkView {
    /// Reads libvirt's document.
    ///
    /// # Errors
    ///
    /// Whatever the document's guard refuses.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let raw: RawNetwork = super::read(text)?;
        Ok(Self {
            name: raw.name,
            uuid: raw.uuid.and_then(|uuid| Uuid::try_parse(uuid.trim()).ok()),
            bridge: raw.bridge.and_then(|bridge| bridge.name),
            forward: raw
                .forward
                .map(|forward| forward.mode.unwrap_or_else(|| "nat".into())),
        })
    }
}

#[derive(Deserialize)]
struct RawNetwork {
    name: String,
    uuid: Option<String>,
    bridge: Option<RawBridge>,
    forward: Option<RawForward>,
}

#[derive(Deserialize)]
struct RawBridge {
    #[serde(rename = "@name")]
    name: Option<String>,
}

#[derive(Deserialize)]
struct RawForward {
    #[serde(rename = "@mode")]
    mode: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_tells_its_bridge() {
        let text = "<network><name>default</name><uuid>6695eb01-f6a4-8304-79aa-97f2502e193f</uuid>\
            <forward><nat><port start='1024' end='65535'/></nat></forward>\
            <bridge name='virbr0' stp='on' delay='0'/><mac address='52:54:00:b4:63:0b'/>\
            <ip address='192.168.122.1' netmask='255.255.255.0'/></network>";
        let view = NetworkView::parse(text).unwrap();
        assert_eq!(view.bridge.as_deref(), Some("virbr0"));
        assert_eq!(view.forward.as_deref(), Some("nat"));
    }
}
