//! What the fixture can do about liveness, panics, orphans and programs of another kind.
//!
//! Keys of the master: `frozen_ms`, `blocked_ms` (limits), `remedy=report|replace` (for both),
//! `spare` (who is debugged), `liveness=off`; `on_panic=report` (workers);
//! `recycle_mib` (limit of memory); `agent_program`, `worker_program` (`python` runs
//! `foreign.py` with the behaviour after it, as `python:die`; anything else is a path, with
//! `program_args=A,B`), `ready_after_ms`.
//!
//! Behaviours after ready: `block:MS` blocks the whole runtime for that long, `compute` keeps it
//! busy and yields, `grow:MIB` takes memory, `panics:N` has N tasks panic, `thread_panic` and `caught_panic` one that is no
//! task's, `traceable` lets a debugger have it, `daemon` starts one that leaves the group and the session and has another parent by then,
//! `stubborn_daemon` one that ignores SIGTERM too; `exit:CODE`, `abort` and `panic_later` end it.
//! After the stop: `end_fails` and `end_panics`.

use std::{process::Command, thread, time::Duration};

use cluster_client::{Error, ErrorKind, Liveness, MasterBuilder, Program, Recycle, Remedy, Result};

use crate::fixture::{Keys, millis_of, say};

pub(crate) fn describe(mut cluster: MasterBuilder, keys: &Keys) -> MasterBuilder {
    let millis = |key: &str| keys.get(key).map(|value| millis_of(value));
    let remedy = match keys.get("remedy").map(String::as_str) {
        Some("report") => Remedy::Report,
        _ => Remedy::Replace,
    };
    let mut liveness = match keys.get("liveness").map(String::as_str) {
        Some("off") => Liveness::off(),
        _ => Liveness::default(),
    };
    if let Some(limit) = millis("frozen_ms") {
        liveness = liveness.frozen(limit, remedy);
    }
    if let Some(limit) = millis("blocked_ms") {
        liveness = liveness.blocked(limit, remedy);
    }
    liveness = liveness.spare_debugged(keys.contains_key("spare"));
    if let Some(program) = keys.get("agent_program") {
        cluster = cluster.agent_command(foreign(program, keys));
    }
    if let Some(program) = keys.get("worker_program") {
        cluster = cluster.worker_command(foreign(program, keys));
    }
    if let Some(mib) = keys.get("recycle_mib") {
        let rss = mib.parse::<u64>().unwrap() * 1024 * 1024;
        cluster = cluster.recycle(Recycle::default().rss(rss));
    }
    if keys.get("on_panic").is_some_and(|remedy| remedy == "report") {
        cluster = cluster.on_worker_panic(Remedy::Report);
    }
    cluster.liveness(liveness)
}

fn foreign(program: &str, keys: &Keys) -> Program {
    let program = match program.split_once(':').unwrap_or((program, "")) {
        ("python", behaviour) => {
            let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/process/foreign.py");
            Program::new("python3").args([script, behaviour]).env("FOREIGN", behaviour)
        }
        _ => Program::new(program),
    };
    let args = keys.get("program_args").into_iter().flat_map(|args| args.split(','));
    let program = program.args(args);
    match keys.get("ready_after_ms") {
        Some(time) => program.ready_after(millis_of(time)),
        None => program,
    }
}

pub(crate) async fn after_ready(name: &str, behaviour: &str) {
    match behaviour.split_once(':').unwrap_or((behaviour, "")) {
        ("block", millis) => {
            say(name, "blocks");
            let time = millis_of(millis);
            let handle = tokio::runtime::Handle::current();
            for _ in 0..handle.metrics().num_workers() + 1 {
                handle.spawn(async move { thread::sleep(time) });
            }
            thread::sleep(time);
        }
        ("compute", _) => {
            for _ in 0..tokio::runtime::Handle::current().metrics().num_workers() {
                tokio::spawn(async {
                    loop {
                        let begin = std::time::Instant::now();
                        while begin.elapsed() < Duration::from_millis(50) {
                            std::hint::spin_loop();
                        }
                        tokio::task::yield_now().await;
                    }
                });
            }
        }
        ("panics", count) => {
            let count = count.parse().unwrap();
            let tasks = (0..count).map(|task| tokio::spawn(async move { panic!("task {task}") }));
            for task in tasks.collect::<Vec<_>>() {
                task.await.unwrap_err();
            }
            say(name, "had its panics");
        }
        ("thread_panic", _) => {
            let thread = thread::spawn(|| panic!("a thread of the fixture panics"));
            thread.join().unwrap_err();
        }
        ("caught_panic", _) => {
            std::panic::catch_unwind(|| panic!("the function catches its own")).unwrap_err();
            say(name, "caught its panic");
        }
        ("grow", mib) => {
            let mib: usize = mib.parse().unwrap();
            std::mem::forget(std::hint::black_box(vec![1_u8; mib * 1024 * 1024]));
        }
        ("traceable", _) => {
            // Where the system knows no such limit, everybody may be traced.
            let _ = rustix::process::set_ptracer(rustix::process::PTracer::Any);
            say(name, "may be traced");
        }
        ("exit", code) => std::process::exit(code.parse().unwrap()),
        ("abort", _) => std::process::abort(),
        ("panic_later", _) => panic!("the fixture panics later"),
        ("daemon", _) => start_daemon("exec sleep 1000"),
        ("stubborn_daemon", _) => {
            start_daemon("trap '' TERM; sleep 1000 & while :; do sleep 1000; done");
        }
        _ => {}
    }
}

/// How the clean-up goes.
pub(crate) fn end(behaviour: &str) -> Result<()> {
    match behaviour {
        "end_fails" => Err(Error::new(ErrorKind::Io, "the clean-up of the fixture failed")),
        "end_panics" => panic!("the clean-up of the fixture panics"),
        _ => Ok(()),
    }
}

/// Starts a shell in a session of its own, which says its pid, and whose parent is gone at once.
fn start_daemon(script: &str) {
    let script = format!("setsid sh -c 'echo \"daemon $$\"; {}' &", script.replace('\'', "'\\''"));
    assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
}
