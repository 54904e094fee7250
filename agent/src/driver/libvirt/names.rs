//! Names on the node, made from ids only (FAULTS 12), and read back strictly.

use kapok_libvirt::xml::domain::MacAddress;
use kapok_types::{Digest, IncarnationId, instance::DiskFormat};

const ROOT: &str = "-root.qcow2";
const BASE: &str = "kapok-base-";
const FORMATS: [DiskFormat; 2] = [DiskFormat::Raw, DiskFormat::Qcow2];

/// The root disk's volume.
pub(super) fn root_volume(incarnation: IncarnationId) -> String {
    format!("kapok-{incarnation}{ROOT}")
}

/// Whose root disk a volume is, by its name.
pub(super) fn root_owner(volume: &str) -> Option<IncarnationId> {
    volume
        .strip_prefix("kapok-")?
        .strip_suffix(ROOT)?
        .parse()
        .ok()
}

/// The image's volume.
pub(super) fn base_volume(digest: Digest, format: DiskFormat) -> String {
    format!("{BASE}{}.{}", digest.hex(), format.as_str())
}

/// All names that the image's volume may have.
pub(super) fn base_volumes(digest: Digest) -> [String; 2] {
    FORMATS.map(|format| base_volume(digest, format))
}

/// Which image a volume is, by its name.
pub(super) fn base_content(volume: &str) -> Option<(Digest, DiskFormat)> {
    let (hex, end) = volume.strip_prefix(BASE)?.split_once('.')?;
    let format = FORMATS.into_iter().find(|format| format.as_str() == end)?;
    let digest: Digest = format!("sha256:{hex}").parse().ok()?;
    Some((digest, format))
}

/// Which image a path names, if its last component is an image's volume.
pub(super) fn base_at(path: &str) -> Option<Digest> {
    let (_, name) = path.rsplit_once('/')?;
    base_content(name).map(|(digest, _)| digest)
}

/// The network card's address: QEMU's prefix and three bytes that follow from the incarnation.
pub(super) fn mac(incarnation: IncarnationId) -> MacAddress {
    let [a, b, c, ..] = Digest::of(incarnation.0.as_bytes()).0;
    MacAddress::local([0x54, 0x00, a, b, c])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_strictly() {
        let incarnation: IncarnationId = "0190d6b4-6f5e-7c3a-8b1e-2f6d1c9a0b11".parse().unwrap();
        assert_eq!(root_owner(&root_volume(incarnation)), Some(incarnation));
        let digest = Digest::of(b"image");
        for format in FORMATS {
            let name = base_volume(digest, format);
            assert_eq!(base_content(&name), Some((digest, format)));
            assert_eq!(base_at(&format!("/pool/{name}")), Some(digest));
            assert_eq!(root_owner(&name), None);
        }
        for wrong in [
            "kapok-x-root.qcow2",
            "kapok-0190D6B4-6F5E-7C3A-8B1E-2F6D1C9A0B11-root.qcow2",
            "kapok-base-00.qcow2",
            "other.qcow2",
            "",
        ] {
            assert_eq!(root_owner(wrong), None, "{wrong}");
            assert_eq!(base_content(wrong), None, "{wrong}");
        }
        let upper = format!("kapok-base-{}.qcow2", digest.hex().to_uppercase());
        assert_eq!(base_content(&upper), None);
        assert_eq!(base_content(&format!("{BASE}{}.vmdk", digest.hex())), None);
    }

    #[test]
    fn an_incarnation_keeps_its_address() {
        let id = |text: &str| text.parse::<IncarnationId>().unwrap();
        let first = mac(id("0190d6b4-6f5e-7c3a-8b1e-2f6d1c9a0b11"));
        assert_eq!(first, mac(id("0190d6b4-6f5e-7c3a-8b1e-2f6d1c9a0b11")));
        assert_ne!(first, mac(id("0190d6b4-6f5e-7c3a-8b1e-2f6d1c9a0b12")));
        assert!(first.to_string().starts_with("52:54:00:"), "{first}");
    }
}
