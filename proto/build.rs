//! Compiles the .proto files with protox, so that no protoc is needed.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

const FILES: [&str; 8] = [
    "kapok/common/v1/instance.proto",
    "kapok/agent/v1/node.proto",
    "kapok/agent/v1/peer.proto",
    "kapok/fabric/v1/operation.proto",
    "kapok/fabric/v1/node.proto",
    "kapok/fabric/v1/instance.proto",
    "kapok/fabric/v1/image.proto",
    "kapok/fabric/v1/event.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=kapok");
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    // The same descriptors serve reflection on both servers.
    fs::write(out.join("kapok.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .btree_map(".")
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
