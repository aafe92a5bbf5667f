//! Panics that do not end their process.

use crate::support::{Cluster, Signal, is_alive, until};

crate::tests![
    panics_of_tasks_and_threads_are_told_with_their_place,
    a_storm_of_panics_is_counted_and_told_now_and_then,
    a_worker_is_replaced_after_a_panic_and_goes_on_where_that_is_set,
    one_whose_replacements_panic_is_replaced_ever_more_slowly,
    what_ends_the_process_or_is_caught_by_the_function_is_not_counted,
];

fn stop(mut cluster: Cluster) -> Cluster {
    cluster.signal(Signal::TERM);
    assert_eq!(cluster.end().0.code(), Some(0));
    cluster
}

fn panics_of_tasks_and_threads_are_told_with_their_place() {
    for behaviour in ["task_panic", "thread_panic"] {
        let mut cluster = Cluster::start(&format!("workers=0 agent={behaviour}"));
        let told = cluster.wait(" panicked agent ").join(" ");
        let agent = cluster.pid("agent");
        assert!(told.contains(&format!(" panicked agent {agent} 1 a t")), "{told}");
        assert!(told.contains("of the fixture panics (tests/process/fixture"), "{told}");
        cluster.find(" cluster-ready ");
        let cluster = stop(cluster);
        assert_eq!(cluster.count(" died "), 0);
        assert_eq!(cluster.count("shuts down"), 1);
    }
}

fn a_storm_of_panics_is_counted_and_told_now_and_then() {
    let mut cluster = Cluster::start("workers=0 agent=panics:500");
    let begin = std::time::Instant::now();
    cluster.wait(" had its panics");
    loop {
        let told = cluster.find_last_panics();
        if told == 500 {
            break;
        }
        cluster.wait(" panicked agent ");
    }
    let seconds = begin.elapsed().as_secs() as usize;
    let cluster = stop(cluster);
    assert!(cluster.count(" panicked agent ") <= seconds + 3, "{:#?}", cluster.said);
}

impl Cluster {
    /// The count in the last line that tells of panics.
    fn find_last_panics(&self) -> u32 {
        let told = self.said.iter().rev().find(|line| line.contains(" panicked agent "));
        told.map_or(0, |line| line.split(' ').nth(5).unwrap().parse().unwrap())
    }
}

fn a_worker_is_replaced_after_a_panic_and_goes_on_where_that_is_set() {
    for behaviour in ["task_panic", "thread_panic"] {
        let arguments = format!("workers=2 worker0={behaviour} worker_next=none healthy_ms=0");
        let mut cluster = Cluster::ready(&arguments);
        let old = cluster.pid("worker-0");
        let other = cluster.pid("worker-1");
        cluster.find(&format!(" panicked worker 0 {old} 1 "));
        until("it is gone", || !is_alive(old));
        assert!(is_alive(other));
        while cluster.count(" ready worker 0 ") < 2 {
            cluster.wait(" ready worker 0 ");
        }
        let cluster = stop(cluster);
        assert_eq!(cluster.count(" started worker 0 "), 2);
        // It was asked, and cleaned up.
        assert_eq!(cluster.count(&format!("worker-0 {old} shuts down")), 1);
        assert_eq!(cluster.count("shuts down"), 4);
    }
    let mut cluster = Cluster::start("workers=1 worker=task_panic on_panic=report healthy_ms=0");
    cluster.find("cluster-ready ");
    cluster.find(" panicked worker 0 ");
    let cluster = stop(cluster);
    assert_eq!(cluster.count(" started worker 0 "), 1);
}

fn one_whose_replacements_panic_is_replaced_ever_more_slowly() {
    let mut cluster = Cluster::ready("workers=1 worker=task_panic backoff_ms=100");
    let begin = std::time::Instant::now();
    while cluster.count(" ready worker 0 ") < 5 {
        cluster.wait(" ready worker 0 ");
    }
    // Pauses of 100, 200, 400 and 800 ms lie between them.
    assert!(begin.elapsed() >= std::time::Duration::from_millis(1400), "{:?}", begin.elapsed());
    stop(cluster);
}

fn what_ends_the_process_or_is_caught_by_the_function_is_not_counted() {
    let mut cluster = Cluster::start("workers=1 agent=caught_panic worker=panic");
    let (status, stderr) = cluster.end();
    assert_eq!(status.code(), Some(1));
    assert!(stderr.contains("worker 0 panicked: the fixture panics"), "{stderr}");
    assert!(cluster.count("caught its panic") <= 1);
    assert_eq!(cluster.count(" panicked "), 0, "{:#?}", cluster.said);
}
