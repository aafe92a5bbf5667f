//! Examples, run as a newcomer runs them: those whose processes send each other messages, and the
//! one that serves HTTP.

use std::process::{Command, Stdio};

#[path = "../../examples/announce.rs"]
pub(crate) mod announce;
#[path = "../../examples/http.rs"]
pub(crate) mod http;
#[path = "../../examples/shared_cache.rs"]
pub(crate) mod shared_cache;

crate::tests![
    each_worker_announces_itself_and_one_of_them_does_the_work,
    all_caches_have_what_one_changed_and_a_replacement_too,
    no_request_is_lost_while_all_workers_are_replaced,
];

/// The example that this binary is to be, where it is one.
pub(crate) const VARIABLE: &str = "CLUSTER_CLIENT_TEST_EXAMPLE";

/// Runs an example to its end, and gives what it printed.
fn run(name: &str) -> String {
    let own = std::env::current_exe().unwrap();
    let mut example = Command::new(own);
    // With the command line, two instances of one program can't share a directory.
    let directory = tempfile::tempdir().unwrap();
    example.env("XDG_RUNTIME_DIR", directory.path()).env("XDG_STATE_HOME", directory.path());
    let output = example.env(VARIABLE, name).stdin(Stdio::null()).output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stdout}{stderr}");
    stdout
}

fn each_worker_announces_itself_and_one_of_them_does_the_work() {
    let said = run("announce");
    let count = |text: &str| said.lines().filter(|line| line.contains(text)).count();
    for index in 0..4 {
        assert_eq!(count(&format!("agent: worker {index} (pid ")), 1, "{said}");
    }
    assert_eq!(count("4 of 4 are here"), 1, "{said}");
    assert_eq!(count("was chosen to rebuild the index"), 1, "{said}");
    assert_eq!(count("has done it"), 1, "{said}");
}

fn all_caches_have_what_one_changed_and_a_replacement_too() {
    let said = run("shared_cache");
    let steps = [
        "price = 10",
        r#"4 processes have ["10", "7"]"#,
        "kill -9 of worker 1",
        r#"3 processes have ["12", "7"]"#,
        "its replacement is ready",
        r#"4 processes have ["12", "7"]"#,
    ];
    let positions = steps.map(|step| said.find(step).unwrap_or_else(|| panic!("{step}: {said}")));
    assert!(positions.is_sorted(), "{said}");
}

fn no_request_is_lost_while_all_workers_are_replaced() {
    let said = run("http");
    let answers: Vec<&str> = said.lines().filter(|line| line.contains(" answers of ")).collect();
    // Two workers, and the two that replaced them.
    assert_eq!(answers.len(), 4, "{said}");
    assert!(said.contains("none lost while all workers were replaced"), "{said}");
}
