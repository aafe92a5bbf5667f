//! `run-job`: a scheduled job, now, from a shell.

use crate::{cli::Home, tests};

tests![
    a_job_is_run_and_waited_for,
    what_went_wrong_with_a_run_is_said_with_code_1,
    a_job_that_nobody_has_is_an_error_with_those_that_there_are,
];

fn a_job_is_run_and_waited_for() {
    let home = Home::new("workers=2 jobs=tidy:disabled:takes@300,both:100000:all");
    home.ok("start --daemon --title one");
    assert_eq!(home.ok("run-job tidy --title one"), "tidy is done\n");
    // What the worker said comes by another way, so that it is waited for.
    let log = home.wait_log("one", " ends tidy ");
    assert_eq!(log.matches(" runs tidy ").count(), 1, "{log}");
    home.ok("run-job both --title one");
    home.wait_log("one", " ends both ");
    home.ok("stop --title one");
    assert_eq!(home.log().matches(" runs both ").count(), 2, "in each worker");
    let ran = home.run("run-job tidy --title one");
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    assert!(ran.stderr.starts_with("one is not running"), "{ran:#?}");
}

fn what_went_wrong_with_a_run_is_said_with_code_1() {
    let home = Home::new(
        "workers=1 jobs=fails:disabled:fails,panics:disabled:panics,tardy:disabled:limit@50:hangs",
    );
    home.ok("start --daemon --title one");
    for (job, says) in [
        ("fails", "can't run fails of one: it failed: no upstream for the job\n"),
        ("panics", "can't run panics of one: it panicked: the job panics\n"),
        ("tardy", "can't run tardy of one: it timed out\n"),
    ] {
        let ran = home.run(&format!("run-job {job} --title one"));
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(1), says), "{ran:#?}");
    }
    home.ok("stop --title one");
}

fn a_job_that_nobody_has_is_an_error_with_those_that_there_are() {
    let mut home = Home::new("workers=1 jobs=tidy:disabled,report:disabled");
    home.ok("start --daemon --title one");
    let ran = home.run("run-job tydy --title one");
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    let says = "there is no job `tydy`; the jobs are report, tidy\n";
    assert!(ran.stderr.ends_with(says), "{ran:#?}");
    home.ok("stop --title one");
    home.keys("workers=1");
    home.ok("start --daemon --title one");
    let ran = home.run("run-job tidy --title one");
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    assert!(ran.stderr.contains("there is no job `tidy`"), "{ran:#?}");
    home.ok("stop --title one");
    assert_eq!(home.run("run-job").code, Some(2), "without a name");
}
