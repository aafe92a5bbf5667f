//! The supervisor and its components: who hears what, and who wants what done.

use tokio::time::Instant;

use super::{MEASURE_EVERY, Supervisor};
#[cfg(feature = "schedule")]
use crate::process::{
    master::{handle::AboutJobs, jobs::Jobs},
    schedule::Now,
};
use crate::{
    process::{
        master::{
            child::{Child, FromChild},
            dispatcher::Event,
            event::MasterEvent,
            liveness::{Remedy, Verdict},
            log::log,
            proc::usage,
            router::ToPid,
            status::Status,
        },
        messenger::Peer,
        name::ProcessName,
    },
    protocol::pb::{Panicked, control::Body},
};

impl Supervisor {
    /// What the dispatcher knows, and what can be seen of the processes at this moment.
    pub(super) fn status(&self) -> Status {
        let mut status = self.dispatcher.status(Instant::now(), self.since);
        for process in &mut status.processes {
            let Some(pid) = process.pid else { continue };
            if let Some(usage) = usage(pid) {
                process.rss_bytes = Some(usage.rss_bytes);
                process.cpu = Some(usage.cpu);
            }
            process.unresponsive = self.judge.found(pid);
            process.panics = self.panics.count(pid);
        }
        #[cfg(feature = "schedule")]
        {
            status.jobs = self.jobs.status(Now::read());
        }
        status
    }

    /// Measures all processes, for those who are replaced because of what they use.
    pub(super) fn measure(&mut self, now: Instant) -> Vec<Event> {
        if self.measure_at.is_none_or(|at| at > now) {
            return Vec::new();
        }
        self.measure_at = Some(now + MEASURE_EVERY);
        let rss = |pid: &u32| Some(Event::Measured { pid: *pid, rss: usage(*pid)?.rss_bytes });
        self.children.keys().filter_map(rss).collect()
    }

    /// Tells the components that a process is not to be counted on any more.
    pub(super) fn let_go(&mut self, pid: u32) {
        self.forget(pid);
        #[cfg(feature = "schedule")]
        self.jobs.on_leaving(pid);
        let frames = self.router.on_leaving(pid);
        self.say_all(frames);
    }

    /// Hands a frame to the component that it belongs to, and does what that wants.
    pub(super) fn handle_frame(&mut self, FromChild { process, pid, body }: FromChild) {
        match *body {
            Body::Pong(pong) => {
                let verdict = self.judge.handle_pong(Instant::now(), pid, pong);
                // An answer never ends anything.
                let _ = verdict.and_then(|verdict| self.carry_out_verdict(verdict));
            }
            Body::Inspected(inspected) => self.inspector.handle_answer(pid, inspected),
            Body::Panicked(panicked) => {
                let Panicked { count, message } = panicked;
                self.panics.note(pid, count);
                self.tell(MasterEvent::Panicked { process, pid, count, message });
                if self.on_worker_panic == Remedy::Replace && process != ProcessName::Agent {
                    self.panics.panicked(Instant::now(), process, pid);
                }
            }
            body @ (Body::Taken(_) | Body::SendMessage(_) | Body::MessageDelivered(_)) => {
                let frames = self.router.on_frame(Peer::new(process, pid), &body, Instant::now());
                self.say_all(frames);
            }
            #[cfg(feature = "schedule")]
            body if Jobs::takes(&body) => self.with_jobs(|jobs, now| jobs.on_frame(pid, body, now)),
            body => {
                tracing::debug!(%process, pid, "a frame that this master does not know: {body:?}");
            }
        }
    }

    /// Does what the judge wants; gives the event where the dispatcher has a part in it.
    pub(super) fn carry_out_verdict(&mut self, verdict: Verdict) -> Option<Event> {
        let name = |pid| self.children.get(&pid).map(|child| child.name);
        match verdict {
            Verdict::Ask(pid, ping) => self.say(pid, Body::Ping(ping)),
            Verdict::Hangs(pid, how, remedy) => {
                let process = name(pid)?;
                self.tell(MasterEvent::Unresponsive { process, pid, how, remedy });
                return (remedy == Remedy::Replace).then_some(Event::Hangs { pid, how });
            }
            Verdict::Answers(pid) => {
                self.tell(MasterEvent::Responsive { process: name(pid)?, pid });
            }
        }
        None
    }

    /// Has the table of jobs do something, and does what it wants.
    #[cfg(feature = "schedule")]
    pub(super) fn with_jobs(&mut self, does: impl FnOnce(&mut Jobs, Now) -> Vec<ToPid>) {
        let frames = does(&mut self.jobs, Now::read());
        self.say_all(frames);
    }

    #[cfg(feature = "schedule")]
    pub(super) fn ask_jobs(&mut self, about: AboutJobs) {
        match about {
            // Whoever asked may have gone.
            AboutJobs::Status(answer) => drop(answer.send(self.jobs.status(Now::read()))),
            AboutJobs::Run(name, answer) => {
                self.with_jobs(|jobs, now| jobs.run(&name, answer, now));
            }
        }
    }

    /// A process is gone, or leaves, and is not watched over any more.
    pub(super) fn forget(&mut self, pid: u32) {
        self.judge.forget(pid);
        self.inspector.forget(pid);
        self.panics.forget(pid);
    }

    /// Tells the components, the log and whoever listens.
    pub(super) fn tell(&mut self, event: MasterEvent) {
        log(&event);
        match event {
            MasterEvent::Ready { pid, .. } => {
                self.judge.watch(Instant::now(), pid);
                self.panics.watch(Instant::now(), pid);
            }
            MasterEvent::ClusterReady { .. } => {
                self.hub.open();
                self.panics.open();
            }
            _ => {}
        }
        let frames = self.router.on_event(&event);
        self.say_all(frames);
        #[cfg(feature = "schedule")]
        self.with_jobs(|jobs, now| jobs.on_event(&event, now));
        // There may be no observer.
        let _ = self.tell.send(event);
    }

    pub(super) fn say_all(&mut self, frames: Vec<ToPid>) {
        for (pid, body) in frames {
            self.say(pid, body);
        }
    }

    /// Says something to the process with this pid.
    pub(super) fn say(&mut self, pid: u32, body: Body) {
        if pid == std::process::id() {
            return drop(self.hub.hear(body));
        }
        let child = self.children.get(&pid).filter(|child| child.listens());
        let unsaid = match child {
            Some(child) => child.say(body).map_err(|body| *body),
            // One that is gone does not hear it, and need not; its sender must know.
            None => Err(body),
        };
        match (unsaid, child) {
            (Err(Body::DeliverMessage(message)), child) => {
                let is_full = child.is_some();
                let receipt = self.router.on_undelivered(pid, &message, is_full);
                self.say_all(receipt);
            }
            (Err(_), Some(Child { name, .. })) => {
                tracing::warn!(process = %name, pid, "it does not read; a frame is lost");
            }
            (Ok(()), _) | (Err(_), None) => {}
        }
    }
}
