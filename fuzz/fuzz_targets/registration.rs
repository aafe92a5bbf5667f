//! A registration and what a follower sends after it, to a leader.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| drop(cluster_client::fuzzing::registration(input)));
