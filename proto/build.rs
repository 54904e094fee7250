//! Compiles the .proto files with protox, so that no protoc is needed.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

const FILES: &[&str] = &[
    "kapok/common/v1/equipment.proto",
    "kapok/common/v1/instance.proto",
    "kapok/common/v1/health.proto",
    "kapok/common/v1/inventory.proto",
    "kapok/agent/v1/node.proto",
    "kapok/agent/v1/peer.proto",
    "kapok/fabric/v1/operation.proto",
    "kapok/fabric/v1/node.proto",
    "kapok/fabric/v1/instance.proto",
    "kapok/fabric/v1/image.proto",
    "kapok/fabric/v1/event.proto",
    "kapok/fabric/v1/flavor.proto",
    "kapok/fabric/v1/system.proto",
    "kapok/fabric/v1/group.proto",
    "kapok/fabric/v1/tenant.proto",
    "kapok/fabric/v1/user.proto",
    "kapok/fabric/v1/token.proto",
    "kapok/fabric/v1/enroll.proto",
    "kapok/fabric/v1/certificate.proto",
    "kapok/fabric/v1/auth.proto",
    "kapok/fabric/v1/audit.proto",
    "kapok/fabric/v1/usage.proto",
    "kapok/fabric/v1/report.proto",
    "kapok/fabric/v1/capacity.proto",
    "kapok/fabric/v1/plan.proto",
    "kapok/fabric/v1/controller.proto",
    "kapok/fabric/v1/follower.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=kapok");
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    fs::write(out.join("kapok.bin"), descriptors.encode_to_vec())?;
    // An agent holds its descriptors in memory as long as it runs: only its own, without comments.
    let mut own = descriptors.clone();
    own.file
        .retain(|file| !file.package().starts_with("kapok.fabric"));
    for file in &mut own.file {
        file.source_code_info = None;
    }
    fs::write(out.join("agent.bin"), own.encode_to_vec())?;
    tonic_prost_build::configure()
        .btree_map(".")
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
