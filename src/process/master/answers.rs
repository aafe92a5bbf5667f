//! Who waits for what was asked of the master.

use tokio::sync::oneshot;

use crate::{
    error::{Error, ErrorKind, Result},
    process::words::counted,
};

/// The way to answer one who asked.
pub(super) type Answer = oneshot::Sender<Result<()>>;

/// Those whose answer is not known yet. Bounded by those who wait.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// Wait for a reload that has not begun.
    next_reload: Vec<Answer>,
    /// Wait for the reload that runs.
    reload: Vec<Answer>,
    /// Wait for this many workers.
    scale: Vec<(u32, Answer)>,
}

impl Answers {
    pub(super) fn await_reload(&mut self, answer: Answer) {
        self.next_reload.push(answer);
    }

    pub(super) fn await_scale(&mut self, workers: u32, answer: Answer) {
        self.scale.push((workers, answer));
    }

    /// A reload has begun, for all who asked up to now.
    pub(super) fn begin_reload(&mut self) {
        self.reload.append(&mut self.next_reload);
    }

    /// The reload that ran has ended.
    pub(super) fn end_reload(&mut self, outcome: &Result<(), String>) {
        for answer in self.reload.drain(..) {
            reply(answer, outcome.clone());
        }
    }

    /// There are so many workers now, or there is a reason why not.
    pub(super) fn end_scale(&mut self, workers: u32, outcome: &Result<(), String>) {
        for (wanted, answer) in self.scale.drain(..) {
            reply(
                answer,
                match outcome {
                    Ok(()) if wanted != workers => Err(format!(
                        "asked for {}, and then for {workers}",
                        counted(wanted, "worker")
                    )),
                    outcome => outcome.clone(),
                },
            );
        }
    }
}

fn reply(answer: Answer, outcome: Result<(), String>) {
    // Who asked may have gone.
    let _ = answer.send(outcome.map_err(|text| Error::new(ErrorKind::Process, text)));
}
