//! A model of the whole client plane: random operations and faults over a leader, followers and
//! subscribers in one process and in virtual time, with the guarantees checked at every step.
//!
//! `PROPTEST_CASES` sets how many lists of operations are tried.

mod hub;
mod operation;
mod publisher;
mod relay;
mod subscriber;
mod upstream;
mod world;

use std::sync::Mutex;

use proptest::test_runner::{Config, TestCaseError, TestError, TestRunner};
use tokio::runtime::Builder;

use self::{
    operation::{Operation, operations},
    world::{Faults, World},
};

/// Runs one list of operations in virtual time.
fn run(operations: &[Operation]) -> Result<Faults, String> {
    fastrand::seed(1);
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let mut world = World::new().await;
        world.run(operations).await?;
        Ok(world.faults)
    })
}

#[test]
fn whatever_dies_ends_or_freezes_nobody_is_misled_and_everything_becomes_whole_again() {
    let mut config = Config { failure_persistence: None, ..Config::default() };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = 200;
    }
    let sum = Mutex::new(Faults::default());
    let mut runner = TestRunner::new(config);
    let outcome = runner.run(&operations(60), |operations| {
        let faults = run(&operations).map_err(TestCaseError::fail)?;
        sum.lock().unwrap().add(&faults);
        Ok(())
    });
    match outcome {
        Ok(()) => {}
        Err(TestError::Fail(why, operations)) => panic!("{why}\nafter {operations:?}"),
        Err(abort) => panic!("{abort}"),
    }
    let sum = sum.into_inner().unwrap();
    assert!(sum.each_happened(), "a fault never happened: {sum:?}");
}
