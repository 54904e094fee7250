//! Pools and volumes: what is asked for, and what libvirt reports.

use kapok_types::{Bytes, instance::DiskFormat};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Amount, Error, Typed, line};

/// A base that an overlay stands on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackingConfig {
    /// The base's path, from [`crate::storage::Volume::path`].
    pub path: String,
    /// The base's layout, from our record: written into the overlay, so that nothing probes it.
    pub format: DiskFormat,
}

/// A volume to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeConfig {
    /// Its file name: letters, digits, `.`, `_`, `-`, at most 200, not starting with a dot.
    pub name: String,
    /// Its layout. An overlay must be qcow2.
    pub format: DiskFormat,
    /// The size that a guest sees.
    pub capacity: Bytes,
    /// What it stands on, for a copy-on-write overlay.
    pub backing: Option<BackingConfig>,
}

impl VolumeConfig {
    pub(crate) fn to_xml(&self) -> Result<String, Error> {
        volume_name(&self.name)?;
        if let Some(backing) = &self.backing {
            line("backing.path", &backing.path, 4096)?;
            if !backing.path.starts_with('/') {
                return Err(Error::field("backing.path", "is not absolute"));
            }
            if self.format != DiskFormat::Qcow2 {
                return Err(Error::field("format", "must be qcow2 for an overlay"));
            }
        }
        super::write(
            "volume",
            &VolumeDocument {
                name: &self.name,
                capacity: Amount::bytes(self.capacity.get()),
                // Nothing is allocated in advance.
                allocation: Amount::bytes(0),
                target: TargetDocument {
                    format: self.format.as_str().into(),
                    compat: (self.format == DiskFormat::Qcow2).then_some("1.1"),
                },
                backing: self.backing.as_ref().map(|backing| BackingDocument {
                    path: &backing.path,
                    format: backing.format.as_str().into(),
                }),
            },
        )
    }
}

/// Checks a volume's name (FAULTS 12): it must be one component of a path, and not a hidden one.
pub(crate) fn volume_name(name: &str) -> Result<(), Error> {
    line("volume name", name, 200)?;
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if name.starts_with('.') || !name.chars().all(legal) {
        let reason = "may have letters, digits, `.`, `_` and `-`, and must not start with a dot";
        return Err(Error::field("volume name", reason));
    }
    Ok(())
}

#[derive(Serialize)]
struct VolumeDocument<'a> {
    name: &'a str,
    capacity: Amount,
    allocation: Amount,
    target: TargetDocument,
    #[serde(rename = "backingStore", skip_serializing_if = "Option::is_none")]
    backing: Option<BackingDocument<'a>>,
}

#[derive(Serialize)]
struct TargetDocument {
    format: Typed<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    compat: Option<&'static str>,
}

#[derive(Serialize)]
struct BackingDocument<'a> {
    path: &'a str,
    format: Typed<&'static str>,
}

/// A volume as libvirt reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeView {
    /// Its name in the pool.
    pub name: String,
    /// libvirt's word for its kind, for example `file` or `block`.
    pub kind: Option<String>,
    /// The size that a guest sees.
    pub capacity: Bytes,
    /// What it takes up now.
    pub allocation: Option<Bytes>,
    /// Its path.
    pub path: Option<String>,
    /// What its bytes looked like when libvirt last looked. A guest can change that: it is never
    /// a source for a driver type.
    pub probed_format: Option<String>,
    /// What it stands on, by its own header.
    pub backing: Option<BackingView>,
    /// When its bytes last changed, in nanoseconds since 1970, if libvirt says so.
    pub modified_ns: Option<u64>,
}

/// What an overlay names as its base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackingView {
    /// The base's path.
    pub path: String,
    /// The base's stated layout.
    pub format: Option<String>,
}

impl VolumeView {
    /// Reads libvirt's document.
    ///
    /// # Errors
    ///
    /// Whatever the document's guard refuses, or a document without name or capacity.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let raw: RawVolume = super::read(text)?;
        let target = raw.target.unwrap_or_default();
        let allocation = raw
            .allocation
            .map(|amount| amount.to_bytes("bytes"))
            .transpose()?;
        Ok(Self {
            name: raw.name,
            kind: raw.kind,
            capacity: Bytes(raw.capacity.to_bytes("bytes")?),
            allocation: allocation.map(Bytes),
            path: target.path,
            probed_format: target.format.map(|format| format.value),
            modified_ns: target
                .timestamps
                .and_then(|stamps| nanoseconds(&stamps.mtime?)),
            backing: raw.backing.and_then(|backing| {
                let format = backing.format.map(|format| format.value);
                Some(BackingView {
                    path: backing.path.filter(|path| !path.is_empty())?,
                    format,
                })
            }),
        })
    }
}

#[derive(Deserialize)]
struct RawVolume {
    #[serde(rename = "@type")]
    kind: Option<String>,
    name: String,
    capacity: Amount,
    allocation: Option<Amount>,
    target: Option<RawVolumeTarget>,
    #[serde(rename = "backingStore")]
    backing: Option<RawBacking>,
}

#[derive(Deserialize, Default)]
struct RawVolumeTarget {
    path: Option<String>,
    format: Option<Typed>,
    timestamps: Option<RawTimestamps>,
}

#[derive(Deserialize)]
struct RawTimestamps {
    mtime: Option<String>,
}

/// libvirt's `SECONDS` or `SECONDS.NANOSECONDS`.
fn nanoseconds(text: &str) -> Option<u64> {
    let (seconds, part) = text.trim().split_once('.').unwrap_or((text.trim(), "0"));
    let seconds: u64 = seconds.parse().ok()?;
    // Source: libvirt writes the part as "%09ld".
    let part: u64 = part.parse().ok().filter(|part| *part < 1_000_000_000)?;
    seconds.checked_mul(1_000_000_000)?.checked_add(part)
}

#[derive(Deserialize)]
struct RawBacking {
    path: Option<String>,
    format: Option<Typed>,
}

/// A pool as libvirt reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolView {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: Option<Uuid>,
    /// libvirt's word for its kind, for example `dir`.
    pub kind: String,
    /// Where its volumes appear on the node.
    pub target_path: Option<String>,
}

impl PoolView {
    /// Reads libvirt's document.
    ///
    /// # Errors
    ///
    /// Whatever the document's guard refuses.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let raw: RawPool = super::read(text)?;
        Ok(Self {
            name: raw.name,
            uuid: raw.uuid.and_then(|uuid| Uuid::try_parse(uuid.trim()).ok()),
            kind: raw.kind,
            target_path: raw.target.and_then(|target| target.path),
        })
    }
}

#[derive(Deserialize)]
struct RawPool {
    #[serde(rename = "@type")]
    kind: String,
    name: String,
    uuid: Option<String>,
    target: Option<RawPoolTarget>,
}

#[derive(Deserialize)]
struct RawPoolTarget {
    path: Option<String>,
}

/// Writes a directory pool.
pub(crate) fn dir_pool(name: &str, path: &str) -> Result<String, Error> {
    #[derive(Serialize)]
    struct Pool<'a> {
        #[serde(rename = "@type")]
        kind: &'static str,
        name: &'a str,
        target: Target<'a>,
    }
    #[derive(Serialize)]
    struct Target<'a> {
        path: &'a str,
    }
    volume_name(name)?;
    line("pool path", path, 4096)?;
    if !path.starts_with('/') {
        return Err(Error::field("pool path", "is not absolute"));
    }
    super::write(
        "pool",
        &Pool {
            kind: "dir",
            name,
            target: Target { path },
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlay() -> VolumeConfig {
        VolumeConfig {
            name: "0190d6b4.qcow2".into(),
            format: DiskFormat::Qcow2,
            capacity: Bytes(1 << 30),
            backing: Some(BackingConfig {
                path: "/pool/base & co.raw".into(),
                format: DiskFormat::Raw,
            }),
        }
    }

    #[test]
    fn an_overlay_states_its_base_and_format() {
        insta::assert_snapshot!(overlay().to_xml().unwrap().replace("><", ">\n<"), @r#"
        <volume>
        <name>0190d6b4.qcow2</name>
        <capacity unit="bytes">1073741824</capacity>
        <allocation unit="bytes">0</allocation>
        <target>
        <format type="qcow2"/>
        <compat>1.1</compat>
        </target>
        <backingStore>
        <path>/pool/base &amp; co.raw</path>
        <format type="raw"/>
        </backingStore>
        </volume>
        "#);
    }

    #[test]
    fn what_is_written_is_read_back() {
        let view = VolumeView::parse(&overlay().to_xml().unwrap()).unwrap();
        assert_eq!(view.capacity, Bytes(1 << 30));
        assert_eq!(view.probed_format.as_deref(), Some("qcow2"));
        let backing = view.backing.unwrap();
        assert_eq!(backing.path, "/pool/base & co.raw");
        assert_eq!(backing.format.as_deref(), Some("raw"));
    }

    #[test]
    fn a_volume_tells_when_its_bytes_changed() {
        let view = VolumeView::parse(
            "<volume type='file'><name>a</name><capacity unit='bytes'>7</capacity><target>\
             <path>/p/a</path><timestamps><atime>9.5</atime><mtime>1341933637.027319099</mtime>\
             </timestamps></target></volume>",
        )
        .unwrap();
        assert_eq!(view.modified_ns, Some(1_341_933_637_027_319_099));
        assert_eq!(nanoseconds("12"), Some(12_000_000_000));
        assert_eq!(nanoseconds("12.x"), None);
    }

    /// FAULTS 12: a volume's name is one harmless path component.
    #[test]
    fn names_that_are_paths_are_refused() {
        let long = "a".repeat(256);
        for name in [
            "",
            "../../etc/x",
            "/etc/x",
            "a\0b",
            "..",
            ".hidden",
            "a/b",
            "a b",
            &long,
        ] {
            let refused = VolumeConfig {
                name: name.into(),
                ..overlay()
            }
            .to_xml();
            assert!(
                matches!(
                    refused,
                    Err(Error::Field {
                        field: "volume name",
                        ..
                    })
                ),
                "{name}"
            );
        }
    }

    #[test]
    fn a_raw_overlay_is_refused() {
        let wrong = VolumeConfig {
            format: DiskFormat::Raw,
            ..overlay()
        };
        assert!(matches!(
            wrong.to_xml(),
            Err(Error::Field {
                field: "format",
                ..
            })
        ));
    }

    #[test]
    fn a_pool_is_written_and_read() {
        let text = dir_pool("kapok", "/var/lib/kapok/disks").unwrap();
        let view = PoolView::parse(&text).unwrap();
        assert_eq!(view.kind, "dir");
        assert_eq!(view.target_path.as_deref(), Some("/var/lib/kapok/disks"));
        assert!(dir_pool("kapok", "disks").is_err());
    }
}
