//! Each test tells the dispatcher what happens and looks at what it wants done.

use super::*;
use ProcessName::{Agent, Worker};

const READY: Duration = Duration::from_secs(30);
const STOP: Duration = Duration::from_secs(5);

/// A dispatcher under a clock that the test moves. Processes are started at once, with pids from
/// 100 up.
struct Story {
    dispatcher: Dispatcher,
    now: Instant,
    next_pid: u32,
    pids: Vec<(ProcessName, u32)>,
    /// What was wanted since it was last looked at, without what was only told.
    wanted: Vec<String>,
    finished: Option<Result<(), String>>,
}

impl Story {
    fn new(workers: u32) -> Self {
        let rules = Rules {
            workers,
            port: 4000,
            ready_timeout: READY,
            stop_timeout: STOP,
            restart: RestartPolicy::default(),
        };
        let mut story = Self {
            dispatcher: Dispatcher::new(rules),
            now: Instant::now(),
            next_pid: 100,
            pids: Vec::new(),
            wanted: Vec::new(),
            finished: None,
        };
        story.happens(Event::Begin);
        story
    }

    /// A cluster that runs, with nothing left to look at.
    fn running(workers: u32) -> Self {
        let mut story = Self::new(workers);
        story.says(Agent, Words::Ready);
        for index in 0..workers {
            story.says(Worker(index), Words::Ready);
        }
        story.wanted.clear();
        story
    }

    fn happens(&mut self, event: Event) {
        let mut spawns = Vec::new();
        for action in self.dispatcher.handle(self.now, event) {
            let want = match action {
                Action::Spawn { process, generation } => {
                    spawns.push(process);
                    format!("spawn {process} {generation}")
                }
                Action::SayClusterReady { pid } => format!("cluster-ready to {}", self.name(pid)),
                Action::Terminate { pid } => format!("terminate {}", self.name(pid)),
                Action::Kill { pid } => format!("kill {}", self.name(pid)),
                Action::Tell(_) => continue,
                Action::Finish(outcome) => {
                    assert!(self.finished.is_none(), "it finishes once");
                    self.finished = Some(outcome);
                    "finish".to_owned()
                }
            };
            self.wanted.push(want);
        }
        for process in spawns {
            let pid = self.next_pid;
            self.next_pid += 1;
            self.pids.retain(|(of, _)| *of != process);
            self.pids.push((process, pid));
            self.happens(Event::Spawned { process, pid });
        }
    }

    /// Whose pid it is. Only the current process of a name has one here.
    fn name(&self, pid: u32) -> ProcessName {
        self.pids.iter().find(|(_, of)| *of == pid).unwrap().0
    }

    fn pid(&self, process: ProcessName) -> u32 {
        self.pids.iter().find(|(of, _)| *of == process).unwrap().1
    }

    fn says(&mut self, process: ProcessName, words: Words) {
        let pid = self.pid(process);
        self.happens(Event::Said { process, pid, words });
    }

    fn exits(&mut self, process: ProcessName, exit: Exit) {
        let pid = self.pid(process);
        self.happens(Event::Exited { process, pid, exit, tail: vec!["last line".into()] });
    }

    /// Lets time pass up to the next deadline, which must be after `wait`.
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
    let mut dispatcher = Dispatcher::new(Story::new(1).dispatcher.rules);
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
    }
    story.says(Worker(1), Words::Ready);
    story.wants(&["cluster-ready to worker 1"]);
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
    story.happens(Event::Said { process: Worker(0), pid: old, words: Words::Ready });
    story.happens(Event::Exited {
        process: Worker(0),
        pid: old,
        exit: Exit::Clean,
        tail: Vec::new(),
    });
    story.wants(&[]);
    story.says(Worker(0), Words::Ready);
    story.wants(&["cluster-ready to worker 0"]);
}
