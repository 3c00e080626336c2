//! Compiles the `.proto` files with a compiler written in Rust: no `protoc` needed.

use std::{env, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "baton/v1/inference.proto",
        "baton/v1/operations.proto",
        "baton/node/v1/node.proto",
        "inference/grpc_service.proto",
    ];
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(files, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), prost_encode(&descriptors))?;
    // Tensors are shared, not copied.
    tonic_prost_build::configure().bytes(".inference").compile_fds(descriptors)?;
    Ok(())
}

fn prost_encode(descriptors: &impl prost::Message) -> Vec<u8> {
    descriptors.encode_to_vec()
}
