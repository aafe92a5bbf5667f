//! Compiles `proto/` to Rust with protox, so that no `protoc` is needed.

const BOXED: [&str; 7] = [
    "Result.error",
    "SubscribeResult.refused",
    "Starting.cause",
    "Stale.cause",
    "GoAway.reason",
    "Packet.body.register",
    "Packet.body.registered",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut files = vec!["proto/cluster/v1/cluster.proto"];
    // The control link belongs to the process plane; without it nothing would use its types.
    if has("CARGO_FEATURE_PROCESS") && has("CARGO_CFG_UNIX") {
        files.push("proto/cluster/v1/control.proto");
    }
    for file in &files {
        println!("cargo::rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["proto"])?;
    // `bytes` fields become `bytes::Bytes`, so that a payload is a slice of the buffer it was
    // read into and is never copied by decoding.
    let mut config = prost_build::Config::new();
    config.bytes(["."]);
    // What is large and rare is boxed, so that a packet is small to move.
    for field in BOXED {
        config.boxed(format!(".cluster.v1.{field}"));
    }
    config.compile_fds(descriptors)?;
    Ok(())
}

fn has(variable: &str) -> bool {
    std::env::var_os(variable).is_some()
}
