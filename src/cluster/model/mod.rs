//! A model of the whole client plane: random operations and faults over a leader, followers and
//! subscribers in one process and in virtual time, with the guarantees checked at every step.
//!
//! `PROPTEST_CASES` sets how many lists of operations are tried.

mod directed;
mod faults;
mod hub;
mod operation;
mod publisher;
mod relay;
mod subscriber;
mod upstream;
mod work;
mod world;

use std::{fmt::Debug, sync::Mutex};

use proptest::test_runner::{Config, RngSeed, TestCaseError, TestError, TestRunner};
use tokio::runtime::Builder;

use self::{faults::Faults, operation::operations, world::World};
use crate::options::Options;

/// So many cases, and the same each time, so that a change is judged by itself. `PROPTEST_CASES`
/// plays as many others, drawn anew.
fn configuration(cases: u32) -> Config {
    let config = Config { failure_persistence: None, ..Config::default() };
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => config,
        None => Config { cases, rng_seed: RngSeed::Fixed(1), ..config },
    }
}

/// Runs one case. The clock stands still while anybody has something to do, and the pauses of
/// retries are the same each time, so that a failure can be made smaller.
fn in_virtual_time<T>(case: impl Future<Output = T>) -> T {
    fastrand::seed(1);
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime without drivers").block_on(case)
}

fn assert_passed<T: Debug>(outcome: Result<(), TestError<T>>) {
    match outcome {
        Ok(()) => {}
        Err(TestError::Fail(why, operations)) => panic!("{why}\nafter {operations:?}"),
        Err(abort) => panic!("{abort}"),
    }
}

#[test]
fn whatever_dies_ends_or_freezes_nobody_is_misled_and_everything_becomes_whole_again() {
    let sum = Mutex::new(Faults::default());
    let outcome = TestRunner::new(configuration(150)).run(&operations(60), |operations| {
        let faults = in_virtual_time(async {
            let options = Options { ring_values: 4, ..Options::default() };
            let mut world = World::new(options).await;
            world.run(&operations).await.map(|()| world.faults)
        });
        sum.lock().unwrap().add(&faults.map_err(TestCaseError::fail)?);
        Ok(())
    });
    assert_passed(outcome);
    let sum = sum.into_inner().unwrap();
    assert!(sum.each_happened(), "a fault never happened: {sum:?}");
}
