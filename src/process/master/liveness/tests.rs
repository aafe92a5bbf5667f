use super::*;

const PID: u32 = 7;

/// A judge with one process that is ready, and the time in milliseconds.
struct Court {
    judge: Judge,
    begin: Instant,
    debugged: bool,
}

impl Court {
    fn new(liveness: Liveness) -> Self {
        let begin = Instant::now();
        let mut judge = Judge::new(liveness);
        judge.take(PID);
        judge.watch(begin, PID);
        Self { judge, begin, debugged: false }
    }

    fn at(&self, millis: u64) -> Instant {
        self.begin + Duration::from_millis(millis)
    }

    fn tick(&mut self, millis: u64) -> Vec<Verdict> {
        let (now, debugged) = (self.at(millis), self.debugged);
        self.judge.handle_tick(now, |pid| pid == PID && debugged)
    }

    fn pong(&mut self, millis: u64, seq: u64, runtime: bool) -> Option<Verdict> {
        self.judge.handle_pong(self.at(millis), PID, Pong { seq, runtime })
    }

    /// Ticks whenever it is due, up to this time, and gives all verdicts with their times.
    fn run(&mut self, until: u64) -> Vec<(u64, Verdict)> {
        let mut verdicts = Vec::new();
        while let Some(due) = self.judge.next_deadline().filter(|due| *due <= self.at(until)) {
            let millis = (due - self.begin).as_millis() as u64;
            let given = self.tick(millis);
            verdicts.extend(given.into_iter().map(|verdict| (millis, verdict)));
        }
        verdicts
    }
}

/// Limits of 3 s and so a ping a second.
fn both(remedy: Remedy) -> Liveness {
    let limit = Duration::from_secs(3);
    Liveness::default().frozen(limit, remedy).blocked(limit, remedy)
}

fn ask(seq: u64) -> Verdict {
    Verdict::Ask(PID, Ping { seq })
}

fn hangs(how: Unresponsive, remedy: Remedy) -> Verdict {
    Verdict::Hangs(PID, how, remedy)
}

#[test]
fn one_that_answers_is_asked_once_a_period_and_never_judged() {
    let mut court = Court::new(both(Remedy::Replace));
    for seq in 1..100 {
        let asked = seq * 1000;
        assert_eq!(court.run(asked), [(asked, ask(seq))]);
        assert_eq!(court.pong(asked + 1, seq, false), None);
        assert_eq!(court.pong(asked + 400, seq, true), None);
    }
}

#[test]
fn one_that_freezes_right_after_its_answer_is_noticed_within_the_limit() {
    let mut court = Court::new(both(Remedy::Replace));
    court.run(1000);
    court.pong(1000, 1, true);
    let verdicts = court.run(60_000);
    assert_eq!(
        verdicts,
        [(2000, ask(2)), (4000, hangs(Unresponsive::Frozen, Remedy::Replace))],
        "once, and it is not asked any more"
    );
}

#[test]
fn one_whose_process_answers_alone_is_blocked_within_the_limit() {
    let mut court = Court::new(both(Remedy::Replace));
    court.run(1000);
    court.pong(1000, 1, true);
    for (at, seq) in [(2000, 2), (3000, 3)] {
        assert_eq!(court.run(at), [(at, ask(seq))]);
        court.pong(at, seq, false);
    }
    assert_eq!(court.run(4000)[0], (4000, hangs(Unresponsive::Blocked, Remedy::Replace)));
    assert_eq!(court.run(60_000), []);
}

#[test]
fn a_slow_answer_counts_for_as_long_as_it_is_in_time() {
    let mut court = Court::new(both(Remedy::Replace));
    let mut now = 1000;
    for seq in 1..50 {
        assert_eq!(court.tick(now), [ask(seq)]);
        // More than a period, and less than the two that it has.
        now += 1900;
        assert_eq!(court.run(now), []);
        court.pong(now, seq, false);
        assert_eq!(court.judge.next_deadline(), Some(court.at(now)), "asked anew at once");
    }
}

#[test]
fn what_is_reported_is_said_once_and_so_is_its_end() {
    let mut court = Court::new(both(Remedy::Report));
    let report = hangs(Unresponsive::Frozen, Remedy::Report);
    assert_eq!(court.run(600_000), [(1000, ask(1)), (3000, report)]);
    assert_eq!(court.judge.found(PID), Some(Unresponsive::Frozen));
    // It goes on: the control thread is the first to answer.
    assert_eq!(court.pong(600_000, 1, false), Some(Verdict::Answers(PID)));
    assert_eq!(court.pong(600_001, 1, true), None);
    assert_eq!(court.judge.found(PID), None);
    assert_eq!(court.judge.next_deadline(), Some(court.at(600_000)));
    assert_eq!(court.tick(600_001), [ask(2)]);
}

#[test]
fn a_blocked_one_that_then_freezes_is_said_to_do_both() {
    let mut court = Court::new(both(Remedy::Report));
    for at in [1000, 2000] {
        court.run(at);
        court.pong(at, at / 1000, false);
    }
    let verdicts: Vec<_> = court.run(60_000).into_iter().map(|(_, verdict)| verdict).collect();
    assert_eq!(
        verdicts,
        [
            hangs(Unresponsive::Blocked, Remedy::Report),
            ask(3),
            hangs(Unresponsive::Frozen, Remedy::Report)
        ]
    );
}

#[test]
fn a_master_that_is_late_judges_nobody_and_waits_again() {
    let mut court = Court::new(both(Remedy::Replace));
    court.run(1000);
    // Due at 3000. It was stopped for an hour meanwhile.
    assert_eq!(court.tick(3_600_000), []);
    assert_eq!(court.run(3_601_999), []);
    assert_eq!(court.run(3_602_000)[0].1, hangs(Unresponsive::Frozen, Remedy::Replace));
}

#[test]
fn one_under_a_debugger_is_spared_for_as_long_as_it_is_there() {
    let mut court = Court::new(both(Remedy::Replace).spare_debugged(true));
    court.debugged = true;
    let reports = court.run(100_000);
    let report = hangs(Unresponsive::Frozen, Remedy::Report);
    assert_eq!(reports, [(1000, ask(1)), (3000, report)]);
}

#[test]
fn a_debugger_that_leaves_a_frozen_process_behind_is_noticed() {
    let mut court = Court::new(both(Remedy::Replace).spare_debugged(true));
    court.debugged = true;
    court.run(10_000);
    court.debugged = false;
    let verdicts = court.run(20_000);
    // It is seen at 11 s that nobody debugs it any more, and then it has its time once more.
    assert_eq!(verdicts, [(13_000, hangs(Unresponsive::Frozen, Remedy::Replace))]);
    // Without the option nobody looks.
    let mut court = Court::new(both(Remedy::Replace));
    court.debugged = true;
    assert_eq!(court.run(3000)[1].1, hangs(Unresponsive::Frozen, Remedy::Replace));
}

#[test]
fn who_does_not_answer_pings_or_is_not_ready_or_is_to_stop_is_not_asked() {
    let mut court = Court::new(both(Remedy::Replace));
    court.judge.forget(PID);
    court.judge.take(8);
    court.judge.watch(court.at(0), 9);
    assert_eq!(court.run(60_000), []);
    let mut court = Court::new(Liveness::off());
    assert_eq!(court.run(60_000), []);
}

#[test]
fn an_answer_to_no_question_does_not_count() {
    let mut court = Court::new(both(Remedy::Report));
    court.run(1000);
    for seq in [0, 2, u64::MAX] {
        assert_eq!(court.pong(1500, seq, true), None);
    }
    assert_eq!(court.run(3000), [(3000, hangs(Unresponsive::Frozen, Remedy::Report))]);
}

#[test]
fn limits_that_nothing_can_keep_are_refused() {
    let short = Duration::from_millis(99);
    for (name, liveness) in [
        ("frozen", Liveness::default().frozen(short, Remedy::Report)),
        ("blocked", Liveness::default().blocked(short, Remedy::Report)),
    ] {
        let error = liveness.check().unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("100ms"), "{error}");
    }
    Liveness::default().check().unwrap();
}
