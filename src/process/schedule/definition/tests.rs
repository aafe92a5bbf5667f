use super::*;

fn refused(schedule: Result<Schedule>) -> String {
    let checked = schedule.and_then(|schedule| schedule.check());
    checked.expect_err("it is refused").to_string()
}

#[test]
fn what_is_said_arrives() {
    let end = SystemTime::UNIX_EPOCH + Duration::from_millis(4_102_444_800_123);
    let schedules = [
        Schedule::once("warm up"),
        Schedule::every("sweep", Duration::from_millis(1_500)).on_all().immediate(),
        Schedule::cron("report", "0 0 3 * * *").unwrap().time_zone("Europe/Berlin").unwrap(),
        Schedule::cron("local", "*/5 * * * *").unwrap().disabled(true).until(end),
        Schedule::every("all of it", Duration::from_secs(1))
            .only_in(["prod", "stage"])
            .overlap(Overlap::Queue)
            .misfire(Misfire::Once)
            .timeout(Duration::from_secs(2))
            .redeliver(),
    ];
    for schedule in schedules {
        let said = pb::ScheduleJob::from(&schedule);
        let heard = Schedule::try_from(&said).unwrap();
        assert_eq!(pb::ScheduleJob::from(&heard), said);
        assert_eq!(format!("{heard:?}"), format!("{schedule:?}"));
    }
}

#[test]
fn a_mistake_is_refused_with_the_name_of_the_job() {
    let every = |millis| Schedule::every("job x", Duration::from_millis(millis));
    let mistakes = [
        refused(Schedule::cron("job x", "61 * * * *")),
        refused(Schedule::cron("job x", "whenever")),
        refused(Schedule::cron("job x", "")),
        refused(Schedule::cron("job x", "0 0 30 2 *")),
        refused(Schedule::cron("job x", "* ".repeat(300))),
        refused(Schedule::cron("job x", "@daily").unwrap().time_zone("Mars/Olympus")),
        refused(every(20).time_zone("UTC")),
        refused(Ok(every(9))),
        refused(Ok(Schedule::every("job x", Duration::MAX))),
        refused(Ok(every(20).only_in([""]))),
        refused(Ok(every(20).only_in(vec!["prod"; 33]))),
        refused(Ok(every(20).timeout(Duration::ZERO))),
        refused(Ok(every(20).redeliver().on_all())),
    ];
    for mistake in mistakes {
        assert!(mistake.contains("`job x`: "), "{mistake}");
    }
    assert!(refused(Ok(Schedule::once(""))).contains("1 to 128 bytes"));
    assert!(refused(Ok(Schedule::once("x".repeat(129)))).contains("1 to 128 bytes"));
}

#[test]
fn where_a_job_is_due() {
    let job = || Schedule::once("job");
    assert!(job().is_due_in(None) && job().is_due_in(Some("prod")));
    assert!(!job().disabled(true).is_due_in(None));
    assert!(job().disabled(false).is_due_in(None));
    let only = job().only_in(["prod", "stage"]);
    assert!(only.is_due_in(Some("prod")) && only.is_due_in(Some("stage")));
    assert!(!only.is_due_in(Some("test")) && !only.is_due_in(None));
    assert!(!only.disabled(true).is_due_in(Some("prod")));
}
