//! All processes anew, and what may come between.

use super::*;

/// Takes a reload up to where the new agent has the lead.
fn reload_with_new_agent(workers: u32) -> Story {
    let mut story = Story::running(workers);
    story.happens(Event::Reload);
    story.wants(&["reloading", "open 1"]);
    story.happens(Event::Opened(Ok(())));
    story.wants(&["spawn agent 1 of build 1 without the lead"]);
    story.says(Agent, Words::Standby);
    story.wants(&["retire old agent"]);
    assert_eq!(story.states(Agent), [ProcessState::Stopping, ProcessState::Standby]);
    story.old_exits(Agent);
    story.wants(&["lead to agent"]);
    story
}

/// Takes a reload up to where all new workers are started.
pub(super) fn reload_with_new_workers(workers: u32) -> Story {
    let mut story = reload_with_new_agent(workers);
    story.says(Agent, Words::Ready);
    let spawns = (0..workers).map(|index| format!("spawn worker {index} 1 of build 1"));
    let wanted: Vec<_> =
        [String::from("cluster-ready to agent")].into_iter().chain(spawns).collect();
    assert_eq!(std::mem::take(&mut story.wanted), wanted);
    story
}

#[test]
fn a_reload_replaces_the_agent_by_hand_over_then_all_workers_together() {
    let mut story = reload_with_new_workers(2);
    story.says(Worker(1), Words::Ready);
    story.wants(&["cluster-ready to worker 1"]);
    story.says(Worker(0), Words::Ready);
    story.wants(&[
        "cluster-ready to worker 0",
        "keep 1",
        "terminate old worker 0",
        "terminate old worker 1",
    ]);
    story.old_exits(Worker(0));
    story.wants(&[]);
    story.old_exits(Worker(1));
    story.wants(&["reloaded"]);
    assert_eq!(story.dispatcher.status(story.now, story.now).generation, 1);
    story.exits(Worker(0), Exit::Signal(9));
    story.waits(Duration::from_secs(1));
    story.wants(&["spawn worker 0 2 of build 1"]);
}

#[test]
fn reloads_that_are_asked_for_during_one_are_one_more() {
    let mut story = reload_with_new_workers(1);
    story.happens(Event::Reload);
    story.happens(Event::Reload);
    story.wants(&[]);
    story.says(Worker(0), Words::Ready);
    story.wanted.clear();
    story.old_exits(Worker(0));
    story.wants(&["reloaded", "reloading", "open 2"]);
    story.happens(Event::Opened(Err("no such file".into())));
    story.wants(&[
        "keep 1",
        "not reloaded: the reload failed: the program can't be had: no such file",
    ]);
}

#[test]
fn a_new_agent_that_fails_before_the_hand_over_leaves_the_old_one_untouched() {
    let mut story = Story::running(1);
    story.happens(Event::Reload);
    story.happens(Event::Opened(Ok(())));
    story.wanted.clear();
    story.says(Agent, Words::Failed("a typo".into()));
    story.exits(Agent, Exit::Failed);
    story.wants(&[
        "keep 0",
        "not reloaded: the reload failed: agent (pid 102) failed: a typo (exit code 1); its last \
         lines:\n    last line",
    ]);
    assert_eq!(story.states(Agent), [ProcessState::Ready]);
    let status = story.dispatcher.status(story.now, story.now);
    let failure = status.last_reload.unwrap().failure.unwrap();
    assert!(failure.contains("a typo") && failure.contains("last line"));
    assert_eq!(story.dispatcher.next_deadline(), None);
}

#[test]
fn a_new_worker_that_fails_ends_the_new_ones_and_brings_the_old_agent_back() {
    let mut story = reload_with_new_workers(2);
    story.says(Worker(0), Words::Ready);
    story.wanted.clear();
    story.exits(Worker(1), Exit::Failed);
    let wanted = std::mem::take(&mut story.wanted);
    assert_eq!(wanted[..2], ["terminate worker 0", "keep 0"]);
    assert!(wanted[2].starts_with("not reloaded: the reload failed: worker 1"), "{wanted:?}");
    assert_eq!(wanted[3..], ["spawn agent 2 without the lead"]);
    story.says(Agent, Words::Standby);
    story.old_exits(Agent);
    story.wants(&["retire old agent", "lead to agent"]);
    story.says(Agent, Words::Ready);
    story.exits(Worker(0), Exit::Clean);
    story.wants(&["cluster-ready to agent"]);
    assert_eq!(story.states(Worker(0)), [ProcessState::Ready], "the old one");
    assert_eq!(story.states(Worker(1)), [ProcessState::Ready], "the old one");
}

#[test]
fn a_new_agent_that_fails_after_the_hand_over_is_followed_by_one_of_the_old_build() {
    let mut story = reload_with_new_agent(1);
    story.exits(Agent, Exit::Failed);
    let wanted = std::mem::take(&mut story.wanted);
    assert!(wanted[1].starts_with("not reloaded: the reload failed: agent"), "{wanted:?}");
    story.waits(Duration::from_secs(1));
    story.wants(&["spawn agent 2"]);
}

#[test]
fn a_new_agent_that_dies_while_the_old_one_retires_is_followed_when_that_is_gone() {
    let mut story = Story::running(1);
    story.happens(Event::Reload);
    story.happens(Event::Opened(Ok(())));
    story.says(Agent, Words::Standby);
    story.wanted.clear();
    story.exits(Agent, Exit::Signal(9));
    let wanted = std::mem::take(&mut story.wanted);
    assert_eq!(wanted.len(), 2, "{wanted:?}");
    story.happens(Event::Tick);
    story.wants(&[]);
    story.old_exits(Agent);
    story.waits(Duration::ZERO);
    story.wants(&["spawn agent 2"]);
}

#[test]
fn an_old_agent_that_dies_early_gives_way_at_once() {
    let mut story = Story::running(1);
    story.happens(Event::Reload);
    story.happens(Event::Opened(Ok(())));
    story.wanted.clear();
    story.old_exits(Agent);
    story.wants(&["lead to agent"]);
    story.says(Agent, Words::Ready);
    story.wants(&["cluster-ready to agent", "spawn worker 0 1 of build 1"]);
}

#[test]
fn an_old_agent_that_does_not_retire_is_asked_and_then_killed() {
    let mut story = Story::running(0);
    story.happens(Event::Reload);
    story.happens(Event::Opened(Ok(())));
    story.says(Agent, Words::Standby);
    story.wanted.clear();
    story.waits(STOP);
    story.wants(&["terminate old agent"]);
    story.waits(STOP);
    story.wants(&["kill old agent"]);
    story.old_exits(Agent);
    story.wants(&["lead to agent"]);
}

#[test]
fn an_agent_that_knows_nothing_of_the_lead_is_handed_over_too() {
    let mut story = Story::running(0);
    story.happens(Event::Reload);
    story.happens(Event::Opened(Ok(())));
    story.wanted.clear();
    story.says(Agent, Words::Ready);
    story.wants(&["retire old agent"]);
    story.old_exits(Agent);
    story.wants(&["lead to agent", "cluster-ready to agent", "keep 1", "reloaded"]);
}

#[test]
fn a_new_worker_that_hangs_fails_the_reload_with_what_it_said_last() {
    let mut story = reload_with_new_workers(1);
    story.waits(READY);
    story.wants(&["terminate worker 0"]);
    story.exits(Worker(0), Exit::Signal(15));
    let wanted = std::mem::take(&mut story.wanted);
    assert!(wanted[1].contains("within 30s") && wanted[1].contains("last line"), "{wanted:?}");
}

#[test]
fn an_old_worker_that_dies_during_the_reload_is_not_missed_by_it() {
    let mut story = reload_with_new_workers(1);
    story.old_exits(Worker(0));
    story.wants(&[]);
    story.says(Worker(0), Words::Ready);
    story.wants(&["cluster-ready to worker 0", "keep 1", "reloaded"]);
    assert_eq!(story.dispatcher.next_deadline(), None);
}

#[test]
fn an_old_worker_that_died_is_started_again_when_the_reload_fails() {
    let mut story = reload_with_new_workers(1);
    story.old_exits(Worker(0));
    story.exits(Worker(0), Exit::Failed);
    story.wanted.clear();
    story.waits(Duration::from_secs(1));
    story.wants(&["spawn worker 0 2"]);
}

#[test]
fn a_reload_reaches_a_slot_that_has_failed() {
    let mut story = Story::running(1);
    story.exits(Worker(0), Exit::Signal(9));
    for pause in [1, 2, 4, 8, 16] {
        story.waits(Duration::from_secs(pause));
        story.exits(Worker(0), Exit::Failed);
    }
    assert_eq!(story.states(Worker(0)), [ProcessState::Failed]);
    story.happens(Event::Reload);
    story.happens(Event::Opened(Ok(())));
    story.says(Agent, Words::Standby);
    story.old_exits(Agent);
    story.says(Agent, Words::Ready);
    story.says(Worker(0), Words::Ready);
    assert_eq!(story.states(Worker(0)), [ProcessState::Ready]);
    assert_eq!(story.wanted.last().unwrap(), "reloaded");
}

#[test]
fn a_stop_during_the_hand_over_ends_everybody_in_order() {
    let mut story = Story::running(1);
    story.happens(Event::Reload);
    story.happens(Event::Opened(Ok(())));
    story.says(Agent, Words::Standby);
    story.happens(Event::Reload);
    story.wanted.clear();
    story.happens(Event::Stop(None));
    story.wants(&[
        "not reloaded: the cluster stops",
        "reloading",
        "not reloaded: the cluster stops",
        "terminate worker 0",
    ]);
    // The worker that stops has an agent to the end.
    story.old_exits(Agent);
    story.wants(&["lead to agent"]);
    story.exits(Worker(0), Exit::Clean);
    story.wants(&["terminate agent"]);
    story.exits(Agent, Exit::Clean);
    story.wants(&["finish"]);
    assert_eq!(story.finished, Some(Ok(())));
}

#[test]
fn a_second_stop_during_a_reload_kills_old_and_new_workers_then_both_agents() {
    let mut story = Story::running(1);
    story.happens(Event::Reload);
    story.happens(Event::Opened(Ok(())));
    story.says(Agent, Words::Standby);
    story.wanted.clear();
    story.happens(Event::Stop(None));
    story.happens(Event::Stop(None));
    story.wants(&["not reloaded: the cluster stops", "terminate worker 0", "kill worker 0"]);
    story.exits(Worker(0), Exit::Signal(9));
    story.wants(&["kill old agent", "kill agent"]);
}

#[test]
fn a_reload_during_the_start_follows_it() {
    let mut story = Story::new(0);
    story.happens(Event::Reload);
    story.wants(&["spawn agent 0"]);
    story.says(Agent, Words::Ready);
    story.wants(&["cluster-ready to agent", "reloading", "open 1"]);
}

#[test]
fn a_replacement_that_a_failed_reload_was_to_bring_is_still_wanted() {
    let mut story = Story::running(1);
    let pid = story.pid(Worker(0));
    // Who hangs is told of once, so that nobody would ask again.
    story.happens(Event::Hangs { pid, how: Unresponsive::Blocked });
    story.wants(&["spawn worker 0 1"]);
    story.happens(Event::Reload);
    story.wants(&["terminate worker 0", "reloading", "open 1"]);
    story.happens(Event::Opened(Err("no such file".into())));
    story.wanted.clear();
    story.exits(Worker(0), Exit::Clean);
    story.wants(&["spawn worker 0 2"]);
}

#[test]
fn an_agent_that_takes_over_already_outlives_a_reload_that_fails() {
    let mut story = Story::running(1);
    let pid = story.pid(Agent);
    story.happens(Event::Replace { pid, why: "a test".into() });
    story.says(Agent, Words::Standby);
    story.wants(&["spawn agent 1 without the lead", "retire old agent"]);
    story.happens(Event::Reload);
    story.wants(&["reloading", "open 1"]);
    story.happens(Event::Opened(Err("no such file".into())));
    let failed = "not reloaded: the reload failed: the program can't be had: no such file";
    story.wants(&["keep 0", failed]);
    story.old_exits(Agent);
    story.wants(&["lead to agent"]);
    story.says(Agent, Words::Ready);
    assert_eq!(story.states(Agent), [ProcessState::Ready]);
}

#[test]
fn a_new_worker_that_panics_while_it_waits_for_the_others_is_replaced_when_it_serves() {
    let mut story = reload_with_new_workers(2);
    story.says(Worker(0), Words::Ready);
    let pid = story.pid(Worker(0));
    story.happens(Event::Replace { pid, why: "something in it panicked".into() });
    story.wants(&["cluster-ready to worker 0"]);
    story.says(Worker(1), Words::Ready);
    story.old_exits(Worker(0));
    story.wanted.clear();
    story.old_exits(Worker(1));
    story.wants(&["reloaded", "spawn worker 0 2 of build 1"]);
}
