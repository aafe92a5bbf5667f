//! `stop`: returns when the last process of an instance is gone.

use std::time::Duration;

use rustix::process::Signal;

use super::{
    client::{Client, NoAnswer},
    instance::Instance,
    living::{Living, wait_for},
    wire::{Ask, Stopping},
};
use crate::{
    error::{ErrorKind, Result},
    process::{name::Exit, words::lasting},
};

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
    let client = match Client::connect(instance) {
        Err(error) if error.kind() == ErrorKind::Timeout => {
            let Some(master) = instance.holder() else { return Err(error) };
            return stop_unheard(instance, master, limit, own_limit);
        }
        connected => connected?,
    };
    let Some(client) = client else {
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
    Ok(see_it_gone(instance, &client.master, left, limit.unwrap_or(own_limit + SILENCE)))
}

/// Stops a master that takes no connections.
fn stop_unheard(
    instance: &Instance,
    master: Living,
    limit: Option<Duration>,
    own_limit: Duration,
) -> Result<Exit> {
    let (title, pid) = (instance.title.as_str(), master.pid());
    println!("the master of {title} (pid {pid}) takes no connections; waking it");
    let mut left = master.children();
    master.signal(Signal::TERM);
    // A stopped process takes no other signal until it goes on.
    master.signal(Signal::CONT);
    left.extend(Living::find(pid));
    Ok(see_it_gone(instance, &master, left, limit.unwrap_or(own_limit + SILENCE)))
}

/// Waits until all of a cluster that was asked to stop are gone, and kills those that are not in
/// time.
fn see_it_gone(
    instance: &Instance,
    master: &Living,
    mut left: Vec<Living>,
    limit: Duration,
) -> Exit {
    let title = instance.title.as_str();
    wait_for(&mut left, limit);
    let in_time = left.is_empty();
    if !in_time {
        let limit = lasting(limit);
        println!("not all of {title} is gone after {limit}; killing {}", pids(&left));
        // A second request has the master itself kill them, in order.
        if let Ok(Some(again)) = Client::connect(instance)
            && again.ask::<Stopping>(Ask::Stop, SILENCE).is_ok()
        {
            wait_for(&mut left, LAST);
        }
        if !left.is_empty() {
            kill(master, &mut left);
        }
    }
    instance.sweep();
    if left.is_empty() {
        println!("{title} is stopped");
        return if in_time { Exit::Clean } else { Exit::Failed };
    }
    println!("{title} is not gone: {} can't be killed", pids(&left));
    Exit::Failed
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
