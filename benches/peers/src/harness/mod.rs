//! What every workload needs: processes, rounds in turn, figures.

mod child;
mod contest;
mod process;
mod source;

pub(crate) use self::{
    child::{Child, Part, Slices, serve_until_closed, tell},
    contest::{Contest, Figures},
    process::{Process, Shape, Team},
    source::{Control, Source, Topic, number, stamp},
};

use std::path::PathBuf;

/// What any step of a bench can fail with.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// How much is measured.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Rounds that count, of one slice a contestant; odd, so that there is a middle one.
    pub(crate) rounds: usize,
    /// What a workload's size of a slice is divided by.
    pub(crate) divisor: u64,
    /// Only raw and ours, for a moment.
    pub(crate) smoke: bool,
    /// Where to leave what `strace -f -c` says of each process, if it is to.
    pub(crate) strace: Option<PathBuf>,
}

impl Plan {
    pub(crate) fn full() -> Self {
        Self { rounds: 9, divisor: 1, smoke: false, strace: None }
    }

    pub(crate) fn smoke() -> Self {
        Self { rounds: 1, divisor: 40, smoke: true, strace: None }
    }

    /// The size of a slice under this plan.
    pub(crate) fn size(&self, size: u64) -> u64 {
        (size / self.divisor).max(1)
    }
}

/// The middle one of some figures, or the one at another quantile.
pub(crate) fn quantile(figures: &[f64], at: f64) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * at).round() as usize).copied().unwrap_or(f64::NAN)
}
