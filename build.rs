//! Compiles `proto/` to Rust with protox, so that no `protoc` is needed.

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
    prost_build::Config::new().bytes(["."]).compile_fds(descriptors)?;
    Ok(())
}

fn has(variable: &str) -> bool {
    std::env::var_os(variable).is_some()
}
