//! The process plane, with real processes.
//!
//! A test starts this very binary again, as `process --fixture key=value …`: that is a master whose
//! agent and workers behave as the keys say (see `fixture.rs`). A binary that is its own fixture is
//! always built, and its children get the master's argv, as those of users do. The standard harness
//! leaves no room for a second `main`, hence `harness = false` and libtest-mimic, which takes the
//! same arguments.

#[cfg(target_os = "linux")]
mod cli;
#[cfg(target_os = "linux")]
mod cli_jobs;
#[cfg(target_os = "linux")]
mod cli_logs;
#[cfg(target_os = "linux")]
mod cli_start;
#[cfg(target_os = "linux")]
mod cli_status;
#[cfg(target_os = "linux")]
mod cli_stop;
#[cfg(target_os = "linux")]
mod cli_systemd;
#[cfg(target_os = "linux")]
mod endings;
#[cfg(target_os = "linux")]
mod examples;
#[cfg(target_os = "linux")]
mod fixture;
#[cfg(target_os = "linux")]
mod fixture_ask;
#[cfg(target_os = "linux")]
mod fixture_health;
#[cfg(target_os = "linux")]
mod fixture_jobs;
#[cfg(target_os = "linux")]
mod fixture_ledger;
#[cfg(target_os = "linux")]
mod fixture_listen;
#[cfg(target_os = "linux")]
mod fixture_order;
#[cfg(target_os = "linux")]
mod foreign;
#[cfg(target_os = "linux")]
mod hand_over;
#[cfg(target_os = "linux")]
mod held;
#[cfg(target_os = "linux")]
mod identity;
#[cfg(target_os = "linux")]
mod jobs;
#[cfg(target_os = "linux")]
mod jobs_reload;
#[cfg(target_os = "linux")]
mod listen;
#[cfg(target_os = "linux")]
mod liveness;
#[cfg(target_os = "linux")]
mod loss;
#[cfg(target_os = "linux")]
mod measures;
#[cfg(target_os = "linux")]
mod messenger;
#[cfg(target_os = "linux")]
mod orphans;
#[cfg(target_os = "linux")]
mod panics;
#[cfg(target_os = "linux")]
mod reload;
#[cfg(target_os = "linux")]
mod restart;
#[cfg(target_os = "linux")]
mod scale;
#[cfg(target_os = "linux")]
mod start;
#[cfg(target_os = "linux")]
mod stop;
#[cfg(target_os = "linux")]
mod support;
#[cfg(target_os = "linux")]
mod talk;

/// The tests read `/proc` to know who is alive, so they run where there is one.
#[cfg(not(target_os = "linux"))]
fn main() {}

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    use libtest_mimic::{Arguments, Trial};

    // Arguments would be the example's own, so it is chosen by the environment.
    match std::env::var(examples::VARIABLE).as_deref() {
        Ok("announce") => return examples::announce::main(),
        Ok("http") => return examples::http::main(),
        Ok("shared_cache") => return examples::shared_cache::main(),
        _ => {}
    }
    if std::env::args().nth(1).as_deref() == Some("--fixture") {
        return fixture::main();
    }
    if std::env::var_os(fixture::KEYS).is_some() {
        return fixture::command_line();
    }
    support::adopt_orphans();
    let trial = |(name, test): (&str, fn())| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    };
    let tests = [
        start::TESTS,
        stop::TESTS,
        restart::TESTS,
        reload::TESTS,
        scale::TESTS,
        loss::TESTS,
        identity::TESTS,
        cli_start::TESTS,
        cli_stop::TESTS,
        cli_status::TESTS,
        cli_logs::TESTS,
        cli_jobs::TESTS,
        cli_systemd::TESTS,
        messenger::TESTS,
        examples::TESTS,
        liveness::TESTS,
        panics::TESTS,
        orphans::TESTS,
        foreign::TESTS,
        jobs::TESTS,
        jobs_reload::TESTS,
        listen::TESTS,
        hand_over::TESTS,
        endings::TESTS,
        held::TESTS,
        measures::TESTS,
    ]
    .concat();
    let trials = tests.into_iter().map(trial).collect();
    let mut arguments = Arguments::from_args();
    // They wait for processes most of the time, so that there may be more of them than cores.
    arguments.test_threads.get_or_insert(8);
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// The tests of a module, with their names.
#[cfg(target_os = "linux")]
macro_rules! tests {
    ($($test:ident),* $(,)?) => {
        pub(crate) const TESTS: &[(&str, fn())] = &[
            $((concat!(module_path!(), "::", stringify!($test)), $test)),*
        ];
    };
}
#[cfg(target_os = "linux")]
pub(crate) use tests;
