//! Frames and parts, in any bytes that arrive in any pieces.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| cluster_client::fuzzing::frames(input));
