//! The cost of cluster-client over the bare socket, measured side by side.
//!
//! `cargo bench` runs each suite with two contestants, *raw* (a framed tokio socket and nothing
//! else) and *ours* (`Cluster<T>` through its public API), each with a server and a client process
//! of its own on loopback. Slices of both alternate and the order turns each round, so that
//! whatever else the machine does falls on both; what counts is the ratio.
//!
//! `cargo bench -- --smoke` runs every suite for a moment: it fails if something errs, not if it is
//! slow. A word filters suites by name.

mod contest;
mod ends;
mod suites;

use std::process::ExitCode;

use contest::{Child, Plan, Table};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match Child::from_args(&args) {
        Some(child) => suites::run_child(child),
        None => run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> contest::Result<()> {
    let has = |flag: &str| args.iter().any(|arg| arg == flag);
    let smoke = has("--smoke");
    if !smoke && !has("--bench") {
        // `cargo test --all-targets` runs this binary, too.
        println!("nothing is measured without `cargo bench`");
        return Ok(());
    }
    let plan = if smoke { Plan::smoke() } else { Plan::full() };
    let words: Vec<&String> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    let mut table = Table::default();
    for suite in suites::ALL {
        if words.is_empty() || words.iter().any(|word| suite.name.contains(word.as_str())) {
            table.extend((suite.run)(&plan)?);
        }
    }
    print!("{table}");
    Ok(())
}
