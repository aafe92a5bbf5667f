//! Panics that do not end their process.

use crate::support::{Cluster, Signal};

crate::tests![
    panics_of_tasks_and_threads_are_told_with_their_place,
    a_storm_of_panics_is_counted_and_told_now_and_then,
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

fn what_ends_the_process_or_is_caught_by_the_function_is_not_counted() {
    let mut cluster = Cluster::start("workers=1 agent=caught_panic worker=panic");
    let (status, stderr) = cluster.end();
    assert_eq!(status.code(), Some(1));
    assert!(stderr.contains("worker 0 panicked: the fixture panics"), "{stderr}");
    assert!(cluster.count("caught its panic") <= 1);
    assert_eq!(cluster.count(" panicked "), 0, "{:#?}", cluster.said);
}
