//! `stop`: returns when the last process of an instance is gone.

use std::time::Duration;

use rustix::process::Signal;

use super::{
    client::{Client, NoAnswer},
    instance::Instance,
    living::{Living, wait_for},
    wire::{Ask, Stopping},
};
use crate::{error::Result, process::name::Exit};

/// How long a master may take to answer before it counts as stopped or stuck.
const SILENCE: Duration = Duration::from_secs(2);

/// How long those who were killed, or lost their master, may take to be gone.
const LAST: Duration = Duration::from_secs(5);

/// Stops an instance. `limit` is how long the master may take, `own_limit` what its own stop takes
/// at most where it can't be asked.
///
/// # Errors
///
/// The runtime directory can't be used, or the master refuses.
pub(super) fn stop(
    instance: &Instance,
    limit: Option<Duration>,
    own_limit: Duration,
) -> Result<Exit> {
    let title = instance.title.as_str();
    let Some(client) = Client::connect(instance)? else {
        println!("{title} is not running");
        instance.sweep();
        return Ok(Exit::Clean);
    };
    let pid = client.pid();
    let mut left = client.master.children();
    let mut answer = client.ask::<Stopping>(Ask::Stop, SILENCE);
    if let Err(NoAnswer::Silent) = answer {
        println!("the master of {title} (pid {pid}) does not answer; waking it");
        // What it was asked waits in its socket.
        client.master.signal(Signal::CONT);
        answer = client.answer(SILENCE);
    }
    let own_limit = match answer {
        Ok(stopping) => Duration::from_millis(stopping.limit_ms),
        // It is as good as stopped; what it leaves behind is waited for.
        Err(NoAnswer::Gone) => own_limit,
        Err(NoAnswer::Silent) => {
            println!("it does not answer even so");
            client.master.signal(Signal::TERM);
            client.master.signal(Signal::CONT);
            own_limit
        }
        Err(why @ NoAnswer::Failed(_)) => return Err(client.error("can't stop", why)),
    };
    left.extend(Living::find(client.master.pid()));
    let limit = limit.unwrap_or(own_limit + SILENCE);
    wait_for(&mut left, limit);
    let in_time = left.is_empty();
    if !in_time {
        println!("not all of {title} is gone after {limit:?}; killing {}", pids(&left));
        // A second request has the master itself kill them, in order.
        if let Ok(Some(again)) = Client::connect(instance)
            && again.ask::<Stopping>(Ask::Stop, SILENCE).is_ok()
        {
            wait_for(&mut left, LAST);
        }
        if !left.is_empty() {
            kill(&client.master, &mut left);
        }
    }
    drop(client);
    instance.sweep();
    if left.is_empty() {
        println!("{title} is stopped");
        return Ok(if in_time { Exit::Clean } else { Exit::Failed });
    }
    println!("{title} is not gone: {} can't be killed", pids(&left));
    Ok(Exit::Failed)
}

/// The master first, since it would start others; without it the others end by themselves.
fn kill(master: &Living, left: &mut Vec<Living>) {
    left.extend(master.children());
    master.signal(Signal::KILL);
    wait_for(left, LAST);
    for process in left.iter() {
        process.kill_group();
    }
    wait_for(left, LAST);
}

fn pids(processes: &[Living]) -> String {
    let mut pids: Vec<_> = processes.iter().map(|process| process.pid().as_raw_pid()).collect();
    pids.sort_unstable();
    pids.dedup();
    let pids: Vec<_> = pids.iter().map(ToString::to_string).collect();
    format!("pid {}", pids.join(", "))
}
