//! Each test tells the dispatcher what happens and looks at what it wants done.

mod change;
mod reload;

use super::{stop::GIVE_UP, *};
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
                Action::Abandon { pid, .. } => format!("abandon {}", self.name(pid)),
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
    assert_eq!(story.dispatcher.next_deadline(), Some(story.now + GIVE_UP), "it is killed once");
    story.exits(Worker(0), Exit::Signal(9));
    story.exits(Agent, Exit::Clean);
    story.wants(&["terminate agent", "finish"]);
    let failure = story.failure();
    assert!(failure.contains("worker 0 (pid 101) was not ready within 30s"), "{failure}");
    assert!(failure.contains("`worker.ready().await`") && failure.contains("last line"));
}

#[test]
fn a_master_that_was_stopped_itself_does_not_blame_those_who_start() {
    let mut story = Story::new(1);
    story.says(Agent, Words::Ready);
    story.wanted.clear();
    story.now += READY + Duration::from_secs(60);
    story.happens(Event::Tick);
    story.wants(&[]);
    // What it said meanwhile is heard after the tick.
    story.says(Worker(0), Words::Ready);
    story.wants(&["cluster-ready to agent", "cluster-ready to worker 0"]);
    // One that is not ready has its whole time once more, and not for ever.
    let mut story = Story::new(0);
    story.now += READY + Duration::from_secs(60);
    story.happens(Event::Tick);
    story.wanted.clear();
    story.waits(READY);
    story.wants(&["terminate agent"]);
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
fn the_stop_does_not_wait_without_end_for_those_who_can_not_be_killed() {
    let mut story = Story::running(2);
    story.happens(Event::Stop(None));
    story.wants(&["terminate worker 0", "terminate worker 1"]);
    story.exits(Worker(0), Exit::Clean);
    story.waits(STOP);
    story.wants(&["kill worker 1"]);
    story.waits(GIVE_UP);
    story.wants(&["abandon worker 1", "terminate agent"]);
    story.waits(STOP);
    story.waits(GIVE_UP);
    story.wants(&["kill agent", "abandon agent", "finish"]);
    let (worker, agent) = (story.pid(Worker(1)), story.pid(Agent));
    let says = |process, pid| {
        format!(
            "{process} (pid {pid}) is not gone 10s after its SIGKILL, and is left behind: the kernel \
             or a debugger holds it"
        )
    };
    let expected = format!("{}\n{}", says("agent", agent), says("worker 1", worker));
    assert_eq!(story.failure(), expected);
}

#[test]
fn one_that_can_not_be_killed_is_replaced_and_no_failure_once_it_is_gone() {
    let mut story = Story::running(1);
    let pid = story.pid(Worker(0));
    story.happens(Event::Hangs { pid, how: Unresponsive::Frozen });
    story.wants(&["kill worker 0"]);
    // A master that was stopped itself has its death still to hear.
    story.now += GIVE_UP + 2 * OVERSLEPT;
    story.happens(Event::Tick);
    story.wants(&[]);
    story.waits(GIVE_UP);
    story.wants(&["abandon worker 0", "spawn worker 0 1"]);
    story.says(Worker(0), Words::Ready);
    story.wants(&["cluster-ready to worker 0"]);
    story.is_gone(pid, Exit::Signal(9));
    story.wants(&[]);
    story.happens(Event::Stop(None));
    story.exits(Worker(0), Exit::Clean);
    story.exits(Agent, Exit::Clean);
    assert_eq!(story.finished, Some(Ok(())));
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
