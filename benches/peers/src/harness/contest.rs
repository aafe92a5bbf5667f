//! Slices of all contestants in turn.

use std::collections::BTreeMap;

use super::{
    Plan, Result,
    process::{Shape, Slice, Team},
};
use crate::contestants::Who;

/// The figures of each round, by contestant: units a second, CPU nanoseconds a unit, bytes of
/// server memory a unit, then what its client told.
pub(crate) type Figures = BTreeMap<Who, Vec<Vec<f64>>>;

/// What is asked of all contestants alike.
#[derive(Debug, Clone)]
pub(crate) struct Contest<'a> {
    /// What the clients do.
    pub(crate) job: &'a str,
    pub(crate) who: &'a [Who],
    pub(crate) clients: u64,
    /// What each client is told: connections, calls in flight.
    pub(crate) n: u64,
    pub(crate) keys: u64,
    /// Size of a slice.
    pub(crate) size: u64,
    /// Units that one of the size makes: deliveries of a value.
    pub(crate) units: u64,
    /// Whether slow contestants have shorter slices.
    pub(crate) paced: bool,
}

impl<'a> Contest<'a> {
    /// One client, slices of this size, and nothing else out of the ordinary.
    pub(crate) fn new(job: &'a str, who: &'a [Who], size: u64) -> Self {
        Self { job, who, clients: 1, n: 1, keys: 1, size, units: 1, paced: true }
    }

    /// One round to warm up, then those that count. All contestants live through the whole of it;
    /// each runs one slice a round, and the order turns from round to round. One that fails is
    /// left out from there on, unless it is raw or ours: theirs is the failure of the bench.
    pub(crate) fn run(&self, plan: &Plan) -> Result<Figures> {
        let mut teams = Vec::new();
        for &who in self.who.iter().filter(|who| who.takes_part(plan)) {
            let shape = Shape { clients: self.clients, n: self.n, keys: self.keys };
            match Team::start(self.job, who, shape, plan) {
                Ok(team) => teams.push((who, team)),
                Err(error) => self.excuse(who, error)?,
            }
        }
        let mut figures = Figures::new();
        for round in 0..=plan.rounds {
            let mut failed = None;
            for (who, team) in &mut teams {
                let pace = if self.paced { who.pace() } else { 1 };
                let size = (plan.size(self.size) / pace).max(1);
                match team.slice(size) {
                    // The first round warms up.
                    Ok(_) if round == 0 => {}
                    Ok(slice) => {
                        let units = (size.next_multiple_of(self.clients) * self.units) as f64;
                        figures.entry(*who).or_default().push(flat(slice, units));
                    }
                    Err(error) => {
                        self.excuse(*who, error)?;
                        failed = Some(*who);
                    }
                }
            }
            teams.retain(|(who, _)| Some(*who) != failed);
            teams.reverse();
        }
        Ok(figures)
    }

    fn excuse(&self, who: Who, error: Box<dyn std::error::Error + Send + Sync>) -> Result<()> {
        let problem = format!("{} in {} {}: {error}", who.name(), self.job, self.n);
        if who.is_essential() {
            return Err(problem.into());
        }
        eprintln!("left out: {problem}");
        Ok(())
    }
}

fn flat(slice: Slice, units: f64) -> Vec<f64> {
    let rate = units / slice.elapsed.as_secs_f64();
    let mut figures = vec![rate, slice.cpu / units, slice.grown / units];
    figures.extend(slice.told);
    figures
}
