//! Other numbers of workers, and single processes by others.

use super::{reload::reload_with_new_workers, *};

#[test]
fn scaling_adds_the_next_indexes_and_drains_the_highest() {
    let mut story = Story::running(1);
    story.happens(Event::Scale(3));
    story.wants(&["spawn worker 1 0", "spawn worker 2 0"]);
    story.says(Worker(2), Words::Ready);
    story.says(Worker(1), Words::Ready);
    story.wants(&["cluster-ready to worker 2", "cluster-ready to worker 1", "scaled to 3"]);
    story.happens(Event::Scale(1));
    story.wants(&["terminate worker 2", "terminate worker 1"]);
    story.exits(Worker(1), Exit::Clean);
    story.wants(&[]);
    story.exits(Worker(2), Exit::Clean);
    story.wants(&["scaled to 1"]);
    assert_eq!(story.states(Worker(2)), []);
    story.happens(Event::Scale(0));
    story.exits(Worker(0), Exit::Clean);
    story.wants(&["terminate worker 0", "scaled to 0"]);
}

#[test]
fn scaling_up_again_does_not_wait_for_those_that_drain() {
    let mut story = Story::running(2);
    story.happens(Event::Scale(1));
    story.happens(Event::Scale(2));
    story.wants(&["terminate worker 1", "spawn worker 1 1"]);
    story.says(Worker(1), Words::Ready);
    story.wants(&["cluster-ready to worker 1", "scaled to 2"]);
    story.old_exits(Worker(1));
    story.wants(&[]);
    assert_eq!(story.states(Worker(1)), [ProcessState::Ready]);
}

#[test]
fn a_new_worker_that_fails_is_the_answer_and_is_started_again() {
    let mut story = Story::running(1);
    story.happens(Event::Scale(2));
    story.exits(Worker(1), Exit::Failed);
    let wanted = std::mem::take(&mut story.wanted);
    assert!(wanted[1].contains("worker 1 (pid 102) died of exit code 1"), "{wanted:?}");
    story.waits(Duration::from_secs(1));
    story.wants(&["spawn worker 1 1"]);
}

#[test]
fn scaling_waits_for_a_reload_and_a_restart_keeps_the_number() {
    let mut story = reload_with_new_workers(1);
    story.happens(Event::Scale(2));
    story.wants(&[]);
    story.says(Worker(0), Words::Ready);
    story.old_exits(Worker(0));
    assert_eq!(story.wanted.last().unwrap(), "spawn worker 1 0 of build 1");
    story.says(Worker(1), Words::Ready);
    story.wanted.clear();
    story.exits(Worker(1), Exit::Signal(9));
    story.waits(Duration::from_secs(1));
    story.wants(&["spawn worker 1 1 of build 1"]);
}

#[test]
fn a_worker_is_replaced_when_its_replacement_is_ready() {
    let mut story = Story::running(2);
    let pid = story.pid(Worker(0));
    story.happens(Event::Replace { pid, why: "panicked".into() });
    story.wants(&["spawn worker 0 1"]);
    story.says(Worker(0), Words::Ready);
    story.wants(&["cluster-ready to worker 0", "terminate old worker 0"]);
    story.old_exits(Worker(0));
    assert_eq!(story.states(Worker(0)), [ProcessState::Ready]);
    // Of one that is gone nothing is wanted any more.
    story.happens(Event::Replace { pid, why: "panicked".into() });
    story.wants(&[]);
}

#[test]
fn a_replacement_that_fails_leaves_the_old_one_and_is_tried_again() {
    let mut story = Story::running(1);
    let pid = story.pid(Worker(0));
    story.happens(Event::Replace { pid, why: "panicked".into() });
    for pause in [1, 2] {
        story.wanted.clear();
        story.exits(Worker(0), Exit::Failed);
        story.wants(&[]);
        assert_eq!(story.states(Worker(0)), [ProcessState::Ready]);
        story.waits(Duration::from_secs(pause));
        assert_eq!(story.wanted.len(), 1, "{:?}", story.wanted);
    }
    // The old one dies: what comes is its successor.
    story.happens(Event::Exited { pid, exit: Exit::Signal(9), tail: Vec::new() });
    story.says(Worker(0), Words::Ready);
    assert_eq!(story.states(Worker(0)), [ProcessState::Ready]);
    assert_eq!(story.dispatcher.next_deadline(), None);
}

#[test]
fn the_old_recycle_in_turn_and_not_all_at_the_same_age() {
    let hour = Duration::from_secs(3600);
    let mut story = Story::with(Recycle::default().age(hour), 3).run(3);
    let mut ages = Vec::new();
    for _ in 0..3 {
        let deadline = story.dispatcher.next_deadline().unwrap();
        story.now = deadline;
        story.happens(Event::Tick);
        let wanted = std::mem::take(&mut story.wanted);
        let [spawn] = &wanted[..] else { panic!("one at a time: {wanted:?}") };
        let index: u32 = spawn.split(' ').nth(2).unwrap().parse().unwrap();
        ages.push(deadline);
        story.says(Worker(index), Words::Ready);
        story.old_exits(Worker(index));
        story.wanted.clear();
    }
    assert!(ages[0] < ages[1] && ages[1] < ages[2]);
    assert!(ages[2] - ages[0] < hour.mul_f64(0.2));
}

#[test]
fn no_more_than_wanted_recycle_at_once() {
    let mut story = Story::with(Recycle::default().rss(1000).at_once(2), 4).run(4);
    story.now += Duration::from_secs(10);
    for index in [0, 1, 2] {
        let pid = story.pid(Worker(index));
        story.happens(Event::Measured { pid, rss: 1001 });
    }
    let pid = story.pid(Worker(3));
    story.happens(Event::Measured { pid, rss: 1000 });
    let pid = story.pid(Agent);
    story.happens(Event::Measured { pid, rss: 5000 });
    story.wants(&["spawn worker 0 1", "spawn worker 1 1"]);
    story.says(Worker(1), Words::Ready);
    story.wants(&["cluster-ready to worker 1", "terminate old worker 1"]);
    story.old_exits(Worker(1));
    story.wants(&["spawn worker 2 1"]);
    // One that has as much from the start on is not replaced again and again.
    let pid = story.pid(Worker(1));
    story.happens(Event::Measured { pid, rss: 2000 });
    story.wants(&[]);
}

#[test]
fn the_frozen_are_killed_and_the_blocked_replaced_in_turn() {
    let mut story = Story::running(2);
    let pid = story.pid(Worker(0));
    story.happens(Event::Hangs { pid, how: Unresponsive::Frozen });
    story.wants(&["kill worker 0"]);
    let pid = story.pid(Worker(1));
    story.happens(Event::Hangs { pid, how: Unresponsive::Blocked });
    story.wants(&["spawn worker 1 1"]);
    let pid = story.pid(Agent);
    story.happens(Event::Hangs { pid, how: Unresponsive::Blocked });
    story.wants(&["terminate agent"]);
    story.exits(Agent, Exit::Signal(15));
    story.waits(Duration::from_secs(1));
    story.wants(&["spawn agent 1"]);
}
