//! Each test tells the dispatcher what happens and looks at what it wants done.

use super::*;
use crate::process::master::status::ProcessState;
use ProcessName::{Agent, Worker};

const READY: Duration = Duration::from_secs(30);
const STOP: Duration = Duration::from_secs(5);

/// A dispatcher under a clock that the test moves. Processes are started at once, with pids from
/// 100 up. A name stands for the process that was started under it last; with `old` for the one
/// before it.
struct Story {
    dispatcher: Dispatcher,
    now: Instant,
    next_pid: u32,
    pids: Vec<(ProcessName, u32)>,
    /// What was wanted since it was last looked at, without what was only told.
    wanted: Vec<String>,
    told: Vec<MasterEvent>,
    finished: Option<Result<(), String>>,
}

impl Story {
    fn new(workers: u32) -> Self {
        Self::with(Recycle::default(), workers)
    }

    fn with(recycle: Recycle, workers: u32) -> Self {
        let rules = Rules {
            workers,
            port: 4000,
            ready_timeout: READY,
            stop_timeout: STOP,
            restart: RestartPolicy::default(),
            recycle,
        };
        let mut story = Self {
            dispatcher: Dispatcher::new(rules, 7),
            now: Instant::now(),
            next_pid: 100,
            pids: Vec::new(),
            wanted: Vec::new(),
            told: Vec::new(),
            finished: None,
        };
        story.happens(Event::Begin);
        story
    }

    /// A cluster that runs, with nothing left to look at.
    fn running(workers: u32) -> Self {
        Self::new(workers).run(workers)
    }

    fn run(mut self, workers: u32) -> Self {
        self.says(Agent, Words::Ready);
        for index in 0..workers {
            self.says(Worker(index), Words::Ready);
        }
        self.wanted.clear();
        self
    }

    fn happens(&mut self, event: Event) {
        let mut answers = Vec::new();
        for action in self.dispatcher.handle(self.now, event) {
            let want = match action {
                Action::Spawn { process, generation, build, lead, .. } => {
                    let pid = self.next_pid;
                    self.next_pid += 1;
                    self.pids.push((process, pid));
                    answers.push(Event::Spawned { process, pid });
                    let build =
                        if build == 0 { String::new() } else { format!(" of build {build}") };
                    let standby = if process == Agent && !lead { " without the lead" } else { "" };
                    format!("spawn {process} {generation}{build}{standby}")
                }
                Action::SayClusterReady { pid } => format!("cluster-ready to {}", self.name(pid)),
                Action::GiveLead { pid } => format!("lead to {}", self.name(pid)),
                Action::Retire { pid, .. } => format!("retire {}", self.name(pid)),
                Action::Terminate { pid } => format!("terminate {}", self.name(pid)),
                Action::Kill { pid } => format!("kill {}", self.name(pid)),
                Action::OpenBuild { build } => format!("open {build}"),
                Action::KeepBuild { build } => format!("keep {build}"),
                Action::Reloading => "reloading".to_owned(),
                Action::Reloaded(Ok(())) => "reloaded".to_owned(),
                Action::Reloaded(Err(why)) => format!("not reloaded: {why}"),
                Action::Scaled { workers, outcome: Ok(()) } => format!("scaled to {workers}"),
                Action::Scaled { outcome: Err(why), .. } => format!("not scaled: {why}"),
                Action::Tell(event) => {
                    self.told.push(event);
                    continue;
                }
                Action::Finish(outcome) => {
                    assert!(self.finished.is_none(), "it finishes once");
                    self.finished = Some(outcome);
                    "finish".to_owned()
                }
            };
            self.wanted.push(want);
        }
        for answer in answers {
            self.happens(answer);
        }
    }

    /// Whose pid it is.
    fn name(&self, pid: u32) -> String {
        let process = self.pids.iter().find(|(_, of)| *of == pid).unwrap().0;
        let is_newest = self.pid(process) == pid;
        if is_newest { process.to_string() } else { format!("old {process}") }
    }

    fn pid(&self, process: ProcessName) -> u32 {
        self.pids.iter().rfind(|(of, _)| *of == process).unwrap().1
    }

    /// The process that was started before the last one under this name.
    fn old(&self, process: ProcessName) -> u32 {
        self.pids.iter().rev().filter(|(of, _)| *of == process).nth(1).unwrap().1
    }

    fn says(&mut self, process: ProcessName, words: Words) {
        let pid = self.pid(process);
        self.happens(Event::Said { pid, words });
    }

    fn exits(&mut self, process: ProcessName, exit: Exit) {
        self.is_gone(self.pid(process), exit);
    }

    fn old_exits(&mut self, process: ProcessName) {
        self.is_gone(self.old(process), Exit::Clean);
    }

    fn is_gone(&mut self, pid: u32, exit: Exit) {
        self.happens(Event::Exited { pid, exit, tail: vec!["last line".into()] });
    }

    /// Lets time pass up to the next deadline, which must be after `wait`.
    #[track_caller]
    fn waits(&mut self, wait: Duration) {
        let deadline = self.dispatcher.next_deadline().expect("there is a deadline");
        assert_eq!(deadline - self.now, wait);
        self.now = deadline;
        self.happens(Event::Tick);
    }

    #[track_caller]
    fn wants(&mut self, wanted: &[&str]) {
        assert_eq!(std::mem::take(&mut self.wanted), wanted);
    }

    fn failure(&self) -> &str {
        self.finished.as_ref().unwrap().as_ref().unwrap_err()
    }

    /// The states of all that have this name.
    fn states(&self, process: ProcessName) -> Vec<ProcessState> {
        let status = self.dispatcher.status(self.now, self.now);
        let of = status.processes.iter().filter(|of| of.process == process);
        of.map(|of| of.state).collect()
    }
}

#[test]
fn starts_the_agent_then_the_workers_then_all_is_ready() {
    let mut story = Story::new(2);
    story.wants(&["spawn agent 0"]);
    story.says(Agent, Words::Taken { answers_pings: true });
    story.wants(&[]);
    story.says(Agent, Words::Ready);
    story.wants(&["spawn worker 0 0", "spawn worker 1 0"]);
    story.says(Worker(1), Words::Ready);
    story.wants(&[]);
    story.says(Worker(0), Words::Ready);
    story.wants(&[
        "cluster-ready to agent",
        "cluster-ready to worker 0",
        "cluster-ready to worker 1",
    ]);
    story.says(Worker(0), Words::Ready);
    story.wants(&[]);
    assert_eq!(story.dispatcher.next_deadline(), None);
}

#[test]
fn an_agent_that_fails_at_the_start_leaves_no_worker_to_start() {
    let mut story = Story::new(2);
    story.says(Agent, Words::Failed("no route".into()));
    story.exits(Agent, Exit::Failed);
    story.wants(&["spawn agent 0", "finish"]);
    assert_eq!(
        story.failure(),
        "the cluster did not start: agent (pid 100) failed: no route (exit code 1); its last \
         lines:\n    last line"
    );
}

#[test]
fn a_worker_that_fails_at_the_start_stops_the_others_then_the_agent() {
    let mut story = Story::new(3);
    story.says(Agent, Words::Ready);
    story.says(Worker(0), Words::Ready);
    story.wanted.clear();
    story.exits(Worker(1), Exit::Signal(6));
    story.wants(&["terminate worker 0", "terminate worker 2"]);
    story.exits(Worker(2), Exit::Signal(15));
    story.wants(&[]);
    story.exits(Worker(0), Exit::Clean);
    story.wants(&["terminate agent"]);
    story.exits(Agent, Exit::Clean);
    story.wants(&["finish"]);
    assert!(story.failure().contains("worker 1 (pid 102) died of signal 6"));
}

#[test]
fn one_that_is_not_ready_in_time_is_blamed_with_what_it_said_last() {
    let mut story = Story::new(1);
    story.says(Agent, Words::Ready);
    story.says(Worker(0), Words::Taken { answers_pings: true });
    story.wanted.clear();
    story.waits(READY);
    story.wants(&["terminate worker 0"]);
    story.waits(STOP);
    story.wants(&["kill worker 0"]);
    assert_eq!(story.dispatcher.next_deadline(), None, "it is killed once");
    story.exits(Worker(0), Exit::Signal(9));
    story.exits(Agent, Exit::Clean);
    story.wants(&["terminate agent", "finish"]);
    let failure = story.failure();
    assert!(failure.contains("worker 0 (pid 101) was not ready within 30s"), "{failure}");
    assert!(failure.contains("`worker.ready().await`") && failure.contains("last line"));
}

#[test]
fn a_program_that_never_takes_its_place_gets_another_hint() {
    let mut story = Story::new(1);
    story.waits(READY);
    story.exits(Agent, Exit::Signal(15));
    assert!(story.failure().contains("`Master::builder()` first of all"), "{}", story.failure());
}

#[test]
fn one_that_can_not_be_started_ends_the_start() {
    let mut dispatcher = Dispatcher::new(Story::new(1).dispatcher.rules, 7);
    let now = Instant::now();
    dispatcher.handle(now, Event::Begin);
    let error = "no such file".to_owned();
    let actions = dispatcher.handle(now, Event::SpawnFailed { process: Agent, error });
    let Some(Action::Finish(Err(text))) = actions.last() else { panic!("{actions:?}") };
    assert!(text.contains("agent could not be started: no such file"), "{text}");
}

#[test]
fn after_the_start_a_death_is_a_restart_with_backoff() {
    let mut story = Story::running(2);
    for (generation, pause) in [1, 2, 4, 8, 16, 30, 30].into_iter().enumerate() {
        story.exits(Worker(1), Exit::Signal(9));
        story.wants(&[]);
        story.waits(Duration::from_secs(pause));
        story.wants(&[&format!("spawn worker 1 {}", generation + 1)]);
        story.says(Worker(1), Words::Ready);
        story.wants(&["cluster-ready to worker 1"]);
    }
    story.now += Duration::from_secs(10);
    story.exits(Worker(1), Exit::Signal(9));
    story.wants(&["spawn worker 1 8"]);
}

#[test]
fn the_agent_is_replaced_while_the_workers_stay() {
    let mut story = Story::running(2);
    story.now += Duration::from_secs(60);
    story.exits(Agent, Exit::Panicked);
    story.wants(&["spawn agent 1"]);
    story.says(Agent, Words::Ready);
    story.wants(&["cluster-ready to agent"]);
}

#[test]
fn a_replacement_that_hangs_is_stopped_and_replaced() {
    let mut story = Story::running(1);
    story.exits(Worker(0), Exit::Signal(9));
    story.waits(Duration::from_secs(1));
    story.waits(READY);
    story.waits(STOP);
    story.wants(&["spawn worker 0 1", "terminate worker 0", "kill worker 0"]);
    story.exits(Worker(0), Exit::Signal(9));
    story.waits(Duration::from_secs(2));
    story.wants(&["spawn worker 0 2"]);
}

#[test]
fn a_late_ready_does_not_save_one_that_is_being_stopped() {
    let mut story = Story::running(1);
    story.exits(Worker(0), Exit::Signal(9));
    story.waits(Duration::from_secs(1));
    story.waits(READY);
    story.wanted.clear();
    story.says(Worker(0), Words::Ready);
    story.wants(&[]);
    story.exits(Worker(0), Exit::Clean);
    story.waits(Duration::from_secs(2));
    story.wants(&["spawn worker 0 2"]);
}

#[test]
fn stops_the_workers_then_the_agent() {
    let mut story = Story::running(2);
    story.happens(Event::Stop(None));
    story.wants(&["terminate worker 0", "terminate worker 1"]);
    story.exits(Worker(0), Exit::Clean);
    story.wants(&[]);
    story.exits(Worker(1), Exit::Failed);
    story.wants(&["terminate agent"]);
    story.exits(Agent, Exit::Clean);
    story.wants(&["finish"]);
    assert_eq!(story.finished, Some(Ok(())));
}

#[test]
fn each_stage_of_the_stop_has_its_own_limit() {
    let mut story = Story::running(2);
    story.happens(Event::Stop(None));
    story.exits(Worker(0), Exit::Clean);
    story.wanted.clear();
    story.waits(STOP);
    story.wants(&["kill worker 1"]);
    story.exits(Worker(1), Exit::Signal(9));
    story.wants(&["terminate agent"]);
    story.waits(STOP);
    story.wants(&["kill agent"]);
    story.exits(Agent, Exit::Signal(9));
    story.wants(&["finish"]);
    assert_eq!(story.finished, Some(Ok(())));
}

#[test]
fn a_second_stop_kills_at_once_and_in_order() {
    let mut story = Story::running(2);
    story.happens(Event::Stop(None));
    story.exits(Worker(0), Exit::Clean);
    story.wanted.clear();
    story.happens(Event::Stop(None));
    story.wants(&["kill worker 1"]);
    story.happens(Event::Stop(None));
    story.wants(&[]);
    story.exits(Worker(1), Exit::Signal(9));
    story.wants(&["kill agent"]);
}

#[test]
fn nothing_is_started_once_the_stop_has_begun() {
    let mut story = Story::running(2);
    story.exits(Worker(0), Exit::Signal(9));
    story.happens(Event::Stop(None));
    story.exits(Agent, Exit::Signal(9));
    story.wants(&["terminate worker 1"]);
    story.now += Duration::from_secs(3);
    story.happens(Event::Tick);
    story.wants(&[]);
    story.exits(Worker(1), Exit::Clean);
    story.wants(&["finish"]);
    assert_eq!(story.finished, Some(Ok(())));
}

#[test]
fn a_stop_during_the_start_is_no_failure() {
    let mut story = Story::new(2);
    story.happens(Event::Stop(None));
    story.wants(&["spawn agent 0", "terminate agent"]);
    story.exits(Agent, Exit::Signal(15));
    story.wants(&["finish"]);
    assert_eq!(story.finished, Some(Ok(())));
}

#[test]
fn a_stop_with_an_error_ends_with_it() {
    let mut story = Story::running(0);
    story.happens(Event::Stop(Some("enough".into())));
    story.exits(Agent, Exit::Clean);
    assert_eq!(story.failure(), "enough");
}

#[test]
fn what_an_earlier_process_of_a_place_says_is_not_heard() {
    let mut story = Story::running(1);
    let old = story.pid(Worker(0));
    story.exits(Worker(0), Exit::Signal(9));
    story.waits(Duration::from_secs(1));
    story.wanted.clear();
    story.happens(Event::Said { pid: old, words: Words::Ready });
    story.is_gone(old, Exit::Clean);
    story.wants(&[]);
    story.says(Worker(0), Words::Ready);
    story.wants(&["cluster-ready to worker 0"]);
}

#[test]
fn processes_that_can_not_be_had_together_end_the_start_and_leave_nobody() {
    let mut dispatcher = Story::new(2).dispatcher;
    let now = Instant::now();
    let begin = dispatcher.handle(now, Event::Said { pid: 100, words: Words::Ready });
    let spawns = |action: &&Action| matches!(action, Action::Spawn { .. });
    assert_eq!(begin.iter().filter(spawns).count(), 2);
    let error = "no memory".to_owned();
    dispatcher.handle(now, Event::SpawnFailed { process: Worker(0), error });
    let actions = dispatcher.handle(now, Event::Spawned { process: Worker(1), pid: 101 });
    assert!(matches!(actions.last(), Some(Action::Terminate { pid: 101 })), "{actions:?}");
    dispatcher.handle(now, Event::Exited { pid: 101, exit: Exit::Signal(15), tail: Vec::new() });
    let end = Event::Exited { pid: 100, exit: Exit::Clean, tail: Vec::new() };
    let actions = dispatcher.handle(now, end);
    assert!(matches!(actions.last(), Some(Action::Finish(Err(_)))), "{actions:?}");
}

#[test]
fn a_slot_that_never_gets_ready_fails_is_seen_and_comes_back_by_itself() {
    let mut story = Story::running(1);
    story.exits(Worker(0), Exit::Signal(9));
    for pause in [1, 2, 4, 8, 16] {
        assert_eq!(story.states(Worker(0)), [ProcessState::Waiting]);
        story.waits(Duration::from_secs(pause));
        story.exits(Worker(0), Exit::Failed);
    }
    let failed = |event: &&MasterEvent| matches!(event, MasterEvent::SlotFailed { deaths: 5, lines, .. } if lines == &["last line"]);
    assert_eq!(story.told.iter().filter(failed).count(), 1);
    assert_eq!(story.states(Worker(0)), [ProcessState::Failed]);
    let status = story.dispatcher.status(story.now, story.now);
    let death = status.processes[1].last_death.as_ref().unwrap();
    assert_eq!(death.lines, ["last line"]);
    for pause in [32, 64, 128, 256, 300, 300] {
        story.waits(Duration::from_secs(pause));
        story.exits(Worker(0), Exit::Failed);
    }
    story.waits(Duration::from_secs(300));
    assert_eq!(story.states(Worker(0)), [ProcessState::Failed]);
    story.says(Worker(0), Words::Ready);
    assert_eq!(story.states(Worker(0)), [ProcessState::Ready]);
    assert_eq!(story.told.iter().filter(failed).count(), 1, "it is told once");
}

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
fn reload_with_new_workers(workers: u32) -> Story {
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
