//! What `#[cluster_client]` accepts, and what it says to what it refuses: one mistake a file.
//!
//! After a change of a message, `TRYBUILD=overwrite cargo test --test ui` writes the `.stderr`
//! files again.

/// Here for clippy, which does not read what trybuild compiles.
#[path = "ui/pass/lints.rs"]
pub mod lints;

#[test]
fn ui() {
    lints::main();
    let cases = trybuild::TestCases::new();
    cases.pass("tests/ui/pass/*.rs");
    cases.compile_fail("tests/ui/fail/*.rs");
}
