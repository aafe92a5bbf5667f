//! Two contestants, slice by slice in turn: processes, rounds, medians, the table.

mod child;
mod pair;
mod table;

pub(crate) use self::{
    child::{Child, Slices, serve_until_closed},
    pair::compare,
    table::{Row, Table},
};

/// What any step of a bench can fail with.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    Raw,
    Ours,
}

impl Who {
    pub(crate) const ALL: [Self; 2] = [Self::Raw, Self::Ours];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Ours => "ours",
        }
    }
}

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// Rounds of one slice a contestant that count; odd, so that there is a middle one.
    pub(crate) rounds: usize,
    /// What a suite's size of a slice is divided by.
    pub(crate) divisor: u64,
}

impl Plan {
    pub(crate) fn full() -> Self {
        Self { rounds: 15, divisor: 1 }
    }

    pub(crate) fn smoke() -> Self {
        Self { rounds: 3, divisor: 20 }
    }
}

/// The middle one of some figures, or the value at another quantile.
pub(crate) fn quantile(figures: &[f64], at: f64) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * at).round() as usize).copied().unwrap_or(f64::NAN)
}
