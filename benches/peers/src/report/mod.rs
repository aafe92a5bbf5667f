//! What was measured, and what is made of it.

pub(crate) mod json;
#[cfg(feature = "plots")]
pub(crate) mod plot;
mod table;

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use crate::{
    contestants::Who,
    harness::{Figures, quantile},
};

/// A run.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) setting: json::Setting,
    pub(crate) rows: Vec<Row>,
}

/// One figure of all contestants.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) workload: String,
    pub(crate) figure: String,
    pub(crate) unit: String,
    /// Where the figure is a point of a curve.
    pub(crate) x: Option<u64>,
    pub(crate) goal: Goal,
    /// What each contestant came to in each round.
    pub(crate) rounds: BTreeMap<String, Vec<f64>>,
}

impl Row {
    pub(crate) fn new(workload: &str, figure: &str, unit: &str, goal: Goal) -> Self {
        let (workload, figure) = (workload.to_owned(), figure.to_owned());
        Self { workload, figure, unit: unit.to_owned(), x: None, goal, rounds: BTreeMap::new() }
    }

    /// Makes it a point of a curve.
    pub(crate) fn at(self, x: u64) -> Self {
        Self { x: Some(x), ..self }
    }

    /// Takes the figure at `index` of each round, times `scale`.
    pub(crate) fn with(mut self, figures: &Figures, index: usize, scale: f64) -> Self {
        for (who, rounds) in figures {
            let column = rounds.iter().filter_map(|round| Some(round.get(index)? * scale));
            self.rounds.insert(who.name().to_owned(), column.collect());
        }
        self
    }

    pub(crate) fn with_rounds(mut self, who: Who, figures: Vec<f64>) -> Self {
        self.rounds.insert(who.name().to_owned(), figures);
        self
    }

    /// The median over the rounds.
    pub(crate) fn median(&self, who: Who) -> Option<f64> {
        let rounds = self.rounds.get(who.name()).filter(|rounds| !rounds.is_empty())?;
        Some(quantile(rounds, 0.5))
    }

    /// The ratio to raw of each round: its median and quartiles.
    pub(crate) fn ratio(&self, who: Who) -> Option<[f64; 3]> {
        let raw = self.rounds.get(Who::Raw.name())?;
        let own = self.rounds.get(who.name())?;
        let ratios = own.iter().zip(raw).map(|(own, raw)| own / raw);
        // Nothing is a multiple of none.
        let ratios: Vec<f64> = ratios.filter(|ratio| ratio.is_finite()).collect();
        (!ratios.is_empty()).then(|| [0.5, 0.25, 0.75].map(|at| quantile(&ratios, at)))
    }

    /// Whether ours meets the goal, if there is one.
    pub(crate) fn is_met(&self) -> Option<bool> {
        match self.goal {
            Goal::None => None,
            Goal::RatioAtMost(bound) => Some(self.ratio(Who::Ours)?[0] <= bound),
            Goal::RatioAtLeast(bound) => Some(self.ratio(Who::Ours)?[0] >= bound),
            Goal::AtMost(bound) => Some(self.median(Who::Ours)? <= bound),
        }
    }
}

/// What ours is to come to.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Goal {
    None,
    /// Of the ratio to raw.
    RatioAtMost(f64),
    RatioAtLeast(f64),
    /// Of the figure itself, in its unit.
    AtMost(f64),
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => write!(f, ""),
            Self::RatioAtMost(bound) | Self::AtMost(bound) => write!(f, "≤ {bound}"),
            Self::RatioAtLeast(bound) => write!(f, "≥ {bound}"),
        }
    }
}
